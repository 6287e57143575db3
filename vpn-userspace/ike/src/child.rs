//! [`ChildSa`]: the proof that a peer authenticated, with all that an engine needs to carry its packets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use culvert_crypto::{DhGroup, Suite, SuiteKeys};
use culvert_types::{Spi, TrafficSelector, TunnelId};

use crate::{EspSuite, Purpose};

/// A negotiated pair of ESP SAs, in tunnel mode unless [`transport`](Self::transport) says otherwise.
///
/// Only a finished, authenticated exchange makes one; there is no other way to have one. Keys are
/// zeroized when dropped and redacted in `Debug`.
#[derive(Debug, Clone)]
pub struct ChildSa {
    pub(crate) tunnel: TunnelId,
    pub(crate) inbound: Spi,
    pub(crate) outbound: Spi,
    pub(crate) suite: EspSuite,
    pub(crate) inbound_keys: SuiteKeys,
    pub(crate) outbound_keys: SuiteKeys,
    pub(crate) replay_window: u32,
    pub(crate) local_ts: Vec<TrafficSelector>,
    pub(crate) remote_ts: Vec<TrafficSelector>,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) encap: bool,
    pub(crate) rekey_in: Duration,
    pub(crate) hard_lifetime: Duration,
    pub(crate) special: Special,
}

/// What few CHILD SAs have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Special {
    /// Transport mode.
    pub(crate) transport: bool,
    /// The resource that it is for, as its maker calls it.
    pub(crate) resource: Option<Arc<[u8]>>,
    pub(crate) purpose: Purpose,
}

impl ChildSa {
    /// The tunnel that it belongs to.
    pub fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    /// The SPI of packets to us.
    pub fn inbound(&self) -> Spi {
        self.inbound
    }

    /// The SPI of packets to the peer.
    pub fn outbound(&self) -> Spi {
        self.outbound
    }

    /// The algorithms of both directions.
    pub fn suite(&self) -> Suite {
        self.suite.protection
    }

    /// The keys of packets to us.
    pub fn inbound_keys(&self) -> &SuiteKeys {
        &self.inbound_keys
    }

    /// The keys of packets to the peer.
    pub fn outbound_keys(&self) -> &SuiteKeys {
        &self.outbound_keys
    }

    /// Extended sequence numbers, both ways (RFC 4303 2.2.1).
    pub fn esn(&self) -> bool {
        self.suite.esn
    }

    /// Anti-replay window in packets, from the tunnel's configuration.
    pub fn replay_window(&self) -> u32 {
        self.replay_window
    }

    /// Inner addresses on our side.
    pub fn local_ts(&self) -> &[TrafficSelector] {
        &self.local_ts
    }

    /// Inner addresses on the peer's side.
    pub fn remote_ts(&self) -> &[TrafficSelector] {
        &self.remote_ts
    }

    /// Our outer address.
    pub fn local(&self) -> IpAddr {
        self.local.ip()
    }

    /// The peer's outer address.
    pub fn remote(&self) -> IpAddr {
        self.remote.ip()
    }

    /// With UDP encapsulation (RFC 3948): our and the peer's address and port.
    pub fn encap(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.encap.then_some((self.local, self.remote))
    }

    /// Transport mode: the selectors are the outer addresses, and packets have no inner IP header (RFC 4303 3.1.1).
    pub fn transport(&self) -> bool {
        self.special.transport
    }

    /// What it is for, of several for the same networks.
    pub fn purpose(&self) -> Purpose {
        self.special.purpose
    }

    /// The resource, such as a CPU, that it is for, as whoever asked for it calls it (RFC 9611). `None`: for all
    /// that has none of its own.
    pub fn resource(&self) -> Option<&[u8]> {
        self.special.resource.as_deref()
    }

    /// After this long from now we rekey it.
    pub fn rekey_in(&self) -> Duration {
        self.rekey_in
    }

    /// After this long from now it must not be used any more.
    pub fn hard_lifetime(&self) -> Duration {
        self.hard_lifetime
    }

    /// The group of the exchange that made it, when that had a Diffie-Hellman exchange of its own.
    pub fn dh_group(&self) -> Option<DhGroup> {
        self.suite.group
    }
}
