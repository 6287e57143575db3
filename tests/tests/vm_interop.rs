//! Culvert's engines `user` and `xfrm` with strongSwan over the kernel's own ESP, plain and UDP-encapsulated, rekeyed by
//! either side. Needs a kernel with ESP: `cargo xtask vm --kernel 6.12` brings one, `cargo xtask test` uses it. Not run
//! by a bare `cargo test` (see Cargo.toml).

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_lab::measure::ping;
use culvert_lab::topology::WAN_B;
use culvert_lab::{Capture, Site, SwanEngine, capture, wait_for};
use culvert_tests::{Case, Initiator, Pair};

/// Loads what the kernel has as modules. What is built in, or loaded, is no error; what is missing shows in the test.
fn load_modules() {
    for module in [
        "tun",
        "veth",
        "esp4",
        "esp6",
        "xfrm_user",
        "xfrm_interface",
        "aesni_intel",
        "gcm",
        "drbg",
        "sch_pfifo",
    ] {
        let _ = Command::new("modprobe").args(["-q", module]).status();
    }
}

fn up(engine: &str, udp: bool, initiator: Initiator, ike: &str, esp: &str) -> Result<Pair> {
    load_modules();
    let case = Case {
        engine: engine.into(),
        culvert_encap: if udp { "udp" } else { "esp" }.into(),
        swan_encap: udp,
        swan_engine: SwanEngine::Kernel,
        // The kernel's ESP behind XDP and a CPU map.
        our_gateway: if engine == "xfrm" { vec![("steer".into(), "true".into())] } else { Vec::new() },
        ..Case::new(ike, esp, initiator)
    };
    let pair = case.bring_up()?;
    if engine == "xfrm" {
        let status = pair.culvert.status()?;
        ensure!(status["gateway"]["wan"][0]["attach"] == "xdp-native", "{:#}", status["gateway"]);
        let (warnings, engines) = (status["warnings"].to_string(), status["engines"].to_string());
        ensure!(
            !warnings.contains("steer") && engines.contains("XDP spreads inbound packets over 2 CPUs"),
            "{warnings}\n{engines}"
        );
    }
    let status = pair.culvert.site()?;
    ensure!(status.0["engine"] == engine, "engine: {:#}", status.0);
    ensure!(status.child()["encap"] == if udp { "udp" } else { "none" }, "{:#}", status.0);
    pair.traffic()?;
    pair.agree()?;
    Ok(pair)
}

/// All four rekeys, each under pings 100 times a second, of which none is lost.
fn rekeys(pair: &Pair) -> Result<()> {
    let steps: [(&str, fn(&Pair) -> Result<()>); 4] = [
        ("child, by Culvert", |pair| pair.culvert.rekey_child()),
        ("child, by strongSwan", |pair| pair.swan.rekey_child("net")),
        ("IKE SA, by Culvert", |pair| pair.culvert.rekey_ike()),
        ("IKE SA, by strongSwan", |pair| pair.swan.rekey_ike("site")),
    ];
    for (what, step) in steps {
        // So that the sides have something to agree about on the new SA.
        let seen = pair.rekey_under_traffic(step)?;
        ensure!(seen.lost() == 0, "rekey of the {what}: {seen:?}");
    }
    pair.traffic()
}

/// Stops culvertd; nothing of ours stays in the kernel.
fn ends_clean(mut pair: Pair) -> Result<()> {
    let gateway =
        if pair.case.initiator == Initiator::Culvert { &pair.site.gateway_a } else { &pair.site.gateway_b };
    ensure!(pair.culvert.stop()?.success(), "{}", pair.culvert.log());
    let left = format!("{}{}", gateway.ip_text("xfrm state")?, gateway.ip_text("xfrm policy")?);
    // What asked for an SA is remembered by the kernel for half a minute, without an SPI.
    let left = left.replace("proto esp spi 0x00000000", "");
    // Socket policies of other programs have no addresses of the LANs.
    ensure!(!left.contains("10.1.0.0") && !left.contains("proto esp"), "left in the kernel:\n{left}");
    ensure!(!gateway.interfaces()?.iter().any(|name| name.starts_with("cv-")));
    wait_for("strongSwan to lose the IKE SA", Duration::from_secs(5), || {
        pair.swan.ike_count().is_ok_and(|count| count == 0).then_some(())
    })
}

macro_rules! engines {
    ($($name:ident: $engine:literal, $udp:literal, $initiator:ident, $ike:literal, $esp:literal;)+) => { $(
        #[test]
        fn $name() -> Result<()> {
            let pair = up($engine, $udp, Initiator::$initiator, $ike, $esp)?;
            rekeys(&pair)?;
            ends_clean(pair)
        }
    )+ };
}

engines! {
    user_plain_gcm: "user", false, Culvert, "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384";
    xfrm_udp_gcm: "xfrm", true, Culvert, "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256";
    xfrm_plain_gcm: "xfrm", false, Culvert, "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384";
    user_plain_cbc_strongswan_initiates: "user", false, StrongSwan, "aes256-sha256-modp2048", "aes256-sha256-modp2048";
    xfrm_udp_cbc_strongswan_initiates: "xfrm", true, StrongSwan, "aes128-sha1-modp2048", "aes128-sha1";
    xfrm_plain_chacha_strongswan_initiates: "xfrm", false, StrongSwan,
        "chacha20poly1305-prfsha256-curve25519", "chacha20poly1305-curve25519";
}

