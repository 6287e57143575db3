//! Engines, ports and workers: who does ESP for an SA, and how packets reach them.
//!
//! [`Dataplane`] is the facade: tunnels are created with an engine, SAs are installed into
//! one of their tunnel's engines and live there until they are removed. An SA comes from a
//! [`ChildSa`](culvert_ike::ChildSa), which only an authenticated exchange makes, and never changes
//! its engine (sequence numbers and replay windows do not move).
//!
//! Knows nothing of configuration files, of routes or of when a tunnel should be up.

mod bpf;
mod installed;
mod redirects;
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
use std::time::Duration;

use culvert_ike::{ChildSa, Purpose};
use culvert_sys::guard::SaPath;
use culvert_sys::wan::WanSocket;
use culvert_types::{Spi, TunnelId};
use tokio::sync::mpsc;

use bpf::{BpfEngine, OddDoor};
pub use culvert_sys::esp_bpf::Small as SmallPackets;
use installed::InstalledSas;
pub use redirects::{LanDevice, Redirects};
pub use types::{
    DataplaneConfig, DataplaneError, DataplaneEvent, Engine, EngineChoice, EngineInfo, InstallReport,
    LanPortChoice, OffloadSwitches, SaStats, TunnelDrops, TunnelReport, TunnelSpec, WanPortChoice,
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
    /// The engines that have an interface for a tunnel; the first is the one for its SAs unless one is wished for.
    tunnels: HashMap<TunnelId, Vec<Engine>>,
    /// Which engine an SA is in, and which tunnel it belongs to, or which client of it.
    sas: InstalledSas,
    /// Whose interface and engine serve a client.
    clients: HashMap<TunnelId, TunnelId>,
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
        let user = UserEngine::start(&config, steerings, door, events)?;
        Ok((
            Self {
                xfrm,
                user,
                bpf,
                tunnels: HashMap::new(),
                sas: InstalledSas::default(),
                clients: HashMap::new(),
            },
            receiver,
        ))
    }

    /// Creates a tunnel's interface, up, and says which engine serves it and why the others do not.
    /// Without an SA its packets are dropped and counted.
    pub async fn create_tunnel(&mut self, spec: TunnelSpec) -> Result<TunnelReport, DataplaneError> {
        if self.tunnels.contains_key(&spec.id) {
            return Err(DataplaneError::TunnelExists(spec.id));
        }
        let mut obstacles = self.xfrm.obstacles(&spec);
        if spec.wan_port == WanPortChoice::Xsk || spec.lan_port == LanPortChoice::Xsk {
            obstacles
                .push("the configuration asks for AF_XDP, which is a port of the engine user".to_owned());
        }
        if spec.small.is_some() {
            obstacles.push(
                "latency \"split\" asks for engine user, beside which bpf has the small packets".to_owned(),
            );
        }
        let mut report = match spec.engine {
            _ if spec.transport => self.create_transport(&spec, obstacles).await?,
            EngineChoice::User => {
                let mut report = self.user.create_tunnel(&spec)?;
                report.why.insert(0, "xfrm: the configuration asks for user".to_owned());
                report
            }
            EngineChoice::Xfrm if !obstacles.is_empty() => {
                return Err(DataplaneError::EngineUnavailable {
                    engine: Engine::Xfrm,
                    interface: spec.interface,
                    reason: obstacles.join("; "),
                });
            }
            EngineChoice::Xfrm => {
                let why = vec!["user: the configuration asks for xfrm".to_owned()];
                TunnelReport { why, ..self.xfrm.create_tunnel(&spec).await? }
            }
            EngineChoice::Bpf => {
                let why = ["xfrm", "user"].map(|e| format!("{e}: the configuration asks for bpf")).to_vec();
                let obstacles = self.bpf.obstacles(&spec);
                if !obstacles.is_empty() {
                    return Err(DataplaneError::EngineUnavailable {
                        engine: Engine::Bpf,
                        interface: spec.interface,
                        reason: obstacles.join("; "),
                    });
                }
                TunnelReport { why, ..self.bpf.create_tunnel(&spec).await? }
            }
            EngineChoice::Auto => self.create_auto(&spec, obstacles).await?,
        };
        self.pass_policies(&report);
        let engines = self.split(&spec, &mut report);
        self.tunnels.insert(spec.id, engines);
        Ok(report)
    }

    /// The kernel where it takes everything that may be negotiated, else user space, which takes it all.
    async fn create_auto(
        &mut self,
        spec: &TunnelSpec,
        obstacles: Vec<String>,
    ) -> Result<TunnelReport, DataplaneError> {
        let mut why: Vec<String> = obstacles.iter().map(|o| format!("xfrm: {o}")).collect();
        if why.is_empty() {
            match self.xfrm.create_tunnel(spec).await {
                Ok(report) => {
                    let why = vec!["user: the kernel takes every suite that may be negotiated".to_owned()];
                    return Ok(TunnelReport { why, ..report });
                }
                Err(e) => why.push(format!("xfrm: {e}")),
            }
        }
        let mut report = self.user.create_tunnel(spec)?;
        why.append(&mut report.why);
        Ok(TunnelReport { why, ..report })
    }

    /// What engines there are, whether they can serve here, and with which suites.
    pub fn engines(&self) -> Vec<EngineInfo> {
        vec![self.xfrm.info(), EngineInfo::user(self.user.notes()), self.bpf.info()]
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
        self.engines_of(tunnel).is_ok_and(|engines| engines.iter().any(|engine| engine.takes(purpose)))
    }

    /// Removes a tunnel with its SAs and its interface. Returns when the interface is gone.
    pub async fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), DataplaneError> {
        let engines = self.tunnels.remove(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        let mut outcome = Ok(());
        // What joined a device goes before the device.
        for engine in engines.into_iter().rev() {
            let removed = match engine {
                Engine::User => self.user.remove_tunnel(id).await,
                Engine::Xfrm => self.xfrm.remove_tunnel(id).await,
                Engine::Bpf => self.bpf.remove_tunnel(id).await,
            };
            outcome = outcome.and(removed);
        }
        self.sas.retain(|owner| self.clients.get(&owner).unwrap_or(&owner) != &id);
        self.clients.retain(|_, of| *of != id);
        outcome
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

    /// Installs an SA pair, inbound first, into the engine that is wished for, or into its tunnel's first; says which one
    /// it is in, for as long as it lives. It is used for sending at once, or when
    /// [`activate_outbound`](Self::activate_outbound) says so. When this returns, packets of the SA are accepted.
    pub async fn install(
        &mut self,
        sa: &ChildSa,
        wish: Option<Engine>,
        use_outbound: bool,
    ) -> Result<InstallReport, DataplaneError> {
        self.install_setup(SaSetup::from(sa), sa.hard_lifetime(), wish, use_outbound).await
    }

    async fn install_setup(
        &mut self,
        mut setup: SaSetup,
        lifetime: Duration,
        wish: Option<Engine>,
        use_outbound: bool,
    ) -> Result<InstallReport, DataplaneError> {
        let owner = setup.tunnel;
        setup.tunnel = self.tunnel_of(owner);
        self.sas.check_free(setup.inbound)?;
        let engines = self.engines_of(owner)?;
        let first = *engines.first().ok_or(DataplaneError::UnknownTunnel(owner))?;
        let fit = engines.iter().copied().find(|engine| engine.takes(setup.purpose));
        let engine = wish.or(fit).unwrap_or(first);
        if !engines.contains(&engine) {
            return Err(DataplaneError::NotServedBy { tunnel: owner, engine });
        }
        if !engine.takes(setup.purpose) {
            return Err(DataplaneError::Purpose(engine, setup.purpose));
        }
        match engine {
            Engine::User => self.user.install(&setup, use_outbound).await?,
            Engine::Xfrm => self.xfrm.install(&setup, lifetime, use_outbound).await?,
            Engine::Bpf => {
                self.user.listen(setup.local, setup.encap)?;
                self.bpf.install(&setup, use_outbound).await?;
            }
        }
        self.sas.add(setup.inbound, owner, engine);
        Ok(InstallReport { engine, why: Vec::new() })
    }

    /// Sends the tunnel's packets with this SA from now on.
    pub async fn activate_outbound(&mut self, inbound: Spi) -> Result<(), DataplaneError> {
        match self.sas.get(inbound)?.engine() {
            Engine::User => self.user.activate_outbound(inbound),
            Engine::Xfrm => self.xfrm.activate_outbound(inbound),
            Engine::Bpf => self.bpf.activate_outbound(inbound),
        }
    }

    /// Sends with this SA no more, and accepts its packets for `drain` still.
    pub async fn remove(&mut self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        match self.sas.get(inbound)?.engine() {
            Engine::User => self.user.remove(inbound, drain)?,
            Engine::Xfrm => self.xfrm.remove(inbound, drain)?,
            Engine::Bpf => self.bpf.remove(inbound, drain)?,
        }
        self.sas.remove(inbound);
        Ok(())
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
        for engine in self.engines_of(tunnel)?.to_vec() {
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

    /// What the guard must be told since this was last called: after a tunnel was created, an address added, or
    /// [`tend`](Self::tend).
    pub fn take_redirects(&mut self) -> Redirects {
        self.user.take_redirects()
    }

    /// Which way the guard shall send packets of an SA, since it was installed or its peer moved.
    pub fn sa_path(&self, inbound: Spi) -> SaPath {
        self.user.sa_path(inbound)
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
        let mut drops = self.user.tunnel_drops();
        drops.extend(self.xfrm.tunnel_drops());
        drops.extend(self.bpf.tunnel_drops());
        drops
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

    fn engines_of(&self, tunnel: TunnelId) -> Result<&[Engine], DataplaneError> {
        let engines = self.tunnels.get(&self.tunnel_of(tunnel));
        engines.map(Vec::as_slice).ok_or(DataplaneError::UnknownTunnel(tunnel))
    }
}
