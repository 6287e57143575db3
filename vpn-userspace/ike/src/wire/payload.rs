//! Payloads and the parsed body of a message (RFC 7296 3.2 to 3.15).

use culvert_types::TrafficSelector;

use super::{Configuration, Proposal, Reader, WireError, config, proposal, selector};

/// Payload types (RFC 7296 3.2).
pub(crate) mod kind {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const SA: u8 = 33;
    pub(crate) const KE: u8 = 34;
    pub(crate) const ID_I: u8 = 35;
    pub(crate) const ID_R: u8 = 36;
    pub(crate) const CERT: u8 = 37;
    pub(crate) const CERT_REQUEST: u8 = 38;
    pub(crate) const AUTH: u8 = 39;
    pub(crate) const NONCE: u8 = 40;
    pub(crate) const NOTIFY: u8 = 41;
    pub(crate) const DELETE: u8 = 42;
    pub(crate) const VENDOR: u8 = 43;
    pub(crate) const TS_I: u8 = 44;
    pub(crate) const TS_R: u8 = 45;
    pub(crate) const SK: u8 = 46;
    pub(crate) const CONFIG: u8 = 47;
    pub(crate) const EAP: u8 = 48;
    /// A fragment of a protected message (RFC 7383 2.5).
    pub(crate) const SKF: u8 = 53;
}

/// Certificate encoding: X.509 certificate, signature (RFC 7296 3.6).
pub(crate) const X509_SIGNATURE: u8 = 4;

/// Security protocol ids (RFC 7296 3.3.1).
pub(crate) mod protocol {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const IKE: u8 = 1;
    pub(crate) const ESP: u8 = 3;
}

/// Notify message types (RFC 7296 3.10.1). Below 16384 they are errors.
pub(crate) mod notify {
    pub(crate) const UNSUPPORTED_CRITICAL_PAYLOAD: u16 = 1;
    pub(crate) const INVALID_MAJOR_VERSION: u16 = 5;
    pub(crate) const INVALID_SYNTAX: u16 = 7;
    pub(crate) const NO_PROPOSAL_CHOSEN: u16 = 14;
    pub(crate) const INVALID_KE_PAYLOAD: u16 = 17;
    pub(crate) const AUTHENTICATION_FAILED: u16 = 24;
    pub(crate) const SINGLE_PAIR_REQUIRED: u16 = 34;
    pub(crate) const NO_ADDITIONAL_SAS: u16 = 35;
    pub(crate) const INTERNAL_ADDRESS_FAILURE: u16 = 36;
    pub(crate) const FAILED_CP_REQUIRED: u16 = 37;
    pub(crate) const TS_UNACCEPTABLE: u16 = 38;
    pub(crate) const INVALID_SELECTORS: u16 = 39;
    pub(crate) const UNACCEPTABLE_ADDRESSES: u16 = 40;
    pub(crate) const UNEXPECTED_NAT_DETECTED: u16 = 41;
    pub(crate) const TEMPORARY_FAILURE: u16 = 43;
    pub(crate) const CHILD_SA_NOT_FOUND: u16 = 44;
    pub(crate) const STATE_NOT_FOUND: u16 = 47;
    pub(crate) const TS_MAX_QUEUE: u16 = 48;
    /// The first status type.
    pub(crate) const STATUS: u16 = 16384;
    pub(crate) const INITIAL_CONTACT: u16 = 16384;
    pub(crate) const ADDITIONAL_TS_POSSIBLE: u16 = 16386;
    pub(crate) const NAT_DETECTION_SOURCE_IP: u16 = 16388;
    pub(crate) const NAT_DETECTION_DESTINATION_IP: u16 = 16389;
    pub(crate) const COOKIE: u16 = 16390;
    pub(crate) const USE_TRANSPORT_MODE: u16 = 16391;
    pub(crate) const REKEY_SA: u16 = 16393;
    pub(crate) const ESP_TFC_PADDING_NOT_SUPPORTED: u16 = 16394;
    pub(crate) const MOBIKE_SUPPORTED: u16 = 16396;
    pub(crate) const ADDITIONAL_IP4_ADDRESS: u16 = 16397;
    pub(crate) const ADDITIONAL_IP6_ADDRESS: u16 = 16398;
    pub(crate) const NO_ADDITIONAL_ADDRESSES: u16 = 16399;
    pub(crate) const UPDATE_SA_ADDRESSES: u16 = 16400;
    pub(crate) const COOKIE2: u16 = 16401;
    pub(crate) const NO_NATS_ALLOWED: u16 = 16402;
    pub(crate) const CHILDLESS_SUPPORTED: u16 = 16418;
    pub(crate) const EAP_ONLY_AUTHENTICATION: u16 = 16417;
    pub(crate) const FRAGMENTATION_SUPPORTED: u16 = 16430;
    pub(crate) const SIGNATURE_HASH_ALGORITHMS: u16 = 16431;
    pub(crate) const USE_PPK: u16 = 16435;
    pub(crate) const PPK_IDENTITY: u16 = 16436;
    pub(crate) const NO_PPK_AUTH: u16 = 16437;
    pub(crate) const INTERMEDIATE_SUPPORTED: u16 = 16438;
    pub(crate) const ADDITIONAL_KEY_EXCHANGE: u16 = 16441;
    pub(crate) const SA_RESOURCE_INFO: u16 = 16444;

