//! Routing by BGP in the file: what loads, and every mistake as the operator sees it.

use std::time::Duration;

use crate::tests::{check, parse, with};
use crate::{BgpBfd, BgpNeighbor, Config, Effect, Kind};

const INSIDE: &str = "inside = \"169.254.10.2/30\"";

fn bgp(more: &str, tunnel: &str) -> String {
    with(&format!("routing = \"bgp\"\nbgp = {{ remote_asn = 64512{more} }}"), tunnel)
}

#[test]
fn defaults_and_neighbours() {
    let config = parse(&bgp("", INSIDE)).unwrap();
    let connection = &config.connections[0];
    let said = connection.bgp.as_ref().unwrap();
    assert_eq!(
        (config.gateway.bgp.asn, said.hold_time, said.keepalive),
        (65_000, Duration::from_secs(30), Duration::from_secs(10))
    );
    assert_eq!((&said.accept, &said.announce), (&connection.remote, &connection.local));
    let expected = BgpNeighbor {
        local: "169.254.10.2".parse().unwrap(),
        address: "169.254.10.1".parse().unwrap(),
        asn: 64512,
    };
    assert_eq!(connection.tunnels[0].bgp, [expected]);
    // The peer is asked for everything, the protected networks stay.
    assert_eq!(connection.asks(), ["0.0.0.0/0".parse().unwrap()]);
    assert_eq!(connection.tunnels[0].offers(connection), connection.asks());
    let config = parse(&bgp(
        ", bfd = { interval = \"100ms\", multiplier = 5 }, hold_time = \"6s\", password_file = \"good.psk\"",
        INSIDE,
    ))
    .unwrap();
    let said = config.connections[0].bgp.as_ref().unwrap();
    assert_eq!(said.bfd, Some(BgpBfd { interval: Duration::from_millis(100), multiplier: 5 }));
    assert_eq!(said.keepalive, Duration::from_secs(2));
    assert!(said.password.is_some() && !format!("{config:?}").contains("hunter2"));
    let both = with(
        "local = [\"192.168.0.0/24\", \"fd02::/64\"]\nremote = [\"172.16.0.0/16\", \"fd01::/32\"]\nrouting = \"bgp\"\nbgp = { remote_asn = 1 }",
        "inside = [\"169.254.10.3/31\", \"fd99::2/64\"]\nbgp = { remote_asn = 4200000001, neighbor = \"fd99::9\" }",
    );
    let neighbors = &parse(&both).unwrap().connections[0].tunnels[0].bgp;
    let shown: Vec<String> = neighbors.iter().map(|n| format!("{} {}", n.address, n.asn)).collect();
    assert_eq!(shown, ["169.254.10.2 4200000001", "fd99::9 4200000001"]);
}

#[test]
fn mistakes_are_shown_in_their_place() {
    let second = "\n[connection.d]\nlocal = [\"192.168.0.0/24\"]\nremote = [\"172.16.0.0/24\"]\n[connection.d.tunnel.a]\n\
        remote_address = \"203.0.113.9\"\npsk_file = \"good.psk\"\n";
    assert!(parse(&(bgp("", INSIDE) + second)).is_ok(), "static routes win over learned ones");
    let gateway = |key: &str| bgp("", INSIDE).replace("[connection.c]", &format!("{key}\n[connection.c]"));
    let cases = [
        ("no asn", with("routing = \"bgp\"", INSIDE)),
        ("asn 0", bgp("", INSIDE).replace("64512", "0")),
        ("asn reserved", bgp("", INSIDE).replace("64512", "65535")),
        ("asn too large", bgp("", INSIDE).replace("64512", "4294967296")),
        ("our own asn", gateway("asn = 64512")),
        ("gateway asn", gateway("asn = 23456")),
        ("router id", gateway("router_id = \"gw\"")),
        ("daemon", gateway("bgp_daemon = \"quagga\"")),
        ("bgp for static routes", with("bgp = { remote_asn = 64512 }", "")),
        ("nothing inside", bgp("", "")),
        ("inside of the other family", bgp("", "inside = \"fd99::2/126\"")),
        ("many inside", bgp("", "inside = \"169.254.10.2/24\"")),
        ("neighbour elsewhere", bgp("", &format!("{INSIDE}\nbgp = {{ neighbor = \"169.254.10.9\" }}"))),
        ("neighbour ourselves", bgp("", &format!("{INSIDE}\nbgp = {{ neighbor = \"169.254.10.2\" }}"))),
        ("times", bgp(", hold_time = \"3s\", keepalive = \"3s\"", INSIDE)),
        ("too short", bgp(", hold_time = \"1500ms\"", INSIDE)),
        ("bfd", bgp(", bfd = { interval = \"1ms\" }", INSIDE)),
        ("accept outside", bgp(", accept = [\"172.17.0.0/16\"]", INSIDE)),
        ("announce the far side", bgp(", announce = [\"172.16.1.0/24\"]", INSIDE)),
        ("unknown key", bgp(", holdtime = \"30s\"", INSIDE)),
        ("password", bgp(", password_file = \"binary.psk\"", INSIDE)),
        ("password missing", bgp(", password_file = \"missing.psk\"", INSIDE)),
        ("on traffic", bgp("", INSIDE).replace("routing", "start = \"on-traffic\"\nrouting")),
        ("hold", bgp("", INSIDE).replace("routing", "dpd = { action = \"hold\" }\nrouting")),
        ("health elsewhere", bgp("", &format!("{INSIDE}\nhealth = {{ target = \"169.254.10.9\" }}"))),
    ];
    check("bgp", &cases);
    assert!(parse(&bgp("", &format!("{INSIDE}\nhealth = {{ target = \"169.254.10.1\" }}"))).is_ok());
}

#[test]
fn what_is_learned_and_announced_changes_live() {
    let effect = |a: &str, b: &str| {
        let (a, b) = (parse(a).unwrap(), parse(b).unwrap());
        let changes = Config::diff(&a, &b);
        let most = changes.iter().max_by_key(|change| change.effect()).expect("no change");
        match &most.kind {
            Kind::Changed { keys, effect } => (keys.clone(), *effect),
            other => panic!("{other:?}"),
        }
    };
    let old = bgp("", INSIDE);
    assert_eq!(effect(&old, &bgp(", bfd = true", INSIDE)), (vec!["bgp"], Effect::Live));
    let wider = old.replace("remote = [\"172.16.0.0/16\"]", "remote = [\"172.16.0.0/15\"]");
    assert_eq!(effect(&old, &wider), (vec!["bgp", "remote"], Effect::Live));
    assert_eq!(effect(&old, &with("", INSIDE)).1, Effect::Renegotiate);
    let asn = old.replace("[connection.c]", "asn = 65001\n[connection.c]");
    assert_eq!(effect(&old, &asn), (vec!["asn"], Effect::Live));
}
