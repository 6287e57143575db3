//! Inner addresses by configuration payload, who may take an IKE SA's place, and authenticating anew.

use std::net::IpAddr;

use culvert_types::TunnelId;

use super::*;
use crate::{Addresses, Cause, Counts, Identity, Phase, Pool, Session, Unique};

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn selectors(nets: &[&str]) -> Vec<culvert_types::TrafficSelector> {
    nets.iter().map(|n| culvert_types::TrafficSelector::from_net(n.parse().unwrap())).collect()
}

/// A is a client that asks for these, B has a pool.
fn client_and_server(ask: &[&str], pool: &[&str]) -> (PeerConfig, PeerConfig) {
    let (mut a, mut b) = both(|_| {});
    let everything = ["0.0.0.0/0", "::/0"];
    a.session.addresses = Addresses::Request(ips(ask));
    a.local_ts = selectors(&everything);
    a.remote_ts = selectors(&["10.2.0.0/16", "2001:db8:2::/48"]);
    b.local_ts = a.remote_ts.clone();
    b.remote_ts = selectors(pool);
    b.session.addresses = Addresses::Pool(Pool {
        nets: pool.iter().map(|n| n.parse().unwrap()).collect(),
        dns: ips(&["10.2.0.53", "2001:db8:2::53"]),
        domains: vec!["corp.example".into()],
    });
    (a, b)
}

#[test]
fn a_client_gets_an_address_and_nothing_else() {
    let (a, b) = client_and_server(&["0.0.0.0"], &["10.9.0.0/24"]);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let ours = pair.a.ike.clone().unwrap().addresses;
    let [address] = ours.ours[..] else { panic!("{ours:?}") };
    assert_eq!((ours.dns, ours.domains), (ips(&["10.2.0.53"]), vec!["corp.example".to_owned()]));
    assert_eq!(pair.b.ike.clone().unwrap().addresses.theirs, [address]);
    let one = selectors(&[&format!("{address}/32")]);
    assert_eq!((pair.a.only_child().local_ts(), pair.b.only_child().remote_ts()), (&one[..], &one[..]));
    // The address stays through every kind of rekeying, also after a reload.
    for round in 0..4 {
        let at = if round % 2 == 0 { At::A } else { At::B };
        pair.command(at, Command::RekeyIke(TUNNEL));
        pair.run(secs(2));
        let inbound = pair.side(at).only_child().inbound();
        pair.command(at, Command::RekeyChild(inbound));
        pair.run(secs(10));
        assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
        assert_eq!(pair.a.only_child().local_ts(), &one[..]);
        assert_eq!(pair.b.ike.clone().unwrap().addresses.theirs, [address]);
    }
    // And after a while without, the client gets the same again.
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    pair.run(secs(400));
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (Counts::default(), Counts::default()));
    pair.connect();
    assert_eq!(pair.a.ike.clone().unwrap().addresses.ours, [address]);
}

#[test]
fn both_families_and_wishes() {
    let (a, b) = client_and_server(&["10.9.0.77", "::"], &["10.9.0.0/24", "2001:db8:9::/64"]);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let got = pair.a.ike.clone().unwrap().addresses;
    assert_eq!(got.ours[0], ips(&["10.9.0.77"])[0]);
    assert!(got.ours[1].is_ipv6() && got.dns.len() == 2);
    assert_eq!(pair.a.only_child().local_ts().len(), 2);
}

#[test]
fn addresses_that_cannot_be_had() {
    // The server's pool is used up; a site that asks for none; a server that gives none.
    let cause = |a: PeerConfig, b: PeerConfig| {
        let mut pair = Pair::new(1, a, b);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(5));
        assert!(pair.a.ike.is_some() && pair.b.ike.is_some(), "the IKE SA stands");
        assert_eq!((pair.a.endpoint.counts().spis, pair.b.endpoint.counts().spis), (0, 0));
        let of =
            |side: &crate::testing::Side| side.failures.iter().map(|f| (f.phase, f.cause.clone())).collect();
        let (a, b): (Vec<_>, Vec<_>) = (of(&pair.a), of(&pair.b));
        (a, b)
    };
    let (a, b) = client_and_server(&["::"], &["10.9.0.0/24"]);
    let (of_a, of_b) = cause(a, b);
    assert_eq!(of_a, [(Phase::ChildSa, Cause::Refused(36))]);
    assert_eq!(of_b, [(Phase::ChildSa, Cause::PoolExhausted)]);
    let (mut a, b) = client_and_server(&["0.0.0.0"], &["10.9.0.0/24"]);
    a.session.addresses = Addresses::Own;
    let (of_a, of_b) = cause(a, b);
    assert_eq!(of_a, [(Phase::ChildSa, Cause::Refused(37))]);
    assert_eq!(of_b, [(Phase::ChildSa, Cause::NoAddressAsked)]);
    let (a, mut b) = client_and_server(&["0.0.0.0"], &["10.9.0.0/24"]);
    b.session.addresses = Addresses::Own;
    let (of_a, _) = cause(a, b);
    assert_eq!(of_a, [(Phase::ChildSa, Cause::MissingPayload("CP"))]);
}

