//! Public mistakes of this field, those of IKEv1, each named after its class. Others have their tests where their
//! subject is: hashes, missing payloads, state order and replays in `v1_abuse`, signatures and mixed methods in
//! `v1_signatures`, users in `v1_users`, networks in `v1::child`, fragments' bounds in `v1::fragment`.

use super::v1::both_v1;
use super::*;
use crate::wire::v1::{
    Attribute, Body, Chain, Fragment, HEADER_LEN, Header, Payload, Proposal, Sa, Transform,
};
use crate::{Counts, Identity, PeerConfig, V1Mode, V1Options};

/// The first `count` messages of an ordinary main mode that A opens.
fn opening(change: impl Fn(&mut PeerConfig)) -> (Pair, Vec<Vec<u8>>) {
    let (a, b) = both_v1(change);
    let mut pair = Pair::new(1, a.clone(), b.clone());
    pair.connect();
    let sent = pair.a.sent.clone();
    let mut fresh = Pair::new(1, a, b);
    fresh.link.cut_to = Some(At::B);
    (fresh, sent)
}

/// A message with a payload exchanged for another body.
fn with_body(message: &[u8], kind: u8, body: &[u8]) -> Vec<u8> {
    let (header, whole) = Header::parse(message).unwrap();
    let parsed = Body::parse(header.next, &whole[HEADER_LEN..], false).unwrap();
    let mut chain = Chain::new();
    for payload in parsed.payloads() {
        if payload.kind() == kind {
            chain.push_raw(kind, body);
        } else {
            chain.push(payload);
        }
    }
    crate::v1::phase1::plain(&header, &chain)
}

fn lasting(pair: &Pair) -> Counts {
    pair.b.endpoint.counts()
}

/// Public mistake: lengths. Datagrams of 0 to 64 bytes, every length field off by one, zero, and at its maximum.
#[test]
fn lengths() {
    let (mut pair, sent) = opening(|_| {});
    for length in 0..64 {
        for byte in [0, 0x10, 0xff] {
            let mut datagram = vec![byte; length];
            if let Some(version) = datagram.get_mut(17) {
                *version = 0x10;
            }
            pair.inject(At::B, &datagram);
        }
    }
    let first = &sent[0];
    // Every pair of bytes that could be a length: header, payloads, proposal, transform, attributes.
    for at in HEADER_LEN - 4..first.len() - 1 {
        let value = u16::from_be_bytes([first[at], first[at + 1]]);
        for other in [0, 1, 3, value.wrapping_sub(1), value.wrapping_add(1), u16::MAX] {
            let mut bad = first.clone();
            bad[at..at + 2].copy_from_slice(&other.to_be_bytes());
            pair.inject(At::B, &bad);
        }
    }
    assert!(pair.b.children.is_empty() && pair.b.ike.is_none());
    pair.run(secs(60));
    assert_eq!(lasting(&pair), Counts::default());
}

