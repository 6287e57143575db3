//! Rekeying of CHILD and IKE SAs by either side, on time, and when both sides want something at once.

use super::*;
use crate::{DownReason, EspProposal};

fn rekey_child(pair: &mut Pair, at: At) {
    let inbound = pair.side(at).only_child().inbound();
    pair.command(at, Command::RekeyChild(inbound));
}

#[test]
fn a_child_sa_is_rekeyed_by_either_side() {
    for esp in ["aes128gcm16", "aes128gcm16-ecp256", "aes256-sha256-curve25519", "chacha20poly1305-modp2048"]
    {
        for at in [At::A, At::B] {
            let (a, b) = both(|c| c.esp_proposals = vec![esp.parse().unwrap()]);
            let group = a.esp_proposals[0].groups().first().copied();
            let mut pair = Pair::new(1, a, b);
            pair.connect();
            let (old, old_key) =
                (pair.side(at).only_child().inbound(), pair.a.only_child().inbound_keys().clone());
            assert_eq!(pair.a.only_child().dh_group(), None);
            rekey_child(&mut pair, at);
            pair.run(secs(2));
            assert!(pair.agreed(), "{esp}: {:#?} {:#?}", pair.a.log, pair.b.log);
            assert_eq!(pair.side(at).gone, [(old, DownReason::Replaced)]);
            assert_ne!(*pair.a.only_child().inbound_keys(), old_key);
            assert_eq!((pair.a.only_child().dh_group(), pair.b.only_child().dh_group()), (group, group));
            // RFC 7296 2.8: who answers sends on the old SA until the peer deletes it.
            let tail = |log: &[String], n: usize| {
                log[log.len() - n..]
                    .iter()
                    .map(|l| l.split(' ').next().unwrap().to_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!(tail(&pair.side(at).log, 2), ["ChildUp", "ChildDown"]);
            assert_eq!(tail(&pair.side(at.other()).log, 3), ["ChildUp", "OutboundReady", "ChildDown"]);
            assert!(
                pair.side(at).log.iter().any(|l| l.contains(&format!("replaces Some(Spi({old})) use true")))
            );
            assert!(pair.side(at.other()).log.iter().any(|l| l.contains("use false")));
        }
    }
}

#[test]
fn the_responder_of_a_rekey_does_not_wait_for_ever() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    rekey_child(&mut pair, At::A);
    assert!(pair.run_until(secs(1), |p| p.b.children.len() == 2));
    pair.link.cut_to = Some(At::B);
    let new = *pair.b.children.keys().find(|spi| !pair.b.outbound.contains(spi)).unwrap();
    pair.run(Duration::from_millis(4900));
    assert!(!pair.b.outbound.contains(&new));
    pair.run(Duration::from_millis(200));
    assert!(pair.b.outbound.contains(&new));
}

#[test]
fn another_group_is_asked_for_when_rekeying() {
    let (mut a, mut b) = both(|_| {});
    a.esp_proposals = vec![EspProposal::parse("aes128gcm16-ecp256-curve25519").unwrap()];
    b.esp_proposals = vec![EspProposal::parse("aes128gcm16-curve25519").unwrap()];
    a.ike_proposals = vec!["aes128gcm16-prfsha256-ecp256-curve25519".parse().unwrap()];
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    rekey_child(&mut pair, At::A);
    pair.run(secs(2));
    assert!(pair.agreed() && pair.a.failures.is_empty() && pair.b.failures.is_empty());
    assert_eq!(pair.a.only_child().dh_group(), Some(culvert_crypto::DhGroup::Curve25519));
}

#[test]
fn an_ike_sa_is_rekeyed_by_either_side_and_keeps_its_children() {
    for at in [At::A, At::B] {
        let (a, b) = both(|_| {});
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        let before = pair.a.ike.clone().unwrap();
        let child = pair.a.only_child().inbound();
        pair.command(at, Command::RekeyIke(TUNNEL));
        pair.run(secs(2));
        assert!(pair.agreed());
        let after = pair.a.ike.clone().unwrap();
        assert!(before.spi_initiator != after.spi_initiator && before.spi_responder != after.spi_responder);
        assert!(pair.side(at).ike.as_ref().unwrap().initiator);
        assert_eq!(pair.a.only_child().inbound(), child);
        assert!(
            pair.a.gone.is_empty()
                && pair.b.gone.is_empty()
                && pair.a.downs.is_empty()
                && pair.b.downs.is_empty()
        );
        // The new one works, in both directions, and rekeys again.
        for at in [At::A, At::B] {
            rekey_child(&mut pair, at);
            pair.run(secs(2));
            pair.command(at, Command::RekeyIke(TUNNEL));
            pair.run(secs(2));
            assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
        }
        pair.run(secs(60));
        assert_eq!((pair.a.endpoint.counts().ike_sas, pair.b.endpoint.counts().ike_sas), (1, 1));
        pair.command(at, Command::Terminate(TUNNEL, true));
        pair.run(secs(60));
        assert_eq!(pair.b.endpoint.counts(), crate::Counts::default());
    }
}

#[test]
fn a_day_of_rekeying_on_time_without_a_gap() {
    let (a, b) = both(|c| (c.child_lifetime, c.ike_lifetime) = (secs(300), secs(1000)));
    let mut pair = Pair::new(3, a, b);
    pair.connect();
    let end = pair.time + secs(24 * 3600);
    while pair.step(end) {
        for side in [&pair.a, &pair.b] {
            assert!(side.ike.is_some() && !side.outbound.is_empty(), "never without an outbound SA");
            assert!(side.children.len() <= 3);
        }
    }
    assert!(pair.agreed());
    assert!(pair.a.gone.len() >= 24 * 3600 / 300 && pair.a.failures.is_empty() && pair.b.failures.is_empty());
    let rekeyed = pair.a.log.iter().filter(|l| l.starts_with("IkeRekeyed")).count();
    assert!(rekeyed >= 24 * 3600 / 1000);
    pair.run(secs(40));
    assert_eq!((pair.a.endpoint.counts().spis, pair.b.endpoint.counts().spis), (1, 1));
}

/// Something a side may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    RekeyChild,
    RekeyIke,
    DeleteAll,
}

