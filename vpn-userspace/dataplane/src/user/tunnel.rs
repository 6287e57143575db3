//! What the workers of both directions share of a tunnel: its device, its MTU, its drops.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use culvert_sys::tun::Tun;
use culvert_types::TunnelId;

use super::counters::Counters;

/// A learned path MTU is forgotten after this long (RFC 1981 4: not before 5 minutes; Linux: 10).
pub(crate) const PATH_MTU_LIFETIME: Duration = Duration::from_secs(600);
/// No path is believed to carry less than this inner packet, whatever an ICMP message says: IPv4's
/// minimum (RFC 791).
const MIN_V4: u32 = 576;
/// Linux takes IPv6 away from an interface with less (RFC 8200 5).
const MIN_V6: u32 = 1280;

/// One tunnel of the user engine.
#[derive(Debug)]
pub(crate) struct TunnelShared {
    pub(crate) id: TunnelId,
    pub(crate) tun: Tun,
    /// Packets that met no SA.
    pub(crate) counters: Counters,
    /// The interface's MTU; the packet path reads it.
    mtu: AtomicU32,
    /// What the path carries without fragments outside: less than the MTU where that may not fall further.
    carried: AtomicU32,
    state: Mutex<Mtu>,
    minimum: u32,
}

#[derive(Debug)]
struct Mtu {
    /// From the configuration, or of the route to the peer.
    base: u32,
    learned: Option<(u32, Instant)>,
}

impl TunnelShared {
    /// With `ipv6` the MTU never falls below what IPv6 needs.
    pub(crate) fn new(id: TunnelId, tun: Tun, mtu: u32, ipv6: bool) -> Self {
        let minimum = if ipv6 { MIN_V6 } else { MIN_V4 };
        let state = Mutex::new(Mtu { base: mtu, learned: None });
        let (carried, mtu) = (AtomicU32::new(mtu.max(MIN_V4)), AtomicU32::new(mtu.max(minimum)));
        Self { id, tun, counters: Counters::default(), mtu, carried, state, minimum }
    }

    /// Bytes of the largest inner packet.
    #[inline]
    pub(crate) fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed) as usize
    }

    /// Bytes of the largest inner packet that goes in one piece. Larger ones up to the MTU, of which IPv6 needs 1280
    /// bytes whatever the path (RFC 8200 5), go without DF outside.
    #[inline]
    pub(crate) fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed) as usize
    }

    /// Sets what the route to the peer allows. The new MTU, if it changed.
    pub(crate) fn set_base(&self, mtu: u32) -> Option<u32> {
        let mut state = self.state();
        state.base = mtu;
        self.apply(&state)
    }

    /// Learns that the path carries inner packets of this many bytes only. The new MTU, if it changed.
    pub(crate) fn learn(&self, mtu: u32, now: Instant) -> Option<u32> {
        let mut state = self.state();
        let lowest = state.learned.map_or(mtu, |(old, _)| old.min(mtu));
        // One that says more than is in use is not heard.
        if lowest >= state.base {
            return None;
        }
        state.learned = Some((lowest, now + PATH_MTU_LIFETIME));
        self.apply(&state)
    }

    /// Forgets what was learned too long ago. The new MTU, if it changed.
    pub(crate) fn expire(&self, now: Instant) -> Option<u32> {
        let mut state = self.state();
        if state.learned.is_some_and(|(_, until)| until <= now) {
            state.learned = None;
        }
        self.apply(&state)
    }

    fn apply(&self, state: &Mtu) -> Option<u32> {
        let carried = state.learned.map_or(state.base, |(m, _)| m.min(state.base));
        self.carried.store(carried.max(MIN_V4), Ordering::Relaxed);
        let mtu = carried.max(self.minimum);
        if self.mtu.swap(mtu, Ordering::Relaxed) == mtu {
            return None;
        }
        // An interface that was removed under us is reported by its reader.
        let _ = self.tun.set_mtu(mtu);
        Some(mtu)
    }

    fn state(&self) -> MutexGuard<'_, Mtu> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
