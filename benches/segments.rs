//! Super-packets cut into packets, and packets joined into super-packets: what the engine `user` does beside the cipher.

use std::hint::black_box;
use std::ops::Range;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert_dataplane::testing::{Joiner, split};
use culvert_esp::checksum;
use culvert_esp::packet::Packet;

const SEGMENT: usize = 1388;
const SEGMENTS: usize = 44;
const HEADERS: usize = 40;

/// A TCP packet without options that carries `payload` bytes from `sequence` on.
fn tcp(sequence: u32, payload: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; HEADERS + payload];
    let [high, low] = ((HEADERS + payload) as u16).to_be_bytes();
    packet[..20].copy_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 9, 0, 2]);
    checksum::write_ipv4_header(&mut packet[..20]);
    packet[20..24].copy_from_slice(&[0x13, 0x88, 0x14, 0x51]);
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[28..40].copy_from_slice(&[0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
    packet
}

fn segments(c: &mut Criterion) {
    let mut group = c.benchmark_group("segments");
    let whole = tcp(1, SEGMENT * SEGMENTS);
    let mut out = vec![0; HEADERS + SEGMENT];
    assert_eq!(split(&whole, SEGMENT as u16, &mut out), Some(SEGMENTS));
    group.throughput(Throughput::Bytes(whole.len() as u64));
    group.bench_function("split 61 KB of TCP", |b| {
        b.iter(|| split(black_box(&whole), SEGMENT as u16, black_box(&mut out)));
    });

    // What splitting makes: every checksum right, identifications that follow each other.
    let mut buf = Vec::new();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for number in 0..SEGMENTS {
        let mut packet = tcp((number * SEGMENT) as u32, SEGMENT);
        packet[4..6].copy_from_slice(&(number as u16).to_be_bytes());
        checksum::write_ipv4_header(&mut packet[..20]);
        let view = Packet::parse(&packet).unwrap();
        let pseudo = checksum::fold(checksum::pseudo_header(view.header(), 6, packet.len() - 20));
        packet[36..38].copy_from_slice(&pseudo.to_ne_bytes());
        assert!(checksum::finish_partial(&mut packet, 20, 16));
        ranges.push(buf.len()..buf.len() + packet.len());
        buf.extend(packet);
    }
    let mut joiner = Joiner::default();
    assert_eq!(joiner.join(&buf, &ranges), 1, "all of one flow are joined");
    group.bench_function("coalesce 61 KB of TCP", |b| {
        b.iter(|| joiner.join(black_box(&buf), black_box(&ranges)));
    });
    group.finish();
}

criterion_group!(benches, segments);
criterion_main!(benches);
