//! Commands of the endpoint's owner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_types::TunnelId;

use super::{AnySa, Endpoint};
use crate::v2::Sa;
use crate::v2::init::InitSent;
use crate::v2::sa::{Attempt, Task};
use crate::{CheckId, Command, CommandError, DownReason, PeerConfig};

impl Endpoint {
    pub(super) fn command(&mut self, now: Instant, command: Command) -> Result<(), CommandError> {
        match command {
            Command::AddPeer(tunnel, config) => {
                config.check()?;
                if config.v1.is_some() {
                    crate::v1::warn(&config.name);
                }
                for id in self.clients.of(tunnel) {
                    let Some(client) = self.clients.get(id) else { continue };
                    self.peers.add_client(id, super::instance(&config, &client.identity, client.number));
                }
                self.peers.add(tunnel, *config);
            }
            Command::RemovePeer(tunnel) => {
                self.known(tunnel)?;
                self.terminate(now, tunnel, true);
                self.peers.remove(tunnel);
            }
            Command::Initiate(tunnel) => self.initiate(now, tunnel)?,
            Command::Terminate(tunnel, tell) => {
                self.known(tunnel)?;
                self.terminate(now, tunnel, tell);
            }
            Command::RekeyChild(spi) => {
                let unknown = CommandError::UnknownSpi(spi);
                let owner = self.spis.owner(spi).ok_or(unknown)?;
                if self.rekey_child_v1(now, owner, spi) {
                    return Ok(());
                }
                let has = self.up(owner).is_some_and(|sa| sa.children.iter().any(|c| c.inbound == spi));
                if !has {
                    return Err(unknown);
                }
                self.queue(now, owner, Task::RekeyChild(spi, Attempt::default()));
            }
            Command::AddResource(tunnel, purpose) => {
                let current = self.current(tunnel)?;
                if !self.peers.get(tunnel).is_some_and(|config| config.exchange.may_ask(purpose)) {
                    return Err(CommandError::Purpose(tunnel, purpose));
                }
                let mut there = false;
                self.step_up(now, current, |mut sa, ctx| {
                    there = sa.ask_beside(purpose);
                    sa.send_next(ctx);
                    Some(Sa::Up(sa))
                });
                return if there { Ok(()) } else { Err(CommandError::NotUp(tunnel)) };
            }
            Command::Reselect(tunnel) => {
                self.known(tunnel)?;
                for id in self.clients.of(tunnel).into_iter().chain([tunnel]) {
                    self.reselect(now, id);
                }
            }
            Command::DeleteChild(spi) => {
                let owner = self.spis.owner(spi).ok_or(CommandError::UnknownSpi(spi))?;
                self.step_up(now, owner, |mut sa, ctx| {
                    sa.delete(spi, DownReason::LocalRequest);
                    sa.send_next(ctx);
                    Some(Sa::Up(sa))
                });
            }
            Command::RekeyIke(tunnel) => {
                let current = self.current(tunnel)?;
                if self.clients_to_renew_v1(tunnel) {
                    return Err(CommandError::ClientsPart(tunnel));
                }
                if self.up_v1(current).is_some() {
                    self.renew_v1(now, tunnel);
                    return Ok(());
                }
                self.queue(now, current, Task::RekeyIke(Attempt::default()));
            }
            Command::Reauthenticate(tunnel) => {
                self.current(tunnel)?;
                if self.peers.get(tunnel).is_some_and(|c| c.remote.is_none()) {
                    return Err(CommandError::NoRemote(tunnel));
                }
                self.reauthenticate(now, tunnel);
            }
            Command::CheckLiveness(tunnel) => {
                let current = self.current(tunnel)?;
                self.step_up_v1(now, current, crate::v1::sa::IkeSa::ask);
                // Any request asks the same; one that already waits will tell.
                if self.up(current).is_some_and(|sa| sa.window.free().is_some()) {
                    self.queue(now, current, Task::Liveness);
                }
            }
            Command::CertificateChecked(CheckId { sa, number }, verdict) => {
                // An IKE SA that is gone meanwhile needs no verdict.
                self.step(now, sa, |sa, ctx| sa.on_checked(ctx, number, verdict));
            }
            Command::Heard(tunnel) => self.heard(now, tunnel)?,
            Command::PeerSeen(tunnel, remote) => self.peer_seen(now, tunnel, remote)?,
            Command::Addresses(addresses) => self.addresses(now, addresses),
            Command::Relocate(tunnel, local) => self.relocate(now, tunnel, local)?,
            Command::EapAnswered(CheckId { sa, number }, note) => {
                self.step_v2(now, sa, |sa, ctx| sa.on_eap_answered(ctx, number, &note));
            }
            Command::Trace(open) => self.tap.open_messages(open),
            Command::Shutdown => self.shut_down(now),
        }
        Ok(())
    }

    pub(super) fn known(&self, tunnel: TunnelId) -> Result<(), CommandError> {
        self.peers.get(tunnel).map(|_| ()).ok_or(CommandError::UnknownTunnel(tunnel))
    }

