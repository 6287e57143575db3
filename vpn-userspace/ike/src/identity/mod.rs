//! Identities (RFC 7296 3.5), read and written by strongSwan's rules.

mod dn;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

pub use dn::Dn;

use crate::wire::Id;

/// Who a peer says it is.
///
/// Names compare without regard to case. An identity is at most 255 bytes of printable ASCII, but for key ids,
/// which are any bytes, and distinguished names, which have rules of their own ([`Dn`]).
///
/// A configured one may stand for many: `*.example`, `*@example`, `C=CH, O=Example, CN=*`; see
/// [`matches`](Self::matches).
#[derive(Clone)]
pub enum Identity {
    /// ID_IPV4_ADDR.
    Ipv4(Ipv4Addr),
    /// ID_IPV6_ADDR.
    Ipv6(Ipv6Addr),
    /// ID_FQDN.
    Fqdn(String),
    /// ID_RFC822_ADDR.
    Email(String),
    /// ID_DER_ASN1_DN.
    Dn(Box<Dn>),
    /// ID_KEY_ID.
    KeyId(Vec<u8>),
}

/// An identity that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// There is nothing in it.
    #[error(
        "an identity must not be empty; write an address, a name, \"user@host\" or \"@#\" and hex digits"
    )]
    Empty,
    /// Longer than any peer takes.
    #[error("an identity of {0} bytes is too long; 255 is the limit")]
    TooLong(usize),
    /// Something else than printable ASCII.
    #[error("identity {0:?} has characters that are not printable ASCII; write it as \"@#\" and hex digits")]
    Characters(String),
    /// `@#` not followed by hex digits.
    #[error("identity \"{0}\" needs pairs of hex digits after \"@#\"")]
    Hex(String),
    /// `%any` and its like, where one identity must stand.
    #[error("\"{0}\" is no identity; write an address, a name, \"user@host\" or \"C=CH, O=Example, CN=gw\"")]
    Unsupported(String),
    /// A distinguished name that cannot be read.
    #[error("\"{0}\" is no distinguished name; write it like \"C=CH, O=Example, CN=gw.example\"")]
    DnText(String),
    /// A distinguished name in an ID payload or a certificate that is not DER.
    #[error("a distinguished name is malformed")]
    Dn,
    /// A type in an ID payload that we do not serve.
    #[error("identity type {0} is not supported")]
    Type(u8),
    /// An address of the wrong length in an ID payload.
    #[error("an address identity has {0} bytes")]
    Address(usize),
}

const MAX: usize = 255;

impl Identity {
    const IPV4: u8 = 1;
    const FQDN: u8 = 2;
    const EMAIL: u8 = 3;
    const IPV6: u8 = 5;
    const DN: u8 = 9;
    const KEY_ID: u8 = 11;

