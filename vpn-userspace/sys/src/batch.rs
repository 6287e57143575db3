//! Many datagrams by one system call: sendmmsg with UDP_SEGMENT, recvmmsg with UDP_GRO.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use crate::address::RawAddress;
use crate::wan::{WanKind, WanSocket};

/// Most datagrams or trains per system call.
pub const BATCH: usize = 64;
/// Most segments of a train (UDP_MAX_SEGMENTS of Linux before 6.9).
pub const MAX_SEGMENTS: usize = 64;
/// Most bytes of a train: the payload of one UDP datagram over IPv4.
pub const MAX_TRAIN: usize = 65507;

/// Datagrams of one length (the last may be shorter) to one destination, contiguous in a buffer.
#[derive(Debug, Clone)]
pub struct Train {
    /// Where they are in the buffer.
    pub bytes: Range<usize>,
    /// Length of each but the last, in bytes; `bytes.len()` or more for a single datagram.
    pub segment: usize,
    /// Outer TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Where they go; the port is ignored by raw sockets.
    pub to: SocketAddr,
    /// Without DF. Such a train is one datagram.
    pub may_fragment: bool,
}

impl Train {
    /// How many datagrams it is.
    pub fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.segment.max(1)).max(1)
    }
}

// Two control messages of an int each, aligned.
type SendControl = [u64; 8];
// TOS, GRO size and what else the socket may be made to report.
type ReceiveControl = [u64; 16];

/// The arrays that sendmmsg reads. Reused, so that sending allocates nothing.
pub struct SendBatch {
    headers: Vec<libc::mmsghdr>,
    iov: Vec<libc::iovec>,
    control: Vec<SendControl>,
    names: Vec<RawAddress>,
}

// SAFETY: the pointers in the arrays are written anew by each `send` before the kernel reads them,
// and are never followed outside of it.
unsafe impl Send for SendBatch {}

impl Default for SendBatch {
    fn default() -> Self {
        Self {
            headers: vec![zeroed_header(); BATCH],
            iov: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            control: vec![[0; 8]; BATCH],
            names: vec![RawAddress::unspecified(); BATCH],
        }
    }
}

impl SendBatch {
    /// Sends trains in order, at most [`BATCH`] of them and with DF or without it all; says how many went. An error
    /// concerns the first.
    pub fn send(&mut self, socket: &WanSocket, buf: &[u8], trains: &[Train]) -> io::Result<usize> {
        let Some(may_fragment) = trains.first().map(|t| t.may_fragment) else { return Ok(0) };
        let mut count = 0;
        let v4 = socket.local().is_ipv4();
        for (i, train) in trains.iter().take(BATCH).enumerate() {
            if train.may_fragment != may_fragment {
                break;
            }
            count = i + 1;
            let bytes = buf.get(train.bytes.clone()).ok_or(io::ErrorKind::InvalidInput)?;
            let (name, name_len) = match (socket.kind(), train.to) {
                // A raw IPv6 socket reads the port as a protocol and refuses any but its own.
                (WanKind::Esp, mut to) => {
                    to.set_port(0);
                    RawAddress::new(to)
                }
                (WanKind::Udp, to) => RawAddress::new(to),
            };
            self.names[i] = name;
            self.iov[i] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let mut control = ControlWriter { buf: &mut self.control[i], used: 0 };
            if bytes.len() > train.segment {
                control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &(train.segment as u16).to_ne_bytes());
            }
            if train.tos != 0 {
                let (level, name) =
                    if v4 { (libc::SOL_IP, libc::IP_TOS) } else { (libc::SOL_IPV6, libc::IPV6_TCLASS) };
                control.push(level, name, &i32::from(train.tos).to_ne_bytes());
            }
            let used = control.used;
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = name_len;
            header.msg_iov = &raw mut self.iov[i];
            header.msg_iovlen = 1;
            header.msg_control =
                if used == 0 { std::ptr::null_mut() } else { self.control[i].as_mut_ptr().cast() };
            header.msg_controllen = used as _;
        }
        let (fd, headers) = (socket.as_fd().as_raw_fd(), self.headers.as_mut_ptr());
        // SAFETY: the first `count` headers were filled above and point into `buf` and into our own
        // arrays, all of which outlive the call; the kernel writes only msg_len.
        let call = || match unsafe { libc::sendmmsg(fd, headers, count as u32, libc::MSG_NOSIGNAL) } {
            sent @ 0.. => Ok(sent as usize),
            _ => Err(io::Error::last_os_error()),
        };
        if may_fragment { socket.without_df(call) } else { call() }
    }
}

/// Lays control messages one after the other.
struct ControlWriter<'a> {
    buf: &'a mut SendControl,
    used: usize,
}

