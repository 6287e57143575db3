//! The WAN port `xsk`: ESP in frames, past the kernel's stack, in front of the kernel's sockets.
//!
//! Sealed packets are written into frames where they are sent from. Whatever cannot go that way goes through the socket
//! that the SA would have without AF_XDP, in the same order of sequence numbers: a peer whose neighbour is not known yet, a
//! packet larger than the path's MTU (the socket's error says so), a route by another device, no frame left, a device
//! that is gone. Packets arrive by the guard's redirect; those that it leaves to the stack come by the sockets. An SA
//! has one owner whichever way its packets take.
//!
//! A received packet is opened in its frame, which is the kernel's again when the packet was delivered; toward a LAN of the
//! same kind the frame itself goes on. The LAN port `xsk` is in [`lan`]: both sides' frames are of one memory.
mod frames;
mod header;
mod lan;
mod receive;
mod transmit;

pub(crate) use lan::{LanReceive, LanTransmit, accept, inner_at};
pub(crate) use receive::XskReceive;
pub(crate) use transmit::XskTransmit;

use culvert_sys::lock::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use culvert_sys::netlink::NextHops;
use culvert_sys::wan::WanSocket;
use culvert_sys::xsk::{
    Queue, QueueOptions, Receiver, Umem, XskError, device_index, device_mac, device_mtu, queue_count,
};

/// Frames that wait for packets at each queue, and as many again to send from. Fewer where there are many queues.
const FRAMES: usize = 2048;
/// Queues from which on there are fewer.
const MANY_QUEUES: usize = 8;
/// Frames of all workers together beside those of the queues.
const IN_HAND: usize = 2048;
/// Where in a frame a packet is put that was in none: behind the longest headers, on a cache line.
const START: usize = 128;
const _: () = assert!(START >= header::LONGEST);
/// An Ethernet frame beyond this, headroom and headers counted, does not fit 2048 bytes.
const SMALL_MTU: u32 = 1700;

/// The devices of the WAN and of the LAN, opened together on one memory.
pub(crate) struct Devices {
    wan: Side,
    /// Those that are the WAN's too serve that alone.
    lan: Side,
    pub(crate) hops: Arc<NextHops>,
    busy_poll: u32,
    open: Mutex<Option<Arc<Open>>>,
}

/// The devices of one side.
struct Side {
    names: Vec<String>,
    /// A tunnel wants them.
    wanted: AtomicBool,
}

/// Devices that are there.
pub(crate) struct Open {
    pub(crate) umem: Arc<Umem>,
    pub(crate) devices: Vec<OpenDevice>,
}

pub(crate) struct OpenDevice {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// It is the LAN's.
    pub(crate) lan: bool,
    /// Its link-layer address, when it was opened.
    pub(crate) mac: [u8; 6],
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
        write!(f, "XskPath({:?})", self.devices.wan.names)
    }
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Devices({:?}, {:?})", self.wan.names, self.lan.names)
    }
}

impl Devices {
    /// Nothing is wanted, nor open yet. `busy_poll` in microseconds, 0 for interrupts.
    pub(crate) fn new(wan: Vec<String>, lan: Vec<String>, hops: Arc<NextHops>, busy_poll: u32) -> Self {
        let lan = lan.into_iter().filter(|name| !wan.contains(name)).collect();
        let side = |names| Side { names, wanted: AtomicBool::new(false) };
        let (wan, lan) = (side(wan), side(lan));
        Self { wan, lan, hops, busy_poll, open: Mutex::new(None) }
    }

    /// A tunnel wants the devices of the WAN, or of the LAN. Whether there is one, and they are open.
    pub(crate) fn want(&self, wan: bool, lan: bool) -> Result<bool, XskError> {
        for (wanted, side) in [(wan, &self.wan), (lan, &self.lan)] {
            if !wanted {
                continue;
            }
            if !side.names.iter().any(|name| device_index(name).is_some()) {
                return Err(XskError::NoDevice { device: side.names.join(", ") });
            }
            side.wanted.store(true, Ordering::Relaxed);
        }
        Ok(self.current().is_some() && !self.changed())
    }

    /// What is open now. To be held for a batch, not for longer: a device that went can come back only when nobody holds
    /// its sockets.
    pub(crate) fn current(&self) -> Option<Arc<Open>> {
        self.lock().clone()
    }

    /// Names of the devices that are wanted, and whether they are the LAN's.
    fn names(&self) -> impl Iterator<Item = (&String, bool)> {
        let sides = [(&self.wan, false), (&self.lan, true)].into_iter();
        sides
            .filter(|(side, _)| side.wanted.load(Ordering::Relaxed))
            .flat_map(|(side, lan)| side.names.iter().map(move |name| (name, lan)))
    }

