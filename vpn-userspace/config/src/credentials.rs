//! Certificates and private keys from PEM files.

use std::fmt;
use std::sync::Arc;

use culvert_crypto::sha1;
use culvert_crypto::sign::PrivateKey;
use culvert_ike::{Dn, Identity, MAX_CERTIFICATES};
use culvert_pki::{KeyFileError, blocks, decode};
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode as _, Encode as _};

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
    subjects: Vec<Vec<u8>>,
    crls: Vec<Vec<u8>>,
}

/// What is wrong with a certificate or a key; says nothing of a key's content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("holds no {0} in PEM")]
    None(&'static str),
    #[error("holds a {0} that cannot be read")]
    Unreadable(&'static str),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error("holds no certificate revocation list")]
    NoList,
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
            Self::Key(KeyFileError::Pem(_)) => {
                "name a PEM file; DER becomes PEM by `openssl pkey -inform der`"
            }
            Self::Key(KeyFileError::NeedsPassword) => {
                "name a file with the password, private_key_password_file = \"secrets/NAME.password\""
            }
            Self::Key(KeyFileError::Password) => {
                "see that private_key_password_file holds its password, and that it is encrypted by PBES2 (openssl pkcs8 -topk8)"
            }
            Self::Key(KeyFileError::OldEncryption) => {
                "encrypt it as PKCS#8: `openssl pkcs8 -topk8 -in KEY -out KEY.new`"
            }
            Self::Key(KeyFileError::Key(_)) => {
                "make a new key: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
            }
            Self::NoList => "name a list in PEM or DER; `culvert pki crl` makes one",
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
            let (spki, subject) = facts(&der)?;
            // RFC 7296 3.7: the SHA-1 hash of the Subject Public Key Info element.
            self.key_hashes.push(sha1(&[&spki]));
            self.subjects.push(subject);
            self.certificates.push(der);
        }
        Ok(())
    }

    /// A revocation list in PEM or DER.
    pub(crate) fn add_crl(&mut self, file: &[u8]) -> Result<(), CredentialsError> {
        let mut found: Vec<Vec<u8>> =
            blocks(file).filter(|(label, _)| *label == "X509 CRL").filter_map(|(_, b)| decode(b)).collect();
        if found.is_empty() && file.first() == Some(&0x30) {
            found.push(file.to_vec());
        }
        if found.is_empty()
            || found
                .iter()
                .any(|der| CertificateList::<x509_cert::certificate::Rfc5280>::from_der(der).is_err())
        {
            return Err(CredentialsError::NoList);
        }
        self.crls.extend(found);
        Ok(())
    }

    /// Revocation lists, DER.
    pub fn crls(&self) -> &[Vec<u8>] {
        &self.crls
    }

    /// None yet.
    pub(crate) fn new() -> Self {
        Self { certificates: Vec::new(), key_hashes: Vec::new(), subjects: Vec::new(), crls: Vec::new() }
    }

    /// DER.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// The subject of each, DER.
    pub fn subjects(&self) -> &[Vec<u8>] {
        &self.subjects
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
    pub(crate) fn read(pem: &[u8], password: Option<&[u8]>) -> Result<Self, CredentialsError> {
        Ok(Self(Arc::new(culvert_pki::private_key(pem, password)?)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_hold_no_key_or_certificate_are_told_apart() {
        let read = |text: &str| PrivateKeyPem::read(text.as_bytes(), None).err();
        assert!(matches!(read(""), Some(CredentialsError::Key(KeyFileError::Pem(_)))));
        assert!(matches!(
            read("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----"),
            Some(CredentialsError::Key(KeyFileError::Pem(_)))
        ));
        assert!(matches!(
            read("-----BEGIN PRIVATE KEY-----\nZg==\n-----END PRIVATE KEY-----"),
            Some(CredentialsError::Key(KeyFileError::Key(_)))
        ));
        assert!(matches!(
            read("-----BEGIN ENCRYPTED PRIVATE KEY-----\nZg==\n-----END ENCRYPTED PRIVATE KEY-----"),
            Some(CredentialsError::Key(KeyFileError::NeedsPassword))
        ));
        let mut authorities = Authorities::new();
        for none in [&b""[..], b"no list", b"\x30\x00"] {
            assert!(matches!(authorities.add_crl(none), Err(CredentialsError::NoList)));
        }
        assert!(matches!(authorities.add(b"no pem"), Err(CredentialsError::None("certificate"))));
        let garbage = b"-----BEGIN CERTIFICATE-----\nZg==\n-----END CERTIFICATE-----";
        assert!(matches!(authorities.add(garbage), Err(CredentialsError::Unreadable(_))));
        assert!(matches!(authorities.add(&garbage.repeat(11)), Err(CredentialsError::TooMany)));
    }
}
