//! What the user engine needs of a negotiated SA; the packet path knows nothing of IKE.
// Reachable from outside by the `testing` module only.
#![cfg_attr(not(feature = "testing"), allow(unreachable_pub))]

use std::net::{IpAddr, SocketAddr};

use culvert_crypto::{Encryption, Suite, SuiteKeys};
use culvert_esp::tunnel::Overhead;
use culvert_ike::{ChildSa, Purpose};
use culvert_types::{Spi, TrafficSelector, TunnelId};

/// An SA pair as the user engine installs it.
///
/// Outside of tests made from a [`ChildSa`] only, so that nothing unauthenticated is ever installed.
#[derive(Debug, Clone)]
pub struct SaSetup {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// SPI of packets to us.
    pub inbound: Spi,
    /// SPI of packets to the peer.
    pub outbound: Spi,
    /// Algorithms of both directions.
    pub suite: Suite,
    /// Keys of packets to us.
    pub inbound_keys: SuiteKeys,
    /// Keys of packets to the peer.
    pub outbound_keys: SuiteKeys,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Anti-replay window in packets.
    pub replay_window: u32,
    /// Inner addresses on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Inner addresses on the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address; its UDP port with encapsulation, else 0.
    pub remote: SocketAddr,
    /// ESP goes in UDP.
    pub encap: bool,
    /// What it is for, of several with the same selectors.
    pub purpose: Purpose,
    /// When to stop.
    pub limits: Limits,
}

impl SaSetup {
    /// What ESP adds to packets of this SA.
    pub fn overhead(&self) -> Overhead {
        Overhead { outer_ipv6: self.local.is_ipv6(), udp: self.encap, suite: self.suite }
    }
}

impl From<&ChildSa> for SaSetup {
    fn from(sa: &ChildSa) -> Self {
        let (local, remote, encap) = match sa.encap() {
            Some((local, remote)) => (local.ip(), remote, true),
            None => (sa.local(), SocketAddr::new(sa.remote(), 0), false),
        };
        Self {
            tunnel: sa.tunnel(),
            inbound: sa.inbound(),
            outbound: sa.outbound(),
            suite: sa.suite(),
            inbound_keys: sa.inbound_keys().clone(),
            outbound_keys: sa.outbound_keys().clone(),
            esn: sa.esn(),
            replay_window: sa.replay_window(),
            local_ts: sa.local_ts().to_vec(),
            remote_ts: sa.remote_ts().to_vec(),
            local,
            remote,
            encap,
            purpose: sa.purpose(),
            limits: Limits::of(sa.suite(), sa.esn()),
        }
    }
}

/// How much one direction of an SA may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Ask for a rekey from this sequence number on.
    pub soft_packets: u64,
    /// Send no more than this; never above what sequence numbers allow.
    pub hard_packets: u64,
    /// Ask for a rekey from this many inner bytes on.
    pub soft_bytes: u64,
    /// Send no more than this.
    pub hard_bytes: u64,
}

impl Limits {
    /// What cipher and sequence numbers allow.
    pub const fn of(suite: Suite, esn: bool) -> Self {
        // RFC 4303 3.3.3: never cycle. An eighth is left for the rekey: at 3 million packets/s three minutes.
        let packets = if esn { u64::MAX } else { u32::MAX as u64 };
        // A 128-bit block cipher leaks, by the birthday bound, with probability 2^-32 after 2^48 blocks
        // of 16 bytes (RFC 8221 does not say; the bound is that of NIST SP 800-38D's analysis and of CBC
        // alike). ChaCha20 is not a permutation and has none in reach.
        let bytes = match suite.encryption() {
            Encryption::ChaCha20Poly1305 => u64::MAX,
            // Blocks of 64 bits repeat after 2^32 of them (Sweet32): 2^27 blocks leave one chance in 2^11.
            Encryption::TripleDes => 1 << 30,
            _ => 1 << 52,
        };
        Self {
            soft_packets: packets - packets / 8,
            hard_packets: packets,
            soft_bytes: bytes - bytes / 8,
            hard_bytes: bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_leave_room_for_a_rekey() {
        for suite in Suite::all() {
            for esn in [false, true] {
                let l = Limits::of(suite, esn);
                assert!(l.soft_packets < l.hard_packets && l.soft_bytes < l.hard_bytes);
                assert_eq!(l.hard_packets == u64::from(u32::MAX), !esn);
            }
        }
    }
}