    /// Opens the devices that are wanted and there, all of their queues.
    pub(crate) fn open(&self) -> Result<(), XskError> {
        let present: Vec<(&String, bool, u32, u32)> = self
            .names()
            .filter_map(|(name, lan)| Some((name, lan, device_index(name)?, queue_count(name))))
            .collect();
        if present.is_empty() {
            let names: Vec<_> = self.names().map(|(name, _)| name.as_str()).collect();
            return Err(XskError::NoDevice { device: names.join(", ") });
        }
        let queues: usize = present.iter().map(|(.., count)| *count as usize).sum();
        let frames = if queues > MANY_QUEUES { FRAMES / 4 } else { FRAMES };
        let mtu = present.iter().filter_map(|(name, ..)| device_mtu(name)).max();
        let frame_size = if mtu.is_some_and(|m| m > SMALL_MTU) { 4096 } else { 2048 };
        // What is in workers' hands besides leaves every queue its share.
        let umem = Arc::new(Umem::new((2 * frames * queues + IN_HAND) as u32, frame_size)?);
        let options = QueueOptions { fill: frames, busy_poll: self.busy_poll };
        let mut devices = Vec::new();
        for (name, lan, index, count) in present {
            let queues = (0..count)
                .map(|queue| Queue::open(&umem, name, queue, &options).map(Arc::new))
                .collect::<Result<_, _>>()?;
            let mac = device_mac(name).ok_or_else(|| XskError::NoDevice { device: name.clone() })?;
            devices.push(OpenDevice { name: name.clone(), index, lan, mac, queues });
        }
        *self.lock() = Some(Arc::new(Open { umem, devices }));
        Ok(())
    }

    /// A receiver of each open queue of the WAN or of the LAN, for one worker.
    pub(crate) fn receivers(&self, lan: bool) -> Result<Vec<Receiver>, XskError> {
        let Some(open) = self.current() else { return Ok(Vec::new()) };
        open.devices.iter().filter(|d| d.lan == lan).flat_map(|d| &d.queues).map(Receiver::open).collect()
    }

    /// Lets go of the devices, whose indices it returns. Their receivers are elsewhere.
    pub(crate) fn close(&self) -> Vec<u32> {
        self.lock().take().map_or_else(Vec::new, |open| open.devices.iter().map(|d| d.index).collect())
    }

    /// Whether a device went, or came, or is another than it was when they were opened.
    pub(crate) fn changed(&self) -> bool {
        let Some(open) = self.current() else { return true };
        let is_as_before = |device: &OpenDevice| {
            queue_count(&device.name) as usize == device.queues.len()
                && device_mac(&device.name) == Some(device.mac)
        };
        let is_open = |name: &String| open.devices.iter().find(|d| d.name == *name).map(|d| d.index);
        open.devices.iter().flat_map(|d| &d.queues).any(|q| q.is_dead())
            || self.names().any(|(name, _)| is_open(name) != device_index(name))
            || !open.devices.iter().all(is_as_before)
    }

    /// What the status says of them, a line for each device.
    pub(crate) fn describe(&self) -> Vec<String> {
        let Some(open) = self.current() else {
            let names: Vec<_> = self.names().map(|(name, _)| name.as_str()).collect();
            return vec![format!("xsk: {} is not open, the kernel serves", names.join(", "))];
        };
        let line = |d: &OpenDevice| {
            let mode = d.queues.first().map_or("no", |q| q.mode().name());
            let plural = if d.queues.len() == 1 { "" } else { "s" };
            format!("xsk: {} by AF_XDP in {mode} mode, {} queue{plural}", d.name, d.queues.len())
        };
        open.devices.iter().map(line).collect()
    }

    /// By which queue of one side's devices a worker sends; `None` if they are not open, or not alike.
    pub(crate) fn queue(&self, lan: bool, worker: usize) -> Option<usize> {
        let open = self.current()?;
        let mut queues =
            open.devices.iter().filter(|d| d.lan == lan).map(|d| queue_of(worker, d.queues.len()));
        let queue = queues.next()?;
        queues.all(|other| other == queue).then_some(queue)
    }

    /// Devices that are wanted and not there.
    pub(crate) fn absent(&self) -> Vec<String> {
        let gone = |name: &&String| device_index(name).is_none();
        self.names().map(|(name, _)| name).filter(gone).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Open>>> {
        self.open.lock()
    }
}

/// Which of so many queues a worker sends by: they take them in turn.
fn queue_of(worker: usize, queues: usize) -> usize {
    worker % queues.max(1)
}
