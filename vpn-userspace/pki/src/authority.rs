//! A small certificate authority (RFC 5280): its own certificate, certificates for gateways, revocation lists.

use std::net::IpAddr;

use culvert_crypto::sign::{KeyKind, PrivateKey, PublicKey, Scheme, SignError};
use culvert_crypto::{Random, sha1};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

use crate::{Sources, der};

/// A distinguished name, such as `C=CH, O=Example, CN=gw.example`, or only the common name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(Vec<u8>);

/// A subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AltName {
    /// A host name, perhaps with `*.` before it.
    Dns(String),
    /// A mail address.
    Email(String),
    /// An address.
    Ip(IpAddr),
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// A gateway, which begins and answers.
    Gateway,
    /// A server for roadwarriors.
    Server,
    /// A client.
    Client,
    /// An authority below this one, with so many more below it.
    Authority(u8),
}

/// A certificate that is asked for. Times are seconds since 1970.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whom it is for.
    pub subject: Subject,
    /// And by which names.
    pub names: Vec<AltName>,
    /// Its key.
    pub key: PublicKey,
    /// What for.
    pub usage: Usage,
    /// Valid from then.
    pub not_before: u64,
    /// Until then.
    pub not_after: u64,
    /// Where one learns whether it is revoked.
    pub sources: Sources,
}

/// A certificate that is not to be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number, big-endian.
    pub serial: Vec<u8>,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// What an authority cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// A subject that is no name.
    #[error(
        "\"{0}\" is no name of a certificate; write C=CH, O=Example, CN=gw.example or only the last part's value"
    )]
    Subject(String),
    /// A subject alternative name that is none.
    #[error("\"{0}\" is no host name, mail address or address")]
    Name(String),
    /// Certificate and key do not belong together, or the certificate is no authority's.
    #[error(
        "the authority's certificate and its private key do not belong together, or it is none of an authority"
    )]
    NotAnAuthority,
    /// A time span that is none.
    #[error("a certificate must end after it begins, and not after its authority's")]
    Validity,
    /// The key does not sign.
    #[error("the authority's key does not sign: {0}")]
    Sign(#[from] SignError),
}

/// An authority at work.
#[derive(Debug)]
pub struct Authority {
    key: PrivateKey,
    certificate: Vec<u8>,
    subject: Vec<u8>,
    not_after: u64,
}

/// Attribute types (X.520) by their short names.
const ATTRIBUTES: [(&str, u8); 6] = [("C", 6), ("O", 10), ("OU", 11), ("CN", 3), ("ST", 8), ("L", 7)];

impl Subject {
    /// Reads `C=CH, O=Example, CN=gw.example`; text without `=` is a common name.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let bad = || AuthorityError::Subject(text.to_owned());
        let whole = if text.contains('=') { text.to_owned() } else { format!("CN={text}") };
        let mut names = Vec::new();
        for part in whole.split(',') {
            let (kind, value) = part.split_once('=').ok_or_else(bad)?;
            let (kind, value) = (kind.trim(), value.trim());
            let found = ATTRIBUTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind));
            let (name, arc) = found.ok_or_else(bad)?;
            if value.is_empty() || value.chars().count() > 64 || value.chars().any(char::is_control) {
                return Err(bad());
            }
            // RFC 5280 A.1: countries are two letters in a PrintableString.
            let country = *name == "C";
            if country && !(value.len() == 2 && value.chars().all(|c| c.is_ascii_alphabetic())) {
                return Err(bad());
            }
            let value = der::value(if country { 0x13 } else { 0x0c }, value.as_bytes());
            names.push(der::set(&der::sequence(&[&der::oid(&[0x55, 4, *arc]), &value])));
        }
        Ok(Self(der::value(0x30, &names.concat())))
    }
}

impl AltName {
    /// Reads an address, a mail address or a host name.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let bad = || AuthorityError::Name(text.to_owned());
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let word = |s: &str| !s.is_empty() && s.len() <= 253 && s.bytes().all(|b| b.is_ascii_graphic());
        match text.split_once('@') {
            Some((user, host)) if word(user) && word(host) && !host.contains('@') => {
                Ok(Self::Email(text.to_owned()))
            }
            Some(_) => Err(bad()),
            None => {
                let plain = text.strip_prefix("*.").unwrap_or(text);
                let label = |l: &str| {
                    !l.is_empty()
                        && l.len() <= 63
                        && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
                };
                (word(plain) && plain.split('.').all(label))
                    .then(|| Self::Dns(text.to_owned()))
                    .ok_or_else(bad)
            }
        }
    }

    /// GeneralName (RFC 5280 4.2.1.6).
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Email(mailbox) => der::value(0x81, mailbox.as_bytes()),
            Self::Dns(name) => der::value(0x82, name.as_bytes()),
            Self::Ip(IpAddr::V4(a)) => der::value(0x87, &a.octets()),
            Self::Ip(IpAddr::V6(a)) => der::value(0x87, &a.octets()),
        }
    }
}

