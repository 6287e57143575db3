//! Aggressive mode (RFC 2409 5, 5.4) with pre-shared keys: three messages, identities in the clear; both roles.
//!
//! The responder's hash goes out before the initiator has proven anything: whoever sends one message can guess the key at
//! leisure. Only for tunnels that ask for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::{KeyPair, equal};
use culvert_types::TunnelId;

use super::keys::Keys;
use super::main_mode::{name_of, psk_keys, refuse_proposals};
use super::phase1::{Exchanged, Opening, Patience, Proven, Stop, check_id, hinted, id_body, read_id};
use super::proposal::{self, IkeChoice};
use super::sa::IkeSa;
use super::{Arrival, Sa, cause::V1Cause, method, nat, vendor};
use crate::config::V1Mode;
use crate::ctx::{Ctx, Path, log};
use crate::error::{Cause, Failure, Phase};
use crate::wire::v1::{self as wire, Body, Chain, HEADER_LEN, Notify, Payload, kind, notify, protocol};
use crate::{Identity, PeerConfig};

/// The initiator, waiting for the second message.
pub(crate) struct AggressiveSent {
    pub(crate) tunnel: TunnelId,
    pub(crate) opening: Opening,
    pub(crate) patience: Patience,
    config: Arc<PeerConfig>,
    offered: wire::Sa<'static>,
    pair: Option<KeyPair>,
    rekeys: bool,
}

/// The responder, waiting for the third message.
pub(crate) struct AggressiveAnswered {
    pub(crate) opening: Opening,
    pub(crate) source: SocketAddr,
    pub(crate) expires: Instant,
    tunnel: TunnelId,
    config: Arc<PeerConfig>,
    choice: IkeChoice,
    keys: Keys,
    remote_id: Identity,
    /// As it came: protocol and port are part of the proof.
    id_body: Vec<u8>,
}

fn initial_contact(chain: &mut Chain, opening: &Opening) {
    let spi = [opening.cookie_i.to_be_bytes(), opening.cookie_r.to_be_bytes()].concat();
    let (kind, protocol) = (notify::INITIAL_CONTACT, protocol::ISAKMP);
    chain.push(&Payload::Notify(Notify { protocol, spi: &spi, kind, data: &[] }));
}

