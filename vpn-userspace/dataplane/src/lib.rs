//! Engines, ports and workers: who does ESP for an SA, and how packets reach them.
//!
//! [`Dataplane`] is the facade: tunnels are created with an engine, SAs are installed into their
//! tunnel's engine and live there until they are removed. An SA comes from a
//! [`ChildSa`](culvert_ike::ChildSa), which only an authenticated exchange makes, and never changes
//! its engine (sequence numbers and replay windows do not move).
//!
//! Knows nothing of configuration files, of routes or of when a tunnel should be up.

mod types;
mod user;

#[cfg(feature = "testing")]
pub mod testing;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use culvert_ike::ChildSa;
use culvert_sys::wan::WanSocket;
use culvert_types::{Spi, TunnelId};
use tokio::sync::mpsc;

pub use types::{
    DataplaneConfig, DataplaneError, DataplaneEvent, Engine, EngineChoice, SaStats, TunnelDrops,
    TunnelReport, TunnelSpec,
};
use user::UserEngine;
use user::setup::SaSetup;

/// Every tunnel and SA of the gateway, whatever engine serves them. Dropping it stops the workers and
/// removes the tunnels' devices.
pub struct Dataplane {
    user: UserEngine,
    /// Which engine serves a tunnel.
    tunnels: HashMap<TunnelId, Engine>,
    /// Which tunnel an SA belongs to.
    sas: HashMap<Spi, TunnelId>,
}

impl Dataplane {
    /// Opens the WAN sockets and starts the workers; events come out of the receiver.
    ///
    /// # Errors
    /// The UDP port is taken, a WAN address is not this host's, or privileges are missing.
    pub async fn start(
        config: DataplaneConfig,
    ) -> Result<(Self, mpsc::UnboundedReceiver<DataplaneEvent>), DataplaneError> {
        let (events, receiver) = mpsc::unbounded_channel();
        let user = UserEngine::start(&config, events)?;
        Ok((Self { user, tunnels: HashMap::new(), sas: HashMap::new() }, receiver))
    }

    /// Creates a tunnel's interface, up, and says which engine serves it and why the others do not.
    /// Without an SA its packets are dropped and counted.
    pub async fn create_tunnel(&mut self, spec: TunnelSpec) -> Result<TunnelReport, DataplaneError> {
        if self.tunnels.contains_key(&spec.id) {
            return Err(DataplaneError::TunnelExists(spec.id));
        }
        let report = match spec.engine {
            EngineChoice::Auto | EngineChoice::User => self.user.create_tunnel(&spec)?,
            EngineChoice::Xfrm => {
                return Err(DataplaneError::EngineUnavailable {
                    engine: Engine::Xfrm,
                    interface: spec.interface,
                    reason: "this build does not drive kernel ESP".to_owned(),
                });
            }
        };
        self.tunnels.insert(spec.id, report.engine);
        Ok(report)
    }

    /// Removes a tunnel with its SAs and its interface. Returns when the interface is gone.
    pub async fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), DataplaneError> {
        match self.tunnels.remove(&id).ok_or(DataplaneError::UnknownTunnel(id))? {
            Engine::User => self.user.remove_tunnel(id).await?,
            Engine::Xfrm => {}
        }
        self.sas.retain(|_, tunnel| *tunnel != id);
        Ok(())
    }

    /// Installs an SA pair into its tunnel's engine, inbound first. It is used for sending at once, or
    /// when [`activate_outbound`](Self::activate_outbound) says so. When this returns, packets of the SA are accepted.
    pub async fn install(&mut self, sa: &ChildSa, use_outbound: bool) -> Result<(), DataplaneError> {
        match self.engine(sa.tunnel())? {
            Engine::User => self.install_setup(&SaSetup::from(sa), use_outbound).await,
            Engine::Xfrm => Ok(()),
        }
    }

    async fn install_setup(&mut self, setup: &SaSetup, use_outbound: bool) -> Result<(), DataplaneError> {
        self.user.install(setup, use_outbound).await?;
        self.sas.insert(setup.inbound, setup.tunnel);
        Ok(())
    }

    /// Sends the tunnel's packets with this SA from now on.
    pub async fn activate_outbound(&mut self, inbound: Spi) -> Result<(), DataplaneError> {
        match self.engine_of(inbound)? {
            Engine::User => self.user.activate_outbound(inbound),
            Engine::Xfrm => Ok(()),
        }
    }

    /// Sends with this SA no more, and accepts its packets for `drain` still.
    pub async fn remove(&mut self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        match self.engine_of(inbound)? {
            Engine::User => self.user.remove(inbound, drain)?,
            Engine::Xfrm => {}
        }
        self.sas.remove(&inbound);
        Ok(())
    }

    /// The tunnel's peer is at another address or port now, or our own changed. The port is that of UDP
    /// encapsulation, and ignored without.
    pub async fn move_peer(
        &mut self,
        tunnel: TunnelId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(), DataplaneError> {
        match self.engine(tunnel)? {
            Engine::User => self.user.move_peer(tunnel, local, remote),
            Engine::Xfrm => Ok(()),
        }
    }

    /// State and counters of every SA.
    pub async fn stats(&self) -> Vec<SaStats> {
        self.user.stats()
    }

    /// What was dropped of each tunnel while it had no SA.
    pub fn tunnel_drops(&self) -> Vec<TunnelDrops> {
        self.user.tunnel_drops()
    }

    /// What arrived from the WAN and met no SA, by reason; keepalives are counted here too.
    pub fn wan_drops(&self) -> Vec<(&'static str, u64)> {
        self.user.wan_drops()
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

    fn engine(&self, tunnel: TunnelId) -> Result<Engine, DataplaneError> {
        self.tunnels.get(&tunnel).copied().ok_or(DataplaneError::UnknownTunnel(tunnel))
    }

    fn engine_of(&self, inbound: Spi) -> Result<Engine, DataplaneError> {
        self.engine(*self.sas.get(&inbound).ok_or(DataplaneError::UnknownSpi(inbound))?)
    }
}
