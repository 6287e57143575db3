//! Several CHILD SAs on one IKE SA: one for each pair of networks, by choice or because the peer insists; each on its own.

use std::collections::BTreeSet;

use super::*;
use crate::wire::{Chain, Exchange, Payload, notify};
use crate::{Cause, DownReason, Pairs};
use culvert_types::TrafficSelector;

fn nets(list: &[&str]) -> Vec<TrafficSelector> {
    list.iter().map(|n| TrafficSelector::from_net(n.parse().unwrap())).collect()
}

const OURS: [&str; 2] = ["10.1.0.0/24", "10.1.1.0/24"];
const THEIRS: [&str; 3] = ["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24"];

fn configs(a_pairs: Pairs, b_pairs: Pairs) -> (PeerConfig, PeerConfig) {
    let (mut a, mut b) = both(|c| c.dpd = None);
    (a.local_ts, a.remote_ts) = (nets(&OURS), nets(&THEIRS));
    (b.local_ts, b.remote_ts) = (nets(&THEIRS), nets(&OURS));
    (a.exchange.pairs, b.exchange.pairs) = (a_pairs, b_pairs);
    (a, b)
}

fn up(a_pairs: Pairs, b_pairs: Pairs) -> Pair {
    let (a, b) = configs(a_pairs, b_pairs);
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(5));
    pair
}

/// What both sides have, as `local === remote` of A; they must agree on it and use all of it.
fn carried(pair: &Pair) -> BTreeSet<String> {
    assert_eq!(pair.a.children.len(), pair.b.children.len(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    let all = pair.a.children.values().map(|sa| {
        let other = pair.b.children.get(&sa.outbound()).expect("B has it as well");
        assert_eq!((sa.local_ts(), sa.remote_ts()), (other.remote_ts(), other.local_ts()));
        assert_eq!(sa.inbound_keys(), other.outbound_keys());
        assert!(pair.a.outbound.contains(&sa.inbound()) && pair.b.outbound.contains(&other.inbound()));
        format!(
            "{} === {}",
            crate::selector::describe(sa.local_ts()),
            crate::selector::describe(sa.remote_ts())
        )
    });
    all.collect()
}

fn every_pair() -> BTreeSet<String> {
    OURS.iter().flat_map(|l| THEIRS.iter().map(move |r| format!("{l} === {r}"))).collect()
}

#[test]
fn one_for_each_pair_of_networks() {
    for (a, b) in [(Pairs::Each, Pairs::Each), (Pairs::Each, Pairs::Together), (Pairs::Together, Pairs::Each)]
    {
        let pair = up(a, b);
        assert_eq!(carried(&pair), every_pair());
        assert_eq!(pair.a.children.len(), 6);
        assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
    }
    let pair = up(Pairs::Together, Pairs::Together);
    assert_eq!(pair.a.children.len(), 1);
}

#[test]
fn each_is_rekeyed_on_its_own_by_either_side() {
    for at in [At::A, At::B] {
        let mut pair = up(Pairs::Each, Pairs::Each);
        let all: Vec<_> = pair.side(at).children.keys().copied().collect();
        for old in all {
            pair.command(at, Command::RekeyChild(old));
            pair.run(secs(2));
            assert!(!pair.side(at).children.contains_key(&old));
            assert_eq!(carried(&pair), every_pair());
        }
        // Both ends of life: on time by themselves, and with the IKE SA rekeyed under them.
        pair.command(at, Command::RekeyIke(TUNNEL));
        pair.run(secs(2));
        assert_eq!(carried(&pair), every_pair());
        pair.run(secs(2 * 3600));
        assert_eq!(carried(&pair), every_pair());
        assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
        assert!(pair.a.gone.iter().all(|(_, reason)| *reason == DownReason::Replaced));
    }
}

#[test]
fn one_that_is_lost_alone_is_asked_for_again_by_who_had_asked() {
    let mut pair = up(Pairs::Each, Pairs::Each);
    let victim = *pair.b.children.keys().next().unwrap();
    let outbound = pair.b.children[&victim].outbound();
    // B deletes it as an operator there would.
    let mut chain = Chain::new();
    chain.push(&Payload::Delete(crate::wire::Delete {
        protocol: crate::wire::protocol::ESP,
        spi_len: 4,
        spis: &victim.to_bytes(),
    }));
    let forged = pair.b.endpoint.forge(TUNNEL, Exchange::Informational, &chain);
    for datagram in forged.datagrams().cloned().collect::<Vec<_>>() {
        pair.inject(At::A, &datagram);
    }
    assert!(!pair.a.children.contains_key(&outbound) && pair.a.children.len() == 5);
    pair.run(secs(3));
    assert_eq!(pair.a.children.len(), 6);
    let pairs: BTreeSet<String> = pair
        .a
        .children
        .values()
        .map(|sa| format!("{} === {}", sa.local_ts()[0], sa.remote_ts()[0]))
        .collect();
    assert_eq!(pairs, every_pair());
}

#[test]
fn what_is_missing_is_asked_for_on_demand_and_nothing_else() {
    let (a, mut b) = configs(Pairs::Each, Pairs::Each);
    b.local_ts = nets(&THEIRS[..2]);
    let mut pair = Pair::new(1, a, b.clone());
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(5));
    assert_eq!(pair.a.children.len(), 4);
    // Two pairs were refused, once each.
    let refused = |pair: &Pair| pair.a.failures.iter().filter(|f| f.cause == Cause::SelectorsRefused).count();
    assert_eq!(refused(&pair), 2);
    pair.run(secs(600));
    assert_eq!(refused(&pair), 2);
    // The peer learns of the third network; traffic asks again.
    b.local_ts = nets(&THEIRS);
    pair.command(At::B, Command::AddPeer(TUNNEL, Box::new(b)));
    for _ in 0..3 {
        pair.command(At::A, Command::Initiate(TUNNEL));
    }
    pair.run(secs(5));
    assert_eq!(carried(&pair), every_pair());
    assert_eq!(pair.a.children.len(), 6);
}

/// A peer that insists: what B answers is put in by hand.
#[test]
fn a_peer_that_takes_one_pair_is_given_one_pair_at_a_time() {
    let (a, b) = configs(Pairs::Together, Pairs::Together);
    let mut pair = Pair::new(1, a, b);
    pair.b.endpoint.quirks().single_pair = true;
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(5));
    assert_eq!(carried(&pair), every_pair());
    assert!(pair.a.failures.is_empty(), "{:#?}", pair.a.failures);
    // The successor knows it as well.
    pair.command(At::B, Command::RekeyIke(TUNNEL));
    pair.run(secs(2));
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(2));
    assert_eq!(carried(&pair), every_pair());
}

