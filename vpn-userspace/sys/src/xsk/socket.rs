//! One queue of one device: who sends there, and who receives from it.
use crate::lock::Mutex;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ring::{Consumer, Producer};
use super::syscall;
use super::{Frame, Umem, XskError};

/// Frames that move at once.
pub const BATCH: usize = 64;
/// Entries of the completion and fill rings, and of the others.
const ENTRIES: u32 = 2048;
/// asm-generic/socket.h, kernel 5.11.
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;
/// Room that the kernel leaves before a received packet (XDP_PACKET_HEADROOM of linux/bpf.h).
const HEADROOM: usize = 256;

/// How packets get from the device into frames and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The device reads and writes the frames itself.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl Mode {
    /// As shown to people and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        }
    }
}

/// How to open a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Frames that wait for packets, at most 2048.
    pub fill: usize,
    /// Have the kernel poll the device from our system calls for this many microseconds (SO_PREFER_BUSY_POLL, 5.11);
    /// 0: leave it to interrupts.
    pub busy_poll: u32,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { fill: ENTRIES as usize, busy_poll: 0 }
    }
}

/// What the kernel lost, since a socket was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets that did not fit a frame, or met another error.
    pub dropped: u64,
    /// Packets for which the receive ring had no room.
    pub ring_full: u64,
    /// Packets for which there was no frame.
    pub no_frame: u64,
}

/// One queue of one device, for sending, and for [`Receiver`]s to share.
pub struct Queue {
    umem: Arc<Umem>,
    device: String,
    index: u32,
    queue: u32,
    mode: Mode,
    fd: OwnedFd,
    dead: AtomicBool,
    fill: Mutex<Fill>,
    transmit: Mutex<Transmit>,
}

struct Fill {
    ring: Producer<u64>,
    /// Frames that the ring should hold and does not.
    missing: usize,
    /// Frames on their way into it; empty between calls.
    moving: Vec<Frame>,
}

struct Transmit {
    ring: Producer<libc::xdp_desc>,
    done: Consumer<u64>,
}

/// A packet that was received.
#[derive(Debug)]
pub struct Received {
    /// Where it is.
    pub frame: Frame,
    /// Where in the frame it begins.
    pub start: usize,
    /// Its length.
    pub len: usize,
}

impl Queue {
    /// Opens a queue of a device of the network namespace of the calling thread. Zero copy where the driver has it.
    ///
    /// # Errors
    /// The device or the queue does not exist, another program has it, or privileges are missing.
    pub fn open(
        umem: &Arc<Umem>,
        device: &str,
        queue: u32,
        options: &QueueOptions,
    ) -> Result<Self, XskError> {
        let index =
            syscall::device_index(device).ok_or_else(|| XskError::NoDevice { device: device.to_owned() })?;
        match Self::open_as(umem, (device, index), queue, options, Mode::ZeroCopy) {
            // Neither a driver without zero copy, nor one that has no queue or frame size left for it, is an error.
            Err(XskError::Kernel { call: "bind", .. } | XskError::NoQueue { .. }) => {
                Self::open_as(umem, (device, index), queue, options, Mode::Copy)
            }
            outcome => outcome,
        }
    }

