//! Main mode as responder: which tunnel the peer means, whether it proves its identity, and our own proof.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::SharedSecret;
use culvert_types::TunnelId;

use crate::ctx::{Ctx, Path};
use crate::error::{Cause, Failure, Phase};
use crate::job::Done;
use crate::kex::Answering;
use crate::v1::cause::V1Cause;
use crate::v1::keys::Keys;
use crate::v1::method::{self, Method};
use crate::v1::phase1::{Exchanged, Opening, Proven, Stop, check_id, id_body, read_id, tell};
use crate::v1::proof::{self, Checked, Verdict};
use crate::v1::proposal::{self, IkeChoice};
use crate::v1::sa::IkeSa;
use crate::v1::{Arrival, Sa, Stash, nat, vendor};
use crate::wire::v1::{self as wire, Body, Chain, Payload, kind, notify};
use crate::{CheckId, Event, Identity, IkeProposal, PeerConfig};

/// The responder, waiting for the third message.
pub(crate) struct OfferAnswered {
    pub(crate) opening: Opening,
    pub(crate) source: SocketAddr,
    pub(crate) expires: Instant,
    candidates: Vec<TunnelId>,
    choice: IkeChoice,
    /// The third message, while a job is at work on it.
    stash: Option<Stash>,
    answering: Option<Answering>,
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
    /// The fifth message and the tunnel that it is for, while the owner judges the certificate in it.
    judging: Option<(TunnelId, Stash)>,
}

/// Wrong fifth messages that one half-open phase 1 may send.
const MAX_TRIES: u32 = 5;

/// Candidates are tried one by one with their keys.
const MAX_CANDIDATES: usize = 64;

/// Who a failure of a stranger is about.
pub(crate) fn name_of(
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
    let choice = candidates.iter().find_map(|(_, c)| {
        Some((c, proposal::choose_ike(&c.ike_proposals, method::accepted(c).as_slice(), offer)?))
    });
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
        stash: None,
        answering: None,
    }))
}

/// Refuses an offer of phase 1, with both sides' proposals in our report.
pub(crate) fn refuse_proposals(
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
    /// Takes in what a job brought.
    pub(crate) fn on_job(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        done: &mut Option<Done>,
    ) -> Option<Sa> {
        let ours = self.answering.as_mut().is_some_and(|a| a.on_job(number, done));
        match self.stash.take_if(|_| ours) {
            Some(stash) => stash.read(self, |sa, arrival| sa.on_datagram(ctx, arrival), Sa::OfferAnswered),
            None => Some(Sa::OfferAnswered(self)),
        }
    }

    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if self.opening.exchanged.is_repeated(arrival.bytes) {
            self.opening.send_again(ctx);
            return Some(Sa::OfferAnswered(self));
        }
        // While a job is at work, repetitions wait as well.
        if !arrival.is_phase1(false) || self.stash.is_some() {
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
        let on_behalf = (self.opening.key(), false);
        let answered = match Answering::answer(&mut self.answering, ctx, on_behalf, (suite.group, gxi)) {
            None => {
                self.stash = Some(Stash::of(arrival));
                return Some(Sa::OfferAnswered(self));
            }
            Some(Ok(answered)) => answered,
            Some(Err(e)) => {
                let name = arrival.remote.ip().to_string();
                ctx.stranger_failed(Failure::new(None, &name, Phase::MainMode, e.into()));
                return Some(Sa::OfferAnswered(self));
            }
        };
        let (gxr, shared) = (answered.public, answered.shared);
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
        let asking = candidates.iter().filter_map(|t| ctx.peers.get(*t)).map(|c| &**c);
        proof::request(&mut chain, asking, choice.method, false);
        opening.path = Path {
            local: arrival.local,
            remote: arrival.remote,
            nat_local: found.local,
            nat_remote: found.remote,
            encap: found.supported && (found.local || found.remote || force),
        };
        opening.exchanged.heard(arrival.bytes);
        opening.send(ctx, &chain);
        let next = KeyAnswered { opening, expires, candidates, choice, shared, tries: 0, judging: None };
        Some(Sa::KeyAnswered(Box::new(next)))
    }
}

/// A candidate whose keys opened the fifth message.
struct Opened {
    tunnel: TunnelId,
    config: Arc<PeerConfig>,
    keys: Keys,
    next_iv: Vec<u8>,
    identity: Result<Identity, Cause>,
    proof: Result<Checked, Cause>,
    initial_contact: bool,
}