impl AggressiveSent {
    /// Opens phase 1 of a tunnel. `None`, with a failure reported, when there is no key pair.
    pub(crate) fn start(
        ctx: &mut Ctx<'_>,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        (local, remote): (SocketAddr, SocketAddr),
        rekeys: bool,
    ) -> Option<Box<Self>> {
        log!(
            warn,
            config.name,
            "initiating IKEv1 aggressive mode to {remote}: our identity goes in the clear, and whoever answers can guess the pre-shared key offline; use mode = \"main\" where the peer can"
        );
        // The key goes with the offer: only one group can be offered.
        let group = proposal::first_group(&config.ike_proposals)?;
        let pair = match KeyPair::generate(group, ctx.random) {
            Ok(pair) => pair,
            Err(e) => {
                ctx.failed(Failure::new(Some(tunnel), &config.name, Phase::AggressiveMode, e.into()));
                return None;
            }
        };
        let method = method::offered(&config);
        let offered = proposal::offer_ike(&config.ike_proposals, method, config.ike_lifetime, Some(group));
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(offered.clone()));
        let sa = chain.bytes().get(4..).unwrap_or_default().to_vec();
        let ni = ctx.nonce();
        chain.push(&Payload::Ke(pair.public())).push(&Payload::Nonce(&ni));
        chain.push_raw(kind::ID, &id_body(&config.local_id));
        vendor::announce(&mut chain, method::uses_xauth(&config), vendor::takes_fragments(&config));
        let mut opening = Opening {
            initiator: true,
            aggressive: true,
            cookie_i: ctx.ike_spi(),
            cookie_r: 0,
            started: ctx.now,
            path: Path { local, remote, nat_local: false, nat_remote: false, encap: false },
            vendor: vendor::Vendor::default().fragmented(&config),
            sa,
            ni,
            nr: Vec::new(),
            gxi: pair.public().to_vec(),
            gxr: Vec::new(),
            exchanged: Exchanged::default(),
        };
        opening.send(ctx, &chain);
        let patience = Patience::new(ctx);
        let pair = Some(pair);
        Some(Box::new(Self { tunnel, opening, patience, config, offered, pair, rekeys }))
    }

    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if arrival.remote.ip() != self.opening.path.remote.ip() {
            return Some(Sa::AggressiveSent(self));
        }
        if let Some(error) = hinted(&arrival.header, arrival.bytes) {
            let cause = match error {
                notify::NO_PROPOSAL_CHOSEN => Cause::ProposalsRefused,
                other => Cause::V1(V1Cause::Refused(other)),
            };
            self.patience.doubt(ctx, cause);
            return Some(Sa::AggressiveSent(self));
        }
        if !arrival.is_phase1(true) || arrival.header.cookie_r == 0 {
            return Some(Sa::AggressiveSent(self));
        }
        let read = arrival.plain_body().map_err(Cause::from).map_err(Stop::from);
        match read.and_then(|body| self.read(arrival, &body)) {
            Ok((choice, keys, remote_id)) => Some(self.finish(ctx, arrival, choice, keys, remote_id)),
            // Anybody can send it: the peer's own answer may still come.
            Err(stop) => {
                log!(debug, self.config.name, "doubtful answer in aggressive mode: {}", stop.cause);
                self.opening.cookie_r = 0;
                self.patience.doubt(ctx, stop.cause);
                Some(Sa::AggressiveSent(self))
            }
        }
    }

    fn read(&mut self, arrival: &Arrival<'_>, body: &Body<'_>) -> Result<(IkeChoice, Keys, Identity), Stop> {
        let missing = |what| Stop::from(Cause::MissingPayload(what));
        let answer = body.sa().ok_or_else(|| missing("SA"))?;
        let choice = proposal::accept_ike(&self.offered, answer).ok_or_else(|| {
            let ours = proposal::describe_ours(&self.config.ike_proposals);
            Stop::with(Cause::WrongChoice, ours, proposal::describe(answer))
        })?;
        let gxr = body.ke().ok_or_else(|| missing("KE"))?;
        let nr = body.nonce().ok_or_else(|| missing("nonce"))?;
        let id = body.ids().next().ok_or_else(|| missing("ID"))?;
        let hash = body.hash().ok_or_else(|| missing("HASH"))?;
        let remote_id = read_id(id)?;
        check_id(&self.config, &remote_id)?;
        // Used up by agreeing: a forged answer ends this try, and needs our cookie to be one.
        let pair = self.pair.take().ok_or(Cause::V1(V1Cause::NoKey))?;
        let shared = pair.agree(gxr).map_err(Cause::from)?;
        (self.opening.gxr, self.opening.nr) = (gxr.to_vec(), nr.to_vec());
        self.opening.cookie_r = arrival.header.cookie_r;
        let keys =
            psk_keys(&self.config, &choice, &self.opening, &shared).ok_or(Cause::V1(V1Cause::NoKey))?;
        if !equal(&self.opening.proof(&keys, &id.to_bytes(), false), hash) {
            return Err(Cause::WrongPsk(remote_id).into());
        }
        Ok((choice, keys, remote_id))
    }

    fn finish(
        self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        choice: IkeChoice,
        mut keys: Keys,
        remote_id: Identity,
    ) -> Sa {
        let Self { tunnel, mut opening, config, rekeys, .. } = *self;
        let prf = choice.suite.prf;
        let cookies = (opening.cookie_i, opening.cookie_r);
        let body =
            Body::parse(arrival.header.next, arrival.bytes.get(HEADER_LEN..).unwrap_or_default(), false);
        if let Ok(body) = &body {
            opening.vendor = vendor::read(body).fragmented(&config);
            let found = nat::detect(body, prf, cookies, arrival.local, arrival.remote);
            opening.path = nat::path(&config, found, opening.path.local, opening.path.remote, true);
        }
        opening.exchanged.heard(arrival.bytes);
        let hash = opening.proof(&keys, &id_body(&config.local_id), true);
        let mut chain = Chain::new();
        chain.push(&Payload::Hash(&hash));
        if let Some(natt) = opening.vendor.natt {
            let ends = (opening.path.local, opening.path.remote);
            nat::announce(&mut chain, ctx.random, natt, prf, cookies, ends, config.force_encap);
        }
        if !rekeys {
            initial_contact(&mut chain, &opening);
        }
        opening.send_sealed(ctx, &mut keys, &chain);
        let proven =
            Proven { tunnel, config, opening, choice, keys, remote_id, rekeys, initial_contact: false };
        Sa::Up(IkeSa::establish(ctx, proven))
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        match self.patience.on_timeout(ctx, &self.opening, &self.config.name, Cause::Silent) {
            Ok(()) => Some(Sa::AggressiveSent(self)),
            Err(cause) => {
                let ours = proposal::describe_ours(&self.config.ike_proposals);
                let stop = Stop::with(cause, ours, String::new());
                ctx.failed(stop.failure(Some(self.tunnel), &self.config.name, Phase::AggressiveMode));
                None
            }
        }
    }
}

