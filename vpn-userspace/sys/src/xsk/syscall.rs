//! The system calls of AF_XDP, each a safe function of its own.
use crate::ifreq;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// linux/if_xdp.h, kernel 6.18: most packets that one call sends in copy mode.
pub(super) const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: by value; the descriptor is new and nobody else's.
    unsafe {
        let fd = checked(libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets an option of a level to a plain value.
pub(super) fn set<T: Copy>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    checked(result).map(drop)
}

/// Asks for an option of AF_XDP that is made of integers; what the kernel does not write stays 0.
///
/// # Safety
/// All zeroes, and whatever the kernel writes, are values of `T`.
pub(super) unsafe fn get<T: Copy>(fd: &OwnedFd, level: i32, name: i32) -> io::Result<T> {
    // SAFETY: the caller's promise.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: value and length are ours, writable, and outlive the call.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::from_mut(&mut value).cast(), &raw mut len)
    };
    checked(result)?;
    Ok(value)
}

pub(super) fn bind(
    fd: &OwnedFd,
    index: u32,
    queue: u32,
    flags: u16,
    shared: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: the address outlives the call, and its length is given.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    };
    checked(result).map(drop)
}

/// Has the kernel look at the transmit ring.
pub(super) fn kick(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let result =
        unsafe { libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel look at the fill ring, or run the device's queue (busy polling).
pub(super) fn pull(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let result = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Anonymous memory, all of it there.
pub(super) fn map_memory(len: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    map(-1, len, flags, 0)
}

/// A ring of a socket.
pub(super) fn map_ring(fd: RawFd, len: usize, page: i64) -> io::Result<NonNull<u8>> {
    map(fd, len, libc::MAP_SHARED | libc::MAP_POPULATE, page)
}

fn map(fd: RawFd, len: usize, flags: i32, offset: i64) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at a place of the kernel's choice.
    let memory = unsafe {
        libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset)
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))
}

/// Ends a mapping made here, of which nobody has a reference any more.
pub(super) fn unmap(memory: NonNull<u8>, len: usize) {
    // SAFETY: the callers own the mapping and are being dropped.
    unsafe { libc::munmap(memory.as_ptr().cast(), len) };
}

/// Index of a device of the calling thread's network namespace.
pub fn device_index(device: &str) -> Option<u32> {
    let name = CString::new(device).ok()?;
    // SAFETY: a terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Channels {
    command: u32,
    most: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// How many receive queues a device has; 1 if its driver does not tell.
pub fn queue_count(device: &str) -> u32 {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let answer = ask(device, libc::SIOCETHTOOL, |r| r.ifr_ifru.ifru_data = (&raw mut channels).cast());
    answer.map_or(1, |_| (channels.rx + channels.combined).max(1))
}

/// MTU of a device in bytes.
pub fn device_mtu(device: &str) -> Option<u32> {
    let answer = ask(device, libc::SIOCGIFMTU, |_| {})?;
    // SAFETY: what SIOCGIFMTU writes.
    u32::try_from(unsafe { answer.ifr_ifru.ifru_mtu }).ok()
}

/// Link-layer address of an Ethernet device.
pub fn device_mac(device: &str) -> Option<[u8; 6]> {
    let answer = ask(device, libc::SIOCGIFHWADDR, |_| {})?;
    // SAFETY: what SIOCGIFHWADDR writes.
    let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
    let [a, b, c, d, e, f, ..] = address.sa_data;
    (address.sa_family == libc::ARPHRD_ETHER).then(|| [a, b, c, d, e, f].map(|byte| byte as u8))
}

/// Asks the kernel about a device; `prepare` fills the request in. For the requests above only.
fn ask(device: &str, what: libc::Ioctl, prepare: impl FnOnce(&mut libc::ifreq)) -> Option<libc::ifreq> {
    let (socket, mut request) = ifreq::ask(device).ok()?;
    prepare(&mut request);
    // SAFETY: all read the name; SIOCETHTOOL reads and writes the struct of the command that ifru_data points to, which
    // the caller holds; the others write the request.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) };
    (answer == 0).then_some(request)
}
