//! What strangers, broken peers and replays may do to IKEv1: nothing.

use super::v1::both_v1;
use super::*;
use crate::testing::Side;
use crate::wire::v1::{Body, Chain, Exchange, Flags, HEADER_LEN, Header, Payload};
use crate::{Command, Counts};

/// How much a side has done and holds.
fn mark(side: &Side) -> (usize, usize, Counts, usize) {
    (side.sent.len(), side.log.len(), side.endpoint.counts(), side.children.len())
}

/// Hands every damaged form of a message to a side, which must not stir; then the message itself.
fn only_as_it_is(pair: &mut Pair, at: At, message: &[u8], what: &str) {
    let before = mark(pair.side(at));
    for byte in HEADER_LEN..message.len() {
        for bit in [0x01, 0x80] {
            let mut bad = message.to_vec();
            bad[byte] ^= bit;
            pair.inject(at, &bad);
            assert_eq!(mark(pair.side(at)), before, "{what}: byte {byte} of {}", message.len());
        }
    }
    for byte in 0..HEADER_LEN {
        let mut bad = message.to_vec();
        bad[byte] ^= 0x01;
        pair.inject(at, &bad);
        let after = mark(pair.side(at));
        assert_eq!((after.0, after.1, after.3), (before.0, before.1, before.3), "{what}: byte {byte}");
    }
    for length in 0..message.len() {
        let mut bad = message[..length].to_vec();
        pair.inject(at, &bad);
        if let Some(field) = bad.get_mut(24..28) {
            field.copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            pair.inject(at, &bad);
        }
        assert_eq!(mark(pair.side(at)), before, "{what}: cut to {length}");
    }
    pair.inject(at, message);
    assert_ne!(mark(pair.side(at)), before, "{what} as it is");
}

/// Public mistake: no integrity check of Informational and Quick Mode.
#[test]
fn every_hash_of_phase_2_counts() {
    let (a, b) = both_v1(|c| c.dpd = None);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair.run(secs(1));
    let child = pair.a.only_child().inbound();
    // Nothing arrives of itself: each message is handed over.
    pair.link.loss = 1.0;
    pair.command(At::A, Command::RekeyChild(child));
    let first = pair.a.sent.last().unwrap().clone();
    only_as_it_is(&mut pair, At::B, &first, "HASH(1)");
    let second = pair.b.sent.last().unwrap().clone();
    only_as_it_is(&mut pair, At::A, &second, "HASH(2)");
    let third = pair.a.sent.last().unwrap().clone();
    only_as_it_is(&mut pair, At::B, &third, "HASH(3)");
    assert_eq!(pair.b.outbound.len(), 2, "{:#?}", pair.b.log);
    pair.command(At::A, Command::CheckLiveness(TUNNEL));
    let ask = pair.a.sent.last().unwrap().clone();
    only_as_it_is(&mut pair, At::B, &ask, "R-U-THERE");
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    let [.., children, ike] = pair.a.sent.as_slice() else { panic!() };
    let (children, ike) = (children.clone(), ike.clone());
    only_as_it_is(&mut pair, At::B, &children, "delete of children");
    only_as_it_is(&mut pair, At::B, &ike, "delete of the SA");
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

/// Every message of a whole life, again and from the other side: nothing of it counts twice.
#[test]
fn replays_and_reflections_do_nothing() {
    let (a, b) = both_v1(|c| c.dpd = None);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let child = pair.a.only_child().inbound();
    pair.command(At::B, Command::CheckLiveness(TUNNEL));
    pair.command(At::A, Command::RekeyChild(child));
    pair.run(secs(20));
    pair.command(At::A, Command::RekeyIke(TUNNEL));
    pair.run(secs(400));
    pair.link.loss = 1.0;
    let before = [At::A, At::B].map(|at| (pair.side(at).log.len(), pair.side(at).children.len()));
    let (from_a, from_b) = (pair.a.sent.clone(), pair.b.sent.clone());
    for message in from_a.iter().chain(&from_b) {
        for at in [At::A, At::B] {
            pair.inject(at, message);
            let now = [At::A, At::B].map(|at| (pair.side(at).log.len(), pair.side(at).children.len()));
            assert_eq!(now, before, "{message:02x?} {:#?}", pair.side(at).log);
        }
    }
    // What a replayed first message left behind is half open, and goes.
    pair.run(secs(100));
    assert_eq!((pair.a.endpoint.counts().half_open, pair.b.endpoint.counts().half_open), (0, 0));
    assert_eq!((pair.a.endpoint.counts().ike_sas, pair.b.endpoint.counts().ike_sas), (1, 1));
}

#[test]
fn a_gateway_without_ikev1_does_not_answer_it() {
    let (a, _) = both_v1(|_| {});
    let (_, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(200));
    assert_eq!((pair.b.endpoint.counts(), pair.b.sent.len()), (Counts::default(), 0));
    assert_eq!(pair.b.endpoint.refused_v1(), 6);
    assert!(pair.a.failures[0].to_string().contains("runs IKEv1"), "{}", pair.a.failures[0]);
    // And one with IKEv1 alone answers IKEv2 with an error, as to any stranger.
    let (_, b) = both_v1(|_| {});
    let (a, _) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(200));
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
    assert!(pair.b.sent.iter().all(|m| m.len() <= pair.a.sent[0].len()));
}

