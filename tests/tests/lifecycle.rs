//! Life and death of culvertd: killed, stopped, reloaded, alone. Nothing stale stays, and nothing leaves in clear.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::measure::{Echo, ping};
use culvert_lab::topology::{HOST_A, HOST_B, HOST_B6, LAN_A, LAN_A6, LAN_B, LAN_B6};
use culvert_lab::{Capture, Culvert, GatewayConfig, Namespace, Site, capture, wait_for};
use culvert_tests::{Case, Initiator, Twins, no_loss, traffic};

fn case() -> Case {
    let case = Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256", Initiator::Culvert);
    Case { culvert_encap: "udp".into(), ..case }
}

/// What a host has of links, routes and rules; addresses that the kernel makes up by itself left out.
fn footprint(namespace: &Namespace) -> Result<String> {
    let mut text = namespace.interfaces()?.join(" ");
    for what in
        ["-4 route show table all", "-6 route show table all", "-4 rule show", "-6 rule show", "-4 addr show"]
    {
        let lines = namespace.ip_text(what)?;
        let mut lines: Vec<&str> =
            lines.lines().map(str::trim).filter(|line| !line.contains("fe80::")).collect();
        lines.retain(|line| !line.starts_with("valid_lft") && !line.contains("ff00::/8"));
        // The kernel's own order of rows is not promised.
        lines.sort_unstable();
        text.push_str(&format!("\n[{what}]\n{}", lines.join("\n")));
    }
    // Native and generic XDP show here; `qdisc` shows clsact.
    let links = namespace.ip_text("-d link show")?;
    text.push_str(if links.contains("prog/xdp") || links.contains("prog/tc") { "\nxdp" } else { "\nno xdp" });
    text.push_str(if links.contains("clsact") { "\nclsact" } else { "" });
    Ok(text)
}

/// Indices of interfaces and programs differ from life to life; nothing else may.
fn same(before: &str, after: &str) -> Result<()> {
    let plain = |text: &str| -> Vec<String> {
        // `3: cv-site-a: <…` in `addr show`.
        let line = |line: &str| {
            let words = line.trim_start_matches(|c: char| c.is_ascii_digit()).split_whitespace();
            words.filter(|word| !word.starts_with("xdp/id:")).collect::<Vec<_>>().join(" ")
        };
        text.lines().map(line).collect()
    };
    ensure!(plain(before) == plain(after), "before:\n{before}\nafter:\n{after}");
    Ok(())
}

#[test]
fn killed_and_started_again() -> Result<()> {
    let mut case = case();
    case.ipv6_inside = true;
    let site = Site::new()?;
    let clean = footprint(&site.gateway_a)?;
    let b =
        Culvert::start(&site.gateway_b, &GatewayConfig::new(vec![case.culvert_connection(&site, false)]))?;
    // Native XDP shows in `ip link`.
    let config =
        GatewayConfig::new(vec![case.culvert_connection(&site, true)]).gateway("attach", "\"xdp-native\"");
    let a = Culvert::start(&site.gateway_a, &config)?;
    let first = a.wait_site()?;
    traffic(&site, &[(HOST_A, HOST_B)])?;
    let running = footprint(&site.gateway_a)?;
    ensure!(running.contains("\nxdp"), "the classifier does not show:\n{running}");

    let setup = a.kill();
    wait_for("the kernel to detach the classifier", Duration::from_secs(3), || {
        footprint(&site.gateway_a).ok()?.contains("no xdp").then_some(())
    })?;
    let mut a = Culvert::resume(&site.gateway_a, setup)?;
    let second = a.wait_site()?;
    ensure!(second.spi_in() != first.spi_in(), "an SA came back from the dead");
    traffic(&site, &[(HOST_A, HOST_B), ("fd01::2", HOST_B6)])?;
    same(&running, &footprint(&site.gateway_a)?)?;
    // The peer has forgotten the dead one.
    let kept = b.site()?;
    ensure!(kept.0["children"].as_array().is_some_and(|children| children.len() == 1), "{:#}", kept.0);
    ensure!(kept.ike_spis() == second.ike_spis(), "{:#}", kept.0);

    ensure!(a.stop()?.success(), "SIGTERM is no failure; the log:\n{}", a.log());
    same(&clean, &footprint(&site.gateway_a)?)
}

