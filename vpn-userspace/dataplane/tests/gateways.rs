//! Two user engines back to back, over real TUN devices and sockets in namespaces. Needs root.

#[path = "gateways/bpf.rs"]
mod bpf;
mod common;
#[path = "gateways/per_core.rs"]
mod per_core;
#[path = "gateways/split.rs"]
mod split;
#[path = "gateways/xfrm.rs"]
mod xfrm;
#[path = "gateways/xsk.rs"]
mod xsk;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::{Gateway, INTERFACE, Options, TUNNEL};
use culvert_dataplane::testing::Limits;
use culvert_dataplane::{
    Dataplane, DataplaneConfig, DataplaneError, DataplaneEvent, Engine, HookChoice, OffloadSwitches,
};
use culvert_lab::measure::{Echo, Iperf, IperfServer, ping, reaches};
use culvert_lab::topology::{HOST_A, HOST_B, HOST_B6, LAN_A, LAN_B, WAN_A, WAN_A6, WAN_B, WAN_B6};
use culvert_lab::{Flood, Namespace, Site, SiteOptions, wait_for};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Both gateways with the first SA pair up.
fn up<'a>(site: &'a Site, options: &Options, wan: (&str, &str)) -> (Gateway<'a>, Gateway<'a>) {
    let mut a = Gateway::start(&site.gateway_a, true, wan.0, options);
    let mut b = Gateway::start(&site.gateway_b, false, wan.1, options);
    a.install(1, address(wan.1), true);
    b.install(1, address(wan.0), true);
    (a, b)
}

fn run_ping(from: &Namespace, arguments: &str) -> String {
    from.run("sh", &["-c", &format!("ping {arguments} 2>&1; true")]).unwrap()
}

/// Thousands of packets, and no longer than they take.
fn bulk(site: &Site, to: &str, what: &Iperf) -> f64 {
    let server = IperfServer::start(&site.host_b).unwrap();
    let bytes = Some(if what.udp.is_some() { 500_000 } else { 10_000_000 });
    server.measure(&site.host_a, to, &Iperf { bytes, ..what.clone() }).unwrap().gbps
}

#[test]
fn both_families_pass_inside_and_outside_plain_and_in_udp() {
    for (wan, encap, suite) in [
        ((WAN_A, WAN_B), true, "aes128gcm16"),
        ((WAN_A, WAN_B), false, "aes256-sha256"),
        ((WAN_A6, WAN_B6), true, "chacha20poly1305"),
        ((WAN_A6, WAN_B6), false, "aes256gcm16"),
    ] {
        let site = Site::new().unwrap();
        let options = Options { suite, encap, ..Options::default() };
        let (mut a, mut b) = up(&site, &options, wan);
        for host in [HOST_B, HOST_B6] {
            assert!(reaches(&site.host_a, host).unwrap(), "{host} over {wan:?} encap {encap}");
            let gbps = bulk(&site, host, &Iperf { streams: 2, ..Iperf::default() });
            assert!(gbps > 0.05, "{host} over {wan:?} encap {encap}: {gbps} Gbit/s");
            let udp = Iperf { udp: Some("50M".to_owned()), ..Iperf::default() };
            assert!(bulk(&site, host, &udp) > 0.03, "UDP to {host} over {wan:?} encap {encap}");
        }
        let (sa_a, sa_b) = (a.stats().remove(0), b.stats().remove(0));
        assert!(sa_a.packets_out > 1000 && sa_b.packets_in > 1000);
        assert!(sa_b.packets_in <= sa_a.packets_out && sa_a.sequence_out >= sa_b.sequence_in);
        assert!(sa_b.replay_floor > 0 && sa_b.replay_floor <= sa_b.sequence_in);
        for reason in ["not-authentic", "replay-duplicate", "bad-offload", "inner-malformed", "tun-refused"] {
            assert_eq!(a.dropped(reason) + b.dropped(reason), 0, "{reason} over {wan:?} encap {encap}");
        }
    }
}

