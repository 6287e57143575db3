//! From a peer's chain to its key: a path to an authority, valid now, not revoked, for IKE.

use std::time::Duration;

use culvert_crypto::sign::{PublicKey, Scheme};
use rustls_pki_types::alg_id::{self, AlgorithmIdentifier};
use rustls_pki_types::{CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
    anchor_from_trusted_cert,
};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix;

use crate::{Names, PkiError};

/// A chain of more certificates is not looked at.
pub const MAX_CERTIFICATES: usize = 10;
/// Neither is a certificate of more bytes.
pub const MAX_CERTIFICATE_LEN: usize = 32 * 1024;

/// What certificates are judged by. DER.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust<'a> {
    /// Certificates of authorities.
    pub authorities: &'a [Vec<u8>],
    /// Revocation lists of any authority in a path (RFC 5280 5). An authority without one revokes nothing; a list that
    /// is out of date makes the certificates of its authority untrusted.
    pub crls: &'a [Vec<u8>],
}

/// A certificate that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its key.
    pub key: PublicKey,
    /// Whom it is for: the caller sees to it that this is the peer.
    pub names: Names,
    /// DER: the certificate itself, the authorities above it, the trusted one last.
    pub path: Vec<Vec<u8>>,
}

/// id-kp-ipsecIKE, 1.3.6.1.5.5.7.3.17 (RFC 4945 5.1.3.12).
const IPSEC_IKE: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 17];

/// Judges a chain (DER, the peer's own certificate first) at a time in seconds since 1970.
pub fn verify(chain: &[Vec<u8>], trust: Trust<'_>, now: u64) -> Result<Verified, PkiError> {
    if chain.len() > MAX_CERTIFICATES || chain.iter().any(|c| c.len() > MAX_CERTIFICATE_LEN) {
        return Err(PkiError::TooMuch);
    }
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let (own, intermediates) = chain.split_first().ok_or(PkiError::None)?;
    let authorities: Vec<CertificateDer<'_>> =
        trust.authorities.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let (current, old): (Vec<_>, Vec<_>) = authorities.iter().partition(|c| in_time(c, now));
    // An authority that cannot be one is not trusted; the others are.
    let anchors = |list: &[&'_ CertificateDer<'_>]| -> Vec<_> {
        list.iter().filter_map(|c| anchor_from_trusted_cert(c).ok().map(|a| a.to_owned())).collect()
    };
    let crls: Result<Vec<CertRevocationList<'_>>, _> =
        trust.crls.iter().map(|c| OwnedCertRevocationList::from_der(c).map(Into::into)).collect();
    let crls = crls.map_err(|_| PkiError::RevocationMalformed)?;
    let crls: Vec<&CertRevocationList<'_>> = crls.iter().collect();
    let end = EndEntityCert::try_from(own).map_err(|e| explain(&e))?;
    let unix = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let algorithms: Vec<_> = webpki::ALL_VERIFICATION_ALGS.iter().copied().chain([P521]).collect();
    let judge = |anchors: &[_]| -> Result<Vec<Vec<u8>>, PkiError> {
        // RFC 4945 5.1.3.12: a certificate without extended usages is for everything; of those that name some, IKE's
        // own, and what TLS peers have.
        let usages =
            [KeyUsage::required_if_present(&IPSEC_IKE), KeyUsage::server_auth(), KeyUsage::client_auth()];
        let mut result = Err(PkiError::ExtendedUsage);
        for usage in usages {
            let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
                options
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_status_policy(UnknownStatusPolicy::Allow)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build()
            });
            let tried =
                end.verify_for_usage(&algorithms, anchors, intermediates, unix, usage, revocation, None);
            result = match &tried {
                Ok(path) => usages_of(path)
                    .and_then(|()| length_of(path, &authorities))
                    .map(|()| path_of(path, &authorities)),
                Err(error) => Err(explain(error)),
            };
            if result != Err(PkiError::ExtendedUsage) {
                break;
            }
        }
        result
    };
    let path = match judge(&anchors(&current)) {
        // Perhaps it is known why nobody vouches for it.
        Err(PkiError::UnknownIssuer) if judge(&anchors(&old)).is_ok() => {
            return Err(PkiError::AuthorityOutOfDate);
        }
        result => result?,
    };
    let certificate = Certificate::from_der(own).map_err(|_| PkiError::Malformed)?;
    let names = Names::read(&certificate).ok_or(PkiError::Malformed)?;
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der();
    Ok(Verified { key: PublicKey::from_spki(&spki.map_err(|_| PkiError::Malformed)?)?, names, path })
}

/// Whether an authority's own certificate is valid now; webpki takes its anchors as they are.
fn in_time(certificate: &CertificateDer<'_>, now: u64) -> bool {
    Certificate::from_der(certificate).is_ok_and(|c| {
        let validity = c.tbs_certificate().validity();
        let unix = |t: &x509_cert::time::Time| t.to_unix_duration().as_secs();
        (unix(&validity.not_before)..=unix(&validity.not_after)).contains(&now)
    })
}

