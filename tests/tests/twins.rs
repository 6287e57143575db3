//! Culvert with Culvert: suites, NAT, IPv6, and rekeying that loses no packet.

#[path = "twins/bgp.rs"]
mod bgp;
#[path = "twins/doctor.rs"]
mod doctor;
#[path = "twins/drops.rs"]
mod drops;
#[path = "twins/environments.rs"]
mod environments;
#[path = "twins/failover.rs"]
mod failover;
#[path = "twins/forwards.rs"]
mod forwards;
#[path = "twins/networks.rs"]
mod networks;
#[path = "twins/notices.rs"]
mod notices;
#[path = "twins/paper.rs"]
mod paper;
#[path = "twins/per_core.rs"]
mod per_core;
#[path = "twins/split.rs"]
mod split;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::measure::{Echo, Iperf, IperfServer, ping};
use culvert_lab::topology::{HOST_B, HOST_B6};
use culvert_lab::{Culvert, Flood, GatewayConfig, Site, wait_for};
use culvert_tests::{Case, Initiator, Twins, traffic};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};

fn case(ike: &str, esp: &str) -> Case {
    Case::new(ike, esp, Initiator::Culvert)
}

fn connects(case: &Case) -> Result<Twins> {
    let twins = Twins::bring_up(case)?;
    traffic(&twins.site, &case.hosts())?;
    twins.agree()?;
    Ok(twins)
}

macro_rules! suites {
    ($($name:ident: $ike:literal, $esp:literal;)+) => { $(
        #[test]
        fn $name() -> Result<()> {
            let twins = connects(&case($ike, $esp))?;
            let suite = culvert_tests::suite_of($esp);
            ensure!(twins.a.site()?.child()["suite"] == suite.as_str());
            Ok(())
        }
    )+ };
}

suites! {
    aes128gcm16_ecp256: "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256";
    aes256gcm16_ecp384: "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384";
    chacha20poly1305_curve25519: "chacha20poly1305-prfsha256-curve25519", "chacha20poly1305-curve25519";
    aes128_sha1_modp2048: "aes128-sha1-modp2048", "aes128-sha1-modp2048";
    aes256_sha512_ecp256: "aes256-sha512-ecp256", "aes256-sha512-ecp256";
}

/// ML-KEM-768 beside X25519 in every exchange (RFC 9370): IKE_INTERMEDIATE, then IKE_FOLLOWUP_KE in each rekeying.
#[test]
fn hybrid_key_exchange() -> Result<()> {
    let (ike, esp) = ("aes256gcm16-prfsha384-curve25519-ke1_mlkem768", "aes256gcm16-curve25519-ke1_mlkem768");
    let twins = connects(&case(ike, esp))?;
    let rekeys: [fn(&Twins) -> Result<()>; 4] =
        [|t| t.a.rekey_child(), |t| t.b.rekey_ike(), |t| t.b.rekey_child(), |t| t.a.rekey_ike()];
    for rekey in rekeys {
        ensure!(twins.a.site()?.0["ike"]["suite"] == ike, "{:#}", twins.a.site()?.0);
        rekey(&twins)?;
        twins.agree()?;
    }
    traffic(&twins.site, &case(ike, esp).hosts())
}

#[test]
fn behind_nat() -> Result<()> {
    // With `auto` both would pretend a NAT, to have ESP in UDP.
    let case = Case {
        culvert_encap: "esp".into(),
        ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16").behind_nat()
    };
    let twins = connects(&case)?;
    ensure!(twins.a.site()?.0["ike"]["nat"] == "local");
    ensure!(twins.b.site()?.0["ike"]["nat"] == "remote");
    Ok(())
}

/// Nobody is behind a NAT and nobody pretends: ESP is IP protocol 50 (WAN port `raw`).
#[test]
fn plain_esp() -> Result<()> {
    let case = Case { culvert_encap: "esp".into(), ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16") };
    let twins = Twins::bring_up(&case)?;
    let watch = culvert_lab::Capture::start(&twins.site.wan)?;
    traffic(&twins.site, &case.hosts())?;
    let flows = watch.finish();
    ensure!(twins.a.site()?.child()["encap"] == "none", "{:#}", twins.a.site()?.0);
    ensure!(flows.keys().any(|flow| flow.protocol == 50), "no ESP on the WAN: {flows:?}");
    twins.agree()
}

/// Lets ESP through no gateway's stack, in neither direction.
const NO_ESP: &str = "table inet noesp {
    chain inward { type filter hook input priority 0; meta l4proto esp drop; }
    chain outward { type filter hook output priority 0; meta l4proto esp drop; }
    chain past { type filter hook forward priority 0; meta l4proto { tcp, udp } iifname lan drop; }
}";

