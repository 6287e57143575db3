//! Borrowed views of IP packets: what selectors, tunnel rules and ICMP need to know of them.
//!
//! Parsing is bounded, allocates nothing and takes any bytes. The length is the header's own: bytes
//! after it (ESP's traffic-flow padding, link padding) are not part of the view.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A packet's fixed header.
#[derive(Debug, Clone, Copy)]
pub enum Header<'a> {
    /// IPv4 without its options.
    V4(&'a [u8; 20]),
    /// IPv6 without extension headers.
    V6(&'a [u8; 40]),
}

/// Why bytes are no IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The version nibble is neither 4 nor 6.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// The bytes end before the header or the length it claims.
    #[error("cut short")]
    Truncated,
    /// A length in the header contradicts itself.
    #[error("impossible header length")]
    Length,
    /// More extension headers than any honest packet has.
    #[error("too many IPv6 extension headers")]
    Extensions,
}

/// A fragment's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Offset in bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// One IP packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    header: Header<'a>,
    protocol: u8,
    transport: usize,
    fragment: Option<Fragment>,
}

/// Extension headers walked before a packet is refused.
const MAX_EXTENSIONS: usize = 16;

impl<'a> Packet<'a> {
    /// Reads the headers of the packet that `bytes` begin with.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        match bytes.first().ok_or(PacketError::Truncated)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(PacketError::Version),
        }
    }

    #[inline]
    fn parse_v4(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let h: &[u8; 20] = bytes.first_chunk().ok_or(PacketError::Truncated)?;
        let header_len = usize::from(h[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
        if header_len < 20 || total < header_len {
            return Err(PacketError::Length);
        }
        let bytes = bytes.get(..total).ok_or(PacketError::Truncated)?;
        let word = u16::from_be_bytes([h[6], h[7]]);
        let fragment = (word & 0x3fff != 0)
            .then_some(Fragment { offset: (word & 0x1fff) << 3, more: word & 0x2000 != 0 });
        Ok(Self { bytes, header: Header::V4(h), protocol: h[9], transport: header_len, fragment })
    }

    #[inline]
    fn parse_v6(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let h: &[u8; 40] = bytes.first_chunk().ok_or(PacketError::Truncated)?;
        let total = 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
        let bytes = bytes.get(..total).ok_or(PacketError::Truncated)?;
        let mut packet = Self { bytes, header: Header::V6(h), protocol: h[6], transport: 40, fragment: None };
        if matches!(h[6], 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
            packet.walk_extensions()?;
        }
        Ok(packet)
    }

    /// RFC 8200 4: passes over extension headers to the upper-layer protocol. Behind the header of a
    /// fragment that is not the first there is nothing to read.
    fn walk_extensions(&mut self) -> Result<(), PacketError> {
        for _ in 0..MAX_EXTENSIONS {
            let rest = self.bytes.get(self.transport..).ok_or(PacketError::Truncated)?;
            let len = match self.protocol {
                0 | 43 | 60 | 135 | 139 | 140 => {
                    let [_, len, ..] = rest else { return Err(PacketError::Truncated) };
                    8 + usize::from(*len) * 8
                }
                // RFC 4302 2.2: in 4-byte words, minus 2.
                51 => {
                    let [_, len, ..] = rest else { return Err(PacketError::Truncated) };
                    8 + usize::from(*len) * 4
                }
                44 => {
                    let [_, _, a, b, ..] = rest else { return Err(PacketError::Truncated) };
                    let word = u16::from_be_bytes([*a, *b]);
                    // RFC 6946: a fragment of the whole packet is a whole packet.
                    self.fragment = (word & 0xfff9 != 0)
                        .then_some(Fragment { offset: word & 0xfff8, more: word & 1 != 0 });
                    8
                }
                _ => return Ok(()),
            };
            let (Some(next), true) = (rest.first(), rest.len() >= len) else {
                return Err(PacketError::Truncated);
            };
            let was_fragment = self.protocol == 44;
            self.protocol = *next;
            self.transport += len;
            if was_fragment && self.fragment.is_some_and(|f| f.offset != 0) {
                return Ok(());
            }
        }
        Err(PacketError::Extensions)
    }

    /// The whole packet, as long as its header says.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The fixed header.
    #[inline]
    pub fn header(&self) -> Header<'a> {
        self.header
    }

    /// Whether it is IPv4.
    #[inline]
    pub fn is_ipv4(&self) -> bool {
        matches!(self.header, Header::V4(_))
    }

    /// Length in bytes, headers included.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// Where it comes from.
    #[inline]
    pub fn source(&self) -> IpAddr {
        match self.header {
            Header::V4(h) => Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
            Header::V6(h) => v6(h, 8).into(),
        }
    }

    /// Where it goes.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        match self.header {
            Header::V4(h) => Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
            Header::V6(h) => v6(h, 24).into(),
        }
    }

    /// The upper-layer protocol, after extension headers.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// DSCP and ECN: IPv4's type of service, IPv6's traffic class.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        self.header.traffic_class()
    }

    /// TTL or hop limit.
    #[inline]
    pub fn ttl(&self) -> u8 {
        match self.header {
            Header::V4(h) => h[8],
            Header::V6(h) => h[7],
        }
    }

    /// Whether it may not be fragmented on its way: DF, and always with IPv6.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        match self.header {
            Header::V4(h) => h[6] & 0x40 != 0,
            Header::V6(_) => true,
        }
    }

    /// Its place among fragments; `None` for a whole packet.
    #[inline]
    pub fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// Whether the upper-layer header is in it: a whole packet or a first fragment.
    #[inline]
    pub fn has_transport_header(&self) -> bool {
        self.fragment.is_none_or(|f| f.offset == 0)
    }

    /// Bytes from the upper-layer header on; of a fragment that is not the first: its piece.
    #[inline]
    pub fn transport(&self) -> &'a [u8] {
        self.bytes.get(self.transport..).unwrap_or_default()
    }

    /// Offset of [`transport`](Self::transport) in the packet.
    #[inline]
    pub fn transport_offset(&self) -> usize {
        self.transport
    }

    /// Source and destination port of TCP, UDP, UDP-Lite, SCTP and DCCP. `None` for other protocols and
    /// where a fragment does not show them.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        if !matches!(self.protocol, 6 | 17 | 33 | 132 | 136) || !self.has_transport_header() {
            return None;
        }
        let [a, b, c, d] = *self.transport().first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// ICMP's or ICMPv6's type and code. `None` for other protocols and where a fragment does not show
    /// them.
    #[inline]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        if self.protocol != if self.is_ipv4() { 1 } else { 58 } || !self.has_transport_header() {
            return None;
        }
        let [kind, code] = *self.transport().first_chunk()?;
        Some((kind, code))
    }
}