    /// Reads an identity as strongSwan does: `10.0.0.1`, `2001:db8::1`, `gw.example`, `@gw.example`,
    /// `user@host`, `@#0a0b0c` (key id), `C=CH, O=Example, CN=gw` (distinguished name), with optional prefixes `fqdn:`, `email:`, `keyid:`, `ipv4:`, `ipv6:`.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if text.is_empty() {
            return Err(IdentityError::Empty);
        }
        let other = |prefix: &str| text.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        if let Some(name) = other("fqdn:") {
            return Ok(Self::Fqdn(printable(name)?));
        }
        if let Some(name) = other("email:").or_else(|| other("rfc822:")) {
            return Ok(Self::Email(printable(name)?));
        }
        if let Some(key) = other("keyid:") {
            return if key.len() > MAX {
                Err(IdentityError::TooLong(key.len()))
            } else {
                Ok(Self::KeyId(key.into()))
            };
        }
        let address = other("ipv4:").or_else(|| other("ipv6:")).unwrap_or(text);
        if let Ok(address) = address.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if let Some(hex) = text.strip_prefix("@#") {
            return key_id(hex).ok_or_else(|| IdentityError::Hex(text.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("@@") {
            return Ok(Self::Email(printable(rest)?));
        }
        if let Some(rest) = text.strip_prefix('@') {
            return Ok(Self::Fqdn(printable(rest)?));
        }
        if let Some(name) = other("asn1dn:") {
            return Dn::parse(name).map(|name| Self::Dn(Box::new(name)));
        }
        if text.contains('=') {
            return Dn::parse(text).map(|name| Self::Dn(Box::new(name)));
        }
        if text.starts_with('%') {
            return Err(IdentityError::Unsupported(text.to_owned()));
        }
        let name = printable(text)?;
        Ok(if name.contains('@') { Self::Email(name) } else { Self::Fqdn(name) })
    }

    pub(crate) fn from_wire(id: Id<'_>) -> Result<Self, IdentityError> {
        let text = || {
            let text = std::str::from_utf8(id.data).ok();
            text.map_or_else(|| Err(IdentityError::Characters(id.data.escape_ascii().to_string())), printable)
        };
        let address = |_| IdentityError::Address(id.data.len());
        match id.kind {
            Self::IPV4 => Ok(Self::Ipv4(<[u8; 4]>::try_from(id.data).map_err(address)?.into())),
            Self::IPV6 => Ok(Self::Ipv6(<[u8; 16]>::try_from(id.data).map_err(address)?.into())),
            Self::FQDN => Ok(Self::Fqdn(text()?)),
            Self::EMAIL => Ok(Self::Email(text()?)),
            Self::DN => Ok(Self::Dn(Box::new(Dn::from_der(id.data)?))),
            Self::KEY_ID if id.data.is_empty() => Err(IdentityError::Empty),
            Self::KEY_ID if id.data.len() > MAX => Err(IdentityError::TooLong(id.data.len())),
            Self::KEY_ID => Ok(Self::KeyId(id.data.to_vec())),
            other => Err(IdentityError::Type(other)),
        }
    }

    /// Type and data of the ID payload.
    pub(crate) fn to_wire(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Ipv4(a) => (Self::IPV4, a.octets().to_vec()),
            Self::Ipv6(a) => (Self::IPV6, a.octets().to_vec()),
            Self::Fqdn(name) => (Self::FQDN, name.clone().into_bytes()),
            Self::Email(name) => (Self::EMAIL, name.clone().into_bytes()),
            Self::Dn(name) => (Self::DN, name.der().to_vec()),
            Self::KeyId(key) => (Self::KEY_ID, key.clone()),
        }
    }

    /// Whether a peer that says it is `peer` is who this configured identity means. `*.example` means every name
    /// below `example`, `*@example` every mailbox there, and `*` in a distinguished name every value.
    pub fn matches(&self, peer: &Self) -> bool {
        let ends = |name: &str, tail: &str| {
            name.len() > tail.len()
                && name.get(name.len() - tail.len()..).is_some_and(|end| end.eq_ignore_ascii_case(tail))
        };
        match (self, peer) {
            (Self::Fqdn(pattern), Self::Fqdn(name)) if pattern.starts_with("*.") => {
                pattern.get(1..).is_some_and(|tail| ends(name, tail))
            }
            (Self::Email(pattern), Self::Email(name)) if pattern.starts_with("*@") => {
                pattern.get(1..).is_some_and(|tail| ends(name, tail))
            }
            (Self::Dn(pattern), Self::Dn(name)) => pattern.matches(name),
            _ => self == peer,
        }
    }

    /// Whether this stands for more than one peer, so that it cannot be sent.
    pub fn is_pattern(&self) -> bool {
        match self {
            Self::Fqdn(name) => name.starts_with("*."),
            Self::Email(name) => name.starts_with("*@"),
            Self::Dn(name) => name.has_wildcard(),
            _ => false,
        }
    }
}

fn printable(text: &str) -> Result<String, IdentityError> {
    match text.len() {
        0 => Err(IdentityError::Empty),
        1..=MAX if text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') => Ok(text.to_owned()),
        1..=MAX => Err(IdentityError::Characters(text.to_owned())),
        long => Err(IdentityError::TooLong(long)),
    }
}

fn key_id(hex: &str) -> Option<Identity> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| !d.is_empty() && d.len().is_multiple_of(2) && d.len() <= 2 * MAX)?;
    Some(Identity::KeyId(digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect()))
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ipv4(a), Self::Ipv4(b)) => a == b,
            (Self::Ipv6(a), Self::Ipv6(b)) => a == b,
            (Self::Fqdn(a), Self::Fqdn(b)) | (Self::Email(a), Self::Email(b)) => a.eq_ignore_ascii_case(b),
            (Self::Dn(a), Self::Dn(b)) => a == b,
            (Self::KeyId(a), Self::KeyId(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Identity {}

/// As `==` sees it: without regard to case.
impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Ipv4(a) => a.hash(state),
            Self::Ipv6(a) => a.hash(state),
            Self::Fqdn(name) | Self::Email(name) => name.to_ascii_lowercase().hash(state),
            Self::Dn(name) => name.hash(state),
            Self::KeyId(key) => key.hash(state),
        }
    }
}

