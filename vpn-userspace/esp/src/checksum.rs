//! The Internet checksum (RFC 1071): fast over long data, and updated in place (RFC 1624).
//!
//! Sums are kept in the machine's byte order; RFC 1071 2(B) makes that come out right, so only the
//! finished two bytes are in network order.

use crate::packet::{Header, Packet};

/// Adds the data to a running sum. Data of odd length may only come last.
#[inline]
pub fn sum(data: &[u8], initial: u64) -> u64 {
    // 64-byte steps in sixteen lanes: the compiler turns them into vector additions.
    let (chunks, rest) = data.as_chunks::<64>();
    let mut total = initial;
    if !chunks.is_empty() {
        let mut lanes = [0u64; 16];
        for chunk in chunks {
            let (words, _) = chunk.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        total += lanes.iter().sum::<u64>();
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    total + u64::from(u32::from_ne_bytes(last))
}

/// Folds a running sum into 16 bits, in the machine's byte order, not complemented.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The two bytes of the checksum field for a running sum.
#[inline]
pub fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The running sum of a pseudo-header (RFC 9293 3.1, RFC 8200 8.1) for `len` bytes of upper-layer data.
#[inline]
pub fn pseudo_header(header: Header<'_>, protocol: u8, len: usize) -> u64 {
    let addresses = match header {
        Header::V4(h) => sum(&h[12..20], 0),
        Header::V6(h) => sum(&h[8..40], 0),
    };
    let mut end = [0; 8];
    end[..4].copy_from_slice(&(len as u32).to_be_bytes());
    end[7] = protocol;
    sum(&end, addresses)
}

/// The field's new bytes after one 16-bit word that it covers changed (RFC 1624 3, equation 3).
#[inline]
pub fn update(field: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let word = |b: [u8; 2]| u64::from(u16::from_ne_bytes(b));
    finish((word(field) ^ 0xffff) + (word(old) ^ 0xffff) + word(new))
}

/// Writes the checksum of an IPv4 header (options included) into it. `header` is the header alone.
#[inline]
pub fn write_ipv4_header(header: &mut [u8]) {
    let Some(field) = header.get_mut(10..12) else { return };
    field.copy_from_slice(&[0, 0]);
    let checksum = finish(sum(header, 0));
    if let Some(field) = header.get_mut(10..12) {
        field.copy_from_slice(&checksum);
    }
}

/// Finishes a checksum that a sender left partial (virtio's `NEEDS_CSUM`, Linux `CHECKSUM_PARTIAL`):
/// the field at `start + offset` holds the pseudo-header's sum, the rest from `start` on is added.
/// False, and nothing written, if the field is not within the packet.
#[inline]
#[must_use]
pub fn finish_partial(packet: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = packet.get_mut(start..) else { return false };
    let Some(end) = offset.checked_add(2) else { return false };
    if covered.get(offset..end).is_none() {
        return false;
    }
    let checksum = finish(sum(covered, 0));
    // As Linux does: a UDP checksum of 0 would mean "none"; for TCP both zeros are the same.
    let checksum = if checksum == [0, 0] { [0xff, 0xff] } else { checksum };
    if let Some(field) = covered.get_mut(offset..end) {
        field.copy_from_slice(&checksum);
    }
    true
}

/// Whether the upper-layer checksum of an unfragmented packet is right. Protocols without one that is
/// known here, fragments, and UDP over IPv4 without a checksum count as right.
pub fn transport_is_right(packet: &Packet<'_>) -> bool {
    const UDP: u8 = 17;
    if packet.fragment().is_some() {
        return true;
    }
    let data = packet.transport();
    let pseudo = match (packet.protocol(), packet.header()) {
        (1, Header::V4(_)) => 0,
        (6, header) | (58, header @ Header::V6(_)) => pseudo_header(header, packet.protocol(), data.len()),
        (UDP, Header::V4(_)) if data.get(6..8) == Some(&[0, 0]) => return true,
        (UDP, header) => pseudo_header(header, UDP, data.len()),
        _ => return true,
    };
    fold(sum(data, pseudo)) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 1, word by word, as slow as it reads.
    fn naive(data: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn rfc_1071_example() {
        // RFC 1071 3: the sum is ddf2.
        assert_eq!(finish(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), [0x22, 0x0d]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_sum(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(finish(sum(&data, 0)), naive(&data));
            let half = data.len() / 4 * 2;
            prop_assert_eq!(finish(sum(&data[half..], sum(&data[..half], 0))), naive(&data));
        }

        #[test]
        fn update_agrees_with_a_new_sum(mut data in proptest::collection::vec(any::<u8>(), 4..200), at: usize, new: [u8; 2]) {
            // A header is never all zeros; RFC 1624 4 has the one case where both zeros differ.
            data[1] |= 1;
            let at = 2 + at % (data.len() - 2) / 2 * 2;
            prop_assume!(at + 2 <= data.len());
            let before = finish(sum(&data, 0));
            let old = [data[at], data[at + 1]];
            data[at..at + 2].copy_from_slice(&new);
            prop_assert_eq!(update(before, old, new), finish(sum(&data, 0)));
        }
    }

    #[test]
    fn worst_case_sums_do_not_overflow() {
        let ones = vec![0xff; 65535];
        assert_eq!(finish(sum(&ones, 0)), naive(&ones));
        assert_eq!(fold(u64::MAX), 0xffff);
    }

    #[test]
    fn partial_checksums_are_finished_in_bounds_only() {
        let mut packet = vec![0x45u8, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        write_ipv4_header(&mut packet[..20]);
        let header = Packet::parse(&packet).unwrap().header();
        let partial = fold(pseudo_header(header, 17, 8)).to_ne_bytes();
        packet[26..28].copy_from_slice(&partial);
        assert!(!transport_is_right(&Packet::parse(&packet).unwrap()));
        assert!(finish_partial(&mut packet, 20, 6));
        assert!(transport_is_right(&Packet::parse(&packet).unwrap()));
        let before = packet.clone();
        for (start, offset) in
            [(29, 0), (28, 0), (20, 7), (usize::MAX, 0), (0, usize::MAX), (20, usize::MAX - 1)]
        {
            assert!(!finish_partial(&mut packet, start, offset), "{start} {offset}");
        }
        assert_eq!(packet, before);
    }
}
