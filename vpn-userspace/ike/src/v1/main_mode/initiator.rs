//! Main mode as initiator.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_crypto::SharedSecret;
use culvert_types::TunnelId;

use crate::ctx::{Ctx, Path, log};
use crate::error::{Cause, Phase};
use crate::job::Done;
use crate::kex::{Agreement, Half};
use crate::v1::cause::V1Cause;
use crate::v1::keys::Keys;
use crate::v1::phase1::{
    Exchanged, Opening, Patience, Proven, Stop, check_id, hinted, id_body, initial_contact, read_id,
};
use crate::v1::proof::{self, Checked, Verdict};
use crate::v1::proposal::{self, IkeChoice};
use crate::v1::sa::IkeSa;
use crate::v1::{Arrival, Sa, Stash, method, nat, vendor};
use crate::wire::v1::{self as wire, Body, Chain, Exchange, Payload, kind, notify};
use crate::{CheckId, Event, PeerConfig};

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
    half: Half,
    /// The fourth message, while a job is at work on it.
    stash: Option<Stash>,
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
    /// The sixth message, while the owner judges the certificate in it.
    judging: Option<Stash>,
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
    ) -> Option<Box<Self>> {
        log!(info, config.name, "initiating IKEv1 main mode to {remote}");
        let Some(method) = method::offered(&config) else {
            fail(ctx, tunnel, &config, Phase::MainMode, Cause::V1(V1Cause::NoKey).into());
            return None;
        };
        let offered = proposal::offer_ike(&config.ike_proposals, method.code, config.ike_lifetime, None);
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
        Some(Box::new(Self { tunnel, opening, patience, config, offered, rekeys }))
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
        let half = match Half::start(ctx, opening.key(), choice.suite.group) {
            Ok(half) => half,
            Err(e) => {
                fail(ctx, tunnel, &config, Phase::MainMode, Cause::from(e).into());
                return None;
            }
        };
        opening.cookie_r = arrival.header.cookie_r;
        opening.exchanged.heard(arrival.bytes);
        let patience = Patience::new(ctx);
        let mut next =
            Box::new(KeySent { tunnel, opening, patience, config, choice, half, stash: None, rekeys });
        next.send_key(ctx);
        Some(Sa::KeySent(next))
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
    /// The third message, once our public value is there.
    fn send_key(&mut self, ctx: &mut Ctx<'_>) {
        let Some(public) = self.half.public() else { return };
        let (opening, config) = (&mut self.opening, &self.config);
        opening.gxi = public.to_vec();
        let mut chain = Chain::new();
        chain.push(&Payload::Ke(&opening.gxi)).push(&Payload::Nonce(&opening.ni));
        if let Some(natt) = opening.vendor.natt {
            let (cookies, ends) =
                ((opening.cookie_i, opening.cookie_r), (opening.path.local, opening.path.remote));
            let prf = self.choice.suite.prf;
            nat::announce(&mut chain, ctx.random, natt, prf, cookies, ends, config.force_encap);
        }
        proof::request(&mut chain, std::iter::once(&**config), self.choice.method, true);
        opening.send(ctx, &chain);
        self.patience = Patience::new(ctx);
    }

    /// Takes in what a job brought.
    pub(crate) fn on_job(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        done: &mut Option<Done>,
    ) -> Option<Sa> {
        match self.half.on_job(number, done) {
            None => Some(Sa::KeySent(self)),
            Some(Err(e)) => {
                fail(ctx, self.tunnel, &self.config, Phase::MainMode, Cause::from(e).into());
                None
            }
            Some(Ok(())) => match self.stash.take() {
                Some(stash) => stash.read(self, |sa, arrival| sa.on_datagram(ctx, arrival), Sa::KeySent),
                None => {
                    self.send_key(ctx);
                    Some(Sa::KeySent(self))
                }
            },
        }
    }

    pub(crate) fn on_datagram(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if let Some(error) = hinted(&arrival.header, arrival.bytes) {
            self.patience.doubt(ctx, Cause::V1(V1Cause::Refused(error)));
            return Some(Sa::KeySent(self));
        }
        // While a job is at work, repetitions wait as well.
        if !arrival.is_phase1(false) || self.half.waits() || self.opening.exchanged.is_repeated(arrival.bytes)
        {
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
        let shared = match self.half.agree(ctx, &gxr) {
            Agreement::Later => {
                self.stash = Some(Stash::of(arrival));
                return Some(Sa::KeySent(self));
            }
            Agreement::Done(Ok(shared)) => shared,
            Agreement::Done(Err(e)) => {
                fail(ctx, self.tunnel, &self.config, Phase::MainMode, Cause::from(e).into());
                return None;
            }
        };
        let opening = &mut self.opening;
        // Some devices name DPD and XAuth only here.
        opening.vendor.dpd |= more.dpd;
        opening.vendor.xauth |= more.xauth;
        (opening.gxr, opening.nr) = (gxr, nr);
        opening.exchanged.heard(arrival.bytes);
        opening.path = nat::path(&self.config, found, opening.path.local, opening.path.remote, true);
        match self.identify(ctx, &shared) {
            Ok(keys) => {
                let Self { tunnel, opening, config, choice, rekeys, .. } = *self;
                let patience = Patience::new(ctx);
                let judging = None;
                let next = IdSent { tunnel, opening, patience, config, choice, keys, judging, rekeys };
                Some(Sa::IdSent(Box::new(next)))
            }
            Err(cause) => {
                fail(ctx, self.tunnel, &self.config, Phase::MainMode, cause.into());
                None
            }
        }
    }

    /// The fifth message: who we are, and its proof.
    fn identify(&mut self, ctx: &mut Ctx<'_>, shared: &SharedSecret) -> Result<Keys, Cause> {
        let (config, choice, opening) = (&self.config, &self.choice, &mut self.opening);
        let mut keys = proof::keys(config, choice, opening, shared).ok_or(Cause::V1(V1Cause::NoKey))?;
        let id = id_body(&config.local_id);
        let mut chain = Chain::new();
        chain.push_raw(kind::ID, &id);
        proof::write(ctx, &mut chain, (config, choice), (opening, &keys), &id)?;
        if !self.rekeys {
            initial_contact(&mut chain, opening);
        }
        opening.send_sealed(ctx, &mut keys, &chain);
        Ok(keys)
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
        // While a certificate is judged, repetitions wait as well.
        if self.judging.is_some() || self.opening.exchanged.is_repeated(arrival.bytes) {
            return Some(Sa::IdSent(self));
        }
        self.verify(ctx, arrival, None)
    }

    /// The owner's verdict on the peer's certificate.
    pub(crate) fn on_checked(mut self: Box<Self>, ctx: &mut Ctx<'_>, verdict: &Verdict) -> Option<Sa> {
        match self.judging.take() {
            Some(stash) => stash.read(self, |sa, arrival| sa.verify(ctx, arrival, Some(verdict)), Sa::IdSent),
            None => Some(Sa::IdSent(self)),
        }
    }

    fn verify(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        verdict: Option<&Verdict>,
    ) -> Option<Sa> {
        let (text, next_iv) = match self.keys.open_phase1(&arrival.header, arrival.bytes) {
            Ok(opened) => opened,
            Err(e) => {
                log!(debug, self.config.name, "dropped a message of main mode: {e}");
                return Some(Sa::IdSent(self));
            }
        };
        let (config, choice) = (&self.config, &self.choice);
        let checked = Body::parse(arrival.header.next, &text, true).map_err(Cause::from).and_then(|body| {
            let remote_id = read_id(body.ids().next().ok_or(Cause::MissingPayload("ID"))?)?;
            let by = (&self.opening, &self.keys);
            Ok((proof::check(choice, by, &body, &remote_id, verdict)?, remote_id))
        });
        let remote_id = match checked {
            Ok((Checked::Proven, id)) => id,
            Ok((Checked::Ask(chain), identity)) => {
                // Nobody is asked about a certificate for an identity that is not wanted.
                if let Err(stop) = check_id(config, &identity) {
                    fail(ctx, self.tunnel, config, Phase::MainMode, stop);
                    return None;
                }
                let check = CheckId { sa: self.opening.key(), number: 0 };
                ctx.event(Event::CheckCertificate { check, tunnel: self.tunnel, identity, chain });
                self.judging = Some(Stash::of(arrival));
                return Some(Sa::IdSent(self));
            }
            Err(cause @ (Cause::Certificate { .. } | Cause::WrongSignature { .. })) => {
                fail(ctx, self.tunnel, config, Phase::MainMode, cause.into());
                return None;
            }
            // Anybody can send what does not decrypt: the peer's own message may still come.
            Err(cause) => {
                log!(debug, config.name, "dropped a sixth message of main mode: {cause}");
                self.patience.doubt(ctx, cause);
                return Some(Sa::IdSent(self));
            }
        };
        if let Err(stop) = check_id(config, &remote_id) {
            fail(ctx, self.tunnel, config, Phase::MainMode, stop);
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
        let judged = self.judging.is_none();
        let silence = |after| match judged {
            true => Cause::V1(V1Cause::GoneAfterKeys(after)),
            false => Cause::Unjudged(after),
        };
        match self.patience.on_timeout(ctx, &self.opening, &self.config.name, silence) {
            Ok(()) => Some(Sa::IdSent(self)),
            Err(cause) => {
                let stop = Stop::with(cause, format!("local id {}", self.config.local_id), String::new());
                fail(ctx, self.tunnel, &self.config, Phase::MainMode, stop);
                None
            }
        }
    }
}
