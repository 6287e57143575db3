//! CREATE_CHILD_SA for CHILD SAs: new ones (RFC 7296 1.3.1) and rekeyed ones (1.3.3, 2.8).

use culvert_crypto::SharedSecret;
use culvert_types::Spi;

use super::followup::{ChildSettled, Followed, Rounds};
use super::{Attempt, ChildExchange, Met, Rival, agree, ours_loses};
use crate::error::{Cause, Phase, group_name};
use crate::kex::Half;
use crate::keymat::{Nonces, child_keys};
use crate::v2::child::{self, Offer, Refusal, State};
use crate::v2::ctx::{Ctx, log};
use crate::v2::pairs::{Pair, Scope};
use crate::v2::sa::{IkeSa, Pending, Reply, Task};
use crate::wire::{Body, Chain, Exchange, Notify, Payload, notify, protocol};
use crate::{DownReason, Event, PeerConfig};

/// More CHILD SAs than this on one IKE SA are refused.
const MAX_CHILDREN: usize = 256;

/// Every group that the ESP proposals of this scope name.
fn groups(config: &PeerConfig, scope: &Scope) -> Vec<culvert_crypto::DhGroup> {
    config.proposals_for(child::resource_of(scope)).iter().flat_map(|p| p.groups().iter().copied()).collect()
}

impl IkeSa {
    /// Asks for a CHILD SA in the place of an old one.
    pub(crate) fn start_rekey_child(&mut self, ctx: &mut Ctx<'_>, old: Spi, attempt: Attempt) {
        // It may have been deleted or replaced while this waited.
        if self.child(old).is_none_or(|c| c.state != State::Live) {
            return;
        }
        self.refresh_config(ctx);
        match self.rekey_scope(old) {
            Some(scope) => self.start_child(ctx, Some(old), attempt, scope),
            // Nothing of what it carries is configured any more.
            None => {
                self.delete(old, DownReason::LocalRequest);
                self.send_next(ctx);
            }
        }
    }

    /// Asks for a CHILD SA that is missing, if the peer has not made it meanwhile.
    pub(crate) fn start_new_child(&mut self, ctx: &mut Ctx<'_>, attempt: Attempt, scope: Scope) {
        if !self.is_here(&scope) {
            self.start_child(ctx, None, attempt, scope);
        }
    }

    /// Asks for a CHILD SA; with `old`, in the place of that one.
    fn start_child(&mut self, ctx: &mut Ctx<'_>, old: Option<Spi>, attempt: Attempt, scope: Scope) {
        self.refresh_config(ctx);
        let group = attempt.group.or_else(|| child::first_group(&self.config, &scope));
        let half = match group.map(|g| self.half(ctx, g)).transpose() {
            Ok(Some(None)) => {
                let task = match old {
                    Some(old) => Task::RekeyChild(old, attempt),
                    None => Task::CreateChild(attempt, scope),
                };
                return self.tasks.push_front(task);
            }
            Ok(half) => half.flatten(),
            Err(cause) => return self.child_failed(ctx, old, cause, String::new(), String::new()),
        };
        let (nonce, owner) = (ctx.nonce(), self.key());
        let offer = Offer::new(ctx, &self.config, owner, true, scope);
        let mut chain = Chain::new();
        let spi = old.map(Spi::to_bytes);
        if let Some(spi) = &spi {
            // RFC 7296 1.3.3: the SPI that we expect in packets to us.
            let rekey = Notify { protocol: protocol::ESP, spi, kind: notify::REKEY_SA, data: &[] };
            chain.push(&Payload::Notify(rekey));
        }
        offer.write_sa(&mut chain);
        chain.push(&Payload::Nonce(&nonce));
        if let Some((group, data)) = half.as_ref().and_then(|h| Some((h.group().iana(), h.public()?))) {
            chain.push(&Payload::Ke { group, data });
        }
        offer.write_selectors(&mut chain);
        let (met, deleted, settled) = (None, Vec::new(), None);
        let exchange = ChildExchange { offer, replaces: old, nonce, half, attempt, met, deleted, settled };
        self.request(ctx, Exchange::CreateChild, &chain, Pending::Child(Box::new(exchange)));
    }

