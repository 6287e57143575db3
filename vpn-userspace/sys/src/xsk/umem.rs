//! The memory of frames, and the frames as values that are moved and never copied.
use crate::lock::{Mutex, MutexGuard};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::XskError;
use super::syscall;

/// The right to the bytes of one frame of one [`Umem`].
///
/// There is one value for each frame, and it is not `Clone`: a frame that was given to a ring is out of reach until the
/// kernel gives it back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped is lost until its UMEM goes"]
pub struct Frame {
    umem: u32,
    index: u32,
}

/// Memory that this process shares with the kernel, cut into frames of one size. Gone when the last who shares it is;
/// the kernel holds its pages for itself as long as a socket uses them.
#[derive(Debug)]
pub struct Umem {
    base: NonNull<u8>,
    len: usize,
    frame_size: usize,
    id: u32,
    free: Mutex<Vec<Frame>>,
}

// SAFETY: the memory is reached by frames only, each of which is one value.
unsafe impl Send for Umem {}
// SAFETY: as above; the list of free frames has its lock.
unsafe impl Sync for Umem {}

impl Umem {
    /// Memory for this many frames of 2048 or 4096 bytes each.
    ///
    /// # Errors
    /// [`XskError::NoMemory`].
    pub fn new(frames: u32, frame_size: usize) -> Result<Self, XskError> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let frame_size = if frame_size <= 2048 { 2048 } else { 4096 };
        let len = frames as usize * frame_size;
        let base = syscall::map_memory(len).map_err(|_| XskError::NoMemory { bytes: len })?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        // The first frames are taken first.
        let free = (0..frames).rev().map(|index| Frame { umem: id, index }).collect();
        Ok(Self { base, len, frame_size, id, free: Mutex::new(free) })
    }

    /// Bytes of each frame.
    pub fn frame_size(&self) -> usize {
        self.frame_size
    }

    /// Frames that nobody holds.
    pub fn free(&self) -> usize {
        self.pool().len()
    }

    /// Takes up to `most` free frames; returns how many there were.
    pub fn take(&self, most: usize, into: &mut Vec<Frame>) -> usize {
        let mut pool = self.pool();
        let from = pool.len().saturating_sub(most);
        let before = into.len();
        into.extend(pool.drain(from..));
        into.len() - before
    }

    /// Gives frames back. Those of another UMEM are lost.
    pub fn give(&self, frames: impl IntoIterator<Item = Frame>) {
        self.pool().extend(frames.into_iter().filter(|f| f.umem == self.id));
    }

    /// What is in the frame.
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let Some(start) = self.offset(frame) else { return &[] };
        // SAFETY: within the mapping, and nobody else has the frame while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(start), self.frame_size) }
    }

    /// What is in the frame, to be changed.
    #[inline]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let Some(start) = self.offset(frame) else { return &mut [] };
        // SAFETY: within the mapping, and nobody else has the frame while it is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(start), self.frame_size) }
    }

    /// Where the frame begins; `None` for one of another UMEM.
    #[inline]
    pub(super) fn offset(&self, frame: &Frame) -> Option<usize> {
        (frame.umem == self.id).then_some(frame.index as usize * self.frame_size)
    }

    /// The frame that the kernel gave back by an address in it, and where in it the address points.
    ///
    /// To be called once for each address that came out of a ring: the kernel returns what it was given, once.
    #[inline]
    pub(super) fn returned(&self, address: u64) -> Option<(Frame, usize)> {
        let address = usize::try_from(address).ok().filter(|a| *a < self.len)?;
        // Both sizes are powers of two.
        let index = (address / self.frame_size) as u32;
        Some((Frame { umem: self.id, index }, address % self.frame_size))
    }

    pub(super) fn region(&self) -> (u64, u64) {
        (self.base.as_ptr() as u64, self.len as u64)
    }

    fn pool(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.free.lock()
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        syscall::unmap(self.base, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_given_out_once_and_have_bytes_of_their_own() {
        let umem = Umem::new(4, 2048).unwrap();
        let mut frames = Vec::new();
        assert_eq!(umem.take(3, &mut frames), 3);
        assert_eq!(umem.take(3, &mut frames), 1);
        assert_eq!(umem.take(1, &mut frames), 0);
        for (i, frame) in frames.iter_mut().enumerate() {
            umem.bytes_mut(frame).fill(i as u8);
        }
        for (i, frame) in frames.iter().enumerate() {
            assert!(umem.bytes(frame).iter().all(|b| *b == i as u8));
            assert_eq!(umem.bytes(frame).len(), 2048);
        }
        umem.give(frames.drain(..2));
        assert_eq!(umem.free(), 2);
    }

    #[test]
    fn frames_of_another_memory_have_no_bytes_here() {
        let (a, b) = (Umem::new(1, 4096).unwrap(), Umem::new(1, 4096).unwrap());
        let mut frames = Vec::new();
        a.take(1, &mut frames);
        assert!(b.bytes(&frames[0]).is_empty() && b.bytes_mut(&mut frames[0]).is_empty());
        b.give(frames);
        assert_eq!((a.free(), b.free()), (0, 1));
    }

    #[test]
    fn addresses_beyond_the_memory_are_no_frames() {
        let umem = Umem::new(2, 2048).unwrap();
        assert_eq!(umem.returned(2048 + 256), Some((Frame { umem: umem.id, index: 1 }, 256)));
        assert_eq!(umem.returned(4096), None);
        assert_eq!(umem.returned(u64::MAX), None);
    }
}
