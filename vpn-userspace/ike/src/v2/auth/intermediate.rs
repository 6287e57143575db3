//! IKE_INTERMEDIATE (RFC 9242) for what it serves here: the additional key exchanges between IKE_SA_INIT and IKE_AUTH
//! (RFC 9370 2.2.2), one in each round; both roles. Each round is protected by the keys from before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::{DhGroup, SharedSecret};
use culvert_types::TunnelId;

use super::{AuthSent, HalfOpen, Handshake};
use crate::PeerConfig;
use crate::auth::int_auth::Chunks;
use crate::auth::signing::Signing;
use crate::ctx::{Ctx, log};
use crate::error::{Cause, Failure, Phase};
use crate::job::Done;
use crate::kex::{Agreement, Answering, Half};
use crate::keymat::{IkeKeys, rekey_seed};
use crate::protect::Protection;
use crate::v2::{Arrival, Message, Sa};
use crate::window::{Due, Retransmission, Window};
use crate::wire::{Body, Chain, Exchange, Notify, Payload, notify};

impl Handshake {
    /// Ends a round: what it brought goes into the keys, and its messages into what AUTH signs. Returns the protection
    /// from before it.
    fn advance(
        &mut self,
        shared: &SharedSecret,
        request: &Chunks,
        response: &Chunks,
        next_id: u32,
        ctx: &Ctx<'_>,
    ) -> Protection {
        let prf = self.suite.prf;
        self.int_auth.add(prf, (&self.keys.sk_pi, request), (&self.keys.sk_pr, response), next_id);
        // RFC 9370 2.2.2: SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr).
        let seed = rekey_seed(prf, &self.keys.sk_d, self.nonces(), shared, &[]);
        self.keys = IkeKeys::derive(&self.suite, &seed, self.nonces(), self.spi_i, self.spi_r);
        let next = self.protection.renewed(self.suite.protection, &self.keys);
        let next = next.tapped(ctx.tap, (self.spi_i, self.spi_r), &self.keys);
        std::mem::replace(&mut self.protection, next)
    }
}

/// The initiator, in a round of IKE_INTERMEDIATE.
pub(crate) struct Intermediate {
    pub(crate) tunnel: TunnelId,
    pub(crate) handshake: Handshake,
    config: Arc<PeerConfig>,
    /// The tunnel has an IKE SA, which this one is to replace.
    beside: bool,
    window: Window,
    half: Half,
    /// The methods of the rounds after this one.
    left: VecDeque<DhGroup>,
    /// The request of this round, as AUTH signs it.
    request: Option<Chunks>,
    /// The authentic answer, while a job is at work on the agreement.
    response: Option<Box<Message>>,
    /// When a job of this round must have come back.
    patience: Instant,
}

/// Where a negotiation stands after IKE_SA_INIT.
pub(crate) fn go_on(
    ctx: &mut Ctx<'_>,
    tunnel: TunnelId,
    config: Arc<PeerConfig>,
    handshake: Handshake,
    beside: bool,
) -> Option<Sa> {
    let mut left: VecDeque<DhGroup> = handshake.suite.additional.methods().collect();
    let window = Window::new(1, 0);
    let Some(method) = left.pop_front() else {
        return AuthSent::start(ctx, tunnel, config, handshake, window, beside, Signing::default());
    };
    let half = match Half::start(ctx, handshake.spi_i, method) {
        Ok(half) => half,
        Err(e) => {
            ctx.failed(Failure::new(Some(tunnel), &config.name, Phase::Intermediate, e.into()));
            return None;
        }
    };
    let mut state = Box::new(Intermediate {
        tunnel,
        handshake,
        config,
        beside,
        window,
        half,
        left,
        request: None,
        response: None,
        patience: ctx.now + ctx.config.half_open_lifetime,
    });
    state.send(ctx);
    Some(Sa::Intermediate(state))
}

impl Intermediate {
    /// Sends the request of this round, once there is a public value to put into it.
    fn send(&mut self, ctx: &mut Ctx<'_>) {
        let Some(data) = self.half.public() else { return };
        let mut chain = Chain::new();
        chain.push(&Payload::Ke { group: self.half.group().iana(), data });
        let header = self.handshake.header(true, false, Exchange::Intermediate, self.window.next_id());
        self.request = Some(Protection::chunks(&header, &chain));
        let message = self.handshake.protection.seal(&header, &chain);
        self.window.sent(message.clone(), Retransmission::new(ctx.now, &ctx.config.retransmit, None));
        ctx.send(&self.handshake.path, message);
    }

