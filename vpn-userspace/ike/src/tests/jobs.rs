//! Slow cryptography off the event loop: jobs that come back late, for SAs that are gone, in any number, or never.

use super::*;
use crate::testing::Jobs;
use crate::wire::{Chain, Exchange, Flags, Header, Payload, plain_message};
use crate::{Cause, DownReason, EndpointConfig, proposal::select};

/// Both sides with MODP for the IKE SA and for rekeying.
fn slow() -> (PeerConfig, PeerConfig) {
    both(|c| {
        c.ike_proposals = vec!["aes128gcm16-prfsha256-modp2048".parse().unwrap()];
        c.esp_proposals = vec!["aes128gcm16-modp2048".parse().unwrap()];
        c.dpd = None;
    })
}

fn slow_pair(jobs: Jobs) -> Pair {
    let (a, b) = slow();
    let mut pair = Pair::new(1, a, b);
    pair.jobs = jobs;
    pair
}

#[test]
fn a_fast_group_takes_no_job() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    assert_eq!((pair.a.asked, pair.b.asked), (0, 0));
}

#[test]
fn every_exchange_waits_for_its_jobs() {
    for wait in [Duration::ZERO, Duration::from_millis(5), secs(3)] {
        let mut pair = slow_pair(Jobs::After(wait));
        pair.connect();
        // A key pair and an agreement at the initiator, both in one at the responder.
        assert_eq!((pair.a.asked, pair.b.asked), (2, 1), "{wait:?}");
        for (at, want) in [(At::A, (4, 2)), (At::B, (5, 4))] {
            let old = pair.side(at).only_child().inbound();
            pair.command(at, Command::RekeyChild(old));
            pair.run(secs(20));
            assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
            assert_eq!(pair.side(at).gone.last(), Some(&(old, DownReason::Replaced)));
            assert_eq!((pair.a.asked, pair.b.asked), want);
        }
        for (at, want) in [(At::A, (7, 5)), (At::B, (8, 7))] {
            let old = pair.a.ike.clone().unwrap();
            pair.command(at, Command::RekeyIke(TUNNEL));
            pair.run(secs(20));
            assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
            assert_ne!(pair.a.ike.as_ref().unwrap().spi_initiator, old.spi_initiator);
            assert_eq!((pair.a.asked, pair.b.asked), want);
        }
        assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
        assert!(pair.a.jobs.is_empty() && pair.a.downs.is_empty() && pair.b.downs.is_empty());
    }
}

#[test]
fn repetitions_of_what_a_job_is_at_work_on_cost_nothing() {
    let mut pair = slow_pair(Jobs::Held);
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.a.sent.is_empty(), "nothing to send before there is a key pair");
    pair.run_held(At::A);
    let request = pair.a.sent[0].clone();
    pair.run(secs(1));
    assert_eq!(pair.b.jobs.len(), 1);
    for _ in 0..10 {
        pair.inject(At::B, &request);
    }
    assert_eq!((pair.b.jobs.len(), pair.b.endpoint.counts().half_open), (1, 1));
    pair.run_held(At::B);
    pair.run(secs(1));
    let response = pair.b.sent[0].clone();
    let sent = pair.a.sent.len();
    for _ in 0..10 {
        pair.inject(At::A, &response);
    }
    pair.run(secs(20));
    assert_eq!((pair.a.jobs.len(), pair.a.sent.len()), (1, sent), "the answer is there: nothing is repeated");
    pair.run_held(At::A);
    pair.run(secs(1));
    assert!(pair.agreed());

    // The same on an established IKE SA.
    let old = pair.a.only_child().inbound();
    pair.command(At::A, Command::RekeyChild(old));
    pair.run_held(At::A);
    let request = pair.a.sent.last().unwrap().clone();
    pair.run(secs(1));
    for _ in 0..10 {
        pair.inject(At::B, &request);
    }
    assert_eq!(pair.b.jobs.len(), 1);
    pair.run_held(At::B);
    let response = pair.b.sent.last().unwrap().clone();
    pair.run(secs(1));
    let sent = pair.a.sent.len();
    for _ in 0..10 {
        pair.inject(At::A, &response);
    }
    pair.run(secs(25));
    assert_eq!((pair.a.jobs.len(), pair.a.sent.len()), (1, sent), "an answer that waits is an answer");
    pair.run_held(At::A);
    pair.run(secs(1));
    assert!(pair.agreed() && pair.a.only_child().inbound() != old);
}

