//! Sockets on WAN addresses: UDP 4500 (ESP and IKE, with segmentation offload) and raw ESP (protocol 50).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::address::RawAddress;

/// What a WAN socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WanKind {
    /// UDP datagrams: ESP behind an eight-byte UDP header, IKE behind the non-ESP marker (RFC 3948).
    Udp,
    /// ESP directly over IP (protocol 50).
    Esp,
}

/// How to open a WAN socket.
#[derive(Debug, Clone, Copy)]
pub struct WanOptions {
    /// Socket buffer in bytes, each direction; less is taken without CAP_NET_ADMIN.
    pub buffer: usize,
    /// Set the DF bit of outer IPv4 packets, and send no IPv6 fragments. ICMP "too big" is reported
    /// by [`WanSocket::path_errors`] and not acted on by the kernel, so that a forged one does no lasting harm.
    pub dont_fragment: bool,
    /// Let further sockets of this process join the port (SO_REUSEPORT), for other workers, and for kernel ESP beside ours.
    pub share_port: bool,
    /// Have the kernel cut trains of datagrams (UDP_SEGMENT), if it can.
    pub segmentation: bool,
    /// Take datagrams that the kernel has joined (UDP_GRO), if it does.
    pub receive_offload: bool,
}

impl Default for WanOptions {
    fn default() -> Self {
        Self {
            buffer: 8 << 20,
            dont_fragment: true,
            share_port: false,
            segmentation: true,
            receive_offload: true,
        }
    }
}

