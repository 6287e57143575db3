//! Aggressive mode as initiator.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_crypto::SharedSecret;
use culvert_types::TunnelId;

use crate::ctx::{Ctx, Path, log};
use crate::error::{Cause, Failure, Phase};
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
use crate::wire::v1::{self as wire, Body, Chain, HEADER_LEN, Payload, kind, notify};
use crate::{CheckId, Event, Identity, PeerConfig};

/// The initiator, waiting for the second message.
pub(crate) struct AggressiveSent {
    pub(crate) tunnel: TunnelId,
    pub(crate) opening: Opening,
    pub(crate) patience: Patience,
    config: Arc<PeerConfig>,
    offered: wire::Sa<'static>,
    method: u16,
    half: Half,
    /// With the peer's public value, once it is there.
    shared: Option<SharedSecret>,
    /// The second message, while a job is at work on it or the owner judges the certificate in it.
    stash: Option<Stash>,
    rekeys: bool,
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
        let failed = |cause| Failure::new(Some(tunnel), &config.name, Phase::AggressiveMode, cause);
        // The key goes with the offer: only one group can be offered.
        let group = proposal::first_group(&config.ike_proposals)?;
        let Some(method) = method::offered(&config).map(|m| m.code) else {
            ctx.failed(failed(V1Cause::NoKey.into()));
            return None;
        };
        let cookie_i = ctx.ike_spi();
        let half = match Half::start(ctx, cookie_i, group) {
            Ok(half) => half,
            Err(e) => {
                ctx.failed(failed(e.into()));
                return None;
            }
        };
        let offered = proposal::offer_ike(&config.ike_proposals, method, config.ike_lifetime, Some(group));
        let opening = Opening {
            initiator: true,
            aggressive: true,
            cookie_i,
            cookie_r: 0,
            started: ctx.now,
            path: Path { local, remote, nat_local: false, nat_remote: false, encap: false },
            vendor: vendor::Vendor::default().fragmented(&config),
            sa: Vec::new(),
            ni: ctx.nonce(),
            nr: Vec::new(),
            gxi: Vec::new(),
            gxr: Vec::new(),
            exchanged: Exchanged::default(),
        };
        let patience = Patience::new(ctx);
        let (shared, stash) = (None, None);
        let mut state = Box::new(Self {
            tunnel,
            opening,
            patience,
            config,
            offered,
            method,
            half,
            shared,
            stash,
            rekeys,
        });
        state.send_offer(ctx);
        Some(state)
    }

    /// The first message, once our public value is there.
    fn send_offer(&mut self, ctx: &mut Ctx<'_>) {
        let Some(public) = self.half.public() else { return };
        let (config, opening) = (&self.config, &mut self.opening);
        opening.gxi = public.to_vec();
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(self.offered.clone()));
        opening.sa = chain.bytes().get(4..).unwrap_or_default().to_vec();
        chain.push(&Payload::Ke(&opening.gxi)).push(&Payload::Nonce(&opening.ni));
        chain.push_raw(kind::ID, &id_body(&config.local_id));
        proof::request(&mut chain, std::iter::once(&**config), self.method, true);
        vendor::announce(&mut chain, method::uses_xauth(config), vendor::takes_fragments(config));
        opening.send(ctx, &chain);
        self.patience = Patience::new(ctx);
    }

    fn fail(&self, ctx: &mut Ctx<'_>, stop: Stop) {
        ctx.failed(stop.failure(Some(self.tunnel), &self.config.name, Phase::AggressiveMode));
    }

    /// Takes in what a job brought.
    pub(crate) fn on_job(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        done: &mut Option<Done>,
    ) -> Option<Sa> {
        match self.half.on_job(number, done) {
            None => Some(Sa::AggressiveSent(self)),
            Some(Err(e)) => {
                self.fail(ctx, Cause::from(e).into());
                None
            }
            Some(Ok(())) => match self.stash.take() {
                Some(stash) => {
                    stash.read(self, |sa, arrival| sa.on_answer(ctx, arrival, None), Sa::AggressiveSent)
                }
                None => {
                    self.send_offer(ctx);
                    Some(Sa::AggressiveSent(self))
                }
            },
        }
    }

    /// The owner's verdict on the peer's certificate.
    pub(crate) fn on_checked(mut self: Box<Self>, ctx: &mut Ctx<'_>, verdict: &Verdict) -> Option<Sa> {
        match self.stash.take_if(|_| !self.half.waits()) {
            Some(stash) => {
                stash.read(self, |sa, arrival| sa.on_answer(ctx, arrival, Some(verdict)), Sa::AggressiveSent)
            }
            None => Some(Sa::AggressiveSent(self)),
        }
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
        // While a job or the owner is at work, repetitions wait as well.
        let waits = self.stash.is_some() || self.half.waits();
        if waits || !arrival.is_phase1(true) || arrival.header.cookie_r == 0 {
            return Some(Sa::AggressiveSent(self));
        }
        self.on_answer(ctx, arrival, None)
    }

    /// The second message.
    fn on_answer(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        verdict: Option<&Verdict>,
    ) -> Option<Sa> {
        let read = arrival.plain_body().map_err(Cause::from).map_err(Stop::from);
        match read.and_then(|body| self.read(ctx, arrival, &body, verdict)) {
            Ok(Some((choice, keys, remote_id))) => self.finish(ctx, arrival, choice, keys, remote_id),
            Ok(None) => Some(Sa::AggressiveSent(self)),
            Err(stop @ Stop { cause: Cause::Certificate { .. } | Cause::WrongSignature { .. }, .. }) => {
                self.fail(ctx, stop);
                None
            }
            // Anybody can send it: the peer's own answer may still come.
            Err(stop) => {
                log!(debug, self.config.name, "doubtful answer in aggressive mode: {}", stop.cause);
                self.opening.cookie_r = 0;
                self.shared = None;
                self.patience.doubt(ctx, stop.cause);
                Some(Sa::AggressiveSent(self))
            }
        }
    }

    /// What the peer chose and who it proves to be; `None`: a job or the owner is at work on that.
    fn read(
        &mut self,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        body: &Body<'_>,
        verdict: Option<&Verdict>,
    ) -> Result<Option<(IkeChoice, Keys, Identity)>, Stop> {
        let missing = |what| Stop::from(Cause::MissingPayload(what));
        let answer = body.sa().ok_or_else(|| missing("SA"))?;
        let choice = proposal::accept_ike(&self.offered, answer).ok_or_else(|| {
            let ours = proposal::describe_ours(&self.config.ike_proposals);
            Stop::with(Cause::WrongChoice, ours, proposal::describe(answer))
        })?;
        let gxr = body.ke().ok_or_else(|| missing("KE"))?;
        let nr = body.nonce().ok_or_else(|| missing("nonce"))?;
        let remote_id = read_id(body.ids().next().ok_or_else(|| missing("ID"))?)?;
        check_id(&self.config, &remote_id)?;
        if self.shared.is_none() {
            // Used up by agreeing: a forged answer ends this try, and needs our cookie to be one.
            self.shared = match self.half.agree(ctx, gxr) {
                Agreement::Later => {
                    self.stash = Some(Stash::of(arrival));
                    return Ok(None);
                }
                Agreement::Done(shared) => Some(shared.map_err(Cause::from)?),
            };
        }
        let shared = self.shared.as_ref().ok_or(Cause::V1(V1Cause::NoKey))?;
        (self.opening.gxr, self.opening.nr) = (gxr.to_vec(), nr.to_vec());
        self.opening.cookie_r = arrival.header.cookie_r;
        let (config, opening) = (&self.config, &self.opening);
        let keys = proof::keys(config, &choice, opening, shared).ok_or(Cause::V1(V1Cause::NoKey))?;
        match proof::check(&choice, (opening, &keys), body, &remote_id, verdict)? {
            Checked::Proven => Ok(Some((choice, keys, remote_id))),
            Checked::Ask(chain) => {
                let check = CheckId { sa: self.opening.key(), number: 0 };
                let (tunnel, identity) = (self.tunnel, remote_id);
                ctx.event(Event::CheckCertificate { check, tunnel, identity, chain });
                self.stash = Some(Stash::of(arrival));
                Ok(None)
            }
        }
    }

    fn finish(
        self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        choice: IkeChoice,
        mut keys: Keys,
        remote_id: Identity,
    ) -> Option<Sa> {
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
        let mut chain = Chain::new();
        let id = id_body(&config.local_id);
        if let Err(cause) = proof::write(ctx, &mut chain, (&config, &choice), (&opening, &keys), &id) {
            ctx.failed(Failure::new(Some(tunnel), &config.name, Phase::AggressiveMode, cause));
            return None;
        }
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
        Some(Sa::Up(IkeSa::establish(ctx, proven)))
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
