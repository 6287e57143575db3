//! The fixed 28-byte IKE header (RFC 7296 3.1).

use super::{Reader, WireError};

/// Length of the IKE header in bytes.
pub(crate) const HEADER_LEN: usize = 28;

/// Exchange types (RFC 7296 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    SaInit,
    Auth,
    CreateChild,
    Informational,
    /// RFC 9242.
    Intermediate,
    /// RFC 9370 2.2.4.
    FollowupKe,
    Other(u8),
}

impl Exchange {
    pub(crate) fn from_wire(value: u8) -> Self {
        match value {
            34 => Self::SaInit,
            35 => Self::Auth,
            36 => Self::CreateChild,
            37 => Self::Informational,
            43 => Self::Intermediate,
            44 => Self::FollowupKe,
            other => Self::Other(other),
        }
    }

    pub(crate) fn to_wire(self) -> u8 {
        match self {
            Self::SaInit => 34,
            Self::Auth => 35,
            Self::CreateChild => 36,
            Self::Informational => 37,
            Self::Intermediate => 43,
            Self::FollowupKe => 44,
            Self::Other(value) => value,
        }
    }
}

/// The two flags that carry meaning: who opened the IKE SA, and whether this answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags {
    /// The sender is the original initiator of the IKE SA.
    pub(crate) initiator: bool,
    pub(crate) response: bool,
}

impl Flags {
    const INITIATOR: u8 = 0x08;
    const RESPONSE: u8 = 0x20;

    fn from_wire(value: u8) -> Self {
        Self { initiator: value & Self::INITIATOR != 0, response: value & Self::RESPONSE != 0 }
    }

    fn to_wire(self) -> u8 {
        (u8::from(self.initiator) * Self::INITIATOR) | (u8::from(self.response) * Self::RESPONSE)
    }
}

/// The IKE header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    /// Type of the first payload.
    pub(crate) next: u8,
    pub(crate) exchange: Exchange,
    pub(crate) flags: Flags,
    pub(crate) message_id: u32,
}

impl Header {
    /// Parses the header of a whole datagram; its length field must be the datagram's length.
    pub(crate) fn parse(datagram: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(datagram, "IKE header");
        let (spi_i, spi_r) = (r.u64()?, r.u64()?);
        let (next, version, exchange, flags) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
        let (message_id, length) = (r.u32()?, r.u32()?);
        if version >> 4 != 2 {
            return Err(WireError::Version(version >> 4));
        }
        if usize::try_from(length) != Ok(datagram.len()) {
            return Err(WireError::Length("IKE header"));
        }
        if spi_i == 0 {
            return Err(WireError::Value("initiator's SPI"));
        }
        let exchange = Exchange::from_wire(exchange);
        Ok(Self { spi_i, spi_r, next, exchange, flags: Flags::from_wire(flags), message_id })
    }

    /// The header of a message of `length` bytes in all.
    pub(crate) fn encode(&self, length: usize) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&self.spi_i.to_be_bytes());
        out[8..16].copy_from_slice(&self.spi_r.to_be_bytes());
        out[16] = self.next;
        out[17] = 0x20;
        out[18] = self.exchange.to_wire();
        out[19] = self.flags.to_wire();
        out[20..24].copy_from_slice(&self.message_id.to_be_bytes());
        // Our own messages are bounded by what we put in: always far below 4 GiB.
        out[24..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        out
    }
}
