//! Payloads and the parsed body of a message (RFC 2408 3.2 to 3.16, RFC 2407 4.6, RFC 3947, draft-dukes-ike-mode-cfg).

use super::Sa;
use super::attribute::{self, Attribute};
use super::sa::DOI;
use crate::wire::{Reader, WireError};

/// Payload types (RFC 2408 3.1; the drafts' where devices speak them).
pub(crate) mod kind {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const SA: u8 = 1;
    pub(crate) const KE: u8 = 4;
    pub(crate) const ID: u8 = 5;
    pub(crate) const CERT: u8 = 6;
    pub(crate) const CERT_REQUEST: u8 = 7;
    pub(crate) const HASH: u8 = 8;
    pub(crate) const SIGNATURE: u8 = 9;
    pub(crate) const NONCE: u8 = 10;
    pub(crate) const NOTIFY: u8 = 11;
    pub(crate) const DELETE: u8 = 12;
    pub(crate) const VENDOR: u8 = 13;
    pub(crate) const CONFIG: u8 = 14;
    /// RFC 3947 3.2.
    pub(crate) const NAT_D: u8 = 20;
    pub(crate) const NAT_OA: u8 = 21;
    /// draft-ietf-ipsec-nat-t-ike-02 and 03.
    pub(crate) const NAT_D_DRAFT: u8 = 130;
    pub(crate) const NAT_OA_DRAFT: u8 = 131;
    pub(crate) const FRAGMENT: u8 = 132;
}

/// Protocol ids (RFC 2407 4.4.1).
pub(crate) mod protocol {
    pub(crate) const ISAKMP: u8 = 1;
    pub(crate) const ESP: u8 = 3;
}

/// Identification types of networks (RFC 2407 4.6.2); those of persons are [`crate::Identity`]'s.
pub(crate) mod id {
    pub(crate) const IPV4_ADDR: u8 = 1;
    pub(crate) const IPV4_SUBNET: u8 = 4;
    pub(crate) const IPV6_ADDR: u8 = 5;
    pub(crate) const IPV6_SUBNET: u8 = 6;
    pub(crate) const IPV4_RANGE: u8 = 7;
    pub(crate) const IPV6_RANGE: u8 = 8;
}

/// Message types of the Mode Config payload and its attributes (draft-dukes-ike-mode-cfg 3, draft-beaulieu-ike-xauth 4).
pub(crate) mod cfg {
    pub(crate) const REQUEST: u8 = 1;
    pub(crate) const REPLY: u8 = 2;
    pub(crate) const SET: u8 = 3;
    pub(crate) const ACK: u8 = 4;
    pub(crate) const XAUTH_TYPE: u16 = 16520;
    pub(crate) const XAUTH_USER_NAME: u16 = 16521;
    pub(crate) const XAUTH_USER_PASSWORD: u16 = 16522;
    pub(crate) const XAUTH_STATUS: u16 = 16527;
    /// The last of XAuth's.
    pub(crate) const XAUTH_LAST: u16 = 16529;
}

/// Notify message types (RFC 2408 3.14.1, RFC 2407 4.6.3, RFC 3706). Below 16384 they are errors.
pub(crate) mod notify {
    pub(crate) const INVALID_PAYLOAD_TYPE: u16 = 1;
    pub(crate) const NO_PROPOSAL_CHOSEN: u16 = 14;
    pub(crate) const PAYLOAD_MALFORMED: u16 = 16;
    pub(crate) const INVALID_KEY_INFORMATION: u16 = 17;
    pub(crate) const INVALID_ID_INFORMATION: u16 = 18;
    pub(crate) const AUTHENTICATION_FAILED: u16 = 24;
    pub(crate) const INVALID_HASH_INFORMATION: u16 = 23;
    /// The first status type.
    pub(crate) const STATUS: u16 = 16384;
    pub(crate) const RESPONDER_LIFETIME: u16 = 24576;
    pub(crate) const INITIAL_CONTACT: u16 = 24578;
    pub(crate) const DPD_ASK: u16 = 36136;
    pub(crate) const DPD_ACK: u16 = 36137;

