//! Main mode (RFC 2409 5, 5.4): six messages, the last two encrypted; both roles.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::{KeyPair, SharedSecret};
use culvert_types::TunnelId;

use super::cause::V1Cause;
use super::keys::{Keys, skeyid_psk};
use super::phase1::{Exchanged, Opening, Patience, Proven, Stop, check_id, hinted, id_body, read_id, tell};
use super::proposal::{self, IkeChoice};
use super::sa::IkeSa;
use super::{Arrival, Sa, method, nat, vendor};
use crate::ctx::{Ctx, Path, log};
use crate::error::{Cause, Failure, Phase};
use crate::wire::v1::{self as wire, Body, Chain, Exchange, Notify, Payload, kind, notify, protocol};
use crate::{IkeProposal, PeerConfig};
use culvert_crypto::equal;

/// The initiator, waiting for the second message.
pub(crate) struct OfferSent {
    pub(crate) tunnel: TunnelId,
    pub(crate) opening: Opening,
    pub(crate) patience: Patience,
    config: Arc<PeerConfig>,
    offered: wire::Sa<'static>,
    rekeys: bool,
}

/// The initiator, waiting for the fourth message.
pub(crate) struct KeySent {
    pub(crate) tunnel: TunnelId,
    pub(crate) opening: Opening,
    pub(crate) patience: Patience,
    config: Arc<PeerConfig>,
    choice: IkeChoice,
    pair: KeyPair,
    rekeys: bool,
}

/// The initiator, waiting for the sixth message.
pub(crate) struct IdSent {
    pub(crate) tunnel: TunnelId,
    pub(crate) opening: Opening,
    pub(crate) patience: Patience,
    config: Arc<PeerConfig>,
    choice: IkeChoice,
    keys: Keys,
    rekeys: bool,
}

fn fail(ctx: &mut Ctx<'_>, tunnel: TunnelId, config: &PeerConfig, phase: Phase, stop: Stop) {
    ctx.failed(stop.failure(Some(tunnel), &config.name, phase));
}

impl OfferSent {
    /// Opens phase 1 of a tunnel. `rekeys`: another one serves it already.
    pub(crate) fn start(
        ctx: &mut Ctx<'_>,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        (local, remote): (SocketAddr, SocketAddr),
        rekeys: bool,
    ) -> Box<Self> {
        log!(info, config.name, "initiating IKEv1 main mode to {remote}");
        let method = method::offered(&config);
        let offered = proposal::offer_ike(&config.ike_proposals, method, config.ike_lifetime, None);
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(offered.clone()));
        let sa = chain.bytes().get(4..).unwrap_or_default().to_vec();
        vendor::announce(&mut chain, method::uses_xauth(&config), vendor::takes_fragments(&config));
        let path = Path { local, remote, nat_local: false, nat_remote: false, encap: false };
        let mut opening = Opening {
            initiator: true,
            aggressive: false,
            cookie_i: ctx.ike_spi(),
            cookie_r: 0,
            started: ctx.now,
            path,
            vendor: vendor::Vendor::default(),
            sa,
            ni: ctx.nonce(),
            nr: Vec::new(),
            gxi: Vec::new(),
            gxr: Vec::new(),
            exchanged: Exchanged::default(),
        };
        opening.send(ctx, &chain);
        let patience = Patience::new(ctx);
        Box::new(Self { tunnel, opening, patience, config, offered, rekeys })
    }

    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if arrival.remote.ip() != self.opening.path.remote.ip() {
            return Some(Sa::OfferSent(self));
        }
        if let Some(error) = hinted(&arrival.header, arrival.bytes) {
            let cause = match error {
                notify::NO_PROPOSAL_CHOSEN => Cause::ProposalsRefused,
                other => Cause::V1(V1Cause::Refused(other)),
            };
            self.patience.doubt(ctx, cause);
            return Some(Sa::OfferSent(self));
        }
        let result = arrival.plain_body().map_err(Cause::from).map_err(Stop::from);
        let result = result.and_then(|body| self.read(arrival, &body));
        match result {
            Ok(choice) => self.next(ctx, arrival, choice),
            // Nothing of this is authenticated: a better answer may follow.
            Err(stop) => {
                log!(debug, self.config.name, "doubtful second message of main mode: {}", stop.cause);
                self.patience.doubt(ctx, stop.cause);
                Some(Sa::OfferSent(self))
            }
        }
    }

    fn read(&mut self, arrival: &Arrival<'_>, body: &Body<'_>) -> Result<IkeChoice, Stop> {
        if !arrival.is_phase1(false) || arrival.header.cookie_r == 0 {
            return Err(Cause::MissingPayload("SA").into());
        }
        let answer = body.sa().ok_or(Cause::MissingPayload("SA"))?;
        let choice = proposal::accept_ike(&self.offered, answer).ok_or_else(|| {
            let ours = proposal::describe_ours(&self.config.ike_proposals);
            Stop::with(Cause::WrongChoice, ours, proposal::describe(answer))
        })?;
        self.opening.vendor = vendor::read(body).fragmented(&self.config);
        Ok(choice)
    }

    fn next(self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>, choice: IkeChoice) -> Option<Sa> {
        let Self { tunnel, mut opening, config, rekeys, .. } = *self;
        let pair = match KeyPair::generate(choice.suite.group, ctx.random) {
            Ok(pair) => pair,
            Err(e) => {
                fail(ctx, tunnel, &config, Phase::MainMode, Cause::from(e).into());
                return None;
            }
        };
        opening.cookie_r = arrival.header.cookie_r;
        opening.exchanged.heard(arrival.bytes);
        opening.gxi = pair.public().to_vec();
        let mut chain = Chain::new();
        chain.push(&Payload::Ke(&opening.gxi)).push(&Payload::Nonce(&opening.ni));
        if let Some(natt) = opening.vendor.natt {
            let (cookies, ends) =
                ((opening.cookie_i, opening.cookie_r), (opening.path.local, opening.path.remote));
            let prf = choice.suite.prf;
            nat::announce(&mut chain, ctx.random, natt, prf, cookies, ends, config.force_encap);
        }
        opening.send(ctx, &chain);
        let patience = Patience::new(ctx);
        Some(Sa::KeySent(Box::new(KeySent { tunnel, opening, patience, config, choice, pair, rekeys })))
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        match self.patience.on_timeout(ctx, &self.opening, &self.config.name, Cause::Silent) {
            Ok(()) => Some(Sa::OfferSent(self)),
            Err(cause) => {
                let ours = proposal::describe_ours(&self.config.ike_proposals);
                let stop = Stop::with(cause, ours, String::new());
                fail(ctx, self.tunnel, &self.config, Phase::MainMode, stop);
                None
            }
        }
    }
}

