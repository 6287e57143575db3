//! CREATE_CHILD_SA (RFC 7296 1.3): new and rekeyed CHILD SAs, rekeyed IKE SAs; both roles, collisions included.
//!
//! What a request meets, and what becomes of it (RFC 7296 2.25):
//!
//! | our own exchange in flight | peer rekeys this CHILD SA | peer rekeys the IKE SA |
//! | --- | --- | --- |
//! | none, or liveness | new SA, the peer deletes the old one | new SA takes the children |
//! | rekey of the same CHILD SA | both are made, the one with the lowest nonce goes | TEMPORARY_FAILURE |
//! | another CHILD SA made or deleted | new SA | TEMPORARY_FAILURE |
//! | new CHILD SA, and so is the peer's | both are made, of two that carry the same the one with the lowest nonce goes | TEMPORARY_FAILURE |
//! | delete of this CHILD SA | TEMPORARY_FAILURE | TEMPORARY_FAILURE |
//! | rekey of the IKE SA | TEMPORARY_FAILURE | both are made, the one with the lowest nonce goes |
//! | delete of the IKE SA | TEMPORARY_FAILURE | TEMPORARY_FAILURE |
//!
//! With additional key exchanges (`followup`) an exchange is in flight until the last of them is answered.

mod child;
mod followup;
mod ike;

use std::time::{Duration, Instant};

use culvert_crypto::{DhGroup, SharedSecret};
use culvert_types::{Spi, TrafficSelector};

use super::Sa;
use super::child::Offer;
use super::ctx::Ctx;
use super::sa::{Attempt, IkeSa, Life, Pending, Reply, Task};
use crate::error::{Cause, Phase};
use crate::job::{Answered, Done, JobError};
use crate::kex::{Agreement, Answering, Half};
use crate::wire::{Body, Proposal, notify, protocol};
pub(crate) use followup::Following;

/// Our request for a CHILD SA, in flight.
pub(crate) struct ChildExchange {
    pub(crate) offer: Offer,
    /// Inbound SPI of the SA to be replaced.
    pub(crate) replaces: Option<Spi>,
    nonce: Vec<u8>,
    pub(crate) half: Option<Half>,
    attempt: Attempt,
    /// The peer rekeyed the same SA meanwhile, or made a new one as we do.
    met: Option<Met<Rival>>,
    /// SPIs that the peer deleted meanwhile and that we do not know: the answer's may be among them.
    deleted: Vec<u32>,
    /// The answer, while additional key exchanges follow; `half` is of the one under way.
    settled: Option<Box<followup::ChildSettled>>,
}

impl ChildExchange {
    /// The peer has deleted an SPI that we do not know. A few are kept: it answers one request at a time.
    pub(crate) fn note_deleted(&mut self, outbound: u32) {
        if self.deleted.len() < 4 {
            self.deleted.push(outbound);
        }
    }
}

/// Our request for a rekeyed IKE SA, in flight.
pub(crate) struct IkeExchange {
    spi: u64,
    nonce: Vec<u8>,
    pub(crate) half: Option<Half>,
    offered: Vec<Proposal>,
    attempt: Attempt,
    /// The peer rekeyed the IKE SA meanwhile.
    pub(crate) met: Option<Met<u64>>,
    /// The answer, while additional key exchanges follow; `half` is of the one under way.
    settled: Option<Box<followup::IkeSettled>>,
}

/// What the peer's exchange made, and the lower of its two nonces.
pub(crate) struct Met<K> {
    pub(crate) key: K,
    lowest: Vec<u8>,
}

/// A CHILD SA of the peer's making, and what it carries: only one that carries the same is in the way.
pub(crate) struct Rival {
    inbound: Spi,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
    resource: Option<std::sync::Arc<[u8]>>,
}

/// RFC 7296 2.8.1: the SA of the exchange with the lowest of the four nonces goes. Both sides see the same.
fn ours_loses(ours: &[u8], theirs: &[u8]) -> bool {
    ours < theirs
}

/// Other groups that a peer may ask for, one after the other.
const MAX_REGROUPED: u32 = 3;

impl Attempt {
    /// The attempt after INVALID_KE_PAYLOAD, if the group may be tried.
    fn regrouped(
        self,
        body: &Body<'_>,
        current: Option<DhGroup>,
        allowed: &[DhGroup],
    ) -> Result<Self, Cause> {
        let data = body.notify(notify::INVALID_KE_PAYLOAD).map(|n| n.data).unwrap_or_default();
        let wanted = <[u8; 2]>::try_from(data).map_or(0, u16::from_be_bytes);
        let group = DhGroup::from_iana(wanted).filter(|g| allowed.contains(g) && Some(*g) != current);
        match group {
            Some(group) if self.regrouped < MAX_REGROUPED => {
                Ok(Self { group: Some(group), regrouped: self.regrouped + 1 })
            }
            _ => Err(Cause::GroupRefused(wanted)),
        }
    }
}

/// The key agreement of an answer to our request. A job that it takes has been run before.
fn agree(mut half: Half, ctx: &mut Ctx<'_>, body: &Body<'_>) -> Result<SharedSecret, Cause> {
    let (group, value) = body.ke().ok_or(Cause::MissingPayload("KE"))?;
    if group != half.group().iana() {
        return Err(Cause::WrongChoice);
    }
    match half.agree(ctx, value) {
        Agreement::Done(shared) => Ok(shared?),
        Agreement::Later => Err(Cause::Unfinished),
    }
}

