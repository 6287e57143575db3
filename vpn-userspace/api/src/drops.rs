//! Dropped packets: how many and why, and, for who follows them, some of them as they are dropped.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::target::Target;
use crate::words::words;

/// Reasons that packets are dropped for in normal running; not shown unless they are asked for.
pub const ROUTINE: [&str; 4] = ["nat-keepalive", "keepalive", "link-local", "dummy"];

/// Which dropped packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsRequest {
    /// Only those of this connection or tunnel; `None`: all, also those of which it is not known.
    #[serde(default)]
    pub target: Option<Target>,
    /// Only those dropped for this reason; `None`: for all but [`ROUTINE`].
    #[serde(default)]
    pub reason: Option<String>,
    /// Show packets as they are dropped, until the client closes, instead of counts.
    #[serde(default)]
    pub follow: bool,
}

impl DropsRequest {
    /// Whether something is among what was asked for.
    pub fn wants(&self, connection: Option<&str>, tunnel: Option<&str>, reason: &str) -> bool {
        let of = connection.zip(tunnel);
        let targeted = |target: &Target| of.is_some_and(|(c, t)| target.covers(c, t));
        self.target.as_ref().is_none_or(targeted)
            && match &self.reason {
                Some(wanted) => wanted == reason,
                None => !self.follow || !ROUTINE.contains(&reason),
            }
    }
}

words! {
    /// Who dropped a packet.
    pub enum DropPlace {
        /// The guard of the WAN.
        Guard = "guard",
        /// Engine `user`.
        User = "user",
        /// Engine `xfrm`: the kernel, which counts and shows no packets.
        Xfrm = "xfrm",
        /// Engine `bpf`.
        Bpf = "bpf",
        /// The kernel's IPsec, whoever's packet it was.
        Kernel = "kernel",
    }
}

/// What was dropped since culvertd started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// The most frequent first.
    #[serde(default)]
    pub drops: Vec<DropCount>,
}

/// Packets that were dropped in one place for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// Who dropped them.
    pub place: DropPlace,
    /// Of which connection, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Of which tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Why, a fixed word such as `unknown-spi`.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// A dropped packet, or how many there were besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRecord {
    /// Unix time in microseconds.
    pub time_us: u64,
    /// Who dropped it.
    pub place: DropPlace,
    /// The interface that it came in by, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The connection, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The tunnel, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Why, a fixed word such as `unknown-spi`.
    pub reason: String,
    /// How many packets: one, the segments of a super-packet, or with `unshown` all that are not shown one by one.
    pub packets: u64,
    /// No packet, but a count: so many more were dropped in the last second, and are not shown.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unshown: bool,
    /// It passed, because the guard learns: it would have been dropped.
    #[serde(default, skip_serializing_if = "is_false")]
    pub passed: bool,
    /// It was on its way to the peer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub outward: bool,
    /// Its bytes where it was dropped: with link-layer headers at the guard, else ESP or the inner packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Who sent the outer packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<DropEnd>,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<DropEnd>,
    /// SPI: 8 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spi: Option<String>,
    /// ESP's sequence number: the low 32 bits as it bore them, or all of an authentic packet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Of the inner packet, if it is this side's or was authentic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner: Option<DropInner>,
}

/// An end of an outer packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropEnd {
    /// Its address.
    pub address: IpAddr,
    /// Its UDP port; `None` without UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Headers of an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropInner {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
}

impl std::fmt::Display for DropEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => std::net::SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted() {
        let request = |target: Option<&str>, reason: Option<&str>, follow| DropsRequest {
            target: target.map(|t| t.parse().unwrap()),
            reason: reason.map(str::to_owned),
            follow,
        };
        let all = request(None, None, true);
        assert!(all.wants(None, None, "unknown-spi") && !all.wants(None, None, "keepalive"));
        assert!(request(None, None, false).wants(None, None, "keepalive"), "counts are whole");
        assert!(request(None, Some("keepalive"), true).wants(None, None, "keepalive"));
        assert!(!request(None, Some("keepalive"), true).wants(None, None, "stale"));
        let one = request(Some("hangzhou/a"), None, true);
        assert!(one.wants(Some("hangzhou"), Some("a"), "stale"));
        assert!(!one.wants(Some("hangzhou"), Some("b"), "stale") && !one.wants(None, None, "stale"));
    }
}
