//! Which CHILD SAs a tunnel wants: one for all its networks, or one for each pair of them, as peers have it that take
//! no more (RFC 7296 2.9); and asking for those that are missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_types::{Spi, TrafficSelector};

use super::child::{Child, State};
use super::ctx::{Ctx, log};
use super::sa::{Attempt, IkeSa, Life, Pending, Task};
use crate::error::Cause;
use crate::wire::notify;
use crate::{Event, Pairs, PeerConfig, Purpose};

/// How long after the loss of one CHILD SA of several it is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a peer is left alone that is busy.
const BUSY: Duration = Duration::from_secs(5);

/// The selectors of one CHILD SA, ours and the peer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) local: Vec<TrafficSelector>,
    pub(crate) remote: Vec<TrafficSelector>,
    /// One of several for the same, each for a resource of its own (RFC 9611).
    pub(crate) resource: Option<Arc<[u8]>>,
}

/// For what a CHILD SA is asked: `None` for all that the tunnel has.
pub(crate) type Scope = Option<Arc<Pair>>;

impl Pair {
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: &[TrafficSelector], b: &[TrafficSelector]| {
            a.iter().any(|a| b.iter().any(|b| a.intersect(b).is_some()))
        };
        self.resource == other.resource
            && meet(&self.local, &other.local)
            && meet(&self.remote, &other.remote)
    }
}

/// The CHILD SAs that a tunnel wants. `each`: the peer takes one pair of networks in each.
pub(crate) fn wanted(config: &PeerConfig, each: bool) -> Vec<Scope> {
    if !each && config.exchange.pairs == Pairs::Together {
        return vec![None];
    }
    let pair = |local: &TrafficSelector, remote: &TrafficSelector| {
        (local.is_ipv4() == remote.is_ipv4())
            .then(|| (vec![local.clone()], vec![remote.clone()]))
            .map(|(local, remote)| Some(Arc::new(Pair { local, remote, resource: None })))
    };
    config.local_ts.iter().flat_map(|l| config.remote_ts.iter().filter_map(move |r| pair(l, r))).collect()
}

impl IkeSa {
    /// Queues a request for each CHILD SA that is wanted and neither there nor on its way. Those that the peer has
    /// refused only if `insist`.
    pub(crate) fn queue_missing(&mut self, insist: bool) {
        if self.life != Life::Serving {
            return;
        }
        self.missing_at = None;
        if insist {
            self.refused.clear();
        }
        for scope in wanted(&self.config, self.each) {
            if !self.is_covered(&scope) && !self.refused.contains(&scope) {
                self.queue(Task::CreateChild(Attempt::default(), scope));
            }
        }
    }

    fn is_covered(&self, scope: &Scope) -> bool {
        let asked = match &self.pending {
            Some(Pending::Child(exchange)) => exchange.replaces.is_none() && exchange.offer.scope == *scope,
            _ => false,
        };
        let later = |task: &Task| matches!(task, Task::CreateChild(_, other) if other == scope);
        let asked = asked || self.tasks.iter().chain(self.again.iter().map(|(_, task)| task)).any(later);
        asked || self.is_here(scope)
    }

    /// Whether a CHILD SA serves it.
    pub(crate) fn is_here(&self, scope: &Scope) -> bool {
        let here = |child: &Child| {
            let serves = match scope {
                Some(pair) => child.selectors.overlaps(pair),
                // One for a resource is no first one.
                None => child.selectors.resource.is_none(),
            };
            child.state == State::Live && serves
        };
        self.children.iter().any(here)
    }

    /// The selectors to offer when a CHILD SA is rekeyed: its own, as far as they are still configured.
    pub(crate) fn rekey_scope(&self, old: Spi) -> Option<Scope> {
        let child = self.children.iter().find(|c| c.inbound == old)?;
        let Some(pair) = &child.scope else { return Some(None) };
        let narrow = crate::selector::narrow;
        let pair = Pair {
            local: narrow(&pair.local, &self.config.local_ts),
            remote: narrow(&pair.remote, &self.config.remote_ts),
            resource: pair.resource.clone(),
        };
        (!pair.local.is_empty() && !pair.remote.is_empty()).then(|| Some(Arc::new(pair)))
    }

    /// A request for a new CHILD SA was refused. `true`: it is tried in another way, and is no failure.
    pub(crate) fn child_refused(&mut self, ctx: &mut Ctx<'_>, cause: &Cause, scope: Scope) -> bool {
        if let Some(purpose) = super::child::resource_of(&scope).and_then(Purpose::of) {
            let never = matches!(cause, Cause::Refused(notify::TS_MAX_QUEUE));
            let cause = cause.to_string();
            ctx.event(Event::AdditionalRefused { tunnel: self.tunnel, purpose, never, cause });
        }
        match cause {
            // RFC 7296 2.9: one pair of selectors in each CHILD SA.
            Cause::Refused(notify::SINGLE_PAIR_REQUIRED) if scope.is_none() && self.may_split() => {
                log!(info, self.config.name, "the peer takes one pair of networks in each CHILD SA");
                self.each = true;
                self.queue_missing(false);
                true
            }
            // RFC 9611 4: those that are there carry the traffic.
            Cause::Refused(notify::TS_MAX_QUEUE) => {
                log!(
                    info,
                    self.config.name,
                    "the peer makes no more CHILD SAs for these networks (TS_MAX_QUEUE)"
                );
                self.refused.push(scope);
                true
            }
            // RFC 7296 2.25: something transient.
            Cause::Refused(notify::TEMPORARY_FAILURE) => {
                self.missing_at = Some(ctx.now + ctx.jittered(BUSY, 0.6));
                true
            }
            _ => {
                self.refused.push(scope);
                false
            }
        }
    }