/// Public mistake: proposals. Empty ones, 255 of them, keys of no length, no group, numbers of nothing.
#[test]
fn proposals() {
    let (mut pair, sent) = opening(|_| {});
    let attribute = Attribute::short;
    let offer = |transforms: Vec<Transform<'static>>| Sa {
        proposals: vec![Proposal { number: 1, protocol: 1, spi: Vec::new(), transforms }],
    };
    // AES-256, SHA-256, pre-shared key, curve25519, each in its turn left out, zero, and a number of nothing.
    let good = [(1, 7), (2, 4), (3, 1), (4, 31), (14, 256)];
    let mut offers = vec![offer(Vec::new()), Sa { proposals: Vec::new() }];
    let many = Proposal { number: 1, protocol: 1, spi: Vec::new(), transforms: Vec::new() };
    offers.push(Sa { proposals: vec![many; 255] });
    for changed in 0..good.len() {
        for value in [None, Some(0), Some(1000), Some(u16::MAX)] {
            let all = good.iter().enumerate().filter_map(|(n, (kind, own))| match (n == changed, value) {
                (true, None) => None,
                (true, Some(other)) => Some(attribute(*kind, other)),
                (false, _) => Some(attribute(*kind, *own)),
            });
            offers.push(offer(vec![Transform { number: 1, id: 1, attributes: all.collect() }]));
        }
    }
    for offer in &offers {
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(offer.clone()));
        let first = with_body(&sent[0], 1, &chain.bytes()[4..]);
        pair.inject(At::B, &first);
        assert_eq!(lasting(&pair).half_open, 0, "{offer:?}");
        assert!(pair.b.sent.iter().all(|m| m.len() <= first.len()));
        pair.run(secs(2));
    }
    // As they should be they are taken.
    let all = good.iter().map(|(kind, value)| attribute(*kind, *value)).collect();
    let mut chain = Chain::new();
    chain.push(&Payload::Sa(offer(vec![Transform { number: 1, id: 1, attributes: all }])));
    pair.inject(At::B, &with_body(&sent[0], 1, &chain.bytes()[4..]));
    assert_eq!(lasting(&pair).half_open, 1);
}

/// Public mistake: internal value on the wire. An offer with each group there is a number for.
#[test]
fn internal_value_on_the_wire() {
    let (mut pair, sent) = opening(|_| {});
    for group in 0..=1024u16 {
        let attributes = [(1, 7), (2, 4), (3, 1), (4, group), (14, 256)].map(|(k, v)| Attribute::short(k, v));
        let transforms = vec![Transform { number: 1, id: 1, attributes: attributes.to_vec() }];
        let proposals = vec![Proposal { number: 1, protocol: 1, spi: Vec::new(), transforms }];
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(Sa { proposals }));
        let mut first = with_body(&sent[0], 1, &chain.bytes()[4..]);
        first[..8].copy_from_slice(&(1 + u64::from(group)).to_be_bytes());
        pair.inject(At::B, &first);
    }
    // Those that are configured, and no other.
    assert_eq!(lasting(&pair).half_open, 2, "ecp256 and curve25519");
}

/// Public mistake: DH values. 0, 1, p - 1, p, too short, too long; a point off the curve; zero for curve25519.
#[test]
fn dh_values() {
    let groups: [(&str, usize, Vec<Vec<u8>>); 3] = [
        (
            "aes256-sha256-modp2048",
            256,
            vec![{
                let mut one = vec![0; 256];
                one[255] = 1;
                one
            }],
        ),
        ("aes256-sha256-ecp256", 64, vec![vec![1; 64]]),
        ("aes256-sha256-curve25519", 32, Vec::new()),
    ];
    for (proposal, length, more) in groups {
        let (mut pair, sent) = opening(|c| c.ike_proposals = vec![proposal.parse().unwrap()]);
        let mut values = vec![vec![0; length], vec![0xff; length], Vec::new()];
        values.extend([vec![1; length - 1], vec![1; length + 1]]);
        values.extend(more);
        pair.inject(At::B, &sent[0]);
        // Its own cookie goes where ours is to stand.
        let cookie = pair.b.sent[0][8..16].to_vec();
        let answers = pair.b.sent.len();
        for value in values {
            if length == 32 && value == vec![0xff; 32] {
                // RFC 7748 5: taken, reduced.
                continue;
            }
            let mut third = with_body(&sent[1], 4, &value);
            third[8..16].copy_from_slice(&cookie);
            pair.inject(At::B, &third);
            assert_eq!(pair.b.sent.len(), answers, "{proposal} {value:02x?}");
        }
        let mut third = sent[1].clone();
        third[8..16].copy_from_slice(&cookie);
        pair.inject(At::B, &third);
        assert_eq!(pair.b.sent.len(), answers + 1, "{proposal} as it should be");
    }
}

