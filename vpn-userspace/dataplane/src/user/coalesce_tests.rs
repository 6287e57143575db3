//! Joining against splitting: what comes out of both is what went in.

use super::super::split::tests::{Fields, packet, split_all};
use super::*;
use proptest::prelude::*;

/// Joins packets; the super-packets and their tunnels.
fn join(packets: &[(usize, Vec<u8>)], udp: bool) -> Vec<(usize, VnetHeader, Vec<u8>)> {
    let mut coalescer = Coalescer::new();
    let (mut buf, mut out) = (Vec::new(), Vec::new());
    let mut ranges = Vec::new();
    for (tunnel, p) in packets {
        // As in a receive buffer: with something between them.
        buf.extend([0xaa; 24]);
        ranges.push((*tunnel, buf.len()..buf.len() + p.len()));
        buf.extend(p);
    }
    let mut drain = |c: &mut Coalescer| {
        c.drain(|j| {
            let mut bytes = j.header.to_vec();
            j.pieces.iter().for_each(|r| bytes.extend(&buf[r.clone()]));
            out.push((j.tunnel, j.vnet, bytes));
        });
    };
    for (tunnel, range) in ranges {
        if coalescer.is_full() {
            drain(&mut coalescer);
        }
        coalescer.push(tunnel, &buf[..], range, Offloads { tso: true, uso: udp });
    }
    drain(&mut coalescer);
    out
}

fn tcp(sequence: u32, len: usize) -> Vec<u8> {
    packet(false, true, Fields { sequence, ..Fields::default() }, &vec![7; len])
}

fn sizes(packets: &[Vec<u8>]) -> Vec<usize> {
    let packets: Vec<_> = packets.iter().map(|p| (0, p.clone())).collect();
    join(&packets, true).iter().map(|(_, _, bytes)| bytes.len()).collect()
}

#[test]
fn segments_that_follow_each_other_become_one() {
    let (all, size) = (join(&(0..5).map(|i| (3, tcp(i * 1000, 1000))).collect::<Vec<_>>(), false), 1000);
    let [(3, vnet, bytes)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((vnet.gso_type, vnet.gso_size, vnet.hdr_len), (GSO_TCPV4, size, 40));
    assert_eq!((vnet.flags, vnet.csum_start, vnet.csum_offset, bytes.len()), (NEEDS_CSUM, 20, 16, 5040));
}

#[test]
fn joining_ends_where_it_must() {
    // The shorter one is the last.
    assert_eq!(sizes(&[tcp(0, 100), tcp(100, 60), tcp(160, 60)]), [200, 100]);
    // A longer one starts anew.
    assert_eq!(sizes(&[tcp(0, 100), tcp(100, 101)]), [140, 141]);
    // A gap, a repetition.
    assert_eq!(sizes(&[tcp(0, 100), tcp(101, 100), tcp(201, 100)]), [140, 240]);
    assert_eq!(sizes(&[tcp(0, 100), tcp(0, 100)]), [140, 140]);
    // PSH is the last; anything but ACK and PSH stands alone, and nothing passes it.
    let flags =
        |flags, sequence| packet(false, true, Fields { flags, sequence, ..Fields::default() }, &[7; 100]);
    assert_eq!(sizes(&[tcp(0, 100), flags(0x18, 100), tcp(200, 100), tcp(300, 100)]), [240, 240]);
    for other in [0x11, 0x12, 0x14, 0x30, 0x50, 0x90, 0x00] {
        assert_eq!(sizes(&[tcp(0, 100), flags(other, 100), tcp(200, 100)]), [140, 140, 140], "{other:#x}");
    }
    // A pure acknowledgement is passed by nothing either.
    assert_eq!(sizes(&[tcp(0, 100), tcp(100, 0), tcp(100, 100)]), [140, 40, 140]);
    // Another type of service, TTL, window, acknowledgement.
    for (at, value) in [(1usize, 2u8), (8, 63)] {
        let mut other = tcp(100, 100);
        other[at] = value;
        checksum::write_ipv4_header(&mut other[..20]);
        assert_eq!(sizes(&[tcp(0, 100), other]), [140, 140], "byte {at}");
    }
    // A wrong checksum goes as it came, to be dropped where it is checked.
    let mut wrong = tcp(100, 100);
    wrong[60] ^= 1;
    let all = join(&[(0, tcp(0, 100)), (0, wrong.clone())], true);
    assert_eq!((all[1].1, &all[1].2), (VnetHeader::default(), &wrong));
    assert_eq!(all[0].1.flags, DATA_VALID);
    // Without DF the identification must count on.
    let id = |identification, sequence| {
        let fields = Fields { identification, sequence, dont_fragment: false, ..Fields::default() };
        packet(false, true, fields, &[7; 100])
    };
    assert_eq!(sizes(&[id(0xffff, 0), id(0, 100), id(2, 200)]), [240, 140]);
    // Two tunnels never meet, though the flow is the same.
    assert_eq!(join(&[(0, tcp(0, 100)), (1, tcp(100, 100))], true).len(), 2);
}

#[test]
fn datagrams_are_joined_only_where_the_device_takes_them() {
    let udp = |len| (0, packet(true, false, Fields::default(), &vec![1; len]));
    let three = [udp(50), udp(50), udp(20)];
    let all = join(&three, true);
    assert_eq!((all.len(), all[0].1.gso_type, all[0].1.gso_size), (1, GSO_UDP_L4, 50));
    assert_eq!(join(&three, false).len(), 3);
    // RFC 768: no checksum, nothing to verify.
    let mut none = packet(false, false, Fields::default(), &[1; 50]);
    none[26..28].fill(0);
    assert_eq!(join(&[(0, none.clone()), (0, none)], true).len(), 2);
}

#[test]
fn super_packets_stay_within_64_kilobytes_and_their_segments() {
    let many: Vec<_> = (0..200).map(|i| tcp(i * 1400, 1400)).collect();
    let got = sizes(&many);
    assert!(got.iter().all(|&s| s <= MAX_LEN) && got[0] > 60_000, "{got:?}");
    let tiny: Vec<_> = (0..300).map(|i| tcp(i, 1)).collect();
    assert_eq!(sizes(&tiny), [40 + 128, 40 + 128, 40 + 44]);
    let datagrams: Vec<_> = (0..70).map(|_| packet(false, false, Fields::default(), &[1; 9])).collect();
    assert!(sizes(&datagrams).len() >= 2);
}

#[derive(Debug, Clone)]
struct Step {
    flow: u16,
    v6: bool,
    tcp: bool,
    len: usize,
    flags: u8,
    dont_fragment: bool,
    jump: u32,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => Just(1200usize), 2 => Just(300), 1 => 0usize..1400];
    let flags = prop_oneof![8 => Just(0x10u8), 2 => Just(0x18), 1 => any::<u8>()];
    let jump = prop_oneof![9 => Just(0u32), 1 => any::<u32>()];
    (
        0u16..4,
        any::<bool>(),
        prop_oneof![3 => Just(true), 1 => Just(false)],
        len,
        flags,
        prop::bool::weighted(0.8),
        jump,
    )
        .prop_map(|(flow, v6, tcp, len, flags, dont_fragment, jump)| Step {
            flow,
            v6,
            tcp,
            len,
            flags,
            dont_fragment,
            jump,
        })
}

