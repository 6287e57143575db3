//! Packets for the corpus, and what routers and tunnels make of them by the book.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_ebpf_shared::testing::{self, ipv4, ipv6, udp};
use culvert_esp::{checksum, packet::Packet};

/// A packet under way, with the fields that the cases turn.
#[derive(Clone)]
pub(crate) struct Make {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) df: bool,
    pub(crate) len: usize,
}

impl Make {
    /// A UDP packet of that many bytes, IP header included.
    pub(crate) fn new(from: &str, to: &str, len: usize) -> Self {
        Self { from: from.parse().unwrap(), to: to.parse().unwrap(), tos: 0, ttl: 64, df: false, len }
    }

    pub(crate) fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub(crate) fn df(self) -> Self {
        Self { df: true, ..self }
    }

    fn header_len(&self) -> usize {
        if self.from.is_ipv4() { 20 } else { 40 }
    }

    /// UDP from port 7 to 9 with a payload that differs from byte to byte.
    pub(crate) fn udp(&self) -> Vec<u8> {
        let payload = numbered(self.len.saturating_sub(self.header_len() + 8));
        self.carrying(17, &udp(self.from, self.to, (7, 9), &payload))
    }

    /// A TCP SYN that offers a maximum segment size.
    pub(crate) fn syn(&self, mss: u16) -> Vec<u8> {
        let [high, low] = mss.to_be_bytes();
        let segment =
            vec![0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0, 2, 4, high, low];
        self.checked(6, 16, segment)
    }

    /// A transport segment with its checksum, which stands at `offset`, made right.
    pub(crate) fn checked(&self, protocol: u8, offset: usize, mut segment: Vec<u8>) -> Vec<u8> {
        segment[offset..offset + 2].fill(0);
        let whole = self.carrying(protocol, &segment);
        let parsed = Packet::parse(&whole).unwrap();
        let pseudo = checksum::pseudo_header(parsed.header(), protocol, segment.len());
        let sum = checksum::finish(checksum::sum(&segment, pseudo));
        segment[offset..offset + 2].copy_from_slice(&sum);
        self.carrying(protocol, &segment)
    }

    /// Any transport segment.
    pub(crate) fn carrying(&self, protocol: u8, segment: &[u8]) -> Vec<u8> {
        self.dressed(match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ipv4(from, to, protocol, &[], if self.df { 0x4000 } else { 0 }, segment)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, protocol, segment),
            _ => panic!("two families"),
        })
    }

    /// IPv4 with options, or a fragment (offset in bytes, more to come) of `segment`.
    pub(crate) fn odd(&self, options: &[u8], offset: u16, more: bool, segment: &[u8]) -> Vec<u8> {
        let (from, to) = self.v4();
        self.dressed(ipv4(from, to, 17, options, offset / 8 + u16::from(more) * 0x2000, segment))
    }

    /// IPv6 with an extension header of that number before UDP.
    pub(crate) fn extended(&self, number: u8) -> Vec<u8> {
        let (from, to) = self.v6();
        let inner = udp(self.from, self.to, (7, 9), &numbered(40));
        self.dressed(ipv6(from, to, number, &testing::extension(17, 1, &inner)))
    }

    /// An IPv6 fragment.
    pub(crate) fn fragment6(&self, offset: u16, more: bool, segment: &[u8]) -> Vec<u8> {
        let (from, to) = self.v6();
        self.dressed(ipv6(from, to, 44, &testing::fragment(17, offset, more, segment)))
    }

    fn v4(&self) -> (Ipv4Addr, Ipv4Addr) {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (from, to),
            _ => panic!("IPv4 is meant"),
        }
    }

    fn v6(&self) -> (Ipv6Addr, Ipv6Addr) {
        match (self.from, self.to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => (from, to),
            _ => panic!("IPv6 is meant"),
        }
    }

    fn dressed(&self, mut packet: Vec<u8>) -> Vec<u8> {
        if self.from.is_ipv4() {
            (packet[1], packet[8]) = (self.tos, self.ttl);
            right_header(&mut packet);
        } else {
            packet[0] = 0x60 | self.tos >> 4;
            packet[1] = self.tos << 4;
            packet[7] = self.ttl;
        }
        packet
    }
}

/// Bytes that differ from their neighbours.
pub(crate) fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ i >> 8) as u8).collect()
}

/// Writes an IPv4 header's checksum anew, whatever the header's length.
pub(crate) fn right_header(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&packet[..len], 0));
    packet[10..12].copy_from_slice(&sum);
}

/// The packet behind one router.
pub(crate) fn routed(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        right_header(&mut packet);
    } else {
        packet[7] -= 1;
    }
    packet
}

/// The packet with these two bits of ECN.
pub(crate) fn with_ecn(packet: &[u8], ecn: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[1] = packet[1] & 0xfc | ecn;
        right_header(&mut packet);
    } else {
        packet[1] = packet[1] & 0xcf | ecn << 4;
    }
    packet
}

/// The segment's bytes of a UDP packet cut into IPv4 fragments that fit, as a router with that MTU cuts them.
pub(crate) fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let most = (mtu - 20) / 8 * 8;
    let count = payload.len().div_ceil(most);
    let piece = |(i, piece): (usize, &[u8])| {
        let mut fragment = [header, piece].concat();
        let length = fragment.len() as u16;
        fragment[2..4].copy_from_slice(&length.to_be_bytes());
        let field = (i * most / 8) as u16 + u16::from(i + 1 < count) * 0x2000;
        fragment[6..8].copy_from_slice(&field.to_be_bytes());
        right_header(&mut fragment);
        fragment
    };
    payload.chunks(most).enumerate().map(piece).collect()
}