impl KeySent {
    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if let Some(error) = hinted(&arrival.header, arrival.bytes) {
            self.patience.doubt(ctx, Cause::V1(V1Cause::Refused(error)));
            return Some(Sa::KeySent(self));
        }
        if !arrival.is_phase1(false) || self.opening.exchanged.is_repeated(arrival.bytes) {
            return Some(Sa::KeySent(self));
        }
        let read = arrival.plain_body().map_err(Cause::from).and_then(|body| {
            let gxr = body.ke().ok_or(Cause::MissingPayload("KE"))?.to_vec();
            let nr = body.nonce().ok_or(Cause::MissingPayload("nonce"))?.to_vec();
            let more = vendor::read(&body);
            let cookies = (self.opening.cookie_i, self.opening.cookie_r);
            let prf = self.choice.suite.prf;
            Ok((gxr, nr, more, nat::detect(&body, prf, cookies, arrival.local, arrival.remote)))
        });
        let (gxr, nr, more, found) = match read {
            Ok(all) => all,
            Err(cause) => {
                log!(debug, self.config.name, "doubtful fourth message of main mode: {cause}");
                self.patience.doubt(ctx, cause);
                return Some(Sa::KeySent(self));
            }
        };
        let Self { tunnel, mut opening, config, choice, pair, rekeys, .. } = *self;
        // Some devices name DPD and XAuth only here.
        opening.vendor.dpd |= more.dpd;
        opening.vendor.xauth |= more.xauth;
        let shared = match pair.agree(&gxr) {
            Ok(shared) => shared,
            Err(e) => {
                fail(ctx, tunnel, &config, Phase::MainMode, Cause::from(e).into());
                return None;
            }
        };
        (opening.gxr, opening.nr) = (gxr, nr);
        opening.exchanged.heard(arrival.bytes);
        opening.path = nat::path(&config, found, opening.path.local, opening.path.remote, true);
        let Some(mut keys) = psk_keys(&config, &choice, &opening, &shared) else {
            fail(ctx, tunnel, &config, Phase::MainMode, Cause::V1(V1Cause::NoKey).into());
            return None;
        };
        let id = id_body(&config.local_id);
        let hash = opening.proof(&keys, &id, true);
        let mut chain = Chain::new();
        chain.push_raw(kind::ID, &id).push(&Payload::Hash(&hash));
        if !rekeys {
            let spi = [opening.cookie_i.to_be_bytes(), opening.cookie_r.to_be_bytes()].concat();
            let (kind, protocol) = (notify::INITIAL_CONTACT, protocol::ISAKMP);
            chain.push(&Payload::Notify(Notify { protocol, spi: &spi, kind, data: &[] }));
        }
        opening.send_sealed(ctx, &mut keys, &chain);
        let patience = Patience::new(ctx);
        Some(Sa::IdSent(Box::new(IdSent { tunnel, opening, patience, config, choice, keys, rekeys })))
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        match self.patience.on_timeout(ctx, &self.opening, &self.config.name, Cause::Silent) {
            Ok(()) => Some(Sa::KeySent(self)),
            Err(cause) => {
                fail(ctx, self.tunnel, &self.config, Phase::MainMode, cause.into());
                None
            }
        }
    }
}

