//! The engine `bpf` does to packets what this crate does: bytes, verdicts and windows are equal.

use culvert_crypto::{Encryption, Suite, SuiteKeys};
use culvert_ebpf_shared::esp::aead::{self, Direct};
use culvert_ebpf_shared::esp::layout::{MAX_SELECTORS, Peer, Selector, Selectors as BpfSelectors, Tunnel};
use culvert_ebpf_shared::esp::window::{Place, Window};
use culvert_ebpf_shared::esp::{ETHERNET, HEAD, HEAD_WORDS, State, inner, mss, outer, small};
use culvert_esp::packet::Packet;
use culvert_esp::selectors::Selectors;
use culvert_esp::tunnel::{decapsulate_ecn, decrement_ttl};
use culvert_esp::{InboundSa, NextHeader, OpenError, OutboundSa, ReplayError, ReplayWindow};
use culvert_types::{Spi, TrafficSelector};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

const KEY: [u8; 36] = [0x42; 36];

fn suite() -> Suite {
    Suite::new(Encryption::ChaCha20Poly1305, None).unwrap()
}

fn state(packet: &[u8]) -> State {
    let mut s = State::EMPTY;
    s.text = [0xa5a5_a5a5; 512];
    for (at, byte) in packet.iter().enumerate() {
        s.set_byte(at as u32, (*byte).into());
    }
    s.available = packet.len() as u32;
    s
}

fn text(s: &State, len: usize) -> Vec<u8> {
    (0..len).map(|at| s.byte(at as u32) as u8).collect()
}

fn keyed(mut s: State) -> State {
    s.input[4..14].fill(u32::from_ne_bytes([0x42; 4]));
    s
}

