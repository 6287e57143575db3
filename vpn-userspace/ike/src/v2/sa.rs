//! An established IKE SA: its requests and answers, its children, its clocks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_crypto::{DhGroup, Secret, SuiteKeys};
use culvert_types::{Spi, TunnelId};

use super::auth::{Handshake, repeated};
use super::child::{Agreed, Child, State};
use super::closed::Closed;
use super::ctx::{Ctx, log};
use super::mobike::{Mobility, Update};
use super::pairs::{Pair, Scope};
use super::rekey::{ChildExchange, Following, IkeExchange};
use super::{Arrival, Message, Path, Sa};
use crate::child::Special;
use crate::error::{Cause, Failure, Phase};
use crate::event::IkeInfo;
use crate::kex::{Answering, Half};
use crate::protect::Protection;
use crate::window::{Retransmission, Window};
use crate::wire::{Chain, Exchange, Flags, Header, Notify, Payload, WireError, notify};
use crate::{ChildSa, DownReason, Event, Identity, IkeSuite, PeerConfig, Purpose, Virtual};

/// How long a replaced inbound SA still receives.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// How long the responder of a rekey keeps sending on the old SA while the peer does not delete it.
pub(crate) const OUTBOUND_GRACE: Duration = Duration::from_secs(5);
/// How soon after set-up rekeying is tested, at the latest.
const TEST_AFTER: Duration = Duration::from_secs(3);
/// How long a rekeyed IKE SA waits for the peer to delete it: the peer's repetitions end before.
pub(crate) const SUPERSEDED_LIFETIME: Duration = Duration::from_secs(180);

/// What we mean to do, once the window is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    Liveness,
    CreateChild(Attempt, Scope),
    RekeyChild(Spi, Attempt),
    RekeyIke(Attempt),
    /// A CHILD SA that we have; its state says so already.
    DeleteChild(Spi, DownReason),
    /// A CHILD SA that only the peer has, by the SPI that we gave it.
    DeleteStray(Spi),
    DeleteIke,
    /// Tell the peer which addresses we use, as the one who decides.
    UpdateAddresses,
    /// Tell it which addresses we have.
    TellAddresses,
    /// See whether the peer is where it says.
    ReturnCheck,
}

/// A try at CREATE_CHILD_SA: with which group, and how often the peer has asked for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attempt {
    pub(crate) group: Option<DhGroup>,
    pub(crate) regrouped: u32,
}

/// What the request in flight is for.
pub(crate) enum Pending {
    Liveness,
    Child(Box<ChildExchange>),
    Ike(Box<IkeExchange>),
    DeleteChild(Spi, DownReason),
    DeleteStray,
    DeleteIke,
    Update(Update),
    ReturnCheck(Update),
    /// Its answer is only waited for.
    Abandoned,
}

/// How far an IKE SA is through its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Serves its tunnel.
    Serving,
    /// A rekeyed one serves in its place, or it lost a collision; the peer will delete it.
    Superseded,
    /// We delete it.
    Closing,
}

