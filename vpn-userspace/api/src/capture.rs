//! Where `culvert capture` listens: the answer that comes with its packet sockets.

use serde::{Deserialize, Serialize};

/// Where packets are taken. With the answer come packet sockets (SCM_RIGHTS), one for each place and in the same order,
/// opened by culvertd in the network namespace of its interfaces; what they receive never passes through culvertd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// The places: tunnel interfaces, then WAN interfaces.
    pub places: Vec<CapturePlace>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePlace {
    /// Its name.
    pub interface: String,
    /// The network namespace that it is in, if that is not culvertd's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// A tunnel's own interface, with packets before ESP and after it; else the WAN's, with everything.
    pub inside: bool,
    /// Frames begin with an Ethernet header; else with the IP header.
    pub ethernet: bool,
}
