//! IKE messages as they pass: the stream that answers `culvert trace`.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A message in words, or a datagram as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// Unix time in microseconds.
    pub time_us: u64,
    /// The connection, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The tunnel, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Whether this gateway sent it.
    pub sent: bool,
    /// This gateway's end, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// The peer's end, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// Exchange, role, message id and payloads in words; no secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The datagram's payload in hexadecimal, as it went over the wire (on port 4500 with the non-ESP marker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagram: Option<String>,
}
