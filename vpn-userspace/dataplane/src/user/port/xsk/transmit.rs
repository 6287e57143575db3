//! Sealed packets in frames, with the kernel's socket for what frames cannot carry.
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use culvert_sys::errno;
use culvert_sys::netlink::Flow;
use culvert_sys::xsk::{BATCH, Frame, Received};

use super::header::{self, Header};
use super::{Open, XskPath};
use crate::user::counters::Reason;
use crate::user::port::socket::SocketTransmit;
use crate::user::port::{Route, WanTransmit};

/// Where in a frame a sealed packet begins: behind the longest headers, on a cache line.
const START: usize = 128;
const _: () = assert!(START >= header::LONGEST);
/// Packets from which on they are sent.
const FULL: usize = 256;
/// Peers whose headers are remembered.
const MOST_HEADERS: usize = 4096;
/// How often a busy device is asked again, and after how long the first time; each wait is longer, to 5 ms.
const WAITS: u32 = 30;
const FIRST_WAIT: Duration = Duration::from_micros(20);
const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// Packets on their way to one device's queue.
#[derive(Default)]
struct Waiting {
    packets: VecDeque<Received>,
    owners: VecDeque<u32>,
}

/// One worker's port of an [`XskPath`].
pub(crate) struct XskTransmit {
    path: XskPath,
    kernel: SocketTransmit,
    /// Which of a device's queues it sends by.
    number: usize,
    /// Held while there is something in frames of its memory.
    open: Option<Arc<Open>>,
    spare: Vec<Frame>,
    /// The frame of the slot that was given last; `None`: it was the socket's.
    slot: Option<Frame>,
    /// By the devices of `open`.
    waiting: Vec<Waiting>,
    queued: usize,
    headers: HashMap<Route, Option<Header>>,
    generation: u64,
    id: u16,
    /// Whose packets found no room in the socket's buffer.
    squeezed: Vec<u32>,
}

impl XskTransmit {
    pub(crate) fn new(path: XskPath) -> Self {
        Self {
            kernel: SocketTransmit::new(path.socket.clone()),
            number: path.devices.port(),
            path,
            open: None,
            spare: Vec::with_capacity(BATCH),
            slot: None,
            waiting: Vec::new(),
            queued: 0,
            headers: HashMap::new(),
            generation: 0,
            id: 0,
            squeezed: Vec::new(),
        }
    }

    pub(crate) fn is_of(&self, path: &XskPath) -> bool {
        self.path.is(path)
    }

    /// A frame for the next packet, in [`Self::slot`]; false if there is none, or it is too small.
    fn frame(&mut self, need: usize) -> bool {
        if self.open.is_none() {
            self.open = self.path.devices.current();
            let devices = self.open.as_ref().map_or(0, |open| open.devices.len());
            self.waiting.resize_with(devices, Waiting::default);
        }
        let Some(open) = &self.open else { return false };
        if START + need > open.umem.frame_size() {
            return false;
        }
        if self.slot.is_none() {
            if self.spare.is_empty() && open.umem.take(BATCH, &mut self.spare) == 0 {
                open.devices.iter().flat_map(|d| &d.queues).for_each(|queue| queue.reclaim());
                open.umem.take(BATCH, &mut self.spare);
            }
            self.slot = self.spare.pop();
        }
        self.slot.is_some()
    }

    /// The headers toward a peer; `None` while there is no way by AF_XDP.
    fn header(&mut self, route: &Route) -> Option<&Header> {
        let generation = self.path.devices.hops.generation();
        if generation != self.generation || self.headers.len() > MOST_HEADERS {
            self.headers.clear();
            self.generation = generation;
        }
        let path = &self.path;
        let header = self.headers.entry(*route).or_insert_with(|| {
            let flow = Flow { source: Some(route.local), destination: route.remote.ip() };
            let hop = path.devices.hops.find(flow)?;
            let port = path.socket.local().port();
            Header::new(hop, route.local, port, route.remote, path.dont_fragment)
        });
        header.as_ref()
    }

