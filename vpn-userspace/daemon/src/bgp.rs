//! Routing by BGP: from the configuration and the gateway's decisions to what a routing program is told, and back to what
//! operators see.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use culvert_api::{BgpSession, BgpStatus, Response, RouteEntry, RouteOrigin, Routes, What};
use culvert_bgp::{Bfd, Preference, Session, SessionState, Speaker};
use culvert_config::{Config, Connection, DEFAULT_CONTROL_SOCKET};
use culvert_gateway::{Standing, Via};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use crate::bgp_worker::{Event, State, Wanted, Worker};
use crate::daemon::Daemon;

/// Where routing programs have their files and sockets.
const FOLDER: &str = "/run/culvert";
/// zebra's, and what BIRD is told: static routes of ours are below.
const METRIC: u32 = 20;

/// The routing program, as the daemon has it.
pub(crate) struct Routing {
    worker: Option<Worker>,
    events: mpsc::UnboundedReceiver<Event>,
    /// Something may have changed that it must be told.
    stale: bool,
    /// Our identifier where the file has none: it stays, for another resets every session.
    id: Option<Ipv4Addr>,
}

impl Routing {
    pub(crate) fn new() -> Self {
        let (worker, events) = Worker::new();
        Self { worker: Some(worker), events, stale: true, id: None }
    }

    pub(crate) fn touch(&mut self) {
        self.stale = true;
    }

    /// What the program tells.
    pub(crate) fn next(&mut self) -> impl Future<Output = Option<Event>> + '_ {
        self.events.recv()
    }

    fn state(&self) -> State {
        self.worker.as_ref().map(Worker::state).unwrap_or_default()
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop().await;
        }
    }
}

/// How a tunnel's way is preferred, by both sides.
fn preference(standing: Standing) -> Preference {
    let (enabled, local_preference, med, prepend) = match standing {
        Standing::Carries => (true, 300, 0, 0),
        // Weights are from 0 to 100: the heavier is the next.
        Standing::StandsBy(weight) => (true, 100 + weight.min(100), 200 - weight.min(100), 1),
        Standing::Sick => (true, 50, 400, 3),
        Standing::Down => (false, 10, 500, 3),
    };
    Preference { enabled, local_preference, med, prepend }
}

