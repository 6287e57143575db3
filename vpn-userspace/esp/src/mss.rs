//! MSS clamping: TCP connections learn from their SYN what fits through the tunnel.

use culvert_ebpf_shared::mss;

use crate::checksum;
use crate::packet::Packet;

/// In what state a packet's TCP checksum is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It covers the whole segment, as on a wire.
    Complete,
    /// It covers the pseudo-header alone; someone finishes it later (virtio's `NEEDS_CSUM`).
    Partial,
}

const TCP: u8 = 6;
const SYN: u8 = 0x02;

/// Lowers the MSS option of a TCP SYN or SYN-ACK to what fits an inner MTU of `mtu` bytes; never raises
/// it, and leaves every other packet alone. A complete checksum is updated. True if something changed.
///
/// `packet` may be followed by other bytes.
#[inline]
pub fn clamp(packet: &mut [u8], mtu: usize, state: Checksum) -> bool {
    // Most packets leave here, at little cost: no SYN.
    let Ok(view) = Packet::parse(packet) else { return false };
    if view.protocol() != TCP || !view.has_transport_header() {
        return false;
    }
    let flags = view.transport().get(13);
    if flags.is_none_or(|f| f & SYN == 0) {
        return false;
    }
    let (start, end) = (view.transport_offset(), view.total_len());
    let most = mss::largest(mtu, !view.is_ipv4());
    packet.get_mut(start..end).is_some_and(|segment| clamp_segment(segment, most, state))
}

