//! MOBIKE (RFC 4555): either side moves, paths die, NATs change their minds, and nobody moves by what is forged.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::{Cause, DownReason, EndpointConfig, Mobike};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mobile(change: impl Fn(&mut PeerConfig)) -> Pair {
    let (a, b) = both(|c| {
        c.exchange.mobike = Mobike::Yes;
        change(c);
    });
    let mut pair = Pair::new(7, a, b);
    pair.connect();
    assert!(pair.a.ike.as_ref().unwrap().mobike && pair.b.ike.as_ref().unwrap().mobike);
    pair
}

/// The same SAs as before, and both sides know where the other one is.
fn same(pair: &Pair, before: &(u64, culvert_types::Spi), a: &str, b: &str) {
    let now = (pair.a.ike.as_ref().unwrap().spi_initiator, pair.a.only_child().inbound());
    assert_eq!(now, *before, "{:#?}", pair.a.log);
    assert!(pair.agreed() && pair.a.failures.is_empty() && pair.b.failures.is_empty(), "{:#?}", pair.b.log);
    assert_eq!(pair.a.moves.last().map(SocketAddr::ip), Some(ip(b)), "{:#?}", pair.a.log);
    assert_eq!(pair.b.moves.last().map(SocketAddr::ip), Some(ip(a)), "{:#?}", pair.b.log);
}

fn sas(pair: &Pair) -> (u64, culvert_types::Spi) {
    (pair.a.ike.as_ref().unwrap().spi_initiator, pair.a.only_child().inbound())
}

#[test]
fn nobody_moves_who_did_not_agree_on_it() {
    for (a, b) in [(Mobike::Yes, Mobike::No), (Mobike::No, Mobike::Yes), (Mobike::Accept, Mobike::Accept)] {
        let (mut ca, mut cb) = both(|_| {});
        (ca.exchange.mobike, cb.exchange.mobike) = (a, b);
        let mut pair = Pair::new(1, ca, cb);
        pair.connect();
        assert!(!pair.a.ike.as_ref().unwrap().mobike && !pair.b.ike.as_ref().unwrap().mobike);
        pair.move_to(At::A, ip("192.0.2.77"));
        assert_eq!(pair.a.downs, [DownReason::AddressChanged]);
        // A new negotiation from there takes the place of what the peer still has.
        pair.command(At::B, Command::Terminate(TUNNEL, false));
        let mut config = config(At::B);
        config.remote = None;
        pair.command(At::B, Command::AddPeer(TUNNEL, Box::new(config)));
        pair.connect();
    }
}

#[test]
fn the_initiator_moves_and_moves_back() {
    let mut pair = mobile(|_| {});
    let before = sas(&pair);
    // RFC 4555 3.3: by the port of NAT traversal from the start, and yet without encapsulation.
    assert_eq!(pair.a.ike.as_ref().unwrap().local.port(), 4500);
    assert!(!pair.a.ike.as_ref().unwrap().encap);
    for (at, to) in [("192.0.2.77", "192.0.2.2"), ("192.0.2.1", "192.0.2.2")] {
        pair.move_to(At::A, ip(at));
        pair.run(secs(1));
        same(&pair, &before, at, to);
    }
    // What is known of it lives on in a rekeyed IKE SA, by whichever side.
    for (by, at) in [(At::A, "192.0.2.78"), (At::B, "192.0.2.79")] {
        pair.command(by, Command::RekeyIke(TUNNEL));
        pair.run(secs(2));
        let before = sas(&pair);
        pair.move_to(At::A, ip(at));
        pair.run(secs(1));
        same(&pair, &before, at, "192.0.2.2");
    }
}

#[test]
fn the_responder_moves_and_the_initiator_follows() {
    let mut pair = mobile(|_| {});
    let before = sas(&pair);
    pair.move_to(At::B, ip("192.0.2.99"));
    pair.run(secs(1));
    same(&pair, &before, "192.0.2.1", "192.0.2.99");
    // Both at once: who decides is reached by what it answers to.
    pair.move_to(At::A, ip("192.0.2.77"));
    pair.run(secs(1));
    same(&pair, &before, "192.0.2.77", "192.0.2.99");
}

#[test]
fn moves_in_bad_weather() {
    for seed in 1..20 {
        let (a, b) = both(|c| {
            c.exchange.mobike = Mobike::Yes;
            c.dpd = None;
        });
        let mut pair = Pair::new(seed, a, b);
        pair.connect();
        let before = sas(&pair);
        (pair.link.loss, pair.link.duplicate, pair.link.jitter) = (0.3, 0.2, secs(1));
        for n in 0..3 {
            pair.move_to(At::A, ip(&format!("192.0.2.{}", 100 + n)));
            pair.run(secs(u64::from(n % 2 == 0)));
        }
        (pair.link.loss, pair.link.duplicate) = (0.0, 0.0);
        pair.run(secs(200));
        same(&pair, &before, "192.0.2.102", "192.0.2.2");
    }
}

