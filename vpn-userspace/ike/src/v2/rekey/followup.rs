//! IKE_FOLLOWUP_KE (RFC 9370 2.2.4): the additional key exchanges after CREATE_CHILD_SA, one in each round; both roles.
//!
//! An exchange of ours is in flight until its last round is answered, and collides with the peer's as one without rounds
//! does. What the peer began is kept until its next round, which is refused if it makes no sense any more.

use std::collections::VecDeque;
use std::time::Instant;

use culvert_crypto::{DhGroup, SharedSecret};
use culvert_types::Spi;

use super::{ChildExchange, IkeExchange, agree};
use crate::IkeSuite;
use crate::error::{Cause, Phase};
use crate::kex::Half;
use crate::keymat::Nonces;
use crate::proposal::Additional;
use crate::v2::child::{Agreed, State};
use crate::v2::ctx::{Ctx, log};
use crate::v2::sa::{Attempt, IkeSa, Life, Pending, Reply, SUPERSEDED_LIFETIME, Task};
use crate::wire::{Body, Chain, Exchange, Notify, Payload, notify};

/// A link of ours is this long.
const LINK: usize = 8;
/// And one of the peer's at most this; it is only sent back.
const MAX_LINK: usize = 1024;

/// The additional key exchanges that an exchange still has to go, and what those before brought.
pub(crate) struct Rounds {
    /// The method of the next round, and those after it.
    left: VecDeque<DhGroup>,
    /// What ties the next round to those before (ADDITIONAL_KEY_EXCHANGE).
    link: Vec<u8>,
    /// SK(1) to SK(n).
    pub(crate) shared: Vec<SharedSecret>,
}

impl Rounds {
    /// As initiator, after an answer that chose these; `None`: there are none to go.
    pub(super) fn begin(additional: Additional, body: &Body<'_>) -> Result<Option<Self>, Cause> {
        if additional.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { left: additional.methods().collect(), link: read_link(body)?, shared: Vec::new() }))
    }

    /// As responder.
    fn offer(ctx: &mut Ctx<'_>, additional: Additional) -> Self {
        Self { left: additional.methods().collect(), link: new_link(ctx), shared: Vec::new() }
    }
}

fn new_link(ctx: &mut Ctx<'_>) -> Vec<u8> {
    let mut link = vec![0; LINK];
    ctx.random.fill(&mut link);
    link
}

fn read_link(body: &Body<'_>) -> Result<Vec<u8>, Cause> {
    let link = body.notify(notify::ADDITIONAL_KEY_EXCHANGE).map(|n| n.data);
    let link = link.filter(|link| link.len() <= MAX_LINK);
    link.map(<[u8]>::to_vec).ok_or(Cause::MissingPayload("ADDITIONAL_KEY_EXCHANGE"))
}

fn write_link(chain: &mut Chain, link: &[u8]) {
    chain.push(&Payload::Notify(Notify::new(notify::ADDITIONAL_KEY_EXCHANGE, link)));
}

/// What the answer to our CREATE_CHILD_SA has settled about a CHILD SA.
pub(crate) struct ChildSettled {
    pub(super) agreed: Agreed,
    pub(super) nr: Vec<u8>,
    pub(super) first: Option<SharedSecret>,
    /// The peer would take the rest of our networks in others.
    pub(super) more_possible: bool,
    pub(super) rounds: Rounds,
}

/// The same about an IKE SA.
pub(crate) struct IkeSettled {
    pub(super) suite: IkeSuite,
    pub(super) theirs: u64,
    pub(super) nr: Vec<u8>,
    pub(super) first: SharedSecret,
    /// `None`: no additional key exchange was chosen.
    pub(super) rounds: Option<Rounds>,
}

/// A CREATE_CHILD_SA of the peer's that goes on with IKE_FOLLOWUP_KE.
pub(crate) struct Following {
    what: Followed,
    ni: Vec<u8>,
    nr: Vec<u8>,
    first: Option<SharedSecret>,
    rounds: Rounds,
    /// When the peer has certainly given up.
    pub(crate) expires: Instant,
}

/// What it is about.
pub(super) enum Followed {
    /// A CHILD SA, in the place of that with this inbound SPI.
    Child(Box<Agreed>, Option<Spi>),
    /// An IKE SA with the SPI of the peer and ours.
    Ike(IkeSuite, u64, u64),
}

impl Pending {
    fn rounds(&mut self) -> Option<(&mut Rounds, &mut Option<Half>)> {
        match self {
            Self::Child(e) => Some((&mut e.settled.as_mut()?.rounds, &mut e.half)),
            Self::Ike(e) => Some((e.settled.as_mut()?.rounds.as_mut()?, &mut e.half)),
            _ => None,
        }
    }

    /// Whether CREATE_CHILD_SA has been answered, and rounds follow.
    pub(crate) fn is_in_rounds(&self) -> bool {
        match self {
            Self::Child(e) => e.settled.is_some(),
            Self::Ike(e) => e.settled.is_some(),
            _ => false,
        }
    }
}

