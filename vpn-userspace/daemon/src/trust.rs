//! Whether a peer's certificate is to be trusted: a path to an authority of the tunnel, valid now, for the identity.

use std::time::{Duration, SystemTime};

use culvert_crypto::sign::{PublicKey, Scheme};
use culvert_ike::{CertificateRefused, Dn, Identity};
use rustls_pki_types::alg_id::{self, AlgorithmIdentifier};
use rustls_pki_types::{CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{SubjectAltName, SubjectKeyIdentifier};

/// The key of a peer's certificate, if the chain (DER, the peer's own first) leads to one of the authorities (DER), holds
/// now and names the identity.
pub(crate) fn verify(
    chain: &[Vec<u8>],
    authorities: &[Vec<u8>],
    identity: &Identity,
    now: SystemTime,
) -> Result<PublicKey, CertificateRefused> {
    let refuse = |what: String, mend: &str| CertificateRefused { what, mend: mend.to_owned() };
    let malformed =
        |_| refuse("it cannot be read".to_owned(), "give the peer an X.509 certificate of version 3");
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let Some((own, intermediates)) = chain.split_first() else {
        return Err(refuse("there is none".to_owned(), "give the peer a certificate"));
    };
    let authorities: Vec<CertificateDer<'_>> =
        authorities.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    // An authority that cannot be one is not trusted; the others are.
    let anchors: Vec<_> = authorities.iter().filter_map(|c| anchor_from_trusted_cert(c).ok()).collect();
    let now =
        UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO));
    let path = EndEntityCert::try_from(own).and_then(|own| {
        // RFC 4945 5.1.3.12: a certificate without extended usages is for everything; of those that name some, IKE's own,
        // and what TLS peers have.
        let usages =
            [KeyUsage::required_if_present(&IPSEC_IKE), KeyUsage::server_auth(), KeyUsage::client_auth()];
        let mut result = Ok(());
        for usage in usages {
            let algorithms: Vec<_> = webpki::ALL_VERIFICATION_ALGS.iter().copied().chain([P521]).collect();
            let tried = own.verify_for_usage(&algorithms, &anchors, intermediates, now, usage, None, None);
            result = tried.map(drop);
            if !matches!(result, Err(webpki::Error::RequiredEkuNotFoundContext(_))) {
                break;
            }
        }
        result
    });
    path.map_err(|error| explain(&error))?;
    let certificate = Certificate::from_der(own).map_err(malformed)?;
    if !names(&certificate, identity) {
        let what = format!("it is not for {identity}, but for {}", describe(&certificate));
        let mend = "have the peer's id put into its certificate as a subject alternative name, or set remote_id here and the peer's local id to a name in it";
        return Err(refuse(what, mend));
    }
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().map_err(malformed)?;
    PublicKey::from_spki(&spki)
        .map_err(|e| refuse(e.to_string(), "give the peer a certificate with another key"))
}

/// id-kp-ipsecIKE, 1.3.6.1.5.5.7.3.17 (RFC 4945 5.1.3.12).
const IPSEC_IKE: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 17];

fn explain(error: &webpki::Error) -> CertificateRefused {
    use webpki::Error as E;
    let (what, mend) = match error {
        E::CertExpired { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / 86_400;
            (format!("it expired {days} days ago"), "renew it; and see that this gateway's clock is right")
        }
        E::CertNotValidYet { time, not_before } => {
            let hours = not_before.as_secs().saturating_sub(time.as_secs()) / 3600;
            (format!("it is valid only in {hours} hours"), "see that this gateway's clock is right")
        }
        E::UnknownIssuer => (
            "no authority of this tunnel vouches for it".to_owned(),
            "add its authority's certificate to `ca`, or let the peer send the certificates between it and that authority",
        ),
        E::CaUsedAsEndEntity => {
            ("it is an authority's".to_owned(), "give the peer a certificate of its own, with CA:FALSE")
        }
        E::RequiredEkuNotFoundContext(_) => (
            "its extended key usage is for something else".to_owned(),
            "have it made with serverAuth, clientAuth or ipsecIKE, or without extended key usages",
        ),
        E::UnsupportedCertVersion => {
            ("it is not of version 3".to_owned(), "have it made anew by a current tool")
        }
        E::InvalidSignatureForPublicKey => (
            "a signature in its chain is wrong".to_owned(),
            "give the peer its certificate anew: it was changed, or another authority of that name made it",
        ),
        other => (format!("{other}"), "have the certificate made anew by the rules of RFC 5280"),
    };
    CertificateRefused { what, mend: mend.to_owned() }
}

fn alternative_names(certificate: &Certificate) -> Vec<GeneralName> {
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>().ok().flatten();
    found.map(|(_, names)| names.0).unwrap_or_default()
}

fn subject(certificate: &Certificate) -> Option<Dn> {
    Dn::from_der(&certificate.tbs_certificate().subject().to_der().ok()?).ok()
}

/// Whether the certificate is for the identity (RFC 4945 3.1, 5.1.3.6).
fn names(certificate: &Certificate, identity: &Identity) -> bool {
    let address = |octets: &[u8]| {
        let same = |n: &GeneralName| matches!(n, GeneralName::IpAddress(ip) if ip.as_bytes() == octets);
        alternative_names(certificate).iter().any(same)
    };
    match identity {
        Identity::Ipv4(a) => address(&a.octets()),
        Identity::Ipv6(a) => address(&a.octets()),
        Identity::Fqdn(name) => alternative_names(certificate).iter().any(|n| match n {
            GeneralName::DnsName(dns) => covers(dns.as_str(), name),
            _ => false,
        }),
        Identity::Email(mailbox) => alternative_names(certificate)
            .iter()
            .any(|n| matches!(n, GeneralName::Rfc822Name(m) if m.as_str().eq_ignore_ascii_case(mailbox))),
        Identity::Dn(name) => subject(certificate).is_some_and(|subject| subject == **name),
        Identity::KeyId(id) => {
            let found = certificate.tbs_certificate().get_extension::<SubjectKeyIdentifier>().ok().flatten();
            found.is_some_and(|(_, key)| key.0.as_bytes() == id.as_slice())
        }
    }
}

/// A certificate for `*.example` is for the names one label below (RFC 6125 6.4.3).
fn covers(dns: &str, name: &str) -> bool {
    dns.eq_ignore_ascii_case(name)
        || dns.strip_prefix("*.").is_some_and(|tail| {
            name.split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(tail))
        })
}

/// Whom a certificate is for, for people.
fn describe(certificate: &Certificate) -> String {
    let mut all: Vec<String> = alternative_names(certificate)
        .iter()
        .take(8)
        .filter_map(|name| match name {
            GeneralName::DnsName(n) => Identity::parse(&format!("fqdn:{}", n.as_str())).ok(),
            GeneralName::Rfc822Name(n) => Identity::parse(&format!("email:{}", n.as_str())).ok(),
            GeneralName::IpAddress(ip) => match ip.as_bytes().len() {
                4 => ip.as_bytes().first_chunk::<4>().map(|a| Identity::Ipv4((*a).into())),
                _ => ip.as_bytes().first_chunk::<16>().map(|a| Identity::Ipv6((*a).into())),
            },
            _ => None,
        })
        .map(|id| id.to_string())
        .collect();
    all.extend(subject(certificate).map(|name| name.to_string()));
    if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_one_label() {
        for (dns, name, covered) in [
            ("gw.example", "GW.example", true),
            ("*.example", "gw.example", true),
            ("*.example", "a.gw.example", false),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("gw.example", "*.example", false),
        ] {
            assert_eq!(covers(dns, name), covered, "{dns} {name}");
        }
    }
}
