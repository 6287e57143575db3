//! IKE_SA_INIT (RFC 7296 1.2): proposals, key exchange, nonces, cookies, NAT detection; both roles.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::DhGroup;
use culvert_types::TunnelId;

use super::auth::{self, HalfOpen, Handshake};
use super::ctx::{Ctx, log};
use super::{Arrival, Path, Sa, Stash, nat};
use crate::auth::int_auth::IntAuth;
use crate::auth::signature;
use crate::error::{Cause, Failure, Phase, group_name};
use crate::job::{Answered, Done};
use crate::kex::{Agreement, Answering, Half};
use crate::keymat::{IkeKeys, Nonces, first_seed};
use crate::proposal::{self, IkeProposal, select};
use crate::protect::Protection;
use crate::window::{Due, Retransmission};
use crate::wire::{
    Body, Chain, Exchange, Flags, HEADER_LEN, Header, Notify, Payload, Proposal, WireError, notify,
    plain_message,
};
use crate::{Childless, Fragmentation, IkeSuite, PeerConfig, Virtual, fragment};

/// The initiator, waiting for the answer to IKE_SA_INIT.
pub(crate) struct InitSent {
    pub(crate) tunnel: TunnelId,
    pub(crate) retransmission: Retransmission,
    config: Arc<PeerConfig>,
    spi: u64,
    started: Instant,
    remote: SocketAddr,
    /// The tunnel has an IKE SA, which this one is to replace.
    beside: bool,
    nonce: Vec<u8>,
    half: Half,
    /// The answer that waits for the agreement.
    stash: Option<Stash>,
    offered: Vec<Proposal>,
    cookie: Option<Vec<u8>>,
    request: Vec<u8>,
    retries: u32,
    /// What was wrong with an answer that may have been forged: told if no better one comes.
    doubt: Option<Cause>,
}

/// Cookies and other groups asked for, before we take the peer for broken.
const MAX_RETRIES: u32 = 5;

impl InitSent {
    /// Opens the negotiation of a tunnel, at once or when its key pair is made. `None`, with a failure reported,
    /// when there is none.
    pub(crate) fn start(
        ctx: &mut Ctx<'_>,
        tunnel: TunnelId,
        config: Arc<PeerConfig>,
        remote: SocketAddr,
        beside: bool,
    ) -> Option<Box<Self>> {
        let group = *config.ike_proposals.first()?.groups().first()?;
        let spi = ctx.ike_spi();
        let half = match Half::start(ctx, spi, group) {
            Ok(half) => half,
            Err(e) => {
                ctx.failed(Failure::new(Some(tunnel), &config.name, Phase::IkeSaInit, e.into()));
                return None;
            }
        };
        log!(info, config.name, "initiating IKE SA to {remote}");
        let mut state = Box::new(Self {
            tunnel,
            retransmission: Retransmission::new(ctx.now, &ctx.config.retransmit, None),
            spi,
            started: ctx.now,
            remote,
            beside,
            nonce: ctx.nonce(),
            half,
            stash: None,
            offered: select::offer_ike(&config.ike_proposals, &[]),
            cookie: None,
            request: Vec::new(),
            retries: 0,
            doubt: None,
            config,
        });
        state.send(ctx);
        Some(state)
    }

    /// Our SPI.
    pub(crate) fn spi(&self) -> u64 {
        self.spi
    }

    /// Sends the request, once there is a public value to put into it.
    fn send(&mut self, ctx: &mut Ctx<'_>) {
        let Some(public) = self.half.public() else { return };
        let mut chain = Chain::new();
        // RFC 7296 2.6: the cookie comes first, everything else as it was.
        if let Some(cookie) = &self.cookie {
            chain.push(&Payload::Notify(Notify::new(notify::COOKIE, cookie)));
        }
        chain.push(&Payload::Sa(self.offered.clone()));
        chain.push(&Payload::Ke { group: self.half.group().iana(), data: public });
        chain.push(&Payload::Nonce(&self.nonce));
        let ends = (self.config.local, self.remote);
        nat::announce(&mut chain, ctx.random, (self.spi, 0), ends, self.config.force_encap);
        if self.config.exchange.fragmentation != Fragmentation::No {
            chain.push(&Payload::Notify(Notify::new(notify::FRAGMENTATION_SUPPORTED, &[])));
        }
        if self.config.ike_proposals.iter().any(|p| p.additional.methods().next().is_some()) {
            auth::announce(&mut chain);
        }
        if self.config.exchange.ppk.is_some() {
            chain.push(&Payload::Notify(Notify::new(notify::USE_PPK, &[])));
        }
        if let Some(trust) = self.config.auth.remote.as_trust() {
            signature::write_hashes(&mut chain, trust.sha1);
        }
        let flags = Flags { initiator: true, response: false };
        let header =
            Header { spi_i: self.spi, spi_r: 0, next: 0, exchange: Exchange::SaInit, flags, message_id: 0 };
        self.request = plain_message(&header, &chain);
        self.retransmission = Retransmission::new(ctx.now, &ctx.config.retransmit, None);
        ctx.transmit(self.config.local, self.remote, self.request.clone());
    }