/// WAN and LAN by AF_XDP: once the next hops are known, nothing needs the stack, not even a rekeying.
#[test]
fn ports_xsk() -> Result<()> {
    let case = Case {
        culvert_encap: "auto".into(),
        ours: vec![("wan_port".into(), "\"xsk\"".into()), ("lan_port".into(), "\"xsk\"".into())],
        ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256")
    };
    let twins = Twins::bring_up(&case)?;
    traffic(&twins.site, &case.hosts())?;
    for (side, gateway) in [(&twins.a, &twins.site.gateway_a), (&twins.b, &twins.site.gateway_b)] {
        let site = side.site()?;
        ensure!(site.0["wan_port"] == "xsk" && site.0["lan_port"] == "xsk", "{:#}", site.0);
        ensure!(site.child()["encap"] == "none", "{:#}", site.0);
        // Each has one worker and one queue.
        for number in ["worker", "sender", "lan_queue", "wan_queue"] {
            ensure!(site.child()[number] == 0, "{number}: {:#}", site.child());
        }
        let why = site.0["engine_reasons"].to_string();
        for device in ["wan", "lan"] {
            ensure!(why.contains(&format!("xsk: {device} by AF_XDP in copy mode, 1 queue")), "{why}");
        }
        let status = side.status()?;
        ensure!(status["gateway"]["wan"][0]["attach"] == "xdp-native", "{:#}", status["gateway"]);
        gateway.run("nft", &[NO_ESP])?;
    }
    traffic(&twins.site, &case.hosts())?;
    let echo = Echo::start(&twins.site.host_a, &twins.site.host_b, HOST_B, Duration::from_millis(10))?;
    // Two fragments each way, before encryption.
    twins.site.host_a.run("ping", &["-c", "3", "-i", "0.2", "-s", "2000", HOST_B])?;
    twins.a.rekey_child()?;
    twins.b.rekey_child()?;
    let echo = echo.stop()?;
    ensure!(echo.lost() == 0 && echo.sent > 20, "{echo:?}");
    twins.agree()
}

/// Another XDP program has the LAN: the status says so for as long as it is there, and the kernel serves meanwhile.
#[test]
fn a_lan_that_is_taken() -> Result<()> {
    let case = Case {
        ours: vec![("lan_port".into(), "\"xsk\"".into())],
        ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16")
    };
    let site = Site::new()?;
    // A second culvertd, whose WAN it is.
    let mut other = GatewayConfig::new(Vec::new()).gateway("wan", "\"lan\"");
    other.gateway.retain(|(key, _)| key != "lan");
    let other = Culvert::start(&site.gateway_a, &other.gateway("attach", "\"xdp-native\""))?;
    let start = |gateway, at_a| {
        Culvert::start(gateway, &GatewayConfig::new(vec![case.culvert_connection(&site, at_a)]))
    };
    let (b, a) = (start(&site.gateway_b, false)?, start(&site.gateway_a, true)?);
    a.wait_site().with_context(|| format!("the peer's log:\n{}", b.log()))?;
    let warning =
        "WARNING: lan is not served by lan_port = \"xsk\", the kernel has its packets: another XDP program";
    let text = a.cli(&["status"])?;
    ensure!(text.contains(warning) && text.contains("ip link set dev lan xdp off"), "{text}");
    traffic(&site, &case.hosts())?;
    drop(other);
    wait_for("the LAN to be served", Duration::from_secs(5), || {
        a.cli(&["status"]).ok().filter(|text| !text.contains("WARNING"))
    })?;
    traffic(&site, &case.hosts())
}

/// ESP in eBPF on both sides, through rekeys of both.
#[test]
fn engine_bpf() -> Result<()> {
    let case = Case { engine: "bpf".into(), ..case("aes128gcm16-prfsha256-ecp256", "chacha20poly1305") };
    let twins = Twins::bring_up(&case)?;
    traffic(&twins.site, &case.hosts())?;
    ensure!(twins.a.site()?.0["engine"] == "bpf", "{:#}", twins.a.site()?.0);
    for rekey in [|t: &Twins| t.a.rekey_child(), |t: &Twins| t.b.rekey_child(), |t: &Twins| t.a.rekey_ike()] {
        rekey(&twins)?;
        twins.agree()?;
    }
    traffic(&twins.site, &case.hosts())
}

