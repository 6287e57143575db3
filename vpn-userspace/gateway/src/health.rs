//! Whether a tunnel carries traffic: probes through it, of which so many in a row must be lost, or answered, before
//! that changes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Probes that are remembered for loss and latency.
const WINDOW: usize = 100;
/// Probes under way at once; the oldest is given up for more.
const MOST_UNDER_WAY: usize = 64;

/// How a tunnel is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthPlan {
    /// Between two probes.
    pub interval: Duration,
    /// A probe that was not answered for so long is lost.
    pub timeout: Duration,
    /// So many lost in a row: it does not carry traffic. So many answered in a row: it does again. At least 1.
    pub retries: u32,
    /// What follows beside the move of the traffic.
    pub action: HealthAction,
}

/// What is done with a tunnel that fails its health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthAction {
    /// Its traffic moves where another tunnel is better; its SAs stay, and the peer is asked if it lives.
    Demote,
    /// It is negotiated anew as well.
    Restart,
}

/// What the probes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough probes yet.
    Unknown,
    /// It carries traffic.
    Healthy,
    /// It does not.
    Unhealthy,
}

/// What is known of a tunnel's health, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// What the probes say.
    pub verdict: Verdict,
    /// Since when.
    pub since: Instant,
    /// Why the last probe that failed did.
    pub cause: Option<String>,
    /// Probes of the window, oldest first: the round trip, or `None` for a lost one. At most 100.
    pub window: Vec<Option<Duration>>,
    /// Probes whose fate is known, since the tunnel was configured.
    pub sent: u64,
    /// Of these, lost.
    pub lost: u64,
}

impl HealthReport {
    /// Lost probes of the window, in percent; `None` without one.
    pub fn loss(&self) -> Option<u8> {
        let lost = self.window.iter().filter(|trip| trip.is_none()).count();
        (100 * lost).checked_div(self.window.len()).and_then(|percent| u8::try_from(percent).ok())
    }

    /// Mean round trip of the window; `None` if none was answered.
    pub fn latency(&self) -> Option<Duration> {
        let trips: Vec<Duration> = self.window.iter().copied().flatten().collect();
        let count = u32::try_from(trips.len()).ok().filter(|count| *count > 0)?;
        Some(trips.iter().sum::<Duration>() / count)
    }
}

#[derive(Debug)]
pub(crate) struct Health {
    plan: HealthPlan,
    verdict: Verdict,
    since: Instant,
    cause: Option<String>,
    window: VecDeque<Option<Duration>>,
    sent: u64,
    lost: u64,
    /// Of one outcome, without one of the other between.
    row: Row,
    /// `None`: the tunnel is not up.
    next: Option<Instant>,
    sequence: u64,
    under_way: VecDeque<(u64, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    answered: bool,
    count: u32,
}

impl Health {
    pub(crate) fn new(now: Instant, plan: HealthPlan) -> Self {
        Self {
            plan,
            verdict: Verdict::Unknown,
            since: now,
            cause: None,
            window: VecDeque::with_capacity(WINDOW),
            sent: 0,
            lost: 0,
            row: Row { answered: true, count: 0 },
            next: None,
            sequence: 0,
            under_way: VecDeque::new(),
        }
    }

    pub(crate) fn plan(&self) -> HealthPlan {
        self.plan
    }

    /// Another plan: what is known stays, the next probe goes by it.
    pub(crate) fn set_plan(&mut self, now: Instant, plan: HealthPlan) {
        self.plan = plan;
        self.next = self.next.map(|_| now);
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The tunnel is up: what was known of it before is not known of these SAs.
    pub(crate) fn start(&mut self, now: Instant) {
        if self.next.is_none() {
            self.next = Some(now);
            self.enter(now, Verdict::Unknown);
        }
    }

    /// The tunnel is not up: nothing is asked, and what is under way is not waited for.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.next = None;
        self.under_way.clear();
        self.enter(now, Verdict::Unknown);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let lost = self.under_way.front().map(|(_, sent)| *sent + self.plan.timeout);
        self.next.into_iter().chain(lost).min()
    }

    /// Gives up what is overdue, and says which probe is to be sent now.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Option<u64> {
        while let Some(&(sequence, sent)) = self.under_way.front()
            && sent + self.plan.timeout <= now
        {
            self.take(sequence);
            let text = format!("no answer within {:?}", self.plan.timeout);
            self.count(now, None, Some(text));
        }
        let due = self.next.filter(|at| *at <= now)?;
        // Who was held up owes no burst of probes.
        let next = due + self.plan.interval;
        self.next = Some(if next > now { next } else { now + self.plan.interval });
        self.sequence += 1;
        if self.under_way.len() == MOST_UNDER_WAY {
            self.under_way.pop_front();
        }
        self.under_way.push_back((self.sequence, now));
        Some(self.sequence)
    }

    /// A probe came back, or could not be sent. One that was given up counts no more.
    pub(crate) fn on_probed(&mut self, now: Instant, sequence: u64, outcome: Result<Duration, String>) {
        if self.take(sequence) {
            match outcome {
                Ok(trip) => self.count(now, Some(trip), None),
                Err(cause) => self.count(now, None, Some(cause)),
            }
        }
    }

    pub(crate) fn report(&self) -> HealthReport {
        HealthReport {
            verdict: self.verdict,
            since: self.since,
            cause: self.cause.clone(),
            window: self.window.iter().copied().collect(),
            sent: self.sent,
            lost: self.lost,
        }
    }

    fn take(&mut self, sequence: u64) -> bool {
        let found = self.under_way.iter().position(|(known, _)| *known == sequence);
        found.and_then(|index| self.under_way.remove(index)).is_some()
    }

    fn count(&mut self, now: Instant, trip: Option<Duration>, cause: Option<String>) {
        self.sent += 1;
        self.lost += u64::from(trip.is_none());
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(trip);
        let answered = trip.is_some();
        self.row.count = if self.row.answered == answered { self.row.count.saturating_add(1) } else { 1 };
        self.row.answered = answered;
        if let Some(cause) = cause {
            self.cause = Some(cause);
        }
        let enough = self.row.count >= self.plan.retries;
        match (self.verdict, answered) {
            // One answer proves a tunnel that nothing speaks against.
            (Verdict::Unknown, true) => self.enter(now, Verdict::Healthy),
            (Verdict::Unknown | Verdict::Healthy, false) if enough => self.enter(now, Verdict::Unhealthy),
            (Verdict::Unhealthy, true) if enough => self.enter(now, Verdict::Healthy),
            _ => {}
        }
    }

    fn enter(&mut self, now: Instant, verdict: Verdict) {
        if self.verdict != verdict {
            self.verdict = verdict;
            self.since = now;
        }
        self.row.count = 0;
    }
}
