//! Message ids, retransmission and replayed answers (RFC 7296 2.1 to 2.3), windows of one.

use std::time::{Duration, Instant};

use crate::Retransmit;
use crate::fragment::Sealed;

/// When a request is sent again, and when its sender gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retransmission {
    first: Instant,
    next: Instant,
    wait: Duration,
    left: u32,
    repeated: u32,
    factor: f64,
    /// Whatever the schedule says, not later than this.
    limit: Option<Instant>,
}

/// What a due retransmission asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Again,
    /// Given up, after this long.
    GiveUp(Duration),
}

impl Retransmission {
    /// Of a request that goes out now. With `timeout`, an answer must come within it.
    pub(crate) fn new(now: Instant, policy: &Retransmit, timeout: Option<Duration>) -> Self {
        let (wait, factor) = (policy.initial, policy.factor.clamp(1.0, 10.0));
        let limit = timeout.map(|t| now + t);
        Self { first: now, next: now + wait, wait, left: policy.tries, repeated: 0, factor, limit }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.limit.map_or(self.next, |limit| limit.min(self.next))
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) -> Due {
        if now < self.deadline() {
            return Due::Nothing;
        }
        match self.limit {
            // Whoever was held up itself has not asked as often as it wanted to: its silence is not the peer's.
            Some(limit) if now >= limit && self.next < limit && self.left > 0 => {
                self.limit = Some(now + (limit - self.next));
            }
            Some(limit) if now >= limit => return Due::GiveUp(now - self.first),
            _ if self.left == 0 => return Due::GiveUp(now - self.first),
            _ => {}
        }
        self.left -= 1;
        self.repeated += 1;
        self.wait = self.wait.mul_f64(self.factor);
        self.next = now + self.wait;
        Due::Again
    }

    /// How often it has been sent again.
    pub(crate) fn repeated(&self) -> u32 {
        self.repeated
    }

    /// Whether now is the time to tell the operator that nobody answers: once, after the second repetition.
    pub(crate) fn worrying(&self) -> bool {
        self.repeated == 2
    }
}

/// A request that waits for its answer.
pub(crate) struct Inflight {
    pub(crate) id: u32,
    pub(crate) message: Sealed,
    pub(crate) retransmission: Retransmission,
}

/// The last request that we answered, and the answer.
struct Answered {
    id: u32,
    fingerprint: Fingerprint,
    response: Sealed,
}

/// Length and last bytes of a protected request: its check value tells it from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    length: usize,
    tail: [u8; 12],
}

impl Fingerprint {
    pub(crate) fn of(datagram: &[u8]) -> Self {
        Self { length: datagram.len(), tail: datagram.last_chunk().copied().unwrap_or_default() }
    }
}

