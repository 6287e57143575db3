//! The transition table of IKEv2's IKE SAs and CHILD SAs, drawn from the code itself: each state meets each exchange,
//! and what came of it is compared with what a reviewer has seen. A change of it shows in a change.

use std::fmt::Write as _;

use super::sim::{Start, Wish, World};
use super::*;
use crate::testing::Held;
use crate::wire::{Chain, Exchange};

/// Exchanges that a state may not expect, each as an authentic request without payloads.
const EXCHANGES: [Exchange; 7] = [
    Exchange::SaInit,
    Exchange::Intermediate,
    Exchange::Auth,
    Exchange::CreateChild,
    Exchange::FollowupKe,
    Exchange::Informational,
    Exchange::Other(99),
];

const WISHES: [Wish; 5] =
    [Wish::NewChild, Wish::RekeyChild, Wish::RekeyIke, Wish::DeleteChild, Wish::DeleteIke];

/// What a side has said in messages since: names of payloads and notifications, without numbers.
fn said(log: &[String]) -> String {
    let mut out: Vec<String> = Vec::new();
    for line in log.iter().filter(|line| line.starts_with("Message") && line.contains("sent: true")) {
        let Some((_, text)) = line.split_once("text: \"") else { continue };
        let (head, payloads) = text.split_once('[').unwrap_or((text, ""));
        let kind: Vec<&str> = head.split_whitespace().take(2).collect();
        // `N(TEMPORARY_FAILURE, 43)` is N(TEMPORARY_FAILURE), and of any other payload its name is told.
        let name = |word: &str| {
            let (name, inside) = word.split_once('(').unwrap_or((word, ""));
            let shown = matches!(name, "SA" | "KE" | "nonce" | "AUTH" | "TSi" | "TSr" | "IDi" | "IDr" | "D");
            match name {
                "N" => Some(format!("N({})", inside.trim_end_matches([')', ',']))),
                "D" => Some(format!("D({})", inside.trim_end_matches(')'))),
                _ => shown.then(|| name.to_owned()),
            }
        };
        let names: Vec<String> = payloads.split_whitespace().filter_map(name).collect();
        out.push(format!("{} {}", kind.join(" "), names.join(" ")).trim_end().to_owned());
    }
    if out.is_empty() { "-".to_owned() } else { out.join("; ") }
}

/// Hands the datagrams that wait for a side to it, and tells what it said and what it is then.
fn outcome(pair: &mut Pair, at: At, act: impl FnOnce(&mut Pair)) -> String {
    let seen = pair.side(at).log.len();
    act(pair);
    format!("{} | {}", said(&pair.side(at).log[seen..]), pair.side(at).endpoint.states())
}

fn deliver_all(pair: &mut Pair, at: At) {
    while let Some(next) = pair.held.iter().position(|held: &Held| held.to == at) {
        pair.deliver(next, false);
    }
}

/// A negotiation up to a point, held there: how many datagrams have gone through.
fn negotiating(passed: usize, hybrid: bool) -> Pair {
    let (a, b) = both(|c| {
        c.dpd = None;
        if hybrid {
            c.ike_proposals = vec!["aes128gcm16-prfsha256-curve25519-ke1_ecp256".parse().unwrap()];
        }
    });
    let mut pair = Pair::new(1, a, b);
    pair.link.hold = true;
    for at in [At::A, At::B] {
        pair.command(at, Command::Trace(true));
    }
    pair.command(At::A, Command::Initiate(TUNNEL));
    for _ in 0..passed {
        pair.deliver(0, false);
    }
    pair
}