/// Why a WAN socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// Another program has the port.
    #[error(
        "UDP port {port} of {address} is taken by another program: stop it (`ss -lunp sport = :{port}` names it; \
         often another IPsec daemon such as charon or pluto)"
    )]
    PortTaken {
        /// The WAN address.
        address: IpAddr,
        /// The UDP port.
        port: u16,
    },
    /// The address is not this host's.
    #[error(
        "{0} is no address of this host: assign it to the WAN interface, or correct `wan` in the configuration"
    )]
    NoSuchAddress(IpAddr),
    /// A privilege is missing.
    #[error("not allowed to open {0}: run as root, or with CAP_NET_RAW and CAP_NET_ADMIN")]
    NotPermitted(&'static str),
    /// The kernel refused something else.
    #[error("{call} for {address}: {source}")]
    Kernel {
        /// The system call, or the socket option.
        call: &'static str,
        /// The local address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An error that the path, or this host's own stack, reported for a packet sent earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathError {
    /// Where the packet was going; port 0 for raw ESP.
    pub to: SocketAddr,
    /// The errno: EMSGSIZE, ECONNREFUSED, EHOSTUNREACH...
    pub errno: i32,
    /// For EMSGSIZE the largest IP packet that passes, in bytes.
    pub mtu: Option<u32>,
}

/// A non-blocking socket bound to one WAN address. Any thread may send; one receives.
#[derive(Debug)]
pub struct WanSocket {
    fd: OwnedFd,
    kind: WanKind,
    local: SocketAddr,
    dont_fragment: bool,
    segmentation: AtomicBool,
}

impl WanSocket {
    /// A UDP socket on a WAN address, by convention port 4500.
    pub fn udp(local: SocketAddr, options: &WanOptions) -> Result<Self, WanError> {
        if options.share_port {
            // Sockets that share a port by SO_REUSEPORT share it with every other program that asks
            // for the same: a socket without it finds out whether the port is free.
            drop(Self::open(WanKind::Udp, local, &WanOptions { share_port: false, ..*options })?);
        }
        Self::open(WanKind::Udp, local, options)
    }

    /// A further socket on the port of one that was opened with `share_port`, of whose group it becomes a member.
    pub fn join(&self, options: &WanOptions) -> Result<Self, WanError> {
        Self::open(self.kind, self.local, &WanOptions { share_port: true, ..*options })
    }

    /// A raw socket for ESP (protocol 50) on a WAN address.
    pub fn esp(local: IpAddr, options: &WanOptions) -> Result<Self, WanError> {
        Self::open(WanKind::Esp, SocketAddr::new(local, 0), options)
    }

    fn open(kind: WanKind, local: SocketAddr, options: &WanOptions) -> Result<Self, WanError> {
        let v4 = local.is_ipv4();
        let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
        let (kind_number, protocol) = match kind {
            WanKind::Udp => (libc::SOCK_DGRAM, 0),
            WanKind::Esp => (libc::SOCK_RAW, libc::IPPROTO_ESP),
        };
        let kernel = |call, source| WanError::Kernel { call, address: local, source };
        // SAFETY: socket takes its arguments by value.
        let fd =
            unsafe { libc::socket(family, kind_number | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => WanError::NotPermitted("a raw ESP socket"),
                _ => kernel("socket", error),
            });
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let segmentation = AtomicBool::new(false);
        let socket = Self { fd, kind, local, dont_fragment: options.dont_fragment, segmentation };

        let require = |call, level, name, value| socket.set(level, name, value).map_err(|e| kernel(call, e));
        if v4 {
            require("IP_RECVERR", libc::SOL_IP, libc::IP_RECVERR, 1)?;
            require("IP_RECVTOS", libc::SOL_IP, libc::IP_RECVTOS, 1)?;
        } else {
            if kind == WanKind::Udp {
                // A raw socket is of one family anyway, and refuses the option.
                require("IPV6_V6ONLY", libc::SOL_IPV6, libc::IPV6_V6ONLY, 1)?;
            }
            require("IPV6_RECVERR", libc::SOL_IPV6, libc::IPV6_RECVERR, 1)?;
            require("IPV6_RECVTCLASS", libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        }
        socket.set_dont_fragment(options.dont_fragment).map_err(|e| kernel("IP_MTU_DISCOVER", e))?;
        let buffer = options.buffer.min(1 << 30) as i32;
        for (force, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            socket
                .set(libc::SOL_SOCKET, force, buffer)
                .or_else(|_| socket.set(libc::SOL_SOCKET, plain, buffer))
                .map_err(|e| kernel("SO_RCVBUF", e))?;
        }
        if options.share_port {
            require("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }

        let (address, len) = RawAddress::new(local);
        // SAFETY: the address outlives the call and `len` is its length.
        if unsafe { libc::bind(socket.fd.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EADDRINUSE) => WanError::PortTaken { address: local.ip(), port: local.port() },
                Some(libc::EADDRNOTAVAIL) => WanError::NoSuchAddress(local.ip()),
                Some(libc::EPERM | libc::EACCES) => WanError::NotPermitted("a privileged UDP port"),
                _ => kernel("bind", error),
            });
        }
        if kind == WanKind::Udp {
            // Both since Linux 5.0; an older or stripped kernel serves without them, slower.
            if options.receive_offload {
                let _ = socket.set(libc::SOL_UDP, libc::UDP_GRO, 1);
            }
            let segments = options.segmentation && socket.set(libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
            socket.segmentation.store(segments, Ordering::Relaxed);
        }
        Ok(socket)
    }

    /// The address and port it is bound to; port 0 for raw ESP.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What it carries.
    pub fn kind(&self) -> WanKind {
        self.kind
    }

    /// Whether the kernel cuts trains of equal datagrams (UDP_SEGMENT).
    pub fn segmentation(&self) -> bool {
        self.segmentation.load(Ordering::Relaxed)
    }

    /// Packets that the kernel dropped because the socket's buffer was full, since it was opened; wraps (SO_MEMINFO, Linux 4.12).
    pub fn receive_drops(&self) -> u32 {
        // SK_MEMINFO_DROPS (linux/sock_diag.h) is the last of nine words.
        const WORDS: usize = 9;
        let mut words = [0u32; WORDS];
        let mut len = size_of_val(&words) as libc::socklen_t;
        // SAFETY: the words and their length are ours, writable and outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                words.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result < 0 { 0 } else { words[WORDS - 1] }
    }

    /// Sends no more trains: the route's device has no checksum offload, without which they fail with EIO.
    pub fn give_up_segmentation(&self) {
        self.segmentation.store(false, Ordering::Relaxed);
    }

    /// Sends one datagram made of two parts, outside every batch. With `may_fragment` it goes without
    /// DF (IKE messages that are larger than the path's MTU).
    pub fn send_parts(&self, to: SocketAddr, parts: [&[u8]; 2], may_fragment: bool) -> io::Result<()> {
        let send = || match self.send_once(to, parts) {
            // The socket reports, once, what happened to an earlier packet; this one was not sent.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::EMSGSIZE)
                ) =>
            {
                self.send_once(to, parts)
            }
            result => result,
        };
        if may_fragment { self.without_df(send) } else { send() }
    }

    /// Sends without DF. Another thread's packets may for a moment go without it too, which harms nobody.
    pub(crate) fn without_df<T>(&self, send: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.dont_fragment {
            return send();
        }
        self.set_dont_fragment(false)?;
        let result = send();
        self.set_dont_fragment(true)?;
        result
    }

    fn send_once(&self, to: SocketAddr, parts: [&[u8]; 2]) -> io::Result<()> {
        let (mut address, len) = RawAddress::new(to);
        let mut iov = parts.map(|p| libc::iovec { iov_base: p.as_ptr().cast_mut().cast(), iov_len: p.len() });
        // SAFETY: msghdr is integers and pointers, for which all zeroes are a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = len;
        message.msg_iov = iov.as_mut_ptr();
        message.msg_iovlen = iov.len() as _;
        // SAFETY: all that the message points to outlives the call, and sendmsg writes none of it.
        match unsafe { libc::sendmsg(self.fd.as_raw_fd(), &message, libc::MSG_NOSIGNAL) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes what the path reported since the last call, at most 64 errors.
    pub fn path_errors(&self) -> Vec<PathError> {
        let mut errors = Vec::new();
        while errors.len() < 64 {
            let mut address = RawAddress::unspecified();
            let mut control = [0u64; 32];
            let mut byte = [0u8; 64];
            let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
            // SAFETY: as in `send_once`.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_name = (&raw mut address).cast();
            message.msg_namelen = RawAddress::SIZE;
            message.msg_iov = &raw mut iov;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            // SAFETY: all that the message points to is ours, writable and outlives the call.
            let received = unsafe {
                libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
            };
            if received < 0 {
                break;
            }
            // SAFETY: the kernel filled the control buffer and set its length; the CMSG_ functions
            // stay inside it, and the data is read unaligned only where its length was checked.
            unsafe {
                let mut c = libc::CMSG_FIRSTHDR(&message);
                while !c.is_null() {
                    let ours = matches!(
                        ((*c).cmsg_level, (*c).cmsg_type),
                        (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
                    );
                    let need = libc::CMSG_LEN(size_of::<libc::sock_extended_err>() as u32) as usize;
                    if ours && (*c).cmsg_len as usize >= need {
                        let e: libc::sock_extended_err =
                            libc::CMSG_DATA(c).cast::<libc::sock_extended_err>().read_unaligned();
                        let errno = e.ee_errno as i32;
                        let mtu = (errno == libc::EMSGSIZE).then_some(e.ee_info);
                        errors.push(PathError { to: address.get(), errno, mtu });
                    }
                    c = libc::CMSG_NXTHDR(&message, c);
                }
            }
        }
        errors
    }

    fn set_dont_fragment(&self, set: bool) -> io::Result<()> {
        if self.local.is_ipv4() {
            let mode = if set { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT };
            self.set(libc::SOL_IP, libc::IP_MTU_DISCOVER, mode)
        } else {
            let mode = if set { libc::IPV6_PMTUDISC_PROBE } else { libc::IPV6_PMTUDISC_DONT };
            self.set(libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, mode)
        }
    }

    fn set(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        // SAFETY: the value is an int that outlives the call, and its size is given.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<i32>() as _,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for WanSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The MTU of the route from a local to a remote address as the kernel knows it now, in bytes of IP packet.
pub fn route_mtu(local: IpAddr, remote: IpAddr) -> io::Result<u32> {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(local, 0))?;
    socket.connect(SocketAddr::new(remote, 9))?;
    let (level, name) =
        if local.is_ipv4() { (libc::SOL_IP, libc::IP_MTU) } else { (libc::SOL_IPV6, libc::IPV6_MTU) };
    let (mut mtu, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the value and its length are ours, writable and outlive the call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut mtu).cast(), &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(mtu.max(0) as u32) }
}
