//! What the workers of both directions share of a tunnel: its device, its MTU, its drops.

use culvert_sys::lock::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use culvert_sys::tun::Tun;
use culvert_sys::xsk::device_index;
use culvert_types::TunnelId;

use super::counters::Counters;
use super::port::xsk::Devices;

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
    /// Its queues, at least one; each is read by one worker.
    queues: Vec<Queue>,
    /// The outbound worker that has an SA for all packets: who takes those of queues whose worker has none.
    owner: AtomicUsize,
    /// Index of its interface.
    pub(crate) index: u32,
    /// The LAN's devices, if its LAN port is `xsk`.
    pub(crate) frames: Option<Arc<Devices>>,
    /// The interface's MTU; the packet path reads it.
    mtu: AtomicU32,
    /// What the path carries without fragments outside: less than the MTU where that may not fall further.
    carried: AtomicU32,
    state: Mutex<Mtu>,
    minimum: u32,
}

#[derive(Debug)]
struct Queue {
    tun: Tun,
    /// Packets of this queue that met no SA.
    counters: Counters,
}

#[derive(Debug)]
struct Mtu {
    /// From the configuration, or of the route to the peer.
    base: u32,
    learned: Option<(u32, Instant)>,
}

impl TunnelShared {
    /// Toward `frames`, where it is not by the device alone. With `ipv6` the MTU never falls below what IPv6 needs.
    pub(crate) fn new(
        id: TunnelId,
        tuns: Vec<Tun>,
        frames: Option<Arc<Devices>>,
        mtu: u32,
        ipv6: bool,
    ) -> Self {
        let minimum = if ipv6 { MIN_V6 } else { MIN_V4 };
        let state = Mutex::new(Mtu { base: mtu, learned: None });
        let index = tuns.first().and_then(|tun| device_index(&tun.name())).unwrap_or(0);
        let (carried, mtu) = (AtomicU32::new(mtu.max(MIN_V4)), AtomicU32::new(mtu.max(minimum)));
        let queues = tuns.into_iter().map(|tun| Queue { tun, counters: Counters::default() }).collect();
        Self { id, index, frames, queues, owner: AtomicUsize::new(usize::MAX), mtu, carried, state, minimum }
    }

    /// The device, by its first queue.
    pub(crate) fn tun(&self) -> &Tun {
        self.queue(0)
    }

    /// The queue of that worker. Workers share them if there are fewer.
    #[inline]
    pub(crate) fn queue(&self, worker: usize) -> &Tun {
        &self.queues[worker % self.queues.len()].tun
    }

    /// What of the queue's packets met no SA. The worker that reads the queue counts.
    pub(crate) fn counters(&self, queue: usize) -> &Counters {
        &self.queues[queue % self.queues.len()].counters
    }

    /// What met no SA, by reason.
    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        let mut all = Vec::new();
        self.queues.iter().for_each(|queue| queue.counters.out.drops.collect(&mut all));
        all
    }

    /// How many queues there are.
    pub(crate) fn width(&self) -> usize {
        self.queues.len()
    }

    /// The outbound worker that takes what other workers have no SA for.
    pub(crate) fn owner(&self) -> Option<usize> {
        Some(self.owner.load(Ordering::Relaxed)).filter(|worker| *worker != usize::MAX)
    }

    /// That worker has an SA for all packets, or has none any more.
    pub(crate) fn set_owner(&self, worker: usize, has: bool) {
        if has {
            self.owner.store(worker, Ordering::Relaxed);
        } else {
            let (relaxed, none) = (Ordering::Relaxed, usize::MAX);
            // Another one may have one meanwhile.
            let _ = self.owner.compare_exchange(worker, none, relaxed, relaxed);
        }
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
        let _ = self.tun().set_mtu(mtu);
        Some(mtu)
    }

    fn state(&self) -> MutexGuard<'_, Mtu> {
        self.state.lock()
    }
}