#[test]
fn killed_twice_at_once() -> Result<()> {
    let site = Site::new()?;
    let clean = footprint(&site.gateway_a)?;
    let config = GatewayConfig::new(vec![case().culvert_connection(&site, true)]);
    // Nobody answers: it is killed while it negotiates.
    let setup = Culvert::start(&site.gateway_a, &config)?.kill();
    let setup = Culvert::resume(&site.gateway_a, setup)?.kill();
    let mut last = Culvert::resume(&site.gateway_a, setup)?;
    ensure!(last.stop()?.success());
    same(&clean, &footprint(&site.gateway_a)?)
}

#[test]
fn the_peer_is_killed_and_comes_back() -> Result<()> {
    let Twins { a, b, site } = Twins::bring_up(&case())?;
    let before = a.site()?.ike_spis();
    let setup = b.kill();
    // Found out by the liveness check: interval 2 s, timeout 6 s.
    let down = a.wait_down("site", "a", Duration::from_secs(20))?;
    ensure!(!down.cause().is_empty(), "down without a cause: {:#}", down.0);
    let _b = Culvert::resume(&site.gateway_b, setup)?;
    let up = a.wait_up("site", "a", Duration::from_secs(40))?;
    ensure!(up.ike_spis() != before);
    traffic(&site, &[(HOST_A, HOST_B)])
}

#[test]
fn sigterm_deletes_at_the_peer_and_removes_everything() -> Result<()> {
    let mut pair = Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Initiator::Culvert).bring_up()?;
    pair.traffic()?;
    let interface = pair.culvert.site()?.interface().to_owned();
    ensure!(pair.site.gateway_a.interfaces()?.contains(&interface), "no interface {interface}");
    ensure!(pair.culvert.stop()?.success(), "the log:\n{}", pair.culvert.log());
    wait_for("strongSwan to lose the IKE SA", Duration::from_secs(2), || {
        pair.swan.ike_count().is_ok_and(|count| count == 0).then_some(())
    })?;
    let left = footprint(&pair.site.gateway_a)?;
    ensure!(!left.contains("cv-") && !left.contains(LAN_B) && !left.contains("unreachable"), "{left}");
    Ok(())
}

/// The WAN knows the way to both LANs, so whatever left in clear would arrive, and be seen.
#[test]
fn nothing_leaks_whatever_happens() -> Result<()> {
    let mut case = case();
    case.ipv6_inside = true;
    let site = Site::new()?;
    site.route_plain()?;
    let attempt = |what: &str, encrypted: bool| -> Result<()> {
        let watch = Capture::start(&site.wan)?;
        for target in [HOST_B, HOST_B6] {
            let seen = ping(&site.host_a, target, 10, Duration::from_millis(20))?;
            ensure!((seen.received > 0) == encrypted, "{what}: {target}: {seen:?}");
        }
        let leaked = capture::within(&watch.finish(), &[LAN_A, LAN_A6, LAN_B, LAN_B6]);
        ensure!(leaked.is_empty(), "{what}: in clear on the WAN: {leaked:?}");
        Ok(())
    };
    // The watch itself works: before Culvert is there, everything is in clear.
    let watch = Capture::start(&site.wan)?;
    no_loss(&site.host_a, HOST_B)?;
    ensure!(!capture::within(&watch.finish(), &[LAN_A]).is_empty(), "the watch sees nothing");

    let a = Culvert::start(&site.gateway_a, &GatewayConfig::new(vec![case.culvert_connection(&site, true)]))?;
    attempt("the peer is silent", false)?;
    let b =
        Culvert::start(&site.gateway_b, &GatewayConfig::new(vec![case.culvert_connection(&site, false)]))?;
    a.wait_up("site", "a", Duration::from_secs(40))?;
    attempt("the tunnel is up", true)?;
    a.cli(&["down", "site"])?;
    a.wait_down("site", "a", Duration::from_secs(5))?;
    attempt("taken down", false)?;
    ensure!(a.site()?.drops() > 0, "what was dropped was not counted: {:#}", a.site()?.0);
    a.cli(&["up", "site"])?;
    a.wait_site()?;
    attempt("taken up again", true)?;
    let setup = a.kill();
    attempt("culvertd was killed", false)?;
    let a = Culvert::resume(&site.gateway_a, setup)?;
    a.wait_site()?;
    attempt("started again", true)?;
    drop(b);
    attempt("the peer was killed", false)
}