/// An established IKE SA.
pub(crate) struct IkeSa {
    pub(crate) tunnel: TunnelId,
    pub(crate) config: Arc<PeerConfig>,
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    /// We are its original initiator.
    pub(crate) initiator: bool,
    pub(crate) suite: IkeSuite,
    pub(crate) sk_d: Secret,
    pub(crate) protection: Protection,
    pub(crate) window: Window,
    pub(crate) ppk: bool,
    pub(crate) carried: Carried,
    pub(crate) path: Path,
    pub(crate) remote_id: Identity,
    pub(crate) children: Vec<Child>,
    pub(crate) pending: Option<Pending>,
    /// The authentic answer to it, while a job is at work on the agreement.
    pub(crate) response: Option<Box<Message>>,
    /// Our half of the next request's key exchange, while or after a job makes its key pair.
    pub(crate) making: Option<Half>,
    /// The peer's request, while a job is at work on our half of its key exchange.
    pub(crate) request: Option<Box<Message>>,
    pub(crate) answering: Option<Answering>,
    /// An exchange that the peer has begun, between its rounds (RFC 9370 2.2.4).
    pub(crate) following: Option<Box<Following>>,
    pub(crate) tasks: VecDeque<Task>,
    /// What the peer had no time for: to be asked again then.
    pub(crate) again: Vec<(Instant, Task)>,
    /// The peer takes one pair of networks in each CHILD SA.
    pub(crate) each: bool,
    /// When CHILD SAs that are missing are asked for again.
    pub(crate) missing_at: Option<Instant>,
    /// Those that the peer has refused.
    pub(crate) refused: Vec<Scope>,
    pub(crate) life: Life,
    /// Of the IKE_SA_INIT that made it; `None` for a rekeyed one.
    pub(crate) origin: Option<Origin>,
    /// When it is rekeyed; of a superseded one, when we close it ourselves.
    pub(crate) soft: Option<Instant>,
    pub(crate) hard: Instant,
    pub(crate) last_heard: Instant,
    pub(crate) last_sent: Instant,
}

/// What decides between two IKE SAs that both sides opened at the same time.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) started: Instant,
    pub(crate) established: Instant,
    pub(crate) lowest_nonce: Vec<u8>,
}

/// What lives on in the rekeyed IKE SA.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried {
    /// Inner addresses of IKE_AUTH's configuration payload.
    pub(crate) addresses: Virtual,
    /// Its addresses may change.
    pub(crate) mobility: Option<Box<Mobility>>,
    /// When we authenticate anew.
    pub(crate) reauth: Option<Instant>,
}

/// What a rekeyed IKE SA is made of.
pub(crate) struct Fresh {
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    pub(crate) initiator: bool,
    pub(crate) suite: IkeSuite,
    pub(crate) sk_d: Secret,
    pub(crate) protection: Protection,
    /// A post-quantum pre-shared key is in the keys.
    pub(crate) ppk: bool,
    pub(crate) carried: Carried,
}

/// The answer to a request.
pub(crate) enum Reply {
    Answer(Chain),
    /// Answer, then the IKE SA is gone.
    Last(Chain, DownReason),
    /// Nothing yet: a job is at work.
    Later,
}

impl Reply {
    pub(crate) fn notify(kind: u16, data: &[u8]) -> Self {
        let mut chain = Chain::new();
        chain.push(&Payload::Notify(Notify::new(kind, data)));
        Self::Answer(chain)
    }
}

impl IkeSa {
    /// The IKE SA of a finished IKE_AUTH.
    pub(crate) fn establish(
        ctx: &mut Ctx<'_>,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        handshake: Handshake,
        initiator: bool,
        remote_id: Identity,
        window: Window,
    ) -> Box<Self> {
        let lowest_nonce = handshake.ni.clone().min(handshake.nr.clone());
        let Handshake { spi_i, spi_r, suite, keys, protection, path, started, ppk, .. } = handshake;
        let (addresses, mobility) = (handshake.addresses, handshake.mobility);
        let origin = Some(Origin { started, established: ctx.now, lowest_nonce });
        let after = config.session.reauth.filter(|_| initiator && config.remote.is_some());
        let reauth = after.map(|after| ctx.now + ctx.jittered(after, 0.9));
        let carried = Carried { addresses, mobility, reauth };
        let fresh = Fresh { spi_i, spi_r, initiator, suite, sk_d: keys.sk_d, protection, ppk, carried };
        let sa = Self::new(ctx, tunnel, config, fresh, path, remote_id, window, origin);
        let info = sa.info(ctx.now);
        log!(
            info,
            sa.config.name,
            "IKE SA up: {} {}[{}] - {}[{}] {}{}",
            if initiator { "initiator" } else { "responder" },
            sa.config.local_id,
            path.local,
            sa.remote_id,
            path.remote,
            suite,
            if path.encap { ", ESP in UDP" } else { "" }
        );
        ctx.event(Event::IkeUp { tunnel, info });
        sa
    }

