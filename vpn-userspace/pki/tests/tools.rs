//! What the small authority makes is taken by OpenSSL and strongSwan; and the public mistakes of the class
//! "certificates", each refused by name.

use std::fs;
use std::path::Path;
use std::process::Command;

use culvert_crypto::SystemRandom;
use culvert_crypto::sign::{KeyKind, PrivateKey, generate};
use culvert_pki::{
    AltName, Authority, KeyFileError, PkiError, Request, Revoked, Sources, Subject, Trust, Usage, blocks,
    decode, encode, private_key, verify,
};

/// 2026-01-01, so that tools that look at the real clock agree for years.
const NOW: u64 = 1_767_225_600;
const DAY: u64 = 86_400;
const KINDS: [KeyKind; 5] =
    [KeyKind::Rsa(2048), KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::EcdsaP521, KeyKind::Ed25519];

fn key(kind: KeyKind) -> PrivateKey {
    PrivateKey::from_pkcs8(&generate(kind, &mut SystemRandom::new()).unwrap()).unwrap()
}

fn ca(kind: KeyKind) -> Authority {
    let subject = Subject::parse("C=CH, O=Culvert, CN=Test CA").unwrap();
    let span = (NOW - DAY, NOW + 3650 * DAY);
    Authority::create(key(kind), &subject, span, &mut SystemRandom::new()).unwrap()
}

fn request(key: &PrivateKey) -> Request {
    Request {
        subject: Subject::parse("gw.example").unwrap(),
        names: ["gw.example", "ops@example.org", "192.0.2.1", "2001:db8::1", "*.lab.example"]
            .map(|n| AltName::parse(n).unwrap())
            .into(),
        key: key.public_key().clone(),
        usage: Usage::Gateway,
        not_before: NOW - DAY,
        not_after: NOW + 3000 * DAY,
        sources: Sources::default(),
    }
}

fn issue(ca: &Authority, request: &Request) -> Vec<u8> {
    ca.issue(request, &mut SystemRandom::new()).unwrap()
}

fn serial(certificate: &[u8]) -> Vec<u8> {
    use x509_cert::der::Decode as _;
    let read = x509_cert::Certificate::from_der(certificate).unwrap();
    read.tbs_certificate().serial_number().as_bytes().to_vec()
}

fn crl(ca: &Authority, certificate: &[u8], until: u64) -> Vec<u8> {
    let revoked = [Revoked { serial: serial(certificate), since: NOW - 60 }];
    ca.crl(&revoked, 7, (NOW - 60, until), &mut SystemRandom::new()).unwrap()
}

fn judge(
    chain: &[Vec<u8>],
    authorities: &[Vec<u8>],
    crls: &[Vec<u8>],
) -> Result<culvert_pki::Verified, PkiError> {
    verify(chain, Trust { authorities, crls }, NOW)
}

