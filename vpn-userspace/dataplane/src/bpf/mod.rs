//! The bpf engine: ESP in eBPF, with ChaCha20-Poly1305, for small packets that must not wait for anybody.
//!
//! A tunnel's interface is one end of a veth pair. Whatever is routed into it, of local senders as well, comes to
//! the program at the other end, its back, which seals it and sends it out by the WAN; what the WAN's program opens
//! arrives at the interface. On the LAN devices of the configuration both ways are cut
//! short. The SAs, with their numbers and windows, live in the programs' maps and nowhere else.
//!
//! Nothing here is on a packet's way: a [`watch`] reads the counters now and then, and makes events of them.

mod odd;
mod tunnel;
mod watch;

pub(crate) use odd::OddDoor;

use culvert_sys::lock::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use culvert_crypto::{Encryption, Suite};
use culvert_esp::tunnel::Overhead;
use culvert_ike::Parity;
use culvert_sys::esp_bpf::{
    DeviceHook, EspBpf, EspHalf, EspInterface, EspPair, EspPath, HookChoice, MAX_INNER, Small,
    forwarding_is_off, interface_of, segment_before,
};
use culvert_sys::guard::Guard;
use culvert_sys::netlink::{self, BACK_PREFIX, Netlink};
use culvert_types::{Spi, TunnelId};
use tokio::sync::mpsc;

use self::tunnel::{Behind, Pair, Tunnel};
use self::watch::Watch;
use crate::user::setup::SaSetup;
use crate::user::tunnel::TunnelShared;
use crate::{
    DataplaneConfig, DataplaneError, DataplaneEvent, DropSample, Engine, EngineInfo, SaStats, Seen,
    TunnelDrops, TunnelReport, TunnelSpec,
};

/// The MTU of the WAN before a peer's route is known.
const ETHERNET_MTU: usize = 1500;
/// The smallest MTU over which IPv6 goes (RFC 8200 5).
const IPV6_MIN_MTU: u32 = 1280;

/// ESP in eBPF for any number of tunnels.
pub(crate) struct BpfEngine {
    wan: Vec<IpAddr>,
    lan: Vec<String>,
    hook: HookChoice,
    natt_port: u16,
    dont_fragment: bool,
    copy_dscp: bool,
    events: mpsc::UnboundedSender<DataplaneEvent>,
    /// How packets that came to a socket get here.
    door: OddDoor,
    /// From the first tunnel on: hosts that do not use the engine are spared its programs.
    drive: Option<Drive>,
}

struct Drive {
    shared: Arc<Shared>,
    netlink: Netlink,
    /// Removes the interfaces when it goes.
    _watch: Watch,
}

/// What the watch reaches too.
struct Shared {
    state: Mutex<State>,
    events: mpsc::UnboundedSender<DataplaneEvent>,
}

struct State {
    esp: EspBpf,
    door: OddDoor,
    tunnels: HashMap<TunnelId, Tunnel>,
    pairs: HashMap<Spi, Pair>,
    /// Pairs that send no more, and until when they receive.
    draining: Vec<(Instant, Spi, Pair)>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn send(&self, event: DataplaneEvent) {
        let _ = self.events.send(event);
    }

    fn fault(&self, tunnel: Option<TunnelId>, cause: &dyn std::fmt::Display) {
        self.send(DataplaneEvent::Fault { tunnel, cause: cause.to_string() });
    }

    /// Removes what is left of the tunnels' interfaces. Blocks.
    fn remove_interfaces(&self) {
        let pair = |tunnel: Tunnel| matches!(tunnel.behind, Behind::Back(..)).then_some(tunnel.link.index());
        let links: Vec<u32> = self.state().tunnels.drain().filter_map(|(_, t)| pair(t)).collect();
        if !links.is_empty()
            && let Err(error) = netlink::delete_links(&links)
        {
            tracing::warn!(
                "cannot remove the interfaces of engine bpf; the next start of the daemon will: {error}"
            );
        }
    }
}

impl BpfEngine {
    pub(crate) fn new(
        config: &DataplaneConfig,
        door: OddDoor,
        events: mpsc::UnboundedSender<DataplaneEvent>,
    ) -> Self {
        Self {
            wan: config.wan.clone(),
            lan: config.lan.clone(),
            hook: config.bpf_hook,
            natt_port: config.natt_port,
            dont_fragment: config.dont_fragment,
            copy_dscp: config.copy_dscp,
            events,
            door,
            drive: None,
        }
    }