#[test]
fn an_ike_sa_that_comes_to_be() {
    let mut table = String::from("state of the responder | request | answer | state then\n");
    // Before each of its messages, and after the last.
    for (hybrid, passed) in [(false, 2), (true, 2), (true, 4)] {
        for exchange in EXCHANGES {
            let mut pair = negotiating(passed, hybrid);
            let before = pair.b.endpoint.states();
            let sealed = pair.a.endpoint.seal_any(exchange, &Chain::new()).expect("it has keys");
            let line = outcome(&mut pair, At::B, |pair| {
                for datagram in sealed.datagrams().cloned().collect::<Vec<_>>() {
                    pair.inject(At::B, &datagram);
                }
            });
            let _ = writeln!(table, "{before} ({}) | {exchange} | {line}", pair.a.endpoint.states());
        }
        let mut pair = negotiating(passed, hybrid);
        let before = pair.b.endpoint.states();
        let line = outcome(&mut pair, At::B, |pair| deliver_all(pair, At::B));
        let _ = writeln!(table, "{before} ({}) | what it waits for | {line}", pair.a.endpoint.states());
    }
    table.push_str("\nstate of the initiator | answer that it waits for | what it sends | state then\n");
    for hybrid in [false, true] {
        for passed in [1, 3, 5] {
            if passed == 5 && !hybrid {
                continue;
            }
            let mut pair = negotiating(passed, hybrid);
            let before = pair.a.endpoint.states();
            let line = outcome(&mut pair, At::A, |pair| deliver_all(pair, At::A));
            let _ = writeln!(table, "{before} | {} | {line}", if hybrid { "with a round" } else { "plain" });
        }
    }
    insta::assert_snapshot!(table);
}

/// An established tunnel, or one that has lost its child, where B has this in flight.
fn established(start: Start, own: Option<Wish>) -> World {
    let mut world = World::new(1, start);
    for at in [At::A, At::B] {
        world.pair.command(at, Command::Trace(true));
    }
    if let Some(own) = own {
        let _ = world.check();
        world.wish(At::B, own);
    }
    world
}

#[test]
fn an_ike_sa_that_stands() {
    let mut table = String::from("own request in flight | the peer's request | answer | state then\n");
    let own = [None].into_iter().chain(WISHES.map(Some));
    for own in own {
        let name = own.map_or_else(|| "none".to_owned(), |wish| format!("{wish:?}"));
        for theirs in WISHES {
            let new = theirs == Wish::NewChild || own == Some(Wish::NewChild);
            let start = if new { Start::Childless } else { Start::Tunnel };
            let mut world = established(start, own);
            world.wish(At::A, theirs);
            let line = outcome(&mut world.pair, At::B, |pair| deliver_all(pair, At::B));
            let _ = writeln!(table, "{name} | {theirs:?} | {line}");
        }
        for exchange in EXCHANGES {
            let mut world = established(Start::Tunnel, own);
            let pair = &mut world.pair;
            let sealed = pair.a.endpoint.seal_any(exchange, &Chain::new()).expect("it has keys");
            let line = outcome(pair, At::B, |pair| {
                for datagram in sealed.datagrams().cloned().collect::<Vec<_>>() {
                    pair.inject(At::B, &datagram);
                }
            });
            let _ = writeln!(table, "{name} | {exchange}, empty | {line}");
        }
    }
    table.push_str("\nwish of a side, to its end | messages of A | messages of B | A then | B then\n");
    for (start, what) in [(Start::Tunnel, ""), (Start::Rounds, " in two rounds")] {
        for wish in WISHES {
            let start = if wish == Wish::NewChild && what.is_empty() { Start::Childless } else { start };
            let mut world = established(start, None);
            let seen = [world.pair.a.log.len(), world.pair.b.log.len()];
            world.wish(At::A, wish);
            let _ = world.settle(Duration::from_secs(2));
            let pair = &world.pair;
            let (a, b) = (said(&pair.a.log[seen[0]..]), said(&pair.b.log[seen[1]..]));
            let (sa, sb) = (pair.a.endpoint.states(), pair.b.endpoint.states());
            let _ = writeln!(table, "{wish:?}{what} | {a} | {b} | {sa} | {sb}");
        }
    }
    insta::assert_snapshot!(table);
}