    /// The successor of this IKE SA, still without children.
    pub(crate) fn successor(&self, ctx: &mut Ctx<'_>, fresh: Fresh) -> Box<Self> {
        // What was configured meanwhile holds from now on.
        let config = ctx.peers.get(self.tunnel).map_or_else(|| Arc::clone(&self.config), Arc::clone);
        let (remote_id, window) = (self.remote_id.clone(), Window::new(0, 0));
        let mut new = Self::new(ctx, self.tunnel, config, fresh, self.path, remote_id, window, None);
        new.each = self.each;
        if let Some(mobility) = &mut new.carried.mobility {
            mobility.rekeyed();
        }
        new
    }

    #[allow(clippy::too_many_arguments)]
    fn new(
        ctx: &mut Ctx<'_>,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        fresh: Fresh,
        path: Path,
        remote_id: Identity,
        window: Window,
        origin: Option<Origin>,
    ) -> Box<Self> {
        let soft = ctx.now + ctx.jittered(config.ike_lifetime, 0.9);
        let Fresh { spi_i, spi_r, initiator, suite, sk_d, protection, ppk, carried } = fresh;
        let config = super::vip::narrowed(&config, &carried.addresses);
        Box::new(Self {
            tunnel,
            spi_i,
            spi_r,
            initiator,
            suite,
            sk_d,
            protection,
            ppk,
            carried,
            window,
            path,
            remote_id,
            children: Vec::new(),
            pending: None,
            response: None,
            making: None,
            request: None,
            answering: None,
            following: None,
            tasks: VecDeque::new(),
            again: Vec::new(),
            each: false,
            missing_at: None,
            refused: Vec::new(),
            life: Life::Serving,
            origin,
            soft: Some(soft),
            hard: ctx.now + PeerConfig::hard(config.ike_lifetime),
            last_heard: ctx.now,
            last_sent: ctx.now,
            config,
        })
    }

    /// Our SPI: the endpoint knows this IKE SA by it.
    pub(crate) fn key(&self) -> u64 {
        if self.initiator { self.spi_i } else { self.spi_r }
    }

    /// The peer's SPI.
    pub(crate) fn peer_spi(&self) -> u64 {
        if self.initiator { self.spi_r } else { self.spi_i }
    }

    /// Whether it serves its tunnel.
    pub(crate) fn serves(&self) -> bool {
        self.life == Life::Serving
    }

    pub(crate) fn info(&self, now: Instant) -> IkeInfo {
        IkeInfo {
            version: 2,
            spi_initiator: self.spi_i,
            spi_responder: self.spi_r,
            initiator: self.initiator,
            suite: self.suite,
            ppk: self.ppk,
            local: self.path.local,
            remote: self.path.remote,
            local_id: self.config.local_id.clone(),
            remote_id: self.remote_id.clone(),
            nat_local: self.path.nat_local,
            nat_remote: self.path.nat_remote,
            encap: self.path.encap,
            mobike: self.carried.mobility.is_some(),
            addresses: self.carried.addresses.clone(),
            rekey_in: self.soft.map_or(Duration::ZERO, |soft| soft.saturating_duration_since(now)),
            expires_in: self.hard.saturating_duration_since(now),
        }
    }

    pub(crate) fn failure(&self, phase: Phase, cause: Cause) -> Failure {
        Failure::new(Some(self.tunnel), &self.config.name, phase, cause)
    }

    // --- children ---

