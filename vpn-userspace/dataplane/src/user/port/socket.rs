//! The WAN ports `udp` and `raw`: sealed packets side by side in a buffer, sent as trains of equal ones, and batches
//! of what a socket has received.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use culvert_sys::batch::{Datagram, MAX_SEGMENTS, MAX_TRAIN, ReceiveBatch, SendBatch, Train};
use culvert_sys::errno;
use culvert_sys::event::wait_writable;
use culvert_sys::wan::{PathError, WanKind, WanSocket};

use super::{Route, WanReceive, WanTransmit};
use crate::user::counters::Reason;

/// Bytes of the buffer.
const CAPACITY: usize = 320 << 10;
/// From here on it is sent: four super-packets and some.
const FULL: usize = 192 << 10;
/// Trains from which on it is sent.
const MANY: usize = 256;
/// How often a full socket is waited for, and how long each time, before the train is dropped.
const WAITS: u32 = 20;
const WAIT: Duration = Duration::from_millis(5);
/// Slots of a batch: of super-packets that the kernel joined, and of raw packets, which it does not join.
const UDP_SLOTS: usize = 16;
const RAW_SLOTS: usize = 64;

/// Sealed packets on their way to one socket.
pub(crate) struct SocketTransmit {
    socket: Arc<WanSocket>,
    buf: Vec<u8>,
    used: usize,
    trains: Vec<Train>,
    /// Whose packets they are, train by train.
    owners: Vec<u32>,
    /// Nothing can be added to the last train.
    closed: bool,
    segmentation: bool,
    batch: SendBatch,
}

impl SocketTransmit {
    pub(crate) fn new(socket: Arc<WanSocket>) -> Self {
        Self {
            buf: vec![0; CAPACITY],
            used: 0,
            // More than are ever full: a train that is taken apart becomes many.
            trains: Vec::with_capacity(MANY + 4 * MAX_SEGMENTS),
            owners: Vec::with_capacity(MANY + 4 * MAX_SEGMENTS),
            closed: true,
            segmentation: socket.segmentation(),
            batch: SendBatch::default(),
            socket,
        }
    }

    pub(crate) fn is_of(&self, socket: &Arc<WanSocket>) -> bool {
        Arc::ptr_eq(&self.socket, socket)
    }

    /// Makes single datagrams of a train.
    fn take_apart(&mut self, index: usize) {
        let (train, owner) = (self.trains[index].clone(), self.owners[index]);
        let count = train.datagrams();
        let singles = train.bytes.clone().step_by(train.segment.max(1)).map(|start| {
            let end = (start + train.segment).min(train.bytes.end);
            Train { bytes: start..end, segment: end - start, ..train.clone() }
        });
        self.trains.splice(index..=index, singles);
        self.owners.splice(index..=index, std::iter::repeat_n(owner, count));
    }
}

