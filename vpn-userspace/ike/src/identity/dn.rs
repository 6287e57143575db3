//! Distinguished names (X.501 in DER; text after RFC 4514, in strongSwan's order): read, written and compared.

use std::fmt;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use super::IdentityError;

/// Names longer than this are nobody's; in bytes of DER.
const MAX: usize = 1024;
/// Attributes that one name may have.
const MAX_ATTRIBUTES: usize = 64;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const TELETEX: u8 = 0x14;
const IA5: u8 = 0x16;
const BMP: u8 = 0x1e;

/// A distinguished name, as it stands in certificates and in ID payloads of type ID_DER_ASN1_DN.
///
/// Two names are equal when they have the same attributes in the same order with the same values, without regard
/// to case, to runs of spaces and to the kind of string (RFC 5280 7.1). As text, the attribute that comes first
/// in the DER comes first, as strongSwan writes names: `C=CH, O=Example, CN=gw`.
#[derive(Clone)]
pub struct Dn {
    der: Vec<u8>,
    attributes: Vec<Attribute>,
}

#[derive(Clone)]
struct Attribute {
    /// Its set goes on with the next attribute: `+` between them.
    joined: bool,
    oid: Vec<u8>,
    value: Value,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Value {
    /// A string, whatever its encoding.
    Text(String),
    /// Something else: tag and contents.
    Raw(u8, Vec<u8>),
}

/// Names of attribute types, the one to write first; after RFC 4514 3 and what strongSwan reads.
const TYPES: [(&str, &[u8]); 20] = [
    ("CN", &[0x55, 4, 3]),
    ("C", &[0x55, 4, 6]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("S", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("SN", &[0x55, 4, 4]),
    ("serialNumber", &[0x55, 4, 5]),
    ("T", &[0x55, 4, 12]),
    ("D", &[0x55, 4, 13]),
    ("G", &[0x55, 4, 42]),
    ("I", &[0x55, 4, 43]),
    ("DNQ", &[0x55, 4, 46]),
    ("UID", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("E", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    ("EMAIL", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    ("emailAddress", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
];

impl Dn {
    /// The value of its only common name, if that is text.
    pub fn common_name(&self) -> Option<&str> {
        let mut named = self.attributes.iter().filter(|a| a.oid == [0x55, 4, 3]);
        match (named.next().map(|a| &a.value), named.next()) {
            (Some(Value::Text(name)), None) => Some(name),
            _ => None,
        }
    }

    /// Reads a name in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        if der.len() > MAX {
            return Err(IdentityError::TooLong(der.len()));
        }
        let attributes = parse(der).ok_or(IdentityError::Dn)?;
        if attributes.is_empty() {
            return Err(IdentityError::Empty);
        }
        Ok(Self { der: der.to_vec(), attributes })
    }

    /// Reads a name as people write it: `C=CH, O=Example, CN=gw`, or with slashes as OpenSSL prints it.
    pub(super) fn parse(text: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::DnText(text.to_owned());
        if text.len() > MAX {
            return Err(IdentityError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(IdentityError::Characters(text.to_owned()));
        }
        let (separator, rest) = match text.strip_prefix('/') {
            Some(rest) => ('/', rest),
            None => (',', text),
        };
        let mut attributes: Vec<Attribute> = Vec::new();
        let mut left = rest;
        loop {
            let (part, end) = split(left, separator).ok_or_else(bad)?;
            let (name, value) = part.trim().split_once('=').ok_or_else(bad)?;
            let oid = oid(name.trim()).ok_or_else(bad)?;
            let value = unescape(value.trim()).filter(|v| !v.is_empty()).ok_or_else(bad)?;
            attributes.push(Attribute { joined: end == Some('+'), oid, value: Value::Text(value) });
            let Some(end) = end else { break };
            left = left.get(part.len() + end.len_utf8()..).ok_or_else(bad)?;
        }
        if attributes.len() > MAX_ATTRIBUTES {
            return Err(bad());
        }
        let der = encode(&attributes);
        if der.len() > MAX { Err(IdentityError::TooLong(der.len())) } else { Ok(Self { der, attributes }) }
    }

    /// The name in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether `name` is this one, where a value of `*` stands for any.
    pub(super) fn matches(&self, name: &Self) -> bool {
        self.attributes.len() == name.attributes.len()
            && self.attributes.iter().zip(&name.attributes).all(|(ours, theirs)| {
                ours.oid == theirs.oid
                    && ours.joined == theirs.joined
                    && (ours.value.is_any() || ours.value.canonical() == theirs.value.canonical())
            })
    }

    pub(super) fn has_wildcard(&self) -> bool {
        self.attributes.iter().any(|a| a.value.is_any())
    }

    fn key(&self) -> impl Iterator<Item = (bool, &[u8], Value)> {
        self.attributes.iter().map(|a| (a.joined, a.oid.as_slice(), a.value.canonical()))
    }
}

impl PartialEq for Dn {
    fn eq(&self, other: &Self) -> bool {
        self.key().eq(other.key())
    }
}

impl Eq for Dn {}

impl Hash for Dn {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().for_each(|part| part.hash(state));
    }
}

impl fmt::Display for Dn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for attribute in &self.attributes {
            f.write_str(between)?;
            match TYPES.iter().find(|(_, oid)| *oid == attribute.oid) {
                Some((name, _)) => write!(f, "{name}=")?,
                None => write!(f, "{}=", dotted(&attribute.oid))?,
            }
            match &attribute.value {
                Value::Text(text) => escape(f, text)?,
                Value::Raw(tag, bytes) => {
                    write!(f, "#{tag:02x}")?;
                    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
                }
            }
            between = if attribute.joined { "+" } else { ", " };
        }
        Ok(())
    }
}

impl fmt::Debug for Dn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Value {
    /// RFC 5280 7.1 and RFC 4518: case and runs of spaces do not matter.
    fn canonical(&self) -> Self {
        match self {
            Self::Text(text) => {
                let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
                Self::Text(words.join(" "))
            }
            raw => raw.clone(),
        }
    }

    fn is_any(&self) -> bool {
        matches!(self, Self::Text(text) if text == "*")
    }
}

/// The first attribute of a text, and the character that ends it.
fn split(text: &str, separator: char) -> Option<(&str, Option<char>)> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            c if !quoted && (c == separator || c == '+') => return Some((text.get(..at)?, Some(c))),
            _ => {}
        }
    }
    (!quoted && !escaped).then_some((text, None))
}

