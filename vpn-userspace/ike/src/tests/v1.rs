//! IKEv1 between two endpoints on virtual time: both modes, both roles, loss, rekeys, collisions, forgeries.

use super::*;
use crate::testing::Side;
use crate::{Command, Counts, DownReason, PeerConfig, V1Options};

fn v1(mut config: PeerConfig) -> PeerConfig {
    config.v1 = Some(V1Options::default());
    config.ike_proposals = vec!["aes256-aes128-sha256-sha1-curve25519-ecp256".parse().unwrap()];
    config.esp_proposals = vec!["aes128-sha256-ecp256".parse().unwrap()];
    config
}

pub(super) fn both_v1(change: impl Fn(&mut PeerConfig)) -> (PeerConfig, PeerConfig) {
    let (mut a, mut b) = both(|_| {});
    (a, b) = (v1(a), v1(b));
    change(&mut a);
    change(&mut b);
    (a, b)
}

pub(super) fn one() -> Counts {
    Counts { ike_sas: 1, half_open: 0, spis: 1 }
}

fn net(text: &str) -> culvert_types::TrafficSelector {
    culvert_types::TrafficSelector::from_net(text.parse().unwrap())
}

#[test]
fn main_and_quick_mode_with_every_suite() {
    let ike =
        ["aes128-sha1-ecp256", "aes256-sha256-curve25519", "aes256-sha384-ecp384", "aes128-sha512-ecp256"];
    let esp =
        ["aes128gcm16", "aes256gcm16-ecp256", "aes128-sha1", "aes256-sha256-curve25519", "aes256-sha512-esn"];
    for (i, e) in ike.iter().flat_map(|i| esp.iter().map(move |e| (*i, *e))) {
        let (a, b) = both_v1(|c| {
            c.ike_proposals = vec![i.parse().unwrap()];
            c.esp_proposals = vec![e.parse().unwrap()];
        });
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        pair.run(secs(5));
        assert!(pair.agreed(), "{i} {e}: {:#?} {:#?}", pair.a.log, pair.b.log);
        assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
        assert_eq!((pair.a.sent.len(), pair.b.sent.len()), (5, 4), "{i} {e}");
        let info = pair.a.ike.as_ref().unwrap();
        assert_eq!((info.version, info.initiator), (1, true));
        assert_eq!(pair.a.only_child().esn(), e.ends_with("esn"));
        assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one(), one()));
        pair.command(At::A, Command::Terminate(TUNNEL, true));
        pair.run(secs(1));
        assert_eq!(
            (pair.a.endpoint.counts(), pair.b.endpoint.counts()),
            (Counts::default(), Counts::default())
        );
    }
}

#[test]
fn a_nat_between_moves_both_to_port_4500() {
    let (mut a, mut b) = both_v1(|_| {});
    b.remote = None;
    a.dpd = None;
    b.dpd = None;
    let mut pair = Pair::new(1, a, b);
    pair.link.nat = Some(100);
    pair.connect();
    assert!(pair.a.only_child().encap().is_some() && pair.b.only_child().encap().is_some());
    let (a, b) = (pair.a.ike.clone().unwrap(), pair.b.ike.clone().unwrap());
    assert_eq!((a.nat_local, a.nat_remote, b.nat_local, b.nat_remote), (true, false, false, true));
    assert_eq!((a.local.port(), a.remote.port(), b.remote.port()), (4500, 4500, 44600));
    pair.run(secs(100));
    assert!(pair.a.keepalives >= 4 && pair.b.keepalives == 0);
    // The mapping changes: the next authentic message moves the peer.
    pair.link.nat = Some(101);
    let inbound = pair.a.only_child().inbound();
    pair.command(At::A, Command::RekeyChild(inbound));
    pair.run(secs(20));
    assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert_eq!(pair.b.moves.last().map(|m| m.port()), Some(44601));
}

#[test]
fn encapsulation_can_be_forced_by_one_side() {
    for which in [At::A, At::B] {
        let (mut a, mut b) = both_v1(|_| {});
        (a.force_encap, b.force_encap) = (which == At::A, which == At::B);
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        assert!(pair.a.only_child().encap().is_some() && pair.b.only_child().encap().is_some());
    }
}

