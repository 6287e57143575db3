//! One blocking NETLINK_XFRM socket: requests, dumps, and buffers that are wiped after use.

use crate::lock::Mutex;
use std::io;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use zeroize::{Zeroize, Zeroizing};

use crate::netlink::{KernelError, NetlinkError};

pub(super) const ACK: u16 = libc::NLM_F_ACK as u16;
pub(super) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(super) const EXCL: u16 = libc::NLM_F_EXCL as u16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const DUMP_INTERRUPTED: u16 = 0x10; // NLM_F_DUMP_INTR

const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
const HEADER_LEN: usize = 16;

/// The kernel packs a dump into messages of at most 32 KiB.
const BUFFER_LEN: usize = 64 << 10;
/// The kernel answers before the send returns; this only bounds a fault.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A dump that changes under way is begun anew, so often at most.
const DUMP_ATTEMPTS: usize = 5;

pub(super) struct XfrmSocket {
    inner: Mutex<Inner>,
}

struct Inner {
    socket: Socket,
    sequence: u32,
    buffer: Zeroizing<Vec<u8>>,
}

/// A failure that does not know yet what was asked.
pub(super) enum Failure {
    Kernel(KernelError),
    Io(io::Error),
    Answer(&'static str),
}

impl Failure {
    pub(super) fn named(self, action: impl FnOnce() -> String) -> NetlinkError {
        match self {
            Self::Kernel(reason) => NetlinkError::refused(action(), reason),
            Self::Io(e) => NetlinkError::broken(action(), e),
            Self::Answer(what) => NetlinkError::broken(action(), what),
        }
    }
}

pub(super) fn open(groups: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_XFRM)?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?; // errors do not echo the request and its keys
    socket.bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

impl XfrmSocket {
    pub(super) fn open(groups: u32) -> Result<Self, NetlinkError> {
        let socket = open(groups).map_err(NetlinkError::Socket)?;
        let timeout = TimeVal::new(ANSWER_TIMEOUT.as_secs() as i64, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).map_err(|e| NetlinkError::Socket(e.into()))?;
        let buffer = Zeroizing::new(vec![0; BUFFER_LEN]);
        Ok(Self { inner: Mutex::new(Inner { socket, sequence: 0, buffer }) })
    }

    /// Sends a request and hands every message of the answer to `on_message` (type, body).
    pub(super) fn request(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut on_message: impl FnMut(u16, &[u8]),
    ) -> Result<(), Failure> {
        let mut inner = self.inner.lock();
        inner.exchange(kind, REQUEST | flags, body, &mut on_message).map(|_| ())
    }

    /// Lists objects: every message of the answer that `parse` (type, body) makes something of.
    pub(super) fn dump<T>(
        &self,
        kind: u16,
        body: &[u8],
        parse: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let mut inner = self.inner.lock();
        for _ in 0..DUMP_ATTEMPTS {
            let mut objects = Vec::new();
            let interrupted = inner
                .exchange(kind, REQUEST | DUMP, body, &mut |kind, body| objects.extend(parse(kind, body)))?;
            if !interrupted {
                return Ok(objects);
            }
        }
        Err(Failure::Answer("the list kept changing while it was read"))
    }
}

impl Inner {
    /// Whether the answer was an interrupted dump.
    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        on_message: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<bool, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        // Allocated at full size: growth would leave a copy of the keys behind.
        let mut message = Zeroizing::new(Vec::with_capacity(HEADER_LEN + body.len()));
        message.extend_from_slice(&((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        self.socket.send_to(&message, &SocketAddr::new(0, 0), 0).map_err(Failure::Io)?;

        // A single object is answered by itself, everything else by an ACK or the end of the list.
        let until_end = flags & (ACK | libc::NLM_F_ROOT as u16) != 0;
        let mut interrupted = false;
        loop {
            let length = loop {
                match self.socket.recv(&mut &mut self.buffer[..], 0) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other.map_err(Failure::Io)?,
                }
            };
            let mut finished = None;
            for (header, body) in messages(self.buffer.get(..length).unwrap_or_default()) {
                if header.sequence != sequence {
                    continue; // the late answer to a request that timed out
                }
                interrupted |= header.flags & DUMP_INTERRUPTED != 0;
                match header.kind {
                    ERROR => finished = Some(error_of(body)),
                    DONE => finished = Some(done_of(body)),
                    kind => {
                        on_message(kind, body);
                        if !until_end {
                            finished = Some(Ok(()));
                        }
                    }
                }
            }
            if let Some(used) = self.buffer.get_mut(..length) {
                used.zeroize(); // descriptions of SAs carry their keys
            }
            if let Some(result) = finished {
                return result.map(|()| interrupted);
            }
        }
    }
}

pub(super) struct Header {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
}

/// Walks the netlink messages of a datagram; stops at the first whose length cannot be.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER_LEN>()?;
        let word =
            |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let half =
            |at: usize| header.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes);
        let length = word(0) as usize;
        let body = rest.get(HEADER_LEN..length)?;
        let parsed = Header { kind: half(4), flags: half(6), sequence: word(8) };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((parsed, body))
    })
}

fn error_of(body: &[u8]) -> Result<(), Failure> {
    let Some((code, rest)) = body.split_first_chunk::<4>() else {
        return Err(Failure::Answer("the kernel's error message is too short"));
    };
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(Failure::Kernel(KernelError::parse(code, rest))),
    }
}

fn done_of(body: &[u8]) -> Result<(), Failure> {
    match body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
        Some(code) if code < 0 => Err(Failure::Kernel(KernelError::new(code, None))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32, kind: u16, body: &[u8]) -> Vec<u8> {
        let mut v = length.to_ne_bytes().to_vec();
        v.extend_from_slice(&kind.to_ne_bytes());
        v.extend_from_slice(&[0; 10]);
        v.extend_from_slice(body);
        v
    }

    #[test]
    fn messages_are_aligned_and_lengths_are_not_trusted() {
        let mut datagram = message(17, 1, &[7, 0, 0, 0]);
        datagram.extend(message(16, 2, &[]));
        let seen: Vec<_> = messages(&datagram).map(|(h, b)| (h.kind, b.to_vec())).collect();
        assert_eq!(seen, [(1, vec![7]), (2, vec![])]);
        for length in [0, 15, 21, u32::MAX] {
            assert_eq!(messages(&message(length, 1, &[1, 2, 3, 4])).count(), 0, "{length}");
        }
        for cut in 0..16 {
            assert_eq!(messages(&datagram[..cut]).count(), 0, "{cut}");
        }
    }
}