    /// Puts headers before the packet in the frame: the device of `open` that it leaves by, and where it begins.
    fn address(&mut self, frame: &mut Frame, len: usize, tos: u8, route: &Route) -> Option<(usize, usize)> {
        self.id = self.id.wrapping_add(1);
        let id = if self.path.dont_fragment { 0 } else { self.id };
        let open = self.open.take()?;
        let begin = self.header(route).filter(|h| h.fits(len) && !route.may_fragment).and_then(|header| {
            let device = open.devices.iter().position(|d| d.index == header.device())?;
            Some((device, header.write(open.umem.bytes_mut(frame), START, len, tos, id)?))
        });
        self.open = Some(open);
        begin
    }

    /// Sends a device's packets. What it does not take in time is lost.
    fn send(&mut self, device: usize, open: &Open, lost: &mut dyn FnMut(u32, Reason, u64)) {
        let Some(queues) = open.devices.get(device).map(|d| &d.queues) else { return };
        let Waiting { packets, owners } = &mut self.waiting[device];
        let Some(queue) = queues.get(self.number % queues.len().max(1)).filter(|_| !packets.is_empty())
        else {
            return;
        };
        let mut wait = FIRST_WAIT;
        let mut waits = 0;
        let reason = loop {
            queue.enqueue(packets);
            match queue.send() {
                Ok(true) if packets.is_empty() => break None,
                Ok(true) => {}
                Ok(false) if waits < WAITS => {
                    // A device with a queue discipline says when it is full, and has no other way to say when not.
                    waits += 1;
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                // What is in the ring leaves with the next packets.
                Ok(false) => break Some(Reason::WanBusy),
                Err(error) => break Some(reason_of(&error)),
            }
        };
        if let Some(reason) = reason {
            let sent = owners.len() - packets.len();
            owners.drain(..sent);
            owners.drain(..).for_each(|owner| lost(owner, reason, 1));
            open.umem.give(packets.drain(..).map(|p| p.frame));
        }
        owners.clear();
    }
}

impl WanTransmit for XskTransmit {
    #[inline]
    fn is_full(&self) -> bool {
        self.queued >= FULL || self.kernel.is_full()
    }

    #[inline]
    fn is_empty(&self) -> bool {
        // Also with nothing in its frames: whoever holds the devices keeps them from being opened anew.
        self.open.is_none() && self.kernel.is_empty() && self.squeezed.is_empty()
    }

    #[inline]
    fn slot(&mut self, need: usize) -> Option<&mut [u8]> {
        if !self.frame(need) {
            if let (Some(frame), Some(_)) = (self.slot.take(), &self.open) {
                self.spare.push(frame);
            }
            return self.kernel.slot(need);
        }
        let (open, frame) = (self.open.as_ref()?, self.slot.as_mut()?);
        open.umem.bytes_mut(frame).get_mut(START..)
    }

    #[inline]
    fn commit(&mut self, len: usize, tos: u8, route: &Route, owner: u32) {
        let Some(mut frame) = self.slot.take() else {
            self.kernel.commit(len, tos, route, owner);
            return;
        };
        if let Some((device, start)) = self.address(&mut frame, len, tos, route) {
            let waiting = &mut self.waiting[device];
            waiting.packets.push_back(Received { frame, start, len: START + len - start });
            waiting.owners.push_back(owner);
            self.queued += 1;
            return;
        }
        let sealed = self.open.as_ref().and_then(|o| o.umem.bytes(&frame).get(START..START + len));
        match (sealed, self.kernel.slot(len).and_then(|room| room.get_mut(..len))) {
            (Some(sealed), Some(room)) => {
                room.copy_from_slice(sealed);
                self.kernel.commit(len, tos, route, owner);
            }
            _ => self.squeezed.push(owner),
        }
        self.spare.push(frame);
    }

    fn flush(&mut self, lost: &mut dyn FnMut(u32, Reason, u64)) {
        self.squeezed.drain(..).for_each(|owner| lost(owner, Reason::WanBusy, 1));
        if let Some(open) = self.open.take() {
            for device in 0..self.waiting.len() {
                self.send(device, &open, lost);
            }
            self.queued = 0;
            open.umem.give(self.spare.drain(..).chain(self.slot.take()));
        }
        if !self.kernel.is_empty() {
            self.kernel.flush(lost);
        }
    }
}

fn reason_of(error: &io::Error) -> Reason {
    match error.raw_os_error().unwrap_or(0) {
        errno::ENETDOWN | errno::ENXIO => Reason::WanUnreachable,
        errno::ENOBUFS => Reason::WanQueueFull,
        _ => Reason::WanError,
    }
}
