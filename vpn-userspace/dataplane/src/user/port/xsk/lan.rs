//! The LAN port `xsk`: frames of the LAN that routes lead into tunnels, and opened packets into frames of the LAN.
//!
//! It does what the kernel's forwarding would do to a plain packet: TTL, checksums that a local sender left partial, the
//! link-layer addresses. Whatever is not plain, or has no known next hop on these devices, is the stack's, by the tunnel's
//! interface, in both directions.
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use culvert_esp::checksum;
use culvert_esp::packet::{Header, Packet};
use culvert_esp::tunnel::decrement_ttl;
use culvert_sys::netlink::Flow;
use culvert_sys::xsk::{BATCH, Frame, Received, Receiver, Umem, is_plain, tunnel_of};

use super::Devices;
use super::START;
use super::frames::Frames;
use crate::user::congestion::Congestion;
use crate::user::counters::Reason;
use crate::user::port::memory::Memory;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Hosts whose link-layer addresses are remembered.
const MOST_HOSTS: usize = 4096;
/// Packets from which on they are sent.
const FULL: usize = 256;

/// One worker's packets of one queue of a LAN.
pub(crate) struct LanReceive {
    receiver: Receiver,
    packets: Vec<Received>,
    rest: Vec<Received>,
    done: Vec<Frame>,
    pub(crate) congestion: Congestion,
}

impl LanReceive {
    pub(crate) fn new(receiver: Receiver) -> Self {
        Self {
            receiver,
            packets: Vec::with_capacity(BATCH),
            rest: Vec::with_capacity(BATCH),
            done: Vec::with_capacity(BATCH),
            congestion: Congestion::default(),
        }
    }

    /// Takes what has come, at most one batch. Whether more may wait; `WouldBlock` when there is nothing.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        match self.receiver.receive(BATCH, &mut self.packets) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken == BATCH),
        }
    }

    /// The interface of the tunnel whose turn it is, by its index: that of the first packet that is left.
    pub(crate) fn turn(&self) -> Option<u32> {
        self.packets.first().map(|packet| tunnel_of(self.receiver.queue().umem(), packet))
    }

    /// Gives the packets of that tunnel, in the order in which they came, to `take`, which keeps the frame or gives it back.
    pub(crate) fn take(&mut self, tunnel: u32, mut take: impl FnMut(&Arc<Umem>, Received) -> Option<Frame>) {
        let umem = self.receiver.queue().umem();
        for packet in self.packets.drain(..) {
            if tunnel_of(umem, &packet) == tunnel {
                self.done.extend(take(umem, packet));
            } else {
                self.rest.push(packet);
            }
        }
        std::mem::swap(&mut self.packets, &mut self.rest);
    }

    /// Gives the queue its frames again. What was kept has been sent.
    pub(crate) fn release(&mut self) {
        self.receiver.give_back(self.done.drain(..));
    }
}

impl AsFd for LanReceive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// The IP packet of a frame as a router has it before it looks at the TTL: without what fills a short frame up, its header's
/// checksum right, and that of TCP or UDP finished if its sender left it to the device. `None` if it is no packet.
pub(crate) fn accept(frame: &mut [u8]) -> Option<&mut [u8]> {
    let packet = frame.get_mut(ETHERNET..)?;
    let (len, transport, partial) = {
        let packet = Packet::parse(packet).ok()?;
        if let Header::V4(header) = packet.header()
            && checksum::fold(checksum::sum(header, 0)) != 0xffff
        {
            return None;
        }
        let field = match packet.protocol() {
            6 => Some(16),
            17 => Some(6),
            _ => None,
        };
        (packet.total_len(), packet.transport_offset(), field.filter(|at| is_partial(&packet, *at)))
    };
    let packet = packet.get_mut(..len)?;
    if let Some(field) = partial
        && !checksum::finish_partial(packet, transport, field)
    {
        return None;
    }
    Some(packet)
}

/// Whether the checksum at this place of the upper-layer header is the sum of the pseudo-header alone, which is what Linux
/// leaves there for a device to finish. Should a finished one be the same, finishing it again changes nothing.
fn is_partial(packet: &Packet<'_>, at: usize) -> bool {
    let data = packet.transport();
    let pseudo = checksum::fold(checksum::pseudo_header(packet.header(), packet.protocol(), data.len()));
    data.get(at..at + 2).is_some_and(|field| field == pseudo.to_ne_bytes())
}

