//! The engine `bpf`, against itself and against the engine `user`.

use std::net::SocketAddr;
use std::time::Duration;

use culvert_dataplane::testing::Limits;
use culvert_dataplane::{DataplaneError, DataplaneEvent, Engine, EngineChoice, HookChoice, SaStats};
use culvert_lab::measure::{Echo, Iperf, ping, reaches};
use culvert_lab::netns::{End, link};
use culvert_lab::topology::{HOST_B, HOST_B6, LAN_A, WAN_A, WAN_A6, WAN_B, WAN_B6};
use culvert_lab::{Namespace, Site, SiteOptions, wait_for};
use culvert_sys::guard::{AttachMode, Guard, GuardError, GuardOptions, GuardSa};

use super::common::{Gateway, INTERFACE, Options, TUNNEL};
use super::{address, bulk, mtu_of, run_ping, up};

fn options(encap: bool, direct: bool) -> Options {
    let (engine, suite) = (EngineChoice::Bpf, "chacha20poly1305");
    Options { engine, suite, encap, direct, ..Options::default() }
}

/// A with one engine and B with another.
fn mixed<'a>(site: &'a Site, a: &Options, b: &Options, wan: (&str, &str)) -> (Gateway<'a>, Gateway<'a>) {
    let mut a = Gateway::start(&site.gateway_a, true, wan.0, a);
    let mut b = Gateway::start(&site.gateway_b, false, wan.1, b);
    a.install(1, address(wan.1), true);
    b.install(1, address(wan.0), true);
    (a, b)
}

fn total_drops(stats: &[SaStats]) -> Vec<(&'static str, u64)> {
    let chatter = |reason: &str| reason == "link-local";
    stats.iter().flat_map(|s| s.drops.clone()).filter(|(reason, _)| !chatter(reason)).collect()
}

#[test]
fn both_families_pass_inside_and_outside() {
    for (wan, encap, direct) in [
        ((WAN_A, WAN_B), false, false),
        ((WAN_A, WAN_B), true, true),
        ((WAN_A6, WAN_B6), true, false),
        ((WAN_A6, WAN_B6), false, true),
    ] {
        let site = Site::new().unwrap();
        let (mut a, mut b) = up(&site, &options(encap, direct), wan);
        for host in [HOST_B, HOST_B6] {
            let what = format!("{host} over {wan:?} encap {encap} direct {direct}");
            assert!(reaches(&site.host_a, host).unwrap(), "{what}: {:?} {:?}", a.stats(), b.stats());
            let udp = (host == HOST_B6).then(|| "20M".to_owned());
            let gbps = bulk(&site, host, &Iperf { streams: 2, udp, ..Iperf::default() });
            let dropped = (a.dataplane.tunnel_drops(), b.dataplane.tunnel_drops());
            assert!(gbps > 0.01, "{what}: {gbps} Gbit/s {:?} {:?} {dropped:?}", a.stats(), b.stats());
        }
        let (sa_a, sa_b) = (a.stats(), b.stats());
        assert!(sa_a[0].packets_out > 1000 && sa_b[0].packets_in > 1000);
        assert!(sa_b[0].packets_in <= sa_a[0].packets_out && sa_a[0].sequence_out >= sa_b[0].sequence_in);
        assert!(sa_b[0].replay_floor > 0 && sa_b[0].replay_floor <= sa_b[0].sequence_in);
        assert_eq!(total_drops(&sa_a), [], "over {wan:?} encap {encap} direct {direct}");
        assert_eq!(total_drops(&sa_b), [], "over {wan:?} encap {encap} direct {direct}");
    }
}

