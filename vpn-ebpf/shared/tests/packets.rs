//! A table of packets and what the parser makes of them; and that no bytes make it panic.
use culvert_ebpf_shared::testing::{esp, ethernet, extension, fragment, ike, ip, ipv4, ipv6, marked, udp};
use culvert_ebpf_shared::{Address, Kind, Parsed, parse_ethernet, parse_ip};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const S4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const D4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const S6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6);
const D6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const SPI: u32 = 0xc0ffee01;

fn v4() -> (IpAddr, IpAddr) {
    (S4.into(), D4.into())
}

fn v6() -> (IpAddr, IpAddr) {
    (S6.into(), D6.into())
}

fn frame(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    ethernet([2; 6], [4; 6], tags, packet)
}

fn natt((source, destination): (IpAddr, IpAddr), payload: &[u8]) -> Vec<u8> {
    ip(source, destination, 17, &udp(source, destination, (4500, 4500), payload))
}

fn found(offset: u32, len: u32, encapsulated: bool) -> Kind {
    Kind::Esp { spi: SPI.to_be_bytes(), sequence: 7, encapsulated, offset, len }
}

#[track_caller]
fn check(frame: &[u8], kind: Kind) -> Parsed {
    let parsed = parse_ethernet(frame);
    assert_eq!(parsed.kind(), kind);
    parsed
}

#[test]
fn plain_esp() {
    let (source, destination) = v4();
    let parsed = check(&frame(&[], &ip(source, destination, 50, &esp(SPI, 7, 64))), found(34, 64, false));
    assert_eq!((parsed.source, parsed.destination), (source.into(), destination.into()));
    assert_eq!(parsed.ip_len, 84);
    let (source, destination) = v6();
    let parsed = check(&frame(&[], &ip(source, destination, 50, &esp(SPI, 7, 64))), found(54, 64, false));
    assert_eq!((parsed.source, parsed.destination), (source.into(), destination.into()));
    assert_eq!(parsed.ip_len, 104);
}

#[test]
fn esp_in_udp() {
    check(&frame(&[], &natt(v4(), &esp(SPI, 7, 60))), found(42, 60, true));
    check(&frame(&[], &natt(v6(), &esp(SPI, 7, 60))), found(62, 60, true));
}

#[test]
fn vlan_tags() {
    check(&frame(&[0x8100], &natt(v4(), &esp(SPI, 7, 60))), found(46, 60, true));
    check(&frame(&[0x88a8, 0x8100], &natt(v4(), &esp(SPI, 7, 60))), found(50, 60, true));
    check(&frame(&[0x88a8, 0x8100], &natt(v6(), &esp(SPI, 7, 60))), found(70, 60, true));
    check(&frame(&[0x88a8, 0x8100, 0x8100], &natt(v4(), &esp(SPI, 7, 60))), Kind::Other);
}

#[test]
fn ethernet_padding_is_no_part_of_the_packet() {
    let mut padded = frame(&[], &natt(v4(), &[0xff]));
    padded.resize(60, 0);
    check(&padded, Kind::Keepalive);
    let mut padded = frame(&[], &ip(S4.into(), D4.into(), 50, &esp(SPI, 7, 8)));
    padded.resize(60, 0);
    check(&padded, found(34, 8, false));
}

#[test]
fn ipv4_options() {
    for words in 1..=10 {
        let packet = ipv4(S4, D4, 50, &vec![1; words * 4], 0, &esp(SPI, 7, 40));
        check(&frame(&[], &packet), found(34 + 4 * words as u32, 40, false));
    }
}

#[test]
fn ipv6_extension_headers() {
    let inner = esp(SPI, 7, 40);
    let one = ipv6(S6, D6, 0, &extension(50, 1, &inner));
    check(&frame(&[], &one), found(62, 40, false));
    let three = ipv6(S6, D6, 0, &extension(43, 2, &extension(60, 3, &extension(50, 1, &inner))));
    check(&frame(&[], &three), found(54 + 48, 40, false));
    let datagram = udp(S6.into(), D6.into(), (4500, 4500), &inner);
    check(&frame(&[], &ipv6(S6, D6, 60, &extension(17, 32, &datagram))), found(54 + 256 + 8, 40, true));
    let none = ipv6(S6, D6, 0, &extension(59, 1, &inner));
    check(&frame(&[], &none), Kind::Other);
    let mut deep = inner;
    let mut next = 50;
    for _ in 0..9 {
        deep = extension(next, 1, &deep);
        next = 60;
    }
    check(&frame(&[], &ipv6(S6, D6, 60, &deep)), Kind::Odd);
    // A header that claims more than there is.
    let mut lying = ipv6(S6, D6, 60, &extension(50, 1, &esp(SPI, 7, 40)));
    lying[41] = 200;
    check(&frame(&[], &lying), Kind::Malformed);
}

#[test]
fn fragments() {
    let part = esp(SPI, 7, 40);
    for (protocol, field, kind) in [
        (50, 0x2000, Kind::Fragment),
        (50, 5, Kind::Fragment),
        (17, 0x2005, Kind::Fragment),
        (6, 0x2000, Kind::Other),
        // Don't fragment is not a fragment.
        (50, 0x4000, found(34, 40, false)),
    ] {
        check(&frame(&[], &ipv4(S4, D4, protocol, &[], field, &part)), kind);
    }
    for (packet, kind) in [
        (fragment(50, 0, true, &part), Kind::Fragment),
        (fragment(17, 64, false, &part), Kind::Fragment),
        (fragment(60, 64, false, &part), Kind::Fragment),
        (fragment(6, 64, false, &part), Kind::Other),
        // RFC 6946: an atomic fragment is a whole packet.
        (fragment(50, 0, false, &part), found(62, 40, false)),
    ] {
        check(&frame(&[], &ipv6(S6, D6, 44, &packet)), kind);
    }
}