#[test]
fn reload_adds_and_removes_without_disturbing() -> Result<()> {
    let case = case();
    let site = Site::new()?;
    site.gateway_b.ip("addr add 203.0.113.2/24 dev wan")?;
    let extra = |at_a: bool| {
        let mut connection = case.culvert_connection(&site, at_a).named("extra");
        let (own, other) = (vec!["10.8.0.0/24".to_owned()], vec!["10.9.0.0/24".to_owned()]);
        (connection.local, connection.remote) = if at_a { (own, other) } else { (other, own) };
        for tunnel in &mut connection.tunnels {
            if at_a {
                tunnel.remote_address = Some("203.0.113.2".into());
            } else {
                tunnel.local_address = "203.0.113.2".into();
            }
        }
        connection
    };
    let one = |at_a| GatewayConfig::new(vec![case.culvert_connection(&site, at_a)]);
    let two = |at_a| GatewayConfig::new(vec![case.culvert_connection(&site, at_a), extra(at_a)]);
    let b = Culvert::start(&site.gateway_b, &one(false))?;
    let a = Culvert::start(&site.gateway_a, &one(true))?;
    let before = a.wait_site()?;
    let job = Echo::start(&site.host_a, &site.host_b, HOST_B, Duration::from_millis(10))?;

    for (culvert, at_a) in [(&b, false), (&a, true)] {
        culvert.setup().write(&two(at_a))?;
        culvert.cli(&["reload"])?;
    }
    let added = a.wait_up("extra", "a", Duration::from_secs(10))?;
    ensure!(site.gateway_a.interfaces()?.iter().any(|name| name == added.interface()));
    ensure!(site.gateway_a.ip_text("route get 10.9.0.1")?.contains(added.interface()));

    // A file with a mistake changes nothing.
    let mut wrong = two(true);
    wrong.connections[1].engine = "warp".into();
    a.setup().write(&wrong)?;
    let refusal = a.cli(&["reload"]).err().context("a wrong file was taken")?;
    ensure!(format!("{refusal:#}").contains("warp"), "{refusal:#}");
    ensure!(a.tunnel("extra", "a")?.is_up());

    for (culvert, at_a) in [(&a, true), (&b, false)] {
        culvert.setup().write(&one(at_a))?;
        culvert.cli(&["reload"])?;
    }
    wait_for("the connection to go", Duration::from_secs(5), || a.tunnel("extra", "a").err())?;
    ensure!(
        !site.gateway_a.interfaces()?.iter().any(|name| name == added.interface()),
        "its interface stays"
    );
    let seen = job.stop()?;
    ensure!(seen.lost() == 0, "the other tunnel was disturbed: {seen:?}");
    let after = a.site()?;
    ensure!(
        before.ike_spis() == after.ike_spis() && before.spi_in() == after.spi_in(),
        "the other was renegotiated"
    );
    Ok(())
}

#[test]
fn c4_traffic_brings_the_tunnel_up() -> Result<()> {
    let case = case();
    let site = Site::new()?;
    let _b =
        Culvert::start(&site.gateway_b, &GatewayConfig::new(vec![case.culvert_connection(&site, false)]))?;
    let mut connection = case.culvert_connection(&site, true);
    connection.start = "on-traffic".into();
    let a = Culvert::start(&site.gateway_a, &GatewayConfig::new(vec![connection]))?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(!a.site()?.is_up(), "up without traffic");
    ping(&site.host_a, HOST_B, 3, Duration::from_millis(100))?;
    a.wait_site()?;
    no_loss(&site.host_a, HOST_B)
}