/// One suite of each kind of cipher and each kind of MAC. Some are slow, so that full speed would starve other tests.
#[test]
fn every_kind_of_suite_carries_traffic() {
    for suite in [
        "3des-md5",
        "aes192-aesxcbc",
        "aes128-aescmac",
        "aes256ctr-sha512",
        "aes192ccm12",
        "aes256gcm8",
        "aes256gmac",
    ] {
        let site = Site::new().unwrap();
        let (mut a, mut b) = up(&site, &Options { suite, ..Options::default() }, (WAN_A, WAN_B));
        assert!(reaches(&site.host_a, HOST_B).unwrap(), "{suite}");
        let gbps = bulk(&site, HOST_B, &Iperf { udp: Some("20M".to_owned()), ..Iperf::default() });
        assert!(gbps > 0.01, "{suite}: {gbps} Gbit/s");
        for reason in
            ["not-authentic", "replay-duplicate", "esp-misaligned", "bad-padding", "inner-malformed"]
        {
            assert_eq!(a.dropped(reason) + b.dropped(reason), 0, "{reason} with {suite}");
        }
    }
}

#[test]
fn a_tunnel_without_an_sa_drops_counts_and_asks_for_one_once_per_second() {
    let site = Site::new().unwrap();
    let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &Options::default());
    let seen = ping(&site.host_a, HOST_B, 20, Duration::from_millis(10)).unwrap();
    assert_eq!(seen.received, 0);
    assert_eq!(a.dropped("no-outbound-sa"), 20);
    let mut triggers = 0;
    while let Ok(event) = a.events.try_recv() {
        assert_eq!(event, DataplaneEvent::Trigger { tunnel: TUNNEL });
        triggers += 1;
    }
    // The last answer is waited for a second at most, in which nothing more is sent.
    assert_eq!(triggers, 1);
}

#[test]
fn a_port_is_divided_among_workers_each_of_which_learns_of_its_paths() {
    let site = Site::new().unwrap();
    let options = Options::default();
    let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &options);
    let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &options);
    assert_eq!(a.dataplane.undivided(), None);
    // Another peer's SA takes the first worker; a rekeyed SA stays with its peer's.
    a.install(9, address("203.0.113.9"), false);
    a.install(1, address(WAN_B), true);
    b.install(1, address(WAN_A), true);
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    a.install(2, address(WAN_B), true);
    b.install(2, address(WAN_A), true);
    let workers: Vec<_> = a.stats().iter().map(|s| s.worker).collect();
    assert_eq!(workers, [Some(1), Some(1), Some(0)], "two of one peer, one of another");
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    assert!(bulk(&site, HOST_B, &Iperf { reverse: true, ..Iperf::default() }) > 0.05);
    assert!(a.stats()[1].packets_in > 1000);
    assert_eq!(a.dropped("unknown-spi") + b.dropped("unknown-spi"), 0);
    // The kernel tells any socket of the port what the path said.
    let before = mtu_of(&site.gateway_a);
    site.wan.ip("link set to-b mtu 1400").unwrap();
    run_ping(&site.host_a, &format!("-c 2 -i 0.2 -W 1 -M do -s {} {HOST_B}", before - 28));
    let mtu = a.event(|e| match e {
        DataplaneEvent::Mtu { mtu, .. } if *mtu < before => Some(*mtu),
        _ => None,
    });
    assert_eq!(mtu, Some(before - 100));
}

#[test]
fn without_offloads_and_with_busy_workers_everything_passes() {
    let off = OffloadSwitches { tso: false, uso: false, gso: false, gro: false };
    for (offloads, busy_poll) in [(off, false), (OffloadSwitches::default(), true)] {
        let site = Site::new().unwrap();
        let options = Options { offloads, busy_poll, ..Options::default() };
        let (mut a, mut b) = up(&site, &options, (WAN_A, WAN_B));
        assert!(reaches(&site.host_a, HOST_B).unwrap(), "{offloads:?}");
        assert!(bulk(&site, HOST_B, &Iperf::default()) > 0.03, "{offloads:?}");
        let udp = Iperf { udp: Some("20M".to_owned()), ..Iperf::default() };
        assert!(bulk(&site, HOST_B, &udp) > 0.01, "{offloads:?}");
        for reason in ["bad-offload", "tun-refused", "inner-malformed", "not-authentic"] {
            assert_eq!(a.dropped(reason) + b.dropped(reason), 0, "{reason}");
        }
        let info = a.dataplane.engines().into_iter().find(|e| e.engine == Engine::User).unwrap();
        let said = info.notes.join("; ");
        assert!(
            said.contains(if busy_poll { "self-test" } else { "off by configuration: tso, uso, gso, gro" }),
            "{said}"
        );
        let features = site.gateway_a.run("ethtool", &["-k", INTERFACE]).unwrap_or_default();
        if !features.is_empty() {
            let tso = features.contains("tcp-segmentation-offload: on");
            assert_eq!(tso, offloads.tso, "{features}");
        }
    }
}

