//! A tunnel of two engines: bulk by `user` with AES-GCM, small packets by `bpf` with ChaCha20-Poly1305.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use culvert_dataplane::testing::{Purpose, install_in};
use culvert_dataplane::{DataplaneError, Engine, SaStats, SmallPackets};
use culvert_lab::measure::{Iperf, ping, reaches};
use culvert_lab::topology::{HOST_A, HOST_B, HOST_B6, WAN_A, WAN_A6, WAN_B, WAN_B6};
use culvert_lab::{Flood, Site};
use culvert_types::Spi;

use super::common::{Gateway, Options, TUNNEL};
use super::{address, bulk, run_ping, up};

/// Expedited forwarding (RFC 3246).
const EF: u32 = 46;

fn options(encap: bool) -> Options {
    let small = SmallPackets { longest: 256, dscp: 1 << EF };
    Options { encap, small: Some(small), ..Options::default() }
}

/// The SA pair of a generation for small packets, into an engine.
fn install_small(gateway: &mut Gateway<'_>, generation: u32, peer: &str, engine: Engine, now: bool) -> Spi {
    let port = if gateway.options.encap { 4500 } else { 0 };
    let suite = std::mem::replace(&mut gateway.options.suite, "chacha20poly1305");
    let mut setup = gateway.setup(100 + generation, SocketAddr::new(address(peer), port));
    gateway.options.suite = suite;
    if engine == Engine::Bpf {
        setup.purpose = Purpose::Small;
    }
    let inbound = setup.inbound;
    let report =
        gateway.run(move |d| Box::pin(async move { install_in(d, &setup, None, now).await })).unwrap();
    assert_eq!(report.engine, engine);
    inbound
}

/// Both with an SA pair of each engine.
fn both<'a>(site: &'a Site, encap: bool, wan: (&str, &str)) -> (Gateway<'a>, Gateway<'a>) {
    let (mut a, mut b) = up(site, &options(encap), wan);
    install_small(&mut a, 1, wan.1, Engine::Bpf, true);
    install_small(&mut b, 1, wan.0, Engine::Bpf, true);
    (a, b)
}

fn of(gateway: &mut Gateway<'_>, engine: Engine) -> SaStats {
    gateway.stats().into_iter().find(|sa| sa.engine == engine).expect("an SA of that engine")
}

#[test]
fn small_packets_have_an_engine_of_their_own() {
    for (wan, encap) in [((WAN_A, WAN_B), true), ((WAN_A6, WAN_B6), false)] {
        let site = Site::new().unwrap();
        let (mut a, mut b) = both(&site, encap, wan);
        for host in [HOST_B, HOST_B6] {
            let (before, bulk_before) = (of(&mut a, Engine::Bpf), of(&mut a, Engine::User));
            let seen = ping(&site.host_a, host, 10, Duration::from_millis(5)).unwrap();
            assert_eq!(seen.received, 10, "{host} over {wan:?}: {:?} {:?}", a.stats(), b.stats());
            // Long ones take the other way, and so do fragments; a mark brings a long one back.
            let said = run_ping(&site.host_a, &format!("-c 2 -i 0.05 -W 1 -s 900 {host}"));
            assert!(said.contains(" 2 received"), "{said}");
            if host == HOST_B {
                let said = run_ping(&site.host_a, &format!("-c 2 -i 0.05 -W 1 -s 4000 {host}"));
                assert!(said.contains(" 2 received"), "{said}");
            }
            let after = of(&mut a, Engine::Bpf).packets_out - before.packets_out;
            assert_eq!(after, 10, "{host} over {wan:?}");
            let said = run_ping(&site.host_a, &format!("-c 2 -i 0.05 -W 1 -Q 0xb8 -s 900 {host}"));
            assert!(said.contains(" 2 received"), "{said}");
            assert_eq!(of(&mut a, Engine::Bpf).packets_out - before.packets_out, 12, "{host} over {wan:?}");
            assert!(of(&mut a, Engine::User).packets_out >= bulk_before.packets_out + 2);
            let gbps = bulk(&site, host, &Iperf { streams: 2, ..Iperf::default() });
            assert!(gbps > 0.05, "{host} over {wan:?}: {gbps} Gbit/s {:?} {:?}", a.stats(), b.stats());
            // Checksums that the senders left to their devices, which receivers verify.
            let flood = Flood::start(&site.host_a, &site.host_b, host, 80).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            let seen = flood.stop().unwrap();
            assert!(seen.sent > 100 && seen.lost() == 0, "{host} over {wan:?}: {seen:?}");
            assert!(of(&mut a, Engine::Bpf).packets_out - before.packets_out > seen.sent);
        }
        assert!(of(&mut a, Engine::User).packets_out > 1000 && of(&mut b, Engine::User).packets_in > 1000);
        let mut stats = a.stats();
        stats.extend(b.stats());
        for sa in stats {
            let bad: Vec<_> = sa.drops.iter().filter(|(reason, _)| *reason != "link-local").collect();
            assert!(bad.is_empty(), "{wan:?} encap {encap}: {sa:?}");
        }
        assert_eq!(a.dropped("unknown-spi") + b.dropped("unknown-spi"), 0);
    }
}

