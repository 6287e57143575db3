//! Routing by BGP over the tunnels' inner addresses: FRR on one side and BIRD on the other, three systems, failures.

use anyhow::{Context, Result, ensure};
use culvert_lab::culvert::{Connection, Tunnel};
use culvert_lab::strongswan::{SwanConfig, SwanConnection, SwanEngine};
use culvert_lab::topology::{
    HOST_B, HOST_B_TOO, HOST_B6, LAN_A, LAN_A6, LAN_B, LAN_B_TOO, LAN_B6, WAN_A, WAN_B,
};
use culvert_lab::{Capture, Culvert, GatewayConfig, Namespace, Process, Site, StrongSwan, capture, wait_for};
use serde_json::Value;

use super::failover::PATIENCE;

const WAN_A_TOO: &str = "198.51.100.2";
const WAN_B_TOO: &str = "203.0.113.2";
/// The far side's networks as side A has them: more than what is announced.
const FAR: [&str; 3] = ["10.2.0.0/16", "10.12.0.0/16", "fd02::/32"];
const QUICK: &str = "hold_time = \"3s\", keepalive = \"1s\"";

fn strings(list: &[&str]) -> String {
    format!("{list:?}")
}

/// A connection with BGP, whose tunnels have these inner addresses.
fn connection(
    name: &str,
    nets: (&[&str], &[&str]),
    asn: u32,
    more: &str,
    tunnels: &[(&str, &str, &str)],
) -> Connection {
    let (local, remote) = nets;
    let mut connection = Connection::new("", "", local, remote).named(name);
    connection.extra.push(("routing".into(), "\"bgp\"".into()));
    connection.extra.push(("bgp".into(), format!("{{ remote_asn = {asn}, {QUICK}{more} }}")));
    let first = connection.tunnels[0].clone();
    let names = ["a", "b", "c", "d"].into_iter().zip(tunnels);
    connection.tunnels = names
        .map(|(name, (own, other, inside))| Tunnel {
            name: name.into(),
            local_address: (*own).into(),
            remote_address: Some((*other).into()),
            extra: vec![("inside".into(), (*inside).into())],
            ..first.clone()
        })
        .collect();
    connection
}

fn gateway(asn: u32, connections: Vec<Connection>) -> GatewayConfig {
    GatewayConfig::new(connections).gateway("asn", &asn.to_string())
}

/// Two tunnels, both families.
fn sides(site: &Site) -> Result<(GatewayConfig, GatewayConfig)> {
    site.gateway_a.ip(&format!("addr add {WAN_A_TOO}/24 dev wan"))?;
    site.gateway_b.ip(&format!("addr add {WAN_B_TOO}/24 dev wan"))?;
    let inside = |a: &str, b: &str| strings(&[a, b]);
    let (a1, a2) = (inside("169.254.10.1/30", "fd99::1/126"), inside("169.254.10.5/30", "fd99::5/126"));
    let (b1, b2) = (inside("169.254.10.2/30", "fd99::2/126"), inside("169.254.10.6/30", "fd99::6/126"));
    let a = connection(
        "site",
        (&[LAN_A, LAN_A6], &FAR),
        65_002,
        ", bfd = true, graceful_restart = true, max_prefixes = 50, password_file = \"bgp.secret\"",
        &[(WAN_A, WAN_B, &a1), (WAN_A_TOO, WAN_B_TOO, &a2)],
    );
    let announce = strings(&[LAN_B, LAN_B_TOO, LAN_B6, "172.30.0.0/24"]);
    let b = connection(
        "site",
        (&[LAN_B, LAN_B_TOO, LAN_B6], &["10.1.0.0/16", "fd01::/32"]),
        65_001,
        &format!(", bfd = true, password_file = \"bgp.secret\", announce = {announce}"),
        &[(WAN_B, WAN_A, &b1), (WAN_B_TOO, WAN_A_TOO, &b2)],
    )
    .respond();
    let mut a = gateway(65_001, vec![a]);
    let health = "{ target = \"169.254.10.2\", interval = \"100ms\" }";
    a.connections[0].tunnels[0].extra.push(("health".into(), health.into()));
    let mut b = gateway(65_002, vec![b]).gateway("bgp_daemon", "\"bird\"");
    for side in [&mut a, &mut b] {
        side.files.push(("bgp.secret".into(), b"s3cret\n".to_vec()));
    }
    Ok((a, b))
}