fn run(folder: &Path, tool: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(tool).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|e| panic!("{tool} is not installed: {e}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn openssl_and_strongswan_take_what_the_authority_makes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for kind in KINDS {
        let (ca, gateway) = (ca(kind), key(kind));
        let certificate = issue(&ca, &request(&gateway));
        let other = issue(&ca, &request(&gateway));
        let list = crl(&ca, &other, NOW + 3000 * DAY);
        let write =
            |name: &str, label: &str, der: &[u8]| fs::write(at.join(name), encode(label, der)).unwrap();
        write("ca.pem", "CERTIFICATE", ca.certificate());
        write("gw.pem", "CERTIFICATE", &certificate);
        write("other.pem", "CERTIFICATE", &other);
        write("ca.crl", "X509 CRL", &list);
        let openssl = |file: &str| {
            run(
                at,
                "openssl",
                &["verify", "-x509_strict", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "ca.crl", file],
            )
        };
        assert!(openssl("gw.pem").0, "{kind}: {}", openssl("gw.pem").1);
        let (ok, text) = openssl("other.pem");
        assert!(!ok && text.contains("revoked"), "{kind}: {text}");
        let (_, text) = run(at, "openssl", &["x509", "-in", "gw.pem", "-noout", "-text"]);
        for part in [
            "CN = gw.example",
            "DNS:gw.example, email:ops@example.org, IP Address:192.0.2.1, IP Address:2001:DB8:0:0:0:0:0:1",
            "CA:FALSE",
            "Digital Signature",
            "TLS Web Server Authentication, TLS Web Client Authentication, ipsec Internet Key Exchange",
        ] {
            assert!(text.contains(part), "{kind}: {part} is not in {text}");
        }
        let strongswan =
            |file: &str| run(at, "pki", &["--verify", "--in", file, "--cacert", "ca.pem", "--crl", "ca.crl"]);
        let (ok, text) = strongswan("gw.pem");
        assert!(ok && text.contains("certificate trusted"), "{kind}: {text}");
        let (ok, text) = strongswan("other.pem");
        assert!(!ok && text.contains("revoked"), "{kind}: {text}");
        // And our own judgement agrees.
        let authorities = [ca.certificate().to_vec()];
        let verified = judge(&[certificate], &authorities, std::slice::from_ref(&list)).unwrap();
        assert_eq!(&verified.key, gateway.public_key());
        assert!(verified.names.has_dns("GW.example") && verified.names.has_dns("a.lab.example"));
        assert!(!verified.names.has_dns("lab.example") && verified.names.has_email("ops@EXAMPLE.org"));
        assert!(verified.names.has_address("2001:db8::1".parse().unwrap()));
        assert!(!verified.names.has_address("192.0.2.2".parse().unwrap()));
        assert_eq!(judge(&[other], &authorities, &[list]), Err(PkiError::Revoked));
    }
}

/// The class "certificates" of the public mistakes: time, issuer, usage, path length, constraints.
/// Public mistake: certificates.
#[test]
fn certificates_that_must_not_be_trusted() {
    let (ca, gateway) = (ca(KeyKind::EcdsaP256), key(KeyKind::EcdsaP256));
    let authorities = [ca.certificate().to_vec()];
    let good = request(&gateway);
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut request = good.clone();
        change(&mut request);
        judge(&[issue(&ca, &request)], &authorities, &[]).unwrap_err()
    };
    assert!(judge(&[issue(&ca, &good)], &authorities, &[]).is_ok());
    assert_eq!(refused(&|r| r.not_after = NOW - 3600), PkiError::Expired { days: 0 });
    assert_eq!(refused(&|r| r.not_before = NOW + 7200), PkiError::NotYetValid { hours: 2 });
    assert_eq!(refused(&|r| r.usage = Usage::Authority(0)), PkiError::AuthorityAsPeer);
    assert_eq!(judge(&[], &authorities, &[]), Err(PkiError::None));
    let certificate = issue(&ca, &good);
    // Of another authority, also of one with the same name; without any.
    let namesake = self::ca(KeyKind::EcdsaP256);
    assert!(matches!(
        judge(std::slice::from_ref(&certificate), &[namesake.certificate().to_vec()], &[]),
        Err(PkiError::Signature | PkiError::UnknownIssuer)
    ));
    assert_eq!(judge(std::slice::from_ref(&certificate), &[], &[]), Err(PkiError::UnknownIssuer));
    // An authority whose time is over vouches for nobody.
    let late = verify(
        std::slice::from_ref(&certificate),
        Trust { authorities: &authorities, crls: &[] },
        NOW + 3651 * DAY,
    );
    assert!(matches!(late, Err(PkiError::Expired { .. } | PkiError::AuthorityOutOfDate)), "{late:?}");
    // A list that is out of date, one that is none, and one of another authority.
    let chain = [certificate.clone()];
    let stale = crl(&ca, &certificate, NOW - 1);
    assert_eq!(judge(&chain, &authorities, &[stale]), Err(PkiError::RevocationStale));
    assert_eq!(judge(&chain, &authorities, &[vec![0x30, 0]]), Err(PkiError::RevocationMalformed));
    // A peer's certificate in an authority's place.
    let peer = key(KeyKind::EcdsaP256);
    let fake = Authority::create(
        peer,
        &Subject::parse("gw.example").unwrap(),
        (NOW - DAY, NOW + 100 * DAY),
        &mut SystemRandom::new(),
    );
    assert!(fake.is_ok());
    assert!(Authority::open(&certificate, gateway).is_err());
    // Any byte changed, any length cut: refused, and nothing panics.
    for at in 0..certificate.len() {
        let mut other = certificate.clone();
        other[at] ^= 0x20;
        assert!(judge(&[other], &authorities, &[]).is_err(), "{at}");
        assert!(judge(&[certificate[..at].to_vec()], &authorities, &[]).is_err(), "{at}");
    }
}