fn wish(pair: &mut Pair, at: At, wish: Wish) {
    match wish {
        Wish::RekeyChild => {
            let child = pair.side(at).children.keys().next().copied();
            if let Some(inbound) = child {
                pair.command(at, Command::RekeyChild(inbound));
            }
        }
        Wish::RekeyIke => {
            let time = pair.time;
            let _ = pair.side(at).endpoint.handle_command(time, Command::RekeyIke(TUNNEL));
            pair.drain(at);
        }
        Wish::DeleteAll => pair.command(at, Command::Terminate(TUNNEL, true)),
    }
}

/// Two wishes that meet, at every offset of a round trip and in every order of delivery that jitter makes.
fn meet(first: Wish, second: Wish) {
    for offset in (0..=90).step_by(10) {
        for seed in 0..12 {
            let (a, b) = both(|_| {});
            let mut pair = Pair::new(seed, a, b);
            pair.connect();
            pair.run(secs(1));
            pair.link.jitter = Duration::from_millis([0, 5, 50, 200][seed as usize % 4]);
            let (one, two) = if seed % 2 == 0 { (At::A, At::B) } else { (At::B, At::A) };
            wish(&mut pair, one, first);
            pair.run(Duration::from_millis(offset));
            wish(&mut pair, two, second);
            pair.run(secs(100));
            let what = format!("{first:?} {second:?} offset {offset} seed {seed}");
            if first == Wish::DeleteAll || second == Wish::DeleteAll {
                // Who deletes is down; the other side too, and nothing stays.
                assert!(
                    pair.a.ike.is_none() && pair.b.ike.is_none(),
                    "{what}: {:#?} {:#?}",
                    pair.a.log,
                    pair.b.log
                );
                assert!(pair.a.children.is_empty() && pair.b.children.is_empty(), "{what}");
                pair.run(secs(300));
                let none = crate::Counts::default();
                assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (none, none), "{what}");
            } else {
                assert!(pair.agreed(), "{what}: {:#?} {:#?}", pair.a.log, pair.b.log);
                assert!(pair.a.downs.is_empty() && pair.b.downs.is_empty(), "{what}");
                assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty(), "{what}");
                pair.run(secs(200));
                let one = crate::Counts { ike_sas: 1, half_open: 0, spis: 1 };
                assert_eq!(
                    (pair.a.endpoint.counts(), pair.b.endpoint.counts()),
                    (one, one),
                    "{what}: {:#?} {:#?}",
                    pair.a.log,
                    pair.b.log
                );
            }
        }
    }
}

/// With nothing to reorder and both at once, the collision is certain: each side makes what the other asks for.
#[test]
fn collisions_happen_and_both_sides_choose_alike() {
    let mut kept_by_a = 0;
    for seed in 0..20 {
        let (a, b) = both(|_| {});
        let mut pair = Pair::new(seed, a, b);
        pair.connect();
        let old = pair.a.only_child().inbound();
        wish(&mut pair, At::A, Wish::RekeyChild);
        wish(&mut pair, At::B, Wish::RekeyChild);
        pair.run(secs(3));
        let replacing = format!("replaces Some(Spi({old}))");
        assert_eq!(pair.a.log.iter().filter(|l| l.contains(&replacing)).count(), 2);
        assert_eq!((pair.a.gone.len(), pair.b.gone.len()), (2, 2));
        assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);

        wish(&mut pair, At::A, Wish::RekeyIke);
        wish(&mut pair, At::B, Wish::RekeyIke);
        assert!(
            pair.run_until(secs(1), |p| p.a.endpoint.counts().ike_sas == 3),
            "the old one and two new ones"
        );
        pair.run(secs(60));
        assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
        assert_eq!((pair.a.endpoint.counts().ike_sas, pair.b.endpoint.counts().ike_sas), (1, 1));
        kept_by_a += u32::from(pair.a.ike.as_ref().unwrap().initiator);
    }
    assert!((3..=17).contains(&kept_by_a), "the nonces decide, not the side: {kept_by_a} of 20");
}

#[test]
fn two_child_rekeys_meet() {
    meet(Wish::RekeyChild, Wish::RekeyChild);
}

#[test]
fn two_ike_rekeys_meet() {
    meet(Wish::RekeyIke, Wish::RekeyIke);
}

#[test]
fn child_and_ike_rekeys_meet() {
    meet(Wish::RekeyChild, Wish::RekeyIke);
    meet(Wish::RekeyIke, Wish::RekeyChild);
}

#[test]
fn rekeys_and_deletes_meet() {
    for rekey in [Wish::RekeyChild, Wish::RekeyIke] {
        meet(rekey, Wish::DeleteAll);
        meet(Wish::DeleteAll, rekey);
    }
    meet(Wish::DeleteAll, Wish::DeleteAll);
}
