//! Opening a packet in place, replay window and padding included, beside ring alone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use culvert_benches::{SIZES, buffer, pair, suites};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Packets sealed, untimed, between two readings of the clock.
const BATCH: usize = 32;

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for len in SIZES {
        group.throughput(Throughput::Bytes(len as u64));
        for suite in suites() {
            let (mut out, mut inn) = pair(suite);
            let mut packets = vec![buffer(&out, len); BATCH];
            let fresh = buffer(&out, len);
            group.bench_function(BenchmarkId::new(suite.to_string(), len), |b| {
                b.iter_custom(|iterations| {
                    in_batches(iterations, |n| {
                        for packet in &mut packets[..n] {
                            packet.copy_from_slice(&fresh);
                            out.seal(packet, len, 4).unwrap();
                        }
                        let start = Instant::now();
                        for packet in &mut packets[..n] {
                            black_box(inn.open(black_box(packet)).unwrap());
                        }
                        start.elapsed()
                    })
                });
            });
        }
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
        let nonce = || Nonce::assume_unique_for_key([3; 12]);
        let text_len = (len + 2).next_multiple_of(4);
        let mut packets = vec![vec![0x5a; text_len + 16]; BATCH];
        group.bench_function(BenchmarkId::new("ring aes128gcm16", len), |b| {
            b.iter_custom(|iterations| {
                in_batches(iterations, |n| {
                    for packet in &mut packets[..n] {
                        let (text, end) = packet.split_at_mut(text_len);
                        text.fill(0x5a);
                        let tag =
                            key.seal_in_place_separate_tag(nonce(), Aad::from([1u8; 12]), text).unwrap();
                        end.copy_from_slice(tag.as_ref());
                    }
                    let start = Instant::now();
                    for packet in &mut packets[..n] {
                        let opened = key.open_in_place(nonce(), Aad::from([1u8; 12]), black_box(packet));
                        black_box(opened.unwrap());
                    }
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
}

fn in_batches(iterations: u64, mut run: impl FnMut(usize) -> Duration) -> Duration {
    let mut left = iterations;
    let mut total = Duration::ZERO;
    while left > 0 {
        let n = left.min(BATCH as u64);
        total += run(n as usize);
        left -= n;
    }
    total
}

criterion_group!(benches, open);
criterion_main!(benches);
