//! IKE_AUTH (RFC 7296 1.2, 2.15): identities, pre-shared keys and the first CHILD SA; both roles.

use std::sync::Arc;
use std::time::Instant;

use culvert_types::TunnelId;

use super::child::{self, Offer};
use super::closed::Closed;
use super::ctx::{Ctx, Effect, log};
use super::sa::{IkeSa, Task};
use super::{Arrival, Path, Sa};
use crate::auth::psk::{self, SignedOctets};
use crate::endpoint::AnySa;
use crate::error::{Cause, Failure, Phase};
use crate::keymat::{IkeKeys, Nonces, child_keys};
use crate::protect::Protection;
use crate::window::{Due, Incoming, Retransmission, Window};
use crate::wire::{Body, Chain, Exchange, Flags, Header, Id, Notify, Payload, kind, notify};
use crate::{Identity, IkeSuite, LocalAuth, PeerConfig, RemoteAuth};

/// What IKE_SA_INIT left: keys, and what AUTH signs.
pub(crate) struct Handshake {
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    pub(crate) suite: IkeSuite,
    pub(crate) keys: IkeKeys,
    pub(crate) protection: Protection,
    pub(crate) ni: Vec<u8>,
    pub(crate) nr: Vec<u8>,
    /// Both messages as they were on the wire.
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) path: Path,
    pub(crate) started: Instant,
}

impl Handshake {
    fn nonces(&self) -> Nonces<'_> {
        Nonces { initiator: &self.ni, responder: &self.nr }
    }

    /// InitiatorSignedOctets = RealMessage1 | NonceRData | MACedIDForI.
    fn initiator_octets<'a>(&'a self, id: Id<'a>) -> SignedOctets<'a> {
        SignedOctets { message: &self.request, peer_nonce: &self.nr, sk_p: &self.keys.sk_pi, id }
    }

    /// ResponderSignedOctets = RealMessage2 | NonceIData | MACedIDForR.
    fn responder_octets<'a>(&'a self, id: Id<'a>) -> SignedOctets<'a> {
        SignedOctets { message: &self.response, peer_nonce: &self.ni, sk_p: &self.keys.sk_pr, id }
    }

    fn header(&self, initiator: bool, response: bool, exchange: Exchange, message_id: u32) -> Header {
        let flags = Flags { initiator, response };
        Header { spi_i: self.spi_i, spi_r: self.spi_r, next: 0, exchange, flags, message_id }
    }
}

/// The initiator, waiting for the answer to IKE_AUTH.
pub(crate) struct AuthSent {
    pub(crate) tunnel: TunnelId,
    pub(crate) handshake: Handshake,
    pub(crate) window: Window,
    config: Arc<PeerConfig>,
    offer: Offer,
}

/// Why the peer is not believed, and whether it thinks that it succeeded.
struct Distrust {
    cause: Cause,
    tell: bool,
}

impl AuthSent {
    /// Goes on from IKE_SA_INIT, unless the peer opened an IKE SA of its own meanwhile.
    pub(crate) fn start(
        ctx: &mut Ctx<'_>,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        mut handshake: Handshake,
    ) -> Option<Box<Self>> {
        let up = |sa: &AnySa| matches!(sa, AnySa::V2(Sa::Up(s)) if s.tunnel == tunnel && s.serves());
        if ctx.others.values().any(up) {
            log!(debug, config.name, "the peer's own IKE SA came first: ours is given up");
            return None;
        }
        let prf = handshake.suite.prf;
        let (id_kind, id_data) = config.local_id.to_wire();
        let id = Id { kind: id_kind, reserved: [0; 3], data: &id_data };
        let LocalAuth::Psk(key) = &config.auth.local;
        let auth = psk::sign(prf, key, &handshake.initiator_octets(id));
        let mut chain = Chain::new();
        chain.push(&Payload::IdI(id));
        // RFC 7296 2.4: no other IKE SA with this peer is known here.
        chain.push(&Payload::Notify(Notify::new(notify::INITIAL_CONTACT, &[])));
        if let Some((kind, data)) = config.remote_id.as_ref().map(Identity::to_wire) {
            chain.push(&Payload::IdR(Id { kind, reserved: [0; 3], data: &data }));
        }
        chain.push(&Payload::Auth { method: psk::METHOD, data: &auth });
        let offer = Offer::new(ctx, &config, handshake.spi_i, false);
        offer.write(&mut chain);
        let header = handshake.header(true, false, Exchange::Auth, 1);
        let bytes = handshake.protection.seal(&header, &chain);
        let mut window = Window::new(1, 0);
        window.sent(bytes.clone(), Retransmission::new(ctx.now, &ctx.config.retransmit, None));
        ctx.send(&handshake.path, bytes);
        Some(Box::new(Self { tunnel, handshake, window, config, offer }))
    }

