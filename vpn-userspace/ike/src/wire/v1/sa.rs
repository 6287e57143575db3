//! SA payload: situation, proposals and transforms (RFC 2408 3.4 to 3.6, RFC 2407 4.6).

use super::attribute::{self, Attribute};
use crate::wire::{Reader, WireError};

/// The domain of interpretation of IPsec (RFC 2407).
pub(super) const DOI: u32 = 1;
/// SIT_IDENTITY_ONLY: no labels.
const SITUATION: u32 = 1;
/// More than any peer offers.
const MAX_PROPOSALS: usize = 64;
const MAX_TRANSFORMS: usize = 255;

/// An SA payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sa<'a> {
    pub(crate) proposals: Vec<Proposal<'a>>,
}

/// One proposal: proposals of one number go together (AH with ESP), others are alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal<'a> {
    pub(crate) number: u8,
    pub(crate) protocol: u8,
    pub(crate) spi: Vec<u8>,
    /// Alternatives, first preferred.
    pub(crate) transforms: Vec<Transform<'a>>,
}

/// One transform: a complete set of algorithms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transform<'a> {
    pub(crate) number: u8,
    pub(crate) id: u8,
    pub(crate) attributes: Vec<Attribute<'a>>,
}

impl Transform<'_> {
    /// The attribute of a type, as a number; `None` if it is not there, stands twice or is too long.
    pub(crate) fn number(&self, kind: u16) -> Option<u64> {
        let mut all = self.attributes.iter().filter(|a| a.kind == kind);
        let value = all.next()?.as_number();
        if all.next().is_some() { None } else { value }
    }

    /// Without what it borrows.
    pub(crate) fn into_owned(self) -> Transform<'static> {
        let own = |a: Attribute<'_>| Attribute {
            kind: a.kind,
            short: a.short,
            value: std::borrow::Cow::Owned(a.value.into_owned()),
        };
        let attributes = self.attributes.into_iter().map(own).collect();
        Transform { number: self.number, id: self.id, attributes }
    }
}

impl<'a> Sa<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body, "SA payload");
        if r.u32()? != DOI {
            return Err(WireError::Value("domain of interpretation"));
        }
        if r.u32()? != SITUATION {
            return Err(WireError::Value("situation"));
        }
        let mut proposals = Vec::new();
        loop {
            let (next, _, length) = (r.u8()?, r.u8()?, r.u16()?);
            proposals.push(Proposal::parse(r.sized(length, 4)?)?);
            match next {
                0 if r.is_empty() => return Ok(Self { proposals }),
                2 if proposals.len() < MAX_PROPOSALS => {}
                2 => return Err(WireError::TooMany("proposals")),
                _ => return Err(WireError::Value("SA payload")),
            }
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&DOI.to_be_bytes());
        out.extend_from_slice(&SITUATION.to_be_bytes());
        let last = self.proposals.len().saturating_sub(1);
        for (i, p) in self.proposals.iter().enumerate() {
            nested(out, if i == last { 0 } else { 2 }, |out| p.encode(out));
        }
    }
}

impl<'a> Proposal<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body, "proposal");
        let (number, protocol, spi_len, count) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
        let spi = r.take(usize::from(spi_len))?.to_vec();
        let mut transforms = Vec::with_capacity(usize::from(count).min(32));
        // The markers tell where the list ends; the count must say the same.
        for left in (0..count).rev() {
            let (next, _, length) = (r.u8()?, r.u8()?, r.u16()?);
            if next != if left == 0 { 0 } else { 3 } {
                return Err(WireError::Value("transform"));
            }
            transforms.push(Transform::parse(r.sized(length, 4)?)?);
        }
        if r.is_empty() {
            Ok(Self { number, protocol, spi, transforms })
        } else {
            Err(WireError::Length("proposal"))
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let count = |n: usize| u8::try_from(n.min(MAX_TRANSFORMS)).unwrap_or(u8::MAX);
        out.extend_from_slice(&[
            self.number,
            self.protocol,
            count(self.spi.len()),
            count(self.transforms.len()),
        ]);
        out.extend_from_slice(&self.spi);
        let shown = self.transforms.len().min(MAX_TRANSFORMS);
        for (i, t) in self.transforms.iter().take(shown).enumerate() {
            nested(out, if i + 1 == shown { 0 } else { 3 }, |out| {
                out.extend_from_slice(&[t.number, t.id, 0, 0]);
                attribute::encode_all(&t.attributes, out);
            });
        }
    }
}

impl<'a> Transform<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body, "transform");
        let (number, id, _) = (r.u8()?, r.u8()?, r.u16()?);
        Ok(Self { number, id, attributes: attribute::parse_all(r)? })
    }
}

/// A structure with the four bytes of the generic header, whose length is filled in afterwards.
fn nested(out: &mut Vec<u8>, next: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[next, 0, 0, 0]);
    write(out);
    let length = u16::try_from(out.len() - at).expect("our own payloads are below 64 KiB");
    out[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
}