    pub(crate) fn on_response(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        let fits = header.exchange == Exchange::Intermediate && header.flags.response;
        if !fits || !self.window.awaits(header.message_id) || self.response.is_some() {
            return Some(Sa::Intermediate(self));
        }
        match self.handshake.open(arrival) {
            Ok(message) => self.on_message(ctx, message),
            Err(e) => {
                log!(debug, self.config.name, "dropped an answer to IKE_INTERMEDIATE: {e}");
                Some(Sa::Intermediate(self))
            }
        }
    }

    fn on_message(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: Message) -> Option<Sa> {
        let agreed = match message.opened.body() {
            Ok(body) => self.agree(ctx, &body),
            Err(e) => Err(e.into()),
        };
        match agreed {
            Ok(None) => {
                self.response = Some(Box::new(message));
                self.patience = ctx.now + ctx.config.half_open_lifetime;
                Some(Sa::Intermediate(self))
            }
            Ok(Some(shared)) => self.next(ctx, &message, &shared),
            Err(cause) => {
                self.fail(ctx, cause);
                None
            }
        }
    }

    /// The secret that this round brings; `None` while a job is at work on it.
    fn agree(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>) -> Result<Option<SharedSecret>, Cause> {
        let Some((group, value)) = body.ke() else {
            return Err(match body.error() {
                Some(n) if n.kind == notify::AUTHENTICATION_FAILED => Cause::AuthenticationRefused,
                Some(n) => Cause::Refused(n.kind),
                None => Cause::MissingPayload("KE"),
            });
        };
        if group != self.half.group().iana() {
            return Err(Cause::WrongChoice);
        }
        match self.half.agree(ctx, value) {
            Agreement::Later => Ok(None),
            Agreement::Done(shared) => Ok(Some(shared?)),
        }
    }

    /// The next round, or IKE_AUTH.
    fn next(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: &Message, shared: &SharedSecret) -> Option<Sa> {
        self.window.answered();
        let request = self.request.take()?;
        let next_id = self.window.next_id();
        drop(self.handshake.advance(shared, &request, &message.opened.chunks(), next_id, ctx));
        let Some(method) = self.left.pop_front() else {
            let Self { tunnel, handshake, config, beside, window, .. } = *self;
            return AuthSent::start(ctx, tunnel, config, handshake, window, beside, Signing::default());
        };
        match Half::start(ctx, self.handshake.spi_i, method) {
            Ok(half) => self.half = half,
            Err(e) => {
                self.fail(ctx, e.into());
                return None;
            }
        }
        self.patience = ctx.now + ctx.config.half_open_lifetime;
        self.send(ctx);
        Some(Sa::Intermediate(self))
    }

    fn fail(&self, ctx: &mut Ctx<'_>, cause: Cause) {
        ctx.failed(Failure::new(Some(self.tunnel), &self.config.name, Phase::Intermediate, cause));
    }

    /// A key pair is made, or an agreement with the answer that waits for it.
    pub(crate) fn on_job(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        done: &mut Option<Done>,
    ) -> Option<Sa> {
        match (self.half.on_job(number, done), self.response.take()) {
            (None, response) => {
                self.response = response;
                Some(Sa::Intermediate(self))
            }
            (Some(Err(e)), _) => {
                self.fail(ctx, e.into());
                None
            }
            (Some(Ok(())), Some(message)) => self.on_message(ctx, *message),
            (Some(Ok(())), None) => {
                self.send(ctx);
                Some(Sa::Intermediate(self))
            }
        }
    }

    /// When the request is to be repeated, or a job must have come back: an answer that waits for one is an answer.
    pub(crate) fn deadline(&self) -> (Instant, &'static str) {
        match self.window.inflight().filter(|_| self.response.is_none()) {
            Some(inflight) => (inflight.retransmission.deadline(), "retransmit IKE_INTERMEDIATE"),
            None => (self.patience, "a key exchange must be computed"),
        }
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        let inflight = self.window.inflight_mut().filter(|_| self.response.is_none());
        let Some(inflight) = inflight else {
            if ctx.now < self.patience {
                return Some(Sa::Intermediate(self));
            }
            self.fail(ctx, Cause::Unfinished);
            return None;
        };
        match inflight.retransmission.on_timeout(ctx.now) {
            Due::Nothing => {}
            Due::Again => {
                let message = inflight.message.clone();
                log!(debug, self.config.name, "repeating IKE_INTERMEDIATE to {}", self.handshake.path.remote);
                ctx.send(&self.handshake.path, message);
            }
            Due::GiveUp(after) => {
                self.fail(ctx, Cause::GoneAfterInit(after));
                return None;
            }
        }
        Some(Sa::Intermediate(self))
    }
}