/// Public mistake: certificates.
#[test]
fn deep_and_huge_chains_are_refused() {
    let mut random = SystemRandom::new();
    let root = ca(KeyKind::Ed25519);
    let authorities = [root.certificate().to_vec()];
    let (mut above, mut chain) = (root, Vec::new());
    for depth in 0..4u8 {
        let below = key(KeyKind::Ed25519);
        let subject = Subject::parse(&format!("Sub {depth}")).unwrap();
        let request = Request {
            subject,
            names: Vec::new(),
            key: below.public_key().clone(),
            usage: Usage::Authority(9),
            not_before: NOW - DAY,
            not_after: NOW + 100 * DAY,
            sources: Sources::default(),
        };
        let certificate = above.issue(&request, &mut random).unwrap();
        above = Authority::open(&certificate, below).unwrap();
        chain.insert(0, certificate);
        let mut own = request.clone();
        own.usage = Usage::Gateway;
        own.key = key(KeyKind::Ed25519).public_key().clone();
        let whole = [vec![issue(&above, &own)], chain.clone()].concat();
        // The root allows two authorities below it.
        let got = judge(&whole, &authorities, &[]).map(drop);
        let want = if depth < 2 { Ok(()) } else { Err(PkiError::PathLength) };
        assert_eq!(got, want, "{depth}");
    }
    let certificate = chain[0].clone();
    assert_eq!(judge(&vec![certificate.clone(); 11], &authorities, &[]), Err(PkiError::TooMuch));
    assert_eq!(judge(&[certificate, vec![0x30; 40_000]], &authorities, &[]), Err(PkiError::TooMuch));
}

