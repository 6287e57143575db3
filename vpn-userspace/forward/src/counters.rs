//! What a forward counts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Forward;
use crate::budget::{Budget, Place};

/// The counters of a forward, by those who count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) clients: AtomicU64,
    pub(crate) active: AtomicU64,
    pub(crate) not_allowed: AtomicU64,
    pub(crate) too_many: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) bytes_there: AtomicU64,
    pub(crate) bytes_back: AtomicU64,
    error: Mutex<Option<String>>,
}

/// What a forward has counted since it was first set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Connections, or UDP clients, that came and were let in.
    pub clients: u64,
    /// Of these, there now.
    pub active: u64,
    /// Refused: not from an allowed network.
    pub not_allowed: u64,
    /// Refused: as many there as may be at once.
    pub too_many: u64,
    /// Let in, but the far side could not be reached.
    pub failed: u64,
    /// Bytes from clients to the far side.
    pub bytes_there: u64,
    /// Bytes from the far side to clients.
    pub bytes_back: u64,
    /// Why the far side could not be reached the last time.
    pub error: Option<String>,
}

impl Counters {
    pub(crate) fn read(&self) -> Counted {
        Counted {
            clients: self.clients.load(Relaxed),
            active: self.active.load(Relaxed),
            not_allowed: self.not_allowed.load(Relaxed),
            too_many: self.too_many.load(Relaxed),
            failed: self.failed.load(Relaxed),
            bytes_there: self.bytes_there.load(Relaxed),
            bytes_back: self.bytes_back.load(Relaxed),
            error: self.error.lock().map_or(None, |error| error.clone()),
        }
    }

    pub(crate) fn fail(&self, why: String) {
        self.failed.fetch_add(1, Relaxed);
        self.tell(why);
    }

    /// What an operator should know of.
    fn tell(&self, why: String) {
        if let Ok(mut error) = self.error.lock() {
            *error = Some(why);
        }
    }
}

/// One that is there; it is gone when this is dropped.
pub(crate) struct Active<'a> {
    counters: &'a Counters,
    /// Given back with it.
    _places: Vec<Place>,
}

impl<'a> Active<'a> {
    /// Lets one more in, if there are fewer than may be.
    pub(crate) fn enter(counters: &'a Counters, forward: &Forward) -> Option<Self> {
        let mut places = Vec::new();
        for budget in &forward.budgets {
            match Budget::enter(budget) {
                Some(place) => places.push(place),
                None => {
                    counters.too_many.fetch_add(1, Relaxed);
                    counters.tell(format!("{} is {}: a client was refused", budget.name(), budget.most()));
                    return None;
                }
            }
        }
        let most = u64::try_from(forward.most).unwrap_or(u64::MAX);
        let more = |active| (active < most).then_some(active + 1);
        if counters.active.fetch_update(Relaxed, Relaxed, more).is_err() {
            counters.too_many.fetch_add(1, Relaxed);
            return None;
        }
        counters.clients.fetch_add(1, Relaxed);
        Some(Self { counters, _places: places })
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.counters.active.fetch_sub(1, Relaxed);
    }
}