impl IdSent {
    /// What an encrypted report in answer to our identity says: the peer has our keys, or others.
    fn refusal(&self, arrival: &Arrival<'_>) -> Cause {
        let id = arrival.header.message_id;
        let opened = self.keys.open(&self.keys.iv(id), &arrival.header, arrival.bytes);
        let told = opened.ok().and_then(|(text, _)| {
            let body = Body::parse(arrival.header.next, &text, true).ok()?;
            let (hash, rest) = body.hashed()?;
            let kind = body.notifies().map(|n| n.kind).find(|kind| *kind < notify::STATUS);
            kind.filter(|_| self.keys.hash_fits(id, &[rest], hash))
        });
        Cause::V1(told.map_or(V1Cause::AnswerUndecipherable, V1Cause::AuthenticationRefused))
    }

    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if let Some(error) = hinted(&arrival.header, arrival.bytes) {
            let cause = match error {
                notify::AUTHENTICATION_FAILED
                | notify::INVALID_HASH_INFORMATION
                | notify::INVALID_ID_INFORMATION
                | notify::PAYLOAD_MALFORMED => Cause::V1(V1Cause::AuthenticationRefused(error)),
                other => Cause::V1(V1Cause::Refused(other)),
            };
            self.patience.doubt(ctx, cause);
            return Some(Sa::IdSent(self));
        }
        if arrival.header.exchange == Exchange::Informational {
            let cause = self.refusal(arrival);
            self.patience.doubt(ctx, cause);
            return Some(Sa::IdSent(self));
        }
        if !arrival.is_phase1(false) {
            return Some(Sa::IdSent(self));
        }
        if self.opening.exchanged.is_repeated(arrival.bytes) {
            return Some(Sa::IdSent(self));
        }
        let (text, next_iv) = match self.keys.open_phase1(&arrival.header, arrival.bytes) {
            Ok(opened) => opened,
            Err(e) => {
                log!(debug, self.config.name, "dropped a message of main mode: {e}");
                return Some(Sa::IdSent(self));
            }
        };
        let verified = Body::parse(arrival.header.next, &text, true).map_err(Cause::from).and_then(|body| {
            let id = body.ids().next().ok_or(Cause::MissingPayload("ID"))?;
            let hash = body.hash().ok_or(Cause::MissingPayload("HASH"))?;
            let remote_id = read_id(id)?;
            if equal(&self.opening.proof(&self.keys, &id.to_bytes(), false), hash) {
                Ok(remote_id)
            } else {
                Err(Cause::WrongPsk(remote_id))
            }
        });
        let remote_id = match verified {
            Ok(id) => id,
            // Anybody can send what does not decrypt: the peer's own message may still come.
            Err(cause) => {
                log!(debug, self.config.name, "dropped a sixth message of main mode: {cause}");
                self.patience.doubt(ctx, cause);
                return Some(Sa::IdSent(self));
            }
        };
        if let Err(stop) = check_id(&self.config, &remote_id) {
            fail(ctx, self.tunnel, &self.config, Phase::MainMode, stop);
            return None;
        }
        let Self { tunnel, mut opening, config, choice, mut keys, rekeys, .. } = *self;
        keys.accept_phase1(next_iv);
        opening.exchanged.heard(arrival.bytes);
        (opening.path.local, opening.path.remote) = (arrival.local, arrival.remote);
        let proven =
            Proven { tunnel, config, opening, choice, keys, remote_id, rekeys, initial_contact: false };
        Some(Sa::Up(IkeSa::establish(ctx, proven)))
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        match self.patience.on_timeout(ctx, &self.opening, &self.config.name, |after| {
            Cause::V1(V1Cause::GoneAfterKeys(after))
        }) {
            Ok(()) => Some(Sa::IdSent(self)),
            Err(cause) => {
                let stop = Stop::with(cause, format!("local id {}", self.config.local_id), String::new());
                fail(ctx, self.tunnel, &self.config, Phase::MainMode, stop);
                None
            }
        }
    }
}

