//! Packets for tests, built layer by layer from the inside out. Checksums are right, so that a stack takes them.
extern crate alloc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An ESP packet of `len` bytes (at least 8) with a body of one repeated byte.
pub fn esp(spi: u32, sequence: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![0xa5; len.max(8)];
    packet[..4].copy_from_slice(&spi.to_be_bytes());
    packet[4..8].copy_from_slice(&sequence.to_be_bytes());
    packet
}

/// An IKE message of `len` bytes: the header of an IKE_SA_INIT request, and zeroes.
pub fn ike(len: usize) -> Vec<u8> {
    let mut message = vec![0; len];
    let header = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 33, 0x20, 34, 8];
    for (to, from) in message.iter_mut().zip(header) {
        *to = from;
    }
    message
}

/// Behind the non-ESP marker.
pub fn marked(message: &[u8]) -> Vec<u8> {
    [&[0; 4], message].concat()
}

/// UDP, with its checksum.
pub fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() + 8) as u16;
    let mut datagram = Vec::from([0; 8]);
    datagram[..2].copy_from_slice(&ports.0.to_be_bytes());
    datagram[2..4].copy_from_slice(&ports.1.to_be_bytes());
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    datagram.extend_from_slice(payload);
    let mut pseudo = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(v4) => pseudo.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => pseudo.extend_from_slice(&v6.octets()),
        }
    }
    pseudo.extend_from_slice(&[0, 17]);
    pseudo.extend_from_slice(&len.to_be_bytes());
    pseudo.extend_from_slice(&datagram);
    let sum = match checksum(&pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// IPv4 with options (a multiple of four bytes) and the fragment field (flags and offset).
pub fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0; header];
    packet[0] = 0x40 | (header / 4) as u8;
    packet[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet[20..].copy_from_slice(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// IPv6; extension headers, if any, are at the front of the payload.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(payload);
    packet
}

/// An IPv6 extension header with an option that is skipped, of `units` times 8 bytes (at least 1), before `payload`.
pub fn extension(next: u8, units: usize, payload: &[u8]) -> Vec<u8> {
    let units = units.max(1);
    let mut header = vec![0; units * 8];
    header[0] = next;
    header[1] = (units - 1) as u8;
    // Not PadN: stacks are wary of much padding. 0x1e: experimental, skipped by who does not know it (RFC 4727 3.2.).
    header[2] = 0x1e;
    header[3] = (units * 8 - 4).min(255) as u8;
    header.extend_from_slice(payload);
    header
}

/// An IPv6 fragment header, before `payload`.
pub fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let field = (offset & 0xfff8) | more as u16;
    let mut header = vec![next, 0, 0, 0, 0, 0, 0, 9];
    header[2..4].copy_from_slice(&field.to_be_bytes());
    header.extend_from_slice(payload);
    header
}

/// IP of the family of the addresses, without options or extension headers.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, protocol, &[], 0, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, protocol, payload),
        _ => Vec::new(),
    }
}

/// Ethernet around an IP packet, with VLAN tags given by their protocol identifiers, the outermost first.
pub fn ethernet(destination: [u8; 6], source: [u8; 6], tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    for tag in tags {
        frame.extend_from_slice(&tag.to_be_bytes());
        frame.extend_from_slice(&7_u16.to_be_bytes());
    }
    let ethertype: u16 = if packet.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
