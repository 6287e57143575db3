//! Samples of dropped packets, for who looks: workers put a few of each reason and second into a bounded queue.
//!
//! While nobody looks a dropped packet costs one load more, and in a flood one comparison. Seconds are told apart by a number
//! that the owner gives, so that no clock is read for packets that are not shown.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

use culvert_esp::packet::Packet;
use culvert_sys::lock::Mutex;
use culvert_types::{Spi, TunnelId};

use crate::Engine;
use crate::user::counters::{Drops, Reason};

/// Samples of one reason in one second, from each worker.
const PER_SECOND: u8 = 10;
/// Samples that wait for who looks.
const QUEUE: usize = 512;

/// A packet that an engine dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropSample {
    /// When.
    pub at: SystemTime,
    /// Which engine.
    pub engine: Engine,
    /// Why.
    pub reason: &'static str,
    /// How many packets: segments of a super-packet, or what one call of the kernel refused.
    pub packets: u64,
    /// What is known of it.
    pub seen: Seen,
}

/// What is known of a dropped packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whose it was.
    pub tunnel: Option<TunnelId>,
    /// It was on its way to the peer.
    pub outward: bool,
    /// Its bytes where it was dropped: ESP without outer headers, or the inner packet. 0: not known.
    pub length: usize,
    /// The SPI that it came with.
    pub spi: Option<u32>,
    /// Its sequence number: the low 32 bits as it came with them, or all once it was authentic.
    pub sequence: Option<u64>,
    /// Who sent the outer packet; port 0 without UDP.
    pub from: Option<SocketAddr>,
    /// To where; an unspecified address where that is not known any more.
    pub to: Option<SocketAddr>,
    /// Source, destination and protocol of the inner packet, if it is ours or was authentic.
    pub inner: Option<(IpAddr, IpAddr, u8)>,
}

impl Seen {
    /// An ESP packet from the WAN that has not been opened.
    pub(crate) fn esp(packet: &[u8], from: SocketAddr, to: SocketAddr) -> Self {
        let word = |at: usize| packet.get(at..).and_then(|p| p.first_chunk()).map(|b| u32::from_be_bytes(*b));
        // A marker stands where an SPI would: what follows is IKE's (RFC 3948 2.2).
        let spi = word(0).filter(|spi| *spi != 0);
        let sequence = spi.and_then(|_| word(4)).map(u64::from);
        Self { length: packet.len(), spi, sequence, from: Some(from), to: Some(to), ..Self::default() }
    }

    /// The same packet, which was authentic, with what was in it.
    pub(crate) fn opened(self, sequence: u64, inner: &[u8]) -> Self {
        Self { sequence: Some(sequence), inner: ends(inner), ..self }
    }

    /// An inner packet on its way to the peer.
    pub(crate) fn outward(tunnel: TunnelId, packet: &[u8]) -> Self {
        let inner = ends(packet);
        Self { tunnel: Some(tunnel), outward: true, length: packet.len(), inner, ..Self::default() }
    }

    /// A packet of a tunnel of which nothing else is at hand.
    pub(crate) fn of(tunnel: TunnelId, outward: bool) -> Self {
        Self { tunnel: Some(tunnel), outward, ..Self::default() }
    }

    /// With this SPI of an SA that was to carry it.
    pub(crate) fn with_spi(self, spi: Spi) -> Self {
        Self { spi: Some(spi.value()), ..self }
    }
}

fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8)> {
    let packet = Packet::parse(packet).ok()?;
    Some((packet.source(), packet.destination(), packet.protocol()))
}

/// Where samples come together.
pub(crate) struct Samples {
    epoch: Arc<AtomicU32>,
    sender: SyncSender<DropSample>,
    receiver: Mutex<Receiver<DropSample>>,
}

impl Samples {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = sync_channel(QUEUE);
        Self { epoch: Arc::default(), sender, receiver: Mutex::new(receiver) }
    }

    /// For one worker.
    pub(crate) fn tap(&self) -> Tap {
        Tap { epoch: self.epoch.clone(), queue: self.sender.clone(), second: 0, shown: [0; Reason::COUNT] }
    }

    /// It is this second; 0: nobody looks.
    pub(crate) fn look(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// The next one.
    pub(crate) fn take(&self) -> Option<DropSample> {
        self.receiver.lock().try_recv().ok()
    }
}