/// The keys by the pre-shared key of a tunnel; `None` if it has none.
pub(super) fn psk_keys(
    config: &PeerConfig,
    choice: &IkeChoice,
    opening: &Opening,
    shared: &SharedSecret,
) -> Option<Keys> {
    let skeyid = skeyid_psk(choice.suite.prf, config.auth.local.as_psk()?, &opening.public());
    Keys::derive(&choice.suite, skeyid, shared, &opening.public())
}

/// The responder, waiting for the third message.
pub(crate) struct OfferAnswered {
    pub(crate) opening: Opening,
    pub(crate) source: SocketAddr,
    pub(crate) expires: Instant,
    candidates: Vec<TunnelId>,
    choice: IkeChoice,
}

/// The responder, waiting for the fifth message.
pub(crate) struct KeyAnswered {
    pub(crate) opening: Opening,
    pub(crate) expires: Instant,
    candidates: Vec<TunnelId>,
    choice: IkeChoice,
    shared: SharedSecret,
    /// Failed tries at the fifth message: each costs us a key derivation for each candidate.
    tries: u32,
}

/// Wrong fifth messages that one half-open phase 1 may send.
const MAX_TRIES: u32 = 5;

/// Candidates are tried one by one with their keys.
const MAX_CANDIDATES: usize = 64;

/// Who a failure of a stranger is about.
pub(super) fn name_of(
    candidates: &[(TunnelId, Arc<PeerConfig>)],
    remote: SocketAddr,
) -> (Option<TunnelId>, String) {
    match candidates {
        [(tunnel, config)] => (Some(*tunnel), config.name.clone()),
        _ => (None, remote.ip().to_string()),
    }
}

/// The responder's part in the first two messages. `candidates`: the tunnels that the addresses allow, best first.
pub(crate) fn respond(
    ctx: &mut Ctx<'_>,
    arrival: &Arrival<'_>,
    candidates: &[(TunnelId, Arc<PeerConfig>)],
) -> Option<Box<OfferAnswered>> {
    let body = match arrival.plain_body() {
        Ok(body) => body,
        Err(e) => {
            tracing::debug!(remote = %arrival.remote, "dropped a malformed first message of main mode: {e}");
            return None;
        }
    };
    let Some(offer) = body.sa().filter(|_| arrival.header.next == kind::SA) else {
        tracing::debug!(remote = %arrival.remote, "dropped a first message of main mode without SA");
        return None;
    };
    let choice = candidates
        .iter()
        .find_map(|(_, c)| Some((c, proposal::choose_ike(&c.ike_proposals, &method::accepted(c), offer)?)));
    let Some((config, choice)) = choice else {
        refuse_proposals(ctx, arrival, candidates, offer, Phase::MainMode);
        return None;
    };
    let mut chain = Chain::new();
    chain.push(&Payload::Sa(choice.answer()));
    vendor::answer(&mut chain, &body, method::uses_xauth(config), vendor::takes_fragments(config));
    let (local, remote) = (arrival.local, arrival.remote);
    let mut opening = Opening {
        initiator: false,
        aggressive: false,
        cookie_i: arrival.header.cookie_i,
        cookie_r: ctx.ike_spi(),
        started: ctx.now,
        path: Path { local, remote, nat_local: false, nat_remote: false, encap: false },
        vendor: vendor::read(&body).fragmented(config),
        sa: body.first_body().to_vec(),
        ni: Vec::new(),
        nr: Vec::new(),
        gxi: Vec::new(),
        gxr: Vec::new(),
        exchanged: Exchanged::default(),
    };
    opening.exchanged.heard(arrival.bytes);
    opening.send(ctx, &chain);
    Some(Box::new(OfferAnswered {
        opening,
        source: arrival.remote,
        expires: ctx.now + ctx.config.half_open_lifetime,
        candidates: candidates.iter().take(MAX_CANDIDATES).map(|(tunnel, _)| *tunnel).collect(),
        choice,
    }))
}

