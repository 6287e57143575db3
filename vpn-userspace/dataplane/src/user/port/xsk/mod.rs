//! The WAN port `xsk`: ESP in frames, past the kernel's stack, in front of the kernel's sockets.
//!
//! Sealed packets are written into frames where they are sent from. Whatever cannot go that way goes through the socket
//! that the SA would have without AF_XDP, in the same order of sequence numbers: a peer whose neighbour is not known yet, a
//! packet larger than the path's MTU (the socket's error says so), a route by another device, no frame left, a device
//! that is gone. Packets arrive by the guard's redirect; those that it leaves to the stack come by the sockets. An SA
//! has one owner whichever way its packets take.
//!
//! A received packet is copied out of its frame once, and opened where it then is: the frame is free for the kernel at once.
mod header;
mod receive;
mod transmit;

pub(crate) use receive::XskReceive;
pub(crate) use transmit::XskTransmit;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_sys::netlink::NextHops;
use culvert_sys::wan::WanSocket;
use culvert_sys::xsk::{Queue, QueueOptions, Receiver, Umem, XskError, device_index, queue_count};

/// Frames that wait for packets at each queue, and as many again to send from. Fewer where there are many queues.
const FRAMES: usize = 2048;
/// Queues from which on there are fewer.
const MANY_QUEUES: usize = 8;
/// An Ethernet frame beyond this, headroom and headers counted, does not fit 2048 bytes.
const SMALL_MTU: u32 = 1700;

/// The devices of the WAN, opened together on one memory.
pub(crate) struct Devices {
    /// Their names.
    names: Vec<String>,
    pub(crate) hops: Arc<NextHops>,
    busy_poll: u32,
    open: Mutex<Option<Arc<Open>>>,
    /// Counts transmitting ports, which take the queues in turn.
    ports: AtomicUsize,
}

/// Devices that are there.
pub(crate) struct Open {
    pub(crate) umem: Arc<Umem>,
    pub(crate) devices: Vec<OpenDevice>,
}

pub(crate) struct OpenDevice {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) queues: Vec<Arc<Queue>>,
}

/// How an SA's packets go: by frames, or else by its socket.
#[derive(Clone)]
pub(crate) struct XskPath {
    pub(crate) devices: Arc<Devices>,
    pub(crate) socket: Arc<WanSocket>,
    pub(crate) dont_fragment: bool,
}

impl XskPath {
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.devices, &other.devices) && Arc::ptr_eq(&self.socket, &other.socket)
    }
}

impl std::fmt::Debug for XskPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "XskPath({:?})", self.devices.names)
    }
}

impl Devices {
    /// Nothing is open yet. `busy_poll` in microseconds, 0 for interrupts.
    pub(crate) fn new(names: Vec<String>, hops: Arc<NextHops>, busy_poll: u32) -> Self {
        Self { names, hops, busy_poll, open: Mutex::new(None), ports: AtomicUsize::new(0) }
    }

    /// What is open now. To be held for a batch, not for longer: a device that went can come back only when nobody holds
    /// its sockets.
    pub(crate) fn current(&self) -> Option<Arc<Open>> {
        self.lock().clone()
    }

    /// Opens the devices that are there, all of their queues.
    pub(crate) fn open(&self) -> Result<(), XskError> {
        let present: Vec<_> = self.names.iter().filter_map(|n| Some((n, device_index(n)?))).collect();
        if present.is_empty() {
            return Err(XskError::NoDevice { device: self.names.join(", ") });
        }
        let counts: Vec<_> = present.iter().map(|(name, _)| queue_count(name)).collect();
        let queues: usize = counts.iter().map(|n| *n as usize).sum();
        let frames = if queues > MANY_QUEUES { FRAMES / 4 } else { FRAMES };
        let mtu = present.iter().filter_map(|(name, _)| culvert_sys::xsk::device_mtu(name)).max();
        let frame_size = if mtu.is_some_and(|m| m > SMALL_MTU) { 4096 } else { 2048 };
        let umem = Arc::new(Umem::new((2 * frames * queues) as u32, frame_size)?);
        let options = QueueOptions { fill: frames, busy_poll: self.busy_poll };
        let mut devices = Vec::new();
        for ((name, index), count) in present.into_iter().zip(counts) {
            let queues = (0..count)
                .map(|queue| Queue::open(&umem, name, queue, &options).map(Arc::new))
                .collect::<Result<_, _>>()?;
            devices.push(OpenDevice { name: name.clone(), index, queues });
        }
        *self.lock() = Some(Arc::new(Open { umem, devices }));
        Ok(())
    }

    /// A receiver of each open queue, for one worker.
    pub(crate) fn receivers(&self) -> Result<Vec<Receiver>, XskError> {
        let Some(open) = self.current() else { return Ok(Vec::new()) };
        open.devices.iter().flat_map(|d| &d.queues).map(Receiver::open).collect()
    }

    /// Lets go of the devices, whose indices it returns. Their receivers are elsewhere.
    pub(crate) fn close(&self) -> Vec<u32> {
        self.lock().take().map_or_else(Vec::new, |open| open.devices.iter().map(|d| d.index).collect())
    }

    /// Whether a device went, or came, since they were opened.
    pub(crate) fn changed(&self) -> bool {
        let Some(open) = self.current() else { return true };
        let is_open = |name: &String| open.devices.iter().find(|d| d.name == *name).map(|d| d.index);
        open.devices.iter().flat_map(|d| &d.queues).any(|q| q.is_dead())
            || self.names.iter().any(|name| is_open(name) != device_index(name))
    }

    /// What the status says of them, a line for each device.
    pub(crate) fn describe(&self) -> Vec<String> {
        let Some(open) = self.current() else {
            return vec![format!("xsk: {} is not open, the kernel's sockets serve", self.names.join(", "))];
        };
        let line = |d: &OpenDevice| {
            let mode = d.queues.first().map_or("no", |q| q.mode().name());
            let plural = if d.queues.len() == 1 { "" } else { "s" };
            format!("xsk: {} by AF_XDP in {mode} mode, {} queue{plural}", d.name, d.queues.len())
        };
        open.devices.iter().map(line).collect()
    }

    /// A number for a transmitting port.
    fn port(&self) -> usize {
        self.ports.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