impl ControlWriter<'_> {
    /// Appends one of at most eight bytes; two of them fit.
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        // SAFETY: CMSG_LEN and CMSG_SPACE only compute.
        let (len, space) =
            unsafe { (libc::CMSG_LEN(data.len() as u32), libc::CMSG_SPACE(data.len() as u32) as usize) };
        assert!(data.len() <= 8 && self.used + space <= size_of_val(self.buf));
        // SAFETY: the assertion holds the whole message inside the buffer, which is aligned for a cmsghdr.
        unsafe {
            let c = self.buf.as_mut_ptr().cast::<u8>().add(self.used).cast::<libc::cmsghdr>();
            (*c).cmsg_level = level;
            (*c).cmsg_type = kind;
            (*c).cmsg_len = len as _;
            std::ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(c), data.len());
        }
        self.used += space;
    }
}

/// One datagram that arrived, or several of one sender that the kernel joined (UDP_GRO).
#[derive(Debug, Clone, Copy)]
pub struct Datagram {
    /// Where its bytes start in the batch's buffer.
    pub start: usize,
    /// All bytes.
    pub len: usize,
    /// Length of each joined datagram but the last; `len` for a single one.
    pub segment: usize,
    /// Who sent it; port 0 for raw ESP.
    pub from: SocketAddr,
    /// Outer TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// It was longer than a slot and has lost its end.
    pub truncated: bool,
}

/// A buffer of slots that recvmmsg fills. Reused, so that receiving allocates nothing.
pub struct ReceiveBatch {
    buf: Vec<u8>,
    slots: usize,
    headers: Vec<libc::mmsghdr>,
    iov: Vec<libc::iovec>,
    control: Vec<ReceiveControl>,
    names: Vec<RawAddress>,
    datagrams: Vec<Datagram>,
}

/// Bytes of a slot: the longest UDP datagram or IP packet.
const SLOT: usize = 65536;
/// Slots are that far apart, so that the start of each falls into other cache sets than its neighbour's.
const STRIDE: usize = SLOT + 33 * 64;

// SAFETY: as for `SendBatch`: the pointers are written anew by each `receive` before they are used.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// A batch of that many 64 KB slots, at most [`BATCH`].
    pub fn new(slots: usize) -> Self {
        let slots = slots.clamp(1, BATCH);
        Self {
            buf: vec![0; slots * STRIDE],
            slots,
            headers: vec![zeroed_header(); slots],
            iov: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; slots],
            control: vec![[0; 16]; slots],
            names: vec![RawAddress::unspecified(); slots],
            datagrams: Vec::with_capacity(slots),
        }
    }

    /// Receives what has arrived, at most one slot each; `WouldBlock` when nothing has. What an
    /// earlier call received is gone.
    pub fn receive(&mut self, socket: &WanSocket) -> io::Result<usize> {
        self.datagrams.clear();
        let base = self.buf.as_mut_ptr();
        for i in 0..self.slots {
            // SAFETY: the buffer holds `slots` strides, and a slot is not longer than a stride.
            let start = unsafe { base.add(i * STRIDE) };
            self.iov[i] = libc::iovec { iov_base: start.cast(), iov_len: SLOT };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = RawAddress::SIZE;
            header.msg_iov = &raw mut self.iov[i];
            header.msg_iovlen = 1;
            header.msg_control = self.control[i].as_mut_ptr().cast();
            header.msg_controllen = size_of::<ReceiveControl>() as _;
        }
        // SAFETY: every header points to a slot, a name and a control buffer of its own, all of
        // which are ours, writable, of the given lengths, and outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.slots as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        let received = received as usize;
        for i in 0..received {
            let header = &self.headers[i];
            let mut datagram = Datagram {
                start: i * STRIDE,
                len: (header.msg_len as usize).min(SLOT),
                segment: 0,
                from: self.names[i].get(),
                tos: 0,
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            };
            read_control(&header.msg_hdr, &mut datagram);
            if socket.kind() == WanKind::Esp {
                // A raw IPv4 socket shows the IP header, a raw IPv6 socket does not.
                if socket.local().is_ipv4() {
                    let ip_header = usize::from(self.buf[datagram.start] & 15) * 4;
                    let skip = ip_header.min(datagram.len);
                    datagram.start += skip;
                    datagram.len -= skip;
                }
                datagram.from.set_port(0);
            }
            if datagram.segment == 0 {
                datagram.segment = datagram.len.max(1);
            }
            self.datagrams.push(datagram);
        }
        Ok(received)
    }

    /// The buffer, to open packets in place, and what was received into it.
    pub fn parts(&mut self) -> (&mut [u8], &[Datagram]) {
        (&mut self.buf, &self.datagrams)
    }
}

