//! Aggressive mode as responder.

use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::SharedSecret;
use culvert_types::TunnelId;

use crate::config::V1Mode;
use crate::ctx::{Ctx, Path};
use crate::error::{Cause, Failure, Phase};
use crate::job::Done;
use crate::kex::Answering;
use crate::v1::cause::V1Cause;
use crate::v1::keys::Keys;
use crate::v1::main_mode::{name_of, refuse_proposals};
use crate::v1::phase1::{Exchanged, Opening, Proven, id_body, read_id};
use crate::v1::proof::{self, Checked, Verdict};
use crate::v1::proposal::{self, IkeChoice};
use crate::v1::sa::IkeSa;
use crate::v1::{Arrival, Sa, Stash, method, nat, vendor};
use crate::wire::v1::{Body, Chain, HEADER_LEN, Payload, kind, notify};
use crate::{CheckId, Event, Identity, PeerConfig};

/// Third messages of one phase 1 whose certificates the owner judges.
const MAX_ASKED: u64 = 5;

/// The responder, before its answer: a job is at work for it.
pub(crate) struct AggressiveAsked {
    pub(crate) opening: Opening,
    pub(crate) expires: Instant,
    tunnel: TunnelId,
    config: Arc<PeerConfig>,
    choice: IkeChoice,
    answering: Option<Answering>,
    came: Stash,
    remote_id: Identity,
    id_body: Vec<u8>,
}

/// The responder, waiting for the third message.
pub(crate) struct AggressiveAnswered {
    pub(crate) opening: Opening,
    pub(crate) expires: Instant,
    tunnel: TunnelId,
    config: Arc<PeerConfig>,
    choice: IkeChoice,
    keys: Keys,
    remote_id: Identity,
    /// As it came: protocol and port are part of the proof.
    id_body: Vec<u8>,
    /// The third message, while the owner judges the certificate in it, and how many there were before.
    judging: Option<Stash>,
    asked: u64,
}

/// The responder's part in the first two messages. `candidates`: the tunnels that the addresses allow, best first.
pub(crate) fn respond(
    ctx: &mut Ctx<'_>,
    arrival: &Arrival<'_>,
    candidates: &[(TunnelId, Arc<PeerConfig>)],
) -> Option<Sa> {
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
    let fits = known.iter().find(|(_, c)| c.remote_id.as_ref().is_some_and(|id| id.matches(&remote_id)));
    let exact = exact.or(fits);
    let Some((tunnel, config)) = exact.or_else(|| known.iter().find(|(_, c)| c.remote_id.is_none())) else {
        let cause = Cause::NoSuchPeer { local: "any".to_owned(), remote: remote_id };
        ctx.stranger_failed(report(cause));
        return None;
    };
    let Some(choice) =
        proposal::choose_ike(&config.ike_proposals, method::accepted(config).as_slice(), offer)
    else {
        refuse_proposals(ctx, arrival, &known, offer, Phase::AggressiveMode);
        return None;
    };
    let (local, remote) = (arrival.local, arrival.remote);
    let opening = Opening {
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
        gxr: Vec::new(),
        exchanged: Exchanged::default(),
    };
    let asked = AggressiveAsked {
        opening,
        expires: ctx.now + ctx.config.half_open_lifetime,
        tunnel: *tunnel,
        config: Arc::clone(config),
        choice,
        answering: None,
        came: Stash::of(arrival),
        remote_id,
        id_body: their_id,
    };
    Box::new(asked).answer(ctx)
}

impl AggressiveAsked {
    /// Takes in what a job brought.
    pub(crate) fn on_job(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        done: &mut Option<Done>,
    ) -> Option<Sa> {
        if self.answering.as_mut().is_some_and(|a| a.on_job(number, done)) {
            self.answer(ctx)
        } else {
            Some(Sa::AggressiveAsked(self))
        }
    }