    /// The name in RFC 7296 3.10.1, for people.
    pub(crate) fn name(kind: u16) -> &'static str {
        match kind {
            UNSUPPORTED_CRITICAL_PAYLOAD => "UNSUPPORTED_CRITICAL_PAYLOAD",
            4 => "INVALID_IKE_SPI",
            INVALID_MAJOR_VERSION => "INVALID_MAJOR_VERSION",
            INVALID_SYNTAX => "INVALID_SYNTAX",
            9 => "INVALID_MESSAGE_ID",
            11 => "INVALID_SPI",
            NO_PROPOSAL_CHOSEN => "NO_PROPOSAL_CHOSEN",
            INVALID_KE_PAYLOAD => "INVALID_KE_PAYLOAD",
            AUTHENTICATION_FAILED => "AUTHENTICATION_FAILED",
            SINGLE_PAIR_REQUIRED => "SINGLE_PAIR_REQUIRED",
            NO_ADDITIONAL_SAS => "NO_ADDITIONAL_SAS",
            INTERNAL_ADDRESS_FAILURE => "INTERNAL_ADDRESS_FAILURE",
            FAILED_CP_REQUIRED => "FAILED_CP_REQUIRED",
            TS_UNACCEPTABLE => "TS_UNACCEPTABLE",
            INVALID_SELECTORS => "INVALID_SELECTORS",
            UNACCEPTABLE_ADDRESSES => "UNACCEPTABLE_ADDRESSES",
            UNEXPECTED_NAT_DETECTED => "UNEXPECTED_NAT_DETECTED",
            TEMPORARY_FAILURE => "TEMPORARY_FAILURE",
            CHILD_SA_NOT_FOUND => "CHILD_SA_NOT_FOUND",
            STATE_NOT_FOUND => "STATE_NOT_FOUND",
            TS_MAX_QUEUE => "TS_MAX_QUEUE",
            _ => "an unknown error",
        }
    }
}

/// An identification payload, untyped (RFC 7296 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id<'a> {
    pub(crate) kind: u8,
    /// Zero from us; what came is part of what the peer signs.
    pub(crate) reserved: [u8; 3],
    pub(crate) data: &'a [u8],
}

/// A notification (RFC 7296 3.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notify<'a> {
    pub(crate) protocol: u8,
    pub(crate) spi: &'a [u8],
    pub(crate) kind: u16,
    pub(crate) data: &'a [u8],
}

impl<'a> Notify<'a> {
    /// A notification about the IKE SA or the exchange as a whole.
    pub(crate) fn new(kind: u16, data: &'a [u8]) -> Self {
        Self { protocol: protocol::NONE, spi: &[], kind, data }
    }
}

