//! The event loop: what arrives goes to the machine that it concerns, and what the machines want is done.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use culvert_config::Config;
use culvert_crypto::{Suite, SystemRandom};
use culvert_dataplane::{Dataplane, DataplaneConfig, DataplaneEvent, Engine, TunnelReport};
use culvert_forward::Forwards;
use culvert_gateway::{Gateway, Input};
use culvert_ike::{Command, Endpoint, EndpointConfig, IkeInfo, Purpose};
use culvert_sys::netlink::Netlink;
use culvert_types::{Spi, TrafficSelector, TunnelId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::additional::Additional;
use crate::bgp::Routing;
use crate::children::Children;
use crate::control::{self, Ask, ControlSocket, Live};
use crate::drops::Following;
use crate::environment::Environments;
use crate::graph::Graphs;
use crate::guard::WanGuard;
use crate::history::History;
use crate::jobs::Jobs;
use crate::log::{LevelHandle, LogStore};
use crate::notices::Teller;
use crate::pace::Pace;
use crate::probe::Prober;
use crate::radius::Relay;
use crate::resolve::{Found, Named, Names};
use crate::revocation::Checks;
use crate::roam;
use crate::trace::{SecretsFile, Watchers};
use crate::wan::{Datagram, IkeSockets};
use crate::{measured, plan};

/// How often counters are read for the guard's replay floors, and SAs that have drained are forgotten.
const TICK: Duration = Duration::from_secs(1);
/// How often a tunnel that could not be set up is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Datagrams taken in before the machines are drained.
const BATCH: usize = 64;

pub(crate) struct Paths {
    pub(crate) config: PathBuf,
    /// The command line's, which outlives reloads.
    pub(crate) control_socket: Option<PathBuf>,
}

/// The signals that culvertd obeys. To be made before anything that a signal should undo.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// SIGTERM or SIGINT: the process is to end.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the next: true to reload, false to stop.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
            _ = self.hangup.recv() => true,
        }
    }
}

/// A tunnel that exists.
pub(crate) struct Tunnel {
    pub(crate) connection: String,
    pub(crate) name: String,
    /// The interface's index, for routes.
    pub(crate) index: u32,
    pub(crate) report: TunnelReport,
    pub(crate) local: IpAddr,
    pub(crate) ike: Option<Established>,
    /// When the negotiation under way began.
    pub(crate) began: Option<Instant>,
    pub(crate) negotiation: Option<Duration>,
    /// The peer has a name.
    pub(crate) named: Option<Named>,
    /// The tunnel whose client it is.
    pub(crate) client_of: Option<TunnelId>,
    /// CHILD SAs of it are in other engines than the one that leads.
    pub(crate) scattered: bool,
}

/// An IKE SA that stands.
pub(crate) struct Established {
    pub(crate) info: IkeInfo,
    /// When the peer authenticated.
    pub(crate) since: Instant,
    /// When `info` was given, which its durations count from.
    pub(crate) told: Instant,
}

/// A CHILD SA that stands, without its keys.
pub(crate) struct Child {
    pub(crate) tunnel: TunnelId,
    pub(crate) outbound: Spi,
    pub(crate) suite: Suite,
    pub(crate) dh: Option<String>,
    pub(crate) encap: bool,
    pub(crate) local_ts: Vec<String>,
    pub(crate) remote_ts: Vec<String>,
    /// The same, to compare.
    pub(crate) remote: Vec<TrafficSelector>,
    /// Which engine has it, and why no other.
    pub(crate) engine: Engine,
    pub(crate) why: Vec<String>,
    /// Since when it is sent with.
    pub(crate) sending: Option<Instant>,
    pub(crate) rekey_at: Instant,
    pub(crate) since: Instant,
    pub(crate) esn: bool,
    pub(crate) replay_window: u32,
    pub(crate) purpose: Purpose,
    /// Packets received, and the lowest sequence number that is still accepted, when it was looked last.
    pub(crate) seen: (u64, u64),
}