/// Sealed by the one and opened by the other: the bytes are the same. Trains of datagrams, which the engine `user`
/// sends in UDP, are opened one by one.
#[test]
fn the_engine_user_understands_it() {
    for (wan, esn, encap, swapped) in
        [((WAN_A, WAN_B), true, false, false), ((WAN_A6, WAN_B6), false, true, true)]
    {
        let site = Site::new().unwrap();
        let bpf = Options { esn, ..options(encap, true) };
        let user = Options { engine: EngineChoice::User, ..bpf.clone() };
        let (left, right) = if swapped { (&user, &bpf) } else { (&bpf, &user) };
        let (mut a, mut b) = mixed(&site, left, right, wan);
        for host in [HOST_B, HOST_B6] {
            assert!(reaches(&site.host_a, host).unwrap(), "{host}: {:?} {:?}", a.stats(), b.stats());
            // Every length of padding, and packets of more than one block of the cipher.
            for size in [0, 1, 2, 3, 18, 57, 58, 59, 60, 700, 1301, 1302, 1303] {
                let said = run_ping(&site.host_a, &format!("-c 1 -W 2 -s {size} {host}"));
                assert!(said.contains(" 1 received"), "{size} to {host}: {said}");
            }
            assert!(bulk(&site, host, &Iperf::default()) > 0.01, "{host}");
        }
        assert_eq!((total_drops(&a.stats()), total_drops(&b.stats())), (vec![], vec![]));
    }
}

/// The same engine before there are socket buffers.
fn early(encap: bool) -> Options {
    Options { hook: HookChoice::Xdp, ..options(encap, true) }
}