/// A delete payload (RFC 7296 3.11). ESP SPIs are four bytes each; an IKE SA's delete has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delete<'a> {
    pub(crate) protocol: u8,
    pub(crate) spi_len: u8,
    pub(crate) spis: &'a [u8],
}

impl Delete<'_> {
    /// The ESP SPIs named, as numbers.
    pub(crate) fn esp_spis(&self) -> impl Iterator<Item = u32> + '_ {
        let esp = self.protocol == protocol::ESP && self.spi_len == 4;
        let spis = if esp { self.spis } else { &[] };
        spis.as_chunks::<4>().0.iter().map(|spi| u32::from_be_bytes(*spi))
    }
}

/// One payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    Sa(Vec<Proposal>),
    Ke {
        group: u16,
        data: &'a [u8],
    },
    IdI(Id<'a>),
    IdR(Id<'a>),
    /// RFC 7296 3.6: a certificate, or something else that its encoding tells.
    Cert {
        encoding: u8,
        data: &'a [u8],
    },
    /// RFC 7296 3.7.
    CertRequest {
        encoding: u8,
        data: &'a [u8],
    },
    Auth {
        method: u8,
        data: &'a [u8],
    },
    Nonce(&'a [u8]),
    Notify(Notify<'a>),
    Delete(Delete<'a>),
    TsI(Vec<TrafficSelector>),
    TsR(Vec<TrafficSelector>),
    Config(Configuration),
    /// An EAP message (RFC 3748 4).
    Eap(&'a [u8]),
    /// Known and not looked into (V, SK), or unknown and not critical.
    Other {
        kind: u8,
        data: &'a [u8],
    },
}

impl<'a> Payload<'a> {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Sa(_) => kind::SA,
            Self::Ke { .. } => kind::KE,
            Self::IdI(_) => kind::ID_I,
            Self::IdR(_) => kind::ID_R,
            Self::Cert { .. } => kind::CERT,
            Self::CertRequest { .. } => kind::CERT_REQUEST,
            Self::Auth { .. } => kind::AUTH,
            Self::Nonce(_) => kind::NONCE,
            Self::Notify(_) => kind::NOTIFY,
            Self::Delete(_) => kind::DELETE,
            Self::TsI(_) => kind::TS_I,
            Self::TsR(_) => kind::TS_R,
            Self::Config(_) => kind::CONFIG,
            Self::Eap(_) => kind::EAP,
            Self::Other { kind, .. } => *kind,
        }
    }

    fn parse(kind: u8, critical: bool, body: &'a [u8]) -> Result<Self, WireError> {
        let reader = |what| Reader::new(body, what);
        Ok(match kind {
            kind::SA => Self::Sa(proposal::parse_all(body)?),
            kind::KE => {
                let mut r = reader("KE payload");
                let group = r.u16()?;
                r.u16()?;
                Self::Ke { group, data: r.rest() }
            }
            kind::ID_I => Self::IdI(parse_id(body)?),
            kind::ID_R => Self::IdR(parse_id(body)?),
            kind::CERT => {
                let mut r = reader("CERT payload");
                Self::Cert { encoding: r.u8()?, data: r.rest() }
            }
            kind::CERT_REQUEST => {
                let mut r = reader("CERTREQ payload");
                Self::CertRequest { encoding: r.u8()?, data: r.rest() }
            }
            kind::AUTH => {
                let mut r = reader("AUTH payload");
                let method = r.u8()?;
                r.take(3)?;
                Self::Auth { method, data: r.rest() }
            }
            // RFC 7296 3.9: the size of the nonce data is between 16 and 256 octets, inclusive.
            kind::NONCE if !(16..=256).contains(&body.len()) => {
                return Err(WireError::Length("nonce payload"));
            }
            kind::NONCE => Self::Nonce(body),
            kind::NOTIFY => {
                let mut r = reader("notify payload");
                let (protocol, spi_len, kind) = (r.u8()?, r.u8()?, r.u16()?);
                let spi = r.take(usize::from(spi_len))?;
                Self::Notify(Notify { protocol, spi, kind, data: r.rest() })
            }
            kind::DELETE => {
                let mut r = reader("delete payload");
                let (protocol, spi_len, count) = (r.u8()?, r.u8()?, r.u16()?);
                let spis = r.rest();
                if usize::from(spi_len) * usize::from(count) != spis.len() {
                    return Err(WireError::Length("delete payload"));
                }
                Self::Delete(Delete { protocol, spi_len, spis })
            }
            kind::TS_I => Self::TsI(selector::parse_all(body)?),
            kind::TS_R => Self::TsR(selector::parse_all(body)?),
            kind::CONFIG => Self::Config(config::parse(body)?),
            kind::EAP => Self::Eap(body),
            kind::VENDOR | kind::SK => Self::Other { kind, data: body },
            // RFC 7296 2.5: only unknown payloads are judged by the critical bit.
            _ if critical => return Err(WireError::UnsupportedCritical(kind)),
            _ => Self::Other { kind, data: body },
        })
    }

    pub(super) fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Sa(proposals) => proposal::encode_all(proposals, out),
            Self::Ke { group, data } => {
                out.extend_from_slice(&group.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(data);
            }
            Self::IdI(id) | Self::IdR(id) => {
                out.push(id.kind);
                out.extend_from_slice(&id.reserved);
                out.extend_from_slice(id.data);
            }
            Self::Cert { encoding, data } | Self::CertRequest { encoding, data } => {
                out.push(*encoding);
                out.extend_from_slice(data);
            }
            Self::Auth { method, data } => {
                out.extend_from_slice(&[*method, 0, 0, 0]);
                out.extend_from_slice(data);
            }
            Self::Config(configuration) => config::encode(configuration, out),
            Self::Nonce(data) | Self::Eap(data) | Self::Other { data, .. } => out.extend_from_slice(data),
            Self::Notify(n) => {
                let spi_len = u8::try_from(n.spi.len()).expect("an SPI has at most 8 bytes");
                out.extend_from_slice(&[n.protocol, spi_len]);
                out.extend_from_slice(&n.kind.to_be_bytes());
                out.extend_from_slice(n.spi);
                out.extend_from_slice(n.data);
            }
            Self::Delete(d) => {
                let count = if d.spi_len == 0 { 0 } else { d.spis.len() / usize::from(d.spi_len) };
                out.extend_from_slice(&[d.protocol, d.spi_len]);
                out.extend_from_slice(&u16::try_from(count).expect("few SPIs at once").to_be_bytes());
                out.extend_from_slice(d.spis);
            }
            Self::TsI(ts) | Self::TsR(ts) => selector::encode_all(ts, out),
        }
    }
}

fn parse_id(body: &[u8]) -> Result<Id<'_>, WireError> {
    let mut r = Reader::new(body, "identification payload");
    Ok(Id { kind: r.u8()?, reserved: r.array()?, data: r.rest() })
}

/// More payloads in one message than this are refused.
const MAX_PAYLOADS: usize = 100;

/// The payloads of one message, in order; those that may stand once do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Body<'a> {
    payloads: Vec<Payload<'a>>,
}

