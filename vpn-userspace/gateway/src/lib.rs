//! What the gateway decides: when tunnels start, restart and stop, and which routes stand. No I/O, no clock.
//!
//! One machine for all connections, mutated by [`Gateway::handle`] and drained by [`Gateway::poll`].
//! It knows nothing of IKE messages, ESP or the kernel: it says "initiate this tunnel" and "this route
//! must stand", and somebody else does it.

mod backoff;
mod fitness;
mod health;
mod routes;
mod timers;
mod tunnel;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use culvert_types::{Spi, TunnelId};
use ipnet::IpNet;

pub use fitness::{Fitness, Return};
pub use health::{HealthAction, HealthPlan, HealthReport, Verdict};
pub use routes::{Route, UNREACHABLE_METRIC, Via};
pub use tunnel::{State, TunnelState};

use timers::Timers;
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
    /// The environment that it is in.
    pub environment: String,
    /// The name in the configuration.
    pub name: String,
    /// Networks behind the peer: each gets a route.
    pub remote: Vec<IpNet>,
    /// Somebody else routes into the tunnels (BGP): of the routes to `remote` only the floor stands.
    pub dynamic: bool,
    /// Traffic goes through all tunnels that have a weight, in proportion, and not through the heaviest alone.
    pub balance: bool,
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
    /// How it is found out whether it carries traffic; `None`: it does when it is up.
    pub health: Option<HealthPlan>,
    /// Where its probes go, if to an IPv6 address: they need a route of their own through it.
    pub probe: Option<std::net::Ipv6Addr>,
    /// When traffic comes back after a failure.
    pub back: Return,
    /// From where the peer checks this tunnel: answers go back through it whoever carries the rest.
    pub reverse: Vec<IpNet>,
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
    /// Its health check says that it carries nothing.
    Unhealthy,
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
    /// The operator wants traffic back on it now, if its weight says so: it need not prove itself any longer.
    Release(TunnelId),
    /// What became of a probe: its round trip, or why there is none. One of which nothing is heard is given up in time.
    Probed(TunnelId, u64, Result<Duration, String>),
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
    /// Send the probe with this number through the tunnel.
    Probe(TunnelId, u64),
    /// A tunnel's health check came to another verdict.
    HealthChanged(TunnelId, Verdict),
    /// Find out at once if the tunnel's peer is alive.
    AskPeer(TunnelId),
    /// The traffic of a connection moved: from these tunnels to those. None: nothing carries it.
    Moved {
        /// The connection's name.
        connection: String,
        /// Who carried it.
        from: Vec<TunnelId>,
        /// Who carries it.
        to: Vec<TunnelId>,
    },
    /// Nothing to do until then; the text says what for.
    Deadline(Instant, &'static str),
    /// Nothing to do until the next input.
    Idle,
}

/// How a tunnel stands among those of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing goes through it.
    Down,
    /// It is up, and its health check fails while another's does not.
    Sick,
    /// Another carries the traffic; this one has so much weight.
    StandsBy(u32),
    /// It carries the traffic, alone or with others.
    Carries,
}

/// The gateway's decisions.
#[derive(Debug, Default)]
pub struct Gateway {
    connections: BTreeMap<String, Connection>,
    /// The connection of each tunnel.
    places: HashMap<TunnelId, String>,
    timers: Timers,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Default)]
