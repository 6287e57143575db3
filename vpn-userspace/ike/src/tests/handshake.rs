//! IKE_SA_INIT and IKE_AUTH that succeed: algorithms, groups, NAT, selectors, cookies.

use std::net::{IpAddr, SocketAddr};

use culvert_crypto::{DhGroup, Prf, Suite};
use culvert_types::TrafficSelector;

use super::*;
use crate::{DownReason, EndpointConfig, EspProposal, Identity, IkeProposal, Parity};

/// Every suite, every group and every PRF in a whole handshake: each suite once, with the groups that are fast and
/// the PRFs by turns; then each group, some of which take tens of milliseconds, with one suite.
#[test]
fn every_suite_prf_and_group() {
    let fast = [DhGroup::Curve25519, DhGroup::Ecp256, DhGroup::Ecp384, DhGroup::MlKem768];
    let in_turn = Suite::all().enumerate().map(|(i, suite)| (suite, fast[i % 4], Prf::ALL[i % 7]));
    let gcm = Suite::all().find(|s| s.to_string() == "aes128gcm16").unwrap();
    let groups = DhGroup::ALL.into_iter().enumerate().map(|(i, group)| (gcm, group, Prf::ALL[i % 7]));
    for (suite, group, prf) in in_turn.chain(groups) {
        // GMAC serves ESP alone.
        let protection = if suite.serves_ike() { suite } else { gcm };
        let ike = IkeProposal::parse(&format!("{protection}-{prf}-{group}")).unwrap();
        let (a, b) = both(|c| {
            c.ike_proposals = vec![ike.clone()];
            c.esp_proposals = vec![EspProposal::parse(&suite.to_string()).unwrap()];
        });
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        let info = pair.a.ike.as_ref().unwrap();
        assert_eq!(info.suite.to_string(), format!("{protection}-{prf}-{group}"));
        let (a, b) = (pair.a.only_child(), pair.b.only_child());
        assert_eq!((a.suite(), b.suite(), a.esn(), b.esn()), (suite, suite, true, true));
        assert_eq!(a.inbound_keys(), b.outbound_keys());
        assert_ne!(a.inbound_keys(), a.outbound_keys());
        assert_eq!(a.inbound_keys().encryption().len(), suite.encryption_key_len());
        assert_eq!(a.inbound_keys().integrity().len(), suite.integrity_key_len());
    }
}

#[test]
fn another_group_than_guessed_costs_one_round_trip() {
    let proposals = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect::<Vec<IkeProposal>>();
    let (mut a, mut b) = both(|_| {});
    a.ike_proposals = proposals(&["aes128gcm16-prfsha256-curve25519-ecp256-ecp384"]);
    b.ike_proposals = proposals(&["aes128gcm16-prfsha256-ecp384"]);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    assert_eq!(pair.a.ike.as_ref().unwrap().suite.group, DhGroup::Ecp384);
    assert_eq!(pair.a.sent.len(), 3, "two IKE_SA_INIT, one IKE_AUTH");
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
}

#[test]
fn the_responders_preference_decides() {
    let proposals = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect::<Vec<IkeProposal>>();
    let (mut a, mut b) = both(|_| {});
    a.ike_proposals =
        proposals(&["aes128-sha1-modp2048", "aes256gcm16-prfsha384-ecp384", "aes128-sha256-ecp256"]);
    b.ike_proposals = proposals(&[
        "chacha20poly1305-prfsha256-ecp256",
        "aes256gcm16-prfsha384-ecp384",
        "aes128-sha1-modp2048",
    ]);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    assert_eq!(pair.b.ike.as_ref().unwrap().suite.to_string(), "aes256gcm16-prfsha384-ecp384");
}

fn encap(pair: &Pair) -> [Option<(SocketAddr, SocketAddr)>; 2] {
    [pair.a.only_child().encap(), pair.b.only_child().encap()]
}

#[test]
fn without_a_nat_esp_is_plain_and_ike_stays_on_500() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    assert_eq!(encap(&pair), [None, None]);
    assert_eq!(pair.a.ike.as_ref().unwrap().remote.port(), 500);
    assert_eq!(pair.a.only_child().remote(), pair.b.only_child().local());
}

