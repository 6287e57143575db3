//! Certificates and private keys from PEM files.

use std::fmt;
use std::sync::Arc;

use culvert_crypto::sha1;
use culvert_crypto::sign::PrivateKey;
use culvert_ike::{Dn, Identity, MAX_CERTIFICATES};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use zeroize::Zeroizing;

/// A private key with the certificates that vouch for it.
#[derive(Clone)]
pub struct Credentials {
    key: Arc<PrivateKey>,
    chain: Vec<Vec<u8>>,
    subject: Identity,
}

/// Certificate authorities that are trusted.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities {
    certificates: Vec<Vec<u8>>,
    key_hashes: Vec<[u8; 20]>,
}

/// What is wrong with a certificate or a key; says nothing of a key's content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("holds no {0} in PEM")]
    None(&'static str),
    #[error("holds a {0} that cannot be read")]
    Unreadable(&'static str),
    #[error("holds an encrypted private key")]
    Encrypted,
    #[error("holds a private key that cannot be used: {0}")]
    Key(#[from] culvert_crypto::sign::BadKey),
    #[error("does not belong to the private key")]
    OtherKey,
    #[error("has a subject that is no name")]
    Subject,
    #[error("holds more than {MAX_CERTIFICATES} certificates")]
    TooMany,
}

impl CredentialsError {
    /// What to do about it.
    pub(crate) fn mend(&self) -> &'static str {
        match self {
            Self::None(_) | Self::Unreadable(_) => {
                "name a PEM file; DER becomes PEM by `openssl x509 -inform der` or `openssl pkey -inform der`"
            }
            Self::Encrypted => "decrypt it into a file of mode 600: `openssl pkey -in KEY -out KEY.plain`",
            Self::Key(_) => {
                "make a new key: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
            }
            Self::OtherKey => {
                "name the private key that the certificate was made for, or the other certificate"
            }
            Self::Subject => "have the certificate made anew, with a subject",
            Self::TooMany => "leave out what the peer does not need: the root, and other sites' certificates",
        }
    }
}

impl Credentials {
    /// From the certificates, the key's own first, and the key.
    pub(crate) fn read(certificates: &[u8], key: &PrivateKeyPem) -> Result<Self, CredentialsError> {
        let chain = certificates_of(certificates)?;
        let own = chain.first().ok_or(CredentialsError::None("certificate"))?;
        let (spki, subject) = facts(own)?;
        if key.0.public_key().to_spki() != spki {
            return Err(CredentialsError::OtherKey);
        }
        let subject = Dn::from_der(&subject).map_err(|_| CredentialsError::Subject)?;
        let chain = chain.iter().map(|c| c.to_vec()).collect();
        Ok(Self { key: Arc::clone(&key.0), chain, subject: Identity::Dn(Box::new(subject)) })
    }

    /// The private key.
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }

    /// DER, the key's own certificate first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The subject of the certificate.
    pub fn subject(&self) -> &Identity {
        &self.subject
    }
}

impl Authorities {
    /// From the contents of files.
    pub(crate) fn add(&mut self, pem: &[u8]) -> Result<(), CredentialsError> {
        for der in certificates_of(pem)? {
            let (spki, _) = facts(&der)?;
            // RFC 7296 3.7: the SHA-1 hash of the Subject Public Key Info element.
            self.key_hashes.push(sha1(&[&spki]));
            self.certificates.push(der);
        }
        Ok(())
    }

    /// None yet.
    pub(crate) fn new() -> Self {
        Self { certificates: Vec::new(), key_hashes: Vec::new() }
    }

    /// DER.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// SHA-1 of the SubjectPublicKeyInfo of each.
    pub fn key_hashes(&self) -> &[[u8; 20]] {
        &self.key_hashes
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key.public_key() == other.key.public_key()
    }
}

impl Eq for Credentials {}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("subject", &self.subject)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificate authorities", self.certificates.len())
    }
}

/// A private key that was read.
pub(crate) struct PrivateKeyPem(Arc<PrivateKey>);