#[test]
fn a_full_queue_of_the_lan_is_counted() {
    let site = Site::new().unwrap();
    let (mut a, mut b) = up(&site, &Options::default(), (WAN_A, WAN_B));
    assert_eq!(a.dropped("lan-queue-full"), 0);
    site.gateway_a.ip(&format!("link set {INTERFACE} txqueuelen 1")).unwrap();
    let flood = Iperf { udp: Some("400M".to_owned()), streams: 4, ..Iperf::default() };
    let server = IperfServer::start(&site.host_b).unwrap();
    let seen = server.measure(&site.host_a, HOST_B, &flood).unwrap();
    let dropped = a.run(|d| Box::pin(async { d.tunnel_drops() }));
    let full: u64 = dropped[0].drops.iter().filter(|(r, _)| *r == "lan-queue-full").map(|(_, n)| n).sum();
    assert!(full > 0, "{seen:?} {dropped:?}");
    assert_eq!(b.dropped("not-authentic"), 0);
}

#[test]
fn what_no_selector_takes_is_dropped_and_answered() {
    let site = Site::new().unwrap();
    let narrow = Options { nets: (vec![LAN_A], vec!["10.2.0.0/30"]), ..Options::default() };
    let (mut a, b) = up(&site, &narrow, (WAN_A, WAN_B));
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    site.gateway_a.ip(&format!("route add 10.2.0.128/25 dev {INTERFACE}")).unwrap();
    let said = run_ping(&site.host_a, "-c 2 -i 0.2 -W 1 10.2.0.200");
    assert!(said.contains("Packet filtered"), "{said}");
    assert_eq!(a.dropped("selector-mismatch"), 2);

    // A peer that sends what it should not: B's selectors are B's own affair.
    drop(b);
    let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &Options::default());
    let remote = SocketAddr::new(address(WAN_A), 4500);
    let mut setup = b.setup(1, remote);
    setup.remote_ts = vec!["10.1.0.128/25".parse::<ipnet::IpNet>().unwrap().into()];
    b.run(move |d| Box::pin(async move { culvert_dataplane::testing::install(d, &setup, true).await }))
        .unwrap();
    ping(&site.host_a, HOST_B, 3, Duration::from_millis(10)).unwrap();
    assert_eq!(b.dropped("selector-mismatch"), 3);
    assert_eq!(b.stats()[0].packets_in, 0);
}

#[test]
fn a_rekey_loses_nothing() {
    let site = Site::new().unwrap();
    let (mut a, mut b) = up(&site, &Options::default(), (WAN_A, WAN_B));
    let running = Echo::start(&site.host_a, &site.host_b, HOST_B, Duration::from_millis(2)).unwrap();
    for generation in 2..6 {
        // The responder may not use the new SA before the initiator has it (RFC 7296 2.8).
        let new_b = b.install(generation, address(WAN_A), false);
        let new_a = a.install(generation, address(WAN_B), true);
        std::thread::sleep(Duration::from_millis(60));
        b.activate(new_b);
        let old =
            |stats: &[culvert_dataplane::SaStats], new| stats.iter().map(|s| s.inbound).find(|s| *s != new);
        let (old_a, old_b) = (old(&a.stats(), new_a).unwrap(), old(&b.stats(), new_b).unwrap());
        a.remove(old_a, Duration::from_millis(300)).unwrap();
        b.remove(old_b, Duration::from_millis(300)).unwrap();
        assert!(matches!(a.remove(old_a, Duration::ZERO), Err(DataplaneError::UnknownSpi(_))));
        std::thread::sleep(Duration::from_millis(60));
        assert!(a.stats()[0].packets_out > 0 && b.stats()[0].packets_out > 0, "generation {generation}");
    }
    let seen = running.stop().unwrap();
    assert!(seen.sent > 20, "{seen:?}");
    assert_eq!(seen.lost(), 0, "{seen:?}");
    // What drained is gone: its packets have no SA any more.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!((a.stats().len(), b.stats().len()), (1, 1));
    assert_eq!(b.dropped("unknown-spi"), 0);
    b.remove(b.setup(5, SocketAddr::new(address(WAN_A), 4500)).inbound, Duration::ZERO).unwrap();
    ping(&site.host_a, HOST_B, 3, Duration::from_millis(10)).unwrap();
    assert_eq!(b.dropped("unknown-spi"), 3);
}