/// What a request with some message id is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// The next one: to be opened, and answered if it is authentic.
    Next,
    /// The one before, again: to be answered with the same bytes.
    Repeated(&'a Sealed),
    /// The one before by its id, but other bytes: cut into other fragments, if it is authentic.
    Altered(&'a Sealed),
    /// Anything else: to be dropped.
    Stale,
}

/// Both windows of one IKE SA.
pub(crate) struct Window {
    next_id: u32,
    expected: u32,
    answered: Option<Answered>,
    inflight: Option<Inflight>,
}

impl Window {
    /// `next_id`: of our first request. `expected`: of the peer's.
    pub(crate) fn new(next_id: u32, expected: u32) -> Self {
        Self { next_id, expected, answered: None, inflight: None }
    }

    /// The message id that the next request must carry; `None` while one waits for its answer.
    pub(crate) fn free(&self) -> Option<u32> {
        self.inflight.is_none().then_some(self.next_id)
    }

    /// The next message id even though a request may wait: for a farewell that waits for nothing.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Notes the request that was built for [`free`](Self::free).
    pub(crate) fn sent(&mut self, message: Sealed, retransmission: Retransmission) {
        self.inflight = Some(Inflight { id: self.next_id, message, retransmission });
        self.next_id = self.next_id.wrapping_add(1);
    }

    pub(crate) fn inflight(&self) -> Option<&Inflight> {
        self.inflight.as_ref()
    }

    pub(crate) fn inflight_mut(&mut self) -> Option<&mut Inflight> {
        self.inflight.as_mut()
    }

    /// Whether an answer with this id is waited for.
    pub(crate) fn awaits(&self, id: u32) -> bool {
        self.inflight.as_ref().is_some_and(|i| i.id == id)
    }

    /// The awaited answer came and is authentic.
    pub(crate) fn answered(&mut self) {
        self.inflight = None;
    }

    /// What a request is, by its id and, for a repeated one, its bytes.
    pub(crate) fn incoming(&self, id: u32, datagram: &[u8]) -> Incoming<'_> {
        if id == self.expected {
            return Incoming::Next;
        }
        match &self.answered {
            Some(a) if a.id == id && a.fingerprint == Fingerprint::of(datagram) => {
                Incoming::Repeated(&a.response)
            }
            Some(a) if a.id == id => Incoming::Altered(&a.response),
            _ => Incoming::Stale,
        }
    }

    /// Notes the answer to the request that was [`Incoming::Next`].
    pub(crate) fn respond_to(&mut self, fingerprint: Fingerprint, response: impl Into<Sealed>) {
        self.answered = Some(Answered { id: self.expected, fingerprint, response: response.into() });
        self.expected = self.expected.wrapping_add(1);
    }

    /// Message ids are running out: the IKE SA must be rekeyed now (RFC 7296 2.2).
    pub(crate) fn nearly_used_up(&self) -> bool {
        self.next_id > u32::MAX / 2 || self.expected > u32::MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_tries_each_longer_than_the_one_before() {
        let start = Instant::now();
        let mut r = Retransmission::new(start, &Retransmit::default(), None);
        let mut at = Vec::new();
        loop {
            let now = r.deadline();
            assert_eq!(r.on_timeout(now - Duration::from_millis(1)), Due::Nothing);
            at.push((now - start).as_millis());
            match r.on_timeout(now) {
                Due::Again => {}
                Due::GiveUp(after) => break assert_eq!(after.as_millis(), 165_061),
                Due::Nothing => panic!("it was due"),
            }
        }
        // strongSwan's documented schedule: 4, 7.2, 13, 23.3, 42 s apart, 165 s in all.
        assert_eq!(at, [4_000, 11_200, 24_160, 47_488, 89_478, 165_061]);
    }

    #[test]
    fn a_timeout_cuts_the_schedule_short() {
        let start = Instant::now();
        let mut r = Retransmission::new(start, &Retransmit::default(), Some(Duration::from_secs(10)));
        assert_eq!(r.on_timeout(start + Duration::from_secs(4)), Due::Again);
        assert_eq!(r.deadline(), start + Duration::from_secs(10));
        assert_eq!(r.on_timeout(start + Duration::from_secs(10)), Due::GiveUp(Duration::from_secs(10)));
    }

    #[test]
    fn who_was_held_up_asks_again_before_it_gives_up() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut r = Retransmission::new(start, &Retransmit::default(), Some(Duration::from_secs(6)));
        // The repetition at 4 s was missed: two seconds were to be left after it.
        assert_eq!(r.on_timeout(at(9)), Due::Again);
        assert_eq!((r.deadline(), r.on_timeout(at(10))), (at(11), Due::Nothing));
        assert_eq!(r.on_timeout(at(30)), Due::GiveUp(Duration::from_secs(30)));
    }

    #[test]
    fn requests_are_taken_once_and_answered_again_only_to_the_same_bytes() {
        let mut w = Window::new(0, 5);
        let request = [7u8; 60];
        assert_eq!(w.incoming(5, &request), Incoming::Next);
        assert_eq!(w.incoming(4, &request), Incoming::Stale);
        w.respond_to(Fingerprint::of(&request), vec![1, 2, 3]);
        assert_eq!(w.incoming(5, &request), Incoming::Repeated(&vec![1, 2, 3].into()));
        assert!(matches!(w.incoming(5, &request[1..]), Incoming::Altered(_)));
        assert!(matches!(w.incoming(5, &[8; 60]), Incoming::Altered(_)));
        assert_eq!(w.incoming(6, &request), Incoming::Next);
        assert_eq!(w.incoming(7, &request), Incoming::Stale);
        w.respond_to(Fingerprint::of(&[9; 60]), vec![4]);
        assert_eq!(w.incoming(5, &request), Incoming::Stale);
    }

    #[test]
    fn one_request_at_a_time() {
        let mut w = Window::new(0, 0);
        let now = Instant::now();
        assert_eq!(w.free(), Some(0));
        w.sent(vec![1].into(), Retransmission::new(now, &Retransmit::default(), None));
        assert_eq!(w.free(), None);
        assert!(w.awaits(0) && !w.awaits(1));
        w.answered();
        assert_eq!(w.free(), Some(1));
    }
}
