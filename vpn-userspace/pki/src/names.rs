//! Whom a certificate is for (RFC 4945 5.1.3.6).

use std::net::IpAddr;

use x509_cert::Certificate;
use x509_cert::der::Encode as _;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{SubjectAltName, SubjectKeyIdentifier};

use crate::PkiError;

/// The names in a certificate. What is compared is exact but for the case of DNS names and mail addresses, and for
/// wildcards in the certificate, which cover one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// dNSName of the subject alternative names, wildcards as they stand.
    pub dns: Vec<String>,
    /// rfc822Name.
    pub emails: Vec<String>,
    /// iPAddress.
    pub addresses: Vec<IpAddr>,
    /// The subject, DER-encoded; an empty one is an empty SEQUENCE.
    pub subject: Vec<u8>,
    /// The subject key identifier.
    pub key_id: Option<Vec<u8>>,
}

/// More names than any certificate of a gateway has are not looked at.
const MAX_NAMES: usize = 256;

impl Names {
    /// Those of a DER-encoded certificate.
    pub fn of(certificate: &[u8]) -> Result<Self, PkiError> {
        use x509_cert::der::Decode as _;
        let certificate = Certificate::from_der(certificate).map_err(|_| PkiError::Malformed)?;
        Self::read(&certificate).ok_or(PkiError::Malformed)
    }

    pub(crate) fn read(certificate: &Certificate) -> Option<Self> {
        let tbs = certificate.tbs_certificate();
        let found = tbs.get_extension::<SubjectAltName>().ok()?;
        let mut names = Self {
            dns: Vec::new(),
            emails: Vec::new(),
            addresses: Vec::new(),
            subject: tbs.subject().to_der().ok()?,
            key_id: tbs.get_extension::<SubjectKeyIdentifier>().ok()?.map(|(_, id)| id.0.as_bytes().to_vec()),
        };
        for name in found.iter().flat_map(|(_, names)| &names.0).take(MAX_NAMES) {
            match name {
                GeneralName::DnsName(n) => names.dns.push(n.as_str().to_owned()),
                GeneralName::Rfc822Name(n) => names.emails.push(n.as_str().to_owned()),
                GeneralName::IpAddress(ip) => {
                    let bytes = ip.as_bytes();
                    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
                    names
                        .addresses
                        .extend(four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok());
                }
                _ => {}
            }
        }
        Some(names)
    }

    /// Whether it is for a host name.
    pub fn has_dns(&self, name: &str) -> bool {
        self.dns.iter().any(|dns| covers(dns, name))
    }

    /// Whether it is for a mail address.
    pub fn has_email(&self, mailbox: &str) -> bool {
        self.emails.iter().any(|own| own.eq_ignore_ascii_case(mailbox))
    }

    /// Whether it is for an address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether its key has the identifier.
    pub fn has_key_id(&self, id: &[u8]) -> bool {
        self.key_id.as_deref() == Some(id)
    }
}

/// A certificate for `*.example` is for the names one label below (RFC 6125 6.4.3). A NUL or a second wildcard in a
/// certificate's name makes it nobody's.
fn covers(dns: &str, name: &str) -> bool {
    let plain = |text: &str| !text.contains(['*', '\0']);
    (plain(dns) && dns.eq_ignore_ascii_case(name))
        || dns.strip_prefix("*.").filter(|tail| plain(tail)).is_some_and(|tail| {
            name.split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(tail))
        })
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn wildcards_cover_one_label() {
        for (dns, name, covered) in [
            ("gw.example", "GW.example", true),
            ("*.example", "gw.example", true),
            ("*.example", "a.gw.example", false),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("gw.example", "*.example", false),
            ("*", "example", false),
            ("*.*.example", "a.*.example", false),
            ("*.example", "*.example", true),
            ("gw.example\0.evil", "gw.example\0.evil", false),
        ] {
            assert_eq!(covers(dns, name), covered, "{dns} {name}");
        }
    }
}