/// Refuses an offer of phase 1, with both sides' proposals in our report.
pub(super) fn refuse_proposals(
    ctx: &mut Ctx<'_>,
    arrival: &Arrival<'_>,
    candidates: &[(TunnelId, Arc<PeerConfig>)],
    offer: &wire::Sa<'_>,
    phase: Phase,
) {
    let mut ours: Vec<IkeProposal> = Vec::new();
    for p in candidates.iter().flat_map(|(_, c)| &c.ike_proposals) {
        if !ours.contains(p) {
            ours.push(p.clone());
        }
    }
    let (tunnel, name) = name_of(candidates, arrival.remote);
    let failure = Failure::new(tunnel, &name, phase, Cause::NoProposal);
    ctx.stranger_failed(failure.offered(proposal::describe_ours(&ours), proposal::describe(offer)));
    let came = arrival.bytes.len();
    tell(ctx, arrival.local, arrival.remote, &arrival.header, notify::NO_PROPOSAL_CHOSEN, came);
}

impl OfferAnswered {
    pub(crate) fn on_datagram(self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if self.opening.exchanged.is_repeated(arrival.bytes) {
            self.opening.send_again(ctx);
            return Some(Sa::OfferAnswered(self));
        }
        if !arrival.is_phase1(false) {
            return Some(Sa::OfferAnswered(self));
        }
        let body = match arrival.plain_body() {
            Ok(body) => body,
            Err(e) => {
                tracing::debug!(remote = %arrival.remote, "dropped a third message of main mode: {e}");
                return Some(Sa::OfferAnswered(self));
            }
        };
        let (Some(gxi), Some(ni)) = (body.ke(), body.nonce()) else {
            tracing::debug!(remote = %arrival.remote, "dropped a third message of main mode without KE or nonce");
            return Some(Sa::OfferAnswered(self));
        };
        let suite = self.choice.suite;
        let pair = KeyPair::generate(suite.group, ctx.random);
        let agreed = pair.and_then(|pair| {
            let public = pair.public().to_vec();
            pair.agree(gxi).map(|shared| (public, shared))
        });
        let (gxr, shared) = match agreed {
            Ok(both) => both,
            Err(e) => {
                let name = arrival.remote.ip().to_string();
                ctx.stranger_failed(Failure::new(None, &name, Phase::MainMode, e.into()));
                return Some(Sa::OfferAnswered(self));
            }
        };
        let Self { mut opening, expires, candidates, choice, .. } = *self;
        (opening.gxi, opening.gxr) = (gxi.to_vec(), gxr);
        (opening.ni, opening.nr) = (ni.to_vec(), ctx.nonce());
        let cookies = (opening.cookie_i, opening.cookie_r);
        let more = vendor::read(&body);
        opening.vendor.dpd |= more.dpd;
        opening.vendor.xauth |= more.xauth;
        let force = candidates.iter().filter_map(|t| ctx.peers.get(*t)).any(|c| c.force_encap);
        let found = nat::detect(&body, suite.prf, cookies, arrival.local, arrival.remote);
        let mut chain = Chain::new();
        chain.push(&Payload::Ke(&opening.gxr)).push(&Payload::Nonce(&opening.nr));
        if let Some(natt) = opening.vendor.natt.filter(|_| found.supported) {
            let ends = (arrival.local, arrival.remote);
            nat::announce(&mut chain, ctx.random, natt, suite.prf, cookies, ends, force);
        }
        opening.path = Path {
            local: arrival.local,
            remote: arrival.remote,
            nat_local: found.local,
            nat_remote: found.remote,
            encap: found.supported && (found.local || found.remote || force),
        };
        opening.exchanged.heard(arrival.bytes);
        opening.send(ctx, &chain);
        let next = KeyAnswered { opening, expires, candidates, choice, shared, tries: 0 };
        Some(Sa::KeyAnswered(Box::new(next)))
    }
}

/// A candidate whose key opened the fifth message.
struct Opened {
    tunnel: TunnelId,
    config: Arc<PeerConfig>,
    keys: Keys,
    next_iv: Vec<u8>,
    identity: Result<crate::Identity, Cause>,
    initial_contact: bool,
}

