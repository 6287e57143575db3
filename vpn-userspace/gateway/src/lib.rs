//! What the gateway decides: when tunnels start, restart and stop, and which routes stand. No I/O, no clock.
//!
//! One machine for all connections, mutated by [`Gateway::handle`] and drained by [`Gateway::poll`].
//! It knows nothing of IKE messages, ESP or the kernel: it says "initiate this tunnel" and "this route
//! must stand", and somebody else does it.

mod backoff;
mod routes;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use culvert_types::{Spi, TunnelId};
use ipnet::IpNet;

pub use routes::{Route, UNREACHABLE_METRIC, Via};
pub use tunnel::{State, TunnelState};

use tunnel::Tunnel;

/// When a tunnel is brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// As soon as the gateway runs, and again whenever it is lost.
    Immediate,
    /// When the first packet for it arrives.
    OnTraffic,
    /// Never by us: the peer starts.
    Respond,
}

/// What to do when the peer is found dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadPeerAction {
    /// Forget the tunnel until the operator or the peer brings it back.
    Clear,
    /// Negotiate again at once.
    Restart,
    /// Negotiate again when the next packet needs it.
    Hold,
}

/// A connection as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPlan {
    /// The name in the configuration.
    pub name: String,
    /// Networks behind the peer: each gets a route.
    pub remote: Vec<IpNet>,
    /// Its tunnels, in the order of the configuration.
    pub tunnels: Vec<TunnelPlan>,
}

/// A tunnel as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPlan {
    /// The process-wide id.
    pub id: TunnelId,
    /// Preference among the connection's tunnels that are up; the highest carries the traffic.
    pub weight: u32,
    /// When it is brought up.
    pub start: Start,
    /// What follows a dead peer.
    pub dead_peer: DeadPeerAction,
    /// False: kept down until the operator enables it.
    pub enabled: bool,
}

/// Why an SA is gone, as far as the gateway's decisions care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The peer no longer answers.
    PeerDead,
    /// The peer closed it.
    PeerClosed,
    /// It could not be negotiated.
    Failed,
    /// We closed it, or another SA took its place.
    Local,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A connection was configured, or its configuration changed: tunnels whose ids stay keep their state.
    Set(ConnectionPlan),
    /// A connection was removed from the configuration.
    Remove(String),
    /// A CHILD SA, named by its inbound SPI, can carry traffic.
    ChildUp(TunnelId, Spi),
    /// A CHILD SA can no longer carry traffic; the text is for people.
    ChildDown(TunnelId, Spi, Loss, String),
    /// The tunnel has no IKE SA any more; `cause` is for people.
    Lost(TunnelId, Loss, String),
    /// A packet found no SA to carry it.
    Traffic(TunnelId),
    /// The operator wants it up.
    Enable(TunnelId),
    /// The operator wants it down.
    Disable(TunnelId),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Negotiate what the tunnel lacks: an IKE SA with a CHILD SA, or only the latter.
    Initiate(TunnelId),
    /// Close the tunnel's IKE SAs, telling the peer.
    Terminate(TunnelId),
    /// This route must stand (replacing one of the same destination and metric).
    AddRoute(Route),
    /// This route must go.
    RemoveRoute(Route),
    /// A tunnel changed between up and not up.
    Changed(TunnelId, State),
    /// Nothing to do until then; the text says what for.
    Deadline(Instant, &'static str),
    /// Nothing to do until the next input.
    Idle,
}

/// The gateway's decisions.
#[derive(Debug, Default)]
pub struct Gateway {
    connections: BTreeMap<String, Connection>,
    /// Which connection a tunnel is of.
    of: BTreeMap<TunnelId, String>,
    /// Tunnels that have something to do at a time, the first first.
    due: BTreeSet<(Instant, TunnelId)>,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Default)]
struct Connection {
    remote: Vec<IpNet>,
    tunnels: Vec<Tunnel>,
    routes: Vec<Route>,
}