#[test]
fn rekeys_at_full_rate_lose_nothing() {
    rekeys_at_full_rate(&Options::default(), 20);
}

/// Datagrams in both directions as fast as the hosts send them, while an SA pair after the other takes over, each for a
/// tenth of a second; `CULVERT_REKEYS=200` is the long run of 20 s.
fn rekeys_at_full_rate(options: &Options, otherwise: u32) {
    let rekeys = std::env::var("CULVERT_REKEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise);
    let site = Site::new().unwrap();
    if options.hook == HookChoice::Xdp {
        // What a sender leaves to the device to finish is the stack's.
        for host in [&site.host_a, &site.host_b] {
            host.run("ethtool", &["-K", "eth0", "tx", "off"]).unwrap();
        }
    }
    let (mut a, mut b) = up(&site, options, (WAN_A, WAN_B));
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    let there = Flood::start(&site.host_a, &site.host_b, HOST_B, 300).unwrap();
    let back = Flood::start(&site.host_b, &site.host_a, HOST_A, 80).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let inbound =
        |gateway: &Gateway<'_>, generation| gateway.setup(generation, "[::]:0".parse().unwrap()).inbound;
    for generation in 2..2 + rekeys {
        let started = Instant::now();
        let new_b = b.install(generation, address(WAN_A), false);
        a.install(generation, address(WAN_B), true);
        b.activate(new_b);
        for gateway in [&mut a, &mut b] {
            let old = inbound(gateway, generation - 1);
            gateway.remove(old, Duration::from_millis(300)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100).saturating_sub(started.elapsed()));
    }
    std::thread::sleep(Duration::from_millis(100));
    wait_for("drained SAs to go", Duration::from_secs(5), || {
        ((a.stats().len(), b.stats().len()) == (1, 1)).then_some(())
    })
    .unwrap();
    let (of_a, of_b) = (a.stats(), b.stats());
    for flood in [there, back] {
        let seen = flood.stop().unwrap();
        println!("{rekeys} rekeys: {seen:?}");
        let drops = [&a, &b]
            .map(|g| (g.dataplane.wan_drops(), g.dataplane.tunnel_drops(), g.dataplane.kernel_drops()));
        assert!(seen.sent > u64::from(rekeys) * 40, "{seen:?}");
        assert_eq!((seen.lost(), seen.again), (0, 0), "{seen:?}, dropped {drops:?}, {of_a:?}, {of_b:?}");
    }
    assert!(of_a[0].packets_in > 0 && of_b[0].packets_in > 0, "and in use");
}

#[test]
fn a_peer_behind_a_nat_is_followed_when_the_owner_says_so() {
    let site = Site::with(SiteOptions { nat: true, ..SiteOptions::default() }).unwrap();
    let options = Options { nets: (vec![LAN_A], vec!["10.2.0.0/24"]), ..Options::default() };
    let mut a = Gateway::start(&site.gateway_a, true, site.local_a(), &options);
    let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &options);
    a.install(1, address(WAN_B), true);
    // B knows another port than the one that the NAT chose.
    let setup = b.setup(1, SocketAddr::new(address(WAN_A), 4999));
    b.run(move |d| Box::pin(async move { culvert_dataplane::testing::install(d, &setup, true).await }))
        .unwrap();
    assert!(!reaches(&site.host_a, HOST_B).unwrap());
    let seen = b.event(|e| match e {
        DataplaneEvent::PeerMoved { from, to, .. } => Some((*from, *to)),
        _ => None,
    });
    let (from, to) = seen.expect("an event that the peer moved");
    assert_eq!((from.port(), to.ip()), (4999, address(WAN_A)));
    assert_eq!(to.port(), 4500, "masquerading keeps a free port");
    assert!(b.events.try_recv().is_err(), "one move, one event");
    assert!(!reaches(&site.host_a, HOST_B).unwrap(), "the address moved without the owner's word");
    let local = SocketAddr::new(address(WAN_B), 4500);
    b.run(move |d| Box::pin(d.move_peer(TUNNEL, local, to, true))).unwrap();
    // The workers are told, not waited for.
    wait_for("the moved peer", Duration::from_secs(5), || {
        reaches(&site.host_a, HOST_B).unwrap().then_some(())
    })
    .unwrap();
}

