//! IKE SAs without a CHILD SA from IKE_AUTH (RFC 6023).

use super::*;
use crate::{Cause, Childless, Phase};

fn pair(a: Childless, b: Childless) -> Pair {
    let (mut ca, mut cb) = both(|c| c.esp_proposals = vec!["aes128gcm16-ecp256".parse().unwrap()]);
    (ca.exchange.childless, cb.exchange.childless) = (a, b);
    Pair::new(1, ca, cb)
}

/// Whether the first child came from CREATE_CHILD_SA.
fn later(pair: &Pair) -> bool {
    pair.a.sent.iter().any(|m| m[18] == 36)
}

#[test]
fn every_combination() {
    use Childless::{Allow, Force, Never};
    for a in [Never, Allow, Force] {
        for b in [Never, Allow, Force] {
            let mut pair = pair(a, b);
            let refused = match (a, b) {
                (Force, Never) => Some(Cause::ChildlessUnsupported),
                (Never | Allow, Force) => Some(Cause::NotChildless),
                _ => None,
            };
            let Some(cause) = refused else {
                pair.connect();
                assert_eq!(later(&pair), a == Force, "{a:?} {b:?}");
                // The first child has a key exchange of its own, unlike one from IKE_AUTH.
                assert_eq!(pair.b.only_child().dh_group().is_some(), a == Force);
                pair.command(At::B, Command::RekeyIke(TUNNEL));
                pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
                pair.run(secs(2));
                assert!(pair.agreed() && pair.a.failures.is_empty() && pair.b.failures.is_empty());
                continue;
            };
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run(secs(2));
            let who = if a == Force { &pair.a } else { &pair.b };
            assert_eq!((&who.failures[0].cause, who.failures[0].phase), (&cause, Phase::IkeAuth));
            assert!(pair.a.ike.is_none() && pair.b.ike.is_none());
            pair.run(secs(60));
            let none = crate::Counts::default();
            assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (none, none), "{a:?} {b:?}");
        }
    }
}

#[test]
fn with_loss_the_child_comes_as_well() {
    for seed in 0..10 {
        let (a, b) = both(|c| (c.exchange.childless, c.dpd) = (Childless::Force, None));
        let mut pair = Pair::new(seed, a, b);
        (pair.link.loss, pair.link.duplicate) = (0.15, 0.2);
        pair.connect();
        assert!(later(&pair));
    }
}