/// What the two gateways send each other, and nothing else: no interface, no route.
#[test]
fn transport_mode_between_the_gateways() -> Result<()> {
    load_modules();
    let words = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let case = Case {
        engine: "auto".into(),
        culvert_encap: "esp".into(),
        swan_encap: false,
        swan_engine: SwanEngine::Kernel,
        ours: words(&[("local", ""), ("remote", ""), ("esp.mode", "\"transport\"")]),
        theirs: words(&[
            ("children.net.mode", "transport"),
            ("children.net.local_ts", "dynamic"),
            ("children.net.remote_ts", "dynamic"),
        ]),
        ..Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256", Initiator::Culvert)
    };
    let pair = case.bring_up()?;
    let status = pair.culvert.site()?;
    ensure!(status.0["engine"] == "xfrm", "engine: {:#}", status.0);
    let through = || -> Result<()> {
        let watch = Capture::start(&pair.site.wan)?;
        let seen = ping(&pair.site.gateway_a, WAN_B, 5, Duration::from_millis(50))?;
        let flows = watch.finish();
        ensure!(seen.received == 5, "{seen:?}");
        ensure!(flows.keys().all(|flow| flow.protocol != 1), "in clear: {flows:?}");
        ensure!(flows.keys().any(|flow| flow.protocol == 50), "no ESP: {flows:?}");
        pair.agree()
    };
    through()?;
    pair.culvert.rekey_child()?;
    through()?;
    pair.swan.rekey_child("net")?;
    through()?;
    ensure!(!pair.site.gateway_a.interfaces()?.iter().any(|name| name.starts_with("cv-")), "an interface");
    ends_clean(pair)
}

/// On a kernel that has ESP, `auto` takes the engine that it found to be faster, and says so.
#[test]
fn auto_says_why() -> Result<()> {
    load_modules();
    let case = Case {
        swan_engine: SwanEngine::Kernel,
        ..Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Initiator::Culvert)
    };
    let pair = case.bring_up()?;
    pair.traffic()?;
    let status = pair.culvert.status()?;
    let engines = status["engines"].as_array().into_iter().flatten();
    let available: Vec<_> =
        engines.filter(|e| e["available"] == true).map(|e| e["engine"].as_str()).collect();
    ensure!(
        available.contains(&Some("xfrm")) && available.contains(&Some("user")),
        "{:#}",
        status["engines"]
    );
    // By what it measured, both of it.
    let tunnel = pair.culvert.site()?;
    let (engine, why) =
        (tunnel.0["engine"].as_str().unwrap_or_default(), tunnel.0["engine_reasons"].to_string());
    let other = if engine == "user" { "xfrm" } else { "user" };
    ensure!(why.contains(&format!("against {engine} ")) && why.contains("Gbit/s, measured 20"), "{why}");
    ensure!(why.contains(&format!("{other}: ")) && why.contains("for aes128gcm16"), "{why}");
    Ok(())
}

/// From user space into the kernel and back while datagrams pass, of which none is lost; nor is the IKE SA.
#[test]
fn engines_change_under_traffic() -> Result<()> {
    let pair = up("user", true, Initiator::Culvert, "aes128gcm16-prfsha256-ecp256", "aes128gcm16")?;
    let before = pair.culvert.site()?;
    let seen = pair.rekey_under_traffic(|pair| {
        for engine in ["xfrm", "user", "xfrm"] {
            pair.culvert.cli(&["tunnel", "engine", "site/a", engine])?;
            let changed = || pair.culvert.site().ok().filter(|site| site.0["engine"] == engine);
            let site = wait_for("the engine to be changed", Duration::from_secs(60), changed)?;
            ensure!(
                site.interface() == before.interface() && site.child()["engine"] == engine,
                "{:#}",
                site.0
            );
            ensure!(site.0["engine_by_operator"] == engine, "{:#}", site.0);
        }
        Ok(())
    })?;
    ensure!(seen.lost() == 0, "{seen:?}\n{}", pair.culvert.log());
    ensure!(pair.culvert.site()?.ike_spis() == before.ike_spis(), "negotiated anew:\n{}", pair.culvert.log());
    pair.traffic()?;
    ends_clean(pair)
}

/// What the kernel does not send when it has no SA must not leave in clear either.
#[test]
fn xfrm_does_not_leak_when_killed() -> Result<()> {
    let pair = up("xfrm", false, Initiator::Culvert, "aes128gcm16-prfsha256-ecp256", "aes128gcm16")?;
    let Pair { culvert, swan, site, .. } = pair;
    site.route_plain()?;
    let setup = culvert.kill();
    drop(swan);
    let watch = Capture::start(&site.wan)?;
    leave(&site)?;
    let leaked = capture::within(&watch.finish(), &["10.1.0.0/24", "10.2.0.0/24"]);
    ensure!(leaked.is_empty(), "in clear on the WAN: {leaked:?}");
    drop(setup);
    Ok(())
}

fn leave(site: &Site) -> Result<()> {
    let interval = Duration::from_millis(50);
    culvert_lab::measure::ping(&site.host_a, culvert_lab::topology::HOST_B, 10, interval).map(drop)
}