    /// What it can serve.
    pub(crate) fn info(&self) -> EngineInfo {
        let why = |_| NOT_TAKEN.to_owned();
        let suites = Suite::all().map(|suite| (suite, takes(suite).map_err(why))).collect();
        let (ipv4, ipv6) = self.families();
        let available = forwarding_is_off(ipv4, ipv6).map_or(Ok(()), |setting| Err(forwards(setting)));
        EngineInfo { engine: Engine::Bpf, available, suites, notes: self.stands() }
    }

    /// Where the programs stand, device by device, and why.
    fn stands(&self) -> Vec<String> {
        let Some(drive) = &self.drive else { return Vec::new() };
        let stands = |hook: DeviceHook| {
            let reason = hook.reason.map(|r| format!(" ({r})")).unwrap_or_default();
            format!("{} at {}{reason}", if hook.xdp { "xdp" } else { "tc" }, hook.interface)
        };
        drive.shared.state().esp.hooks().into_iter().map(stands).collect()
    }

    /// Has the programs stand as was asked for; follows devices that went and came back.
    pub(crate) fn settle(&mut self, guard: Option<&mut Guard>) -> Result<(), DataplaneError> {
        let Some(drive) = &self.drive else { return Ok(()) };
        Ok(drive.shared.state().esp.settle(self.hook, guard)?)
    }