    pub(crate) fn on_response(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        let fits = header.exchange == Exchange::SaInit && header.flags.response && header.message_id == 0;
        // While a job is at work, nothing else is listened to: repetitions come again if it brings nothing.
        if !fits || arrival.remote.ip() != self.remote.ip() || self.half.waits() {
            return Some(Sa::InitSent(self));
        }
        let answer = arrival.bytes.get(HEADER_LEN..).unwrap_or_default();
        let result = match Body::parse(header.next, answer) {
            Ok(body) => self.read(ctx, arrival, &body),
            Err(e) => Err(Stop::Doubt(e.into())),
        };
        match result {
            Ok(Step::Again) => {
                self.send(ctx);
                Some(Sa::InitSent(self))
            }
            Ok(Step::Later) => {
                self.stash = Some(Stash::of(arrival));
                Some(Sa::InitSent(self))
            }
            Ok(Step::Done(handshake)) => auth::go_on(ctx, self.tunnel, self.config, *handshake, self.beside),
            // RFC 7296 2.21.1: such answers are not authenticated; a better one may follow.
            Err(Stop::Doubt(cause)) => {
                log!(debug, self.config.name, "doubtful answer to IKE_SA_INIT: {cause}");
                self.doubt = Some(cause);
                Some(Sa::InitSent(self))
            }
            Err(Stop::Fail(cause, theirs)) => {
                self.fail(ctx, cause, theirs);
                None
            }
        }
    }

    fn read(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>, body: &Body<'_>) -> Result<Step, Stop> {
        if let Some(cookie) = body.notify(notify::COOKIE) {
            // RFC 7296 2.6: 1 to 64 bytes.
            if !(1..=64).contains(&cookie.data.len()) {
                return Err(Stop::Doubt(WireError::Length("cookie").into()));
            }
            self.count_retry()?;
            log!(debug, self.config.name, "the peer asks for a cookie");
            self.cookie = Some(cookie.data.to_vec());
            return Ok(Step::Again);
        }
        if let Some(n) = body.notify(notify::INVALID_KE_PAYLOAD) {
            let Ok(group) = <[u8; 2]>::try_from(n.data) else {
                return Err(Stop::Doubt(WireError::Length("INVALID_KE_PAYLOAD").into()));
            };
            return self.other_group(ctx, u16::from_be_bytes(group));
        }
        if let Some(n) = body.error() {
            return Err(match n.kind {
                notify::NO_PROPOSAL_CHOSEN => Stop::Fail(Cause::ProposalsRefused, String::new()),
                other => Stop::Fail(Cause::Refused(other), String::new()),
            });
        }
        let spi_r = arrival.header.spi_r;
        if spi_r == 0 {
            return Err(Stop::Doubt(Cause::BadSpi(0)));
        }
        let missing = |what| Stop::Doubt(Cause::MissingPayload(what));
        let answer = body.sa().ok_or(missing("SA"))?;
        let (group, value) = body.ke().ok_or(missing("KE"))?;
        let nr = body.nonce().ok_or(missing("nonce"))?;
        let Some(suite) = select::accept_ike(&self.offered, answer) else {
            return Err(Stop::Fail(Cause::WrongChoice, proposal::describe(answer)));
        };
        if group != suite.group.iana() || suite.group != self.half.group() {
            return Err(Stop::Fail(
                Cause::WrongChoice,
                format!("{suite} with a value of {}", group_name(group)),
            ));
        }
        if !suite.additional.is_empty() && body.notify(notify::INTERMEDIATE_SUPPORTED).is_none() {
            return Err(Stop::Fail(Cause::NoIntermediate, suite.to_string()));
        }
        let found = nat::detect(body, (self.spi, spi_r), arrival.local, arrival.remote);
        let shared = match self.half.agree(ctx, value) {
            Agreement::Later => return Ok(Step::Later),
            Agreement::Done(shared) => shared.map_err(|e| Stop::Fail(e.into(), String::new()))?,
        };

        let nonces = Nonces { initiator: &self.nonce, responder: nr };
        let seed = first_seed(suite.prf, nonces, &shared);
        let keys = IkeKeys::derive(&suite, &seed, nonces, self.spi, spi_r);
        let c = &self.config;
        // RFC 7296 2.23: with a NAT between, both ports become 4500. A peer to which we lie sees one too.
        let float = found.supported && (found.local || found.remote || c.force_encap);
        // RFC 4555 3.3: who may move leaves from there anyhow, so that no port changes later.
        let moves = found.supported && c.exchange.mobike.offers();
        let (local, remote) = if float || moves {
            (c.local_natt, SocketAddr::new(self.remote.ip(), c.remote_natt_port))
        } else {
            (c.local, self.remote)
        };
        let path = Path { local, remote, nat_local: found.local, nat_remote: found.remote, encap: float };
        let protection = Protection::new(suite.protection, &keys, true);
        let mut protection = protection.tapped(ctx.tap, (self.spi, spi_r), &keys);
        if fragment::agreed(&c.exchange, body.notify(notify::FRAGMENTATION_SUPPORTED).is_some()) {
            protection.fragment(Some(fragment::limit(&c.exchange, remote.ip())));
        }
        Ok(Step::Done(Box::new(Handshake {
            spi_i: self.spi,
            spi_r,
            protection,
            suite,
            keys,
            ni: std::mem::take(&mut self.nonce),
            nr: nr.to_vec(),
            request: std::mem::take(&mut self.request),
            response: arrival.bytes.to_vec(),
            peer_hashes: signature::read_hashes(body),
            addresses: Virtual::default(),
            mobility: None,
            peer_ppk: body.notify(notify::USE_PPK).is_some(),
            ppk: false,
            peer_childless: body.notify(notify::CHILDLESS_SUPPORTED).is_some(),
            int_auth: IntAuth::default(),
            path,
            started: self.started,
        })))
    }