#[test]
fn one_child_for_each_pair_of_networks() {
    let (mut a, mut b) = both_v1(|_| {});
    a.local_ts = vec![net("10.1.0.0/24"), net("10.1.1.0/24")];
    a.remote_ts = vec![net("10.2.0.0/24"), net("10.2.1.0/24")];
    (b.local_ts, b.remote_ts) = (a.remote_ts.clone(), a.local_ts.clone());
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(5));
    let pairs = |side: &Side| {
        let mut all: Vec<String> =
            side.children.values().map(|c| format!("{} {}", c.local_ts()[0], c.remote_ts()[0])).collect();
        all.sort();
        all.dedup();
        all.len()
    };
    assert_eq!((pairs(&pair.a), pairs(&pair.b)), (4, 4), "{:#?}", pair.a.log);
    assert_eq!((pair.a.outbound.len(), pair.b.outbound.len()), (4, 4));
    // One that was deleted comes back on request, alone.
    let gone = *pair.a.children.keys().next().unwrap();
    pair.command(At::A, Command::RekeyIke(TUNNEL));
    pair.run(secs(30));
    assert_eq!((pairs(&pair.a), pairs(&pair.b)), (4, 4));
    assert!(pair.a.children.contains_key(&gone), "children outlive their phase 1");
    assert_eq!((pair.a.endpoint.counts().ike_sas, pair.b.endpoint.counts().ike_sas), (1, 1));
}

#[test]
fn networks_come_and_go_pair_by_pair() {
    for order in [[At::A, At::B], [At::B, At::A]] {
        let (one_a, one_b) = both_v1(|_| {});
        let (mut a, mut b) = (one_a.clone(), one_b.clone());
        a.remote_ts.push(net("10.9.0.0/24"));
        b.local_ts.push(net("10.9.0.0/24"));
        let mut pair = Pair::new(1, one_a.clone(), one_b.clone());
        pair.connect();
        let kept = pair.a.only_child().inbound();
        for (a, b, wanted) in [(&a, &b, 2), (&one_a, &one_b, 1)] {
            for at in order {
                let config = if at == At::A { a } else { b };
                pair.command(at, Command::AddPeer(TUNNEL, Box::new(config.clone())));
                pair.command(at, Command::Reselect(TUNNEL));
                pair.run(secs(5));
            }
            // Who has it last asks for it.
            assert_eq!(
                (pair.a.children.len(), pair.b.children.len()),
                (wanted, wanted),
                "{order:?}: {:#?} {:#?}",
                pair.a.log,
                pair.b.log
            );
            assert!(pair.a.children.contains_key(&kept), "{order:?}: one that stays is left alone");
        }
    }
}

#[test]
fn the_responders_key_is_found_behind_a_nat_among_many() {
    use crate::{Auth, Identity, Psk};
    use culvert_types::TunnelId;
    let (a, b) = both_v1(|_| {});
    let key = |k: &str| Auth::psk(Psk::new(k).unwrap());
    let anybody = |auth, id: Option<&str>| PeerConfig {
        remote: None,
        auth,
        remote_id: id.map(|id| Identity::parse(id).unwrap()),
        ..b.clone()
    };
    let mut pair = Pair::new(1, a, anybody(key("first"), Some("c.example")));
    pair.command(At::B, Command::AddPeer(TunnelId(2), Box::new(anybody(key("second"), None))));
    pair.command(At::B, Command::AddPeer(TunnelId(3), Box::new(anybody(b.auth.clone(), Some("d.example")))));
    pair.command(At::B, Command::AddPeer(TunnelId(4), Box::new(anybody(b.auth.clone(), Some("a.example")))));
    pair.link.nat = Some(7);
    pair.connect();
    assert_eq!(pair.b.only_child().tunnel(), TunnelId(4));
}

#[test]
fn loss_duplication_and_reordering() {
    for seed in 0..40 {
        let (a, b) = both_v1(|c| c.dpd = None);
        let mut pair = Pair::new(seed, a, b);
        pair.link.loss = 0.15;
        pair.link.duplicate = 0.3;
        pair.link.jitter = Duration::from_millis(80);
        // A responder forgets what is half open after 30 s: then the next try begins anew.
        let up = (0..5).any(|_| {
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run_until(secs(170), Pair::agreed)
        });
        assert!(up, "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        pair.link.loss = 0.0;
        pair.run(secs(100));
        assert!(pair.agreed(), "seed {seed}");
        assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one(), one()), "seed {seed}");
    }
}