#[test]
fn a_narrow_path_is_learnt_and_kept() {
    for (wan, router) in [((WAN_A, WAN_B), "to-b"), ((WAN_A6, WAN_B6), "to-b")] {
        let site = Site::new().unwrap();
        let (mut a, _b) = up(&site, &Options::default(), wan);
        let before = mtu_of(&site.gateway_a);
        site.wan.ip(&format!("link set {router} mtu 1400")).unwrap();
        // Too big for the path, not for the tunnel: the first is lost, the router says why.
        let size = before - 28;
        run_ping(&site.host_a, &format!("-c 2 -i 0.2 -W 1 -M do -s {size} {HOST_B}"));
        let mtu = a.event(|e| match e {
            DataplaneEvent::Mtu { mtu, .. } if *mtu < before => Some(*mtu),
            _ => None,
        });
        assert_eq!(mtu, Some(before - 100), "over {wan:?}");
        assert_eq!(mtu_of(&site.gateway_a), before - 100);
        // The host is told, and bulk data flows.
        let said = run_ping(&site.host_a, &format!("-c 2 -i 0.2 -W 1 -M do -s {size} {HOST_B}"));
        assert!(said.contains("mtu") || said.contains("Frag needed"), "{said}");
        assert!(bulk(&site, HOST_B, &Iperf::default()) > 0.05);
        assert!(bulk(&site, HOST_B6, &Iperf::default()) > 0.05);
    }
}

fn mtu_of(namespace: &Namespace) -> u32 {
    let text = namespace.ip_text(&format!("-o link show {INTERFACE}")).unwrap();
    let mut words = text.split_whitespace();
    words.find(|w| *w == "mtu").and_then(|_| words.next()).and_then(|m| m.parse().ok()).unwrap()
}

#[test]
fn limits_are_announced_and_kept() {
    let site = Site::new().unwrap();
    let limits = Limits { soft_packets: 5, hard_packets: 10, soft_bytes: u64::MAX, hard_bytes: u64::MAX };
    let (mut a, _b) = up(&site, &Options { limits: Some(limits), ..Options::default() }, (WAN_A, WAN_B));
    let seen = ping(&site.host_a, HOST_B, 15, Duration::from_millis(20)).unwrap();
    let inbound = a.stats()[0].inbound;
    let any = |e: &DataplaneEvent| Some(e.clone());
    assert_eq!(a.event(any), Some(DataplaneEvent::SoftLimit { inbound }));
    assert_eq!(a.event(any), Some(DataplaneEvent::HardLimit { inbound }));
    assert_eq!((seen.received, a.stats()[0].sequence_out), (10, 10));
    assert_eq!(a.dropped("sa-exhausted"), 5);
    // A new SA takes over.
    a.install(2, address(WAN_B), true);
    assert_eq!(a.dropped("sa-exhausted"), 5);
}

#[test]
fn congestion_marks_pass_the_tunnel_and_cost_packets_that_cannot_carry_them() {
    let site = Site::new().unwrap();
    let (_a, mut b) = up(&site, &Options::default(), (WAN_A, WAN_B));
    site.wan.run("nft", &["add table ip t"]).unwrap();
    site.wan.run("nft", &["add chain ip t f { type filter hook forward priority 0; }"]).unwrap();
    let counter = |kind: &str| {
        let text = site.host_b.run("nft", &["list", "table", "ip", "t"]).unwrap();
        let line = text.lines().find(|l| l.contains(kind)).unwrap_or_default().to_owned();
        let mut words = line.split_whitespace();
        words
            .find(|w| *w == "packets")
            .and_then(|_| words.next())
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
    };
    site.host_b.run("nft", &["add table ip t"]).unwrap();
    site.host_b.run("nft", &["add chain ip t i { type filter hook input priority 0; }"]).unwrap();
    for ecn in ["ce", "ect0"] {
        site.host_b.run("nft", &["add", "rule", "ip", "t", "i", "ip", "ecn", ecn, "counter"]).unwrap();
    }
    // Inner ECT(0) shows outside, and inside again.
    site.wan.run("nft", &["add rule ip t f udp dport 4500 ip ecn ect0 counter ip ecn set ce"]).unwrap();
    site.wan
        .run(
            "nft",
            &["add rule ip t f udp dport 4500 ip ecn not-ect ip daddr 203.0.113.1 counter ip ecn set ce"],
        )
        .unwrap();
    run_ping(&site.host_a, &format!("-c 4 -i 0.05 -W 1 -Q 2 {HOST_B}"));
    assert_eq!((counter("ecn ce"), counter("ecn ect0")), (4, 0));
    // A transport without ECN loses the packet (RFC 6040 4.2).
    let seen = ping(&site.host_a, HOST_B, 3, Duration::from_millis(20)).unwrap();
    assert_eq!((seen.received, b.dropped("ecn-drop")), (0, 3));
}

