//! Where received packets lie until they have been delivered: a buffer, or frames that are lent one by one.

use std::ops::Range;
use std::sync::Arc;

use culvert_sys::xsk::{Received, Umem};

/// The packets of a batch. A range names a packet, or a part of one; what is not there is empty.
pub(crate) trait Memory {
    /// Bytes of a packet.
    fn bytes(&self, range: &Range<usize>) -> &[u8];

    /// The same, to be changed.
    fn bytes_mut(&mut self, range: &Range<usize>) -> &mut [u8];

    /// The memory of the frames in which packets are; `None` where they are in a buffer.
    fn umem(&self) -> Option<&Arc<Umem>> {
        None
    }

    /// Gives away the frame in which the packet is, to be sent on from where it is.
    fn take(&mut self, _range: &Range<usize>) -> Option<Received> {
        None
    }
}

impl Memory for [u8] {
    #[inline]
    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.get(range.clone()).unwrap_or_default()
    }

    #[inline]
    fn bytes_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        self.get_mut(range.clone()).unwrap_or_default()
    }
}