/// Frames that programs redirected at a device.
fn redirected(gateway: &Namespace, device: &str) -> u64 {
    let text = gateway.run("ethtool", &["-S", device]).unwrap();
    let counters = text.lines().filter(|line| line.contains("_xdp_redirect:"));
    counters.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Where the programs stand.
fn stands(gateway: &Gateway<'_>) -> Vec<String> {
    let engines = gateway.dataplane.engines();
    let mut notes = engines.into_iter().find(|e| e.engine == Engine::Bpf).unwrap().notes;
    notes.sort();
    notes
}

#[test]
fn under_xdp_the_engine_user_understands_it() {
    for (wan, encap) in [((WAN_A, WAN_B), true), ((WAN_A6, WAN_B6), false)] {
        let site = Site::new().unwrap();
        let user = Options { engine: EngineChoice::User, hook: HookChoice::Tc, ..early(encap) };
        let (mut a, mut b) = mixed(&site, &early(encap), &user, wan);
        // What senders leave to the device is the stack's: here they do what a wire wants.
        for (namespace, device) in [(&site.host_a, "eth0"), (&site.host_b, "eth0")] {
            namespace.run("ethtool", &["-K", device, "tx", "off"]).unwrap();
        }
        for host in [HOST_B, HOST_B6] {
            assert!(reaches(&site.host_a, host).unwrap(), "{host}: {:?} {:?}", a.stats(), b.stats());
            for size in [0, 1, 2, 3, 18, 57, 58, 59, 60, 700, 1301, 1302, 1303] {
                let said = run_ping(&site.host_a, &format!("-c 1 -W 2 -s {size} {host}"));
                assert!(said.contains(" 1 received"), "{size} to {host}: {said}");
            }
        }
        assert!(bulk(&site, HOST_B, &Iperf::default()) > 0.005);
        assert_eq!((total_drops(&a.stats()), total_drops(&b.stats())), (vec![], vec![]));
        let sent = a.stats()[0].packets_out;
        let by_xdp = redirected(&site.gateway_a, "lan");
        assert!(by_xdp * 10 > sent * 9, "of {sent} packets XDP sealed {by_xdp}");
        assert!(redirected(&site.gateway_a, "wan") > 20);
    }
}

#[test]
fn under_xdp_rekeys_at_full_rate_lose_nothing() {
    super::rekeys_at_full_rate(&early(false), 10);
}

/// `auto` leaves virtual links their offloads; a device that comes back is served anew; and the guard is always in front.
#[test]
fn the_hook_follows_the_choice_the_devices_and_the_guard() {
    let site = Site::new().unwrap();
    let virtual_links = Options { hook: HookChoice::Auto, ..early(false) };
    let a = Gateway::start(&site.gateway_a, true, WAN_A, &virtual_links);
    let why = "XDP on a veth link would take segmentation offload from its senders";
    assert_eq!(stands(&a), [format!("tc at lan ({why})"), format!("tc at wan ({why})")]);
    drop(a);

    let (mut a, _b) = up(&site, &early(false), (WAN_A, WAN_B));
    assert_eq!(stands(&a), ["xdp at lan", "xdp at wan"]);
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    let before = (redirected(&site.gateway_a, "lan"), redirected(&site.gateway_a, "wan"));
    assert!(before.0 > 0 && before.1 > 0, "{before:?}");

    // Gone, and back under the same name.
    site.gateway_a.ip("link del lan").unwrap();
    let settle = |a: &mut Gateway<'_>, guard: Option<&mut Guard>| {
        let dataplane = &mut a.dataplane;
        site.gateway_a.within(|| dataplane.settle_hooks(guard)).unwrap().unwrap();
    };
    settle(&mut a, None);
    assert_eq!(stands(&a), ["xdp at wan"]);
    let host = End { namespace: &site.host_a, name: "eth0", addresses: &["10.1.0.2/24", "fd01::2/64"] };
    let lan = End { namespace: &site.gateway_a, name: "lan", addresses: &["10.1.0.1/24", "fd01::1/64"] };
    link(host, lan, None).unwrap();
    site.host_a.ip("route add default via 10.1.0.1").unwrap();
    assert!(reaches(&site.host_a, HOST_B).unwrap(), "by the stack: {:?}", a.stats());
    // Behind the program of AF_XDP, which takes nothing here.
    let options = GuardOptions { local_addresses: vec![address(WAN_A)], ..GuardOptions::default() };
    let mut guard = Guard::load(options.clone()).unwrap();
    site.gateway_a.within(|| guard.attach_lan("lan")).unwrap().unwrap();
    settle(&mut a, Some(&mut guard));
    assert_eq!(stands(&a), ["xdp at lan (behind the guard's program)", "xdp at wan"]);
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    let before = redirected(&site.gateway_a, "lan");
    assert!(before > 0);
    drop(guard);
    settle(&mut a, None);
    assert_eq!(stands(&a), ["xdp at lan", "xdp at wan"]);
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    assert!(redirected(&site.gateway_a, "lan") > before);

    // Behind the guard's program at the WAN, or not at all where that stands under TC.
    let inbound = a.stats()[0].inbound;
    let path = a.dataplane.sa_path(inbound);
    let mut guard = Guard::load(options).unwrap();
    let (local, remote) = (address(WAN_A), Some(address(WAN_B)));
    guard.insert_sa(GuardSa { spi: inbound, local, remote, min_len: 36, alignment: 4, esn: true }).unwrap();
    guard.set_path(inbound, path).unwrap();
    site.gateway_a.within(|| guard.attach("wan", AttachMode::Tcx)).unwrap().unwrap();
    settle(&mut a, Some(&mut guard));
    let behind = "the guard stands there by tcx, and would not see what native XDP takes before it";
    assert_eq!(stands(&a), [format!("tc at wan ({behind})"), "xdp at lan".to_owned()]);
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    guard.detach("wan");
    site.gateway_a.within(|| guard.attach("wan", AttachMode::XdpNative)).unwrap().unwrap();
    let occupied = site.gateway_a.within(|| guard.attach_lan("lan")).unwrap().unwrap_err();
    assert!(matches!(occupied, GuardError::Occupied { .. }), "{occupied}");
    settle(&mut a, Some(&mut guard));
    assert_eq!(stands(&a), ["xdp at lan", "xdp at wan (behind the guard's program)"]);
    let before = redirected(&site.gateway_a, "wan");
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    assert!(redirected(&site.gateway_a, "wan") > before);
    let esp = guard.sa_counters(inbound).unwrap().packets;
    assert!(esp > 0, "the guard judged none");
    // The guard's word holds: not from there.
    guard.move_sa(inbound, local, Some("203.0.113.77".parse().unwrap())).unwrap();
    assert!(!reaches(&site.host_a, HOST_B).unwrap());
    assert_eq!(guard.sa_counters(inbound).unwrap().packets, esp);
    guard.move_sa(inbound, local, remote).unwrap();
    drop(guard);
    settle(&mut a, None);
    assert_eq!(stands(&a), ["xdp at lan", "xdp at wan"]);
    assert!(reaches(&site.host_a, HOST_B).unwrap());
}

