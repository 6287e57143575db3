//! Negotiations and tunnels that fail: what each side is told, and that nothing stays behind.

use std::net::SocketAddr;

use culvert_types::TrafficSelector;

use super::*;
use crate::{
    Auth, Blame, Cause, Counts, DownReason, Dpd, EspProposal, Failure, Identity, IkeProposal, Phase, Psk,
};

/// Runs an initiation to its end and gives the failures of both sides.
fn fail(a: PeerConfig, b: PeerConfig) -> (Pair, Failure, Failure) {
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(5));
    assert_eq!((pair.a.failures.len(), pair.b.failures.len()), (1, 1), "{:#?} {:#?}", pair.a.log, pair.b.log);
    let (a, b) = (pair.a.failures[0].clone(), pair.b.failures[0].clone());
    (pair, a, b)
}

fn nothing_left(pair: &mut Pair) {
    pair.run(secs(400));
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (Counts::default(), Counts::default()));
    assert!(pair.a.ike.is_none() && pair.b.ike.is_none());
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
}

#[test]
fn wrong_psk() {
    let (a, mut b) = both(|_| {});
    b.auth = Auth::psk(Psk::new("incorrect horse").unwrap());
    let (mut pair, a, b) = fail(a, b);
    assert_eq!(
        (a.phase, a.blame, a.cause.clone()),
        (Phase::IkeAuth, Blame::Configuration, Cause::AuthenticationRefused)
    );
    assert_eq!(b.cause, Cause::WrongPsk(Identity::parse("a.example").unwrap()));
    assert_eq!((b.phase, b.blame, b.tunnel), (Phase::IkeAuth, Blame::Configuration, Some(TUNNEL)));
    assert_eq!(
        b.to_string(),
        "test/b: IKE_AUTH failed: the peer a.example does not have our pre-shared key; fault: configuration; \
         to mend: set the same pre-shared key on both sides (RFC 7296 2.15)"
    );
    assert!(!format!("{a} {b} {a:?} {b:?}").contains("horse"));
    nothing_left(&mut pair);
}

#[test]
fn wrong_remote_id() {
    let (a, mut b) = both(|_| {});
    b.remote_id = Some(Identity::parse("c.example").unwrap());
    let (mut pair, a, b) = fail(a, b);
    assert_eq!(a.cause, Cause::AuthenticationRefused);
    assert_eq!(a.offered_local, "local id a.example, remote id b.example");
    let (expected, got) = (Identity::parse("c.example").unwrap(), Identity::parse("a.example").unwrap());
    assert_eq!(b.cause, Cause::WrongRemoteId { expected, got });
    nothing_left(&mut pair);
}

#[test]
fn asked_for_somebody_else() {
    let (mut a, b) = both(|_| {});
    a.remote_id = Some(Identity::parse("x.example").unwrap());
    let (mut pair, a, b) = fail(a, b);
    assert_eq!(a.cause, Cause::AuthenticationRefused);
    let remote = Identity::parse("a.example").unwrap();
    assert_eq!(b.cause, Cause::NoSuchPeer { local: "x.example".into(), remote });
    assert_eq!(b.offered_local, "local id b.example, remote id a.example");
    nothing_left(&mut pair);
}

#[test]
fn no_common_ike_proposal_names_both_sides() {
    let (mut a, mut b) = both(|_| {});
    a.ike_proposals =
        ["aes128-sha1-modp2048", "aes128gcm16-prfsha256-ecp256"].map(|p| p.parse().unwrap()).to_vec();
    b.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha384-ecp384").unwrap()];
    let (mut pair, a, b) = fail(a, b);
    assert_eq!(
        (a.phase, a.cause.clone(), a.blame),
        (Phase::IkeSaInit, Cause::ProposalsRefused, Blame::Configuration)
    );
    assert_eq!(a.offered_local, "aes128-sha1-prfsha1-modp2048, aes128gcm16-prfsha256-ecp256");
    assert_eq!((b.phase, b.cause.clone()), (Phase::IkeSaInit, Cause::NoProposal));
    assert_eq!(b.offered_local, "aes256gcm16-prfsha384-ecp384");
    assert_eq!(b.offered_remote, "aes128-sha1-prfsha1-modp2048, aes128gcm16-prfsha256-ecp256");
    nothing_left(&mut pair);
}

