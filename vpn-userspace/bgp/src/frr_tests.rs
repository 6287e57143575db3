//! What FRR is told, and what it said when it was asked.

use std::time::Duration;

use zeroize::Zeroizing;

use super::*;
use crate::model::{Bfd, Password, Preference};

/// Three sessions of two connections, with everything that a session can have.
pub(crate) fn speaker() -> Speaker {
    let net = |text: &str| text.parse().unwrap();
    let a = Session {
        name: "hangzhou/a".into(),
        connection: "hangzhou".into(),
        interface: "cv-hangzhou-a".into(),
        local: "169.254.10.2".parse().unwrap(),
        neighbor: "169.254.10.1".parse().unwrap(),
        remote_asn: 4_200_000_001,
        hold_time: Duration::from_secs(30),
        keepalive: Duration::from_secs(10),
        bfd: Some(Bfd { interval: Duration::from_millis(300), multiplier: 3 }),
        graceful_restart: true,
        max_prefixes: Some(100),
        password: Password::new(Zeroizing::new("s3cret".into())),
        accept: vec![net("172.16.0.0/16"), net("172.20.1.1/32")],
        announce: vec![net("192.168.0.0/24")],
        transit: vec![net("10.9.0.0/16")],
        preference: Preference { enabled: true, local_preference: 300, med: 0, prepend: 0 },
    };
    let six = Session {
        name: "hangzhou/a.6".into(),
        local: "fd99::2".parse().unwrap(),
        neighbor: "fd99::1".parse().unwrap(),
        accept: vec![net("fd01::/32")],
        announce: vec![net("fd02::/64")],
        transit: Vec::new(),
        bfd: None,
        password: None,
        max_prefixes: None,
        ..a.clone()
    };
    let b = Session {
        name: "hangzhou/b".into(),
        interface: "cv-hangzhou-b".into(),
        local: "169.254.10.6".parse().unwrap(),
        neighbor: "169.254.10.5".parse().unwrap(),
        graceful_restart: false,
        preference: Preference { enabled: false, local_preference: 100, med: 200, prepend: 2 },
        ..a.clone()
    };
    Speaker { asn: 65000, router_id: [192, 168, 0, 1].into(), table: None, sessions: vec![a, six, b] }
}

#[test]
fn the_files() {
    let speaker = speaker();
    let text = [zebra(&speaker), bfdd(&speaker), bgpd(&speaker)].join("!\n");
    insta::assert_snapshot!("frr", text);
    assert!(zebra(&Speaker { table: Some(7), ..speaker }).contains("\ntable 7\n"));
}

#[test]
fn a_failover_is_a_few_commands() {
    let before = speaker();
    let mut after = before.clone();
    after.sessions[0].preference = Preference { enabled: false, local_preference: 50, med: 300, prepend: 3 };
    after.sessions[2].preference.enabled = true;
    insta::assert_snapshot!("frr-failover", commands(&bgpd(&before), &bgpd(&after)).join("\n"));
    after.sessions.truncate(2);
    insta::assert_snapshot!("frr-gone", commands(&bgpd(&before), &bgpd(&after)).join("\n"));
    assert!(commands(&bgpd(&before), &bgpd(&before)).is_empty());
}

#[test]
fn passwords_are_shown_to_nobody() {
    let speaker = speaker();
    assert!(bgpd(&speaker).contains("password s3cret") && !format!("{speaker:?}").contains("s3cret"));
    for wrong in ["", "with space", "quo\"te", "new\nline", &"x".repeat(81), "é"] {
        assert!(Password::new(Zeroizing::new(wrong.into())).is_none(), "{wrong}");
    }
}

const NEIGHBORS_SAID: &str = r#"{
"169.254.10.2":{"remoteAs":65002,"bgpState":"Established","connectionsEstablished":2,
 "lastResetDueTo":"BGP Notification received","lastNotificationReason":"Cease\/Administrative Reset",
 "addressFamilyInfo":{"ipv4Unicast":{"acceptedPrefixCounter":1,"sentPrefixCounter":3}},
 "peerBfdInfo":{"type":"single hop","status":"Up"}},
"169.254.10.6":{"bgpState":"Idle","adminShutDown":true,"connectionsEstablished":0,"lastResetDueTo":"Admin. shutdown",
 "addressFamilyInfo":{"ipv4Unicast":{"acceptedPrefixCounter":9}}},
"fd99::2":{"bgpState":"Active","connectionsEstablished":0,"lastResetDueTo":"Waiting for peer OPEN"},
"tableVersion":3}"#;

#[test]
fn what_it_says_is_understood() {
    let sessions = neighbors(NEIGHBORS_SAID).unwrap();
    let routes_said = r#"{"vrfId":0,"routes":{
        "10.1.0.0/24":[{"valid":true,"bestpath":true,"peerId":"(unspec)","path":""}],
        "10.2.0.0/24":[{"valid":true,"peerId":"169.254.10.6","path":"65002","locPrf":100,"metric":200},
                       {"valid":true,"bestpath":true,"locPrf":200,"peerId":"169.254.10.2","path":"65002 65003"},
                       {"valid":false,"peerId":"169.254.10.9"}]}}"#;
    insta::assert_debug_snapshot!("frr-report", report(sessions, routes(routes_said).unwrap()));
    let counts = r#"{"prefixCountsFor":"169.254.10.2","pfxCounter":1,"ribTableWalkCounters":{"Adj-in":3,"All RIB":1}}"#;
    assert_eq!(prefix_counts(counts).unwrap(), 3);
    assert_eq!(
        prefix_counts_of("fd99::2".parse().unwrap()),
        "show bgp ipv6 unicast neighbors fd99::2 prefix-counts json"
    );
    assert!(routes("").unwrap().is_empty());
}

#[test]
fn another_version_is_an_error_and_no_panic() {
    let error = neighbors("% Unknown command").unwrap_err().to_string();
    assert!(error.contains("show bgp neighbors json"), "{error}");
    assert!(neighbors(r#"{"1.2.3.4":7}"#).is_err() && routes("7").is_err() && prefix_counts("{}").is_err());
    for cut in 0..NEIGHBORS_SAID.len() {
        let _ = NEIGHBORS_SAID.get(..cut).map(neighbors);
    }
}
