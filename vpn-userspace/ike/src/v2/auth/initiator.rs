//! IKE_AUTH as initiator: our proof goes out, the peer's comes back.

use std::sync::Arc;
use std::time::Instant;

use culvert_types::TunnelId;

use super::eap_client;
use super::ppk::Offered;
use super::proving::{self, Proving};
use super::{Handshake, JUDGEMENT, Verdict, proves};
use crate::auth::signing::Signing;
use crate::auth::{self, signature};
use crate::ctx::{Ctx, Effect, log};
use crate::error::{Cause, Failure, Phase};
use crate::keymat::child_keys;
use crate::v2::child::{Offer, Refusal};
use crate::v2::sa::{IkeSa, Task};
use crate::v2::{Arrival, Message, Sa, mobike, pairs, vip};
use crate::window::{Due, Retransmission, Window};
use crate::wire::{Body, Chain, Exchange, Id, Notify, Payload, kind, notify};
use crate::{CheckId, Childless, Event, Identity, LocalAuth, PeerConfig, selector};

/// The initiator, waiting for the answer to IKE_AUTH.
pub(crate) struct AuthSent {
    pub(crate) tunnel: TunnelId,
    pub(crate) handshake: Handshake,
    pub(crate) window: Window,
    pub(super) config: Arc<PeerConfig>,
    /// `None`: no CHILD SA is asked for here (RFC 6023).
    offer: Option<Offer>,
    /// The answer that waits for a verdict on the peer's certificate.
    judging: Option<Judging>,
    /// EAP, once it is under way.
    pub(super) eap: Option<eap_client::Client>,
    /// The post-quantum pre-shared key that the request used, until the answer says whether the peer has it.
    pub(super) ppk: Option<Offered>,
}

struct Judging {
    message: Message,
    deadline: Instant,
}

/// The check of the one certificate that an initiator meets.
const CHECK: u64 = 1;

/// Why the peer is not believed, and whether it thinks that it succeeded.
struct Distrust {
    cause: Cause,
    tell: bool,
}

/// How far the peer's answer proves it.
enum Proof {
    Proven(Identity),
    /// For the owner to judge.
    Ask(Identity, Vec<Vec<u8>>),
}

