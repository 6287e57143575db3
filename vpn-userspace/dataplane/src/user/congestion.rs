//! Says when a port's queue stands, so that senders who understand marks are told before the queue is full.
//!
//! By CoDel's law (RFC 8289), with another measure: a queue that has not been empty for a whole interval stands. How long
//! a packet waited, the kernel does not tell. Only packets that can carry a mark get one, on the outer header, from where
//! the peer carries it inward (RFC 6040); others are dropped where the bounded queue ends.

use std::time::{Duration, Instant};

/// RFC 8289 4.3: what the slowest of usual round trips takes.
const INTERVAL: Duration = Duration::from_millis(100);

/// One port's queue.
#[derive(Debug, Default)]
pub(crate) struct Congestion {
    /// Since when it has not been seen empty.
    since: Option<Instant>,
    /// When the next mark is due.
    next: Option<Instant>,
    marks: u32,
    due: bool,
}

impl Congestion {
    /// The worker has taken from the queue, and found it empty or not.
    pub(crate) fn seen(&mut self, now: Instant, empty: bool) {
        if empty {
            *self = Self::default();
            return;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < INTERVAL || self.next.is_some_and(|next| now < next) {
            return;
        }
        self.due = true;
        self.marks = self.marks.saturating_add(1);
        self.next = Some(now + INTERVAL.div_f64(f64::from(self.marks).sqrt()));
    }

    /// The outer traffic class for a packet whose own would be `tos`: with the mark, if one is due and the packet takes it.
    #[inline]
    pub(crate) fn mark(&mut self, tos: u8) -> u8 {
        // RFC 3168 5: ECT(0) and ECT(1) take it; 00 cannot, 11 has it.
        if !self.due || !matches!(tos & 3, 1 | 2) {
            return tos;
        }
        self.due = false;
        tos | 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_queue_marks_what_takes_it_ever_more_often() {
        let (mut queue, start) = (Congestion::default(), Instant::now());
        let mut marked = Vec::new();
        for ms in 0..400 {
            queue.seen(start + Duration::from_millis(ms), false);
            assert_eq!((queue.mark(0), queue.mark(0x2b)), (0, 0x2b), "no ECN, or marked already");
            if queue.mark(0xba) == 0xbb {
                marked.push(ms);
            }
        }
        assert_eq!(marked, [100, 200, 271, 329, 379]);
        queue.seen(start + Duration::from_millis(400), true);
        for ms in 401..500 {
            queue.seen(start + Duration::from_millis(ms), false);
            assert_eq!(queue.mark(1), 1, "it was empty");
        }
    }
}
