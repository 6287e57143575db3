//! Token buckets for what strangers and floods could make us do too often.

use std::time::Instant;

/// So many per second, and so many at once.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: f64,
    burst: f64,
    tokens: f64,
    last: Option<Instant>,
}

impl RateLimit {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let burst = f64::from(burst);
        Self { per_second: per_second.into(), burst, tokens: burst, last: None }
    }

    /// Whether one more may be now.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        if let Some(last) = self.last {
            let passed = now.saturating_duration_since(last).as_secs_f64();
            self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        }
        self.last = Some(now);
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let (mut limit, start) = (RateLimit::new(10, 3), Instant::now());
        let allowed = |limit: &mut RateLimit, at: Instant| (0..10).filter(|_| limit.allow(at)).count();
        assert_eq!(allowed(&mut limit, start), 3);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(50)), 0);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(250)), 2);
        assert_eq!(allowed(&mut limit, start + Duration::from_secs(60)), 3);
    }
}