#[test]
fn behind_a_nat_everything_moves_to_4500() {
    let (a, mut b) = both(|_| {});
    b.remote = None;
    let mut pair = Pair::new(1, a, b);
    pair.link.nat = Some(0);
    pair.connect();
    let (a, b) = (pair.a.ike.clone().unwrap(), pair.b.ike.clone().unwrap());
    assert_eq!((a.nat_local, a.nat_remote, b.nat_local, b.nat_remote), (true, false, false, true));
    let addr = |s: &str| Some(s.parse::<SocketAddr>().unwrap());
    let both = |l, r| addr(l).zip(addr(r));
    assert_eq!(
        encap(&pair),
        [both("192.0.2.1:4500", "192.0.2.2:4500"), both("192.0.2.2:4500", "203.0.113.1:44500")]
    );
    // RFC 3948 4: the one behind the NAT keeps its mapping alive.
    pair.link.cut_to = None;
    pair.run(secs(65));
    assert!(pair.a.keepalives == 0 || pair.a.keepalives <= 3);
    assert_eq!(pair.b.keepalives, 0);
}

#[test]
fn nat_keepalives_go_out_when_nothing_else_does() {
    let (a, mut b) = both(|c| c.dpd = None);
    b.remote = None;
    let mut pair = Pair::new(1, a, b);
    pair.link.nat = Some(0);
    pair.connect();
    pair.run(secs(101));
    assert_eq!((pair.a.keepalives, pair.b.keepalives), (5, 0));
}

#[test]
fn forced_encapsulation_by_either_side() {
    for (force_a, force_b) in [(true, false), (false, true), (true, true)] {
        let (mut a, mut b) = both(|_| {});
        (a.force_encap, b.force_encap) = (force_a, force_b);
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        let [a, b] = encap(&pair);
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.0, a.1), (b.1, b.0), "{force_a} {force_b}");
        assert_eq!((a.0.port(), a.1.port()), (4500, 4500));
    }
}

#[test]
fn a_peer_that_moves_is_followed_after_it_proves_itself() {
    let (a, mut b) = both(|_| {});
    b.remote = None;
    let mut pair = Pair::new(1, a, b);
    pair.link.nat = Some(0);
    pair.connect();
    pair.link.nat = Some(7);
    // A forged message from elsewhere moves nothing.
    let mut forged = pair.a.sent.last().unwrap().clone();
    *forged.last_mut().unwrap() ^= 1;
    let (to, from) = ("192.0.2.2:4500".parse().unwrap(), "198.51.100.9:4500".parse().unwrap());
    pair.inject_from(At::B, to, from, &forged);
    assert!(pair.b.moves.is_empty());
    pair.command(At::A, Command::CheckLiveness(TUNNEL));
    pair.run(secs(1));
    assert_eq!(pair.b.moves, ["203.0.113.1:44507".parse().unwrap()]);
    assert!(pair.a.moves.is_empty(), "the NAT's inside does not move");
    assert!(pair.agreed());
    // The next CHILD SA goes there.
    pair.command(At::B, Command::RekeyChild(pair.b.only_child().inbound()));
    assert!(pair.run_until(secs(20), Pair::agreed));
    pair.run(secs(10));
    assert_eq!(pair.b.only_child().encap().unwrap().1.port(), 44507);
}

