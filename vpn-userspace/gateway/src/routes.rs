//! Which routes must stand: those of the tunnels that carry the traffic, over an unreachable floor that never goes while
//! the connection is configured, so that traffic of a tunnel that is down is refused and not sent in clear.

use culvert_types::TunnelId;
use ipnet::IpNet;

use crate::fitness::Fitness;
use crate::tunnel::Tunnel;

/// Metric of the active tunnels' routes: below the 20 of what routing daemons put into the kernel, so that static routes
/// win.
const ACTIVE_METRIC: u32 = 10;
/// Metric of the floor: loses against every route through a tunnel.
pub const UNREACHABLE_METRIC: u32 = 65_000;

/// Metric of the floor below learned routes. zebra takes the highest byte of a kernel route's metric for its distance: with any but
/// 255 it would find a floor of the same destination better than what it learned, and keep that to itself.
const LEARNED_FLOOR_METRIC: u32 = 0xff00_0000 + UNREACHABLE_METRIC;

/// Metric of the first tunnel's probe route; one more for each further tunnel. Every route that carries traffic wins.
const PROBE_METRIC: u32 = 60_000;

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// Through the interface of this tunnel.
    Tunnel(TunnelId),
    /// Through the interfaces of these tunnels, flow by flow, in proportion to their weights from 1 to 255.
    Tunnels(Vec<(TunnelId, u8)>),
    /// Nowhere: the sender gets an ICMP unreachable.
    Unreachable,
}

/// A route that the gateway wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The environment whose packets it is for.
    pub environment: String,
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
        (&self.environment, self.destination, self.metric) == (&old.environment, old.destination, old.metric)
    }
}

/// The tunnels that carry the traffic: of the fittest that are up the heaviest, the first of equals; where traffic is
/// balanced, all of them with a weight. None if none is up.
pub(crate) fn carriers(tunnels: &[Tunnel], balance: bool) -> Vec<TunnelId> {
    let Some(best) = tunnels.iter().map(Tunnel::fitness).max().filter(|fitness| *fitness > Fitness::Down)
    else {
        return Vec::new();
    };
    let fittest = || tunnels.iter().filter(|t| t.fitness() == best);
    if balance {
        let weighty: Vec<TunnelId> = fittest().filter(|t| t.plan.weight > 0).map(|t| t.plan.id).collect();
        if !weighty.is_empty() {
            return weighty;
        }
    }
    heaviest(fittest()).into_iter().collect()
}

/// All routes of a connection.
pub(crate) fn wanted(
    environment: &str,
    remote: &[IpNet],
    dynamic: bool,
    tunnels: &[Tunnel],
    carriers: &[TunnelId],
) -> Vec<Route> {
    let route = |destination, via, metric| {
        let environment = environment.to_owned();
        Route { environment, destination, via, metric }
    };
    // With nothing up, the route stays on the preferred interface: it drops, counts, and lets a packet
    // start a tunnel that waits for traffic.
    let via = match carriers {
        [] => heaviest(tunnels.iter().filter(|t| t.state.is_enabled())).map(Via::Tunnel),
        [one] => Some(Via::Tunnel(*one)),
        several => {
            let of = |id: &TunnelId| {
                let tunnel = tunnels.iter().find(|t| t.plan.id == *id)?;
                Some((*id, u8::try_from(tunnel.plan.weight.clamp(1, 255)).unwrap_or(u8::MAX)))
            };
            Some(Via::Tunnels(several.iter().filter_map(of).collect()))
        }
    };
    let through = |destination| via.clone().map(|via| route(destination, via, ACTIVE_METRIC)).into_iter();
    let lowest = if dynamic { LEARNED_FLOOR_METRIC } else { UNREACHABLE_METRIC };
    let floor = |destination| route(destination, Via::Unreachable, lowest);
    let networks = remote
        .iter()
        .flat_map(|net| through(*net).filter(|_| !dynamic).chain([floor(*net)]).collect::<Vec<_>>());
    // What asks through a tunnel is answered through the same one, whoever carries the rest.
    let reverse = tunnels.iter().filter(|t| t.state.is_enabled()).flat_map(|t| {
        let via = Via::Tunnel(t.plan.id);
        t.plan.reverse.iter().flat_map(move |net| [route(*net, via.clone(), ACTIVE_METRIC), floor(*net)])
    });
    // The kernel sends IPv6 out of a named interface only where a route leads there.
    let probes =
        (PROBE_METRIC..).zip(tunnels).filter(|(_, t)| t.state.is_enabled()).filter_map(|(metric, t)| {
            let destination = IpNet::from(std::net::IpAddr::from(t.plan.probe?));
            Some(route(destination, Via::Tunnel(t.plan.id), metric))
        });
    networks.chain(reverse).chain(probes).collect()
}

fn heaviest<'a>(tunnels: impl Iterator<Item = &'a Tunnel>) -> Option<TunnelId> {
    // `max_by_key` keeps the last of equals; the first is wanted.
    tunnels.collect::<Vec<_>>().into_iter().rev().max_by_key(|t| t.plan.weight).map(|t| t.plan.id)
}
