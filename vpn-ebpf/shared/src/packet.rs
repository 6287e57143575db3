//! The parser of outer packets: Ethernet with up to two VLAN tags, IPv4, IPv6, UDP, ESP, IKE, NAT keepalives.
//!
//! Written for the verifier: every read is a copy of a constant number of bytes that the source of the bytes checks,
//! every loop has a constant bound, nothing can panic.
use crate::address::Address;

/// Where packets are read from: packet memory in the kernel, a slice in user space.
pub trait Bytes {
    /// Length of the whole packet from offset 0 on, in bytes.
    fn length(&self) -> u32;

    /// A copy of the `N` bytes at `offset`, and true; zeroes and false if the packet ends before. Not an Option: its
    /// None has contents that nobody wrote, see [`Parsed`]. `N` is at least 2: the compiler turns "at + 1 > end" into
    /// "at >= end", which the verifier does not take for a check of one byte.
    fn load<const N: usize>(&self, offset: u32) -> ([u8; N], bool);

    /// UDP payload of each segment of a super-packet (GSO or GRO), in bytes; 0 for an ordinary packet.
    fn segment(&self) -> u32 {
        0
    }
}

impl Bytes for [u8] {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.len() as u32
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> ([u8; N], bool) {
        match self.get(offset as usize..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => (*bytes, true),
            None => ([0; N], false),
        }
    }
}

/// What the packet is, as far as an IPsec gateway is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither ESP nor IKE.
    Other,
    /// Its lengths contradict each other, or it ends before its headers do.
    Malformed,
    /// IPv6 with more extension headers than are followed here.
    Odd,
    /// A fragment that may be of a packet with ESP or UDP (not an IPv6 "atomic fragment", RFC 6946).
    Fragment,
    /// NAT keepalive: one octet 0xFF on UDP 4500 (RFC 3948 2.3).
    Keepalive,
    /// An IKE message on UDP 500, or on UDP 4500 behind a non-ESP marker.
    Ike {
        /// On port 4500.
        natt: bool,
        /// Where the IKE header begins (behind the marker).
        offset: u32,
        /// Length of the message in bytes.
        len: u32,
    },
    /// ESP, as protocol 50 or in UDP on port 4500.
    Esp {
        /// In network byte order, never 0 inside UDP.
        spi: [u8; 4],
        /// The low 32 bits.
        sequence: u32,
        /// In UDP (RFC 3948).
        encapsulated: bool,
        /// Where the SPI is.
        offset: u32,
        /// From the SPI to the end of the ICV, in bytes; of the first segment in case of a super-packet.
        len: u32,
    },
}

/// A parsed packet.
///
/// Flat, every field written for every packet: an enum with contents leaves those of its other variants unwritten,
/// and registers that were never written are what the verifier refuses first. [`Parsed::kind`] gives the enum.
#[repr(align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Outer source; unspecified if the packet has no readable IP header.
    pub source: Address,
    /// Outer destination; as the source.
    pub destination: Address,
    /// Length by the IP header, in bytes; 0 without one.
    pub ip_len: u32,
    /// What it is.
    pub class: Class,
    /// On UDP port 4500, if it is IKE or ESP.
    pub natt: bool,
    /// SPI of ESP, in network byte order; else 0.
    pub spi: u32,
    /// Low 32 bits of the sequence number of ESP; else 0.
    pub sequence: u32,
    /// Where the ESP or IKE header is; else 0.
    pub offset: u32,
    /// Length of the ESP packet (of the first, in a super-packet) or IKE message; else 0.
    pub len: u32,
}

/// [`Kind`] without its contents.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "those of Kind")]
pub enum Class {
    Other,
    Malformed,
    Odd,
    Fragment,
    Keepalive,
    Ike,
    Esp,
}

impl Parsed {
    const OTHER: Parsed = Parsed {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        ip_len: 0,
        class: Class::Other,
        natt: false,
        spi: 0,
        sequence: 0,
        offset: 0,
        len: 0,
    };

    /// What it is, with what belongs to it.
    pub fn kind(&self) -> Kind {
        let Parsed { natt, offset, len, sequence, .. } = *self;
        match self.class {
            Class::Other => Kind::Other,
            Class::Malformed => Kind::Malformed,
            Class::Odd => Kind::Odd,
            Class::Fragment => Kind::Fragment,
            Class::Keepalive => Kind::Keepalive,
            Class::Ike => Kind::Ike { natt, offset, len },
            Class::Esp => {
                Kind::Esp { spi: self.spi.to_ne_bytes(), sequence, encapsulated: natt, offset, len }
            }
        }
    }
}