impl AuthSent {
    /// Goes on from IKE_SA_INIT, or from the last IKE_INTERMEDIATE, unless the peer opened an IKE SA of its own meanwhile.
    pub(crate) fn start(
        ctx: &mut Ctx<'_>,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        mut handshake: Handshake,
        mut window: Window,
        beside: bool,
        mut signing: Signing,
    ) -> Option<Sa> {
        if !beside && ctx.is_served(tunnel) {
            log!(debug, config.name, "the peer's own IKE SA came first: ours is given up");
            return None;
        }
        let childless = config.exchange.childless == Childless::Force;
        if childless && !handshake.peer_childless {
            let cause = Cause::ChildlessUnsupported;
            ctx.failed(Failure::new(Some(tunnel), &config.name, Phase::IkeAuth, cause));
            return None;
        }
        let (id_kind, id_data) = config.local_id.to_wire();
        let id = Id { kind: id_kind, reserved: [0; 3], data: &id_data };
        // RFC 7296 2.16: without AUTH, we ask to prove ourselves by EAP.
        let by_eap = matches!(config.auth.local, LocalAuth::Eap(_));
        let proofs = match by_eap {
            true => Ok(None),
            false => proofs(ctx, &config, &mut handshake, id, &mut signing),
        };
        let proofs = match proofs {
            Ok(None) if !by_eap => {
                let patience = ctx.now + ctx.config.half_open_lifetime;
                let state = Proving { tunnel, config, handshake, window, beside, signing, patience };
                return Some(Sa::Proving(Box::new(state)));
            }
            Ok(proofs) => proofs,
            Err(cause) => {
                ctx.failed(Failure::new(Some(tunnel), &config.name, Phase::IkeAuth, cause));
                return None;
            }
        };
        let mut chain = Chain::new();
        chain.push(&Payload::IdI(id));
        if let Some(signer) = config.auth.local.as_signer() {
            signer.write_certificates(&mut chain);
        }
        // RFC 7296 2.4: no other IKE SA with this peer is known here.
        if !beside {
            chain.push(&Payload::Notify(Notify::new(notify::INITIAL_CONTACT, &[])));
        }
        if let Some(trust) = config.auth.remote.as_trust() {
            signature::write_request(&mut chain, std::iter::once(trust));
        }
        let remote_id = config.remote_id.as_ref().filter(|id| !id.is_pattern());
        if let Some((kind, data)) = remote_id.map(Identity::to_wire) {
            chain.push(&Payload::IdR(Id { kind, reserved: [0; 3], data: &data }));
        }
        let ppk = proofs.and_then(|Proofs { plain, mixed, ppk }| {
            let proof = mixed.as_ref().unwrap_or(&plain);
            chain.push(&Payload::Auth { method: proof.method, data: &proof.data });
            if let (Some(offered), Some(ppk)) = (&ppk, &config.exchange.ppk) {
                Offered::write(&mut chain, ppk, offered.optional().then_some(&plain.data));
            }
            ppk
        });
        mobike::offer(&mut chain, ctx, &config);
        if by_eap && config.exchange.eap_only {
            chain.push(&Payload::Notify(Notify::new(notify::EAP_ONLY_AUTHENTICATION, &[])));
        }
        vip::request(&mut chain, &config);
        let scope = pairs::wanted(&config, false).into_iter().next().flatten();
        let offer = (!childless).then(|| Offer::new(ctx, &config, handshake.spi_i, false, scope));
        offer.iter().for_each(|offer| offer.write(&mut chain));
        let header = handshake.header(true, false, Exchange::Auth, window.next_id());
        let bytes = handshake.protection.seal(&header, &chain);
        window.sent(bytes.clone(), Retransmission::new(ctx.now, &ctx.config.retransmit, None));
        ctx.send(&handshake.path, bytes);
        let (judging, eap) = (None, None);
        Some(Sa::AuthSent(Box::new(Self { tunnel, handshake, window, config, offer, judging, eap, ppk })))
    }

    pub(crate) fn on_response(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        let fits = header.exchange == Exchange::Auth && header.flags.response;
        if !fits || !self.window.awaits(header.message_id) {
            return Some(Sa::AuthSent(self));
        }
        match self.handshake.open(arrival) {
            Ok(message) => {
                self.window.answered();
                if self.eap.is_some() {
                    self.on_eap(ctx, &message)
                } else {
                    self.on_message(ctx, message, None)
                }
            }
            Err(e) => {
                log!(debug, self.config.name, "dropped an answer to IKE_AUTH: {e}");
                Some(Sa::AuthSent(self))
            }
        }
    }

    /// The owner's verdict on the peer's certificate.
    pub(crate) fn on_checked(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        verdict: &Verdict,
    ) -> Option<Sa> {
        match self.judging.take_if(|_| number == CHECK) {
            Some(judging) => self.on_message(ctx, judging.message, Some(verdict)),
            None => Some(Sa::AuthSent(self)),
        }
    }

    fn on_message(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        message: Message,
        verdict: Option<&Verdict>,
    ) -> Option<Sa> {
        let proof = match message.opened.body() {
            Ok(body) => self.settle_ppk(&body).and_then(|()| self.verify(&body, verdict)),
            Err(e) => Err(Distrust { cause: e.into(), tell: true }),
        };
        match proof {
            Ok(Proof::Proven(remote_id)) => {
                let body = message.opened.body().ok();
                if body.is_some_and(|body| self.begin_eap(ctx, &body, &remote_id)) {
                    return self.on_eap(ctx, &message);
                }
                Some(self.establish(ctx, &message, remote_id))
            }
            Ok(Proof::Ask(identity, chain)) => {
                let check = CheckId { sa: self.handshake.spi_i, number: CHECK };
                ctx.event(Event::CheckCertificate { check, tunnel: self.tunnel, identity, chain });
                self.judging = Some(Judging { message, deadline: ctx.now + JUDGEMENT });
                Some(Sa::AuthSent(self))
            }
            Err(Distrust { cause, tell }) => {
                self.abandon(ctx, cause, tell);
                None
            }
        }
    }