#[test]
fn no_common_esp_proposal_leaves_the_ike_sa_up() {
    let (mut a, b) = both(|_| {});
    a.esp_proposals = vec![EspProposal::parse("aes256-sha256").unwrap()];
    let (mut pair, fa, fb) = fail(a.clone(), b);
    assert_eq!((fa.phase, fa.cause.clone()), (Phase::ChildSa, Cause::ProposalsRefused));
    assert_eq!((fb.phase, fb.cause.clone()), (Phase::ChildSa, Cause::NoProposal));
    assert_eq!(
        (fb.offered_local.as_str(), fb.offered_remote.as_str()),
        ("aes128gcm16", "aes256-sha256-esn-noesn")
    );
    assert!(pair.a.ike.is_some() && pair.b.ike.is_some());
    assert_eq!((pair.a.endpoint.counts().spis, pair.b.endpoint.counts().spis), (0, 0));
    // Mended: the CHILD SA comes up on the IKE SA that is there.
    let ike = pair.a.ike.clone();
    a.esp_proposals = vec![EspProposal::parse("aes128gcm16").unwrap()];
    pair.command(At::A, Command::AddPeer(TUNNEL, Box::new(a)));
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(5), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert_eq!(pair.a.ike.map(|i| i.spi_initiator), ike.map(|i| i.spi_initiator));
}

#[test]
fn no_common_selectors_leave_the_ike_sa_up() {
    let (mut a, b) = both(|_| {});
    a.remote_ts = vec![TrafficSelector::from_net("10.99.0.0/16".parse().unwrap())];
    let (pair, a, b) = fail(a, b);
    assert_eq!(
        (a.phase, a.cause.clone(), a.blame),
        (Phase::ChildSa, Cause::SelectorsRefused, Blame::Configuration)
    );
    assert_eq!(a.offered_local, "10.1.0.0/16 === 10.99.0.0/16");
    assert_eq!((b.phase, b.cause.clone()), (Phase::ChildSa, Cause::NoSelectors));
    assert_eq!(
        (b.offered_local.as_str(), b.offered_remote.as_str()),
        ("10.2.0.0/16 === 10.1.0.0/16", "10.1.0.0/16 === 10.99.0.0/16")
    );
    assert!(pair.a.ike.is_some() && pair.b.ike.is_some() && pair.a.children.is_empty());
}

#[test]
fn unknown_address() {
    let (a, mut b) = both(|_| {});
    b.remote = Some(SocketAddr::from(([198, 51, 100, 1], 500)));
    let (mut pair, a, b) = fail(a, b);
    assert_eq!(a.cause, Cause::ProposalsRefused);
    let (local, remote) = ([192, 0, 2, 2].into(), [192, 0, 2, 1].into());
    assert_eq!((b.tunnel, b.cause), (None, Cause::UnknownAddress { local, remote }));
    nothing_left(&mut pair);
}

#[test]
fn silent_peer() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.link.cut_to = Some(At::B);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(164));
    assert!(pair.a.failures.is_empty());
    assert_eq!(pair.a.sent.len(), 6);
    pair.run(secs(2));
    let failure = &pair.a.failures[0];
    assert_eq!((failure.phase, failure.blame), (Phase::IkeSaInit, Blame::Network));
    assert!(matches!(failure.cause, Cause::Silent(after) if after.as_secs() == 165));
    nothing_left(&mut pair);
}