    /// Asks for a CHILD SA beside one that is there, for the same networks and a purpose of its own (RFC 9611 3).
    /// `false`: there is none yet.
    pub(crate) fn ask_beside(&mut self, purpose: Purpose) -> bool {
        let plain = |c: &&Child| c.state == State::Live && c.selectors.resource.is_none();
        let Some(first) = self.children.iter().find(plain) else { return false };
        let resource = purpose.name().map(Arc::from);
        let pair = Pair { resource, ..Pair::clone(&first.selectors) };
        let scope = Some(Arc::new(pair));
        self.refused.retain(|refused| *refused != scope);
        self.queue(Task::CreateChild(Attempt::default(), scope));
        true
    }

    /// The tunnel's networks are others now: each CHILD SA that carries some that are gone, or lacks some that are new, is
    /// rekeyed with those of now, so that the rest goes on without a gap (RFC 7296 2.8); what carries nothing any more is
    /// deleted, and what is missing is asked for.
    pub(crate) fn reselect(&mut self) {
        if !self.serves() {
            return;
        }
        let live = |c: &&mut Child| c.state == State::Live;
        let plain = self.children.iter_mut().filter(live).filter(|c| c.selectors.resource.is_none()).count();
        let together = !self.each && self.config.exchange.pairs == Pairs::Together;
        // The peer has made several, of its own accord: each keeps to its networks.
        self.each |= together && plain > 1;
        let config = Arc::clone(&self.config);
        let mut others = Vec::new();
        for child in self.children.iter_mut().filter(live) {
            let resource = child.selectors.resource.clone();
            // The only one is for whatever there is, and so are those beside it.
            if together && plain <= 1 {
                let (local, remote) = (config.local_ts.clone(), config.remote_ts.clone());
                child.scope = resource.is_some().then(|| Arc::new(Pair { local, remote, resource }));
            } else {
                // What was all that there was is one of several now.
                child.scope.get_or_insert_with(|| Arc::clone(&child.selectors));
            }
            let narrow = crate::selector::narrow;
            let now = match &child.scope {
                None => (config.local_ts.clone(), config.remote_ts.clone()),
                Some(pair) => {
                    (narrow(&pair.local, &config.local_ts), narrow(&pair.remote, &config.remote_ts))
                }
            };
            if (&now.0, &now.1) != (&child.selectors.local, &child.selectors.remote) {
                others.push(child.inbound);
            }
        }
        for inbound in others {
            self.queue(Task::RekeyChild(inbound, Attempt::default()));
        }
        self.queue_missing(true);
    }

    /// Whether the peer may have one more CHILD SA for a resource of this name, for what it asks.
    pub(crate) fn takes_resource(&self, name: &[u8], ts_i: &[TrafficSelector]) -> bool {
        let small = Purpose::of(name) == Some(Purpose::Small);
        let same = |c: &&Child| {
            c.selectors.resource.is_some()
                && matches!(c.state, State::Live)
                && (c.purpose == Purpose::Small) == small
                && c.selectors.remote.iter().any(|r| ts_i.iter().any(|t| r.intersect(t).is_some()))
        };
        let most = match small {
            true => u16::from(self.config.exchange.may_ask(Purpose::Small)),
            false => self.config.exchange.per_resource,
        };
        self.children.iter().filter(same).count() < usize::from(most)
    }

    /// What a new CHILD SA for a resource of this name is for.
    pub(crate) fn purpose_of(&self, resource: Option<&[u8]>) -> Purpose {
        let Some(name) = resource else { return Purpose::All };
        let taken = |number: &u16| self.children.iter().any(|c| c.purpose == Purpose::Resource(*number));
        Purpose::of(name)
            .unwrap_or_else(|| Purpose::Resource((0..u16::MAX).find(|n| !taken(n)).unwrap_or(u16::MAX)))
    }

    fn may_split(&self) -> bool {
        self.config.local_ts.len() > 1 || self.config.remote_ts.len() > 1
    }

    /// A CHILD SA that we asked for took less than we offered, and the peer would take the rest in others
    /// (RFC 7296 2.9).
    pub(crate) fn more_possible(&mut self) {
        if self.may_split() && !self.each {
            self.each = true;
        }
        self.queue_missing(false);
    }

    /// The peer deleted one CHILD SA: if we had asked for it and others stand, it is asked for again.
    pub(crate) fn lost_alone(&mut self, now: Instant, ours: bool) {
        if ours && self.serves() && self.children.iter().any(|c| c.state == State::Live) {
            self.missing_at = Some(now + AGAIN);
        }
    }
}
