//! An established ISAKMP SA: its exchanges of phase 2, its children, its clocks.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_crypto::SuiteKeys;
use culvert_types::{Spi, TrafficSelector, TunnelId};

use super::child::{Child, Pair, State, pairs};
use super::clock::Probe;
use super::keys::Keys;
use super::phase1::{Exchanged, Proven};
use super::quick::{Quick, Waiting};
use super::transaction::Transaction;
use super::vendor::Vendor;
use super::{Arrival, Sa, fragment, method};
use crate::ctx::{Ctx, Effect, Path, log};
use crate::error::{Cause, Failure, Phase};
use crate::event::IkeInfo;
use crate::wire::v1::{Body, Chain, Exchange, Flags, Header, protocol};
use crate::{ChildSa, DownReason, EspSuite, Event, Identity, IkeSuite, PeerConfig, Virtual};

/// How long a replaced inbound SA still receives after it was taken down.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// How long a CHILD SA and its successor live side by side before we delete the old one.
pub(crate) const OVERLAP: Duration = Duration::from_secs(5);
/// When we delete a replaced CHILD SA although that is the peer's part: some peers leave it to its lifetime.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// How long an ISAKMP SA outlives its successor: exchanges in flight end, lost ones are repeated.
const SUPERSEDED_LIFETIME: Duration = Duration::from_secs(10);
/// The same where the peer opened the successor, and may not have it yet: it is never without any.
const SUPERSEDED_BY_PEER: Duration = Duration::from_secs(120);
/// And once it has shown that it has it. Some peers leave the old one to us, such as strongSwan.
const SUPERSEDED_AND_KNOWN: Duration = Duration::from_secs(5);
/// Message ids that an ISAKMP SA remembers; with as many it is replaced.
const MAX_SEEN: usize = 100_000;

/// What we mean to do, one quick mode after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// A CHILD SA for a pair of networks, in place of another or not.
    Quick(Pair, Option<Spi>),
}

/// How far an ISAKMP SA is through its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Phase 1 is over, a user is still to be authenticated: nothing else is done.
    Authenticating,
    /// All are authenticated, inner addresses are still to be settled: nothing else is done.
    Configuring,
    /// Serves its tunnel.
    Serving,
    /// Another one serves in its place. `true`: we delete it.
    Superseded(bool),
}

/// An established ISAKMP SA.
pub(crate) struct IkeSa {
    pub(crate) tunnel: TunnelId,
    pub(crate) config: Arc<PeerConfig>,
    pub(crate) cookie_i: u64,
    pub(crate) cookie_r: u64,
    pub(crate) initiator: bool,
    pub(crate) suite: IkeSuite,
    pub(crate) keys: Keys,
    pub(crate) path: Path,
    pub(crate) vendor: Vendor,
    pub(crate) remote_id: Identity,
    pub(crate) children: Vec<Child>,
    pub(crate) quicks: Vec<Quick>,
    /// Quick modes of the peer that jobs are at work on.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) tasks: VecDeque<Task>,
    pub(crate) life: Life,
    pub(crate) started: Instant,
    pub(crate) established: Instant,
    pub(crate) lowest_nonce: Vec<u8>,
    pub(crate) soft: Option<Instant>,
    pub(crate) hard: Instant,
    pub(crate) last_heard: Instant,
    pub(crate) last_sent: Instant,
    pub(crate) probe: Option<Probe>,
    /// The number of our next liveness question.
    pub(crate) dpd_sequence: u32,
    /// Message ids of authentic exchanges: none is taken twice.
    pub(crate) seen: HashSet<u32>,
    /// A transaction of ours, or the peer's last one.
    pub(crate) transaction: Option<Transaction>,
    /// The user that the peer proved to be by XAuth.
    pub(crate) user: Option<String>,
    /// Inner addresses by Mode Config.
    pub(crate) addresses: Virtual,
    /// Its hard end, once it serves.
    pub(crate) lifetime_ends: Instant,
    /// What is said of it when it serves: the peer knows no other SA; it takes the place of another.
    pub(crate) deferred: (bool, bool),
    /// The peer has shown that it has this SA, by a message of phase 2.
    pub(crate) known: bool,
    /// The last messages of phase 1, should ours have been lost.
    phase1: Exchanged,
}

