//! CHILD SAs beside the first, each for a resource of its own (RFC 9611).

use culvert_crypto::Encryption;

use super::*;
use crate::{CommandError, Purpose};

const CHACHA: Encryption = Encryption::ChaCha20Poly1305;

fn pair(at_most: u16) -> Pair {
    let (a, mut b) = both(|c| c.dpd = None);
    b.exchange.per_resource = at_most;
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair
}

/// The names of resources, sorted; an empty one for the CHILD SA that has none.
fn names(side: &crate::testing::Side) -> Vec<String> {
    let name = |sa: &crate::ChildSa| String::from_utf8(sa.resource().unwrap_or_default().to_vec()).unwrap();
    let mut all: Vec<String> = side.children.values().map(name).collect();
    all.sort();
    all
}

#[test]
fn as_many_as_the_peer_takes() {
    let mut pair = pair(2);
    for cpu in 0..3 {
        pair.command(At::A, Command::AddResource(TUNNEL, Purpose::Resource(cpu)));
        pair.run(secs(1));
    }
    // RFC 9611 4: the third gets TS_MAX_QUEUE, which is no failure.
    for side in [&pair.a, &pair.b] {
        assert_eq!(names(side), ["", "cpu0", "cpu1"], "{:#?}", side.log);
        assert_eq!(side.outbound.len(), 3);
        assert!(side.failures.is_empty());
    }
    // The same resource again is there already.
    pair.command(At::A, Command::AddResource(TUNNEL, Purpose::Resource(1)));
    pair.run(secs(1));
    assert_eq!(pair.a.children.len(), 3);
    // Each is rekeyed for its own resource, by either side, and lives on in a rekeyed IKE SA.
    for at in [At::A, At::B] {
        for spi in pair.side(at).children.keys().copied().collect::<Vec<_>>() {
            pair.command(at, Command::RekeyChild(spi));
            pair.run(secs(2));
        }
        pair.command(at, Command::RekeyIke(TUNNEL));
        pair.run(secs(2));
        assert_eq!(
            (names(&pair.a), names(&pair.b)),
            (names(&pair.b), ["", "cpu0", "cpu1"].map(String::from).to_vec())
        );
    }
    for sa in pair.a.children.values() {
        let other = &pair.b.children[&sa.outbound()];
        assert!(sa.outbound_keys() == other.inbound_keys() && sa.resource() == other.resource());
    }
    // One that is deleted may be had again.
    let gone = pair.a.children.values().find(|sa| sa.resource() == Some(b"cpu0")).unwrap().inbound();
    let time = pair.time;
    pair.a.endpoint.task(time, TUNNEL, |sa| sa.delete(gone, crate::DownReason::LocalRequest));
    pair.drain(At::A);
    pair.run(secs(1));
    assert_eq!(names(&pair.b), ["", "cpu1"]);
    pair.command(At::A, Command::AddResource(TUNNEL, Purpose::Resource(2)));
    pair.run(secs(1));
    assert_eq!(names(&pair.b), ["", "cpu1", "cpu2"]);
}

#[test]
fn none_where_the_peer_takes_none_and_none_that_makes_no_sense() {
    let mut pair = pair(0);
    pair.command(At::A, Command::AddResource(TUNNEL, Purpose::Resource(0)));
    pair.run(secs(1));
    assert!(pair.agreed() && pair.a.failures.is_empty() && pair.b.failures.is_empty());
    let time = pair.time;
    for purpose in [Purpose::All, Purpose::Small] {
        let refused = pair.a.endpoint.handle_command(time, Command::AddResource(TUNNEL, purpose));
        assert_eq!(refused, Err(CommandError::Purpose(TUNNEL, purpose)));
    }
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    let refused = pair.a.endpoint.handle_command(time, Command::AddResource(TUNNEL, Purpose::Resource(1)));
    assert_eq!(refused, Err(CommandError::NotUp(TUNNEL)));
}

/// Both sides ask at the same time, for resources of their own or for the same one: of the same, one stays.
#[test]
fn both_sides_at_once() {
    for (theirs, want) in [(0, vec!["", "cpu0"]), (1, vec!["", "cpu0", "cpu1"])] {
        for seed in 0..12 {
            let (a, b) = both(|c| (c.dpd, c.exchange.per_resource) = (None, 8));
            let mut pair = Pair::new(seed, a, b);
            pair.link.jitter = Duration::from_millis(40);
            pair.connect();
            pair.command(At::A, Command::AddResource(TUNNEL, Purpose::Resource(0)));
            pair.command(At::B, Command::AddResource(TUNNEL, Purpose::Resource(theirs)));
            pair.run(secs(20));
            assert_eq!(
                (names(&pair.a), names(&pair.b)),
                (names(&pair.b), want.iter().map(ToString::to_string).collect()),
                "{seed}"
            );
        }
    }
}

/// A second one for small packets has its own cipher, of which the first knows nothing, also when it is rekeyed.
#[test]
fn small_packets_have_a_cipher_of_their_own() {
    let (a, b) = both(|c| {
        c.dpd = None;
        c.exchange.small = c.esp_proposals.iter().map(|p| p.with_aead(CHACHA)).collect();
        c.exchange.per_resource = 1;
    });
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair.command(At::A, Command::AddResource(TUNNEL, Purpose::Small));
    pair.run(secs(1));
    // One for a CPU has a place of its own beside it; a second one for small packets has none.
    pair.command(At::A, Command::AddResource(TUNNEL, Purpose::Resource(0)));
    pair.command(At::B, Command::AddResource(TUNNEL, Purpose::Small));
    pair.run(secs(1));
    for at in [At::A, At::B] {
        for spi in pair.side(at).children.keys().copied().collect::<Vec<_>>() {
            pair.command(at, Command::RekeyChild(spi));
            pair.run(secs(10));
        }
        for side in [&pair.a, &pair.b] {
            let mut all: Vec<_> =
                side.children.values().map(|sa| (sa.purpose(), sa.suite().encryption() == CHACHA)).collect();
            all.sort();
            assert_eq!(all, [(Purpose::All, false), (Purpose::Resource(0), false), (Purpose::Small, true)]);
            assert!(side.failures.is_empty() && side.outbound.len() == 3, "{:#?}", side.log);
        }
    }
}

#[test]
fn a_refusal_is_told_with_its_reason_and_the_first_one_comes_back_alone() {
    let mut pair = pair(1);
    for cpu in 0..2 {
        pair.command(At::A, Command::AddResource(TUNNEL, Purpose::Resource(cpu)));
        pair.run(secs(1));
    }
    let told = "never: true";
    assert!(pair.a.log.iter().any(|line| line.contains("AdditionalRefused") && line.contains(told)));
    // The peer deletes the first: the other one does not pass for it.
    let first = pair.b.children.values().find(|sa| sa.purpose() == Purpose::All).unwrap().inbound();
    pair.command(At::B, Command::DeleteChild(first));
    pair.run(secs(5));
    assert_eq!(names(&pair.a), ["", "cpu0"], "{:#?}", pair.a.log);
    assert!(!pair.b.children.contains_key(&first));
    // Names that say nothing get the lowest number that is free.
    let time = pair.time;
    let mut purposes = Vec::new();
    pair.b.endpoint.task(time, TUNNEL, |sa| {
        purposes = [&b"qos"[..], b"cpu7", b"small"].map(|name| sa.purpose_of(Some(name))).to_vec();
    });
    assert_eq!(purposes, [Purpose::Resource(1), Purpose::Resource(7), Purpose::Small]);
}