#[test]
fn ipv6_outside_and_inside() {
    let ip = |at| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, if at == At::A { 1 } else { 2 }]);
    let make = |at: At| {
        let mut c = config(at);
        (c.local, c.local_natt) = (SocketAddr::new(ip(at), 500), SocketAddr::new(ip(at), 4500));
        c.remote = Some(SocketAddr::new(ip(at.other()), 500));
        (c.local_id, c.remote_id) = (ip(at).into(), Some(ip(at.other()).into()));
        let nets = |at| match at {
            At::A => vec!["2001:db8:a::/48".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
            At::B => vec!["2001:db8:b::/48".parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
        };
        let selectors = |at| nets(at).into_iter().map(TrafficSelector::from_net).collect::<Vec<_>>();
        (c.local_ts, c.remote_ts) = (selectors(at), selectors(at.other()));
        c
    };
    let mut pair = Pair::new(1, make(At::A), make(At::B));
    pair.connect();
    let (a, b) = (pair.a.only_child(), pair.b.only_child());
    assert_eq!((a.local(), a.remote()), (ip(At::A), ip(At::B)));
    assert_eq!((a.local_ts(), a.remote_ts()), (b.remote_ts(), b.local_ts()));
    assert_eq!(
        format!("{:?} {:?}", a.local_ts(), a.remote_ts()),
        "[2001:db8:a::/48, 10.1.0.0/16] [2001:db8:b::/48, 10.2.0.0/16]"
    );
}

#[test]
fn selectors_are_narrowed_by_the_responder() {
    let list = |nets: &[&str]| {
        nets.iter().map(|n| TrafficSelector::from_net(n.parse().unwrap())).collect::<Vec<_>>()
    };
    let (mut a, mut b) = both(|_| {});
    (a.local_ts, a.remote_ts) = (list(&["10.1.0.0/16", "10.3.0.0/16"]), list(&["0.0.0.0/0"]));
    (b.local_ts, b.remote_ts) =
        (list(&["10.2.0.0/16", "10.4.0.0/24"]), list(&["10.1.128.0/17", "10.9.0.0/16"]));
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let (a, b) = (pair.a.only_child(), pair.b.only_child());
    assert_eq!(
        format!("{:?} {:?}", a.local_ts(), a.remote_ts()),
        "[10.1.128.0/17] [10.2.0.0/16, 10.4.0.0/24]"
    );
    assert_eq!((a.local_ts(), a.remote_ts()), (b.remote_ts(), b.local_ts()));
}

#[test]
fn extended_sequence_numbers_only_when_both_want_them() {
    for (want_a, want_b) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut a, mut b) = both(|_| {});
        (a.esn, b.esn) = (want_a, want_b);
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        assert_eq!(pair.a.only_child().esn(), want_a && want_b);
        assert_eq!(pair.b.only_child().esn(), want_a && want_b);
    }
}

#[test]
fn spis_have_the_parity_asked_for() {
    let (mut a, mut b) = both(|_| {});
    (a.spi_parity, b.spi_parity) = (Some(Parity::Even), Some(Parity::Odd));
    for seed in 0..8 {
        let mut pair = Pair::new(seed, a.clone(), b.clone());
        pair.connect();
        assert_eq!(pair.a.only_child().inbound().value() & 1, 0);
        assert_eq!(pair.b.only_child().inbound().value() & 1, 1);
    }
}

#[test]
fn the_responder_picks_the_tunnel_by_ids_and_key() {
    use crate::{Auth, Psk};
    use culvert_types::TunnelId;
    let (a, b) = both(|_| {});
    // Three tunnels with anybody: for another peer, for anyone with another key, for anyone with this key.
    let other =
        PeerConfig { remote: None, remote_id: Some(Identity::parse("c.example").unwrap()), ..b.clone() };
    let wrong_key = PeerConfig {
        remote: None,
        remote_id: None,
        auth: Auth::psk(Psk::new("another key").unwrap()),
        ..b.clone()
    };
    let right = PeerConfig { remote: None, remote_id: None, ..b.clone() };
    let mut pair = Pair::new(1, a, other);
    pair.command(At::B, Command::AddPeer(TunnelId(2), Box::new(wrong_key)));
    pair.command(At::B, Command::AddPeer(TunnelId(3), Box::new(right)));
    pair.connect();
    assert_eq!(pair.b.only_child().tunnel(), TunnelId(3));
    assert_eq!(pair.b.ike.as_ref().unwrap().remote_id, Identity::parse("A.example").unwrap());
}

