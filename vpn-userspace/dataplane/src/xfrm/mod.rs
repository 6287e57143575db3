//! The xfrm engine: ESP in the kernel, behind an xfrm interface per tunnel. Where the kernel has none, and in
//! transport mode, policies alone take the packets that an SA is for.
//!
//! SAs and policies belong to interface ids, reqids and indices of a range of our own; what a process that died
//! left in that range is swept at start, and nothing else ever. UDP-encapsulated ESP comes to a socket of
//! the kernel's beside ours on the same port, told apart by the parity of the SPI: ours are even.
//!
//! Calls to the kernel are made under one lock and take microseconds; only interfaces are made and
//! changed without it.

mod card;
mod monitor;
mod takes;
mod tunnel;

use culvert_sys::lock::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use culvert_esp::tunnel::Overhead;
use culvert_ike::Parity;
use culvert_sys::encap::EncapSocket;
use culvert_sys::guard::GuardError;
use culvert_sys::mss::{ClampedInterface, MssClamp};
use culvert_sys::netlink::{self, LinkKind, Netlink, NetlinkError, interface_drops};
use culvert_sys::probe::{KernelEsp, SuiteSupport, Wanted};
use culvert_sys::tun::Tun;
use culvert_sys::wan::route_mtu;
use culvert_sys::xfrm::{self, Features, IF_ID_BASE, IF_ID_COUNT, Xfrm, XfrmMonitor};
use culvert_types::{Spi, TunnelId};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

pub(crate) use self::takes::is_refusal;
use self::tunnel::{OutboundState, OuterRules, Scope, Tunnel};
use crate::user::setup::SaSetup;
use crate::user::wans::Steerings;
use crate::{
    DataplaneConfig, DataplaneError, DataplaneEvent, Engine, EngineInfo, SaStats, TunnelDrops, TunnelReport,
    TunnelSpec,
};

/// The MTU of the WAN before a peer's route is known.
const ETHERNET_MTU: u32 = 1500;
/// The smallest MTU over which IPv6 goes (RFC 8200 5).
const IPV6_MIN_MTU: u32 = 1280;
/// How long the outbound SA that a newer one took over from stays, for packets that are on their way with it.
const TAKEOVER_GRACE: Duration = Duration::from_millis(250);

/// Kernel ESP for any number of tunnels, where there is any.
pub(crate) struct XfrmEngine {
    kernel: KernelEsp,
    /// What stands in the way of every tunnel.
    unavailable: Option<String>,
    /// What drives it; none where the kernel cannot.
    drive: Option<Drive>,
    wan: Vec<IpAddr>,
    natt_port: u16,
    rules: OuterRules,
}

struct Drive {
    shared: Arc<Shared>,
    netlink: Netlink,
    monitor: AbortHandle,
    /// Keeps TCP's segments within the tunnels' MTUs.
    clamp: Clamp,
    /// The kernel's sockets on the UDP port, while there are tunnels.
    sockets: HashMap<IpAddr, EncapSocket>,
    /// Who divides the ports.
    steerings: Steerings,
}

/// The program at the tunnels' interfaces.
enum Clamp {
    /// The kernel verifies it, which takes long on a slow machine: an engine change of a live tunnel must not wait for it.
    Loading(JoinHandle<Result<MssClamp, GuardError>>),
    Loaded(MssClamp),
    /// The kernel does not take it.
    Refused,
}

/// What timers and the monitor reach too.
pub(crate) struct Shared {
    xfrm: Xfrm,
    state: Mutex<State>,
    events: mpsc::UnboundedSender<DataplaneEvent>,
}

#[derive(Default)]
struct State {
    tunnels: HashMap<TunnelId, Tunnel>,
    serial: u64,
}

impl State {
    fn holder(&mut self, inbound: Spi) -> Option<&mut Tunnel> {
        self.tunnels.values_mut().find(|t| t.pairs.contains_key(&inbound))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Does something to a pair later, if it is still the same one.
    fn later(
        self: &Arc<Self>,
        after: Duration,
        inbound: Spi,
        serial: u64,
        what: fn(&mut Tunnel, &Xfrm, Spi) -> Result<(), NetlinkError>,
    ) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let Some(shared) = weak.upgrade() else { return };
            let mut state = shared.state();
            let Some(tunnel) = state.holder(inbound) else { return };
            if tunnel.pairs.get(&inbound).is_none_or(|p| p.serial != serial) {
                return;
            }
            if let Err(e) = what(tunnel, &shared.xfrm, inbound) {
                shared.fault(Some(tunnel.id), &e);
            }
        });
    }

    fn fault(&self, tunnel: Option<TunnelId>, cause: &dyn std::fmt::Display) {
        let _ = self.events.send(DataplaneEvent::Fault { tunnel, cause: cause.to_string() });
    }
}

