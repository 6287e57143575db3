//! SA payload: proposals and transforms as they stand on the wire (RFC 7296 3.3).

use super::{Reader, WireError};

/// Transform types and the ids that need a name here (RFC 7296 3.3.2).
pub(crate) mod transform {
    pub(crate) const ENCRYPTION: u8 = 1;
    pub(crate) const PRF: u8 = 2;
    pub(crate) const INTEGRITY: u8 = 3;
    pub(crate) const DH: u8 = 4;
    pub(crate) const ESN: u8 = 5;
    /// The first of seven additional key exchanges (RFC 9370 2.2.1).
    pub(crate) const ADDITIONAL_1: u8 = 6;
    pub(crate) const ADDITIONAL_7: u8 = 12;
    pub(crate) const NONE: u16 = 0;
}

/// One transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transform {
    pub(crate) kind: u8,
    pub(crate) id: u16,
    /// Key length attribute in bits.
    pub(crate) key_bits: Option<u16>,
    /// It carries an attribute that we do not know: not to be chosen (RFC 7296 3.3.6).
    pub(crate) strange: bool,
}

impl Transform {
    pub(crate) fn new(kind: u8, id: u16, key_bits: Option<u16>) -> Self {
        Self { kind, id, key_bits, strange: false }
    }
}

/// One proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) number: u8,
    pub(crate) protocol: u8,
    pub(crate) spi: Vec<u8>,
    pub(crate) transforms: Vec<Transform>,
}

const KEY_LENGTH: u16 = 14;
const ATTRIBUTE_TV: u16 = 0x8000;
/// The wire has 8-bit counts for both; nobody needs more proposals than this.
const MAX_PROPOSALS: usize = 255;

pub(super) fn parse_all(body: &[u8]) -> Result<Vec<Proposal>, WireError> {
    let mut r = Reader::new(body, "SA payload");
    let mut proposals = Vec::new();
    loop {
        let (more, _, length) = (r.u8()?, r.u8()?, r.u16()?);
        proposals.push(parse_one(r.sized(length, 4)?)?);
        match more {
            0 if r.is_empty() => return Ok(proposals),
            2 if proposals.len() < MAX_PROPOSALS => {}
            2 => return Err(WireError::TooMany("proposals")),
            _ => return Err(WireError::Value("SA payload")),
        }
    }
}

fn parse_one(body: &[u8]) -> Result<Proposal, WireError> {
    let mut r = Reader::new(body, "proposal");
    let (number, protocol, spi_len, count) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
    let spi = r.take(usize::from(spi_len))?.to_vec();
    let mut transforms = Vec::with_capacity(usize::from(count).min(32));
    for left in (0..count).rev() {
        let (more, _, length) = (r.u8()?, r.u8()?, r.u16()?);
        if more != if left == 0 { 0 } else { 3 } {
            return Err(WireError::Value("transform"));
        }
        transforms.push(parse_transform(r.sized(length, 4)?)?);
    }
    if r.is_empty() {
        Ok(Proposal { number, protocol, spi, transforms })
    } else {
        Err(WireError::Length("proposal"))
    }
}

fn parse_transform(body: &[u8]) -> Result<Transform, WireError> {
    let mut r = Reader::new(body, "transform");
    let (kind, _, id) = (r.u8()?, r.u8()?, r.u16()?);
    let mut t = Transform::new(kind, id, None);
    while !r.is_empty() {
        let (attribute, value) = (r.u16()?, r.u16()?);
        if attribute & ATTRIBUTE_TV == 0 {
            r.take(usize::from(value))?;
            t.strange = true;
        } else if attribute & !ATTRIBUTE_TV == KEY_LENGTH && t.key_bits.is_none() {
            t.key_bits = Some(value);
        } else {
            t.strange = true;
        }
    }
    Ok(t)
}

pub(super) fn encode_all(proposals: &[Proposal], out: &mut Vec<u8>) {
    for (i, p) in proposals.iter().enumerate() {
        let at = out.len();
        out.extend_from_slice(&[if i + 1 == proposals.len() { 0 } else { 2 }, 0, 0, 0]);
        let (spi_len, count) = (p.spi.len(), p.transforms.len());
        let count_of = |n: usize| u8::try_from(n).expect("our own proposals have few transforms");
        out.extend_from_slice(&[p.number, p.protocol, count_of(spi_len), count_of(count)]);
        out.extend_from_slice(&p.spi);
        for (j, t) in p.transforms.iter().enumerate() {
            let length: u16 = if t.key_bits.is_some() { 12 } else { 8 };
            out.extend_from_slice(&[if j + 1 == count { 0 } else { 3 }, 0]);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&[t.kind, 0]);
            out.extend_from_slice(&t.id.to_be_bytes());
            if let Some(bits) = t.key_bits {
                out.extend_from_slice(&(ATTRIBUTE_TV | KEY_LENGTH).to_be_bytes());
                out.extend_from_slice(&bits.to_be_bytes());
            }
        }
        let length = u16::try_from(out.len() - at).expect("our own proposals are below 64 KiB");
        out[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
    }
}
