//! Which tunnels may carry traffic: how fit each is, and how long one that failed must be well before the traffic
//! returns to it.

use std::time::{Duration, Instant};

/// A tunnel that goes on failing waits no longer than this, or than its configured time if that is more.
const LONGEST_HOLD: Duration = Duration::from_secs(600);
/// A tunnel that was fit for so many of its waits has its failures forgiven.
const FORGIVE: u32 = 10;
/// And for no less than this.
const FORGIVE_AT_LEAST: Duration = Duration::from_secs(60);

/// When traffic returns to a preferred tunnel that failed and is well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// After so long without another failure; the time doubles with each failure that follows soon.
    After(Duration),
    /// When the operator says so, or when nothing else carries traffic.
    Manual,
}

/// How fit a tunnel is to carry traffic; more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// It is not up.
    Down,
    /// It is up, and its health check fails.
    Sick,
    /// It is up, and has not proved yet that it carries traffic, or that it goes on doing so.
    Probation,
    /// Nothing speaks against it.
    Fit,
}

/// The record of a tunnel's failures.
#[derive(Debug)]
pub(crate) struct Damping {
    /// In a row, as `FORGIVE` has it.
    flaps: u32,
    failed: bool,
    hold: Option<Hold>,
    /// When the last hold ended, or it came up the first time.
    fit: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Until(Instant),
    Operator,
}

impl Damping {
    pub(crate) fn new() -> Self {
        Self { flaps: 0, failed: false, hold: None, fit: None }
    }

    /// It failed: its SAs are gone, or its health check says so. Once for each failure, however many signs there are.
    pub(crate) fn failed(&mut self, now: Instant, rule: Return) {
        if self.failed {
            return;
        }
        let forgiven = self.fit.is_some_and(|since| {
            now.saturating_duration_since(since) >= (self.wait(rule) * FORGIVE).max(FORGIVE_AT_LEAST)
        });
        self.flaps = if forgiven { 1 } else { self.flaps.saturating_add(1) };
        self.failed = true;
        self.hold = None;
        self.fit = None;
    }

    /// It is well. Nothing happens if it has been.
    pub(crate) fn well(&mut self, now: Instant, rule: Return) {
        if self.failed {
            self.failed = false;
            self.hold = match rule {
                Return::Manual => Some(Hold::Operator),
                Return::After(Duration::ZERO) => None,
                Return::After(_) => Some(Hold::Until(now + self.wait(rule))),
            };
        }
        if self.hold.is_none() && self.fit.is_none() {
            self.fit = Some(now);
        }
    }

    /// Its wait is over: it carries the traffic already, or the operator wants it to.
    pub(crate) fn release(&mut self, now: Instant) {
        if self.hold.take().is_some() {
            self.fit = Some(now);
        }
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.release(now);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.hold {
            Some(Hold::Until(at)) => Some(at),
            _ => None,
        }
    }

    /// Whether traffic that went elsewhere is to stay there for now.
    pub(crate) fn holds(&self) -> bool {
        self.failed || self.hold.is_some()
    }

    /// How long it has to be well after its latest failure.
    fn wait(&self, rule: Return) -> Duration {
        let Return::After(first) = rule else { return Duration::ZERO };
        let doubled =
            first.saturating_mul(1u32.checked_shl(self.flaps.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(LONGEST_HOLD.max(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Return = Return::After(Duration::from_secs(10));

    #[test]
    fn each_failure_that_follows_soon_doubles_the_wait() {
        let (mut damping, mut now) = (Damping::new(), Instant::now());
        damping.well(now, RULE);
        assert!(!damping.holds(), "one that never failed waits for nothing");
        for seconds in [10, 20, 40, 80, 160, 320, 600, 600] {
            now += Duration::from_secs(1);
            damping.failed(now, RULE);
            damping.failed(now, RULE);
            damping.well(now, RULE);
            assert_eq!(damping.deadline(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
            damping.on_timeout(now);
            assert!(!damping.holds());
        }
        now += Duration::from_secs(5999);
        damping.failed(now, RULE);
        damping.well(now, RULE);
        assert_eq!(damping.deadline(), Some(now + Duration::from_secs(600)), "not forgiven yet");
        damping.on_timeout(now + Duration::from_secs(600));
        now += Duration::from_secs(600 + 6000);
        damping.failed(now, RULE);
        damping.well(now, RULE);
        assert_eq!(damping.deadline(), Some(now + Duration::from_secs(10)), "forgiven");
    }

    #[test]
    fn only_the_operator_ends_a_manual_wait() {
        let (mut damping, now) = (Damping::new(), Instant::now());
        damping.failed(now, Return::Manual);
        damping.well(now, Return::Manual);
        damping.on_timeout(now + Duration::from_secs(1 << 30));
        assert!(damping.holds() && damping.deadline().is_none());
        damping.release(now);
        assert!(!damping.holds());
    }
}
