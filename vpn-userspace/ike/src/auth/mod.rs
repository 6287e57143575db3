//! How peers prove who they are.

pub(crate) mod psk;

pub use psk::{Psk, PskError};