/// Key usages, which webpki leaves to its callers: a peer signs (RFC 4945 5.1.3.2), an authority signs certificates
/// (RFC 5280 4.2.1.3). Without the extension everything is allowed.
fn usages_of(path: &VerifiedPath<'_>) -> Result<(), PkiError> {
    let usage = |der: &CertificateDer<'_>| -> Result<Option<pkix::KeyUsage>, PkiError> {
        let certificate = Certificate::from_der(der).map_err(|_| PkiError::Malformed)?;
        let found = certificate.tbs_certificate().get_extension::<pkix::KeyUsage>();
        Ok(found.map_err(|_| PkiError::Malformed)?.map(|(_, usage)| usage))
    };
    if usage(&path.end_entity().der())?.is_some_and(|u| !u.digital_signature() && !u.non_repudiation()) {
        return Err(PkiError::Usage);
    }
    for authority in path.intermediate_certificates() {
        if usage(&authority.der())?.is_some_and(|u| !u.key_cert_sign()) {
            return Err(PkiError::AuthorityUsage);
        }
    }
    Ok(())
}

/// The certificates of a path.
fn path_of(path: &VerifiedPath<'_>, authorities: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    let ours = |c: &&CertificateDer<'_>| anchor_from_trusted_cert(c).is_ok_and(|a| a == *path.anchor());
    let mut all = vec![path.end_entity().der().to_vec()];
    all.extend(path.intermediate_certificates().map(|c| c.der().to_vec()));
    all.extend(authorities.iter().find(ours).map(|c| c.to_vec()));
    all
}

/// RFC 5280 4.2.1.9 for the authority that is trusted: webpki takes only its name and key, and would allow any number of
/// authorities below it.
fn length_of(path: &VerifiedPath<'_>, authorities: &[CertificateDer<'_>]) -> Result<(), PkiError> {
    let ours = |c: &&CertificateDer<'_>| anchor_from_trusted_cert(c).is_ok_and(|a| a == *path.anchor());
    let Some(certificate) = authorities.iter().find(ours).and_then(|c| Certificate::from_der(c).ok()) else {
        return Ok(());
    };
    let constraints = certificate.tbs_certificate().get_extension::<pkix::BasicConstraints>();
    let most = constraints.map_err(|_| PkiError::Malformed)?.and_then(|(_, c)| c.path_len_constraint);
    match most {
        Some(most) if path.intermediate_certificates().count() > usize::from(most) => {
            Err(PkiError::PathLength)
        }
        _ => Ok(()),
    }
}

fn explain(error: &webpki::Error) -> PkiError {
    use webpki::Error as E;
    match error {
        E::CertExpired { time, not_after } => {
            PkiError::Expired { days: time.as_secs().saturating_sub(not_after.as_secs()) / 86_400 }
        }
        E::CertNotValidYet { time, not_before } => {
            PkiError::NotYetValid { hours: not_before.as_secs().saturating_sub(time.as_secs()) / 3600 }
        }
        E::UnknownIssuer => PkiError::UnknownIssuer,
        E::CaUsedAsEndEntity => PkiError::AuthorityAsPeer,
        E::EndEntityUsedAsCa => PkiError::PeerAsAuthority,
        E::RequiredEkuNotFoundContext(_) => PkiError::ExtendedUsage,
        E::UnsupportedCertVersion => PkiError::Version,
        E::InvalidSignatureForPublicKey | E::InvalidCrlSignatureForPublicKey => PkiError::Signature,
        E::NameConstraintViolation => PkiError::NameConstraint,
        E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => PkiError::PathLength,
        E::MaximumPathBuildCallsExceeded | E::MaximumSignatureChecksExceeded => PkiError::TooMuch,
        E::MaximumNameConstraintComparisonsExceeded => PkiError::TooMuch,
        E::CertRevoked => PkiError::Revoked,
        E::CrlExpired { .. } => PkiError::RevocationStale,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::UnsupportedCrlSignatureAlgorithmContext(_)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => PkiError::Algorithm,
        E::BadDer | E::BadDerTime | E::TrailingData(_) | E::MalformedExtensions => PkiError::Malformed,
        other => PkiError::Other(other.to_string()),
    }
}

/// ECDSA on P-521 with SHA-512, which ring does not have.
const P521: &dyn SignatureVerificationAlgorithm = &P521Sha512;

#[derive(Debug)]
struct P521Sha512;

/// DER of a SubjectPublicKeyInfo up to the 133 bytes of an uncompressed point on P-521.
const P521_SPKI: [u8; 25] = [
    0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00,
];

impl SignatureVerificationAlgorithm for P521Sha512 {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = PublicKey::from_spki(&[&P521_SPKI[..], key].concat()).map_err(|_| InvalidSignature)?;
        key.verify(Scheme::EcdsaSha512, &[message], signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA512
    }
}
