//! Engines, ports and workers: who does ESP for an SA, and how packets reach them.
//!
//! [`Dataplane`] is the facade: tunnels are created with an engine, SAs are installed into
//! one of their tunnel's engines and live there until they are removed. An SA comes from a
//! [`ChildSa`](culvert_ike::ChildSa), which only an authenticated exchange makes, and never changes
//! its engine (sequence numbers and replay windows do not move).
//!
//! Knows nothing of configuration files, of routes or of when a tunnel should be up.

mod bpf;
mod choice;
mod homes;
mod installed;
mod measure;
mod redirects;
mod samples;
mod split;
mod transport;
mod types;
mod user;
mod xfrm;

#[cfg(feature = "testing")]
pub mod testing;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_ike::{ChildSa, Purpose};
use culvert_sys::guard::{Guard, SaPath};
use culvert_sys::wan::WanSocket;
use culvert_types::{Spi, TunnelId};
use tokio::sync::mpsc;

use bpf::{BpfEngine, OddDoor};
pub use choice::{Figures, Measured};
pub use culvert_sys::esp_bpf::{HookChoice, Small as SmallPackets};
use homes::TunnelEntry;
use installed::InstalledSas;
pub use measure::measure;
pub use redirects::{LanDevice, Redirects};
use samples::Samples;
pub use samples::{DropSample, Seen};
pub use types::{
    DataplaneConfig, DataplaneError, DataplaneEvent, Engine, EngineChoice, EngineInfo, InstallReport,
    KernelIpsec, LanPortChoice, OffloadSwitches, SaStats, TunnelDrops, TunnelReport, TunnelSpec,
    WanPortChoice,
};
use user::UserEngine;
use user::setup::SaSetup;
use user::wans::Steerings;
use xfrm::XfrmEngine;

/// Every tunnel and SA of the gateway, whatever engine serves them. Dropping it stops the workers and
/// removes the tunnels' devices.
pub struct Dataplane {
    // Dropped first: its sockets are the second ones of their ports.
    xfrm: XfrmEngine,
    user: UserEngine,
    bpf: BpfEngine,
    tunnels: HashMap<TunnelId, TunnelEntry>,
    /// Which engine an SA is in, and which tunnel it belongs to, or which client of it.
    sas: InstalledSas,
    /// Whose interface and engine serve a client.
    clients: HashMap<TunnelId, TunnelId>,
    /// SAs that are to be removed, at what time, and for how long they still receive then.
    late: Vec<(Instant, Spi, Duration)>,
    /// Who divides the UDP ports between engines.
    steerings: Steerings,
    natt_port: u16,
    /// How fast the engines are here, as far as it is known.
    measured: Measured,
    /// CPUs that packets of engine `xfrm` are spread over.
    steer: Vec<u32>,
    samples: Samples,
}

impl Dataplane {
    /// Opens the WAN sockets and starts the workers; events come out of the receiver.
    ///
    /// # Errors
    /// The UDP port is taken, a WAN address is not this host's, or privileges are missing.
    pub async fn start(
        mut config: DataplaneConfig,
    ) -> Result<(Self, mpsc::UnboundedReceiver<DataplaneEvent>), DataplaneError> {
        let (events, receiver) = mpsc::unbounded_channel();
        let steerings = Steerings::default();
        let xfrm = XfrmEngine::start(&config, steerings.clone(), events.clone()).await;
        config.share_natt_port |= xfrm.available().is_ok();
        let door = OddDoor::default();
        let bpf = BpfEngine::new(&config, door.clone(), events.clone());
        let natt_port = config.natt_port;
        let samples = Samples::new();
        let user = UserEngine::start(&config, steerings.clone(), door, &samples, events)?;
        Ok((
            Self {
                xfrm,
                user,
                bpf,
                tunnels: HashMap::new(),
                sas: InstalledSas::default(),
                clients: HashMap::new(),
                late: Vec::new(),
                steerings,
                natt_port,
                measured: Measured::default(),
                steer: config.steer,
                samples,
            },
            receiver,
        ))
    }

    /// How fast engines are on this host: `auto` takes the faster one, from the next SA on.
    pub fn set_measured(&mut self, measured: Measured) {
        self.measured = measured;
    }

    /// What engines there are, whether they can serve here, and with which suites.
    pub fn engines(&self) -> Vec<EngineInfo> {
        let mut xfrm = self.xfrm.info();
        if !self.steer.is_empty() {
            xfrm.notes.push(format!("XDP spreads inbound packets over {} CPUs, SA by SA", self.steer.len()));
        }
        vec![xfrm, EngineInfo::user(self.user.notes()), self.bpf.info()]
    }

    /// Whether tunnels of the engine `xfrm` have interfaces: without, its policies take packets whatever the routes are.
    pub fn kernel_interfaces(&self) -> bool {
        self.xfrm.has_interfaces()
    }

