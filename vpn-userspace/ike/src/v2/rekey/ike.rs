//! CREATE_CHILD_SA for IKE SAs: rekeying (RFC 7296 1.3.2, 2.8.2, 2.18).

use culvert_crypto::{DhGroup, SharedSecret};

use super::followup::{Followed, IkeSettled, Rounds};
use super::{Attempt, IkeExchange, Met, agree, ours_loses};
use crate::IkeSuite;
use crate::error::{Cause, Phase, group_name};
use crate::job::Answered;
use crate::kex::Half;
use crate::keymat::{IkeKeys, Nonces, rekey_seed};
use crate::proposal::{self, select};
use crate::protect::Protection;
use crate::v2::ctx::{Ctx, Effect, log};
use crate::v2::sa::{Fresh, IkeSa, Life, Pending, Reply, Task};
use crate::wire::{Body, Chain, Exchange, Payload, Proposal, notify};

impl IkeSa {
    /// Asks for a new IKE SA in the place of this one.
    pub(crate) fn start_ike(&mut self, ctx: &mut Ctx<'_>, attempt: Attempt) {
        if self.life != Life::Serving {
            return;
        }
        self.refresh_config(ctx);
        // The group that the peer took last time saves a round trip, if it is still ours to offer.
        let groups = self.ike_groups();
        let group = attempt.group.or_else(|| groups.iter().copied().find(|g| *g == self.suite.group));
        let Some(group) = group.or_else(|| groups.first().copied()) else { return };
        let half = match self.half(ctx, group) {
            Ok(Some(half)) => half,
            Ok(None) => return self.tasks.push_front(Task::RekeyIke(attempt)),
            Err(cause) => return self.ike_failed(ctx, cause, String::new()),
        };
        let Some(public) = half.public() else { return };
        let (spi, nonce) = (ctx.ike_spi(), ctx.nonce());
        // RFC 7296 3.3.1: the new SPI stands in the proposals.
        let offered = select::offer_ike(&self.config.ike_proposals, &spi.to_be_bytes());
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(offered.clone()));
        chain.push(&Payload::Nonce(&nonce));
        chain.push(&Payload::Ke { group: group.iana(), data: public });
        let (half, met, settled) = (Some(half), None, None);
        let exchange = IkeExchange { spi, nonce, half, offered, attempt, met, settled };
        self.request(ctx, Exchange::CreateChild, &chain, Pending::Ike(Box::new(exchange)));
    }

    fn ike_groups(&self) -> Vec<DhGroup> {
        self.config.ike_proposals.iter().flat_map(|p| p.groups().iter().copied()).collect()
    }

    pub(super) fn ike_failed(&mut self, ctx: &mut Ctx<'_>, cause: Cause, theirs: String) {
        let ours = proposal::list(&self.config.ike_proposals);
        ctx.failed(self.failure(Phase::RekeyIke, cause).offered(ours, theirs));
        self.soft = Some(Self::retry_at(ctx, self.hard));
    }

    /// The keys of the new IKE SA (RFC 7296 2.18).
    fn fresh(
        &self,
        ctx: &Ctx<'_>,
        suite: IkeSuite,
        (spi_i, spi_r): (u64, u64),
        nonces: Nonces<'_>,
        (shared, more): (&SharedSecret, &[SharedSecret]),
        initiator: bool,
    ) -> Fresh {
        let seed = rekey_seed(self.suite.prf, &self.sk_d, nonces, shared, more);
        let keys = IkeKeys::derive(&suite, &seed, nonces, spi_i, spi_r);
        let protection = Protection::new(suite.protection, &keys, initiator);
        let mut protection = protection.tapped(ctx.tap, (spi_i, spi_r), &keys);
        protection.fragment(self.protection.limit());
        Fresh {
            spi_i,
            spi_r,
            initiator,
            suite,
            sk_d: keys.sk_d,
            protection,
            ppk: self.ppk,
            carried: self.carried.clone(),
        }
    }

    /// The answer to our request.
    pub(crate) fn finish_ike(&mut self, ctx: &mut Ctx<'_>, exchange: IkeExchange, body: &Body<'_>) {
        let IkeExchange { spi, nonce, half, offered, attempt, met, .. } = exchange;
        if let Some(error) = body.error().filter(|_| body.sa().is_none()) {
            return match (error.kind, met) {
                _ if self.life == Life::Closing => {}
                // RFC 7296 2.25.2: ours failed, the peer's succeeded: that one lives on.
                (_, Some(met)) => self.hand_over(ctx, met.key),
                (notify::INVALID_KE_PAYLOAD, None) => {
                    match attempt.regrouped(body, half.as_ref().map(Half::group), &self.ike_groups()) {
                        Ok(attempt) => self.tasks.push_front(Task::RekeyIke(attempt)),
                        Err(cause) => {
                            let theirs = match &cause {
                                Cause::GroupRefused(group) => group_name(*group),
                                _ => String::new(),
                            };
                            self.ike_failed(ctx, cause, theirs);
                        }
                    }
                }
                (notify::TEMPORARY_FAILURE, None) => {
                    log!(debug, self.config.name, "the peer is busy: rekeying is tried again");
                    self.soft = Some(Self::retry_at(ctx, self.hard));
                }
                (notify::NO_PROPOSAL_CHOSEN, None) => {
                    self.ike_failed(ctx, Cause::ProposalsRefused, String::new())
                }
                (other, None) => self.ike_failed(ctx, Cause::Refused(other), String::new()),
            };
        }
        let closing = self.life == Life::Closing;
        let made = self.read_answer(ctx, body, half, &offered);
        let settled = match (made, met.as_ref().map(|m| m.key)) {
            (Ok(made), _) => made,
            (Err((cause, _)), Some(key)) => {
                log!(debug, self.config.name, "our rekeying failed: {cause}; the peer's IKE SA stays");
                return self.hand_over(ctx, key);
            }
            (Err(_), None) if closing => return,
            (Err((cause, theirs)), None) => return self.ike_failed(ctx, cause, theirs),
        };
        let exchange =
            IkeExchange { spi, nonce, half: None, offered, attempt, met, settled: Some(Box::new(settled)) };
        if exchange.settled.as_ref().is_none_or(|s| s.rounds.is_none()) {
            self.finish_ike_rounds(ctx, exchange);
        } else if !closing {
            self.next_round(ctx, Pending::Ike(Box::new(exchange)));
        }
    }

    /// Our exchange has brought an IKE SA: its last round is answered, or there were none.
    pub(super) fn finish_ike_rounds(&mut self, ctx: &mut Ctx<'_>, exchange: IkeExchange) {
        let IkeExchange { spi, nonce, met, settled, .. } = exchange;
        let Some(settled) = settled else { return };
        let IkeSettled { suite, theirs, nr, first, rounds } = *settled;
        let more = rounds.map(|r| r.shared).unwrap_or_default();
        let nonces = Nonces { initiator: &nonce, responder: &nr };
        let lowest = (&nonce).min(&nr).clone();
        let fresh = self.fresh(ctx, suite, (spi, theirs), nonces, (&first, &more), true);
        let mut new = self.successor(ctx, fresh);
        if self.life == Life::Closing {
            // The tunnel was taken down meanwhile: the new one goes as the old one does.
            new.life = Life::Closing;
            new.queue(Task::DeleteIke);
            ctx.effects.push(Effect::Spawn(new));
            return;
        }
        match met {
            Some(met) if ours_loses(&lowest, &met.lowest) => {
                // RFC 7296 2.8.2: ours goes, by our own hand; the peer deletes the old one.
                log!(debug, self.config.name, "rekeying collided, the peer's IKE SA stays");
                new.life = Life::Closing;
                new.queue(Task::DeleteIke);
                ctx.effects.push(Effect::Spawn(new));
                self.hand_over(ctx, met.key);
            }
            _ => {
                let key = new.key();
                ctx.effects.push(Effect::Spawn(new));
                self.hand_over(ctx, key);
                self.life = Life::Closing;
                self.queue(Task::DeleteIke);
            }
        }
    }

    fn read_answer(
        &self,
        ctx: &mut Ctx<'_>,
        body: &Body<'_>,
        half: Option<Half>,
        offered: &[Proposal],
    ) -> Result<IkeSettled, (Cause, String)> {
        let plain = |cause| (cause, String::new());
        let answer = body.sa().ok_or_else(|| plain(Cause::MissingPayload("SA")))?;
        let suite = select::accept_ike(offered, answer)
            .filter(|s| half.as_ref().is_some_and(|half| s.group == half.group()))
            .ok_or_else(|| (Cause::WrongChoice, proposal::describe(answer)))?;
        let theirs = new_spi(answer.first()).ok_or_else(|| plain(Cause::BadSpi(0)))?;
        let nr = body.nonce().ok_or_else(|| plain(Cause::MissingPayload("nonce")))?;
        let first = match half {
            Some(half) => agree(half, ctx, body).map_err(plain)?,
            None => return Err(plain(Cause::Unfinished)),
        };
        let rounds = Rounds::begin(suite.additional, body).map_err(plain)?;
        Ok(IkeSettled { suite, theirs, nr: nr.to_vec(), first, rounds })
    }

    /// Whether something of ours is in flight beside which the peer cannot rekey the IKE SA.
    pub(super) fn busy_for_ike(&self) -> bool {
        match &self.pending {
            Some(
                Pending::Child(_)
                | Pending::DeleteChild(..)
                | Pending::DeleteStray
                | Pending::DeleteIke
                // The new IKE SA would not hear how that ends.
                | Pending::Update(_)
                | Pending::ReturnCheck(_),
            ) => true,
            Some(Pending::Ike(exchange)) => exchange.met.is_some(),
            Some(Pending::Liveness | Pending::Abandoned) | None => false,
        }
    }

    /// A request for a new IKE SA in the place of this one.
    pub(super) fn on_rekey_ike(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>, offers: &[Proposal]) -> Reply {
        // RFC 7296 2.25.2: not while CHILD SAs are made, rekeyed or closed.
        if self.busy_for_ike() {
            return Reply::notify(notify::TEMPORARY_FAILURE, &[]);
        }
        let Some(chosen) = select::choose_ike(&self.config.ike_proposals, offers, 8) else {
            let ours = proposal::list(&self.config.ike_proposals);
            let failure = self.failure(Phase::RekeyIke, Cause::NoProposal);
            ctx.failed(failure.offered(ours, proposal::describe(offers)));
            return Reply::notify(notify::NO_PROPOSAL_CHOSEN, &[]);
        };
        let suite: IkeSuite = chosen.suite;
        let (Some(theirs), Some(ni), Some((group, value))) =
            (new_spi(Some(&chosen.answer)), body.nonce(), body.ke())
        else {
            return Reply::notify(notify::INVALID_SYNTAX, &[]);
        };
        if group != suite.group.iana() {
            return Reply::notify(notify::INVALID_KE_PAYLOAD, &suite.group.iana().to_be_bytes());
        }
        let Answered { public, shared } = match self.answer(ctx, suite.group, value) {
            None => return Reply::Later,
            Some(Ok(answered)) => answered,
            Some(Err(e)) => {
                let cause = Cause::from(e);
                let told = cause.notify().unwrap_or(notify::INVALID_SYNTAX);
                ctx.failed(self.failure(Phase::RekeyIke, cause));
                return Reply::notify(told, &[]);
            }
        };
        let (ours, nr) = (ctx.ike_spi(), ctx.nonce());
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(vec![Proposal { spi: ours.to_be_bytes().to_vec(), ..chosen.answer }]));
        chain.push(&Payload::Nonce(&nr));
        chain.push(&Payload::Ke { group, data: &public });
        let nonces = Nonces { initiator: ni, responder: &nr };
        if suite.additional.is_empty() {
            self.spawn_theirs(ctx, suite, (theirs, ours), nonces, &shared, &[]);
        } else {
            let what = (Followed::Ike(suite, theirs, ours), suite.additional);
            self.expect_rounds(ctx, &mut chain, what, nonces, Some(shared));
        }
        Reply::Answer(chain)
    }

    /// The peer's exchange has brought an IKE SA, with its SPI and ours.
    pub(super) fn spawn_theirs(
        &mut self,
        ctx: &mut Ctx<'_>,
        suite: IkeSuite,
        (theirs, ours): (u64, u64),
        nonces: Nonces<'_>,
        shared: &SharedSecret,
        more: &[SharedSecret],
    ) {
        let fresh = self.fresh(ctx, suite, (theirs, ours), nonces, (shared, more), false);
        let mut new = self.successor(ctx, fresh);
        match &mut self.pending {
            Some(Pending::Ike(exchange)) => {
                // Which of the two stays is known when our own answer comes.
                exchange.met =
                    Some(Met { key: ours, lowest: nonces.initiator.min(nonces.responder).to_vec() });
                new.supersede(ctx.now);
                ctx.effects.push(Effect::Spawn(new));
            }
            _ => {
                ctx.effects.push(Effect::Spawn(new));
                self.hand_over(ctx, ours);
            }
        }
    }

    /// Serves the tunnel from now on: a rekeyed IKE SA that gets the children.
    pub(crate) fn promote(&mut self, ctx: &mut Ctx<'_>) {
        if self.life != Life::Superseded {
            return;
        }
        self.life = Life::Serving;
        self.soft = Some(ctx.now + ctx.jittered(self.config.ike_lifetime, 0.9));
        self.hard = ctx.now + crate::PeerConfig::hard(self.config.ike_lifetime);
    }
}

/// The SPI of the peer's new IKE SA.
fn new_spi(proposal: Option<&Proposal>) -> Option<u64> {
    let bytes = <[u8; 8]>::try_from(proposal?.spi.as_slice()).ok()?;
    Some(u64::from_be_bytes(bytes)).filter(|spi| *spi != 0)
}
