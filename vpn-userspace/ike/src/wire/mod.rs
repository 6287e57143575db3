//! The IKEv2 message format (RFC 7296 3): headers, payload chains, proposals, selectors. No keys, no state.
//!
//! Everything that parses borrows from the datagram, never panics and never trusts a length. What
//! it allocates is bounded by the datagram's own size and freed with the message.

mod chain;
mod config;
pub(crate) mod describe;
mod error;
mod header;
mod payload;
mod proposal;
mod selector;
pub(crate) mod v1;

pub(crate) use chain::{Chain, plain_message};
pub(crate) use config::{Attribute as ConfigAttribute, ConfigKind, Configuration, attribute};
pub use error::WireError;
pub(crate) use header::{Exchange, Flags, HEADER_LEN, Header};
pub(crate) use payload::{Body, Delete, Id, Notify, Payload, X509_SIGNATURE, kind, notify, protocol};
pub(crate) use proposal::{Proposal, Transform, transform};

#[cfg(test)]
mod tests;

/// Reads big-endian fields from the front of a slice; every read is checked.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which are a `what` (for the error).
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        match self.rest.split_at_checked(len) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(WireError::Truncated(self.what)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(*head)
            }
            None => Err(WireError::Truncated(self.what)),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a structure whose length field, already read, counts `counted` bytes before this point.
    pub(crate) fn sized(&mut self, length: u16, counted: usize) -> Result<&'a [u8], WireError> {
        let body = usize::from(length).checked_sub(counted).ok_or(WireError::Length(self.what))?;
        self.take(body)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