/// Engines change under traffic of numbered datagrams, by the operator and back by a reload; the interface keeps its name.
#[test]
fn an_engine_change_loses_nothing() -> Result<()> {
    let case = Case {
        engine: "user".into(),
        culvert_encap: "udp".into(),
        ..case("aes128gcm16-prfsha256-ecp256", "chacha20poly1305")
    };
    let twins = Twins::bring_up(&case)?;
    traffic(&twins.site, &case.hosts())?;
    let interface = twins.a.site()?.interface().to_owned();
    let refused = twins.a.cli(&["tunnel", "engine", "site", "xfrm"]);
    // Where the kernel has ESP it is changed to that, which the tests in the machines show.
    ensure!(format!("{refused:?}").contains("engine xfrm cannot serve"), "{refused:?}");
    let echo = Echo::start(&twins.site.host_a, &twins.site.host_b, HOST_B, Duration::from_millis(1))?;
    for (engine, by_operator) in [("bpf", true), ("user", false)] {
        let flood = Flood::start(&twins.site.host_a, &twins.site.host_b, HOST_B, 300)?;
        std::thread::sleep(Duration::from_millis(200));
        if by_operator {
            twins.a.cli(&["tunnel", "engine", "site/a", engine])?;
        } else {
            twins.a.cli(&["reload"])?;
        }
        wait_for("the engine to be changed", Duration::from_secs(20), || {
            twins.a.site().ok().filter(|site| site.0["engine"] == engine).map(drop)
        })?;
        std::thread::sleep(Duration::from_millis(500));
        let site = twins.a.site()?;
        ensure!(site.interface() == interface && site.child()["engine"] == engine, "{:#}", site.0);
        ensure!(site.0["engine_configured"] == "user", "{:#}", site.0);
        ensure!(site.0["engine_by_operator"].is_null() != by_operator, "{:#}", site.0);
        let flood = flood.stop()?;
        let drops = || anyhow::Ok((twins.a.cli(&["counters"])?, twins.b.cli(&["counters"])?));
        ensure!(
            flood.lost() == 0 && flood.received > 1000,
            "to {engine}: {flood:?}, {:?}, {:#}",
            drops()?,
            site.0
        );
    }
    let echo = echo.stop()?;
    ensure!(echo.lost() == 0 && echo.sent > 100, "{echo:?}");
    twins.agree()?;
    traffic(&twins.site, &case.hosts())
}