    /// The name in RFC 2408 3.14.1 or RFC 2407 4.6.3, for people.
    pub(crate) fn name(kind: u16) -> &'static str {
        match kind {
            INVALID_PAYLOAD_TYPE => "INVALID-PAYLOAD-TYPE",
            2 => "DOI-NOT-SUPPORTED",
            3 => "SITUATION-NOT-SUPPORTED",
            4 => "INVALID-COOKIE",
            5 => "INVALID-MAJOR-VERSION",
            6 => "INVALID-MINOR-VERSION",
            7 => "INVALID-EXCHANGE-TYPE",
            8 => "INVALID-FLAGS",
            9 => "INVALID-MESSAGE-ID",
            10 => "INVALID-PROTOCOL-ID",
            11 => "INVALID-SPI",
            12 => "INVALID-TRANSFORM-ID",
            13 => "ATTRIBUTES-NOT-SUPPORTED",
            NO_PROPOSAL_CHOSEN => "NO-PROPOSAL-CHOSEN",
            15 => "BAD-PROPOSAL-SYNTAX",
            PAYLOAD_MALFORMED => "PAYLOAD-MALFORMED",
            INVALID_KEY_INFORMATION => "INVALID-KEY-INFORMATION",
            INVALID_ID_INFORMATION => "INVALID-ID-INFORMATION",
            19 => "INVALID-CERT-ENCODING",
            20 => "INVALID-CERTIFICATE",
            21 => "CERT-TYPE-UNSUPPORTED",
            22 => "INVALID-CERT-AUTHORITY",
            INVALID_HASH_INFORMATION => "INVALID-HASH-INFORMATION",
            AUTHENTICATION_FAILED => "AUTHENTICATION-FAILED",
            25 => "INVALID-SIGNATURE",
            28 => "UNSUPPORTED-EXCHANGE-TYPE",
            30 => "UNEQUAL-PAYLOAD-LENGTHS",
            _ => "an unknown error",
        }
    }
}

/// An identification payload, untyped (RFC 2407 4.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id<'a> {
    pub(crate) kind: u8,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) data: &'a [u8],
}

impl Id<'_> {
    /// The payload's body: what HASH_I and HASH_R cover.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![self.kind, self.protocol];
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(self.data);
        out
    }
}

/// A notification (RFC 2408 3.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notify<'a> {
    pub(crate) protocol: u8,
    pub(crate) spi: &'a [u8],
    pub(crate) kind: u16,
    pub(crate) data: &'a [u8],
}

/// A delete payload (RFC 2408 3.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delete<'a> {
    pub(crate) protocol: u8,
    pub(crate) spi_len: u8,
    pub(crate) spis: &'a [u8],
}

/// A Mode Config payload (draft-dukes-ike-mode-cfg 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config<'a> {
    pub(crate) kind: u8,
    pub(crate) identifier: u16,
    pub(crate) attributes: Vec<Attribute<'a>>,
}