    /// Takes a negotiated CHILD SA in and tells the owner.
    pub(crate) fn install(
        &mut self,
        ctx: &mut Ctx<'_>,
        agreed: Agreed,
        inbound_keys: SuiteKeys,
        outbound_keys: SuiteKeys,
        replaces: Option<Spi>,
        use_outbound: bool,
    ) {
        let Agreed { inbound, outbound, suite, local_ts, remote_ts, ours, scope, transport, .. } = agreed;
        let before = replaces.and_then(|old| self.children.iter().find(|c| c.inbound == old));
        let (ours, scope) = before.map_or((ours, scope), |c| (c.ours, c.scope.clone()));
        let resource = scope.as_ref().and_then(|pair| pair.resource.clone());
        let purpose = before.map_or_else(|| self.purpose_of(resource.as_deref()), |c| c.purpose);
        let special = Special { transport, resource: resource.clone(), purpose };
        let selectors = Arc::new(Pair { local: local_ts.clone(), remote: remote_ts.clone(), resource });
        let rekey_in = ctx.jittered(self.config.child_lifetime, 0.9);
        let keyed = suite.group.is_some();
        let soft = ctx.now + rekey_in;
        // What IKE_AUTH made, and that not in place of another.
        let test = self.config.exchange.rekey_test && !keyed && replaces.is_none() && self.origin.is_some();
        let tested = test.then_some(soft);
        let soft = if test { ctx.now + ctx.jittered(TEST_AFTER, 0.5) } else { soft };
        let hard_lifetime = PeerConfig::hard(self.config.child_lifetime);
        self.children.push(Child {
            inbound,
            outbound,
            state: State::Live,
            ours,
            scope,
            selectors,
            purpose,
            replaces,
            keyed,
            soft: Some(soft),
            tested,
            hard: ctx.now + hard_lifetime,
            outbound_due: (!use_outbound).then(|| ctx.now + OUTBOUND_GRACE),
        });
        log!(
            info,
            self.config.name,
            "CHILD SA up: in {inbound} out {outbound} {suite} {} === {}{}",
            crate::selector::describe(&local_ts),
            crate::selector::describe(&remote_ts),
            if purpose == Purpose::All { String::new() } else { format!(" for {purpose}") }
        );
        let sa = ChildSa {
            tunnel: self.tunnel,
            inbound,
            outbound,
            suite,
            inbound_keys,
            outbound_keys,
            replay_window: self.config.replay_window,
            local_ts,
            remote_ts,
            local: self.path.local,
            remote: self.path.remote,
            encap: self.path.encap,
            rekey_in,
            hard_lifetime,
            special,
        };
        ctx.event(Event::ChildUp { sa, replaces, use_outbound });
    }

    pub(crate) fn child(&mut self, inbound: Spi) -> Option<&mut Child> {
        self.children.iter_mut().find(|c| c.inbound == inbound)
    }

    /// Takes a CHILD SA out and tells the owner.
    pub(crate) fn drop_child(&mut self, ctx: &mut Ctx<'_>, inbound: Spi, reason: DownReason) {
        let Some(at) = self.children.iter().position(|c| c.inbound == inbound) else { return };
        let child = self.children.remove(at);
        // It may have been the one to send on.
        if matches!(child.state, State::Replaced | State::Live) {
            self.outbound_ready(ctx);
        }
        // A replaced SA still receives what is on its way.
        let replaced = matches!(child.state, State::Replaced | State::Redundant)
            || reason == DownReason::Replaced
            || self.life == Life::Superseded;
        let drain = if replaced { DRAIN } else { Duration::ZERO };
        let reason = if replaced { DownReason::Replaced } else { reason };
        ctx.spis.release(inbound);
        log!(info, self.config.name, "CHILD SA down: in {inbound} out {} ({reason})", child.outbound);
        ctx.event(Event::ChildDown { tunnel: self.tunnel, inbound, outbound: child.outbound, drain, reason });
    }

    /// Outbound sides that waited for the end of the SA before them are used from now on.
    fn outbound_ready(&mut self, ctx: &mut Ctx<'_>) {
        for child in &mut self.children {
            if child.state == State::Live && child.outbound_due.take().is_some() {
                ctx.event(Event::OutboundReady { tunnel: self.tunnel, inbound: child.inbound });
            }
        }
    }

    // --- requests ---

    /// Puts a task at the end of the queue, once.
    pub(crate) fn queue(&mut self, task: Task) {
        if !self.tasks.contains(&task) {
            self.tasks.push_back(task);
        }
    }