/// Family, protocol, ports.
fn flow_of(p: &[u8]) -> (u8, u8, Vec<u8>) {
    if p[0] >> 4 == 4 { (4, p[9], p[20..24].to_vec()) } else { (6, p[6], p[40..44].to_vec()) }
}

/// The identification of a packet with DF means nothing (RFC 6864 4.1).
fn normal(mut p: Vec<u8>) -> Vec<u8> {
    if p[0] >> 4 == 4 && p[6] & 0x40 != 0 {
        p[4..6].fill(0);
        checksum::write_ipv4_header(&mut p[..20]);
    }
    p
}

proptest! {
    #[test]
    fn splitting_what_was_joined_gives_every_flow_back(steps in proptest::collection::vec(step(), 1..400)) {
        let mut sequences = std::collections::HashMap::new();
        let packets: Vec<_> = steps.iter().enumerate().map(|(i, s)| {
            let next = sequences.entry((s.flow, s.v6)).or_insert(0xffff_f000u32);
            *next = next.wrapping_add(s.jump);
            let fields = Fields {
                flow: s.flow, sequence: *next, flags: s.flags, dont_fragment: s.dont_fragment,
                identification: (i / 3) as u16, options: &[],
            };
            if s.tcp { *next = next.wrapping_add(s.len as u32); }
            (0, packet(s.v6, s.tcp, fields, &vec![i as u8; s.len]))
        }).collect();
        let joined = join(&packets, true);
        prop_assert!(joined.len() <= packets.len());
        let mut got = Vec::new();
        for (_, vnet, bytes) in &joined {
            got.extend(split_all(vnet, bytes).expect("what is joined can be split"));
        }
        prop_assert_eq!(got.len(), packets.len());
        for (_, p) in &packets {
            let flow = flow_of(p);
            let of_flow = |all: Vec<Vec<u8>>| -> Vec<_> {
                all.into_iter().filter(|q| flow_of(q) == flow).map(normal).collect()
            };
            prop_assert_eq!(
                of_flow(got.clone()),
                of_flow(packets.iter().map(|(_, q)| q.clone()).collect())
            );
        }
    }

    #[test]
    fn nonsense_passes_untouched(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..120), 1..40),
    ) {
        let packets: Vec<_> = packets.into_iter().map(|p| (0, p)).collect();
        let out: Vec<_> = join(&packets, true).into_iter().map(|(t, _, b)| (t, b)).collect();
        prop_assert_eq!(out, packets);
    }
}

#[test]
fn without_offload_every_segment_stays_one() {
    let packets = [tcp(0, 100), tcp(100, 100)];
    let mut coalescer = Coalescer::new();
    let buf = packets.concat();
    let (first, second) = (0..packets[0].len(), packets[0].len()..buf.len());
    for range in [first, second] {
        coalescer.push(0, &buf[..], range, Offloads { tso: false, uso: true });
    }
    let mut written = 0;
    coalescer.drain(|joined| {
        assert_eq!((joined.pieces.len(), joined.vnet.gso_type), (1, 0));
        written += 1;
    });
    assert_eq!(written, 2);
}
