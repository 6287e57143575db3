//! Ports: how packets come to the workers and leave them, on the side of the LAN and on that of the WAN.
//!
//! Four small traits, one for each way. A worker holds its ports as values of the enums here, whose arms are the
//! kinds that there are, so that the path of a packet has neither a box nor a virtual call. A port gives its packets in
//! batches that lie in one buffer, and takes them one by one until it is flushed.
//!
//! A port that takes packets before the kernel has routed them (`xsk`) does what routing does: it decrements the TTL and
//! leaves fragments, options and what it cannot deliver to the kernel.

pub(crate) mod memory;
pub(crate) mod socket;
pub(crate) mod tun;
pub(crate) mod xsk;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use culvert_sys::batch::Datagram;
use culvert_sys::tun::{Offloads, VnetHeader};
use culvert_sys::wan::{PathError, WanKind, WanSocket};
use culvert_sys::xsk::{Frame, Umem};

use self::memory::Memory;
use self::socket::{SocketReceive, SocketTransmit};
use self::tun::{LanBatch, TunRead, TunWrite};
use self::xsk::{XskPath, XskReceive, XskTransmit};
use super::coalesce::Joined;
use super::counters::Reason;
use super::tunnel::TunnelShared;

/// Where a sealed packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// Our outer address. A socket has its own and ignores it.
    pub(crate) local: IpAddr,
    /// The peer; port 0 without UDP encapsulation.
    pub(crate) remote: SocketAddr,
    /// Routers may cut the packet: the path carries less than its sender could make it.
    pub(crate) may_fragment: bool,
}

/// A packet or super-packet of the LAN in a batch's buffer.
#[derive(Debug, Clone)]
pub(crate) struct LanPacket {
    /// The IP packet.
    pub(crate) bytes: Range<usize>,
    /// What its sender left to be done: segmentation, checksums.
    pub(crate) vnet: VnetHeader,
}

/// Packets of the LAN that wait to be sealed.
pub(crate) trait LanRead: AsFd {
    /// Takes what has come, at most as much as is worth sealing at once: the packets, and the buffer in which they lie
    /// until the next call. `WouldBlock` when there is nothing. A port without a buffer of its own uses the worker's.
    fn receive<'a>(&'a mut self, scratch: &'a mut LanBatch) -> io::Result<(&'a [u8], &'a [LanPacket])>;
}

/// Opened packets on their way to the LAN. Belongs to one worker and serves all of its tunnels.
pub(crate) trait LanWrite {
    /// Which super-packets are taken for this tunnel.
    fn offloads(&self, tunnel: &TunnelShared) -> Offloads;

    /// Takes a packet or super-packet, whose payloads lie in `memory`.
    fn write<M: Memory + ?Sized>(
        &mut self,
        tunnel: &TunnelShared,
        memory: &M,
        joined: &Joined<'_>,
    ) -> io::Result<()>;

    /// Sends what was taken and not yet sent.
    fn flush(&mut self);
}

/// Sealed packets on their way to the WAN. Belongs to one worker.
pub(crate) trait WanTransmit {
    /// Whether it must be flushed before the next [`slot`](Self::slot).
    fn is_full(&self) -> bool;

    /// Whether there is nothing to flush.
    fn is_empty(&self) -> bool;

    /// Room for one sealed packet from its SPI on, of `need` bytes. Headers before it are the port's affair. `None` when
    /// there is none, though it is not full: the device takes nothing, or never so long a packet.
    fn slot(&mut self, need: usize) -> Option<&mut [u8]>;

    /// Takes the first `len` bytes of the slot as one packet of `owner`'s with an outer TOS or traffic class.
    fn commit(&mut self, len: usize, tos: u8, route: &Route, owner: u32);

    /// Sends everything. What cannot be sent is dropped, and told: whose, why, how many packets.
    fn flush(&mut self, lost: &mut dyn FnMut(u32, Reason, u64));
}

/// Packets of the WAN that wait to be opened.
pub(crate) trait WanReceive: AsFd {
    /// Where its packets lie.
    type Memory: Memory + ?Sized;

    /// What the datagrams begin with: the payload of UDP 4500 (ESP, IKE and keepalives), or ESP.
    fn kind(&self) -> WanKind;

    /// Our address and port.
    fn local(&self) -> SocketAddr;

    /// Takes what has arrived, at most one batch; `WouldBlock` when nothing has. Whether more may wait.
    fn receive(&mut self) -> io::Result<bool>;

    /// The memory of the batch, to open packets in place, and where they are.
    fn parts(&mut self) -> (&mut Self::Memory, &[Datagram]);

    /// Takes the batch's memory back: its packets have been delivered.
    fn release(&mut self);

    /// What the path reported about packets that were sent.
    fn path_errors(&self) -> Vec<PathError>;
}

