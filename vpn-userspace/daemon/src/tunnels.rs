//! Tunnels that come and go: interface, engine, peer, and the gateway's knowledge of them.

use std::time::Instant;

use culvert_config::PerCpu;
use culvert_dataplane::{Engine, EngineChoice, TunnelSpec};
use culvert_gateway::Input;
use culvert_ike::Command;
use culvert_sys::netlink;
use culvert_types::TunnelId;

use crate::daemon::{Daemon, Tunnel};
use crate::environment::How;
use crate::plan;
use crate::resolve::Named;

impl Daemon {
    /// Makes the tunnels that a connection lacks and lets the gateway and the IKE core know. Tunnels that cannot
    /// be made now are in [`Daemon::missing`], and do not hold up the others.
    pub(crate) async fn add_connection(&mut self, connection: &culvert_config::Connection) {
        // Also with no tunnel: from here on nothing of the protected networks leaves in clear.
        self.plan(connection);
        // Said once for each version of the connection, not at every attempt.
        let known = |t: &culvert_config::Tunnel| {
            let key = (connection.name.clone(), t.name.clone());
            self.find(&connection.name, &t.name).is_some() || self.missing.contains_key(&key)
        };
        if !connection.tunnels.iter().any(known) {
            for warning in plan::warnings(connection) {
                tracing::warn!(connection = connection.name, "{warning}");
            }
        }
        for tunnel in &connection.tunnels {
            if self.find(&connection.name, &tunnel.name).is_some() {
                continue;
            }
            let key = (connection.name.clone(), tunnel.name.clone());
            match self.add_tunnel(connection, tunnel).await {
                Ok(()) => {
                    self.missing.remove(&key);
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    // Said once, not at every attempt.
                    if self.missing.get(&key) != Some(&text) {
                        tracing::error!(connection = key.0, tunnel = key.1, "cannot be set up: {text}");
                    }
                    self.missing.insert(key, text);
                }
            }
        }
        self.plan(connection);
    }

    pub(crate) fn plan(&mut self, connection: &culvert_config::Connection) {
        let mut plan = plan::connection(connection, |name| self.find(&connection.name, name));
        for tunnel in &connection.tunnels {
            let id = self.find(&connection.name, &tunnel.name);
            if let Some(planned) = plan.tunnels.iter_mut().find(|planned| Some(planned.id) == id) {
                planned.enabled = self.is_enabled(&connection.name, tunnel);
            }
        }
        self.gateway.handle(Instant::now(), Input::Set(plan));
    }

    /// Tries again what could not be set up.
    pub(crate) async fn retry_missing(&mut self) {
        let mut names: Vec<String> = self.missing.keys().map(|(connection, _)| connection.clone()).collect();
        names.dedup();
        for name in names {
            if let Some(connection) = self.config.connection(&name).cloned() {
                self.add_connection(&connection).await;
            }
        }
    }

    async fn add_tunnel(
        &mut self,
        connection: &culvert_config::Connection,
        tunnel: &culvert_config::Tunnel,
    ) -> anyhow::Result<()> {
        let id = TunnelId(self.next_id);
        self.next_id += 1;
        let remote = tunnel.remote_address.address();
        let local = plan::local_address(tunnel, remote, &self.netlink, &self.wan_addresses).await?;
        if connection.environment != culvert_config::DEFAULT_ENVIRONMENT
            && self.environments.get(&connection.environment).is_none()
        {
            return Err(self.not_made(&connection.environment));
        }
        self.listen_on(local).await?;
        if connection.bgp.is_some()
            && connection.engine == culvert_config::Engine::Xfrm
            && !self.plane.kernel_interfaces()
        {
            anyhow::bail!(
                "routing = \"bgp\" needs tunnel interfaces, and this kernel's IPsec has none (CONFIG_XFRM_INTERFACE); write engine = \"auto\""
            );
        }
        let suites = connection.esp.proposals.iter().flat_map(|p| p.suites()).collect();
        let encap = connection.encap != culvert_config::Encap::Esp;
        let report = self
            .plane
            .create_tunnel(TunnelSpec {
                id,
                interface: tunnel.interface.clone(),
                engine: self.engine_choice(connection)?,
                suites,
                inside: crate::bgp::inside(connection, tunnel),
                mtu: connection.mtu.map(u32::from),
                encap,
                spread: connection.esp.per_cpu != PerCpu::No,
                wan_port: plan::wan_port(connection),
                lan_port: plan::lan_port(connection),
                remote_nets: connection.remote.clone(),
                small: plan::small_packets(connection),
                transport: plan::transport(connection),
                many: tunnel.clients.is_some(),
                kernel: plan::kernel_ipsec(connection),
            })
            .await?;
        self.guard.redirect(self.plane.take_redirects());
        self.guard.precede(&mut self.plane);
        let (force, ends) = (plan::force_encap(connection, report.engine), (local, remote));
        let peer = plan::peer(&self.config, connection, tunnel, ends, force, report.spi_parity).and_then(
            |mut peer| {
                self.take_additional(id, connection, &mut peer.exchange);
                Ok(self.ike.handle_command(Instant::now(), Command::AddPeer(id, Box::new(peer)))?)
            },
        );
        if let Err(error) = peer {
            let _ = self.plane.remove_tunnel(id).await;
            return Err(error);
        }
        let index = if plan::transport(connection) {
            Ok(0) // no interface, and no route
        } else {
            self.address_interface(connection, tunnel).await
        };
        let index = match index {
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
            "{} ready, engine {}",
            if index == 0 { "transport mode".to_owned() } else { format!("interface {}", tunnel.interface) },
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
            named: tunnel.remote_address.name().map(Named::new),
            client_of: None,
            scattered: false,
        };
        self.tunnel_names.insert((entry.connection.clone(), entry.name.clone()), id);
        self.tunnels.insert(id, entry);
        if !self.is_enabled(&connection.name, tunnel) {
            self.withdraw(&connection.name, &tunnel.name);
        }
        Ok(())
    }