/// What the responder knows of the rounds between IKE_SA_INIT and IKE_AUTH.
pub(super) struct Rounds {
    left: VecDeque<DhGroup>,
    answering: Option<Answering>,
    /// The request, while a job is at work on the answer.
    request: Option<Box<Message>>,
    /// What protected the last round, whose request may come once more.
    before: Option<Protection>,
}

impl Rounds {
    pub(super) fn of(handshake: &Handshake) -> Self {
        let left = handshake.suite.additional.methods().collect();
        Self { left, answering: None, request: None, before: None }
    }

    pub(super) fn done(&self) -> bool {
        self.left.is_empty()
    }

    /// Whether a job is at work.
    pub(super) fn wait(&self) -> bool {
        self.request.is_some()
    }

    pub(super) fn expected_exchange(&self) -> Exchange {
        if self.done() { Exchange::Auth } else { Exchange::Intermediate }
    }

    /// Another request is answered.
    pub(super) fn answered(&mut self) {
        self.before = None;
    }

    /// What protects the request before the next one, where that is not what protects the next.
    pub(super) fn protection_before(&self) -> Option<&Protection> {
        self.before.as_ref()
    }
}

impl HalfOpen {
    /// The request of a round.
    pub(super) fn on_intermediate(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: Message) -> Sa {
        let answered = match message.opened.body() {
            Ok(body) => self.answer_round(ctx, &body),
            Err(e) => Err(e.into()),
        };
        let (chain, shared) = match answered {
            Ok(Some(answered)) => answered,
            Ok(None) => {
                self.rounds.request = Some(Box::new(message));
                return Sa::HalfOpen(self);
            }
            Err(cause) => {
                let sole = match self.candidates.as_slice() {
                    [tunnel] => ctx.peers.get(*tunnel).map(|c| (*tunnel, &**c)),
                    _ => None,
                };
                let failure = self.failure(&message, sole, cause).during(Phase::Intermediate);
                return self.reject(ctx, &message, failure);
            }
        };
        let message_id = message.header.message_id;
        let header = self.handshake.header(false, true, Exchange::Intermediate, message_id);
        self.answer(ctx, &message, &chain);
        let (request, response) = (message.opened.chunks(), Protection::chunks(&header, &chain));
        let next_id = message_id.wrapping_add(1);
        self.rounds.before = Some(self.handshake.advance(&shared, &request, &response, next_id, ctx));
        self.rounds.left.pop_front();
        Sa::HalfOpen(self)
    }

    /// Our answer, and the secret that it brings; `None` while a job is at work on it.
    fn answer_round(
        &mut self,
        ctx: &mut Ctx<'_>,
        body: &Body<'_>,
    ) -> Result<Option<(Chain, SharedSecret)>, Cause> {
        let (group, value) = body.ke().ok_or(Cause::MissingPayload("KE"))?;
        let method = self.rounds.left.front().copied().filter(|m| m.iana() == group);
        let method = method.ok_or(Cause::WrongChoice)?;
        let owner = (self.handshake.spi_r, false);
        let Some(answered) = Answering::answer(&mut self.rounds.answering, ctx, owner, (method, value))
        else {
            return Ok(None);
        };
        let answered = answered?;
        let mut chain = Chain::new();
        chain.push(&Payload::Ke { group, data: &answered.public });
        Ok(Some((chain, answered.shared)))
    }

    /// Our half of a round is there, or our signature.
    pub(crate) fn on_job(mut self: Box<Self>, ctx: &mut Ctx<'_>, number: u64, done: &mut Option<Done>) -> Sa {
        if self.signing.on_job(number, done) {
            return self.on_signature(ctx);
        }
        let ours = self.rounds.answering.as_mut().is_some_and(|a| a.on_job(number, done));
        match self.rounds.request.take_if(|_| ours) {
            Some(message) => self.on_intermediate(ctx, *message),
            None => Sa::HalfOpen(self),
        }
    }
}

/// Says that we have IKE_INTERMEDIATE (RFC 9242 3.1).
pub(crate) fn announce(chain: &mut Chain) {
    chain.push(&Payload::Notify(Notify::new(notify::INTERMEDIATE_SUPPORTED, &[])));
}
