//! The Internet checksum over packets, its update in place, and the MSS clamp's look at each packet.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use culvert_benches::write_ipv4;
use culvert_esp::packet::Packet;
use culvert_esp::selectors::Selectors;
use culvert_esp::{checksum, mss};
use culvert_types::TrafficSelector;

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [20, 64, 1400, 65000] {
        let data = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("sum", len), |b| {
            b.iter(|| checksum::finish(checksum::sum(black_box(&data), 0)));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("packet");
    group.bench_function("checksum update", |b| {
        b.iter(|| checksum::update(black_box([1, 2]), black_box([3, 4]), black_box([5, 6])));
    });
    let mut packet = vec![0x5a; 1400];
    write_ipv4(&mut packet);
    group.bench_function("parse", |b| b.iter(|| Packet::parse(black_box(&packet)).unwrap().total_len()));
    let nets = ["10.0.0.0/8", "192.168.0.0/16"].map(|n| TrafficSelector::from_net(n.parse().unwrap()));
    let selectors = Selectors::new(&nets, &[TrafficSelector::any_ipv4()]);
    group.bench_function("parse and match selectors", |b| {
        b.iter(|| assert!(selectors.matches_outbound(&Packet::parse(black_box(&packet)).unwrap())));
    });
    packet[9] = 6;
    packet[33] = 0x10;
    group.bench_function("mss clamp, no SYN", |b| {
        b.iter(|| mss::clamp(black_box(&mut packet), 1400, mss::Checksum::Complete));
    });
    group.finish();
}

criterion_group!(benches, sums);
criterion_main!(benches);
