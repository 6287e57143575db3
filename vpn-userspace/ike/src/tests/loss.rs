//! Loss, duplication and reordering: everything converges by repetition alone.

use super::*;
use crate::DownReason;

fn rough(seed: u64, loss: f64) -> Pair {
    // Repetition decides, not dead peer detection.
    let (a, b) = both(|c| (c.dpd, c.child_lifetime, c.ike_lifetime) = (None, secs(900), secs(3000)));
    let mut pair = Pair::new(seed, a, b);
    pair.link.loss = loss;
    pair.link.duplicate = 0.2;
    pair.link.jitter = Duration::from_millis(100);
    pair
}

#[test]
fn a_third_lost_still_converges() {
    let mut first_time = 0;
    for seed in 0..60 {
        let mut pair = rough(seed, 0.3);
        pair.command(At::A, Command::Initiate(TUNNEL));
        first_time += u32::from(pair.run_until(secs(400), Pair::agreed));
        // As an owner would: what is down is brought up again.
        for _ in 0..60 {
            if pair.a.ike.is_none() || pair.a.children.is_empty() {
                pair.command(At::A, Command::Initiate(TUNNEL));
            }
            pair.run(secs(120));
        }
        pair.link.loss = 0.0;
        for _ in 0..3 {
            if pair.a.ike.is_none() || pair.a.children.is_empty() {
                pair.command(At::A, Command::Initiate(TUNNEL));
            }
            pair.run(secs(400));
        }
        assert!(pair.run_until(secs(100), Pair::agreed), "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        pair.run(secs(200));
        // One may just be rekeying.
        assert!(pair.run_until(secs(100), |p| p.a.endpoint.counts().ike_sas == 1
            && p.b.endpoint.counts().ike_sas == 1));
        assert!(
            pair.run_until(secs(100), |p| p.a.endpoint.counts().spis == 1 && p.b.endpoint.counts().spis == 1)
        );
    }
    // Two exchanges of six tries each, every one with a chance of 49 %.
    assert!(first_time >= 55, "{first_time} of 60");
}

#[test]
fn duplicates_and_reordering_alone_change_nothing() {
    for seed in 0..20 {
        let mut pair = rough(seed, 0.0);
        pair.link.duplicate = 1.0;
        pair.connect();
        pair.run(secs(7200));
        assert!(pair.run_until(secs(100), Pair::agreed));
        assert!(pair.a.downs.is_empty() && pair.b.downs.is_empty());
        assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
    }
}

#[test]
fn a_lost_answer_is_repeated_not_made_anew() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let before = pair.b.sent.len();
    pair.link.cut_to = Some(At::A);
    pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
    pair.run(secs(6));
    pair.link.cut_to = None;
    pair.run(secs(2));
    assert!(!pair.agreed(), "two answers were lost");
    pair.run(secs(30));
    assert!(pair.agreed());
    let answers: Vec<_> =
        pair.b.sent[before..].iter().filter(|m| (m[18], m[19] & 0x20) == (36, 0x20)).collect();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|m| *m == answers[0]), "the same bytes");
    assert_eq!(pair.b.children.len() + pair.b.gone.len(), 2, "the request was carried out once");
    assert_eq!(pair.b.gone[0].1, DownReason::Replaced);
}

#[test]
fn the_answer_to_a_delete_is_repeated() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let before = pair.b.sent.len();
    pair.link.cut_to = Some(At::A);
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    pair.run(secs(3));
    assert!(pair.b.ike.is_none() && pair.a.endpoint.counts().ike_sas == 1);
    pair.link.cut_to = None;
    pair.run(secs(5));
    assert_eq!(pair.a.endpoint.counts().ike_sas, 0, "the repeated delete was answered");
    assert_eq!(pair.b.sent[before], pair.b.sent[before + 1]);
}