    /// Starts the next task if no request is waiting for its answer.
    pub(crate) fn send_next(&mut self, ctx: &mut Ctx<'_>) {
        while self.pending.is_none()
            && self.window.free().is_some()
            && !self.making.as_ref().is_some_and(Half::waits)
        {
            let next = self.tasks.iter().position(|task| !self.is_held(task));
            let Some(task) = next.and_then(|at| self.tasks.remove(at)) else { return };
            match task {
                Task::Liveness => self.start_liveness(ctx),
                Task::CreateChild(attempt, scope) => self.start_new_child(ctx, attempt, scope),
                Task::RekeyChild(old, attempt) => self.start_rekey_child(ctx, old, attempt),
                Task::RekeyIke(attempt) => self.start_ike(ctx, attempt),
                Task::DeleteChild(inbound, reason) => self.start_delete_child(ctx, inbound, reason),
                Task::DeleteStray(inbound) => self.start_delete_stray(ctx, inbound),
                Task::DeleteIke => self.start_delete_ike(ctx),
                Task::UpdateAddresses => self.start_update(ctx),
                Task::TellAddresses => self.start_tell_addresses(ctx),
                Task::ReturnCheck => self.start_return_check(ctx),
            }
        }
    }

    pub(crate) fn header(&self, exchange: Exchange, response: bool, message_id: u32) -> Header {
        let flags = Flags { initiator: self.initiator, response };
        Header { spi_i: self.spi_i, spi_r: self.spi_r, next: 0, exchange, flags, message_id }
    }

    /// Sends a request; the window is free.
    pub(crate) fn request(&mut self, ctx: &mut Ctx<'_>, exchange: Exchange, chain: &Chain, pending: Pending) {
        let Some(id) = self.window.free() else { return };
        let message = self.protection.seal(&self.header(exchange, false, id), chain);
        log!(
            trace,
            self.config.name,
            "request {id} {exchange:?}, {} bytes, to {}",
            message.len(),
            self.path.remote
        );
        let timeout = self.config.dpd.map(|dpd| dpd.timeout);
        self.window.sent(message.clone(), Retransmission::new(ctx.now, &ctx.config.retransmit, timeout));
        self.pending = Some(pending);
        self.last_sent = ctx.now;
        ctx.send(&self.path, message);
    }