impl Authority {
    /// A new authority with a certificate by itself.
    pub fn create(
        key: PrivateKey,
        subject: &Subject,
        (not_before, not_after): (u64, u64),
        random: &mut dyn Random,
    ) -> Result<Self, AuthorityError> {
        let request = Request {
            subject: subject.clone(),
            names: Vec::new(),
            key: key.public_key().clone(),
            usage: Usage::Authority(2),
            not_before,
            not_after,
            sources: Sources::default(),
        };
        let mut authority = Self { key, certificate: Vec::new(), subject: subject.0.clone(), not_after };
        authority.certificate = authority.issue(&request, random)?;
        Ok(authority)
    }

    /// One that was made before, from its certificate (DER) and key.
    pub fn open(certificate: &[u8], key: PrivateKey) -> Result<Self, AuthorityError> {
        let wrong = |_| AuthorityError::NotAnAuthority;
        let read = Certificate::from_der(certificate).map_err(wrong)?;
        let tbs = read.tbs_certificate();
        let constraints = tbs.get_extension::<x509_cert::ext::pkix::BasicConstraints>().map_err(wrong)?;
        let spki = tbs.subject_public_key_info().to_der().map_err(wrong)?;
        if !constraints.is_some_and(|(_, c)| c.ca) || spki != key.public_key().to_spki() {
            return Err(AuthorityError::NotAnAuthority);
        }
        let subject = tbs.subject().to_der().map_err(wrong)?;
        let not_after = tbs.validity().not_after.to_unix_duration().as_secs();
        Ok(Self { key, certificate: certificate.to_vec(), subject, not_after })
    }

    /// Its own certificate, DER-encoded.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// A certificate, DER-encoded. Its serial number is random (RFC 5280 4.1.2.2: at most 20 bytes).
    pub fn issue(&self, request: &Request, random: &mut dyn Random) -> Result<Vec<u8>, AuthorityError> {
        if request.not_after <= request.not_before || request.not_after > self.not_after {
            return Err(AuthorityError::Validity);
        }
        let mut serial = [0; 16];
        random.fill(&mut serial);
        // Positive, and with no zero in front.
        if let Some(first) = serial.first_mut() {
            *first = *first & 0x7f | 0x40;
        }
        let validity = der::sequence(&[&der::time(request.not_before), &der::time(request.not_after)]);
        let tbs = der::sequence(&[
            &der::value(0xa0, &der::integer(&[2])),
            &der::integer(&serial),
            self.algorithm(),
            &self.subject,
            &validity,
            &request.subject.0,
            &request.key.to_spki(),
            &der::value(0xa3, &der::value(0x30, &self.extensions(request).concat())),
        ]);
        self.sign(tbs, random)
    }

