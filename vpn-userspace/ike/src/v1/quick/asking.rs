//! Quick mode as initiator: asks for a CHILD SA, and checks the answer.

use std::time::Instant;

use culvert_types::Spi;

use super::{Asked, Of, Quick, REMEMBERED, Refusal, State3, show};
use crate::ctx::{Ctx, log};
use crate::error::Cause;
use crate::job::JobError;
use crate::kex::{Agreement, Half};
use crate::proposal::list;
use crate::v1::child::{Pair, from_id, to_id};
use crate::v1::phase1::Exchanged;
use crate::v1::proposal::{self, Terms};
use crate::v1::sa::{Agreed, IkeSa};
use crate::v1::{Arrival, Stash, nat};
use crate::window::Retransmission;
use crate::wire::v1::{Attribute, Body, Chain, Exchange, Payload, notify, protocol};

impl IkeSa {
    /// Asks for a CHILD SA for a pair of networks.
    pub(crate) fn start_quick(&mut self, ctx: &mut Ctx<'_>, pair: Pair, replaces: Option<Spi>) {
        self.refresh_config(ctx);
        let group = self.config.esp_proposals.iter().find_map(|p| p.groups().first().copied());
        let half = match group.map(|g| Half::start(ctx, self.key(), g)).transpose() {
            Ok(half) => half,
            Err(e) => return ctx.failed(self.failure(self.phase_of(replaces), e.into())),
        };
        let inbound = ctx.esp_spi(self.key(), self.config.spi_parity);
        let encapsulation = nat::mode(&self.path, self.vendor.natt);
        let terms = Terms { group, encapsulation, lifetime: self.config.child_lifetime };
        let offered = proposal::offer_esp(&self.config.esp_proposals, &terms, inbound.to_bytes());
        let nonce = ctx.nonce();
        let message_id = self.message_id(ctx);
        self.seen.insert(message_id);
        let asked = Asked { inbound, pair, replaces, offered, terms, half, nonce, stash: None };
        let (exchanged, state) = (Exchanged::default(), State3::Making(Box::new(asked)));
        self.quicks.push(Quick { message_id, iv: Vec::new(), exchanged, started: ctx.now, state });
        self.send_quick(ctx, self.quicks.len() - 1);
    }

    /// Sends the first message, once our key is there where one goes with it.
    pub(super) fn send_quick(&mut self, ctx: &mut Ctx<'_>, at: usize) {
        let Some(Quick { state: State3::Making(asked), message_id, .. }) = self.quicks.get(at) else {
            return;
        };
        let id = *message_id;
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(asked.offered.clone())).push(&Payload::Nonce(&asked.nonce));
        if let Some(half) = &asked.half {
            let Some(public) = half.public() else { return };
            chain.push(&Payload::Ke(public));
        }
        let pair = &asked.pair;
        chain.push(&Payload::Id(to_id(&pair.local).id())).push(&Payload::Id(to_id(&pair.remote).id()));
        log!(debug, self.config.name, "quick mode {id:08x} for {}", pair.describe());
        let chain = chain.with_hash(|bytes| self.keys.hash(id, &[bytes]).to_vec());
        let (message, iv) = self.keys.seal(&self.keys.iv(id), &self.header(Exchange::Quick, id), &chain);
        let timeout = self.config.dpd.map(|dpd| dpd.timeout);
        let retransmission = Retransmission::new(ctx.now, &ctx.config.retransmit, timeout);
        let quick = self.quicks.remove(at);
        let State3::Making(asked) = quick.state else { return };
        let exchanged = Exchanged::sent(message.clone());
        let state = State3::Asked(asked, retransmission);
        self.quicks.push(Quick { iv, exchanged, state, ..quick });
        self.send(ctx, message);
    }

    /// The second message, to the initiator.
    pub(super) fn finish_quick(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>, at: usize) {
        let id = arrival.header.message_id;
        let Some((text, iv)) = self.opened(arrival, &self.quicks[at].iv) else { return };
        let Some(body) = self.parsed(arrival, &text) else { return };
        let State3::Asked(asked, _) = &self.quicks[at].state else { return };
        if asked.stash.is_some() {
            return;
        }
        // HASH(2) = prf(SKEYID_a, M-ID | Ni_b | the payloads that follow)
        let fits =
            body.hashed().is_some_and(|(hash, rest)| self.keys.hash_fits(id, &[&asked.nonce, rest], hash));
        if !fits {
            log!(debug, self.config.name, "dropped an answer to quick mode with a wrong hash");
            return;
        }
        self.heard(ctx, arrival);
        if let State3::Asked(asked, _) = &mut self.quicks[at].state
            && let (Some(half), Some(value)) = (&mut asked.half, body.ke())
            && half.prepare(ctx, value)
        {
            asked.stash = Some(Stash::of(arrival));
            return;
        }
        let mut quick = self.quicks.remove(at);
        let State3::Asked(asked, _) = quick.state else { return };
        quick.iv = iv;
        quick.exchanged.heard(arrival.bytes);
        let (inbound, replaces, pair) = (asked.inbound, asked.replaces, asked.pair.clone());
        match self.accept_quick(ctx, *asked, quick.started, &body) {
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
        ctx: &mut Ctx<'_>,
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
        let shared = match asked.half {
            Some(mut half) => {
                let value = body.ke().ok_or_else(|| missing("KE"))?;
                let shared = match half.agree(ctx, value) {
                    Agreement::Done(shared) => shared,
                    // It has been prepared.
                    Agreement::Later => Err(JobError::Lost),
                };
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
}