    // --- datagrams ---

    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        let wanted = if header.flags.response {
            self.window.awaits(header.message_id) && self.response.is_none()
        } else {
            !repeated(&self.window, &self.protection, ctx, arrival) && self.request.is_none()
        };
        if !wanted {
            return Some(Sa::Up(self));
        }
        let opened = match self.protection.open(arrival.bytes) {
            Ok(opened) => opened,
            Err(e) => {
                log!(debug, self.config.name, "dropped a message from {}: {e}", arrival.remote);
                return Some(Sa::Up(self));
            }
        };
        self.last_heard = ctx.now;
        self.follow(ctx, arrival.local, arrival.remote);
        let Arrival { local, remote, header, .. } = *arrival;
        self.on_message(ctx, Message { local, remote, header, opened })
    }

    /// Takes in a message, or one that waited for a job, with what the job brought at hand.
    pub(crate) fn on_message(self: Box<Self>, ctx: &mut Ctx<'_>, message: Message) -> Option<Sa> {
        let next = if message.header.flags.response {
            self.on_response(ctx, message)
        } else {
            self.on_request(ctx, message)
        };
        next.map(|sa| match sa {
            Sa::Up(mut sa) => {
                sa.send_next(ctx);
                Sa::Up(sa)
            }
            other => other,
        })
    }

    fn on_response(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: Message) -> Option<Sa> {
        let body = &match message.opened.body() {
            Ok(body) => body,
            Err(e) => return self.on_bad_response(ctx, e),
        };
        if self.agreement_waits(ctx, body) {
            self.response = Some(Box::new(message));
            return Some(Sa::Up(self));
        }
        self.window.answered();
        let ends = (message.local, message.remote);
        if !matches!(self.pending, Some(Pending::Update(_))) {
            self.on_answer_path(body, ends);
        }
        match self.pending.take() {
            Some(pending) if pending.is_in_rounds() => self.finish_round(ctx, pending, body),
            Some(Pending::Update(update)) => self.finish_update(ctx, &update, body, ends),
            Some(Pending::ReturnCheck(check)) => self.finish_return_check(ctx, &check, body),
            Some(Pending::Child(exchange)) => self.finish_child(ctx, *exchange, body),
            Some(Pending::Ike(exchange)) => self.finish_ike(ctx, *exchange, body),
            Some(Pending::DeleteChild(inbound, reason)) => self.drop_child(ctx, inbound, reason),
            Some(Pending::DeleteIke) => return None,
            Some(Pending::Liveness | Pending::DeleteStray | Pending::Abandoned) | None => {}
        }
        Some(Sa::Up(self))
    }

    /// An authentic answer that cannot be read: the peer is broken (RFC 7296 2.21.3).
    fn on_bad_response(mut self: Box<Self>, ctx: &mut Ctx<'_>, error: WireError) -> Option<Sa> {
        self.window.answered();
        let phase = self.pending.as_ref().map_or(Phase::Informational, Pending::phase);
        if self.serves() {
            ctx.failed(self.failure(phase, error.into()));
        }
        if matches!(self.pending, Some(Pending::DeleteIke)) {
            return None;
        }
        self.close(ctx, DownReason::PeerError);
        Some(Sa::Up(self))
    }

    fn on_request(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: Message) -> Option<Sa> {
        let exchange = message.header.exchange;
        let reply = match (exchange, &message.opened.body()) {
            (_, Err(e)) => self.on_bad_request(ctx, *e),
            (Exchange::CreateChild, Ok(body)) => self.on_create_child(ctx, body),
            (Exchange::FollowupKe, Ok(body)) => self.on_followup(ctx, body),
            (Exchange::Informational, Ok(body)) => {
                self.on_informational(ctx, body, (message.local, message.remote))
            }
            (other, Ok(_)) => {
                log!(debug, self.config.name, "the peer sent {other:?} to an established IKE SA");
                Reply::notify(notify::INVALID_SYNTAX, &[])
            }
        };
        let (chain, end) = match reply {
            Reply::Answer(chain) => (chain, None),
            Reply::Last(chain, reason) => (chain, Some(reason)),
            Reply::Later => {
                self.request = Some(Box::new(message));
                return Some(Sa::Up(self));
            }
        };
        // What a job brought was for this request and no other.
        self.answering = None;
        let header = self.header(exchange, true, message.header.message_id);
        let response = self.protection.seal(&header, &chain);
        self.window.respond_to(message.opened.fingerprint(), response.clone());
        self.last_sent = ctx.now;
        ctx.transmit(message.local, message.remote, response);
        match end {
            None => Some(Sa::Up(self)),
            Some(reason) => {
                let (peer_spi, initiator) = (self.peer_spi(), self.initiator);
                let window = self.leave(ctx, reason);
                Some(Closed::remember(ctx.now, peer_spi, initiator, window))
            }
        }
    }

    fn on_bad_request(&mut self, ctx: &mut Ctx<'_>, error: WireError) -> Reply {
        let cause = Cause::Malformed(error);
        let mut chain = Chain::new();
        let data = cause.notify_data();
        let told = cause.notify().unwrap_or(notify::INVALID_SYNTAX);
        chain.push(&Payload::Notify(Notify::new(told, &data)));
        // RFC 7296 2.5: only the message with the unknown critical payload is rejected.
        if matches!(error, WireError::UnsupportedCritical(_)) {
            log!(debug, self.config.name, "rejected a request: {error}");
            return Reply::Answer(chain);
        }
        // RFC 7296 2.21.3: INVALID_SYNTAX is fatal to both.
        ctx.failed(self.failure(Phase::Informational, cause));
        Reply::Last(chain, DownReason::PeerError)
    }
}