    pub(super) fn child_failed(
        &mut self,
        ctx: &mut Ctx<'_>,
        old: Option<Spi>,
        cause: Cause,
        ours: String,
        theirs: String,
    ) {
        let phase = if old.is_some() { Phase::RekeyChild } else { Phase::ChildSa };
        ctx.failed(self.failure(phase, cause).offered(ours, theirs));
        self.retry_child(ctx, old);
    }

    pub(super) fn retry_child(&mut self, ctx: &mut Ctx<'_>, old: Option<Spi>) {
        if let Some(child) = old.and_then(|old| self.child(old)).filter(|c| c.state == State::Live) {
            // A test that failed is told once; the rekeying itself comes in its own time.
            child.soft = Some(child.tested.take().unwrap_or_else(|| Self::retry_at(ctx, child.hard)));
        }
    }

    /// The answer to our request.
    pub(crate) fn finish_child(&mut self, ctx: &mut Ctx<'_>, exchange: ChildExchange, body: &Body<'_>) {
        let ChildExchange { offer, replaces, nonce, half, attempt, met, deleted, .. } = exchange;
        if let Some(error) = body.error().filter(|_| body.sa().is_none()) {
            ctx.spis.release(offer.inbound);
            let current = half.as_ref().map(Half::group);
            return match error.kind {
                // The peer rekeyed the SA itself: that one lives on.
                _ if met.is_some() => {}
                notify::INVALID_KE_PAYLOAD => {
                    match attempt.regrouped(body, current, &groups(&self.config, &offer.scope)) {
                        Ok(attempt) => {
                            let task = match replaces {
                                Some(old) => Task::RekeyChild(old, attempt),
                                None => Task::CreateChild(attempt, offer.scope),
                            };
                            self.tasks.push_front(task);
                        }
                        Err(cause) => {
                            let theirs = match &cause {
                                Cause::GroupRefused(group) => group_name(*group),
                                _ => String::new(),
                            };
                            let ours = crate::proposal::list(&self.config.esp_proposals);
                            self.child_failed(ctx, replaces, cause, ours, theirs);
                        }
                    }
                }
                // RFC 7296 2.25: it is busy with something that collides; later.
                notify::TEMPORARY_FAILURE if replaces.is_some() => {
                    log!(debug, self.config.name, "the peer is busy: rekeying is tried again");
                    self.retry_child(ctx, replaces);
                }
                notify::TEMPORARY_FAILURE => {
                    log!(debug, self.config.name, "the peer is busy: the CHILD SA is asked for again");
                    let again = Self::retry_at(ctx, self.hard);
                    let attempt = Attempt { group: attempt.group, regrouped: 0 };
                    self.again.push((again, Task::CreateChild(attempt, offer.scope)));
                }
                // RFC 7296 2.25.1: the peer does not have the old one any more: make a new one.
                notify::CHILD_SA_NOT_FOUND if replaces.is_some() => {
                    let gone = replaces.filter(|old| self.child(*old).is_some());
                    if let Some(old) = gone {
                        self.drop_child(ctx, old, DownReason::PeerDeleted);
                        self.queue(Task::CreateChild(Attempt::default(), offer.scope));
                    }
                }
                _ => {
                    let unkeyed = replaces.and_then(|old| self.child(old)).is_some_and(|c| !c.keyed);
                    let accepted = offer.accept(body).map_err(|refusal| match refusal.cause {
                        Cause::ProposalsRefused if unkeyed && current.is_some() => {
                            Refusal { cause: Cause::GroupsRefused, ..refusal }
                        }
                        _ => refusal,
                    });
                    if let Err(Refusal { cause, ours, theirs, .. }) = accepted
                        && (replaces.is_some() || !self.child_refused(ctx, &cause, offer.scope))
                    {
                        self.child_failed(ctx, replaces, cause, ours, theirs);
                    }
                }
            };
        }
        let made = offer.accept(body).and_then(|agreed| {
            let refuse =
                |cause| Refusal { cause, ours: String::new(), theirs: String::new(), peer_has_it: true };
            let nr = body.nonce().ok_or_else(|| refuse(Cause::MissingPayload("nonce")))?;
            let shared: Option<SharedSecret> = match (agreed.suite.group, half) {
                (None, _) => None,
                (Some(group), Some(half)) if half.group() == group => {
                    Some(agree(half, ctx, body).map_err(refuse)?)
                }
                (Some(_), _) => return Err(refuse(Cause::WrongChoice)),
            };
            // The peer waits for the rounds, and has nothing yet.
            let rounds = Rounds::begin(agreed.suite.additional, body).map_err(Refusal::plain)?;
            Ok((agreed, shared, nr.to_vec(), rounds))
        });
        let (agreed, first, nr, rounds) = match made {
            Ok(made) => made,
            Err(refusal) => {
                if refusal.peer_has_it {
                    self.queue(Task::DeleteStray(offer.inbound));
                } else {
                    ctx.spis.release(offer.inbound);
                }
                if replaces.is_none() {
                    self.refused.push(offer.scope);
                }
                return self.child_failed(ctx, replaces, refusal.cause, refusal.ours, refusal.theirs);
            }
        };
        let more_possible = body.notify(notify::ADDITIONAL_TS_POSSIBLE).is_some();
        let exchange =
            ChildExchange { offer, replaces, nonce, half: None, attempt, met, deleted, settled: None };
        match rounds {
            Some(rounds) => {
                let settled = Some(Box::new(ChildSettled { agreed, nr, first, more_possible, rounds }));
                let exchange = ChildExchange { settled, ..exchange };
                self.next_round(ctx, Pending::Child(Box::new(exchange)));
            }
            None => self.complete_child(ctx, exchange, agreed, &nr, first.as_ref(), &[], more_possible),
        }
    }

