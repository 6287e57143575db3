//! Echoes through tunnels, whoever carries the traffic.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::target::Target;

/// One echo through each of these tunnels, at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRequest {
    /// Through which.
    pub target: Target,
    /// Whom to ask; `None`: the target of the tunnel's health check.
    #[serde(default)]
    pub to: Option<IpAddr>,
    /// From which of this host's addresses; `None`: that of the health check, the tunnel's inside address, or one in the
    /// connection's local networks.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// How long an answer may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pings {
    /// By tunnel.
    #[serde(default)]
    pub pings: Vec<Ping>,
}

/// What became of an echo through one tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The connection's name.
    pub connection: String,
    /// The tunnel's name.
    pub tunnel: String,
    /// Who was asked.
    #[serde(default)]
    pub to: Option<IpAddr>,
    /// From where, if an address was chosen.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// The round trip in microseconds; `None`: no answer.
    #[serde(default)]
    pub round_trip_us: Option<u64>,
    /// Why there is none; `None`: nothing came in time.
    #[serde(default)]
    pub error: Option<String>,
}