impl IkeSa {
    // --- initiator ---

    /// Begins the next round of an exchange: at once, or when its key pair is made.
    pub(super) fn next_round(&mut self, ctx: &mut Ctx<'_>, mut pending: Pending) {
        let key = self.key();
        let Some((rounds, slot)) = pending.rounds() else { return };
        let Some(method) = rounds.left.front().copied() else { return };
        match Half::start(ctx, key, method) {
            Ok(half) => *slot = Some(half),
            Err(e) => return self.round_failed(ctx, pending, e.into()),
        }
        self.pending = Some(pending);
        self.send_round(ctx);
    }

    /// Sends the request of a round, once our half of it is there.
    pub(super) fn send_round(&mut self, ctx: &mut Ctx<'_>) {
        if self.window.free().is_none() || !self.pending.as_ref().is_some_and(Pending::is_in_rounds) {
            return;
        }
        let Some(mut pending) = self.pending.take() else { return };
        let Some((rounds, Some(half))) = pending.rounds() else { return };
        let Some(data) = half.public() else {
            self.pending = Some(pending);
            return;
        };
        let mut chain = Chain::new();
        chain.push(&Payload::Ke { group: half.group().iana(), data });
        write_link(&mut chain, &rounds.link);
        self.request(ctx, Exchange::FollowupKe, &chain, pending);
    }

    /// The answer to a round of ours.
    pub(crate) fn finish_round(&mut self, ctx: &mut Ctx<'_>, mut pending: Pending, body: &Body<'_>) {
        if let Some(error) = body.error().filter(|_| body.ke().is_none()) {
            return self.round_failed(ctx, pending, Cause::Refused(error.kind));
        }
        let Some((rounds, half)) = pending.rounds() else { return };
        let taken = match half.take() {
            Some(half) => agree(half, ctx, body),
            None => Err(Cause::Unfinished),
        };
        let next = taken.and_then(|shared| {
            rounds.shared.push(shared);
            rounds.left.pop_front();
            if rounds.left.is_empty() {
                return Ok(false);
            }
            rounds.link = read_link(body)?;
            Ok(true)
        });
        match (next, pending) {
            // Nothing stands at the peer before the last round: there is nothing to delete there.
            (Ok(true), _) if self.life == Life::Closing => {}
            (Ok(true), pending) => self.next_round(ctx, pending),
            (Ok(false), Pending::Child(exchange)) => self.finish_child_rounds(ctx, *exchange),
            (Ok(false), Pending::Ike(exchange)) => self.finish_ike_rounds(ctx, *exchange),
            (Ok(false), _) => {}
            (Err(cause), pending) => self.round_failed(ctx, pending, cause),
        }
    }

    /// A round of ours came to nothing.
    pub(super) fn round_failed(&mut self, ctx: &mut Ctx<'_>, pending: Pending, cause: Cause) {
        // RFC 9370 2.2.4, RFC 7296 2.25: the peer has forgotten the rounds before, or is busy: all from the beginning.
        let transient = matches!(cause, Cause::Refused(notify::STATE_NOT_FOUND | notify::TEMPORARY_FAILURE));
        match pending {
            Pending::Child(exchange) => self.child_round_failed(ctx, *exchange, cause, transient),
            Pending::Ike(exchange) => self.ike_round_failed(ctx, *exchange, cause, transient),
            _ => {}
        }
    }

    fn child_round_failed(&mut self, ctx: &mut Ctx<'_>, e: ChildExchange, cause: Cause, transient: bool) {
        ctx.spis.release(e.offer.inbound);
        let (replaces, scope) = (e.replaces, e.offer.scope);
        match (replaces, transient) {
            // The peer rekeyed the SA itself: that one lives on.
            (Some(_), _) if e.met.is_some() => {}
            (Some(_), true) => {
                log!(debug, self.config.name, "{cause}: rekeying is tried again");
                self.retry_child(ctx, replaces);
            }
            (None, true) => {
                log!(debug, self.config.name, "{cause}: the CHILD SA is asked for again");
                let again = Self::retry_at(ctx, self.hard);
                self.again.push((again, Task::CreateChild(Attempt::default(), scope)));
            }
            (Some(_), false) => self.child_failed(ctx, replaces, cause, String::new(), String::new()),
            (None, false) => {
                if !self.child_refused(ctx, &cause, scope) {
                    self.child_failed(ctx, None, cause, String::new(), String::new());
                }
            }
        }
    }

    fn ike_round_failed(&mut self, ctx: &mut Ctx<'_>, e: IkeExchange, cause: Cause, transient: bool) {
        match e.met {
            _ if self.life == Life::Closing => {}
            // RFC 7296 2.25.2: ours failed, the peer's succeeded: that one lives on.
            Some(met) => self.hand_over(ctx, met.key),
            None if transient => {
                log!(debug, self.config.name, "{cause}: rekeying is tried again");
                self.soft = Some(Self::retry_at(ctx, self.hard));
            }
            None => self.ike_failed(ctx, cause, String::new()),
        }
    }