    /// Whether the peer has the post-quantum pre-shared key; an answer without AUTH says nothing of it.
    fn settle_ppk(&mut self, body: &Body<'_>) -> Result<(), Distrust> {
        match self.ppk.take_if(|_| body.auth().is_some()) {
            Some(offered) => {
                offered.settle(&mut self.handshake, body).map_err(|cause| Distrust { cause, tell: true })
            }
            None => Ok(()),
        }
    }

    fn verify(&self, body: &Body<'_>, verdict: Option<&Verdict>) -> Result<Proof, Distrust> {
        let quiet = |cause| Distrust { cause, tell: false };
        let aloud = |cause| Distrust { cause, tell: true };
        // RFC 5998 4: the responder goes straight to EAP, which will prove it, too.
        let eap_only = self.config.exchange.eap_only && matches!(self.config.auth.local, LocalAuth::Eap(_));
        if let (true, Some(id), None, true) = (eap_only, body.id_r(), body.auth(), body.has(kind::EAP)) {
            let remote_id = Identity::from_wire(id).map_err(|e| aloud(e.into()))?;
            return match &self.config.remote_id {
                Some(expected) if !expected.matches(&remote_id) => {
                    Err(aloud(Cause::WrongRemoteId { expected: expected.clone(), got: remote_id }))
                }
                _ => Ok(Proof::Proven(remote_id)),
            };
        }
        let (Some(id), Some(auth)) = (body.id_r(), body.auth()) else {
            // RFC 7296 2.21.2: an error about the IKE SA comes without AUTH.
            return Err(match body.error() {
                Some(n) if n.kind == notify::AUTHENTICATION_FAILED => quiet(self.config.auth.local.refused()),
                Some(n) => quiet(Cause::Refused(n.kind)),
                None if body.has(kind::EAP) => aloud(Cause::Eap),
                None => aloud(Cause::MissingPayload(if body.id_r().is_none() { "IDr" } else { "AUTH" })),
            });
        };
        let remote_id = Identity::from_wire(id).map_err(|e| aloud(e.into()))?;
        if let Some(expected) = self.config.remote_id.as_ref().filter(|e| !e.matches(&remote_id)) {
            return Err(aloud(Cause::WrongRemoteId { expected: expected.clone(), got: remote_id }));
        }
        let octets = self.handshake.responder_octets(id);
        match proves(&self.config.auth.remote, &self.handshake, &octets, auth, &remote_id, verdict) {
            Some(Ok(())) => Ok(Proof::Proven(remote_id)),
            Some(Err(cause)) => Err(aloud(cause)),
            None => {
                let chain = signature::read_certificates(body).map_err(aloud)?;
                Ok(Proof::Ask(remote_id, chain))
            }
        }
    }