#[test]
fn encapsulation_on_request() -> Result<()> {
    let case = Case { culvert_encap: "udp".into(), ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16") };
    let twins = connects(&case)?;
    ensure!(twins.a.site()?.child()["encap"] == "udp");
    Ok(())
}

#[test]
fn ipv6_inside_and_outside() -> Result<()> {
    let case = case("aes128gcm16-prfsha256-ecp256", "aes128gcm16");
    connects(&Case { ipv6_inside: true, ipv6_outside: true, culvert_encap: "udp".into(), ..case }).map(drop)
}

#[test]
fn ipv6_outside_plain_esp() -> Result<()> {
    let case = case("aes256-sha256-ecp256", "aes256-sha256");
    let twins = connects(&Case { ipv6_outside: true, culvert_encap: "esp".into(), ..case })?;
    ensure!(twins.a.site()?.child()["encap"] == "none", "{:#}", twins.a.site()?.0);
    Ok(())
}

/// The gateways' own WAN links take 1400 bytes only.
#[test]
fn small_mtu_on_the_link() -> Result<()> {
    let case = Case {
        wan_mtu: Some(1400),
        culvert_encap: "udp".into(),
        ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16")
    };
    connects(&case).map(drop)
}

/// The path narrows to 1280 bytes behind the WAN's router while TCP flows over it, both ways and of every family: gateway A
/// learns it from the router, and nothing stalls.
fn the_path_narrows(case: &Case) -> Result<()> {
    let twins = Twins::bring_up(case)?;
    let site = &twins.site;
    let families = if case.ipv6_inside { vec![HOST_B, HOST_B6] } else { vec![HOST_B] };
    let mut flows = Vec::new();
    for (port, (to, reverse)) in families.iter().flat_map(|to| [(to, false), (to, true)]).enumerate() {
        let server = IperfServer::at(&site.host_b, 5201 + port as u16)?;
        let what = Iperf { seconds: 4, reverse, ..Iperf::default() };
        flows.push((server.begin(&site.host_a, to, &what)?, server, *to, reverse));
    }
    std::thread::sleep(Duration::from_secs(1));
    site.wan.ip("link set dev to-b mtu 1280")?;
    site.gateway_b.ip("link set dev wan mtu 1280")?;
    for (job, _server, to, reverse) in flows {
        let samples = job.finish()?.samples;
        let late: Vec<f64> = samples.iter().filter(|(end, _)| *end > 3.2).map(|(_, gbps)| *gbps).collect();
        ensure!(late.iter().sum::<f64>() > 0.001, "to {to}, reverse {reverse}: {samples:?}");
    }
    traffic(site, &case.hosts())
}

#[test]
fn small_mtu_on_the_path() -> Result<()> {
    let case = case("aes128gcm16-prfsha256-ecp256", "aes128gcm16");
    the_path_narrows(&Case { culvert_encap: "udp".into(), ipv6_inside: true, ..case })
}

#[test]
fn small_mtu_on_the_path_of_plain_esp() -> Result<()> {
    let case = case("aes128gcm16-prfsha256-ecp256", "aes128gcm16");
    the_path_narrows(&Case { culvert_encap: "esp".into(), ..case })
}

#[test]
fn small_mtu_on_the_path_of_engine_bpf() -> Result<()> {
    let case = case("aes128gcm16-prfsha256-ecp256", "chacha20poly1305");
    the_path_narrows(&Case { engine: "bpf".into(), ..case })
}

macro_rules! rekeyed {
    ($($name:ident: $esp:literal, $rekey:expr;)+) => { $(
        /// 100 datagrams a second there and back, and UDP at 5 Mbit/s (which two busy cores carry): none is lost.
        #[test]
        fn $name() -> Result<()> {
            let case = Case { culvert_encap: "udp".into(), ..case("aes128gcm16-prfsha256-ecp256", $esp) };
            let twins = Twins::bring_up(&case)?;
            let server = IperfServer::start(&twins.site.host_b)?;
            // Before the tunnel was up something may have been dropped, rightly.
            let before = twins.a.site()?.drops() + twins.b.site()?.drops();
            let pings = Echo::start(&twins.site.host_a, &twins.site.host_b, HOST_B, Duration::from_millis(10))?;
            let what = Iperf { seconds: 8, udp: Some("5M".into()), ..Iperf::default() };
            let stream = server.begin(&twins.site.host_a, HOST_B, &what)?;
            std::thread::sleep(Duration::from_millis(500));
            let rekey: fn(&Twins) -> Result<()> = $rekey;
            rekey(&twins)?;
            let stream = stream.finish()?;
            let pings = pings.stop()?;
            ensure!(pings.lost() == 0 && pings.sent > 300, "{pings:?}");
            ensure!(stream.lost == 0 && stream.datagrams > 2000, "{stream:?}");
            twins.agree()?;
            let (a, b) = (twins.a.site()?, twins.b.site()?);
            ensure!(a.drops() + b.drops() == before, "a: {:#}\nb: {:#}", a.0, b.0);
            Ok(())
        }
    )+ };
}

rekeyed! {
    child_rekeyed_by_the_initiator: "aes128gcm16-ecp256", |t| t.a.rekey_child();
    child_rekeyed_by_the_responder: "aes128gcm16-ecp256", |t| t.b.rekey_child();
    child_rekeyed_cbc: "aes256-sha256-ecp256", |t| t.a.rekey_child();
    ike_rekeyed_by_the_initiator: "aes128gcm16", |t| t.a.rekey_ike();
    ike_rekeyed_by_the_responder: "aes128gcm16", |t| t.b.rekey_ike();
}

/// What goes through the tunnel stands in the capture twice: as it is, and as ESP.
#[test]
fn a_capture_shows_both_sides_of_esp() -> Result<()> {
    let twins = connects(&case("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"))?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.pcapng");
    let file = path.to_str().context("a path in UTF-8")?;
    let mut running = twins.a.cli_beside(&["capture", "site/a", "--write", file, "--duration", "2s"])?;
    wait_for("the capture to begin", Duration::from_secs(5), || {
        std::fs::metadata(&path).ok().filter(|m| m.len() > 0)
    })?;
    ping(&twins.site.host_a, HOST_B, 10, Duration::from_millis(10))?;
    ensure!(running.wait(Duration::from_secs(10))?.success(), "culvert capture failed");

    let spi = |end: &str| -> Result<Vec<u8>> {
        let text = twins.a.site()?.child()[end].as_str().context("no SPI")?.to_owned();
        Ok(u32::from_str_radix(&text, 16)?.to_be_bytes().to_vec())
    };
    let (spi_in, spi_out) = (spi("spi_in")?, spi("spi_out")?);
    let mut seen = [0; 4];
    let mut reader = PcapNgReader::new(std::fs::File::open(&path)?)?;
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block? else { continue };
        let sent = packet.options.contains(&EnhancedPacketOption::Flags(2));
        // The kernel's own reports of multicast groups pass the interface too, and go no further.
        if packet.interface_id == 0 && packet.data[0] >> 4 == 6 {
            continue;
        }
        if packet.interface_id == 0 {
            // The tunnel's interface: ICMP echo in IPv4, without a link-layer header.
            ensure!(packet.data[9] == 1, "{:02x?}", packet.data);
            ensure!(sent == (packet.data[20] == 8), "requests go out");
            seen[usize::from(sent)] += 1;
        } else {
            // ESP in UDP behind Ethernet.
            let spi = if sent { &spi_out } else { &spi_in };
            ensure!(packet.data[42..46] == spi[..], "{:02x?}", packet.data);
            seen[2 + usize::from(sent)] += 1;
        }
    }
    ensure!(seen == [10; 4], "inside in and out, outside in and out: {seen:?}");
    Ok(())
}