impl Header<'_> {
    /// DSCP and ECN: IPv4's type of service, IPv6's traffic class.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        match self {
            Self::V4(h) => h[1],
            Self::V6(h) => h[0] << 4 | h[1] >> 4,
        }
    }
}

#[inline]
fn v6(h: &[u8; 40], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    if let Some(from) = h.get(at..at + 16) {
        octets.copy_from_slice(from);
    }
    octets.into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An IPv4 packet around a payload, header checksum right.
    pub(crate) fn ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = (20 + payload.len()) as u16;
        let mut p = vec![0x45, 0, (len >> 8) as u8, len as u8, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
        p.extend(src);
        p.extend(dst);
        crate::checksum::write_ipv4_header(&mut p);
        p.extend(payload);
        p
    }

    /// An IPv6 packet around a payload.
    pub(crate) fn ipv6(src: &str, dst: &str, next: u8, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u16;
        let mut p = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, next, 64];
        p.extend(src.parse::<Ipv6Addr>().unwrap().octets());
        p.extend(dst.parse::<Ipv6Addr>().unwrap().octets());
        p.extend(payload);
        p
    }

    #[test]
    fn ipv4_fields() {
        let mut bytes = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 17, &[0, 53, 0x30, 0x39, 0, 8, 0, 0]);
        bytes[1] = 0xb9;
        bytes[6] = 0x40;
        bytes.extend([9; 30]); // traffic-flow padding
        let p = Packet::parse(&bytes).unwrap();
        assert_eq!((p.total_len(), p.protocol(), p.ttl(), p.traffic_class()), (28, 17, 64, 0xb9));
        assert_eq!((p.source(), p.destination()), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
        assert_eq!(p.ports(), Some((53, 12345)));
        assert!(p.dont_fragment() && p.fragment().is_none() && p.icmp().is_none());
    }

    #[test]
    fn fragments_hide_their_ports() {
        let mut bytes = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &[0, 80, 0, 81, 1, 2, 3, 4]);
        bytes[6] = 0x20;
        let first = Packet::parse(&bytes).unwrap();
        assert_eq!(first.ports(), Some((80, 81)));
        assert_eq!(first.fragment(), Some(Fragment { offset: 0, more: true }));
        bytes[7] = 185;
        let later = Packet::parse(&bytes).unwrap();
        assert_eq!((later.ports(), later.fragment().unwrap().offset), (None, 1480));
    }

    #[test]
    fn ipv6_extension_headers_are_passed_over() {
        let udp = [0, 53, 0, 54, 0, 8, 0, 0];
        let hop =
            [&[43, 0, 1, 4, 0, 0, 0, 0][..], &[60, 1], &[0; 14], &[17, 0, 1, 4, 0, 0, 0, 0], &udp].concat();
        let bytes = ipv6("2001:db8::1", "2001:db8::2", 0, &hop);
        let p = Packet::parse(&bytes).unwrap();
        assert_eq!((p.protocol(), p.transport_offset(), p.ports()), (17, 72, Some((53, 54))));
        assert_eq!(p.source().to_string(), "2001:db8::1");
        // A later fragment's next header is not walked: its bytes are anything.
        let later = [&[60, 0, 0, 8, 0, 0, 0, 1][..], &[0xff; 8]].concat();
        let bytes = ipv6("2001:db8::1", "2001:db8::2", 44, &later);
        let p = Packet::parse(&bytes).unwrap();
        assert_eq!(
            (p.protocol(), p.ports(), p.fragment()),
            (60, None, Some(Fragment { offset: 8, more: false }))
        );
    }

    #[test]
    fn an_atomic_fragment_is_a_whole_packet() {
        let bytes =
            ipv6("2001:db8::1", "2001:db8::2", 44, &[17, 0, 0, 0, 0, 0, 0, 9, 0, 53, 0, 54, 0, 8, 0, 0]);
        let p = Packet::parse(&bytes).unwrap();
        assert_eq!((p.fragment(), p.protocol(), p.ports()), (None, 17, Some((53, 54))));
        let bytes =
            ipv6("2001:db8::1", "2001:db8::2", 44, &[17, 0, 0, 1, 0, 0, 0, 9, 0, 53, 0, 54, 0, 8, 0, 0]);
        let p = Packet::parse(&bytes).unwrap();
        assert_eq!((p.fragment(), p.ports()), (Some(Fragment { offset: 0, more: true }), Some((53, 54))));
    }

    #[test]
    fn endless_or_cut_extension_chains_are_refused() {
        let bytes = ipv6("::1", "::2", 60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(40));
        assert_eq!(Packet::parse(&bytes).unwrap_err(), PacketError::Extensions);
        let bytes = ipv6("::1", "::2", 60, &[17, 9, 1, 4, 0, 0, 0, 0]);
        assert_eq!(Packet::parse(&bytes).unwrap_err(), PacketError::Truncated);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let good = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 17, &[0; 8]);
        for len in 0..good.len() {
            assert!(Packet::parse(&good[..len]).is_err(), "{len}");
        }
        for nibble in 0..16u8 {
            let mut bytes = good.clone();
            bytes[0] = nibble << 4 | 5;
            assert_eq!(Packet::parse(&bytes).is_ok(), nibble == 4, "version {nibble}");
            bytes[0] = 0x40 | nibble;
            assert_eq!(Packet::parse(&bytes).is_ok(), (5..=7).contains(&nibble), "header length {nibble}");
        }
        for total in [0, 19, 29, 65535u16] {
            let mut bytes = good.clone();
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            assert!(Packet::parse(&bytes).is_err(), "{total}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool, next in 0u8..64) {
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0x0f | if v6 { 0x60 } else { 0x40 };
            }
            if v6 && bytes.len() > 40 {
                let len = bytes.len() - 40;
                bytes[4..6].copy_from_slice(&(len as u16).to_be_bytes());
                bytes[6] = next;
            }
            if let Ok(p) = Packet::parse(&bytes) {
                prop_assert!(p.total_len() <= bytes.len());
                prop_assert!(p.transport_offset() + p.transport().len() == p.total_len());
                let _ = (p.ports(), p.icmp(), p.source(), p.destination());
            }
        }
    }
}
