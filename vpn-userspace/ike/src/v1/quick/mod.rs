//! Quick mode (RFC 2409 5.5): CHILD SAs, with and without perfect forward secrecy. `asking` and `answering` are its roles.

mod answering;
mod asking;

use std::time::{Duration, Instant};

use culvert_crypto::SharedSecret;
use culvert_types::Spi;

use super::cause::V1Cause;
use super::child::{Pair, State, from_id};
use super::phase1::Exchanged;
use super::proposal::{EspChoice, Terms};
use super::sa::{Agreed, IkeSa};
use super::{Arrival, Stash};
use crate::ctx::{Ctx, log};
use crate::error::{Cause, Phase};
use crate::job::Done;
use crate::kex::{Answering, Half};
use crate::proposal::list;
use crate::window::{Due, Retransmission};
use crate::wire::v1::{self as wire, notify, protocol};

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
    /// We are about to ask: a job makes our key.
    Making(Box<Asked>),
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
    half: Option<Half>,
    nonce: Vec<u8>,
    /// The answer, while a job is at work on it.
    stash: Option<Stash>,
}

/// A quick mode of the peer, while a job is at work on it.
pub(crate) struct Waiting {
    started: Instant,
    stash: Stash,
    answering: Option<Answering>,
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
        matches!(self.state, State3::Making(_) | State3::Asked(..))
    }

    /// Whether it is ours, open, and about this pair of networks.
    pub(crate) fn negotiates(&self, pair: &Pair) -> bool {
        matches!(&self.state, State3::Making(asked) | State3::Asked(asked, _) if asked.pair == *pair)
    }

    /// An SPI that is reserved for a CHILD SA that is not there yet.
    pub(crate) fn reserved(&self) -> Option<Spi> {
        match &self.state {
            State3::Making(asked) | State3::Asked(asked, _) => Some(asked.inbound),
            _ => None,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        match &self.state {
            State3::Asked(_, retransmission) | State3::Answered { retransmission, .. } => {
                retransmission.deadline()
            }
            State3::Making(_) => self.started + REMEMBERED,
            State3::Done(until) => *until,
        }
    }
}

impl IkeSa {
    /// Takes in what a job brought.
    pub(crate) fn on_job(&mut self, ctx: &mut Ctx<'_>, number: u64, done: &mut Option<Done>) {
        if let Some(at) =
            self.waiting.iter_mut().position(|w| w.answering.as_mut().is_some_and(|a| a.on_job(number, done)))
        {
            let Waiting { stash, answering, started } = self.waiting.remove(at);
            if let Some(arrival) = stash.arrival() {
                self.answer_quick(ctx, &arrival, started, answering);
            }
            return;
        }
        for at in 0..self.quicks.len() {
            let (State3::Making(asked) | State3::Asked(asked, _)) = &mut self.quicks[at].state else {
                continue;
            };
            let (inbound, replaces) = (asked.inbound, asked.replaces);
            match asked.half.as_mut().and_then(|half| half.on_job(number, done)) {
                None => continue,
                Some(Err(e)) => {
                    self.quicks.remove(at);
                    ctx.spis.release(inbound);
                    ctx.failed(self.failure(self.phase_of(replaces), e.into()));
                    self.retry_rekey(ctx, replaces);
                }
                Some(Ok(())) => match asked.stash.take() {
                    Some(stash) => {
                        if let Some(arrival) = stash.arrival() {
                            self.finish_quick(ctx, &arrival, at);
                        }
                    }
                    None => self.send_quick(ctx, at),
                },
            }
            return;
        }
    }

    fn phase_of(&self, replaces: Option<Spi>) -> Phase {
        if replaces.is_some() { Phase::QuickModeRekey } else { Phase::QuickMode }
    }

    pub(crate) fn on_quick(&mut self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) {
        let id = arrival.header.message_id;
        let Some(at) = self.quicks.iter().position(|q| q.message_id == id) else {
            // While a job is at work on it, repetitions wait as well: its id has been seen.
            if !self.seen.contains(&id) {
                self.answer_quick(ctx, arrival, ctx.now, None);
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
            State3::Making(_) | State3::Done(_) => {}
        }
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

    /// The peer refused in an informational exchange what we asked for.
    pub(crate) fn quick_refused(&mut self, ctx: &mut Ctx<'_>, spi: &[u8], kind: u16) {
        let ours = |q: &Quick| matches!(&q.state, State3::Making(a) | State3::Asked(a, _) if a.inbound.to_bytes() == *spi);
        // Many peers name their own SPI or none: we ask for one at a time.
        let at = self.quicks.iter().position(ours);
        let Some(at) = at.or_else(|| self.quicks.iter().position(Quick::waits_for_answer)) else {
            log!(debug, self.config.name, "the peer reports {} ({kind})", notify::name(kind));
            return;
        };
        let mut quick = self.quicks.remove(at);
        let (State3::Making(asked) | State3::Asked(asked, _)) = quick.state else { return };
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
                // No job takes so long.
                State3::Making(_) if now >= quick.started + REMEMBERED => (Due::GiveUp(REMEMBERED), true),
                State3::Making(_) => (Due::Nothing, true),
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
                        State3::Making(asked) | State3::Asked(asked, _) => {
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