    /// Lets somebody else have the place under XDP of these devices.
    pub(crate) fn give_way<'d>(&mut self, devices: impl Iterator<Item = &'d str>) {
        let Some(drive) = &self.drive else { return };
        let mut state = drive.shared.state();
        devices.for_each(|device| state.esp.give_way(device));
    }

    /// Everything that stands in the way of serving a tunnel, as far as it can be told before it is tried.
    pub(crate) fn obstacles(&self, spec: &TunnelSpec) -> Vec<String> {
        let mut obstacles: Vec<String> = Vec::new();
        if let Some(reason) = spec.suites.iter().find_map(|suite| takes(*suite).err()) {
            obstacles.push(reason);
        }
        let (ipv4, ipv6) = self.families();
        obstacles.extend(forwarding_is_off(ipv4, ipv6).map(forwards));
        obstacles
    }

    /// Whether the programs take this SA, as far as it can be told before it is tried.
    pub(crate) fn takes(&self, setup: &SaSetup) -> Result<(), String> {
        takes(setup.suite)
    }

    /// The tunnel's interface has this name now.
    pub(crate) fn renamed(&self, id: TunnelId, name: &str) {
        let Some(drive) = &self.drive else { return };
        if let Some(tunnel) = drive.shared.state().tunnels.get_mut(&id) {
            name.clone_into(&mut tunnel.interface);
        }
    }

    /// Which families the WAN's addresses are of.
    fn families(&self) -> (bool, bool) {
        (self.wan.iter().any(IpAddr::is_ipv4), self.wan.iter().any(IpAddr::is_ipv6))
    }

    /// Creates the tunnel's interface, up.
    pub(crate) async fn create_tunnel(&mut self, spec: &TunnelSpec) -> Result<TunnelReport, DataplaneError> {
        let guess = self.first_mtu(spec);
        self.start()?;
        let wan = self.wan.clone();
        let direct = !self.lan.is_empty();
        let lan = self.lan.clone();
        let drive = self.drive(spec.id)?;
        {
            let mut state = drive.shared.state();
            if state.tunnels.contains_key(&spec.id) {
                return Err(DataplaneError::TunnelExists(spec.id));
            }
            for address in &wan {
                attach_wan(&mut state.esp, *address)?;
            }
            for interface in &lan {
                state.esp.attach_lan(interface)?;
            }
        }
        let mtu = spec.mtu.unwrap_or(guess).min(MAX_INNER);
        let back = format!("{BACK_PREFIX}{:x}", spec.id.0);
        let pair = drive.netlink.create_tunnel_pair(&spec.interface, &back, mtu, MAX_INNER);
        let (front_link, back_link) = pair.await?;
        let tunnel = Tunnel {
            id: spec.id,
            interface: spec.interface.clone(),
            link: EspInterface::Pair(front_link.index, back_link.index),
            behind: Behind::Back(back.clone(), back_link.index),
            mtu,
            fixed_mtu: spec.mtu.is_some(),
            ipv6: spec.inside.iter().chain(&spec.remote_nets).any(|n| n.addr().is_ipv6()),
            active: Vec::new(),
            unserved: 0,
            triggered: None,
            direct,
        };
        if let Err(error) = drive.set_up(&tunnel, &back, back_link.index).await {
            let _ = drive.netlink.delete_link(front_link.index).await;
            drive.shared.state().esp.detach(&back);
            return Err(error);
        }
        drive.shared.state().tunnels.insert(spec.id, tunnel);
        Ok(TunnelReport {
            engine: Engine::Bpf,
            lan_port: "tc",
            wan_port: "tc",
            why: Vec::new(),
            // What the programs leave to the stack comes to the sockets of engine `user`, whose parity this is.
            spi_parity: Some(Parity::Even),
            small: false,
        })
    }

    /// Takes what is small of a tunnel of the engine `user`, once there is an SA for it. All else goes on into the device.
    pub(crate) fn join_tunnel(
        &mut self,
        id: TunnelId,
        shared: Arc<TunnelShared>,
        small: Small,
    ) -> Result<(), DataplaneError> {
        let (ipv4, ipv6) = self.families();
        let interface = shared.tun().name();
        if let Some(setting) = forwarding_is_off(ipv4, ipv6) {
            let reason = forwards(setting);
            return Err(DataplaneError::EngineUnavailable { engine: Engine::Bpf, interface, reason });
        }
        self.start()?;
        let wan = self.wan.clone();
        let drive = self.drive(id)?;
        let mut state = drive.shared.state();
        let State { esp, tunnels, .. } = &mut *state;
        for address in wan {
            attach_wan(esp, address)?;
        }
        let tunnel = Tunnel {
            id,
            link: EspInterface::Tun(shared.tun().index()?, small),
            behind: Behind::User(shared.clone()),
            interface: interface.clone(),
            mtu: shared.mtu() as u32,
            // The engine `user` sees to it.
            fixed_mtu: true,
            ipv6: false,
            active: Vec::new(),
            unserved: 0,
            triggered: None,
            direct: false,
        };
        tunnel.tell(esp, &HashMap::new())?;
        if let Err(error) = esp.attach_tun(&interface) {
            let _ = esp.remove_tunnel(tunnel.link);
            return Err(error.into());
        }
        tunnels.insert(id, tunnel);
        Ok(())
    }

    /// Loads the programs and begins to watch, unless that is done.
    fn start(&mut self) -> Result<(), DataplaneError> {
        if self.drive.is_some() {
            return Ok(());
        }
        let mut esp = EspBpf::load()?;
        self.door.equip(esp.odd_opener()?);
        let state = State {
            esp,
            door: self.door.clone(),
            tunnels: HashMap::new(),
            pairs: HashMap::new(),
            draining: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), events: self.events.clone() });
        let netlink = Netlink::connect()?;
        let watch = Watch::start(shared.clone())?;
        self.drive = Some(Drive { shared, netlink, _watch: watch });
        Ok(())
    }

    /// Removes the tunnel's SAs and its interface. Returns when the interface is gone.
    pub(crate) async fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), DataplaneError> {
        let drive = self.drive(id)?;
        let tunnel = {
            let mut state = drive.shared.state();
            let tunnel = state.tunnels.remove(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
            state.clear(&tunnel)?;
            tunnel
        };
        if let Behind::Back(..) = tunnel.behind {
            drive.netlink.delete_link(tunnel.link.index()).await?;
        }
        Ok(())
    }

    /// Installs an SA pair. When this returns, its packets are accepted.
    pub(crate) async fn install(
        &mut self,
        setup: &SaSetup,
        use_outbound: bool,
    ) -> Result<(), DataplaneError> {
        let path = EspPath {
            local: SocketAddr::new(setup.local, self.natt_port),
            remote: setup.remote,
            encap: setup.encap,
            dont_fragment: self.dont_fragment,
            copy_dscp: self.copy_dscp,
        };
        let drive = self.drive(setup.tunnel)?;
        if let Err(reason) = takes(setup.suite) {
            let state = drive.shared.state();
            let interface = state.tunnels.get(&setup.tunnel).map(|t| t.interface.clone());
            return Err(DataplaneError::EngineUnavailable {
                engine: Engine::Bpf,
                interface: interface.unwrap_or_default(),
                reason,
            });
        }
        watch::fit_mtu(&drive.shared, setup.tunnel, setup.overhead(), setup.local, setup.remote.ip());
        let mut state = drive.shared.state();
        let State { esp, door, tunnels, pairs, draining } = &mut *state;
        let tunnel = tunnels.get(&setup.tunnel).ok_or(DataplaneError::UnknownTunnel(setup.tunnel))?;
        if pairs.contains_key(&setup.inbound) || draining.iter().any(|(_, spi, _)| *spi == setup.inbound) {
            return Err(DataplaneError::SpiTaken(setup.inbound));
        }
        // An address that was not there at the start.
        attach_wan(esp, setup.local)?;
        let slot = esp.install(&EspPair {
            inbound: EspHalf { spi: setup.inbound, key: setup.inbound_keys.encryption() },
            outbound: EspHalf { spi: setup.outbound, key: setup.outbound_keys.encryption() },
            esn: setup.esn,
            replay_window: setup.replay_window,
            local_ts: &setup.local_ts,
            remote_ts: &setup.remote_ts,
            last: setup.limits.hard_packets,
            most_bytes: setup.limits.hard_bytes,
            path,
            tunnel: tunnel.link.index(),
        })?;
        door.add(setup.inbound, &tunnel.behind);
        pairs.insert(setup.inbound, Pair::new(setup, slot, path));
        if use_outbound { state.activate(setup.inbound) } else { Ok(()) }
    }

    /// Sends with this SA from now on.
    pub(crate) fn activate_outbound(&self, inbound: Spi) -> Result<(), DataplaneError> {
        let drive = self.drive.as_ref().ok_or(DataplaneError::UnknownSpi(inbound))?;
        drive.shared.state().activate(inbound)
    }

    /// Sends with this SA no more, and receives with it for `drain` still.
    pub(crate) fn remove(&self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        let drive = self.drive.as_ref().ok_or(DataplaneError::UnknownSpi(inbound))?;
        drive.shared.state().remove(inbound, drain)
    }

    /// The packets of these SAs of the tunnel go from and to these addresses from now on.
    pub(crate) fn move_sas(
        &mut self,
        moving: &[Spi],
        (local, remote): (SocketAddr, SocketAddr),
        encap: bool,
    ) -> Result<(), DataplaneError> {
        let port = self.natt_port;
        let Some(drive) = &self.drive else { return Ok(()) };
        let mut state = drive.shared.state();
        let State { esp, pairs, .. } = &mut *state;
        attach_wan(esp, local.ip())?;
        for spi in moving {
            let Some(pair) = pairs.get_mut(spi) else { continue };
            pair.path.local = SocketAddr::new(local.ip(), port);
            pair.path.remote = if encap { remote } else { SocketAddr::new(remote.ip(), 0) };
            pair.path.encap = encap;
            pair.seen = None;
            esp.set_path(pair.slot, &pair.path)?;
        }
        Ok(())
    }

    /// Takes ESP on a further address, from the next SA on.
    pub(crate) fn add_address(&mut self, address: IpAddr) {
        if !self.wan.contains(&address) {
            self.wan.push(address);
        }
    }

    pub(crate) fn stats(&self) -> Vec<SaStats> {
        let Some(drive) = &self.drive else { return Vec::new() };
        let state = drive.shared.state();
        state.pairs.iter().map(|(spi, pair)| pair.stats(&state.esp, *spi)).collect()
    }

    pub(crate) fn tunnel_drops(&self) -> Vec<TunnelDrops> {
        let Some(drive) = &self.drive else { return Vec::new() };
        let state = drive.shared.state();
        let drops = |t: &Tunnel| TunnelDrops {
            tunnel: t.id,
            drops: state.esp.tunnel_drops(t.link.index()).unwrap_or_default(),
        };
        state.tunnels.values().map(drops).collect()
    }

    /// It is this second for who looks at drops; 0: nobody does.
    pub(crate) fn look(&self, epoch: u32) {
        if let Some(drive) = &self.drive
            && let Err(error) = drive.shared.state().esp.look(epoch)
        {
            tracing::warn!("engine bpf cannot show what it drops: {error}");
        }
    }

    /// The next sample of what was dropped.
    pub(crate) fn take_sample(&self) -> Option<DropSample> {
        let mut state = self.drive.as_ref()?.shared.state();
        let dropped = state.esp.take_sample()?;
        let tunnel = state.tunnels.values().find(|t| t.link.index() == dropped.interface).map(|t| t.id);
        let (from, to) = dropped.outer.unzip();
        let (spi, sequence) = dropped.esp.unzip();
        Some(DropSample {
            at: SystemTime::now().checked_sub(dropped.age).unwrap_or(SystemTime::UNIX_EPOCH),
            engine: Engine::Bpf,
            reason: dropped.reason,
            packets: 1,
            seen: Seen {
                tunnel,
                outward: dropped.outward,
                length: dropped.length as usize,
                spi,
                sequence: sequence.map(u64::from),
                from,
                to,
                inner: dropped.inner,
            },
        })
    }

    fn drive(&mut self, tunnel: TunnelId) -> Result<&mut Drive, DataplaneError> {
        self.drive.as_mut().ok_or(DataplaneError::UnknownTunnel(tunnel))
    }

    /// Before a path is known: what fits Ethernet.
    fn first_mtu(&self, spec: &TunnelSpec) -> u32 {
        let outer_ipv6 = self.wan.iter().any(IpAddr::is_ipv6);
        let fits = |&suite| Overhead { outer_ipv6, udp: true, suite }.inner_mtu(ETHERNET_MTU) as u32;
        spec.suites.iter().map(fits).min().unwrap_or(IPV6_MIN_MTU)
    }
}

