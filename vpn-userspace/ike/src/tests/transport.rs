//! Transport mode (RFC 7296 1.3.1), through NATs too (2.23.1).

use super::*;
use crate::{Cause, CommandError, ConfigError, EspMode, Phase};
use culvert_types::TrafficSelector;

fn hosts(net: &str) -> Vec<TrafficSelector> {
    vec![TrafficSelector::from_net(net.parse().unwrap())]
}

/// Both sides in transport mode, by what each knows of the other.
fn configs() -> (PeerConfig, PeerConfig) {
    let (mut a, mut b) = both(|c| (c.exchange.mode, c.dpd) = (EspMode::Transport, None));
    (a.local_ts, a.remote_ts) = (hosts("192.0.2.1/32"), hosts("192.0.2.2/32"));
    (b.local_ts, b.remote_ts) = (hosts("192.0.2.2/32"), hosts("192.0.2.1/32"));
    (a, b)
}

fn shown(pair: &Pair) -> [String; 2] {
    assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
    [&pair.a, &pair.b].map(|side| {
        let sa = side.only_child();
        assert!(sa.transport());
        format!("{} {}", sa.local_ts()[0], sa.remote_ts()[0])
    })
}

#[test]
fn the_two_hosts_and_nothing_else() {
    let (a, b) = configs();
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    let want = shown(&pair);
    assert!(want[0].starts_with("192.0.2.1") && want[0].contains(" 192.0.2.2"), "{want:?}");
    for at in [At::A, At::B] {
        let child = pair.side(at).only_child().inbound();
        pair.command(at, Command::RekeyChild(child));
        pair.run(secs(2));
        assert_eq!(shown(&pair), want);
    }
}

/// A, behind a NAT, is 203.0.113.1 for B, which takes whoever comes; each side has what it sees itself, also after
/// either has rekeyed.
#[test]
fn through_a_nat_each_side_has_the_addresses_that_it_sees() {
    let (a, mut b) = configs();
    b.remote_ts = hosts("0.0.0.0/0");
    b.remote = None;
    let mut pair = Pair::new(1, a, b);
    pair.link.nat = Some(0);
    pair.connect();
    let want = shown(&pair);
    assert!(want[0].starts_with("192.0.2.1") && want[0].contains(" 192.0.2.2"), "{want:?}");
    assert!(want[1].starts_with("192.0.2.2") && want[1].contains(" 203.0.113.1"), "{want:?}");
    for at in [At::B, At::A, At::B] {
        let child = pair.side(at).only_child().inbound();
        pair.command(at, Command::RekeyChild(child));
        pair.run(secs(2));
        assert_eq!(shown(&pair), want);
        pair.command(at, Command::RekeyIke(TUNNEL));
        pair.run(secs(2));
        assert_eq!(shown(&pair), want);
    }
}

#[test]
fn the_other_mode_is_refused_with_its_name() {
    for at in [At::A, At::B] {
        let (mut a, mut b) = configs();
        let c = if at == At::A { &mut a } else { &mut b };
        c.exchange.mode = EspMode::Tunnel;
        let mut pair = Pair::new(1, a, b);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(2));
        // The IKE SA stands, without a CHILD SA, and nothing is left of one at either side.
        assert!(pair.a.ike.is_some() && pair.a.children.is_empty() && pair.b.children.is_empty());
        let causes = [&pair.a, &pair.b].map(|s| s.failures.first().map(|f| (f.phase, f.cause.clone())));
        if at == At::A {
            assert_eq!(causes[0], Some((Phase::ChildSa, Cause::ProposalsRefused)));
            assert_eq!(causes[1], Some((Phase::ChildSa, Cause::TunnelMode)));
        } else {
            assert_eq!(causes[0], Some((Phase::ChildSa, Cause::TunnelMode)));
            assert_eq!(causes[1], None);
        }
    }
}

#[test]
fn networks_have_no_place_in_it() {
    let (a, b) = configs();
    for change in [
        |c: &mut PeerConfig| c.local_ts = hosts("192.0.2.0/24"),
        |c: &mut PeerConfig| c.remote_ts = hosts("192.0.2.0/24"),
        |c: &mut PeerConfig| c.local_ts.extend(hosts("192.0.2.7/32")),
    ] {
        let mut pair = Pair::new(1, a.clone(), b.clone());
        let mut bad = a.clone();
        change(&mut bad);
        let time = pair.time;
        let refused = pair.a.endpoint.handle_command(time, Command::AddPeer(TUNNEL, Box::new(bad)));
        assert_eq!(refused, Err(CommandError::Config(ConfigError::Transport)));
    }
}
