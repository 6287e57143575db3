//! The inbound half of an SA: checks the number, opens in place, and reads what came out
//! (RFC 4303 3.4).

use std::ops::Range;

use culvert_crypto::{Associated, KeyError, PacketCipher, Suite, SuiteKeys};
use culvert_types::Spi;

use crate::{ESP_HEADER_LEN, ReplayError, ReplayWindow};

/// Why an ESP packet was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than any packet of this SA.
    #[error("shorter than any packet of this SA")]
    TooShort,
    /// The encrypted part is not a multiple of the cipher's block or of four bytes (RFC 4303 2.4).
    #[error("not aligned to the cipher's block")]
    Misaligned,
    /// Not a packet of this SA.
    #[error("of another SPI")]
    WrongSpi,
    /// The sequence number was seen before or is too old.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The check value is wrong: forged, corrupted, or the peer has other keys.
    #[error("the check value is wrong")]
    NotAuthentic,
    /// Authentic, but its padding is not 1, 2, 3, ... or longer than the packet.
    #[error("the padding is wrong (RFC 4303 2.4)")]
    BadPadding,
    /// Authentic, but a dummy packet (next header 59), to be dropped silently (RFC 4303 2.6).
    #[error("a dummy packet")]
    Dummy,
    /// Authentic, but neither IPv4 nor IPv6: the peer does not speak tunnel mode.
    #[error("next header {0} is not tunnel mode's 4 or 41")]
    NextHeader(u8),
    /// Authentic, but the inner header contradicts the next header or the packet's length.
    #[error("the inner packet's header is wrong")]
    BadInner,
}

impl OpenError {
    /// The reason under which it is counted.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooShort => "esp-short",
            Self::Misaligned => "esp-misaligned",
            Self::WrongSpi => "esp-wrong-spi",
            Self::Replay(ReplayError::Duplicate) => "replay-duplicate",
            Self::Replay(ReplayError::TooOld) => "replay-too-old",
            Self::NotAuthentic => "not-authentic",
            Self::BadPadding => "bad-padding",
            Self::Dummy => "dummy",
            Self::NextHeader(_) => "next-header",
            Self::BadInner => "inner-malformed",
        }
    }

    /// Whether the packet's check value was right, and so its sequence number counts as seen: it proves
    /// that the peer is alive, though it carries nothing to deliver.
    pub const fn is_authentic(self) -> bool {
        matches!(self, Self::BadPadding | Self::Dummy | Self::NextHeader(_) | Self::BadInner)
    }
}

/// What kind of packet an ESP packet held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHeader {
    /// 4: IPv4 in tunnel mode.
    Ipv4,
    /// 41: IPv6 in tunnel mode.
    Ipv6,
}

/// An opened packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Where in the buffer the inner packet stands, its length by its own header.
    pub inner: Range<usize>,
    /// Its kind.
    pub next_header: NextHeader,
    /// The packet's whole sequence number.
    pub sequence: u64,
}

/// One SA's inbound half.
#[derive(Debug)]
pub struct InboundSa {
    cipher: PacketCipher,
    spi: [u8; 4],
    esn: bool,
    replay: ReplayWindow,
    iv_len: usize,
    icv_len: usize,
    alignment: usize,
}

impl InboundSa {
    /// An SA that has received nothing. `replay_window` in packets is brought to 64-8192.
    pub fn new(
        spi: Spi,
        suite: Suite,
        keys: &SuiteKeys,
        esn: bool,
        replay_window: u32,
    ) -> Result<Self, KeyError> {
        Ok(Self {
            cipher: PacketCipher::new(suite, keys)?,
            spi: spi.to_bytes(),
            esn,
            replay: ReplayWindow::new(replay_window, esn),
            iv_len: suite.iv_len(),
            icv_len: suite.icv_len(),
            alignment: suite.alignment(),
        })
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.cipher.suite()
    }

    /// Bytes of the shortest packet that can be one of this SA.
    pub fn min_len(&self) -> usize {
        ESP_HEADER_LEN + self.iv_len + self.alignment + self.icv_len
    }

    /// The highest sequence number accepted, 0 before the first.
    #[inline]
    pub fn highest_sequence(&self) -> u64 {
        self.replay.highest()
    }

