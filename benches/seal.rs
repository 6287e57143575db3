//! Sealing a packet in place, beside what ring alone needs for the same bytes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use culvert_benches::{SIZES, buffer, pair, suites};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for len in SIZES {
        group.throughput(Throughput::Bytes(len as u64));
        for suite in suites() {
            let (mut sa, _) = pair(suite);
            let mut buf = buffer(&sa, len);
            group.bench_function(BenchmarkId::new(suite.to_string(), len), |b| {
                b.iter(|| sa.seal(black_box(&mut buf), len, 4).unwrap());
            });
        }
        for (name, algorithm) in [
            ("ring aes128gcm16", &AES_128_GCM),
            ("ring aes256gcm16", &AES_256_GCM),
            ("ring chacha20poly1305", &CHACHA20_POLY1305),
        ] {
            let key = LessSafeKey::new(UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).unwrap());
            // As long as the padded text of the ESP packet.
            let mut buf = vec![0x5a; (len + 2).next_multiple_of(4)];
            let mut counter = 0u64;
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| {
                    counter += 1;
                    let mut nonce = [0; 12];
                    nonce[4..].copy_from_slice(&counter.to_be_bytes());
                    let nonce = Nonce::assume_unique_for_key(nonce);
                    key.seal_in_place_separate_tag(nonce, Aad::from([1u8; 12]), black_box(&mut buf)).unwrap()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, seal);
criterion_main!(benches);
