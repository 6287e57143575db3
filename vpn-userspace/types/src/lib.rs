//! Values that every floor of the house speaks of: SPIs, tunnel ids, traffic selectors.
//!
//! Knows nothing of IKE, ESP, the kernel or the configuration file.

mod selector;
mod spi;

pub use selector::{SelectorError, TrafficSelector};
pub use spi::{Spi, SpiError};

use std::fmt;

/// Names one tunnel for the life of the process; handed out by the daemon, opaque to everyone else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u32);

impl fmt::Debug for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tunnel#{}", self.0)
    }
}
