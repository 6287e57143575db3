//! Certificates of `culvert pki`, and its revocations.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use culvert_tests::matrix::{Cell, Role};
use culvert_tests::{ID_A, ID_B};

const THEME: &str = "pki";

pub(crate) fn rows() -> Vec<Cell> {
    match Pki::new() {
        Ok(pki) => vec![
            pki.cell("certificates_of_culvert_pki", "theirs"),
            pki.cell("revoked", "gone").fails(&["not trusted", "revoked"]),
        ],
        Err(error) => {
            let why = format!("culvert pki: {error:#}");
            let cell = Cell::new(
                THEME,
                "certificates_of_culvert_pki",
                "aes128gcm16-prfsha256-ecp256",
                "aes128gcm16",
            );
            vec![cell.unable(Role::Initiates, &why).unable(Role::Responds, &why)]
        }
    }
}

/// What `culvert pki` made in a folder; each certificate is for both sites, as either may begin.
struct Pki {
    folder: tempfile::TempDir,
}

impl Pki {
    fn new() -> Result<Self> {
        let pki = Self { folder: tempfile::tempdir()? };
        pki.run(&["create-ca", "--dir", "ca", "--subject", "C=CH, O=Culvert, CN=Lab CA"])?;
        for (name, key) in [("ours", "p384"), ("theirs", "rsa2048"), ("gone", "p256")] {
            let subject = format!("O=Culvert, CN={name}");
            pki.run(&[
                "issue",
                "--dir",
                "ca",
                "--subject",
                &subject,
                "--name",
                ID_A,
                "--name",
                ID_B,
                "--key",
                key,
                "--out",
                name,
            ])?;
        }
        pki.run(&["revoke", "--dir", "ca", "gone.pem"])?;
        Ok(pki)
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(culvert_lab::culvert::binary("culvert")?)
            .arg("pki")
            .args(arguments)
            .current_dir(self.folder.path())
            .output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(Path::new(self.folder.path()).join(name)).unwrap_or_default()
    }

    /// Culvert checks the authority's revocation list; strongSwan is `who`.
    fn cell(&self, name: &str, who: &str) -> Cell {
        Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
            .ours("tunnel.a.psk_file", "")
            .ours("tunnel.a.auth", "\"cert\"")
            .ours("tunnel.a.certificate", "\"gw.pem\"")
            .ours("tunnel.a.private_key", "\"gw.key\"")
            .ours("tunnel.a.ca", "[\"ca.pem\"]")
            .ours("tunnel.a.crl", "[\"ca.crl\"]")
            .our_file("gw.pem", self.read("ours.pem"))
            .our_file("gw.key", self.read("ours.key"))
            .our_file("ca.pem", self.read("ca/ca.pem"))
            .our_file("ca.crl", self.read("ca/ca.crl"))
            .theirs("local.auth", "pubkey")
            .theirs("local.certs", "gw.pem")
            .theirs("remote.auth", "pubkey")
            .their_file("x509ca/ca.pem", self.read("ca/ca.pem"))
            .their_file("x509/gw.pem", self.read(&format!("{who}.pem")))
            .their_file("private/gw.key", self.read(&format!("{who}.key")))
    }
}