impl XfrmEngine {
    /// Probes the kernel, sweeps what an earlier process left, and begins to listen to the kernel's reports.
    pub(crate) async fn start(
        config: &DataplaneConfig,
        steerings: Steerings,
        events: mpsc::UnboundedSender<DataplaneEvent>,
    ) -> Self {
        let kernel = tokio::task::spawn_blocking(KernelEsp::probe)
            .await
            .unwrap_or_else(|_| KernelEsp::unavailable("the probe failed by a fault of its own"));
        let mut unavailable = kernel.available().err();
        let drive = match Drive::start(steerings, events, kernel.features, unavailable.is_none()).await {
            Ok(drive) => drive,
            Err(e) => {
                unavailable.get_or_insert(e.to_string());
                None
            }
        };
        Self {
            kernel,
            unavailable,
            drive,
            wan: config.wan.clone(),
            natt_port: config.natt_port,
            rules: OuterRules { copy_df: config.dont_fragment, copy_dscp: config.copy_dscp },
        }
    }

    /// What it can serve on this host.
    pub(crate) fn info(&self) -> EngineInfo {
        // A suite counts as taken if the kernel takes it over every family of ours.
        let taken = |s: &SuiteSupport| {
            let families = [(false, &s.ipv4), (true, &s.ipv6)];
            let mut ours =
                families.into_iter().filter(|(ipv6, _)| self.wan.iter().any(|a| a.is_ipv6() == *ipv6));
            ours.try_for_each(|(_, availability)| availability.clone())
        };
        let suites = self.kernel.suites.iter().map(|s| (s.suite, taken(s))).collect();
        let mut notes = Vec::new();
        if let (None, Err(reason)) = (&self.unavailable, &self.kernel.interface) {
            notes.push(format!(
                "no xfrm interface: {reason}; policies alone protect, and routes lead to an interface that carries nothing"
            ));
        }
        EngineInfo { engine: Engine::Xfrm, available: self.available(), suites, notes }
    }

    /// Whether the engine can serve any tunnel, or why not.
    pub(crate) fn available(&self) -> Result<(), String> {
        self.unavailable.clone().map_or(Ok(()), Err)
    }

    /// Whether an SA may be for one CPU (Linux 6.13).
    pub(crate) fn per_cpu(&self) -> bool {
        self.kernel.features.cpu
    }

    /// Whether the kernel has sockets on our UDP port.
    pub(crate) fn is_open(&self) -> bool {
        self.drive.as_ref().is_some_and(|drive| !drive.sockets.is_empty())
    }

    /// Everything that stands in the way of serving a tunnel; empty if nothing does.
    pub(crate) fn obstacles(&self, spec: &TunnelSpec) -> Vec<String> {
        if let Some(reason) = &self.unavailable {
            return vec![reason.clone()];
        }
        let mut obstacles = Vec::new();
        // The peer's address family is not known yet: the kernel must serve every one that we have.
        for ipv6 in [false, true] {
            if self.wan.iter().any(|a| a.is_ipv6() == ipv6) {
                let wanted = Wanted { suites: &spec.suites, ipv6, udp: true, esn: true };
                obstacles.extend(self.kernel.obstacles(&wanted));
            }
        }
        obstacles
    }

    /// Creates the tunnel's interface, up, with policies that drop everything until there is an SA.
    pub(crate) async fn create_tunnel(&mut self, spec: &TunnelSpec) -> Result<TunnelReport, DataplaneError> {
        let (wan, natt_port, rules) = (self.wan.clone(), self.natt_port, self.rules);
        let interfaces = self.kernel.interface.is_ok();
        let drive = self.drive(&spec.interface)?;
        if drive.shared.state().tunnels.contains_key(&spec.id) {
            return Err(DataplaneError::TunnelExists(spec.id));
        }
        drive.open_sockets(&wan, natt_port)?;
        let scope = match (spec.transport, interfaces) {
            (false, true) => Scope::Interface { if_id: drive.free_if_id() },
            (transport, _) => Scope::Host { transport },
        };
        let outcome = drive.create(spec, scope, &wan, rules).await;
        if outcome.is_err() {
            drive.close_idle_sockets();
        }
        outcome?;
        Ok(TunnelReport {
            engine: Engine::Xfrm,
            lan_port: if matches!(scope, Scope::Host { .. }) { "policy" } else { "xfrm" },
            wan_port: "xfrm",
            why: Vec::new(),
            spi_parity: Some(Parity::Odd),
            small: false,
        })
    }

