//! Which routes must stand: the active tunnel's, over an unreachable floor that never goes while the
//! connection is configured, so that traffic of a tunnel that is down is refused and not sent in clear.

use culvert_types::TunnelId;
use ipnet::IpNet;

use crate::tunnel::Tunnel;

/// Metric of the active tunnel's routes.
const ACTIVE_METRIC: u32 = 100;
/// Metric of the floor: loses against every route through a tunnel.
pub const UNREACHABLE_METRIC: u32 = 65_000;

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Through the interface of this tunnel.
    Tunnel(TunnelId),
    /// Nowhere: the sender gets an ICMP unreachable.
    Unreachable,
}

/// A route that the gateway wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub destination: IpNet,
    /// Where it leads.
    pub via: Via,
    /// Preference of the kernel among equal destinations; lower wins.
    pub metric: u32,
}

impl Route {
    /// Whether putting this route also takes `old` away, as a kernel "replace" does.
    pub(crate) fn replaces(&self, old: &Self) -> bool {
        self.destination == old.destination && self.metric == old.metric
    }
}

/// The tunnel that carries the traffic: the heaviest that is up; the first of equals.
pub(crate) fn active(tunnels: &[Tunnel]) -> Option<TunnelId> {
    heaviest(tunnels.iter().filter(|t| t.state.is_up()))
}

/// All routes of a connection.
pub(crate) fn wanted(remote: &[IpNet], tunnels: &[Tunnel]) -> Vec<Route> {
    // With nothing up, the route stays on the preferred interface: it drops, counts, and lets a packet
    // start a tunnel that waits for traffic.
    let chosen = active(tunnels).or_else(|| heaviest(tunnels.iter().filter(|t| t.state.is_enabled())));
    let through = |destination| {
        chosen.map(|id| Route { destination, via: Via::Tunnel(id), metric: ACTIVE_METRIC }).into_iter()
    };
    let floor = |destination| Route { destination, via: Via::Unreachable, metric: UNREACHABLE_METRIC };
    remote.iter().flat_map(|net| through(*net).chain([floor(*net)])).collect()
}

fn heaviest<'a>(tunnels: impl Iterator<Item = &'a Tunnel>) -> Option<TunnelId> {
    // `max_by_key` keeps the last of equals; the first is wanted.
    tunnels.collect::<Vec<_>>().into_iter().rev().max_by_key(|t| t.plan.weight).map(|t| t.plan.id)
}
