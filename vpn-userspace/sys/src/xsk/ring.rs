//! The four rings, each with one producer and one consumer, one of which is the kernel.
//!
//! Who writes an entry stores the producer index with Release, who reads it has loaded that index with Acquire; the
//! consumer index goes back in the same way. The kernel does its half so (net/xdp/xsk_queue.h).
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::syscall;

/// What an entry of a ring is: an address (`u64`) or a descriptor.
///
/// # Safety
/// Integers only, of the kernel's layout.
pub(super) unsafe trait Entry: Copy {}
// SAFETY: an address.
unsafe impl Entry for u64 {}
// SAFETY: `struct xdp_desc` of linux/if_xdp.h.
unsafe impl Entry for libc::xdp_desc {}

/// A ring as it is mapped.
struct Mapped<T> {
    memory: NonNull<u8>,
    len: usize,
    offsets: libc::xdp_ring_offset,
    mask: u32,
    of: PhantomData<T>,
}

// SAFETY: the mapping belongs to the value; what the kernel shares of it is atomic or handed over by the indices.
unsafe impl<T> Send for Mapped<T> {}

impl<T: Entry> Mapped<T> {
    /// Maps the ring of `entries` (a power of two) of a socket.
    fn new(
        fd: &impl std::os::fd::AsRawFd,
        offsets: libc::xdp_ring_offset,
        page: i64,
        entries: u32,
    ) -> std::io::Result<Self> {
        let len = offsets.desc as usize + entries as usize * size_of::<T>();
        let memory = syscall::map_ring(fd.as_raw_fd(), len, page)?;
        Ok(Self { memory, len, offsets, mask: entries - 1, of: PhantomData })
    }

    #[inline]
    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset for this mapping; the word is aligned, and shared with the kernel alone.
        unsafe { &*self.memory.as_ptr().add(offset as usize).cast::<AtomicU32>() }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        self.word(self.offsets.producer)
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        self.word(self.offsets.consumer)
    }

    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        let at = self.offsets.desc as usize + (index & self.mask) as usize * size_of::<T>();
        // SAFETY: within the mapping, because of the mask.
        unsafe { self.memory.as_ptr().add(at).cast() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        syscall::unmap(self.memory, self.len);
    }
}

/// A ring that this process writes: fill, transmit.
pub(super) struct Producer<T> {
    ring: Mapped<T>,
    /// Entries written, of which the kernel has been told those before the last [`submit`](Self::submit).
    next: u32,
    /// Entries that the kernel had read when that was last looked at.
    read: u32,
}

impl<T: Entry> Producer<T> {
    pub(super) fn map(
        fd: &impl std::os::fd::AsRawFd,
        offsets: libc::xdp_ring_offset,
        page: i64,
        entries: u32,
    ) -> std::io::Result<Self> {
        Ok(Self { ring: Mapped::new(fd, offsets, page, entries)?, next: 0, read: 0 })
    }

    /// How many entries there is room for.
    #[inline]
    pub(super) fn room(&mut self) -> usize {
        // Acquire: what the kernel has read is free to be written again.
        self.read = self.ring.consumer().load(Ordering::Acquire);
        let size = self.ring.mask + 1;
        size.saturating_sub(self.next.wrapping_sub(self.read)) as usize
    }

    /// Writes an entry; false if there is no room, as far as is known since [`room`](Self::room) was last called.
    #[inline]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.next.wrapping_sub(self.read) > self.ring.mask {
            return false;
        }
        // SAFETY: between what the kernel has read and what it has been told of, entries are ours.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Tells the kernel of what was written.
    #[inline]
    pub(super) fn submit(&mut self) {
        // Release: the entries before the index.
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Whether the kernel has not read all of it yet.
    #[inline]
    pub(super) fn pending(&self) -> bool {
        self.ring.consumer().load(Ordering::Acquire) != self.next
    }

    /// Whether the kernel sleeps and wants to be woken.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.word(self.ring.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that this process reads: receive, completion.
pub(super) struct Consumer<T> {
    ring: Mapped<T>,
    next: u32,
    /// How many the kernel had written when that was last looked at.
    written: u32,
}

impl<T: Entry> Consumer<T> {
    pub(super) fn map(
        fd: &impl std::os::fd::AsRawFd,
        offsets: libc::xdp_ring_offset,
        page: i64,
        entries: u32,
    ) -> std::io::Result<Self> {
        Ok(Self { ring: Mapped::new(fd, offsets, page, entries)?, next: 0, written: 0 })
    }

    /// The next entry. Its place goes back to the kernel with [`release`](Self::release).
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.next == self.written {
            // Acquire: the entries before the index.
            self.written = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.written {
                return None;
            }
        }
        // SAFETY: the kernel wrote this entry and leaves it alone until it is released; every pattern of bits is a value.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives back the places of what was popped.
    #[inline]
    pub(super) fn release(&mut self) {
        // Release: after the entries were read.
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}
