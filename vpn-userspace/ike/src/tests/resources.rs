//! CHILD SAs beside the first, each for a resource of its own (RFC 9611).

use super::*;
use crate::CommandError;

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
    for cpu in ["cpu0", "cpu1", "cpu2"] {
        pair.command(At::A, Command::AddResource(TUNNEL, cpu.into()));
        pair.run(secs(1));
    }
    // RFC 9611 4: the third gets TS_MAX_QUEUE, which is no failure.
    for side in [&pair.a, &pair.b] {
        assert_eq!(names(side), ["", "cpu0", "cpu1"], "{:#?}", side.log);
        assert_eq!(side.outbound.len(), 3);
        assert!(side.failures.is_empty());
    }
    // The same resource again is there already.
    pair.command(At::A, Command::AddResource(TUNNEL, "cpu1".into()));
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
    pair.command(At::A, Command::AddResource(TUNNEL, "cpu2".into()));
    pair.run(secs(1));
    assert_eq!(names(&pair.b), ["", "cpu1", "cpu2"]);
}

#[test]
fn none_where_the_peer_takes_none_and_names_are_bounded() {
    let mut pair = pair(0);
    pair.command(At::A, Command::AddResource(TUNNEL, "cpu0".into()));
    pair.run(secs(1));
    assert!(pair.agreed() && pair.a.failures.is_empty() && pair.b.failures.is_empty());
    let time = pair.time;
    for name in [Vec::new(), vec![b'x'; 65]] {
        let refused = pair.a.endpoint.handle_command(time, Command::AddResource(TUNNEL, name));
        assert_eq!(refused, Err(CommandError::Resource));
    }
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    let refused = pair.a.endpoint.handle_command(time, Command::AddResource(TUNNEL, vec![1]));
    assert_eq!(refused, Err(CommandError::NotUp(TUNNEL)));
}

/// Both sides ask at the same time, for resources of their own or for the same one: of the same, one stays.
#[test]
fn both_sides_at_once() {
    for (theirs, want) in [("cpu0", vec!["", "cpu0"]), ("cpu1", vec!["", "cpu0", "cpu1"])] {
        for seed in 0..12 {
            let (a, b) = both(|c| (c.dpd, c.exchange.per_resource) = (None, 8));
            let mut pair = Pair::new(seed, a, b);
            pair.link.jitter = Duration::from_millis(40);
            pair.connect();
            pair.command(At::A, Command::AddResource(TUNNEL, "cpu0".into()));
            pair.command(At::B, Command::AddResource(TUNNEL, theirs.into()));
            pair.run(secs(20));
            assert_eq!(
                (names(&pair.a), names(&pair.b)),
                (names(&pair.b), want.iter().map(ToString::to_string).collect()),
                "{seed}"
            );
        }
    }
}
