//! Additional key exchanges (RFC 9370) by IKE_INTERMEDIATE (RFC 9242) and IKE_FOLLOWUP_KE.

use super::*;
use crate::testing::Jobs;
use crate::wire::{Chain, Exchange, HEADER_LEN, Notify, Payload, kind, notify};
use crate::{Cause, DownReason, Phase};

const HYBRID: &str = "aes256gcm16-prfsha384-curve25519-ke1_mlkem768";
const ESP: &str = "aes256gcm16-curve25519-ke1_mlkem768";

fn with(ike: &'static [&str], esp: &'static [&str]) -> impl Fn(&mut PeerConfig) {
    move |c| {
        c.ike_proposals = ike.iter().map(|p| p.parse().unwrap()).collect();
        c.esp_proposals = esp.iter().map(|p| p.parse().unwrap()).collect();
    }
}

fn hybrid(seed: u64) -> Pair {
    let (a, b) = both(with(&[HYBRID], &[ESP]));
    Pair::new(seed, a, b)
}

/// How many messages of an exchange a side has sent, by the number of the exchange.
fn count(sent: &[Vec<u8>], exchange: u8) -> usize {
    // Of a fragmented message only the first counts.
    let first = |m: &&Vec<u8>| m[16] != kind::SKF || m[HEADER_LEN + 4..HEADER_LEN + 6] == [0, 1];
    sent.iter().filter(first).filter(|m| m[18] == exchange).count()
}

fn suite(pair: &Pair) -> String {
    assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
    let suites = [&pair.a, &pair.b].map(|side| side.ike.as_ref().unwrap().suite.to_string());
    assert_eq!(suites[0], suites[1]);
    suites[0].clone()
}

#[test]
fn each_exchange_has_its_rounds() {
    let mut pair = hybrid(1);
    pair.connect();
    assert_eq!(suite(&pair), HYBRID);
    let numbers: Vec<u8> = pair.a.sent.iter().map(|m| m[18]).collect();
    assert_eq!((numbers[0], numbers[1], *numbers.last().unwrap()), (34, 43, 35));
    assert_eq!((count(&pair.a.sent, 43), count(&pair.b.sent, 43)), (1, 1));
    // The first message of IKE_AUTH follows that of IKE_INTERMEDIATE.
    assert_eq!(pair.a.sent.last().unwrap()[20..24], [0, 0, 0, 2]);
    for at in [At::A, At::B] {
        let before = (count(&pair.a.sent, 44), count(&pair.b.sent, 44));
        let old = pair.side(at).only_child().inbound();
        pair.command(at, Command::RekeyChild(old));
        pair.run(secs(2));
        assert_eq!(suite(&pair), HYBRID);
        assert_eq!(pair.side(at).gone.last(), Some(&(old, DownReason::Replaced)));
        assert_eq!((count(&pair.a.sent, 44), count(&pair.b.sent, 44)), (before.0 + 1, before.1 + 1));
        let old = pair.a.ike.clone().unwrap().spi_initiator;
        pair.command(at, Command::RekeyIke(TUNNEL));
        pair.run(secs(2));
        assert_eq!(suite(&pair), HYBRID);
        assert_ne!(pair.a.ike.as_ref().unwrap().spi_initiator, old);
        assert_eq!((count(&pair.a.sent, 44), count(&pair.b.sent, 44)), (before.0 + 2, before.1 + 2));
    }
    pair.run(secs(40));
    let one = crate::Counts { ike_sas: 1, half_open: 0, spis: 1 };
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one, one));
}

/// Seven rounds, fast and slow methods among them, and jobs that take their time.
#[test]
fn seven_additional_key_exchanges() {
    const IKE: &str = "aes128gcm16-prfsha256-curve25519-ke1_ecp256-ke2_mlkem512-ke3_ecp384-ke4_mlkem1024\
                       -ke5_modp2048-ke6_mlkem768-ke7_ecp521";
    const ESP: &str = "aes128gcm16-mlkem768-ke2_ecp256-ke7_mlkem512";
    for wait in [Duration::ZERO, Duration::from_millis(30)] {
        let (a, b) = both(with(&[IKE], &[ESP]));
        let mut pair = Pair::new(2, a, b);
        pair.jobs = Jobs::After(wait);
        pair.connect();
        assert_eq!(suite(&pair), IKE);
        assert_eq!((count(&pair.a.sent, 43), count(&pair.b.sent, 43)), (7, 7));
        for at in [At::B, At::A] {
            let old = pair.side(at).only_child().inbound();
            pair.command(at, Command::RekeyChild(old));
            pair.command(at, Command::RekeyIke(TUNNEL));
            pair.run(secs(10));
            assert_eq!(suite(&pair), IKE);
            assert_eq!(count(&pair.side(at).sent, 44), 18 - 9 * usize::from(at == At::B));
        }
    }
}

#[test]
fn peers_without_are_met_where_that_is_allowed() {
    const PLAIN: &str = "aes256gcm16-prfsha384-curve25519";
    const EITHER: &str = "aes256gcm16-prfsha384-curve25519-ke1_mlkem768-ke1_none";
    for ours in [&[HYBRID, PLAIN][..], &[EITHER]] {
        let mut c = [config(At::A), config(At::B)];
        for (c, ike) in c.iter_mut().zip([ours, &[PLAIN]]) {
            c.ike_proposals = ike.iter().map(|p| p.parse().unwrap()).collect();
        }
        for ours_begins in [true, false] {
            let [a, b] = &mut c;
            std::mem::swap(&mut a.ike_proposals, &mut b.ike_proposals);
            let mut pair = Pair::new(1, a.clone(), b.clone());
            pair.connect();
            pair.command(At::A, Command::RekeyIke(TUNNEL));
            pair.run(secs(2));
            assert_eq!(suite(&pair), PLAIN, "{ours_begins}");
            assert_eq!(count(&pair.a.sent, 43) + count(&pair.a.sent, 44), 0);
        }
    }
    let (mut a, b) = both(with(&[HYBRID], &["aes128gcm16"]));
    a.ike_proposals = vec![PLAIN.parse().unwrap()];
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(1));
    assert_eq!(pair.a.failures[0].cause, Cause::ProposalsRefused);
    assert!(pair.b.failures[0].offered_local.contains("ke1_mlkem768"), "{}", pair.b.failures[0]);
}

