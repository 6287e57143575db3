//! What a packet costs beside so many other SAs: the outbound choice by selectors, the inbound one by SPI, each with the
//! cipher's work after it, where all packets are of one SA and where each is of another.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use culvert_benches::{buffer, suites};
use culvert_crypto::SuiteKeys;
use culvert_dataplane::testing::Owned;
use culvert_esp::packet::Packet;
use culvert_esp::selectors::{Index, Selectors};
use culvert_esp::{InboundSa, OutboundSa};
use culvert_types::{Spi, TrafficSelector};

const COUNTS: [u32; 4] = [1, 100, 1_000, 10_000];
/// Bytes of the packets.
const LEN: usize = 64;

/// The network of 24 bits behind peer `number`.
fn net(number: u32) -> [u8; 3] {
    [172, (16 + number / 250) as u8, (number % 250) as u8]
}

fn packet(number: u32) -> Vec<u8> {
    let [a, b, c] = net(number);
    let mut packet = vec![0; LEN];
    packet[..20]
        .copy_from_slice(&[0x45, 0, 0, LEN as u8, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 9, a, b, c, 7]);
    culvert_esp::checksum::write_ipv4_header(&mut packet[..20]);
    packet
}

fn selectors(number: u32) -> Selectors {
    let [a, b, c] = net(number);
    let net = |text: String| TrafficSelector::from_net(text.parse().unwrap());
    Selectors::new(&[net("10.1.0.0/16".to_owned())], &[net(format!("{a}.{b}.{c}.0/24"))])
}

fn outbound(c: &mut Criterion) {
    let mut group = c.benchmark_group("sas");
    for count in COUNTS {
        let all: Vec<Selectors> = (0..count).map(selectors).collect();
        let mut index = Index::default();
        for (number, selectors) in all.iter().enumerate() {
            index.add(number as u32, selectors);
        }
        let choose = |bytes: &[u8]| {
            let packet = Packet::parse(bytes).unwrap();
            let mut candidates = index.candidates(&packet).iter();
            candidates.find(|number| all[**number as usize].matches_outbound(&packet)).copied()
        };
        let packets: Vec<Vec<u8>> = (0..count).map(packet).collect();
        let (one, mut next) = (&packets[count as usize / 2], 0);
        assert_eq!(choose(one), Some(count / 2));
        group.bench_function(BenchmarkId::new("choose, one flow", count), |b| {
            b.iter(|| choose(black_box(one)));
        });
        group.bench_function(BenchmarkId::new("choose, a flow for each", count), |b| {
            b.iter(|| {
                next = (next + 7919) % packets.len();
                choose(black_box(&packets[next]))
            });
        });
    }
    group.finish();
}

fn inbound(c: &mut Criterion) {
    let mut group = c.benchmark_group("sas");
    let suite = suites().find(|suite| suite.to_string() == "aes128gcm16").unwrap();
    for count in COUNTS {
        let mut owned = Owned::default();
        let mut senders = Vec::new();
        for number in 0..count {
            // Spread as random ones are.
            let spi = Spi::new(0x1000_0000 ^ number.wrapping_mul(0x9e37_79b1)).unwrap();
            let keys = SuiteKeys::new(&vec![number as u8; suite.encryption_key_len()], &[]);
            owned.add(spi, InboundSa::new(spi, suite, &keys, true, 64).unwrap());
            senders.push(OutboundSa::new(spi, suite, &keys, true).unwrap());
        }
        let mut packet = buffer(&senders[0], LEN);
        let mut one = |sender: &mut OutboundSa, owned: &mut Owned| {
            sender.seal(&mut packet, LEN, 4).unwrap();
            // What was opened is the next one's inner packet.
            owned.find(&packet).unwrap().open(&mut packet).is_ok()
        };
        let middle = count as usize / 2;
        assert!(one(&mut senders[middle], &mut owned));
        group.bench_function(BenchmarkId::new("seal, find and open, one flow", count), |b| {
            b.iter(|| one(&mut senders[middle], &mut owned));
        });
        let mut next = 0;
        group.bench_function(BenchmarkId::new("seal, find and open, a flow for each", count), |b| {
            b.iter(|| {
                next = (next + 7919) % senders.len();
                one(&mut senders[next], &mut owned)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, outbound, inbound);
criterion_main!(benches);