    /// Removes the tunnel's interface, SAs and policies. Returns when they are gone.
    pub(crate) async fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), DataplaneError> {
        let drive = self.drive.as_mut().ok_or(DataplaneError::UnknownTunnel(id))?;
        let link = {
            let state = drive.shared.state();
            state.tunnels.get(&id).ok_or(DataplaneError::UnknownTunnel(id))?.xfrm_link()
        };
        let gone = match link {
            Some(link) => drive.netlink.delete_link(link).await,
            None => Ok(()),
        };
        let cleared = {
            let mut state = drive.shared.state();
            let tunnel = state.tunnels.remove(&id);
            tunnel.map_or(Ok(()), |mut t| t.clear(&drive.shared.xfrm))
        };
        drive.close_idle_sockets();
        gone.and(cleared).map_err(DataplaneError::from)
    }

    /// Installs an SA pair: the inbound half first, then the outbound half if it is to be used at once. Says whether the
    /// network card has the cipher, if it was asked to.
    pub(crate) async fn install(
        &mut self,
        setup: &SaSetup,
        lifetime: Duration,
        use_outbound: bool,
    ) -> Result<Option<String>, DataplaneError> {
        let natt_port = self.natt_port;
        let drive = self.drive.as_ref().ok_or(DataplaneError::UnknownTunnel(setup.tunnel))?;
        drive.fit_mtu(setup).await;
        let card = drive.card(setup).await;
        let shared = &drive.shared;
        let mut state = shared.state();
        if state.holder(setup.inbound).is_some() {
            return Err(DataplaneError::SpiTaken(setup.inbound));
        }
        state.serial += 1;
        let serial = state.serial;
        let tunnel =
            state.tunnels.get_mut(&setup.tunnel).ok_or(DataplaneError::UnknownTunnel(setup.tunnel))?;
        let pair = tunnel.pair(setup, natt_port, lifetime, serial)?;
        let note = match card {
            Some(card) => Some(tunnel.add_to(&shared.xfrm, pair, &card)?),
            None => {
                tunnel.add(&shared.xfrm, pair)?;
                None
            }
        };
        if use_outbound && let Err(e) = activate(shared, tunnel, setup.inbound) {
            let _ = tunnel.end(&shared.xfrm, setup.inbound);
            return Err(e.into());
        }
        Ok(note)
    }

    /// Sends with this SA from now on.
    pub(crate) fn activate_outbound(&self, inbound: Spi) -> Result<(), DataplaneError> {
        let drive = self.drive.as_ref().ok_or(DataplaneError::UnknownSpi(inbound))?;
        let mut state = drive.shared.state();
        let tunnel = state.holder(inbound).ok_or(DataplaneError::UnknownSpi(inbound))?;
        Ok(activate(&drive.shared, tunnel, inbound)?)
    }

    /// Sends with this SA no more, and receives with it for `drain` still.
    pub(crate) fn remove(&self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        let drive = self.drive.as_ref().ok_or(DataplaneError::UnknownSpi(inbound))?;
        let mut state = drive.shared.state();
        let tunnel = state.holder(inbound).ok_or(DataplaneError::UnknownSpi(inbound))?;
        let Some((serial, outbound)) = tunnel.pairs.get(&inbound).map(|p| (p.serial, p.outbound_state))
        else {
            return Ok(());
        };
        if drain.is_zero() {
            return Ok(tunnel.end(&drive.shared.xfrm, inbound)?);
        }
        // One that was taken over from has a while of its own.
        if outbound == OutboundState::Superseded {
            drive.shared.later(drain.max(TAKEOVER_GRACE), inbound, serial, Tunnel::end);
            return Ok(());
        }
        let ended = tunnel.end_outbound(&drive.shared.xfrm, inbound);
        drive.shared.later(drain, inbound, serial, Tunnel::end);
        Ok(ended?)
    }

    /// The networks behind the tunnel's peer are these now.
    pub(crate) fn set_remote_nets(
        &self,
        id: TunnelId,
        nets: Vec<ipnet::IpNet>,
    ) -> Result<(), DataplaneError> {
        let drive = self.drive.as_ref().ok_or(DataplaneError::UnknownTunnel(id))?;
        let mut state = drive.shared.state();
        let tunnel = state.tunnels.get_mut(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        tunnel.remote_nets = nets;
        Ok(tunnel.reconcile(&drive.shared.xfrm)?)
    }

    /// The packets of these SAs of the tunnel go from and to these addresses from now on.
    pub(crate) fn move_sas(
        &self,
        id: TunnelId,
        moving: &[Spi],
        (local, remote): (SocketAddr, SocketAddr),
        encap: bool,
    ) -> Result<(), DataplaneError> {
        let drive = self.drive.as_ref().ok_or(DataplaneError::UnknownTunnel(id))?;
        let mut state = drive.shared.state();
        let tunnel = state.tunnels.get_mut(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        let local = SocketAddr::new(local.ip(), self.natt_port);
        let moved = tunnel.move_sas_to(&drive.shared.xfrm, moving, (local, remote), encap);
        for (inbound, serial) in moving.iter().filter_map(|i| Some((*i, tunnel.pairs.get(i)?.serial))) {
            drive.shared.later(TAKEOVER_GRACE, inbound, serial, Tunnel::leave_behind);
        }
        Ok(moved?)
    }

    /// Takes ESP in UDP on a further address.
    pub(crate) fn add_address(&mut self, address: IpAddr) -> Result<(), DataplaneError> {
        if self.wan.contains(&address) {
            return Ok(());
        }
        self.wan.push(address);
        let port = self.natt_port;
        match &mut self.drive {
            Some(drive) if !drive.shared.state().tunnels.is_empty() => drive.open_sockets(&[address], port),
            _ => Ok(()),
        }
    }

    pub(crate) fn stats(&self) -> Vec<SaStats> {
        let Some(drive) = &self.drive else { return Vec::new() };
        let state = drive.shared.state();
        let mut stats = Vec::new();
        for tunnel in state.tunnels.values() {
            for pair in tunnel.pairs.values() {
                stats.push(stats_of(&drive.shared.xfrm, tunnel.id, pair));
            }
        }
        stats
    }

    /// What each tunnel's interface dropped.
    pub(crate) fn tunnel_drops(&self) -> Vec<TunnelDrops> {
        let Some(drive) = &self.drive else { return Vec::new() };
        let state = drive.shared.state();
        if state.tunnels.is_empty() {
            return Vec::new();
        }
        let counted = interface_drops().unwrap_or_default();
        let drops = |t: &Tunnel| {
            let counted = counted.get(&t.interface).copied().unwrap_or_default();
            let named = [
                ("no-outbound-sa", counted.no_carrier),
                ("not-sent", counted.sent),
                ("not-accepted", counted.received),
            ];
            TunnelDrops { tunnel: t.id, drops: named.into_iter().filter(|(_, n)| *n > 0).collect() }
        };
        state.tunnels.values().map(drops).collect()
    }

    /// Why the kernel's IPsec dropped packets, tunnels of others included: its own names.
    pub(crate) fn kernel_drops(&self) -> Vec<(String, u64)> {
        if self.drive.is_some() { xfrm::drop_counters() } else { Vec::new() }
    }

    fn drive(&mut self, interface: &str) -> Result<&mut Drive, DataplaneError> {
        let reason = self.unavailable.clone();
        match (&mut self.drive, reason) {
            (Some(drive), None) => Ok(drive),
            (_, reason) => Err(DataplaneError::EngineUnavailable {
                engine: Engine::Xfrm,
                interface: interface.to_owned(),
                reason: reason.unwrap_or_else(|| "the kernel's IPsec cannot be reached".to_owned()),
            }),
        }
    }
}

impl Drive {
    /// Sweeps, and if the kernel can serve begins to listen.
    async fn start(
        steerings: Steerings,
        events: mpsc::UnboundedSender<DataplaneEvent>,
        features: Features,
        serve: bool,
    ) -> Result<Option<Self>, NetlinkError> {
        let xfrm = Xfrm::with(features)?;
        let netlink = Netlink::connect()?;
        for link in netlink.links().await? {
            if matches!(link.kind, LinkKind::Xfrm { if_id } if xfrm::is_our_if_id(if_id)) {
                tracing::info!(
                    interface = link.name,
                    "removing an xfrm interface left by an earlier process"
                );
                netlink.delete_link(link.index).await?;
            }
        }
        let swept = xfrm.sweep(|_| true)?;
        if swept != Default::default() {
            tracing::info!(
                states = swept.states,
                policies = swept.policies,
                "removed kernel SAs and policies left by an earlier process"
            );
        }
        if !serve {
            return Ok(None);
        }
        let shared = Arc::new(Shared { xfrm, state: Mutex::default(), events });
        let reports = XfrmMonitor::open()?;
        let monitor = tokio::spawn(monitor::run(reports, Arc::downgrade(&shared))).abort_handle();
        let clamp = Clamp::Loading(tokio::task::spawn_blocking(MssClamp::load));
        Ok(Some(Self { shared, netlink, monitor, clamp, sockets: HashMap::new(), steerings }))
    }

    async fn create(
        &mut self,
        spec: &TunnelSpec,
        scope: Scope,
        wan: &[IpAddr],
        rules: OuterRules,
    ) -> Result<(), DataplaneError> {
        let mtu = spec.mtu.unwrap_or_else(|| first_mtu(spec, wan));
        let nets = spec.remote_nets.clone();
        let mut tunnel = Tunnel::new(spec.id, spec.interface.clone(), scope, (spec.mtu, mtu), nets, rules);
        tunnel.kernel = spec.kernel;
        match scope {
            Scope::Interface { if_id } => {
                let lo = self.netlink.link("lo").await?.index;
                let link = self.netlink.create_xfrm_interface(&spec.interface, if_id, lo).await?;
                tunnel.link = Some(link.index);
                tunnel.clamped = self.clamp(&spec.interface).await;
            }
            Scope::Host { transport: false } => {
                let tun = Tun::create(&spec.interface)?;
                tun.set_queue_len(1)?;
                tunnel.placeholder = Some(tun);
                tunnel.link = Some(self.netlink.link(&spec.interface).await?.index);
            }
            Scope::Host { transport: true } => {}
        }
        let outcome = async {
            tunnel.reconcile(&self.shared.xfrm)?;
            let Some(link) = tunnel.link else { return Ok(()) };
            self.netlink.no_link_local_address(link).await?;
            self.netlink.set_mtu(link, mtu).await?;
            self.netlink.set_up(link, true).await
        }
        .await;
        if let Err(e) = outcome {
            if let Some(link) = tunnel.xfrm_link() {
                let _ = self.netlink.delete_link(link).await;
            }
            let _ = tunnel.clear(&self.shared.xfrm);
            return Err(e.into());
        }
        self.shared.state().tunnels.insert(spec.id, tunnel);
        Ok(())
    }

    /// Without it path MTU discovery must do, as with every kernel's ESP.
    async fn clamp(&mut self, interface: &str) -> Option<ClampedInterface> {
        if let Clamp::Loading(loading) = &mut self.clamp {
            self.clamp = match loading.await {
                Ok(Ok(clamp)) => Clamp::Loaded(clamp),
                Ok(Err(why)) => {
                    tracing::warn!("TCP's segment size is not clamped in tunnels of engine xfrm: {why}");
                    Clamp::Refused
                }
                // It was cut short or has panicked, which was said.
                Err(_) => Clamp::Refused,
            };
        }
        let Clamp::Loaded(clamp) = &mut self.clamp else { return None };
        let attached = clamp.attach(interface);
        attached.inspect_err(|e| tracing::warn!(interface, "TCP's segment size is not clamped: {e}")).ok()
    }

    fn free_if_id(&self) -> u32 {
        let state = self.shared.state();
        let used: std::collections::HashSet<u32> = state.tunnels.values().map(|t| t.scope.if_id()).collect();
        (IF_ID_BASE + 1..IF_ID_BASE + IF_ID_COUNT).find(|id| !used.contains(id)).unwrap_or(IF_ID_BASE)
    }

    /// The kernel's socket beside ours on every WAN address.
    fn open_sockets(&mut self, wan: &[IpAddr], port: u16) -> Result<(), DataplaneError> {
        for address in wan {
            if !self.sockets.contains_key(address) {
                let socket = EncapSocket::open(SocketAddr::new(*address, port))?;
                self.steerings.admit(&socket)?;
                self.sockets.insert(*address, socket);
            }
        }
        Ok(())
    }

    fn close_idle_sockets(&mut self) {
        if self.shared.state().tunnels.is_empty() {
            self.sockets.clear();
        }
    }

    /// Has the interface's MTU follow the path to the peer, where the configuration does not set it. The
    /// kernel checks every packet against the path as well; this spares senders the answer.
    async fn fit_mtu(&self, setup: &SaSetup) {
        let outer = route_mtu(setup.local, setup.remote.ip()).unwrap_or(ETHERNET_MTU);
        let ipv6 = setup.local_ts.iter().any(|ts| !ts.is_ipv4());
        let floor = if ipv6 { IPV6_MIN_MTU } else { 0 };
        let mtu = (setup.overhead().inner_mtu(outer as usize) as u32).max(floor);
        let link = {
            let mut state = self.shared.state();
            let Some(tunnel) = state.tunnels.get_mut(&setup.tunnel) else { return };
            if tunnel.fixed_mtu.is_some() || tunnel.mtu == mtu {
                return;
            }
            tunnel.mtu = mtu;
            let Some(link) = tunnel.link else { return };
            link
        };
        match self.netlink.set_mtu(link, mtu).await {
            Ok(()) => {
                let _ = self.shared.events.send(DataplaneEvent::Mtu { tunnel: setup.tunnel, mtu });
            }
            Err(e) => self.shared.fault(Some(setup.tunnel), &e),
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.monitor.abort();
        let tunnels: Vec<Tunnel> = self.shared.state().tunnels.drain().map(|(_, t)| t).collect();
        if tunnels.is_empty() {
            return;
        }
        // Nothing can be awaited here: a thread of the same network namespace does it.
        let links: Vec<u32> = tunnels.iter().filter_map(Tunnel::xfrm_link).collect();
        let removed = std::thread::spawn(move || netlink::delete_links(&links)).join();
        if !matches!(removed, Ok(Ok(()))) {
            tracing::warn!("cannot remove the xfrm interfaces; the next start of the daemon will");
        }
        for mut tunnel in tunnels {
            if let Err(e) = tunnel.clear(&self.shared.xfrm) {
                tracing::warn!(interface = tunnel.interface, "cannot remove kernel SAs and policies: {e}");
            }
        }
    }
}

fn activate(shared: &Arc<Shared>, tunnel: &mut Tunnel, inbound: Spi) -> Result<(), NetlinkError> {
    let superseded = tunnel.activate(&shared.xfrm, inbound)?;
    for pair in tunnel.pairs.values().filter(|p| superseded.contains(&p.serial)) {
        shared.later(TAKEOVER_GRACE, pair.inbound, pair.serial, Tunnel::end_outbound);
    }
    for inbound in tunnel.overtaken_by(inbound) {
        let _ = shared.events.send(DataplaneEvent::SoftLimit { inbound });
    }
    Ok(())
}

/// Before a path is known: what fits Ethernet with the suite that takes most room.
fn first_mtu(spec: &TunnelSpec, wan: &[IpAddr]) -> u32 {
    let outer_ipv6 = wan.iter().any(IpAddr::is_ipv6);
    let fits = |&suite| Overhead { outer_ipv6, udp: true, suite }.inner_mtu(ETHERNET_MTU as usize) as u32;
    spec.suites.iter().map(fits).min().unwrap_or(IPV6_MIN_MTU)
}

fn stats_of(xfrm: &Xfrm, tunnel: TunnelId, pair: &tunnel::Pair) -> SaStats {
    let inbound = xfrm.sa(pair.inbound_id()).ok().flatten();
    let (packets_out, bytes_out, sequence_out) = match pair.outbound_state {
        OutboundState::Waiting => (0, 0, 0),
        OutboundState::Gone { packets, bytes, sequence } => (packets, bytes, sequence),
        OutboundState::Active | OutboundState::Superseded => xfrm
            .sa(pair.outbound_id())
            .ok()
            .flatten()
            .map_or((0, 0, 0), |s| (s.packets, s.bytes, s.sequence.outbound)),
    };
    let mut drops = Vec::new();
    let (mut packets_in, mut bytes_in, mut sequence_in) = (0, 0, 0);
    if let Some(state) = inbound {
        (packets_in, bytes_in, sequence_in) = (state.packets, state.bytes, state.sequence.inbound);
        for (reason, count) in [
            ("replay-duplicate", state.replayed),
            ("replay-too-old", state.too_old),
            ("not-authentic", state.integrity_failed),
        ] {
            if count > 0 {
                drops.push((reason, u64::from(count)));
            }
        }
    }
    SaStats {
        tunnel,
        inbound: pair.inbound,
        outbound: pair.outbound,
        engine: Engine::Xfrm,
        worker: None,
        sender: None,
        lan_queue: None,
        wan_queue: None,
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
        drops,
        replay_floor: (sequence_in + 1).saturating_sub(u64::from(pair.replay_window)),
        sequence_in,
        sequence_out,
    }
}
