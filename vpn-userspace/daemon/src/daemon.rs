//! The event loop: what arrives goes to the machine that it concerns, and what the machines want is done.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use culvert_api::{ErrorCode, Request, Response, Target};
use culvert_config::Config;
use culvert_crypto::SystemRandom;
use culvert_dataplane::{Dataplane, DataplaneConfig, DataplaneEvent, TunnelReport, TunnelSpec};
use culvert_gateway::{Gateway, Input, Loss};
use culvert_ike::{ChildSa, Command, CommandError, DownReason, Endpoint, EndpointConfig, Event, IkeInfo};
use culvert_sys::netlink::{self, Netlink};
use culvert_types::{Spi, TunnelId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::control::{self, Ask, ControlSocket};
use crate::guard::WanGuard;
use crate::log::{LevelHandle, LogStore};
use crate::plan;
use crate::wan::{Datagram, IkeSockets};

/// How often counters are read for the guard's replay floors, and SAs that have drained are forgotten.
const TICK: Duration = Duration::from_secs(1);
/// Datagrams taken in before the machines are drained.
const BATCH: usize = 64;

pub(crate) struct Paths {
    pub(crate) config: PathBuf,
    /// The command line's, which outlives reloads.
    pub(crate) control_socket: Option<PathBuf>,
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
    pub(crate) suite: String,
    pub(crate) dh: Option<String>,
    pub(crate) encap: bool,
    pub(crate) local_ts: Vec<String>,
    pub(crate) remote_ts: Vec<String>,
    pub(crate) rekey_at: Instant,
    pub(crate) since: Instant,
    pub(crate) esn: bool,
    pub(crate) replay_window: u32,
}

pub(crate) struct Daemon {
    pub(crate) paths: Paths,
    pub(crate) config: Config,
    pub(crate) started: Instant,
    pub(crate) level: LevelHandle,
    pub(crate) ike: Endpoint,
    pub(crate) gateway: Gateway,
    pub(crate) plane: Dataplane,
    pub(crate) netlink: Netlink,
    pub(crate) guard: WanGuard,
    pub(crate) sockets: IkeSockets,
    pub(crate) tunnels: BTreeMap<TunnelId, Tunnel>,
    pub(crate) children: BTreeMap<Spi, Child>,
    pub(crate) latest_negotiation: Option<Duration>,
    wan_addresses: Vec<IpAddr>,
    next_id: u32,
    control: ControlSocket,
    asks: mpsc::Receiver<Ask>,
    datagrams: mpsc::Receiver<Datagram>,
    events: mpsc::UnboundedReceiver<DataplaneEvent>,
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
        let links: Vec<String> = netlink.links().await?.into_iter().map(|link| link.name).collect();
        config.check_interfaces(&links).map_err(|e| anyhow::anyhow!("{}", e.render(false)))?;
        // Before anything is swept: the socket tells whether another culvertd is at work here.
        let (control, asks) = control::listen(&config.gateway.control_socket, log).await?;
        let swept = netlink.delete_stale_interfaces().await?;
        if !swept.is_empty() {
            tracing::warn!("removed what an earlier culvertd left behind: {}", swept.join(", "));
        }
        let (wan, wan_addresses) = wan_interfaces(&config, &netlink).await?;
        let (mut sockets, datagrams) = IkeSockets::new(config.gateway.ike_port);
        // Every WAN address, so that a reload can use one that no tunnel has today.
        let used = used_addresses(&config, &netlink, &wan_addresses).await?;
        for address in &used {
            sockets.open(*address).await?;
        }
        let defaults = DataplaneConfig::default();
        let (plane, events) = Dataplane::start(DataplaneConfig {
            wan: used,
            natt_port: config.gateway.natt_port,
            workers: config.gateway.workers.unwrap_or(defaults.workers),
            share_natt_port: true,
            ..defaults
        })
        .await?;
        let guard = WanGuard::start(&config, wan)?;
        let mut daemon = Self {
            paths,
            config: config.clone(),
            started,
            level,
            ike: Endpoint::new(EndpointConfig::default(), Box::new(SystemRandom::new())),
            gateway: Gateway::new(),
            plane,
            netlink,
            guard,
            sockets,
            tunnels: BTreeMap::new(),
            children: BTreeMap::new(),
            latest_negotiation: None,
            wan_addresses,
            next_id: 1,
            control,
            asks,
            datagrams,
            events,
        };
        for connection in &config.connections {
            if let Err(error) = daemon.add_connection(connection).await {
                daemon.shutdown().await;
                return Err(error);
            }
        }
        daemon.settle().await;
        daemon.sweep_routes().await;
        tracing::info!("culvertd {} runs: {}", env!("CARGO_PKG_VERSION"), plan::summary(&config));
        Ok(daemon)
    }

    /// Serves until SIGTERM or SIGINT, then closes everything.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
        loop {
            let deadline = self.settle().await;
            tokio::select! {
                Some(datagram) = self.datagrams.recv() => self.take_in(datagram),
                Some(event) = self.events.recv() => self.on_plane_event(event).await,
                Some(ask) = self.asks.recv() => self.on_ask(ask).await,
                () = sleep_until(deadline) => {
                    let now = Instant::now();
                    self.ike.handle_timeout(now);
                    self.gateway.handle_timeout(now);
                }
                _ = tick.tick() => self.on_tick().await,
                _ = hangup.recv() => { self.reload().await; }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        tracing::info!("culvertd stops: closing tunnels");
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        self.shutdown().await;
        Ok(())
    }

    /// Makes a connection's tunnels and lets the gateway and the IKE core know.
    pub(crate) async fn add_connection(
        &mut self,
        connection: &culvert_config::Connection,
    ) -> anyhow::Result<()> {
        for tunnel in &connection.tunnels {
            if self.find(&connection.name, &tunnel.name).is_none() {
                self.add_tunnel(connection, tunnel)
                    .await
                    .with_context(|| format!("tunnel {}/{}", connection.name, tunnel.name))?;
            }
        }
        let plan = plan::connection(connection, |name| self.find(&connection.name, name));
        self.gateway.handle(Instant::now(), Input::Set(plan));
        Ok(())
    }

    async fn add_tunnel(
        &mut self,
        connection: &culvert_config::Connection,
        tunnel: &culvert_config::Tunnel,
    ) -> anyhow::Result<()> {
        let id = TunnelId(self.next_id);
        self.next_id += 1;
        let local = plan::local_address(tunnel, &self.netlink, &self.wan_addresses).await?;
        self.sockets.open(local).await?;
        self.guard.add_local(local);
        let suites = connection.esp.proposals.iter().flat_map(|p| p.suites()).collect();
        let encap = connection.encap != culvert_config::Encap::Esp;
        let report = self
            .plane
            .create_tunnel(TunnelSpec {
                id,
                interface: tunnel.interface.clone(),
                engine: plan::engine_choice(connection),
                suites,
                inside: tunnel.inside.clone(),
                mtu: connection.mtu.map(u32::from),
                encap,
                remote_nets: connection.remote.clone(),
            })
            .await?;
        // Encapsulation is what makes the user engine fast; the kernel needs it only behind a NAT.
        let force_encap = match connection.encap {
            culvert_config::Encap::Udp => true,
            culvert_config::Encap::Esp => false,
            culvert_config::Encap::Auto => report.engine == culvert_dataplane::Engine::User,
        };
        let peer = plan::peer(&self.config, connection, tunnel, local, force_encap, report.spi_parity)
            .and_then(|peer| {
                Ok(self.ike.handle_command(Instant::now(), Command::AddPeer(id, Box::new(peer)))?)
            });
        if let Err(error) = peer {
            let _ = self.plane.remove_tunnel(id).await;
            return Err(error);
        }
        let index = match self.address_interface(tunnel).await {
            Ok(index) => index,
            Err(error) => {
                let _ = self.ike.handle_command(Instant::now(), Command::RemovePeer(id));
                let _ = self.plane.remove_tunnel(id).await;
                return Err(error);
            }
        };
        tracing::info!(
            connection = connection.name,
            tunnel = tunnel.name,
            "interface {} ready, engine {}",
            tunnel.interface,
            report.engine
        );
        let entry = Tunnel {
            connection: connection.name.clone(),
            name: tunnel.name.clone(),
            index,
            report,
            local,
            ike: None,
            began: None,
            negotiation: None,
        };
        self.tunnels.insert(id, entry);
        Ok(())
    }

    /// Gives a tunnel's interface its inside addresses; returns its index.
    async fn address_interface(&self, tunnel: &culvert_config::Tunnel) -> anyhow::Result<u32> {
        let link = self.netlink.link(&tunnel.interface).await?;
        for net in &tunnel.inside {
            self.netlink.add_address(link.index, *net).await?;
        }
        self.netlink.set_up(link.index, true).await?;
        Ok(link.index)
    }

    /// Closes a tunnel at the peer and takes everything of it away.
    pub(crate) async fn remove_tunnel(&mut self, id: TunnelId) {
        let _ = self.ike.handle_command(Instant::now(), Command::RemovePeer(id));
        self.settle().await;
        if let Err(error) = self.plane.remove_tunnel(id).await {
            tracing::error!("cannot take a tunnel away: {error}");
        }
        self.children.retain(|_, child| child.tunnel != id);
        self.tunnels.remove(&id);
    }

    /// The id of a tunnel by its names.
    pub(crate) fn find(&self, connection: &str, tunnel: &str) -> Option<TunnelId> {
        self.tunnels.iter().find(|(_, t)| t.connection == connection && t.name == tunnel).map(|(id, _)| *id)
    }

    fn take_in(&mut self, first: Datagram) {
        let now = Instant::now();
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(datagram) = next else { break };
            self.ike.handle_datagram(now, datagram.local, datagram.remote, &datagram.bytes);
            next = self.datagrams.try_recv().ok();
        }
        if let Some(datagram) = next {
            self.ike.handle_datagram(now, datagram.local, datagram.remote, &datagram.bytes);
        }
    }

    /// Does what the machines want until they want nothing more; returns the next deadline.
    pub(crate) async fn settle(&mut self) -> Option<Instant> {
        loop {
            let ike = self.settle_ike().await;
            let (gateway, worked) = self.settle_gateway().await;
            if !worked {
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
                Output::Initiate(id) => {
                    if let Some(tunnel) = self.tunnels.get_mut(&id) {
                        tunnel.began = Some(Instant::now());
                    }
                    if let Err(error) = self.ike.handle_command(Instant::now(), Command::Initiate(id)) {
                        self.gateway.handle(Instant::now(), Input::Lost(id, Loss::Failed, error.to_string()));
                    }
                }
                // A tunnel without SAs has nothing to terminate.
                Output::Terminate(id) => {
                    let _ = self.ike.handle_command(Instant::now(), Command::Terminate(id, true));
                }
                Output::AddRoute(route) => self.add_route(&route).await,
                Output::RemoveRoute(route) => self.remove_route(&route).await,
                Output::Changed(id, state) => self.announce(id, state),
            }
            worked = true;
        }
    }

    fn transmit(&self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let sent = if local.port() == self.config.gateway.natt_port {
            self.plane.send_ike(local, remote, bytes).map_err(anyhow::Error::new)
        } else {
            self.sockets.send(local, remote, bytes)
        };
        // Not the operator's business at once: IKE sends again, and says so when it gives up.
        if let Err(error) = sent {
            tracing::debug!("{error:#}");
        }
    }

    /// What the IKE core says has happened. It keeps the log of it itself.
    async fn on_ike_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::IkeUp { tunnel, info } => {
                self.guard.prove(info.remote.ip());
                if let Some(entry) = self.tunnels.get_mut(&tunnel) {
                    entry.ike = Some(Established { info, since: now, told: now });
                }
            }
            Event::IkeRekeyed { tunnel, info } => {
                if let Some(entry) = self.tunnels.get_mut(&tunnel) {
                    let since = entry.ike.as_ref().map_or(now, |ike| ike.since);
                    entry.ike = Some(Established { info, since, told: now });
                }
            }
            Event::IkeDown { tunnel, reason } => {
                if let Some(ike) = self.tunnels.get_mut(&tunnel).and_then(|entry| entry.ike.take()) {
                    self.guard.forget(ike.info.remote.ip());
                }
                self.gateway.handle(now, Input::Lost(tunnel, loss(reason), reason.to_string()));
            }
            Event::ChildUp { sa, replaces: _, use_outbound } => {
                self.on_child_up(now, &sa, use_outbound).await
            }
            Event::OutboundReady { tunnel: _, inbound } => {
                if let Err(error) = self.plane.activate_outbound(inbound).await {
                    self.complain(inbound, "cannot send on the new CHILD SA", &error);
                }
            }
            Event::ChildDown { tunnel, inbound, outbound: _, drain, reason } => {
                if let Err(error) = self.plane.remove(inbound, drain).await {
                    self.complain(inbound, "cannot remove a CHILD SA", &error);
                }
                self.guard.remove_sa(inbound, now + drain);
                self.children.remove(&inbound);
                self.gateway.handle(now, Input::ChildDown(tunnel, inbound, loss(reason), reason.to_string()));
            }
            Event::PeerMoved { tunnel, local, remote } => {
                if let Some(ike) = self.tunnels.get_mut(&tunnel).and_then(|entry| entry.ike.as_mut()) {
                    self.guard.forget(ike.info.remote.ip());
                    self.guard.prove(remote.ip());
                    (ike.info.local, ike.info.remote) = (local, remote);
                }
                let moved: Vec<Spi> =
                    self.children.iter().filter(|(_, c)| c.tunnel == tunnel).map(|(spi, _)| *spi).collect();
                for spi in moved {
                    self.guard.move_sa(spi, local.ip(), remote.ip());
                }
                if let Err(error) = self.plane.move_peer(tunnel, local, remote).await {
                    tracing::warn!("cannot move {tunnel:?} to {remote}: {error}");
                }
            }
            Event::Failed(failure) => {
                // A tunnel that carries traffic is not lost because another attempt failed.
                if let Some(id) = failure.tunnel
                    && !self.children.values().any(|child| child.tunnel == id)
                {
                    self.gateway.handle(now, Input::Lost(id, Loss::Failed, failure.to_string()));
                }
            }
        }
    }

    async fn on_child_up(&mut self, now: Instant, sa: &ChildSa, use_outbound: bool) {
        self.guard.insert_sa(sa);
        if let Err(error) = self.plane.install(sa, use_outbound).await {
            tracing::error!("cannot install a CHILD SA of {:?}: {error}", sa.tunnel());
            self.guard.remove_sa(sa.inbound(), now);
            let _ = self.ike.handle_command(now, Command::Terminate(sa.tunnel(), true));
            self.gateway.handle(now, Input::Lost(sa.tunnel(), Loss::Failed, error.to_string()));
            return;
        }
        let list = |selectors: &[culvert_types::TrafficSelector]| {
            selectors.iter().map(ToString::to_string).collect()
        };
        let child = Child {
            tunnel: sa.tunnel(),
            outbound: sa.outbound(),
            suite: sa.suite().to_string(),
            dh: sa.dh_group().map(|group| group.to_string()),
            encap: sa.encap().is_some(),
            local_ts: list(sa.local_ts()),
            remote_ts: list(sa.remote_ts()),
            rekey_at: now + sa.rekey_in(),
            since: now,
            esn: sa.esn(),
            replay_window: sa.replay_window(),
        };
        if let Some(entry) = self.tunnels.get_mut(&sa.tunnel()) {
            if let Some(began) = entry.began.take() {
                entry.negotiation = Some(now - began);
                self.latest_negotiation = entry.negotiation;
            }
        }
        self.children.insert(sa.inbound(), child);
        self.gateway.handle(now, Input::ChildUp(sa.tunnel(), sa.inbound()));
    }

    async fn on_plane_event(&mut self, event: DataplaneEvent) {
        let now = Instant::now();
        match event {
            DataplaneEvent::Ike { local, remote, bytes } => {
                self.ike.handle_datagram(now, local, remote, &bytes)
            }
            DataplaneEvent::SoftLimit { inbound } => self.rekey_child(inbound),
            DataplaneEvent::HardLimit { inbound } => {
                if let Some(child) = self.children.get(&inbound) {
                    let id = child.tunnel;
                    tracing::warn!(
                        "a CHILD SA reached its hard limit before it was rekeyed; {id:?} is negotiated anew"
                    );
                    let _ = self.ike.handle_command(now, Command::Terminate(id, true));
                }
            }
            // The core asks the peer; its authenticated answer from the new address moves the SA.
            DataplaneEvent::PeerMoved { inbound, from: _, to } => {
                if let Some(child) = self.children.get(&inbound) {
                    tracing::debug!("ESP of {:?} now comes from {to}: asking the peer", child.tunnel);
                    let _ = self.ike.handle_command(now, Command::CheckLiveness(child.tunnel));
                }
            }
            DataplaneEvent::Trigger { tunnel } => self.gateway.handle(now, Input::Traffic(tunnel)),
            DataplaneEvent::Mtu { tunnel, mtu } => {
                if let Some(t) = self.tunnels.get(&tunnel) {
                    tracing::info!(
                        connection = t.connection,
                        tunnel = t.name,
                        "MTU is now {mtu}, as the path carries"
                    );
                }
            }
            DataplaneEvent::Fault { tunnel, cause } => match tunnel.and_then(|id| self.tunnels.get(&id)) {
                Some(t) => tracing::error!(connection = t.connection, tunnel = t.name, "data plane: {cause}"),
                None => tracing::error!("data plane: {cause}"),
            },
        }
    }

    pub(crate) fn rekey_child(&mut self, inbound: Spi) {
        if let Err(error) = self.ike.handle_command(Instant::now(), Command::RekeyChild(inbound)) {
            tracing::debug!("rekey of {inbound}: {error}");
        }
    }

    async fn on_ask(&mut self, ask: Ask) {
        let response = match ask.request {
            Request::Status => Response::Status(Box::new(self.status().await)),
            Request::Counters => Response::Counters(self.counters()),
            Request::Up { target } => self.up(&target),
            Request::Down { target } => self.with_targets(&target, |daemon, id| {
                daemon.gateway.handle(Instant::now(), Input::Disable(id));
                Ok(())
            }),
            Request::Rekey { target, ike } => self.with_targets(&target, |daemon, id| daemon.rekey(id, ike)),
            Request::Reload => self.reload().await,
            Request::Logs(_) => Response::error(ErrorCode::Internal, "logs are served elsewhere", ""),
        };
        self.settle().await;
        // The client may have gone; what it asked for is done all the same.
        let _ = ask.answer.send(response);
    }

    fn up(&mut self, target: &Target) -> Response {
        self.with_targets(target, |daemon, id| {
            let name = daemon.tunnels.get(&id).map(|t| (t.connection.clone(), t.name.clone()));
            let anywhere = name.is_some_and(|(connection, tunnel)| {
                let tunnel = daemon.config.connection(&connection).and_then(|c| c.tunnel(&tunnel));
                tunnel.is_some_and(|t| t.remote_address.is_none())
            });
            daemon.gateway.handle(Instant::now(), Input::Enable(id));
            if anywhere { Err(CommandError::NoRemote(id)) } else { Ok(()) }
        })
    }

    fn rekey(&mut self, id: TunnelId, ike: bool) -> Result<(), CommandError> {
        let now = Instant::now();
        if ike {
            return self.ike.handle_command(now, Command::RekeyIke(id));
        }
        let children: Vec<Spi> =
            self.children.iter().filter(|(_, child)| child.tunnel == id).map(|(spi, _)| *spi).collect();
        if children.is_empty() {
            return Err(CommandError::NotUp(id));
        }
        children.into_iter().try_for_each(|spi| self.ike.handle_command(now, Command::RekeyChild(spi)))
    }

    fn with_targets(
        &mut self,
        target: &Target,
        mut act: impl FnMut(&mut Self, TunnelId) -> Result<(), CommandError>,
    ) -> Response {
        let ids: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, t)| target.covers(&t.connection, &t.name))
            .map(|(id, _)| *id)
            .collect();
        if ids.is_empty() {
            return Response::error(
                ErrorCode::UnknownTarget,
                format!("there is no connection or tunnel `{target}`"),
                "`culvert status` lists them; a new one needs `culvert reload`",
            );
        }
        for id in ids {
            if let Err(error) = act(self, id) {
                let name =
                    self.tunnels.get(&id).map(|t| format!("{}/{}", t.connection, t.name)).unwrap_or_default();
                let text = error.to_string().replace(&format!("{id:?}"), &name);
                return Response::error(
                    ErrorCode::State,
                    text,
                    "`culvert status` shows where the tunnel stands",
                );
            }
        }
        Response::done("")
    }

    async fn on_tick(&mut self) {
        if !self.children.is_empty() {
            self.guard.publish(&self.plane.stats().await);
        }
        self.guard.expire(Instant::now());
    }

    fn announce(&self, id: TunnelId, state: culvert_gateway::State) {
        use culvert_gateway::State;
        let Some(tunnel) = self.tunnels.get(&id) else { return };
        let (connection, tunnel) = (&tunnel.connection, &tunnel.name);
        match state {
            State::Up => tracing::info!(connection, tunnel, "tunnel up"),
            State::Connecting => tracing::info!(connection, tunnel, "negotiating"),
            // Why stands in the lines before.
            State::Waiting => tracing::warn!(connection, tunnel, "tunnel down, will be negotiated again"),
            State::Idle => tracing::warn!(connection, tunnel, "tunnel down"),
            State::Disabled => tracing::info!(connection, tunnel, "tunnel disabled"),
        }
    }

    fn complain(&self, inbound: Spi, what: &str, error: &dyn std::fmt::Display) {
        match self.children.get(&inbound).and_then(|child| self.tunnels.get(&child.tunnel)) {
            Some(t) => {
                tracing::error!(connection = t.connection, tunnel = t.name, "{what} (in {inbound}): {error}")
            }
            None => tracing::error!("{what} (in {inbound}): {error}"),
        }
    }

    fn kernel_route(&self, route: &culvert_gateway::Route) -> Option<netlink::Route> {
        use culvert_gateway::Via;
        Some(match route.via {
            Via::Unreachable => netlink::Route::unreachable(route.destination, route.metric),
            Via::Tunnel(id) => {
                netlink::Route::via_device(route.destination, self.tunnels.get(&id)?.index, route.metric)
            }
        })
    }

    async fn add_route(&self, route: &culvert_gateway::Route) {
        let Some(wanted) = self.kernel_route(route) else { return };
        if let Err(error) = self.netlink.replace_route(&wanted).await {
            tracing::error!("cannot put the route to {}: {error}", route.destination);
        }
    }

    async fn remove_route(&self, route: &culvert_gateway::Route) {
        // The kernel took it away with its interface.
        let Some(old) = self.kernel_route(route) else { return };
        if let Err(error) = self.netlink.delete_route(&old).await
            && !error.kernel().is_some_and(|kernel| kernel.is_missing())
        {
            tracing::warn!("cannot remove the route to {}: {error}", route.destination);
        }
    }

    /// Removes routes of ours that no connection wants: what a crash left behind.
    async fn sweep_routes(&self) {
        let wanted: Vec<netlink::Route> =
            self.gateway.routes().filter_map(|r| self.kernel_route(r)).collect();
        let stands = |found: &netlink::Route| {
            wanted.iter().any(|w| w.destination == found.destination && w.metric == found.metric)
        };
        match self.netlink.routes().await {
            Ok(routes) => {
                for route in routes.iter().filter(|r| !stands(r)) {
                    if let Err(error) = self.netlink.delete_route(route).await {
                        tracing::warn!("cannot remove a stale route to {}: {error}", route.destination);
                    }
                }
            }
            Err(error) => tracing::warn!("cannot list routes: {error}"),
        }
    }

    /// Deletes the SAs at the peers and removes interfaces, routes, programs and sockets.
    async fn shutdown(mut self) {
        let now = Instant::now();
        let _ = self.ike.handle_command(now, Command::Shutdown);
        self.settle_ike().await;
        let names: Vec<String> = self.config.connections.iter().map(|c| c.name.clone()).collect();
        for name in names {
            self.gateway.handle(now, Input::Remove(name));
        }
        self.settle_gateway().await;
        self.guard.stop();
        let ids: Vec<TunnelId> = self.tunnels.keys().copied().collect();
        for id in ids {
            if let Err(error) = self.plane.remove_tunnel(id).await {
                tracing::warn!("cannot take {id:?} away: {error}");
            }
        }
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

fn loss(reason: DownReason) -> Loss {
    match reason {
        DownReason::PeerDeleted | DownReason::Expired => Loss::PeerClosed,
        DownReason::LivenessTimeout => Loss::PeerDead,
        DownReason::Replaced | DownReason::LocalRequest => Loss::Local,
        _ => Loss::Failed,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The WAN interfaces with their addresses (for the guard and the status), and all addresses together.
async fn wan_interfaces(
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
async fn used_addresses(config: &Config, netlink: &Netlink, wan: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
    let mut used = wan.to_vec();
    for connection in &config.connections {
        for tunnel in &connection.tunnels {
            let address = plan::local_address(tunnel, netlink, wan)
                .await
                .with_context(|| format!("tunnel {}/{}", connection.name, tunnel.name))?;
            if !used.contains(&address) {
                used.push(address);
            }
        }
    }
    Ok(used)
}