pub(crate) struct Daemon {
    pub(crate) paths: Paths,
    pub(crate) config: Config,
    pub(crate) started: Instant,
    pub(crate) level: LevelHandle,
    pub(crate) log: Arc<LogStore>,
    pub(crate) environments: Environments,
    pub(crate) ike: Endpoint,
    pub(crate) gateway: Gateway,
    pub(crate) plane: Dataplane,
    pub(crate) netlink: Netlink,
    pub(crate) guard: WanGuard,
    pub(crate) sockets: IkeSockets,
    pub(crate) tunnels: BTreeMap<TunnelId, Tunnel>,
    pub(crate) children: Children,
    /// The same by connection and name.
    pub(crate) tunnel_names: BTreeMap<(String, String), TunnelId>,
    pub(crate) additional: Additional,
    pub(crate) pace: Pace,
    /// Tunnels, by connection and name, that could not be set up, and why.
    pub(crate) missing: BTreeMap<(String, String), String>,
    /// Tunnels, by connection and name, that the operator enabled or disabled against their configuration.
    pub(crate) switched: BTreeMap<(String, String), bool>,
    pub(crate) history: History,
    pub(crate) watchers: Watchers,
    pub(crate) following: Following,
    /// Whether the IKE core tells messages.
    pub(crate) tracing: bool,
    pub(crate) secrets: Option<SecretsFile>,
    pub(crate) latest_negotiation: Option<Duration>,
    pub(crate) wan_addresses: Vec<IpAddr>,
    pub(crate) next_id: u32,
    next_retry: Instant,
    control: ControlSocket,
    asks: mpsc::Receiver<Ask>,
    datagrams: mpsc::Receiver<Datagram>,
    events: mpsc::UnboundedReceiver<DataplaneEvent>,
    jobs: Jobs,
    pub(crate) names: Names,
    /// What the resolver says.
    found: mpsc::UnboundedReceiver<Found>,
    /// Says that the host's addresses are others.
    addresses: mpsc::Receiver<()>,
    pub(crate) radius: Relay,
    pub(crate) checks: Checks,
    pub(crate) prober: Prober,
    pub(crate) routing: Routing,
    pub(crate) forwards: Forwards,
    /// Forwards that cannot listen, and why.
    pub(crate) forward_faults: BTreeMap<String, String>,
    pub(crate) teller: Teller,
    pub(crate) graphs: Graphs,
}

