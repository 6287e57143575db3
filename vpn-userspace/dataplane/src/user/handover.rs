//! Packets that one worker took and another must work on: in batches, over a bounded queue for each pair of workers.
//!
//! Neither side locks or waits, and buffers go back and forth, so that packets allocate nothing once a pair has handed
//! over what it ever has under way. Where the other side is behind, batches become larger, and when they are full packets
//! are dropped and counted. What one worker hands to another stays in order.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use culvert_sys::event::Waker;

/// Batches under way between two workers: 1.8 MB at most.
const DEPTH: usize = 16;
/// So many under way, and one that is not full waits for more packets.
const BEHIND: usize = 4;
/// Bytes from which on a batch is full; one more packet may have come to it before.
const FULL: usize = 48 << 10;
/// Packets from which on a batch is full.
const MANY: usize = 512;

/// Packets in one buffer, each with what must be known of it.
pub(crate) struct Batch<M> {
    pub(crate) buf: Vec<u8>,
    pub(crate) packets: Vec<(M, Range<usize>)>,
}

impl<M> Batch<M> {
    fn is_full(&self) -> bool {
        self.buf.len() >= FULL || self.packets.len() >= MANY
    }
}

/// The end of the worker that took them.
pub(crate) struct HandOver<M> {
    to: SyncSender<Batch<M>>,
    used: Receiver<Batch<M>>,
    waker: Arc<Waker>,
    open: Option<Batch<M>>,
    /// Buffers that have come back. There are never more than places.
    free: Vec<Batch<M>>,
    made: usize,
    held: Arc<AtomicBool>,
}

/// The end of the worker that works on them.
pub(crate) struct HandedOver<M> {
    from: Receiver<Batch<M>>,
    back: SyncSender<Batch<M>>,
    waker: Arc<Waker>,
    /// A batch waits on the other side to be asked for.
    held: Arc<AtomicBool>,
}

/// The queue to the worker that `to` wakes, from the one that `from` does.
pub(crate) fn pair<M>(to: Arc<Waker>, from: Arc<Waker>) -> (HandOver<M>, HandedOver<M>) {
    let (sender, receiver) = sync_channel(DEPTH);
    let (back, used) = sync_channel(DEPTH);
    let held = Arc::new(AtomicBool::new(false));
    let free = Vec::with_capacity(DEPTH);
    let over = HandOver { to: sender, used, waker: to, open: None, free, made: 0, held: held.clone() };
    (over, HandedOver { from: receiver, back, waker: from, held })
}

impl<M> HandOver<M> {
    /// Hands a packet over with the next [`flush`](Self::flush) or before. `false`: the other side is behind, and the
    /// packet is to be dropped.
    pub(crate) fn push(&mut self, about: M, bytes: &[u8]) -> bool {
        if self.open.as_ref().is_some_and(|batch| batch.is_full()) {
            self.send();
        }
        if self.open.is_none() {
            self.collect();
            self.open = self.free.pop().or_else(|| {
                (self.made < DEPTH).then(|| {
                    self.made += 1;
                    let buf = Vec::with_capacity(FULL + usize::from(u16::MAX));
                    Batch { buf, packets: Vec::with_capacity(MANY) }
                })
            });
        }
        let Some(batch) = &mut self.open else { return false };
        let start = batch.buf.len();
        batch.buf.extend_from_slice(bytes);
        batch.packets.push((about, start..batch.buf.len()));
        true
    }

    /// Sends what was pushed, unless the other side is behind: then it asks for the rest by waking this one.
    pub(crate) fn flush(&mut self) {
        let Some(batch) = &self.open else { return };
        if !batch.is_full() && self.under_way() >= BEHIND {
            self.held.store(true, Ordering::SeqCst);
            // It may have done all in the meantime, and asks no more.
            if self.under_way() >= BEHIND {
                return;
            }
        }
        self.send();
    }

    fn send(&mut self) {
        // There are no more batches than places; a worker that is gone has said so.
        if let Some(batch) = self.open.take()
            && self.to.try_send(batch).is_ok()
        {
            self.waker.wake();
        }
    }

    fn collect(&mut self) {
        self.free.extend(self.used.try_iter());
    }

    fn under_way(&mut self) -> usize {
        self.collect();
        self.made - self.free.len() - usize::from(self.open.is_some())
    }
}

impl<M> HandedOver<M> {
    /// The next batch.
    pub(crate) fn take(&self) -> Option<Batch<M>> {
        self.from.try_recv().ok()
    }

    /// Gives the buffer back, and asks for what waits.
    pub(crate) fn done(&self, mut batch: Batch<M>) {
        batch.buf.clear();
        batch.packets.clear();
        let _ = self.back.try_send(batch);
        if self.held.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_order_and_what_is_too_much_is_refused() {
        let waker = || Arc::new(Waker::new().unwrap());
        let (mut one, other) = pair::<usize>(waker(), waker());
        let mut taken = 0;
        while one.push(taken, &vec![taken as u8; 1000]) {
            taken += 1;
        }
        assert!(taken > DEPTH * FULL / 1100 && taken <= DEPTH * (FULL / 1000 + 1), "{taken}");
        let mut next = 0;
        for round in 0..3 {
            // Those that wait are asked for.
            loop {
                let mut some = false;
                while let Some(batch) = other.take() {
                    for (about, range) in &batch.packets {
                        assert_eq!((*about, &batch.buf[range.clone()]), (next, &[next as u8; 1000][..]));
                        next += 1;
                    }
                    other.done(batch);
                    some = true;
                }
                one.flush();
                if !some {
                    break;
                }
            }
            assert_eq!(next, taken, "round {round}");
            // One at a time: they wait for each other once the other side is behind.
            for _ in 0..300 {
                assert!(one.push(taken, &[taken as u8; 1000]));
                one.flush();
                taken += 1;
            }
            assert_eq!(one.under_way(), BEHIND + (300 - BEHIND) / 50);
        }
        assert_eq!(one.made, DEPTH);
    }
}
