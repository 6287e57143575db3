//! Cisco's fragments of ISAKMP messages (vendor id FRAGMENTATION): payload type 132.

use super::{Flags, HEADER_LEN, Header, kind};
use crate::wire::{Reader, WireError};

/// Bytes that a fragment's message has beside its piece.
pub(crate) const FRAGMENT_OVERHEAD: usize = HEADER_LEN + 8;

/// One fragment of a message, which is cut with its own header and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    /// Tells the fragments of one message from those of another.
    pub(crate) id: u16,
    /// From 1.
    pub(crate) number: u8,
    pub(crate) last: bool,
    pub(crate) piece: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads what follows the header of a message whose first payload is a fragment: nothing else may follow.
    pub(crate) fn parse(after_header: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(after_header, "fragment");
        let (next, _, length) = (r.u8()?, r.u8()?, r.u16()?);
        let mut body = Reader::new(r.sized(length, 4)?, "fragment");
        if next != 0 || !r.is_empty() {
            return Err(WireError::Trailing);
        }
        let (id, number, flags) = (body.u16()?, body.u8()?, body.u8()?);
        if number == 0 {
            return Err(WireError::Value("fragment's number"));
        }
        Ok(Self { id, number, last: flags & 1 != 0, piece: body.rest() })
    }

    /// The message that carries it; `header` is that of the message that was cut.
    pub(crate) fn message(&self, header: &Header) -> Vec<u8> {
        let length = FRAGMENT_OVERHEAD + self.piece.len();
        let header = Header { next: kind::FRAGMENT, flags: Flags::default(), ..*header };
        let mut out = header.encode(length).to_vec();
        let payload = u16::try_from(length - HEADER_LEN).expect("pieces are smaller than a datagram");
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&payload.to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&[self.number, u8::from(self.last)]);
        out.extend_from_slice(self.piece);
        out
    }
}
