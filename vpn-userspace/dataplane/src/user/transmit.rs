//! The send buffer of a worker: sealed packets side by side, sent as trains of equal ones.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use culvert_sys::batch::{MAX_SEGMENTS, MAX_TRAIN, SendBatch, Train};
use culvert_sys::errno;
use culvert_sys::event::wait_writable;
use culvert_sys::wan::WanSocket;

use super::counters::{Drops, Reason};

/// Bytes of the buffer.
const CAPACITY: usize = 320 << 10;
/// From here on it is sent: four super-packets and some.
const FULL: usize = 192 << 10;
/// How often a full socket is waited for, and how long each time, before the train is dropped.
const WAITS: u32 = 20;
const WAIT: Duration = Duration::from_millis(5);

/// Sealed packets on their way to one socket.
pub(crate) struct SendQueue {
    buf: Vec<u8>,
    used: usize,
    trains: Vec<Train>,
    /// Nothing can be added to the last train.
    closed: bool,
    batch: SendBatch,
}

impl SendQueue {
    pub(crate) fn new() -> Self {
        Self {
            buf: vec![0; CAPACITY],
            used: 0,
            trains: Vec::with_capacity(1024),
            closed: true,
            batch: SendBatch::default(),
        }
    }

    /// Whether it should be flushed before more is added.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.used >= FULL || self.trains.len() >= 256
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// Room for one packet of at most 64 KB and its trailer. Flush whenever it [`is_full`](Self::is_full).
    #[inline]
    pub(crate) fn slot(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.used..).unwrap_or_default()
    }

    /// Takes the first `len` bytes of the slot as one datagram.
    #[inline]
    pub(crate) fn commit(&mut self, len: usize, tos: u8, to: SocketAddr, segmentation: bool) {
        let bytes = self.used..self.used + len;
        self.used += len;
        if segmentation
            && !self.closed
            && let Some(train) = self.trains.last_mut()
            && train.tos == tos
            && len <= train.segment
            && train.bytes.len() + len <= MAX_TRAIN
            && train.bytes.len() < train.segment * MAX_SEGMENTS
            && train.to == to
        {
            train.bytes.end = bytes.end;
            // Only the last datagram of a train may be shorter.
            self.closed = len < train.segment;
            return;
        }
        self.trains.push(Train { bytes, segment: len, tos, to });
        self.closed = false;
    }

    /// Sends everything. What cannot be sent is dropped and counted by reason.
    pub(crate) fn flush(&mut self, socket: &WanSocket, drops: &Drops) {
        let mut next = 0;
        let mut waits = 0;
        // A pending error of the socket concerns an earlier packet: what met it is tried once more.
        let mut retried = false;
        while next < self.trains.len() {
            let error = match self.batch.send(socket, &self.buf, &self.trains[next..]) {
                Ok(sent) => {
                    next += sent.max(1);
                    (waits, retried) = (0, false);
                    continue;
                }
                Err(error) => error,
            };
            let number = error.raw_os_error().unwrap_or(0);
            let train = &self.trains[next];
            match number {
                errno::EINTR => continue,
                errno::EAGAIN if waits < WAITS => {
                    waits += 1;
                    let _ = wait_writable(socket, WAIT);
                    continue;
                }
                errno::EIO | errno::EINVAL | errno::EMSGSIZE if train.datagrams() > 1 => {
                    // EIO: the device has no checksum offload, which trains need. The others: one
                    // datagram is larger than the MTU; sent alone it gets an answer that says so.
                    if number == errno::EIO {
                        socket.give_up_segmentation();
                    }
                    self.take_apart(next);
                    continue;
                }
                _ if !retried && !is_final(number) => {
                    retried = true;
                    continue;
                }
                _ => {}
            }
            drops.add(reason_of(&error), train.datagrams() as u64);
            next += 1;
            (waits, retried) = (0, false);
        }
        self.trains.clear();
        self.used = 0;
        self.closed = true;
    }

    /// Makes single datagrams of a train.
    fn take_apart(&mut self, index: usize) {
        let train = self.trains[index].clone();
        let singles = train.bytes.clone().step_by(train.segment.max(1)).map(|start| {
            let end = (start + train.segment).min(train.bytes.end);
            Train { bytes: start..end, segment: end - start, tos: train.tos, to: train.to }
        });
        self.trains.splice(index..=index, singles);
    }
}

/// Whether the error is about this very datagram.
fn is_final(number: i32) -> bool {
    matches!(number, errno::ENOBUFS | errno::EPERM | errno::EAGAIN | errno::EINVAL)
}