    /// The last round of an exchange of ours is answered.
    pub(super) fn finish_child_rounds(&mut self, ctx: &mut Ctx<'_>, mut exchange: ChildExchange) {
        let Some(settled) = exchange.settled.take() else { return };
        let ChildSettled { agreed, nr, first, more_possible, rounds } = *settled;
        self.complete_child(ctx, exchange, agreed, &nr, first.as_ref(), &rounds.shared, more_possible);
    }

    /// Our exchange has brought a CHILD SA.
    #[allow(clippy::too_many_arguments)]
    fn complete_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        exchange: ChildExchange,
        agreed: child::Agreed,
        nr: &[u8],
        first: Option<&SharedSecret>,
        more: &[SharedSecret],
        more_possible: bool,
    ) {
        let ChildExchange { replaces, nonce, met, deleted, .. } = exchange;
        let nonces = Nonces { initiator: &nonce, responder: nr };
        let suite = agreed.suite.protection;
        let (out_keys, in_keys) = child_keys(self.suite.prf, &self.sk_d, first, more, nonces, suite);
        let lowest = nonce.as_slice().min(nr).to_vec();
        if deleted.contains(&agreed.outbound.value()) {
            log!(debug, self.config.name, "the peer has deleted the CHILD SA {} already", agreed.outbound);
            ctx.spis.release(agreed.inbound);
            return self.retry_child(ctx, replaces);
        }
        let old = replaces.filter(|old| self.child(*old).is_some());
        let inbound = agreed.inbound;
        let resource = agreed.scope.as_ref().and_then(|pair| pair.resource.clone());
        let same = |met: &Met<Rival>| {
            (&met.key.local_ts, &met.key.remote_ts) == (&agreed.local_ts, &agreed.remote_ts)
                && met.key.resource == resource
        };
        // Of two new ones only those that carry the same are in each other's way.
        match met.filter(|met| replaces.is_some() || same(met)) {
            Some(met) if ours_loses(&lowest, &met.lowest) => {
                // RFC 7296 2.8.1: ours goes, by our own hand; the peer deletes the old one.
                log!(debug, self.config.name, "two exchanges collided, the peer's CHILD SA stays");
                self.install(ctx, agreed, in_keys, out_keys, old, false);
                self.delete(inbound, DownReason::Replaced);
            }
            met => {
                self.install(ctx, agreed, in_keys, out_keys, old, true);
                if let Some(rival) = met.map(|met| met.key.inbound) {
                    log!(
                        debug,
                        self.config.name,
                        "two exchanges collided, ours stays in the place of {rival}"
                    );
                    if replaces.is_none() {
                        // The peer need not have seen that they met.
                        self.delete(rival, DownReason::Replaced);
                    } else if let Some(child) = self.child(rival) {
                        child.state = State::Redundant;
                        child.outbound_due = None;
                    }
                }
                if let Some(old) = old {
                    self.delete(old, DownReason::Replaced);
                } else if more_possible {
                    self.more_possible();
                }
            }
        }
    }

    /// Deletes a CHILD SA as soon as the window allows.
    pub(crate) fn delete(&mut self, inbound: Spi, reason: DownReason) {
        let Some(child) = self.child(inbound) else { return };
        child.state = State::Deleting;
        child.outbound_due = None;
        self.queue(Task::DeleteChild(inbound, reason));
    }

    /// A request for a CHILD SA, new or in the place of an old one.
    pub(super) fn on_child_request(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>) -> Reply {
        if matches!(self.pending, Some(Pending::Ike(_))) {
            return Reply::notify(notify::TEMPORARY_FAILURE, &[]);
        }
        let rekey = body.notify(notify::REKEY_SA);
        let old = match rekey {
            None => None,
            Some(n) => {
                // The peer names the SPI that it expects: our outbound one.
                let spi = <[u8; 4]>::try_from(n.spi).ok().filter(|_| n.protocol == protocol::ESP);
                let spi = spi.map(u32::from_be_bytes);
                match self.children.iter().find(|c| Some(c.outbound.value()) == spi) {
                    Some(child) if child.state == State::Live => Some(child.inbound),
                    // RFC 7296 2.25.1: what we are closing or have replaced is not rekeyed.
                    Some(_) => return Reply::notify(notify::TEMPORARY_FAILURE, &[]),
                    // It may be the one that we have asked for: this has overtaken the answer.
                    None if matches!(&self.pending, Some(Pending::Child(_))) => {
                        return Reply::notify(notify::TEMPORARY_FAILURE, &[]);
                    }
                    None => {
                        let kind = notify::CHILD_SA_NOT_FOUND;
                        let mut chain = Chain::new();
                        chain.push(&Payload::Notify(Notify {
                            protocol: n.protocol,
                            spi: n.spi,
                            kind,
                            data: &[],
                        }));
                        return Reply::Answer(chain);
                    }
                }
            }
        };
        // RFC 9611 4: for the networks of this one the peer has as many as it may.
        if old.is_none()
            && let Some(name) = child::named_resource(body)
            && !self.takes_resource(name, body.ts_i().unwrap_or_default())
        {
            return Reply::notify(notify::TS_MAX_QUEUE, &[]);
        }
        if old.is_none() && self.children.len() >= MAX_CHILDREN {
            return Reply::notify(notify::NO_ADDITIONAL_SAS, &[]);
        }
        let phase = if old.is_some() { Phase::RekeyChild } else { Phase::ChildSa };
        match self.make_child(ctx, body, old) {
            Ok(chain) => Reply::Answer(chain),
            Err(Stop::Later) => Reply::Later,
            Err(Stop::Regroup(group)) => Reply::notify(notify::INVALID_KE_PAYLOAD, &group.to_be_bytes()),
            Err(Stop::Refuse(refusal)) => {
                let told = refusal.cause.notify().unwrap_or(notify::NO_PROPOSAL_CHOSEN);
                let failure = self.failure(phase, refusal.cause);
                ctx.failed(failure.offered(refusal.ours, refusal.theirs));
                Reply::notify(told, &[])
            }
        }
    }

    fn make_child(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>, old: Option<Spi>) -> Result<Chain, Stop> {
        let refuse = |cause| {
            Stop::Refuse(Refusal { cause, ours: String::new(), theirs: String::new(), peer_has_it: false })
        };
        let ni = body.nonce().ok_or_else(|| refuse(Cause::MissingPayload("nonce")))?;
        let config = std::sync::Arc::clone(&self.config);
        let before = old.and_then(|old| self.children.iter().find(|c| c.inbound == old));
        let before = before.map(|c| std::sync::Arc::clone(&c.selectors));
        let chosen = child::choose(ctx, &config, self.key(), body, true, before.as_deref(), &self.path);
        let (agreed, answer) = chosen.map_err(Stop::Refuse)?;
        let keyed = match agreed.suite.group {
            None => Ok(None),
            Some(group) => match body.ke() {
                Some((number, value)) if number == group.iana() => match self.answer(ctx, group, value) {
                    None => Err(Stop::Later),
                    Some(Ok(answered)) => Ok(Some((group, answered))),
                    Some(Err(e)) => Err(refuse(e.into())),
                },
                // RFC 7296 1.3.1: another group than chosen, or none.
                _ => Err(Stop::Regroup(group.iana())),
            },
        };
        let keyed = keyed.inspect_err(|_| ctx.spis.release(agreed.inbound))?;
        let nr = ctx.nonce();
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(vec![answer]));
        chain.push(&Payload::Nonce(&nr));
        if let Some((group, answered)) = &keyed {
            chain.push(&Payload::Ke { group: group.iana(), data: &answered.public });
        }
        child::write_answer_selectors(&mut chain, &agreed);
        let nonces = Nonces { initiator: ni, responder: &nr };
        let shared = keyed.map(|(_, answered)| answered.shared);
        let additional = agreed.suite.additional;
        if additional.is_empty() {
            self.install_theirs(ctx, agreed, old, nonces, shared.as_ref(), &[]);
        } else {
            let what = (Followed::Child(Box::new(agreed), old), additional);
            self.expect_rounds(ctx, &mut chain, what, nonces, shared);
        }
        Ok(chain)
    }

    /// The peer's exchange has brought a CHILD SA.
    pub(super) fn install_theirs(
        &mut self,
        ctx: &mut Ctx<'_>,
        agreed: child::Agreed,
        old: Option<Spi>,
        nonces: Nonces<'_>,
        shared: Option<&SharedSecret>,
        more: &[SharedSecret],
    ) {
        let suite = agreed.suite.protection;
        let (in_keys, out_keys) = child_keys(self.suite.prf, &self.sk_d, shared, more, nonces, suite);
        let lowest = nonces.initiator.min(nonces.responder).to_vec();
        let resource = agreed.scope.as_ref().and_then(|pair| pair.resource.clone());
        let rival = Rival {
            inbound: agreed.inbound,
            local_ts: agreed.local_ts.clone(),
            remote_ts: agreed.remote_ts.clone(),
            resource: resource.clone(),
        };
        // RFC 7296 2.8: the responder goes on sending on the old SA until the peer deletes it; on one of its own that
        // the peer made a second time, too, until it is clear which stays.
        let carried = Pair { local: agreed.local_ts.clone(), remote: agreed.remote_ts.clone(), resource };
        let first = !self.children.iter().any(|c| c.state == State::Live && c.selectors.overlaps(&carried));
        self.install(ctx, agreed, in_keys, out_keys, old, first);
        if let Some(child) = old.and_then(|old| self.child(old)) {
            child.state = State::Replaced;
            child.soft = None;
        }
        if let Some(Pending::Child(exchange)) = &mut self.pending
            && exchange.replaces == old
        {
            exchange.met = Some(Met { key: rival, lowest });
        }
    }

    /// Children handed over by another IKE SA of the tunnel.
    pub(crate) fn adopt(&mut self, ctx: &mut Ctx<'_>, children: Vec<child::Child>, tasks: Vec<Task>) {
        for child in children {
            if self.serves() {
                ctx.spis.give(child.inbound, self.key());
                self.children.push(child);
            } else {
                ctx.spis.release(child.inbound);
                let (tunnel, reason) = (self.tunnel, DownReason::LocalRequest);
                let (inbound, outbound) = (child.inbound, child.outbound);
                let drain = std::time::Duration::ZERO;
                ctx.event(Event::ChildDown { tunnel, inbound, outbound, drain, reason });
            }
        }
        if self.serves() {
            tasks.into_iter().for_each(|task| self.queue(task));
        }
    }
}

enum Stop {
    /// A job is at work on our half of the key exchange.
    Later,
    Regroup(u16),
    Refuse(Refusal),
}
