//! Routes as the daemon speaks of them, to and from rtnetlink messages.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};

use super::ROUTE_PROTOCOL;

/// A route of ours (protocol [`ROUTE_PROTOCOL`]).
///
/// Destination, metric and table identify it: a smaller metric wins, so that an unreachable route
/// of a large metric catches traffic only while no tunnel carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through what.
    pub target: RouteTarget,
    /// `metric` of `ip route`. IPv6 turns 0 into 1024, so give one.
    pub metric: u32,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// MSS that local TCP advertises, in bytes.
    pub advmss: Option<u32>,
    /// Preferred source address of packets that this host sends.
    pub source: Option<IpAddr>,
    /// Routing table; [`Route::MAIN`] unless rules say otherwise.
    pub table: u32,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteTarget {
    /// Out of an interface, directly or by a neighbour.
    Device {
        /// Interface index.
        index: u32,
        /// Next hop; `None` on point-to-point interfaces.
        gateway: Option<IpAddr>,
    },
    /// Out of several interfaces, flow by flow: their indices with weights from 1 to 255.
    Balanced(Vec<(u32, u8)>),
    /// Nowhere: senders get ICMP host unreachable, nothing leaks.
    Unreachable,
}

/// How the kernel would send to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteToPeer {
    /// The source address that it would use.
    pub source: IpAddr,
    /// Index of the outgoing interface.
    pub interface: u32,
    /// Next hop, if the address is not on the link.
    pub gateway: Option<IpAddr>,
    /// Path MTU of the route if it has one of its own; else that of the interface holds.
    pub mtu: Option<u32>,
    /// The address is one of this host.
    pub local: bool,
}

impl Route {
    /// The main routing table.
    pub const MAIN: u32 = 254;

    /// A route out of an interface without next hop, in the main table.
    pub fn via_device(destination: IpNet, index: u32, metric: u32) -> Self {
        Self {
            destination: destination.trunc(),
            target: RouteTarget::Device { index, gateway: None },
            metric,
            mtu: None,
            advmss: None,
            source: None,
            table: Self::MAIN,
        }
    }

    /// A route out of several interfaces without next hops, in the main table; of one alone, an ordinary one.
    pub fn balanced(destination: IpNet, hops: Vec<(u32, u8)>, metric: u32) -> Self {
        match hops[..] {
            [(index, _)] => Self::via_device(destination, index, metric),
            _ => Self { target: RouteTarget::Balanced(hops), ..Self::via_device(destination, 0, metric) },
        }
    }

    /// An unreachable route in the main table.
    pub fn unreachable(destination: IpNet, metric: u32) -> Self {
        Self { target: RouteTarget::Unreachable, ..Self::via_device(destination, 0, metric) }
    }

    /// The same in another table.
    pub fn in_table(self, table: u32) -> Self {
        Self { table, ..self }
    }

    /// A route of the main table that leads out of an interface, as ours in another table.
    pub(super) fn copy_of(message: &RouteMessage, index: u32, table: u32) -> Option<Self> {
        let mut ours = message.clone();
        ours.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        let route = Self::from_message(&ours)?;
        // IPv6 has no metric of 0; for IPv4 a number of our own makes it the same.
        (route.target != RouteTarget::Unreachable).then_some(())?;
        let gateway = Parts::of(message).gateway;
        Some(Self {
            target: RouteTarget::Device { index, gateway },
            metric: route.metric.max(1),
            table,
            ..route
        })
    }

    pub(super) fn to_message(&self) -> RouteMessage {
        let mut message = self.identity();
        let header = &mut message.header;
        match &self.target {
            &RouteTarget::Device { index, gateway } => {
                header.kind = RouteType::Unicast;
                header.scope = match (gateway, self.destination) {
                    (None, IpNet::V4(_)) => RouteScope::Link,
                    _ => RouteScope::Universe,
                };
                message.attributes.push(RouteAttribute::Oif(index));
                if let Some(gateway) = gateway {
                    message.attributes.push(match (self.destination, gateway) {
                        (IpNet::V4(_), IpAddr::V6(_)) => RouteAttribute::Via(RouteVia::from(gateway)),
                        _ => RouteAttribute::Gateway(RouteAddress::from(gateway)),
                    });
                }
            }
            RouteTarget::Balanced(hops) => {
                header.kind = RouteType::Unicast;
                header.scope = match self.destination {
                    IpNet::V4(_) => RouteScope::Link,
                    IpNet::V6(_) => RouteScope::Universe,
                };
                message.attributes.push(RouteAttribute::MultiPath(next_hops(hops)));
            }
            RouteTarget::Unreachable => {
                header.kind = RouteType::Unreachable;
                header.scope = RouteScope::Universe;
            }
        }
        let metrics: Vec<_> =
            self.mtu.map(RouteMetric::Mtu).into_iter().chain(self.advmss.map(RouteMetric::Advmss)).collect();
        if !metrics.is_empty() {
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
        }
        message
    }

