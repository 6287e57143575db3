//! Which engine serves a tunnel: what the operator asks for, and interface, addresses and routes that follow the SA that is
//! sent with.

use std::time::Instant;

use culvert_api::{ErrorCode, Response, Target};
use culvert_config::Connection;
use culvert_dataplane::{Engine, EngineChoice, TunnelReport};
use culvert_gateway::Via;
use culvert_ike::{Command, PeerConfig, Purpose};
use culvert_types::{Spi, TunnelId};
use ipnet::IpNet;

use crate::daemon::{Child, Daemon};
use crate::{plan, requests};

impl Daemon {
    /// `culvert tunnel engine`: rekeys the tunnels' child SAs into the engine.
    pub(crate) fn change_engine(&mut self, target: &Target, asked: culvert_api::EngineChoice) -> Response {
        let choice = match asked {
            culvert_api::EngineChoice::Auto => EngineChoice::Auto,
            culvert_api::EngineChoice::User => EngineChoice::User,
            culvert_api::EngineChoice::Xfrm => EngineChoice::Xfrm,
            culvert_api::EngineChoice::Bpf => EngineChoice::Bpf,
            culvert_api::EngineChoice::Unknown => {
                return Response::error(
                    ErrorCode::BadRequest,
                    "that engine is not known",
                    "write user, xfrm, bpf or auto",
                );
            }
        };
        let covered = self.tunnels.iter().filter(|(_, t)| target.covers(&t.connection, &t.name));
        let ids: Vec<TunnelId> = covered.map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return requests::unknown(target);
        }
        let apart = |id: &TunnelId| {
            let environment = self.configured(*id).map(|(connection, _)| connection.environment.as_str());
            environment.is_some_and(|name| name != culvert_config::DEFAULT_ENVIRONMENT)
        };
        if ids.iter().any(apart) {
            return Response::error(
                ErrorCode::State,
                "a tunnel in an environment of its own keeps its engine while it runs",
                "set `engine` of the connection in the configuration and `culvert reload`",
            );
        }
        if ids.iter().any(|id| self.is_client(*id) || self.serves_many(*id)) {
            return Response::error(
                ErrorCode::State,
                "clients share the interface of their tunnel, and so its engine",
                "set `engine` of the connection in the configuration and `culvert reload`",
            );
        }
        let mut rekeyed = 0;
        for id in ids {
            if let Err(error) = self.plane.wish(id, Some(choice)) {
                return Response::error(
                    ErrorCode::State,
                    error.to_string(),
                    "`culvert status -v` lists what each engine takes",
                );
            }
            rekeyed += self.rekey_into_place(id);
        }
        Response::done(match rekeyed {
            0 => "nothing to rekey: it holds for the next negotiation, until the next reload".to_owned(),
            1 => "a child SA is rekeyed; it holds until the next reload".to_owned(),
            n => format!("{n} child SAs are rekeyed; it holds until the next reload"),
        })
    }

    /// What the configuration says holds again.
    pub(crate) fn forget_wishes(&mut self) {
        let wished: Vec<TunnelId> =
            self.tunnels.keys().copied().filter(|id| self.plane.wished(*id).is_some()).collect();
        for id in wished {
            if let Err(error) = self.plane.wish(id, None) {
                tracing::warn!("{error}");
            }
            self.rekey_into_place(id);
        }
    }

    /// Rekeys those child SAs of a tunnel that another engine should have; says how many.
    fn rekey_into_place(&mut self, id: TunnelId) -> usize {
        self.tell_peer(id);
        let misplaced = |child: &Child| {
            self.plane.preferred(id, Some(child.suite)).is_some_and(|engine| engine != child.engine)
        };
        let those: Vec<Spi> =
            self.children.of(id).filter(|(_, child)| misplaced(child)).map(|(spi, _)| spi).collect();
        those.iter().for_each(|spi| self.rekey_child(*spi));
        those.len()
    }

    /// Lets the IKE core know what follows from the tunnel's engine: the parity of SPIs, and whether ESP goes in UDP though
    /// there is no NAT. It holds from the next exchange on.
    pub(crate) fn tell_peer(&mut self, id: TunnelId) {
        match self.peer_of(id) {
            Some(Ok(peer)) => {
                if let Err(error) =
                    self.ike.handle_command(Instant::now(), Command::AddPeer(id, Box::new(peer)))
                {
                    tracing::warn!("{error}");
                }
            }
            Some(Err(error)) => tracing::warn!("{error:#}"),
            None => {}
        }
    }

    fn peer_of(&self, id: TunnelId) -> Option<anyhow::Result<PeerConfig>> {
        let entry = self.tunnels.get(&id)?;
        let (connection, tunnel) = self.configured(id)?;
        if entry.client_of.is_none() && !self.is_enabled(&connection.name, tunnel) {
            return None;
        }
        let engine = self.plane.preferred(id, None).unwrap_or(entry.report.engine);
        let remote = entry.named.as_ref().and_then(|named| named.in_use).or(tunnel.remote_address.address());
        let parity = Some(self.plane.spi_parity(engine));
        let force = plan::force_encap(connection, engine);
        let peer = plan::peer(&self.config, connection, tunnel, (entry.local, remote), force, parity);
        Some(peer.map(|mut peer| {
            self.take_additional(id, connection, &mut peer.exchange);
            peer
        }))
    }

    pub(crate) fn configured(&self, id: TunnelId) -> Option<(&Connection, &culvert_config::Tunnel)> {
        let entry = self.tunnels.get(&id)?;
        let connection = self.config.connection(&entry.connection)?;
        Some((connection, connection.tunnel(entry.configured())?))
    }

    /// The child SA that most of a tunnel's packets leave with: the newest that is sent with. Not one for a resource or a
    /// purpose beside it.
    fn carrier(&self, id: TunnelId) -> Option<&Child> {
        let all = self.children.of(id).map(|(_, child)| child);
        let sending = all.filter(|child| child.purpose == Purpose::All && child.sending.is_some());
        sending.max_by_key(|child| child.sending)
    }

    /// Whether SAs of the tunnel are in other engines than the one that leads.
    fn is_scattered(&self, id: TunnelId, leader: Engine) -> bool {
        self.children.of(id).any(|(_, child)| child.purpose == Purpose::All && child.engine != leader)
    }

    /// Has interface, addresses and routes of a tunnel follow the SA that is sent with now.
    pub(crate) async fn follow(&mut self, id: TunnelId) {
        // All SAs of clients are in the one engine of their tunnel.
        if self.is_client(id) {
            return;
        }
        let Some(carrier) = self.carrier(id) else { return };
        let (engine, why) = (carrier.engine, carrier.why.clone());
        let before = self.plane.leading(id).map(|report| report.engine);
        if before == Some(engine) {
            let why = self.plane.leading(id).map(|report| reasons(why, report)).unwrap_or_default();
            let scattered = self.is_scattered(id, engine);
            let mut moves = scattered;
            if let Some(entry) = self.tunnels.get_mut(&id) {
                entry.report.why = why;
                moves |= std::mem::replace(&mut entry.scattered, scattered);
            }
            // An SA of other networks may be in another engine than this one, or was.
            if moves {
                self.put_routes(id).await;
            }
            return;
        }
        let Some(entry) = self.tunnels.get(&id) else { return };
        let (old, name) = (entry.index, format!("{}/{}", entry.connection, entry.name));
        let moved = async {
            let report = self.plane.lead(id, engine).await?;
            let interface = self.plane.interface(id, engine).unwrap_or_default().to_owned();
            let index = self.netlink.link(&interface).await?.index;
            anyhow::Ok((report, interface, index))
        };
        let (report, interface, index) = match moved.await {
            Ok(moved) => moved,
            Err(error) => return tracing::error!("cannot move {name} to engine {engine}: {error:#}"),
        };
        let why = reasons(why, &report);
        let addresses = self.addresses_of(id);
        if index != old {
            for address in &addresses {
                if let Err(error) = self.netlink.add_address(index, *address).await {
                    tracing::error!("cannot give {interface} the address {address}: {error}");
                }
            }
        }
        for (other, entry) in &mut self.tunnels {
            if *other == id || entry.client_of == Some(id) {
                entry.index = index;
                entry.report = TunnelReport { why: why.clone(), ..report.clone() };
            }
        }
        self.put_routes(id).await;
        if index != old {
            for address in &addresses {
                if let Err(error) = self.netlink.delete_address(old, *address).await {
                    tracing::warn!("{error}");
                }
            }
        }
        let scattered = self.is_scattered(id, engine);
        if let Some(entry) = self.tunnels.get_mut(&id) {
            entry.scattered = scattered;
        }
        self.look_for_additional(Instant::now(), id);
        self.tell_peer(id);
        let from = before.map_or(String::new(), |before| format!(" in place of {before}"));
        tracing::info!("{name}: engine {engine}{from}, interface {interface}");
    }

    /// What addresses the interface of a tunnel has: the configured ones, and those that the peer gave.
    fn addresses_of(&self, id: TunnelId) -> Vec<IpNet> {
        let configured = self.configured(id).map(|(_, tunnel)| tunnel.inside.clone()).unwrap_or_default();
        let ike = self.tunnels.get(&id).and_then(|entry| entry.ike.as_ref());
        let given = ike.map(|ike| ike.info.addresses.ours.clone()).unwrap_or_default();
        configured.into_iter().chain(given.into_iter().map(IpNet::from)).collect()
    }

    /// Puts the tunnel's routes anew, each through the interface of the SA that carries its packets.
    async fn put_routes(&self, id: TunnelId) {
        let through = |route: &&culvert_gateway::Route| match &route.via {
            Via::Tunnel(one) => *one == id,
            Via::Tunnels(several) => several.iter().any(|(one, _)| *one == id),
            Via::Unreachable => false,
        };
        let routes: Vec<_> = self.gateway.routes().filter(through).cloned().collect();
        for route in routes {
            self.add_route(&route).await;
        }
    }

    /// The interface through which packets to a network go: of the newest SA that takes all of it, or the tunnel's.
    pub(crate) fn index_towards(&self, id: TunnelId, net: IpNet) -> Option<u32> {
        let takes = |child: &&Child| {
            child.sending.is_some()
                && child.purpose == Purpose::All
                && child
                    .remote
                    .iter()
                    .any(|ts| ts.contains_addr(net.network()) && ts.contains_addr(net.broadcast()))
        };
        let entry = self.tunnels.get(&id)?;
        let newest = if entry.scattered {
            self.children.of(id).map(|(_, child)| child).filter(takes).max_by_key(|child| child.sending)
        } else {
            None
        };
        let elsewhere = newest.filter(|child| child.engine != entry.report.engine);
        let interface = elsewhere.and_then(|child| self.plane.interface(id, child.engine));
        let index = interface.and_then(|name| nix::net::if_::if_nametoindex(name).ok());
        Some(index.unwrap_or(entry.index))
    }

    /// Interfaces of engines that serve a tunnel no more are gone, and others may have their names now.
    pub(crate) async fn retire_engines(&mut self) {
        for id in self.plane.retire().await {
            if let Some(interface) = self.plane.leading(id).and_then(|r| self.plane.interface(id, r.engine)) {
                tracing::debug!("{id:?} has the interface {interface} alone now");
            }
        }
    }
}

/// Why the SA that is sent with is in its engine, and what else there is to say of how that engine serves the tunnel.
fn reasons(of_sa: Vec<String>, report: &TunnelReport) -> Vec<String> {
    let others = [Engine::User, Engine::Xfrm, Engine::Bpf].into_iter().filter(|e| *e != report.engine);
    let others: Vec<String> = others.map(|engine| format!("{engine}: ")).collect();
    let rest = report.why.iter().filter(|line| !others.iter().any(|other| line.starts_with(other.as_str())));
    of_sa.iter().chain(rest.filter(|line| !of_sa.contains(line))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_ports_stays_when_an_sa_says_why_it_is_where_it_is() {
        let report = TunnelReport {
            engine: Engine::User,
            lan_port: "tun",
            wan_port: "xsk",
            why: vec!["xfrm: of the start".to_owned(), "xsk: one queue".to_owned()],
            spi_parity: None,
            small: false,
        };
        assert_eq!(
            reasons(vec!["xfrm: of the SA".to_owned()], &report),
            ["xfrm: of the SA", "xsk: one queue"]
        );
    }
}