/// RFC 4514 2.4: `\,` and `\2c`, and RFC 2253's quotes.
fn unescape(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    let mut bytes = Vec::with_capacity(inner.len());
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        let mut put = |c: char| bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        if c != '\\' {
            put(c);
            continue;
        }
        let first = chars.next()?;
        match (first.to_digit(16), chars.peek().and_then(|c| c.to_digit(16))) {
            (Some(high), Some(low)) => {
                chars.next();
                bytes.push(u8::try_from(high << 4 | low).ok()?);
            }
            _ => put(first),
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for (at, c) in text.char_indices() {
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => write!(f, "\\{c}")?,
            '#' if at == 0 => f.write_str("\\#")?,
            c if c.is_control() => {
                c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|b| write!(f, "\\{b:02x}"))?;
            }
            c => f.write_char(c)?,
        }
    }
    Ok(())
}

fn oid(name: &str) -> Option<Vec<u8>> {
    if let Some((_, oid)) = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Some(oid.to_vec());
    }
    let mut parts = name.strip_prefix("OID.").unwrap_or(name).split('.').map(|part| part.parse::<u32>().ok());
    let (first, second) = (parts.next()??, parts.next()??);
    if first > 2 || (first < 2 && second > 39) {
        return None;
    }
    let mut out = Vec::new();
    base128(first.checked_mul(40)?.checked_add(second)?, &mut out);
    for part in parts {
        base128(part?, &mut out);
    }
    (out.len() <= 32).then_some(out)
}

fn base128(value: u32, out: &mut Vec<u8>) {
    for shift in [28, 21, 14, 7] {
        if value >> shift != 0 {
            out.push(0x80 | u8::try_from(value >> shift & 0x7f).unwrap_or(0));
        }
    }
    out.push(u8::try_from(value & 0x7f).unwrap_or(0));
}

fn dotted(oid: &[u8]) -> String {
    let mut parts: Vec<u64> = Vec::new();
    let mut value = 0u64;
    for byte in oid {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if parts.is_empty() {
                let first = (value / 40).min(2);
                parts.extend([first, value - first * 40]);
            } else {
                parts.push(value);
            }
            value = 0;
        }
    }
    parts.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Tag, contents and what follows of one DER element with a length below 64 KiB.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

