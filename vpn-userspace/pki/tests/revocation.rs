//! OCSP responses of OpenSSL's responder and revocation lists: what they say, and what is not believed.

use std::fs;
use std::path::Path;
use std::process::Command;

use culvert_crypto::SystemRandom;
use culvert_crypto::sign::{KeyKind, PrivateKey, generate};
use culvert_pki::{
    Authority, Request, RevocationError, Revoked, Sources, Status, Subject, Usage, crl_status, encode,
    list_of, ocsp_request, ocsp_status,
};
use proptest::prelude::*;

const DAY: u64 = 86_400;

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

struct Lab {
    folder: tempfile::TempDir,
    ca: Authority,
    good: Vec<u8>,
    bad: Vec<u8>,
    strange: Vec<u8>,
}

fn key(kind: KeyKind) -> (PrivateKey, Vec<u8>) {
    let der = generate(kind, &mut SystemRandom::new()).unwrap();
    (PrivateKey::from_pkcs8(&der).unwrap(), der.to_vec())
}

fn serial(certificate: &[u8]) -> Vec<u8> {
    culvert_pki::Facts::of(certificate).unwrap().serial
}

/// An authority, a good certificate, a revoked one, one that it has forgotten; as OpenSSL's responder wants them.
fn lab(kind: KeyKind) -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let (ca_key, der) = key(kind);
    let subject = Subject::parse("O=Culvert, CN=Test CA").unwrap();
    let ca = Authority::create(ca_key, &subject, (now() - DAY, now() + 100 * DAY), &mut SystemRandom::new())
        .unwrap();
    let issue = |name: &str| {
        let (own, _) = key(KeyKind::EcdsaP256);
        let request = Request {
            subject: Subject::parse(name).unwrap(),
            names: Vec::new(),
            key: own.public_key().clone(),
            usage: Usage::Gateway,
            not_before: now() - DAY,
            not_after: now() + 50 * DAY,
            sources: Sources {
                ocsp: vec!["http://ocsp.example/".into()],
                crl: vec!["http://crl.example/ca.crl".into(), "http://crl2.example/".into()],
            },
        };
        ca.issue(&request, &mut SystemRandom::new()).unwrap()
    };
    let (good, bad, strange) = (issue("good"), issue("bad"), issue("strange"));
    let hex = |c: &[u8]| serial(c).iter().map(|b| format!("{b:02X}")).collect::<String>();
    let index = format!(
        "V\t400101000000Z\t\t{}\tunknown\t/CN=good\nR\t400101000000Z\t240101000000Z\t{}\tunknown\t/CN=bad\n",
        hex(&good),
        hex(&bad)
    );
    fs::write(folder.path().join("index.txt"), index).unwrap();
    fs::write(folder.path().join("ca.pem"), encode("CERTIFICATE", ca.certificate())).unwrap();
    fs::write(folder.path().join("ca.key"), encode("PRIVATE KEY", &der)).unwrap();
    Lab { folder, ca, good, bad, strange }
}

impl Lab {
    fn openssl(&self, arguments: &[&str]) {
        run(self.folder.path(), arguments);
    }

    /// What the responder of OpenSSL answers, signed by `signer`.
    fn answer(&self, certificate: &[u8], signer: &str, more: &[&str]) -> Vec<u8> {
        let at = self.folder.path();
        fs::write(at.join("req.der"), ocsp_request(certificate, self.ca.certificate()).unwrap()).unwrap();
        let (pem, key) = (format!("{signer}.pem"), format!("{signer}.key"));
        let mut arguments =
            vec!["ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", &pem, "-rkey", &key];
        arguments.extend(["-reqin", "req.der", "-respout", "resp.der"]);
        arguments.extend(more);
        self.openssl(&arguments);
        fs::read(at.join("resp.der")).unwrap()
    }

    fn status(&self, answer: &[u8], certificate: &[u8], at: u64) -> Result<Status, RevocationError> {
        ocsp_status(answer, certificate, self.ca.certificate(), at)
    }

    /// A certificate by the authority, with these extensions.
    fn delegate(&self, name: &str, extensions: &str) {
        fs::write(self.folder.path().join("ext"), extensions).unwrap();
        let (key, csr, pem) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        self.openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]);
        self.openssl(&["req", "-new", "-key", &key, "-subj", &format!("/CN={name}"), "-out", &csr]);
        let sign = ["x509", "-req", "-in", &csr, "-out", &pem, "-extfile", "ext", "-days", "30"];
        self.openssl(&[&sign[..], &["-CA", "ca.pem", "-CAkey", "ca.key"]].concat());
    }
}

