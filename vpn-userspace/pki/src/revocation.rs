//! Whether a certificate of a trusted path is revoked, by what was fetched from where it says: an OCSP response
//! (RFC 6960) or a revocation list (RFC 5280 5). Fetching is the caller's; nothing here is believed before its signature
//! is that of the certificate's issuer, or of who may answer in the issuer's place.

use culvert_crypto::sha1;
use culvert_crypto::sign::{PublicKey, Scheme};
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::ext::pkix::{AuthorityInfoAccessSyntax, CrlDistributionPoints, ExtendedKeyUsage};

use crate::der::{self, Reader};

/// Where a certificate says that one learns whether it is revoked: HTTP URLs, first preferred.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Of responders (RFC 5280 4.2.2.1, id-ad-ocsp).
    pub ocsp: Vec<String>,
    /// Of revocation lists (RFC 5280 4.2.1.13).
    pub crl: Vec<String>,
}

/// What an issuer says of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// It is not to be trusted any more.
    pub revoked: bool,
    /// In seconds since 1970: until then this need not be asked again.
    pub until: u64,
}

/// Why an answer says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// Not what it should be.
    #[error("the {0} cannot be read")]
    Malformed(&'static str),
    /// The responder is not able or not willing (RFC 6960 4.2.1).
    #[error("the responder answers with error {0}")]
    Responder(u8),
    /// It is about another certificate, or the responder does not know this one.
    #[error("it says nothing of this certificate")]
    Unknown,
    /// Somebody else's signature.
    #[error("its signature is not that of the certificate's issuer")]
    Signature,
    /// Of yesterday, or of tomorrow.
    #[error("it is out of date")]
    Stale,
    /// A list for special purposes, with critical extensions.
    #[error("the list is not a plain one of all certificates")]
    Special,
}

/// id-ad-ocsp.
const AD_OCSP: &str = "1.3.6.1.5.5.7.48.1";
/// id-kp-OCSPSigning.
const KP_OCSP: &str = "1.3.6.1.5.5.7.3.9";
/// id-pkix-ocsp-basic, DER content.
const BASIC: [u8; 9] = [0x2b, 6, 1, 5, 5, 7, 48, 1, 1];
/// SHA-1 as an AlgorithmIdentifier: it names the issuer to the responder (RFC 5019 2.1.1), nothing rests on its strength.
const SHA1: [u8; 11] = [0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];
/// How old an answer without an end may be, in seconds; and how far clocks may differ.
const FRESH: u64 = 600;
/// More URLs are not looked at.
const MAX_URLS: usize = 4;

impl Sources {
    /// Of a certificate (DER).
    pub fn of(certificate: &[u8]) -> Self {
        let mut sources = Self::default();
        let Ok(read) = Certificate::from_der(certificate) else { return sources };
        let tbs = read.tbs_certificate();
        if let Ok(Some((_, access))) = tbs.get_extension::<AuthorityInfoAccessSyntax>() {
            let ocsp = access.0.iter().filter(|a| a.access_method.to_string() == AD_OCSP);
            sources.ocsp = ocsp.filter_map(|a| url(&a.access_location)).take(MAX_URLS).collect();
        }
        if let Ok(Some((_, points))) = tbs.get_extension::<CrlDistributionPoints>() {
            // RFC 5280 4.2.1.13: a point for some reasons, or by another issuer, is not the whole story.
            let plain = points.0.iter().filter(|p| p.reasons.is_none() && p.crl_issuer.is_none());
            let names = plain.filter_map(|p| match &p.distribution_point {
                Some(DistributionPointName::FullName(names)) => Some(names),
                _ => None,
            });
            sources.crl = names.flatten().filter_map(url).take(MAX_URLS).collect();
        }
        sources
    }
}

fn url(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::UniformResourceIdentifier(url) if url.as_str().starts_with("http://") => {
            Some(url.as_str().to_owned())
        }
        _ => None,
    }
}

/// Who vouches, as far as answers need it.
struct Issuer {
    name: Vec<u8>,
    key: PublicKey,
    name_hash: [u8; 20],
    key_hash: [u8; 20],
}

impl Issuer {
    fn of(certificate: &[u8]) -> Option<Self> {
        let read = Certificate::from_der(certificate).ok()?;
        let tbs = read.tbs_certificate();
        let name = tbs.subject().to_der().ok()?;
        let spki = tbs.subject_public_key_info();
        let key_hash = sha1(&[spki.subject_public_key.as_bytes()?]);
        let key = PublicKey::from_spki(&spki.to_der().ok()?).ok()?;
        Some(Self { name_hash: sha1(&[&name]), key_hash, name, key })
    }
}

/// The content of the INTEGER.
fn serial(certificate: &[u8]) -> Option<Vec<u8>> {
    let read = Certificate::from_der(certificate).ok()?;
    let number = read.tbs_certificate().serial_number().to_der().ok()?;
    Reader::new(&number).next(2).map(<[u8]>::to_vec)
}