fn read_control(header: &libc::msghdr, datagram: &mut Datagram) {
    // SAFETY: the kernel filled the control buffer and set its length; the CMSG_ functions stay
    // inside it, and the data is read unaligned only where its length was checked.
    unsafe {
        let mut c = libc::CMSG_FIRSTHDR(header);
        while !c.is_null() {
            let data = libc::CMSG_DATA(c);
            let has = |n: u32| (*c).cmsg_len as usize >= libc::CMSG_LEN(n) as usize;
            match ((*c).cmsg_level, (*c).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) if has(4) => {
                    datagram.segment = data.cast::<i32>().read_unaligned().max(0) as usize;
                }
                (libc::SOL_IP, libc::IP_TOS) if has(1) => datagram.tos = *data,
                (libc::SOL_IPV6, libc::IPV6_TCLASS) if has(4) => {
                    datagram.tos = data.cast::<i32>().read_unaligned() as u8;
                }
                _ => {}
            }
            c = libc::CMSG_NXTHDR(header, c);
        }
    }
}

fn zeroed_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is integers and pointers, for which all zeroes are a value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Poller;
    use crate::wan::{WanError, WanOptions};
    use std::time::Duration;

    fn pair(ip: &str) -> (WanSocket, WanSocket) {
        let any = SocketAddr::new(ip.parse().unwrap(), 0);
        // Port 0 lets the kernel choose; the chosen one is asked of a std socket that makes room.
        let free = || std::net::UdpSocket::bind(any).unwrap().local_addr().unwrap();
        let open = || WanSocket::udp(free(), &WanOptions::default()).unwrap();
        (open(), open())
    }

    fn receive_all(socket: &WanSocket, want: usize) -> Vec<(Vec<u8>, SocketAddr, u8)> {
        let (mut batch, mut poller, mut all) = (ReceiveBatch::new(4), Poller::new().unwrap(), Vec::new());
        poller.add(socket, 0).unwrap();
        while all.len() < want && poller.wait(Some(Duration::from_secs(5))).unwrap().count() > 0 {
            let Ok(_) = batch.receive(socket) else { continue };
            let (buf, datagrams) = batch.parts();
            for d in datagrams {
                for packet in buf[d.start..d.start + d.len].chunks(d.segment) {
                    all.push((packet.to_vec(), d.from, d.tos));
                }
            }
        }
        all
    }

    #[test]
    fn trains_arrive_as_their_datagrams_with_tos() {
        for ip in ["127.0.0.1", "::1"] {
            let (a, b) = pair(ip);
            let buf: Vec<u8> = (0..5000u32).map(|i| (i / 7) as u8).collect();
            let trains = [
                Train { bytes: 0..3500, segment: 1000, tos: 0x2a, to: b.local(), may_fragment: false },
                Train { bytes: 3500..3510, segment: 10, tos: 1, to: b.local(), may_fragment: false },
                Train { bytes: 3510..5000, segment: 745, tos: 0, to: b.local(), may_fragment: false },
            ];
            assert_eq!(trains.iter().map(Train::datagrams).collect::<Vec<_>>(), [4, 1, 2]);
            assert_eq!(SendBatch::default().send(&a, &buf, &trains).unwrap(), 3);
            let got = receive_all(&b, 7);
            let want: Vec<_> = trains
                .iter()
                .flat_map(|t| buf[t.bytes.clone()].chunks(t.segment).map(|c| (c.to_vec(), a.local(), t.tos)))
                .collect();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_refused_port_is_reported_and_the_socket_lives_on() {
        let (a, b) = pair("127.0.0.1");
        let gone = b.local();
        drop(b);
        a.send_parts(gone, [b"x", b"y"], true).unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&a, 0).unwrap();
        assert!(poller.wait(Some(Duration::from_secs(5))).unwrap().any(|r| r.error));
        let errors = a.path_errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!((errors[0].to, errors[0].errno), (gone, libc::ECONNREFUSED));
        // The pending error does not eat the next datagram.
        a.send_parts(a.local(), [b"x", b"y"], false).unwrap();
        assert_eq!(receive_all(&a, 1)[0].0, b"xy");
    }

    #[test]
    fn a_taken_port_is_named() {
        let (a, _b) = pair("127.0.0.1");
        for share_port in [false, true] {
            let options = WanOptions { share_port, ..WanOptions::default() };
            let error = WanSocket::udp(a.local(), &options).unwrap_err();
            assert!(matches!(error, WanError::PortTaken { port, .. } if port == a.local().port()));
            assert!(error.to_string().contains("is taken by another program"));
        }
        let error = WanSocket::udp("192.0.2.77:4500".parse().unwrap(), &WanOptions::default()).unwrap_err();
        assert!(matches!(error, WanError::NoSuchAddress(_)), "{error}");
    }

    #[test]
    fn trains_outside_the_buffer_are_refused() {
        let (a, b) = pair("127.0.0.1");
        let trains = [Train { bytes: 0..11, segment: 11, tos: 0, to: b.local(), may_fragment: false }];
        let error = SendBatch::default().send(&a, &[0; 10], &trains).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