    fn open_as(
        umem: &Arc<Umem>,
        (device, index): (&str, u32),
        queue: u32,
        options: &QueueOptions,
        mode: Mode,
    ) -> Result<Self, XskError> {
        let failed = |call| move |source| XskError::of(device, queue, call, source);
        let fd = syscall::socket().map_err(failed("socket"))?;
        let (addr, len) = umem.region();
        let region = libc::xdp_umem_reg {
            addr,
            len,
            chunk_size: umem.frame_size() as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        // Each queue registers the memory anew: it is the same pages, with rings of the queue's own.
        syscall::set(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &region).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::ENOBUFS | libc::ENOMEM) => XskError::NoMemory { bytes: len as usize },
                _ => XskError::of(device, queue, "XDP_UMEM_REG", source),
            }
        })?;
        for (call, option) in [
            ("XDP_UMEM_FILL_RING", libc::XDP_UMEM_FILL_RING),
            ("XDP_UMEM_COMPLETION_RING", libc::XDP_UMEM_COMPLETION_RING),
            ("XDP_TX_RING", libc::XDP_TX_RING),
        ] {
            syscall::set(&fd, libc::SOL_XDP, option, &ENTRIES).map_err(failed(call))?;
        }
        // SAFETY: offsets are integers.
        let offsets: libc::xdp_mmap_offsets =
            unsafe { syscall::get(&fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS) }
                .map_err(failed("XDP_MMAP_OFFSETS"))?;
        let mapped = failed("mmap");
        let ring = Producer::map(&fd, offsets.fr, libc::XDP_UMEM_PGOFF_FILL_RING as i64, ENTRIES)
            .map_err(&mapped)?;
        let missing = options.fill.min(ENTRIES as usize);
        let mut fill = Fill { ring, missing, moving: Vec::with_capacity(missing) };
        let done = Consumer::map(&fd, offsets.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64, ENTRIES)
            .map_err(&mapped)?;
        let ring = Producer::map(&fd, offsets.tx, libc::XDP_PGOFF_TX_RING, ENTRIES).map_err(&mapped)?;
        let flag = if mode == Mode::ZeroCopy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
        syscall::bind(&fd, index, queue, flag | libc::XDP_USE_NEED_WAKEUP, None).map_err(failed("bind"))?;
        // Kernel 6.18; older ones send 32 packets a call.
        let _ = syscall::set(&fd, libc::SOL_XDP, syscall::XDP_MAX_TX_SKB_BUDGET, &512u32);
        if options.busy_poll > 0 {
            busy_poll(&fd, options.busy_poll);
        }
        fill.refill(umem);
        Ok(Self {
            umem: umem.clone(),
            device: device.to_owned(),
            index,
            queue,
            mode,
            fd,
            dead: AtomicBool::new(false),
            fill: Mutex::new(fill),
            transmit: Mutex::new(Transmit { ring, done }),
        })
    }

    /// Index of the device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The queue.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Name of the device, when it was opened.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// How packets are carried.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The memory.
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// The longest packet that can be received, with its Ethernet header.
    pub fn longest(&self) -> usize {
        self.umem.frame_size() - HEADROOM
    }

    /// Takes packets off the front of the list, each a frame with where its packet begins and its length, as far as
    /// there is room. Frames that have been sent are free again.
    pub fn enqueue(&self, packets: &mut std::collections::VecDeque<Received>) {
        let mut transmit = self.transmit.lock();
        self.collect(&mut transmit);
        let mut room = transmit.ring.room();
        while room > 0
            && let Some(packet) = packets.pop_front()
        {
            // One of another memory, or beyond its frame, is no packet.
            if let Some(at) = self.umem.offset(&packet.frame)
                && packet.start.saturating_add(packet.len) <= self.umem.frame_size()
            {
                let descriptor =
                    libc::xdp_desc { addr: (at + packet.start) as u64, len: packet.len as u32, options: 0 };
                transmit.ring.push(descriptor);
                room -= 1;
            }
        }
        transmit.ring.submit();
    }

    /// Has the kernel send what is enqueued. True when it has taken all of it; else the device is busy, and the call
    /// is to be made again when [`AsFd`] is writable.
    ///
    /// # Errors
    /// The device is down (ENETDOWN) or gone (ENXIO, ENETDOWN).
    pub fn send(&self) -> io::Result<bool> {
        // A call takes a few dozen packets on kernels before 6.18.
        for _ in 0..ENTRIES / 32 {
            let (pending, wakeup) = {
                let transmit = self.transmit.lock();
                (transmit.ring.pending(), transmit.ring.needs_wakeup())
            };
            if !pending {
                return Ok(true);
            }
            if !wakeup {
                // The driver is at it.
                return Ok(true);
            }
            match syscall::kick(&self.fd) {
                Ok(()) => {}
                Err(e) => match e.raw_os_error() {
                    // More to send than one call does, or than the device takes now.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS) => {
                        let mut transmit = self.transmit.lock();
                        self.collect(&mut transmit);
                        if e.raw_os_error() != Some(libc::EAGAIN) {
                            return Ok(!transmit.ring.pending());
                        }
                    }
                    Some(libc::EINTR) => {}
                    _ => return Err(e),
                },
            }
        }
        Ok(!self.transmit.lock().ring.pending())
    }

    /// Frees the frames that have been sent.
    pub fn reclaim(&self) {
        self.collect(&mut self.transmit.lock());
    }

    fn collect(&self, transmit: &mut Transmit) {
        let done = &mut transmit.done;
        let mut any = false;
        self.umem.give(std::iter::from_fn(|| done.pop()).filter_map(|address| {
            any = true;
            self.umem.returned(address).map(|(frame, _)| frame)
        }));
        if any {
            done.release();
        }
    }

    /// Whether the device or its queue is gone: the socket serves no more, and another is to be opened when the device
    /// is back.
    pub fn is_dead(&self) -> bool {
        // The kernel tells a socket's error once.
        if !self.dead.load(Ordering::Relaxed) {
            // SAFETY: an int.
            let error = unsafe { syscall::get::<i32>(&self.fd, libc::SOL_SOCKET, libc::SO_ERROR) };
            self.dead.store(error.map_or(true, |e| e != 0), Ordering::Relaxed);
        }
        self.dead.load(Ordering::Relaxed)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} {} {})", self.device, self.queue, self.mode.name())
    }
}

