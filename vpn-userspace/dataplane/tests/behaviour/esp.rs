//! The peer's half of the SAs: ESP made and opened step by step, so that each step can be done wrongly.

use culvert_crypto::{Associated, PacketCipher, Suite, SuiteKeys};

/// An ESP packet to be made. Right in all, unless changed.
#[derive(Clone)]
pub(crate) struct Sealed {
    /// What it carries.
    pub(crate) inner: Vec<u8>,
    /// Traffic-flow padding behind it (RFC 4303 2.7).
    pub(crate) flow_padding: usize,
    /// ESP padding; `None`: as much as it needs, 1, 2, 3, ...
    pub(crate) padding: Option<Vec<u8>>,
    /// The length of the padding that is told, if not the true one.
    pub(crate) told: Option<u8>,
    /// The next header, if not that of the inner packet's family.
    pub(crate) next_header: Option<u8>,
    /// The sequence number, if not the next one.
    pub(crate) sequence: Option<u64>,
}

impl Sealed {
    pub(crate) fn new(inner: &[u8]) -> Self {
        Self {
            inner: inner.to_vec(),
            flow_padding: 0,
            padding: None,
            told: None,
            next_header: None,
            sequence: None,
        }
    }
}

/// Both directions of the peer.
pub(crate) struct Peer {
    suite: Suite,
    to_gateway: (u32, PacketCipher),
    from_gateway: (u32, PacketCipher),
    /// The last sequence number used.
    pub(crate) sequence: u64,
}

impl Peer {
    /// `to_gateway` and `from_gateway`: SPI and keys.
    pub(crate) fn new(suite: Suite, to_gateway: (u32, &SuiteKeys), from_gateway: (u32, &SuiteKeys)) -> Self {
        let half = |(spi, keys)| (spi, PacketCipher::new(suite, keys).unwrap());
        Self { suite, to_gateway: half(to_gateway), from_gateway: half(from_gateway), sequence: 0 }
    }

    /// The ESP packet, with extended sequence numbers.
    pub(crate) fn seal(&mut self, what: &Sealed) -> Vec<u8> {
        let sequence = what.sequence.unwrap_or(self.sequence + 1);
        self.sequence = self.sequence.max(sequence);
        let mut text = what.inner.clone();
        text.resize(text.len() + what.flow_padding, 0xee);
        let missing = (text.len() + 2).wrapping_neg() & (self.suite.alignment() - 1);
        let padding = what.padding.clone().unwrap_or_else(|| (1..=missing as u8).collect());
        text.extend_from_slice(&padding);
        text.push(what.told.unwrap_or(padding.len() as u8));
        let version = what.inner.first().map_or(4, |b| b >> 4);
        text.push(what.next_header.unwrap_or(if version == 6 { 41 } else { 4 }));
        let (spi, cipher) = &self.to_gateway;
        let mut header = [0; 8];
        header[..4].copy_from_slice(&spi.to_be_bytes());
        header[4..].copy_from_slice(&(sequence as u32).to_be_bytes());
        let mut iv = vec![0; self.suite.iv_len()];
        let mut tag = vec![0; self.suite.icv_len()];
        cipher.write_iv(sequence, &mut iv).unwrap();
        cipher
            .seal(Associated::esp(&header, Some((sequence >> 32) as u32)), &iv, &mut text, &mut tag)
            .unwrap();
        [&header[..], &iv, &text, &tag].concat()
    }

    /// The inner packet of what the gateway sealed; a text where something is wrong with it.
    pub(crate) fn open(&self, esp: &[u8]) -> Result<Vec<u8>, String> {
        let (spi, cipher) = &self.from_gateway;
        let (header, rest) = esp.split_first_chunk::<8>().ok_or("no ESP header")?;
        if header[..4] != spi.to_be_bytes() {
            return Err(format!("SPI {:02x?}", &header[..4]));
        }
        let (iv, rest) = rest.split_at_checked(self.suite.iv_len()).ok_or("no IV")?;
        let text_len = rest.len().checked_sub(self.suite.icv_len()).ok_or("no check value")?;
        let (mut text, tag) = (rest[..text_len].to_vec(), &rest[text_len..]);
        cipher
            .open(Associated::esp(header, Some(0)), iv, &mut text, tag)
            .map_err(|_| "not authentic".to_owned())?;
        let (Some(next), Some(pad)) = (text.pop(), text.pop()) else { return Err("no trailer".to_owned()) };
        let length = text.len().checked_sub(pad.into()).ok_or("longer padding than text")?;
        let padding = text.split_off(length);
        if !padding.iter().copied().eq(1..=pad) {
            return Err(format!("padding {padding:02x?}"));
        }
        let want = if text.first().is_some_and(|b| b >> 4 == 6) { 41 } else { 4 };
        if next != want {
            return Err(format!("next header {next}"));
        }
        Ok(text)
    }
}