#[test]
fn connections_learn_from_their_syn_what_fits() {
    let site = Site::new().unwrap();
    let (_a, _b) = up(&site, &Options { mtu: Some(1300), ..Options::default() }, (WAN_A, WAN_B));
    for host in [&site.host_a, &site.host_b] {
        host.run("nft", &["add table ip t"]).unwrap();
        host.run("nft", &["add chain ip t i { type filter hook input priority 0; }"]).unwrap();
        host.run("nft", &["add rule ip t i tcp flags syn tcp option maxseg size 1260 counter"]).unwrap();
    }
    assert!(bulk(&site, HOST_B, &Iperf::default()) > 0.05);
    for host in [&site.host_a, &site.host_b] {
        let text = host.run("nft", &["list", "table", "ip", "t"]).unwrap();
        assert!(!text.contains("packets 0 ") && text.contains("packets "), "{text}");
    }
}

#[test]
fn ike_shares_the_port_and_keepalives_are_counted() {
    let site = Site::new().unwrap();
    let (a, mut b) = up(&site, &Options::default(), (WAN_A, WAN_B));
    let (from, to) = (SocketAddr::new(address(WAN_A), 4500), SocketAddr::new(address(WAN_B), 4500));
    // Larger than the path: IKE may be fragmented, ESP not.
    let messages = [vec![7u8; 28], vec![8; 4000]];
    for message in &messages {
        a.dataplane.send_ike(from, to, message).unwrap();
        let got = b.event(|e| match e {
            DataplaneEvent::Ike { local, remote, bytes } => Some((*local, *remote, bytes.clone())),
            _ => None,
        });
        assert_eq!(got, Some((to, from, message.clone())));
    }
    a.dataplane.send_keepalive(from, to).unwrap();
    wait_for("a keepalive", Duration::from_secs(5), || (b.dropped("keepalive") == 1).then_some(())).unwrap();
    assert!(b.events.try_recv().is_err());
    assert!(matches!(
        a.dataplane.send_ike(SocketAddr::new(address(HOST_A), 4500), to, b"x"),
        Err(DataplaneError::NotWan(_))
    ));
}

#[test]
fn garbage_on_the_wan_is_counted_and_harms_nothing() {
    let site = Site::new().unwrap();
    let (_a, mut b) = up(&site, &Options::default(), (WAN_A, WAN_B));
    let spi = b.stats()[0].inbound.to_bytes();
    let sent = site
        .wan
        .within(|| {
            let socket = std::net::UdpSocket::bind("203.0.113.254:0").unwrap();
            let mut sent = 0;
            for len in 0..200usize {
                let mut bytes = vec![0x5a; len];
                for (byte, spi) in bytes.iter_mut().zip(spi) {
                    *byte = spi;
                }
                socket.send_to(&bytes, "203.0.113.1:4500").unwrap();
                sent += 1;
            }
            sent
        })
        .unwrap();
    let counted = |b: &mut Gateway<'_>| {
        ["runt", "esp-short", "esp-misaligned", "not-authentic", "replay-too-old", "unknown-spi"]
            .map(|r| b.dropped(r))
            .iter()
            .sum::<u64>()
    };
    // An empty datagram is nothing to count.
    wait_for("all to be counted", Duration::from_secs(5), || (counted(&mut b) >= sent - 1).then_some(()))
        .unwrap();
    assert!(b.dropped("not-authentic") > 0 && b.dropped("runt") > 0 && b.dropped("esp-misaligned") > 0);
    assert!(b.events.try_recv().is_err(), "nothing moved, nothing triggered");
    assert!(reaches(&site.host_a, HOST_B).unwrap());
}