/// The responder's part in the first two messages. `candidates`: the tunnels that the addresses allow, best first.
pub(crate) fn respond(
    ctx: &mut Ctx<'_>,
    arrival: &Arrival<'_>,
    candidates: &[(TunnelId, Arc<PeerConfig>)],
) -> Option<Box<AggressiveAnswered>> {
    let dropped =
        |why: &str| tracing::debug!(remote = %arrival.remote, "dropped a message of aggressive mode: {why}");
    let body = match arrival.plain_body() {
        Ok(body) => body,
        Err(e) => {
            dropped(&e.to_string());
            return None;
        }
    };
    let first = body.sa().filter(|_| arrival.header.next == kind::SA);
    let (Some(offer), Some(gxi), Some(ni), Some(id)) = (first, body.ke(), body.nonce(), body.ids().next())
    else {
        dropped("SA, KE, nonce or ID is missing");
        return None;
    };
    let fits = |c: &PeerConfig| c.v1.as_ref().is_some_and(|v1| v1.mode == V1Mode::Aggressive);
    let known: Vec<_> = candidates.iter().filter(|(_, c)| fits(c)).cloned().collect();
    let (tunnel, name) = name_of(&known, arrival.remote);
    let report = |cause| Failure::new(tunnel, &name, Phase::AggressiveMode, cause);
    if known.is_empty() {
        ctx.stranger_failed(report(V1Cause::ModeNotAllowed.into()));
        return None;
    }
    let their_id = id.to_bytes();
    let remote_id = match read_id(id) {
        Ok(id) => id,
        Err(cause) => {
            ctx.stranger_failed(report(cause));
            return None;
        }
    };
    // The identity is known before the key is needed: one that expects it goes before one that takes anybody.
    let exact = known.iter().find(|(_, c)| c.remote_id.as_ref() == Some(&remote_id));
    let Some((tunnel, config)) = exact.or_else(|| known.iter().find(|(_, c)| c.remote_id.is_none())) else {
        let cause = Cause::NoSuchPeer { local: "any".to_owned(), remote: remote_id };
        ctx.stranger_failed(report(cause));
        return None;
    };
    let Some(choice) = proposal::choose_ike(&config.ike_proposals, &method::accepted(config), offer) else {
        refuse_proposals(ctx, arrival, &known, offer, Phase::AggressiveMode);
        return None;
    };
    let agreed = KeyPair::generate(choice.suite.group, ctx.random).and_then(|pair| {
        let public = pair.public().to_vec();
        pair.agree(gxi).map(|shared| (public, shared))
    });
    let (gxr, shared) = match agreed {
        Ok(both) => both,
        Err(e) => {
            ctx.stranger_failed(report(e.into()));
            return None;
        }
    };
    let (local, remote) = (arrival.local, arrival.remote);
    let mut opening = Opening {
        initiator: false,
        aggressive: true,
        cookie_i: arrival.header.cookie_i,
        cookie_r: ctx.ike_spi(),
        started: ctx.now,
        path: Path { local, remote, nat_local: false, nat_remote: false, encap: false },
        vendor: vendor::read(&body).fragmented(config),
        sa: body.first_body().to_vec(),
        ni: ni.to_vec(),
        nr: ctx.nonce(),
        gxi: gxi.to_vec(),
        gxr,
        exchanged: Exchanged::default(),
    };
    let keys = psk_keys(config, &choice, &opening, &shared)?;
    let id = id_body(&config.local_id);
    let hash = opening.proof(&keys, &id, false);
    let mut chain = Chain::new();
    chain
        .push(&Payload::Sa(choice.answer()))
        .push(&Payload::Ke(&opening.gxr))
        .push(&Payload::Nonce(&opening.nr));
    chain.push_raw(kind::ID, &id).push(&Payload::Hash(&hash));
    vendor::answer(&mut chain, &body, method::uses_xauth(config), vendor::takes_fragments(config));
    if let Some(natt) = opening.vendor.natt {
        let (cookies, ends) = ((opening.cookie_i, opening.cookie_r), (local, remote));
        nat::announce(&mut chain, ctx.random, natt, choice.suite.prf, cookies, ends, config.force_encap);
    }
    opening.exchanged.heard(arrival.bytes);
    opening.send(ctx, &chain);
    Some(Box::new(AggressiveAnswered {
        opening,
        source: remote,
        expires: ctx.now + ctx.config.half_open_lifetime,
        tunnel: *tunnel,
        config: Arc::clone(config),
        choice,
        keys,
        remote_id,
        id_body: their_id,
    }))
}

