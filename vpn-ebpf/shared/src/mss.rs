//! Where a TCP segment says how large segments its sender takes, and what fits a tunnel.
use crate::packet::Bytes;

/// Options of a TCP header, at most so many bytes (RFC 9293 3.1).
const MOST_OPTIONS: u32 = 40;

/// The largest segment that fits an inner packet of `mtu` bytes: without IP's and TCP's headers, of which options are
/// the sender's affair (RFC 9293 3.7.1).
#[inline(always)]
pub const fn largest(mtu: usize, ipv6: bool) -> u16 {
    let largest = mtu.saturating_sub(if ipv6 { 60 } else { 40 });
    if largest > u16::MAX as usize { u16::MAX } else { largest as u16 }
}

/// Where the value of the maximum segment size option stands (RFC 9293 3.2), in bytes from the packet's start, if the
/// TCP segment from `start` to `beyond`, by the length that IP tells, is a SYN with one. A header that ends behind its
/// segment says nothing.
#[inline(always)]
pub fn option<B: Bytes + ?Sized>(bytes: &B, start: u32, beyond: u32) -> Option<u32> {
    let ([words, flags], there) = bytes.load::<2>(start + 12);
    if !there || flags & 0x02 == 0 {
        return None;
    }
    let end = start + (words >> 4) as u32 * 4;
    if end > beyond {
        return None;
    }
    let mut at = start + 20;
    let mut looked = 0;
    while looked < MOST_OPTIONS {
        looked += 1;
        // What stands in the last byte can be no option with a value.
        if at + 2 > end {
            return None;
        }
        let ([kind, length], there) = bytes.load::<2>(at);
        if !there || kind == 0 {
            return None;
        }
        if kind == 1 {
            at += 1;
            continue;
        }
        if length < 2 || at + length as u32 > end {
            return None;
        }
        if kind == 2 {
            return if length == 4 && bytes.load::<2>(at + 2).1 { Some(at + 2) } else { None };
        }
        at += length as u32;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits() {
        assert_eq!((largest(1438, false), largest(1438, true), largest(20, false)), (1398, 1378, 0));
        assert_eq!(largest(1 << 20, false), u16::MAX);
    }

    /// A TCP header with these flags and options.
    fn header(flags: u8, options: &[u8]) -> [u8; 60] {
        let mut header = [0; 60];
        header[12] = ((20 + options.len()) * 4) as u8;
        header[13] = flags;
        header[20..20 + options.len()].copy_from_slice(options);
        header
    }

    #[test]
    fn the_option_is_found_where_it_is_and_nowhere_else() {
        let value = [2, 4, 5, 180];
        let cases: [(u8, &[u8], Option<u32>); 9] = [
            (2, &value, Some(22)),
            (0x12, &value, Some(22)),
            (0x10, &value, None),                       // no SYN
            (2, &[1, 2, 4, 5, 180, 0, 0, 0], Some(23)), // at an odd offset
            (2, &[8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 5, 180, 1, 1], Some(32)),
            (2, &[0, 2, 4, 5], None), // behind the end of options
            (2, &[2, 3, 5, 0], None), // of another length
            (2, &[1, 1, 1, 2], None), // cut short
            (2, &[9, 0, 2, 4], None), // a length that goes nowhere
        ];
        for (flags, options, want) in cases {
            assert_eq!(option(&header(flags, options)[..], 0, 60), want, "{options:?}");
        }
        let mut most = [1; 40];
        most[36..].copy_from_slice(&value);
        assert_eq!(option(&header(2, &most)[..], 0, 60), Some(58));
        // Nothing beyond the packet is read, wherever it ends.
        let whole = header(2, &value);
        (0..24).for_each(|end| assert_eq!(option(&whole[..end], 0, 60), None, "{end}"));
    }

    #[test]
    fn a_header_that_ends_behind_its_segment_says_nothing() {
        let whole = header(2, &[2, 4, 5, 180]);
        assert_eq!((option(&whole[..], 0, 24), option(&whole[..], 0, 23)), (Some(22), None));
        // Wherever the segment begins: what is behind it is somebody else's.
        let behind = [&[0; 20][..], &whole].concat();
        assert_eq!((option(&behind[..], 20, 44), option(&behind[..], 20, 43)), (Some(42), None));
    }
}