    fn count_retry(&mut self) -> Result<(), Stop> {
        self.retries += 1;
        if self.retries > MAX_RETRIES {
            Err(Stop::Fail(Cause::Endless(self.retries), String::new()))
        } else {
            Ok(())
        }
    }

    /// RFC 7296 1.2: try again with the group that the responder wants, if it is one of ours.
    fn other_group(&mut self, ctx: &mut Ctx<'_>, wanted: u16) -> Result<Step, Stop> {
        self.count_retry()?;
        let group = DhGroup::from_iana(wanted).filter(|g| {
            *g != self.half.group() && self.config.ike_proposals.iter().any(|p| p.groups().contains(g))
        });
        let Some(group) = group else {
            return Err(Stop::Fail(Cause::GroupRefused(wanted), group_name(wanted)));
        };
        log!(debug, self.config.name, "the peer asks for {group} instead of {}", self.half.group());
        self.half = Half::start(ctx, self.spi, group).map_err(|e| Stop::Fail(e.into(), String::new()))?;
        Ok(Step::Again)
    }

    fn fail(&self, ctx: &mut Ctx<'_>, cause: Cause, theirs: String) {
        let ours = proposal::list(&self.config.ike_proposals);
        let failure = Failure::new(Some(self.tunnel), &self.config.name, Phase::IkeSaInit, cause);
        ctx.failed(failure.offered(ours, theirs));
    }

    /// A key pair is made, or an agreement with the answer that waits for it.
    pub(crate) fn on_job(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        done: &mut Option<Done>,
    ) -> Option<Sa> {
        match (self.half.on_job(number, done), self.stash.take()) {
            (None, stash) => {
                self.stash = stash;
                Some(Sa::InitSent(self))
            }
            (Some(Err(e)), _) => {
                self.fail(ctx, e.into(), String::new());
                None
            }
            (Some(Ok(())), Some(stash)) => self.on_response(ctx, &stash.arrival()),
            (Some(Ok(())), None) => {
                self.send(ctx);
                Some(Sa::InitSent(self))
            }
        }
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        match self.retransmission.on_timeout(ctx.now) {
            Due::Nothing => {}
            // The answer is there, or nothing has been sent yet.
            Due::Again if self.half.waits() => {}
            Due::GiveUp(_) if self.half.waits() => {
                self.fail(ctx, Cause::Unfinished, String::new());
                return None;
            }
            Due::Again => {
                if self.retransmission.worrying() {
                    let remote = self.remote;
                    log!(
                        warn,
                        self.config.name,
                        "no answer from {remote} to IKE_SA_INIT yet; to mend: see that the peer runs and that UDP {} passes both ways",
                        remote.port()
                    );
                }
                log!(debug, self.config.name, "repeating IKE_SA_INIT to {}", self.remote);
                ctx.transmit(self.config.local, self.remote, self.request.clone());
            }
            Due::GiveUp(after) => {
                let cause = self.doubt.take().unwrap_or(Cause::Silent(after));
                self.fail(ctx, cause, String::new());
                return None;
            }
        }
        Some(Sa::InitSent(self))
    }
}