fn parse(der: &[u8]) -> Option<Vec<Attribute>> {
    let (SEQUENCE, mut sets, []) = element(der)? else { return None };
    let mut attributes = Vec::new();
    while !sets.is_empty() {
        let (SET, mut set, rest) = element(sets)? else { return None };
        sets = rest;
        if set.is_empty() {
            return None;
        }
        while !set.is_empty() {
            let (SEQUENCE, pair, rest) = element(set)? else { return None };
            set = rest;
            let (OID, oid, pair) = element(pair)? else { return None };
            let (tag, value, []) = element(pair)? else { return None };
            // Nine digits of seven bits are one number; types have no longer ones.
            let ends = oid.split(|b| b & 0x80 == 0).all(|digits| digits.len() < 9);
            if oid.is_empty() || oid.len() > 32 || oid.last().is_none_or(|b| b & 0x80 != 0) || !ends {
                return None;
            }
            attributes.push(Attribute {
                joined: !set.is_empty(),
                oid: oid.to_vec(),
                value: read(tag, value)?,
            });
            if attributes.len() > MAX_ATTRIBUTES {
                return None;
            }
        }
    }
    Some(attributes)
}

fn read(tag: u8, value: &[u8]) -> Option<Value> {
    Some(match tag {
        UTF8 | PRINTABLE | IA5 => Value::Text(String::from_utf8(value.to_vec()).ok()?),
        // In practice Latin-1.
        TELETEX => Value::Text(value.iter().map(|b| char::from(*b)).collect()),
        BMP => {
            let (units, odd) = value.as_chunks::<2>();
            let units = units.iter().map(|unit| u16::from_be_bytes(*unit));
            let text: Result<String, _> = char::decode_utf16(units).collect();
            Value::Text(text.ok().filter(|_| odd.is_empty())?)
        }
        _ => Value::Raw(tag, value.to_vec()),
    })
}