    /// The second message, once our public value is there.
    fn answer(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        let of = (self.opening.key(), false);
        let with = (self.choice.suite.group, self.opening.gxi.as_slice());
        let answered = match Answering::answer(&mut self.answering, ctx, of, with) {
            None => return Some(Sa::AggressiveAsked(self)),
            Some(answered) => answered.map_err(Cause::from),
        };
        let (tunnel, name) = (self.tunnel, self.config.name.clone());
        let sent = answered.and_then(|answered| {
            self.opening.gxr = answered.public;
            self.send(ctx, &answered.shared)
        });
        match sent {
            Ok(state) => Some(Sa::AggressiveAnswered(state)),
            Err(cause) => {
                ctx.stranger_failed(Failure::new(Some(tunnel), &name, Phase::AggressiveMode, cause));
                None
            }
        }
    }

    fn send(
        self: Box<Self>,
        ctx: &mut Ctx<'_>,
        shared: &SharedSecret,
    ) -> Result<Box<AggressiveAnswered>, Cause> {
        let Self { mut opening, expires, tunnel, config, choice, came, remote_id, id_body: their_id, .. } =
            *self;
        let arrival = came.arrival().ok_or(Cause::MissingPayload("SA"))?;
        let body = arrival.plain_body()?;
        let keys = proof::keys(&config, &choice, &opening, shared).ok_or(Cause::V1(V1Cause::NoKey))?;
        let id = id_body(&config.local_id);
        let mut chain = Chain::new();
        chain
            .push(&Payload::Sa(choice.answer()))
            .push(&Payload::Ke(&opening.gxr))
            .push(&Payload::Nonce(&opening.nr));
        chain.push_raw(kind::ID, &id);
        proof::write(ctx, &mut chain, (&config, &choice), (&opening, &keys), &id)?;
        proof::request(&mut chain, std::iter::once(&*config), choice.method, false);
        vendor::answer(&mut chain, &body, method::uses_xauth(&config), vendor::takes_fragments(&config));
        if let Some(natt) = opening.vendor.natt {
            let cookies = (opening.cookie_i, opening.cookie_r);
            let (ends, prf) = ((arrival.local, arrival.remote), choice.suite.prf);
            nat::announce(&mut chain, ctx.random, natt, prf, cookies, ends, config.force_encap);
        }
        opening.exchanged.heard(arrival.bytes);
        opening.send(ctx, &chain);
        let (judging, asked) = (None, 0);
        Ok(Box::new(AggressiveAnswered {
            opening,
            expires,
            tunnel,
            config,
            choice,
            keys,
            remote_id,
            id_body: their_id,
            judging,
            asked,
        }))
    }
}

impl AggressiveAnswered {
    pub(crate) fn on_datagram(self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        if self.opening.exchanged.is_repeated(arrival.bytes) {
            self.opening.send_again(ctx);
            return Some(Sa::AggressiveAnswered(self));
        }
        // While a certificate is judged, repetitions wait as well.
        if !arrival.is_phase1(true) || self.judging.is_some() || self.asked >= MAX_ASKED {
            return Some(Sa::AggressiveAnswered(self));
        }
        self.read(ctx, arrival, None)
    }

    /// The owner's verdict on the peer's certificate.
    pub(crate) fn on_checked(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        verdict: &Verdict,
    ) -> Option<Sa> {
        match self.judging.take_if(|_| self.asked == number) {
            Some(stash) => {
                stash.read(self, |sa, arrival| sa.read(ctx, arrival, Some(verdict)), Sa::AggressiveAnswered)
            }
            None => Some(Sa::AggressiveAnswered(self)),
        }
    }

    fn read(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        verdict: Option<&Verdict>,
    ) -> Option<Sa> {
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
        let (by, who) = ((&self.opening, &self.keys), (self.id_body.as_slice(), &self.remote_id));
        match proof::check_id(&self.choice, by, &body, who, verdict) {
            Ok(Checked::Proven) => {}
            Ok(Checked::Ask(chain)) => {
                self.asked += 1;
                let check = CheckId { sa: self.opening.key(), number: self.asked };
                let (tunnel, identity) = (self.tunnel, self.remote_id.clone());
                ctx.event(Event::CheckCertificate { check, tunnel, identity, chain });
                self.judging = Some(Stash::of(arrival));
                return Some(Sa::AggressiveAnswered(self));
            }
            Err(Cause::MissingPayload(_)) => return Some(Sa::AggressiveAnswered(self)),
            Err(cause) => return Some(self.refuse(ctx, cause)),
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