impl Daemon {
    /// Checks the host, sweeps what a crash left behind, and sets everything up. On error, nothing stays.
    pub(crate) async fn start(
        paths: Paths,
        config: Config,
        log: Arc<LogStore>,
        level: LevelHandle,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let netlink = Netlink::connect()?;
        // Before they are read for the first time, so that none is missed.
        let addresses = roam::watch();
        let links: Vec<String> = netlink.links().await?.into_iter().map(|link| link.name).collect();
        config.check_interfaces(&links).map_err(|e| anyhow::anyhow!("{}", e.render(false)))?;
        // Before anything is swept: the socket tells whether another culvertd is at work here.
        let watchers = Watchers::new();
        let socket = &config.gateway.control_socket;
        let following = Following::new();
        let live = Live { log: log.clone(), watchers: watchers.clone(), drops: following.live() };
        let (control, asks) = control::listen(socket, live).await?;
        let secrets = config.log.ike_secrets.as_deref().map(SecretsFile::open).transpose()?;
        let swept = netlink.delete_stale_interfaces().await?;
        if !swept.is_empty() {
            tracing::warn!("removed what an earlier culvertd left behind: {}", swept.join(", "));
        }
        let (wan, wan_addresses) = wan_interfaces(&config, &netlink).await?;
        let (mut sockets, datagrams) = IkeSockets::new(config.gateway.ike_port);
        // Every WAN address, so that a reload can use one that no tunnel has today.
        let used = used_addresses(&config, &netlink, &wan_addresses).await;
        for address in &used {
            sockets.open(*address).await?;
        }
        let defaults = DataplaneConfig::default();
        let (mut plane, events) = Dataplane::start(DataplaneConfig {
            wan: used,
            lan: config.gateway.lan.clone(),
            natt_port: config.gateway.natt_port,
            workers: config.gateway.workers.unwrap_or(defaults.workers),
            wan_devices: wan.iter().map(|(name, _)| name.clone()).collect(),
            share_natt_port: true,
            steer: crate::spread::cpus(&config),
            busy_poll: config.gateway.dataplane.latency == culvert_config::Latency::Low,
            offloads: plan::offloads(&config.gateway.dataplane.offload),
            bpf_hook: plan::bpf_hook(&config),
            ..defaults
        })
        .await?;
        plane.set_measured(measured::measured(&config, &plane).await);
        let guard = WanGuard::start(&config, wan);
        let (names, found) = Names::new();
        let mut daemon = Self {
            paths,
            config: config.clone(),
            started,
            level,
            log,
            environments: Environments::new(&config.gateway.control_socket),
            ike: Endpoint::new(
                EndpointConfig {
                    export_secrets: secrets.is_some(),
                    addresses: wan_addresses.clone(),
                    ..EndpointConfig::default()
                },
                Box::new(SystemRandom::new()),
            ),
            gateway: Gateway::new(),
            plane,
            netlink,
            guard,
            sockets,
            tunnels: BTreeMap::new(),
            children: Children::default(),
            tunnel_names: BTreeMap::new(),
            additional: Additional::default(),
            pace: Pace::default(),
            missing: BTreeMap::new(),
            switched: BTreeMap::new(),
            history: History::default(),
            watchers,
            following,
            tracing: false,
            secrets,
            latest_negotiation: None,
            wan_addresses,
            next_id: 1,
            next_retry: started,
            control,
            asks,
            datagrams,
            events,
            jobs: Jobs::new(),
            names,
            found,
            addresses,
            radius: Relay::new(),
            checks: Checks::new(),
            prober: Prober::new(),
            routing: Routing::new(),
            forwards: Forwards::default(),
            forward_faults: BTreeMap::new(),
            teller: Teller::default(),
            graphs: Graphs::default(),
        };
        daemon.settle_notices();
        daemon.settle_environments().await;
        for connection in &config.connections {
            daemon.add_connection(connection).await;
        }
        // Nothing to serve, and somebody is watching the start: say it here. Otherwise it is tried again.
        if daemon.tunnels.is_empty()
            && let Some(((connection, tunnel), text)) = daemon.missing.pop_first()
        {
            daemon.shutdown().await;
            anyhow::bail!("{connection}/{tunnel} cannot be set up: {text}");
        }
        daemon.settle().await;
        daemon.sweep_routes().await;
        daemon.settle_forwards().await;
        tracing::info!("culvertd {} runs: {}", env!("CARGO_PKG_VERSION"), plan::summary(&config));
        Ok(daemon)
    }