#[test]
fn cookies_under_load() {
    let (a, b) = both(|_| {});
    let limits = EndpointConfig { cookie_threshold: 0, ..EndpointConfig::default() };
    let mut pair = Pair::with(1, limits, a, b);
    pair.connect();
    assert_eq!(pair.a.sent.len(), 3, "IKE_SA_INIT, again with the cookie, IKE_AUTH");
    assert_eq!(pair.b.endpoint.counts().half_open, 0);
    // The cookie and another group, in any order.
    let (mut a, mut b) = both(|_| {});
    a.ike_proposals = vec!["aes128gcm16-prfsha256-curve25519-ecp256".parse().unwrap()];
    b.ike_proposals = vec!["aes128gcm16-prfsha256-ecp256".parse().unwrap()];
    let limits = EndpointConfig { cookie_threshold: 0, ..EndpointConfig::default() };
    let mut pair = Pair::with(1, limits, a, b);
    pair.connect();
    assert_eq!(pair.a.sent.len(), 4);
}

#[test]
fn both_sides_open_at_the_same_time() {
    for seed in 0..40 {
        let (a, b) = both(|_| {});
        let mut pair = Pair::new(seed, a, b);
        pair.link.jitter = Duration::from_millis(60 * (seed % 4));
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(Duration::from_millis(seed * 2));
        pair.command(At::B, Command::Initiate(TUNNEL));
        pair.run(secs(60));
        assert!(pair.agreed(), "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
        // The delete of the one that goes may overtake the answer that brings up the one that stays.
        let downs = [pair.a.downs.as_slice(), pair.b.downs.as_slice()].concat();
        assert!(
            downs.len() <= 1 && downs.iter().all(|d| *d == DownReason::PeerDeleted),
            "seed {seed}: {downs:?}"
        );
        pair.run(secs(60));
        assert_eq!(
            (pair.a.endpoint.counts().ike_sas, pair.b.endpoint.counts().ike_sas),
            (1, 1),
            "seed {seed}"
        );
        assert_eq!((pair.a.endpoint.counts().spis, pair.b.endpoint.counts().spis), (1, 1), "seed {seed}");
    }
}

#[test]
fn a_restarted_peer_takes_the_place_of_its_old_self() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a.clone(), b);
    pair.connect();
    let old = pair.b.only_child().inbound();
    // A forgets everything without a word.
    pair.a = crate::testing::Pair::new(99, a, config(At::B)).a;
    pair.connect();
    assert_eq!(pair.b.gone, [(old, DownReason::Replaced)]);
    assert!(pair.b.downs.is_empty(), "the tunnel was never without an IKE SA");
    pair.run(secs(60));
    assert_eq!(pair.b.endpoint.counts().ike_sas, 1);
}

#[test]
fn nothing_shows_keys() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a.clone(), b);
    pair.connect();
    let sa = pair.a.only_child();
    let key: String = sa.inbound_keys().encryption().iter().map(|b| format!("{b:02x}")).collect();
    let shown = format!("{sa:?} {a:?} {:?}", pair.a.ike);
    assert!(
        !shown.contains(&key)
            && !shown.contains("battery")
            && !shown.contains(&format!("{:?}", sa.inbound_keys().encryption()))
    );
}

/// What is sent and what is opened is told in words, on both sides alike, and no word is a secret.
#[test]
fn messages_are_traced_when_asked_for() {
    let mut pair = Pair::new(1, config(At::A), config(At::B));
    pair.command(At::A, Command::Trace(true));
    pair.command(At::B, Command::Trace(true));
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(Duration::from_secs(1));
    let told = |side: &crate::testing::Side, sent: bool| -> Vec<String> {
        let mark = format!("sent: {sent}, text: ");
        let lines = side.log.iter().filter(|line| line.starts_with("Message {"));
        lines.filter_map(|line| line.split_once(&mark).map(|(_, text)| text.to_owned())).collect()
    };
    for (from, to) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        let sent = told(from, true);
        assert_eq!(sent, told(to, false));
        assert!(sent.iter().any(|text| text.contains("IKE_SA_INIT")), "{sent:#?}");
        let auth = sent.iter().find(|text| text.contains("IKE_AUTH")).unwrap();
        for part in ["AUTH(pre-shared key)", "example", "TSi(10.1.0.0/16)", "SA(ESP "] {
            assert!(auth.contains(part), "no {part} in {auth}");
        }
    }
    pair.command(At::A, Command::Trace(false));
    let before = pair.a.log.len();
    pair.command(At::A, Command::CheckLiveness(TUNNEL));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.a.log.len(), before, "{:#?}", pair.a.log);
}
