//! Groups for perfect forward secrecy that do not go together: seen at the first rekeying, or by a test soon after set-up.

use super::*;
use crate::{Blame, Cause, DownReason, Phase};

fn pair(ours: &str, theirs: &str, test: bool) -> Pair {
    let (mut a, mut b) = both(|c| c.dpd = None);
    a.esp_proposals = vec![ours.parse().unwrap()];
    b.esp_proposals = vec![theirs.parse().unwrap()];
    a.exchange.rekey_test = test;
    Pair::new(1, a, b)
}

#[test]
fn a_mismatch_is_told_within_seconds_and_once() {
    for (ours, theirs) in [
        ("aes128gcm16-ecp256", "aes128gcm16-ecp384"),
        ("aes128gcm16-ecp256", "aes128gcm16"),
        ("aes128gcm16", "aes128gcm16-curve25519"),
        ("aes128gcm16-ecp256-ke1_mlkem768", "aes128gcm16-ecp256"),
    ] {
        let mut pair = pair(ours, theirs, true);
        pair.connect();
        let child = pair.a.only_child().inbound();
        pair.run(secs(10));
        let (a, b) = (pair.a.failures.pop().unwrap(), pair.b.failures.pop().unwrap());
        let want = if ours == "aes128gcm16" { Cause::ProposalsRefused } else { Cause::GroupsRefused };
        assert_eq!((&a.cause, a.phase, a.blame), (&want, Phase::RekeyChild, Blame::Configuration), "{a}");
        assert!(a.mend.contains("group") && a.offered_local == ours, "{a}");
        assert_eq!((&b.cause, b.phase), (&Cause::NoGroup, Phase::RekeyChild), "{b}");
        assert!(b.offered_local == theirs, "{b}");
        assert!(ours.split('-').all(|word| b.offered_remote.contains(word)), "{b}");
        // The tunnel carries on, and is not asked again before its time.
        pair.run(secs(3000));
        assert!(pair.agreed() && pair.a.failures.is_empty() && pair.b.failures.is_empty());
        assert_eq!(pair.a.only_child().inbound(), child);
    }
}

#[test]
fn a_match_is_rekeyed_once_and_then_in_its_own_time() {
    for test in [true, false] {
        let mut pair = pair("aes128gcm16-ecp256", "aes128gcm16-ecp256", test);
        pair.connect();
        let child = pair.a.only_child().inbound();
        pair.run(secs(10));
        let replaced = (child, DownReason::Replaced);
        assert_eq!(pair.a.gone.contains(&replaced), test);
        assert_eq!(pair.a.only_child().dh_group().is_some(), test);
        let child = pair.a.only_child().inbound();
        pair.run(secs(3000));
        assert!(pair.agreed() && pair.a.only_child().inbound() == child);
        // A rekeyed IKE SA has nothing to test.
        pair.command(At::A, Command::RekeyIke(TUNNEL));
        pair.run(secs(20));
        assert_eq!(pair.a.only_child().inbound(), child);
    }
}
