//! Bad networks from seeds: loss, duplication, reordering, delay, outages, clocks that jump. A tunnel lives through hours
//! of it with short lifetimes and its owner's wishes; when the weather clears, both sides must have one and the same.
//!
//! A run that fails names its seed; [`REGRESSIONS`] keeps those that once failed.

use std::time::Duration;

use super::say;
use super::world::{Wish, World, in_rounds};
use crate::testing::{At, Seeded, config};
use crate::{Dpd, PeerConfig};

/// Seeds of weather that once found a fault, and stay.
const REGRESSIONS: [u64; 0] = [];

/// How many seeds, unless CULVERT_SEEDS says otherwise.
const RUNS: u64 = 60;

/// Uniformly one of `n`.
fn one_of(dice: &mut Seeded, n: u64) -> u64 {
    use culvert_crypto::Random;
    let mut bytes = [0; 8];
    dice.fill(&mut bytes);
    u64::from_le_bytes(bytes) % n
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

fn side(at: At, dice: &mut Seeded) -> PeerConfig {
    let timeout = Duration::from_secs(30 + 30 * one_of(dice, 4));
    PeerConfig {
        dpd: (one_of(dice, 3) > 0).then_some(Dpd { interval: Duration::from_secs(15), timeout }),
        child_lifetime: minutes(5 + one_of(dice, 20)),
        ike_lifetime: minutes(10 + one_of(dice, 60)),
        ..config(at)
    }
}

fn bring_up(world: &mut World) {
    for at in [At::A, At::B] {
        let side = world.pair.side(at);
        if side.ike.is_none() || side.children.is_empty() {
            world.wish(at, Wish::Initiate);
        }
    }
}

/// Three hours of weather, then a calm.
fn live_through(seed: u64, rounds: bool) -> Result<(), String> {
    let mut dice = Seeded(seed.wrapping_mul(0x1_0001).wrapping_add(7));
    let (mut a, mut b) = (side(At::A, &mut dice), side(At::B, &mut dice));
    if rounds {
        (a, b) = (in_rounds(a), in_rounds(b));
    }
    let mut world = World::with(seed, one_of(&mut dice, 4) > 0, a, b);
    world.rough();
    world.pair.release();
    let end = world.pair.time + minutes(180);
    while world.pair.time < end {
        let link = &mut world.pair.link;
        link.loss = [0.0, 0.05, 0.2, 0.5][one_of(&mut dice, 4) as usize];
        link.duplicate = [0.0, 0.3, 1.0][one_of(&mut dice, 3) as usize];
        link.delay = Duration::from_millis([1, 20, 300, 2000][one_of(&mut dice, 4) as usize]);
        link.jitter = Duration::from_millis([0, 50, 1000, 6000][one_of(&mut dice, 4) as usize]);
        link.cut_to = [None, None, None, None, None, Some(At::A), Some(At::B)][one_of(&mut dice, 7) as usize];
        let at = if one_of(&mut dice, 2) == 0 { At::A } else { At::B };
        match one_of(&mut dice, 8) {
            0 => world.wish(at, Wish::RekeyChild),
            1 => world.wish(at, Wish::RekeyIke),
            2 => world.wish(at, Wish::DeleteIke),
            3 => {
                world.wish(At::A, Wish::RekeyIke);
                world.wish(At::B, Wish::RekeyChild);
            }
            // Nothing is heard of the process for a while, and it wakes with every clock overdue.
            4 => world.pair.time += Duration::from_secs(one_of(&mut dice, 1200)),
            _ => {}
        }
        bring_up(&mut world);
        world.pair.run(Duration::from_secs(5 + one_of(&mut dice, 300)));
        world.check()?;
    }
    world.pair.link = crate::testing::Link::default();
    // As owners do: what is down is brought up again, until both have it.
    for _ in 0..8 {
        bring_up(&mut world);
        world.pair.run(Duration::from_secs(120));
    }
    world.check()?;
    // Somebody may just be rekeying.
    let mut last = Err(String::new());
    for _ in 0..120 {
        world.pair.run(Duration::from_secs(5));
        world.check()?;
        last = world.agreed();
        if last.is_ok() && world.pair.a.ike.is_some() && world.pair.a.children.len() == 1 {
            return Ok(());
        }
    }
    Err(format!("no peace: {last:?}\n{}", world.story()))
}

#[test]
fn tunnels_live_through_bad_weather() {
    weather(RUNS, false);
}

/// With additional key exchanges (RFC 9370) in every exchange.
#[test]
fn tunnels_with_rounds_live_through_bad_weather() {
    weather(RUNS / 3, true);
}

fn weather(runs: u64, rounds: bool) {
    let runs = std::env::var("CULVERT_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(runs);
    let seeds: Vec<u64> = REGRESSIONS.into_iter().chain(0..runs).collect();
    let failed: Vec<String> = seeds
        .iter()
        .filter_map(|seed| {
            let lived = std::panic::catch_unwind(|| live_through(*seed, rounds));
            let wrong = lived.unwrap_or_else(|_| Err("it panicked, see above".to_owned())).err()?;
            Some(format!("seed {seed}: {wrong}"))
        })
        .collect();
    assert!(failed.is_empty(), "{} of {} seeds failed:\n{}", failed.len(), seeds.len(), failed.join("\n"));
    let with = if rounds { " with additional key exchanges" } else { "" };
    say(&format!("weather: {} tunnels{with} lived through three hours each", seeds.len()));
}