/// UDP port of IKE (RFC 7296 2.).
pub const PORT_IKE: u16 = 500;
/// UDP port of IKE and ESP behind a NAT (RFC 3948).
pub const PORT_NATT: u16 = 4500;
/// IP protocol number of ESP.
pub const PROTOCOL_ESP: u8 = 50;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IPv6 extension headers that are followed.
const MAX_EXTENSIONS: u32 = 8;
const FRAGMENT_HEADER: u8 = 44;

/// Parses a frame that begins with an Ethernet header.
#[inline(always)]
pub fn parse_ethernet<B: Bytes + ?Sized>(packet: &B) -> Parsed {
    let mut offset = 14;
    let (ethertype, true) = packet.load::<2>(12) else { return Parsed::OTHER };
    let mut ethertype = u16::from_be_bytes(ethertype);
    let mut tags = 0;
    while tags < 2 && (ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ) {
        // The tag's identifier, then the type of what follows.
        let ([_, _, high, low], true) = packet.load::<4>(offset) else { return Parsed::OTHER };
        ethertype = u16::from_be_bytes([high, low]);
        offset += 4;
        tags += 1;
    }
    let found = match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(packet, offset),
        ETHERTYPE_IPV6 => parse_ipv6(packet, offset),
        _ => return Parsed::OTHER,
    };
    transport(packet, found)
}

/// Parses a packet whose IP header is at `offset`.
#[inline(always)]
pub fn parse_ip<B: Bytes + ?Sized>(packet: &B, offset: u32) -> Parsed {
    let ([first, _], true) = packet.load::<2>(offset) else { return Parsed::OTHER };
    let found = match first >> 4 {
        4 => parse_ipv4(packet, offset),
        6 => parse_ipv6(packet, offset),
        _ => return Parsed::OTHER,
    };
    transport(packet, found)
}

/// Where the transport header is. One place reads it for both families: what comes after the headers of IP is then
/// verified once, not for every way that leads there.
#[derive(Clone, Copy)]
struct Located {
    parsed: Parsed,
    /// UDP or ESP; 0 if there is nothing to look into, and `parsed` is final.
    protocol: u8,
    offset: u32,
    len: u32,
}

impl Located {
    #[inline(always)]
    fn nothing(mut parsed: Parsed, class: Class) -> Located {
        parsed.class = class;
        Located { parsed, protocol: 0, offset: 0, len: 0 }
    }
}

#[inline(always)]
fn parse_ipv4<B: Bytes + ?Sized>(packet: &B, offset: u32) -> Located {
    let mut parsed = Parsed::OTHER;
    let (h, true) = packet.load::<20>(offset) else { return Located::nothing(parsed, Class::Other) };
    if h[0] >> 4 != 4 {
        return Located::nothing(parsed, Class::Other);
    }
    let available = packet.length().saturating_sub(offset);
    let header = ((h[0] & 0xf) as u32) * 4;
    let mut ip_len = u16::from_be_bytes([h[2], h[3]]) as u32;
    if ip_len == 0 && packet.segment() != 0 {
        // A super-packet beyond 64 KiB.
        ip_len = available;
    }
    parsed.source = Address::from_v4([h[12], h[13], h[14], h[15]]);
    parsed.destination = Address::from_v4([h[16], h[17], h[18], h[19]]);
    parsed.ip_len = ip_len;
    if header < 20 || ip_len < header || ip_len > available {
        return Located::nothing(parsed, Class::Malformed);
    }
    let protocol = h[9];
    if protocol != PROTOCOL_UDP && protocol != PROTOCOL_ESP {
        return Located::nothing(parsed, Class::Other);
    }
    // More fragments, or an offset.
    if u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
        return Located::nothing(parsed, Class::Fragment);
    }
    Located { parsed, protocol, offset: offset + header, len: ip_len - header }
}

#[inline(always)]
fn parse_ipv6<B: Bytes + ?Sized>(packet: &B, offset: u32) -> Located {
    let mut parsed = Parsed::OTHER;
    // Three reads: one of 40 bytes would take more of the BPF stack than it is worth.
    let (h, true) = packet.load::<8>(offset) else { return Located::nothing(parsed, Class::Other) };
    let (source, true) = packet.load::<16>(offset + 8) else { return Located::nothing(parsed, Class::Other) };
    let (destination, true) = packet.load::<16>(offset + 24) else {
        return Located::nothing(parsed, Class::Other);
    };
    if h[0] >> 4 != 6 {
        return Located::nothing(parsed, Class::Other);
    }
    let available = packet.length().saturating_sub(offset);
    let mut ip_len = 40 + u16::from_be_bytes([h[4], h[5]]) as u32;
    if ip_len == 40 && packet.segment() != 0 {
        ip_len = available;
    }
    parsed.source = Address::from_v6(source);
    parsed.destination = Address::from_v6(destination);
    parsed.ip_len = ip_len;
    if ip_len > available || ip_len < 40 {
        return Located::nothing(parsed, Class::Malformed);
    }
    extensions(packet, parsed, h[6], offset + 40, ip_len - 40)
}