    pub(super) fn current(&self, tunnel: TunnelId) -> Result<u64, CommandError> {
        self.known(tunnel)?;
        self.tunnels.get(&tunnel).and_then(|t| t.current).ok_or(CommandError::NotUp(tunnel))
    }

    pub(super) fn queue(&mut self, now: Instant, key: u64, task: Task) {
        self.step_up(now, key, |mut sa, ctx| {
            sa.queue(task);
            sa.send_next(ctx);
            Some(Sa::Up(sa))
        });
    }

    pub(super) fn initiate(&mut self, now: Instant, tunnel: TunnelId) -> Result<(), CommandError> {
        let config = Arc::clone(self.peers.get(tunnel).ok_or(CommandError::UnknownTunnel(tunnel))?);
        let remote = config.remote.ok_or(CommandError::NoRemote(tunnel))?;
        let current = self.tunnels.get(&tunnel).and_then(|t| t.current);
        // A tunnel whose version was changed goes over with the next negotiation.
        let serves_v1 = current.is_some_and(|key| self.up_v1(key).is_some());
        if serves_v1 || (config.v1.is_some() && current.is_none()) {
            self.initiate_v1(now, tunnel, config, remote);
            return Ok(());
        }
        let entry = self.tunnels.entry(tunnel).or_default();
        if let Some(current) = entry.current {
            self.step_up(now, current, |mut sa, ctx| {
                sa.refresh_config(ctx);
                sa.queue_missing(true);
                sa.send_next(ctx);
                Some(Sa::Up(sa))
            });
            return Ok(());
        }
        self.open_tunnel(now, tunnel, config, remote, false);
        Ok(())
    }

    /// Has a tunnel's CHILD SAs follow its networks.
    fn reselect(&mut self, now: Instant, tunnel: TunnelId) {
        let Some(current) = self.tunnels.get(&tunnel).and_then(|t| t.current) else { return };
        self.step_up_v1(now, current, crate::v1::sa::IkeSa::reselect);
        self.step_up(now, current, |mut sa, ctx| {
            sa.refresh_config(ctx);
            sa.reselect();
            sa.send_next(ctx);
            Some(Sa::Up(sa))
        });
    }

    /// Authenticates anew beside the IKE SA that stands, if one stands and the peer's address is known.
    pub(super) fn reauthenticate(&mut self, now: Instant, tunnel: TunnelId) {
        let Some(config) = self.peers.get(tunnel).map(Arc::clone) else { return };
        if let Some(remote) = config.remote.filter(|_| config.v1.is_none()) {
            self.open_tunnel(now, tunnel, config, remote, true);
        }
    }

    /// Opens a negotiation, unless one is on its way. `beside`: though the tunnel has an IKE SA.
    fn open_tunnel(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        remote: SocketAddr,
        beside: bool,
    ) {
        let all = self.tunnels.get(&tunnel).map(|t| t.all.clone()).unwrap_or_default();
        let on_its_way = |key: &u64| {
            matches!(
                self.sas.get(key),
                Some(AnySa::V2(Sa::InitSent(_) | Sa::Intermediate(_) | Sa::Proving(_) | Sa::AuthSent(_)))
            )
        };
        if all.iter().any(on_its_way) {
            return;
        }
        if let Some(state) = self.with_ctx(now, |ctx| InitSent::start(ctx, tunnel, config, remote, beside)) {
            self.settle(state.spi(), None, Some(AnySa::V2(Sa::InitSent(state))));
        }
    }

    fn terminate(&mut self, now: Instant, tunnel: TunnelId, tell: bool) {
        for client in self.clients.of(tunnel) {
            self.terminate(now, client, tell);
        }
        let all = self.tunnels.get(&tunnel).map(|t| t.all.clone()).unwrap_or_default();
        for key in all {
            self.terminate_v1(now, key, tell);
            self.step_v2(now, key, |sa, ctx| match sa {
                Sa::Up(mut sa) if tell => {
                    sa.close(ctx, DownReason::LocalRequest);
                    Some(Sa::Up(sa))
                }
                Sa::Up(sa) => {
                    sa.leave(ctx, DownReason::LocalRequest);
                    None
                }
                Sa::AuthSent(state) => {
                    state.forget(ctx);
                    None
                }
                Sa::InitSent(_) | Sa::Intermediate(_) | Sa::Proving(_) => None,
                other => Some(other),
            });
        }
    }

    fn shut_down(&mut self, now: Instant) {
        let all: Vec<u64> = self.sas.keys().copied().collect();
        for key in all {
            self.terminate_v1(now, key, true);
            self.step_v2(now, key, |sa, ctx| {
                match sa {
                    Sa::Up(sa) => sa.farewell(ctx),
                    Sa::AuthSent(state) => state.forget(ctx),
                    _ => {}
                }
                None
            });
        }
        self.shut_down = true;
    }
}
