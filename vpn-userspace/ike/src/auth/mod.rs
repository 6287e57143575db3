//! How peers prove who they are.

pub(crate) mod psk;

pub use psk::{Psk, PskError};

/// How both sides of a tunnel prove who they are. The two need not be of a kind (RFC 7296 2.15).
#[derive(Debug, Clone)]
pub struct Auth {
    /// What we prove our identity with.
    pub local: LocalAuth,
    /// What the peer must prove its identity with.
    pub remote: RemoteAuth,
}

/// What we prove our identity with.
#[derive(Debug, Clone)]
pub enum LocalAuth {
    /// The key that the peer has as well.
    Psk(Psk),
}

/// What the peer must prove its identity with.
#[derive(Debug, Clone)]
pub enum RemoteAuth {
    /// The key that we have as well.
    Psk(Psk),
}

impl Auth {
    /// One key for both sides.
    pub fn psk(psk: Psk) -> Self {
        Self { local: LocalAuth::Psk(psk.clone()), remote: RemoteAuth::Psk(psk) }
    }
}

impl LocalAuth {
    /// The pre-shared key, where that is the way.
    pub fn as_psk(&self) -> Option<&Psk> {
        match self {
            Self::Psk(psk) => Some(psk),
        }
    }
}

impl RemoteAuth {
    /// The pre-shared key, where that is the way.
    pub fn as_psk(&self) -> Option<&Psk> {
        match self {
            Self::Psk(psk) => Some(psk),
        }
    }
}