    pub(super) fn to_delete_message(&self) -> RouteMessage {
        let mut message = self.identity();
        message.header.scope = RouteScope::NoWhere; // any scope
        match &self.target {
            RouteTarget::Device { index, .. } => {
                message.header.kind = RouteType::Unicast;
                message.attributes.push(RouteAttribute::Oif(*index));
            }
            RouteTarget::Balanced(hops) => {
                message.header.kind = RouteType::Unicast;
                message.attributes.push(RouteAttribute::MultiPath(next_hops(hops)));
            }
            RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        }
        message
    }

    /// Destination, table, metric and protocol: by which the kernel finds the route.
    fn identity(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination.addr());
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        match u8::try_from(self.table) {
            Ok(table) => message.header.table = table,
            Err(_) => {
                message.header.table = RouteHeader::RT_TABLE_UNSPEC;
                message.attributes.push(RouteAttribute::Table(self.table));
            }
        }
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(self.destination.network())));
        message.attributes.push(RouteAttribute::Priority(self.metric));
        message
    }

    /// `None` for routes that are not ours or of a form that we never make.
    pub(super) fn from_message(message: &RouteMessage) -> Option<Self> {
        if message.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
            return None;
        }
        let unspecified = match message.header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let parts = Parts::of(message);
        let target = match message.header.kind {
            RouteType::Unicast if !parts.hops.is_empty() => RouteTarget::Balanced(parts.hops),
            RouteType::Unicast => RouteTarget::Device { index: parts.device?, gateway: parts.gateway },
            RouteType::Unreachable => RouteTarget::Unreachable,
            _ => return None,
        };
        Some(Self {
            destination: IpNet::new(
                parts.destination.unwrap_or(unspecified),
                message.header.destination_prefix_length,
            )
            .ok()?,
            target,
            metric: parts.metric,
            mtu: parts.mtu,
            advmss: parts.advmss,
            source: parts.source,
            table: parts.table.unwrap_or(u32::from(message.header.table)),
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            RouteTarget::Device { index, gateway: None } => {
                write!(f, "{} by interface {index}", self.destination)?;
            }
            RouteTarget::Device { index, gateway: Some(gateway) } => {
                write!(f, "{} by {gateway} on interface {index}", self.destination)?;
            }
            RouteTarget::Balanced(hops) => {
                write!(f, "{} by", self.destination)?;
                for (index, weight) in hops {
                    write!(f, " interface {index} weight {weight}")?;
                }
            }
            RouteTarget::Unreachable => write!(f, "unreachable {}", self.destination)?,
        }
        write!(f, " metric {}", self.metric)
    }
}

impl RouteToPeer {
    pub(super) fn from_message(message: &RouteMessage, asked_source: Option<IpAddr>) -> Option<Self> {
        let parts = Parts::of(message);
        Some(Self {
            source: asked_source.or(parts.source)?,
            interface: parts.device?,
            gateway: parts.gateway,
            mtu: parts.mtu,
            local: message.header.kind == RouteType::Local,
        })
    }
}

pub(super) fn dump_request(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message
}

pub(super) fn lookup_request(remote: IpAddr, source: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(remote);
    message.header.destination_prefix_length = if remote.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(remote)));
    if let Some(source) = source {
        message.header.source_prefix_length = message.header.destination_prefix_length;
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(source)));
    }
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The kernel keeps a weight as one less (rtnetlink(7): `rtnh_hops`).
fn next_hops(hops: &[(u32, u8)]) -> Vec<RouteNextHop> {
    let hop = |(index, weight): &(u32, u8)| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = *index;
        hop.hops = weight.saturating_sub(1);
        hop
    };
    hops.iter().map(hop).collect()
}

#[derive(Default)]
struct Parts {
    destination: Option<IpAddr>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    device: Option<u32>,
    hops: Vec<(u32, u8)>,
    table: Option<u32>,
    metric: u32,
    mtu: Option<u32>,
    advmss: Option<u32>,
}

impl Parts {
    fn of(message: &RouteMessage) -> Self {
        let mut parts = Self::default();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(a) => parts.destination = ip(a),
                RouteAttribute::Gateway(a) => parts.gateway = ip(a),
                RouteAttribute::Via(RouteVia::Inet6(a)) => parts.gateway = Some(IpAddr::V6(*a)),
                RouteAttribute::PrefSource(a) => parts.source = ip(a),
                RouteAttribute::Oif(index) => parts.device = Some(*index),
                RouteAttribute::MultiPath(hops) => {
                    let hop = |hop: &RouteNextHop| (hop.interface_index, hop.hops.saturating_add(1));
                    parts.hops = hops.iter().map(hop).collect();
                }
                RouteAttribute::Table(table) => parts.table = Some(*table),
                RouteAttribute::Priority(metric) => parts.metric = *metric,
                RouteAttribute::Metrics(metrics) => {
                    for metric in metrics {
                        match metric {
                            RouteMetric::Mtu(v) => parts.mtu = Some(*v),
                            RouteMetric::Advmss(v) => parts.advmss = Some(*v),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        parts
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}
