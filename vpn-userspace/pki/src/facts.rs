//! What a certificate or a revocation list says, for people.

use culvert_crypto::sign::{KeyKind, PublicKey};
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::BasicConstraints;

use crate::{Names, PkiError};

/// A certificate. Nothing of it is judged here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whom it is for, as RFC 4514 writes names.
    pub subject: String,
    /// Who made it.
    pub issuer: String,
    /// Big-endian.
    pub serial: Vec<u8>,
    /// Valid from, in seconds since 1970.
    pub not_before: u64,
    /// Valid until.
    pub not_after: u64,
    /// The kind of its key; `None` for one that is not taken.
    pub key: Option<KeyKind>,
    /// Whether it is an authority's.
    pub authority: bool,
    /// Its names.
    pub names: Names,
}

impl Facts {
    /// Of a DER-encoded certificate.
    pub fn of(certificate: &[u8]) -> Result<Self, PkiError> {
        let read = Certificate::from_der(certificate).map_err(|_| PkiError::Malformed)?;
        let tbs = read.tbs_certificate();
        let constraints = tbs.get_extension::<BasicConstraints>().map_err(|_| PkiError::Malformed)?;
        let spki = tbs.subject_public_key_info().to_der().map_err(|_| PkiError::Malformed)?;
        let validity = tbs.validity();
        Ok(Self {
            subject: tbs.subject().to_string(),
            issuer: tbs.issuer().to_string(),
            serial: tbs.serial_number().as_bytes().to_vec(),
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
            key: PublicKey::from_spki(&spki).ok().map(|key| key.kind()),
            authority: constraints.is_some_and(|(_, c)| c.ca),
            names: Names::read(&read).ok_or(PkiError::Malformed)?,
        })
    }
}

/// A revocation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlFacts {
    /// Whose it is.
    pub issuer: String,
    /// Made at, in seconds since 1970.
    pub this_update: u64,
    /// Good until.
    pub next_update: Option<u64>,
    /// Serial numbers, big-endian, and since when.
    pub revoked: Vec<(Vec<u8>, u64)>,
}

impl CrlFacts {
    /// Of a DER-encoded list.
    pub fn of(list: &[u8]) -> Result<Self, PkiError> {
        let read = CertificateList::<Rfc5280>::from_der(list).map_err(|_| PkiError::RevocationMalformed)?;
        let tbs = read.tbs_cert_list;
        let revoked = tbs.revoked_certificates.unwrap_or_default();
        let entry = |r: &x509_cert::crl::RevokedCert<Rfc5280>| {
            (r.serial_number.as_bytes().to_vec(), r.revocation_date.to_unix_duration().as_secs())
        };
        Ok(Self {
            issuer: tbs.issuer.to_string(),
            this_update: tbs.this_update.to_unix_duration().as_secs(),
            next_update: tbs.next_update.map(|t| t.to_unix_duration().as_secs()),
            revoked: revoked.iter().map(entry).collect(),
        })
    }
}