#[test]
fn status_names_everything() -> Result<()> {
    let Twins { a, b: _b, site } = Twins::bring_up(&case())?;
    traffic(&site, &[(HOST_A, HOST_B)])?;
    let status = a.status()?;
    let wan = &status["gateway"]["wan"][0];
    ensure!(wan["interface"] == "wan" && wan["attach"].is_string() && wan["guard"] == "on", "{wan:#}");
    let engines = status["engines"].as_array().context("no engines")?;
    let engine = |name: &str| engines.iter().find(|engine| engine["engine"] == name);
    ensure!(engine("user").is_some_and(|user| user["available"] == true), "{engines:#?}");
    ensure!(
        engine("xfrm").is_some_and(|xfrm| xfrm["available"] == true || xfrm["reason"].is_string()),
        "{engines:#?}"
    );
    let tunnel = a.site()?;
    let (ike, child) = (&tunnel.0["ike"], tunnel.child());
    ensure!(tunnel.0["engine"].is_string() && tunnel.interface() == "cv-site-a", "{:#}", tunnel.0);
    ensure!(ike["spi_initiator"].as_str().is_some_and(|spi| spi.len() == 16), "{ike:#}");
    ensure!(tunnel.spi_in().is_some_and(|spi| spi.len() == 8), "{child:#}");
    ensure!(
        child["suite"] == "aes128gcm16" && ike["suite"] == "aes128gcm16-prfsha256-ecp256",
        "{:#}",
        tunnel.0
    );
    ensure!(tunnel.count("bytes_in") > 1_000_000 && tunnel.count("packets_out") > 10, "{child:#}");
    ensure!(tunnel.0["drops"].is_object() && child["drops"].is_object(), "{:#}", tunnel.0);
    ensure!(
        child["rekey_in_s"].as_u64().is_some_and(|s| s > 60)
            && ike["rekey_in_s"].as_u64().is_some_and(|s| s > 60)
    );
    ensure!(child["esn"].is_boolean() && child["replay_window"].as_u64().is_some_and(|window| window >= 64));
    ensure!(status["negotiation_ms"].as_u64().is_some_and(|ms| ms < 2000), "{}", status["negotiation_ms"]);
    let passed =
        |counter: &&serde_json::Value| counter["verdict"] == "pass" && counter["packets"].as_u64() > Some(0);
    ensure!(
        status["counters"].as_array().is_some_and(|all| all.iter().any(|c| passed(&c))),
        "{:#}",
        status["counters"]
    );
    // The same for people.
    let text = a.cli(&["status"])?;
    ensure!(text.contains("site") && text.contains("aes128gcm16"), "{text}");
    Ok(())
}

/// Messages are told in words as they pass, and captured; the keys go where the configuration says, and the status warns.
#[test]
fn ike_messages_are_traced() -> Result<()> {
    let site = Site::new()?;
    let b =
        Culvert::start(&site.gateway_b, &GatewayConfig::new(vec![case().culvert_connection(&site, false)]))?;
    let folder = tempfile::tempdir()?;
    let (keys, capture) = (folder.path().join("keys"), folder.path().join("ike.pcapng"));
    let config = GatewayConfig::new(vec![case().culvert_connection(&site, true)])
        .log("ike_secrets", &format!("{:?}", keys.display().to_string()));
    let a = Culvert::start(&site.gateway_a, &config)?;
    a.wait_site().with_context(|| format!("the peer's log:\n{}", b.log()))?;
    let mut watch = a.cli_beside(&["trace", "site/a", "--pcap", &capture.display().to_string()])?;
    let line = wait_for("a traced message", Duration::from_secs(20), || {
        a.rekey_ike().ok()?;
        watch.wait_log("CREATE_CHILD_SA request", Duration::from_secs(1)).ok()
    })?;
    ensure!(line.contains("site/a") && line.contains("SA(IKE "), "{line}");
    let answer = watch.wait_log("CREATE_CHILD_SA response", Duration::from_secs(5))?;
    ensure!(answer.contains(" < ") && line.contains(" > "), "{line}\n{answer}");
    watch.kill();
    let packets = std::fs::read(&capture)?;
    ensure!(packets.len() > 500, "{} bytes captured", packets.len());

    let kept = std::fs::read_to_string(&keys)?;
    let (spi, _) = a.site()?.ike_spis().context("no IKE SPIs")?;
    ensure!(kept.lines().any(|line| line.starts_with(&spi)), "no keys of {spi} in:\n{kept}");
    use std::os::unix::fs::PermissionsExt;
    ensure!(std::fs::metadata(&keys)?.permissions().mode() & 0o777 == 0o600, "others can read the keys");
    ensure!(a.cli(&["status"])?.contains("WARNING: the keys of every IKE SA"), "the status does not warn");
    // Nobody writes keys who was not told to.
    ensure!(!b.cli(&["status"])?.contains("WARNING"), "{}", b.cli(&["status"])?);
    let secret = kept.split(',').nth(2).context("no key in the line")?;
    ensure!(!a.log().contains(secret) && !watch.log().contains(secret), "a key is in a log");
    Ok(())
}