impl IkeSa {
    /// Takes over what was configured since the last negotiation.
    pub(crate) fn refresh_config(&mut self, ctx: &Ctx<'_>) {
        if let Some(config) = ctx.peers.get(self.tunnel) {
            self.config = crate::v2::vip::narrowed(config, &self.carried.addresses);
        }
    }

    /// When to try again what failed, given when it must have succeeded.
    pub(super) fn retry_at(ctx: &mut Ctx<'_>, hard: Instant) -> Instant {
        let patience = ctx.jittered(Duration::from_secs(15), 0.6);
        let left = hard.saturating_duration_since(ctx.now) / 4;
        ctx.now + patience.min(left).max(Duration::from_secs(1))
    }

    /// A half of a key exchange in this group; `None` while a job is making its key pair.
    fn half(&mut self, ctx: &mut Ctx<'_>, group: DhGroup) -> Result<Option<Half>, Cause> {
        let half = match self.making.take().filter(|half| half.group() == group) {
            Some(half) => half,
            None => Half::start(ctx, self.key(), group)?,
        };
        if half.waits() {
            self.making = Some(half);
            return Ok(None);
        }
        Ok(Some(half))
    }

    /// Our half of the peer's key exchange; `None` while a job is at work on it.
    fn answer(
        &mut self,
        ctx: &mut Ctx<'_>,
        group: DhGroup,
        value: &[u8],
    ) -> Option<Result<Answered, JobError>> {
        let key = self.key();
        Answering::answer(&mut self.answering, ctx, (key, true), (group, value))
    }

    /// Whether the answer to our request waits for a job: its agreement.
    pub(crate) fn agreement_waits(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>) -> bool {
        let answers = body.sa().is_some() || self.pending.as_ref().is_some_and(Pending::is_in_rounds);
        let half = self.pending.as_mut().and_then(Pending::half);
        match (half, answers, body.ke()) {
            (Some(half), true, Some((group, value))) if group == half.group().iana() => {
                half.prepare(ctx, value)
            }
            _ => false,
        }
    }

    /// What a job brought: a key pair of ours, our half of the peer's exchange, or an agreement.
    pub(crate) fn on_job(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        done: &mut Option<Done>,
    ) -> Option<Sa> {
        if let Some(result) = self.making.as_mut().and_then(|half| half.on_job(number, done)) {
            if let Err(e) = result {
                self.making = None;
                self.next_task_failed(ctx, e.into());
            }
        } else if self.answering.as_mut().is_some_and(|a| a.on_job(number, done)) {
            if let Some(message) = self.request.take() {
                return self.on_message(ctx, *message);
            }
        } else if let Some(result) =
            self.pending.as_mut().and_then(Pending::half).and_then(|h| h.on_job(number, done))
        {
            if let Some(message) = self.response.take() {
                return self.on_message(ctx, *message);
            }
            match result {
                // Nothing of it stands at the peer yet.
                Ok(()) if self.life == Life::Closing && self.window.free().is_some() => self.pending = None,
                Ok(()) => self.send_round(ctx),
                Err(e) => {
                    if let Some(pending) = self.pending.take() {
                        self.round_failed(ctx, pending, e.into());
                    }
                }
            }
        }
        self.send_next(ctx);
        Some(Sa::Up(self))
    }

    /// The task at the front of the queue cannot be begun.
    fn next_task_failed(&mut self, ctx: &mut Ctx<'_>, cause: Cause) {
        match self.tasks.pop_front() {
            Some(Task::CreateChild(..)) => self.child_failed(ctx, None, cause, String::new(), String::new()),
            Some(Task::RekeyChild(old, _)) => {
                self.child_failed(ctx, Some(old), cause, String::new(), String::new());
            }
            Some(Task::RekeyIke(_)) => self.ike_failed(ctx, cause, String::new()),
            Some(other) => self.tasks.push_front(other),
            None => {}
        }
    }

    /// A CREATE_CHILD_SA request.
    pub(crate) fn on_create_child(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>) -> Reply {
        // RFC 7296 2.25.2: nothing new on an IKE SA that is being closed or is replaced.
        if self.life != Life::Serving {
            return Reply::notify(notify::TEMPORARY_FAILURE, &[]);
        }
        let Some(offers) = body.sa() else { return Reply::notify(notify::INVALID_SYNTAX, &[]) };
        self.refresh_config(ctx);
        if offers.iter().any(|p| p.protocol == protocol::IKE) {
            self.on_rekey_ike(ctx, body, offers)
        } else {
            self.on_child_request(ctx, body)
        }
    }
}

impl Pending {
    /// Our half of its key exchange.
    pub(crate) fn half(&mut self) -> Option<&mut Half> {
        match self {
            Self::Child(exchange) => exchange.half.as_mut(),
            Self::Ike(exchange) => exchange.half.as_mut(),
            _ => None,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::Child(exchange) if exchange.replaces.is_some() => Phase::RekeyChild,
            Self::Child(_) => Phase::ChildSa,
            Self::Ike(_) => Phase::RekeyIke,
            _ => Phase::Informational,
        }
    }
}