fn json(side: &Culvert, what: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&side.cli(&[what, &["--json"]].concat())?)?)
}

fn sessions(side: &Culvert) -> Result<Vec<Value>> {
    Ok(json(side, &["bgp"])?["sessions"].as_array().context("no sessions")?.clone())
}

fn established(side: &Culvert, count: usize) -> Result<()> {
    wait_for(&format!("{count} sessions"), PATIENCE, || {
        let up = sessions(side).ok()?.iter().filter(|s| s["state"] == "established").count();
        (up == count).then_some(())
    })
    .with_context(|| format!("{}\n{}", side.cli(&["bgp"]).unwrap_or_default(), side.log()))
}

/// Which tunnels, and from where, traffic to a destination takes; `None` without any.
fn way(side: &Culvert, destination: &str) -> Option<(String, String)> {
    let all = json(side, &["route", "list"]).ok()?;
    let route = all["routes"]
        .as_array()?
        .iter()
        .find(|r| r["destination"] == destination && r["active"] == true)?
        .clone();
    Some((route["tunnels"][0].as_str().unwrap_or("-").to_owned(), route["origin"].as_str()?.to_owned()))
}

fn wait_way(side: &Culvert, destination: &str, tunnel: &str, origin: &str) -> Result<()> {
    wait_for(&format!("{destination} by {tunnel} from {origin}"), PATIENCE, || {
        way(side, destination).filter(|way| *way == (tunnel.to_owned(), origin.to_owned())).map(drop)
    })
    .with_context(|| {
        let shown = |what: &[&str]| side.cli(what).unwrap_or_default();
        format!("{}\n{}\n{}", shown(&["bgp"]), shown(&["route", "list"]), side.log())
    })
}

fn pings(from: &Namespace, to: &str) -> bool {
    from.run("ping", &["-c", "1", "-W", "1", to]).is_ok()
}

fn wait_ping(from: &Namespace, to: &str) -> Result<()> {
    wait_for(&format!("a ping of {to}"), PATIENCE, || pings(from, to).then_some(()))
}

