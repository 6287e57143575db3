//! What a received frame holds: ESP, with the addresses it came from.
use std::net::{IpAddr, SocketAddr};

use culvert_ebpf_shared::{Kind, parse_ethernet};

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

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_ebpf_shared::testing::{esp, ethernet, ip, udp};

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