impl From<IpAddr> for Identity {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::Ipv4(a),
            IpAddr::V6(a) => Self::Ipv6(a),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::parse(text)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(a) => a.fmt(f),
            Self::Ipv6(a) => a.fmt(f),
            // The prefix keeps a name that would read as something else apart.
            Self::Fqdn(name) => match Self::parse(name) {
                Ok(Self::Fqdn(_)) => f.write_str(name),
                _ => write!(f, "fqdn:{name}"),
            },
            Self::Email(name) => match Self::parse(name) {
                Ok(Self::Email(_)) => f.write_str(name),
                _ => write!(f, "email:{name}"),
            },
            Self::Dn(name) => name.fmt(f),
            Self::KeyId(key) => {
                f.write_str("@#")?;
                key.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strongswans_rules() {
        let cases = [
            ("10.0.0.1", 1, "10.0.0.1"),
            ("2001:db8::1", 5, "2001:db8::1"),
            ("gw.example", 2, "gw.example"),
            ("@gw.example", 2, "gw.example"),
            ("@10.0.0.1", 2, "fqdn:10.0.0.1"),
            ("user@host", 3, "user@host"),
            ("@@host", 3, "email:host"),
            ("@#0A0b", 11, "@#0a0b"),
            ("keyid:left", 11, "@#6c656674"),
            ("email:x", 3, "email:x"),
            ("CN=gw, O=x", 9, "CN=gw, O=x"),
            ("asn1dn:/C=CH/CN=gw", 9, "C=CH, CN=gw"),
        ];
        for (text, kind, shown) in cases {
            let id = Identity::parse(text).unwrap();
            let (wire_kind, data) = id.to_wire();
            assert_eq!((wire_kind, id.to_string().as_str()), (kind, shown), "{text}");
            assert_eq!(
                Identity::from_wire(Id { kind: wire_kind, reserved: [0; 3], data: &data }).unwrap(),
                id
            );
            assert_eq!(Identity::parse(shown).unwrap(), id, "{text} reads back");
        }
        assert_eq!(Identity::parse("GW.Example").unwrap(), Identity::parse("gw.example").unwrap());
        assert_ne!(Identity::parse("10.0.0.1").unwrap(), Identity::parse("@10.0.0.1").unwrap());
    }

    #[test]
    fn equal_identities_hash_alike() {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let hash = |text: &str| {
            let mut hasher = DefaultHasher::new();
            Identity::parse(text).unwrap().hash(&mut hasher);
            hasher.finish()
        };
        for (a, b) in [("GW.Example", "gw.example"), ("A@b", "a@B"), ("CN=A  b", "cn=a B"), ("@#0A", "@#0a")]
        {
            assert_eq!((Identity::parse(a).unwrap(), hash(a)), (Identity::parse(b).unwrap(), hash(b)));
        }
        assert_ne!(hash("gw.example"), hash("email:gw.example"));
    }

    #[test]
    fn patterns_mean_many() {
        for (pattern, peer, means) in [
            ("*.example", "gw.example", true),
            ("*.example", "a.gw.EXAMPLE", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "gw.example.org", false),
            ("*.example", "gw.badexample", false),
            ("gw.example", "*.example", false),
            ("gw.example", "GW.example", true),
            ("*@example", "user@example", true),
            ("*@example", "user@other", false),
            ("*@example", "gw.example", false),
            ("C=CH, CN=*", "C=CH, CN=x", true),
            ("C=CH, CN=*", "C=DE, CN=x", false),
        ] {
            let (ours, theirs) = (Identity::parse(pattern).unwrap(), Identity::parse(peer).unwrap());
            assert_eq!(ours.matches(&theirs), means, "{pattern} {peer}");
            assert_eq!(ours.is_pattern(), pattern.contains('*'));
        }
    }

    /// Public mistake: identity.
    #[test]
    fn bad_identities_are_refused() {
        for text in ["", "@", "@#", "@#abc", "@#zz", "a\nb", "C=CH, XX=x", "%any", "caf\u{e9}.example"] {
            assert!(Identity::parse(text).is_err(), "{text:?}");
        }
        assert!(Identity::parse(&"a".repeat(256)).is_err());
        for (kind, data) in
            [(1, &[1, 2, 3][..]), (5, &[0; 4]), (2, b"a\0b"), (2, b""), (9, b"dn"), (2, &[0xff])]
        {
            assert!(Identity::from_wire(Id { kind, reserved: [0; 3], data }).is_err());
        }
    }
}
