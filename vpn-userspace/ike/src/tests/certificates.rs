//! Signatures and certificates in IKE_AUTH: every kind of key, mixed with pre-shared keys, and everything that fails.

use std::sync::Arc;

use culvert_crypto::sign::{PrivateKey, Scheme};
use culvert_types::TunnelId;

use super::*;
use crate::{
    Auth, Cause, CertificateRefused, Counts, Identity, LocalAuth, Phase, Psk, RemoteAuth, Signer, Trust,
};

pub(super) const RSA: &[u8] = include_bytes!("../../../crypto/tests/keys/rsa2048.pk8");
pub(super) const RSA_3072: &[u8] = include_bytes!("../../../crypto/tests/keys/rsa3072.pk8");
pub(super) const P256: &[u8] = include_bytes!("../../../crypto/tests/keys/p256.pk8");
const P384: &[u8] = include_bytes!("../../../crypto/tests/keys/p384.pk8");
const P521: &[u8] = include_bytes!("../../../crypto/tests/keys/p521.pk8");
pub(super) const ED25519: &[u8] = include_bytes!("../../../crypto/tests/keys/ed25519.pk8");

pub(super) fn signer(pkcs8: &[u8]) -> Signer {
    let key = PrivateKey::from_pkcs8(pkcs8).unwrap();
    let chain = vec![key.public_key().to_spki()];
    Signer { key: Arc::new(key), chain, schemes: Vec::new(), sha1: false, about: "O=Test".into() }
}

pub(super) fn certificate() -> RemoteAuth {
    RemoteAuth::Certificate(Trust { authorities: vec![[7; 20]], ..Trust::default() })
}

/// Both sides with a certificate.
fn signed(a: &[u8], b: &[u8]) -> (PeerConfig, PeerConfig) {
    let (mut config_a, mut config_b) = both(|_| {});
    config_a.auth = Auth { local: LocalAuth::Signature(signer(a)), remote: certificate() };
    config_b.auth = Auth { local: LocalAuth::Signature(signer(b)), remote: certificate() };
    (config_a, config_b)
}

fn comes_up(a: PeerConfig, b: PeerConfig) -> Pair {
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(5), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
    pair
}

/// Runs an initiation to its end and gives the causes of both sides.
fn fails(pair: &mut Pair) -> (Vec<Cause>, Vec<Cause>) {
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(400));
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (Counts::default(), Counts::default()));
    assert!(pair.a.ike.is_none() && pair.b.ike.is_none());
    let causes = |failures: &[crate::Failure]| failures.iter().map(|f| f.cause.clone()).collect();
    (causes(&pair.a.failures), causes(&pair.b.failures))
}

#[test]
fn every_kind_of_key_with_every_scheme() {
    for key in [RSA, RSA_3072, P256, P384, P521, ED25519] {
        comes_up(signed(key, P256).0, signed(key, P256).1);
        comes_up(signed(P256, key).0, signed(P256, key).1);
    }
    for scheme in signer(RSA).key.schemes() {
        let (mut a, b) = signed(RSA, RSA);
        a.auth.local = LocalAuth::Signature(Signer { schemes: vec![*scheme], ..signer(RSA) });
        comes_up(a, b);
    }
}

#[test]
fn the_sides_may_differ() {
    let key = || Psk::new("correct horse battery staple").unwrap();
    let (mut a, mut b) = signed(P256, P384);
    a.auth.remote = RemoteAuth::Psk(key());
    b.auth.local = LocalAuth::Psk(key());
    let pair = comes_up(a.clone(), b.clone());
    assert_eq!((pair.a.log.iter().filter(|l| l.contains("Check")).count()), 0);
    (a.auth, b.auth) = (b.auth, a.auth);
    comes_up(a, b);
}