pub(super) fn rekey_child(pair: &mut Pair, at: At) {
    let inbound = *pair.side(at).children.keys().next().unwrap();
    let time = pair.time;
    let _ = pair.side(at).endpoint.handle_command(time, Command::RekeyChild(inbound));
    pair.drain(at);
}

#[test]
fn both_phases_are_rekeyed_by_either_side_without_a_hole() {
    for at in [At::A, At::B] {
        let (a, b) = both_v1(|_| {});
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        for round in 0..3 {
            let old = pair.side(at).only_child().inbound();
            rekey_child(&mut pair, at);
            let end = pair.time + secs(20);
            while pair.step(end) {
                assert!(!pair.a.outbound.is_empty() && !pair.b.outbound.is_empty());
            }
            assert!(pair.agreed(), "{round}: {:#?} {:#?}", pair.a.log, pair.b.log);
            assert!(!pair.a.children.contains_key(&old) && !pair.b.children.contains_key(&old));
            let before = pair.a.ike.clone().unwrap();
            pair.command(at, Command::RekeyIke(TUNNEL));
            pair.run(secs(30));
            assert!(pair.agreed());
            assert_ne!(pair.a.ike.as_ref().unwrap().spi_initiator, before.spi_initiator);
            assert!(pair.a.downs.is_empty() && pair.b.downs.is_empty());
            assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one(), one()), "{round}");
        }
    }
}

#[test]
fn a_day_of_rekeying_on_time_without_a_gap() {
    let (a, b) = both_v1(|c| (c.child_lifetime, c.ike_lifetime) = (secs(300), secs(1000)));
    let mut pair = Pair::new(3, a, b);
    pair.connect();
    let end = pair.time + secs(24 * 3600);
    while pair.step(end) {
        for side in [&pair.a, &pair.b] {
            assert!(
                side.ike.is_some() && !side.outbound.is_empty(),
                "never without an outbound SA: {:#?}",
                side.log
            );
            assert!(side.children.len() <= 4);
        }
    }
    pair.run(secs(30));
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty(), "{:#?}", pair.a.failures);
    assert!(pair.a.gone.len() >= 24 * 3600 / 300);
    let rekeyed = pair.a.log.iter().filter(|l| l.starts_with("IkeRekeyed")).count();
    assert!(rekeyed >= 24 * 3600 / 1000);
}

#[test]
fn the_shorter_lifetime_counts() {
    let (mut a, mut b) = both_v1(|_| {});
    (a.child_lifetime, b.child_lifetime) = (secs(7200), secs(600));
    let mut pair = Pair::new(3, a, b);
    pair.connect();
    // RESPONDER-LIFETIME told the initiator.
    assert!(pair.a.only_child().hard_lifetime() <= secs(660), "{:?}", pair.a.only_child().hard_lifetime());
    assert!(pair.b.only_child().hard_lifetime() <= secs(660));
}