#[test]
fn a_busy_peer_is_asked_again_later_and_one_that_is_full_is_not() {
    for (told, in_the_end) in [(notify::TEMPORARY_FAILURE, 6), (notify::NO_ADDITIONAL_SAS, 1)] {
        let (a, b) = configs(Pairs::Each, Pairs::Each);
        let mut pair = Pair::new(1, a, b);
        pair.b.endpoint.quirks().refuse = Some(told);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(20));
        assert_eq!(pair.a.children.len(), 1);
        let asked = pair.a.sent.len();
        assert!(asked < 40, "{asked}");
        pair.b.endpoint.quirks().refuse = None;
        pair.run(secs(20));
        assert_eq!(pair.a.children.len(), in_the_end, "{told}");
        // The operator, or traffic, may insist.
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(5));
        assert_eq!(carried(&pair), every_pair());
    }
}

#[test]
fn a_peer_that_would_take_more_in_others_is_asked() {
    let (a, b) = configs(Pairs::Together, Pairs::Together);
    let narrow = PeerConfig { local_ts: nets(&THEIRS[..1]), remote_ts: nets(&OURS[..1]), ..b.clone() };
    let mut pair = Pair::new(1, a, narrow);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(5));
    assert_eq!(pair.a.children.len(), 1);
    pair.command(At::B, Command::AddPeer(TUNNEL, Box::new(b)));
    // What ADDITIONAL_TS_POSSIBLE in the answer does: the pair that is there is not asked for again.
    let time = pair.time;
    pair.a.endpoint.task(time, TUNNEL, crate::v2::sa::IkeSa::more_possible);
    pair.drain(At::A);
    pair.run(secs(5));
    assert_eq!(carried(&pair), every_pair());
    assert!(pair.a.children.len() == 6 && pair.a.failures.is_empty());
}

#[test]
fn lost_doubled_and_reordered() {
    for seed in 1..25 {
        let (a, b) = configs(Pairs::Each, Pairs::Each);
        let mut pair = Pair::new(seed, a, b);
        pair.link.loss = 0.2;
        pair.link.duplicate = 0.2;
        pair.link.jitter = Duration::from_millis(50);
        pair.command(At::A, Command::Initiate(TUNNEL));
        assert!(pair.run_until(secs(1000), |p| p.a.children.len() >= 6 && p.b.children.len() >= 6), "{seed}");
        pair.link = crate::testing::Link::default();
        pair.run(secs(100));
        assert_eq!(carried(&pair), every_pair(), "{seed}");
        assert_eq!(pair.a.children.len(), 6, "{seed}: {:#?}", pair.a.log);
    }
}