    pub(super) fn establish(
        self: Box<Self>,
        ctx: &mut Ctx<'_>,
        message: &Message,
        remote_id: Identity,
    ) -> Sa {
        let Self { tunnel, config, mut handshake, window, offer, .. } = *self;
        let Some(offer) = offer else {
            return Self::establish_childless(ctx, (tunnel, config), handshake, window, message, remote_id);
        };
        let accepted = match message.opened.body() {
            Ok(body) => offer.accept(&body).and_then(|mut agreed| {
                // The peer believes that the CHILD SA stands, whatever comes now.
                let stray = |cause| Refusal { peer_has_it: true, ..Refusal::plain(cause) };
                handshake.addresses = vip::read_reply(&body, &config).map_err(stray)?;
                if !handshake.addresses.ours.is_empty() {
                    // RFC 7296 2.19: what we were given is all that we have here.
                    agreed.local_ts =
                        selector::narrow(&agreed.local_ts, &vip::selectors(&handshake.addresses.ours));
                }
                if agreed.local_ts.is_empty() { Err(stray(Cause::NoSelectors)) } else { Ok(agreed) }
            }),
            Err(e) => Err(Refusal::plain(e.into())),
        };
        let made = accepted.map(|agreed| {
            let suite = agreed.suite.protection;
            let keys =
                child_keys(handshake.suite.prf, &handshake.keys.sk_d, None, &[], handshake.nonces(), suite);
            (agreed, keys)
        });
        let mobility = message.opened.body().ok().and_then(|body| mobike::agreed(&config, &body));
        handshake.mobility = mobility.map(Box::new);
        let mut sa = IkeSa::establish(ctx, tunnel, config, handshake, true, remote_id, window);
        sa.follow(ctx, message.local, message.remote);
        match made {
            Ok((agreed, (out_keys, in_keys))) => {
                sa.install(ctx, agreed, in_keys, out_keys, None, true);
                let more = |body: Body<'_>| body.notify(notify::ADDITIONAL_TS_POSSIBLE).is_some();
                if message.opened.body().is_ok_and(more) {
                    sa.more_possible();
                }
            }
            Err(refusal) => {
                let inbound = offer.inbound;
                if refusal.peer_has_it {
                    sa.queue(Task::DeleteStray(inbound));
                } else {
                    ctx.spis.release(inbound);
                }
                if !sa.child_refused(ctx, &refusal.cause, offer.scope) {
                    let failure = sa.failure(Phase::ChildSa, refusal.cause);
                    ctx.failed(failure.offered(refusal.ours, refusal.theirs));
                }
            }
        }
        sa.queue_missing(false);
        sa.learn_mapping();
        ctx.effects.push(Effect::Established { tunnel, key: sa.key(), initial_contact: false });
        sa.send_next(ctx);
        Sa::Up(sa)
    }

    /// RFC 6023: every CHILD SA comes from CREATE_CHILD_SA.
    fn establish_childless(
        ctx: &mut Ctx<'_>,
        (tunnel, config): (TunnelId, Arc<PeerConfig>),
        mut handshake: Handshake,
        window: Window,
        message: &Message,
        remote_id: Identity,
    ) -> Sa {
        let addresses = match message.opened.body() {
            Ok(body) => vip::read_reply(&body, &config),
            Err(e) => Err(e.into()),
        };
        let failed = addresses.map(|addresses| handshake.addresses = addresses).err();
        let mut sa = IkeSa::establish(ctx, tunnel, config, handshake, true, remote_id, window);
        sa.follow(ctx, message.local, message.remote);
        if let Some(cause) = failed {
            ctx.failed(sa.failure(Phase::ChildSa, cause));
        }
        sa.queue_missing(false);
        ctx.effects.push(Effect::Established { tunnel, key: sa.key(), initial_contact: false });
        sa.send_next(ctx);
        Sa::Up(sa)
    }

    fn release(&self, ctx: &mut Ctx<'_>) {
        self.offer.iter().for_each(|offer| ctx.spis.release(offer.inbound));
    }

