//! UDP sockets whose ESP the kernel takes (RFC 3948), alone or beside one of ours on the same port.
//!
//! Beside one of ours: both sockets are of one SO_REUSEPORT group, ours first, and a program of three
//! instructions sends each datagram to the one or the other by the low bit of its SPI. IKE
//! (first four bytes zero) and keepalives (one byte) are always ours.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, setsockopt, socket, sockopt,
};

use crate::xfrm::bypass;

const UDP_ENCAP: libc::c_int = 100;
const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
/// `BPF_RVAL` A (linux/filter.h): return the accumulator.
const BPF_A: u32 = 0x10;

/// The socket could not be opened, or the program not attached.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} for ESP in UDP at {address}: {source}")]
pub struct EncapError {
    what: &'static str,
    address: String,
    #[source]
    source: io::Error,
}

impl EncapError {
    /// The port at this address cannot be divided between the kernel's socket and ours.
    pub fn undivided(address: SocketAddr, source: io::Error) -> Self {
        Self { what: "divide the port", address: address.to_string(), source }
    }

    /// The errno.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// A UDP socket from which the kernel takes ESP packets and hands them to its SAs. Nobody needs to
/// read from it beside a socket of ours; alone, IKE behind the non-ESP marker is to be read from it.
pub struct EncapSocket {
    fd: OwnedFd,
    address: SocketAddr,
}

impl EncapSocket {
    /// Binds `local` with SO_REUSEPORT, so that it joins a socket of ours that set it too. In the group
    /// the socket that was bound first is number 0.
    pub fn open(local: SocketAddr) -> Result<Self, EncapError> {
        let error = |what| move |source: io::Error| EncapError { what, address: local.to_string(), source };
        let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .map_err(|e| error("open a socket")(e.into()))?;
        setsockopt(&fd, sockopt::ReusePort, &true).map_err(|e| error("share the port")(e.into()))?;
        if local.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true).map_err(|e| error("set IPV6_V6ONLY")(e.into()))?;
        }
        // The kernel judges what comes to a socket before it looks for ESP in it.
        let _ = bypass(fd.as_fd(), local.is_ipv4());
        set_encapsulation(fd.as_fd()).map_err(error("set UDP_ENCAP"))?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(local)).map_err(|e| error("bind the port")(e.into()))?;
        let bound: SockaddrStorage =
            getsockname(fd.as_raw_fd()).map_err(|e| error("read the port")(e.into()))?;
        let port = bound
            .as_sockaddr_in()
            .map(|a| a.port())
            .or_else(|| bound.as_sockaddr_in6().map(|a| a.port()))
            .unwrap_or(local.port());
        Ok(Self { fd, address: SocketAddr::new(local.ip(), port) })
    }

    /// Where it is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Divides the port between this socket and the one of ours that was bound before it: datagrams that
    /// begin with an odd SPI are the kernel's, all others ours. Should this socket be closed later, all are ours.
    pub fn divide_by_spi_parity(&self) -> Result<(), EncapError> {
        attach(self.fd.as_fd(), &parity_program()).map_err(|source| EncapError {
            what: "attach the program that divides the port",
            address: self.address.to_string(),
            source,
        })
    }
}

impl AsFd for EncapSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_encapsulation(fd: BorrowedFd<'_>) -> io::Result<()> {
    let value = UDP_ENCAP_ESPINUDP;
    // SAFETY: the option takes an int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_UDP,
            UDP_ENCAP,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Classic BPF over the UDP payload. A payload shorter than four bytes ends the program with 0 at its
/// first instruction, which is ours: keepalives.
fn parity_program() -> [libc::sock_filter; 3] {
    let op = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // the SPI, or the non-ESP marker: zero, even
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 1),
        op(libc::BPF_RET | BPF_A, 0), // number 0 of the group was bound first: ours
    ]
}

fn attach(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions from `filter`, which points at the slice that lives
    // through the call, and does not write to it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