    /// Why each WAN address has one inbound worker of the engine `user` only; `None` if there are more, or shall not be.
    pub fn undivided(&self) -> Option<&str> {
        self.user.undivided()
    }

    /// Most threads for either direction: how many SAs of a tunnel have a worker of their own.
    pub fn workers(&self) -> usize {
        self.user.workers()
    }

    /// Whether an engine of the tunnel can have SAs for this purpose beside those for all packets.
    pub fn serves(&self, tunnel: TunnelId, purpose: Purpose) -> bool {
        let entry = self.tunnels.get(&self.tunnel_of(tunnel));
        entry.is_some_and(|entry| entry.engines().any(|engine| self.can_have(engine, purpose)))
    }

    pub(crate) fn can_have(&self, engine: Engine, purpose: Purpose) -> bool {
        let kernel = engine != Engine::Xfrm || purpose == Purpose::All || self.xfrm.per_cpu();
        engine.takes(purpose) && kernel
    }

    /// SAs of this client are SAs of that tunnel, which serves many: they share its interface, and packets take the one
    /// that their addresses belong to. They move on their own.
    pub fn add_client(&mut self, client: TunnelId, of: TunnelId) {
        self.clients.insert(client, of);
    }

    /// Forgets a client, whose SAs are gone.
    pub fn remove_client(&mut self, client: TunnelId) {
        self.clients.remove(&client);
    }

    /// Installs an SA pair, inbound first, into the engine that is wished for, or the best one for it; where that refuses
    /// it, into the next. Says which one it is in, for as long as it lives, and why no other. It is used for sending at once, or when
    /// [`activate_outbound`](Self::activate_outbound) says so. When this returns, packets of the SA are accepted.
    pub async fn install(
        &mut self,
        sa: &ChildSa,
        wish: Option<Engine>,
        use_outbound: bool,
    ) -> Result<InstallReport, DataplaneError> {
        self.install_setup(SaSetup::from(sa), sa.hard_lifetime(), wish, use_outbound).await
    }

    /// Sends the tunnel's packets with this SA from now on.
    pub async fn activate_outbound(&mut self, inbound: Spi) -> Result<(), DataplaneError> {
        match self.sas.get(inbound)?.engine() {
            Engine::User => self.user.activate_outbound(inbound),
            Engine::Xfrm => self.xfrm.activate_outbound(inbound),
            Engine::Bpf => self.bpf.activate_outbound(inbound),
        }
    }

    /// Listens on a further address of this host, unless it does already.
    ///
    /// # Errors
    /// The UDP port is taken there, or the address is not this host's.
    pub fn add_address(&mut self, address: IpAddr) -> Result<(), DataplaneError> {
        self.user.add_address(address)?;
        self.bpf.add_address(address);
        self.xfrm.add_address(address)
    }

    /// The tunnel's peer is at another address or port now, or our own changed. The port is that of UDP
    /// encapsulation, and ignored without; whether there is one may change with the path.
    pub async fn move_peer(
        &mut self,
        tunnel: TunnelId,
        local: SocketAddr,
        remote: SocketAddr,
        encap: bool,
    ) -> Result<(), DataplaneError> {
        let id = self.tunnel_of(tunnel);
        let mut outcome = Ok(());
        let entry = self.tunnels.get(&id).ok_or(DataplaneError::UnknownTunnel(tunnel))?;
        for engine in entry.engines() {
            let moving = self.sas.of(tunnel, engine);
            outcome = outcome.and(match engine {
                Engine::User => self.user.move_sas(id, moving, (local, remote), encap),
                Engine::Xfrm => self.xfrm.move_sas(id, &moving, (local, remote), encap),
                Engine::Bpf => {
                    let listening = self.user.listen(local.ip(), encap);
                    listening.and_then(|()| self.bpf.move_sas(&moving, (local, remote), encap))
                }
            });
        }
        outcome
    }

    /// Looks after what no packet and no event tells of: devices that went or came back. To be called every second or so,
    /// and then [`take_redirects`](Self::take_redirects).
    pub fn tend(&mut self) {
        self.user.tend();
    }

    /// Why interfaces are not served by AF_XDP that should be, a line each; empty when all are.
    pub fn xsk_faults(&self) -> Vec<String> {
        self.user.xsk_faults()
    }

    /// What the guard must be told since this was last called: after a tunnel was created, an address added, or
    /// [`tend`](Self::tend).
    pub fn take_redirects(&mut self) -> Redirects {
        let redirects = self.user.take_redirects();
        // A device has one program under XDP, and that is the guard's then.
        self.bpf.give_way(redirects.lans.iter().map(|lan| lan.name.as_str()));
        redirects
    }

    /// Has engine `bpf` stand at its devices as was asked for, behind the guard where that stands; to be called after
    /// [`take_redirects`](Self::take_redirects), in the network namespace of the devices.
    ///
    /// # Errors
    /// A device that came back does not take the programs, and its packets go on to the stack. What stands
    /// elsewhere than it might is no error but a note of [`engines`](Self::engines).
    pub fn settle_hooks(&mut self, guard: Option<&mut Guard>) -> Result<(), DataplaneError> {
        self.bpf.settle(guard)
    }