#[test]
fn two_clients_have_two_addresses() {
    let (a, b) = client_and_server(&["0.0.0.0"], &["10.9.0.0/30"]);
    let second = PeerConfig {
        name: "test/second".into(),
        remote_id: Some(Identity::parse("second.example").unwrap()),
        ..b.clone()
    };
    let mut pair = Pair::new(1, a.clone(), b);
    pair.command(At::B, Command::AddPeer(TunnelId(2), Box::new(second)));
    pair.connect();
    let first = pair.a.ike.clone().unwrap().addresses.ours;
    // The second client is at the same place, with a name of its own: 10.9.0.0/30 has room for both, not for a third.
    pair.command(
        At::A,
        Command::AddPeer(
            TunnelId(2),
            Box::new(PeerConfig { local_id: Identity::parse("second.example").unwrap(), ..a }),
        ),
    );
    pair.command(At::A, Command::Initiate(TunnelId(2)));
    assert!(pair.run_until(secs(5), |p| p.a.children.len() == 2), "{:#?} {:#?}", pair.a.log, pair.b.log);
    let second = pair.a.ike.clone().unwrap().addresses.ours;
    assert_ne!(first, second);
}

#[test]
fn impossible_wishes_are_refused() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a.clone(), b);
    let time = pair.time;
    for addresses in [
        Addresses::Request(Vec::new()),
        Addresses::Request(ips(&["0.0.0.0", "10.9.0.1"])),
        Addresses::Pool(Pool::default()),
    ] {
        let config = PeerConfig { session: Session { addresses, ..Session::default() }, ..a.clone() };
        let refused = pair.a.endpoint.handle_command(time, Command::AddPeer(TUNNEL, Box::new(config)));
        assert!(refused.unwrap_err().to_string().contains("inner addresses"));
    }
}

/// Make before break: at no time is there no CHILD SA to send on.
#[test]
fn reauthentication_leaves_no_hole() {
    let (mut a, b) = both(|_| {});
    a.session.reauth = Some(secs(300));
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let mut seen = std::collections::BTreeSet::new();
    let end = pair.elapsed() + secs(1500);
    while pair.elapsed() < end {
        let time = pair.time + secs(1);
        pair.step(time);
        for side in [&pair.a, &pair.b] {
            assert!(side.ike.is_some() && !side.outbound.is_empty(), "{:#?}", side.log);
        }
        seen.insert(pair.a.ike.clone().unwrap().spi_initiator);
    }
    pair.run(secs(20));
    assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert!(seen.len() >= 5, "an IKE SA every 300 s: {seen:?}");
    assert!(pair.a.downs.is_empty() && pair.b.downs.is_empty() && pair.a.failures.is_empty());
    assert_eq!((pair.a.endpoint.counts().spis, pair.b.endpoint.counts().spis), (1, 1));
}

#[test]
fn reauthentication_on_demand_and_with_a_lease() {
    let (a, b) = client_and_server(&["0.0.0.0"], &["10.9.0.0/24"]);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let before = pair.a.ike.clone().unwrap();
    pair.command(At::A, Command::Reauthenticate(TUNNEL));
    pair.run(secs(20));
    assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    let after = pair.a.ike.clone().unwrap();
    assert_ne!(before.spi_initiator, after.spi_initiator);
    assert_eq!(before.addresses, after.addresses, "the lease stays");
}

/// A wrong key at the second authentication does not take the first one's tunnel along before its time.
#[test]
fn failed_reauthentication_leaves_the_old_ike_sa() {
    let (mut a, mut b) = both(|_| {});
    a.session.reauth = Some(secs(100));
    let mut pair = Pair::new(1, a, b.clone());
    pair.connect();
    b.auth = crate::Auth::psk(crate::Psk::new("changed").unwrap());
    pair.command(At::B, Command::AddPeer(TUNNEL, Box::new(b.clone())));
    pair.run(secs(200));
    assert!(pair.agreed() && !pair.a.failures.is_empty());
    b.auth = crate::testing::config(At::B).auth;
    pair.command(At::B, Command::AddPeer(TUNNEL, Box::new(b)));
    let spi = pair.a.ike.clone().unwrap().spi_initiator;
    pair.run(secs(60));
    assert!(pair.agreed() && pair.a.ike.clone().unwrap().spi_initiator != spi, "it is tried again");
}

#[test]
fn the_first_is_kept_where_so_configured() {
    let (a, mut b) = both(|_| {});
    b.session.unique = Unique::Keep;
    b.dpd = None;
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let spi = pair.b.ike.clone().unwrap().spi_initiator;
    // A forgets its IKE SA without a word, as after a crash, and comes again.
    pair.command(At::A, Command::Terminate(TUNNEL, false));
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(5));
    assert_eq!(pair.b.ike.clone().unwrap().spi_initiator, spi);
    assert_eq!(pair.a.failures[0].cause, Cause::AuthenticationRefused);
    assert_eq!(pair.b.failures[0].cause, Cause::AlreadyUp);
}

#[test]
fn first_contact_is_believed_or_not() {
    for (unique, told) in [(Unique::Replace, false), (Unique::Never, true)] {
        let (a, mut b) = both(|_| {});
        b.session.unique = unique;
        b.dpd = None;
        let mut pair = Pair::new(1, a, b);
        pair.connect();
        pair.command(At::A, Command::Terminate(TUNNEL, false));
        let before = pair.b.sent.len();
        pair.connect();
        pair.run(secs(3));
        // IKE_SA_INIT and IKE_AUTH are answered; where first contact is not believed, the old one is deleted aloud.
        assert_eq!(pair.b.sent.len() - before > 2, told, "{unique:?}");
        assert!(pair.agreed());
    }
}