    pub(super) fn abandon(&mut self, ctx: &mut Ctx<'_>, cause: Cause, tell: bool) {
        if tell {
            // RFC 7296 2.21.2: the responder believes that all is well; tell it, once.
            let told = match cause.notify() {
                Some(notify::INVALID_SYNTAX) => notify::INVALID_SYNTAX,
                _ => notify::AUTHENTICATION_FAILED,
            };
            let mut chain = Chain::new();
            chain.push(&Payload::Notify(Notify::new(told, &[])));
            let id = self.window.next_id();
            let header = self.handshake.header(true, false, Exchange::Informational, id);
            let bytes = self.handshake.protection.seal(&header, &chain);
            ctx.send(&self.handshake.path, bytes);
        }
        self.release(ctx);
        let said = match &cause {
            Cause::AuthenticationRefused | Cause::ProofRefused(_) => {
                let remote =
                    self.config.remote_id.as_ref().map_or_else(|| "any".to_owned(), Identity::to_string);
                let ours = self.config.auth.local.describe(&self.config.local_id);
                Some((format!("{ours}, remote id {remote}"), String::new()))
            }
            Cause::WrongRemoteId { expected, got } => Some((expected.to_string(), got.to_string())),
            _ => None,
        };
        let failure = Failure::new(Some(self.tunnel), &self.config.name, Phase::IkeAuth, cause);
        ctx.failed(match said {
            Some((ours, theirs)) => failure.offered(ours, theirs),
            None => failure,
        });
    }

    /// When something is due, and what.
    pub(crate) fn deadline(&self) -> Option<(Instant, &'static str)> {
        match &self.judging {
            Some(judging) => Some((judging.deadline, "a certificate must be judged")),
            None => self.window.inflight().map(|i| (i.retransmission.deadline(), "retransmit IKE_AUTH")),
        }
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        if let Some(judging) = &self.judging {
            if ctx.now < judging.deadline {
                return Some(Sa::AuthSent(self));
            }
            self.abandon(ctx, Cause::Unjudged(JUDGEMENT), true);
            return None;
        }
        let inflight = self.window.inflight_mut()?;
        match inflight.retransmission.on_timeout(ctx.now) {
            Due::Nothing => {}
            Due::Again => {
                let message = inflight.message.clone();
                let remote = self.handshake.path.remote;
                if inflight.retransmission.worrying() {
                    log!(
                        warn,
                        self.config.name,
                        "no answer from {remote} to IKE_AUTH yet, though it knows IKE_SA_INIT; to mend: let UDP {} pass both ways",
                        remote.port()
                    );
                }
                log!(debug, self.config.name, "repeating IKE_AUTH to {remote}");
                ctx.send(&self.handshake.path, message);
            }
            Due::GiveUp(after) => {
                self.abandon(ctx, Cause::GoneAfterInit(after), false);
                return None;
            }
        }
        Some(Sa::AuthSent(self))
    }

    /// Ends the negotiation without a word.
    pub(crate) fn forget(self, ctx: &mut Ctx<'_>) {
        self.release(ctx);
    }
}

/// Our proofs of an IKE_AUTH request.
struct Proofs {
    plain: auth::Proof,
    mixed: Option<auth::Proof>,
    ppk: Option<Offered>,
}

/// RFC 8784 3: AUTH with the PPK, and without it for a peer that may do without. `None`: a job is at work on one.
fn proofs(
    ctx: &mut Ctx<'_>,
    config: &PeerConfig,
    handshake: &mut Handshake,
    id: Id<'_>,
    signing: &mut Signing,
) -> Result<Option<Proofs>, Cause> {
    let owner = (handshake.spi_i, true);
    let mut prove = |handshake: &Handshake, ctx: &mut Ctx<'_>| {
        let octets = handshake.initiator_octets(id);
        let how = (handshake.suite.prf, handshake.peer_hashes.as_slice());
        proving::prove(ctx, config, how, &octets, owner, signing).transpose()
    };
    let plain = prove(handshake, ctx)?;
    let ppk = Offered::start(handshake, config)?;
    let mixed = if ppk.is_some() { prove(handshake, ctx)? } else { None };
    match (plain, ppk, mixed) {
        (Some(plain), None, _) => Ok(Some(Proofs { plain, mixed: None, ppk: None })),
        (Some(plain), Some(ppk), Some(mixed)) => {
            Ok(Some(Proofs { plain, mixed: Some(mixed), ppk: Some(ppk) }))
        }
        (_, ppk, _) => {
            ppk.into_iter().for_each(|ppk| ppk.withdraw(handshake));
            Ok(None)
        }
    }
}
