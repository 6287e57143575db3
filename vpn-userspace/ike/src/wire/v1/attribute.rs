//! Data attributes (RFC 2408 3.3), of transforms and of Mode Config: type and value, or type, length and value.

use std::borrow::Cow;

use crate::wire::{Reader, WireError};

const TV: u16 = 0x8000;
/// More attributes in one list than any peer sends.
const MAX: usize = 64;

/// One attribute. A value of two bytes is written in the short form where its type says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    /// Written as TV: type and a 16-bit value.
    pub(crate) short: bool,
    pub(crate) value: Cow<'a, [u8]>,
}

impl<'a> Attribute<'a> {
    /// A "basic" attribute.
    pub(crate) fn short(kind: u16, value: u16) -> Self {
        Self { kind, short: true, value: Cow::Owned(value.to_be_bytes().to_vec()) }
    }

    /// A "variable" attribute.
    pub(crate) fn long(kind: u16, value: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { kind, short: false, value: value.into() }
    }

    /// A duration or another number: in the short form where it fits.
    pub(crate) fn number(kind: u16, value: u64) -> Self {
        match (u16::try_from(value), u32::try_from(value)) {
            (Ok(small), _) => Self::short(kind, small),
            (_, Ok(medium)) => Self::long(kind, medium.to_be_bytes().to_vec()),
            _ => Self::long(kind, value.to_be_bytes().to_vec()),
        }
    }

    /// The value as a number; `None` if it does not fit into 64 bits.
    pub(crate) fn as_number(&self) -> Option<u64> {
        let zeros = self.value.iter().take_while(|b| **b == 0).count();
        let significant = self.value.get(zeros..)?;
        (significant.len() <= 8).then(|| significant.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }
}

impl Attribute<'_> {
    /// A list of attributes that stands alone, as in the data of a notification.
    pub(crate) fn parse_list(bytes: &[u8]) -> Result<Vec<Attribute<'_>>, WireError> {
        parse_all(Reader::new(bytes, "attributes"))
    }

    /// The bytes of such a list.
    pub(crate) fn encode_list(attributes: &[Attribute<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_all(attributes, &mut out);
        out
    }
}

pub(super) fn parse_all<'a>(mut r: Reader<'a>) -> Result<Vec<Attribute<'a>>, WireError> {
    let mut all = Vec::new();
    while !r.is_empty() {
        if all.len() == MAX {
            return Err(WireError::TooMany("attributes"));
        }
        let kind = r.u16()?;
        all.push(if kind & TV != 0 {
            Attribute { kind: kind & !TV, short: true, value: Cow::Borrowed(r.take(2)?) }
        } else {
            let length = r.u16()?;
            Attribute { kind, short: false, value: Cow::Borrowed(r.take(usize::from(length))?) }
        });
    }
    Ok(all)
}

pub(super) fn encode_all(attributes: &[Attribute<'_>], out: &mut Vec<u8>) {
    for a in attributes {
        if a.short {
            out.extend_from_slice(&(a.kind | TV).to_be_bytes());
        } else {
            out.extend_from_slice(&a.kind.to_be_bytes());
            let length = u16::try_from(a.value.len()).expect("our own attributes are below 64 KiB");
            out.extend_from_slice(&length.to_be_bytes());
        }
        out.extend_from_slice(&a.value);
    }
}
