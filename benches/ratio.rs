//! How near sealing and opening come to ring alone: both in turns, so that a busy machine slows both.
//!
//! Prints the median of the ratios, and at the end whether the goal is reached: 90 % of ring at 1400 bytes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use culvert_benches::{SIZES, buffer, pair, suites};
use culvert_crypto::Encryption;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

const BATCH: usize = 32;
const ROUNDS: usize = 4000;
/// The goal: of ring's own speed, for packets of that many bytes.
const GOAL: (usize, f64) = (1400, 0.9);

fn main() {
    println!(
        "{:<18} {:>5} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7}",
        "suite", "bytes", "seal ns", "ring ns", "ratio", "open ns", "ring ns", "ratio"
    );
    let mut verdicts = Vec::new();
    for len in SIZES {
        for suite in suites() {
            let algorithm = match suite.encryption() {
                Encryption::AesGcm128 => &AES_128_GCM,
                Encryption::AesGcm256 => &AES_256_GCM,
                Encryption::ChaCha20Poly1305 => &CHACHA20_POLY1305,
                _ => continue,
            };
            let key = LessSafeKey::new(UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).unwrap());
            let (mut out, mut inn) = pair(suite);
            let mut packets = vec![buffer(&out, len); BATCH];
            // As long as the padded text of the ESP packet.
            let mut texts = vec![vec![0x5a; (len + 2).next_multiple_of(4)]; BATCH];
            let mut tags: Vec<Tag> = Vec::with_capacity(BATCH);
            let mut counter = 0u64;
            let mut rounds = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                let seal = timed(|| {
                    packets.iter_mut().for_each(|p| {
                        black_box(out.seal(black_box(p), len, 4).unwrap());
                    })
                });
                tags.clear();
                let first = counter;
                let ring_seal = timed(|| {
                    texts.iter_mut().for_each(|t| {
                        counter += 1;
                        let tag = key.seal_in_place_separate_tag(
                            nonce(counter),
                            Aad::from([1u8; 12]),
                            black_box(t),
                        );
                        tags.push(tag.unwrap());
                    })
                });
                let open = timed(|| {
                    packets.iter_mut().for_each(|p| {
                        black_box(inn.open(black_box(p)).unwrap());
                    })
                });
                counter = first;
                let ring_open = timed(|| {
                    texts.iter_mut().zip(&tags).for_each(|(t, tag)| {
                        counter += 1;
                        let aad = Aad::from([1u8; 12]);
                        black_box(
                            key.open_in_place_separate_tag(nonce(counter), aad, *tag, black_box(t), 0..)
                                .unwrap(),
                        );
                    })
                });
                rounds.push([seal, ring_seal, open, ring_open].map(|d| d.as_secs_f64() * 1e9 / BATCH as f64));
            }
            let of = |f: fn(&[f64; 4]) -> f64| median(rounds.iter().map(f).collect());
            if len == GOAL.0 {
                for (what, ratio) in [("seal", of(|r| r[1] / r[0])), ("open", of(|r| r[3] / r[2]))] {
                    let verdict = if ratio >= GOAL.1 { "met" } else { "missed" };
                    verdicts.push(format!("  {suite} {what}: {:.0} %, {verdict}", ratio * 100.0));
                }
            }
            println!(
                "{:<18} {len:>5} {:>9.0} {:>9.0} {:>6.0}% {:>9.0} {:>9.0} {:>6.0}%",
                suite.to_string(),
                of(|r| r[0]),
                of(|r| r[1]),
                of(|r| r[1] / r[0]) * 100.0,
                of(|r| r[2]),
                of(|r| r[3]),
                of(|r| r[3] / r[2]) * 100.0,
            );
        }
    }
    println!(
        "\nthe goal, {:.0} % of ring for a batch of packets of {} bytes:\n{}",
        GOAL.1 * 100.0,
        GOAL.0,
        verdicts.join("\n")
    );
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