#[test]
fn a_rekey_loses_nothing() {
    let site = Site::new().unwrap();
    let (mut a, mut b) = up(&site, &options(false, true), (WAN_A, WAN_B));
    let running = Echo::start(&site.host_a, &site.host_b, HOST_B, Duration::from_millis(2)).unwrap();
    for generation in 2..6 {
        let new_b = b.install(generation, address(WAN_A), false);
        let new_a = a.install(generation, address(WAN_B), true);
        std::thread::sleep(Duration::from_millis(30));
        b.activate(new_b);
        let old = |stats: &[SaStats], new| stats.iter().map(|s| s.inbound).find(|s| *s != new).unwrap();
        let (old_a, old_b) = (old(&a.stats(), new_a), old(&b.stats(), new_b));
        a.remove(old_a, Duration::from_millis(200)).unwrap();
        b.remove(old_b, Duration::from_millis(200)).unwrap();
        assert!(matches!(a.remove(old_a, Duration::ZERO), Err(DataplaneError::UnknownSpi(_))));
        std::thread::sleep(Duration::from_millis(30));
        assert!(a.stats()[0].packets_out > 0 && b.stats()[0].packets_out > 0, "generation {generation}");
    }
    let seen = running.stop().unwrap();
    assert!(seen.sent > 20, "{seen:?}");
    assert_eq!(seen.lost(), 0, "{seen:?}");
    assert_eq!((a.stats().len(), b.stats().len()), (1, 1));
}

/// Of plain ESP and of ESP in UDP, where trains that the kernel joined are opened by user space's hand.
#[test]
fn rekeys_at_full_rate_lose_nothing() {
    for (encap, direct) in [(true, false), (false, true)] {
        super::rekeys_at_full_rate(&options(encap, direct), 10);
    }
}

#[test]
fn limits_are_announced_and_kept() {
    let site = Site::new().unwrap();
    let limits = Limits { soft_packets: 5, hard_packets: 10, soft_bytes: u64::MAX, hard_bytes: u64::MAX };
    let (mut a, _b) = up(&site, &Options { limits: Some(limits), ..options(false, false) }, (WAN_A, WAN_B));
    let seen = ping(&site.host_a, HOST_B, 15, Duration::from_millis(40)).unwrap();
    let inbound = a.stats()[0].inbound;
    let limit = |e: &DataplaneEvent| match e {
        DataplaneEvent::SoftLimit { .. } | DataplaneEvent::HardLimit { .. } => Some(e.clone()),
        _ => None,
    };
    assert_eq!(a.event(limit), Some(DataplaneEvent::SoftLimit { inbound }));
    assert_eq!(a.event(limit), Some(DataplaneEvent::HardLimit { inbound }));
    assert_eq!((seen.received, a.stats()[0].sequence_out), (10, 10));
    assert_eq!(a.dropped("sa-exhausted"), 5);
}

#[test]
fn a_tunnel_without_an_sa_drops_counts_and_asks_for_one() {
    let site = Site::new().unwrap();
    let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &options(false, true));
    let seen = ping(&site.host_a, HOST_B, 20, Duration::from_millis(10)).unwrap();
    assert_eq!(seen.received, 0);
    assert_eq!(a.dropped("no-outbound-sa"), 20);
    let asked = a.event(|e| (*e == DataplaneEvent::Trigger { tunnel: TUNNEL }).then_some(()));
    assert!(asked.is_some());
}

#[test]
fn selectors_hold_in_both_directions() {
    let site = Site::new().unwrap();
    let narrow = Options { nets: (vec![LAN_A], vec!["10.2.0.0/30"]), ..options(false, true) };
    let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &narrow);
    let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &options(false, true));
    a.install(1, address(WAN_B), true);
    let mut setup = b.setup(1, SocketAddr::new(address(WAN_A), 0));
    setup.remote_ts = vec!["10.1.0.128/25".parse::<ipnet::IpNet>().unwrap().into()];
    b.run(move |d| Box::pin(async move { culvert_dataplane::testing::install(d, &setup, true).await }))
        .unwrap();
    site.gateway_a.ip(&format!("route add 10.2.0.128/25 dev {INTERFACE}")).unwrap();
    let said = run_ping(&site.host_a, "-c 2 -i 0.2 -W 1 10.2.0.200");
    assert!(said.contains("Packet filtered"), "{said}");
    assert_eq!(a.dropped("selector-mismatch"), 2);
    ping(&site.host_a, HOST_B, 3, Duration::from_millis(10)).unwrap();
    assert_eq!((b.dropped("selector-mismatch"), b.stats()[0].packets_in), (3, 0));
}