#[test]
fn jobs_of_dead_sas_are_dropped() {
    // Stopped while its key pair was made, and while its agreement was.
    for agree in [false, true] {
        let mut pair = slow_pair(Jobs::Held);
        pair.command(At::A, Command::Initiate(TUNNEL));
        if agree {
            pair.run_held(At::A);
            pair.run(secs(1));
            pair.run_held(At::B);
            pair.run(secs(1));
        }
        pair.command(At::A, Command::Terminate(TUNNEL, true));
        assert_eq!(pair.a.endpoint.counts().ike_sas, 0);
        pair.run_held(At::A);
        assert_eq!(pair.a.endpoint.counts().ike_sas, 0);
        pair.run(secs(60));
        assert_eq!(pair.b.endpoint.counts().ike_sas, 0);
    }
    // The responder's half-open one expired before its job came back; its tunnel is gone.
    for remove in [false, true] {
        let mut pair = slow_pair(Jobs::Held);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run_held(At::A);
        pair.run(secs(1));
        if remove {
            pair.command(At::B, Command::RemovePeer(TUNNEL));
        } else {
            pair.link.cut_to = Some(At::B);
            pair.run(secs(31));
        }
        pair.run_held(At::B);
        assert!(pair.b.sent.is_empty() && pair.b.endpoint.counts() == crate::Counts::default());
    }
    // The tunnel went down while each kind of job was at work for it.
    for ike in [false, true] {
        for stage in 0..3 {
            let mut pair = slow_pair(Jobs::AtOnce);
            pair.connect();
            pair.jobs = Jobs::Held;
            let command = match ike {
                true => Command::RekeyIke(TUNNEL),
                false => Command::RekeyChild(pair.a.only_child().inbound()),
            };
            pair.command(At::A, command);
            for at in [At::A, At::B].into_iter().take(stage) {
                pair.run_held(at);
                pair.run(secs(1));
            }
            assert_eq!(pair.a.jobs.len() + pair.b.jobs.len(), 1, "{ike} {stage}");
            pair.command(At::A, Command::Terminate(TUNNEL, true));
            for _ in 0..3 {
                pair.run(secs(1));
                pair.run_held(At::A);
                pair.run_held(At::B);
            }
            pair.run(secs(200));
            for side in [&pair.a, &pair.b] {
                assert_eq!(
                    side.endpoint.counts(),
                    crate::Counts::default(),
                    "{ike} {stage}: {:#?}",
                    side.log
                );
                assert_eq!(side.downs.len(), 1);
            }
        }
    }
}

