//! Post-quantum pre-shared keys (RFC 8784): the same on both sides, others, on one side only, required or not.

use super::*;
use crate::{Cause, Ppk, Psk};

/// Written as `id:secret`, with `!` behind it where it is required.
pub(super) fn ppk(text: &str) -> Option<Ppk> {
    let (text, required) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
    let (id, secret) = text.split_once(':')?;
    Some(Ppk { id: id.to_owned(), secret: Psk::new(secret).unwrap(), required })
}

fn pair(a: &str, b: &str) -> Pair {
    let (mut at_a, mut at_b) = both(|_| {});
    (at_a.exchange.ppk, at_b.exchange.ppk) = (ppk(a), ppk(b));
    Pair::new(1, at_a, at_b)
}

#[test]
fn both_use_it_or_both_do_without() {
    let same = "a:0123456789abcdef0123456789abcdef";
    let cases = [
        (same, same, true),
        ("a:0123456789abcdef0123456789abcdef!", same, true),
        (same, "a:0123456789abcdef0123456789abcdef!", true),
        (same, "", false),
        ("", same, false),
        (same, "b:0123456789abcdef0123456789abcdef", false),
        (same, "b:something else altogether, also long", false),
    ];
    for (a, b, used) in cases {
        for at in [At::A, At::B] {
            let mut pair = if at == At::A { pair(a, b) } else { pair(b, a) };
            pair.connect();
            assert_eq!(pair.a.ike.as_ref().map(|i| i.ppk), Some(used), "{a} {b}");
            assert_eq!(pair.b.ike.as_ref().map(|i| i.ppk), Some(used), "{a} {b}");
            // It lives on in SK_d.
            pair.command(at, Command::RekeyIke(TUNNEL));
            pair.run(secs(2));
            let child = pair.side(at).only_child().inbound();
            pair.command(at, Command::RekeyChild(child));
            pair.run(secs(2));
            assert!(pair.agreed() && pair.a.ike.as_ref().unwrap().ppk == used);
            assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty(), "{:#?}", pair.b.failures);
        }
    }
}

#[test]
fn the_ppk_is_in_the_keys_of_the_first_child() {
    let keys = |text| {
        let mut pair = pair(text, text);
        // The same seed, so the same nonces and SPIs; curve25519 keys are ring's own and differ.
        pair.connect();
        (pair.a.sent[0][28..].to_vec(), pair.a.only_child().inbound_keys().clone())
    };
    let (with, without) = (keys("a:0123456789abcdef0123456789abcdef"), keys(""));
    assert!(with.0.len() > without.0.len(), "USE_PPK is in IKE_SA_INIT");
    assert_ne!(with.1, without.1);
}

#[test]
fn who_insists_is_not_served_without() {
    let (same, must) = ("a:0123456789abcdef0123456789abcdef", "a:0123456789abcdef0123456789abcdef!");
    let other_id = "b:0123456789abcdef0123456789abcdef";
    type Told = Option<Cause>;
    let refused = Some(Cause::AuthenticationRefused);
    let cases: [(&str, &str, Told, Told); 6] = [
        // The initiator sees in IKE_SA_INIT that the responder has none.
        (must, "", Some(Cause::PpkUnsupported), None),
        ("", must, refused.clone(), Some(Cause::PpkUnsupported)),
        (must, other_id, refused.clone(), Some(Cause::PpkUnknown)),
        (other_id, must, refused.clone(), Some(Cause::PpkUnknown)),
        ("a:another secret of some length", must, refused.clone(), None),
        // The id is the same and the secret is not: nobody may fall back.
        (same, "a:another secret of some length", refused, None),
    ];
    for (a, b, at_a, at_b) in cases {
        let mut pair = pair(a, b);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(60));
        assert!(pair.a.ike.is_none() && pair.b.ike.is_none(), "{a} {b}");
        assert_eq!(pair.a.failures.first().map(|f| f.cause.clone()), at_a, "{a} {b}");
        if at_b.is_some() {
            assert_eq!(pair.b.failures.first().map(|f| f.cause.clone()), at_b, "{a} {b}");
        } else if at_a == Some(Cause::AuthenticationRefused) {
            assert!(matches!(pair.b.failures[0].cause, Cause::WrongPsk(_)), "{:#?}", pair.b.failures);
        }
        assert!(pair.a.failures[0].mend.contains(if at_a == Some(Cause::PpkUnsupported) {
            "ppk"
        } else {
            ""
        }));
        assert_eq!(pair.a.endpoint.counts(), crate::Counts::default());
    }
}

#[test]
fn nothing_shows_the_secret() {
    let ppk = ppk("a:0123456789abcdef0123456789abcdef").unwrap();
    assert!(!format!("{ppk:?}").contains("0123"));
}