#[test]
fn a_peer_behind_a_nat_is_followed_when_the_owner_says_so() {
    let site = Site::with(SiteOptions { nat: true, ..SiteOptions::default() }).unwrap();
    let options = Options { nets: (vec![LAN_A], vec!["10.2.0.0/24"]), ..options(true, false) };
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
    assert_eq!((from.port(), to), (4999, SocketAddr::new(address(WAN_A), 4500)));
    assert!(!reaches(&site.host_a, HOST_B).unwrap(), "the address moved without the owner's word");
    let local = SocketAddr::new(address(WAN_B), 4500);
    b.run(move |d| Box::pin(d.move_peer(TUNNEL, local, to, true))).unwrap();
    assert!(reaches(&site.host_a, HOST_B).unwrap());
}

#[test]
fn a_narrow_path_is_learnt_and_connections_learn_what_fits() {
    let site = Site::new().unwrap();
    let (mut a, _b) = up(&site, &options(true, true), (WAN_A, WAN_B));
    let before = mtu_of(&site.gateway_a);
    site.wan.ip("link set to-b mtu 1400").unwrap();
    let size = before - 28;
    let mtu = wait_for("a smaller MTU", Duration::from_secs(5), || {
        run_ping(&site.host_a, &format!("-c 1 -W 0.3 -M do -s {size} {HOST_B}"));
        let mtu = mtu_of(&site.gateway_a);
        (mtu < before).then_some(mtu)
    });
    assert_eq!(mtu.unwrap(), before - 100);
    let said = run_ping(&site.host_a, &format!("-c 1 -W 1 -M do -s {size} {HOST_B}"));
    assert!(said.contains("mtu") || said.contains("Frag needed"), "{said}");
    site.host_b.run("nft", &["add table ip t"]).unwrap();
    site.host_b.run("nft", &["add chain ip t i { type filter hook input priority 0; }"]).unwrap();
    let rule = format!("add rule ip t i tcp flags syn tcp option maxseg size {} counter", before - 140);
    site.host_b.run("nft", &[&rule]).unwrap();
    assert!(bulk(&site, HOST_B, &Iperf::default()) > 0.01);
    let text = site.host_b.run("nft", &["list", "table", "ip", "t"]).unwrap();
    assert!(text.contains("packets ") && !text.contains("packets 0 "), "{text}");
    drop(a.stats());
}

#[test]
fn forged_and_repeated_packets_are_dropped_and_counted() {
    let site = Site::new().unwrap();
    let (_a, mut b) = up(&site, &options(true, false), (WAN_A, WAN_B));
    let spi = b.stats()[0].inbound.to_bytes();
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    site.wan
        .within(|| {
            let socket = std::net::UdpSocket::bind("203.0.113.254:0").unwrap();
            for len in 8..200usize {
                let mut bytes = vec![0x5a; len];
                bytes[..4].copy_from_slice(&spi);
                bytes[4..8].copy_from_slice(&[0, 0, 0x10, 0]);
                socket.send_to(&bytes, "203.0.113.1:4500").unwrap();
            }
            // A number long gone: the first was the ping's.
            let mut bytes = vec![0; 60];
            bytes[..4].copy_from_slice(&spi);
            bytes[7] = 1;
            socket.send_to(&bytes, "203.0.113.1:4500").unwrap();
        })
        .unwrap();
    wait_for("all to be counted", Duration::from_secs(5), || {
        let counted =
            ["esp-short", "esp-misaligned", "not-authentic", "replay-duplicate"].map(|r| b.dropped(r));
        (counted == [28, 123, 41, 1]).then_some(()).ok_or(counted).ok()
    })
    .unwrap_or_else(|e| panic!("{e}: {:?}", b.stats()));
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    assert!(b.events.try_recv().is_err(), "nothing moved, nothing triggered");
}

#[test]
fn congestion_marks_pass_and_cost_packets_that_cannot_carry_them() {
    let site = Site::new().unwrap();
    let (_a, mut b) = up(&site, &options(true, true), (WAN_A, WAN_B));
    site.wan.run("nft", &["add table ip t"]).unwrap();
    site.wan.run("nft", &["add chain ip t f { type filter hook forward priority 0; }"]).unwrap();
    site.wan.run("nft", &["add rule ip t f ip daddr 203.0.113.1 udp dport 4500 ip ecn set ce"]).unwrap();
    site.host_b.run("nft", &["add table ip t"]).unwrap();
    site.host_b.run("nft", &["add chain ip t i { type filter hook input priority 0; }"]).unwrap();
    site.host_b.run("nft", &["add rule ip t i ip ecn ce counter"]).unwrap();
    let said = run_ping(&site.host_a, &format!("-c 4 -i 0.05 -W 1 -Q 2 {HOST_B}"));
    assert!(said.contains(" 4 received"), "{said}");
    let text = site.host_b.run("nft", &["list", "table", "ip", "t"]).unwrap();
    assert!(text.contains("packets 4 "), "{text}");
    let seen = ping(&site.host_a, HOST_B, 3, Duration::from_millis(20)).unwrap();
    assert_eq!((seen.received, b.dropped("ecn-drop")), (0, 3));
}