/// What a finished negotiation of a CHILD SA says.
pub(crate) struct Agreed {
    pub(crate) inbound: Spi,
    pub(crate) outbound: Spi,
    pub(crate) suite: EspSuite,
    pub(crate) pair: Pair,
    pub(crate) inbound_keys: SuiteKeys,
    pub(crate) outbound_keys: SuiteKeys,
    pub(crate) lifetime: Duration,
    pub(crate) ours: bool,
    pub(crate) started: Instant,
    pub(crate) lowest_nonce: Vec<u8>,
    pub(crate) replaces: Option<Spi>,
}

impl IkeSa {
    /// The ISAKMP SA of a finished phase 1. The endpoint says to its owner whether it is the tunnel's first.
    pub(crate) fn establish(ctx: &mut Ctx<'_>, proven: Proven) -> Box<Self> {
        let Proven { tunnel, config, opening, choice, keys, remote_id, rekeys, initial_contact } = proven;
        let lifetime = choice.lifetime.map_or(config.ike_lifetime, |l| l.min(config.ike_lifetime));
        let lifetime = lifetime.max(Duration::from_secs(10));
        let soft = ctx.now + ctx.jittered(lifetime, 0.9);
        let mut sa = Box::new(Self {
            tunnel,
            cookie_i: opening.cookie_i,
            cookie_r: opening.cookie_r,
            initiator: opening.initiator,
            suite: choice.suite,
            keys,
            path: opening.path,
            vendor: opening.vendor,
            remote_id,
            children: Vec::new(),
            quicks: Vec::new(),
            waiting: Vec::new(),
            tasks: VecDeque::new(),
            life: Life::Serving,
            started: opening.started,
            established: ctx.now,
            lowest_nonce: opening.ni.clone().min(opening.nr.clone()),
            soft: Some(soft),
            hard: ctx.now + PeerConfig::hard(lifetime),
            last_heard: ctx.now,
            last_sent: ctx.now,
            probe: None,
            dpd_sequence: ctx.message_id() >> 1,
            seen: HashSet::new(),
            transaction: None,
            user: None,
            addresses: Virtual::default(),
            lifetime_ends: ctx.now + PeerConfig::hard(lifetime),
            deferred: (initial_contact, rekeys),
            known: false,
            phase1: opening.exchanged,
            config,
        });
        if sa.initiator && !opening.aggressive {
            // The responder has the last word in main mode.
            sa.phase1.sent.clear();
        }
        log!(
            info,
            sa.config.name,
            "IKEv1 SA up: {} {}[{}] - {}[{}] {}{}",
            if sa.initiator { "initiator" } else { "responder" },
            sa.config.local_id,
            sa.path.local,
            sa.remote_id,
            sa.path.remote,
            sa.suite,
            if sa.path.encap { ", ESP in UDP" } else { "" }
        );
        if method::is_xauth(choice.method) {
            sa.begin_xauth(ctx);
        } else {
            sa.authenticated(ctx);
        }
        sa
    }

    /// Our cookie: the endpoint knows this SA by it.
    pub(crate) fn key(&self) -> u64 {
        if self.initiator { self.cookie_i } else { self.cookie_r }
    }

    /// Whether something is still to be done before it can serve its tunnel.
    pub(crate) fn opens(&self) -> bool {
        matches!(self.life, Life::Authenticating | Life::Configuring)
    }

    /// Whether it serves its tunnel.
    pub(crate) fn serves(&self) -> bool {
        self.life == Life::Serving
    }

    pub(crate) fn info(&self, now: Instant) -> IkeInfo {
        IkeInfo {
            version: 1,
            ppk: false,
            spi_initiator: self.cookie_i,
            spi_responder: self.cookie_r,
            initiator: self.initiator,
            suite: self.suite,
            local: self.path.local,
            remote: self.path.remote,
            local_id: self.config.local_id.clone(),
            remote_id: self.remote_id.clone(),
            mobike: false,
            nat_local: self.path.nat_local,
            nat_remote: self.path.nat_remote,
            encap: self.path.encap,
            addresses: self.addresses.clone(),
            rekey_in: self.soft.map_or(Duration::ZERO, |soft| soft.saturating_duration_since(now)),
            expires_in: self.hard.saturating_duration_since(now),
        }
    }