impl<'a> Body<'a> {
    /// Parses a chain of payloads whose first has type `first`.
    pub(crate) fn parse(first: u8, bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut payloads: Vec<Payload<'a>> = Vec::new();
        let mut r = Reader::new(bytes, "payload");
        let mut kind = first;
        while kind != kind::NONE {
            let (next, flags, length) = (r.u8()?, r.u8()?, r.u16()?);
            let payload = Payload::parse(kind, flags & 0x80 != 0, r.sized(length, 4)?)?;
            let once = matches!(
                kind,
                kind::SA..=kind::ID_R | kind::AUTH | kind::NONCE | kind::TS_I | kind::TS_R | kind::EAP
            );
            if once && payloads.iter().any(|p| p.kind() == kind) {
                return Err(WireError::Duplicate(kind));
            }
            if payloads.len() == MAX_PAYLOADS {
                return Err(WireError::TooMany("payloads"));
            }
            payloads.push(payload);
            kind = next;
        }
        if r.is_empty() { Ok(Self { payloads }) } else { Err(WireError::Trailing) }
    }

    fn find<T>(&self, pick: impl FnMut(&Payload<'a>) -> Option<T>) -> Option<T> {
        self.payloads.iter().find_map(pick)
    }

    pub(crate) fn sa(&self) -> Option<&[Proposal]> {
        self.payloads.iter().find_map(|p| if let Payload::Sa(sa) = p { Some(sa.as_slice()) } else { None })
    }

    /// DH group number and public value.
    pub(crate) fn ke(&self) -> Option<(u16, &'a [u8])> {
        self.find(|p| if let Payload::Ke { group, data } = p { Some((*group, *data)) } else { None })
    }

    pub(crate) fn id_i(&self) -> Option<Id<'a>> {
        self.find(|p| if let Payload::IdI(id) = p { Some(*id) } else { None })
    }

