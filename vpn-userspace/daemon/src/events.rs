//! What the IKE core and the data plane report, and what follows from it.

use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use culvert_api::What;
use culvert_config::{RemoteProof, Revocation};
use culvert_dataplane::DataplaneEvent;
use culvert_gateway::{Input, Loss};
use culvert_ike::{CertificateRefused, ChildSa, Command, DownReason, Event, Identity, Purpose};
use culvert_pki::Verified;
use culvert_types::{Spi, TunnelId};
use ipnet::IpNet;

use crate::daemon::{Child, Daemon, Established};
use crate::trust;

impl Daemon {
    /// What the IKE core says has happened. It keeps the log of it itself.
    pub(crate) async fn on_ike_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::ClientUp { tunnel, of, number } => self.client_up(tunnel, of, number),
            Event::ClientGone { tunnel } => self.client_gone(tunnel),
            Event::IkeUp { tunnel, info } => {
                self.negotiated(tunnel);
                self.guard.prove(info.remote.ip());
                self.answered(tunnel, info.remote.ip());
                self.happened(
                    tunnel,
                    What::Up,
                    format!("with {} at {}, {}", info.remote_id, info.remote, info.suite),
                );
                self.give_addresses(tunnel, &info.addresses.ours).await;
                self.additional.forget(tunnel);
                if let Some(entry) = self.tunnels.get_mut(&tunnel) {
                    let before = entry.ike.replace(Established { info, since: now, told: now });
                    // Authenticated anew beside the one that stood.
                    before.into_iter().for_each(|ike| self.guard.forget(ike.info.remote.ip()));
                }
            }
            Event::IkeRekeyed { tunnel, info } => {
                self.happened(tunnel, What::Rekeyed, info.suite.to_string());
                self.give_addresses(tunnel, &info.addresses.ours).await;
                if let Some(entry) = self.tunnels.get_mut(&tunnel) {
                    let since = entry.ike.as_ref().map_or(now, |ike| ike.since);
                    entry.ike = Some(Established { info, since, told: now });
                }
            }
            Event::IkeDown { tunnel, reason } => {
                self.negotiated(tunnel);
                self.happened(tunnel, What::Down, reason.to_string());
                self.give_addresses(tunnel, &[]).await;
                if let Some(ike) = self.tunnels.get_mut(&tunnel).and_then(|entry| entry.ike.take()) {
                    self.guard.forget(ike.info.remote.ip());
                }
                // A tunnel is not lost because one of its clients went.
                if !self.is_client(tunnel) {
                    self.gateway.handle(now, Input::Lost(tunnel, loss(reason), reason.to_string()));
                }
            }
            Event::ChildUp { sa, replaces: _, use_outbound } => {
                self.on_child_up(now, &sa, use_outbound).await
            }
            Event::OutboundReady { tunnel, inbound } => {
                if let Err(error) = self.plane.activate_outbound(inbound).await {
                    self.complain(inbound, "cannot send on the new CHILD SA", &error);
                }
                if let Some(child) = self.children.get_mut(inbound) {
                    child.sending = Some(now);
                }
                self.follow(tunnel).await;
            }
            Event::ChildDown { tunnel, inbound, outbound: _, drain, reason } => {
                // One that could not be installed is not there.
                if self.children.contains(inbound)
                    && let Err(error) = self.plane.remove(inbound, drain).await
                {
                    self.complain(inbound, "cannot remove a CHILD SA", &error);
                }
                self.guard.remove_sa(inbound, now + drain);
                if let Some(child) = self.children.remove(inbound) {
                    self.additional.lost(now, &child);
                    self.look_for_additional(now, child.tunnel);
                }
                self.follow(tunnel).await;
                let of = self.template(tunnel);
                self.gateway.handle(now, Input::ChildDown(of, inbound, loss(reason), reason.to_string()));
            }
            Event::PeerMoved { tunnel, local, remote, encap } => {
                self.happened(tunnel, What::Moved, format!("{local} - {remote}"));
                if let Some(ike) = self.tunnels.get_mut(&tunnel).and_then(|entry| entry.ike.as_mut()) {
                    self.guard.forget(ike.info.remote.ip());
                    self.guard.prove(remote.ip());
                    (ike.info.local, ike.info.remote) = (local, remote);
                }
                let roams = encap
                    && self
                        .tunnels
                        .get(&tunnel)
                        .and_then(|t| t.ike.as_ref())
                        .is_some_and(|ike| ike.info.nat_remote);
                let moved = self.children.spis_of(tunnel);
                for &spi in &moved {
                    if let Some(child) = self.children.get_mut(spi) {
                        child.encap = encap;
                    }
                    self.guard.move_sa(spi, local.ip(), (!roams).then(|| remote.ip()));
                }
                if let Err(error) = self.plane.move_peer(tunnel, local, remote, encap).await {
                    tracing::warn!("cannot move {tunnel:?} to {remote}: {error}");
                }
                for spi in moved {
                    self.guard.set_path(spi, self.plane.sa_path(spi));
                }
            }
            Event::CheckCertificate { check, tunnel, identity, chain } => {
                let verdict = match self.judge(tunnel, &identity, &chain) {
                    Ok((verified, rules)) => self.checks.check(check, verified.path, verified.key, &rules),
                    Err(refused) => Some(Command::CertificateChecked(check, Err(refused))),
                };
                if let Some(verdict) = verdict {
                    let _ = self.ike.handle_command(now, verdict);
                }
            }
            Event::EapAsk { check, remote, note } => {
                if let Some(refused) = self.radius.ask(check, remote.ip(), note) {
                    let _ = self.ike.handle_command(now, refused);
                }
            }
            Event::Message { tunnel, remote, sent, text } => {
                let of = tunnel.and_then(|id| self.tunnels.get(&id));
                self.watchers.message(
                    of.map(|t| (t.connection.as_str(), t.name.as_str())),
                    remote,
                    sent,
                    text,
                );
            }
            Event::Secrets(secrets) => {
                if let Some(file) = &mut self.secrets {
                    file.write(&secrets);
                }
            }
            Event::AdditionalRefused { tunnel, purpose, never, cause } => {
                self.additional.refused((tunnel, purpose), never, cause);
            }
            Event::Failed(failure) => {
                failure.tunnel.into_iter().for_each(|id| self.negotiated(id));
                match failure.tunnel.and_then(|id| self.tunnels.get(&id)) {
                    Some(t) => self.history.failed(&t.connection, &t.name, &failure),
                    None => self.history.stranger_failed(&failure),
                }
                // What it has still carries traffic; not for long.
                if let Some(id) = failure.tunnel.filter(|id| self.children.of(*id).next().is_some())
                    && let Some((connection, tunnel)) =
                        self.tunnels.get(&id).map(|t| (t.connection.clone(), t.name.clone()))
                {
                    self.tell_rekey(&connection, &tunnel, &failure.to_string());
                }
                // A tunnel that carries traffic is not lost because another attempt failed.
                if let Some(id) = failure.tunnel
                    && !self.is_client(id)
                    && !self.serves_many(id)
                    && self.children.of(id).next().is_none()
                {
                    self.gateway.handle(now, Input::Lost(id, Loss::Failed, failure.to_string()));
                }
            }
        }
    }

    fn happened(&mut self, tunnel: TunnelId, what: What, text: String) {
        if let Some(t) = self.tunnels.get(&tunnel) {
            self.history.happened(&t.connection, &t.name, what, text);
        }
    }

    /// Whether a peer's certificate is trusted by the rules of a tunnel, and whether it has to be asked if it is revoked.
    fn judge(
        &self,
        tunnel: TunnelId,
        identity: &Identity,
        chain: &[Vec<u8>],
    ) -> Result<(Verified, Revocation), CertificateRefused> {
        let entry = self.tunnels.get(&tunnel);
        let configured = entry.and_then(|t| self.config.connection(&t.connection)?.tunnel(&t.name));
        match configured.map(|t| &t.auth.remote) {
            Some(RemoteProof::Certificate { authorities, revocation, .. }) => trust::verify(
                chain,
                authorities.certificates(),
                authorities.crls(),
                trust::Expected::Peer(identity),
                SystemTime::now(),
            )
            .map(|verified| (verified, revocation.clone()))
            .map_err(|refused| refused.why),
            _ => Err(CertificateRefused {
                what: "no authority is configured for this tunnel".to_owned(),
                mend: "write `ca` into the tunnel's configuration".to_owned(),
                ..CertificateRefused::default()
            }),
        }
    }

    /// Makes the addresses of a tunnel's interface that peers gave those that this one gave.
    async fn give_addresses(&self, tunnel: TunnelId, now: &[IpAddr]) {
        let Some(entry) = self.tunnels.get(&tunnel) else { return };
        let Some(netlink) = self.netlink_for(&entry.connection) else { return };
        let before: &[IpAddr] = entry.ike.as_ref().map_or(&[], |ike| &ike.info.addresses.ours);
        for address in now.iter().filter(|a| !before.contains(a)) {
            match netlink.add_address(entry.index, IpNet::from(*address)).await {
                Ok(()) => tracing::info!(
                    connection = entry.connection,
                    tunnel = entry.name,
                    "the peer gave this gateway the inner address {address}"
                ),
                Err(error) => tracing::error!(
                    connection = entry.connection,
                    tunnel = entry.name,
                    "cannot use the inner address {address}: {error}"
                ),
            }
        }
        for address in before.iter().filter(|a| !now.contains(a)) {
            if let Err(error) = netlink.delete_address(entry.index, IpNet::from(*address)).await {
                tracing::warn!(connection = entry.connection, tunnel = entry.name, "{error}");
            }
        }
    }

    async fn on_child_up(&mut self, now: Instant, sa: &ChildSa, use_outbound: bool) {
        // A NAT may give its peer another address, and ESP from there tells of it (RFC 7296 2.23).
        let roams = self
            .tunnels
            .get(&sa.tunnel())
            .and_then(|t| t.ike.as_ref())
            .is_some_and(|ike| ike.info.nat_remote && sa.encap().is_some());
        self.guard.insert_sa(sa, roams);
        let installed = self.plane.install(sa, None, use_outbound).await;
        let report = match installed {
            Ok(report) => report,
            Err(error) => {
                tracing::error!("cannot install a CHILD SA of {:?}: {error}", sa.tunnel());
                self.guard.remove_sa(sa.inbound(), now);
                if sa.purpose() != Purpose::All {
                    // The tunnel goes on without it.
                    self.additional.refused((sa.tunnel(), sa.purpose()), false, error.to_string());
                    let _ = self.ike.handle_command(now, Command::DeleteChild(sa.inbound()));
                    return;
                }
                let _ = self.ike.handle_command(now, Command::Terminate(sa.tunnel(), true));
                if !self.is_client(sa.tunnel()) {
                    self.gateway.handle(now, Input::Lost(sa.tunnel(), Loss::Failed, error.to_string()));
                }
                return;
            }
        };
        self.guard.set_path(sa.inbound(), self.plane.sa_path(sa.inbound()));
        let list = |selectors: &[culvert_types::TrafficSelector]| {
            selectors.iter().map(ToString::to_string).collect()
        };
        let child = Child {
            tunnel: sa.tunnel(),
            outbound: sa.outbound(),
            suite: sa.suite(),
            dh: sa.dh_group().map(|group| group.to_string()),
            encap: sa.encap().is_some(),
            local_ts: list(sa.local_ts()),
            remote_ts: list(sa.remote_ts()),
            remote: sa.remote_ts().to_vec(),
            engine: report.engine,
            why: report.why,
            sending: use_outbound.then_some(now),
            rekey_at: now + sa.rekey_in(),
            since: now,
            esn: sa.esn(),
            replay_window: sa.replay_window(),
            purpose: sa.purpose(),
            seen: (0, 0),
        };
        if let Some(entry) = self.tunnels.get_mut(&sa.tunnel())
            && let Some(began) = entry.began.take()
        {
            entry.negotiation = Some(now - began);
            self.latest_negotiation = entry.negotiation;
        }
        self.additional.came((sa.tunnel(), sa.purpose()));
        self.children.insert(sa.inbound(), child);
        self.look_for_additional(now, sa.tunnel());
        self.follow(sa.tunnel()).await;
        self.gateway.handle(now, Input::ChildUp(self.template(sa.tunnel()), sa.inbound()));
    }

    pub(crate) async fn on_plane_event(&mut self, event: DataplaneEvent) {
        let now = Instant::now();
        match event {
            DataplaneEvent::Ike { local, remote, bytes } => {
                self.watchers.datagram(local, remote, false, true, &bytes);
                self.ike.handle_datagram(now, local, remote, &bytes)
            }
            DataplaneEvent::SoftLimit { inbound } => self.rekey_child(inbound),
            DataplaneEvent::HardLimit { inbound } => {
                if let Some(child) = self.children.get(inbound) {
                    let id = child.tunnel;
                    tracing::warn!(
                        "a CHILD SA reached its hard limit before it was rekeyed; {id:?} is negotiated anew"
                    );
                    let _ = self.ike.handle_command(now, Command::Terminate(id, true));
                }
            }
            // Authentic, and the newest of its SA: the core knows whether that moves the peer.
            DataplaneEvent::PeerMoved { inbound, from: _, to } => {
                if let Some(child) = self.children.get(inbound) {
                    tracing::debug!("ESP of {:?} now comes from {to}", child.tunnel);
                    let _ = self.ike.handle_command(now, Command::PeerSeen(child.tunnel, to));
                }
            }
            DataplaneEvent::Trigger { tunnel } => {
                // Of several CHILD SAs the one for this packet may be missing; nothing happens where none is.
                if self.tunnels.get(&tunnel).is_some_and(|t| t.ike.is_some()) {
                    let _ = self.ike.handle_command(now, Command::Initiate(tunnel));
                }
                self.gateway.handle(now, Input::Traffic(tunnel));
            }
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

    fn complain(&self, inbound: Spi, what: &str, error: &dyn std::fmt::Display) {
        match self.children.get(inbound).and_then(|child| self.tunnels.get(&child.tunnel)) {
            Some(t) => {
                tracing::error!(connection = t.connection, tunnel = t.name, "{what} (in {inbound}): {error}")
            }
            None => tracing::error!("{what} (in {inbound}): {error}"),
        }
    }
}

fn loss(reason: DownReason) -> Loss {
    match reason {
        DownReason::PeerDeleted | DownReason::Expired | DownReason::AddressChanged => Loss::PeerClosed,
        DownReason::LivenessTimeout => Loss::PeerDead,
        DownReason::Replaced | DownReason::LocalRequest => Loss::Local,
        _ => Loss::Failed,
    }
}