#[test]
fn a_removed_tunnel_leaves_nothing_and_can_come_again() {
    let site = Site::new().unwrap();
    let (mut a, _b) = up(&site, &Options::default(), (WAN_A, WAN_B));
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    let again = a.spec();
    assert!(matches!(
        a.run(move |d| Box::pin(d.create_tunnel(again))),
        Err(DataplaneError::TunnelExists(TUNNEL))
    ));
    a.run(|d| Box::pin(d.remove_tunnel(TUNNEL))).unwrap();
    assert!(!site.gateway_a.interfaces().unwrap().contains(&INTERFACE.to_owned()));
    assert!(a.stats().is_empty());
    let again = a.spec();
    a.run(move |d| Box::pin(d.create_tunnel(again))).unwrap();
    assert!(site.gateway_a.interfaces().unwrap().contains(&INTERFACE.to_owned()));
    drop(a);
    assert!(!site.gateway_a.interfaces().unwrap().contains(&INTERFACE.to_owned()));
}

#[test]
fn an_interface_removed_by_somebody_is_reported() {
    let site = Site::new().unwrap();
    let (mut a, _b) = up(&site, &Options::default(), (WAN_A, WAN_B));
    site.gateway_a.ip(&format!("link del {INTERFACE}")).unwrap();
    let cause = a.event(|e| match e {
        DataplaneEvent::Fault { tunnel: Some(TUNNEL), cause } => Some(cause.clone()),
        _ => None,
    });
    assert!(cause.expect("a fault").contains(INTERFACE));
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let site = Site::new().unwrap();
    let error = site
        .gateway_a
        .within(|| {
            let _other = std::net::UdpSocket::bind((address(WAN_A), 4500)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let config = DataplaneConfig { wan: vec![address(WAN_A)], ..DataplaneConfig::default() };
            runtime.block_on(Dataplane::start(config)).err().expect("the port is taken").to_string()
        })
        .unwrap();
    assert!(error.contains("UDP port 4500 of 198.51.100.1 is taken") && error.contains("stop it"), "{error}");
}

#[test]
fn of_several_sas_each_packet_takes_its_own() {
    let site = Site::new().unwrap();
    let second = ("10.11.0.0/24", "10.12.0.0/24");
    let options = Options { nets: (vec![LAN_A, second.0], vec![LAN_B, second.1]), ..Options::default() };
    let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &options);
    let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &options);
    let net = |text: &str| vec![culvert_types::TrafficSelector::from_net(text.parse().unwrap())];
    let install = |gateway: &mut Gateway<'_>, peer: &str, generation, (ours, theirs): (&str, &str)| {
        let mut setup = gateway.setup(generation, SocketAddr::new(address(peer), 4500));
        (setup.local_ts, setup.remote_ts) = (net(ours), net(theirs));
        gateway
            .run(move |d| Box::pin(async move { culvert_dataplane::testing::install(d, &setup, true).await }))
            .unwrap();
    };
    let mut both = |generation, (left, right): (&str, &str)| {
        install(&mut b, WAN_A, generation, (right, left));
        install(&mut a, WAN_B, generation, (left, right));
        (a.stats(), b.stats())
    };
    let first = |from, to: &str| {
        let said = run_ping(&site.host_a, &format!("-c 3 -i 0.05 -W 1 -I {from} {to}"));
        said.contains(" 3 received")
    };
    both(1, (LAN_A, LAN_B));
    assert!(first(HOST_A, HOST_B) && !first("10.11.0.2", "10.12.0.2"));
    both(2, second);
    assert!(first(HOST_A, HOST_B) && first("10.11.0.2", "10.12.0.2"));
    // Neither takes what goes from the one's network to the other's.
    assert!(!first(HOST_A, "10.12.0.2"));
    // A new SA for the one takes nothing from the other.
    let (before, _) = both(3, (LAN_A, LAN_B));
    assert!(first(HOST_A, HOST_B) && first("10.11.0.2", "10.12.0.2"));
    let (after, _) = both(4, second);
    let sent = |stats: &[culvert_dataplane::SaStats], at: usize| stats[at].packets_out;
    assert_eq!(sent(&after, 0), sent(&before, 0), "the old one rests");
    assert_eq!((sent(&after, 1), sent(&after, 2)), (sent(&before, 1) + 3, 3));
}