/// Public mistake: fragments. Every number, as the last or not, of several sizes, of a fragment within a fragment.
#[test]
fn fragments() {
    let (mut pair, sent) = opening(|_| {});
    pair.inject(At::B, &sent[0]);
    let mut third = sent[1].clone();
    third[8..16].copy_from_slice(&pair.b.sent[0].clone()[8..16]);
    let (header, _) = Header::parse(&third).unwrap();
    for number in 0..=255 {
        for last in [false, true] {
            for size in [0, 1, 27, 28, 1300] {
                let piece = vec![number; size];
                let one = Fragment { id: u16::from(number), number, last, piece: &piece };
                pair.inject(At::B, &one.message(&header));
            }
        }
    }
    let inner = Fragment { id: 1, number: 1, last: true, piece: &third }.message(&header);
    let outer = Fragment { id: 2, number: 1, last: true, piece: &inner }.message(&header);
    let answers = pair.b.sent.len();
    pair.inject(At::B, &outer);
    assert_eq!(pair.b.sent.len(), answers, "a fragment within a fragment");
    pair.inject(At::B, &inner);
    assert_eq!(pair.b.sent.len(), answers + 1, "the message itself in one piece");
}

/// Public mistake: dead state. Delete twice, everything again after it, the cookies of what is gone.
#[test]
fn dead_state() {
    let (a, b) = both_v1(|c| c.dpd = None);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    pair.run(secs(1));
    assert_eq!(lasting(&pair), Counts::default());
    let (log, all) = (pair.b.log.len(), pair.a.sent.clone());
    for message in all.iter().rev().take(2).chain(&all[1..]) {
        pair.inject(At::B, message);
    }
    assert_eq!((lasting(&pair), pair.b.log.len()), (Counts::default(), log));
}

/// Public mistake: identity. Over-long, with control characters, with words for a shell and for printf. In aggressive mode it
/// comes in the clear, from anybody.
#[test]
fn identity() {
    let aggressive = |c: &mut PeerConfig| {
        c.v1 = Some(V1Options { mode: V1Mode::Aggressive, ..V1Options::default() });
    };
    let (mut pair, sent) = opening(aggressive);
    let long = vec![b'a'; 4000];
    let names: [&[u8]; 6] =
        [b"", &long, b"a\x1b[2J\r\nb", b"$(reboot);`id`|&", b"%s%n%x", b"\xff\xfe\x00\xe2\x80\xae"];
    for (kind, name) in [1u8, 2, 3, 5, 9, 11, 200].into_iter().flat_map(|k| names.map(|n| (k, n))) {
        let body = [&[kind, 0, 0, 0], name].concat();
        pair.inject(At::B, &with_body(&sent[0], 5, &body));
        pair.run(secs(2));
    }
    assert_eq!(lasting(&pair).half_open, 0);
    assert!(!pair.b.failures.is_empty());
    for failure in &pair.b.failures {
        let text = failure.to_string();
        assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
        assert!(text.len() < 2000, "{}", text.len());
    }
    // Nor do our own go beyond what fits.
    assert!(Identity::parse(&"a".repeat(300)).is_err());
}

/// Public mistake: amplification. Who has proven no address gets no more bytes than came, in either mode.
#[test]
fn amplification() {
    for mode in [V1Mode::Main, V1Mode::Aggressive] {
        let (mut pair, sent) = opening(|c| c.v1 = Some(V1Options { mode, ..V1Options::default() }));
        for n in 0..20u64 {
            let mut first = sent[0].clone();
            first[..8].copy_from_slice(&(n + 1).to_be_bytes());
            let before = pair.b.sent.len();
            pair.inject(At::B, &first);
            pair.inject(At::B, &first);
            let out: usize = pair.b.sent[before..].iter().map(Vec::len).sum();
            assert!(out <= 2 * first.len(), "{mode:?}: {out} bytes for {}", 2 * first.len());
        }
    }
}
