//! TUN devices with virtio-net headers: super-packets of up to 64 KB in and out (TSO, USO).
//!
//! Our own few ioctls and not a TUN crate: a gateway needs neither the addresses, routes and async
//! reads that such crates bring nor their splitting and coalescing, which happen here while
//! sealing and opening.

use std::ffi::c_ulong;
use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::ifreq;

/// Longest interface name, in bytes (IFNAMSIZ less the final zero).
pub const MAX_NAME_LEN: usize = 15;
/// Length of the virtio-net header before each packet, in bytes.
pub const VNET_HEADER_LEN: usize = 10;
/// Longest read: a virtio-net header and an IP packet, in bytes.
pub const MAX_READ: usize = VNET_HEADER_LEN + 65535;

/// The checksum at `csum_offset` covers from `csum_start` to the end and holds the pseudo-header's sum only.
pub const NEEDS_CSUM: u8 = 1;
/// The checksum has been verified.
pub const DATA_VALID: u8 = 2;
/// `gso_type`: one packet.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP datagrams of equal size, either family (Linux 6.2).
pub const GSO_UDP_L4: u8 = 5;
/// Bit of `gso_type`: the first segment alone carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// `_IO('T', 227)` (linux/if_tun.h).
const TUNGETDEVNETNS: c_ulong = 0x54e3;
const TUN_F_CSUM: c_ulong = 0x01;
const TUN_F_TSO4: c_ulong = 0x02;
const TUN_F_TSO6: c_ulong = 0x04;
const TUN_F_TSO_ECN: c_ulong = 0x08;
const TUN_F_USO4: c_ulong = 0x20;
const TUN_F_USO6: c_ulong = 0x40;

/// `struct virtio_net_hdr` (linux/virtio_net.h), host byte order as TUN has it by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`], [`GSO_TCPV4`], [`GSO_TCPV6`], [`GSO_UDP_L4`], with or without [`GSO_ECN`].
    pub gso_type: u8,
    /// Length of all headers of a super-packet; a hint when it comes from the kernel.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksum starts to sum, bytes from the start of the IP header.
    pub csum_start: u16,
    /// Where it is stored, bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads the header from the first ten bytes; `None` if there are fewer.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let b: &[u8; VNET_HEADER_LEN] = bytes.first_chunk()?;
        let word = |i: usize| u16::from_ne_bytes([b[i], b[i + 1]]);
        Some(Self {
            flags: b[0],
            gso_type: b[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// The header as it stands before a packet.
    pub fn encode(&self) -> [u8; VNET_HEADER_LEN] {
        let mut b = [0; VNET_HEADER_LEN];
        b[0] = self.flags;
        b[1] = self.gso_type;
        for (i, word) in
            [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].into_iter().enumerate()
        {
            b[2 + 2 * i..4 + 2 * i].copy_from_slice(&word.to_ne_bytes());
        }
        b
    }
}

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name cannot be an interface's.
    #[error("\"{0}\" cannot be an interface name: 1 to 15 bytes without space, '/' or ':'")]
    InvalidName(String),
    /// /dev/net/tun cannot be opened.
    #[error("cannot open /dev/net/tun ({0}): run as root, and load the module with `modprobe tun`")]
    Device(io::Error),
    /// An interface of that name is there already.
    #[error(
        "interface {0} exists already: remove it with `ip link del {0}`, or stop the program that owns it"
    )]
    Exists(String),
    /// CAP_NET_ADMIN is missing.
    #[error("not allowed to create interface {0}: run as root, or with CAP_NET_ADMIN")]
    NotPermitted(String),
    /// The kernel refused something else.
    #[error("{call} on interface {name}: {source}")]
    Kernel {
        /// The ioctl.
        call: &'static str,
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Which super-packets the device takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// TCP segmentation, both families. Every supported kernel has it.
    pub tso: bool,
    /// UDP segmentation, both families (Linux 6.2).
    pub uso: bool,
}

/// One TUN device of one queue, or one queue of a device that has several. The device disappears with the last descriptor, so also when the process dies.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    offloads: Offloads,
}

