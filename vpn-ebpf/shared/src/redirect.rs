//! Which AF_XDP socket, or which further program, gets a packet: map layouts of the redirects.
use crate::layout::Plain;
use core::mem::size_of;

/// Sockets that the map `XSKS` has room for: devices x queues x workers.
pub const MAX_XSKS: u32 = 1024;

/// CPUs that the map `CPUS` has room for, as far as the host has so many.
pub const MAX_CPUS: u32 = 1024;

/// Index into `NEXT` of the program behind the guard's at WAN devices.
pub const NEXT_WAN: u32 = 0;
/// And of the one behind the guard's at LAN devices.
pub const NEXT_LAN: u32 = 1;
/// How many there are.
pub const NEXTS: u32 = 2;

/// Key of `XSK_SLOTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct XskKey {
    /// Index of the device that the packet arrived at.
    pub device: u32,
    /// Its receive queue.
    pub queue: u32,
    /// The worker that shall have it.
    pub worker: u32,
}

/// Value of `XSK_SLOTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XskSlot {
    /// Index into `XSKS`.
    pub slot: u32,
    /// The longest packet that a frame of the socket has room for, with its Ethernet header. Longer ones go to the stack.
    pub longest: u32,
}

// SAFETY: repr(C), words of one size, no padding.
unsafe impl Plain for XskKey {}
// SAFETY: as above.
unsafe impl Plain for XskSlot {}

const _: () = {
    assert!(size_of::<XskKey>() == 12);
    assert!(size_of::<XskSlot>() == 8);
};