    pub(crate) fn failure(&self, phase: Phase, cause: Cause) -> Failure {
        Failure::new(Some(self.tunnel), &self.config.name, phase, cause)
    }

    // --- messages ---

    pub(crate) fn header(&self, exchange: Exchange, message_id: u32) -> Header {
        let (cookie_i, cookie_r) = (self.cookie_i, self.cookie_r);
        Header { cookie_i, cookie_r, next: 0, exchange, flags: Flags::default(), message_id }
    }

    /// A message id that no exchange of this SA has.
    pub(crate) fn message_id(&self, ctx: &mut Ctx<'_>) -> u32 {
        loop {
            let id = ctx.message_id();
            if !self.seen.contains(&id) && !self.quicks.iter().any(|q| q.message_id == id) {
                return id;
            }
        }
    }

    pub(crate) fn send(&mut self, ctx: &mut Ctx<'_>, message: Vec<u8>) {
        self.last_sent = ctx.now;
        fragment::send(ctx, &self.path, self.vendor.fragmentation, message);
    }

    /// A message whose first payload is its hash, prf(SKEYID_a, M-ID | payloads), alone in its exchange.
    pub(crate) fn send_hashed(&mut self, ctx: &mut Ctx<'_>, exchange: Exchange, chain: Chain) {
        let id = self.message_id(ctx);
        self.seen.insert(id);
        let chain = chain.with_hash(|bytes| self.keys.hash(id, &[bytes]).to_vec());
        let (message, _) = self.keys.seal(&self.keys.iv(id), &self.header(exchange, id), &chain);
        self.send(ctx, message);
    }