#[test]
fn a_lost_job_fails_what_waits_for_it_and_no_more() {
    let mut pair = slow_pair(Jobs::Held);
    pair.command(At::A, Command::Initiate(TUNNEL));
    let lost = pair.a.jobs.pop().unwrap().id().lost();
    let time = pair.time;
    pair.a.endpoint.handle_job(time, lost);
    pair.drain(At::A);
    assert_eq!(pair.a.failures.pop().unwrap().cause, Cause::Unfinished);
    assert_eq!(pair.a.endpoint.counts().ike_sas, 0);
    // One that never says so is given up by the schedule of repetitions.
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(170));
    assert_eq!(pair.a.failures.pop().unwrap().cause, Cause::Unfinished);

    pair.jobs = Jobs::AtOnce;
    pair.connect();
    pair.jobs = Jobs::Held;
    // At each step of a rekey: it is tried again and the tunnel stands.
    for stage in 0..3 {
        let old = pair.a.only_child().inbound();
        pair.command(At::A, Command::RekeyChild(old));
        for at in [At::A, At::B].into_iter().take(stage) {
            pair.run_held(at);
            pair.run(secs(1));
        }
        let at = if stage == 1 { At::B } else { At::A };
        let lost = pair.side(at).jobs.pop().unwrap().id().lost();
        let time = pair.time;
        pair.side(at).endpoint.handle_job(time, lost);
        pair.drain(at);
        assert_eq!(pair.side(at).failures.pop().map(|f| f.cause), Some(Cause::Unfinished), "{stage}");
        pair.jobs = Jobs::AtOnce;
        pair.run(secs(20));
        assert!(pair.agreed() && pair.a.only_child().inbound() != old, "{stage}: {:#?}", pair.a.log);
        pair.jobs = Jobs::Held;
    }
}

#[test]
fn rekeys_collide_the_same_way_while_jobs_are_at_work() {
    for (ike, seed) in [false, true].into_iter().flat_map(|ike| (1..20).map(move |seed| (ike, seed))) {
        let (a, b) = slow();
        let mut pair = Pair::new(seed, a, b);
        pair.jobs = Jobs::After(Duration::from_millis(15));
        pair.link.jitter = Duration::from_millis(30);
        pair.connect();
        for at in [At::A, At::B] {
            let command = match ike {
                true => Command::RekeyIke(TUNNEL),
                false => Command::RekeyChild(pair.side(at).only_child().inbound()),
            };
            pair.command(at, command);
            pair.run(Duration::from_millis(seed * 3));
        }
        pair.run(secs(30));
        assert!(pair.agreed(), "{ike} {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        assert!(pair.a.downs.is_empty() && pair.b.downs.is_empty());
        let one = crate::Counts { ike_sas: 1, half_open: 0, spis: 1 };
        pair.run(secs(200));
        assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one, one), "{ike} {seed}");
    }
}

#[test]
fn a_flood_of_strangers_gets_a_bounded_number_of_jobs() {
    let (a, b) = slow();
    let limits = EndpointConfig {
        half_open_limit: 40,
        half_open_per_address: 8,
        cookie_threshold: 1000,
        cookie_threshold_per_address: 1000,
        ..EndpointConfig::default()
    };
    let mut pair = Pair::with(1, limits, a, PeerConfig { remote: None, ..b });
    pair.jobs = Jobs::Held;
    let offer = select::offer_ike(&pair_config().ike_proposals, &[]);
    let local = "192.0.2.2:500".parse().unwrap();
    for n in 0..2000u16 {
        let [high, low] = n.to_be_bytes();
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(offer.clone()));
        chain.push(&Payload::Ke { group: 14, data: &[2; 256] });
        chain.push(&Payload::Nonce(&[1; 32]));
        let flags = Flags { initiator: true, response: false };
        let spi_i = u64::from(n) + 1;
        let header = Header { spi_i, spi_r: 0, next: 0, exchange: Exchange::SaInit, flags, message_id: 0 };
        pair.inject_from(
            At::B,
            local,
            ([10, high, low % 16, 1], 500).into(),
            &plain_message(&header, &chain),
        );
    }
    assert_eq!((pair.b.jobs.len(), pair.b.endpoint.counts().half_open), (40, 40));
    assert!(pair.b.jobs.iter().all(|job| !job.proven()));
    pair.run_held(At::B);
    // The others were asked for a cookie, which costs next to nothing.
    assert_eq!((pair.b.sent.len(), pair.b.endpoint.counts().half_open), (2000, 40));
    pair.run(secs(61));
    assert_eq!(pair.b.endpoint.counts(), crate::Counts::default());
    // And whom we know is served again.
    pair.jobs = Jobs::AtOnce;
    pair.connect();
}

fn pair_config() -> PeerConfig {
    slow().0
}
