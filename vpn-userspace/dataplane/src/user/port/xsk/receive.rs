//! Packets that the guard redirected, as a batch of datagrams.
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use culvert_sys::batch::Datagram;
use culvert_sys::wan::{PathError, WanKind};
use culvert_sys::xsk::{BATCH, Received, Receiver, outer};

use crate::user::port::WanReceive;

/// One worker's packets of one queue.
pub(crate) struct XskReceive {
    receiver: Receiver,
    local: SocketAddr,
    packets: Vec<Received>,
    buf: Vec<u8>,
    datagrams: Vec<Datagram>,
}

impl XskReceive {
    pub(crate) fn new(receiver: Receiver) -> Self {
        let frame = receiver.queue().umem().frame_size();
        Self {
            receiver,
            // Of no interest: what comes here is ESP alone.
            local: SocketAddr::from(([0; 4], 0)),
            packets: Vec::with_capacity(BATCH),
            buf: vec![0; BATCH * frame],
            datagrams: Vec::with_capacity(BATCH),
        }
    }
}

impl WanReceive for XskReceive {
    fn kind(&self) -> WanKind {
        WanKind::Esp
    }

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn receive(&mut self) -> io::Result<bool> {
        let Self { receiver, packets, buf, datagrams, .. } = self;
        datagrams.clear();
        let taken = receiver.receive(BATCH, packets);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let umem = receiver.queue().umem();
        let mut used = 0;
        for packet in packets.iter() {
            let frame = umem.bytes(&packet.frame).get(packet.start..packet.start + packet.len);
            // The guard found ESP in it. Were there none, it would be nobody's.
            let Some((frame, esp)) = frame.and_then(|f| Some((f, outer(f)?))) else { continue };
            let Some(room) = buf.get_mut(used..used + esp.len) else { continue };
            let Some(bytes) = frame.get(esp.start..esp.start + esp.len) else { continue };
            room.copy_from_slice(bytes);
            datagrams.push(Datagram {
                start: used,
                len: esp.len,
                segment: esp.len,
                from: esp.from,
                tos: esp.tos,
                truncated: false,
            });
            // Packets begin on a boundary that ciphers like.
            used += esp.len.next_multiple_of(16);
        }
        receiver.give_back(packets.drain(..).map(|p| p.frame));
        Ok(taken == BATCH)
    }

    fn parts(&mut self) -> (&mut [u8], &[Datagram]) {
        (&mut self.buf, &self.datagrams)
    }

    fn release(&mut self) {}

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