/// A worker's end.
#[derive(Clone)]
pub(crate) struct Tap {
    epoch: Arc<AtomicU32>,
    queue: SyncSender<DropSample>,
    /// Whose samples are counted.
    second: u32,
    shown: [u8; Reason::COUNT],
}

impl Tap {
    /// Counts dropped packets; shows them, as `seen` describes them, if somebody looks and has not seen enough of their kind.
    #[inline]
    pub(crate) fn dropped(
        &mut self,
        drops: &Drops,
        reason: Reason,
        packets: u64,
        seen: impl FnOnce() -> Seen,
    ) {
        drops.add(reason, packets);
        let epoch = self.epoch.load(Ordering::Relaxed);
        if epoch != 0 && self.admits(epoch, reason) {
            let (at, reason) = (SystemTime::now(), reason.name());
            // What finds no room is counted all the same.
            let _ =
                self.queue.try_send(DropSample { at, engine: Engine::User, reason, packets, seen: seen() });
        }
    }

    fn admits(&mut self, epoch: u32, reason: Reason) -> bool {
        if self.second != epoch {
            (self.second, self.shown) = (epoch, [0; Reason::COUNT]);
        }
        let Some(shown) = self.shown.get_mut(reason as usize).filter(|shown| **shown < PER_SECOND) else {
            return false;
        };
        *shown += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(samples: &Samples) -> Vec<DropSample> {
        std::iter::from_fn(|| samples.take()).collect()
    }

    #[test]
    fn a_few_of_each_reason_and_second_while_somebody_looks() {
        let (samples, drops) = (Samples::new(), Drops::default());
        let mut tap = samples.tap();
        let mut flood = |reason, n: u32| {
            let mut described = 0;
            (0..n).for_each(|_| {
                tap.dropped(&drops, reason, 2, || {
                    described += 1;
                    Seen::default()
                });
            });
            described
        };
        assert_eq!((flood(Reason::UnknownSpi, 50), collect(&samples).len()), (0, 0), "nobody looks");
        samples.look(1);
        let few = usize::from(PER_SECOND);
        assert_eq!((flood(Reason::UnknownSpi, 5000), collect(&samples).len()), (few, few));
        // The flood hides no other reason, and the next second has its own.
        assert_eq!((flood(Reason::Duplicate, 3), collect(&samples).len()), (3, 3));
        samples.look(2);
        assert_eq!((flood(Reason::UnknownSpi, 5000), collect(&samples).len()), (few, few));
        samples.look(0);
        assert_eq!((flood(Reason::Selector, 1), collect(&samples).len()), (0, 0));
        let mut counted = Vec::new();
        drops.collect(&mut counted);
        assert!(counted.contains(&("unknown-spi", 2 * (50 + 5000 + 5000))), "{counted:?}");
    }

    #[test]
    fn who_does_not_fetch_costs_no_memory() {
        let (samples, drops) = (Samples::new(), Drops::default());
        let mut taps: Vec<Tap> = (0..100).map(|_| samples.tap()).collect();
        samples.look(1);
        for tap in &mut taps {
            (0..20).for_each(|_| tap.dropped(&drops, Reason::Runt, 1, Seen::default));
        }
        assert_eq!(collect(&samples).len(), QUEUE);
    }

    #[test]
    fn what_is_known_grows_with_what_was_proved() {
        let (from, to) = ("192.0.2.1:4500".parse().unwrap(), "192.0.2.2:4500".parse().unwrap());
        let seen = Seen::esp(&[0xc0, 0xff, 0xee, 2, 0, 0, 0, 9, 1, 2], from, to);
        assert_eq!(
            (seen.spi, seen.sequence, seen.length, seen.inner),
            (Some(0xc0ff_ee02), Some(9), 10, None)
        );
        let ike = Seen::esp(&[0, 0, 0, 0, 0, 0, 0, 9], from, to);
        assert_eq!((ike.spi, ike.sequence), (None, None));
        assert_eq!(Seen::esp(&[0xff], from, to).length, 1);
        let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 50, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2];
        let inner = Some(("10.1.0.2".parse().unwrap(), "10.2.0.2".parse().unwrap(), 50));
        let opened = seen.opened(1 << 40, &packet);
        assert_eq!((opened.sequence, opened.inner, opened.length), (Some(1 << 40), inner, 10));
        assert_eq!(Seen::outward(TunnelId(3), &packet).inner, inner);
        packet.truncate(19);
        assert_eq!(Seen::outward(TunnelId(3), &packet).inner, None);
    }
}