/// What an XDP program must know of a receiver to send it packets. Holds the receiver's socket open.
#[derive(Debug)]
pub struct Endpoint {
    /// Index of the device.
    pub device: u32,
    /// The queue.
    pub queue: u32,
    /// The longest packet that can be received, with its Ethernet header.
    pub longest: usize,
    fd: OwnedFd,
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes packets of a queue, those that an XDP program redirects to this very socket.
pub struct Receiver {
    queue: Arc<Queue>,
    fd: OwnedFd,
    ring: Consumer<libc::xdp_desc>,
}

impl Receiver {
    /// One more receiver of a queue.
    ///
    /// # Errors
    /// As [`Queue::open`].
    pub fn open(queue: &Arc<Queue>) -> Result<Self, XskError> {
        let failed = |call| move |source| XskError::of(&queue.device, queue.queue, call, source);
        let fd = syscall::socket().map_err(failed("socket"))?;
        syscall::set(&fd, libc::SOL_XDP, libc::XDP_RX_RING, &ENTRIES).map_err(failed("XDP_RX_RING"))?;
        // SAFETY: offsets are integers.
        let offsets: libc::xdp_mmap_offsets =
            unsafe { syscall::get(&fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS) }
                .map_err(failed("XDP_MMAP_OFFSETS"))?;
        let ring =
            Consumer::map(&fd, offsets.rx, libc::XDP_PGOFF_RX_RING, ENTRIES).map_err(failed("mmap"))?;
        syscall::bind(&fd, queue.index, queue.queue, libc::XDP_SHARED_UMEM, Some(queue.fd.as_fd()))
            .map_err(failed("bind"))?;
        Ok(Self { queue: queue.clone(), fd, ring })
    }

    /// For an XDP program, see [`crate::guard::Guard::add_receiver`].
    ///
    /// # Errors
    /// The process has as many descriptors as it may.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        let (device, queue) = (self.queue.index, self.queue.queue);
        Ok(Endpoint { device, queue, longest: self.queue.longest(), fd: self.fd.try_clone()? })
    }

    /// The queue that it is of.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Takes up to `most` packets. Their frames go back to the queue with [`give_back`](Self::give_back), or elsewhere.
    pub fn receive(&mut self, most: usize, into: &mut Vec<Received>) -> usize {
        let before = into.len();
        while into.len() - before < most
            && let Some(descriptor) = self.ring.pop()
        {
            if let Some((frame, start)) = self.queue.umem.returned(descriptor.addr) {
                // The kernel's lengths end in the frame.
                let len = (descriptor.len as usize).min(self.queue.umem.frame_size() - start);
                into.push(Received { frame, start, len });
            }
        }
        let taken = into.len() - before;
        if taken > 0 {
            self.ring.release();
            self.queue.fill.lock().missing += taken;
        }
        taken
    }

    /// Gives frames back to the memory, and to the queue as many as it lacks.
    pub fn give_back(&self, frames: impl IntoIterator<Item = Frame>) {
        let umem = &self.queue.umem;
        umem.give(frames);
        let mut fill = self.queue.fill.lock();
        fill.refill(umem);
        if fill.ring.needs_wakeup() {
            let _ = syscall::pull(&self.fd);
        }
    }

    /// What the kernel lost.
    pub fn statistics(&self) -> Statistics {
        // SAFETY: integers; older kernels write fewer of them.
        let all =
            unsafe { syscall::get::<libc::xdp_statistics>(&self.fd, libc::SOL_XDP, libc::XDP_STATISTICS) };
        all.map_or(Statistics::default(), |s| Statistics {
            dropped: s.rx_dropped,
            ring_full: s.rx_ring_full,
            no_frame: s.rx_fill_ring_empty_descs,
        })
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receiver of {:?}", self.queue)
    }
}

impl Fill {
    /// Moves free frames into the ring, as many as it lacks.
    fn refill(&mut self, umem: &Umem) {
        let most = self.missing.min(self.ring.room());
        if umem.take(most, &mut self.moving) == 0 {
            return;
        }
        for frame in self.moving.drain(..) {
            if let Some(at) = umem.offset(&frame) {
                self.ring.push(at as u64);
                self.missing -= 1;
            }
        }
        self.ring.submit();
    }
}

/// Best effort: without it packets come by interrupts.
fn busy_poll(fd: &OwnedFd, microseconds: u32) {
    let microseconds = microseconds.min(1000) as i32;
    for (option, value) in
        [(SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, microseconds), (SO_BUSY_POLL_BUDGET, BATCH as i32)]
    {
        let _ = syscall::set(fd, libc::SOL_SOCKET, option, &value);
    }
}
