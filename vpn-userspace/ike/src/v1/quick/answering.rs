//! Quick mode as responder: answers with a CHILD SA, or refuses.

use std::time::Instant;

use culvert_crypto::equal;
use culvert_types::TrafficSelector;

use super::{MAX_OPEN, Of, Quick, REMEMBERED, Refusal, State3, Waiting, show};
use crate::ctx::{Ctx, Effect, log};
use crate::error::{Cause, Phase};
use crate::job::Answered;
use crate::kex::Answering;
use crate::proposal::list;
use crate::v1::child::{Pair, from_id};
use crate::v1::phase1::Exchanged;
use crate::v1::proposal;
use crate::v1::sa::{Agreed, IkeSa};
use crate::v1::{Arrival, Stash, nat};
use crate::window::Retransmission;
use crate::wire::v1::{Attribute, Body, Chain, Exchange, Notify, Payload, notify, protocol};

impl IkeSa {
    /// The first message, to the responder. `slot`: what a job has brought for it.
    pub(super) fn answer_quick(
        &mut self,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        started: Instant,
        mut slot: Option<Answering>,
    ) {
        let id = arrival.header.message_id;
        let open = self.quicks.iter().filter(|q| !matches!(q.state, State3::Done(_))).count();
        if open + self.waiting.len() >= MAX_OPEN {
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
        self.refresh_config(ctx);
        match self.choose_quick(ctx, &body, started, &mut slot) {
            Ok(None) => {
                let stash = Stash::of(arrival);
                self.waiting.push(Waiting { started, stash, answering: slot });
            }
            Ok(Some((chain, agreed, ni, nr))) => {
                // HASH(2) = prf(SKEYID_a, M-ID | Ni_b | the payloads that follow)
                let chain = chain.with_hash(|bytes| self.keys.hash(id, &[&ni, bytes]).to_vec());
                let (message, iv) = self.keys.seal(&iv, &self.header(Exchange::Quick, id), &chain);
                let mut exchanged = Exchanged::sent(message.clone());
                exchanged.heard(arrival.bytes);
                let retransmission = Retransmission::new(ctx.now, &ctx.config.retransmit, None);
                let state = State3::Answered { inbound: agreed.inbound, ni, nr, retransmission };
                self.quicks.push(Quick { message_id: id, iv, exchanged, started, state });
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
        started: Instant,
        slot: &mut Option<Answering>,
    ) -> Result<Option<(Chain, Agreed, Vec<u8>, Vec<u8>)>, Refusal> {
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
                let answered = Answering::answer(slot, ctx, (self.key(), true), (group, value));
                let Some(answered) = answered else { return Ok(None) };
                Some(answered.map_err(|e| Refusal::new(e.into(), notify::INVALID_KEY_INFORMATION))?)
            }
            _ => None,
        };
        let nr = ctx.nonce();
        let inbound = ctx.esp_spi(self.key(), self.config.spi_parity);
        let ours = self.config.child_lifetime;
        let theirs = choice.lifetime.unwrap_or(ours);
        let of = Of { inbound, pair: pair.clone(), replaces: None, ours: false, started };
        let shared = exchanged.as_ref().map(|Answered { shared, .. }| shared);
        let agreed = match self.agreed(&choice, of, shared, (&ni, &nr), theirs) {
            Ok(agreed) => agreed,
            Err(refusal) => {
                ctx.spis.release(inbound);
                return Err(refusal);
            }
        };
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(choice.answer(inbound.to_bytes()))).push(&Payload::Nonce(&nr));
        if let Some(Answered { public, .. }) = &exchanged {
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
        Ok(Some((chain, agreed, ni, nr)))
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
    pub(super) fn confirm_quick(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>, at: usize) {
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
            ctx.effects.push(Effect::ConfirmV1 { tunnel: self.tunnel, inbound });
        }
    }
}