impl Drive {
    async fn set_up(&self, tunnel: &Tunnel, back: &str, back_link: u32) -> Result<(), DataplaneError> {
        segment_before(&tunnel.interface)?;
        for link in [tunnel.link.index(), back_link] {
            self.netlink.no_link_local_address(link).await?;
        }
        {
            let mut state = self.shared.state();
            tunnel.tell(&mut state.esp, &HashMap::new())?;
            state.esp.attach_back(back)?;
        }
        // The back first: nothing that enters the interface is to find it closed.
        self.netlink.set_up(back_link, true).await?;
        Ok(self.netlink.set_up(tunnel.link.index(), true).await?)
    }
}

impl State {
    /// The SA takes over from those in use for the same selectors.
    fn activate(&mut self, inbound: Spi) -> Result<(), DataplaneError> {
        let State { esp, tunnels, pairs, .. } = self;
        let pair = pairs.get(&inbound).ok_or(DataplaneError::UnknownSpi(inbound))?;
        let tunnel = tunnels.get_mut(&pair.tunnel).ok_or(DataplaneError::UnknownTunnel(pair.tunnel))?;
        tunnel
            .active
            .retain(|spi| *spi != inbound && pairs.get(spi).is_some_and(|p| p.selectors != pair.selectors));
        tunnel.active.insert(0, inbound);
        tunnel.tell(esp, pairs)
    }

