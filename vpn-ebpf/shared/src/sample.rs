//! Samples of packets that the guard drops, while somebody looks: what the ring `SAMPLES` carries, and how few of them.
use crate::layout::Plain;
use core::mem::{offset_of, size_of};

/// Samples of one reason in one second, from each CPU.
pub const PER_SECOND: u32 = 10;
/// Bytes of the ring: all reasons of a few CPUs in the time between two looks.
pub const SAMPLES_BYTES: u32 = 1 << 16;

/// The first bytes of a packet that a sample has: two VLAN tags, IPv6 with extension headers, UDP, and ESP's header.
pub const HEADERS: usize = 128;

/// A dropped packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When: nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// Where it came in, by the index of the interface.
    pub interface: u32,
    /// Why: its index in `COUNTERS`.
    pub counter: u32,
    /// How many packets it is: the segments of a super-packet.
    pub packets: u32,
    /// Its bytes, with link-layer headers.
    pub length: u32,
    /// How many of them follow.
    pub kept: u32,
    /// 1 if they begin with an Ethernet header; 0: with that of IP.
    pub ethernet: u32,
    /// Its first bytes.
    pub headers: [u8; HEADERS],
}

/// Value of `SAMPLED`, by reason as in `COUNTERS`, for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// In which second: the number that user space gave it.
    pub epoch: u32,
    /// How many there were in that second.
    pub shown: u32,
}

impl Sampled {
    /// Whether one more may be shown in this second; takes it into account.
    #[inline(always)]
    pub fn admit(&mut self, epoch: u32) -> bool {
        if self.epoch != epoch {
            *self = Sampled { epoch, shown: 0 };
        }
        if self.shown >= PER_SECOND {
            return false;
        }
        self.shown += 1;
        true
    }
}

// SAFETY: repr(C), made of integers of descending alignment, no padding (asserted below).
unsafe impl Plain for Sample {}
// SAFETY: as above.
unsafe impl Plain for Sampled {}

const _: () = {
    assert!(size_of::<Sample>() == 32 + HEADERS);
    assert!(offset_of!(Sample, interface) == 8);
    assert!(offset_of!(Sample, headers) == 32);
    assert!(HEADERS.is_power_of_two());
    assert!(size_of::<Sampled>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_in_each_second() {
        let mut sampled = Sampled::default();
        let admitted =
            |sampled: &mut Sampled, epoch| (0..100).filter(|_| sampled.admit(epoch)).count() as u32;
        assert_eq!((admitted(&mut sampled, 1), admitted(&mut sampled, 1)), (PER_SECOND, 0));
        assert_eq!(admitted(&mut sampled, 2), PER_SECOND);
    }
}