    /// Serves until SIGTERM or SIGINT, then closes everything.
    pub(crate) async fn run(mut self, mut signals: Signals) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
        loop {
            let deadline = self.settle().await;
            tokio::select! {
                Some(datagram) = self.datagrams.recv() => self.take_in(datagram),
                Some(event) = self.events.recv() => self.on_plane_event(event).await,
                done = self.jobs.next() => self.ike.handle_job(Instant::now(), done),
                // Refused only while shutting down.
                answer = self.radius.next() => {
                    let _ = self.ike.handle_command(Instant::now(), answer);
                }
                verdict = self.checks.next() => {
                    let _ = self.ike.handle_command(Instant::now(), verdict);
                }
                Some(event) = self.routing.next() => self.on_bgp(event),
                Some(probed) = self.prober.next() => self.on_probed(probed),
                Some(ask) = self.asks.recv() => self.on_ask(ask).await,
                () = sleep_until(deadline) => {
                    let now = Instant::now();
                    self.ike.handle_timeout(now);
                    self.gateway.handle_timeout(now);
                }
                () = sleep_until(self.following.due()) => self.on_drops().await,
                Some(found) = self.found.recv() => self.on_found(found).await,
                Some(()) = self.addresses.recv() => self.on_addresses().await,
                _ = tick.tick() => self.on_tick().await,
                reload = signals.next() => {
                    if !reload {
                        break;
                    }
                    self.reload().await;
                }
            }
        }
        tracing::info!("culvertd stops: closing tunnels");
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        self.shutdown().await;
        Ok(())
    }

    fn take_in(&mut self, first: Datagram) {
        let now = Instant::now();
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(datagram) = next else { return };
            self.hear(now, &datagram);
            next = self.datagrams.try_recv().ok();
        }
        if let Some(datagram) = next {
            self.hear(now, &datagram);
        }
    }

    fn hear(&mut self, now: Instant, datagram: &Datagram) {
        let Datagram { local, remote, bytes } = datagram;
        self.watchers.datagram(*local, *remote, false, false, bytes);
        self.ike.handle_datagram(now, *local, *remote, bytes);
    }

    /// Does what the machines want until they want nothing more; returns the next deadline.
    pub(crate) async fn settle(&mut self) -> Option<Instant> {
        loop {
            let ike = self.settle_ike().await;
            let (gateway, worked) = self.settle_gateway().await;
            if !worked {
                self.settle_bgp();
                return [ike, gateway].into_iter().flatten().min();
            }
        }
    }

    async fn settle_ike(&mut self) -> Option<Instant> {
        loop {
            match self.ike.poll() {
                culvert_ike::Output::Transmit { local, remote, bytes } => {
                    self.transmit(local, remote, &bytes)
                }
                culvert_ike::Output::Keepalive { local, remote } => {
                    // Lost or not, the next one follows.
                    let _ = self.plane.send_keepalive(local, remote);
                }
                culvert_ike::Output::Job(job) => self.jobs.add(job),
                culvert_ike::Output::Event(event) => self.on_ike_event(event).await,
                culvert_ike::Output::Deadline(at, _) => return Some(at),
                culvert_ike::Output::Idle => return None,
            }
        }
    }

    async fn settle_gateway(&mut self) -> (Option<Instant>, bool) {
        use culvert_gateway::Output;
        let mut worked = false;
        loop {
            match self.gateway.poll() {
                Output::Deadline(at, _) => return (Some(at), worked),
                Output::Idle => return (None, worked),
                Output::Initiate(id) => self.initiate(id),
                // A tunnel without SAs has nothing to terminate.
                Output::Terminate(id) => {
                    let _ = self.ike.handle_command(Instant::now(), Command::Terminate(id, true));
                }
                Output::AddRoute(route) => self.add_route(&route).await,
                Output::RemoveRoute(route) => self.remove_route(&route).await,
                Output::Changed(id, state) => self.announce(id, state),
                Output::Probe(id, sequence) => {
                    self.probe(id, sequence);
                    worked = true;
                    continue;
                }
                Output::HealthChanged(id, verdict) => self.health_changed(id, verdict),
                Output::AskPeer(id) => self.ask_peer(id),
                Output::Moved { connection, from, to } => self.moved(&connection, &from, &to),
            }
            worked = true;
            self.routing.touch();
        }
    }

    fn transmit(&self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let natt = local.port() == self.config.gateway.natt_port;
        self.watchers.datagram(local, remote, true, natt, bytes);
        let sent = if natt {
            self.plane.send_ike(local, remote, bytes).map_err(anyhow::Error::new)
        } else {
            self.sockets.send(local, remote, bytes)
        };
        // Not the operator's business at once: IKE sends again, and says so when it gives up.
        if let Err(error) = sent {
            tracing::debug!("{error:#}");
        }
    }

    async fn on_tick(&mut self) {
        if !self.children.is_empty() {
            let mut stats = self.plane.stats().await;
            self.sample_rates(&stats);
            self.hear_esp(&mut stats);
            self.guard.publish(&stats);
        } else {
            self.sample_rates(&[]);
        }
        self.next_addresses().await;
        self.lose_patience(Instant::now());
        self.guard.expire(Instant::now());
        self.plane.tend();
        self.retire_engines().await;
        self.guard.tend(&self.config);
        self.guard.redirect(self.plane.take_redirects());
        self.guard.precede(&mut self.plane);
        self.ask_for_additional(Instant::now());
        self.look_at_certificates();
        if self.tracing && !self.watchers.any() {
            self.trace(false);
        }
        let whole = self.missing.is_empty() && self.forward_faults.is_empty() && self.environments.whole();
        if !whole && self.next_retry <= Instant::now() {
            self.next_retry = Instant::now() + RETRY;
            if !self.environments.whole() {
                self.settle_environments().await;
            }
            self.retry_missing().await;
            if !self.forward_faults.is_empty() {
                self.settle_forwards().await;
            }
        }
    }

    /// Peers whose ESP arrives are alive and need not be asked (RFC 7296 2.4). Leaves those SAs that have received since
    /// this was called last.
    fn hear_esp(&mut self, stats: &mut Vec<culvert_dataplane::SaStats>) {
        let mut alive = std::collections::BTreeSet::new();
        stats.retain(|sa| {
            let Some(child) = self.children.get_mut(sa.inbound) else { return false };
            let now = (sa.packets_in, sa.replay_floor);
            let before = std::mem::replace(&mut child.seen, now);
            if now.0 > before.0 {
                alive.insert(child.tunnel);
            }
            now != before
        });
        for id in alive {
            // Its IKE SA may have gone in the meantime.
            let _ = self.ike.handle_command(Instant::now(), Command::Heard(id));
        }
    }

    fn announce(&mut self, id: TunnelId, state: culvert_gateway::State) {
        use culvert_gateway::State;
        let Some(tunnel) = self.tunnels.get(&id) else { return };
        let (connection, tunnel) = (tunnel.connection.clone(), tunnel.name.clone());
        self.tell_change(id, &connection, &tunnel, state == State::Up);
        match state {
            State::Up => tracing::info!(connection, tunnel, "tunnel up"),
            State::Connecting => tracing::info!(connection, tunnel, "negotiating"),
            // Why stands in the lines before.
            State::Waiting => tracing::warn!(connection, tunnel, "tunnel down, will be negotiated again"),
            State::Idle => tracing::warn!(connection, tunnel, "tunnel down"),
            State::Disabled => tracing::info!(connection, tunnel, "tunnel disabled"),
        }
    }

    /// Has the IKE core tell its messages, or no longer.
    pub(crate) fn trace(&mut self, on: bool) {
        self.tracing = on;
        // Refused only while shutting down.
        let _ = self.ike.handle_command(Instant::now(), Command::Trace(on));
    }

    /// Deletes the SAs at the peers and removes interfaces, routes, programs and sockets.
    async fn shutdown(mut self) {
        let now = Instant::now();
        // While the tunnels are there to tell the neighbours by.
        self.routing.stop().await;
        let _ = self.ike.handle_command(now, Command::Shutdown);
        self.settle_ike().await;
        let names: Vec<String> = self.config.connections.iter().map(|c| c.name.clone()).collect();
        for name in names {
            self.gateway.handle(now, Input::Remove(name));
        }
        self.settle_gateway().await;
        self.guard.stop();
        let own = self.tunnels.iter().filter(|(_, t)| t.client_of.is_none());
        let ids: Vec<TunnelId> = own.map(|(id, _)| *id).collect();
        for (id, error) in self.plane.remove_tunnels(ids).await {
            tracing::warn!("cannot take {id:?} away: {error}");
        }
        self.forwards.keep(|_| false);
        self.remove_environments().await;
        // The control socket goes last: who waits for it to vanish finds everything gone.
        drop(self.plane);
        drop(self.sockets);
        drop(self.control);
    }

    /// When a wall clock would have shown this instant.
    pub(crate) fn unix_seconds(at: Instant) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(at.elapsed()).as_secs()
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The WAN interfaces with their addresses (for the guard and the status), and all addresses together.
pub(crate) async fn wan_interfaces(
    config: &Config,
    netlink: &Netlink,
) -> anyhow::Result<(Vec<(String, Vec<IpAddr>)>, Vec<IpAddr>)> {
    let mut interfaces = Vec::new();
    for name in &config.gateway.wan {
        let link = netlink.link(name).await?;
        let nets = netlink.addresses(link.index).await?;
        let addresses: Vec<IpAddr> =
            nets.iter().map(ipnet::IpNet::addr).filter(|a| !is_link_local(*a)).collect();
        interfaces.push((name.clone(), addresses));
    }
    let all = interfaces.iter().flat_map(|(_, addresses)| addresses.iter().copied()).collect();
    Ok((interfaces, all))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// The local addresses of all tunnels.
async fn used_addresses(config: &Config, netlink: &Netlink, wan: &[IpAddr]) -> Vec<IpAddr> {
    let mut used = wan.to_vec();
    for tunnel in config.connections.iter().flat_map(|c| &c.tunnels) {
        // A tunnel without an address is reported when it is set up.
        if let Ok(address) = plan::local_address(tunnel, tunnel.remote_address.address(), netlink, wan).await
            && !used.contains(&address)
        {
            used.push(address);
        }
    }
    used
}