    pub(crate) fn on_response(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        let fits = header.exchange == Exchange::Auth && header.flags.response;
        if !fits || !self.window.awaits(header.message_id) {
            return Some(Sa::AuthSent(self));
        }
        let opened = match self.handshake.protection.open(arrival.bytes) {
            Ok(opened) => opened,
            Err(e) => {
                log!(debug, self.config.name, "dropped an answer to IKE_AUTH: {e}");
                return Some(Sa::AuthSent(self));
            }
        };
        let remote_id = match opened.body() {
            Ok(body) => self.verify(&body).map(|id| (id, body)),
            Err(e) => Err(Distrust { cause: e.into(), tell: true }),
        };
        match remote_id {
            Ok((remote_id, body)) => Some(self.establish(ctx, arrival, remote_id, &body)),
            Err(Distrust { cause, tell }) => {
                self.abandon(ctx, cause, tell);
                None
            }
        }
    }

    fn verify(&self, body: &Body<'_>) -> Result<Identity, Distrust> {
        let quiet = |cause| Distrust { cause, tell: false };
        let aloud = |cause| Distrust { cause, tell: true };
        let (Some(id), Some((method, auth))) = (body.id_r(), body.auth()) else {
            // RFC 7296 2.21.2: an error about the IKE SA comes without AUTH.
            return Err(match body.error() {
                Some(n) if n.kind == notify::AUTHENTICATION_FAILED => quiet(Cause::AuthenticationRefused),
                Some(n) => quiet(Cause::Refused(n.kind)),
                None if body.has(kind::EAP) => aloud(Cause::Eap),
                None => aloud(Cause::MissingPayload(if body.id_r().is_none() { "IDr" } else { "AUTH" })),
            });
        };
        let remote_id = Identity::from_wire(id).map_err(|e| aloud(e.into()))?;
        if let Some(expected) = self.config.remote_id.as_ref().filter(|e| **e != remote_id) {
            return Err(aloud(Cause::WrongRemoteId { expected: expected.clone(), got: remote_id }));
        }
        if method != psk::METHOD {
            return Err(aloud(Cause::AuthMethod(method)));
        }
        let octets = self.handshake.responder_octets(id);
        let RemoteAuth::Psk(key) = &self.config.auth.remote;
        if psk::verify(self.handshake.suite.prf, key, &octets, auth) {
            Ok(remote_id)
        } else {
            Err(aloud(Cause::WrongPsk(remote_id)))
        }
    }

    fn establish(
        self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        remote_id: Identity,
        body: &Body<'_>,
    ) -> Sa {
        let Self { tunnel, config, handshake, mut window, offer } = *self;
        window.answered();
        let accepted = offer.accept(body);
        let made = accepted.map(|agreed| {
            let suite = agreed.suite.protection;
            let keys = child_keys(handshake.suite.prf, &handshake.keys.sk_d, None, handshake.nonces(), suite);
            (agreed, keys)
        });
        let mut sa = IkeSa::establish(ctx, tunnel, config, handshake, true, remote_id, window);
        sa.follow(ctx, arrival.local, arrival.remote);
        match made {
            Ok((agreed, (out_keys, in_keys))) => sa.install(ctx, agreed, in_keys, out_keys, None, true),
            Err(refusal) => {
                let inbound = offer.inbound;
                if refusal.peer_has_it {
                    sa.queue(Task::DeleteStray(inbound));
                } else {
                    ctx.spis.release(inbound);
                }
                let failure = sa.failure(Phase::ChildSa, refusal.cause);
                ctx.failed(failure.offered(refusal.ours, refusal.theirs));
            }
        }
        ctx.effects.push(Effect::Established { tunnel, key: sa.key(), initial_contact: false });
        sa.send_next(ctx);
        Sa::Up(sa)
    }