impl KeyAnswered {
    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if self.opening.exchanged.is_repeated(arrival.bytes) {
            self.opening.send_again(ctx);
            return Some(Sa::KeyAnswered(self));
        }
        // While a certificate is judged, repetitions wait as well.
        if !arrival.is_phase1(false) || !arrival.header.flags.encrypted || self.judging.is_some() {
            return Some(Sa::KeyAnswered(self));
        }
        if self.tries >= MAX_TRIES {
            return Some(Sa::KeyAnswered(self));
        }
        self.tries += 1;
        self.read(ctx, arrival, None)
    }

    pub(crate) fn on_timeout(self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        if ctx.now < self.expires {
            return Some(Sa::KeyAnswered(self));
        }
        let judged = self.judging.as_ref().and_then(|(t, _)| ctx.peers.get(*t).map(|c| (*t, c.name.clone())));
        if let Some((tunnel, name)) = judged {
            let cause = Cause::Unjudged(ctx.config.half_open_lifetime);
            ctx.stranger_failed(Failure::new(Some(tunnel), &name, Phase::MainMode, cause));
        }
        None
    }

    /// The owner's verdict on the peer's certificate.
    pub(crate) fn on_checked(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        verdict: &Verdict,
    ) -> Option<Sa> {
        match self.judging.take_if(|_| u64::from(self.tries) == number) {
            Some((tunnel, stash)) => {
                let verdict = Some((tunnel, verdict));
                stash.read(self, |sa, arrival| sa.read(ctx, arrival, verdict), Sa::KeyAnswered)
            }
            None => Some(Sa::KeyAnswered(self)),
        }
    }

    fn read(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        verdict: Option<(TunnelId, &Verdict)>,
    ) -> Option<Sa> {
        let failure = match self.verify(ctx, arrival, verdict) {
            Ok(Opened { tunnel, identity: Ok(identity), proof: Ok(Checked::Ask(chain)), .. }) => {
                let check = CheckId { sa: self.opening.key(), number: self.tries.into() };
                ctx.event(Event::CheckCertificate { check, tunnel, identity, chain });
                self.judging = Some((tunnel, Stash::of(arrival)));
                return Some(Sa::KeyAnswered(self));
            }
            Ok(opened) => {
                let (tunnel, name) = (opened.tunnel, opened.config.name.clone());
                match self.establish(ctx, arrival, opened) {
                    Ok(sa) => return Some(sa),
                    Err(cause) => {
                        ctx.failed(Failure::new(Some(tunnel), &name, Phase::MainMode, cause));
                        return None;
                    }
                }
            }
            Err(failure) => *failure,
        };
        ctx.stranger_failed(failure);
        let header = self.opening.header();
        let came = arrival.bytes.len();
        tell(ctx, arrival.local, arrival.remote, &header, notify::AUTHENTICATION_FAILED, came);
        Some(Sa::KeyAnswered(self))
    }

    /// Which tunnel the peer means. With pre-shared keys the one whose key makes sense of the message: the key is
    /// needed before the identity is known (RFC 2409 5.4), and behind a NAT the address tells nothing: so all are
    /// tried. Otherwise the identity tells.
    fn verify(
        &self,
        ctx: &Ctx<'_>,
        arrival: &Arrival<'_>,
        verdict: Option<(TunnelId, &Verdict)>,
    ) -> Result<Opened, Box<Failure>> {
        let known: Vec<(TunnelId, Arc<PeerConfig>)> = self
            .candidates
            .iter()
            .filter_map(|t| ctx.peers.get(*t).map(|c| (*t, Arc::clone(c))))
            .filter(|(_, c)| {
                c.v1.is_some()
                    && c.ike_proposals.iter().any(|p| p.allows(&self.choice.suite))
                    && method::accepted(c) == Some(self.choice.method)
            })
            .collect();
        let (tunnel, name) = name_of(&known, arrival.remote);
        let fail = |stop: Stop| Box::new(stop.failure(tunnel, &name, Phase::MainMode));
        let by_psk = Method::of(self.choice.method).is_some_and(Method::by_psk);
        let mut opened: Vec<Opened> = known
            .iter()
            .filter_map(|(t, c)| {
                let verdict = verdict.filter(|(of, _)| of == t).map(|(_, verdict)| verdict);
                self.open(*t, c, arrival, verdict)
            })
            // A key that does not prove it is another tunnel's.
            .filter(|o| !by_psk || o.proof.is_ok())
            .collect();
        // Of several: the one that expects this identity, then one of its pattern, then one that takes anybody.
        let rank = |o: &Opened| match (&o.config.remote_id, &o.identity) {
            (Some(expected), Ok(id)) if expected == id => 0,
            (Some(expected), Ok(id)) if expected.matches(id) => 1,
            (None, Ok(_)) => 2,
            _ => 3,
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
        match &best.proof {
            Ok(_) => Ok(best),
            Err(cause) => Err(about(cause.clone().into())),
        }
    }

    fn open(
        &self,
        tunnel: TunnelId,
        config: &Arc<PeerConfig>,
        arrival: &Arrival<'_>,
        verdict: Option<&Verdict>,
    ) -> Option<Opened> {
        let keys = proof::keys(config, &self.choice, &self.opening, &self.shared)?;
        let (text, next_iv) = keys.open_phase1(&arrival.header, arrival.bytes).ok()?;
        let body = Body::parse(arrival.header.next, &text, true).ok()?;
        let identity = read_id(body.ids().next()?);
        let proof = match &identity {
            Ok(id) => proof::check(&self.choice, (&self.opening, &keys), &body, id, verdict),
            Err(cause) => Err(cause.clone()),
        };
        let initial_contact = body.notifies().any(|n| n.kind == notify::INITIAL_CONTACT);
        let config = Arc::clone(config);
        Some(Opened { tunnel, config, keys, next_iv, identity, proof, initial_contact })
    }

    fn establish(
        self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        opened: Opened,
    ) -> Result<Sa, Cause> {
        let Self { mut opening, choice, .. } = *self;
        let Opened { tunnel, config, mut keys, next_iv, identity, initial_contact, .. } = opened;
        let remote_id = identity?;
        keys.accept_phase1(next_iv);
        (opening.path.local, opening.path.remote) = (arrival.local, arrival.remote);
        // Only a peer that came to port 4500 takes ESP in UDP there (RFC 3947 4).
        opening.path.encap &= arrival.local.port() == config.local_natt.port();
        let id = id_body(&config.local_id);
        let mut chain = Chain::new();
        chain.push_raw(kind::ID, &id);
        proof::write(ctx, &mut chain, (&config, &choice), (&opening, &keys), &id)?;
        opening.exchanged.heard(arrival.bytes);
        opening.send_sealed(ctx, &mut keys, &chain);
        let proven =
            Proven { tunnel, config, opening, choice, keys, remote_id, rekeys: false, initial_contact };
        Ok(Sa::Up(IkeSa::establish(ctx, proven)))
    }
}
