//! Traffic of the past, by tunnel.

use serde::{Deserialize, Serialize};

/// Rates of tunnels over a time that ends now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Unix time in seconds of the end of the last sample.
    pub end: u64,
    /// Seconds of one sample.
    pub step_s: u32,
    /// By tunnel, as the status has them.
    #[serde(default)]
    pub tunnels: Vec<TunnelGraph>,
}

/// Rates of one tunnel in bit/s of inner packets, oldest first. Lists of all tunnels are equally long; before culvertd knew the
/// tunnel they hold zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelGraph {
    /// The connection's name.
    pub connection: String,
    /// The tunnel's name.
    pub tunnel: String,
    /// From the peer.
    #[serde(default)]
    pub bits_in: Vec<u64>,
    /// To the peer.
    #[serde(default)]
    pub bits_out: Vec<u64>,
}