#[test]
fn ike_on_both_ports() {
    let (source, destination) = v4();
    let on_500 = ip(source, destination, 17, &udp(source, destination, (500, 500), &ike(100)));
    check(&frame(&[], &on_500), Kind::Ike { natt: false, offset: 42, len: 100 });
    check(&frame(&[], &natt(v4(), &marked(&ike(100)))), Kind::Ike { natt: true, offset: 46, len: 100 });
    check(&frame(&[], &natt(v6(), &marked(&ike(100)))), Kind::Ike { natt: true, offset: 66, len: 100 });
    // A marker and nothing behind it.
    check(&frame(&[], &natt(v4(), &[0; 4])), Kind::Ike { natt: true, offset: 46, len: 0 });
}

#[test]
fn keepalives_and_dwarfs() {
    check(&frame(&[], &natt(v4(), &[0xff])), Kind::Keepalive);
    check(&frame(&[], &natt(v6(), &[0xff])), Kind::Keepalive);
    check(&frame(&[], &natt(v4(), &[0xfe])), Kind::Malformed);
    for len in [0, 2, 3] {
        check(&frame(&[], &natt(v4(), &vec![0xff; len])), Kind::Malformed);
    }
    // An SPI, but not all of a sequence number.
    for len in 4..8 {
        check(&frame(&[], &natt(v4(), &vec![0xff; len])), Kind::Malformed);
    }
}

#[test]
fn everything_else_is_other() {
    let (source, destination) = v4();
    check(&frame(&[], &ip(source, destination, 6, &[0; 20])), Kind::Other);
    check(
        &frame(&[], &ip(source, destination, 17, &udp(source, destination, (4500, 53), &[0xff]))),
        Kind::Other,
    );
    let mut arp = frame(&[], &[0; 28]);
    arp[12..14].copy_from_slice(&[8, 6]);
    check(&arp, Kind::Other);
    check(&[], Kind::Other);
}

#[test]
fn lengths_that_lie() {
    let good = frame(&[], &natt(v4(), &esp(SPI, 7, 60)));
    // (offset of the field, bytes): IPv4 total length too long, too short; header length 4; UDP too long, too short.
    for (at, bytes) in [(16, [0x10, 0]), (16, [0, 19]), (14, [0x44, 0]), (38, [0x10, 0]), (38, [0, 7])] {
        let mut bad = good.clone();
        bad[at..at + 2].copy_from_slice(&bytes);
        check(&bad, Kind::Malformed);
    }
    // Cut anywhere, it is either unreadable or malformed, never ESP.
    for len in 0..good.len() {
        assert!(matches!(parse_ethernet(&good[..len]).kind(), Kind::Other | Kind::Malformed), "{len}");
    }
}

#[test]
fn packets_without_a_link_layer() {
    for (addresses, offset) in [(v4(), 28), (v6(), 48)] {
        let packet = natt(addresses, &esp(SPI, 7, 60));
        let parsed = parse_ip(packet.as_slice(), 0);
        assert_eq!(parsed.kind(), found(offset, 60, true));
        assert_eq!(parsed.destination, Address::from(addresses.1));
    }
    assert_eq!(parse_ip([].as_slice(), 0).kind(), Kind::Other);
    assert_eq!(parse_ip([0x95; 60].as_slice(), 0).kind(), Kind::Other);
}

/// Where the parser says something is, it is.
fn consistent(bytes: &[u8], parsed: &Parsed) {
    match parsed.kind() {
        Kind::Esp { spi, offset, len, .. } => {
            let (offset, len) = (offset as usize, len as usize);
            assert!(offset + len <= bytes.len() && len >= 8);
            assert_eq!(bytes[offset..offset + 4], spi);
        }
        Kind::Ike { offset, len, .. } => assert!((offset + len) as usize <= bytes.len()),
        _ => {}
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), offset in 0_u32..300) {
        consistent(&bytes, &parse_ethernet(bytes.as_slice()));
        consistent(&bytes, &parse_ip(bytes.as_slice(), offset));
    }

    #[test]
    fn damaged_packets(
        which in 0_usize..6,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let inner = esp(SPI, 7, 60);
        let datagram = udp(S6.into(), D6.into(), (4500, 4500), &inner);
        let mut bytes = match which {
            0 => frame(&[], &natt(v4(), &inner)),
            1 => frame(&[0x88a8, 0x8100], &natt(v6(), &marked(&ike(40)))),
            2 => frame(&[], &ipv6(S6, D6, 0, &extension(43, 2, &extension(44, 1, &fragment(17, 0, false, &datagram))))),
            3 => frame(&[], &ipv4(S4, D4, 50, &[1; 40], 0, &inner)),
            4 => frame(&[0x8100], &ipv6(S6, D6, 60, &extension(50, 3, &inner))),
            _ => frame(&[], &natt(v4(), &[0xff])),
        };
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        consistent(&bytes, &parse_ethernet(bytes.as_slice()));
    }
}
