//! The LAN port `tun`: super-packets from and to the tunnels' devices.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use culvert_sys::errno;
use culvert_sys::tun::{MAX_READ, Offloads, Tun, VNET_HEADER_LEN, VnetHeader};

use super::memory::Memory;
use super::{LanPacket, LanRead, LanWrite};
use crate::user::coalesce::{Joined, MAX_TCP_SEGMENTS};
use crate::user::tunnel::TunnelShared;

/// Packets that are read before they are sealed.
pub(crate) const PACKETS: usize = 128;
/// Bytes after which no more are read: a super-packet is sealed while it is in the cache.
const ENOUGH: usize = 48 << 10;

/// A buffer that ports of one worker read into. Reused, so that reading allocates nothing.
pub(crate) struct LanBatch {
    buf: Vec<u8>,
    packets: Vec<LanPacket>,
}

impl LanBatch {
    /// One with nothing in it. Allocates all that it will ever need.
    pub(crate) fn new() -> Self {
        Self { buf: vec![0; ENOUGH + MAX_READ], packets: Vec::with_capacity(PACKETS) }
    }
}

/// Reads a queue of a tunnel's device.
pub(crate) struct TunRead(Arc<TunnelShared>, usize);

impl TunRead {
    pub(crate) fn new(tunnel: Arc<TunnelShared>, queue: usize) -> Self {
        Self(tunnel, queue)
    }
}

impl LanRead for TunRead {
    fn receive<'a>(&'a mut self, scratch: &'a mut LanBatch) -> io::Result<(&'a [u8], &'a [LanPacket])> {
        let LanBatch { buf, packets } = scratch;
        packets.clear();
        let mut used = 0;
        while packets.len() < PACKETS
            && used < ENOUGH
            && let Some(room) = buf.get_mut(used..)
        {
            let read = match self.0.queue(self.1).read(room) {
                Ok(read) => read,
                // What has been read is given first; an error that lasts comes again.
                Err(_) if !packets.is_empty() => break,
                Err(e) => {
                    return Err(match e.raw_os_error().unwrap_or(0) {
                        // EFAULT: the interface is down.
                        errno::EINTR | errno::EFAULT => io::ErrorKind::WouldBlock.into(),
                        _ => e,
                    });
                }
            };
            let Some(vnet) = VnetHeader::decode(room).filter(|_| read > VNET_HEADER_LEN) else { continue };
            packets.push(LanPacket { bytes: used + VNET_HEADER_LEN..used + read, vnet });
            used += read;
        }
        Ok((buf, packets))
    }
}

impl AsFd for TunRead {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.queue(self.1).as_fd()
    }
}

/// Writes to the tunnels' devices, each packet at once. To the queue of the worker with this number: that is where the
/// kernel puts the answers, so that a flow has one worker for both directions.
pub(crate) struct TunWrite(pub(crate) usize);

/// Pieces for which a small array of parts does.
const SMALL: usize = 6;

impl LanWrite for TunWrite {
    #[inline]
    fn offloads(&self, tunnel: &TunnelShared) -> Offloads {
        tunnel.tun().offloads()
    }

    fn write<M: Memory + ?Sized>(
        &mut self,
        tunnel: &TunnelShared,
        memory: &M,
        joined: &Joined<'_>,
    ) -> io::Result<()> {
        if joined.pieces.len() > SMALL {
            write::<{ MAX_TCP_SEGMENTS + 2 }, M>(tunnel.queue(self.0), memory, joined)
        } else {
            write::<{ SMALL + 2 }, M>(tunnel.queue(self.0), memory, joined)
        }
    }

    fn flush(&mut self) {}
}

fn write<const N: usize, M: Memory + ?Sized>(tun: &Tun, memory: &M, joined: &Joined<'_>) -> io::Result<()> {
    let vnet = joined.vnet.encode();
    let mut parts = [IoSlice::new(&[]); N];
    let mut used = 0;
    let pieces = joined.pieces.iter().map(|range| memory.bytes(range));
    let header = (!joined.header.is_empty()).then_some(joined.header);
    for (part, bytes) in parts.iter_mut().zip([&vnet[..]].into_iter().chain(header).chain(pieces)) {
        *part = IoSlice::new(bytes);
        used += 1;
    }
    tun.write(&parts[..used]).map(drop)
}