    // --- responder ---

    /// Keeps what the peer's CREATE_CHILD_SA has settled, and asks for the rounds.
    pub(super) fn expect_rounds(
        &mut self,
        ctx: &mut Ctx<'_>,
        chain: &mut Chain,
        (what, additional): (Followed, Additional),
        nonces: Nonces<'_>,
        first: Option<SharedSecret>,
    ) {
        self.drop_following(ctx);
        let rounds = Rounds::offer(ctx, additional);
        write_link(chain, &rounds.link);
        let (ni, nr) = (nonces.initiator.to_vec(), nonces.responder.to_vec());
        let expires = ctx.now + SUPERSEDED_LIFETIME;
        self.following = Some(Box::new(Following { what, ni, nr, first, rounds, expires }));
    }

    /// What the peer had begun is void.
    pub(crate) fn drop_following(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(following) = self.following.take()
            && let Followed::Child(agreed, _) = following.what
        {
            ctx.spis.release(agreed.inbound);
        }
    }

    /// Whether a task would collide with what the peer has begun: it waits for that.
    pub(crate) fn is_held(&self, task: &Task) -> bool {
        let Some(following) = &self.following else { return false };
        match (&following.what, task) {
            (Followed::Child(_, Some(old)), Task::RekeyChild(spi, _)) => old == spi,
            (Followed::Child(..), Task::RekeyIke(_))
            | (Followed::Ike(..), Task::RekeyIke(_) | Task::RekeyChild(..) | Task::CreateChild(..)) => true,
            _ => false,
        }
    }

    /// Whether what the peer has begun makes sense still.
    fn may_follow(&self, what: &Followed) -> bool {
        let live = |old: Spi| self.children.iter().any(|c| c.inbound == old && c.state == State::Live);
        let serves = self.life == Life::Serving;
        match what {
            Followed::Child(_, old) => {
                serves && old.is_none_or(live) && !matches!(self.pending, Some(Pending::Ike(_)))
            }
            Followed::Ike(..) => serves && !self.busy_for_ike(),
        }
    }

    /// A round of the peer's.
    pub(crate) fn on_followup(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>) -> Reply {
        let link = body.notify(notify::ADDITIONAL_KEY_EXCHANGE).map(|n| n.data);
        let fits = self.following.take_if(|f| Some(f.rounds.link.as_slice()) == link);
        let Some(mut following) = fits else { return Reply::notify(notify::STATE_NOT_FOUND, &[]) };
        let method = following.rounds.left.front().copied();
        let (Some(method), Some((group, value))) = (method, body.ke()) else {
            self.give_up(ctx, *following);
            return Reply::notify(notify::INVALID_SYNTAX, &[]);
        };
        if !self.may_follow(&following.what) {
            self.give_up(ctx, *following);
            return Reply::notify(notify::TEMPORARY_FAILURE, &[]);
        }
        if group != method.iana() {
            self.give_up(ctx, *following);
            return Reply::notify(notify::INVALID_SYNTAX, &[]);
        }
        let answered = match self.answer(ctx, method, value) {
            None => {
                self.following = Some(following);
                return Reply::Later;
            }
            Some(Ok(answered)) => answered,
            Some(Err(e)) => {
                let cause = Cause::from(e);
                let told = cause.notify().unwrap_or(notify::INVALID_SYNTAX);
                let phase = match following.what {
                    Followed::Child(_, Some(_)) => Phase::RekeyChild,
                    Followed::Child(_, None) => Phase::ChildSa,
                    Followed::Ike(..) => Phase::RekeyIke,
                };
                ctx.failed(self.failure(phase, cause));
                self.give_up(ctx, *following);
                return Reply::notify(told, &[]);
            }
        };
        let mut chain = Chain::new();
        chain.push(&Payload::Ke { group, data: &answered.public });
        following.rounds.left.pop_front();
        following.rounds.shared.push(answered.shared);
        if !following.rounds.left.is_empty() {
            following.rounds.link = new_link(ctx);
            following.expires = ctx.now + SUPERSEDED_LIFETIME;
            write_link(&mut chain, &following.rounds.link);
            self.following = Some(following);
            return Reply::Answer(chain);
        }
        let Following { what, ni, nr, first, rounds, .. } = *following;
        let nonces = Nonces { initiator: &ni, responder: &nr };
        match (what, first) {
            (Followed::Child(agreed, old), first) => {
                self.install_theirs(ctx, *agreed, old, nonces, first.as_ref(), &rounds.shared);
            }
            (Followed::Ike(suite, theirs, ours), Some(first)) => {
                self.spawn_theirs(ctx, suite, (theirs, ours), nonces, &first, &rounds.shared);
            }
            (Followed::Ike(..), None) => return Reply::notify(notify::INVALID_SYNTAX, &[]),
        }
        Reply::Answer(chain)
    }

    fn give_up(&mut self, ctx: &mut Ctx<'_>, following: Following) {
        self.following = Some(Box::new(following));
        self.drop_following(ctx);
    }
}