#[test]
fn a_removed_tunnel_leaves_nothing_and_other_ciphers_are_refused() {
    let site = Site::new().unwrap();
    let (mut a, _b) = up(&site, &options(false, true), (WAN_A, WAN_B));
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    a.run(|d| Box::pin(d.remove_tunnel(TUNNEL))).unwrap();
    let left = site.gateway_a.interfaces().unwrap();
    assert!(!left.iter().any(|name| name.starts_with("cv")), "{left:?}");
    assert!(a.stats().is_empty());
    let mut other = a.spec();
    other.suites = vec![super::common::suite("aes128gcm16")];
    let refused = a.run(move |d| Box::pin(d.create_tunnel(other))).unwrap_err().to_string();
    assert!(refused.contains("carry-less") && refused.contains("chacha20poly1305"), "{refused}");
    let again = a.spec();
    let report = a.run(move |d| Box::pin(d.create_tunnel(again))).unwrap();
    assert!(report.why.iter().any(|why| why.contains("asks for bpf")), "{report:?}");
    drop(a);
    let left = site.gateway_a.interfaces().unwrap();
    assert!(!left.iter().any(|name| name.starts_with("cv")), "{left:?}");
}

/// The stack puts them together, and hands them to a socket, from where the program gets them.
#[test]
fn fragments_of_plain_esp_are_opened() {
    let site = Site::new().unwrap();
    let bpf = options(false, false);
    let user = Options { engine: EngineChoice::User, ..bpf.clone() };
    let (_a, mut b) = mixed(&site, &user, &bpf, (WAN_A, WAN_B));
    for rule in [
        "add table ip t",
        "add chain ip t p { type filter hook prerouting priority -300; }",
        "add rule ip t p ip protocol esp ip frag-off set 0",
    ] {
        site.wan.run("nft", &[rule]).unwrap();
    }
    site.wan.ip("link set to-b mtu 700").unwrap();
    // What host B answers is too large for the link that it comes back by.
    run_ping(&site.host_a, &format!("-c 3 -i 0.1 -W 1 -s 1200 {HOST_B}"));
    let stats = b.stats();
    assert_eq!((stats[0].packets_in, stats[0].packets_out, total_drops(&stats)), (3, 3, vec![]));
    assert_eq!(b.dropped("unknown-spi"), 0);
}

/// Also in the virtual machines, whose verifiers and hooks are older and newer ones.
#[test]
fn packets_pass_on_other_kernels() {
    let site = Site::new().unwrap();
    let (mut a, mut b) = up(&site, &options(true, true), (WAN_A, WAN_B));
    for host in [HOST_B, HOST_B6] {
        assert!(reaches(&site.host_a, host).unwrap(), "{host}: {:?} {:?}", a.stats(), b.stats());
    }
    assert_eq!((total_drops(&a.stats()), total_drops(&b.stats())), (vec![], vec![]));
    drop((a, b));
    let (mut a, mut b) = up(&site, &early(true), (WAN_A, WAN_B));
    let untold = "this kernel does not tell what drivers do for XDP (6.3 does)";
    match stands(&a) {
        both if both == ["xdp at lan", "xdp at wan"] => {
            assert!(reaches(&site.host_a, HOST_B).unwrap(), "{:?} {:?}", a.stats(), b.stats());
            assert!(redirected(&site.gateway_a, "lan") > 0 && redirected(&site.gateway_b, "wan") > 0);
        }
        neither => {
            assert_eq!(neither, [format!("tc at lan ({untold})"), format!("tc at wan ({untold})")]);
        }
    }
    assert_eq!((total_drops(&a.stats()), total_drops(&b.stats())), (vec![], vec![]));
    drop((a, b));
    super::split::packets_pass(&site);
}