    /// Gives a tunnel's interface its inside addresses; returns its index.
    async fn address_interface(
        &self,
        connection: &culvert_config::Connection,
        tunnel: &culvert_config::Tunnel,
    ) -> anyhow::Result<u32> {
        let netlink = self.place_interface(&connection.environment, &tunnel.interface).await?;
        let link = netlink.link(&tunnel.interface).await?;
        for net in crate::bgp::inside(connection, tunnel) {
            netlink.add_address(link.index, net).await?;
        }
        netlink.set_up(link.index, true).await?;
        // The way back may be another tunnel than the way there.
        let loosely = || netlink::filter_loosely(&tunnel.interface);
        let made = self.environments.get(&connection.environment);
        match made.map(|made| (&made.how, made)) {
            Some((How::Namespace(namespace, _), _)) => drop(namespace.within(loosely)?),
            Some((How::Table(table), _)) => {
                let _ = loosely();
                // What is bound to the interface is led to the table, and finds the far end there.
                for net in &tunnel.inside {
                    let route = netlink::Route::via_device(*net, link.index, 1).in_table(*table);
                    netlink.replace_route(&route).await?;
                }
            }
            None => drop(loosely()),
        }
        Ok(link.index)
    }

    /// Which engine a tunnel asks for. In an environment of its own `auto` is the one that goes with every kind of it.
    fn engine_choice(&self, connection: &culvert_config::Connection) -> anyhow::Result<EngineChoice> {
        let choice = plan::engine_choice(connection, self.plane.kernel_interfaces());
        if connection.environment == culvert_config::DEFAULT_ENVIRONMENT {
            return Ok(choice);
        }
        let engines = self.plane.engines();
        let without = engines.iter().find(|e| e.engine == Engine::Xfrm).is_some_and(|e| !e.notes.is_empty());
        if choice == EngineChoice::Xfrm && without {
            anyhow::bail!(
                "this kernel has no xfrm interfaces, without which the kernel's policies know no environment; set engine = \"user\""
            );
        }
        Ok(if choice == EngineChoice::Auto { EngineChoice::User } else { choice })
    }

    /// Closes a tunnel at the peer and takes everything of it away.
    pub(crate) async fn remove_tunnel(&mut self, id: TunnelId) {
        let _ = self.ike.handle_command(Instant::now(), Command::RemovePeer(id));
        self.settle().await;
        if let Err(error) = self.plane.remove_tunnel(id).await {
            tracing::error!("cannot take a tunnel away: {error}");
        }
        self.tunnels.retain(|other, t| {
            let gone = *other == id || t.client_of == Some(id);
            if gone {
                self.children.remove_of(*other);
                self.tunnel_names.remove(&(t.connection.clone(), t.name.clone()));
            }
            !gone
        });
        self.children.remove_of(id);
        self.negotiated(id);
        self.additional.forget(id);
    }

    /// The id of a tunnel by its names.
    pub(crate) fn find(&self, connection: &str, tunnel: &str) -> Option<TunnelId> {
        self.tunnel_names.get(&(connection.to_owned(), tunnel.to_owned())).copied()
    }
}