/// The certificates of a chain travel together, whatever the owner makes of them.
#[test]
fn the_whole_chain_goes_to_the_owner() {
    let (mut a, b) = signed(P256, P256);
    let mut ours = signer(P256);
    ours.chain.push(vec![0x30; 900]);
    ours.chain.push(vec![0x31; 800]);
    let chain = ours.chain.clone();
    a.auth.local = LocalAuth::Signature(ours);
    let mut pair = Pair::new(1, a, b);
    pair.b.judge = None;
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(5), |p| !p.b.checks.is_empty()));
    let (check, seen) = pair.b.checks.pop().unwrap();
    assert_eq!(seen, chain);
    // Half-open until the verdict; a repeated request asks nobody again.
    assert_eq!(pair.b.endpoint.counts().half_open, 1);
    pair.run(secs(5));
    assert!(pair.b.checks.is_empty() && pair.b.ike.is_none());
    pair.command(At::B, Command::CertificateChecked(check, crate::testing::as_spki(&seen)));
    assert!(pair.run_until(secs(5), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert_eq!(pair.b.endpoint.counts().half_open, 0);
    // A second verdict, and one for nobody, change nothing.
    pair.command(At::B, Command::CertificateChecked(check, crate::testing::as_spki(&seen)));
    pair.run(secs(30));
    assert!(pair.agreed());
}

#[test]
fn a_certificate_that_is_not_trusted() {
    let refuse = |_: &[Vec<u8>]| {
        Err(CertificateRefused {
            what: "expired in 2020".into(),
            mend: "renew the peer's certificate".into(),
            ours: "CN=Test CA".into(),
            theirs: "CN=gw".into(),
        })
    };
    let (a, b) = signed(P256, P384);
    let mut pair = Pair::new(1, a.clone(), b.clone());
    pair.b.judge = Some(refuse);
    let (of_a, of_b) = fails(&mut pair);
    assert_eq!(of_a, [Cause::ProofRefused("certificate")]);
    assert_eq!(
        pair.a.failures[0].offered_local,
        "local id a.example, certificate O=Test, remote id b.example"
    );
    assert!(
        matches!(&of_b[..], [Cause::Certificate { identity, .. }] if identity.to_string() == "a.example")
    );
    let text = pair.b.failures[0].to_string();
    assert!(text.contains("expired in 2020") && text.contains("renew the peer's certificate"), "{text}");
    assert_eq!(pair.b.failures[0].tunnel, Some(TUNNEL));
    let told = |f: &crate::Failure| (f.offered_local.clone(), f.offered_remote.clone());
    assert_eq!(told(&pair.b.failures[0]), ("CN=Test CA".into(), "CN=gw".into()));

    let mut pair = Pair::new(1, a, b);
    pair.a.judge = Some(refuse);
    let (of_a, of_b) = fails(&mut pair);
    assert!(matches!(&of_a[..], [Cause::Certificate { .. }]), "{of_a:?}");
    assert_eq!(of_b, [Cause::ProofRefused("certificate")]);
    assert_eq!(told(&pair.a.failures[0]), ("CN=Test CA".into(), "CN=gw".into()));
}

#[test]
fn a_certificate_of_another_key() {
    let (mut a, b) = signed(P256, P384);
    a.auth.local = LocalAuth::Signature(Signer { chain: signer(ED25519).chain, ..signer(P256) });
    let (of_a, of_b) = fails(&mut Pair::new(1, a.clone(), b.clone()));
    assert_eq!(of_a, [Cause::ProofRefused("certificate")]);
    assert!(matches!(of_b[..], [Cause::WrongSignature { scheme: Scheme::EcdsaSha256, .. }]), "{of_b:?}");
    let (_, of_b) = fails(&mut Pair::new(1, b, a));
    assert_eq!(of_b, [Cause::ProofRefused("certificate")]);
}

#[test]
fn nobody_judges() {
    let (a, b) = signed(P256, P384);
    let mut pair = Pair::new(1, a.clone(), b.clone());
    pair.a.judge = None;
    let (of_a, of_b) = fails(&mut pair);
    assert_eq!((of_a, of_b), (vec![Cause::Unjudged(secs(10))], vec![Cause::ProofRefused("certificate")]));
    let mut pair = Pair::new(1, a, b);
    pair.b.judge = None;
    let (of_a, of_b) = fails(&mut pair);
    assert!(matches!(of_a[..], [Cause::GoneAfterInit(_)]), "{of_a:?}");
    // A's repetitions after the half-open IKE SA was gone find nothing.
    assert_eq!(of_b, [Cause::Unjudged(secs(30))]);
}

#[test]
fn another_kind_of_proof_than_expected() {
    let (mut a, b) = signed(P256, P384);
    a.auth.local = LocalAuth::Psk(Psk::new("key").unwrap());
    let (of_a, of_b) = fails(&mut Pair::new(1, a, b));
    assert_eq!(of_a, [Cause::AuthenticationRefused]);
    assert_eq!(of_b, [Cause::AuthMethod { got: 2, expected: "certificate".into() }]);
    let (a, mut b) = signed(P256, P384);
    b.auth.remote = RemoteAuth::Psk(Psk::new("key").unwrap());
    // B tells no hashes, so A falls back to the method for P-256.
    let (_, of_b) = fails(&mut Pair::new(1, a, b));
    assert_eq!(of_b, [Cause::AuthMethod { got: 9, expected: "pre-shared key".into() }]);
}

/// Several tunnels take anybody: each one's rules are asked about in turn, and the one that trusts gets the peer.
#[test]
fn the_tunnel_that_trusts_is_found() {
    let (a, b) = signed(P256, P384);
    let anybody = PeerConfig { remote: None, remote_id: None, ..b.clone() };
    let mut pair = Pair::new(1, a, PeerConfig { name: "test/first".into(), ..anybody.clone() });
    pair.command(At::B, Command::AddPeer(TunnelId(2), Box::new(anybody)));
    pair.b.judge = None;
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(5), |p| p.b.checks.len() == 1));
    let (check, chain) = pair.b.checks.pop().unwrap();
    let no = CertificateRefused { what: "no".into(), ..CertificateRefused::default() };
    pair.command(At::B, Command::CertificateChecked(check, Err(no)));
    let (check, _) = pair.b.checks.pop().expect("the second tunnel is asked about");
    pair.command(At::B, Command::CertificateChecked(check, crate::testing::as_spki(&chain)));
    assert!(pair.run_until(secs(5), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert_eq!(pair.b.only_child().tunnel(), TunnelId(2));
}

#[test]
fn wildcards_and_names_as_identities() {
    for (ours, theirs) in [
        ("gw.example", "*.example"),
        ("C=CH, O=Example, CN=gw", "C=CH, O=Example, CN=*"),
        ("c=ch,o=example,cn=gw", "C=CH, O=Example, CN=gw"),
        ("@#00ff", "@#00ff"),
        ("user@example", "*@example"),
    ] {
        let (mut a, mut b) = signed(P256, P384);
        a.local_id = Identity::parse(ours).unwrap();
        b.remote_id = Some(Identity::parse(theirs).unwrap());
        comes_up(a, b);
        // As initiator, a pattern is not sent; the responder chooses who it is.
        let (mut a, mut b) = signed(P256, P384);
        b.local_id = Identity::parse(ours).unwrap();
        a.remote_id = Some(Identity::parse(theirs).unwrap());
        comes_up(a, b);
    }
    let (mut a, b) = signed(P256, P384);
    a.local_id = Identity::parse("*.example").unwrap();
    let mut pair = Pair::new(1, b.clone(), b);
    let time = pair.time;
    let refused = pair.a.endpoint.handle_command(time, Command::AddPeer(TUNNEL, Box::new(a)));
    assert!(refused.unwrap_err().to_string().contains("one identity"));
}

#[test]
fn endless_chains_are_not_taken() {
    let (mut a, b) = signed(P256, P384);
    let long = |certificates: usize, length: usize| {
        let mut signer = signer(P256);
        signer.chain.resize(certificates, vec![0x30; length]);
        LocalAuth::Signature(signer)
    };
    let mut pair = Pair::new(1, a.clone(), b.clone());
    let time = pair.time;
    for local in [long(0, 1), long(11, 10), long(3, 20_000)] {
        a.auth.local = local;
        let refused = pair.a.endpoint.handle_command(time, Command::AddPeer(TUNNEL, Box::new(a.clone())));
        assert!(refused.unwrap_err().to_string().contains("certificate chain"));
    }
    // The most that may be sent is taken.
    a.auth.local = long(10, 3000);
    comes_up(a, b);
}

#[test]
fn old_methods_serve_peers_that_know_no_others() {
    use crate::auth::{SignedOctets, signature};
    use crate::testing::Seeded;
    use crate::wire::Id;
    use culvert_crypto::Prf;

    let id = Id { kind: 2, reserved: [0; 3], data: b"gw" };
    let octets = SignedOctets { message: b"message", peer_nonce: b"nonce", sk_p: b"skp", id, int_auth: &[] };
    let prf = Prf::HmacSha256;
    let mut now = |key: &Arc<PrivateKey>, scheme: Scheme, parts: &[&[u8]]| {
        Some(key.sign(scheme, parts, &mut Seeded(1)).map_err(Cause::from))
    };
    let old = Trust { sha1: true, ..Trust::default() };
    for (key, method) in [(P256, 9), (P384, 10), (P521, 11), (RSA, 1)] {
        let signer = Signer { sha1: true, ..signer(key) };
        let local = LocalAuth::Signature(signer.clone());
        let proof = local.prove(prf, &octets, &[], &mut now).unwrap().unwrap();
        assert_eq!(proof.method, method);
        let public = signer.key.public_key();
        let auth = (proof.method, proof.data.as_slice());
        signature::verify(prf, &old, public, &octets, auth).unwrap();
        let strict = signature::verify(prf, &Trust::default(), public, &octets, auth);
        assert_eq!(strict.is_err(), method == 1, "SHA-1 is off unless asked for");
        let other = SignedOctets { message: b"messagf", id, ..octets };
        assert!(signature::verify(prf, &old, public, &other, auth).is_err());
        assert!(signature::verify(prf, &old, public, &octets, (method, &proof.data[1..])).is_err());
    }
    for key in [ED25519, RSA] {
        let none = LocalAuth::Signature(signer(key)).prove(prf, &octets, &[], &mut now);
        assert!(matches!(none, Some(Err(Cause::NoSignature { .. }))));
    }
    // RFC 7427: garbage for an algorithm identifier, and none at all.
    let public = signer(P256);
    for data in [&[][..], &[200, 1, 2], &[3, 0x30, 1, 0], &[0]] {
        let refused = signature::verify(prf, &old, public.key.public_key(), &octets, (14, data));
        assert!(matches!(refused, Err(Cause::SignatureScheme(_))));
    }
}

#[test]
fn failures_name_phase_and_blame() {
    let (mut a, b) = signed(P256, P384);
    a.auth.local = LocalAuth::Psk(Psk::new("key").unwrap());
    let mut pair = Pair::new(1, a, b);
    fails(&mut pair);
    let failure = &pair.b.failures[0];
    assert_eq!((failure.phase, failure.blame), (Phase::IkeAuth, crate::Blame::Configuration));
}

/// RSA and P-521 sign beside the event loop, with a PPK twice; the others at once.
#[test]
fn slow_signatures_are_jobs() {
    use crate::testing::Jobs;
    for (key, slow) in [(RSA, true), (P521, true), (P256, false), (P384, false), (ED25519, false)] {
        for ppk in [false, true] {
            let (mut a, mut b) = signed(key, key);
            if ppk {
                let secret = Psk::new("a post-quantum secret").unwrap();
                let ppk = crate::Ppk { id: "ppk".into(), secret, required: false };
                (a.exchange.ppk, b.exchange.ppk) = (Some(ppk.clone()), Some(ppk));
            }
            let mut pair = Pair::new(1, a, b);
            pair.jobs = Jobs::After(Duration::from_millis(7));
            pair.connect();
            let want = if slow { (1 + usize::from(ppk), 1) } else { (0, 0) };
            assert_eq!((pair.a.asked, pair.b.asked), want, "{ppk}");
            assert_eq!(pair.a.ike.as_ref().unwrap().ppk, ppk);
            assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
        }
    }
}

#[test]
fn signatures_that_come_late_or_never() {
    use crate::testing::Jobs;
    // At the initiator, which has sent nothing yet; at the responder, whose answer waits for it.
    for at in [At::A, At::B] {
        for lost in [false, true] {
            let mut pair = Pair::new(1, signed(RSA, RSA).0, signed(RSA, RSA).1);
            pair.jobs = Jobs::Held;
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run(secs(1));
            if at == At::B {
                pair.run_held(At::A);
                pair.run(secs(1));
                // Repetitions cost nothing.
                let request = pair.a.sent.last().unwrap().clone();
                pair.inject(At::B, &request);
            }
            assert_eq!(pair.side(at).jobs.len(), 1);
            if lost {
                let (time, id) = (pair.time, pair.side(at).jobs.pop().unwrap().id());
                pair.side(at).endpoint.handle_job(time, id.lost());
                pair.drain(at);
                assert_eq!(pair.side(at).failures.pop().unwrap().cause, Cause::Unfinished);
                pair.run(secs(60));
                assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), Default::default());
                continue;
            }
            pair.run_held(at);
            pair.run(secs(1));
            pair.run_held(At::B);
            pair.run(secs(1));
            assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
        }
    }
    // One that never says so is given up; a tunnel that is taken down meanwhile needs none.
    for stop in [false, true] {
        let mut pair = Pair::new(1, signed(RSA, RSA).0, signed(RSA, RSA).1);
        pair.jobs = Jobs::Held;
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(1));
        if stop {
            pair.command(At::A, Command::Terminate(TUNNEL, true));
            pair.run_held(At::A);
        }
        pair.run(secs(60));
        assert_eq!(pair.a.failures.pop().map(|f| f.cause), (!stop).then_some(Cause::Unfinished));
        assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), Default::default());
    }
}
