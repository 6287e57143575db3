//! Packet sockets (packet(7)) that see what passes an interface, for `culvert capture`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Received packets that wait for a slow reader, in bytes.
const BUFFER: i32 = 32 << 20;
/// Hardware type of Ethernet (linux/if_arp.h).
const ARPHRD_ETHER: u16 = 1;

/// A socket that sees every packet of one interface, both ways.
#[derive(Debug)]
pub struct PacketSocket {
    /// The socket; non-blocking. Each packet comes with the kernel's time (SO_TIMESTAMPNS) and the count of those that
    /// were lost before it (SO_RXQ_OVFL).
    pub fd: OwnedFd,
    /// Frames begin with an Ethernet header; else with the IP header.
    pub ethernet: bool,
}

impl PacketSocket {
    /// Opens it on an interface of the thread's network namespace. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// There is no such interface, or the privilege is missing.
    pub fn open(interface: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        // Of no protocol yet: it receives nothing before it is bound.
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes its arguments by value.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for (name, value) in
            [(libc::SO_RCVBUFFORCE, BUFFER), (libc::SO_TIMESTAMPNS, 1), (libc::SO_RXQ_OVFL, 1)]
        {
            // SAFETY: the value is an int that outlives the call.
            let set = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    name,
                    (&raw const value).cast(),
                    size_of_val(&value) as libc::socklen_t,
                )
            };
            // Without CAP_NET_ADMIN the buffer stays as small as it is.
            if set < 0 && name != libc::SO_RCVBUFFORCE {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: sockaddr_ll is integers and bytes, for which all zeroes are a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        let mut length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address outlives the call, and `length` is its length.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // The kernel tells the interface's kind with the address that the socket is bound to.
        // SAFETY: the kernel writes at most `length` bytes of the address.
        if unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &mut length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, ethernet: address.sll_hatype == ARPHRD_ETHER })
    }
}
