//! The replay window: packets in order, in a shuffled order, and refused ones.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use culvert_esp::ReplayWindow;

fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay");
    for window in [64, 1024, 8192] {
        let mut replay = ReplayWindow::new(window, true);
        group.bench_function(format!("in order, window {window}"), |b| {
            b.iter(|| {
                let sequence = replay.infer(black_box(replay.highest() as u32 + 1)).unwrap();
                replay.check(sequence).unwrap();
                replay.accept(sequence).unwrap();
            });
        });
        let mut replay = ReplayWindow::new(window, true);
        let mut next = 0u64;
        group.bench_function(format!("pairs swapped, window {window}"), |b| {
            b.iter(|| {
                next += 1;
                let sequence = replay.infer(black_box(((next - 1) ^ 1) as u32 + 2)).unwrap();
                replay.check(sequence).unwrap();
                replay.accept(sequence).unwrap();
            });
        });
        group.bench_function(format!("duplicate, window {window}"), |b| {
            b.iter(|| replay.check(black_box(replay.highest())).unwrap_err());
        });
    }
    group.finish();
}

criterion_group!(benches, replay);
criterion_main!(benches);
