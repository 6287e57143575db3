//! Aggressive mode (RFC 2409 5, 5.1, 5.4): three messages, identities in the clear; both roles.
//!
//! With pre-shared keys the responder's hash goes out before the initiator has proven anything: whoever sends one message can guess the key at
//! leisure. Only for tunnels that ask for it.

mod initiator;
mod responder;

pub(crate) use initiator::AggressiveSent;
pub(crate) use responder::{AggressiveAnswered, AggressiveAsked, respond};
