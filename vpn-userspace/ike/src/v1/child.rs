//! CHILD SAs of IKEv1: one pair of networks each (RFC 2407 4.6.2), and what becomes of two for the same pair.

use std::net::IpAddr;
use std::time::Instant;

use culvert_types::{Spi, TrafficSelector};
use ipnet::IpNet;

use crate::PeerConfig;
use crate::wire::v1::{Id, id};

/// A CHILD SA of an established ISAKMP SA.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) inbound: Spi,
    pub(crate) outbound: Spi,
    pub(crate) pair: Pair,
    pub(crate) state: State,
    /// When we rekey it.
    pub(crate) soft: Option<Instant>,
    /// When it must be gone.
    pub(crate) hard: Instant,
    /// When we delete it: another one has taken its place.
    pub(crate) delete_at: Option<Instant>,
    /// Its outbound side is in use, or may be: the peer has proven with HASH(3) that it has the keys.
    pub(crate) confirmed: bool,
    /// We opened its quick mode.
    pub(crate) ours: bool,
    pub(crate) started: Instant,
    pub(crate) made: Instant,
    pub(crate) lowest_nonce: Vec<u8>,
    /// The CHILD SA that it was negotiated in place of, where we asked for that.
    pub(crate) replaces: Option<Spi>,
}

/// Where a CHILD SA is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// In use.
    Live,
    /// Another one took its place; it still receives.
    Replaced,
}

/// Our and the peer's network of one CHILD SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) local: TrafficSelector,
    pub(crate) remote: TrafficSelector,
}

impl Pair {
    pub(crate) fn describe(&self) -> String {
        format!("{} === {}", self.local, self.remote)
    }
}

/// Every pair of a tunnel: each needs a quick mode of its own, as it carries one identity a side (RFC 2409 5.5).
pub(crate) fn pairs(config: &PeerConfig) -> Vec<Pair> {
    let with = |local: &TrafficSelector| {
        let local = local.clone();
        let same = config.remote_ts.iter().filter(move |r| r.is_ipv4() == local.is_ipv4());
        same.cloned().collect::<Vec<_>>()
    };
    let all = config
        .local_ts
        .iter()
        .flat_map(|local| with(local).into_iter().map(move |remote| Pair { local: local.clone(), remote }));
    all.collect()
}

/// An identification payload's parts: type, protocol, port, data.
pub(crate) struct OwnedId {
    kind: u8,
    protocol: u8,
    port: u16,
    data: Vec<u8>,
}

impl OwnedId {
    pub(crate) fn id(&self) -> Id<'_> {
        Id { kind: self.kind, protocol: self.protocol, port: self.port, data: &self.data }
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The identification payload of a network: an address, a subnet, or a range.
pub(crate) fn to_id(ts: &TrafficSelector) -> OwnedId {
    let nets = ts.nets();
    let four = ts.is_ipv4();
    let (kind, data) = match nets.as_slice() {
        [net] if net.prefix_len() == net.max_prefix_len() => {
            (if four { id::IPV4_ADDR } else { id::IPV6_ADDR }, octets(net.addr()))
        }
        [net] => {
            let kind = if four { id::IPV4_SUBNET } else { id::IPV6_SUBNET };
            (kind, [octets(net.network()), octets(net.netmask())].concat())
        }
        _ => {
            let kind = if four { id::IPV4_RANGE } else { id::IPV6_RANGE };
            (kind, [octets(ts.start()), octets(ts.end())].concat())
        }
    };
    let ports = ts.ports();
    // RFC 2407 4.6.2: one port, or 0 for any.
    let port = if ports.start() == ports.end() { *ports.start() } else { 0 };
    OwnedId { kind, protocol: ts.protocol(), port, data }
}

/// The network in an identification payload; `None` for a name or for what is no network.
pub(crate) fn from_id(of: Id<'_>) -> Option<TrafficSelector> {
    let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    let (start, end) = match of.kind {
        id::IPV4_ADDR => (v4(of.data)?, v4(of.data)?),
        id::IPV6_ADDR => (v6(of.data)?, v6(of.data)?),
        id::IPV4_RANGE => (v4(of.data.get(..4)?)?, v4(of.data.get(4..)?)?),
        id::IPV6_RANGE => (v6(of.data.get(..16)?)?, v6(of.data.get(16..)?)?),
        id::IPV4_SUBNET => subnet(v4(of.data.get(..4)?)?, v4(of.data.get(4..)?)?)?,
        id::IPV6_SUBNET => subnet(v6(of.data.get(..16)?)?, v6(of.data.get(16..)?)?)?,
        _ => return None,
    };
    let ports = if of.port == 0 { 0..=u16::MAX } else { of.port..=of.port };
    TrafficSelector::new(start, end, of.protocol, ports).ok()
}

fn subnet(address: IpAddr, mask: IpAddr) -> Option<(IpAddr, IpAddr)> {
    let net = IpNet::with_netmask(address, mask).ok()?;
    Some((net.network(), net.broadcast()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_back() {
        let ts = |a: &str, b: &str, protocol, ports| {
            TrafficSelector::new(a.parse().unwrap(), b.parse().unwrap(), protocol, ports).unwrap()
        };
        let all = [
            (ts("10.1.0.0", "10.1.255.255", 0, 0..=65535), id::IPV4_SUBNET),
            (ts("0.0.0.0", "255.255.255.255", 0, 0..=65535), id::IPV4_SUBNET),
            (ts("10.1.0.1", "10.1.0.1", 6, 443..=443), id::IPV4_ADDR),
            (ts("10.1.0.1", "10.1.0.7", 0, 0..=65535), id::IPV4_RANGE),
            (ts("2001:db8::", "2001:db8::ffff", 0, 0..=65535), id::IPV6_SUBNET),
            (ts("2001:db8::1", "2001:db8::1", 0, 0..=65535), id::IPV6_ADDR),
            (ts("2001:db8::1", "2001:db8::3", 0, 0..=65535), id::IPV6_RANGE),
        ];
        for (selector, kind) in all {
            let made = to_id(&selector);
            assert_eq!((from_id(made.id()), made.kind), (Some(selector), kind));
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let read = |kind, data: &[u8]| from_id(Id { kind, protocol: 0, port: 0, data });
        assert_eq!(read(2, b"name"), None);
        for kind in 0..=255 {
            for length in 0..40 {
                if let Some(ts) = read(kind, &vec![1; length]) {
                    assert!(ts.start() <= ts.end());
                }
            }
        }
        // A mask with holes, an inverted range.
        assert_eq!(read(id::IPV4_SUBNET, &[10, 0, 0, 0, 255, 0, 255, 0]), None);
        assert_eq!(read(id::IPV4_RANGE, &[10, 0, 0, 9, 10, 0, 0, 1]), None);
    }
}
