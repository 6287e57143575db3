//! What one IKE SA's step means for the tunnel's others: replacement, adoption, two that met.

use std::time::Instant;

use culvert_types::TunnelId;

use super::{AnySa, Endpoint};
use crate::v2::Sa;
use crate::v2::ctx::{Ctx, Effect};
use crate::v2::sa::IkeSa;
use crate::{DownReason, Event, Output, Unique};

impl Endpoint {
    pub(super) fn apply(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::Established { tunnel, key, initial_contact } => {
                self.established(now, tunnel, key, initial_contact);
            }
            Effect::Client { tunnel, config } => self.peers.add_client(tunnel, config),
            Effect::Spawn(sa) => {
                let key = sa.key();
                self.settle(key, None, Some(AnySa::V2(Sa::Up(sa))));
                self.step_up(now, key, |mut sa, ctx| {
                    sa.send_next(ctx);
                    Some(Sa::Up(sa))
                });
            }
            Effect::Adopt { tunnel, from, to, children, tasks } => {
                if self.up(to).is_none() {
                    // The peer deleted it before it could serve: nothing carries the children any more.
                    for child in children {
                        self.spis.release(child.inbound);
                        let (inbound, outbound) = (child.inbound, child.outbound);
                        let (drain, reason) = (std::time::Duration::ZERO, DownReason::PeerDeleted);
                        let event = Event::ChildDown { tunnel, inbound, outbound, drain, reason };
                        self.outputs.push_back(Output::Event(event));
                    }
                    return self.left(now, tunnel, from, DownReason::PeerDeleted);
                }
                let entry = self.tunnels.entry(tunnel).or_default();
                let was_current = entry.current == Some(from) || entry.current.is_none();
                self.step_up(now, to, |mut sa, ctx| {
                    sa.promote(ctx);
                    sa.adopt(ctx, children, tasks);
                    Some(Sa::Up(sa))
                });
                if was_current && self.up(to).is_some_and(IkeSa::serves) {
                    self.make_current(now, tunnel, to);
                }
                self.step_up(now, to, |mut sa, ctx| {
                    sa.send_next(ctx);
                    Some(Sa::Up(sa))
                });
            }
            Effect::EstablishedV1 { tunnel, key, initial_contact, rekeys } => {
                self.established_v1(now, tunnel, key, initial_contact, rekeys);
            }
            Effect::KnownV1 { tunnel, key } => self.known_v1(now, tunnel, key),
            Effect::RenewV1 { tunnel } => self.renew_v1(now, tunnel),
            Effect::AdoptV1 { tunnel, from, children } => self.adopt_late_v1(now, tunnel, from, children),
            Effect::ConfirmV1 { tunnel, inbound } => self.confirm_v1(now, tunnel, inbound),
            Effect::DeleteV1 { tunnel, outbound } => self.delete_late_v1(now, tunnel, outbound),
            Effect::Reauthenticate { tunnel } => self.reauthenticate(now, tunnel),
            Effect::Left { tunnel, key, reason } => self.left(now, tunnel, key, reason),
        }
    }

    /// An IKE SA that is up.
    pub(super) fn up(&self, key: u64) -> Option<&IkeSa> {
        match self.sas.get(&key) {
            Some(AnySa::V2(Sa::Up(sa))) => Some(sa),
            _ => None,
        }
    }

    /// A step of an IKE SA that is up; nothing for others.
    pub(super) fn step_up(
        &mut self,
        now: Instant,
        key: u64,
        act: impl FnOnce(Box<IkeSa>, &mut Ctx<'_>) -> Option<Sa>,
    ) {
        self.step_v2(now, key, |sa, ctx| match sa {
            Sa::Up(sa) => act(sa, ctx),
            other => Some(other),
        });
    }

    /// Puts a task to the tunnel's IKE SA that no command asks for, as the peer's side might.
    #[cfg(test)]
    pub(crate) fn task(&mut self, now: Instant, tunnel: TunnelId, act: impl FnOnce(&mut IkeSa)) {
        let Some(current) = self.tunnels.get(&tunnel).and_then(|entry| entry.current) else { return };
        self.step_up(now, current, |mut sa, ctx| {
            act(&mut sa);
            sa.send_next(ctx);
            Some(Sa::Up(sa))
        });
    }

    /// A message on the tunnel's IKE SA, established or authenticating, with any text where its payloads should be;
    /// `response` answers the request of the peer with this message id.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn craft(
        &mut self,
        tunnel: TunnelId,
        exchange: u8,
        response: Option<u32>,
        (first, text): (u8, &[u8]),
    ) -> Option<Vec<u8>> {
        let exchange = crate::wire::Exchange::from_wire(exchange);
        let keys = self.tunnels.get(&tunnel)?.all.clone();
        keys.into_iter().find_map(|key| match self.sas.get_mut(&key)? {
            AnySa::V2(Sa::Up(sa)) => {
                let id = response.unwrap_or(sa.window.next_id());
                let header = sa.header(exchange, response.is_some(), id);
                Some(sa.protection.seal_raw(&header, first, text))
            }
            AnySa::V2(Sa::AuthSent(state)) => {
                let handshake = &mut state.handshake;
                let flags = crate::wire::Flags { initiator: true, response: false };
                let (spi_i, spi_r) = (handshake.spi_i, handshake.spi_r);
                let header = crate::wire::Header { spi_i, spi_r, next: 0, exchange, flags, message_id: 1 };
                Some(handshake.protection.seal_raw(&header, first, text))
            }
            _ => None,
        })
    }

    /// As [`craft`](Self::craft), on an IKEv1 SA that is up: a message of phase 2 whose hash fits any payloads.
    #[cfg(feature = "testing")]
    pub(crate) fn craft_v1(
        &mut self,
        tunnel: TunnelId,
        exchange: u8,
        id: u32,
        (first, text): (u8, &[u8]),
    ) -> Option<Vec<u8>> {
        let exchange = crate::wire::v1::Exchange::from_wire(exchange);
        let keys = self.tunnels.get(&tunnel)?.all.clone();
        keys.into_iter().find_map(|key| Some(self.up_v1(key)?.craft(exchange, id, first, text)))
    }

    fn make_current(&mut self, now: Instant, tunnel: TunnelId, key: u64) {
        self.tunnels.entry(tunnel).or_default().current = Some(key);
        if let Some(info) = self.up(key).map(|sa| sa.info(now)) {
            self.outputs.push_back(Output::Event(Event::IkeRekeyed { tunnel, info }));
        }
    }

    /// An IKE SA serves its tunnel no more: another one does, or the tunnel is down.
    fn left(&mut self, now: Instant, tunnel: TunnelId, key: u64, reason: DownReason) {
        let Some(entry) = self.tunnels.get_mut(&tunnel).filter(|e| e.current == Some(key)) else { return };
        entry.current = None;
        let others = entry.all.clone();
        let mut rest = others.iter().copied().filter(|k| *k != key);
        if let Some(next) = rest.clone().find(|k| self.up_v1(*k).is_some_and(crate::v1::sa::IkeSa::serves)) {
            return self.make_current_v1(now, tunnel, next);
        }
        let next = rest.find(|k| self.up(*k).is_some_and(IkeSa::serves));
        match next {
            Some(next) => self.make_current(now, tunnel, next),
            None => {
                // What still hangs on IKE SAs that serve no more, and wait for their end, does not outlive the tunnel.
                for other in others {
                    self.step_up(now, other, |mut sa, ctx| {
                        sa.drop_children(ctx, reason);
                        Some(Sa::Up(sa))
                    });
                }
                let gone = self.tunnels.get(&tunnel).is_some_and(|e| e.all.is_empty());
                self.outputs.push_back(Output::Event(Event::IkeDown { tunnel, reason }));
                if gone {
                    self.tunnels.remove(&tunnel);
                    self.client_gone(tunnel);
                }
            }
        }
    }

    /// A tunnel has no IKE SA any more: if it was a client's, that is all of it.
    pub(super) fn client_gone(&mut self, tunnel: TunnelId) {
        if self.clients.remove(tunnel).is_some() {
            self.peers.remove(tunnel);
            self.outputs.push_back(Output::Event(Event::ClientGone { tunnel }));
        }
    }

    /// A new IKE SA authenticated: a tunnel has one.
    fn established(&mut self, now: Instant, tunnel: TunnelId, key: u64, initial_contact: bool) {
        let never = self.peers.get(tunnel).is_some_and(|c| c.session.unique == Unique::Never);
        let entry = self.tunnels.entry(tunnel).or_default();
        let others: Vec<u64> = entry.all.iter().copied().filter(|k| *k != key).collect();
        entry.current = Some(key);
        let ours = self.up(key).is_some_and(|sa| sa.initiator);
        for other in others {
            if self.up_v1(other).is_some() {
                self.replace_v1(now, other);
                continue;
            }
            let Some(old) = self.up(other).filter(|sa| sa.serves()) else { continue };
            match self.up(key).and_then(|new| opened_together(new, old)) {
                Some(new_stays) => {
                    let (stays, goes) = if new_stays { (key, other) } else { (other, key) };
                    if !new_stays {
                        self.make_current(now, tunnel, stays);
                    }
                    if !new_stays {
                        self.step_up(now, stays, |sa, ctx| {
                            sa.use_children(ctx);
                            Some(Sa::Up(sa))
                        });
                    }
                    self.step_up(now, goes, |mut sa, ctx| {
                        // As with rekeying: who opened the one that goes deletes it. The other one was opened by the
                        // peer, which may not have our answer yet, and would be without any.
                        if sa.initiator {
                            sa.close_later(ctx.now);
                        } else {
                            sa.supersede(ctx.now);
                        }
                        Some(Sa::Up(sa))
                    });
                }
                // RFC 7296 2.4: the peer knows no other IKE SA with us: it has lost this one.
                None if initial_contact && !never => self.step_up(now, other, |sa, ctx| {
                    sa.leave(ctx, DownReason::Replaced);
                    None
                }),
                None => self.step_up(now, other, |mut sa, ctx| {
                    if initial_contact || ours {
                        sa.close(ctx, DownReason::Replaced);
                    } else {
                        // The peer knows both: it authenticates anew, and uses the old one until it has our answer.
                        sa.close_later(ctx.now);
                    }
                    Some(Sa::Up(sa))
                }),
            }
        }
    }
}

/// Whether both sides opened one of these at the same time, and if so whether the new one stays: the one with the
/// lowest nonce goes, which both sides see alike.
fn opened_together(new: &IkeSa, old: &IkeSa) -> Option<bool> {
    let (a, b) = (new.origin.as_ref()?, old.origin.as_ref()?);
    let together = new.initiator != old.initiator && a.started <= b.established && b.started <= a.established;
    together.then(|| a.lowest_nonce > b.lowest_nonce)
}
