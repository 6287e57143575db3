//! What routing by BGP does, and which way goes where: the answers to `culvert bgp` and `culvert route list`.

use serde::{Deserialize, Serialize};

use crate::words::words;

/// The routing program and its sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpStatus {
    /// `FRR` or `BIRD`; `None` where no connection has routing = "bgp", or neither is installed.
    #[serde(default)]
    pub program: Option<String>,
    /// Whether it runs and answers.
    #[serde(default)]
    pub running: bool,
    /// Why it does not, and what to do.
    #[serde(default)]
    pub fault: Option<String>,
    /// How often it had to be started again.
    #[serde(default)]
    pub restarts: u32,
    /// Our autonomous system.
    #[serde(default)]
    pub asn: u32,
    /// Our identifier.
    #[serde(default)]
    pub router_id: String,
    /// In the order of the configuration.
    #[serde(default)]
    pub sessions: Vec<BgpSession>,
}

/// A session with a neighbour at the far end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpSession {
    /// The connection's name.
    pub connection: String,
    /// The tunnel's name.
    pub tunnel: String,
    /// Our inner address.
    pub local: String,
    /// The neighbour's.
    pub neighbor: String,
    /// The neighbour's autonomous system.
    pub remote_asn: u32,
    /// RFC 4271's word: `established`, `active`, …; `shut` while the tunnel is down.
    pub state: String,
    /// Unix time in seconds since when.
    pub since: u64,
    /// Prefixes that the neighbour sends; `None` where that was not asked for.
    #[serde(default)]
    pub received: Option<u64>,
    /// Of these, those that `accept` lets in.
    #[serde(default)]
    pub accepted: u64,
    /// Prefixes sent to the neighbour.
    #[serde(default)]
    pub advertised: u64,
    /// Our preference of what it sends: the highest wins.
    #[serde(default)]
    pub local_preference: u32,
    /// Whether bidirectional forwarding detection reaches it; `None` without.
    #[serde(default)]
    pub bfd_up: Option<bool>,
    /// Why it went down last, or does not come up.
    #[serde(default)]
    pub error: Option<String>,
}

words! {
    /// Where a route comes from.
    pub enum RouteOrigin {
        /// From the configuration.
        Static = "static",
        /// From a neighbour.
        Bgp = "bgp",
        /// The floor below the others: what is protected and has no other way is refused.
        Floor = "floor",
    }
}

/// A route of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteEntry {
    /// Where to.
    pub destination: String,
    /// Through which tunnels, `CONNECTION/TUNNEL`; none of the floor.
    #[serde(default)]
    pub tunnels: Vec<String>,
    /// Where it comes from.
    pub origin: RouteOrigin,
    /// The kernel's: the smallest of a destination wins.
    pub metric: u32,
    /// Whether it is the one of its destination that traffic takes.
    #[serde(default)]
    pub active: bool,
    /// With BGP: our preference among the neighbours' ways.
    #[serde(default)]
    pub local_preference: Option<u32>,
    /// With BGP: the autonomous systems on the way.
    #[serde(default)]
    pub path: Option<String>,
}

/// All routes of all connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// By destination, the one that traffic takes first.
    #[serde(default)]
    pub routes: Vec<RouteEntry>,
    /// What could not be found out, and why.
    #[serde(default)]
    pub fault: Option<String>,
}
