//! Signatures and certificates in IKEv1 on virtual time: every method in both modes, and everything that fails.

use super::certificates::{ED25519, P256, RSA, RSA_3072, certificate, signer};
use super::v1::{both_v1, one, rekey_child, rekey_ike};
use super::*;
use crate::{
    Auth, Cause, CertificateRefused, CommandError, Counts, LocalAuth, Phase, Psk, RemoteAuth, V1Mode,
    V1Options, Xauth, XauthUser,
};

const MODES: [V1Mode; 2] = [V1Mode::Main, V1Mode::Aggressive];

/// Both sides with a certificate, in a mode.
fn signed(mode: V1Mode, a: &[u8], b: &[u8]) -> (PeerConfig, PeerConfig) {
    let (mut config_a, mut config_b) = both_v1(|c| c.v1 = Some(V1Options { mode, ..V1Options::default() }));
    config_a.auth = Auth { local: LocalAuth::Signature(signer(a)), remote: certificate() };
    config_b.auth = Auth { local: LocalAuth::Signature(signer(b)), remote: certificate() };
    (config_a, config_b)
}

/// A is joe, B knows him.
fn with_users(a: &mut PeerConfig, b: &mut PeerConfig) {
    let joe = XauthUser { name: "joe".into(), password: Psk::new("sesame").unwrap() };
    a.v1.as_mut().unwrap().xauth = Some(Xauth::Client(joe.clone()));
    b.v1.as_mut().unwrap().xauth = Some(Xauth::Server(vec![joe]));
}

/// A is nobody but joe, B has a certificate.
fn hybrid(mode: V1Mode) -> (PeerConfig, PeerConfig) {
    let (mut a, mut b) = signed(mode, RSA, RSA);
    a.auth.local = LocalAuth::User;
    b.auth.remote = RemoteAuth::User;
    with_users(&mut a, &mut b);
    (a, b)
}

fn comes_up(a: PeerConfig, b: PeerConfig) -> Pair {
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(5), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
    pair
}

#[test]
fn every_method_in_both_modes() {
    for mode in MODES {
        for (a, b) in [(RSA, RSA), (RSA_3072, RSA), (RSA, RSA_3072)] {
            let (a, b) = signed(mode, a, b);
            let pair = comes_up(a, b);
            let asked = |log: &[String]| log.iter().filter(|l| l.starts_with("CheckCertificate")).count();
            assert_eq!((asked(&pair.a.log), asked(&pair.b.log)), (1, 1));
        }
        let (mut a, mut b) = signed(mode, RSA, RSA);
        with_users(&mut a, &mut b);
        comes_up(a, b);
        let (a, b) = hybrid(mode);
        let pair = comes_up(a, b);
        assert!(pair.b.log.iter().all(|l| !l.starts_with("CheckCertificate")), "A has none");
    }
}