fn put(out: &mut Vec<u8>, tag: u8, contents: &[u8]) {
    out.push(tag);
    match u8::try_from(contents.len()) {
        Ok(short @ 0..=0x7f) => out.push(short),
        Ok(long) => out.extend_from_slice(&[0x81, long]),
        Err(_) => {
            out.push(0x82);
            let length = u16::try_from(contents.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(contents);
}

/// Country, qualifier and serial number are PrintableString, e-mail and domain component IA5String (RFC 5280 A.1);
/// everything else is what certificates have: PrintableString where it suffices, and UTF8String.
fn encode(attributes: &[Attribute]) -> Vec<u8> {
    let printable = |b: u8| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b);
    let (mut sets, mut set) = (Vec::new(), Vec::new());
    for attribute in attributes {
        let (mut pair, mut whole) = (Vec::new(), Vec::new());
        put(&mut pair, OID, &attribute.oid);
        match &attribute.value {
            Value::Text(text) => {
                let name = TYPES.iter().find(|(_, oid)| *oid == attribute.oid).map(|(name, _)| *name);
                let tag = match name {
                    Some("E" | "DC") if text.is_ascii() => IA5,
                    _ if text.bytes().all(printable) => PRINTABLE,
                    _ => UTF8,
                };
                put(&mut pair, tag, text.as_bytes());
            }
            Value::Raw(tag, bytes) => put(&mut pair, *tag, bytes),
        }
        put(&mut whole, SEQUENCE, &pair);
        set.push(whole);
        if !attribute.joined {
            // X.690 11.6: the members of a SET OF in ascending order.
            set.sort();
            put(&mut sets, SET, &set.concat());
            set.clear();
        }
    }
    let mut der = Vec::new();
    put(&mut der, SEQUENCE, &sets);
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dn(text: &str) -> Dn {
        Dn::parse(text).unwrap()
    }

    #[test]
    fn names_are_read_written_and_compared() {
        let plain = dn("C=CH, O=strongSwan Project, CN=moon.strongswan.org");
        // openssl asn1parse of a certificate with this subject shows these bytes.
        let der = [
            &[0x30, 0x48, 0x31, 0x0b, 0x30, 0x09, 0x06, 0x03, 0x55, 0x04, 0x06, 0x13, 0x02][..],
            b"CH",
            &[0x31, 0x1b, 0x30, 0x19, 0x06, 0x03, 0x55, 0x04, 0x0a, 0x13, 0x12],
            b"strongSwan Project",
            &[0x31, 0x1c, 0x30, 0x1a, 0x06, 0x03, 0x55, 0x04, 0x03, 0x13, 0x13],
            b"moon.strongswan.org",
        ]
        .concat();
        assert_eq!(plain.der(), der);
        assert_eq!(Dn::from_der(&der).unwrap(), plain);
        assert_eq!(plain.to_string(), "C=CH, O=strongSwan Project, CN=moon.strongswan.org");
        for same in [
            "c=ch,o=Strongswan  project,cn=MOON.strongswan.org",
            "/C=CH/O=strongSwan Project/CN=moon.strongswan.org",
            " C = CH , O = \"strongSwan Project\" , CN = moon.strongswan.org",
            "2.5.4.6=CH, OID.2.5.4.10=strongSwan Project, CN=moon.strongswan.org",
        ] {
            assert_eq!(dn(same), plain, "{same}");
        }
        for other in ["O=strongSwan Project, C=CH, CN=moon.strongswan.org", "C=CH, CN=moon.strongswan.org"] {
            assert_ne!(dn(other), plain, "{other}");
        }
    }

    #[test]
    fn strange_values_survive() {
        for text in [
            "CN=a\\, b\\+c",
            "CN=caf\u{e9}",
            "O=x+OU=y, CN=z",
            "1.2.840.113549.1.9.2=x",
            "CN=\\#lead",
            "DC=example, DC=com",
            "E=a@b",
        ] {
            let name = dn(text);
            assert_eq!(name.to_string(), text);
            let again = Dn::from_der(name.der()).unwrap();
            assert_eq!((again.to_string().as_str(), &again), (text, &name));
        }
        assert_eq!(dn("CN=\"a, b\"").to_string(), "CN=a\\, b");
        assert_eq!(dn("CN=a\\2cb"), dn("CN=a\\,b"));
        // The kind of string does not matter; BMPString and TeletexString are read.
        let of = |tag, value: &[u8]| {
            let mut pair = vec![OID, 3, 0x55, 4, 3];
            put(&mut pair, tag, value);
            let (mut whole, mut set, mut der) = (Vec::new(), Vec::new(), Vec::new());
            put(&mut whole, SEQUENCE, &pair);
            put(&mut set, SET, &whole);
            put(&mut der, SEQUENCE, &set);
            der
        };
        for der in [of(UTF8, b"x"), of(BMP, &[0, b'x']), of(TELETEX, b"X"), of(IA5, b"x")] {
            assert_eq!(Dn::from_der(&der).unwrap(), dn("CN=x"));
        }
        assert_eq!(Dn::from_der(&of(0x02, &[1, 2])).unwrap().to_string(), "CN=#020102");
    }

    #[test]
    fn wildcards_stand_for_one_value() {
        let pattern = dn("C=CH, O=Example, CN=*");
        assert!(pattern.matches(&dn("C=CH, O=example, CN=gw")));
        assert!(!pattern.matches(&dn("C=CH, O=Other, CN=gw")));
        assert!(!pattern.matches(&dn("C=CH, O=Example, OU=x, CN=gw")));
        assert!(!dn("CN=gw").matches(&dn("CN=*")), "only the configured side is a pattern");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in
            ["=x", "CN=", "CN", "XX=y", "CN=a,", "CN=\"a", "CN=a\\", "/", "3.1=x", "CN=a\nb", "CN=\\0a"]
        {
            assert!(Dn::parse(text).is_err(), "{text:?}");
        }
        assert!(Dn::parse(&format!("CN={}", "a".repeat(1030))).is_err());
        let good = dn("C=CH, O=strongSwan Project, CN=moon").der;
        for cut in 0..good.len() {
            assert!(Dn::from_der(&good[..cut]).is_err());
            for bit in 0..8 {
                // Whatever a flipped bit makes of it: no panic, and what is read is written.
                let mut bad = good.clone();
                bad[cut] ^= 1 << bit;
                if let Ok(name) = Dn::from_der(&bad) {
                    let _ = (name.to_string(), name == name.clone(), name.has_wildcard());
                }
            }
        }
        for der in
            [&[0x30, 0][..], &[0x31, 0], &[0x30, 2, 0x31, 0], &[0x30, 0x84, 0, 0, 0, 0], &[0x30, 0x80, 0, 0]]
        {
            assert!(Dn::from_der(der).is_err());
        }
    }
}