/// Routes are learned both ways and carry traffic; a withdrawn one goes, and nothing of it leaves in clear; a change of what is
/// announced resets no session; of two tunnels the heavier carries, the other follows when its health check fails or its path dies.
#[test]
fn b6_routes_are_learned_by_bgp() -> Result<()> {
    let site = Site::new()?;
    site.route_plain()?;
    let (config_a, config_b) = sides(&site)?;
    let mut b = Culvert::start(&site.gateway_b, &config_b)?;
    let mut a = Culvert::start(&site.gateway_a, &config_a)?;
    let watch = Capture::start(&site.wan)?;
    for side in [&a, &b] {
        established(side, 4)?;
    }
    for net in [LAN_B, LAN_B_TOO, LAN_B6] {
        wait_way(&a, net, "site/a", "bgp")?;
    }
    for net in [LAN_A, LAN_A6] {
        wait_way(&b, net, "site/a", "bgp")?;
    }
    for host in [HOST_B, HOST_B6, HOST_B_TOO] {
        wait_ping(&site.host_a, host)?;
    }
    // What is outside of `remote` is not learned.
    ensure!(way(&a, "172.30.0.0/24").is_none(), "a route outside of `remote` was learned");
    let first = &sessions(&a)?[0];
    ensure!(first["received"] == 3 && first["accepted"] == 2 && first["advertised"] == 1, "{first:#}");
    // Told of changes as they came, not started anew with them.
    ensure!(json(&a, &["bgp"])?["restarts"] == 0 && !a.log().contains("refuses"), "{}", a.log());
    ensure!(json(&a, &["bgp"])?["program"] == "FRR" && json(&b, &["bgp"])?["program"] == "BIRD");
    let kernel = site.gateway_a.ip_text(&format!("route get {HOST_B}"))?;
    ensure!(kernel.contains("dev cv-site-a"), "{kernel}");
    wait_for("BFD", PATIENCE, || sessions(&a).ok()?.iter().all(|s| s["bfd_up"] == true).then_some(()))
        .with_context(|| a.cli(&["bgp"]).unwrap_or_default())?;

    // Withdrawn: by a reload of the other side.
    let since = |side: &Culvert| -> Result<Vec<Value>> {
        Ok(sessions(side)?.iter().map(|s| s["since"].clone()).collect())
    };
    let before = since(&a)?;
    let mut fewer = config_b.clone();
    for (key, value) in &mut fewer.connections[0].extra {
        if key == "bgp" {
            *value = value.replace(&format!("{LAN_B_TOO:?}, "), "");
        }
    }
    b.setup().write(&fewer)?;
    let said = b.cli(&["reload"])?;
    ensure!(!said.contains("negotiated"), "{said}");
    wait_for("the withdrawal", PATIENCE, || way(&a, LAN_B_TOO).is_none().then_some(()))?;
    // From the program to the kernel it takes a moment; then the floor refuses.
    wait_for("the kernel's route to go", PATIENCE, || {
        site.gateway_a.ip_text(&format!("route get {HOST_B_TOO}")).is_err().then_some(())
    })
    .with_context(|| site.gateway_a.ip_text("route show").unwrap_or_default())?;
    ensure!(!pings(&site.host_a, HOST_B_TOO), "answered without a route");
    wait_ping(&site.host_a, HOST_B)?;
    ensure!(since(&a)? == before, "sessions were reset: {:#?}", sessions(&a)?);

    // The health check of the first tunnel fails: its session stays, its routes are the last choice.
    let deaf = "table inet deaf { chain in { type filter hook input priority 0; ip saddr 169.254.10.1 icmp type echo-request drop\n }\n }";
    site.gateway_b.run("nft", &[deaf])?;
    wait_way(&a, LAN_B, "site/b", "bgp")?;
    wait_ping(&site.host_a, HOST_B)?;
    let sick = sessions(&a)?.into_iter().find(|s| s["neighbor"] == "169.254.10.2").context("no session")?;
    ensure!(sick["state"] == "established" && sick["local_preference"] == 50, "{sick:#}");

    // The path of the first tunnel dies: its session, and so its routes, go at once, though its SAs stand.
    let cut = format!(
        "table inet cut {{ chain path {{ type filter hook forward priority 0; ip saddr {{ {WAN_A}, {WAN_B} }} drop\n }}\n }}"
    );
    site.wan.run("nft", &[&cut])?;
    wait_way(&a, LAN_B, "site/b", "bgp")?;
    wait_way(&b, LAN_A, "site/b", "bgp")?;
    wait_ping(&site.host_a, HOST_B)?;
    wait_for("the session's end in the history", PATIENCE, || {
        let told = a.cli(&["explain", "site/a", "--json"]).ok()?;
        told.contains("BGP session with 169.254.10.2 is down").then_some(())
    })?;

    let flows = watch.finish();
    let clear =
        capture::within(&flows, &["10.1.0.0/16", "10.2.0.0/16", "10.12.0.0/16", "fd01::/32", "fd02::/32"]);
    ensure!(clear.is_empty(), "in clear: {clear:?}");
    // The end: no process, no route, no interface of ours is left.
    a.stop()?;
    b.stop()?;
    for gateway in [&site.gateway_a, &site.gateway_b] {
        ensure!(programs(gateway)?.is_empty(), "{:?}", programs(gateway)?);
        let routes = gateway.ip_text("route show")?;
        ensure!(!routes.contains("bgp") && !routes.contains("bird") && !routes.contains("cv-"), "{routes}");
    }
    Ok(())
}