impl PrivateKeyPem {
    pub(crate) fn read(pem: &[u8]) -> Result<Self, CredentialsError> {
        let what = "private key";
        let block = blocks(pem).find(|(label, _)| label.ends_with("PRIVATE KEY"));
        let (label, block) = block.ok_or(CredentialsError::None(what))?;
        let der = decode(block).map(Zeroizing::new).ok_or(CredentialsError::Unreadable(what));
        let key = match label {
            // RFC 1421's headers stand in old encrypted keys.
            "ENCRYPTED PRIVATE KEY" => return Err(CredentialsError::Encrypted),
            _ if block.windows(9).any(|w| w == b"ENCRYPTED") => return Err(CredentialsError::Encrypted),
            "RSA PRIVATE KEY" => PrivateKey::from_pkcs1(&der?),
            "EC PRIVATE KEY" => PrivateKey::from_sec1(&der?),
            _ => PrivateKey::from_pkcs8(&der?),
        };
        Ok(Self(Arc::new(key?)))
    }
}

fn certificates_of(pem: &[u8]) -> Result<Vec<Vec<u8>>, CredentialsError> {
    let what = "certificate";
    let found: Option<Vec<_>> =
        blocks(pem).filter(|(label, _)| *label == "CERTIFICATE").map(|(_, block)| decode(block)).collect();
    let found = found.ok_or(CredentialsError::Unreadable(what))?;
    match found.len() {
        0 => Err(CredentialsError::None(what)),
        1..=MAX_CERTIFICATES => Ok(found),
        _ => Err(CredentialsError::TooMany),
    }
}

/// SubjectPublicKeyInfo and subject of a certificate, in DER.
fn facts(der: &[u8]) -> Result<(Vec<u8>, Vec<u8>), CredentialsError> {
    let unreadable = |_| CredentialsError::Unreadable("certificate");
    let certificate = Certificate::from_der(der).map_err(unreadable)?;
    let certificate = certificate.tbs_certificate();
    let spki = certificate.subject_public_key_info().to_der().map_err(unreadable)?;
    Ok((spki, certificate.subject().to_der().map_err(unreadable)?))
}

/// The blocks of a PEM file (RFC 7468): label, and what stands between the two lines.
fn blocks(pem: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let mut rest = pem;
    std::iter::from_fn(move || {
        let begin = find(rest, b"-----BEGIN ")?;
        let after = rest.get(begin + 11..)?;
        let label = after.get(..find(after, b"-----")?)?;
        let body = after.get(label.len() + 5..)?;
        let end = find(body, b"-----END ")?;
        rest = body.get(end..)?;
        Some((std::str::from_utf8(label).ok()?, body.get(..end)?))
    })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// Base64 with line breaks (RFC 4648 4).
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0u32, 0u32, 0u32);
    for byte in text.iter().filter(|b| !b.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            out.extend_from_slice(bits.to_be_bytes().get(1..)?);
            (bits, count) = (0, 0);
        }
    }
    match (count, padding) {
        (0, 0) => {}
        (2, 2) => out.push(u8::try_from(bits >> 4 & 0xff).ok()?),
        (3, 1) => out.extend_from_slice((bits >> 2 & 0xffff).to_be_bytes().get(2..)?),
        _ => return None,
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_strictly() {
        for (text, want) in [
            ("", Some("")),
            ("Zg==", Some("f")),
            ("Zm8=", Some("fo")),
            ("Zm9v", Some("foo")),
            ("Zm9v\nYmFy\r\n", Some("foobar")),
            ("Zg", None),
            ("Zg=", None),
            ("Zg==Zg==", None),
            ("Z!==", None),
            ("Zm9vY", None),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), want.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn files_that_hold_no_key_or_certificate_are_told_apart() {
        let read = |text: &str| PrivateKeyPem::read(text.as_bytes()).err();
        assert!(matches!(read(""), Some(CredentialsError::None("private key"))));
        assert!(matches!(
            read("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----"),
            Some(CredentialsError::Unreadable(_))
        ));
        assert!(matches!(
            read("-----BEGIN PRIVATE KEY-----\nZg==\n-----END PRIVATE KEY-----"),
            Some(CredentialsError::Key(_))
        ));
        assert!(matches!(
            read("-----BEGIN ENCRYPTED PRIVATE KEY-----\nZg==\n-----END ENCRYPTED PRIVATE KEY-----"),
            Some(CredentialsError::Encrypted)
        ));
        let mut authorities = Authorities::new();
        assert!(matches!(authorities.add(b"no pem"), Err(CredentialsError::None("certificate"))));
        let garbage = b"-----BEGIN CERTIFICATE-----\nZg==\n-----END CERTIFICATE-----";
        assert!(matches!(authorities.add(garbage), Err(CredentialsError::Unreadable(_))));
        assert!(matches!(authorities.add(&garbage.repeat(11)), Err(CredentialsError::TooMany)));
    }
}
