//! Quick mode (RFC 2409 5.5): CHILD SAs, with and without perfect forward secrecy; both roles.

use std::time::{Duration, Instant};

use culvert_crypto::{KeyPair, SharedSecret};
use culvert_types::{Spi, TrafficSelector};

use super::cause::V1Cause;
use super::child::{Pair, State, from_id, to_id};
use super::phase1::Exchanged;
use super::proposal::{self, EspChoice, Terms};
use super::sa::{Agreed, IkeSa};
use super::{Arrival, nat};
use crate::ctx::{Ctx, log};
use crate::error::{Cause, Phase};
use crate::proposal::list;
use crate::window::{Due, Retransmission};
use crate::wire::v1::{self as wire, Attribute, Body, Chain, Exchange, Notify, Payload, notify, protocol};
use culvert_crypto::equal;

/// How long an exchange that is done answers repetitions: longer than the peer repeats.
const REMEMBERED: Duration = Duration::from_secs(180);
/// Exchanges of the peer that may be open at once; more are dropped.
const MAX_OPEN: usize = 64;

/// One quick mode.
pub(crate) struct Quick {
    pub(crate) message_id: u32,
    /// The IV of the next message.
    iv: Vec<u8>,
    exchanged: Exchanged,
    started: Instant,
    state: State3,
}

/// Which of the three messages is next.
enum State3 {
    /// We asked and wait for the answer.
    Asked(Box<Asked>, Retransmission),
    /// We answered and wait for HASH(3).
    Answered { inbound: Spi, ni: Vec<u8>, nr: Vec<u8>, retransmission: Retransmission },
    /// All is said; repetitions are answered until then.
    Done(Instant),
}

/// What we asked for.
struct Asked {
    inbound: Spi,
    pair: Pair,
    replaces: Option<Spi>,
    offered: wire::Sa<'static>,
    terms: Terms,
    key: Option<KeyPair>,
    nonce: Vec<u8>,
}

/// Why there is no CHILD SA.
struct Refusal {
    cause: Cause,
    ours: String,
    theirs: String,
    /// What the peer is told.
    tell: u16,
}

impl Refusal {
    fn new(cause: Cause, tell: u16) -> Self {
        Self { cause, ours: String::new(), theirs: String::new(), tell }
    }
}

impl Quick {
    /// Whether it is ours and its answer is still to come.
    pub(crate) fn waits_for_answer(&self) -> bool {
        matches!(self.state, State3::Asked(..))
    }

    /// Whether it is ours, open, and about this pair of networks.
    pub(crate) fn negotiates(&self, pair: &Pair) -> bool {
        matches!(&self.state, State3::Asked(asked, _) if asked.pair == *pair)
    }

    /// An SPI that is reserved for a CHILD SA that is not there yet.
    pub(crate) fn reserved(&self) -> Option<Spi> {
        match &self.state {
            State3::Asked(asked, _) => Some(asked.inbound),
            _ => None,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        match &self.state {
            State3::Asked(_, retransmission) | State3::Answered { retransmission, .. } => {
                retransmission.deadline()
            }
            State3::Done(until) => *until,
        }
    }
}

impl IkeSa {
    /// Asks for a CHILD SA for a pair of networks.
    pub(crate) fn start_quick(&mut self, ctx: &mut Ctx<'_>, pair: Pair, replaces: Option<Spi>) {
        // What was configured meanwhile holds from now on.
        if let Some(config) = ctx.peers.get(self.tunnel) {
            self.config = std::sync::Arc::clone(config);
        }
        let group = self.config.esp_proposals.iter().find_map(|p| p.groups().first().copied());
        let key = match group.map(|g| KeyPair::generate(g, ctx.random)).transpose() {
            Ok(key) => key,
            Err(e) => return ctx.failed(self.failure(self.phase_of(replaces), e.into())),
        };
        let inbound = ctx.esp_spi(self.key(), self.config.spi_parity);
        let encapsulation = nat::mode(&self.path, self.vendor.natt);
        let terms = Terms { group, encapsulation, lifetime: self.config.child_lifetime };
        let offered = proposal::offer_esp(&self.config.esp_proposals, &terms, inbound.to_bytes());
        let nonce = ctx.nonce();
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(offered.clone())).push(&Payload::Nonce(&nonce));
        if let Some(key) = &key {
            chain.push(&Payload::Ke(key.public()));
        }
        chain.push(&Payload::Id(to_id(&pair.local).id())).push(&Payload::Id(to_id(&pair.remote).id()));
        let message_id = self.message_id(ctx);
        self.seen.insert(message_id);
        let chain = chain.with_hash(|bytes| self.keys.hash(message_id, &[bytes]).to_vec());
        let header = self.header(Exchange::Quick, message_id);
        let (message, iv) = self.keys.seal(&self.keys.iv(message_id), &header, &chain);
        log!(debug, self.config.name, "quick mode {message_id:08x} for {}", pair.describe());
        let timeout = self.config.dpd.map(|dpd| dpd.timeout);
        let retransmission = Retransmission::new(ctx.now, &ctx.config.retransmit, timeout);
        let asked = Asked { inbound, pair, replaces, offered, terms, key, nonce };
        let exchanged = Exchanged::sent(message.clone());
        let state = State3::Asked(Box::new(asked), retransmission);
        self.quicks.push(Quick { message_id, iv, exchanged, started: ctx.now, state });
        self.send(ctx, message);
    }