/// One payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    Sa(Sa<'a>),
    Ke(&'a [u8]),
    Id(Id<'a>),
    /// Encoding (4: X.509 signature) and data.
    Cert(u8, &'a [u8]),
    CertRequest(u8, &'a [u8]),
    Hash(&'a [u8]),
    Signature(&'a [u8]),
    Nonce(&'a [u8]),
    Notify(Notify<'a>),
    Delete(Delete<'a>),
    Vendor(&'a [u8]),
    Config(Config<'a>),
    /// A hash of an address and port, under the payload type of RFC 3947 or of the drafts.
    NatD {
        draft: bool,
        hash: &'a [u8],
    },
    /// An original address (RFC 3947 5.2), not looked into: it serves transport mode only.
    NatOa {
        draft: bool,
        data: &'a [u8],
    },
}

impl<'a> Payload<'a> {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Sa(_) => kind::SA,
            Self::Ke(_) => kind::KE,
            Self::Id(_) => kind::ID,
            Self::Cert(..) => kind::CERT,
            Self::CertRequest(..) => kind::CERT_REQUEST,
            Self::Hash(_) => kind::HASH,
            Self::Signature(_) => kind::SIGNATURE,
            Self::Nonce(_) => kind::NONCE,
            Self::Notify(_) => kind::NOTIFY,
            Self::Delete(_) => kind::DELETE,
            Self::Vendor(_) => kind::VENDOR,
            Self::Config(_) => kind::CONFIG,
            Self::NatD { draft: false, .. } => kind::NAT_D,
            Self::NatD { draft: true, .. } => kind::NAT_D_DRAFT,
            Self::NatOa { draft: false, .. } => kind::NAT_OA,
            Self::NatOa { draft: true, .. } => kind::NAT_OA_DRAFT,
        }
    }

    fn parse(kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let reader = |what| Reader::new(body, what);
        let certificate = |what| {
            let mut r = reader(what);
            Ok::<_, WireError>((r.u8()?, r.rest()))
        };
        Ok(match kind {
            kind::SA => Self::Sa(Sa::parse(body)?),
            kind::KE if body.is_empty() => return Err(WireError::Length("KE payload")),
            kind::KE => Self::Ke(body),
            kind::ID => {
                let mut r = reader("identification payload");
                Self::Id(Id { kind: r.u8()?, protocol: r.u8()?, port: r.u16()?, data: r.rest() })
            }
            kind::CERT => certificate("certificate payload").map(|(e, d)| Self::Cert(e, d))?,
            kind::CERT_REQUEST => certificate("certificate request").map(|(e, d)| Self::CertRequest(e, d))?,
            kind::HASH => Self::Hash(body),
            kind::SIGNATURE => Self::Signature(body),
            // RFC 2409 5: between 8 and 256 bytes.
            kind::NONCE if !(8..=256).contains(&body.len()) => {
                return Err(WireError::Length("nonce payload"));
            }
            kind::NONCE => Self::Nonce(body),
            kind::NOTIFY => {
                let mut r = reader("notification");
                domain(r.u32()?)?;
                let (protocol, spi_len, kind) = (r.u8()?, r.u8()?, r.u16()?);
                let spi = r.take(usize::from(spi_len))?;
                Self::Notify(Notify { protocol, spi, kind, data: r.rest() })
            }
            kind::DELETE => {
                let mut r = reader("delete payload");
                domain(r.u32()?)?;
                let (protocol, spi_len, count) = (r.u8()?, r.u8()?, r.u16()?);
                let spis = r.rest();
                if usize::from(spi_len) * usize::from(count) != spis.len() {
                    return Err(WireError::Length("delete payload"));
                }
                Self::Delete(Delete { protocol, spi_len, spis })
            }
            kind::VENDOR => Self::Vendor(body),
            kind::CONFIG => {
                let mut r = reader("Mode Config payload");
                let (kind, _, identifier) = (r.u8()?, r.u8()?, r.u16()?);
                Self::Config(Config { kind, identifier, attributes: attribute::parse_all(r)? })
            }
            kind::NAT_D | kind::NAT_D_DRAFT => Self::NatD { draft: kind == kind::NAT_D_DRAFT, hash: body },
            kind::NAT_OA | kind::NAT_OA_DRAFT => {
                Self::NatOa { draft: kind == kind::NAT_OA_DRAFT, data: body }
            }
            // RFC 2408 5.3: an unknown payload makes the whole message invalid.
            other => return Err(WireError::UnsupportedCritical(other)),
        })
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Sa(sa) => sa.encode(out),
            Self::Ke(data)
            | Self::Hash(data)
            | Self::Signature(data)
            | Self::Nonce(data)
            | Self::Vendor(data) => {
                out.extend_from_slice(data);
            }
            Self::NatD { hash: data, .. } | Self::NatOa { data, .. } => out.extend_from_slice(data),
            Self::Id(id) => out.extend_from_slice(&id.to_bytes()),
            Self::Cert(encoding, data) | Self::CertRequest(encoding, data) => {
                out.push(*encoding);
                out.extend_from_slice(data);
            }
            Self::Notify(n) => {
                out.extend_from_slice(&DOI.to_be_bytes());
                let spi_len = u8::try_from(n.spi.len()).expect("an SPI has at most 16 bytes");
                out.extend_from_slice(&[n.protocol, spi_len]);
                out.extend_from_slice(&n.kind.to_be_bytes());
                out.extend_from_slice(n.spi);
                out.extend_from_slice(n.data);
            }
            Self::Delete(d) => {
                out.extend_from_slice(&DOI.to_be_bytes());
                let count = if d.spi_len == 0 { 0 } else { d.spis.len() / usize::from(d.spi_len) };
                out.extend_from_slice(&[d.protocol, d.spi_len]);
                out.extend_from_slice(&u16::try_from(count).expect("few SPIs at once").to_be_bytes());
                out.extend_from_slice(d.spis);
            }
            Self::Config(c) => {
                out.extend_from_slice(&[c.kind, 0]);
                out.extend_from_slice(&c.identifier.to_be_bytes());
                attribute::encode_all(&c.attributes, out);
            }
        }
    }
}

/// RFC 2408 3.14: 0 is ISAKMP's own domain, 1 that of IPsec.
fn domain(doi: u32) -> Result<(), WireError> {
    if doi == 0 || doi == DOI { Ok(()) } else { Err(WireError::Value("domain of interpretation")) }
}

/// Payloads in wire form, ready to follow a header or to be encrypted.
#[derive(Default, Clone)]
pub(crate) struct Chain {
    first: u8,
    last_header: Option<usize>,
    bytes: Vec<u8>,
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Any bytes where payloads should be.
    #[cfg(feature = "testing")]
    pub(crate) fn of_raw(first: u8, bytes: &[u8]) -> Self {
        Self { first, last_header: Some(0), bytes: bytes.to_vec() }
    }

    /// Appends one payload.
    pub(crate) fn push(&mut self, payload: &Payload<'_>) -> &mut Self {
        let mut body = Vec::new();
        payload.encode_body(&mut body);
        self.push_raw(payload.kind(), &body)
    }

    /// Appends a payload of a type and body.
    pub(crate) fn push_raw(&mut self, kind: u8, body: &[u8]) -> &mut Self {
        let at = self.bytes.len();
        match self.last_header {
            Some(last) => self.bytes[last] = kind,
            None => self.first = kind,
        }
        self.last_header = Some(at);
        let length = u16::try_from(body.len() + 4).expect("our own payloads are below 64 KiB");
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(body);
        self
    }

    /// A hash payload before all others, which `compute` makes from their bytes.
    pub(crate) fn with_hash(self, compute: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        let mut out = Self::new();
        out.push(&Payload::Hash(&compute(&self.bytes)));
        if self.last_header.is_some() {
            out.bytes[0] = self.first;
            out.last_header = self.last_header.map(|last| last + out.bytes.len());
            out.bytes.extend_from_slice(&self.bytes);
        }
        out
    }

    /// The type of the first payload, 0 for an empty chain.
    pub(crate) fn first(&self) -> u8 {
        self.first
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// More payloads in one message than this are refused.
const MAX_PAYLOADS: usize = 64;

/// The payloads of one message, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Body<'a> {
    payloads: Vec<Payload<'a>>,
    bytes: &'a [u8],
    /// Where the second payload begins.
    second: usize,
    /// Where the last payload ends: after it comes padding.
    end: usize,
}

impl<'a> Body<'a> {
    /// Parses a chain of payloads whose first has type `first`. What follows the last payload is padding, which an
    /// encrypted message has (RFC 2409 appendix B) and a plain one may not have.
    pub(crate) fn parse(first: u8, bytes: &'a [u8], padded: bool) -> Result<Self, WireError> {
        let mut payloads: Vec<Payload<'a>> = Vec::new();
        let mut r = Reader::new(bytes, "payload");
        let (mut kind, mut second) = (first, bytes.len());
        while kind != kind::NONE {
            if payloads.len() == MAX_PAYLOADS {
                return Err(WireError::TooMany("payloads"));
            }
            let (next, _, length) = (r.u8()?, r.u8()?, r.u16()?);
            let payload = Payload::parse(kind, r.sized(length, 4)?)?;
            let once = matches!(
                kind,
                kind::SA | kind::KE | kind::HASH | kind::SIGNATURE | kind::NONCE | kind::CONFIG
            );
            if once && payloads.iter().any(|p| p.kind() == kind) {
                return Err(WireError::Duplicate(kind));
            }
            payloads.push(payload);
            if payloads.len() == 1 {
                second = bytes.len() - r.rest().len();
            }
            kind = next;
        }
        let end = bytes.len() - r.rest().len();
        if r.is_empty() || padded {
            Ok(Self { payloads, bytes, second, end })
        } else {
            Err(WireError::Trailing)
        }
    }

    fn find<T>(&self, pick: impl FnMut(&Payload<'a>) -> Option<T>) -> Option<T> {
        self.payloads.iter().find_map(pick)
    }

    pub(crate) fn sa(&self) -> Option<&Sa<'a>> {
        self.payloads.iter().find_map(|p| if let Payload::Sa(sa) = p { Some(sa) } else { None })
    }

    pub(crate) fn ke(&self) -> Option<&'a [u8]> {
        self.find(|p| if let Payload::Ke(data) = p { Some(*data) } else { None })
    }

    pub(crate) fn nonce(&self) -> Option<&'a [u8]> {
        self.find(|p| if let Payload::Nonce(n) = p { Some(*n) } else { None })
    }

    pub(crate) fn hash(&self) -> Option<&'a [u8]> {
        self.find(|p| if let Payload::Hash(h) = p { Some(*h) } else { None })
    }

    pub(crate) fn signature(&self) -> Option<&'a [u8]> {
        self.find(|p| if let Payload::Signature(s) = p { Some(*s) } else { None })
    }

    /// The certificates of one encoding.
    pub(crate) fn certificates(&self, encoding: u8) -> impl Iterator<Item = &'a [u8]> {
        self.payloads.iter().filter_map(move |p| match p {
            Payload::Cert(e, data) if *e == encoding => Some(*data),
            _ => None,
        })
    }

    pub(crate) fn config(&self) -> Option<&Config<'a>> {
        self.payloads.iter().find_map(|p| if let Payload::Config(c) = p { Some(c) } else { None })
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = Id<'a>> {
        self.payloads.iter().filter_map(|p| if let Payload::Id(id) = p { Some(*id) } else { None })
    }

    pub(crate) fn vendors(&self) -> impl Iterator<Item = &'a [u8]> {
        self.payloads.iter().filter_map(|p| if let Payload::Vendor(v) = p { Some(*v) } else { None })
    }

    pub(crate) fn nat_hashes(&self) -> impl Iterator<Item = &'a [u8]> {
        self.payloads
            .iter()
            .filter_map(|p| if let Payload::NatD { hash, .. } = p { Some(*hash) } else { None })
    }

    pub(crate) fn notifies(&self) -> impl Iterator<Item = &Notify<'a>> {
        self.payloads.iter().filter_map(|p| if let Payload::Notify(n) = p { Some(n) } else { None })
    }

    pub(crate) fn deletes(&self) -> impl Iterator<Item = &Delete<'a>> {
        self.payloads.iter().filter_map(|p| if let Payload::Delete(d) = p { Some(d) } else { None })
    }

    /// The hash payload, which must be the first, and the bytes of all that follow it, padding left out: what the
    /// hashes of phase 2 cover (RFC 2409 5.5, 5.7).
    pub(crate) fn hashed(&self) -> Option<(&'a [u8], &'a [u8])> {
        let Some(Payload::Hash(hash)) = self.payloads.first() else { return None };
        Some((hash, self.bytes.get(self.second..self.end)?))
    }

    /// The body of the first payload of the message: SAi_b of RFC 2409 5, where that is the SA payload.
    pub(crate) fn first_body(&self) -> &'a [u8] {
        self.bytes.get(4..self.second).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn payloads(&self) -> &[Payload<'a>] {
        &self.payloads
    }
}