fn reason_of(error: &io::Error) -> Reason {
    match error.raw_os_error().unwrap_or(0) {
        errno::EAGAIN => Reason::WanBusy,
        errno::ENOBUFS => Reason::WanQueueFull,
        errno::EMSGSIZE => Reason::WanTooBig,
        errno::ENETUNREACH
        | errno::EHOSTUNREACH
        | errno::ENETDOWN
        | errno::EADDRNOTAVAIL
        | errno::ECONNREFUSED => Reason::WanUnreachable,
        errno::EPERM | errno::EACCES => Reason::WanFirewall,
        _ => Reason::WanError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_sys::batch::ReceiveBatch;
    use culvert_sys::event::Poller;
    use culvert_sys::wan::WanOptions;

    fn socket() -> WanSocket {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        WanSocket::udp(free, &WanOptions::default()).unwrap()
    }

    fn commit(queue: &mut SendQueue, byte: u8, len: usize, tos: u8, to: SocketAddr) {
        queue.slot()[..len].fill(byte);
        queue.commit(len, tos, to, true);
    }

    fn lengths(queue: &SendQueue) -> Vec<(usize, usize)> {
        queue.trains.iter().map(|t| (t.datagrams(), t.bytes.len())).collect()
    }

    #[test]
    fn trains_end_with_a_shorter_packet_another_tos_or_their_limit() {
        let to = "127.0.0.1:9".parse().unwrap();
        let mut queue = SendQueue::new();
        for (byte, len, tos) in [(1, 100, 0), (2, 100, 0), (3, 60, 0), (4, 60, 0), (5, 60, 1), (6, 80, 1)] {
            commit(&mut queue, byte, len, tos, to);
        }
        assert_eq!(lengths(&queue), [(3, 260), (1, 60), (1, 60), (1, 80)]);
        let mut queue = SendQueue::new();
        (0..65).for_each(|i| commit(&mut queue, i, 10, 0, to));
        assert_eq!(lengths(&queue), [(64, 640), (1, 10)]);
        let mut queue = SendQueue::new();
        (0..3).for_each(|i| commit(&mut queue, i, 30_000, 0, to));
        assert_eq!(lengths(&queue), [(2, 60_000), (1, 30_000)]);
        let mut queue = SendQueue::new();
        (0..2).for_each(|_| queue.commit(10, 0, to, false));
        assert_eq!(lengths(&queue), [(1, 10), (1, 10)]);
    }

    #[test]
    fn what_is_queued_arrives_in_order_and_what_cannot_go_is_counted() {
        let (a, b) = (socket(), socket());
        let (mut queue, drops) = (SendQueue::new(), Drops::default());
        for i in 0..200u8 {
            commit(&mut queue, i, 200 - usize::from(i % 7), 0, b.local());
        }
        // Broadcast without permission: EACCES, in the midst of the others.
        commit(&mut queue, 0, 20, 0, "255.255.255.255:9".parse().unwrap());
        commit(&mut queue, 200, 20, 0, b.local());
        queue.flush(&a, &drops);
        assert!(queue.is_empty());
        let mut counted = Vec::new();
        drops.collect(&mut counted);
        assert_eq!(counted, [("wan-firewall", 1)]);

        let (mut batch, mut poller, mut got) = (ReceiveBatch::new(8), Poller::new().unwrap(), Vec::new());
        poller.add(&b, 0).unwrap();
        while got.len() < 201 && poller.wait(Some(Duration::from_secs(5))).unwrap().count() > 0 {
            batch.receive(&b).unwrap();
            let (buf, datagrams) = batch.parts();
            for d in datagrams {
                got.extend(buf[d.start..d.start + d.len].chunks(d.segment).map(|p| p[0]));
            }
        }
        assert_eq!(got, (0..=200).collect::<Vec<u8>>());
    }

    #[test]
    fn a_train_taken_apart_keeps_its_packets() {
        let to = "127.0.0.1:9".parse().unwrap();
        let mut queue = SendQueue::new();
        for len in [50, 50, 20] {
            commit(&mut queue, 0, len, 3, to);
        }
        queue.take_apart(0);
        let parts: Vec<_> = queue.trains.iter().map(|t| (t.bytes.clone(), t.segment, t.tos)).collect();
        assert_eq!(parts, [(0..50, 50, 3), (50..100, 50, 3), (100..120, 20, 3)]);
    }
}
