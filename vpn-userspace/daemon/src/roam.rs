//! Addresses of this host that come and go: sockets follow them, and so do the tunnels that are not tied to one.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_api::What;
use culvert_ike::Command;
use culvert_sys::netlink::{AddressWatch, Netlink};
use culvert_types::TunnelId;
use tokio::sync::mpsc;

use crate::daemon::{Daemon, Tunnel, wan_interfaces};
use crate::plan;

/// Changes come in bursts: an address goes, another comes, then its routes. This long after the last one is looked.
const QUIET: Duration = Duration::from_millis(100);

/// Tells when the host's addresses or routes have changed and come to rest; never again where the kernel does not say.
pub(crate) fn watch() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    match AddressWatch::open() {
        Ok(mut watch) => {
            tokio::spawn(async move {
                while watch.changed().await.is_some() {
                    while matches!(tokio::time::timeout(QUIET, watch.changed()).await, Ok(Some(()))) {}
                    if sender.send(()).await.is_err() {
                        return;
                    }
                }
            });
        }
        Err(error) => tracing::warn!("changes of this host's addresses will not be noticed: {error}"),
    }
    receiver
}

impl Tunnel {
    /// Where the peer is, or else where it is called.
    fn peer(&self, configured: &culvert_config::Tunnel) -> Option<IpAddr> {
        let named = self.named.as_ref().and_then(|n| n.in_use);
        let met = self.ike.as_ref().map(|ike| ike.info.remote.ip());
        met.or(named).or(configured.remote_address.address())
    }
}

impl Daemon {
    /// The host's addresses or routes are others.
    pub(crate) async fn on_addresses(&mut self) {
        let (interfaces, all) = match wan_interfaces(&self.config, &self.netlink).await {
            Ok(found) => found,
            // Gone for now: what it carried comes back with it.
            Err(error) => return tracing::warn!("cannot read the addresses of the WAN: {error:#}"),
        };
        self.guard.set_addresses(interfaces);
        for address in &all {
            if !self.wan_addresses.contains(address) {
                // An IPv6 address may not be ready yet: the kernel tells when it is.
                if let Err(error) = self.listen_on(*address).await {
                    tracing::debug!("{error:#}");
                }
            }
        }
        self.wan_addresses = all;
        // LAN interfaces, their networks, and what lies behind them.
        if self.config.environments.iter().any(|e| !e.is_default()) {
            self.settle_environments().await;
        }
        // What they send from may be gone, or there at last.
        self.settle_forwards().await;
        let _ = self.ike.handle_command(Instant::now(), Command::Addresses(self.wan_addresses.clone()));
        let moving = self.moved_tunnels(&self.netlink).await;
        for (id, local) in moving {
            self.relocate(id, local).await;
        }
    }

    /// The tunnels whose way to the peer begins at another address now.
    async fn moved_tunnels(&self, netlink: &Netlink) -> Vec<(TunnelId, IpAddr)> {
        let mut moved = Vec::new();
        for (id, entry) in &self.tunnels {
            let Some(tunnel) =
                self.config.connection(&entry.connection).and_then(|c| c.tunnel(entry.configured()))
            else {
                continue;
            };
            // Where there is no way at all, the peer is dead until there is one again.
            if tunnel.local_address.is_none()
                && let Some(remote) = entry.peer(tunnel)
                && let Ok(local) =
                    plan::local_address(tunnel, Some(remote), netlink, &self.wan_addresses).await
                && local != entry.local
            {
                moved.push((*id, local));
            }
        }
        moved
    }

    async fn relocate(&mut self, id: TunnelId, local: IpAddr) {
        let Some(entry) = self.tunnels.get(&id) else { return };
        let (connection, tunnel, before) = (entry.connection.clone(), entry.name.clone(), entry.local);
        if let Err(error) = self.listen_on(local).await {
            return tracing::error!(connection, tunnel, "cannot move to {local}: {error:#}");
        }
        tracing::info!(connection, tunnel, "the way to the peer leads from {local} now, not from {before}");
        self.history.happened(&connection, &tunnel, What::Moved, format!("from {before} to {local}"));
        if let Some(entry) = self.tunnels.get_mut(&id) {
            entry.local = local;
        }
        if let Err(error) = self.ike.handle_command(Instant::now(), Command::Relocate(id, local)) {
            tracing::error!(connection, tunnel, "cannot move to {local}: {error}");
        }
    }

    /// Opens both ports on an address of this host, and has the guard judge what comes there.
    pub(crate) async fn listen_on(&mut self, address: IpAddr) -> anyhow::Result<()> {
        self.sockets.open(address).await?;
        self.plane.add_address(address)?;
        self.guard.add_local(address);
        Ok(())
    }
}