fn clamp_segment(segment: &mut [u8], most: u16, state: Checksum) -> bool {
    let beyond = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    let Some(at) = mss::option(segment, 0, beyond).map(|at| at as usize) else { return false };
    let Some(value) = segment.get_mut(at..at + 2).and_then(|v| v.first_chunk_mut::<2>()) else {
        return false;
    };
    if u16::from_be_bytes(*value) <= most {
        return false;
    }
    let new = most.to_be_bytes();
    let old = std::mem::replace(value, new);
    if state == Checksum::Complete
        && let Some(field) = segment.get_mut(16..18).and_then(|f| f.first_chunk_mut::<2>())
    {
        // At an odd offset the value's bytes lie in the other halves of two words: the sum sees them swapped.
        let swap = |[a, b]: [u8; 2]| if at % 2 == 0 { [a, b] } else { [b, a] };
        *field = checksum::update(*field, swap(old), swap(new));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{finish, pseudo_header, sum, transport_is_right};
    use crate::packet::tests::{ipv4, ipv6};
    use proptest::prelude::*;

    fn tcp(flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        assert_eq!(options.len() % 4, 0);
        let mut t = vec![0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0];
        t.extend([(((20 + options.len()) / 4) << 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
        t.extend(options);
        t.extend(data);
        t
    }

    fn packet(v6: bool, segment: &[u8]) -> Vec<u8> {
        let mut p = if v6 {
            ipv6("2001:db8::1", "2001:db8::2", 6, segment)
        } else {
            ipv4([10, 0, 0, 1], [10, 9, 0, 2], 6, segment)
        };
        let at = p.len() - segment.len();
        let checksum = {
            let view = Packet::parse(&p).unwrap();
            finish(sum(view.transport(), pseudo_header(view.header(), 6, segment.len())))
        };
        p[at + 16..at + 18].copy_from_slice(&checksum);
        p
    }

    const MSS_1460: [u8; 4] = [2, 4, 0x05, 0xb4];

    fn mss(p: &[u8]) -> u16 {
        let view = Packet::parse(p).unwrap();
        let at = mss::option(view.transport(), 0, u32::MAX).unwrap() as usize;
        u16::from_be_bytes(view.transport()[at..at + 2].try_into().unwrap())
    }

    #[test]
    fn a_header_that_ends_behind_its_segment_is_left_alone() {
        let mut segment = tcp(0x02, &MSS_1460, &[]);
        segment[12] = 7 << 4;
        let mut p = packet(false, &segment);
        assert!(!clamp(&mut p, 1438, Checksum::Complete));
    }

    #[test]
    fn syn_and_syn_ack_are_lowered_with_a_right_checksum() {
        for (v6, want) in [(false, 1398), (true, 1378)] {
            for flags in [0x02, 0x12, 0xc2] {
                let mut p = packet(v6, &tcp(flags, &MSS_1460, b"fast open"));
                p.extend([0xaa; 7]);
                assert!(clamp(&mut p, 1438, Checksum::Complete));
                assert_eq!(mss(&p), want);
                assert!(transport_is_right(&Packet::parse(&p).unwrap()));
                assert!(p.ends_with(&[0xaa; 7]));
                assert!(!clamp(&mut p, 1438, Checksum::Complete), "once is enough");
                assert!(!clamp(&mut p, 1500, Checksum::Complete), "never raised");
            }
        }
    }

    #[test]
    fn an_option_at_an_odd_offset_keeps_the_checksum_right() {
        let mut p = packet(false, &tcp(0x02, &[1, 2, 4, 0x05, 0xb4, 1, 1, 0], &[]));
        assert!(clamp(&mut p, 1400, Checksum::Complete));
        assert_eq!(mss(&p), 1360);
        assert!(transport_is_right(&Packet::parse(&p).unwrap()));
    }

    #[test]
    fn a_partial_checksum_is_left_to_whoever_finishes_it() {
        let mut p = packet(false, &tcp(0x02, &MSS_1460, &[]));
        p[36..38].copy_from_slice(&[0xbe, 0xef]);
        assert!(clamp(&mut p, 1400, Checksum::Partial));
        assert_eq!((mss(&p), &p[36..38]), (1360, &[0xbe, 0xef][..]));
    }

    #[test]
    fn other_packets_are_left_alone() {
        let mut later = packet(false, &tcp(0x02, &MSS_1460, &[]));
        later[7] = 1;
        let cases = [
            packet(false, &tcp(0x10, &MSS_1460, &[])),        // no SYN
            packet(false, &tcp(0x02, &[], &[])),              // no options
            packet(false, &tcp(0x02, &[0, 2, 4, 0xff], &[])), // ended before
            packet(false, &tcp(0x02, &[2, 3, 5, 0], &[])),    // of a wrong length
            packet(false, &tcp(0x02, &[3, 0, 2, 4], &[])),    // a length of 0
            packet(false, &tcp(0x02, &[1, 1, 2, 4], &[])),    // cut short
            packet(false, &tcp(0x02, &[1, 1, 1, 2], &[])),    // without a length
            ipv4([1, 1, 1, 1], [2, 2, 2, 2], 17, &tcp(0x02, &MSS_1460, &[])), // UDP
            later,
        ];
        for case in cases {
            let mut p = case.clone();
            assert!(!clamp(&mut p, 600, Checksum::Complete));
            assert_eq!(p, case);
        }
    }

    proptest! {
        #[test]
        fn any_options_leave_the_checksum_right(mut options in proptest::collection::vec(0u8..6, 0..40), value: u16, at: usize, mtu in 0usize..2000, v6: bool) {
            options.resize(options.len() / 4 * 4, 1);
            if options.len() >= 4 {
                let at = at % (options.len() - 3);
                options[at..at + 2].copy_from_slice(&[2, 4]);
                options[at + 2..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            let mut p = packet(v6, &tcp(0x02, &options, b"x"));
            let before = p.clone();
            let changed = clamp(&mut p, mtu, Checksum::Complete);
            prop_assert_eq!(changed, p != before);
            prop_assert!(transport_is_right(&Packet::parse(&p).unwrap()));
            if changed {
                prop_assert!(mss(&p) < mss(&before));
            }
        }

        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), mtu: usize) {
            if bytes.len() > 20 {
                bytes[0] = 0x45;
                let len = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[6..8].fill(0);
                bytes[9] = 6;
            }
            clamp(&mut bytes, mtu, Checksum::Complete);
        }
    }
}