    /// The replay window's size in packets.
    pub fn window(&self) -> u32 {
        self.replay.size()
    }

    /// The lowest sequence number that could still be accepted; for the classifier, which may drop
    /// whatever is below.
    #[inline]
    pub fn replay_floor(&self) -> u64 {
        self.replay.floor()
    }

    /// Opens a whole ESP packet in place. On success the buffer holds the inner packet in
    /// [`Opened::inner`]; after an error its content is unspecified.
    #[inline]
    pub fn open(&mut self, esp: &mut [u8]) -> Result<Opened, OpenError> {
        if esp.len() < self.min_len() {
            return Err(OpenError::TooShort);
        }
        let start = ESP_HEADER_LEN + self.iv_len;
        let (header, rest) = esp.split_first_chunk_mut::<ESP_HEADER_LEN>().ok_or(OpenError::TooShort)?;
        let (iv, rest) = rest.split_at_mut_checked(self.iv_len).ok_or(OpenError::TooShort)?;
        let text_len = rest.len().checked_sub(self.icv_len).ok_or(OpenError::TooShort)?;
        // The alignment is 4 or 16.
        if text_len & (self.alignment - 1) != 0 {
            return Err(OpenError::Misaligned);
        }
        let (text, tag) = rest.split_at_mut_checked(text_len).ok_or(OpenError::TooShort)?;
        let [a, b, c, d, e, f, g, h] = *header;
        if [a, b, c, d] != self.spi {
            return Err(OpenError::WrongSpi);
        }

        // RFC 4303 3.4.3: check, verify, check again and advance. The number's high half is inferred here
        // and proven by the check value.
        let sequence = self.replay.infer(u32::from_be_bytes([e, f, g, h])).ok_or(ReplayError::TooOld)?;
        self.replay.check(sequence)?;
        let esn_high = self.esn.then_some((sequence >> 32) as u32);
        self.cipher
            .open(Associated::esp(header, esn_high), iv, text, tag)
            .map_err(|_| OpenError::NotAuthentic)?;
        self.replay.accept(sequence)?;

        let (kind, len) = inner(text)?;
        Ok(Opened { inner: start..start + len, next_header: kind, sequence })
    }

    #[cfg(test)]
    pub(crate) fn start_at(&mut self, highest: u64) {
        self.replay.start_at(highest);
    }
}

/// The kind and length of the packet in a decrypted text, its padding checked.
#[inline]
fn inner(text: &[u8]) -> Result<(NextHeader, usize), OpenError> {
    let [body @ .., pad_len, next] = text else { return Err(OpenError::BadPadding) };
    let len = body.len().checked_sub(usize::from(*pad_len)).ok_or(OpenError::BadPadding)?;
    let (packet, padding) = body.split_at_checked(len).ok_or(OpenError::BadPadding)?;
    // RFC 4303 2.4: the receiver should inspect the padding.
    if !padding.iter().zip(1..=u8::MAX).all(|(got, want)| *got == want) {
        return Err(OpenError::BadPadding);
    }
    // The inner header's own length counts: what follows is traffic-flow padding (RFC 4303 2.7).
    let (kind, len) = match next {
        4 => {
            let h: &[u8; 20] = packet.first_chunk().ok_or(OpenError::BadInner)?;
            let (header_len, total) = (usize::from(h[0] & 15) * 4, u16::from_be_bytes([h[2], h[3]]));
            if h[0] >> 4 != 4 || header_len < 20 || usize::from(total) < header_len {
                return Err(OpenError::BadInner);
            }
            (NextHeader::Ipv4, usize::from(total))
        }
        41 => {
            let h: &[u8; 40] = packet.first_chunk().ok_or(OpenError::BadInner)?;
            if h[0] >> 4 != 6 {
                return Err(OpenError::BadInner);
            }
            (NextHeader::Ipv6, 40 + usize::from(u16::from_be_bytes([h[4], h[5]])))
        }
        59 => return Err(OpenError::Dummy),
        other => return Err(OpenError::NextHeader(*other)),
    };
    if len > packet.len() { Err(OpenError::BadInner) } else { Ok((kind, len)) }
}