impl KeyAnswered {
    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if self.opening.exchanged.is_repeated(arrival.bytes) {
            self.opening.send_again(ctx);
            return Some(Sa::KeyAnswered(self));
        }
        if !arrival.is_phase1(false) || !arrival.header.flags.encrypted {
            return Some(Sa::KeyAnswered(self));
        }
        if self.tries >= MAX_TRIES {
            return Some(Sa::KeyAnswered(self));
        }
        self.tries += 1;
        match self.verify(ctx, arrival) {
            Ok(opened) => self.establish(ctx, arrival, opened),
            Err(failure) => {
                ctx.stranger_failed(*failure);
                let header = self.opening.header();
                let came = arrival.bytes.len();
                tell(ctx, arrival.local, arrival.remote, &header, notify::AUTHENTICATION_FAILED, came);
                Some(Sa::KeyAnswered(self))
            }
        }
    }

    /// Which tunnel the peer means: the one whose key makes sense of the message. In main mode the key is needed before
    /// the identity is known (RFC 2409 5.4), and behind a NAT the address tells nothing: so all are tried.
    fn verify(&self, ctx: &Ctx<'_>, arrival: &Arrival<'_>) -> Result<Opened, Box<Failure>> {
        let known: Vec<(TunnelId, Arc<PeerConfig>)> = self
            .candidates
            .iter()
            .filter_map(|t| ctx.peers.get(*t).map(|c| (*t, Arc::clone(c))))
            .filter(|(_, c)| {
                c.v1.is_some()
                    && c.ike_proposals.iter().any(|p| p.allows(&self.choice.suite))
                    && method::accepted(c).contains(&self.choice.method)
            })
            .collect();
        let (tunnel, name) = name_of(&known, arrival.remote);
        let fail = |stop: Stop| Box::new(stop.failure(tunnel, &name, Phase::MainMode));
        let mut opened: Vec<Opened> = known.iter().filter_map(|(t, c)| self.open(*t, c, arrival)).collect();
        // Of several with the same key: the one that expects this identity, then one that takes anybody.
        let rank = |o: &Opened| match (&o.config.remote_id, &o.identity) {
            (Some(expected), Ok(id)) if expected == id => 0,
            (None, Ok(_)) => 1,
            _ => 2,
        };
        opened.sort_by_key(rank);
        let Some(best) = opened.into_iter().next() else {
            return Err(fail(Cause::V1(V1Cause::Undecipherable).into()));
        };
        let about =
            |stop: Stop| Box::new(stop.failure(Some(best.tunnel), &best.config.name, Phase::MainMode));
        match &best.identity {
            Ok(id) => check_id(&best.config, id).map_err(about)?,
            Err(cause) => return Err(about(cause.clone().into())),
        }
        Ok(best)
    }

    fn open(&self, tunnel: TunnelId, config: &Arc<PeerConfig>, arrival: &Arrival<'_>) -> Option<Opened> {
        let keys = psk_keys(config, &self.choice, &self.opening, &self.shared)?;
        let (text, next_iv) = keys.open_phase1(&arrival.header, arrival.bytes).ok()?;
        let body = Body::parse(arrival.header.next, &text, true).ok()?;
        let (id, hash) = (body.ids().next()?, body.hash()?);
        if !equal(&self.opening.proof(&keys, &id.to_bytes(), true), hash) {
            return None;
        }
        let identity = read_id(id);
        let initial_contact = body.notifies().any(|n| n.kind == notify::INITIAL_CONTACT);
        Some(Opened { tunnel, config: Arc::clone(config), keys, next_iv, identity, initial_contact })
    }

    fn establish(self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>, opened: Opened) -> Option<Sa> {
        let Self { mut opening, choice, .. } = *self;
        let Opened { tunnel, config, mut keys, next_iv, identity, initial_contact } = opened;
        let remote_id = identity.ok()?;
        keys.accept_phase1(next_iv);
        (opening.path.local, opening.path.remote) = (arrival.local, arrival.remote);
        // Only a peer that came to port 4500 takes ESP in UDP there (RFC 3947 4).
        opening.path.encap &= arrival.local.port() == config.local_natt.port();
        let id = id_body(&config.local_id);
        let hash = opening.proof(&keys, &id, false);
        let mut chain = Chain::new();
        chain.push_raw(kind::ID, &id).push(&Payload::Hash(&hash));
        opening.exchanged.heard(arrival.bytes);
        opening.send_sealed(ctx, &mut keys, &chain);
        let proven =
            Proven { tunnel, config, opening, choice, keys, remote_id, rekeys: false, initial_contact };
        Some(Sa::Up(IkeSa::establish(ctx, proven)))
    }
}