    /// A message as [`send_hashed`](Self::send_hashed) makes it, with any text where its payloads should be.
    #[cfg(feature = "testing")]
    pub(crate) fn craft(&self, exchange: Exchange, id: u32, first: u8, text: &[u8]) -> Vec<u8> {
        let chain = Chain::of_raw(first, text).with_hash(|bytes| self.keys.hash(id, &[bytes]).to_vec());
        self.keys.seal(&self.keys.iv(id), &self.header(exchange, id), &chain).0
    }

    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        match header.exchange {
            Exchange::Main | Exchange::Aggressive if self.phase1.is_repeated(arrival.bytes) => {
                // Ours was lost; nothing new is in this message, so it moves nothing.
                if !self.phase1.sent.is_empty() {
                    let message = self.phase1.sent.clone();
                    self.send(ctx, message);
                }
            }
            Exchange::Informational => return self.on_informational(ctx, arrival),
            Exchange::Transaction => return self.on_transaction(ctx, arrival),
            // What has not authenticated in full gets nothing.
            Exchange::Quick if self.opens() => {}
            Exchange::Quick => self.on_quick(ctx, arrival),
            other => {
                log!(debug, self.config.name, "dropped a message of {other:?} from {}", arrival.remote);
            }
        }
        self.go_on(ctx);
        Some(Sa::Up(self))
    }

    /// The peer proved with this message that it lives, and where.
    pub(crate) fn heard(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) {
        self.last_heard = ctx.now;
        self.probe = None;
        if !std::mem::replace(&mut self.known, true) {
            ctx.effects.push(Effect::KnownV1 { tunnel: self.tunnel, key: self.key() });
        }
        let (local, remote) = (arrival.local, arrival.remote);
        let path = &mut self.path;
        if (path.local, path.remote) == (local, remote) || (path.nat_local && !path.nat_remote) {
            return;
        }
        let same_hosts = (path.local.ip(), path.remote.ip()) == (local.ip(), remote.ip());
        (path.local, path.remote) = (local, remote);
        if !same_hosts || path.encap {
            log!(info, self.config.name, "the peer moved to {remote} (here {local})");
            let encap = self.path.encap;
            ctx.event(Event::PeerMoved { tunnel: self.tunnel, local, remote, encap });
        }
    }

    /// Opens a message of phase 2 that stands alone in its exchange and checks its hash. The caller keeps the id.
    pub(crate) fn open_hashed(&self, arrival: &Arrival<'_>) -> Option<Vec<u8>> {
        let id = arrival.header.message_id;
        let iv = self.keys.iv(id);
        let (text, _) = self.opened(arrival, &iv)?;
        let body = self.parsed(arrival, &text)?;
        let fits = body.hashed().is_some_and(|(hash, rest)| self.keys.hash_fits(id, &[rest], hash));
        if !fits {
            log!(debug, self.config.name, "dropped a message with a wrong hash from {}", arrival.remote);
            return None;
        }
        Some(text)
    }

    pub(crate) fn opened(&self, arrival: &Arrival<'_>, iv: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        if arrival.header.flags.auth_only || arrival.header.message_id == 0 {
            return None;
        }
        match self.keys.open(iv, &arrival.header, arrival.bytes) {
            Ok(opened) => Some(opened),
            Err(e) => {
                log!(debug, self.config.name, "dropped a message from {}: {e}", arrival.remote);
                None
            }
        }
    }

    pub(crate) fn parsed<'a>(&self, arrival: &Arrival<'_>, text: &'a [u8]) -> Option<Body<'a>> {
        match Body::parse(arrival.header.next, text, true) {
            Ok(body) => Some(body),
            Err(e) => {
                log!(debug, self.config.name, "dropped a message from {}: {e}", arrival.remote);
                None
            }
        }
    }

    /// Message ids are running out of memory for them: this SA must be replaced.
    pub(crate) fn nearly_used_up(&self) -> bool {
        self.seen.len() > MAX_SEEN
    }

    // --- tasks ---

    /// Puts a task at the end of the queue, once.
    pub(crate) fn queue(&mut self, task: Task) {
        if !self.tasks.contains(&task) {
            self.tasks.push_back(task);
        }
    }

    /// Asks for a CHILD SA for every pair of networks that has none.
    pub(crate) fn queue_missing(&mut self) {
        for pair in pairs(&self.config) {
            let covered = self.children.iter().any(|c| c.state == State::Live && c.pair == pair)
                || self.quicks.iter().any(|q| q.negotiates(&pair));
            if !covered {
                self.queue(Task::Quick(pair, None));
            }
        }
    }

    /// The tunnel's networks are others now: asks for those pairs that are missing, and deletes what carries others.
    pub(crate) fn reselect(&mut self, ctx: &mut Ctx<'_>) {
        if !self.serves() {
            return;
        }
        self.refresh_config(ctx);
        self.queue_missing();
        let carries =
            |ts: &TrafficSelector, nets: &[TrafficSelector]| nets.iter().any(|net| ts.is_subset_of(net));
        let stays = |pair: &Pair| {
            carries(&pair.local, &self.config.local_ts) && carries(&pair.remote, &self.config.remote_ts)
        };
        let gone: Vec<Spi> = self.children.iter().filter(|c| !stays(&c.pair)).map(|c| c.inbound).collect();
        for inbound in gone {
            self.send_delete(ctx, protocol::ESP, &inbound.to_bytes());
            self.drop_child(ctx, inbound, DownReason::LocalRequest);
        }
    }

    /// Starts the next quick mode if none of ours waits for its answer: devices that take several at once are few.
    pub(crate) fn go_on(&mut self, ctx: &mut Ctx<'_>) {
        while self.serves() && !self.quicks.iter().any(Quick::waits_for_answer) {
            let Some(Task::Quick(pair, replaces)) = self.tasks.pop_front() else { return };
            let gone = replaces.is_some_and(|old| self.child(old).is_none_or(|c| c.state != State::Live));
            if !gone {
                self.start_quick(ctx, pair, replaces);
            }
        }
    }

    // --- children ---

    pub(crate) fn child(&mut self, inbound: Spi) -> Option<&mut Child> {
        self.children.iter_mut().find(|c| c.inbound == inbound)
    }

    /// Takes a negotiated CHILD SA in and tells the owner. `confirmed`: the peer has proven that it has the keys.
    pub(crate) fn install(&mut self, ctx: &mut Ctx<'_>, agreed: Agreed, confirmed: bool) {
        let Agreed { inbound, outbound, suite, pair, inbound_keys, outbound_keys, lifetime, .. } = agreed;
        let rekey_in = ctx.jittered(lifetime, 0.9);
        let hard_lifetime = PeerConfig::hard(lifetime);
        let mut new = Child {
            inbound,
            outbound,
            pair: pair.clone(),
            state: State::Live,
            soft: Some(ctx.now + rekey_in),
            hard: ctx.now + hard_lifetime,
            delete_at: None,
            confirmed,
            ours: agreed.ours,
            started: agreed.started,
            made: ctx.now,
            lowest_nonce: agreed.lowest_nonce,
            replaces: agreed.replaces,
        };
        let replaces = self.give_way(ctx.now, &mut new);
        let use_outbound = confirmed && new.state == State::Live;
        self.children.push(new);
        log!(info, self.config.name, "CHILD SA up: in {inbound} out {outbound} {suite} {}", pair.describe());
        let sa = ChildSa {
            tunnel: self.tunnel,
            inbound,
            outbound,
            suite,
            inbound_keys,
            outbound_keys,
            replay_window: self.config.replay_window,
            local_ts: vec![pair.local],
            remote_ts: vec![pair.remote],
            local: self.path.local,
            remote: self.path.remote,
            encap: self.path.encap,
            rekey_in,
            hard_lifetime,
            special: Default::default(),
        };
        ctx.event(Event::ChildUp { sa, replaces, use_outbound });
        if !self.serves() {
            // It came to an end on an SA that another one has replaced.
            let children = std::mem::take(&mut self.children);
            ctx.effects.push(Effect::AdoptV1 { tunnel: self.tunnel, from: self.key(), children });
        }
    }

    /// One CHILD SA stays for a pair of networks. The new one takes the place of those before it, unless both sides
    /// asked at the same time: then the one with the lowest nonce goes, as in IKEv2, and who opened it deletes it.
    fn give_way(&mut self, now: Instant, new: &mut Child) -> Option<Spi> {
        let asked = new.replaces;
        let mut replaces = asked;
        let pair = new.pair.clone();
        for old in self.children.iter_mut().filter(|c| c.state == State::Live && c.pair == pair) {
            let together = old.ours != new.ours && new.started <= old.made && asked != Some(old.inbound);
            let (goes, stays_ours) = if together && new.lowest_nonce < old.lowest_nonce {
                (&mut *new, old.ours)
            } else {
                replaces = replaces.or(Some(old.inbound));
                (old, new.ours)
            };
            goes.state = State::Replaced;
            goes.soft = None;
            // The winner's opener deletes what was rekeyed; the loser of a collision is its own opener's.
            let by_us = if together { goes.ours } else { stays_ours };
            goes.delete_at = Some(now + if by_us { OVERLAP } else { FORGOTTEN });
        }
        // What ours replaces goes by us, also where the peer's was there before ours and lost.
        let rekeyed = asked.filter(|_| new.state == State::Live);
        if let Some(old) = rekeyed.and_then(|old| self.child(old)).filter(|old| old.state == State::Replaced)
        {
            old.delete_at = Some(now + OVERLAP);
        }
        replaces
    }

    /// The peer has proven that it has the keys of a CHILD SA.
    pub(crate) fn confirm(&mut self, ctx: &mut Ctx<'_>, inbound: Spi) {
        let tunnel = self.tunnel;
        if let Some(child) = self.child(inbound).filter(|c| !c.confirmed) {
            child.confirmed = true;
            if child.state == State::Live {
                ctx.event(Event::OutboundReady { tunnel, inbound });
            }
        }
    }

    /// Takes a CHILD SA out and tells the owner.
    pub(crate) fn drop_child(&mut self, ctx: &mut Ctx<'_>, inbound: Spi, reason: DownReason) {
        let Some(at) = self.children.iter().position(|c| c.inbound == inbound) else { return };
        let child = self.children.remove(at);
        let replaced = child.state == State::Replaced || reason == DownReason::Replaced;
        let drain = if replaced { DRAIN } else { Duration::ZERO };
        let reason = if replaced { DownReason::Replaced } else { reason };
        ctx.spis.release(inbound);
        log!(info, self.config.name, "CHILD SA down: in {inbound} out {} ({reason})", child.outbound);
        ctx.event(Event::ChildDown { tunnel: self.tunnel, inbound, outbound: child.outbound, drain, reason });
        self.revive(ctx, &child.pair);
    }

    /// A pair whose CHILD SA in use has gone goes on with one that lost against it, if there is one.
    fn revive(&mut self, ctx: &mut Ctx<'_>, pair: &Pair) {
        if self.children.iter().any(|c| c.state == State::Live && c.pair == *pair) {
            return;
        }
        let now = ctx.now;
        let left = self.children.iter_mut().filter(|c| c.pair == *pair && c.confirmed);
        let Some(best) = left.max_by_key(|c| c.made) else { return };
        if best.hard <= now {
            return;
        }
        best.state = State::Live;
        best.delete_at = None;
        // A rekey is due at once: it is the old one.
        best.soft = Some(now);
        let inbound = best.inbound;
        ctx.event(Event::OutboundReady { tunnel: self.tunnel, inbound });
    }

    /// Takes in a child that came to an end on an SA whose place this one has taken.
    pub(crate) fn adopt_late(&mut self, ctx: &mut Ctx<'_>, mut child: Child) {
        ctx.spis.give(child.inbound, self.key());
        self.give_way(ctx.now, &mut child);
        if child.state == State::Replaced {
            let tunnel = self.tunnel;
            let winner = self.children.iter().find(|c| c.state == State::Live && c.pair == child.pair);
            if let Some(inbound) = winner.filter(|w| w.confirmed).map(|w| w.inbound) {
                ctx.event(Event::OutboundReady { tunnel, inbound });
            }
        }
        self.children.push(child);
    }

    /// Takes over the children of another SA of the tunnel.
    pub(crate) fn adopt(&mut self, ctx: &mut Ctx<'_>, children: Vec<Child>) {
        for child in &children {
            ctx.spis.give(child.inbound, self.key());
        }
        self.children.extend(children);
    }

    // --- endings ---

    /// Another SA serves the tunnel from now on. `ours`: we delete this one.
    pub(crate) fn supersede(&mut self, now: Instant, ours: bool) {
        self.life = Life::Superseded(ours);
        self.soft = None;
        self.probe = None;
        self.tasks.clear();
        self.hard = now + if ours { SUPERSEDED_LIFETIME } else { SUPERSEDED_BY_PEER };
    }

    /// The peer has the one that took this one's place.
    pub(crate) fn successor_known(&mut self, now: Instant) {
        if let Life::Superseded(ours) = &mut self.life {
            *ours = true;
            self.hard = self.hard.min(now + SUPERSEDED_AND_KNOWN);
        }
    }

    /// Takes everything down that hangs on this SA.
    pub(crate) fn leave(mut self: Box<Self>, ctx: &mut Ctx<'_>, reason: DownReason) {
        for quick in std::mem::take(&mut self.quicks) {
            if let Some(inbound) = quick.reserved() {
                ctx.spis.release(inbound);
            }
        }
        self.tasks.clear();
        self.drop_children(ctx, reason);
        if self.life == Life::Serving {
            log!(info, self.config.name, "IKEv1 SA down: {reason}");
            ctx.effects.push(Effect::Left { tunnel: self.tunnel, key: self.key(), reason });
        }
    }

    /// Takes all children out.
    pub(crate) fn drop_children(&mut self, ctx: &mut Ctx<'_>, reason: DownReason) {
        while let Some(inbound) = self.children.first().map(|c| c.inbound) {
            // None is revived: all go.
            self.children.iter_mut().for_each(|c| c.confirmed = false);
            self.drop_child(ctx, inbound, reason);
        }
    }

    /// Tells the peer that all is over, and takes it down here: nobody acknowledges in IKEv1.
    pub(crate) fn farewell(mut self: Box<Self>, ctx: &mut Ctx<'_>, reason: DownReason) {
        let spis: Vec<u8> = self.children.iter().flat_map(|c| c.inbound.to_bytes()).collect();
        if !spis.is_empty() {
            self.send_delete(ctx, protocol::ESP, &spis);
        }
        self.delete_self(ctx);
        self.leave(ctx, reason);
    }

    /// The delete of this SA itself.
    pub(crate) fn delete_self(&mut self, ctx: &mut Ctx<'_>) {
        let cookies = [self.cookie_i.to_be_bytes(), self.cookie_r.to_be_bytes()].concat();
        self.send_delete(ctx, protocol::ISAKMP, &cookies);
    }

    /// Where a new phase 1 of the tunnel starts from: the path as it is now.
    pub(crate) fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.path.local, self.path.remote)
    }
}
