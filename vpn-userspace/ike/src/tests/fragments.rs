//! Messages larger than the path (RFC 7383): cut, lost in part, repeated, forged.

use super::*;
use crate::wire::{Chain, Exchange, HEADER_LEN, Payload, kind};
use crate::{Cause, Fragmentation, Phase};
use culvert_types::TrafficSelector;

/// Both sides with so many networks that whatever lists them takes several fragments.
fn many() -> (PeerConfig, PeerConfig) {
    let nets = |second: u8| -> Vec<TrafficSelector> {
        (0..120u8)
            .map(|n| TrafficSelector::from_net(format!("10.{second}.{n}.0/25").parse().unwrap()))
            .collect()
    };
    let (mut a, mut b) = both(|c| c.dpd = None);
    (a.local_ts, a.remote_ts) = (nets(1), nets(2));
    (b.local_ts, b.remote_ts) = (nets(2), nets(1));
    (a, b)
}

fn narrow_pair(seed: u64) -> Pair {
    let (a, b) = many();
    let mut pair = Pair::new(seed, a, b);
    pair.link.mtu = Some(576);
    pair
}

fn is_fragment(message: &[u8]) -> bool {
    message[16] == kind::SKF
}

fn fragments(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    messages.iter().filter(|m| is_fragment(m)).cloned().collect()
}

#[test]
fn every_exchange_passes_a_narrow_path_in_fragments() {
    let mut pair = narrow_pair(1);
    pair.connect();
    let (a, b) = (fragments(&pair.a.sent).len(), fragments(&pair.b.sent).len());
    assert!(a > 4 && b > 4, "{a} {b}");
    for at in [At::A, At::B] {
        let (old, before) = (pair.side(at).only_child().inbound(), fragments(&pair.side(at).sent).len());
        pair.command(at, Command::RekeyChild(old));
        pair.run(secs(2));
        assert!(pair.agreed() && pair.side(at).only_child().inbound() != old);
        assert!(fragments(&pair.side(at).sent).len() > before + 4);
    }
    // What was agreed on outlives the IKE SA.
    pair.command(At::B, Command::RekeyIke(TUNNEL));
    pair.run(secs(2));
    let before = fragments(&pair.a.sent).len();
    pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
    pair.run(secs(2));
    assert!(pair.agreed() && fragments(&pair.a.sent).len() > before + 4);
    assert_eq!(pair.a.only_child().local_ts().len(), 120);
    // Small messages stay whole.
    pair.command(At::A, Command::CheckLiveness(TUNNEL));
    assert!(!is_fragment(pair.a.sent.last().unwrap()));
}

#[test]
fn without_fragments_on_either_side_it_does_not_pass() {
    for at in [At::A, At::B] {
        let (mut a, mut b) = many();
        let c = if at == At::A { &mut a } else { &mut b };
        c.exchange.fragmentation = Fragmentation::No;
        let mut pair = Pair::new(1, a, b);
        pair.link.mtu = Some(576);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(200));
        let failure = pair.a.failures.pop().unwrap();
        assert!(matches!(failure.cause, Cause::GoneAfterInit(_)), "{failure}");
        assert_eq!(failure.phase, Phase::IkeAuth);
        assert!(fragments(&pair.a.sent).is_empty() && fragments(&pair.b.sent).is_empty());
        pair.link.mtu = None;
        pair.connect();
    }
}

#[test]
fn a_size_of_ones_own_is_kept_to() {
    for (size, v6) in [(576, false), (1000, false), (1400, false), (1280, true)] {
        let (mut a, mut b) = many();
        for c in [&mut a, &mut b] {
            c.exchange.fragment_size = (size != 1280).then_some(size);
        }
        if v6 {
            for (c, ours, theirs) in
                [(&mut a, "2001:db8::1", "2001:db8::2"), (&mut b, "2001:db8::2", "2001:db8::1")]
            {
                c.local = format!("[{ours}]:500").parse().unwrap();
                c.local_natt = format!("[{ours}]:4500").parse().unwrap();
                c.remote = Some(format!("[{theirs}]:500").parse().unwrap());
            }
        }
        let mut pair = Pair::new(1, a, b);
        pair.link.mtu = Some(size.into());
        pair.connect();
        let largest = pair.a.sent.iter().map(Vec::len).max().unwrap();
        let overhead = if v6 { 52 } else { 32 };
        assert!(
            largest <= usize::from(size) - overhead && largest > usize::from(size) - overhead - 40,
            "{largest}"
        );
    }
}

