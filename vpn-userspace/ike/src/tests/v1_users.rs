//! What IKEv1 does between phase 1 and quick mode, on virtual time: users (XAuth) and inner addresses (Mode Config).

use super::v1::{both_v1, one, rekey_child, rekey_ike};
use super::*;
use crate::{Addresses, Command, Counts, ModeConfig, PeerConfig, Pool, V1Options};

fn with_users(name: &str, password: &str) -> (PeerConfig, PeerConfig) {
    use crate::{Psk, Xauth, XauthUser};
    let user =
        |name: &str, password: &str| XauthUser { name: name.into(), password: Psk::new(password).unwrap() };
    let (mut a, mut b) = both_v1(|_| {});
    a.v1 = Some(V1Options { xauth: Some(Xauth::Client(user(name, password))), ..V1Options::default() });
    let users = vec![user("ann", "open"), user("joe", "sesame")];
    b.v1 = Some(V1Options { xauth: Some(Xauth::Server(users)), ..V1Options::default() });
    b.remote = None;
    (a, b)
}

#[test]
fn a_user_authenticates_after_phase_1() {
    for seed in 0..20 {
        let (a, b) = with_users("joe", "sesame");
        let mut pair = Pair::new(seed, a, b);
        pair.link.loss = if seed == 0 { 0.0 } else { 0.15 };
        pair.link.duplicate = 0.2;
        let up = (0..5).any(|_| {
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run_until(secs(170), Pair::agreed)
        });
        assert!(up, "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
    }
}

#[test]
fn a_wrong_user_gets_nothing() {
    for (name, password) in [("joe", "open"), ("jo", "sesame"), ("nobody", "sesame")] {
        let (a, b) = with_users(name, password);
        let mut pair = Pair::new(1, a, b);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(200));
        assert!(pair.a.failures[0].to_string().contains("refused our user name"), "{:#?}", pair.a.log);
        assert!(pair.b.failures[0].to_string().contains("user name or password is wrong"));
        assert!(pair.a.log.iter().chain(&pair.b.log).all(|l| !l.contains("Up")), "{:#?}", pair.b.log);
        assert_eq!(
            (pair.a.endpoint.counts(), pair.b.endpoint.counts()),
            (Counts::default(), Counts::default())
        );
    }
    // One side asks and the other does not know of it: they do not meet in phase 1.
    let (_, b) = with_users("joe", "sesame");
    let (a, _) = both_v1(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(200));
    assert!(pair.a.ike.is_none() && pair.b.ike.is_none() && !pair.b.failures.is_empty());
}

/// Public mistake: state order. A client that never answers the question asks for a CHILD SA all the same.
#[test]
fn quick_mode_before_the_user_is_known_is_not_answered() {
    let (a, b) = with_users("joe", "sesame");
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    // Phase 1 is over on both sides; the question is on its way.
    assert!(pair.run_until(secs(5), |p| p.b.sent.len() == 4));
    let soon = pair.time + secs(1);
    assert!(pair.step(soon));
    pair.link.cut_to = Some(At::A);
    pair.a.endpoint.skip_xauth(TUNNEL);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(30));
    assert!(pair.a.sent.iter().any(|m| m[18] == 32), "it did ask");
    assert!(pair.b.children.is_empty() && pair.b.ike.is_none() && pair.b.endpoint.counts().spis == 0);
}

/// A asks for an address, B has some; with a user or without.
fn with_pool(mode_config: ModeConfig, user: bool) -> (PeerConfig, PeerConfig) {
    let (mut a, mut b) = if user { with_users("joe", "sesame") } else { both_v1(|_| {}) };
    for config in [&mut a, &mut b] {
        config.v1.as_mut().unwrap().mode_config = mode_config;
    }
    a.session.addresses = Addresses::Request(vec!["0.0.0.0".parse().unwrap()]);
    a.local_ts = vec![culvert_types::TrafficSelector::from_net("0.0.0.0/0".parse().unwrap())];
    let pool = Pool {
        nets: vec!["10.1.9.0/29".parse().unwrap()],
        dns: vec!["10.2.0.53".parse().unwrap()],
        domains: Vec::new(),
    };
    b.session.addresses = Addresses::Pool(pool);
    b.remote = None;
    (a, b)
}