#[test]
fn gone_after_ike_sa_init() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(1), |p| p.b.endpoint.counts().half_open == 1));
    pair.link.cut_to = Some(At::B);
    pair.run(secs(200));
    let failure = &pair.a.failures[0];
    assert_eq!((failure.phase, failure.blame), (Phase::IkeAuth, Blame::Network));
    assert!(matches!(failure.cause, Cause::GoneAfterInit(after) if after.as_secs() == 165));
    assert!(pair.b.failures.is_empty());
    nothing_left(&mut pair);
}

#[test]
fn a_half_open_ike_sa_lives_30_seconds() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(1), |p| p.b.endpoint.counts().half_open == 1));
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    pair.link.cut_to = Some(At::B);
    pair.run(secs(29));
    assert_eq!(pair.b.endpoint.counts().half_open, 1);
    pair.run(secs(2));
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

#[test]
fn a_dead_peer_is_noticed_by_both() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair.run(secs(60));
    assert!(pair.agreed());
    pair.link.cut_to = Some(At::B);
    let cut = pair.elapsed();
    assert!(pair.run_until(secs(60), |p| p.a.ike.is_none()));
    // 10 s of silence, then 30 s without an answer.
    assert!((pair.elapsed() - cut).as_secs() <= 40);
    assert_eq!(pair.a.downs, [DownReason::LivenessTimeout]);
    assert_eq!((pair.a.failures[0].phase, pair.a.failures[0].blame), (Phase::Informational, Blame::Network));
    // B hears A's questions no more either.
    assert!(pair.run_until(secs(120), |p| p.b.ike.is_none()));
    assert_eq!(pair.b.downs, [DownReason::LivenessTimeout]);
    nothing_left(&mut pair);
}

#[test]
fn a_living_peer_is_not_asked() {
    let (a, mut b) = both(|_| {});
    b.dpd = Some(Dpd { interval: secs(3), timeout: secs(30) });
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let sent = pair.a.sent.len();
    pair.run(secs(300));
    assert!(pair.agreed());
    // A answers B's questions and asks none of its own: B's are proof of life.
    let asked = pair.b.sent.iter().skip(2).filter(|m| m[19] & 0x20 == 0).count();
    assert_eq!(pair.a.sent.len() - sent, asked);
    assert!(asked >= 90);
}

#[test]
fn terminate_tells_the_peer() {
    for at in [At::A, At::B] {
        let (a, b) = both(|_| {});
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        pair.command(at, Command::Terminate(TUNNEL, true));
        // Here at once, there as soon as it is told.
        assert_eq!(pair.side(at).downs, [DownReason::LocalRequest]);
        pair.run(secs(1));
        assert_eq!(pair.side(at.other()).downs, [DownReason::PeerDeleted]);
        nothing_left(&mut pair);
    }
}

#[test]
fn terminate_without_a_word() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let sent = pair.a.sent.len();
    pair.command(At::A, Command::Terminate(TUNNEL, false));
    assert_eq!((pair.a.sent.len(), pair.a.downs.len()), (sent, 1));
    assert!(pair.run_until(secs(60), |p| p.b.ike.is_none()));
    assert_eq!(pair.b.downs, [DownReason::LivenessTimeout]);
    nothing_left(&mut pair);
}

#[test]
fn both_terminate_at_the_same_time() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    pair.command(At::B, Command::Terminate(TUNNEL, true));
    pair.run(secs(1));
    assert_eq!((pair.a.downs.len(), pair.b.downs.len()), (1, 1));
    nothing_left(&mut pair);
}

#[test]
fn shutdown_and_removal_say_goodbye() {
    for command in [Command::Shutdown, Command::RemovePeer(TUNNEL)] {
        let (a, b) = both(|_| {});
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        pair.command(At::A, command);
        assert_eq!(pair.a.downs, [DownReason::LocalRequest]);
        pair.run(secs(1));
        assert_eq!(pair.b.downs, [DownReason::PeerDeleted]);
        nothing_left(&mut pair);
        let time = pair.time;
        assert!(pair.a.endpoint.handle_command(time, Command::Initiate(TUNNEL)).is_err());
    }
}