/// The routing programs in a namespace.
fn programs(namespace: &Namespace) -> Result<Vec<(i32, String)>> {
    let pids = namespace.run("ip", &["netns", "pids", namespace.name()])?;
    let name =
        |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let all = pids.lines().filter_map(|line| line.trim().parse().ok()).map(|pid| (pid, name(pid)));
    Ok(all.filter(|(_, name)| ["zebra", "bgpd", "bfdd", "bird"].contains(&name.as_str())).collect())
}

/// A routing program that dies is told and comes back; meanwhile nothing leaves in clear. What a killed culvertd leaves running is
/// ended by the next.
#[test]
fn b6_a_routing_program_that_dies_comes_back() -> Result<()> {
    let site = Site::new()?;
    site.route_plain()?;
    let tunnel = |own, other, inside| [(own, other, inside)];
    let a = connection(
        "site",
        (&[LAN_A], &["10.2.0.0/16"]),
        65_002,
        "",
        &tunnel(WAN_A, WAN_B, "\"169.254.10.1/30\""),
    );
    let b = connection(
        "site",
        (&[LAN_B], &["10.1.0.0/16"]),
        65_001,
        "",
        &tunnel(WAN_B, WAN_A, "\"169.254.10.2/30\""),
    );
    let mut b = Culvert::start(&site.gateway_b, &gateway(65_002, vec![b.respond()]))?;
    let a = Culvert::start(&site.gateway_a, &gateway(65_001, vec![a]))?;
    wait_way(&a, LAN_B, "site/a", "bgp")?;
    wait_ping(&site.host_a, HOST_B)?;
    let watch = Capture::start(&site.wan)?;
    let bgpd = |site: &Site| -> Result<i32> {
        let all = programs(&site.gateway_a)?;
        all.iter().find(|(_, name)| name == "bgpd").map(|(pid, _)| *pid).with_context(|| format!("{all:?}"))
    };
    let first = bgpd(&site)?;
    site.gateway_a.run("kill", &["-9", &first.to_string()])?;
    wait_for("the warning", PATIENCE, || {
        let warnings = a.status().ok()?["warnings"].to_string();
        warnings.contains("bgpd ended (signal: 9").then_some(())
    })
    .with_context(|| a.log())?;
    let _ = pings(&site.host_a, HOST_B);
    established(&a, 1)?;
    wait_way(&a, LAN_B, "site/a", "bgp")?;
    wait_ping(&site.host_a, HOST_B)?;
    ensure!(
        json(&a, &["bgp"])?["restarts"] == 1 && a.status()?["warnings"].is_null(),
        "{}",
        a.cli(&["bgp"])?
    );

    let left = bgpd(&site)?;
    let setup = a.kill();
    let _ = pings(&site.host_a, HOST_B);
    let mut a = Culvert::resume(&site.gateway_a, setup)?;
    established(&a, 1)?;
    ensure!(
        bgpd(&site)? != left && programs(&site.gateway_a)?.len() == 2,
        "{:?}",
        programs(&site.gateway_a)?
    );
    wait_ping(&site.host_a, HOST_B)?;
    let flows = watch.finish();
    let clear = capture::within(&flows, &["10.1.0.0/16", "10.2.0.0/16"]);
    ensure!(clear.is_empty(), "in clear: {clear:?}");
    // So that their folders go as well.
    a.stop()?;
    b.stop()?;
    Ok(())
}

