//! The IKEv1 message format (RFC 2408, RFC 2407, RFC 2409): header, payload chains, SA payloads, attributes,
//! Cisco's fragments. No keys, no state.
//!
//! Everything that parses borrows from the datagram, never panics and never trusts a length.

mod attribute;
mod fragment;
mod header;
mod payload;
mod sa;

pub(crate) use attribute::Attribute;
pub(crate) use fragment::{FRAGMENT_OVERHEAD, Fragment};
pub(crate) use header::{Exchange, Flags, HEADER_LEN, Header};
pub(crate) use payload::{Body, Chain, Config, Delete, Id, Notify, Payload, cfg, id, kind, notify, protocol};
pub(crate) use sa::{Proposal, Sa, Transform};

#[cfg(test)]
mod tests;