#[test]
fn loss_and_rekeys_with_signatures() {
    for seed in 0..16 {
        let mode = MODES[seed as usize % 2];
        let (a, b) = if seed % 3 == 0 { hybrid(mode) } else { signed(mode, RSA, RSA) };
        let mut pair = Pair::new(seed, a, b);
        (pair.link.loss, pair.link.duplicate) = (0.15, 0.2);
        pair.link.jitter = Duration::from_millis(50);
        let up = (0..5).any(|_| {
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run_until(secs(170), Pair::agreed)
        });
        assert!(up, "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        pair.link = crate::testing::Link::default();
        pair.run(secs(200));
        rekey_ike(&mut pair, At::A);
        rekey_child(&mut pair, At::B);
        pair.run(secs(200));
        assert!(pair.agreed(), "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one(), one()), "seed {seed}");
    }
}

/// Slow signatures and slow groups: the verdict and the jobs come when they come.
#[test]
fn verdicts_and_jobs_that_take_their_time() {
    for mode in MODES {
        let (mut a, mut b) = signed(mode, RSA, RSA);
        for config in [&mut a, &mut b] {
            config.ike_proposals = vec!["aes256-sha256-modp2048".parse().unwrap()];
            config.esp_proposals = vec!["aes256-sha256-modp2048".parse().unwrap()];
        }
        let mut pair = Pair::new(1, a, b);
        pair.jobs = crate::testing::Jobs::After(Duration::from_millis(300));
        (pair.a.judge, pair.b.judge) = (None, None);
        pair.command(At::A, Command::Initiate(TUNNEL));
        for _ in 0..2 {
            assert!(
                pair.run_until(secs(20), |p| !p.a.checks.is_empty() || !p.b.checks.is_empty()),
                "{mode:?}: {:#?} {:#?}",
                pair.a.log,
                pair.b.log
            );
            let at = if pair.a.checks.is_empty() { At::B } else { At::A };
            pair.run(secs(6));
            assert!(pair.a.ike.is_none() || pair.b.ike.is_none());
            let (check, chain) = pair.side(at).checks.pop().unwrap();
            assert!(pair.side(at).checks.is_empty(), "repetitions ask nobody again");
            pair.command(at, Command::CertificateChecked(check, crate::testing::as_spki(&chain)));
            // A second verdict changes nothing.
            pair.command(at, Command::CertificateChecked(check, crate::testing::as_spki(&chain)));
        }
        assert!(pair.run_until(secs(20), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
        // Two pairs and two secrets: phase 1 and quick mode.
        assert_eq!((pair.a.asked, pair.b.asked), (4, 2), "{mode:?}");
        pair.run(secs(60));
        rekey_ike(&mut pair, At::B);
        assert!(pair.run_until(secs(20), |p| !p.a.checks.is_empty() || !p.b.checks.is_empty()));
    }
}

/// Runs an initiation to its end and gives the first failure of both sides.
fn fails(a: PeerConfig, b: PeerConfig, prepare: impl Fn(&mut Pair)) -> [Option<(Phase, Cause)>; 2] {
    let mut pair = Pair::new(1, a, b);
    prepare(&mut pair);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(300));
    assert!(pair.a.ike.is_none() && pair.b.ike.is_none(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (Counts::default(), Counts::default()));
    [&pair.a, &pair.b].map(|side| side.failures.first().map(|f| (f.phase, f.cause.clone())))
}

#[test]
fn certificates_that_are_refused() {
    let refuse =
        |_: &[Vec<u8>]| Err(CertificateRefused { what: "expired".into(), ..CertificateRefused::default() });
    for mode in MODES {
        for at in [At::A, At::B] {
            let (a, b) = signed(mode, RSA, RSA);
            let [at_a, at_b] = fails(a, b, |pair| pair.side(at).judge = Some(refuse));
            let judged = if at == At::A { at_a } else { at_b };
            assert!(matches!(judged, Some((_, Cause::Certificate { .. }))), "{mode:?} {judged:?}");
        }
    }
}

/// Public mistake: signatures. Another key than the certificate's, none, a hash in its place.
#[test]
fn a_signature_by_another_key() {
    for mode in MODES {
        for at in [At::A, At::B] {
            let (mut a, mut b) = signed(mode, RSA, RSA);
            let forger = if at == At::A { &mut b } else { &mut a };
            let mut forged = signer(RSA_3072);
            forged.chain = signer(RSA).chain;
            forger.auth.local = LocalAuth::Signature(forged);
            let [at_a, at_b] = fails(a, b, |_| {});
            let seen = if at == At::A { at_a } else { at_b };
            assert!(matches!(seen, Some((_, Cause::WrongSignature { .. }))), "{mode:?} {at:?} {seen:?}");
        }
    }
}

/// Public mistake: auth bypass. Who should sign and does not, though it knows the keys, is nobody.
#[test]
fn methods_are_not_mixed() {
    // One side by certificate, the other by key or by nothing: they do not meet.
    for (a, b) in [
        (signed(V1Mode::Main, RSA, RSA).0, both_v1(|_| {}).1),
        (both_v1(|_| {}).0, signed(V1Mode::Main, RSA, RSA).1),
        (hybrid(V1Mode::Main).0, signed(V1Mode::Main, RSA, RSA).1),
        (signed(V1Mode::Main, RSA, RSA).0, hybrid(V1Mode::Main).1),
    ] {
        let [_, at_b] = fails(a, b, |_| {});
        assert!(matches!(at_b, Some((Phase::MainMode, Cause::NoProposal))), "{at_b:?}");
    }
    // A user with the wrong password has proven nothing in hybrid mode.
    let (mut a, b) = hybrid(V1Mode::Main);
    let eve = XauthUser { name: "joe".into(), password: Psk::new("open").unwrap() };
    a.v1.as_mut().unwrap().xauth = Some(Xauth::Client(eve));
    let [at_a, at_b] = fails(a, b, |_| {});
    assert_eq!(at_a.map(|(phase, _)| phase), Some(Phase::Xauth));
    assert_eq!(at_b.map(|(phase, _)| phase), Some(Phase::Xauth));
}

#[test]
fn what_ikev1_cannot_say_is_refused_at_once() {
    let add = |change: &dyn Fn(&mut PeerConfig)| {
        let (mut a, b) = signed(V1Mode::Aggressive, RSA, RSA);
        change(&mut a);
        let mut pair = Pair::new(1, b.clone(), b);
        let now = pair.time;
        pair.a.endpoint.handle_command(now, Command::AddPeer(TUNNEL, Box::new(a)))
    };
    assert_eq!(add(&|_| {}), Ok(()));
    type Change = fn(&mut PeerConfig);
    let cases: [Change; 6] = [
        |c| c.auth.local = LocalAuth::Signature(signer(ED25519)),
        |c| c.auth.local = LocalAuth::Signature(signer(P256)),
        |c| c.auth.remote = Auth::psk(Psk::new("k").unwrap()).remote,
        // A large answer to one message of whoever.
        |c| c.remote = None,
        |c| c.auth.local = LocalAuth::User,
        |c| (c.v1, c.auth.local) = (None, LocalAuth::User),
    ];
    for change in cases {
        assert!(matches!(add(&change), Err(CommandError::Config(_))));
    }
}