/// What the file says wins over what is learned; what is learned on one connection is announced on another.
#[test]
fn d3_static_routes_win_and_learned_ones_propagate() -> Result<()> {
    let site = Site::new()?;
    site.gateway_a.ip(&format!("addr add {WAN_A_TOO}/24 dev wan"))?;
    site.gateway_b.ip(&format!("addr add {WAN_B_TOO}/24 dev wan"))?;
    site.wan.ip("addr add 10.3.0.1/24 dev lo")?;
    const WAN_C: &str = "198.51.100.254";
    let a_to_b = connection(
        "site",
        (&[LAN_A], &["10.2.0.0/16"]),
        65_002,
        ", propagate = true",
        &[(WAN_A, WAN_B, "\"169.254.10.1/30\"")],
    );
    let a_to_c = connection(
        "third",
        (&[LAN_A], &["10.3.0.0/16"]),
        4_200_000_003,
        ", propagate = true",
        &[(WAN_A, WAN_C, "\"169.254.20.1/30\"")],
    );
    let fixed = |own: &str, other: &str, local: &str, remote: &str| {
        Connection::new(own, other, &[local], &[remote]).named("fixed")
    };
    let b_to_a = connection(
        "site",
        (&[LAN_B], &["10.1.0.0/16", "10.3.0.0/16"]),
        65_001,
        "",
        &[(WAN_B, WAN_A, "\"169.254.10.2/30\"")],
    );
    let c_to_a = connection(
        "third",
        (&["10.3.0.0/24"], &["10.1.0.0/16", "10.2.0.0/16"]),
        65_001,
        "",
        &[(WAN_C, WAN_A, "\"169.254.20.2/30\"")],
    );
    let with_static = vec![a_to_b, a_to_c, fixed(WAN_A_TOO, WAN_B_TOO, LAN_A, LAN_B)];
    let learned_only = with_static[..2].to_vec();
    let b = vec![b_to_a.respond(), fixed(WAN_B_TOO, WAN_A_TOO, LAN_B, LAN_A).respond()];
    let mut b = Culvert::start(&site.gateway_b, &gateway(65_002, b))?;
    let mut config_c = gateway(4_200_000_003, vec![c_to_a.respond()]);
    config_c.gateway.retain(|(key, _)| key == "asn");
    let config_c = config_c.gateway("wan", "\"to-a\"").gateway("guard", "\"off\"");
    let mut c = Culvert::start(&site.wan, &config_c)?;
    let mut a = Culvert::start(&site.gateway_a, &gateway(65_001, with_static))?;

    // Learned and static: the latter.
    established(&a, 2)?;
    wait_way(&a, LAN_B, "fixed/a", "static")?;
    wait_for("the learned one beside it", PATIENCE, || {
        let all = json(&a, &["route", "list"]).ok()?;
        let learned = all["routes"].as_array()?.iter().any(|r| {
            r["destination"] == LAN_B
                && r["origin"] == "bgp"
                && r["active"] == false
                && r["tunnels"][0] == "site/a"
        });
        learned.then_some(())
    })
    .with_context(|| a.cli(&["route", "list"]).unwrap_or_default())?;
    wait_ping(&site.host_a, HOST_B)?;
    let kernel = site.gateway_a.ip_text(&format!("route get {HOST_B}"))?;
    ensure!(kernel.contains("dev cv-fixed-a"), "{kernel}");

    // From one neighbour to the other, with both systems on the path.
    wait_way(&c, LAN_B, "third/a", "bgp")?;
    wait_way(&b, "10.3.0.0/24", "site/a", "bgp")?;
    let routes = c.cli(&["route", "list"])?;
    ensure!(routes.contains("65001 65002"), "{routes}");

    // Without the static one, the learned one carries; then all three talk.
    a.setup().write(&gateway(65_001, learned_only))?;
    a.cli(&["reload"])?;
    wait_way(&a, LAN_B, "site/a", "bgp")?;
    wait_for("the kernel's route", PATIENCE, || {
        let kernel = site.gateway_a.ip_text(&format!("route get {HOST_B}")).ok()?;
        kernel.contains("dev cv-site-a").then_some(())
    })?;
    wait_for("a ping between the neighbours", PATIENCE, || {
        site.wan.run("ping", &["-c", "1", "-W", "1", "-I", "10.3.0.1", HOST_B]).is_ok().then_some(())
    })
    .with_context(|| {
        format!(
            "{}\n{}",
            c.cli(&["route", "list"]).unwrap_or_default(),
            a.cli(&["route", "list"]).unwrap_or_default()
        )
    })?;
    for side in [&mut a, &mut b, &mut c] {
        side.stop()?;
    }
    Ok(())
}