#[test]
fn lost_doubled_and_reordered_fragments() {
    for seed in 1..30 {
        let mut pair = narrow_pair(seed);
        pair.link.loss = 0.05;
        pair.link.duplicate = 0.2;
        pair.link.jitter = Duration::from_millis(60);
        pair.connect();
        pair.command(At::B, Command::RekeyChild(pair.b.only_child().inbound()));
        pair.run(secs(170));
        assert!(pair.agreed(), "{seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        assert_eq!(pair.a.only_child().remote_ts().len(), 120);
    }
}

#[test]
fn a_repeated_request_is_answered_once_for_all_its_fragments() {
    let mut pair = narrow_pair(1);
    pair.connect();
    pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
    let sent = fragments(&pair.a.sent);
    let all = usize::from(u16::from_be_bytes([
        sent.last().unwrap()[HEADER_LEN + 6],
        sent.last().unwrap()[HEADER_LEN + 7],
    ]));
    let request: Vec<_> = sent[sent.len() - all..].to_vec();
    pair.run(Duration::from_millis(30));
    let answered = pair.b.sent.len();
    let answer = fragments(&pair.b.sent).len();
    for datagram in request.iter().rev() {
        pair.inject(At::B, datagram);
    }
    let again = pair.b.sent.len() - answered;
    assert!(
        again > 1 && pair.b.sent[answered..] == pair.b.sent[answered - again..answered],
        "the same bytes"
    );
    assert_eq!(fragments(&pair.b.sent).len(), answer + again);
    // A fragment that is damaged gets nothing.
    let mut bad = request[0].clone();
    *bad.last_mut().unwrap() ^= 1;
    pair.inject(At::B, &bad);
    assert_eq!(pair.b.sent.len(), answered + again);
}

/// Public mistake: fragments.
#[test]
fn fragments_of_strangers_and_damaged_ones_disturb_nothing() {
    let mut pair = narrow_pair(1);
    pair.connect();
    let key = pair.a.only_child().inbound_keys().clone();
    pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
    let request = fragments(&pair.a.sent).pop().unwrap();
    pair.link.cut_to = Some(At::B);
    // Every number and total, sizes from nothing to all of it, and each byte changed.
    for number in (0..70u16).chain([255, 256, u16::MAX]) {
        for total in (0..70u16).chain([255, 256, u16::MAX]) {
            let mut bad = request.clone();
            bad[HEADER_LEN + 4..HEADER_LEN + 6].copy_from_slice(&number.to_be_bytes());
            bad[HEADER_LEN + 6..HEADER_LEN + 8].copy_from_slice(&total.to_be_bytes());
            if bad != request {
                pair.inject(At::B, &bad);
            }
        }
    }
    for at in 0..request.len() {
        let mut bad = request[..at].to_vec();
        if let Some(length) = bad.get_mut(24..28) {
            length.copy_from_slice(&u32::try_from(at).unwrap().to_be_bytes());
        }
        pair.inject(At::B, &bad);
        let mut bad = request.clone();
        bad[at] ^= 0x40;
        pair.inject(At::B, &bad);
    }
    assert_eq!(*pair.a.only_child().inbound_keys(), key);
    pair.link = crate::testing::Link::default();
    pair.run(secs(60));
    assert!(pair.agreed() && *pair.a.only_child().inbound_keys() != key);
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
}

/// The public mistake: SKF with many unknown payloads in it.
/// Public mistake: fragments. SKF with many unknown payloads.
#[test]
fn unknown_payloads_in_fragments_are_judged_as_in_whole_messages() {
    for (count, data, stays) in
        [(60, 40, true), (100, 30, true), (101, 30, false), (1000, 8, false), (50, 700, false)]
    {
        let mut pair = narrow_pair(1);
        pair.connect();
        let bytes = vec![0xee; data];
        let mut chain = Chain::new();
        for n in 0..count {
            chain.push(&Payload::Other { kind: 200 + u8::try_from(n % 50).unwrap(), data: &bytes });
        }
        let forged = pair.a.endpoint.forge(TUNNEL, Exchange::Informational, &chain);
        let sent = pair.b.sent.len();
        for datagram in forged.datagrams().cloned().collect::<Vec<_>>() {
            assert!(is_fragment(&datagram));
            pair.inject(At::B, &datagram);
        }
        // More bytes than a message may have in fragments get no answer at all.
        assert_eq!(pair.b.sent.len(), sent + usize::from(count * data < 32 * 1024), "{count}");
        assert_eq!(pair.b.downs.is_empty(), stays || count * data >= 32 * 1024, "{count} of {data}");
    }
}