    pub(crate) fn id_r(&self) -> Option<Id<'a>> {
        self.find(|p| if let Payload::IdR(id) = p { Some(*id) } else { None })
    }

    /// The X.509 certificates, the sender's own first (RFC 7296 3.6); other encodings are passed over.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &'a [u8]> {
        self.payloads.iter().filter_map(|p| match p {
            Payload::Cert { encoding: X509_SIGNATURE, data } => Some(*data),
            _ => None,
        })
    }

    pub(crate) fn config(&self) -> Option<&Configuration> {
        self.payloads.iter().find_map(|p| if let Payload::Config(c) = p { Some(c) } else { None })
    }

    pub(crate) fn eap(&self) -> Option<&'a [u8]> {
        self.find(|p| if let Payload::Eap(data) = p { Some(*data) } else { None })
    }

    /// Authentication method and data.
    pub(crate) fn auth(&self) -> Option<(u8, &'a [u8])> {
        self.find(|p| if let Payload::Auth { method, data } = p { Some((*method, *data)) } else { None })
    }

    pub(crate) fn nonce(&self) -> Option<&'a [u8]> {
        self.find(|p| if let Payload::Nonce(n) = p { Some(*n) } else { None })
    }

    pub(crate) fn ts_i(&self) -> Option<&[TrafficSelector]> {
        self.payloads.iter().find_map(|p| if let Payload::TsI(ts) = p { Some(ts.as_slice()) } else { None })
    }

    pub(crate) fn ts_r(&self) -> Option<&[TrafficSelector]> {
        self.payloads.iter().find_map(|p| if let Payload::TsR(ts) = p { Some(ts.as_slice()) } else { None })
    }

    pub(crate) fn notifies(&self) -> impl Iterator<Item = &Notify<'a>> {
        self.payloads.iter().filter_map(|p| if let Payload::Notify(n) = p { Some(n) } else { None })
    }

    /// The first notification of a type.
    pub(crate) fn notify(&self, kind: u16) -> Option<&Notify<'a>> {
        self.notifies().find(|n| n.kind == kind)
    }

    /// The first notification of an error.
    pub(crate) fn error(&self) -> Option<&Notify<'a>> {
        self.notifies().find(|n| n.kind < notify::STATUS)
    }

    pub(crate) fn deletes(&self) -> impl Iterator<Item = &Delete<'a>> {
        self.payloads.iter().filter_map(|p| if let Payload::Delete(d) = p { Some(d) } else { None })
    }

    /// Whether a payload of a type that we do not look into stands in the message.
    pub(crate) fn has(&self, kind: u8) -> bool {
        self.payloads.iter().any(|p| p.kind() == kind)
    }

    pub(crate) fn payloads(&self) -> &[Payload<'a>] {
        &self.payloads
    }
}