#[test]
fn an_engine_of_small_packets_comes_and_goes() {
    let site = Site::new().unwrap();
    let (mut a, mut b) = both(&site, true, (WAN_A, WAN_B));
    let flood = Flood::start(&site.host_a, &site.host_b, HOST_B, 80).unwrap();
    let back = Flood::start(&site.host_b, &site.host_a, HOST_A, 300).unwrap();
    let mut old = [of(&mut a, Engine::Bpf).inbound, of(&mut b, Engine::Bpf).inbound];
    for generation in 2..7 {
        let started = Instant::now();
        let new_b = install_small(&mut b, generation, WAN_A, Engine::Bpf, false);
        let new_a = install_small(&mut a, generation, WAN_B, Engine::Bpf, true);
        b.activate(new_b);
        a.remove(old[0], Duration::from_millis(300)).unwrap();
        b.remove(old[1], Duration::from_millis(300)).unwrap();
        old = [new_a, new_b];
        std::thread::sleep(Duration::from_millis(60).saturating_sub(started.elapsed()));
    }
    // Without one everything goes by the other.
    a.remove(old[0], Duration::from_millis(300)).unwrap();
    b.remove(old[1], Duration::from_millis(300)).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    for flood in [flood, back] {
        let seen = flood.stop().unwrap();
        assert!(seen.sent > 300, "{seen:?}");
        assert_eq!((seen.lost(), seen.again), (0, 0), "{seen:?} {:?} {:?}", a.stats(), b.stats());
    }
    let engines: Vec<_> = a.stats().iter().map(|sa| sa.engine).collect();
    assert_eq!(engines, [Engine::User]);

    // A peer of one engine has both SAs in it; the two are told apart by what they carry, not by who has them.
    install_small(&mut a, 9, WAN_B, Engine::Bpf, true);
    install_small(&mut b, 9, WAN_A, Engine::User, true);
    assert!(reaches(&site.host_a, HOST_B).unwrap(), "{:?} {:?}", a.stats(), b.stats());
    assert!(bulk(&site, HOST_B, &Iperf::default()) > 0.05);
    assert!(of(&mut a, Engine::Bpf).packets_in > 0);

    a.run(|d| Box::pin(d.remove_tunnel(TUNNEL))).unwrap();
    let left = site.gateway_a.interfaces().unwrap();
    assert!(!left.iter().any(|name| name.starts_with("cv")), "{left:?}");
    let spec = a.spec();
    let report = a.run(move |d| Box::pin(d.create_tunnel(spec))).unwrap();
    assert!(
        report.small && report.why.iter().any(|why| why.contains("256 bytes or of DSCP 46")),
        "{report:?}"
    );
}

#[test]
fn a_host_that_cannot_split_says_so_and_carries_everything() {
    let site = Site::new().unwrap();
    for family in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
        site.gateway_b.run("sysctl", &["-qw", &format!("net.{family}=0")]).unwrap();
    }
    let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &options(true));
    let spec = b.spec();
    b.run(|d| Box::pin(d.remove_tunnel(TUNNEL))).unwrap();
    let report = b.run(move |d| Box::pin(d.create_tunnel(spec))).unwrap();
    assert!(!report.small && report.why.iter().any(|why| why.contains("does not forward")), "{report:?}");
    let mut setup = b.setup(1, SocketAddr::new(address(WAN_A), 4500));
    setup.tunnel = TUNNEL;
    let refused = b
        .run(move |d| Box::pin(async move { install_in(d, &setup, Some(Engine::Bpf), true).await }))
        .unwrap_err();
    assert!(matches!(refused, DataplaneError::NotServedBy { engine: Engine::Bpf, .. }), "{refused}");
}

/// Small and large packets of both families.
pub(crate) fn packets_pass(site: &Site) {
    let (mut a, mut b) = both(site, true, (WAN_A, WAN_B));
    for host in [HOST_B, HOST_B6] {
        let before = of(&mut a, Engine::Bpf).packets_out;
        let said = run_ping(&site.host_a, &format!("-c 3 -i 0.1 -W 3 {host}"));
        assert!(said.contains(" 3 received"), "{said} {:?} {:?}", a.stats(), b.stats());
        assert_eq!(of(&mut a, Engine::Bpf).packets_out, before + 3);
        let said = run_ping(&site.host_a, &format!("-c 3 -i 0.1 -W 3 -s 900 {host}"));
        assert!(said.contains(" 3 received"), "{said} {:?} {:?}", a.stats(), b.stats());
        assert_eq!(of(&mut a, Engine::Bpf).packets_out, before + 3);
    }
}
