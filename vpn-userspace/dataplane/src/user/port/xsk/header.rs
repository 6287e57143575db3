//! The headers before a sealed packet: Ethernet, IP, and UDP where the SA is encapsulated.
use std::net::{IpAddr, SocketAddr};

use culvert_esp::checksum;
use culvert_sys::netlink::NextHop;

/// Bytes of the longest headers: Ethernet, IPv6, UDP.
pub(super) const LONGEST: usize = 14 + 40 + 8;
/// TTL or hop limit of outer packets, as Linux sends them.
const TTL: u8 = 64;
const ESP: u8 = 50;
const UDP: u8 = 17;

/// Headers toward one peer, but for lengths and marks.
#[derive(Debug, Clone)]
pub(super) struct Header {
    bytes: [u8; LONGEST],
    len: usize,
    hop: NextHop,
    ipv4: bool,
    encapsulated: bool,
}

impl Header {
    /// `remote` has port 0 where ESP goes over IP itself; else it goes from UDP port `port`. `None` if the addresses are
    /// of different families.
    pub(super) fn new(
        hop: NextHop,
        local: IpAddr,
        port: u16,
        remote: SocketAddr,
        dont_fragment: bool,
    ) -> Option<Self> {
        let encapsulated = remote.port() != 0;
        let protocol = if encapsulated { UDP } else { ESP };
        let mut header = Vec::with_capacity(LONGEST);
        header.extend(hop.destination);
        header.extend(hop.source);
        let ipv4 = match (local, remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.extend([0x08, 0x00]);
                let flags = if dont_fragment { 0x40 } else { 0 };
                header.extend([0x45, 0, 0, 0, 0, 0, flags, 0, TTL, protocol, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                true
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header.extend([0x86, 0xdd]);
                header.extend([0x60, 0, 0, 0, 0, 0, protocol, TTL]);
                header.extend(from.octets());
                header.extend(to.octets());
                false
            }
            _ => return None,
        };
        if encapsulated {
            header.extend(port.to_be_bytes());
            header.extend(remote.port().to_be_bytes());
            // RFC 3948 2.1: over IPv4 the checksum is 0.
            header.extend([0; 4]);
        }
        let len = header.len();
        let mut bytes = [0; LONGEST];
        bytes[..len].copy_from_slice(&header);
        Some(Self { bytes, len, hop, ipv4, encapsulated })
    }

    /// The device that frames leave by.
    pub(super) fn device(&self) -> u32 {
        self.hop.device
    }

    /// Whether a sealed packet of this length passes in one IP packet.
    pub(super) fn fits(&self, len: usize) -> bool {
        self.len - 14 + len <= self.hop.mtu as usize
    }

    /// Writes the headers right before the sealed packet at `start` of the frame; returns where the Ethernet header is.
    /// `id` is the identification of IPv4, which matters without DF only (RFC 6864 4.1). `None` if there is no room.
    pub(super) fn write(
        &self,
        frame: &mut [u8],
        start: usize,
        len: usize,
        tos: u8,
        id: u16,
    ) -> Option<usize> {
        let begin = start.checked_sub(self.len)?;
        let packet = frame.get_mut(begin..start + len)?;
        let (header, sealed) = packet.split_at_mut(self.len);
        header.copy_from_slice(&self.bytes[..self.len]);
        let ip = &mut header[14..];
        let upper = (len + if self.encapsulated { 8 } else { 0 }) as u16;
        if self.ipv4 {
            ip[1] = tos;
            ip[2..4].copy_from_slice(&(20 + upper).to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            checksum::write_ipv4_header(&mut ip[..20]);
            if self.encapsulated {
                ip[24..26].copy_from_slice(&upper.to_be_bytes());
            }
            return Some(begin);
        }
        ip[0] |= tos >> 4;
        ip[1] |= tos << 4;
        ip[4..6].copy_from_slice(&upper.to_be_bytes());
        if self.encapsulated {
            ip[44..46].copy_from_slice(&upper.to_be_bytes());
            // RFC 8200 8.1: over IPv6 a UDP checksum there must be, and it is never 0.
            let pseudo = checksum::sum(&ip[8..40], u64::from(u16::from_ne_bytes([0, UDP])));
            let length = u64::from(u16::from_ne_bytes(upper.to_be_bytes()));
            let sum = checksum::sum(sealed, checksum::sum(&ip[40..48], pseudo + length));
            let field = match checksum::finish(sum) {
                [0, 0] => [0xff, 0xff],
                field => field,
            };
            ip[46..48].copy_from_slice(&field);
        }
        Some(begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_esp::packet::Packet;

    const HOP: NextHop =
        NextHop { device: 3, destination: [2, 0, 0, 0, 0, 2], source: [2, 0, 0, 0, 0, 1], mtu: 1500 };

    #[test]
    fn headers_are_those_of_the_kernel() {
        for (local, remote) in [
            ("192.0.2.1", "192.0.2.2:0"),
            ("192.0.2.1", "192.0.2.2:4501"),
            ("2001:db8::1", "[2001:db8::2]:0"),
            ("2001:db8::1", "[2001:db8::2]:4501"),
        ] {
            let (local, remote): (IpAddr, SocketAddr) = (local.parse().unwrap(), remote.parse().unwrap());
            let header = Header::new(HOP, local, 4500, remote, true).unwrap();
            let mut frame = vec![0xee; 300];
            let sealed: Vec<u8> = (0..101).collect();
            frame[128..229].copy_from_slice(&sealed);
            let begin = header.write(&mut frame, 128, 101, 0xb9, 0x1234).unwrap();
            assert_eq!(frame[begin..begin + 12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
            let packet = Packet::parse(&frame[begin + 14..229]).unwrap();
            assert_eq!((packet.source(), packet.destination()), (local, remote.ip()));
            assert_eq!((packet.traffic_class(), packet.ttl()), (0xb9, 64));
            assert_eq!(packet.total_len(), 229 - begin - 14);
            assert!(checksum::transport_is_right(&packet));
            let upper = &frame[begin + 14 + if local.is_ipv4() { 20 } else { 40 }..229];
            if remote.port() == 0 {
                assert_eq!((packet.protocol(), upper), (50, &sealed[..]));
            } else {
                assert_eq!(packet.protocol(), 17);
                assert_eq!(upper[..6], [0x11, 0x94, 0x11, 0x95, 0, 109]);
                assert_eq!(upper[8..], sealed);
            }
            if local.is_ipv4() {
                assert_eq!(checksum::fold(checksum::sum(&frame[begin + 14..begin + 34], 0)), 0xffff);
                assert_eq!(frame[begin + 14 + 4..begin + 14 + 8], [0x12, 0x34, 0x40, 0]);
            }
            // Up to the MTU and no further; no room before or behind is no panic.
            let most = 1500 - (128 - begin - 14);
            assert!(header.fits(most) && !header.fits(most + 1));
            assert_eq!(header.write(&mut frame, 20, 101, 0, 0), None);
            assert_eq!(header.write(&mut frame, 250, 101, 0, 0), None);
        }
        assert!(
            Header::new(HOP, "192.0.2.1".parse().unwrap(), 1, "[::1]:0".parse().unwrap(), true).is_none()
        );
    }
}