/// Follows IPv6 extension headers (RFC 8200 4) to the transport header.
#[inline(always)]
fn extensions<B: Bytes + ?Sized>(packet: &B, parsed: Parsed, first: u8, offset: u32, len: u32) -> Located {
    let (mut next, mut at, mut left) = (first, offset, len);
    let mut count = 0;
    while next != PROTOCOL_UDP && next != PROTOCOL_ESP {
        if count == MAX_EXTENSIONS {
            return Located::nothing(parsed, Class::Odd);
        }
        let is_fragment = next == FRAGMENT_HEADER;
        if !is_fragment && !is_options(next) {
            return Located::nothing(parsed, Class::Other);
        }
        let ([following, units, high, low], true) = packet.load::<4>(at) else {
            return Located::nothing(parsed, Class::Malformed);
        };
        // An offset, or more to come. Both 0: an atomic fragment, a whole packet (RFC 6946).
        if is_fragment && u16::from_be_bytes([high, low]) & 0xfff9 != 0 {
            let ours = following == PROTOCOL_UDP || following == PROTOCOL_ESP || is_options(following);
            return Located::nothing(parsed, if ours { Class::Fragment } else { Class::Other });
        }
        let size = if is_fragment { 8 } else { (units as u32 + 1) * 8 };
        if size > left {
            return Located::nothing(parsed, Class::Malformed);
        }
        next = following;
        at += size;
        left -= size;
        count += 1;
    }
    Located { parsed, protocol: next, offset: at, len: left }
}

/// Hop-by-hop options, routing, destination options, mobility, HIP, Shim6: all with their length in the second byte.
#[inline(always)]
fn is_options(header: u8) -> bool {
    header == 0 || header == 43 || header == 60 || header == 135 || header == 139 || header == 140
}

#[inline(always)]
fn transport<B: Bytes + ?Sized>(packet: &B, found: Located) -> Parsed {
    let Located { mut parsed, protocol, offset, len } = found;
    if protocol == 0 {
        return parsed;
    }
    if protocol == PROTOCOL_ESP {
        return esp(packet, parsed, offset, len);
    }
    // Until shown otherwise.
    parsed.class = Class::Malformed;
    let (h, true) = packet.load::<8>(offset) else { return parsed };
    if len < 8 {
        return parsed;
    }
    let port = u16::from_be_bytes([h[2], h[3]]);
    if port != PORT_IKE && port != PORT_NATT {
        parsed.class = Class::Other;
        return parsed;
    }
    let mut udp_len = u16::from_be_bytes([h[4], h[5]]) as u32;
    let segment = packet.segment();
    if udp_len == 0 && segment != 0 {
        udp_len = len;
    }
    if udp_len < 8 || udp_len > len {
        return parsed;
    }
    let offset = offset + 8;
    let mut payload = udp_len - 8;
    if segment != 0 && payload > segment {
        payload = segment;
    }
    if port == PORT_IKE {
        parsed.class = Class::Ike;
        parsed.offset = offset;
        parsed.len = payload;
        return parsed;
    }
    if payload == 1 {
        // With the byte before it, the last of the UDP header.
        if let ([_, 0xff], true) = packet.load::<2>(offset - 1) {
            parsed.class = Class::Keepalive;
        }
        return parsed;
    }
    if payload < 4 {
        return parsed;
    }
    let (marker, true) = packet.load::<4>(offset) else { return parsed };
    parsed.natt = true;
    // RFC 3948 2.2: the non-ESP marker, where ESP would have its SPI.
    if u32::from_ne_bytes(marker) == 0 {
        parsed.class = Class::Ike;
        parsed.offset = offset + 4;
        parsed.len = payload - 4;
        return parsed;
    }
    esp(packet, parsed, offset, payload)
}

#[inline(always)]
fn esp<B: Bytes + ?Sized>(packet: &B, mut parsed: Parsed, offset: u32, len: u32) -> Parsed {
    parsed.class = Class::Malformed;
    if len < 8 {
        return parsed;
    }
    let ([a, b, c, d, e, f, g, h], true) = packet.load::<8>(offset) else { return parsed };
    parsed.class = Class::Esp;
    parsed.spi = u32::from_ne_bytes([a, b, c, d]);
    parsed.sequence = u32::from_be_bytes([e, f, g, h]);
    parsed.offset = offset;
    parsed.len = len;
    parsed
}