/// As responder, one pair in each CHILD SA; who asks for all of them gets the first, is told that there are more
/// (RFC 7296 2.9), and asks for them.
#[test]
fn a_responder_narrows_to_one_pair_and_says_that_there_are_more() {
    let nets = |list: &[&str]| -> Vec<_> {
        list.iter().map(|n| culvert_types::TrafficSelector::from_net(n.parse().unwrap())).collect()
    };
    let (ours, theirs) = (nets(&["10.1.0.0/24", "10.1.1.0/24"]), nets(&["10.2.0.0/24", "10.2.1.0/24"]));
    let (mut a, mut b) = both(|c| c.dpd = None);
    (a.local_ts, a.remote_ts) = (ours.clone(), theirs.clone());
    (b.local_ts, b.remote_ts) = (theirs, ours);
    b.exchange.pairs = crate::Pairs::Each;
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(5));
    let of = |pair: &Pair| {
        let name = |sa: &crate::ChildSa| format!("{} {}", sa.local_ts()[0], sa.remote_ts()[0]);
        let mut all: Vec<String> = pair.a.children.values().map(name).collect();
        all.sort();
        all
    };
    let four = of(&pair);
    assert_eq!((four.len(), pair.b.children.len()), (4, 4), "{:#?}", pair.a.log);
    assert!(pair.a.children.values().all(|sa| sa.local_ts().len() == 1 && sa.remote_ts().len() == 1));
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
    // Each is rekeyed into one that carries the same, whoever begins.
    for at in [At::A, At::B] {
        for spi in pair.side(at).children.keys().copied().collect::<Vec<_>>() {
            pair.command(at, Command::RekeyChild(spi));
            pair.run(secs(2));
        }
        assert_eq!(of(&pair), four);
        assert_eq!(pair.b.children.len(), 4);
    }
}

/// Gives a side other networks, as a reload does.
fn reselect(pair: &mut Pair, at: At, config: &PeerConfig) {
    pair.command(at, Command::AddPeer(TUNNEL, Box::new(config.clone())));
    pair.command(at, Command::Reselect(TUNNEL));
    pair.run(secs(5));
}

#[test]
fn networks_come_and_go_with_a_rekeying_each_and_those_that_stay_are_always_carried() {
    let kept = format!("{} === {}", OURS[0], THEIRS[0]);
    for pairs in [Pairs::Together, Pairs::Each] {
        for first in [At::A, At::B] {
            let (a, b) = configs(pairs, pairs);
            let one = |mut config: PeerConfig| {
                config.local_ts.truncate(1);
                config.remote_ts.truncate(1);
                config
            };
            let (one_a, one_b) = (one(a.clone()), one(b.clone()));
            let mut pair = Pair::new(1, one_a.clone(), one_b.clone());
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run(secs(5));
            assert_eq!(carried(&pair), BTreeSet::from([kept.clone()]));
            let ike = pair.a.endpoint.counts();
            let order = if first == At::A { [At::A, At::B] } else { [At::B, At::A] };
            let of = |at: At, a: &PeerConfig, b: &PeerConfig| if at == At::A { a.clone() } else { b.clone() };
            // One side after the other: what both know is carried all the time.
            reselect(&mut pair, order[0], &of(order[0], &a, &b));
            assert_eq!(carried(&pair), BTreeSet::from([kept.clone()]), "{pairs:?} {first:?}");
            reselect(&mut pair, order[1], &of(order[1], &a, &b));
            match pairs {
                Pairs::Each => assert_eq!(carried(&pair), every_pair()),
                _ => assert_eq!(
                    carried(&pair),
                    BTreeSet::from([format!("{} === {}", OURS.join(" "), THEIRS.join(" "))])
                ),
            }
            // The same again changes nothing.
            let before: Vec<_> = pair.a.children.keys().copied().collect();
            reselect(&mut pair, order[0], &of(order[0], &a, &b));
            assert_eq!(pair.a.children.keys().copied().collect::<Vec<_>>(), before);
            reselect(&mut pair, order[0], &of(order[0], &one_a, &one_b));
            assert!(carried(&pair).contains(&kept));
            reselect(&mut pair, order[1], &of(order[1], &one_a, &one_b));
            assert_eq!(carried(&pair), BTreeSet::from([kept.clone()]), "{pairs:?} {first:?}");
            assert_eq!(pair.a.endpoint.counts(), ike, "the IKE SA stays, and nothing is left over");
            pair.run(secs(2 * 3600));
            assert_eq!(carried(&pair), BTreeSet::from([kept.clone()]));
        }
    }
}
