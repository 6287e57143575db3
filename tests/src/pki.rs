//! Certificates for tests, made by openssl when a test runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A kind of key, in openssl's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 3072 bits.
    Rsa3072,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

impl Key {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Rsa2048, Self::Rsa3072, Self::P256, Self::P384, Self::P521, Self::Ed25519];

    fn genpkey(self) -> &'static [&'static str] {
        match self {
            Self::Rsa2048 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            Self::Rsa3072 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
            Self::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Self::P384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Self::P521 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
            Self::Ed25519 => &["-algorithm", "ED25519"],
        }
    }

    fn digest(self) -> &'static [&'static str] {
        match self {
            Self::P384 => &["-sha384"],
            Self::P521 => &["-sha512"],
            Self::Ed25519 => &[],
            _ => &["-sha256"],
        }
    }
}

/// A certificate with its private key, both in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
    kind: Key,
}

/// What is special about a certificate.
#[derive(Debug, Clone, Default)]
pub struct Wish<'a> {
    /// Subject alternative names, such as `DNS:gw.example`; none for an authority.
    pub names: &'a str,
    /// The common name in the subject.
    pub common_name: &'a str,
    /// An authority.
    pub ca: bool,
    /// Valid in 2020 only.
    pub expired: bool,
}

/// A self-signed authority.
///
/// # Errors
/// When openssl is not installed or refuses.
pub fn authority(name: &str, kind: Key) -> Result<Identity> {
    make(&Wish { common_name: name, ca: true, ..Wish::default() }, kind, None)
}

/// A certificate by an authority.
///
/// # Errors
/// When openssl is not installed or refuses.
pub fn issue(issuer: &Identity, wish: &Wish<'_>, kind: Key) -> Result<Identity> {
    make(wish, kind, Some(issuer))
}

fn make(wish: &Wish<'_>, kind: Key, issuer: Option<&Identity>) -> Result<Identity> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    openssl(&[&["genpkey"], kind.genpkey(), &["-out", &at("key")]].concat())?;
    if let (true, Some(issuer)) = (wish.expired, issuer) {
        return expired(folder.path(), wish, kind, issuer);
    }
    let usages = if wish.ca {
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
    } else {
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
    };
    let mut extensions = format!("{usages}subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n");
    if !wish.names.is_empty() {
        extensions.push_str(&format!("subjectAltName={}\n", wish.names));
    }
    fs::write(at("ext"), extensions)?;
    let subject = format!("/C=CH/O=Culvert/CN={}", wish.common_name);
    openssl(&["req", "-new", "-key", &at("key"), "-subj", &subject, "-out", &at("csr")])?;
    let mut sign = vec!["x509", "-req", "-in"];
    let (csr, ext, out) = (at("csr"), at("ext"), at("pem"));
    sign.extend([csr.as_str(), "-extfile", &ext, "-out", &out, "-days", "30"]);
    let (ca, ca_key, own) = (at("ca.pem"), at("ca.key"), at("key"));
    let digest = match issuer {
        Some(issuer) => {
            fs::write(&ca, &issuer.certificate)?;
            fs::write(&ca_key, &issuer.key)?;
            sign.extend(["-CA", &ca, "-CAkey", &ca_key]);
            issuer.kind
        }
        None => {
            sign.extend(["-signkey", &own]);
            kind
        }
    };
    sign.extend(digest.digest());
    openssl(&sign)?;
    let read = |name: &str| fs::read(Path::new(&at(name))).context("openssl wrote nothing");
    Ok(Identity { certificate: read("pem")?, key: read("key")?, kind })
}

/// strongSwan's tool lets one choose the dates, which openssl 3.0 does not.
fn expired(folder: &Path, wish: &Wish<'_>, kind: Key, issuer: &Identity) -> Result<Identity> {
    let at = |name: &str| folder.join(name).display().to_string();
    fs::write(at("ca.pem"), &issuer.certificate)?;
    fs::write(at("ca.key"), &issuer.key)?;
    let subject = format!("C=CH, O=Culvert, CN={}", wish.common_name);
    let san = wish.names.trim_start_matches("DNS:");
    let (ca, ca_key, key) = (at("ca.pem"), at("ca.key"), at("key"));
    let certificate = tool(
        "pki",
        &[
            "--issue",
            "--type",
            "priv",
            "--in",
            &key,
            "--cacert",
            &ca,
            "--cakey",
            &ca_key,
            "--dn",
            &subject,
            "--san",
            san,
            "--not-before",
            "01.01.20 00:00:00",
            "--not-after",
            "31.12.20 00:00:00",
            "--outform",
            "pem",
        ],
    )?;
    Ok(Identity { certificate, key: fs::read(at("key"))?, kind })
}

fn openssl(arguments: &[&str]) -> Result<()> {
    tool("openssl", arguments).map(drop)
}

fn tool(name: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(name).args(arguments).output();
    let output = output.with_context(|| format!("{name} is not installed"))?;
    ensure!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
