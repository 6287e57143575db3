//! Sealed packets in frames, with the kernel's socket for what frames cannot carry.
use std::collections::HashMap;
use std::sync::Arc;

use culvert_sys::netlink::Flow;
use culvert_sys::xsk::{Frame, Received, Umem};

use super::frames::Frames;
use super::header::{self, Header};
use super::{START, XskPath};
use crate::user::counters::Reason;
use crate::user::port::socket::SocketTransmit;
use crate::user::port::{Route, WanTransmit};

/// Packets from which on they are sent.
const FULL: usize = 256;
/// Peers whose headers are remembered.
const MOST_HEADERS: usize = 4096;

/// One worker's port of an [`XskPath`].
pub(crate) struct XskTransmit {
    path: XskPath,
    kernel: SocketTransmit,
    frames: Frames,
    /// The frame of the slot that was given last, and where in it the slot begins; `None`: it was the socket's.
    slot: Option<(Frame, usize)>,
    headers: HashMap<Route, Option<Header>>,
    generation: u64,
    id: u16,
    /// Whose packets found no room in the socket's buffer.
    squeezed: Vec<u32>,
}

impl XskTransmit {
    pub(crate) fn new(path: XskPath, worker: usize) -> Self {
        Self {
            kernel: SocketTransmit::new(path.socket.clone()),
            frames: Frames::new(path.devices.clone(), worker),
            path,
            slot: None,
            headers: HashMap::new(),
            generation: 0,
            id: 0,
            squeezed: Vec::new(),
        }
    }

    pub(crate) fn is_of(&self, path: &XskPath) -> bool {
        self.path.is(path)
    }

    /// A slot in a frame that is the packet's already, from `start` on; the frame itself, if it is of other memory or has no
    /// room for headers before, and `need` bytes behind that.
    #[inline]
    pub(crate) fn lend(
        &mut self,
        umem: &Arc<Umem>,
        frame: Frame,
        start: usize,
        need: usize,
    ) -> Result<&mut [u8], Frame> {
        let fits = start >= header::LONGEST && start + need <= umem.frame_size();
        if !self.frames.open().is_some_and(|open| fits && Arc::ptr_eq(&open.umem, umem)) {
            return Err(frame);
        }
        if let Some((unused, _)) = self.slot.replace((frame, start)) {
            self.frames.spare(unused);
        }
        Ok(self.slot_bytes().unwrap_or_default())
    }

    /// A frame for the next packet, in [`Self::slot`]; false if there is none, or it is too small.
    fn frame(&mut self, need: usize) -> bool {
        let fits = |open: &Arc<super::Open>| START + need <= open.umem.frame_size();
        if !self.frames.open().is_some_and(fits) {
            return false;
        }
        let frame = match self.slot.take() {
            Some((frame, _)) => Some(frame),
            None => self.frames.frame(),
        };
        self.slot = frame.map(|frame| (frame, START));
        self.slot.is_some()
    }

    /// Puts headers before the packet in the frame: by which of the open devices it leaves, and where it begins. `None`
    /// while there is no way by AF_XDP.
    fn address(
        &mut self,
        (frame, start): (&mut Frame, usize),
        len: usize,
        tos: u8,
        route: &Route,
    ) -> Option<(usize, usize)> {
        let Self { path, frames, headers, generation, id, .. } = self;
        let now = path.devices.hops.generation();
        if now != *generation || headers.len() > MOST_HEADERS {
            headers.clear();
            *generation = now;
        }
        let header = headers.entry(*route).or_insert_with(|| {
            let flow = Flow { source: Some(route.local), destination: route.remote.ip() };
            let hop = path.devices.hops.find(flow)?;
            let port = path.socket.local().port();
            Header::new(hop, route.local, port, route.remote, path.dont_fragment)
        });
        let header = header.as_ref().filter(|h| h.fits(len) && !route.may_fragment)?;
        let open = frames.held()?;
        let device = open.devices.iter().position(|d| d.index == header.device())?;
        *id = id.wrapping_add(1);
        let id = if path.dont_fragment { 0 } else { *id };
        Some((device, header.write(open.umem.bytes_mut(frame), start, len, tos, id)?))
    }

    #[inline]
    fn slot_bytes(&mut self) -> Option<&mut [u8]> {
        let (open, (frame, start)) = (self.frames.held()?, self.slot.as_mut()?);
        open.umem.bytes_mut(frame).get_mut(*start..)
    }
}

impl WanTransmit for XskTransmit {
    #[inline]
    fn is_full(&self) -> bool {
        self.frames.queued() >= FULL || self.kernel.is_full()
    }

    #[inline]
    fn is_empty(&self) -> bool {
        // Also with nothing in its frames: whoever holds the devices keeps them from being opened anew.
        self.frames.held().is_none() && self.kernel.is_empty() && self.squeezed.is_empty()
    }

    #[inline]
    fn slot(&mut self, need: usize) -> Option<&mut [u8]> {
        if !self.frame(need) {
            return self.kernel.slot(need);
        }
        self.slot_bytes()
    }

    #[inline]
    fn commit(&mut self, len: usize, tos: u8, route: &Route, owner: u32) {
        let Some((mut frame, at)) = self.slot.take() else {
            self.kernel.commit(len, tos, route, owner);
            return;
        };
        if let Some((device, start)) = self.address((&mut frame, at), len, tos, route) {
            self.frames.push(device, Received { frame, start, len: at + len - start }, owner);
            return;
        }
        let sealed = self.frames.held().and_then(|o| o.umem.bytes(&frame).get(at..at + len));
        match (sealed, self.kernel.slot(len).and_then(|room| room.get_mut(..len))) {
            (Some(sealed), Some(room)) => {
                room.copy_from_slice(sealed);
                self.kernel.commit(len, tos, route, owner);
            }
            _ => self.squeezed.push(owner),
        }
        self.frames.spare(frame);
    }

    fn flush(&mut self, lost: &mut dyn FnMut(u32, Reason, u64)) {
        self.squeezed.drain(..).for_each(|owner| lost(owner, Reason::WanBusy, 1));
        if let Some((frame, _)) = self.slot.take() {
            self.frames.spare(frame);
        }
        self.frames.flush(lost);
        if !self.kernel.is_empty() {
            self.kernel.flush(lost);
        }
    }
}