    fn phase_of(&self, replaces: Option<Spi>) -> Phase {
        if replaces.is_some() { Phase::QuickModeRekey } else { Phase::QuickMode }
    }

    pub(crate) fn on_quick(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) {
        let id = arrival.header.message_id;
        let Some(at) = self.quicks.iter().position(|q| q.message_id == id) else {
            if !self.seen.contains(&id) {
                self.answer_quick(ctx, arrival);
            }
            return;
        };
        let quick = &self.quicks[at];
        if quick.exchanged.is_repeated(arrival.bytes) {
            // Our own message after it was lost.
            let message = quick.exchanged.sent.clone();
            if !message.is_empty() {
                self.send(ctx, message);
            }
            return;
        }
        match quick.state {
            State3::Asked(..) => self.finish_quick(ctx, arrival, at),
            State3::Answered { .. } => self.confirm_quick(ctx, arrival, at),
            State3::Done(_) => {}
        }
    }

    /// The second message, to the initiator.
    fn finish_quick(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>, at: usize) {
        let id = arrival.header.message_id;
        let Some((text, iv)) = self.opened(arrival, &self.quicks[at].iv) else { return };
        let Some(body) = self.parsed(arrival, &text) else { return };
        let State3::Asked(asked, _) = &self.quicks[at].state else { return };
        // HASH(2) = prf(SKEYID_a, M-ID | Ni_b | the payloads that follow)
        let fits =
            body.hashed().is_some_and(|(hash, rest)| self.keys.hash_fits(id, &[&asked.nonce, rest], hash));
        if !fits {
            log!(debug, self.config.name, "dropped an answer to quick mode with a wrong hash");
            return;
        }
        self.heard(ctx, arrival);
        let mut quick = self.quicks.remove(at);
        let State3::Asked(asked, _) = quick.state else { return };
        quick.iv = iv;
        quick.exchanged.heard(arrival.bytes);
        let (inbound, replaces, pair) = (asked.inbound, asked.replaces, asked.pair.clone());
        match self.accept_quick(*asked, quick.started, &body) {
            Ok((agreed, nonces)) => {
                let hash = self.keys.hash_3(id, &nonces.0, &nonces.1);
                let mut chain = Chain::new();
                chain.push(&Payload::Hash(&hash));
                let (message, _) = self.keys.seal(&quick.iv, &self.header(Exchange::Quick, id), &chain);
                quick.exchanged.sent = message.clone();
                quick.state = State3::Done(ctx.now + REMEMBERED);
                self.quicks.push(quick);
                self.install(ctx, agreed, true);
                self.send(ctx, message);
            }
            Err(refusal) => {
                ctx.spis.release(inbound);
                let failure = self.failure(self.phase_of(replaces), refusal.cause);
                let theirs = if refusal.theirs.is_empty() { String::new() } else { refusal.theirs };
                ctx.failed(failure.offered(refusal.ours, theirs));
                log!(debug, self.config.name, "no CHILD SA for {}", pair.describe());
                // The peer believes that the SA exists.
                self.send_delete(ctx, protocol::ESP, &inbound.to_bytes());
                quick.exchanged.sent = Vec::new();
                quick.state = State3::Done(ctx.now + REMEMBERED);
                self.quicks.push(quick);
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn accept_quick(
        &self,
        asked: Asked,
        started: Instant,
        body: &Body<'_>,
    ) -> Result<(Agreed, (Vec<u8>, Vec<u8>)), Refusal> {
        let missing = |what| Refusal::new(Cause::MissingPayload(what), notify::PAYLOAD_MALFORMED);
        let answer = body.sa().ok_or_else(|| missing("SA"))?;
        let nr = body.nonce().ok_or_else(|| missing("nonce"))?.to_vec();
        let wrong = || Refusal {
            ours: list(&self.config.esp_proposals),
            theirs: proposal::describe(answer),
            ..Refusal::new(Cause::WrongChoice, notify::NO_PROPOSAL_CHOSEN)
        };
        let choice = proposal::accept_esp(&asked.offered, answer).ok_or_else(wrong)?;
        let shared = match asked.key {
            Some(key) => {
                let value = body.ke().ok_or_else(|| missing("KE"))?;
                let shared = key.agree(value);
                Some(shared.map_err(|e| Refusal::new(e.into(), notify::INVALID_KEY_INFORMATION))?)
            }
            None => None,
        };
        // The answer repeats our identities; some peers narrow them, and that is as good.
        let mut pair = asked.pair;
        let ids: Vec<_> = body.ids().collect();
        if let [local, remote] = ids.as_slice() {
            let read = from_id(*local).zip(from_id(*remote));
            let fits = read.filter(|(l, r)| l.is_subset_of(&pair.local) && r.is_subset_of(&pair.remote));
            let Some((local, remote)) = fits else {
                return Err(Refusal {
                    ours: pair.describe(),
                    theirs: format!("{} === {}", show(*local), show(*remote)),
                    ..Refusal::new(Cause::SelectorsWidened, notify::INVALID_ID_INFORMATION)
                });
            };
            pair = Pair { local, remote };
        }
        let mut lifetime = choice.lifetime.unwrap_or(asked.terms.lifetime);
        for n in body.notifies().filter(|n| n.kind == notify::RESPONDER_LIFETIME) {
            let told = Attribute::parse_list(n.data).ok().and_then(|a| proposal::responder_lifetime(&a));
            lifetime = told.map_or(lifetime, |told| told.min(lifetime));
        }
        let nonces = (asked.nonce, nr);
        let of = Of { inbound: asked.inbound, pair, replaces: asked.replaces, ours: true, started };
        let agreed = self.agreed(&choice, of, shared.as_ref(), (&nonces.0, &nonces.1), lifetime)?;
        Ok((agreed, nonces))
    }

    fn agreed(
        &self,
        choice: &EspChoice,
        of: Of,
        shared: Option<&SharedSecret>,
        (ni, nr): (&[u8], &[u8]),
        lifetime: Duration,
    ) -> Result<Agreed, Refusal> {
        let value = u32::from_be_bytes(choice.spi);
        let bad = |_| Refusal::new(Cause::BadSpi(value.into()), notify::PAYLOAD_MALFORMED);
        let outbound = Spi::new(value).map_err(bad)?;
        let protection = choice.suite.protection;
        let keys = |spi: Spi| self.keys.child(protection, protocol::ESP, spi.to_bytes(), shared, (ni, nr));
        let lifetime = lifetime.min(self.config.child_lifetime).max(Duration::from_secs(10));
        Ok(Agreed {
            inbound: of.inbound,
            outbound,
            suite: choice.suite,
            pair: of.pair,
            inbound_keys: keys(of.inbound),
            outbound_keys: keys(outbound),
            lifetime,
            ours: of.ours,
            started: of.started,
            lowest_nonce: ni.min(nr).to_vec(),
            replaces: of.replaces,
        })
    }

    /// The first message, to the responder.
    fn answer_quick(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) {
        let id = arrival.header.message_id;
        let open = self.quicks.iter().filter(|q| !matches!(q.state, State3::Done(_))).count();
        if open >= MAX_OPEN {
            log!(debug, self.config.name, "too many open exchanges: dropped a quick mode");
            return;
        }
        let Some((text, iv)) = self.opened(arrival, &self.keys.iv(id)) else { return };
        let Some(body) = self.parsed(arrival, &text) else { return };
        // HASH(1) = prf(SKEYID_a, M-ID | the payloads that follow)
        if !body.hashed().is_some_and(|(hash, rest)| self.keys.hash_fits(id, &[rest], hash)) {
            log!(debug, self.config.name, "dropped a quick mode with a wrong hash from {}", arrival.remote);
            return;
        }
        self.seen.insert(id);
        self.heard(ctx, arrival);
        if let Some(config) = ctx.peers.get(self.tunnel) {
            self.config = std::sync::Arc::clone(config);
        }
        match self.choose_quick(ctx, &body) {
            Ok((chain, agreed, ni, nr)) => {
                // HASH(2) = prf(SKEYID_a, M-ID | Ni_b | the payloads that follow)
                let chain = chain.with_hash(|bytes| self.keys.hash(id, &[&ni, bytes]).to_vec());
                let (message, iv) = self.keys.seal(&iv, &self.header(Exchange::Quick, id), &chain);
                let mut exchanged = Exchanged::sent(message.clone());
                exchanged.heard(arrival.bytes);
                let retransmission = Retransmission::new(ctx.now, &ctx.config.retransmit, None);
                let state = State3::Answered { inbound: agreed.inbound, ni, nr, retransmission };
                self.quicks.push(Quick { message_id: id, iv, exchanged, started: ctx.now, state });
                // What the peer sends on it may overtake its third message.
                self.install(ctx, agreed, false);
                self.send(ctx, message);
            }
            Err(refusal) => {
                let spi = body.sa().and_then(|sa| sa.proposals.first()).map(|p| p.spi.clone());
                let failure = self.failure(Phase::QuickMode, refusal.cause);
                ctx.failed(failure.offered(refusal.ours, refusal.theirs));
                let spi = spi.filter(|spi| spi.len() == 4).unwrap_or_default();
                self.notify(ctx, protocol::ESP, &spi, refusal.tell, &[]);
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn choose_quick(
        &mut self,
        ctx: &mut Ctx<'_>,
        body: &Body<'_>,
    ) -> Result<(Chain, Agreed, Vec<u8>, Vec<u8>), Refusal> {
        let missing = |what| Refusal::new(Cause::MissingPayload(what), notify::PAYLOAD_MALFORMED);
        let offer = body.sa().ok_or_else(|| missing("SA"))?;
        let ni = body.nonce().ok_or_else(|| missing("nonce"))?.to_vec();
        let pair = self.asked_pair(body)?;
        let modes = nat::modes(&self.path);
        let choice = proposal::choose_esp(&self.config.esp_proposals, modes, body.ke().is_some(), offer)
            .ok_or_else(|| Refusal {
                ours: list(&self.config.esp_proposals),
                theirs: proposal::describe(offer),
                ..Refusal::new(Cause::NoProposal, notify::NO_PROPOSAL_CHOSEN)
            })?;
        let exchanged = match (choice.suite.group, body.ke()) {
            (Some(group), Some(value)) => {
                let agreed = KeyPair::generate(group, ctx.random).and_then(|key| {
                    let public = key.public().to_vec();
                    key.agree(value).map(|shared| (public, shared))
                });
                Some(agreed.map_err(|e| Refusal::new(e.into(), notify::INVALID_KEY_INFORMATION))?)
            }
            _ => None,
        };
        let nr = ctx.nonce();
        let started = ctx.now;
        let inbound = ctx.esp_spi(self.key(), self.config.spi_parity);
        let ours = self.config.child_lifetime;
        let theirs = choice.lifetime.unwrap_or(ours);
        let of = Of { inbound, pair: pair.clone(), replaces: None, ours: false, started };
        let shared = exchanged.as_ref().map(|(_, shared)| shared);
        let agreed = match self.agreed(&choice, of, shared, (&ni, &nr), theirs) {
            Ok(agreed) => agreed,
            Err(refusal) => {
                ctx.spis.release(inbound);
                return Err(refusal);
            }
        };
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(choice.answer(inbound.to_bytes()))).push(&Payload::Nonce(&nr));
        if let Some((public, _)) = &exchanged {
            chain.push(&Payload::Ke(public));
        }
        // RFC 2409 5.5: what the initiator said of the two sides is repeated as it was.
        for id in body.ids() {
            chain.push(&Payload::Id(id));
        }
        if theirs > ours {
            // RFC 2407 4.5.4, 4.6.3.1: ours ends sooner than what we accepted.
            let (kind, protocol) = (notify::RESPONDER_LIFETIME, protocol::ESP);
            let data = Attribute::encode_list(&proposal::lifetime_attributes(ours));
            chain.push(&Payload::Notify(Notify { protocol, spi: &inbound.to_bytes(), kind, data: &data }));
        }
        Ok((chain, agreed, ni, nr))
    }

    /// The networks that the peer asks for, which must be among ours: IKEv1 cannot narrow.
    fn asked_pair(&self, body: &Body<'_>) -> Result<Pair, Refusal> {
        let ids: Vec<_> = body.ids().collect();
        let (remote, local, shown) = match ids.as_slice() {
            // RFC 2409 5.5: without identities the SA is for the two hosts.
            [] => {
                let host = |ip: std::net::IpAddr| TrafficSelector::new(ip, ip, 0, 0..=u16::MAX).ok();
                (host(self.path.remote.ip()), host(self.path.local.ip()), "the two hosts".to_owned())
            }
            [theirs, ours] => {
                (from_id(*theirs), from_id(*ours), format!("{} === {}", show(*ours), show(*theirs)))
            }
            _ => return Err(Refusal::new(Cause::MissingPayload("ID"), notify::PAYLOAD_MALFORMED)),
        };
        let within =
            |ts: &TrafficSelector, ours: &[TrafficSelector]| ours.iter().any(|own| ts.is_subset_of(own));
        match (local, remote) {
            (Some(local), Some(remote))
                if within(&local, &self.config.local_ts) && within(&remote, &self.config.remote_ts) =>
            {
                Ok(Pair { local, remote })
            }
            _ => {
                let describe = crate::selector::describe;
                Err(Refusal {
                    ours: format!(
                        "{} === {}",
                        describe(&self.config.local_ts),
                        describe(&self.config.remote_ts)
                    ),
                    theirs: shown,
                    ..Refusal::new(Cause::NoSelectors, notify::INVALID_ID_INFORMATION)
                })
            }
        }
    }

    /// The third message, to the responder.
    fn confirm_quick(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>, at: usize) {
        let id = arrival.header.message_id;
        let Some((text, _)) = self.opened(arrival, &self.quicks[at].iv) else { return };
        let Some(body) = self.parsed(arrival, &text) else { return };
        let State3::Answered { inbound, ni, nr, .. } = &self.quicks[at].state else { return };
        let fits = body.hash().is_some_and(|hash| equal(&self.keys.hash_3(id, ni, nr), hash));
        if !fits {
            log!(debug, self.config.name, "dropped an end of quick mode with a wrong hash");
            return;
        }
        let inbound = *inbound;
        let quick = &mut self.quicks[at];
        quick.state = State3::Done(ctx.now + REMEMBERED);
        quick.exchanged.sent = Vec::new();
        self.heard(ctx, arrival);
        // The child may have gone to another SA of the tunnel meanwhile.
        if self.child(inbound).is_some() {
            self.confirm(ctx, inbound);
        } else {
            ctx.effects.push(crate::ctx::Effect::ConfirmV1 { tunnel: self.tunnel, inbound });
        }
    }

    /// The peer refused in an informational exchange what we asked for.
    pub(crate) fn quick_refused(&mut self, ctx: &mut Ctx<'_>, spi: &[u8], kind: u16) {
        let ours = |q: &Quick| matches!(&q.state, State3::Asked(a, _) if a.inbound.to_bytes() == *spi);
        // Many peers name their own SPI or none: we ask for one at a time.
        let at = self.quicks.iter().position(ours);
        let Some(at) = at.or_else(|| self.quicks.iter().position(Quick::waits_for_answer)) else {
            log!(debug, self.config.name, "the peer reports {} ({kind})", notify::name(kind));
            return;
        };
        let mut quick = self.quicks.remove(at);
        let State3::Asked(asked, _) = quick.state else { return };
        ctx.spis.release(asked.inbound);
        quick.state = State3::Done(ctx.now + REMEMBERED);
        quick.exchanged = Exchanged::default();
        self.quicks.push(quick);
        let cause = match kind {
            notify::NO_PROPOSAL_CHOSEN => Cause::ProposalsRefused,
            notify::INVALID_ID_INFORMATION => Cause::V1(V1Cause::SelectorsRefused),
            other => Cause::V1(V1Cause::Refused(other)),
        };
        let ours = match kind {
            notify::INVALID_ID_INFORMATION => asked.pair.describe(),
            _ => list(&self.config.esp_proposals),
        };
        let failure = self.failure(self.phase_of(asked.replaces), cause);
        ctx.failed(failure.offered(ours, String::new()));
        self.retry_rekey(ctx, asked.replaces);
    }

    /// A rekey that failed is tried again while the CHILD SA lives.
    fn retry_rekey(&mut self, ctx: &mut Ctx<'_>, replaces: Option<Spi>) {
        let wait = ctx.jittered(Duration::from_secs(30), 0.5);
        if let Some(child) = replaces.and_then(|old| self.child(old)).filter(|c| c.state == State::Live) {
            child.soft = Some(ctx.now + wait);
        }
    }

    /// Repetitions and ends that are due. `Err`: the peer does not answer at all.
    pub(crate) fn quick_clocks(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Duration> {
        let now = ctx.now;
        let mut at = 0;
        while let Some(quick) = self.quicks.get_mut(at) {
            let (due, ours) = match &mut quick.state {
                State3::Asked(_, retransmission) => (retransmission.on_timeout(now), true),
                State3::Answered { retransmission, .. } => (retransmission.on_timeout(now), false),
                State3::Done(until) if now >= *until => {
                    self.quicks.remove(at);
                    continue;
                }
                State3::Done(_) => (Due::Nothing, false),
            };
            match due {
                Due::Nothing => {}
                Due::Again => {
                    let message = quick.exchanged.sent.clone();
                    log!(
                        debug,
                        self.config.name,
                        "repeating a message of quick mode to {}",
                        self.path.remote
                    );
                    self.send(ctx, message);
                }
                Due::GiveUp(after) => {
                    let quick = self.quicks.remove(at);
                    match quick.state {
                        State3::Asked(asked, _) => {
                            ctx.spis.release(asked.inbound);
                            let phase = self.phase_of(asked.replaces);
                            ctx.failed(
                                self.failure(phase, Cause::Silent(after)).offered(asked.pair.describe(), ""),
                            );
                            if ours {
                                return Err(after);
                            }
                        }
                        State3::Answered { inbound, .. } => {
                            log!(debug, self.config.name, "quick mode was never confirmed: in {inbound}");
                            if self.child(inbound).is_some() {
                                self.send_delete(ctx, protocol::ESP, &inbound.to_bytes());
                            }
                            self.drop_child(ctx, inbound, crate::DownReason::PeerError);
                        }
                        State3::Done(_) => {}
                    }
                    continue;
                }
            }
            at += 1;
        }
        Ok(())
    }
}

/// Whose SA it is.
struct Of {
    inbound: Spi,
    pair: Pair,
    replaces: Option<Spi>,
    ours: bool,
    started: Instant,
}

/// An identity of phase 2 for people.
fn show(id: wire::Id<'_>) -> String {
    from_id(id).map_or_else(|| format!("identity of type {}", id.kind), |ts| ts.to_string())
}