#[test]
fn addresses_are_pulled_and_pushed() {
    for (seed, (mode, user)) in
        (0..).zip([ModeConfig::Pull, ModeConfig::Push].into_iter().flat_map(|m| [(m, false), (m, true)]))
    {
        let (a, b) = with_pool(mode, user);
        let mut pair = Pair::new(seed, a, b);
        pair.connect();
        pair.run(secs(300));
        assert!(pair.agreed(), "{mode:?} {user}: {:#?} {:#?}", pair.a.log, pair.b.log);
        let (a, b) = (pair.a.ike.clone().unwrap(), pair.b.ike.clone().unwrap());
        let ours = a.addresses.ours[0];
        assert_eq!(a.addresses.ours, b.addresses.theirs);
        assert_eq!(a.addresses.dns, ["10.2.0.53".parse::<std::net::IpAddr>().unwrap()]);
        let selectors = crate::v2::vip::selectors(&[ours]);
        assert_eq!(pair.a.only_child().local_ts(), selectors);
        assert_eq!(pair.b.only_child().remote_ts(), selectors);
        // A new phase 1 asks again and gets the same; the child goes on.
        let child = pair.a.only_child().inbound();
        rekey_ike(&mut pair, At::A);
        pair.run(secs(30));
        assert_eq!(pair.a.ike.as_ref().unwrap().addresses.ours[0], ours);
        assert_eq!(pair.a.only_child().inbound(), child);
        rekey_child(&mut pair, At::B);
        pair.run(secs(30));
        assert!(pair.agreed() && pair.a.failures.is_empty() && pair.b.failures.is_empty());
        assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one(), one()));
    }
}

#[test]
fn loss_between_phase_1_and_quick_mode() {
    for seed in 0..20 {
        let mode = if seed % 2 == 0 { ModeConfig::Pull } else { ModeConfig::Push };
        let (a, b) = with_pool(mode, seed % 3 == 0);
        let mut pair = Pair::new(seed, a, b);
        pair.link.loss = 0.15;
        pair.link.duplicate = 0.2;
        pair.link.jitter = Duration::from_millis(50);
        let up = (0..5).any(|_| {
            pair.command(At::A, Command::Initiate(TUNNEL));
            pair.run_until(secs(170), Pair::agreed)
        });
        assert!(up, "seed {seed}: {:#?} {:#?}", pair.a.log, pair.b.log);
    }
}

/// Who does not ask; a pool with nothing of the family; a server that hands out nothing.
#[test]
fn without_addresses_nothing_comes_up() {
    type Change = fn(&mut PeerConfig, &mut PeerConfig);
    let cases: [(Change, &str, &str); 3] = [
        (|a, _| a.session.addresses = Addresses::Own, "", "asks for no inner address"),
        (
            |_, b| {
                let nets = vec!["2001:db8::/64".parse().unwrap()];
                b.session.addresses = Addresses::Pool(Pool { nets, ..Pool::default() });
            },
            "gave no inner address",
            "Mode Config failed",
        ),
        (|_, b| b.session.addresses = Addresses::Own, "gave no inner address", ""),
    ];
    for (change, at_a, at_b) in cases {
        let (mut a, mut b) = with_pool(ModeConfig::Pull, false);
        change(&mut a, &mut b);
        let mut pair = Pair::new(1, a, b);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(300));
        let told = |log: &[String], words: &str| words.is_empty() || log.iter().any(|l| l.contains(words));
        assert!(told(&pair.a.log, at_a), "{at_a}: {:#?}", pair.a.log);
        assert!(told(&pair.b.log, at_b), "{at_b}: {:#?}", pair.b.log);
        assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
        assert_eq!(pair.b.endpoint.counts(), Counts::default(), "{:#?}", pair.b.log);
        assert_eq!(pair.b.endpoint.leased(), 0);
    }
}

/// Pushed or pulled, an empty pool is one failure here, and nothing stays behind.
#[test]
fn an_exhausted_pool_is_reported_once() {
    for mode in [ModeConfig::Pull, ModeConfig::Push] {
        let (a, mut b) = with_pool(mode, false);
        let nets = vec!["10.1.9.0/30".parse().unwrap()];
        b.session.addresses = Addresses::Pool(Pool { nets, ..Pool::default() });
        let mut pair = Pair::new(1, a, b);
        pair.b.endpoint.take_leases(&["10.1.9.1".parse().unwrap(), "10.1.9.2".parse().unwrap()]);
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(secs(100));
        let told = pair.b.failures.iter().map(|f| (f.phase, f.cause.clone())).collect::<Vec<_>>();
        assert_eq!(told, [(crate::Phase::ModeConfig, crate::Cause::PoolExhausted)], "{mode:?}");
        assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
        assert_eq!(pair.b.endpoint.counts(), Counts::default());
    }
}

/// Public mistake: state order. An address is given to nobody before the user is known.
#[test]
fn no_address_before_the_user_is_known() {
    let (a, b) = with_pool(ModeConfig::Pull, true);
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(5), |p| p.b.sent.len() == 4));
    let soon = pair.time + secs(1);
    assert!(pair.step(soon));
    pair.link.cut_to = Some(At::A);
    pair.a.endpoint.skip_to_mode_config(pair.time, TUNNEL);
    pair.drain(At::A);
    let before = pair.b.sent.len();
    pair.run(Duration::from_millis(100));
    assert!(pair.b.sent.len() > before, "it was answered, with nothing");
    assert_eq!(pair.b.endpoint.leased(), 0);
}
