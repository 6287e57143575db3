//! The user engine: ESP in workers, between TUN devices and WAN sockets.
//!
//! Outbound workers own TUN devices and outbound SAs, inbound workers own WAN sockets and inbound
//! SAs; how packets reach them is the [`port`]s' affair. What belongs to one worker no other touches: there is no lock on the packet path. The engine
//! here is what the facade calls; it speaks to workers by [`control`] and reads their counters.
//!
//! Knows nothing of IKE but the shape of its result ([`setup`]), and nothing of routes.

mod arrange;
pub(crate) mod coalesce;
mod congestion;
mod control;
pub(crate) mod counters;
mod handover;
pub(crate) mod inbound;
mod offload;
mod outbound;
mod port;
pub(crate) mod rate;
pub(crate) mod setup;
pub(crate) mod split;
pub(crate) mod tunnel;
pub(crate) mod wans;
mod xsk;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use culvert_esp::selectors::Selectors;
use culvert_esp::tunnel::{Overhead, Rules};
use culvert_esp::{InboundSa, OutboundSa};
use culvert_ike::{Parity, Purpose};
use culvert_sys::netlink::interface_drops;
use culvert_sys::tun::{Offloads, Tun};
use culvert_sys::wan::{WanOptions, WanSocket, route_mtu};
use culvert_types::{Spi, TunnelId};
use tokio::sync::oneshot;

use self::control::{Events, Inbound, Outbound, Worker};
use self::counters::Counters;
use self::inbound::InboundEntry;
use self::outbound::{OutboundEntry, OutboundWorker, Warned};
use self::port::Route;
use self::port::xsk::Devices;
use self::setup::SaSetup;
use self::tunnel::TunnelShared;
use self::wans::{Links, Steerings, Wans};
use crate::bpf::OddDoor;
use crate::samples::{Samples, Tap};
use crate::{
    DataplaneConfig, DataplaneError, DataplaneEvent, Engine, LanPortChoice, Redirects, SaStats, TunnelDrops,
    TunnelReport, TunnelSpec, WanPortChoice,
};

/// Super-packets that wait for an outbound worker.
const TUN_QUEUE: u32 = 2000;
/// Most workers for either direction.
const MOST_WORKERS: usize = 256;
/// How long packets to the address that an SA left are still its worker's.
const MOVING: Duration = Duration::from_secs(5);
/// Devices that go at the same time, a thread for each.
const TOGETHER: usize = 64;
/// The MTU of the WAN before a peer's route is known.
const ETHERNET_MTU: usize = 1500;

/// User-space ESP for any number of tunnels.
pub(crate) struct UserEngine {
    rules: Rules,
    events: Events,
    /// For workers to come.
    tap: Tap,
    wans: Wans,
    tunnels: HashMap<TunnelId, Tunnel>,
    sas: HashMap<Spi, Sa>,
    /// How many SAs for all packets a peer has with an inbound worker.
    peers: HashMap<IpAddr, Vec<(usize, usize)>>,
    /// How many SAs an inbound worker has.
    loads: HashMap<usize, usize>,
    outbound: Vec<Worker<Outbound>>,
    /// How many of them can hand packets to each other.
    acquainted: usize,
    most_workers: usize,
    busy_poll: bool,
    lan_offloads: Offloads,
    /// About offloads, for the operator.
    notes: Vec<String>,
    /// The WAN's devices by AF_XDP, once a tunnel wanted them.
    xsk: Option<Arc<Devices>>,
    xsk_devices: Vec<String>,
    lan_devices: Vec<String>,
    /// Packets from the LAN's frames whose tunnel is gone.
    stray: Arc<Counters>,
    /// What was said of them last.
    xsk_state: String,
    /// Why they are not open.
    xsk_fault: Option<String>,
    dont_fragment: bool,
    redirects: Redirects,
}

struct Tunnel {
    shared: Arc<TunnelShared>,
    /// The worker of the device's one queue, or the first of several.
    outbound: usize,
    /// The MTU of the configuration.
    mtu: Option<u32>,
    /// The WAN port is `xsk`.
    xsk: bool,
}