/// Where the sealed packet begins in its frame whose plain packet is at `start`, and the plain packet.
pub(crate) fn inner_at(received: &Received) -> Range<usize> {
    received.start + ETHERNET..received.start + received.len
}

/// Link-layer header toward a host, and the largest packet on its link.
#[derive(Clone, Copy)]
struct Way {
    device: u32,
    header: [u8; 12],
    mtu: usize,
}

/// One inbound worker's packets to the LAN's devices.
pub(crate) struct LanTransmit {
    worker: usize,
    frames: Option<Frames>,
    ways: HashMap<IpAddr, Option<Way>>,
    generation: u64,
}

impl LanTransmit {
    /// Of that worker.
    pub(crate) fn new(worker: usize) -> Self {
        Self { worker, frames: None, ways: HashMap::new(), generation: 0 }
    }

    /// Takes an opened packet of `owner`'s, if it is plain and its next hop is known and on one of the devices. False, and
    /// nothing changed, if it is the stack's.
    pub(crate) fn take<M: Memory + ?Sized>(
        &mut self,
        devices: &Arc<Devices>,
        memory: &mut M,
        inner: &Range<usize>,
        owner: u32,
    ) -> bool {
        let frames = match &mut self.frames {
            Some(frames) if Arc::ptr_eq(&frames.devices, devices) => frames,
            other => other.insert(Frames::new(devices.clone(), self.worker)),
        };
        let Ok(packet) = Packet::parse(memory.bytes(inner)) else { return false };
        if !is_plain(packet.bytes()) {
            return false;
        }
        let kind = if packet.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        let (destination, len) = (packet.destination(), packet.total_len());
        let generation = devices.hops.generation();
        if generation != self.generation || self.ways.len() > MOST_HOSTS {
            self.ways.clear();
            self.generation = generation;
        }
        let way = self.ways.entry(destination).or_insert_with(|| {
            let hop = devices.hops.find(Flow { source: None, destination })?;
            let mut header = [0; 12];
            header[..6].copy_from_slice(&hop.destination);
            header[6..].copy_from_slice(&hop.source);
            Some(Way { device: hop.device, header, mtu: hop.mtu as usize })
        });
        let Some(way) = way.filter(|way| len <= way.mtu) else { return false };
        let Some(open) = frames.open() else { return false };
        let Some(device) = open.devices.iter().position(|d| d.index == way.device && d.lan) else {
            return false;
        };
        // From the frame where it is, if that is of the same memory; else by a copy.
        let own = memory.umem().is_some_and(|umem| Arc::ptr_eq(umem, &open.umem));
        let received = match own.then(|| memory.take(inner)).flatten() {
            Some(received) => received,
            None => {
                let Some(mut frame) = frames.frame() else { return false };
                let room =
                    frames.held().and_then(|o| o.umem.bytes_mut(&mut frame).get_mut(START..START + len));
                match (room, memory.bytes(inner).get(..len)) {
                    (Some(room), Some(packet)) => room.copy_from_slice(packet),
                    _ => {
                        frames.spare(frame);
                        return false;
                    }
                }
                Received { frame, start: START, len }
            }
        };
        // ESP's headers were there.
        let Received { mut frame, start, .. } = received;
        let begin = start.saturating_sub(ETHERNET);
        if let Some(open) = frames.held()
            && let Some(bytes) = open.umem.bytes_mut(&mut frame).get_mut(begin..start + len)
            && let Some((header, packet)) = bytes.split_at_mut_checked(ETHERNET)
        {
            header[..12].copy_from_slice(&way.header);
            header[12..].copy_from_slice(&kind);
            // More than 1, as was seen above.
            let _ = decrement_ttl(packet);
        }
        frames.push(device, Received { frame, start: begin, len: ETHERNET + len }, owner);
        true
    }

    /// Whether what was taken should be sent.
    pub(crate) fn is_full(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| frames.queued() >= FULL)
    }

    /// Sends what was taken. What the LAN does not take is lost, and told.
    pub(crate) fn flush(&mut self, lost: &mut dyn FnMut(u32, Reason, u64)) {
        if let Some(frames) = &mut self.frames {
            frames.flush(&mut |owner, _, packets| lost(owner, Reason::LanBusy, packets));
        }
    }
}
