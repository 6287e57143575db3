//! When something is to be done for which tunnel: the next of thousands without a look at all of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use culvert_types::TunnelId;

#[derive(Debug, Default)]
pub(crate) struct Timers {
    order: BTreeSet<(Instant, TunnelId)>,
    of: HashMap<TunnelId, Instant>,
}

impl Timers {
    pub(crate) fn set(&mut self, id: TunnelId, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.of.insert(id, at),
            None => self.of.remove(&id),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, id));
        }
        if let Some(at) = at {
            self.order.insert((at, id));
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// A tunnel whose time has come; it stays due until its time is set anew.
    pub(crate) fn due(&self, now: Instant) -> Option<TunnelId> {
        self.order.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }
}
