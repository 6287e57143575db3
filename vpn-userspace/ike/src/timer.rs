//! Deadlines: the soonest of several, and the soonest of all IKE SAs.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// The soonest of several times, with its reason.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Soonest(Option<(Instant, &'static str)>);

impl Soonest {
    pub(crate) fn at(&mut self, when: Instant, why: &'static str) {
        if self.0.is_none_or(|(soonest, _)| when < soonest) {
            self.0 = Some((when, why));
        }
    }

    pub(crate) fn get(self) -> Option<(Instant, &'static str)> {
        self.0
    }
}

/// One deadline for each IKE SA, ordered.
#[derive(Default)]
pub(crate) struct Timers {
    order: BTreeSet<(Instant, u64)>,
    of: HashMap<u64, (Instant, &'static str)>,
}

impl Timers {
    pub(crate) fn set(&mut self, key: u64, deadline: Option<(Instant, &'static str)>) {
        if self.of.get(&key).copied() == deadline {
            return;
        }
        if let Some((when, _)) = self.of.remove(&key) {
            self.order.remove(&(when, key));
        }
        if let Some((when, why)) = deadline {
            self.of.insert(key, (when, why));
            self.order.insert((when, key));
        }
    }

    /// A key whose time has come; its deadline is forgotten.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u64> {
        let (when, key) = *self.order.first()?;
        if when > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }

    pub(crate) fn next(&self) -> Option<(Instant, &'static str)> {
        let (_, key) = self.order.first()?;
        self.of.get(key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_come_in_order_and_once() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut timers = Timers::default();
        timers.set(1, Some((at(3), "three")));
        timers.set(2, Some((at(2), "two")));
        timers.set(3, Some((at(2), "two as well")));
        timers.set(1, Some((at(1), "one")));
        timers.set(3, None);
        assert_eq!(timers.next(), Some((at(1), "one")));
        assert_eq!(timers.due(at(0)), None);
        assert_eq!((timers.due(at(5)), timers.due(at(5)), timers.due(at(5))), (Some(1), Some(2), None));
        assert_eq!(timers.next(), None);
    }
}
