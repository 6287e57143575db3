//! `culvert pki` from an empty folder to a revoked certificate, with OpenSSL as the judge.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

fn run(folder: &Path, program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn culvert(folder: &Path, arguments: &[&str]) -> (bool, String) {
    run(folder, env!("CARGO_BIN_EXE_culvert"), &[&["pki"], arguments].concat())
}

#[test]
fn an_authority_from_its_making_to_a_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let done = |arguments: &[&str]| {
        let (ok, text) = culvert(at, arguments);
        assert!(ok, "{arguments:?}: {text}");
        text
    };
    done(&["create-ca", "--dir", "ca", "--subject", "C=CH, O=Example, CN=Example VPN"]);
    let issue = |name: &str, key: &str, usage: &str| {
        done(&[
            "issue",
            "--dir",
            "ca",
            "--subject",
            name,
            "--name",
            name,
            "--name",
            "192.0.2.1",
            "--key",
            key,
            "--usage",
            usage,
            "--out",
            name,
        ])
    };
    issue("gw.example", "p256", "gateway");
    issue("server.example", "ed25519", "server");
    issue("joe.example", "rsa2048", "client");
    for secret in ["ca/ca.key", "gw.example.key", "joe.example.key"] {
        let mode = fs::metadata(at.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let verify = |file: &str| {
        run(at, "openssl", &["verify", "-crl_check", "-CAfile", "ca/ca.pem", "-CRLfile", "ca/ca.crl", file])
    };
    for name in ["gw.example.pem", "server.example.pem", "joe.example.pem"] {
        assert!(verify(name).0, "{}", verify(name).1);
    }
    let shown = done(&["show", "ca/ca.pem", "gw.example.pem", "gw.example.key", "ca/ca.crl"]);
    for part in [
        "authority     CN=Example VPN,O=Example,C=CH",
        "gw.example, 192.0.2.1",
        "private key   ECDSA P-256",
        "revocations",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    // By file and by serial number.
    done(&["revoke", "--dir", "ca", "gw.example.pem"]);
    let serial = shown_serial(&done(&["show", "joe.example.pem"]));
    done(&["revoke", "--dir", "ca", &serial]);
    for name in ["gw.example.pem", "joe.example.pem"] {
        let (ok, text) = verify(name);
        assert!(!ok && text.contains("revoked"), "{text}");
    }
    assert!(verify("server.example.pem").0);
    assert!(done(&["show", "ca/ca.crl"]).contains(&serial));
    assert!(done(&["crl", "--dir", "ca", "--days", "7"]).contains("2 revoked, good for 7 days"));
    // A key with its certificate, as OpenSSL sees them.
    let public = |arguments: &[&str]| run(at, "openssl", arguments).1;
    assert_eq!(
        public(&["x509", "-in", "joe.example.pem", "-noout", "-pubkey"]),
        public(&["pkey", "-in", "joe.example.key", "-pubout"])
    );
}

fn shown_serial(text: &str) -> String {
    let line = text.lines().find(|l| l.trim().starts_with("serial")).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn mistakes_are_named_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let refused = |arguments: &[&str], part: &str| {
        let (ok, text) = culvert(at, arguments);
        assert!(!ok && text.contains(part), "{arguments:?}: {text}");
    };
    refused(
        &["issue", "--dir", "none", "--subject", "a", "--out", "a"],
        "culvert pki create-ca makes an authority",
    );
    refused(&["create-ca", "--dir", "ca", "--subject", "X=1"], "is no name of a certificate");
    assert!(
        culvert(at, &["create-ca", "--dir", "ca", "--subject", "CA", "--key", "ed25519", "--days", "10"]).0
    );
    let key = fs::read(at.join("ca/ca.key")).unwrap();
    refused(&["create-ca", "--dir", "ca", "--subject", "CA"], "File exists");
    assert_eq!(fs::read(at.join("ca/ca.key")).unwrap(), key);
    refused(&["issue", "--dir", "ca", "--subject", "a", "--name", "a b", "--out", "a"], "no host name");
    refused(
        &["issue", "--dir", "ca", "--subject", "a", "--days", "11", "--out", "a"],
        "not after its authority's",
    );
    refused(&["revoke", "--dir", "ca", "0102"], "made no certificate with the serial number 0102");
    refused(&["revoke", "--dir", "ca", "nonsense"], "neither a file nor a serial number");
    refused(&["show", "ca/revoked.json"], "holds nothing in PEM");
    assert!(!at.join("a.pem").exists() && !at.join("a.key").exists());
}