impl WanTransmit for SocketTransmit {
    #[inline]
    fn is_full(&self) -> bool {
        self.used >= FULL || self.trains.len() >= MANY
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    #[inline]
    fn slot(&mut self, need: usize) -> Option<&mut [u8]> {
        self.buf.get_mut(self.used..).filter(|room| room.len() >= need)
    }

    #[inline]
    fn commit(&mut self, len: usize, tos: u8, route: &Route, owner: u32) {
        let bytes = self.used..self.used + len;
        self.used += len;
        if self.segmentation
            && !self.closed
            && let (Some(train), Some(of)) = (self.trains.last_mut(), self.owners.last())
            && train.tos == tos
            && len <= train.segment
            && train.bytes.len() + len <= MAX_TRAIN
            && train.bytes.len() < train.segment * MAX_SEGMENTS
            && *of == owner
            && train.to == route.remote
            && !route.may_fragment
        {
            train.bytes.end = bytes.end;
            // Only the last datagram of a train may be shorter.
            self.closed = len < train.segment;
            return;
        }
        self.trains.push(Train {
            bytes,
            segment: len,
            tos,
            to: route.remote,
            may_fragment: route.may_fragment,
        });
        self.owners.push(owner);
        // The kernel cuts no trains into fragments.
        self.closed = route.may_fragment;
    }

    fn flush(&mut self, lost: &mut dyn FnMut(u32, Reason, u64)) {
        let mut next = 0;
        let mut waits = 0;
        // A pending error of the socket concerns an earlier packet: what met it is tried once more.
        let mut retried = false;
        while next < self.trains.len() {
            let error = match self.batch.send(&self.socket, &self.buf, &self.trains[next..]) {
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
                    let _ = wait_writable(&*self.socket, WAIT);
                    continue;
                }
                errno::EIO | errno::EINVAL | errno::EMSGSIZE if train.datagrams() > 1 => {
                    // EIO: the device has no checksum offload, which trains need. The others: one
                    // datagram is larger than the MTU; sent alone it gets an answer that says so.
                    if number == errno::EIO {
                        self.socket.give_up_segmentation();
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
            lost(self.owners[next], reason_of(&error), train.datagrams() as u64);
            next += 1;
            (waits, retried) = (0, false);
        }
        self.trains.clear();
        self.owners.clear();
        self.used = 0;
        self.closed = true;
        self.segmentation = self.socket.segmentation();
    }
}

/// Batches from one socket.
pub(crate) struct SocketReceive {
    socket: Arc<WanSocket>,
    batch: ReceiveBatch,
    slots: usize,
}

impl SocketReceive {
    pub(crate) fn new(socket: Arc<WanSocket>) -> Self {
        let slots = if socket.kind() == WanKind::Udp { UDP_SLOTS } else { RAW_SLOTS };
        Self { socket, batch: ReceiveBatch::new(slots), slots }
    }
}

impl WanReceive for SocketReceive {
    type Memory = [u8];

    fn kind(&self) -> WanKind {
        self.socket.kind()
    }

    fn local(&self) -> SocketAddr {
        self.socket.local()
    }

    fn receive(&mut self) -> io::Result<bool> {
        Ok(self.batch.receive(&self.socket)? == self.slots)
    }

    fn parts(&mut self) -> (&mut [u8], &[Datagram]) {
        self.batch.parts()
    }

    fn release(&mut self) {}

    fn path_errors(&self) -> Vec<PathError> {
        self.socket.path_errors()
    }
}

impl AsFd for SocketReceive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
    use culvert_sys::event::Poller;
    use culvert_sys::wan::WanOptions;

    fn socket() -> WanSocket {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        WanSocket::udp(free, &WanOptions::default()).unwrap()
    }

    fn commit(queue: &mut SocketTransmit, byte: u8, len: usize, tos: u8, to: SocketAddr) {
        queue.slot(len).unwrap()[..len].fill(byte);
        queue.commit(len, tos, &Route { local: to.ip(), remote: to, may_fragment: false }, 7);
    }

    fn new_queue() -> SocketTransmit {
        SocketTransmit::new(Arc::new(socket()))
    }

    fn lengths(queue: &SocketTransmit) -> Vec<(usize, usize)> {
        queue.trains.iter().map(|t| (t.datagrams(), t.bytes.len())).collect()
    }

    #[test]
    fn trains_end_with_a_shorter_packet_another_tos_or_their_limit() {
        let to = "127.0.0.1:9".parse().unwrap();
        let mut queue = new_queue();
        for (byte, len, tos) in [(1, 100, 0), (2, 100, 0), (3, 60, 0), (4, 60, 0), (5, 60, 1), (6, 80, 1)] {
            commit(&mut queue, byte, len, tos, to);
        }
        assert_eq!(lengths(&queue), [(3, 260), (1, 60), (1, 60), (1, 80)]);
        let mut queue = new_queue();
        (0..65).for_each(|i| commit(&mut queue, i, 10, 0, to));
        assert_eq!(lengths(&queue), [(64, 640), (1, 10)]);
        let mut queue = new_queue();
        (0..3).for_each(|i| commit(&mut queue, i, 30_000, 0, to));
        assert_eq!(lengths(&queue), [(2, 60_000), (1, 30_000)]);
        let mut queue = new_queue();
        queue.segmentation = false;
        (0..2).for_each(|i| commit(&mut queue, i, 10, 0, to));
        assert_eq!(lengths(&queue), [(1, 10), (1, 10)]);
    }

    #[test]
    fn a_train_is_of_one_owner() {
        let to = "127.0.0.1:9".parse().unwrap();
        let route = Route { local: "127.0.0.1".parse().unwrap(), remote: to, may_fragment: false };
        let mut queue = new_queue();
        for owner in [1, 1, 2, 1] {
            queue.commit(10, 0, &route, owner);
        }
        assert_eq!(lengths(&queue), [(2, 20), (1, 10), (1, 10)]);
        assert_eq!(queue.owners, [1, 2, 1]);
    }

    #[test]
    fn what_is_queued_arrives_in_order_and_what_cannot_go_is_counted() {
        let (mut queue, b) = (new_queue(), socket());
        for i in 0..200u8 {
            commit(&mut queue, i, 200 - usize::from(i % 7), 0, b.local());
        }
        // Broadcast without permission: EACCES, in the midst of the others.
        commit(&mut queue, 0, 20, 0, "255.255.255.255:9".parse().unwrap());
        commit(&mut queue, 200, 20, 0, b.local());
        let mut lost = Vec::new();
        queue.flush(&mut |owner, reason, packets| lost.push((owner, reason, packets)));
        assert!(queue.is_empty());
        assert_eq!(lost, [(7, Reason::WanFirewall, 1)]);

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
        let mut queue = new_queue();
        for len in [50, 50, 20] {
            commit(&mut queue, 0, len, 3, to);
        }
        queue.take_apart(0);
        let parts: Vec<_> = queue.trains.iter().map(|t| (t.bytes.clone(), t.segment, t.tos)).collect();
        assert_eq!(parts, [(0..50, 50, 3), (50..100, 50, 3), (100..120, 20, 3)]);
    }
}