struct Sa {
    tunnel: TunnelId,
    outbound: Spi,
    local: IpAddr,
    /// The peer, whose SAs are all one worker's.
    remote: IpAddr,
    encap: bool,
    purpose: Purpose,
    /// The inbound worker.
    worker: usize,
    /// The outbound worker.
    sender: usize,
    counters: Arc<Counters>,
}

/// A tunnel that no worker has any more, but for an inbound one that may hold the device for the rest of a batch.
struct Leaving {
    name: String,
    shared: Arc<TunnelShared>,
}

impl Leaving {
    /// Closes the device, and returns when it is gone.
    async fn gone(self) {
        let Self { name, shared } = self;
        let left = Arc::downgrade(&shared);
        // The kernel takes its time for that.
        let _ = tokio::task::spawn_blocking(move || drop(shared)).await;
        for _ in 0..1000 {
            if left.strong_count() == 0 && !culvert_sys::tun::exists(&name) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Tunnel {
    /// Its outbound workers.
    fn senders(&self) -> std::ops::Range<usize> {
        self.outbound..self.outbound + self.shared.width()
    }
}

impl UserEngine {
    /// Opens the UDP sockets and starts the inbound workers.
    pub(crate) fn start(
        config: &DataplaneConfig,
        steerings: Steerings,
        door: OddDoor,
        samples: &Samples,
        events: Events,
    ) -> Result<Self, DataplaneError> {
        let (switches, notes) = offload::choose(config.offloads);
        let options = WanOptions {
            buffer: config.socket_buffer,
            dont_fragment: config.dont_fragment,
            share_port: config.share_natt_port,
            segmentation: switches.gso,
            receive_offload: switches.gro,
        };
        let most_workers = config.workers.clamp(1, MOST_WORKERS);
        let mut engine = Self {
            rules: Rules { copy_dscp: config.copy_dscp, ..Rules::default() },
            wans: Wans::new(
                config.natt_port,
                options,
                most_workers,
                config.busy_poll,
                Links { steerings, door, tap: samples.tap(), events: events.clone() },
            ),
            tap: samples.tap(),
            busy_poll: config.busy_poll,
            lan_offloads: Offloads { tso: switches.tso, uso: switches.uso },
            notes,
            events,
            tunnels: HashMap::new(),
            sas: HashMap::new(),
            peers: HashMap::new(),
            loads: HashMap::new(),
            outbound: Vec::new(),
            acquainted: 0,
            most_workers,
            xsk: None,
            xsk_devices: config.wan_devices.clone(),
            lan_devices: config.lan.clone(),
            stray: Arc::default(),
            xsk_state: String::new(),
            xsk_fault: None,
            dont_fragment: config.dont_fragment,
            redirects: Redirects::default(),
        };
        for &address in &config.wan {
            engine.add_address(address)?;
        }
        Ok(engine)
    }

    /// Listens on a further address.
    pub(crate) fn add_address(&mut self, address: IpAddr) -> Result<(), DataplaneError> {
        let before = self.wans.controls().count();
        self.wans.add(address)?;
        (before..self.wans.controls().count()).try_for_each(|worker| self.add_receivers(worker))
    }

    /// About offloads and polling, for the operator, a line each.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    /// Why each WAN address has one inbound worker only; `None` if there are more, or shall not be.
    pub(crate) fn undivided(&self) -> Option<&str> {
        self.wans.undivided()
    }

    /// Creates the tunnel's device, up, and gives it to an outbound worker.
    pub(crate) fn create_tunnel(&mut self, spec: &TunnelSpec) -> Result<TunnelReport, DataplaneError> {
        if self.tunnels.contains_key(&spec.id) {
            return Err(DataplaneError::TunnelExists(spec.id));
        }
        let xsk = spec.wan_port == WanPortChoice::Xsk;
        let lan = spec.lan_port == LanPortChoice::Xsk;
        let devices = if xsk || lan { Some(self.xsk(xsk, lan)?.clone()) } else { None };
        let why = devices.as_ref().map_or_else(Vec::new, |devices| devices.describe());
        // Frames of the LAN come to one worker: nothing spreads them over queues.
        let width = if spec.spread && !lan { self.most_workers } else { 1 };
        let tuns = match width {
            1 => vec![Tun::with_offloads(&spec.interface, self.lan_offloads)?],
            _ => Tun::with_queues(&spec.interface, self.lan_offloads, width)?,
        };
        let outer_ipv6 = self.wans.is_ipv6();
        let fits = |&suite| Overhead { outer_ipv6, udp: true, suite }.inner_mtu(ETHERNET_MTU) as u32;
        let guess = spec.suites.iter().map(fits).min().unwrap_or(1400);
        let ipv6 = spec.inside.iter().chain(&spec.remote_nets).any(|n| n.addr().is_ipv6());
        let shared =
            TunnelShared::new(spec.id, tuns, devices.filter(|_| lan), spec.mtu.unwrap_or(guess), ipv6);
        shared.tun().set_mtu(shared.mtu() as u32)?;
        shared.tun().set_queue_len(TUN_QUEUE)?;
        shared.tun().set_up()?;
        let shared = Arc::new(shared);
        let outbound = if width == 1 { self.outbound_worker()? } else { 0 };
        if lan {
            self.redirects.tunnels.push((shared.index, Some(outbound as u32)));
        }
        if width > 1 {
            while self.outbound.len() < width {
                self.start_outbound()?;
            }
            control::acquaint(&self.outbound, self.acquainted, Outbound::Other, Outbound::Handed)?;
            self.acquainted = self.outbound.len();
            self.wans.acquaint()?;
        }
        for queue in 0..width {
            self.outbound[outbound + queue].control.send(Outbound::AddTunnel(shared.clone(), queue))?;
        }
        self.tunnels.insert(spec.id, Tunnel { shared, outbound, mtu: spec.mtu, xsk });
        Ok(TunnelReport {
            engine: Engine::User,
            lan_port: if lan { "xsk" } else { "tun" },
            wan_port: match xsk {
                true => "xsk",
                false if spec.encap => "udp",
                false => "raw",
            },
            why,
            spi_parity: Some(Parity::Even),
            small: false,
        })
    }

    /// What the engine `bpf` shares with this one where a tunnel has both: the device and its MTU.
    pub(crate) fn shared(&self, id: TunnelId) -> Option<Arc<TunnelShared>> {
        self.tunnels.get(&id).map(|t| t.shared.clone())
    }

    /// The worker with the fewest tunnels; a new one while there may be more and all have some.
    fn outbound_worker(&mut self) -> Result<usize, DataplaneError> {
        let load = |i: usize| self.tunnels.values().filter(|t| t.outbound == i).count();
        let least = (0..self.outbound.len()).min_by_key(|&i| load(i));
        match least {
            Some(i) if load(i) == 0 || self.outbound.len() >= self.most_workers => Ok(i),
            _ => self.start_outbound(),
        }
    }

    fn start_outbound(&mut self) -> Result<usize, DataplaneError> {
        let (rules, events, busy) = (self.rules, self.events.clone(), self.busy_poll);
        let (index, stray, tap) = (self.outbound.len(), self.stray.clone(), self.tap.clone());
        self.outbound.push(Worker::spawn(
            format!("cv-out-{index}"),
            &self.events,
            || Outbound::Stop,
            move |control| OutboundWorker::new(index, rules, busy, stray, tap, events).run(control),
        )?);
        self.add_lan_receivers(index)?;
        Ok(index)
    }

    /// Most threads for either direction.
    pub(crate) fn workers(&self) -> usize {
        self.most_workers
    }

    /// Removes the tunnel's SAs and its device. Returns when the device is gone.
    pub(crate) async fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), DataplaneError> {
        let leaving = self.take_tunnel(id).await?;
        leaving.gone().await;
        Ok(())
    }

    /// The same for all of them at once: the kernel waits for its readers once for devices that go together.
    pub(crate) async fn remove_tunnels(&mut self, ids: &[TunnelId]) {
        let mut leaving = Vec::new();
        for id in ids {
            // What has no tunnel here, or no worker, leaves nothing behind.
            leaving.extend(self.take_tunnel(*id).await);
        }
        let mut leaving = leaving.into_iter();
        loop {
            let mut going = tokio::task::JoinSet::new();
            leaving.by_ref().take(TOGETHER).for_each(|tunnel| drop(going.spawn(tunnel.gone())));
            if going.is_empty() {
                return;
            }
            going.join_all().await;
        }
    }

    /// Takes a tunnel and its SAs from the workers.
    async fn take_tunnel(&mut self, id: TunnelId) -> Result<Leaving, DataplaneError> {
        let tunnel = self.tunnels.remove(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        if tunnel.shared.frames.is_some() {
            self.redirects.tunnels.push((tunnel.shared.index, None));
        }
        let gone: Vec<(Spi, Sa)> = self.sas.extract_if(|_, sa| sa.tunnel == id).collect();
        for (spi, sa) in gone {
            self.count(&sa, false);
            self.wans.disown(sa.local, spi, Duration::ZERO);
        }
        for control in self.wans.controls() {
            control.send(Inbound::RemoveTunnel(id))?;
        }
        for sender in tunnel.senders() {
            let (done, gone) = oneshot::channel();
            self.outbound[sender].control.send(Outbound::RemoveTunnel(id, done))?;
            gone.await.map_err(|_| DataplaneError::WorkerGone)?;
        }
        Ok(Leaving { name: tunnel.shared.tun().name(), shared: tunnel.shared })
    }

    /// Installs an SA pair: the inbound half first, and when that is done the outbound half.
    pub(crate) async fn install(
        &mut self,
        setup: &SaSetup,
        use_outbound: bool,
    ) -> Result<(), DataplaneError> {
        let tunnel = self.tunnels.get(&setup.tunnel).ok_or(DataplaneError::UnknownTunnel(setup.tunnel))?;
        if self.sas.contains_key(&setup.inbound) {
            return Err(DataplaneError::SpiTaken(setup.inbound));
        }
        let (shared, mtu, outbound, xsk) = (tunnel.shared.clone(), tunnel.mtu, tunnel.outbound, tunnel.xsk);
        let (socket, workers) = self.wans.socket(setup.local, setup.encap)?;
        let width = shared.width();
        let worker = match setup.purpose {
            Purpose::Resource(number) => workers.start + usize::from(number) % workers.len().max(1),
            _ => self.inbound_worker(workers.clone(), setup.remote.ip()),
        };
        let counters = Arc::new(Counters::default());
        let selectors = Selectors::new(&setup.local_ts, &setup.remote_ts);
        let inbound_entry = InboundEntry {
            spi: setup.inbound,
            sa: InboundSa::new(
                setup.inbound,
                setup.suite,
                &setup.inbound_keys,
                setup.esn,
                setup.replay_window,
            )?,
            esn: setup.esn,
            selectors: selectors.clone(),
            tunnel: shared.clone(),
            peer: setup.remote,
            seen: None,
            overhead: setup.overhead(),
            counters: counters.clone(),
            warned: false,
            until: None,
        };
        let outbound_entry = OutboundEntry {
            tunnel: setup.tunnel,
            inbound: setup.inbound,
            purpose: setup.purpose,
            sa: OutboundSa::new(setup.outbound, setup.suite, &setup.outbound_keys, setup.esn)?,
            selectors,
            path: self.path(xsk, socket),
            route: Route { local: setup.local, remote: setup.remote, may_fragment: false },
            counters: counters.clone(),
            limits: setup.limits,
            bytes: 0,
            warned: Warned::Nothing,
        };
        if mtu.is_none() {
            // No route to the peer yet: the guess stands.
            let outer = route_mtu(setup.local, setup.remote.ip()).map_or(ETHERNET_MTU, |m| m as usize);
            let changed = shared.set_base(setup.overhead().inner_mtu(outer) as u32);
            if let Some(mtu) = changed {
                let _ = self.events.send(DataplaneEvent::Mtu { tunnel: setup.tunnel, mtu });
            }
        }
        // An SPI that the map has no room for stays the first worker's.
        let worker = if self.wans.own(setup.local, setup.inbound, worker) { worker } else { workers.start };
        // The kernel puts answers into the queue that the inbound worker writes to: there they are to be sealed.
        let sender = match setup.purpose {
            _ if width == 1 => outbound,
            Purpose::Resource(number) => usize::from(number) % width,
            _ => worker % width,
        };
        let (done, installed) = oneshot::channel();
        self.wans.control(worker).send(Inbound::Add(Box::new(inbound_entry), done))?;
        installed.await.map_err(|_| DataplaneError::WorkerGone)?;
        if width > 1 {
            self.wans.announce(setup.inbound, worker)?;
        }
        self.outbound[sender].control.send(Outbound::Add(Box::new(outbound_entry), use_outbound))?;
        let sa = Sa {
            tunnel: setup.tunnel,
            outbound: setup.outbound,
            local: setup.local,
            remote: setup.remote.ip(),
            encap: setup.encap,
            purpose: setup.purpose,
            worker,
            sender,
            counters,
        };
        self.count(&sa, true);
        self.sas.insert(setup.inbound, sa);
        Ok(())
    }

    /// Sends with this SA from now on.
    pub(crate) fn activate_outbound(&self, inbound: Spi) -> Result<(), DataplaneError> {
        let sa = self.sa(inbound)?;
        self.outbound[sa.sender].control.send(Outbound::Activate(sa.tunnel, inbound))
    }

    /// Sends with this SA no more, and receives with it for `drain` still.
    pub(crate) fn remove(&mut self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        let sa = self.sa(inbound)?;
        self.outbound[sa.sender].control.send(Outbound::Remove(sa.tunnel, inbound))?;
        self.wans.control(sa.worker).send(Inbound::Remove(inbound, drain))?;
        let local = sa.local;
        self.wans.disown(local, inbound, drain);
        if let Some(sa) = self.sas.remove(&inbound) {
            self.count(&sa, false);
        }
        Ok(())
    }

    /// The packets of these SAs of the tunnel go from and to these addresses from now on.
    pub(crate) fn move_sas(
        &mut self,
        id: TunnelId,
        moving: Vec<Spi>,
        (local, remote): (SocketAddr, SocketAddr),
        encap: bool,
    ) -> Result<(), DataplaneError> {
        let tunnel = self.tunnels.get(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        let (senders, xsk, width) = (tunnel.senders(), tunnel.xsk, tunnel.shared.width());
        if moving.is_empty() {
            return Ok(());
        }
        let moving: Arc<[Spi]> = moving.into();
        let (socket, workers) = self.wans.socket(local.ip(), encap)?;
        let remote = if encap { remote } else { SocketAddr::new(remote.ip(), 0) };
        for spi in moving.iter() {
            let Some(mut sa) = self.sas.remove(spi) else { continue };
            self.count(&sa, false);
            // Every SA of an IKE SA is encapsulated, or none is: NAT detection is the IKE SA's.
            (sa.encap, sa.remote) = (encap, remote.ip());
            let stays = workers.contains(&sa.worker) && self.wans.own(local.ip(), *spi, sa.worker);
            if local.ip() != sa.local {
                self.wans.disown(sa.local, *spi, MOVING);
                sa.local = local.ip();
            }
            if !stays {
                let to = self.wans.control(workers.start).clone();
                let from = self.wans.control(sa.worker);
                // One that is gone has said so.
                let _ = from.send(Inbound::HandOver(moving.clone(), remote, to));
                sa.worker = workers.start;
                self.wans.own(local.ip(), *spi, sa.worker);
            }
            let worker = sa.worker;
            self.count(&sa, true);
            self.sas.insert(*spi, sa);
            if width > 1 {
                self.wans.announce(*spi, worker)?;
            }
        }
        for control in self.wans.controls() {
            control.send(Inbound::Move(moving.clone(), remote))?;
        }
        let route = Route { local: local.ip(), remote, may_fragment: false };
        let path = self.path(xsk, socket);
        for sender in senders {
            let (moving, path) = (moving.clone(), path.clone());
            self.outbound[sender].control.send(Outbound::Move(id, moving, path, route))?;
        }
        Ok(())
    }

    /// Sends an IKE message from the UDP port that ESP uses too, behind the non-ESP marker.
    pub(crate) fn send_ike(
        &self,
        local: IpAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), DataplaneError> {
        self.wans
            .udp(local)?
            .send_parts(remote, [&[0; 4], bytes], true)
            .map_err(|source| DataplaneError::Send { to: remote, source })
    }

    /// Sends a NAT keepalive (RFC 3948 2.3).
    pub(crate) fn send_keepalive(&self, local: IpAddr, remote: SocketAddr) -> Result<(), DataplaneError> {
        self.wans
            .udp(local)?
            .send_parts(remote, [&[0xff], &[]], true)
            .map_err(|source| DataplaneError::Send { to: remote, source })
    }

    pub(crate) fn stats(&self) -> Vec<SaStats> {
        let stats = |(&inbound, sa): (&Spi, &Sa)| {
            let c = &sa.counters;
            SaStats {
                tunnel: sa.tunnel,
                inbound,
                outbound: sa.outbound,
                engine: Engine::User,
                worker: Some(sa.worker as u32),
                sender: Some(sa.sender as u32),
                lan_queue: self.lan_queue(sa).map(|queue| queue as u32),
                wan_queue: self.wan_queue(sa).map(|queue| queue as u32),
                packets_in: c.inn.packets(),
                bytes_in: c.inn.bytes(),
                packets_out: c.out.packets(),
                bytes_out: c.out.bytes(),
                drops: c.drops(),
                replay_floor: c.inn.floor(),
                sequence_in: c.inn.sequence(),
                sequence_out: c.out.sequence(),
            }
        };
        self.sas.iter().map(stats).collect()
    }

    pub(crate) fn tunnel_drops(&self) -> Vec<TunnelDrops> {
        let kernel =
            if self.tunnels.is_empty() { HashMap::new() } else { interface_drops().unwrap_or_default() };
        let drops = |(&tunnel, t): (&TunnelId, &Tunnel)| {
            let mut drops = t.shared.drops();
            let queue = kernel.get(&t.shared.tun().name()).map_or(0, |k| k.sent);
            if queue > 0 {
                drops.push(("lan-queue-full", queue));
            }
            TunnelDrops { tunnel, drops }
        };
        self.tunnels.iter().map(drops).collect()
    }

    /// Has a socket for what the stack hands up on a WAN address, which lets the kernel learn what routers say, for an SA of
    /// another engine: kernels without ESP learn no path's MTU from plain ESP that no socket stands for.
    pub(crate) fn listen(&mut self, local: IpAddr, encap: bool) -> Result<(), DataplaneError> {
        self.wans.socket(local, encap).map(drop)
    }

    pub(crate) fn wan_drops(&self) -> Vec<(&'static str, u64)> {
        let mut drops = self.wans.drops();
        drops.extend(self.stray.drops());
        drops
    }

    /// The UDP socket of a WAN address, for who must steer its port.
    pub(crate) fn udp_socket(&self, local: IpAddr) -> Option<&Arc<WanSocket>> {
        self.wans.udp(local).ok()
    }

    /// Lets IKE, and ESP of this engine, pass the kernel's policies.
    pub(crate) fn bypass_policies(&self) -> std::io::Result<()> {
        self.wans.bypass_policies()
    }

    fn sa(&self, inbound: Spi) -> Result<&Sa, DataplaneError> {
        self.sas.get(&inbound).ok_or(DataplaneError::UnknownSpi(inbound))
    }

    /// The worker for an SA with this peer: that of the peer's other SAs, or the one with the fewest.
    fn inbound_worker(&self, workers: std::ops::Range<usize>, peer: IpAddr) -> usize {
        let mut of_peer = self.peers.get(&peer).into_iter().flatten().map(|(worker, _)| *worker);
        let load = |i: &usize| self.loads.get(i).copied().unwrap_or(0);
        of_peer
            .find(|worker| workers.contains(worker))
            .unwrap_or_else(|| workers.clone().min_by_key(load).unwrap_or(workers.start))
    }

    /// Takes note of an SA that comes, or goes.
    fn count(&mut self, sa: &Sa, comes: bool) {
        let change = |count: &mut usize| *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        change(self.loads.entry(sa.worker).or_default());
        if sa.purpose != Purpose::All {
            return;
        }
        let workers = self.peers.entry(sa.remote).or_default();
        match workers.iter_mut().find(|(worker, _)| *worker == sa.worker) {
            Some((_, count)) => change(count),
            None if comes => workers.push((sa.worker, 1)),
            None => {}
        }
        workers.retain(|(_, count)| *count > 0);
        if workers.is_empty() {
            self.peers.remove(&sa.remote);
        }
    }
}