enum Step {
    Again,
    /// A job is at work on the agreement.
    Later,
    Done(Box<Handshake>),
}

enum Stop {
    Doubt(Cause),
    Fail(Cause, String),
}

/// A responder's answer to a request without state of its own.
pub(crate) enum Respond {
    /// Half-open state and its answer.
    Open(Box<HalfOpen>),
    /// A job is at work on the answer.
    Later(Answering),
    /// An error for the peer, and what to tell our side.
    Refuse { notify: u16, data: Vec<u8>, failure: Option<Box<Failure>> },
}

/// What an IKE_SA_INIT request must have.
pub(crate) struct Request<'a> {
    pub(crate) offers: &'a [Proposal],
    pub(crate) ke: (u16, &'a [u8]),
    pub(crate) nonce: &'a [u8],
}

impl<'a> Request<'a> {
    pub(crate) fn read(body: &'a Body<'_>) -> Option<Self> {
        Some(Self { offers: body.sa()?, ke: body.ke()?, nonce: body.nonce()? })
    }
}

/// The responder, whose answer waits for a job. It counts as half-open.
pub(crate) struct Opening {
    pub(crate) expires: Instant,
    pub(crate) stash: Stash,
    pub(crate) answering: Answering,
}

impl Opening {
    pub(crate) fn new(ctx: &Ctx<'_>, arrival: &Arrival<'_>, answering: Answering) -> Box<Self> {
        let expires = ctx.now + ctx.config.half_open_lifetime;
        Box::new(Self { expires, stash: Stash::of(arrival), answering })
    }

    pub(crate) fn spi_i(&self) -> u64 {
        self.stash.header.spi_i
    }
}