    fn remove(&mut self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        let State { tunnels, pairs, esp, .. } = self;
        let pair = pairs.remove(&inbound).ok_or(DataplaneError::UnknownSpi(inbound))?;
        if let Some(tunnel) = tunnels.get_mut(&pair.tunnel) {
            tunnel.active.retain(|spi| *spi != inbound);
            tunnel.tell(esp, pairs)?;
        }
        if drain.is_zero() {
            return self.forget(inbound, &pair);
        }
        self.draining.push((Instant::now() + drain, inbound, pair));
        Ok(())
    }

    /// Takes the pair from the programs.
    fn forget(&mut self, inbound: Spi, pair: &Pair) -> Result<(), DataplaneError> {
        self.door.remove(inbound);
        Ok(self.esp.remove(pair.slot, inbound)?)
    }

    /// Takes from the programs what is the tunnel's.
    fn clear(&mut self, tunnel: &Tunnel) -> Result<(), DataplaneError> {
        let mut outcome = self.esp.remove_tunnel(tunnel.link).map_err(DataplaneError::from);
        let of = |pair: &Pair| pair.tunnel == tunnel.id;
        let mut gone: Vec<(Spi, Pair)> = self.pairs.extract_if(|_, p| of(p)).collect();
        let drained = self.draining.extract_if(.., |(_, _, p)| of(p));
        gone.extend(drained.map(|(_, spi, pair)| (spi, pair)));
        for (spi, pair) in &gone {
            outcome = outcome.and(self.forget(*spi, pair));
        }
        self.esp.detach(&tunnel.hooked());
        outcome
    }
}

/// The interface of an address opens ESP from now on. An address that is on none yet is no error: its interface is looked
/// for again when an SA uses it.
fn attach_wan(esp: &mut EspBpf, address: IpAddr) -> Result<(), DataplaneError> {
    if let Ok(Some(interface)) = interface_of(address) {
        esp.attach_wan(&interface)?;
    }
    Ok(())
}

/// Why all suites but one are not the engine's.
const NOT_TAKEN: &str = "eBPF has no carry-less multiplication and no AES, and the kernel's are out of its programs' reach; \
    engine bpf does ChaCha20-Poly1305 alone: offer nothing but chacha20poly1305 in [connection] esp.proposals";

/// Whether the engine does a suite.
fn takes(suite: Suite) -> Result<(), String> {
    if suite.encryption() == Encryption::ChaCha20Poly1305 {
        return Ok(());
    }
    Err(format!("no {suite}: {NOT_TAKEN}"))
}

fn forwards(setting: &str) -> String {
    format!(
        "this host does not forward ({setting} = 0), and without that the kernel tells eBPF no next hop; set it to 1"
    )
}