/// ML-KEM's values are larger than the path takes.
#[test]
fn rounds_pass_a_narrow_path_with_loss_and_disorder() {
    for seed in 1..25 {
        let mut pair = hybrid(seed);
        pair.link.mtu = Some(576);
        pair.link.jitter = Duration::from_millis(60);
        (pair.link.loss, pair.link.duplicate) = (0.08, 0.2);
        pair.connect();
        assert!(pair.a.sent.iter().any(|m| m[18] == 43 && m[16] == kind::SKF));
        for at in [At::A, At::B] {
            let child = pair.side(at).children.keys().next().copied().unwrap();
            pair.command(at, Command::RekeyChild(child));
            pair.run(secs(25));
            let time = pair.time;
            let _ = pair.side(at).endpoint.handle_command(time, Command::RekeyIke(TUNNEL));
            pair.drain(at);
            pair.run(secs(25));
        }
        pair.link = crate::testing::Link::default();
        pair.run(secs(200));
        assert!(pair.agreed(), "{seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        assert_eq!(pair.a.ike.as_ref().unwrap().suite.to_string(), HYBRID);
    }
}

/// A round that belongs to nothing, or is of another method, costs nobody more than the exchange that it names.
#[test]
fn strange_rounds_are_refused() {
    let mut pair = hybrid(1);
    pair.connect();
    for link in [&[][..], &[7; 8]] {
        let mut chain = Chain::new();
        chain.push(&Payload::Ke { group: 36, data: &[1; 1184] });
        chain.push(&Payload::Notify(Notify::new(notify::ADDITIONAL_KEY_EXCHANGE, link)));
        let forged = pair.a.endpoint.forge(TUNNEL, Exchange::FollowupKe, &chain);
        let before = pair.b.sent.len();
        for datagram in forged.datagrams().cloned().collect::<Vec<_>>() {
            pair.inject(At::B, &datagram);
        }
        assert_eq!(pair.b.sent.len(), before + 1, "it is answered, with STATE_NOT_FOUND");
        // The peer's answer used this id up; its owner goes on.
        let time = pair.time;
        pair.a
            .endpoint
            .task(time, TUNNEL, |sa| sa.window = crate::window::Window::new(sa.window.next_id() + 1, 0));
    }
    assert!(pair.agreed() && pair.b.failures.is_empty());
    pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
    pair.run(secs(2));
    assert!(pair.agreed() && pair.a.failures.is_empty(), "{:#?}", pair.a.log);
}

/// In IKE_INTERMEDIATE, an error of the responder ends the negotiation with its name, in that phase.
#[test]
fn a_peer_that_falls_silent_between_the_rounds() {
    let mut pair = hybrid(1);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(Duration::from_millis(45));
    pair.link.cut_to = Some(At::A);
    pair.run(secs(300));
    let failure = pair.a.failures.pop().unwrap();
    assert_eq!(failure.phase, Phase::Intermediate, "{failure}");
    assert!(matches!(failure.cause, Cause::GoneAfterInit(_)));
    let none = crate::Counts::default();
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (none, none));
    // On an established IKE SA, in the rounds of a rekey: nothing is left over at either side.
    pair.link.cut_to = None;
    pair.connect();
    for command in [Command::RekeyIke(TUNNEL), Command::RekeyChild(pair.a.only_child().inbound())] {
        pair.command(At::A, command);
        pair.run(Duration::from_millis(45));
        assert!(count(&pair.a.sent, 44) > 0);
        pair.link.loss = 1.0;
        pair.run(secs(8));
        pair.link.loss = 0.0;
        pair.run(secs(40));
        assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    }
    let one = crate::Counts { ike_sas: 1, half_open: 0, spis: 1 };
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one, one));
}

#[test]
fn jobs_of_rounds_come_late_or_never() {
    // Held at each stage: initiator's pair, responder's half, initiator's agreement.
    for lost in [false, true] {
        for stage in 0..3 {
            let mut pair = hybrid(1);
            pair.jobs = Jobs::Held;
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run(secs(1));
            for at in [At::A, At::B].into_iter().take(stage) {
                pair.run_held(at);
                pair.run(secs(1));
            }
            let at = if stage == 1 { At::B } else { At::A };
            assert_eq!(pair.side(at).jobs.len(), 1, "{stage}");
            if lost {
                let id = pair.side(at).jobs.pop().unwrap().id();
                let time = pair.time;
                pair.side(at).endpoint.handle_job(time, id.lost());
                pair.drain(at);
                pair.run(secs(1));
                assert!(!pair.a.failures.is_empty(), "{stage}: {:#?}", pair.a.log);
            } else {
                pair.command(At::A, Command::Terminate(TUNNEL, true));
                pair.run_held(at);
            }
            pair.run(secs(40));
            let none = crate::Counts::default();
            assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (none, none), "{lost} {stage}");
        }
    }
}