    fn extensions(&self, request: &Request) -> Vec<Vec<u8>> {
        let extension = |arc: u8, critical: bool, content: &[u8]| {
            let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
            der::sequence(&[&der::oid(&[0x55, 0x1d, arc]), critical, &der::octets(content)])
        };
        // 4.2.1.9 basicConstraints, 4.2.1.3 keyUsage.
        let (constraints, usage): (Vec<u8>, [u8; 2]) = match request.usage {
            Usage::Authority(below) => {
                // keyCertSign and cRLSign.
                (der::sequence(&[&[1, 1, 0xff], &der::integer(&[below])]), [1, 0x06])
            }
            // digitalSignature.
            _ => (der::sequence(&[]), [7, 0x80]),
        };
        let mut all = vec![
            extension(19, true, &constraints),
            extension(15, true, &der::value(3, &usage)),
            extension(14, false, &der::octets(&key_id(&request.key))),
            extension(35, false, &der::sequence(&[&der::value(0x80, &key_id(self.key.public_key()))])),
        ];
        if !request.names.is_empty() {
            let names: Vec<u8> = request.names.iter().flat_map(AltName::encode).collect();
            // RFC 5280 4.2.1.6: critical where the subject is empty; ours never is.
            all.push(extension(17, false, &der::value(0x30, &names)));
        }
        let uri = |url: &String| der::value(0x86, url.as_bytes());
        if !request.sources.crl.is_empty() {
            // 4.2.1.13: one point with all URLs as its full name.
            let names: Vec<u8> = request.sources.crl.iter().flat_map(uri).collect();
            let point = der::sequence(&[&der::value(0xa0, &der::value(0xa0, &names))]);
            all.push(extension(31, false, &der::value(0x30, &point)));
        }
        if !request.sources.ocsp.is_empty() {
            // 4.2.2.1: id-pe-authorityInfoAccess with id-ad-ocsp.
            let method = der::oid(&[0x2b, 6, 1, 5, 5, 7, 48, 1]);
            let one = |url: &String| der::sequence(&[&method, &uri(url)]);
            let access: Vec<u8> = request.sources.ocsp.iter().flat_map(one).collect();
            let access = der::octets(&der::value(0x30, &access));
            all.push(der::sequence(&[&der::oid(&[0x2b, 6, 1, 5, 5, 7, 1, 1]), &access]));
        }
        // id-kp: serverAuth, clientAuth, ipsecIKE.
        let purposes: &[u8] = match request.usage {
            Usage::Gateway => &[1, 2, 17],
            Usage::Server => &[1, 17],
            Usage::Client => &[2, 17],
            Usage::Authority(_) => &[],
        };
        if !purposes.is_empty() {
            let oids: Vec<u8> =
                purposes.iter().flat_map(|arc| der::oid(&[0x2b, 6, 1, 5, 5, 7, 3, *arc])).collect();
            all.push(extension(37, false, &der::value(0x30, &oids)));
        }
        all
    }

    /// A revocation list (RFC 5280 5), DER-encoded. Each has a higher number than the one before.
    pub fn crl(
        &self,
        revoked: &[Revoked],
        number: u64,
        (this_update, next_update): (u64, u64),
        random: &mut dyn Random,
    ) -> Result<Vec<u8>, AuthorityError> {
        if next_update <= this_update {
            return Err(AuthorityError::Validity);
        }
        let entries: Vec<u8> = revoked
            .iter()
            .flat_map(|r| der::sequence(&[&der::integer(&r.serial), &der::time(r.since)]))
            .collect();
        let entries = if entries.is_empty() { Vec::new() } else { der::value(0x30, &entries) };
        let extension =
            |arc: u8, content: &[u8]| der::sequence(&[&der::oid(&[0x55, 0x1d, arc]), &der::octets(content)]);
        let extensions = der::sequence(&[
            &extension(35, &der::sequence(&[&der::value(0x80, &key_id(self.key.public_key()))])),
            &extension(20, &der::integer(&number.to_be_bytes())),
        ]);
        let tbs = der::sequence(&[
            &der::integer(&[1]),
            self.algorithm(),
            &self.subject,
            &der::time(this_update),
            &der::time(next_update),
            &entries,
            &der::value(0xa0, &extensions),
        ]);
        self.sign(tbs, random)
    }

    /// PKCS#1 v1.5 with RSA: every peer reads it.
    fn scheme(&self) -> Scheme {
        match self.key.kind() {
            KeyKind::Rsa(_) => Scheme::RsaPkcs1Sha256,
            KeyKind::EcdsaP256 => Scheme::EcdsaSha256,
            KeyKind::EcdsaP384 => Scheme::EcdsaSha384,
            KeyKind::EcdsaP521 => Scheme::EcdsaSha512,
            KeyKind::Ed25519 => Scheme::Ed25519,
        }
    }

    fn algorithm(&self) -> &'static [u8] {
        self.scheme().algorithm_identifier().unwrap_or_default()
    }

    fn sign(&self, tbs: Vec<u8>, random: &mut dyn Random) -> Result<Vec<u8>, AuthorityError> {
        let signature = self.key.sign(self.scheme(), &[&tbs], random)?;
        Ok(der::sequence(&[&tbs, self.algorithm(), &der::bits(&signature)]))
    }
}

/// RFC 5280 4.2.1.2, method 1: SHA-1 of the public key's bits. It identifies; nothing rests on its strength.
fn key_id(key: &PublicKey) -> [u8; 20] {
    let spki = key.to_spki();
    let read = x509_cert::spki::SubjectPublicKeyInfoRef::from_der(&spki).ok();
    sha1(&[read.and_then(|info| info.subject_public_key.as_bytes()).unwrap_or(&spki)])
}