/// The responder's part. `spi_r`: our SPI, which is free. `ready`: what a job has brought for this request.
/// `candidates`: the tunnels that the addresses allow, best first, not empty.
pub(crate) fn respond(
    ctx: &mut Ctx<'_>,
    arrival: &Arrival<'_>,
    body: &Body<'_>,
    request: &Request<'_>,
    candidates: &[(TunnelId, Arc<PeerConfig>)],
    spi_r: u64,
    mut ready: Option<Answering>,
) -> Respond {
    let sole = match candidates {
        [(tunnel, config)] => (Some(*tunnel), config.name.clone()),
        _ => (None, arrival.remote.ip().to_string()),
    };
    let failure = |cause| Failure::new(sole.0, &sole.1, Phase::IkeSaInit, cause);
    // RFC 9370 2.2.1: additional key exchanges need IKE_INTERMEDIATE on both sides.
    let plain = match body.notify(notify::INTERMEDIATE_SUPPORTED) {
        Some(_) => None,
        None => Some(select::without_additional(request.offers)),
    };
    let offers = plain.as_deref().unwrap_or(request.offers);
    let choice = candidates
        .iter()
        .find_map(|(_, c)| select::choose_ike(&c.ike_proposals, offers, 0).map(|chosen| (c, chosen)));
    let Some((config, chosen)) = choice else {
        let mut ours: Vec<IkeProposal> = Vec::new();
        for p in candidates.iter().flat_map(|(_, c)| &c.ike_proposals) {
            if !ours.contains(p) {
                ours.push(p.clone());
            }
        }
        let failure =
            failure(Cause::NoProposal).offered(proposal::list(&ours), proposal::describe(request.offers));
        return Respond::Refuse {
            notify: notify::NO_PROPOSAL_CHOSEN,
            data: Vec::new(),
            failure: Some(Box::new(failure)),
        };
    };
    let suite: IkeSuite = chosen.suite;
    let wanted = suite.group;
    if request.ke.0 != wanted.iana() {
        // RFC 7296 1.2: the group of the KE payload is not the one chosen: say which, keep nothing.
        let data = wanted.iana().to_be_bytes().to_vec();
        return Respond::Refuse { notify: notify::INVALID_KE_PAYLOAD, data, failure: None };
    }
    let answered = Answering::answer(&mut ready, ctx, (spi_r, false), (wanted, request.ke.1));
    let Answered { public, shared } = match (answered, ready) {
        (Some(Ok(answered)), _) => answered,
        (None, Some(answering)) => return Respond::Later(answering),
        (refused, _) => {
            let cause = refused.and_then(Result::err).map_or(Cause::Unfinished, Cause::from);
            let failure = Some(Box::new(failure(cause)));
            return Respond::Refuse { notify: notify::INVALID_SYNTAX, data: Vec::new(), failure };
        }
    };
    let (spi_i, nr) = (arrival.header.spi_i, ctx.nonce());
    let nonces = Nonces { initiator: request.nonce, responder: &nr };
    let keys = IkeKeys::derive(&suite, &first_seed(suite.prf, nonces, &shared), nonces, spi_i, spi_r);
    let found = nat::detect(body, (spi_i, 0), arrival.local, arrival.remote);

    let mut chain = Chain::new();
    chain.push(&Payload::Sa(vec![chosen.answer]));
    chain.push(&Payload::Ke { group: wanted.iana(), data: &public });
    chain.push(&Payload::Nonce(&nr));
    if found.supported {
        let ends = (arrival.local, arrival.remote);
        nat::announce(&mut chain, ctx.random, (spi_i, spi_r), ends, config.force_encap);
    }
    let trusts = || candidates.iter().filter_map(|(_, c)| c.auth.remote.as_trust());
    if trusts().next().is_some() {
        signature::write_hashes(&mut chain, trusts().any(|t| t.sha1));
        // RFC 7296 1.2: as responder we ask for certificates here.
        signature::write_request(&mut chain, trusts());
    }
    let protection = Protection::new(suite.protection, &keys, false);
    let mut protection = protection.tapped(ctx.tap, (spi_i, spi_r), &keys);
    // RFC 7383 2.3: both sides say so in IKE_SA_INIT.
    if fragment::agreed(&config.exchange, body.notify(notify::FRAGMENTATION_SUPPORTED).is_some()) {
        chain.push(&Payload::Notify(Notify::new(notify::FRAGMENTATION_SUPPORTED, &[])));
        protection.fragment(Some(fragment::limit(&config.exchange, arrival.remote.ip())));
    }
    if !suite.additional.is_empty() {
        auth::announce(&mut chain);
    }
    // RFC 6023 3: the responder says that it would take an IKE_AUTH without a CHILD SA.
    if candidates.iter().any(|(_, c)| c.exchange.childless != Childless::Never) {
        chain.push(&Payload::Notify(Notify::new(notify::CHILDLESS_SUPPORTED, &[])));
    }
    // RFC 8784 3: which tunnel it is, and so whether it has a PPK, is known later.
    let uses_ppk = candidates.iter().any(|(_, c)| c.exchange.ppk.is_some());
    let peer_ppk = uses_ppk && body.notify(notify::USE_PPK).is_some();
    if peer_ppk {
        chain.push(&Payload::Notify(Notify::new(notify::USE_PPK, &[])));
    }
    let response = plain_message(&Header { spi_r, ..arrival.header.answer() }, &chain);
    ctx.transmit(arrival.local, arrival.remote, response.clone());
    let path = Path {
        local: arrival.local,
        remote: arrival.remote,
        nat_local: found.local,
        nat_remote: found.remote,
        encap: found.supported && (found.local || found.remote || config.force_encap),
    };
    let handshake = Handshake {
        spi_i,
        spi_r,
        protection,
        suite,
        keys,
        ni: request.nonce.to_vec(),
        nr,
        request: arrival.bytes.to_vec(),
        response,
        peer_hashes: signature::read_hashes(body),
        addresses: Virtual::default(),
        mobility: None,
        peer_ppk,
        ppk: false,
        peer_childless: false,
        int_auth: IntAuth::default(),
        path,
        started: ctx.now,
    };
    let candidates = candidates.iter().map(|(tunnel, _)| *tunnel).collect();
    Respond::Open(HalfOpen::new(ctx, handshake, candidates))
}

/// An answer to IKE_SA_INIT that carries one notification and leaves no state.
pub(crate) fn refusal(request: &Header, kind: u16, data: &[u8]) -> Vec<u8> {
    let mut chain = Chain::new();
    chain.push(&Payload::Notify(Notify::new(kind, data)));
    plain_message(&request.answer(), &chain)
}