/// How an SA's packets reach the WAN: what workers open their transmitting ports from. Cheap to clone, and shared.
#[derive(Debug, Clone)]
pub(crate) enum WanPath {
    /// A UDP or raw socket.
    Socket(Arc<WanSocket>),
    /// Frames of the WAN's devices, and a socket for the rest.
    Xsk(XskPath),
}

impl WanPath {
    /// A port of the worker's own.
    pub(crate) fn open(&self, worker: usize) -> WanOut {
        match self {
            Self::Socket(socket) => WanOut::Socket(SocketTransmit::new(socket.clone())),
            Self::Xsk(path) => WanOut::Xsk(Box::new(XskTransmit::new(path.clone(), worker))),
        }
    }
}

/// A port of a [`WanPath`].
pub(crate) enum WanOut {
    /// Trains through a socket.
    Socket(SocketTransmit),
    /// Frames.
    Xsk(Box<XskTransmit>),
}

impl WanOut {
    /// Whether it was opened from this path.
    pub(crate) fn is_of(&self, path: &WanPath) -> bool {
        match (self, path) {
            (Self::Socket(port), WanPath::Socket(socket)) => port.is_of(socket),
            (Self::Xsk(port), WanPath::Xsk(path)) => port.is_of(path),
            _ => false,
        }
    }

    /// A slot where the packet is already: in its frame, from `start` on. The frame itself where it cannot be sent from; see
    /// [`XskTransmit::lend`].
    #[inline]
    pub(crate) fn lend(
        &mut self,
        umem: &Arc<Umem>,
        frame: Frame,
        start: usize,
        need: usize,
    ) -> Result<&mut [u8], Frame> {
        match self {
            Self::Socket(_) => Err(frame),
            Self::Xsk(port) => port.lend(umem, frame, start, need),
        }
    }
}

impl WanTransmit for WanOut {
    #[inline]
    fn is_full(&self) -> bool {
        match self {
            Self::Socket(port) => port.is_full(),
            Self::Xsk(port) => port.is_full(),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        match self {
            Self::Socket(port) => port.is_empty(),
            Self::Xsk(port) => port.is_empty(),
        }
    }

    #[inline]
    fn slot(&mut self, need: usize) -> Option<&mut [u8]> {
        match self {
            Self::Socket(port) => port.slot(need),
            Self::Xsk(port) => port.slot(need),
        }
    }

    #[inline]
    fn commit(&mut self, len: usize, tos: u8, route: &Route, owner: u32) {
        match self {
            Self::Socket(port) => port.commit(len, tos, route, owner),
            Self::Xsk(port) => port.commit(len, tos, route, owner),
        }
    }

    fn flush(&mut self, lost: &mut dyn FnMut(u32, Reason, u64)) {
        match self {
            Self::Socket(port) => port.flush(lost),
            Self::Xsk(port) => port.flush(lost),
        }
    }
}

/// A receiving port of the WAN. Packets lie elsewhere in each kind, so who serves one takes it out of here.
pub(crate) enum WanIn {
    /// Batches from a socket.
    Socket(SocketReceive),
    /// Frames that the guard redirected.
    Xsk(XskReceive),
}

impl WanIn {
    /// What the path reported about packets that were sent.
    pub(crate) fn path_errors(&self) -> Vec<PathError> {
        match self {
            Self::Socket(port) => port.path_errors(),
            Self::Xsk(port) => port.path_errors(),
        }
    }
}

impl AsFd for WanIn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(port) => port.as_fd(),
            Self::Xsk(port) => port.as_fd(),
        }
    }
}

/// A reading port of the LAN.
pub(crate) enum LanIn {
    /// A tunnel's device.
    Tun(TunRead),
}

impl LanRead for LanIn {
    fn receive<'a>(&'a mut self, scratch: &'a mut LanBatch) -> io::Result<(&'a [u8], &'a [LanPacket])> {
        match self {
            Self::Tun(port) => port.receive(scratch),
        }
    }
}

impl AsFd for LanIn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tun(port) => port.as_fd(),
        }
    }
}

/// A writing port of the LAN.
pub(crate) enum LanOut {
    /// The tunnels' devices.
    Tun(TunWrite),
}

impl LanWrite for LanOut {
    #[inline]
    fn offloads(&self, tunnel: &TunnelShared) -> Offloads {
        match self {
            Self::Tun(port) => port.offloads(tunnel),
        }
    }

    fn write<M: Memory + ?Sized>(
        &mut self,
        tunnel: &TunnelShared,
        memory: &M,
        joined: &Joined<'_>,
    ) -> io::Result<()> {
        match self {
            Self::Tun(port) => port.write(tunnel, memory, joined),
        }
    }

    fn flush(&mut self) {
        match self {
            Self::Tun(port) => port.flush(),
        }
    }
}
