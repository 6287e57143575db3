//! Negotiations begin a few at a time with each peer.
//!
//! A gateway that starts with a thousand tunnels to one address would otherwise be a stranger who sends a thousand
//! requests at once: peers take so many half-open IKE SAs of one address and no more (RFC 7296 2.6), and what they drop comes
//! again seconds and minutes later.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_gateway::{Input, Loss, State};
use culvert_ike::Command;
use culvert_types::TunnelId;

use crate::daemon::Daemon;

/// With one address. Half of what this gateway takes itself.
const AT_ONCE: usize = 16;
/// One that has no answer for so long, when its first request is repeated, holds up no other.
const PATIENCE: Duration = Duration::from_secs(4);

/// Negotiations that this gateway began, and those whose turn will come.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    under_way: BTreeMap<TunnelId, (Instant, IpAddr)>,
    /// The same in the order in which they began.
    begun: BTreeSet<(Instant, TunnelId)>,
    peers: HashMap<IpAddr, Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    under_way: usize,
    waiting: VecDeque<TunnelId>,
}

impl Pace {
    /// Whether a negotiation may begin; otherwise [`Pace::end`] of another one will tell when.
    fn begin(&mut self, now: Instant, id: TunnelId, with: IpAddr) -> bool {
        if self.under_way.contains_key(&id) {
            return true;
        }
        let peer = self.peers.entry(with).or_default();
        if peer.under_way >= AT_ONCE {
            if !peer.waiting.contains(&id) {
                peer.waiting.push_back(id);
            }
            return false;
        }
        peer.under_way += 1;
        self.under_way.insert(id, (now, with));
        self.begun.insert((now, id));
        true
    }

    /// A negotiation has ended, one way or the other. Returns one that waited for that and is still wanted.
    fn end(&mut self, id: TunnelId, wanted: impl Fn(TunnelId) -> bool) -> Option<TunnelId> {
        let (at, with) = self.under_way.remove(&id)?;
        self.begun.remove(&(at, id));
        let peer = self.peers.get_mut(&with)?;
        peer.under_way = peer.under_way.saturating_sub(1);
        let next = std::iter::from_fn(|| peer.waiting.pop_front()).find(|next| wanted(*next));
        if peer.under_way == 0 && peer.waiting.is_empty() {
            self.peers.remove(&with);
        }
        next
    }

    /// One that is without an answer for too long.
    fn overdue(&self, now: Instant) -> Option<TunnelId> {
        let (at, id) = self.begun.first()?;
        (now.saturating_duration_since(*at) >= PATIENCE).then_some(*id)
    }
}

impl Daemon {
    /// Negotiates with the tunnel's peer, when its turn has come.
    pub(crate) fn negotiate(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get(&id) else { return };
        let named = tunnel.named.as_ref().and_then(|named| named.in_use);
        let configured = self.config.connection(&tunnel.connection).and_then(|c| c.tunnel(&tunnel.name));
        let with = named.or(configured.and_then(|tunnel| tunnel.remote_address.address()));
        let now = Instant::now();
        if with.is_none_or(|with| self.pace.begin(now, id, with)) {
            self.begin(now, id);
        }
    }

    fn begin(&mut self, now: Instant, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.began.get_or_insert(now);
        }
        if let Err(error) = self.ike.handle_command(now, Command::Initiate(id)) {
            let cause = error.to_string();
            self.gateway.handle(now, Input::Lost(id, Loss::Failed, cause));
            self.negotiated(id);
        }
    }

    /// A tunnel's negotiation has ended: another one may begin.
    pub(crate) fn negotiated(&mut self, id: TunnelId) {
        let gateway = &self.gateway;
        // It may have been taken down, or removed, while it waited, or the peer began.
        let wanted = |id| gateway.state(id).is_some_and(|state| state.state == State::Connecting);
        if let Some(next) = self.pace.end(id, wanted) {
            self.negotiate(next);
        }
    }

    /// Negotiations with a silent peer hold up others no longer.
    pub(crate) fn lose_patience(&mut self, now: Instant) {
        while let Some(id) = self.pace.overdue(now) {
            self.negotiated(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_begin_at_once_with_a_peer_and_the_next_when_one_has_ended() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let most = AT_ONCE as u32;
        for id in 0..most + 3 {
            assert_eq!(pace.begin(start, TunnelId(id), one), id < most);
        }
        assert!(pace.begin(start, TunnelId(100), other), "another peer has a count of its own");
        assert!(pace.begin(start, TunnelId(0), one), "it is under way already");
        // The first that waits was taken down meanwhile.
        let wanted = |id: TunnelId| id != TunnelId(most);
        assert_eq!(pace.end(TunnelId(3), wanted), Some(TunnelId(most + 1)));
        assert_eq!(pace.end(TunnelId(3), wanted), None, "it ended once");
        assert!(pace.begin(start, TunnelId(most + 1), one));
        assert!(!pace.begin(start, TunnelId(most + 1 + 7), one));
    }

    #[test]
    fn a_silent_peer_holds_up_nobody_for_long() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let peer = IpAddr::from([192, 0, 2, 1]);
        for id in 0..=AT_ONCE as u32 {
            pace.begin(start, TunnelId(id), peer);
        }
        assert_eq!(pace.overdue(start + PATIENCE / 2), None);
        assert_eq!(pace.overdue(start + PATIENCE), Some(TunnelId(0)));
        assert_eq!(pace.end(TunnelId(0), |_| true), Some(TunnelId(AT_ONCE as u32)));
        for id in 1..AT_ONCE as u32 {
            assert_eq!(pace.end(TunnelId(id), |_| true), None);
        }
        assert_eq!(pace.overdue(start + PATIENCE), None);
        assert!(pace.peers.is_empty() && pace.begun.is_empty());
    }
}