    /// Which way the guard shall send packets of an SA, since it was installed or its peer moved.
    pub fn sa_path(&self, inbound: Spi) -> SaPath {
        match self.sas.get(inbound).map(|sa| sa.engine()) {
            Ok(Engine::Bpf) => SaPath::Bpf,
            Ok(Engine::Xfrm) => {
                self.sas.share(inbound, &self.steer).map_or(SaPath::Stack, |cpu| SaPath::Cpu { cpu })
            }
            _ => self.user.sa_path(inbound),
        }
    }

    /// State and counters of every SA.
    pub async fn stats(&self) -> Vec<SaStats> {
        let mut stats = self.user.stats();
        stats.extend(self.xfrm.stats());
        stats.extend(self.bpf.stats());
        stats
    }

    /// What was dropped of each tunnel while it had no SA.
    pub fn tunnel_drops(&self) -> Vec<TunnelDrops> {
        let mut all: HashMap<TunnelId, Vec<(&'static str, u64)>> = HashMap::new();
        for more in [Engine::User, Engine::Xfrm, Engine::Bpf].into_iter().flat_map(|e| self.drops_in(e)) {
            homes::sum(all.entry(more.tunnel).or_default(), &more.drops);
        }
        for (tunnel, drops) in &mut all {
            if let Some(entry) = self.tunnels.get(tunnel) {
                entry.add_past_drops(drops);
            }
        }
        all.into_iter().map(|(tunnel, drops)| TunnelDrops { tunnel, drops }).collect()
    }

    fn drops_in(&self, engine: Engine) -> Vec<TunnelDrops> {
        match engine {
            Engine::User => self.user.tunnel_drops(),
            Engine::Xfrm => self.xfrm.tunnel_drops(),
            Engine::Bpf => self.bpf.tunnel_drops(),
        }
    }

    /// Has samples taken of dropped packets, a few for each reason and second: call it every second with another number, and
    /// with 0 when nobody looks any more.
    pub fn look_at_drops(&self, epoch: u32) {
        self.samples.look(epoch);
        self.bpf.look(epoch);
    }

    /// Takes the next sample. Engine `xfrm` has none: the kernel only counts.
    pub fn take_drop_sample(&self) -> Option<DropSample> {
        self.samples.take().or_else(|| self.bpf.take_sample())
    }

    /// What each engine has dropped, by tunnel where that is known, and by reason. What an SA dropped that is gone is not
    /// among it.
    pub async fn dropped(&self) -> Vec<(Engine, Option<TunnelId>, &'static str, u64)> {
        let mut all = Vec::new();
        for sa in self.stats().await {
            all.extend(sa.drops.iter().map(|(reason, n)| (sa.engine, Some(sa.tunnel), *reason, *n)));
        }
        for engine in [Engine::User, Engine::Xfrm, Engine::Bpf] {
            for of in self.drops_in(engine) {
                all.extend(of.drops.iter().map(|(reason, n)| (engine, Some(of.tunnel), *reason, *n)));
            }
        }
        all.extend(self.wan_drops().into_iter().map(|(reason, n)| (Engine::User, None, reason, n)));
        all
    }

    /// What arrived from the WAN and met no SA, by reason; keepalives are counted here too.
    pub fn wan_drops(&self) -> Vec<(&'static str, u64)> {
        self.user.wan_drops()
    }

    /// Why the kernel's IPsec dropped packets, by its own names (`/proc/net/xfrm_stat`). It counts those of
    /// other programs' SAs too.
    pub fn kernel_drops(&self) -> Vec<(String, u64)> {
        self.xfrm.kernel_drops()
    }

    /// Sends an IKE message from the UDP port that ESP uses too; adds the non-ESP marker. `local`'s
    /// port is ignored.
    pub fn send_ike(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), DataplaneError> {
        self.user.send_ike(local.ip(), remote, bytes)
    }

    /// Sends a NAT keepalive, one byte of 0xFF without a marker (RFC 3948 2.3). `local`'s port is ignored.
    pub fn send_keepalive(&self, local: SocketAddr, remote: SocketAddr) -> Result<(), DataplaneError> {
        self.user.send_keepalive(local.ip(), remote)
    }

    /// The UDP socket of a WAN address: the first of its SO_REUSEPORT group when the port is shared.
    pub fn udp_socket(&self, local: IpAddr) -> Option<&Arc<WanSocket>> {
        self.user.udp_socket(local)
    }

    /// The tunnel itself, or the one whose client it is.
    fn tunnel_of(&self, tunnel: TunnelId) -> TunnelId {
        self.clients.get(&tunnel).copied().unwrap_or(tunnel)
    }
}
