//! The largest rate that passes with next to no loss, found by steps.

/// The share of lost packets below which a rate counts as passed.
pub const LOSS_BOUND: f64 = 0.005;

/// When the answer is known within this factor.
const PRECISE: f64 = 1.04;

/// What one step saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Packets per second that were really sent.
    pub offered: f64,
    /// Share that did not arrive, 0 to 1.
    pub loss: f64,
}

impl Step {
    /// Whether so little was lost that the rate counts.
    pub fn passed(&self) -> bool {
        self.loss < LOSS_BOUND
    }
}

/// A search: ask [`Search::rate`] for a rate, try it, and [`Search::tried`] the outcome, until there is no next.
#[derive(Debug, Clone)]
pub struct Search {
    /// The best rate that passed.
    best: f64,
    /// The lowest that did not.
    worst: f64,
    /// What the first step says of where the answer may be.
    guess: Option<f64>,
    steps: u32,
    limited_by_sender: bool,
}

impl Search {
    /// Begins with a step at full speed; `steps` more are made at most.
    pub fn new(full: Step, steps: u32) -> Self {
        let passed = full.passed();
        Self {
            best: if passed { full.offered } else { 0.0 },
            worst: full.offered,
            // What arrived under overload is near what can pass, and mostly a little less.
            guess: (!passed).then(|| full.offered * (1.0 - full.loss).max(0.05)),
            steps: if passed { 0 } else { steps },
            limited_by_sender: passed,
        }
    }

    /// The rate to try next, in packets per second.
    pub fn rate(&self) -> Option<f64> {
        if self.steps == 0 || self.worst <= self.best * PRECISE {
            return None;
        }
        Some(match self.guess {
            Some(guess) => guess,
            // Nothing has passed yet: halve.
            None if self.best == 0.0 => self.worst / 2.0,
            None => (self.best + self.worst) / 2.0,
        })
    }

    /// Takes the outcome of a step at the rate that [`Search::rate`] gave.
    pub fn tried(&mut self, rate: f64, step: Step) {
        self.steps = self.steps.saturating_sub(1);
        self.guess = None;
        if step.passed() {
            // A sender that cannot keep the pace proves only what it sent, but asking for more would not get more.
            self.best = self.best.max(step.offered.min(rate));
            if step.offered < rate * 0.95 {
                self.worst = self.worst.min(rate);
            }
        } else {
            self.worst = self.worst.min(rate);
        }
    }

    /// The largest rate that passed, in packets per second; 0 when none did.
    pub fn best(&self) -> f64 {
        self.best
    }

    /// Whether everything passed that the generator could send, so that the device may do more.
    pub fn limited_by_sender(&self) -> bool {
        self.limited_by_sender
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that carries so much and no more, and a sender with a limit of its own.
    fn find(capacity: f64, sender: f64, overload: f64) -> (f64, u32, bool) {
        let device = |rate: f64| {
            let offered = rate.min(sender);
            // Beyond its capacity it carries even less.
            let carried = if offered <= capacity { offered } else { capacity * overload };
            Step { offered, loss: 1.0 - carried / offered }
        };
        let mut search = Search::new(device(f64::MAX), 12);
        let mut steps = 0;
        while let Some(rate) = search.rate() {
            search.tried(rate, device(rate));
            steps += 1;
        }
        (search.best(), steps, search.limited_by_sender())
    }

    #[test]
    fn the_capacity_is_found() {
        for (capacity, overload) in [(300e3, 1.0), (300e3, 0.7), (34e3, 0.9), (34e3, 0.1), (990e3, 1.0)] {
            let (best, steps, limited) = find(capacity, 1e6, overload);
            assert!(
                best <= capacity * 1.006 && best > capacity * 0.94,
                "{capacity}: {best} in {steps} steps"
            );
            assert!(steps <= 9 && !limited, "{capacity}: {steps} steps");
        }
    }

    #[test]
    fn a_slow_sender_is_told() {
        assert_eq!(find(2e6, 1e6, 1.0), (1e6, 0, true));
    }

    #[test]
    fn nothing_passes() {
        let mut search = Search::new(Step { offered: 1e6, loss: 1.0 }, 4);
        let mut steps = 0;
        while let Some(rate) = search.rate() {
            search.tried(rate, Step { offered: rate, loss: 1.0 });
            steps += 1;
        }
        assert_eq!((search.best(), steps), (0.0, 4));
    }
}
