//! What the endpoint does for IKEv1: which SA a message is for, new ones under the same limits as IKEv2's, and what one
//! SA's step means for the tunnel's others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_types::{Spi, TunnelId};

use super::guard::Admission;
use super::{AnySa, Endpoint};
use crate::ctx::Ctx;
use crate::error::{Cause, Failure, Phase};
use crate::v1::aggressive::{self, AggressiveSent};
use crate::v1::child::Child;
use crate::v1::main_mode::{self, OfferSent};
use crate::v1::sa::{IkeSa, Task};
use crate::v1::{Arrival, Sa};
use crate::wire::v1::{Exchange, Fragment, HEADER_LEN, Header, kind};
use crate::{DownReason, Event, Output, PeerConfig, V1Mode};

impl Endpoint {
    /// Takes in one message of IKEv1.
    pub(super) fn on_v1(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) {
        if !self.peers.any_v1() && !self.sas.values().any(|sa| matches!(sa, AnySa::V1(_))) {
            // RFC 7296 2.5 lets an answer out; nobody here asks for IKEv1, so none is given.
            self.v1_refused += 1;
            tracing::debug!(%remote, "dropped an IKEv1 message: no tunnel has version = 1");
            return;
        }
        let (header, bytes) = match Header::parse(datagram) {
            Ok(parsed) => parsed,
            Err(e) => {
                tracing::debug!(%remote, "dropped a malformed message of {} bytes: {e}", datagram.len());
                return;
            }
        };
        let arrival = Arrival { local, remote, header, bytes };
        if header.cookie_r == 0 && !self.sas.contains_key(&header.cookie_i) {
            return self.on_v1_first(now, &arrival);
        }
        let Some(key) = self.find_v1(&header) else {
            tracing::debug!(%remote, "dropped a message for an unknown IKEv1 SA {:016x}", header.cookie_i);
            return;
        };
        if header.next != kind::FRAGMENT {
            return self.step_v1(now, key, |sa, ctx| sa.on_datagram(ctx, &arrival));
        }
        let piece = Fragment::parse(bytes.get(HEADER_LEN..).unwrap_or_default());
        let whole = piece.ok().and_then(|piece| self.fragments.add(now, key, &piece));
        let Some(whole) = whole else { return };
        match Header::parse(&whole) {
            // A message of the same SA, and no fragment again.
            Ok((header, bytes)) if header.next != kind::FRAGMENT && self.find_v1(&header) == Some(key) => {
                let arrival = Arrival { local, remote, header, bytes };
                self.step_v1(now, key, |sa, ctx| sa.on_datagram(ctx, &arrival));
            }
            _ => tracing::debug!(%remote, "dropped fragments that make no message of this SA"),
        }
    }

    /// The SA that a message is for: it names both cookies, ours by the role in which we have it.
    fn find_v1(&self, header: &Header) -> Option<u64> {
        let is = |key: &u64, initiator: bool| match self.sas.get(key) {
            Some(AnySa::V1(sa)) if sa.initiator() == initiator => {
                let (cookie_i, cookie_r) = sa.cookies();
                cookie_i == header.cookie_i && (cookie_r == header.cookie_r || cookie_r == 0)
            }
            _ => false,
        };
        if is(&header.cookie_r, false) {
            Some(header.cookie_r)
        } else if (header.cookie_r != 0 || header.exchange == Exchange::Informational)
            && is(&header.cookie_i, true)
        {
            // Our own first message, reflected, has no responder's cookie; nor have some refusals of it.
            Some(header.cookie_i)
        } else {
            None
        }
    }

    fn on_v1_first(&mut self, now: Instant, arrival: &Arrival<'_>) {
        let Arrival { local, remote, header, .. } = *arrival;
        if let Some(key) = self.half_opens.find((remote, header.cookie_i)) {
            return self.step_v1(now, key, |sa, ctx| sa.on_datagram(ctx, arrival));
        }
        let aggressive = header.exchange == Exchange::Aggressive;
        if !(aggressive || header.exchange == Exchange::Main)
            || header.message_id != 0
            || header.flags.encrypted
        {
            tracing::debug!(%remote, "dropped a first message of exchange {:?}", header.exchange);
            return;
        }
        let mut candidates = self.peers.candidates(local.ip(), remote.ip());
        candidates.retain(|(_, c)| c.v1.is_some());
        if candidates.is_empty() {
            self.v1_refused += 1;
            let cause = Cause::UnknownAddress { local: local.ip(), remote: remote.ip() };
            let failure = Failure::new(None, &remote.ip().to_string(), Phase::MainMode, cause);
            return self.with_ctx(now, |ctx| ctx.stranger_failed(failure));
        }
        // IKEv1 has no stateless cookies: below the hard limits everybody is admitted.
        // IKEv1 has no cookies that cost nothing to make: at the limit nobody comes in.
        if self.half_opens.len() >= self.config.half_open_limit
            || self.half_opens.admission(&self.config, remote.ip()) == Admission::Drop
        {
            tracing::debug!(%remote, "too many half-open IKE SAs: dropped a first message of IKEv1");
            return;
        }
        if aggressive {
            let answered = self.with_ctx(now, |ctx| aggressive::respond(ctx, arrival, &candidates));
            if let Some(sa) = answered {
                let (_, key) = sa.cookies();
                self.half_opens.insert(key, (remote, header.cookie_i));
                self.settle(key, None, Some(AnySa::V1(sa)));
            }
            return;
        }
        let answered = self.with_ctx(now, |ctx| main_mode::respond(ctx, arrival, &candidates));
        if let Some(state) = answered {
            let key = state.opening.key();
            self.half_opens.insert(key, (state.source, header.cookie_i));
            self.settle(key, None, Some(AnySa::V1(Sa::OfferAnswered(state))));
        }
    }