/// The body of a POST (RFC 6960 4.1) that asks a responder for a certificate of an issuer; both DER. `None`: they cannot
/// be read.
pub fn ocsp_request(certificate: &[u8], issuer: &[u8]) -> Option<Vec<u8>> {
    let (issuer, serial) = (Issuer::of(issuer)?, serial(certificate)?);
    let id = der::sequence(&[
        &SHA1,
        &der::octets(&issuer.name_hash),
        &der::octets(&issuer.key_hash),
        &der::value(2, &serial),
    ]);
    // No nonce: responders answer from a store (RFC 5019 2.1.1), and the times tell how old it is.
    Some(der::sequence(&[&der::sequence(&[&der::sequence(&[&der::sequence(&[&id])])])]))
}

/// What a responder's answer says of a certificate, at a time in seconds since 1970.
///
/// # Errors
/// When it says nothing that can be believed.
pub fn ocsp_status(
    response: &[u8],
    certificate: &[u8],
    issuer: &[u8],
    now: u64,
) -> Result<Status, RevocationError> {
    let bad = || RevocationError::Malformed("OCSP response");
    let (issuer, serial) =
        Issuer::of(issuer).zip(serial(certificate)).ok_or(RevocationError::Malformed("certificate"))?;
    let mut outer = Reader::new(response).only(0x30).ok_or_else(bad)?;
    match outer.next(0x0a).ok_or_else(bad)? {
        [0] => {}
        [error] => return Err(RevocationError::Responder(*error)),
        _ => return Err(bad()),
    }
    let mut bytes = outer.enter(0xa0).and_then(|mut r| r.enter(0x30)).ok_or_else(bad)?;
    if bytes.next(6) != Some(&BASIC) {
        return Err(bad());
    }
    let basic = bytes.next(4).ok_or_else(bad)?;
    let mut basic = Reader::new(basic).only(0x30).ok_or_else(bad)?;
    let (data, signed) = basic.whole(0x30).ok_or_else(bad)?;
    let (_, algorithm) = basic.whole(0x30).ok_or_else(bad)?;
    let [0, signature @ ..] = basic.next(3).ok_or_else(bad)? else { return Err(bad()) };
    let mut certificates = Vec::new();
    if let Some(mut list) = basic.enter(0xa0).and_then(|mut r| r.enter(0x30)) {
        while let Some((_, whole)) = list.whole(0x30) {
            certificates.push(whole);
            if certificates.len() > 4 {
                break;
            }
        }
    }
    let mut data = Reader::new(data);
    // The version has a default; there is one.
    let _ = data.next(0xa0);
    let responder = match (data.next(0xa1), data.peek()) {
        (Some(name), _) => Responder::Name(name),
        (None, Some(0xa2)) => {
            let key = data.enter(0xa2).and_then(|mut r| r.next(4)).ok_or_else(bad)?;
            Responder::Key(key)
        }
        _ => return Err(bad()),
    };
    let signer = responder.key(&issuer, &certificates, now).ok_or(RevocationError::Signature)?;
    verify(&signer, algorithm, signed, signature)?;
    let _produced = data.next(0x18).ok_or_else(bad)?;
    let mut responses = data.enter(0x30).ok_or_else(bad)?;
    while let Some(mut single) = responses.enter(0x30) {
        let mut id = single.enter(0x30).ok_or_else(bad)?;
        let (_, hash) = id.whole(0x30).ok_or_else(bad)?;
        // NULL parameters, or none.
        let by_sha1 = hash.get(2..9) == SHA1.get(2..9);
        let (name, key) = (id.next(4).ok_or_else(bad)?, id.next(4).ok_or_else(bad)?);
        let number = id.next(2).ok_or_else(bad)?;
        let about = by_sha1 && name == issuer.name_hash && key == issuer.key_hash && number == serial;
        let revoked = match single.any().ok_or_else(bad)? {
            (0x80, _) => Some(false),
            (0xa1, _) => Some(true),
            _ => None,
        };
        let since = single.next(0x18).and_then(generalized).ok_or_else(bad)?;
        let until = match single.peek() {
            Some(0xa0) => {
                let until = single.enter(0xa0).and_then(|mut r| r.next(0x18)).and_then(generalized);
                Some(until.ok_or_else(bad)?)
            }
            _ => None,
        };
        let (true, Some(revoked)) = (about, revoked) else { continue };
        let until_or_fresh = until.unwrap_or(since.saturating_add(FRESH));
        if since > now.saturating_add(FRESH) || until_or_fresh < now {
            return Err(RevocationError::Stale);
        }
        return Ok(Status { revoked, until: until.unwrap_or(now.saturating_add(60)) });
    }
    Err(RevocationError::Unknown)
}

