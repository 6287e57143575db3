//! The outbound half of an SA: numbers, pads and seals packets in place (RFC 4303 3.3).

use culvert_crypto::{Associated, KeyError, PacketCipher, Suite, SuiteKeys};
use culvert_types::Spi;

use crate::ESP_HEADER_LEN;

/// Why a packet was not sealed. Nothing was sent and no number was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The last sequence number was used: the SA can send nothing more and must be replaced.
    #[error("the SA's sequence numbers are used up; it must be rekeyed (RFC 4303 3.3.3)")]
    Exhausted,
    /// The buffer has no room for header, packet and trailer.
    #[error("a buffer of {have} bytes cannot hold the {need} bytes of the sealed packet")]
    NoRoom {
        /// Bytes of the ESP packet.
        need: usize,
        /// Bytes of the buffer.
        have: usize,
    },
}

impl SealError {
    /// The reason under which it is counted.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Exhausted => "sequence-exhausted",
            Self::NoRoom { .. } => "no-room",
        }
    }
}

/// One SA's outbound half. It alone numbers the SA's packets: never copied, never restored.
#[derive(Debug)]
pub struct OutboundSa {
    cipher: PacketCipher,
    spi: [u8; 4],
    esn: bool,
    /// The number of the last packet sealed.
    sequence: u64,
    last: u64,
    iv_len: usize,
    icv_len: usize,
    alignment: usize,
}

/// RFC 4303 2.4: padding is 1, 2, 3, ...
const PADDING: [u8; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl OutboundSa {
    /// An SA that has sent nothing. With `esn` the sequence number has 64 bits (RFC 4303 2.2.1).
    pub fn new(spi: Spi, suite: Suite, keys: &SuiteKeys, esn: bool) -> Result<Self, KeyError> {
        Ok(Self {
            cipher: PacketCipher::new(suite, keys)?,
            spi: spi.to_bytes(),
            esn,
            sequence: 0,
            last: if esn { u64::MAX } else { u32::MAX.into() },
            iv_len: suite.iv_len(),
            icv_len: suite.icv_len(),
            alignment: suite.alignment(),
        })
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.cipher.suite()
    }

    /// Bytes before the inner packet: ESP header and IV.
    #[inline]
    pub fn header_len(&self) -> usize {
        ESP_HEADER_LEN + self.iv_len
    }

    /// Bytes after an inner packet of that length: padding, pad length, next header, check value.
    #[inline]
    pub fn trailer_len(&self, inner_len: usize) -> usize {
        self.pad_len(inner_len) + 2 + self.icv_len
    }

    /// Bytes of the whole ESP packet around an inner packet of that length.
    #[inline]
    pub fn sealed_len(&self, inner_len: usize) -> usize {
        self.header_len() + inner_len + self.trailer_len(inner_len)
    }

    /// The number of the last packet sealed, 0 before the first.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How many packets it can still seal.
    #[inline]
    pub fn remaining(&self) -> u64 {
        self.last - self.sequence
    }

    #[inline]
    fn pad_len(&self, inner_len: usize) -> usize {
        // The alignment is 4 or 16.
        (inner_len + 2).wrapping_neg() & (self.alignment - 1)
    }

    /// Seals in place the inner packet of `inner_len` bytes that stands in `buf` behind
    /// [`header_len`](Self::header_len) bytes of room, with [`trailer_len`](Self::trailer_len) bytes of
    /// room after it. Returns the length of the ESP packet, which begins at `buf`'s start.
    ///
    /// `next_header`: 4 for IPv4, 41 for IPv6, 59 for a dummy packet (RFC 4303 2.6).
    #[inline]
    pub fn seal(&mut self, buf: &mut [u8], inner_len: usize, next_header: u8) -> Result<usize, SealError> {
        let have = buf.len();
        if inner_len > have {
            return Err(SealError::NoRoom { need: inner_len, have });
        }
        let need = self.sealed_len(inner_len);
        let no_room = SealError::NoRoom { need, have };
        let packet = buf.get_mut(..need).ok_or(no_room)?;
        // RFC 4303 3.3.3: the number must not cycle. The IV follows from it, so neither repeats.
        if self.sequence >= self.last {
            return Err(SealError::Exhausted);
        }
        let sequence = self.sequence + 1;

        let (header, rest) = packet.split_first_chunk_mut::<ESP_HEADER_LEN>().ok_or(no_room)?;
        let (iv, rest) = rest.split_at_mut_checked(self.iv_len).ok_or(no_room)?;
        let text_len = rest.len() - self.icv_len;
        let (text, tag) = rest.split_at_mut_checked(text_len).ok_or(no_room)?;

        let [a, b, c, d] = self.spi;
        let [e, f, g, h] = (sequence as u32).to_be_bytes();
        *header = [a, b, c, d, e, f, g, h];
        let trailer = text.get_mut(inner_len..).ok_or(no_room)?;
        if let [padding @ .., pad_len, next] = trailer {
            for (to, from) in padding.iter_mut().zip(PADDING) {
                *to = from;
            }
            *pad_len = padding.len() as u8;
            *next = next_header;
        }
        self.cipher.write_iv(sequence, iv).map_err(|_| no_room)?;
        let esn_high = self.esn.then_some((sequence >> 32) as u32);
        // From here on the number counts as used, whatever comes.
        self.sequence = sequence;
        self.cipher.seal(Associated::esp(header, esn_high), iv, text, tag).map_err(|_| no_room)?;
        Ok(need)
    }

    #[cfg(test)]
    pub(crate) fn start_at(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}