    fn abandon(&mut self, ctx: &mut Ctx<'_>, cause: Cause, tell: bool) {
        if tell {
            // RFC 7296 2.21.2: the responder believes that all is well; tell it, once.
            let told = match cause.notify() {
                Some(notify::INVALID_SYNTAX) => notify::INVALID_SYNTAX,
                _ => notify::AUTHENTICATION_FAILED,
            };
            let mut chain = Chain::new();
            chain.push(&Payload::Notify(Notify::new(told, &[])));
            let header = self.handshake.header(true, false, Exchange::Informational, 2);
            let bytes = self.handshake.protection.seal(&header, &chain);
            ctx.send(&self.handshake.path, bytes);
        }
        ctx.spis.release(self.offer.inbound);
        let (ours, theirs) = match &cause {
            Cause::AuthenticationRefused => {
                let remote =
                    self.config.remote_id.as_ref().map_or_else(|| "any".to_owned(), Identity::to_string);
                (format!("local id {}, remote id {remote}", self.config.local_id), String::new())
            }
            Cause::WrongRemoteId { expected, got } => (expected.to_string(), got.to_string()),
            _ => (String::new(), String::new()),
        };
        let failure = Failure::new(Some(self.tunnel), &self.config.name, Phase::IkeAuth, cause);
        ctx.failed(failure.offered(ours, theirs));
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        let inflight = self.window.inflight_mut()?;
        match inflight.retransmission.on_timeout(ctx.now) {
            Due::Nothing => {}
            Due::Again => {
                let bytes = inflight.bytes.clone();
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
                ctx.send(&self.handshake.path, bytes);
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
        ctx.spis.release(self.offer.inbound);
    }
}

/// The responder, waiting for IKE_AUTH.
pub(crate) struct HalfOpen {
    pub(crate) handshake: Handshake,
    pub(crate) expires: Instant,
    /// The tunnels that the addresses allow, best first.
    pub(crate) candidates: Vec<TunnelId>,
}

/// A peer whose AUTH verified.
struct Proven {
    tunnel: TunnelId,
    config: Arc<PeerConfig>,
    remote_id: Identity,
}

impl HalfOpen {
    /// IKE_SA_INIT again: the same answer to the same bytes.
    pub(crate) fn repeat(&self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) {
        if arrival.bytes == self.handshake.request {
            ctx.transmit(arrival.local, arrival.remote, self.handshake.response.clone());
        }
    }

    pub(crate) fn on_request(self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        if header.exchange != Exchange::Auth || header.flags.response || header.message_id != 1 {
            return Some(Sa::HalfOpen(self));
        }
        let opened = match self.handshake.protection.open(arrival.bytes) {
            Ok(opened) => opened,
            Err(e) => {
                tracing::debug!(remote = %arrival.remote, "dropped an IKE_AUTH request: {e}");
                return Some(Sa::HalfOpen(self));
            }
        };
        let body = match opened.body() {
            Ok(body) => body,
            Err(e) => {
                let failure = self.failure(arrival, None, e.into());
                return Some(self.reject(ctx, arrival, failure));
            }
        };
        match self.verify(ctx, arrival, &body) {
            Ok(proven) => Some(self.establish(ctx, arrival, proven, &body)),
            Err(failure) => Some(self.reject(ctx, arrival, *failure)),
        }
    }

    fn failure(&self, arrival: &Arrival<'_>, of: Option<(TunnelId, &PeerConfig)>, cause: Cause) -> Failure {
        match of {
            Some((tunnel, config)) => Failure::new(Some(tunnel), &config.name, Phase::IkeAuth, cause),
            None => Failure::new(None, &arrival.remote.ip().to_string(), Phase::IkeAuth, cause),
        }
    }

    /// Which tunnel the peer means, and whether it holds that tunnel's key.
    fn verify(&self, ctx: &Ctx<'_>, arrival: &Arrival<'_>, body: &Body<'_>) -> Result<Proven, Box<Failure>> {
        let known: Vec<(TunnelId, &Arc<PeerConfig>)> = self
            .candidates
            .iter()
            .filter_map(|t| ctx.peers.get(*t).map(|c| (*t, c)))
            .filter(|(_, c)| c.ike_proposals.iter().any(|p| p.allows(&self.handshake.suite)))
            .collect();
        let sole = match known.as_slice() {
            [(tunnel, config)] => Some((*tunnel, &***config)),
            _ => None,
        };
        let fail = |cause| Box::new(self.failure(arrival, sole, cause));
        let id_i = body.id_i().ok_or_else(|| fail(Cause::MissingPayload("IDi")))?;
        let remote_id = Identity::from_wire(id_i).map_err(|e| fail(e.into()))?;
        // Without AUTH the peer asks for EAP (RFC 7296 2.16).
        let (method, auth) = body.auth().ok_or_else(|| fail(Cause::Eap))?;
        let asked = body.id_r().map(|id| (Identity::from_wire(id).ok(), id));
        let local_fits = |c: &PeerConfig| match &asked {
            None => true,
            Some((Some(id), _)) => *id == c.local_id,
            Some((None, _)) => false,
        };
        let remote_fits = |c: &PeerConfig| c.remote_id.as_ref().is_none_or(|id| *id == remote_id);
        let mut fitting: Vec<_> = known.iter().filter(|(_, c)| local_fits(c) && remote_fits(c)).collect();
        if fitting.is_empty() {
            let wrong_remote = known.iter().find(|(_, c)| local_fits(c)).filter(|_| known.len() == 1);
            let cause = match wrong_remote.and_then(|(_, c)| c.remote_id.clone()) {
                Some(expected) => Cause::WrongRemoteId { expected, got: remote_id.clone() },
                None => {
                    let local = match &asked {
                        None => "any".to_owned(),
                        Some((Some(id), _)) => id.to_string(),
                        Some((None, id)) => format!("of type {}", id.kind),
                    };
                    Cause::NoSuchPeer { local, remote: remote_id.clone() }
                }
            };
            let pairs = known.iter().take(8).map(|(_, c)| {
                let remote = c.remote_id.as_ref().map_or_else(|| "any".to_owned(), Identity::to_string);
                format!("local id {}, remote id {remote}", c.local_id)
            });
            let ours = pairs.collect::<Vec<_>>().join("; ");
            return Err(Box::new(fail(cause).offered(ours, format!("remote id {remote_id}"))));
        }
        if method != psk::METHOD {
            return Err(fail(Cause::AuthMethod(method)));
        }
        for part in ["SA", "TSi", "TSr"] {
            let there = match part {
                "SA" => body.sa().is_some(),
                "TSi" => body.ts_i().is_some(),
                _ => body.ts_r().is_some(),
            };
            if !there {
                return Err(fail(Cause::MissingPayload(part)));
            }
        }
        // A tunnel that names this peer before one that takes anybody; then the one whose key fits.
        fitting.sort_by_key(|(_, c)| c.remote_id.is_none());
        let octets = self.handshake.initiator_octets(id_i);
        let prf = self.handshake.suite.prf;
        let has_key = |c: &PeerConfig| match &c.auth.remote {
            RemoteAuth::Psk(key) => psk::verify(prf, key, &octets, auth),
        };
        match fitting.iter().find(|(_, c)| has_key(c)) {
            Some((tunnel, config)) => Ok(Proven { tunnel: *tunnel, config: Arc::clone(config), remote_id }),
            None => {
                let first = fitting.first().map(|(t, c)| (*t, &***c));
                Err(Box::new(self.failure(arrival, first, Cause::WrongPsk(remote_id))))
            }
        }
    }

    /// RFC 7296 2.21.2: the error goes back protected, and that is all.
    fn reject(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>, failure: Failure) -> Sa {
        let told = failure.cause.notify().unwrap_or(notify::AUTHENTICATION_FAILED);
        let data = failure.cause.notify_data();
        let mut chain = Chain::new();
        chain.push(&Payload::Notify(Notify::new(told, &data)));
        let header = self.handshake.header(false, true, Exchange::Auth, 1);
        let response = self.handshake.protection.seal(&header, &chain);
        ctx.stranger_failed(failure);
        ctx.transmit(arrival.local, arrival.remote, response.clone());
        let mut window = Window::new(0, 1);
        window.respond(arrival.bytes, response);
        Closed::remember(ctx.now, self.handshake.spi_i, false, window)
    }

    fn establish(
        self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        proven: Proven,
        body: &Body<'_>,
    ) -> Sa {
        let Proven { tunnel, config, remote_id } = proven;
        let mut handshake = self.handshake;
        handshake.path.local = arrival.local;
        handshake.path.remote = arrival.remote;
        // Only a peer that came to port 4500 takes ESP in UDP there (RFC 7296 2.23).
        handshake.path.encap &= arrival.local.port() == config.local_natt.port();

        let (id_kind, id_data) = config.local_id.to_wire();
        let id = Id { kind: id_kind, reserved: [0; 3], data: &id_data };
        let LocalAuth::Psk(key) = &config.auth.local;
        let auth = psk::sign(handshake.suite.prf, key, &handshake.responder_octets(id));
        let mut chain = Chain::new();
        chain.push(&Payload::IdR(id));
        chain.push(&Payload::Auth { method: psk::METHOD, data: &auth });
        let chosen = child::choose(ctx, &config, handshake.spi_r, body, false);
        let made = chosen.map(|(agreed, answer)| {
            let suite = agreed.suite.protection;
            let keys = child_keys(handshake.suite.prf, &handshake.keys.sk_d, None, handshake.nonces(), suite);
            child::write_answer(&mut chain, answer, &agreed);
            (agreed, keys)
        });
        if let Err(refusal) = &made {
            // RFC 7296 1.2: the IKE SA stands although the CHILD SA failed.
            let told = refusal.cause.notify().unwrap_or(notify::NO_PROPOSAL_CHOSEN);
            chain.push(&Payload::Notify(Notify::new(told, &[])));
        }
        let header = handshake.header(false, true, Exchange::Auth, 1);
        let response = handshake.protection.seal(&header, &chain);
        let mut window = Window::new(0, 1);
        window.respond(arrival.bytes, response.clone());

        let mut sa = IkeSa::establish(ctx, tunnel, config, handshake, false, remote_id, window);
        match made {
            Ok((agreed, (in_keys, out_keys))) => sa.install(ctx, agreed, in_keys, out_keys, None, true),
            Err(refusal) => {
                let failure = sa.failure(Phase::ChildSa, refusal.cause);
                ctx.failed(failure.offered(refusal.ours, refusal.theirs));
            }
        }
        let initial_contact = body.notify(notify::INITIAL_CONTACT).is_some();
        ctx.effects.push(Effect::Established { tunnel, key: sa.key(), initial_contact });
        ctx.transmit(arrival.local, arrival.remote, response);
        Sa::Up(sa)
    }
}

/// A repeated request, answered again.
pub(crate) fn repeated(window: &Window, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> bool {
    match window.incoming(arrival.header.message_id, arrival.bytes) {
        Incoming::Repeated(response) => {
            let response = response.to_vec();
            ctx.transmit(arrival.local, arrival.remote, response);
            true
        }
        Incoming::Stale => true,
        Incoming::Next => false,
    }
}