/// Who signed an OCSP response.
enum Responder<'a> {
    Name(&'a [u8]),
    /// SHA-1 of its key.
    Key(&'a [u8]),
}

impl Responder<'_> {
    fn is(&self, who: &Issuer) -> bool {
        match self {
            Self::Name(name) => *name == who.name,
            Self::Key(hash) => *hash == who.key_hash,
        }
    }

    /// RFC 6960 4.2.2.2: the issuer itself, or whom it has given a certificate for this.
    fn key(&self, issuer: &Issuer, certificates: &[&[u8]], now: u64) -> Option<PublicKey> {
        if self.is(issuer) {
            return Some(issuer.key.clone());
        }
        certificates.iter().find_map(|der| {
            let delegate = Issuer::of(der).filter(|delegate| self.is(delegate))?;
            let read = Certificate::from_der(der).ok()?;
            let tbs = read.tbs_certificate();
            let time = |t: &x509_cert::time::Time| t.to_unix_duration().as_secs();
            let in_time = (time(&tbs.validity().not_before)..=time(&tbs.validity().not_after)).contains(&now);
            let usage = tbs.get_extension::<ExtendedKeyUsage>().ok()??.1;
            let may = usage.0.iter().any(|oid| oid.to_string() == KP_OCSP);
            let mut parts = Reader::new(der).only(0x30)?;
            let (_, signed) = parts.whole(0x30)?;
            let (_, algorithm) = parts.whole(0x30)?;
            let [0, signature @ ..] = parts.next(3)? else { return None };
            let by_issuer = tbs.issuer().to_der().ok()? == issuer.name
                && verify(&issuer.key, algorithm, signed, signature).is_ok();
            (in_time && may && by_issuer).then_some(delegate.key)
        })
    }
}

fn verify(key: &PublicKey, algorithm: &[u8], signed: &[u8], signature: &[u8]) -> Result<(), RevocationError> {
    let scheme = Scheme::from_algorithm_identifier(algorithm).filter(|s| *s != Scheme::RsaPkcs1Sha1);
    let good = scheme.is_some_and(|scheme| key.verify(scheme, &[signed], signature).is_ok());
    if good { Ok(()) } else { Err(RevocationError::Signature) }
}

/// What a revocation list (DER) says of a certificate of an issuer (both DER), at a time in seconds since 1970.
///
/// # Errors
/// When it says nothing that can be believed.
pub fn crl_status(
    list: &[u8],
    certificate: &[u8],
    issuer: &[u8],
    now: u64,
) -> Result<Status, RevocationError> {
    let bad = || RevocationError::Malformed("revocation list");
    let issuer = Issuer::of(issuer).ok_or(RevocationError::Malformed("certificate"))?;
    let mut parts = Reader::new(list).only(0x30).ok_or_else(bad)?;
    let (_, signed) = parts.whole(0x30).ok_or_else(bad)?;
    let (_, algorithm) = parts.whole(0x30).ok_or_else(bad)?;
    let [0, signature @ ..] = parts.next(3).ok_or_else(bad)? else { return Err(bad()) };
    // Before it is looked into: it may be large, and is by a stranger until then.
    verify(&issuer.key, algorithm, signed, signature)?;
    let read = CertificateList::<Rfc5280>::from_der(list).map_err(|_| bad())?;
    let tbs = read.tbs_cert_list;
    if tbs.issuer.to_der().map_err(|_| bad())? != issuer.name {
        return Err(RevocationError::Signature);
    }
    // RFC 5280 5.2: deltas and lists for some reasons are marked critical.
    if tbs.crl_extensions.iter().flatten().any(|extension| extension.critical) {
        return Err(RevocationError::Special);
    }
    let since = tbs.this_update.to_unix_duration().as_secs();
    let until = tbs.next_update.map(|t| t.to_unix_duration().as_secs());
    // RFC 5280 5.1.2.5: it has to be there.
    let until = until.ok_or_else(bad)?;
    if since > now.saturating_add(FRESH) || until < now {
        return Err(RevocationError::Stale);
    }
    let own = Certificate::from_der(certificate).map_err(|_| RevocationError::Malformed("certificate"))?;
    let serial = own.tbs_certificate().serial_number();
    let revoked = tbs.revoked_certificates.iter().flatten().any(|r| r.serial_number == *serial);
    Ok(Status { revoked, until })
}

/// A revocation list as it was fetched, in DER: some serve it in PEM.
pub fn list_of(file: Vec<u8>) -> Vec<u8> {
    let pem =
        crate::blocks(&file).find(|(label, _)| *label == "X509 CRL").and_then(|(_, b)| crate::decode(b));
    pem.unwrap_or(file)
}

/// GeneralizedTime in UTC, to the second (RFC 6960 4.2.2.1).
fn generalized(text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.len() == 14)?;
    let number = |from: usize, to: usize| -> Option<u64> {
        let part = std::str::from_utf8(digits.get(from..to)?).ok()?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten()
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(8, 10)?, number(10, 12)?, number(12, 14)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years begin in March here, so that the leap day comes last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)?) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::generalized;
    use crate::civil;

    #[test]
    fn times_are_read_as_they_are_written() {
        for unix in [0, 951_782_399, 951_782_400, 1_704_067_199, 1_709_251_200, 2_524_608_000, 4_107_542_400]
        {
            let (year, month, day, hour, minute, second) = civil(unix);
            let text = format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
            assert_eq!(generalized(text.as_bytes()), Some(unix), "{text}");
        }
        for bad in
            ["", "20240101000000", "20241301000000Z", "2024010100000Z", "+0240101000000Z", "20240101250000Z"]
        {
            assert_eq!(generalized(bad.as_bytes()), None, "{bad}");
        }
    }
}