fn run(at: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_certificate_says_where_to_ask() {
    let lab = lab(KeyKind::EcdsaP256);
    let sources = Sources::of(&lab.good);
    assert_eq!(sources.ocsp, ["http://ocsp.example/"]);
    assert_eq!(sources.crl, ["http://crl.example/ca.crl", "http://crl2.example/"]);
    assert_eq!(Sources::of(lab.ca.certificate()), Sources::default());
    assert_eq!(Sources::of(b"nothing"), Sources::default());
    fs::write(lab.folder.path().join("gw.pem"), encode("CERTIFICATE", &lab.good)).unwrap();
    let text = Command::new("openssl")
        .args(["x509", "-in", "gw.pem", "-noout", "-text"])
        .current_dir(lab.folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("OCSP - URI:http://ocsp.example/") && text.contains("URI:http://crl2.example/"),
        "{text}"
    );
}

#[test]
fn openssls_responder_is_understood() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsa(2048), KeyKind::EcdsaP384] {
        let lab = lab(kind);
        let day = ["-ndays", "1"];
        let good = lab.answer(&lab.good, "ca", &day);
        let status = lab.status(&good, &lab.good, now()).unwrap();
        assert!(!status.revoked && status.until > now() + DAY / 2);
        assert!(lab.status(&lab.answer(&lab.bad, "ca", &day), &lab.bad, now()).unwrap().revoked);
        let unknown = lab.answer(&lab.strange, "ca", &day);
        assert_eq!(lab.status(&unknown, &lab.strange, now()), Err(RevocationError::Unknown));
        // By the responder's key instead of its name; without an end.
        let by_key = lab.answer(&lab.good, "ca", &["-resp_key_id"]);
        let status = lab.status(&by_key, &lab.good, now()).unwrap();
        assert!(!status.revoked && status.until <= now() + 60);
        assert_eq!(lab.status(&by_key, &lab.good, now() + DAY), Err(RevocationError::Stale));
        assert_eq!(lab.status(&good, &lab.good, now() + 2 * DAY), Err(RevocationError::Stale));
        assert_eq!(lab.status(&good, &lab.good, now() - DAY), Err(RevocationError::Stale));
        // What is said of one certificate says nothing of another.
        assert_eq!(lab.status(&good, &lab.bad, now()), Err(RevocationError::Unknown));
    }
}

#[test]
fn only_the_issuer_and_its_delegates_are_believed() {
    let lab = lab(KeyKind::EcdsaP256);
    lab.delegate("delegate", "extendedKeyUsage=OCSPSigning\n");
    let answer = lab.answer(&lab.good, "delegate", &["-ndays", "1"]);
    assert!(!lab.status(&answer, &lab.good, now()).unwrap().revoked);
    assert_eq!(
        lab.status(&answer, &lab.good, now() + 31 * DAY),
        Err(RevocationError::Signature),
        "it is over"
    );
    // A peer's certificate is no delegation.
    lab.delegate("peer", "extendedKeyUsage=clientAuth\n");
    let answer = lab.answer(&lab.good, "peer", &["-ndays", "1"]);
    assert_eq!(lab.status(&answer, &lab.good, now()), Err(RevocationError::Signature));
    // Neither is the delegation of another authority of that very name.
    let other = self::lab(KeyKind::EcdsaP256);
    let answer = other.answer(&other.good, "ca", &["-ndays", "1"]);
    assert_eq!(lab.status(&answer, &lab.good, now()), Err(RevocationError::Signature));
    for word in [&b"\x30\x03\x0a\x01\x03"[..], b"\x30\x03\x0a\x01\x06"] {
        assert_eq!(lab.status(word, &lab.good, now()), Err(RevocationError::Responder(word[4])));
    }
}

#[test]
fn lists_are_believed_by_the_same_rules() {
    let lab = lab(KeyKind::EcdsaP384);
    let revoked = [Revoked { serial: serial(&lab.bad), since: now() - DAY }];
    let list = |ca: &Authority, span| ca.crl(&revoked, 3, span, &mut SystemRandom::new()).unwrap();
    let fresh = list(&lab.ca, (now() - 60, now() + DAY));
    let status =
        |list: &[u8], certificate: &[u8], at| crl_status(list, certificate, lab.ca.certificate(), at);
    assert_eq!(status(&fresh, &lab.good, now()), Ok(Status { revoked: false, until: now() + DAY }));
    assert!(status(&fresh, &lab.bad, now()).unwrap().revoked);
    assert_eq!(status(&fresh, &lab.bad, now() + 2 * DAY), Err(RevocationError::Stale));
    assert_eq!(status(&fresh, &lab.bad, now() - DAY), Err(RevocationError::Stale));
    let other = self::lab(KeyKind::EcdsaP384);
    let foreign = list(&other.ca, (now() - 60, now() + DAY));
    assert_eq!(status(&foreign, &lab.good, now()), Err(RevocationError::Signature));
    assert_eq!(list_of(encode("X509 CRL", &fresh).into_bytes()), fresh);
    assert_eq!(list_of(fresh.clone()), fresh);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// With any byte changed an answer says nothing, or the same.
    #[test]
    fn a_changed_answer_is_not_believed(at in any::<prop::sample::Index>(), bit in 0..8_usize) {
        let (lab, answer) = &*LAB;
        let mut answer = answer.clone();
        let at = at.index(answer.len());
        answer[at] ^= 1 << bit;
        if let Ok(status) = lab.status(&answer, &lab.bad, now()) {
            prop_assert!(status.revoked);
        }
    }

    #[test]
    fn noise_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (lab, _) = &*LAB;
        prop_assert!(lab.status(&bytes, &lab.bad, now()).is_err());
        prop_assert!(crl_status(&bytes, &lab.bad, lab.ca.certificate(), now()).is_err());
    }
}

static LAB: std::sync::LazyLock<(Lab, Vec<u8>)> = std::sync::LazyLock::new(|| {
    let lab = lab(KeyKind::EcdsaP256);
    let answer = lab.answer(&lab.bad, "ca", &["-ndays", "1"]);
    (lab, answer)
});