/// What our own authority does not make, made by OpenSSL: name constraints, usages for something else, SHA-1, small keys.
#[test]
fn openssls_certificates_are_judged_by_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let openssl = |arguments: &[&str]| {
        let (ok, text) = run(at, "openssl", arguments);
        assert!(ok, "openssl {arguments:?}: {text}");
    };
    let der = |name: &str| {
        let pem = fs::read(at.join(name)).unwrap();
        blocks(&pem)
            .find_map(|(label, body)| (label == "CERTIFICATE").then(|| decode(body).unwrap()))
            .unwrap()
    };
    let make = |name: &str, issuer: Option<&str>, algorithm: &[&str], digest: &str, extensions: &str| {
        let (key, csr, pem, ext) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"), format!("{name}.ext"));
        fs::write(at.join(&ext), extensions).unwrap();
        openssl(&[&["genpkey", "-out", &key], algorithm].concat());
        openssl(&["req", "-new", "-key", &key, "-subj", &format!("/CN={name}"), "-out", &csr]);
        let mut sign =
            vec!["x509", "-req", "-in", &csr, "-out", &pem, "-extfile", &ext, "-days", "3650", digest];
        let (ca, ca_key) = (format!("{}.pem", issuer.unwrap_or("")), format!("{}.key", issuer.unwrap_or("")));
        match issuer {
            Some(_) => sign.extend(["-CA", ca.as_str(), "-CAkey", ca_key.as_str()]),
            None => sign.extend(["-signkey", key.as_str()]),
        }
        openssl(&sign);
    };
    const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
    const GW: &str = "basicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:gw.example\n";
    make("root", None, P256, "-sha256", CA);
    make(
        "narrow",
        Some("root"),
        P256,
        "-sha256",
        &format!("{CA}nameConstraints=critical,permitted;DNS:other.example\n"),
    );
    make(
        "silent",
        Some("root"),
        P256,
        "-sha256",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,cRLSign\n",
    );
    let authorities = [der("root.pem")];
    // OpenSSL's clock is that of the host, and goes on while the test runs.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 600;
    let judge =
        |chain: &[Vec<u8>]| verify(chain, Trust { authorities: &authorities, crls: &[] }, now).map(drop);
    type Case =
        (&'static str, &'static str, &'static [&'static str], &'static str, String, Result<(), PkiError>);
    let cases: [Case; 7] = [
        ("plain", "root", P256, "-sha256", GW.into(), Ok(())),
        ("ike", "root", P256, "-sha256", format!("{GW}extendedKeyUsage=1.3.6.1.5.5.7.3.17\n"), Ok(())),
        (
            "code",
            "root",
            P256,
            "-sha256",
            format!("{GW}extendedKeyUsage=codeSigning\n"),
            Err(PkiError::ExtendedUsage),
        ),
        (
            "agree",
            "root",
            P256,
            "-sha256",
            format!("{GW}keyUsage=critical,keyAgreement\n"),
            Err(PkiError::Usage),
        ),
        ("sha1", "root", P256, "-sha1", GW.into(), Err(PkiError::Algorithm)),
        ("outside", "narrow", P256, "-sha256", GW.into(), Err(PkiError::NameConstraint)),
        ("below", "silent", P256, "-sha256", GW.into(), Err(PkiError::AuthorityUsage)),
    ];
    for (name, issuer, algorithm, digest, extensions, want) in cases {
        make(name, Some(issuer), algorithm, digest, &extensions);
        let chain = [der(&format!("{name}.pem")), der(&format!("{issuer}.pem"))];
        assert_eq!(judge(&chain), want, "{name}");
    }
    make("small", Some("root"), &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], "-sha256", GW);
    assert!(matches!(judge(&[der("small.pem")]), Err(PkiError::Key(_))));
}

#[test]
fn private_keys_from_every_kind_of_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for kind in KINDS {
        let plain = generate(kind, &mut SystemRandom::new()).unwrap();
        let pem = encode("PRIVATE KEY", &plain);
        fs::write(at.join("key"), &pem).unwrap();
        let want = private_key(pem.as_bytes(), None).unwrap();
        for scheme in ["aes-256-cbc", "aes-128-cbc"] {
            let (ok, text) = run(
                at,
                "openssl",
                &[
                    "pkcs8",
                    "-topk8",
                    "-v2",
                    scheme,
                    "-in",
                    "key",
                    "-out",
                    "enc",
                    "-passout",
                    "pass:swordfish",
                ],
            );
            assert!(ok, "{text}");
            let encrypted = fs::read(at.join("enc")).unwrap();
            let read = private_key(&encrypted, Some(b"swordfish")).unwrap();
            assert_eq!(read.public_key(), want.public_key(), "{kind} {scheme}");
            assert_eq!(private_key(&encrypted, None).unwrap_err(), KeyFileError::NeedsPassword);
            assert_eq!(private_key(&encrypted, Some(b"swordfisH")).unwrap_err(), KeyFileError::Password);
        }
        if kind != KeyKind::Ed25519 {
            let (ok, text) = run(at, "openssl", &["pkey", "-traditional", "-in", "key", "-out", "old"]);
            assert!(ok, "{text}");
            let old = fs::read(at.join("old")).unwrap();
            assert_eq!(private_key(&old, None).unwrap().public_key(), want.public_key(), "{kind}");
        }
    }
    for text in [
        "",
        "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nZg==\n-----END PRIVATE KEY-----",
    ] {
        assert!(private_key(text.as_bytes(), None).is_err());
    }
}

#[test]
fn names_that_are_none_are_refused() {
    for bad in ["", "=", "CN=", "X=1", "C=Switzerland, CN=a", "CN=a\u{7}"] {
        assert!(Subject::parse(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "a b", "@", "a@b@c", "..", "*.*.example", "gw.exämple", "a\0b"] {
        assert!(AltName::parse(bad).is_err(), "{bad:?}");
    }
}
