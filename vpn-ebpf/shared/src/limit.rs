//! A rate limit in one word: the generic cell rate algorithm (ITU-T I.371), a token bucket without a refill.

/// How often something may happen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two events at the full rate; 0: no limit.
    pub interval: u64,
    /// Nanoseconds by which events may come early: (burst - 1) intervals.
    pub tolerance: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Rate = Rate { interval: 0, tolerance: 0 };

    /// At most `per_second` in the long run, and `burst` (at least 1) at once. 0 per second: no limit.
    pub const fn new(per_second: u32, burst: u32) -> Rate {
        if per_second == 0 {
            return Rate::UNLIMITED;
        }
        let interval = 1_000_000_000 / per_second as u64;
        let interval = if interval == 0 { 1 } else { interval };
        Rate { interval, tolerance: interval * (burst.saturating_sub(1)) as u64 }
    }

    /// May one more happen at `now` (nanoseconds), when `due` is the state left by the last (0 at first)?
    /// The new state if so.
    #[inline(always)]
    pub const fn admit(&self, due: u64, now: u64) -> Option<u64> {
        let due = if due > now { due } else { now };
        if due - now > self.tolerance { None } else { Some(due + self.interval) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate::new(10, 5);
        let start = 7_000_000_000;
        let mut due = 0;
        let mut admitted = 0;
        // 3 seconds, one try each millisecond.
        for tick in 0..3000 {
            if let Some(next) = rate.admit(due, start + tick * 1_000_000) {
                due = next;
                admitted += 1;
            }
        }
        assert_eq!(admitted, 5 + 29);
    }

    #[test]
    fn quiet_time_gives_no_more_than_the_burst() {
        let rate = Rate::new(1, 3);
        let mut due = 0;
        for round in 1..4_u64 {
            let now = round * 1_000_000_000_000;
            let mut admitted = 0;
            while let Some(next) = rate.admit(due, now) {
                due = next;
                admitted += 1;
            }
            assert_eq!(admitted, 3);
        }
    }

    #[test]
    fn no_limit() {
        let mut due = 0;
        for _ in 0..1000 {
            due = Rate::UNLIMITED.admit(due, 5).unwrap();
        }
    }
}