struct Connection {
    environment: String,
    remote: Vec<IpNet>,
    dynamic: bool,
    balance: bool,
    tunnels: Vec<Tunnel>,
    carriers: Vec<TunnelId>,
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
                        self.forget(tunnel.plan.id);
                    }
                    self.outputs.extend(connection.tunnels.iter().map(|t| Output::Terminate(t.plan.id)));
                    self.outputs.extend(connection.routes.into_iter().map(Output::RemoveRoute));
                }
            }
            Input::ChildUp(id, spi) => self.with(now, id, |t, out| t.on_child_up(now, spi, out)),
            Input::ChildDown(id, spi, loss, cause) => {
                self.with(now, id, |t, out| t.on_child_down(now, spi, loss, cause, out));
            }
            Input::Lost(id, loss, cause) => self.with(now, id, |t, out| t.on_lost(now, loss, cause, out)),
            Input::Traffic(id) => self.with(now, id, |t, out| t.on_traffic(now, out)),
            Input::Enable(id) => self.with(now, id, |t, out| t.on_enable(now, out)),
            Input::Disable(id) => self.with(now, id, |t, out| t.on_disable(now, out)),
            Input::Release(id) => self.with(now, id, |t, _| t.release(now)),
            Input::Probed(id, sequence, outcome) => {
                self.with(now, id, |t, out| t.on_probed(now, sequence, outcome, out));
            }
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.timers.due(now) {
            self.with(now, id, |t, out| t.on_timeout(now, out));
        }
    }

    /// The next thing to do. Call until it returns `Deadline` or `Idle`.
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        self.timers.next().map_or(Output::Idle, |at| Output::Deadline(at, "see to a tunnel"))
    }

    /// The tunnel's state, if it is known.
    pub fn state(&self, id: TunnelId) -> Option<&TunnelState> {
        self.tunnel(id).map(|t| &t.state)
    }

    /// What a tunnel's health check knows; `None` without one.
    pub fn health(&self, id: TunnelId) -> Option<HealthReport> {
        self.tunnel(id)?.health()
    }

    /// How fit a tunnel is to carry traffic, and when traffic may return to it if that is a matter of time.
    pub fn fitness(&self, id: TunnelId) -> Option<(Fitness, Option<Instant>)> {
        self.tunnel(id).map(|t| (t.fitness(), t.returns()))
    }

    /// The tunnels that carry a connection's traffic now.
    pub fn carriers(&self, connection: &str) -> &[TunnelId] {
        self.connections.get(connection).map_or(&[], |c| &c.carriers)
    }

    /// How a tunnel stands among those of its connection, for who routes into them.
    pub fn standing(&self, id: TunnelId) -> Standing {
        let Some(tunnel) = self.tunnel(id) else { return Standing::Down };
        let carries = self.places.get(&id).is_some_and(|name| self.carriers(name).contains(&id));
        match tunnel.fitness() {
            Fitness::Down => Standing::Down,
            _ if carries => Standing::Carries,
            Fitness::Sick => Standing::Sick,
            Fitness::Probation | Fitness::Fit => Standing::StandsBy(tunnel.plan.weight),
        }
    }

    /// Every route that must stand now.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.connections.values().flat_map(|c| &c.routes)
    }

    fn tunnel(&self, id: TunnelId) -> Option<&Tunnel> {
        self.connections.get(self.places.get(&id)?)?.tunnels.iter().find(|t| t.plan.id == id)
    }

    fn forget(&mut self, id: TunnelId) {
        self.places.remove(&id);
        self.timers.set(id, None);
    }

    fn set(&mut self, now: Instant, plan: ConnectionPlan) {
        let connection = self.connections.entry(plan.name.clone()).or_default();
        connection.environment = plan.environment;
        connection.remote = plan.remote;
        connection.dynamic = plan.dynamic;
        connection.balance = plan.balance;
        let mut before = std::mem::take(&mut connection.tunnels);
        let mut fresh = Vec::new();
        let mut after = VecDeque::new();
        for tunnel in plan.tunnels {
            self.places.insert(tunnel.id, plan.name.clone());
            let kept = before.iter().position(|t| t.plan.id == tunnel.id).map(|index| before.remove(index));
            connection.tunnels.push(match kept {
                Some(mut kept) => {
                    kept.set_plan(now, tunnel, &mut after);
                    kept
                }
                None => {
                    fresh.push(tunnel.id);
                    Tunnel::new(now, tunnel)
                }
            });
        }
        // Routes first: from here on nothing of the protected networks leaves in clear.
        connection.settle(now, &plan.name, &mut self.outputs);
        // Traffic leaves a tunnel before its SAs do.
        self.outputs.extend(after);
        self.outputs.extend(before.iter().map(|t| Output::Terminate(t.plan.id)));
        for tunnel in &mut connection.tunnels {
            if fresh.contains(&tunnel.plan.id) {
                tunnel.start(now, &mut self.outputs);
            }
            self.timers.set(tunnel.plan.id, tunnel.deadline());
        }
        for tunnel in before {
            self.forget(tunnel.plan.id);
        }
    }

    fn with(&mut self, now: Instant, id: TunnelId, change: impl FnOnce(&mut Tunnel, &mut VecDeque<Output>)) {
        // An event of a tunnel that a reload has just removed is no news.
        let Some(name) = self.places.get(&id) else { return };
        let Some(connection) = self.connections.get_mut(name) else { return };
        let Some(tunnel) = connection.tunnels.iter_mut().find(|t| t.plan.id == id) else { return };
        let mut after = VecDeque::new();
        change(tunnel, &mut after);
        // Traffic leaves a tunnel before its SAs do.
        connection.settle(now, name, &mut self.outputs);
        self.outputs.extend(after);
        let deadline = connection.tunnels.iter().find(|t| t.plan.id == id).and_then(Tunnel::deadline);
        self.timers.set(id, deadline);
    }
}

impl Connection {
    /// Makes the standing routes equal to the wanted ones; new ones are put before old ones go.
    fn settle(&mut self, now: Instant, name: &str, out: &mut VecDeque<Output>) {
        let carriers = routes::carriers(&self.tunnels, self.balance);
        for tunnel in &mut self.tunnels {
            tunnel.carries = carriers.contains(&tunnel.plan.id);
            if tunnel.carries {
                tunnel.release(now);
            }
        }
        let wanted = routes::wanted(&self.environment, &self.remote, self.dynamic, &self.tunnels, &carriers);
        for route in wanted.iter().filter(|r| !self.routes.contains(r)) {
            out.push_back(Output::AddRoute(route.clone()));
        }
        for route in
            self.routes.iter().filter(|old| !wanted.iter().any(|new| new.replaces(old) || new == *old))
        {
            out.push_back(Output::RemoveRoute(route.clone()));
        }
        self.routes = wanted;
        if carriers != self.carriers {
            let from = std::mem::replace(&mut self.carriers, carriers.clone());
            out.push_back(Output::Moved { connection: name.to_owned(), from, to: carriers });
        }
    }
}

#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod tests;