impl Gateway {
    /// A gateway without connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of something that happened; what follows from it is read with [`poll`](Self::poll).
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Set(plan) => self.set(now, plan),
            Input::Remove(name) => {
                if let Some(connection) = self.connections.remove(&name) {
                    for tunnel in &connection.tunnels {
                        self.forget(tunnel);
                    }
                    self.outputs.extend(connection.tunnels.iter().map(|t| Output::Terminate(t.plan.id)));
                    self.outputs.extend(connection.routes.into_iter().map(Output::RemoveRoute));
                }
            }
            Input::ChildUp(id, spi) => self.with(id, |t, out| t.on_child_up(now, spi, out)),
            Input::ChildDown(id, spi, loss, cause) => {
                self.with(id, |t, out| t.on_child_down(now, spi, loss, cause, out));
            }
            Input::Lost(id, loss, cause) => self.with(id, |t, out| t.on_lost(now, loss, cause, out)),
            Input::Traffic(id) => self.with(id, |t, out| t.on_traffic(now, out)),
            Input::Enable(id) => self.with(id, |t, out| t.on_enable(now, out)),
            Input::Disable(id) => self.with(id, |t, out| t.on_disable(now, out)),
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.due.first()
            && at <= now
        {
            self.due.remove(&(at, id));
            self.with(id, |t, out| t.on_timeout(now, out));
        }
    }

    /// The next thing to do. Call until it returns `Deadline` or `Idle`.
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        self.due.first().map_or(Output::Idle, |(at, _)| Output::Deadline(*at, "retry a tunnel"))
    }

    /// The tunnel's state, if it is known.
    pub fn state(&self, id: TunnelId) -> Option<&TunnelState> {
        let connection = self.connections.get(self.of.get(&id)?)?;
        connection.tunnels.iter().find(|t| t.plan.id == id).map(|t| &t.state)
    }

    /// The tunnel that carries a connection's traffic now, if one is up.
    pub fn active(&self, connection: &str) -> Option<TunnelId> {
        routes::active(&self.connections.get(connection)?.tunnels)
    }

    /// Every route that must stand now.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.connections.values().flat_map(|c| &c.routes)
    }

    fn set(&mut self, now: Instant, plan: ConnectionPlan) {
        for tunnel in &plan.tunnels {
            self.of.insert(tunnel.id, plan.name.clone());
        }
        let connection = self.connections.entry(plan.name).or_default();
        connection.remote = plan.remote;
        let mut before = std::mem::take(&mut connection.tunnels);
        let mut fresh = Vec::new();
        for tunnel in plan.tunnels {
            let kept =
                before.iter().position(|t| t.plan.id == tunnel.id).map(|index| before.swap_remove(index));
            if kept.is_none() {
                fresh.push(tunnel.id);
            }
            let mut kept = kept.unwrap_or_else(|| Tunnel::new(now, tunnel.clone()));
            kept.plan = tunnel;
            connection.tunnels.push(kept);
        }
        // Routes first: from here on nothing of the protected networks leaves in clear.
        connection.settle_routes(&mut self.outputs);
        self.outputs.extend(before.iter().map(|t| Output::Terminate(t.plan.id)));
        for tunnel in connection.tunnels.iter_mut().filter(|t| fresh.contains(&t.plan.id)) {
            tunnel.start(now, &mut self.outputs);
        }
        for tunnel in &before {
            self.forget(tunnel);
        }
    }

    /// The tunnel is configured no more.
    fn forget(&mut self, tunnel: &Tunnel) {
        self.of.remove(&tunnel.plan.id);
        if let Some(at) = tunnel.deadline() {
            self.due.remove(&(at, tunnel.plan.id));
        }
    }

    fn with(&mut self, id: TunnelId, change: impl FnOnce(&mut Tunnel, &mut VecDeque<Output>)) {
        // An event of a tunnel that a reload has just removed is no news.
        let Some(connection) = self.of.get(&id).and_then(|name| self.connections.get_mut(name)) else {
            return;
        };
        let Some(tunnel) = connection.tunnels.iter_mut().find(|t| t.plan.id == id) else { return };
        let before = tunnel.deadline();
        change(tunnel, &mut self.outputs);
        if before != tunnel.deadline() {
            if let Some(at) = before {
                self.due.remove(&(at, id));
            }
            self.due.extend(tunnel.deadline().map(|at| (at, id)));
        }
        connection.settle_routes(&mut self.outputs);
    }
}

impl Connection {
    /// Makes the standing routes equal to the wanted ones; new ones are put before old ones go.
    fn settle_routes(&mut self, out: &mut VecDeque<Output>) {
        let wanted = routes::wanted(&self.remote, &self.tunnels);
        for route in wanted.iter().filter(|r| !self.routes.contains(r)) {
            out.push_back(Output::AddRoute(route.clone()));
        }
        for route in
            self.routes.iter().filter(|old| !wanted.iter().any(|new| new.replaces(old) || new == *old))
        {
            out.push_back(Output::RemoveRoute(route.clone()));
        }
        self.routes = wanted;
    }
}

#[cfg(test)]
mod tests;
