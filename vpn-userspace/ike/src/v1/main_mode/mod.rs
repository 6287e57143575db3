//! Main mode (RFC 2409 5, 5.1, 5.4): six messages, the last two encrypted. `initiator` and `responder` are its two roles.
//!
//! A message that waits for a job or for somebody's judgement is kept, and read again with what they brought.

mod initiator;
mod responder;

pub(crate) use initiator::{IdSent, KeySent, OfferSent};
pub(crate) use responder::{KeyAnswered, OfferAnswered, name_of, refuse_proposals, respond};
