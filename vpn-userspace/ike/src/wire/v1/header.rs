//! The fixed 28-byte ISAKMP header (RFC 2408 3.1).

use crate::wire::{Reader, WireError};

/// Length of the ISAKMP header in bytes.
pub(crate) const HEADER_LEN: usize = 28;

/// Exchange types (RFC 2408 3.1, RFC 2409 5, draft-dukes-ike-mode-cfg 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// Identity protection: main mode.
    Main,
    Aggressive,
    Informational,
    /// Mode Config and XAuth.
    Transaction,
    Quick,
    Other(u8),
}

impl Exchange {
    pub(crate) fn from_wire(value: u8) -> Self {
        match value {
            2 => Self::Main,
            4 => Self::Aggressive,
            5 => Self::Informational,
            6 => Self::Transaction,
            32 => Self::Quick,
            other => Self::Other(other),
        }
    }

    pub(crate) fn to_wire(self) -> u8 {
        match self {
            Self::Main => 2,
            Self::Aggressive => 4,
            Self::Informational => 5,
            Self::Transaction => 6,
            Self::Quick => 32,
            Self::Other(value) => value,
        }
    }
}

/// The flags (RFC 2408 3.1). The authentication-only bit is refused by who reads the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags {
    pub(crate) encrypted: bool,
    pub(crate) commit: bool,
    pub(crate) auth_only: bool,
}

impl Flags {
    fn from_wire(value: u8) -> Self {
        Self { encrypted: value & 1 != 0, commit: value & 2 != 0, auth_only: value & 4 != 0 }
    }

    fn to_wire(self) -> u8 {
        u8::from(self.encrypted) | u8::from(self.commit) << 1 | u8::from(self.auth_only) << 2
    }
}

/// The ISAKMP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The initiator's cookie: its SPI.
    pub(crate) cookie_i: u64,
    /// The responder's cookie; 0 in the first message.
    pub(crate) cookie_r: u64,
    /// Type of the first payload.
    pub(crate) next: u8,
    pub(crate) exchange: Exchange,
    pub(crate) flags: Flags,
    /// 0 in phase 1, and random for each exchange after it.
    pub(crate) message_id: u32,
}

impl Header {
    /// Whether a datagram claims major version 1: the reader of IKEv2 does not want it.
    pub(crate) fn is_v1(datagram: &[u8]) -> bool {
        datagram.get(17).is_some_and(|version| version >> 4 == 1)
    }

    /// Parses the header of a whole datagram. Bytes beyond its length field are cut off by who reads on: some
    /// peers pad the datagram.
    pub(crate) fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut r = Reader::new(datagram, "ISAKMP header");
        let (cookie_i, cookie_r) = (r.u64()?, r.u64()?);
        let (next, version, exchange, flags) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
        let (message_id, length) = (r.u32()?, r.u32()?);
        // RFC 2408 5.2: a minor version above ours is not ours to take.
        if version != 0x10 {
            return Err(WireError::Version(version >> 4));
        }
        let length = usize::try_from(length).map_err(|_| WireError::Length("ISAKMP header"))?;
        let whole = datagram
            .get(..length)
            .filter(|w| w.len() >= HEADER_LEN)
            .ok_or(WireError::Length("ISAKMP header"))?;
        if cookie_i == 0 {
            return Err(WireError::Value("initiator's cookie"));
        }
        let exchange = Exchange::from_wire(exchange);
        Ok((Self { cookie_i, cookie_r, next, exchange, flags: Flags::from_wire(flags), message_id }, whole))
    }

    /// The header of a message of `length` bytes in all.
    pub(crate) fn encode(&self, length: usize) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&self.cookie_i.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie_r.to_be_bytes());
        out[16] = self.next;
        out[17] = 0x10;
        out[18] = self.exchange.to_wire();
        out[19] = self.flags.to_wire();
        out[20..24].copy_from_slice(&self.message_id.to_be_bytes());
        // Our own messages are bounded by what we put in: always far below 4 GiB.
        out[24..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        out
    }
}