/// FRR as a cloud has it: configured by somebody else, in the namespace of another IPsec.
struct PlainFrr {
    folder: std::path::PathBuf,
    _processes: Vec<Process>,
}

impl PlainFrr {
    fn start(namespace: &Namespace, bgpd: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("{}-frr", namespace.name()));
        std::fs::create_dir_all(&folder)?;
        for (name, text) in [("zebra", "hostname cloud\n"), ("bgpd", bgpd)] {
            std::fs::write(folder.join(format!("{name}.conf")), text)?;
        }
        let path = folder.display().to_string();
        namespace.run("chown", &["-R", "frr:frr", &path])?;
        let mut processes = Vec::new();
        for name in ["zebra", "bgpd"] {
            let mut command = namespace.command(format!("/usr/lib/frr/{name}"));
            command.args(["-f", &format!("{path}/{name}.conf"), "-i", &format!("{path}/{name}.pid")]);
            command.args(["--vty_socket", &path, "-z", &format!("{path}/zserv.api"), "-P", "0"]);
            processes.push(Process::spawn(name, &mut command)?);
            let socket = folder.join(format!("{name}.vty"));
            wait_for(&format!("{name}'s socket"), PATIENCE, || socket.exists().then_some(()))?;
        }
        Ok(Self { folder, _processes: processes })
    }

    fn vtysh(&self, commands: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new("vtysh");
        command.arg("--vty_socket").arg(&self.folder);
        commands.iter().for_each(|one| {
            command.args(["-c", one]);
        });
        let output = command.output()?;
        ensure!(output.status.success(), "{commands:?}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for PlainFrr {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A cloud's end: strongSwan with every address in its selectors, and an FRR that nobody here configured.
#[test]
fn b6_strongswan_and_frr_are_a_cloud() -> Result<()> {
    let site = Site::new()?;
    site.route_plain()?;
    let all = "0.0.0.0/0";
    let mut cloud = SwanConfig::new(SwanEngine::User, &[SwanConnection::new(WAN_B, WAN_A, all, all)]);
    cloud.charon = vec![("plugins.kernel-libipsec.allow_peer_ts".into(), "yes".into())];
    let swan = StrongSwan::with(&site.gateway_b, &cloud)?;
    // Routes are FRR's: strongSwan's own would send its own packets into the tunnel.
    site.gateway_b.ip("rule del pref 220")?;
    wait_for("strongSwan's interface", PATIENCE, || {
        site.gateway_b.ip("addr add 169.254.10.2/30 dev ipsec0").ok()
    })?;
    site.gateway_b.ip("link set ipsec0 up")?;
    let frr = PlainFrr::start(
        &site.gateway_b,
        "hostname cloud\nrouter bgp 64512\n bgp router-id 203.0.113.1\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n neighbor 169.254.10.1 remote-as 65001\n neighbor 169.254.10.1 timers 1 3\n \
         neighbor 169.254.10.1 timers connect 1\n address-family ipv4 unicast\n  network 10.2.0.0/24\n exit-address-family\n",
    )?;
    let ours = connection(
        "site",
        (&[LAN_A], &["10.2.0.0/16", "10.12.0.0/16"]),
        64_512,
        "",
        &[(WAN_A, WAN_B, "\"169.254.10.1/30\"")],
    );
    let config = gateway(65_001, vec![ours]);
    let mut a = Culvert::start(&site.gateway_a, &config)?;
    let cause = || {
        let routes = site.gateway_b.ip_text("route show table all").unwrap_or_default();
        format!("{}\n{}\n{routes}{}", a.log(), swan.log(), site.gateway_b.ip_text("rule").unwrap_or_default())
    };
    wait_way(&a, LAN_B, "site/a", "bgp").with_context(cause)?;
    let watch = Capture::start(&site.wan)?;
    wait_ping(&site.host_a, HOST_B)?;
    // The cloud's tables, changed by its own people.
    let change = |what: &str| {
        frr.vtysh(&["configure terminal", "router bgp 64512", "address-family ipv4 unicast", what])
    };
    change("network 10.12.0.0/24")?;
    wait_ping(&site.host_a, HOST_B_TOO)?;
    change("no network 10.2.0.0/24")?;
    wait_for("the kernel's route to go", PATIENCE, || {
        site.gateway_a.ip_text(&format!("route get {HOST_B}")).is_err().then_some(())
    })?;
    ensure!(!pings(&site.host_a, HOST_B), "answered without a route");
    let flows = watch.finish();
    let clear = capture::within(&flows, &["10.1.0.0/16", "10.2.0.0/16", "10.12.0.0/16"]);
    ensure!(clear.is_empty(), "in clear: {clear:?}");
    a.stop()?;

    // Beside another FRR in the same namespace ours does not start: they would take each other's routes away.
    let other = PlainFrr::start(&site.gateway_a, "hostname other\n")?;
    let mut a = Culvert::start(&site.gateway_a, &config)?;
    wait_for("the warning", PATIENCE, || {
        a.status().ok()?["warnings"].to_string().contains("another FRR runs here").then_some(())
    })?;
    drop(other);
    wait_way(&a, LAN_B_TOO, "site/a", "bgp")?;
    a.stop()?;
    Ok(())
}

/// Four tunnels between two addresses on each side, all of them used at once by routes that were learned, to the very networks
/// that `remote` protects; those of an address that fails are used no more.
#[test]
fn d1_four_tunnels_share_what_is_learned() -> Result<()> {
    let site = Site::new()?;
    site.gateway_a.ip(&format!("addr add {WAN_A_TOO}/24 dev wan"))?;
    site.gateway_b.ip(&format!("addr add {WAN_B_TOO}/24 dev wan"))?;
    let addresses = [(WAN_A, WAN_B), (WAN_A, WAN_B_TOO), (WAN_A_TOO, WAN_B), (WAN_A_TOO, WAN_B_TOO)];
    let side = |at_a: bool| {
        let nets: (&[&str], &[&str]) = if at_a { (&[LAN_A], &[LAN_B]) } else { (&[LAN_B], &[LAN_A]) };
        let inside: Vec<String> =
            (0..4).map(|n| format!("\"169.254.10.{}/30\"", 4 * n + if at_a { 1 } else { 2 })).collect();
        let tunnels: Vec<(&str, &str, &str)> = addresses
            .iter()
            .zip(&inside)
            .map(|((a, b), inside)| if at_a { (*a, *b, inside.as_str()) } else { (*b, *a, inside.as_str()) })
            .collect();
        let mut one = connection("site", nets, if at_a { 65_002 } else { 65_001 }, "", &tunnels);
        one.extra.push(("balance".into(), "true".into()));
        one.tunnels.iter_mut().for_each(|tunnel| tunnel.extra.push(("weight".into(), "100".into())));
        gateway(if at_a { 65_001 } else { 65_002 }, vec![if at_a { one } else { one.respond() }])
    };
    let mut b = Culvert::start(&site.gateway_b, &side(false))?;
    let mut a = Culvert::start(&site.gateway_a, &side(true))?;
    let ways = |count: usize| {
        wait_for(&format!("{count} ways"), PATIENCE, || {
            let routes = site.gateway_a.ip_text(&format!("route show {LAN_B}")).ok()?;
            (routes.matches("dev cv-site-").count() == count).then_some(routes)
        })
        .with_context(|| format!("{}\n{}", a.cli(&["route", "list"]).unwrap_or_default(), a.log()))
    };
    ways(4)?;
    wait_ping(&site.host_a, HOST_B)?;
    let cut = format!(
        "table inet cut {{ chain path {{ type filter hook forward priority 0; ip saddr {WAN_B_TOO} drop\n }}\n }}"
    );
    site.wan.run("nft", &[&cut])?;
    let left = ways(2)?;
    ensure!(left.contains("cv-site-a") && left.contains("cv-site-c"), "{left}");
    wait_ping(&site.host_a, HOST_B)?;
    a.stop()?;
    b.stop()?;
    Ok(())
}