/// What the sessions of all connections are to be; `None` without any.
fn speaker(
    config: &Config,
    router_id: Option<Ipv4Addr>,
    standing: impl Fn(&str, &str) -> Standing,
) -> Option<Speaker> {
    let of = |nets: &[IpNet], six: bool| -> Vec<IpNet> {
        nets.iter().copied().filter(|net| net.addr().is_ipv6() == six).collect()
    };
    let mut sessions = Vec::new();
    for connection in &config.connections {
        let Some(bgp) = &connection.bgp else { continue };
        let others = config.connections.iter().filter(|other| other.name != connection.name);
        let transit: Vec<IpNet> = others
            .filter_map(|o| o.bgp.as_ref())
            .filter(|o| o.propagate)
            .flat_map(|o| o.accept.clone())
            .collect();
        for tunnel in &connection.tunnels {
            for neighbor in &tunnel.bgp {
                let six = neighbor.address.is_ipv6();
                let mut transit = of(&transit, six);
                transit.sort_unstable();
                transit.dedup();
                sessions.push(Session {
                    name: format!("{}/{}", connection.name, tunnel.name),
                    connection: connection.name.clone(),
                    interface: tunnel.interface.clone(),
                    local: neighbor.local,
                    neighbor: neighbor.address,
                    remote_asn: neighbor.asn,
                    hold_time: bgp.hold_time,
                    keepalive: bgp.keepalive,
                    bfd: bgp.bfd.map(|bfd| Bfd { interval: bfd.interval, multiplier: bfd.multiplier }),
                    graceful_restart: bgp.graceful_restart,
                    max_prefixes: bgp.max_prefixes,
                    password: bgp.password.clone(),
                    accept: of(&bgp.accept, six),
                    announce: of(&bgp.announce, six),
                    transit,
                    preference: preference(standing(&connection.name, &tunnel.name)),
                });
            }
        }
    }
    if sessions.is_empty() {
        return None;
    }
    let asn = config.gateway.bgp.asn;
    let inner = sessions.iter().find_map(|s| match s.local {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let router_id = config.gateway.bgp.router_id.or(router_id).or(inner).unwrap_or(Ipv4Addr::from(asn));
    Some(Speaker { asn, router_id, table: None, sessions })
}

/// The addresses of a tunnel's interface. FRR speaks IPv6 where there is a link-local one, which the kernel gives to none of these.
pub(crate) fn inside(connection: &Connection, tunnel: &culvert_config::Tunnel) -> Vec<IpNet> {
    let six = tunnel.inside.iter().filter(|_| connection.bgp.is_some()).find_map(link_local);
    tunnel.inside.iter().copied().chain(six).collect()
}

/// The link-local address of an interface, by its IPv6 address inside: their last 64 bits are the same.
fn link_local(inside: &IpNet) -> Option<IpNet> {
    let IpNet::V6(inside) = inside else { return None };
    let last = u128::from(inside.addr()) & u128::from(u64::MAX);
    IpNet::new(IpAddr::V6((0xfe80_u128 << 112 | last).into()), 64).ok()
}

/// A folder for each control socket, so that several culvertds (in namespaces) do not meet. Not beside the socket: the
/// program's user must get there.
fn folder(control_socket: &Path) -> PathBuf {
    if control_socket == Path::new(DEFAULT_CONTROL_SOCKET) {
        return Path::new(FOLDER).join("bgp");
    }
    // FNV-1a: the same in every version, so that the next culvertd finds what this one left.
    let name = control_socket.as_os_str().as_encoded_bytes();
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Path::new(FOLDER).join(format!("bgp-{hash:016x}"))
}

impl Daemon {
    /// Tells the routing program what changed, if something may have.
    pub(crate) fn settle_bgp(&mut self) {
        if !std::mem::take(&mut self.routing.stale) {
            return;
        }
        let own = self.wan_addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        self.routing.id = self.routing.id.or(own);
        let standing = |connection: &str, tunnel: &str| match self.find(connection, tunnel) {
            Some(id) => self.gateway.standing(id),
            None => Standing::Down,
        };
        let wanted = speaker(&self.config, self.routing.id, standing).map(|speaker| Wanted {
            speaker,
            daemon: self.config.gateway.bgp.daemon,
            folder: folder(&self.config.gateway.control_socket),
            namespace: None,
        });
        if let Some(worker) = &self.routing.worker {
            worker.want(wanted);
        }
    }

    pub(crate) fn on_bgp(&mut self, event: Event) {
        match event {
            Event::Runs(program) => tracing::info!("{} runs", program.name()),
            Event::Fault(text) => tracing::error!("routing by BGP: {text}"),
            Event::Session { neighbor, to, error } => {
                let Some((connection, tunnel)) = self.of_neighbor(&neighbor) else { return };
                if to == SessionState::Established {
                    let text = format!("BGP session with {neighbor} is up");
                    tracing::info!(connection, tunnel, "{text}");
                    self.history.happened(&connection, &tunnel, What::Routing, text);
                } else {
                    let why = error.map_or(String::new(), |error| format!(": {error}"));
                    let text = format!("BGP session with {neighbor} is down{why}");
                    tracing::warn!(connection, tunnel, "{text}");
                    self.history.happened(&connection, &tunnel, What::Routing, text);
                }
            }
        }
    }

    fn of_neighbor(&self, neighbor: &str) -> Option<(String, String)> {
        let address: IpAddr = neighbor.parse().ok()?;
        let tunnels = self.config.connections.iter().flat_map(|c| c.tunnels.iter().map(move |t| (c, t)));
        let mut at = tunnels.filter(|(_, t)| t.bgp.iter().any(|n| n.address == address));
        at.next().map(|(c, t)| (c.name.clone(), t.name.clone()))
    }

    /// The sessions of a tunnel, as they were a second ago at most.
    pub(crate) fn bgp_of(&self, connection: &Connection, tunnel: &culvert_config::Tunnel) -> Vec<BgpSession> {
        if tunnel.bgp.is_empty() {
            return Vec::new();
        }
        self.sessions_of(connection, tunnel, &self.routing.state())
    }

    /// What stands in the way of routing by BGP.
    pub(crate) fn bgp_fault(&self) -> Option<String> {
        let fault = self.routing.state().fault?;
        Some(format!(
            "routing by BGP: {fault}; what is protected stays unreachable meanwhile, and it is tried again"
        ))
    }

    fn sessions_of(
        &self,
        connection: &Connection,
        tunnel: &culvert_config::Tunnel,
        state: &State,
    ) -> Vec<BgpSession> {
        let standing =
            self.find(&connection.name, &tunnel.name).map_or(Standing::Down, |id| self.gateway.standing(id));
        let session = |neighbor: &culvert_config::BgpNeighbor| {
            let address = neighbor.address.to_string();
            let said =
                state.report.sessions.iter().find(|s| s.neighbor == address).cloned().unwrap_or_default();
            let since = state.since.get(&address).map_or(self.started, |(_, since)| *since);
            let preference = preference(standing);
            let shown = if preference.enabled { said.state } else { SessionState::Shut };
            BgpSession {
                connection: connection.name.clone(),
                tunnel: tunnel.name.clone(),
                local: neighbor.local.to_string(),
                neighbor: address,
                remote_asn: neighbor.asn,
                state: shown.as_str().to_owned(),
                since: Self::unix_seconds(since),
                received: (said.received > 0).then_some(said.received),
                accepted: said.accepted,
                advertised: said.advertised,
                local_preference: preference.local_preference,
                bfd_up: said.bfd_up,
                error: said.error,
            }
        };
        tunnel.bgp.iter().map(session).collect()
    }

    /// Answers `culvert bgp`, from what the program says now.
    pub(crate) fn ask_bgp(&self, answer: oneshot::Sender<Response>) {
        self.ask_worker(answer, |routing, state| {
            let sessions = routing.sessions.into_iter().map(|mut session| {
                if let Some(said) = state.report.sessions.iter().find(|s| s.neighbor == session.neighbor) {
                    session.received = Some(said.received);
                    (session.accepted, session.advertised) = (said.accepted, said.advertised);
                }
                session
            });
            let sessions = sessions.collect();
            Response::Bgp(BgpStatus { sessions, ..routing.status })
        });
    }

    /// Answers `culvert route list`, likewise.
    pub(crate) fn ask_routes(&self, answer: oneshot::Sender<Response>) {
        self.ask_worker(answer, |routing, state| {
            let mut routes = routing.routes;
            let by_neighbor: BTreeMap<&str, String> = routing
                .sessions
                .iter()
                .map(|s| (s.neighbor.as_str(), format!("{}/{}", s.connection, s.tunnel)))
                .collect();
            for learned in &state.report.routes {
                let Some(tunnel) = by_neighbor.get(learned.neighbor.to_string().as_str()) else { continue };
                let destination = learned.destination.to_string();
                // Ways of equal preference are one route.
                let same = routes.iter_mut().find(|r| {
                    learned.best && r.origin == RouteOrigin::Bgp && r.active && r.destination == destination
                });
                if let Some(same) = same {
                    same.tunnels.push(tunnel.clone());
                    continue;
                }
                routes.push(RouteEntry {
                    destination,
                    tunnels: vec![tunnel.clone()],
                    origin: RouteOrigin::Bgp,
                    metric: METRIC,
                    active: learned.best,
                    local_preference: learned.local_preference,
                    path: Some(learned.path.clone()),
                });
            }
            // The smallest metric of a destination wins; the best of the neighbours' ways stands for all of them.
            let mut least: BTreeMap<String, u32> = BTreeMap::new();
            for route in routes.iter().filter(|r| r.active) {
                let metric = least.entry(route.destination.clone()).or_insert(route.metric);
                *metric = route.metric.min(*metric);
            }
            for route in &mut routes {
                route.active &= least.get(&route.destination) == Some(&route.metric);
            }
            let key = |r: &RouteEntry| {
                let net: Option<IpNet> = r.destination.parse().ok();
                (net, !r.active, r.metric, std::cmp::Reverse(r.local_preference))
            };
            routes.sort_by_key(key);
            Response::Routes(Routes { routes, fault: routing.status.fault })
        });
    }

    /// Asks the program in a task of its own: it may take its time.
    fn ask_worker(
        &self,
        answer: oneshot::Sender<Response>,
        put: impl FnOnce(Seen, State) -> Response + Send + 'static,
    ) {
        let now = self.routing.state();
        let tunnels = self.config.connections.iter().flat_map(|c| c.tunnels.iter().map(move |t| (c, t)));
        let sessions: Vec<BgpSession> = tunnels.flat_map(|(c, t)| self.sessions_of(c, t, &now)).collect();
        let router_id = speaker(&self.config, self.routing.id, |_, _| Standing::Down).map(|s| s.router_id);
        let routes = self.gateway.routes().map(|route| {
            let (tunnels, origin) = match &route.via {
                Via::Unreachable => (Vec::new(), RouteOrigin::Floor),
                Via::Tunnel(id) => (vec![*id], RouteOrigin::Static),
                Via::Tunnels(ids) => (ids.iter().map(|(id, _)| *id).collect(), RouteOrigin::Static),
            };
            let name = |id| self.tunnels.get(&id).map(|t| format!("{}/{}", t.connection, t.name));
            RouteEntry {
                destination: route.destination.to_string(),
                tunnels: tunnels.into_iter().filter_map(name).collect(),
                origin,
                metric: route.metric,
                active: true,
                local_preference: None,
                path: None,
            }
        });
        let status = BgpStatus {
            program: now.program.map(|program| program.name().to_owned()),
            running: now.running,
            fault: now.fault,
            restarts: now.restarts,
            asn: self.config.gateway.bgp.asn,
            router_id: router_id.map(|id| id.to_string()).unwrap_or_default(),
            sessions: Vec::new(),
        };
        let seen = Seen { status, sessions, routes: routes.collect() };
        let Some(worker) = &self.routing.worker else { return };
        let ask = worker.ask();
        tokio::spawn(async move {
            let state = ask.await;
            // The client may have gone.
            let _ = answer.send(put(seen, state));
        });
    }
}

/// What the daemon knew when it was asked.
struct Seen {
    status: BgpStatus,
    sessions: Vec<BgpSession>,
    routes: Vec<RouteEntry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_a_tunnel_stands_the_more_it_is_preferred() {
        let order = [
            Standing::Carries,
            Standing::StandsBy(100),
            Standing::StandsBy(40),
            Standing::StandsBy(0),
            Standing::Sick,
            Standing::Down,
        ];
        for pair in order.map(preference).windows(2) {
            assert!(pair[0].local_preference > pair[1].local_preference, "{pair:?}");
            assert!(pair[0].med < pair[1].med && pair[0].prepend <= pair[1].prepend, "{pair:?}");
        }
        assert!(!preference(Standing::Down).enabled && preference(Standing::Sick).enabled);
    }

    #[test]
    fn link_local_addresses_follow_the_inside() {
        let of = |inside: &str| link_local(&inside.parse().unwrap()).map(|net| net.to_string());
        assert_eq!(of("fd99::2:5/126").as_deref(), Some("fe80::2:5/64"));
        assert_eq!(of("169.254.10.2/30"), None);
    }

    #[test]
    fn each_control_socket_has_a_folder() {
        assert_eq!(folder(Path::new(DEFAULT_CONTROL_SOCKET)), Path::new("/run/culvert/bgp"));
        let (one, other) = (folder(Path::new("/tmp/a")), folder(Path::new("/tmp/b")));
        assert!(one != other && one == folder(Path::new("/tmp/a")) && one.starts_with("/run/culvert"));
    }
}