/// Both sides begin something at the same time, at every offset of a round trip and with every delivery.
fn meet(first: impl Fn(&mut Pair, At), second: impl Fn(&mut Pair, At)) {
    for offset in (0..=90).step_by(10) {
        for seed in 0..12u64 {
            let (a, b) = both_v1(|_| {});
            let mut pair = Pair::new(seed, a, b);
            pair.connect();
            pair.run(secs(1));
            pair.link.jitter = Duration::from_millis([0, 5, 50, 200][seed as usize % 4]);
            let (one_, two) = if seed % 2 == 0 { (At::A, At::B) } else { (At::B, At::A) };
            first(&mut pair, one_);
            pair.run(Duration::from_millis(offset));
            second(&mut pair, two);
            let end = pair.time + secs(300);
            while pair.step(end) {
                assert!(
                    !pair.a.outbound.is_empty() && !pair.b.outbound.is_empty(),
                    "offset {offset} seed {seed}: {:#?} {:#?}",
                    pair.a.log,
                    pair.b.log
                );
            }
            assert!(pair.agreed(), "offset {offset} seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
            assert!(pair.a.downs.is_empty() && pair.b.downs.is_empty());
            assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
            assert_eq!(
                (pair.a.endpoint.counts(), pair.b.endpoint.counts()),
                (one(), one()),
                "offset {offset} seed {seed}: {:#?} {:#?}",
                pair.a.log,
                pair.b.log
            );
        }
    }
}

pub(super) fn rekey_ike(pair: &mut Pair, at: At) {
    pair.command(at, Command::RekeyIke(TUNNEL));
}

#[test]
fn two_quick_modes_meet() {
    meet(rekey_child, rekey_child);
}

#[test]
fn two_main_modes_meet() {
    meet(rekey_ike, rekey_ike);
}

#[test]
fn main_and_quick_modes_meet() {
    meet(rekey_ike, rekey_child);
    meet(rekey_child, rekey_ike);
}

#[test]
fn both_sides_open_at_the_same_time() {
    for seed in 0..40 {
        let (a, b) = both_v1(|_| {});
        let mut pair = Pair::new(seed, a, b);
        pair.link.jitter = Duration::from_millis(60 * (seed % 4));
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(Duration::from_millis(seed * 3));
        pair.command(At::B, Command::Initiate(TUNNEL));
        pair.run(secs(300));
        assert!(pair.agreed(), "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one(), one()), "seed {seed}");
    }
}

#[test]
fn a_dead_peer_is_noticed_and_a_live_one_answers() {
    let (a, b) = both_v1(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair.run(secs(300));
    assert!(pair.agreed() && pair.a.failures.is_empty());
    pair.link.loss = 1.0;
    let cut = pair.time;
    assert!(pair.run_until(secs(60), |p| p.a.ike.is_none()));
    assert!(pair.time - cut <= secs(41), "interval and timeout: {:?}", pair.time - cut);
    assert_eq!(pair.a.downs, [DownReason::LivenessTimeout]);
    assert_eq!(pair.a.failures.len(), 1);
}

#[test]
fn a_restarted_peer_takes_the_place_of_its_old_self() {
    let (a, b) = both_v1(|_| {});
    let mut pair = Pair::new(1, a.clone(), b);
    pair.connect();
    let old = pair.b.only_child().inbound();
    pair.a = Pair::new(99, a, config(At::B)).a;
    pair.connect();
    assert_eq!(pair.b.gone, [(old, DownReason::Replaced)]);
    assert!(pair.b.downs.is_empty(), "the tunnel was never without an IKE SA");
    pair.run(secs(60));
    assert_eq!(pair.b.endpoint.counts(), one());
}

#[test]
fn aggressive_mode_only_where_it_is_asked_for() {
    use crate::V1Mode;
    let aggressive =
        |c: &mut PeerConfig| c.v1 = Some(V1Options { mode: V1Mode::Aggressive, ..V1Options::default() });
    for nat in [None, Some(5)] {
        let (a, mut b) = both_v1(aggressive);
        b.remote = None;
        let mut pair = Pair::new(1, a.clone(), b);
        pair.link.nat = nat;
        pair.connect();
        pair.run(secs(300));
        assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
        assert_eq!(pair.a.only_child().encap().is_some(), nat.is_some());
        rekey_ike(&mut pair, At::A);
        rekey_child(&mut pair, At::B);
        pair.run(secs(100));
        assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
        assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one(), one()));
    }
    let (mut a, b) = both_v1(|_| {});
    aggressive(&mut a);
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(200));
    assert!(pair.b.sent.is_empty() && pair.b.failures[0].to_string().contains("opens aggressive mode"));
    let (a, mut b) = both_v1(aggressive);
    b.auth = crate::Auth::psk(crate::Psk::new("another").unwrap());
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(200));
    assert!(
        pair.a.failures[0].to_string().contains("does not have our pre-shared key"),
        "{}",
        pair.a.failures[0]
    );
}

#[test]
fn loss_in_aggressive_mode() {
    for seed in 0..20 {
        let (a, b) =
            both_v1(|c| c.v1 = Some(V1Options { mode: crate::V1Mode::Aggressive, ..V1Options::default() }));
        let mut pair = Pair::new(seed, a, b);
        pair.link.loss = 0.2;
        pair.link.duplicate = 0.3;
        pair.link.jitter = Duration::from_millis(60);
        let up = (0..5).any(|_| {
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run_until(secs(170), Pair::agreed)
        });
        assert!(up, "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
    }
}