impl Tun {
    /// Creates the device, down, with all offloads that the kernel has. Takes no existing one over.
    pub fn create(name: &str) -> Result<Self, TunError> {
        Self::with_offloads(name, Offloads { tso: true, uso: true })
    }

    /// Creates the device, down, with those of these offloads that the kernel has. Takes no existing one over.
    pub fn with_offloads(name: &str, wanted: Offloads) -> Result<Self, TunError> {
        Self::open(name, wanted, libc::IFF_TUN_EXCL)
    }

    /// Creates the device with several queues, at least one. The kernel keeps a flow in one: in that where a packet of the
    /// flow was last written to, or in any.
    pub fn with_queues(name: &str, wanted: Offloads, queues: usize) -> Result<Vec<Self>, TunError> {
        let first = Self::open(name, wanted, libc::IFF_TUN_EXCL | libc::IFF_MULTI_QUEUE)?;
        let more = (1..queues).map(|_| Self::open(name, wanted, libc::IFF_MULTI_QUEUE));
        std::iter::once(Ok(first)).chain(more).collect()
    }

    fn open(name: &str, wanted: Offloads, more: libc::c_int) -> Result<Self, TunError> {
        let bad = |b: u8| b <= b' ' || b == b'/' || b == b':' || b == b'%' || b >= 0x7f;
        if name.is_empty()
            || name.len() > MAX_NAME_LEN
            || name.bytes().any(bad)
            || name == "."
            || name == ".."
        {
            return Err(TunError::InvalidName(name.to_owned()));
        }
        let fd: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(TunError::Device)?
            .into();
        let mut request = ifreq::named(name);
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
        request.ifr_ifru.ifru_flags = flags as i16;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } < 0 {
            let source = io::Error::last_os_error();
            return Err(match source.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => TunError::Exists(name.to_owned()),
                Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.to_owned()),
                _ => TunError::Kernel { call: "TUNSETIFF", name: name.to_owned(), source },
            });
        }
        let mut tun = Self { fd, name: name.to_owned(), offloads: Offloads { tso: false, uso: false } };
        let tcp = if wanted.tso { TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN } else { 0 };
        // Before Linux 6.2 the kernel refuses the USO bits with EINVAL.
        for (bits, offloads) in
            [(tcp | TUN_F_USO4 | TUN_F_USO6, wanted), (tcp, Offloads { uso: false, ..wanted })]
        {
            if offloads.uso != (bits & TUN_F_USO4 != 0) {
                continue;
            }
            let bits = bits | TUN_F_CSUM;
            // SAFETY: TUNSETOFFLOAD takes its argument by value.
            if unsafe { libc::ioctl(tun.fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, bits) } == 0 {
                tun.offloads = offloads;
                return Ok(tun);
            }
        }
        Err(tun.kernel_error("TUNSETOFFLOAD"))
    }

    /// The interface's name now: somebody may have changed it.
    pub fn name(&self) -> String {
        let mut request = ifreq::named("");
        // SAFETY: TUNGETIFF writes one ifreq, which outlives the call.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) } < 0 {
            return self.name.clone();
        }
        let name = request.ifr_name.iter().map(|c| *c as u8).take_while(|c| *c != 0);
        String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned()
    }

    /// What was agreed with the kernel.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Sets the interface's MTU, in bytes of IP packet.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), TunError> {
        let mut request = ifreq::named(&self.name());
        request.ifr_ifru.ifru_mtu = mtu.min(65535) as i32;
        self.interface_ioctl("SIOCSIFMTU", libc::SIOCSIFMTU, &mut request)
    }

    /// Sets how many packets (super-packets count as one) wait for [`read`](Self::read) before the kernel drops.
    pub fn set_queue_len(&self, packets: u32) -> Result<(), TunError> {
        let mut request = ifreq::named(&self.name);
        request.ifr_ifru.ifru_metric = packets.min(1 << 20) as i32;
        self.interface_ioctl("SIOCSIFTXQLEN", libc::SIOCSIFTXQLEN, &mut request)
    }

    /// Brings the interface up. It gets no IPv6 link-local address of its own.
    pub fn set_up(&self) -> Result<(), TunError> {
        // Without this the kernel solicits routers and reports multicast groups into the tunnel.
        // A host without IPv6 has no such file, and nothing to silence.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/addr_gen_mode", self.name), "1");
        let mut request = ifreq::named(&self.name);
        self.interface_ioctl("SIOCGIFFLAGS", libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has just filled this member.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
        self.interface_ioctl("SIOCSIFFLAGS", libc::SIOCSIFFLAGS, &mut request)
    }

    /// Reads one packet or super-packet with its virtio-net header; `WouldBlock` when there is none.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.fd, buf)?)
    }

    /// Writes one packet or super-packet, gathered from its parts; the first is the virtio-net header.
    /// `InvalidInput` for a header the kernel does not believe, EIO when the interface is down.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(nix::sys::uio::writev(&self.fd, parts)?)
    }

    fn interface_ioctl(
        &self,
        call: &'static str,
        number: c_ulong,
        request: &mut libc::ifreq,
    ) -> Result<(), TunError> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|e| TunError::Kernel { call: "socket", name: self.name.clone(), source: e.into() })?;
        // SAFETY: the interface ioctls read and write one ifreq, which outlives the call.
        if unsafe { libc::ioctl(socket.as_raw_fd(), number as _, &raw mut *request) } >= 0 {
            return Ok(());
        }
        let failed = self.kernel_error(call);
        // It may have been moved: its own namespace knows it.
        if matches!(&failed, TunError::Kernel { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
            && let Ok(socket) = self.socket_beside()
        {
            // SAFETY: as above.
            return match unsafe { libc::ioctl(socket.as_raw_fd(), number as _, &raw mut *request) } {
                0.. => Ok(()),
                _ => Err(self.kernel_error(call)),
            };
        }
        Err(failed)
    }

    /// A socket in the network namespace of the device (TUNGETDEVNETNS, Linux 5.2).
    fn socket_beside(&self) -> io::Result<OwnedFd> {
        // SAFETY: TUNGETDEVNETNS takes no argument and returns a new descriptor.
        let namespace = unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNGETDEVNETNS as _) };
        if namespace < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let namespace = unsafe { OwnedFd::from_raw_fd(namespace) };
        let made = std::thread::scope(|scope| {
            let make = || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            };
            std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, make).map(|t| t.join())
        })?;
        Ok(made.map_err(|_| io::Error::other("the thread in a namespace panicked"))??)
    }

    fn kernel_error(&self, call: &'static str) -> TunError {
        let source = io::Error::last_os_error();
        TunError::Kernel { call, name: self.name.clone(), source }
    }
}

