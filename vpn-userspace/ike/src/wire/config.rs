//! Configuration payload (RFC 7296 3.15): attributes asked for and handed out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Reader, WireError};

/// More attributes than this in one payload are refused.
const MAX_ATTRIBUTES: usize = 256;

/// Attribute types (RFC 7296 3.15.1, RFC 8598 3).
pub(crate) mod attribute {
    pub(crate) const IP4_ADDRESS: u16 = 1;
    pub(crate) const IP4_DNS: u16 = 3;
    pub(crate) const IP6_ADDRESS: u16 = 8;
    pub(crate) const IP6_DNS: u16 = 10;
    pub(crate) const DNS_DOMAIN: u16 = 25;
}

/// What a configuration payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigKind {
    Request,
    Reply,
    Set,
    Ack,
}

/// One attribute, its value not looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) kind: u16,
    pub(crate) value: Vec<u8>,
}

/// A configuration payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(crate) kind: ConfigKind,
    pub(crate) attributes: Vec<Attribute>,
}

impl Configuration {
    pub(crate) fn new(kind: ConfigKind) -> Self {
        Self { kind, attributes: Vec::new() }
    }

    /// Appends an attribute.
    pub(crate) fn push(&mut self, kind: u16, value: impl Into<Vec<u8>>) {
        self.attributes.push(Attribute { kind, value: value.into() });
    }

    /// Appends an address, an IPv6 one of type 8 with its prefix length.
    pub(crate) fn push_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.push(attribute::IP4_ADDRESS, a.octets()),
            IpAddr::V6(a) => self.push(attribute::IP6_ADDRESS, [&a.octets()[..], &[128]].concat()),
        }
    }

    /// Appends a DNS server.
    pub(crate) fn push_dns(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.push(attribute::IP4_DNS, a.octets()),
            IpAddr::V6(a) => self.push(attribute::IP6_DNS, a.octets()),
        }
    }

    /// Addresses of one of the attribute types that hold one; empty values and wrong lengths are passed over.
    pub(crate) fn addresses(&self, kind: u16) -> impl Iterator<Item = IpAddr> + '_ {
        self.attributes.iter().filter(move |a| a.kind == kind).filter_map(|a| match (a.kind, a.value.len()) {
            (attribute::IP4_ADDRESS | attribute::IP4_DNS, 4) => {
                a.value.first_chunk::<4>().map(|v| Ipv4Addr::from(*v).into())
            }
            // RFC 7296 3.15.1: the address is followed by a prefix length, which old peers leave away.
            (attribute::IP6_ADDRESS, 16 | 17) | (attribute::IP6_DNS, 16) => {
                a.value.first_chunk::<16>().map(|v| Ipv6Addr::from(*v).into())
            }
            _ => None,
        })
    }

    /// Whether an attribute type stands in it, with or without a value.
    pub(crate) fn has(&self, kind: u16) -> bool {
        self.attributes.iter().any(|a| a.kind == kind)
    }
}

pub(super) fn parse(body: &[u8]) -> Result<Configuration, WireError> {
    let mut r = Reader::new(body, "configuration payload");
    let kind = match r.u8()? {
        1 => ConfigKind::Request,
        2 => ConfigKind::Reply,
        3 => ConfigKind::Set,
        4 => ConfigKind::Ack,
        _ => return Err(WireError::Value("type of the configuration payload")),
    };
    r.take(3)?;
    let mut attributes = Vec::new();
    while !r.is_empty() {
        // RFC 7296 3.15.1: the topmost bit of the type is reserved.
        let kind = r.u16()? & 0x7fff;
        let length = r.u16()?;
        let value = r.sized(length, 0)?.to_vec();
        if attributes.len() == MAX_ATTRIBUTES {
            return Err(WireError::TooMany("configuration attributes"));
        }
        attributes.push(Attribute { kind, value });
    }
    Ok(Configuration { kind, attributes })
}

pub(super) fn encode(configuration: &Configuration, out: &mut Vec<u8>) {
    let kind = match configuration.kind {
        ConfigKind::Request => 1,
        ConfigKind::Reply => 2,
        ConfigKind::Set => 3,
        ConfigKind::Ack => 4,
    };
    out.extend_from_slice(&[kind, 0, 0, 0]);
    for Attribute { kind, value } in &configuration.attributes {
        let length = u16::try_from(value.len()).expect("our own attributes are short");
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}