#[test]
fn a_pfs_mismatch_is_explained_at_the_first_rekey() {
    let (a, mut b) = both(|c| c.child_lifetime = secs(100));
    b.esp_proposals = vec![EspProposal::parse("aes128gcm16-ecp256").unwrap()];
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
    pair.run(secs(1));
    let (a, b) = (&pair.a.failures[0], &pair.b.failures[0]);
    assert_eq!((a.phase, a.cause.clone()), (Phase::RekeyChild, Cause::ProposalsRefused));
    assert_eq!((b.phase, b.cause.clone()), (Phase::RekeyChild, Cause::NoGroup));
    assert_eq!(
        (b.offered_local.as_str(), b.offered_remote.as_str()),
        ("aes128gcm16-ecp256", "aes128gcm16-esn-noesn")
    );
    assert!(pair.agreed(), "the old SA goes on");
    // It is tried again, and when the time is up the SA goes and the IKE SA stays.
    pair.run(secs(120));
    assert!(pair.a.failures.len() > 2 && pair.a.children.is_empty() && pair.b.children.is_empty());
    assert!(pair.a.gone.iter().chain(&pair.b.gone).any(|(_, reason)| *reason == DownReason::Expired));
    assert!(pair.a.ike.is_some() && pair.b.ike.is_some());
    assert_eq!((pair.a.endpoint.counts().spis, pair.b.endpoint.counts().spis), (0, 0));
}

#[test]
fn an_ike_sa_that_cannot_be_rekeyed_expires() {
    let (a, mut b) = both(|c| c.ike_lifetime = secs(100));
    b.ike_lifetime = secs(10_000);
    let mut pair = Pair::new(1, a, b.clone());
    pair.connect();
    b.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha384-ecp384").unwrap()];
    pair.command(At::B, Command::AddPeer(TUNNEL, Box::new(b)));
    pair.run(secs(115));
    assert_eq!(
        (pair.a.downs.clone(), pair.b.downs.clone()),
        (vec![DownReason::Expired], vec![DownReason::PeerDeleted])
    );
    let phases: Vec<_> = pair.a.failures.iter().map(|f| (f.phase, f.cause.clone())).collect();
    assert_eq!(phases.first(), Some(&(Phase::RekeyIke, Cause::ProposalsRefused)));
    assert_eq!(phases.last(), Some(&(Phase::RekeyIke, Cause::Expired)));
    assert_eq!(pair.b.failures[0].cause, Cause::NoProposal);
    nothing_left(&mut pair);
}

#[test]
fn impossible_configurations_and_commands_are_refused() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a.clone(), b);
    let time = pair.time;
    let refused = |pair: &mut Pair, change: &dyn Fn(&mut PeerConfig)| {
        let mut c = a.clone();
        change(&mut c);
        pair.a.endpoint.handle_command(time, Command::AddPeer(TUNNEL, Box::new(c))).unwrap_err().to_string()
    };
    assert!(refused(&mut pair, &|c| c.ike_proposals.clear()).contains("no IKE proposals"));
    assert!(refused(&mut pair, &|c| c.local_ts.clear()).contains("no local traffic selectors"));
    assert!(
        refused(&mut pair, &|c| c.remote = Some("[::1]:500".parse().unwrap())).contains("different families")
    );
    assert!(refused(&mut pair, &|c| c.child_lifetime = secs(1)).contains("too short"));
    let nobody = crate::testing::TUNNEL.0 + 1;
    let unknown = pair.a.endpoint.handle_command(time, Command::Initiate(culvert_types::TunnelId(nobody)));
    assert_eq!(unknown.unwrap_err().to_string(), "tunnel#2 is not known");
    assert!(pair.a.endpoint.handle_command(time, Command::RekeyIke(TUNNEL)).is_err());
    pair.command(At::A, Command::AddPeer(TUNNEL, Box::new(PeerConfig { remote: None, ..a })));
    assert!(pair.a.endpoint.handle_command(time, Command::Initiate(TUNNEL)).is_err());
}