impl Tun {
    /// The index of the device.
    ///
    /// # Errors
    /// It was removed, or the calling thread is in another network namespace.
    pub fn index(&self) -> Result<u32, TunError> {
        let source = |e: nix::errno::Errno| TunError::Kernel {
            call: "if_nametoindex",
            name: self.name.clone(),
            source: e.into(),
        };
        nix::net::if_::if_nametoindex(self.name().as_str()).map_err(source)
    }
}

/// Whether there is an interface of that name. One that was closed may live on for a moment, when a
/// process was being forked and its copy of the descriptor is not closed yet.
pub fn exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_virtio_header_is_laid_out_as_the_kernel_has_it() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6,
            hdr_len: 0x1234,
            gso_size: 1448,
            csum_start: 40,
            csum_offset: 16,
        };
        let bytes = header.encode();
        assert_eq!(bytes[..2], [1, 4]);
        assert_eq!(bytes[4..6], 1448u16.to_ne_bytes());
        assert_eq!(VnetHeader::decode(&bytes), Some(header));
        assert_eq!(VnetHeader::decode(&bytes[..9]), None);
    }

    #[test]
    fn names_that_are_no_interface_names_are_refused_before_the_kernel_is_asked() {
        for name in ["", "cv-0123456789abc", "a b", "a/b", "a:b", "..", "cv-%d"] {
            assert!(matches!(Tun::create(name), Err(TunError::InvalidName(_))), "{name:?}");
        }
    }
}