#[test]
fn strangers_cost_little_and_get_no_more_than_they_send() {
    let (a, mut b) = both_v1(|_| {});
    b.remote = None;
    let mut pair = Pair::new(1, a, b);
    pair.link.cut_to = Some(At::A);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(Duration::from_millis(100));
    let first = pair.a.sent[0].clone();
    assert_eq!(pair.b.sent.len(), 1);
    assert!(pair.b.sent[0].len() <= first.len());
    for n in 0..10_000u64 {
        let mut message = first.clone();
        message[..8].copy_from_slice(&(n + 1).to_be_bytes());
        let from = std::net::SocketAddr::from(([192, 0, (n >> 8) as u8, n as u8], 500));
        pair.inject_from(At::B, "192.0.2.2:500".parse().unwrap(), from, &message);
    }
    assert!(pair.b.endpoint.counts().ike_sas <= 1025);
    pair.run(secs(40));
    assert_eq!(pair.b.endpoint.counts().half_open, 0);
}

/// Every message without each of its payloads, and with one of every type more: never a panic, never an SA.
#[test]
fn missing_and_strange_payloads_bring_nothing_up() {
    let (a, b) = both_v1(|_| {});
    let mut pair = Pair::new(1, a.clone(), b.clone());
    pair.connect();
    let plain: Vec<(At, Vec<u8>)> = pair.a.sent[..2]
        .iter()
        .map(|m| (At::B, m.clone()))
        .chain(pair.b.sent[..2].iter().map(|m| (At::A, m.clone())))
        .collect();
    for (to, message) in plain {
        let (header, whole) = Header::parse(&message).unwrap();
        let body = Body::parse(header.next, &whole[HEADER_LEN..], false).unwrap();
        let count = body.payloads().len();
        let build = |chain: &Chain| crate::v1::phase1::plain(&header, chain);
        let mut forms = Vec::new();
        for left_out in 0..count {
            let mut chain = Chain::new();
            body.payloads().iter().enumerate().filter(|(i, _)| *i != left_out).for_each(|(_, p)| {
                chain.push(p);
            });
            forms.push(build(&chain));
        }
        for kind in 0..=255u8 {
            let mut chain = Chain::new();
            body.payloads().iter().for_each(|p| {
                chain.push(p);
            });
            chain.push_raw(kind, &[0, 0, 0, 1, 0, 0, 0, 1]);
            forms.push(build(&chain));
        }
        for form in forms {
            let mut fresh = Pair::new(1, a.clone(), b.clone());
            fresh.command(At::A, Command::Initiate(TUNNEL));
            fresh.run(Duration::from_millis(30));
            fresh.inject(to, &form);
            fresh.run(secs(30));
            // The rest of the exchange goes on undisturbed, or is refused as a whole.
            assert!(fresh.a.children.len() <= 1 && fresh.b.children.len() <= 1);
        }
    }
}