#[test]
fn no_esp_goes_where_the_peer_does_not_answer() {
    let mut pair = mobile(|_| {});
    let (before, moves) = (sas(&pair), pair.b.moves.len());
    // The update arrives, and what comes back from there does not.
    pair.move_to(At::A, ip("192.0.2.77"));
    pair.unreachable.push(ip("192.0.2.77"));
    pair.run(secs(3));
    assert_eq!(pair.b.moves.len(), moves, "RFC 4555 3.7: {:#?}", pair.b.log);
    pair.unreachable.clear();
    pair.run(secs(30));
    same(&pair, &before, "192.0.2.77", "192.0.2.2");
}

#[test]
fn what_is_forged_or_replayed_moves_nobody() {
    for mobike in [Mobike::Yes, Mobike::No] {
        let (a, b) = both(|c| c.exchange.mobike = mobike);
        let mut pair = Pair::new(3, a, b);
        pair.connect();
        pair.command(At::A, Command::CheckLiveness(TUNNEL));
        pair.run(secs(1));
        let (ours, thief) = ("192.0.2.2:4500".parse().unwrap(), "203.0.113.66:4500".parse().unwrap());
        let moves = pair.b.moves.clone();
        // Everything that A has sent, once more and from elsewhere; and each with one bit changed.
        for bytes in pair.a.sent.clone() {
            for flip in [None, Some(bytes.len() - 1), Some(23)] {
                let mut bytes = bytes.clone();
                if let Some(at) = flip {
                    bytes[at] ^= 1;
                }
                pair.inject_from(At::B, ours, thief, &bytes);
            }
        }
        pair.run(secs(5));
        assert_eq!(pair.b.moves, moves, "{:#?}", pair.b.log);
        assert!(pair.agreed());
        assert_eq!(pair.b.ike.as_ref().unwrap().remote.ip(), ip("192.0.2.1"));
    }
}

#[test]
fn another_path_is_found_when_the_one_in_use_dies() {
    let (a, b) = both(|c| {
        c.exchange.mobike = Mobike::Yes;
        c.dpd = Some(crate::Dpd { interval: secs(10), timeout: secs(60) });
    });
    let mut pair = Pair::new(5, a, b);
    pair.also.push((At::B, ip("192.0.2.202")));
    pair.command(At::B, Command::Addresses(vec![ip("192.0.2.2"), ip("192.0.2.202")]));
    pair.connect();
    let before = sas(&pair);
    pair.unreachable.push(ip("192.0.2.2"));
    pair.run(secs(60));
    same(&pair, &before, "192.0.2.1", "192.0.2.202");
}

#[test]
fn a_nat_that_gives_another_port_is_noticed() {
    let (a, b) = both(|c| {
        c.exchange.mobike = Mobike::Yes;
        c.local_natt.set_port(4500);
    });
    let mut b = b;
    b.remote = None;
    let mut pair = Pair::new(5, a, b);
    pair.link.nat = Some(0);
    pair.connect();
    assert!(pair.a.ike.as_ref().unwrap().nat_local && pair.b.ike.as_ref().unwrap().nat_remote);
    // The first question, at once, learns how the peer sees us; the next that it sees something else.
    pair.run(secs(5));
    pair.link.nat = Some(1000);
    pair.run(secs(30));
    assert_eq!(pair.b.moves.last().map(SocketAddr::port), Some(45_500), "{:#?}", pair.b.log);
    assert!(pair.agreed() && pair.b.failures.is_empty());
}

#[test]
fn a_path_with_a_nat_can_be_refused() {
    let (mut a, mut b) = both(|c| c.exchange.mobike = Mobike::Yes);
    a.exchange.mobike = Mobike::WithoutNat;
    b.remote = None;
    let mut pair = Pair::with(5, EndpointConfig::default(), a, b);
    pair.connect();
    pair.link.nat = Some(0);
    pair.move_to(At::A, ip("192.0.2.77"));
    pair.run(secs(2));
    let causes: Vec<&Cause> = pair.a.failures.iter().map(|f| &f.cause).collect();
    assert_eq!(causes, [&Cause::Refused(crate::wire::notify::UNEXPECTED_NAT_DETECTED)], "{:#?}", pair.a.log);
    assert!(pair.b.moves.is_empty());
}
