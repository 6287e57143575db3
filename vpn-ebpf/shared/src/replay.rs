//! Is a sequence number older than the replay window? Told from the 32 bits on the wire.

/// Half of the sequence space: beyond it, "ahead" and "behind" trade places.
const HALF: u32 = 1 << 31;

/// True if a packet with the low bits `sequence` is certainly too old, when `floor` is the lowest sequence number that
/// the receiver's window still takes (0: nothing known).
///
/// Without ESN the number is compared as it is. With ESN (RFC 4303 2.2.1) the upper half is not on the wire, and
/// appendix A2 would take low bits below the window for the next epoch; a packet that this puts 2^31 or more ahead is
/// taken for an old one: no peer loses that many packets in a row and keeps its SA.
#[inline(always)]
pub const fn is_stale(sequence: u32, floor: u64, esn: bool) -> bool {
    if !esn {
        return (sequence as u64) < floor;
    }
    // Nothing was opened yet that would lift the window off the ground: the first epoch's numbers are all ahead.
    if floor <= 1 {
        return false;
    }
    sequence.wrapping_sub(floor as u32) >= HALF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_esn() {
        for (sequence, floor, expected) in [
            (0, 0, false),
            (1, 0, false),
            (99, 100, true),
            (100, 100, false),
            (u32::MAX, 100, false),
            (5, 1 << 32, true),
        ] {
            assert_eq!(is_stale(sequence, floor, false), expected, "{sequence} {floor}");
        }
    }

    #[test]
    fn with_esn() {
        const EPOCH: u64 = 1 << 32;
        for (sequence, floor, expected) in [
            (1, 0, false),
            (u32::MAX, 1, false),
            (99, 100, true),
            (100, 100, false),
            (100 + HALF - 1, 100, false),
            // Just before the low half wraps, the next epoch is ahead, not behind.
            (5, EPOCH - 10, false),
            (u32::MAX - 10, EPOCH - 10, true),
            // Just after it has wrapped, the end of the last epoch is behind.
            (u32::MAX, EPOCH + 3, true),
            (3, EPOCH + 3, false),
            (2, EPOCH + 3, true),
        ] {
            assert_eq!(is_stale(sequence, floor, true), expected, "{sequence} {floor}");
        }
    }
}