impl AggressiveAnswered {
    pub(crate) fn on_datagram(self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if self.opening.exchanged.is_repeated(arrival.bytes) {
            self.opening.send_again(ctx);
            return Some(Sa::AggressiveAnswered(self));
        }
        if !arrival.is_phase1(true) {
            return Some(Sa::AggressiveAnswered(self));
        }
        // RFC 2409 5.4: the third message may come in the clear.
        let (text, next_iv) = if arrival.header.flags.encrypted {
            match self.keys.open_phase1(&arrival.header, arrival.bytes) {
                Ok((text, iv)) => (text, Some(iv)),
                Err(_) => return Some(Sa::AggressiveAnswered(self)),
            }
        } else {
            (arrival.bytes.get(HEADER_LEN..).unwrap_or_default().to_vec(), None)
        };
        let Ok(body) = Body::parse(arrival.header.next, &text, next_iv.is_some()) else {
            return Some(self.refuse(ctx, V1Cause::Undecipherable.into()));
        };
        let Some(hash) = body.hash() else { return Some(Sa::AggressiveAnswered(self)) };
        if !equal(&self.opening.proof(&self.keys, &self.id_body, true), hash) {
            let cause = Cause::WrongPsk(self.remote_id.clone());
            return Some(self.refuse(ctx, cause));
        }
        let Self { tunnel, config, mut opening, choice, mut keys, remote_id, .. } = *self;
        let cookies = (opening.cookie_i, opening.cookie_r);
        let found = nat::detect(&body, choice.suite.prf, cookies, arrival.local, arrival.remote);
        let initial_contact = body.notifies().any(|n| n.kind == notify::INITIAL_CONTACT);
        if let Some(iv) = next_iv {
            keys.accept_phase1(iv);
        }
        opening.path = nat::path(&config, found, arrival.local, arrival.remote, false);
        opening.path.encap &= arrival.local.port() == config.local_natt.port();
        opening.exchanged.heard(arrival.bytes);
        opening.exchanged.sent.clear();
        let proven =
            Proven { tunnel, config, opening, choice, keys, remote_id, rekeys: false, initial_contact };
        Some(Sa::Up(IkeSa::establish(ctx, proven)))
    }

    fn refuse(self: Box<Self>, ctx: &mut Ctx<'_>, cause: Cause) -> Sa {
        let (tunnel, name) = (Some(self.tunnel), &self.config.name);
        ctx.stranger_failed(Failure::new(tunnel, name, Phase::AggressiveMode, cause));
        Sa::AggressiveAnswered(self)
    }
}