/// Public mistake: state order. Every exchange type, encrypted or not, with every message id, in every state.
#[test]
fn every_exchange_in_every_state() {
    let (a, b) = both_v1(|c| c.dpd = None);
    for steps in 0..10 {
        let mut pair = Pair::new(1, a.clone(), b.clone());
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(Duration::from_millis(20 * steps));
        let Some(seen) = pair.b.sent.last().or(pair.a.sent.last()) else { panic!() };
        let (known, _) = Header::parse(seen).map(|(h, w)| (h, w.len())).unwrap();
        for exchange in 0..=255u8 {
            for (flags, message_id) in [(0, 0), (1, 0), (0, 7), (1, 7), (4, 7), (3, 7)] {
                let flags =
                    Flags { encrypted: flags & 1 != 0, commit: flags & 2 != 0, auth_only: flags & 4 != 0 };
                let mut chain = Chain::new();
                chain.push(&Payload::Hash(&[0; 32])).push(&Payload::Nonce(&[1; 32]));
                let exchange = Exchange::from_wire(exchange);
                let header = Header { next: 0, exchange, flags, message_id, ..known };
                let message = crate::v1::phase1::plain(&header, &chain);
                for at in [At::A, At::B] {
                    let before = pair.side(at).children.len();
                    pair.inject(at, &message);
                    assert_eq!(pair.side(at).children.len(), before);
                }
            }
        }
        pair.run(secs(200));
        assert!(pair.agreed(), "after {steps} steps: {:#?} {:#?}", pair.a.log, pair.b.log);
    }
}

#[test]
fn failures_name_both_sides_and_the_mend() {
    use crate::{Auth, Identity, Psk};
    type Change = fn(&mut crate::PeerConfig);
    let cases: [(Change, &str, &str); 5] = [
        (
            |c| c.ike_proposals = vec!["aes128-sha512-ecp384".parse().unwrap()],
            "IKEv1 main mode failed: the peer accepts none of our proposals",
            "IKEv1 main mode failed: no common proposal; fault: configuration; ours: aes128-sha512",
        ),
        (
            |c| c.esp_proposals = vec!["aes256gcm16".parse().unwrap()],
            "IKEv1 quick mode failed: the peer accepts none of our proposals",
            "IKEv1 quick mode failed: no common proposal; fault: configuration; ours: aes256gcm16; the peer's: aes128-sha256-ecp256",
        ),
        (
            |c| c.auth = Auth::psk(Psk::new("another").unwrap()),
            "rejected our pre-shared key or identity: AUTHENTICATION-FAILED",
            "does not decrypt: its pre-shared key is not ours",
        ),
        (
            |c| c.remote_id = Some(Identity::parse("c.example").unwrap()),
            "rejected our pre-shared key or identity",
            "the peer is a.example, not c.example",
        ),
        (
            |c| {
                c.local_ts = vec![culvert_types::TrafficSelector::from_net("10.7.0.0/16".parse().unwrap())];
            },
            "does not accept this pair of networks (INVALID-ID-INFORMATION)",
            "no common traffic selectors; fault: configuration; ours: 10.7.0.0/16 === 10.1.0.0/16; the peer's: 10.2.0.0/16 === 10.1.0.0/16",
        ),
    ];
    for (change, at_a, at_b) in cases {
        let (a, mut b) = both_v1(|_| {});
        change(&mut b);
        let mut pair = Pair::new(1, a, b);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(60));
        let first = |side: &Side| side.failures.first().map(ToString::to_string).unwrap_or_default();
        assert!(first(&pair.a).contains(at_a), "{}\n{}", first(&pair.a), at_a);
        assert!(first(&pair.b).contains(at_b), "{}\n{}", first(&pair.b), at_b);
        assert!(first(&pair.a).contains("to mend: ") && first(&pair.a).contains("RFC 240"));
    }
}

#[test]
fn fragments_go_both_ways_and_are_bounded() {
    use crate::exchange::Fragmentation;
    // Many transforms make a message large.
    let (a, b) = both_v1(|c| {
        c.exchange.fragmentation = Fragmentation::Force;
        let many = "aes128-aes256-sha1-sha256-sha384-sha512-esn-noesn".parse().unwrap();
        c.esp_proposals = vec![many; 5];
    });
    let mut pair = Pair::new(1, a, b);
    pair.link.jitter = Duration::from_millis(100);
    pair.link.duplicate = 0.5;
    pair.connect();
    let pieces = pair.a.sent.iter().filter(|m| m[16] == 132).count();
    assert!(pieces >= 2, "{pieces}");
    assert!(pair.a.sent.iter().all(|m| m.len() <= 1280));
}
