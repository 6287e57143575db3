//! Packets that the guard redirected, as a batch of datagrams that are opened in the frames where they are.
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use culvert_sys::batch::Datagram;
use culvert_sys::wan::{PathError, WanKind};
use culvert_sys::xsk::{BATCH, Frame, Received, Receiver, Umem, outer};

use crate::user::port::WanReceive;
use crate::user::port::memory::Memory;

/// Bits of a range that say where in its frame a packet is; those above are the frame's place in the batch.
const WITHIN: u32 = 16;

/// The frames of a batch. No slice is ever made of more than one of them: the kernel writes into those beside.
pub(crate) struct FrameBatch {
    umem: Arc<Umem>,
    frames: Vec<Option<Frame>>,
}

impl FrameBatch {
    /// Which frame a range is of, and where in it.
    #[inline]
    fn place(range: &Range<usize>) -> (usize, Range<usize>) {
        let start = range.start & ((1 << WITHIN) - 1);
        (range.start >> WITHIN, start..start + range.len())
    }
}

impl Memory for FrameBatch {
    #[inline]
    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        let (index, range) = Self::place(range);
        let frame = self.frames.get(index).and_then(Option::as_ref);
        frame.and_then(|frame| self.umem.bytes(frame).get(range)).unwrap_or_default()
    }

    #[inline]
    fn bytes_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        let (index, range) = Self::place(range);
        let frame = self.frames.get_mut(index).and_then(Option::as_mut);
        frame.and_then(|frame| self.umem.bytes_mut(frame).get_mut(range)).unwrap_or_default()
    }

    fn umem(&self) -> Option<&Arc<Umem>> {
        Some(&self.umem)
    }

    fn take(&mut self, range: &Range<usize>) -> Option<Received> {
        let (index, Range { start, end }) = Self::place(range);
        let frame = self.frames.get_mut(index)?.take()?;
        Some(Received { frame, start, len: end - start })
    }
}

/// One worker's packets of one queue.
pub(crate) struct XskReceive {
    receiver: Receiver,
    local: SocketAddr,
    packets: Vec<Received>,
    batch: FrameBatch,
    datagrams: Vec<Datagram>,
}

impl XskReceive {
    pub(crate) fn new(receiver: Receiver) -> Self {
        Self {
            // Of no interest: what comes here is ESP alone.
            local: SocketAddr::from(([0; 4], 0)),
            packets: Vec::with_capacity(BATCH),
            batch: FrameBatch { umem: receiver.queue().umem().clone(), frames: Vec::with_capacity(BATCH) },
            datagrams: Vec::with_capacity(BATCH),
            receiver,
        }
    }
}

impl WanReceive for XskReceive {
    type Memory = FrameBatch;

    fn kind(&self) -> WanKind {
        WanKind::Esp
    }

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn receive(&mut self) -> io::Result<bool> {
        let Self { receiver, packets, batch, datagrams, .. } = self;
        datagrams.clear();
        let taken = receiver.receive(BATCH, packets);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for Received { frame, start, len } in packets.drain(..) {
            let bytes = batch.umem.bytes(&frame).get(start..start + len);
            // The guard found ESP in it. Were there none, it would be nobody's.
            if let Some(esp) = bytes.and_then(outer) {
                let segment = esp.len;
                let start = batch.frames.len() << WITHIN | (start + esp.start);
                let (from, tos) = (esp.from, esp.tos);
                datagrams.push(Datagram { start, len: esp.len, segment, from, tos, truncated: false });
            }
            batch.frames.push(Some(frame));
        }
        Ok(taken == BATCH)
    }

    fn parts(&mut self) -> (&mut FrameBatch, &[Datagram]) {
        (&mut self.batch, &self.datagrams)
    }

    fn release(&mut self) {
        self.receiver.give_back(self.batch.frames.drain(..).flatten());
    }

    fn path_errors(&self) -> Vec<PathError> {
        // The path's answers come to the sockets of the same address.
        Vec::new()
    }
}

impl AsFd for XskReceive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