/// A packet of either family; the checksum of IPv4's header is right.
fn packet(v6: bool, protocol: u8, class: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u16;
    let mut p = if v6 {
        let mut p = vec![0x60 | class >> 4, class << 4, 0, 0, (len >> 8) as u8, len as u8, protocol, ttl];
        p.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        p.extend([0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        p
    } else {
        let total = len + 20;
        let mut p =
            vec![0x45, class, (total >> 8) as u8, total as u8, 0x12, 0x34, 0x40, 0, ttl, protocol, 0, 0];
        p.extend([10, 1, 0, 2, 10, 2, 0, 2]);
        culvert_esp::checksum::write_ipv4_header(&mut p);
        p
    };
    p.extend(payload);
    p
}

/// Sealed as the programs do it: the ESP packet alone.
fn seal(packet: &[u8], spi: Spi, sequence: u64, esn: bool) -> Vec<u8> {
    let mut s = keyed(state(packet));
    assert!(inner::inspect(&mut s));
    inner::pad(&mut s);
    outer::number(&mut s, spi.value().to_be(), sequence, esn);
    assert!(aead::seal::<Direct>(&mut s));
    let head: Vec<u8> = s.head[HEAD_WORDS - 4..].iter().flat_map(|w| w.to_ne_bytes()).collect();
    [head, text(&s, s.text_len as usize + 16)].concat()
}

proptest! {
    #[test]
    fn what_one_seals_the_other_opens(v6: bool, esn: bool, len in 0usize..1500, from in 1u64..1 << 33, fill: u8) {
        let spi = Spi::new(0xc0ff_ee00).unwrap();
        let keys = SuiteKeys::new(&KEY, &[]);
        let plain = packet(v6, 17, 0, 64, &vec![fill; len]);
        // As the first packet of an SA, whose bytes this crate's are compared with.
        let mut sa = OutboundSa::new(spi, suite(), &keys, esn).unwrap();
        let mut want = vec![0; sa.sealed_len(plain.len())];
        want[sa.header_len()..sa.header_len() + plain.len()].copy_from_slice(&plain);
        let sealed = sa.seal(&mut want, plain.len(), if v6 { 41 } else { 4 }).unwrap();
        prop_assert_eq!(&seal(&plain, spi, 1, esn), &want[..sealed]);

        // And opened again, from any number.
        let sequence = if esn { from } else { from & 0xffff_ffff | 1 };
        let got = seal(&plain, spi, sequence, esn);
        let mut s = keyed(state(&got[16..]));
        for (word, bytes) in s.esp.iter_mut().zip(got.chunks(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        s.text_len = inner::text_len(got.len() as u32).unwrap();
        outer::renumber(&mut s, sequence, esn);
        prop_assert!(aead::open::<Direct>(&mut s));
        prop_assert_eq!(inner::unpack(&mut s), inner::Unpacked::Packet);
        prop_assert_eq!(text(&s, s.inner_len as usize), plain);
        let mut first = seal(&packet(v6, 17, 0, 64, &vec![fill; len]), spi, 1, esn);
        let opened = InboundSa::new(spi, suite(), &keys, esn, 1024).unwrap().open(&mut first).unwrap();
        prop_assert_eq!(opened.next_header, if v6 { NextHeader::Ipv6 } else { NextHeader::Ipv4 });
    }

    /// Any bytes behind a header: both read the same, or neither does.
    #[test]
    fn packets_are_read_alike(v6: bool, first in 0u8..64, mut bytes in proptest::collection::vec(any::<u8>(), 0..120), flags in 0u8..4, options in 5u8..16) {
        // Extension headers that are short.
        for length in bytes.iter_mut().skip(1).step_by(8) {
            *length &= 3;
        }
        let mut p = packet(v6, first, 7, 9, &bytes);
        if !v6 {
            p[0] = 0x40 | options;
            p[6] = flags << 5;
        }
        let mut s = state(&p);
        let read = inner::inspect(&mut s);
        match Packet::parse(&p) {
            Err(_) => prop_assert!(!read),
            // More extension headers than the programs walk.
            Ok(_) if !read => prop_assert!(v6),
            Ok(want) => {
                prop_assert_eq!(s.inner_len as usize, want.total_len());
                prop_assert_eq!((s.protocol, s.transport as usize), (want.protocol().into(), want.transport_offset()));
                prop_assert_eq!((s.class, s.ttl), (want.traffic_class().into(), want.ttl().into()));
                let ports = want.ports().or(want.icmp().map(|(a, b)| {
                    let both = u16::from_be_bytes([a, b]);
                    (both, both)
                }));
                let shown = (s.shows_ports != 0).then_some((s.ports[0] as u16, s.ports[1] as u16));
                prop_assert_eq!(shown, ports);
                prop_assert!(s.odd != 0 || want.fragment().is_none());
            }
        }
    }

    #[test]
    fn selectors_choose_alike(nets in proptest::collection::vec((any::<u8>(), 16u8..=32, 0usize..3, any::<u16>(), any::<u16>()), 1..8), ports: (u16, u16), protocol in 0usize..3) {
        let protocols = [0u8, 6, 17];
        let ts: Vec<_> = nets.iter().map(|(a, len, p, x, y)| {
            let net = TrafficSelector::from_net(format!("10.{}.0.{a}/{len}", 1 + a % 2).parse().unwrap());
            let ports = if x % 2 == 0 { 0..=u16::MAX } else { *x.min(y)..=*x.max(y) };
            TrafficSelector::new(net.start(), net.end(), protocols[*p], ports).unwrap()
        }).collect();
        let mut side = [Selector::default(); MAX_SELECTORS];
        for (to, from) in side.iter_mut().zip(&ts) {
            let half = |a: IpAddr| match a {
                IpAddr::V4(a) => [0, 0xffff_0000_0000 | u64::from(Ipv4Addr::to_bits(a))],
                IpAddr::V6(_) => unreachable!(),
            };
            *to = Selector {
                first: half(from.start()), last: half(from.end()),
                first_port: *from.ports().start(), last_port: *from.ports().end(),
                protocol: from.protocol(), family: 4, any_port: from.any_port().into(), reserved: 0,
            };
        }
        let count = ts.len() as u32;
        let bpf = BpfSelectors { local: side, remote: side, locals: count, remotes: count };
        let payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0; 2], [0; 2]].concat();
        let p = packet(false, protocols[protocol], 0, 9, &payload);
        let mut s = state(&p);
        prop_assert!(inner::inspect(&mut s));
        let want = Selectors::new(&ts, &ts);
        let parsed = Packet::parse(&p).unwrap();
        prop_assert_eq!(inner::matches(&bpf, &s, true), want.matches_outbound(&parsed));
        prop_assert_eq!(inner::matches(&bpf, &s, false), want.matches_inbound(&parsed));
    }

    #[test]
    fn the_mss_is_lowered_alike(v6: bool, mut options in proptest::collection::vec(0u8..6, 0..40), value: u16, at: usize, mtu in 576u32..2000, flags: u8) {
        options.resize(options.len() / 4 * 4, 1);
        if options.len() >= 4 {
            let at = at % (options.len() - 3);
            options[at..at + 2].copy_from_slice(&[2, 4]);
            options[at + 2..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        let mut tcp = vec![1, 2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, (((20 + options.len()) / 4) << 4) as u8, flags, 1, 1, 0xbe, 0xef, 0, 0];
        tcp.extend(&options);
        tcp.extend(b"data");
        let mut p = packet(v6, 6, 0, 9, &tcp);
        let mut s = state(&p);
        prop_assert!(inner::inspect(&mut s));
        if mss::is_syn(&s) {
            mss::clamp(&mut s, mtu);
        }
        culvert_esp::mss::clamp(&mut p, mtu as usize, culvert_esp::mss::Checksum::Complete);
        prop_assert_eq!(text(&s, p.len()), p);
    }

    #[test]
    fn windows_are_alike(esn: bool, size in 64u32..=8192, start in 0u64..1 << 34, moves in proptest::collection::vec((0i64..20_000, any::<bool>(), any::<u32>()), 1..200)) {
        let (mut want, mut got) = (ReplayWindow::new(size, esn), Window::new(size, esn));
        let mut at = if esn { start } else { start & 0xffff_ffff };
        for (step, back, wild) in moves {
            at = if back { at.saturating_sub(step as u64 % 9000) } else { at + step as u64 };
            let low = if wild % 50 == 0 { wild } else { at as u32 };
            let inferred = got.infer(low);
            prop_assert_eq!(want.infer(low).unwrap_or(0), inferred);
            let outcome = match got.accept(inferred) {
                Place::New => Ok(()),
                Place::Duplicate => Err(ReplayError::Duplicate),
                Place::TooOld => Err(ReplayError::TooOld),
            };
            prop_assert_eq!(want.accept(inferred), outcome);
            prop_assert_eq!((want.highest(), want.floor()), (got.highest, got.floor()));
        }
    }
}

/// RFC 6040's table, TTL and traffic classes of both families, checksums included.
#[test]
fn headers_change_alike() {
    for (v6, class, outer) in (0..512).flat_map(|c| (0..4u8).map(move |o| (c > 255, c as u8, o))) {
        let mut p = packet(v6, 17, class, 9, &[0; 8]);
        let mut s = state(&p);
        assert!(inner::inspect(&mut s));
        let kept = inner::decapsulate_ecn(&mut s, outer.into());
        assert_eq!(kept, decapsulate_ecn(&mut p, outer).is_ok(), "{v6} {class} {outer}");
        inner::decrement_ttl(&mut s);
        decrement_ttl(&mut p).unwrap();
        if kept {
            assert_eq!(text(&s, p.len()), p, "{v6} {class} {outer}");
        }
    }
}

#[test]
fn bad_trailers_are_told_apart_alike() {
    let spi = Spi::new(0xc0ff_ee00).unwrap();
    let keys = SuiteKeys::new(&KEY, &[]);
    let plain = packet(false, 17, 0, 9, &[1; 10]);
    let cases: [(&[u8], inner::Unpacked, OpenError); 5] = [
        (&[9, 9, 2, 4], inner::Unpacked::BadPadding, OpenError::BadPadding),
        (&[1, 2, 200, 4], inner::Unpacked::BadPadding, OpenError::BadPadding),
        (&[1, 2, 2, 59], inner::Unpacked::Dummy, OpenError::Dummy),
        (&[1, 2, 2, 6], inner::Unpacked::NextHeader, OpenError::NextHeader(6)),
        (&[1, 2, 2, 41], inner::Unpacked::Malformed, OpenError::BadInner),
    ];
    for (trailer, unpacked, error) in cases {
        let mut all = plain.clone();
        all.truncate(28);
        all.extend(trailer);
        let mut s = keyed(state(&all));
        s.text_len = all.len() as u32;
        outer::number(&mut s, spi.value().to_be(), 1, true);
        assert!(aead::seal::<Direct>(&mut s));
        let head: Vec<u8> = s.head[HEAD_WORDS - 4..].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut packet = [head, text(&s, all.len() + 16)].concat();
        let got = InboundSa::new(spi, suite(), &keys, true, 64).unwrap().open(&mut packet);
        assert_eq!(got.unwrap_err(), error);
        let mut s = state(&all);
        s.text_len = all.len() as u32;
        assert_eq!(inner::unpack(&mut s), unpacked);
    }
}

/// The outer headers, byte by byte.
#[test]
fn outer_headers_stand_before_the_text() {
    let plain = packet(false, 17, 0xba, 9, &[7; 12]);
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let addresses: [IpAddr; 2] = if v6 {
            ["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()]
        } else {
            ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()]
        };
        let peer = Peer {
            local: addresses[0].into(),
            remote: addresses[1].into(),
            local_port: 4500u16.to_be(),
            remote_port: 4501u16.to_be(),
            flags: if v6 { Peer::IPV6 } else { 0 } | if udp { Peer::UDP } else { 0 } | Peer::DF | Peer::DSCP,
        };
        let mut s = keyed(state(&plain));
        assert!(inner::inspect(&mut s));
        inner::pad(&mut s);
        outer::number(&mut s, 0x107u32.to_be(), 1, true);
        assert!(aead::seal::<Direct>(&mut s));
        outer::ask(&mut s, &peer);
        s.fib.destination_mac = [1, 2, 3, 4, 5, 6];
        s.fib.source_mac = [7, 8, 9, 10, 11, 12];
        outer::wrap(&mut s, &peer);
        let total = (ETHERNET + outer::outer_len(&peer, s.text_len)) as usize;
        let head = s.head.iter().flat_map(|w| w.to_ne_bytes());
        let frame: Vec<u8> =
            head.chain(text(&s, 600)).skip(outer::frame_at(&s) as usize).take(total).collect();
        assert_eq!(frame[..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(frame[12..14], if v6 { [0x86, 0xdd] } else { [8, 0] });
        let ip = Packet::parse(&frame[14..]).unwrap();
        assert_eq!((ip.total_len(), ip.ttl(), ip.traffic_class()), (total - 14, 64, 0xba));
        assert_eq!([ip.source(), ip.destination()], addresses);
        assert!(ip.dont_fragment());
        assert_eq!(ip.protocol(), if udp { 17 } else { 50 });
        if !v6 {
            assert_eq!(culvert_esp::checksum::fold(culvert_esp::checksum::sum(&frame[14..34], 0)), 0xffff);
        }
        if udp {
            assert_eq!(ip.ports(), Some((4500, 4501)));
            assert_eq!(ip.transport()[4..6], (ip.transport().len() as u16).to_be_bytes());
            if v6 {
                assert!(culvert_esp::checksum::transport_is_right(&ip));
            } else {
                assert_eq!(ip.transport()[6..8], [0, 0]);
            }
        }
        let esp = &ip.transport()[if udp { 8 } else { 0 }..];
        assert_eq!(esp, &seal(&plain, Spi::new(0x107).unwrap(), 1, true)[..], "{v6} {udp}");
        assert_eq!(HEAD % 4, 0);
    }
}

/// A tunnel that leaves bulk to another engine.
fn split(longest: u32, dscp: u64) -> Tunnel {
    Tunnel {
        slots: [0; 8],
        active: 1,
        interface: 7,
        back: 0,
        mtu: 1400,
        mac: [0; 6],
        direct: 0,
        dscp,
        longest,
        reserved: 0,
    }
}

fn tcp(flags: u8, payload: usize) -> Vec<u8> {
    let mut tcp = vec![1, 2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 1, 0xbe, 0xef, 0, 0];
    tcp.resize(20 + payload, 7);
    tcp
}

fn udp(payload: usize, checksum: u8) -> Vec<u8> {
    let mut udp = vec![0, 1, 0, 2, (payload >> 8) as u8, payload as u8, 0, checksum];
    udp.resize(8 + payload, 7);
    udp
}

/// What may pass the stack by: not what waits for a device to finish its checksum.
#[test]
fn plain_packets_are_told_from_odd_ones() {
    for v6 in [false, true] {
        let plain = |protocol, payload: &[u8]| {
            let mut s = state(&packet(v6, protocol, 0, 9, payload));
            assert!(inner::inspect(&mut s));
            (inner::is_plain(&s), inner::pseudo_sum(&s))
        };
        let mut datagram = udp(60, 9);
        let (whole, partial) = plain(17, &datagram);
        assert!(whole && plain(17, &udp(60, 0)).0 && plain(6, &tcp(0x18, 1)).0);
        datagram[6..8].copy_from_slice(&(partial as u16).to_be_bytes());
        assert!(!plain(17, &datagram).0, "left to the device");
        assert!(!plain(132, &[9; 60]).0, "nobody knows whether its checksum is whole");
        let mut last = state(&packet(v6, 17, 0, 9, &udp(60, 9)));
        assert!(inner::inspect(&mut last));
        last.ttl = 1;
        assert!(!inner::is_plain(&last), "its last hop");
    }
}

#[test]
fn small_packets_are_told_from_bulk() {
    let (short, urgent) = (split(200, 0), split(0, 1 << 46));
    let small = |p: &[u8], tunnel: &Tunnel| {
        let mut s = state(p);
        assert!(inner::inspect(&mut s));
        small::is_small(&s, tunnel)
    };
    for v6 in [false, true] {
        let header = if v6 { 40 } else { 20 };
        let icmp = if v6 { 58 } else { 1 };
        for (protocol, class, payload, is_short, is_urgent) in [
            (icmp, 0, vec![8; 200 - header], true, false),
            (icmp, 0, vec![8; 201 - header], false, false),
            (17, 0, udp(60, 9), true, false),
            (17, 46 << 2 | 1, udp(60, 9), true, true),
            (17, 46 << 2, udp(1300, 9), false, true),
            // Longer than the tunnel carries, and one without a checksum.
            (17, 46 << 2, udp(1380, 9), false, false),
            (17, 46 << 2, udp(60, 0), false, false),
            // What acknowledges and carries nothing goes with the bulk that it answers, unless it is marked.
            (6, 0, tcp(0x10, 0), false, false),
            (6, 46 << 2, tcp(0x10, 0), false, true),
            (6, 0, tcp(0x18, 1), true, false),
            (6, 0, tcp(0x02, 0), true, false),
            (6, 0, tcp(0x11, 0), true, false),
            (6, 0, tcp(0x10, 1000), false, false),
            // Nobody knows whether their checksums are whole.
            (132, 46 << 2, vec![9; 60], false, false),
        ] {
            let p = packet(v6, protocol, class, 9, &payload);
            let got = (small(&p, &short), small(&p, &urgent));
            assert_eq!(got, (is_short, is_urgent), "{v6} {protocol} {class} {}", payload.len());
        }
        // Fragments and options take the slow path.
        let mut p = packet(v6, 17, 46 << 2, 9, &udp(60, 9));
        if v6 {
            p[6] = 60;
            p[40..48].fill(0);
            p[40] = 17;
        } else {
            p[6] = 0x20;
        }
        assert!(!small(&p, &short) && !small(&p, &urgent));
    }
}

proptest! {
    #[test]
    fn checksums_are_finished(v6: bool, is_tcp: bool, payload in proptest::collection::vec(any::<u8>(), 0..300), left: bool, behind in 0usize..7) {
        let (protocol, at) = if is_tcp { (6, 16) } else { (17, 6) };
        let mut body = if is_tcp { tcp(0x18, 0) } else { udp(payload.len() + 8, 0) };
        body.extend(&payload);
        let ip = if v6 { 40 } else { 20 };
        let mut whole = packet(v6, protocol, 0, 9, &body);
        let header = Packet::parse(&whole).unwrap().header();
        let pseudo = culvert_esp::checksum::pseudo_header(header, protocol, body.len());
        let field = culvert_esp::checksum::fold(pseudo).to_ne_bytes();
        whole[ip + at..ip + at + 2].copy_from_slice(&field);
        let partial = whole.clone();
        prop_assert!(culvert_esp::checksum::finish_partial(&mut whole, ip, at));
        // Whatever stands behind it.
        let mut given = if left { partial } else { whole.clone() };
        given.extend(vec![0xee; behind]);
        let mut s = state(&given);
        prop_assert!(inner::inspect(&mut s));
        small::finish_checksum(&mut s);
        prop_assert_eq!(text(&s, whole.len()), whole);
    }
}
