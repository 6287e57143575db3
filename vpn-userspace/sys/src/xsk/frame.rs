//! What a received frame holds: ESP, with the addresses it came from.
use std::net::{IpAddr, SocketAddr};

use culvert_ebpf_shared::lan::{META, extends};
use culvert_ebpf_shared::{Kind, parse_ethernet};

use super::{Received, Umem};

/// An ESP packet in a frame, and what its outer headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Where in the frame the SPI is.
    pub start: usize,
    /// Bytes from the SPI to the end of the ICV.
    pub len: usize,
    /// Who sent it; port 0 without UDP encapsulation.
    pub from: SocketAddr,
    /// Whom it was sent to.
    pub to: IpAddr,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
}

/// Reads an Ethernet frame with up to two VLAN tags; `None` if it holds no ESP.
pub fn outer(frame: &[u8]) -> Option<Outer> {
    let parsed = parse_ethernet(frame);
    let Kind::Esp { encapsulated, offset, len, .. } = parsed.kind() else { return None };
    let (start, len) = (offset as usize, len as usize);
    let port = match encapsulated {
        // The UDP header stands right before.
        true => u16::from_be_bytes(*frame.get(start.checked_sub(8)?..)?.first_chunk()?),
        false => 0,
    };
    let tagged = |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    let mut ip = 14;
    while tagged(ip - 2) {
        ip += 4;
    }
    let (first, second) = (*frame.get(ip)?, *frame.get(ip + 1)?);
    let tos = if first >> 4 == 4 { second } else { first << 4 | second >> 4 };
    let from = SocketAddr::new(parsed.source.into(), port);
    Some(Outer { start, len, from, to: parsed.destination.into(), tos })
}

/// The tunnel into whose interface routes lead a frame of a LAN, by the interface's index, as the guard's program has
/// written it before the frame (see [`crate::guard::Guard::set_lan_tunnel`]); 0 if there is no room before it.
pub fn tunnel_of(umem: &Umem, packet: &Received) -> u32 {
    let meta = packet.start.checked_sub(META).and_then(|at| umem.bytes(&packet.frame).get(at..));
    meta.and_then(|m| m.first_chunk()).map_or(0, |m| u32::from_ne_bytes(*m))
}

/// Whether an IP packet, whose header is whole, may be forwarded past the stack: without options, extension headers or
/// fragments, and not at its last hop. What the guard's program asks of frames of a LAN.
pub fn is_plain(packet: &[u8]) -> bool {
    match packet {
        [0x45, _, _, _, _, _, flags, offset, ttl, ..] => flags & 0xbf == 0 && *offset == 0 && *ttl > 1,
        [first, _, _, _, _, _, next_header, hops, ..] => {
            first >> 4 == 6 && !extends(*next_header) && *hops > 1
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_ebpf_shared::testing::{esp, ethernet, ip, udp};

    #[test]
    fn what_has_an_odd_side_to_it_is_not_plain() {
        let v4 = ip("10.1.0.2".parse().unwrap(), "10.2.0.9".parse().unwrap(), 17, &[0; 8]);
        let v6 = ip("fd01::2".parse().unwrap(), "fd02::9".parse().unwrap(), 17, &[0; 8]);
        let changed = |packet: &[u8], at: usize, value| {
            let mut packet = packet.to_vec();
            packet[at] = value;
            is_plain(&packet)
        };
        assert!(is_plain(&v4) && is_plain(&v6) && changed(&v4, 6, 0x40));
        for (at, value) in [(0, 0x46), (6, 0x20), (6, 0x80), (7, 1), (8, 1)] {
            assert!(!changed(&v4, at, value), "byte {at} is {value}");
        }
        for (at, value) in [(0, 0x50), (6, 0), (6, 44), (7, 1)] {
            assert!(!changed(&v6, at, value), "byte {at} is {value}");
        }
        assert!(!is_plain(&[]) && !is_plain(&v4[..8]));
    }

    #[test]
    fn frames_tell_where_esp_is_and_whence_it_came() {
        for (from, to) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
            let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = esp(0xc0ff_ee02, 7, 44);
            for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
                for (port, protocol, payload) in
                    [(0, 50, packet.clone()), (4501, 17, udp(from, to, (4501, 4500), &packet))]
                {
                    let mut inner = ip(from, to, protocol, &payload);
                    if from.is_ipv4() {
                        inner[1] = 0x2a;
                    } else {
                        (inner[0], inner[1]) = (0x62, 0xa0 | inner[1] & 0xf);
                    }
                    let mut frame = ethernet([1; 6], [2; 6], tags, &inner);
                    let expected = Outer {
                        start: frame.len() - packet.len(),
                        len: packet.len(),
                        from: SocketAddr::new(from, port),
                        to,
                        tos: 0x2a,
                    };
                    assert_eq!(outer(&frame), Some(expected));
                    // Padding of short frames is not the packet's.
                    frame.extend([0; 20]);
                    assert_eq!(outer(&frame), Some(expected));
                    assert_eq!(outer(&frame[..40]), None);
                }
            }
        }
        assert_eq!(outer(&[]), None);
    }
}
