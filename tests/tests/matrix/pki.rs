//! Certificates of `culvert pki`, and its revocations.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use culvert_lab::topology::{HOST_A, HOST_B};
use culvert_tests::matrix::{Cell, Role};
use culvert_tests::{ID_A, ID_B};

const THEME: &str = "pki";
/// The port of an OCSP responder.
const RESPONDER: &str = "8081";

pub(crate) fn rows() -> Vec<Cell> {
    match Pki::new() {
        Ok(pki) => vec![
            pki.cell("certificates_of_culvert_pki", "ours", "theirs"),
            pki.cell("revoked", "ours", "gone").fails(&["not trusted", "revoked"]).explains(&[
                "it has been revoked",
                "trusts CN=Lab CA",
                "expects",
                "CN=gone",
                "RFC 7296 3.6",
            ]),
            pki.cell("revoked_ours", "gone", "theirs")
                .their_file("x509crl/ca.crl", pki.read("ca/ca.crl"))
                .fails(&["AUTHENTICATION_FAILED"])
                .explains(&["rejected our identity or certificate", "CN=gone", "revoked", "RFC 7296 2.21.2"]),
            pki.fetched("revoked_says_the_fetched_list", "gone").fails(&["not trusted", "revoked", "online"]),
            pki.asked("ocsp_says_good", "theirs", RESPONDER),
            pki.asked("ocsp_says_revoked", "gone", RESPONDER)
                .fails(&["not trusted", "revoked", "online"])
                .explains(&["CN=gone", "RFC 7296 3.6"]),
            pki.asked("ocsp_does_not_answer", "theirs", "1")
                .fails(&["not trusted", "cannot be found out"])
                .explains(&["revocation = \"ifpossible\"", "RFC 7296 3.6"]),
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
                "--crl-url",
                &format!("http://{HOST_A}:8080/ca.crl"),
                "--crl-url",
                &format!("http://{HOST_B}:8080/ca.crl"),
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

    /// Culvert fetches the revocation list from where strongSwan's certificate says: from the host behind it.
    fn fetched(&self, name: &str, who: &str) -> Cell {
        let list = self.read("ca/ca.crl");
        self.cell(name, "ours", who).ours("tunnel.a.crl", "").ours("tunnel.a.revocation", "\"strict\"").case(
            |case| {
                let httpd = ["busybox", "httpd", "-f", "-p", "8080", "-h", "."].map(str::to_owned);
                case.servers = vec![(httpd.into(), String::new())];
                case.server_files = vec![("ca.crl".into(), list)];
            },
        )
    }

    /// Culvert asks OpenSSL's responder, or nobody, at a port of the host behind it.
    fn asked(&self, name: &str, who: &str, port: &'static str) -> Cell {
        let files = [("ca.pem", "ca/ca.pem"), ("ca.key", "ca/ca.key")];
        let mut files: Vec<(String, Vec<u8>)> =
            files.iter().map(|(name, from)| ((*name).to_owned(), self.read(from))).collect();
        files.push(("index.txt".into(), self.index().into_bytes()));
        self.cell(name, "ours", who)
            .ours("tunnel.a.crl", "")
            .ours("tunnel.a.revocation", "\"strict\"")
            .by_role(move |case, role| {
                let host = if role == Role::Initiates { HOST_A } else { HOST_B };
                case.ours.push(("tunnel.a.ocsp_url".into(), format!("\"http://{host}:{port}/\"")));
            })
            .case(|case| {
                let responder = format!(
                    "openssl ocsp -port {RESPONDER} -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -ndays 1"
                );
                let arguments = responder.split(' ').map(str::to_owned).collect();
                if port == RESPONDER {
                    case.servers = vec![(arguments, "waiting for OCSP".into())];
                }
                case.server_files = files;
            })
    }

    /// What the responder knows, in OpenSSL's words.
    fn index(&self) -> String {
        let line = |name: &str, status: &str| {
            let output = Command::new("openssl")
                .args(["x509", "-noout", "-serial", "-in", &format!("{name}.pem")])
                .current_dir(self.folder.path())
                .output();
            let text =
                output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
            let serial = text.strip_prefix("serial=").unwrap_or_default();
            format!("{status}\t{serial}\tunknown\t/CN={name}\n")
        };
        line("theirs", "V\t400101000000Z\t") + &line("gone", "R\t400101000000Z\t240101000000Z")
    }

    /// Culvert is `us`, and checks the authority's revocation list; strongSwan is `who`.
    fn cell(&self, name: &str, us: &str, who: &str) -> Cell {
        Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
            .ours("tunnel.a.psk_file", "")
            .ours("tunnel.a.auth", "\"cert\"")
            .ours("tunnel.a.certificate", "\"gw.pem\"")
            .ours("tunnel.a.private_key", "\"gw.key\"")
            .ours("tunnel.a.ca", "[\"ca.pem\"]")
            .ours("tunnel.a.crl", "[\"ca.crl\"]")
            .our_file("gw.pem", self.read(&format!("{us}.pem")))
            .our_file("gw.key", self.read(&format!("{us}.key")))
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