    /// A step of an SA of IKEv1; nothing for others.
    pub(super) fn step_v1(
        &mut self,
        now: Instant,
        key: u64,
        act: impl FnOnce(Sa, &mut Ctx<'_>) -> Option<Sa>,
    ) {
        self.step(now, key, |sa, ctx| match sa {
            AnySa::V1(sa) => act(sa, ctx).map(AnySa::V1),
            other @ AnySa::V2(_) => Some(other),
        });
    }

    /// A step of an SA of IKEv1 that is up; nothing for others.
    pub(super) fn step_up_v1(&mut self, now: Instant, key: u64, act: impl FnOnce(&mut IkeSa, &mut Ctx<'_>)) {
        self.step_v1(now, key, |sa, ctx| match sa {
            Sa::Up(mut sa) => {
                act(&mut sa, ctx);
                sa.go_on(ctx);
                Some(Sa::Up(sa))
            }
            other => Some(other),
        });
    }

    /// An SA of IKEv1 that is up.
    pub(super) fn up_v1(&self, key: u64) -> Option<&IkeSa> {
        match self.sas.get(&key) {
            Some(AnySa::V1(Sa::Up(sa))) => Some(sa),
            _ => None,
        }
    }

    fn current_v1(&self, tunnel: TunnelId) -> Option<u64> {
        self.tunnels.get(&tunnel)?.current.filter(|key| self.up_v1(*key).is_some())
    }

    fn all_v1(&self, tunnel: TunnelId) -> Vec<u64> {
        let all = self.tunnels.get(&tunnel).map(|t| t.all.clone()).unwrap_or_default();
        all.into_iter().filter(|key| matches!(self.sas.get(key), Some(AnySa::V1(_)))).collect()
    }

    fn opening_v1(&self, tunnel: TunnelId) -> bool {
        let all = self.all_v1(tunnel);
        all.iter().any(|key| matches!(self.sas.get(key), Some(AnySa::V1(sa)) if sa.opens()))
    }

    /// Brings a tunnel of IKEv1 up, or what it lacks.
    pub(super) fn initiate_v1(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        remote: SocketAddr,
    ) {
        if let Some(current) = self.current_v1(tunnel) {
            return self.step_up_v1(now, current, |sa, _| sa.queue_missing());
        }
        if !self.opening_v1(tunnel) {
            let local = config.local;
            self.open_v1(now, tunnel, config, (local, remote), false);
        }
    }

    fn open_v1(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        ends: (SocketAddr, SocketAddr),
        rekeys: bool,
    ) {
        if config.v1.as_ref().is_some_and(|v1| v1.mode == V1Mode::Aggressive) {
            let state = self.with_ctx(now, |ctx| AggressiveSent::start(ctx, tunnel, config, ends, rekeys));
            if let Some(state) = state {
                self.settle(state.opening.key(), None, Some(AnySa::V1(Sa::AggressiveSent(state))));
            }
            return;
        }
        let state = self.with_ctx(now, |ctx| OfferSent::start(ctx, tunnel, config, ends, rekeys));
        if let Some(state) = state {
            self.settle(state.opening.key(), None, Some(AnySa::V1(Sa::OfferSent(state))));
        }
    }

    /// Replaces the phase 1 of a tunnel by another one.
    pub(super) fn renew_v1(&mut self, now: Instant, tunnel: TunnelId) {
        let Some(config) = self.peers.get(tunnel).filter(|c| c.v1.is_some()).map(Arc::clone) else { return };
        let Some(ends) = self.current_v1(tunnel).and_then(|key| self.up_v1(key)).map(IkeSa::ends) else {
            return;
        };
        if !self.opening_v1(tunnel) && !self.clients_to_renew_v1(tunnel) {
            self.open_v1(now, tunnel, config, ends, true);
        }
    }

    /// Whether the next phase 1 of a tunnel is the peer's to open: a client of XAuth that is called does not take its
    /// children along (strongSwan), or does not answer at all.
    pub(super) fn clients_to_renew_v1(&self, tunnel: TunnelId) -> bool {
        let serving = self.current_v1(tunnel).and_then(|key| self.up_v1(key));
        serving.is_some_and(|sa| !sa.initiator && sa.asks_for_users())
    }

    /// A phase 1 has ended well: the tunnel's children go on with it.
    pub(super) fn established_v1(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        key: u64,
        initial_contact: bool,
        rekeys: bool,
    ) {
        let entry = self.tunnels.entry(tunnel).or_default();
        let others: Vec<u64> = entry.all.iter().copied().filter(|k| *k != key).collect();
        let had = entry.current;
        entry.current = Some(key);
        let Some(info) = self.up_v1(key).map(|sa| sa.info(now)) else { return };
        let event = match had {
            Some(_) => Event::IkeRekeyed { tunnel, info },
            None => Event::IkeUp { tunnel, info },
        };
        self.outputs.push_back(Output::Event(event));
        // Children for an inner address that is another now.
        let mut stranded = false;
        for other in others {
            if self.up(other).is_some() {
                self.step_up(now, other, |mut sa, ctx| {
                    sa.close(ctx, DownReason::Replaced);
                    Some(crate::v2::Sa::Up(sa))
                });
                continue;
            }
            let Some(old) = self.up_v1(other).filter(|sa| sa.serves()) else { continue };
            let Some(new) = self.up_v1(key) else { return };
            // RFC 2407 4.6.3.3: the peer knows no other SA with us: it has lost this one. Both sides say so when both
            // open the first at the same time.
            let together = new.initiator != old.initiator
                && new.started <= old.established
                && old.started <= new.established;
            if initial_contact && !together {
                self.step_v1(now, other, |sa, ctx| {
                    if let Sa::Up(sa) = sa {
                        sa.leave(ctx, DownReason::Replaced);
                    }
                    None
                });
                continue;
            }
            let new_stays = !together || new.lowest_nonce > old.lowest_nonce;
            let (stays, goes) = if new_stays { (key, other) } else { (other, key) };
            let delete = self.up_v1(goes).is_some_and(|sa| if together { sa.initiator } else { rekeys });
            let moved =
                new.addresses.ours != old.addresses.ours || new.addresses.theirs != old.addresses.theirs;
            stranded |= moved;
            let mut children = Vec::new();
            self.step_up_v1(now, goes, |sa, ctx| {
                if moved {
                    sa.drop_children(ctx, DownReason::Replaced);
                }
                children = std::mem::take(&mut sa.children);
                sa.supersede(ctx.now, delete);
            });
            self.adopt_v1(now, tunnel, stays, children);
            if !new_stays {
                self.make_current_v1(now, tunnel, stays);
            }
        }
        let current = self.current_v1(tunnel);
        if let Some(current) = current.filter(|_| had.is_some()) {
            match self.up_v1(current).is_some_and(|sa| sa.known) {
                true => self.known_v1(now, tunnel, current),
                // Its answer tells.
                false => self.step_up_v1(now, current, IkeSa::ask),
            }
        }
        if let Some(current) =
            current.filter(|c| self.up_v1(*c).is_some_and(|sa| sa.initiator && (!rekeys || stranded)))
        {
            self.step_up_v1(now, current, |sa, _| sa.queue_missing());
        }
    }

    /// The peer has shown that it has this SA: those whose place it took are of no use any more.
    pub(super) fn known_v1(&mut self, now: Instant, tunnel: TunnelId, key: u64) {
        if self.current_v1(tunnel) == Some(key) {
            for other in self.all_v1(tunnel).into_iter().filter(|other| *other != key) {
                self.step_up_v1(now, other, |sa, ctx| sa.successor_known(ctx.now));
            }
        }
    }

    pub(super) fn make_current_v1(&mut self, now: Instant, tunnel: TunnelId, key: u64) {
        self.tunnels.entry(tunnel).or_default().current = Some(key);
        if let Some(info) = self.up_v1(key).map(|sa| sa.info(now)) {
            self.outputs.push_back(Output::Event(Event::IkeRekeyed { tunnel, info }));
        }
    }

    /// The tunnel went over to IKEv2.
    pub(super) fn replace_v1(&mut self, now: Instant, key: u64) {
        self.step_v1(now, key, |sa, ctx| {
            if let Sa::Up(sa) = sa {
                sa.farewell(ctx, DownReason::Replaced);
            }
            None
        });
    }

    /// Takes an SA down on request; with `tell` the peer hears of it.
    pub(super) fn terminate_v1(&mut self, now: Instant, key: u64, tell: bool) {
        self.step_v1(now, key, |sa, ctx| {
            match sa {
                Sa::Up(sa) if tell => sa.farewell(ctx, DownReason::LocalRequest),
                Sa::Up(sa) => sa.leave(ctx, DownReason::LocalRequest),
                _ => {}
            }
            None
        });
    }

    /// A client that believes that all is well before it was asked.
    #[cfg(test)]
    pub(crate) fn skip_xauth(&mut self, tunnel: TunnelId) {
        for key in self.all_v1(tunnel) {
            if let Some(AnySa::V1(Sa::Up(sa))) = self.sas.get_mut(&key) {
                sa.life = crate::v1::sa::Life::Serving;
                self.tunnels.entry(tunnel).or_default().current = Some(key);
            }
        }
    }

    /// The same, as far as its address.
    #[cfg(test)]
    pub(crate) fn skip_to_mode_config(&mut self, now: Instant, tunnel: TunnelId) {
        for key in self.all_v1(tunnel) {
            self.step_up_v1(now, key, |sa, ctx| sa.authenticated(ctx));
        }
    }

    /// Addresses that are handed out.
    #[cfg(test)]
    pub(crate) fn leased(&self) -> usize {
        self.leases.len()
    }

    /// Somebody else has these addresses.
    #[cfg(test)]
    pub(crate) fn take_leases(&mut self, addresses: &[std::net::IpAddr]) {
        for (n, address) in addresses.iter().enumerate() {
            let pool = crate::Pool { nets: vec![(*address).into()], ..crate::Pool::default() };
            let holder = crate::Identity::KeyId(vec![n as u8]);
            self.leases.assign(&pool, &holder, address.is_ipv6(), None, u64::MAX);
        }
    }

    /// Rekeys a child by its inbound SPI; `false` if it is not there.
    pub(super) fn rekey_child_v1(&mut self, now: Instant, owner: u64, inbound: Spi) -> bool {
        let found = self.up_v1(owner).and_then(|sa| sa.children.iter().find(|c| c.inbound == inbound));
        let Some(pair) = found.map(|c| c.pair.clone()) else { return false };
        self.step_up_v1(now, owner, |sa, _| sa.queue(Task::Quick(pair, Some(inbound))));
        true
    }

    fn adopt_v1(&mut self, now: Instant, tunnel: TunnelId, to: u64, children: Vec<Child>) {
        if self.up_v1(to).is_some() {
            return self.step_up_v1(now, to, |sa, ctx| sa.adopt(ctx, children));
        }
        for child in children {
            self.spis.release(child.inbound);
            let (inbound, outbound) = (child.inbound, child.outbound);
            let (drain, reason) = (std::time::Duration::ZERO, DownReason::PeerDeleted);
            self.outputs.push_back(Output::Event(Event::ChildDown {
                tunnel,
                inbound,
                outbound,
                drain,
                reason,
            }));
        }
    }

    /// A child that came to an end on an SA that no longer serves goes to the one that does.
    pub(super) fn adopt_late_v1(&mut self, now: Instant, tunnel: TunnelId, from: u64, children: Vec<Child>) {
        match self.current_v1(tunnel).filter(|to| *to != from) {
            Some(to) => self.step_up_v1(now, to, |sa, ctx| {
                children.into_iter().for_each(|child| sa.adopt_late(ctx, child));
            }),
            None => self.adopt_v1(now, tunnel, from, children),
        }
    }

    /// Something about a child that its own SA no longer has: the tunnel's current one does.
    pub(super) fn of_current_v1(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        act: impl FnOnce(&mut IkeSa, &mut Ctx<'_>),
    ) {
        if let Some(current) = self.current_v1(tunnel) {
            self.step_up_v1(now, current, act);
        }
    }

    pub(super) fn confirm_v1(&mut self, now: Instant, tunnel: TunnelId, inbound: Spi) {
        self.of_current_v1(now, tunnel, |sa, ctx| sa.confirm(ctx, inbound));
    }

    pub(super) fn delete_late_v1(&mut self, now: Instant, tunnel: TunnelId, outbound: u32) {
        self.of_current_v1(now, tunnel, |sa, ctx| {
            let found = sa.children.iter().find(|c| c.outbound.value() == outbound).map(|c| c.inbound);
            if let Some(inbound) = found {
                sa.drop_child(ctx, inbound, DownReason::PeerDeleted);
            }
        });
    }
}
