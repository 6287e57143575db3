//! Two tunnels over two paths: health checks, the move of the traffic, and its return.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::measure::Echo;
use culvert_lab::topology::{HOST_A, HOST_B, HOST_B6, LAN_A6, LAN_B6, WAN_A, WAN_B};
use culvert_lab::two_paths::{self, WAN_A_TOO, WAN_B_TOO, source};
use culvert_lab::{Capture, Culvert, GatewayConfig, Site, capture, wait_for};
use culvert_tests::{Case, traffic};
use serde_json::Value;

use super::case;

/// Longer than anything here takes; how long it took is the bench's business.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Of a tunnel, with values as TOML.
pub(super) type Keys = Vec<(&'static str, String)>;

pub(super) struct Pair {
    pub(super) site: Site,
    pub(super) a: Culvert,
    b: Culvert,
    case: Case,
    /// What side A was started with.
    config_a: GatewayConfig,
}

impl Pair {
    /// Both tunnels up, with these keys of the connection, and these of each tunnel on side A and B.
    pub(super) fn start(connection: &[(&str, &str)], tunnel: impl Fn(bool, &str) -> Keys) -> Result<Self> {
        Self::start_to(WAN_B_TOO, connection, tunnel)
    }

    /// The same with another address of side B for the second tunnel.
    fn start_to(
        second: &'static str,
        connection: &[(&str, &str)],
        tunnel: impl Fn(bool, &str) -> Keys,
    ) -> Result<Self> {
        let site = Site::new()?;
        two_paths::prepare(&site)?;
        let case = case("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256");
        let start = |at_a: bool| {
            let gateway = if at_a { &site.gateway_a } else { &site.gateway_b };
            Culvert::start(gateway, &config(&case, &site, at_a, second, connection, &tunnel))
        };
        let (b, a) = (start(false)?, start(true)?);
        for name in ["a", "b"] {
            a.wait_up("site", name, PATIENCE)?;
        }
        let config_a = config(&case, &site, true, second, connection, &tunnel);
        Ok(Self { site, a, b, case, config_a })
    }

    /// Lets nothing through between the first addresses, or all again.
    pub(super) fn cut(&self, cut: bool) -> Result<()> {
        two_paths::cut(&self.site, cut)
    }

    /// Waits until both sides send through this tunnel alone.
    pub(super) fn wait_active(&self, name: &str) -> Result<()> {
        for side in [&self.a, &self.b] {
            wait_for(&format!("traffic by tunnel {name}"), PATIENCE, || {
                let active = |tunnel: &str| Some(side.tunnel("site", tunnel).ok()?.0["active"] == true);
                let other = if name == "a" { "b" } else { "a" };
                (active(name)? && !active(other)?).then_some(())
            })
            .with_context(|| format!("a: {}\nb: {}", self.a.log(), self.b.log()))?;
        }
        Ok(())
    }

    /// Writes side A's configuration with these further sections of its connection.
    pub(super) fn write_a(&self, sections: &str) -> Result<()> {
        let mut config = self.config_a.clone();
        let parsed: toml::Table = sections.parse()?;
        let forwards = parsed["connection"]["site"]["forward"].as_table().context("no forwards")?;
        for (name, keys) in forwards {
            for (key, value) in keys.as_table().context("no keys")? {
                config.connections[0].set.push((format!("forward.{name}.{key}"), value.to_string()));
            }
        }
        self.a.setup().write(&config)
    }

    /// Adds to side A's configuration.
    pub(super) fn append_a(&self, sections: &str) -> Result<()> {
        let path = self.a.setup().config();
        let text = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, format!("{text}\n{sections}"))?)
    }

    fn verdict(&self, tunnel: &str) -> Result<Value> {
        Ok(self.a.tunnel("site", tunnel)?.0["health"]["verdict"].clone())
    }
}

fn config(
    case: &Case,
    site: &Site,
    at_a: bool,
    second_b: &str,
    connection: &[(&str, &str)],
    tunnel: impl Fn(bool, &str) -> Keys,
) -> GatewayConfig {
    let mut one = case.culvert_connection(site, at_a);
    one.extra.extend(connection.iter().map(|(key, value)| ((*key).into(), (*value).into())));
    let (own, other) = if at_a { (LAN_A6, LAN_B6) } else { (LAN_B6, LAN_A6) };
    one.local.push(own.into());
    one.remote.push(other.into());
    two_paths::second_tunnel(&mut one, at_a, second_b);
    for each in &mut one.tunnels {
        let keys = tunnel(at_a, &each.name);
        each.extra.extend(keys.into_iter().map(|(key, value)| (key.into(), value)));
    }
    let hosts = format!("127.0.0.1 localhost\n{HOST_B} intranet.example\n");
    GatewayConfig { hosts: Some(hosts), ..GatewayConfig::new(vec![one]) }
}

/// Both sides ask the other's host by addresses of their LAN.
pub(super) fn by_ping(interval: &'static str) -> impl Fn(bool, &str) -> Keys {
    move |at_a, tunnel| {
        let (source, sources) = (source(at_a, tunnel), source(!at_a, tunnel));
        let target = if at_a { HOST_B } else { HOST_A };
        vec![
            (
                "health",
                format!("{{ source = \"{source}\", target = \"{target}\", interval = \"{interval}\" }}"),
            ),
            ("health_sources", format!("\"{sources}\"")),
        ]
    }
}

/// The active path dies, the SAs stay: traffic goes on by the other tunnel, and comes back when the path is well again.
#[test]
fn c2_a_failing_health_check_moves_the_traffic_and_a_mended_path_gets_it_back() -> Result<()> {
    let pair = Pair::start(&[("failback", "\"1s\"")], by_ping("100ms"))?;
    pair.wait_active("a")?;
    traffic(&pair.site, &pair.case.hosts())?;
    let watch = Capture::start(&pair.site.wan)?;
    let echo = Echo::start(&pair.site.host_a, &pair.site.host_b, HOST_B, Duration::from_millis(5))?;
    pair.cut(true)?;
    pair.wait_active("b")?;
    ensure!(pair.verdict("a")? == "unhealthy" && pair.verdict("b")? == "healthy");
    let failed = pair.a.tunnel("site", "a")?;
    ensure!(failed.is_up(), "its SAs went with the traffic: {:#}", failed.0);
    ensure!(failed.0["health"]["cause"].as_str().is_some_and(|c| c.contains("no answer")), "{:#}", failed.0);
    let shown = pair.a.cli(&["status"])?;
    ensure!(shown.contains("site/a: up, but its health check fails"), "{shown}");
    pair.a.wait_log(&["traffic moves from tunnel a to b"], PATIENCE)?;
    let before = echo.stop()?;
    // What was lost was lost before the traffic moved; nothing is from now on.
    ensure!(before.received > 0, "{before:?}");
    let echo = Echo::start(&pair.site.host_a, &pair.site.host_b, HOST_B, Duration::from_millis(5))?;
    std::thread::sleep(Duration::from_millis(500));
    pair.cut(false)?;
    pair.wait_active("a")?;
    let after = echo.stop()?;
    ensure!(after.lost() == 0, "lost in the return: {after:?}");
    let flows = watch.finish();
    ensure!(capture::within(&flows, &["10.1.0.0/16", "10.2.0.0/16"]).is_empty(), "in clear: {flows:?}");
    let told = pair.a.cli(&["explain", "site/b", "--json"])?;
    for text in ["in place of a", "carries the traffic no more, a does"] {
        ensure!(told.contains(text), "{told}");
    }
    Ok(())
}

/// Out of service, changed, and back, while the other tunnel goes on; the peer cannot bring it up meanwhile.
#[test]
fn d4_a_tunnel_is_disabled_edited_and_enabled_while_the_other_goes_on() -> Result<()> {
    let keys = [("failback", "\"1s\"")];
    let pair = Pair::start(&keys, |_, _| Vec::new())?;
    pair.wait_active("a")?;
    let other = pair.a.tunnel("site", "b")?;
    let watch = Capture::start(&pair.site.wan)?;
    let echo = Echo::start(&pair.site.host_a, &pair.site.host_b, HOST_B, Duration::from_millis(5))?;
    let state = || Ok::<_, anyhow::Error>(pair.a.tunnel("site", "a")?.0["state"].clone());
    let said = pair.a.cli(&["tunnel", "disable", "site/a"])?;
    ensure!(said.contains("disabled until"), "{said}");
    pair.wait_active("b")?;
    let shown = pair.a.tunnel("site", "a")?;
    ensure!(shown.0["state"] == "disabled" && shown.cause().contains("by the operator"), "{:#}", shown.0);
    pair.b.cli(&["up", "site/a", "--no-wait"])?;
    wait_for("the peer to be refused", PATIENCE, || {
        (pair.b.tunnel("site", "a").ok()?.0["failures"].as_u64()? > 0).then_some(())
    })
    .with_context(|| format!("{:#}", pair.b.tunnel("site", "a").map(|t| t.0).unwrap_or_default()))?;
    ensure!(!pair.b.tunnel("site", "a")?.is_up() && state()? == "disabled");
    // Edited while it is disabled, which outlives that.
    let edited = |at_a: bool, extra: Keys| {
        let mut config = config(&pair.case, &pair.site, at_a, WAN_B_TOO, &keys, |_, _| Vec::new());
        let tunnel = &mut config.connections[0].tunnels[0];
        tunnel.psk = "another secret, agreed on meanwhile".into();
        tunnel.extra.extend(extra.into_iter().map(|(key, value)| (key.into(), value)));
        config
    };
    for (side, at_a) in [(&pair.a, true), (&pair.b, false)] {
        side.setup().write(&edited(at_a, Vec::new()))?;
        side.cli(&["reload"])?;
    }
    std::thread::sleep(Duration::from_millis(500));
    ensure!(state()? == "disabled", "{:#}", pair.a.tunnel("site", "a")?.0);
    pair.a.cli(&["tunnel", "enable", "site/a"])?;
    pair.a.wait_up("site", "a", PATIENCE).with_context(|| pair.b.log())?;
    pair.wait_active("a")?;
    // The same by the configuration, against which the operator may decide, also over the next reload.
    pair.a.setup().write(&edited(true, vec![("enabled", "false".into())]))?;
    pair.a.cli(&["reload"])?;
    ensure!(state()? == "disabled", "{:#}", pair.a.tunnel("site", "a")?.0);
    pair.a.cli(&["tunnel", "enable", "site/a"])?;
    pair.a.wait_up("site", "a", PATIENCE)?;
    pair.a.cli(&["reload"])?;
    ensure!(pair.a.tunnel("site", "a")?.is_up());
    let after = pair.a.tunnel("site", "b")?;
    ensure!(
        after.ike_spis() == other.ike_spis() && after.spi_in() == other.spi_in(),
        "the other tunnel was touched:\n{}",
        pair.a.log()
    );
    // The peer's answers may be on their way into a tunnel that is just closed: three times here.
    let echo = echo.stop()?;
    ensure!(echo.sent > 20 && echo.lost() <= 6, "{echo:?}");
    let flows = watch.finish();
    ensure!(capture::within(&flows, &["10.1.0.0/16", "10.2.0.0/16"]).is_empty(), "in clear: {flows:?}");
    Ok(())
}

/// Only the operator brings the traffic back. The graph shows by whom it went.
#[test]
fn c3_c8_a_manual_return_is_the_operators_and_the_graph_shows_it() -> Result<()> {
    let pair = Pair::start(&[("failback", "\"manual\"")], by_ping("100ms"))?;
    pair.wait_active("a")?;
    let hosts = (&pair.site.host_a, "0.0.0.0");
    let load = Echo::between(hosts, (&pair.site.host_b, HOST_B), Duration::from_millis(1), 1000)?;
    std::thread::sleep(Duration::from_millis(2500));
    pair.cut(true)?;
    pair.wait_active("b")?;
    pair.cut(false)?;
    wait_for("a healthy again", PATIENCE, || (pair.verdict("a").ok()? == "healthy").then_some(()))?;
    std::thread::sleep(Duration::from_millis(2500));
    pair.wait_active("b")?;
    load.stop()?;
    let graph: Value = serde_json::from_str(&pair.a.cli(&["graph", "site", "--since", "30s", "--json"])?)?;
    // The load is a megabit in a second, the probes are some kilobits.
    let busy = |tunnel: usize| -> Vec<usize> {
        let list = graph["tunnels"][tunnel]["bits_out"].as_array().cloned().unwrap_or_default();
        let busy = list.iter().enumerate().filter(|(_, rate)| rate.as_u64().is_some_and(|r| r > 300_000));
        busy.map(|(second, _)| second).collect()
    };
    let (by_a, by_b) = (busy(0), busy(1));
    ensure!(by_a.len() >= 2 && by_b.len() >= 2 && by_a.iter().max() <= by_b.iter().min(), "{graph}");
    let drawn = pair.a.cli(&["graph", "site", "--since", "30s"])?;
    ensure!(drawn.contains("site/a in") && drawn.contains("site/b in") && drawn.contains('█'), "{drawn}");
    for side in [&pair.a, &pair.b] {
        side.cli(&["tunnel", "failback", "site/a"])?;
    }
    pair.wait_active("a")?;
    traffic(&pair.site, &pair.case.hosts())
}

/// Every kind of probe, through the tunnel that carries nothing as well as through the one that does.
#[test]
fn c2_c7_probes_go_through_their_own_tunnel() -> Result<()> {
    let target = |what: &'static str| {
        let six = what.starts_with("fd");
        let source = move |at_a, tunnel: &str| match (six, at_a, tunnel) {
            (false, ..) => source(at_a, tunnel),
            (true, true, "a") => "fd01::3".to_owned(),
            (true, true, _) => "fd01::4".to_owned(),
            (true, false, "a") => "fd02::3".to_owned(),
            (true, false, _) => "fd02::4".to_owned(),
        };
        move |at_a: bool, tunnel: &str| {
            if at_a {
                let source = source(true, tunnel);
                let health =
                    format!("{{ source = \"{source}\", target = \"{what}\", interval = \"200ms\" }}");
                return vec![("health", health)];
            }
            let back = if tunnel == "a" { ["10.1.0.3", "fd01::3"] } else { ["10.1.0.4", "fd01::4"] };
            vec![("health_sources", format!("{back:?}"))]
        }
    };
    let pair = Pair::start(&[], target("10.2.0.2:8099"))?;
    let refused = wait_for("the refusal", PATIENCE, || {
        let cause = pair.a.tunnel("site", "b").ok()?.0["health"]["cause"].as_str()?.to_owned();
        cause.contains("refuses").then_some(cause)
    })
    .with_context(|| format!("{:#}", pair.a.status().unwrap_or_default()))?;
    ensure!(refused.contains("10.2.0.2:8099"), "{refused}");
    let page = std::net::TcpListener::bind;
    let listener = pair.site.host_b.within(|| page("0.0.0.0:8099"))??;
    let serve = std::thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming().take(200).flatten() {
            let _ = { stream }.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        }
    });
    let healthy =
        || ["a", "b"].iter().all(|name| pair.verdict(name).is_ok_and(|v| v == "healthy")).then_some(());
    wait_for("TCP answered", PATIENCE, healthy)?;
    let packets = |name: &str| -> Result<u64> {
        pair.a.tunnel("site", name)?.child()["packets_in"].as_u64().context("no count")
    };
    let before = packets("b")?;
    wait_for("answers by the standby tunnel", PATIENCE, || (packets("b").ok()? > before + 5).then_some(()))?;
    for what in ["http://10.2.0.2:8099/x", HOST_B6, HOST_B] {
        pair.a.setup().write(&config(&pair.case, &pair.site, true, WAN_B_TOO, &[], target(what)))?;
        pair.a.cli(&["reload"])?;
        wait_for(&format!("{what} answered"), PATIENCE, || {
            let of = |name: &str| Some(pair.a.tunnel("site", name).ok()?.0["health"].clone());
            let fine = |health: Value| {
                health["target"].as_str().is_some_and(|t| t == what)
                    && health["window_us"].as_array().is_some_and(|w| w.last().is_some_and(Value::is_number))
            };
            (fine(of("a")?) && fine(of("b")?)).then_some(())
        })
        .with_context(|| pair.a.log())?;
    }
    drop(serve);
    Ok(())
}

/// Two public addresses here, one there: when the way from the first is dead, the second carries everything.
#[test]
fn c1_two_addresses_reach_the_same_gateway() -> Result<()> {
    let pair = Pair::start_to(WAN_B, &[("failback", "\"1s\"")], by_ping("100ms"))?;
    pair.wait_active("a")?;
    for (tunnel, address) in [("a", WAN_A), ("b", WAN_A_TOO)] {
        let ike = pair.a.tunnel("site", tunnel)?.0["ike"].clone();
        let end = |side: &str| ike[side]["address"].as_str().unwrap_or_default().to_owned();
        ensure!(end("local").starts_with(address) && end("remote").starts_with(WAN_B), "{ike:#}");
    }
    let rule = format!(
        "table inet cut {{ chain path {{ type filter hook forward priority 0; ip saddr {WAN_A} drop; ip daddr {WAN_A} drop\n }}\n }}"
    );
    pair.site.wan.run("nft", &[&rule])?;
    pair.wait_active("b")?;
    traffic(&pair.site, &pair.case.hosts())?;
    pair.cut(false)?;
    pair.wait_active("a")?;
    traffic(&pair.site, &pair.case.hosts())
}

/// Loss and latency of each tunnel, also of the one that carries nothing; a dead path is told from a live one.
#[test]
fn d6_ping_goes_through_the_tunnel_that_is_named() -> Result<()> {
    let pair = Pair::start(&[], by_ping("1s"))?;
    let ping = |args: &[&str]| -> Result<Value> {
        let all =
            [&["ping", "--count", "5", "--interval", "20ms", "--timeout", "500ms", "--json"], args].concat();
        Ok(serde_json::from_str(&pair.a.cli_any(&all)?.1)?)
    };
    let both = ping(&["site"])?;
    for tunnel in ["site/a", "site/b"] {
        let one = &both[tunnel];
        ensure!(one["sent"] == 5 && one["answered"] == 5 && one["loss_percent"] == 0.0, "{both:#}");
        ensure!(one["median_us"].as_u64().is_some_and(|us| (1..500_000).contains(&us)), "{both:#}");
    }
    let six = ping(&["site/a", HOST_B6, "--source", "fd01::3"])?;
    ensure!(six["site/a"]["answered"] == 5 && six.get("site/b").is_none(), "{six:#}");
    pair.cut(true)?;
    let cut = ping(&["site", HOST_B])?;
    ensure!(cut["site/a"]["loss_percent"] == 100.0 && cut["site/b"]["answered"] == 5, "{cut:#}");
    let (code, said) = pair.a.cli_any(&["ping", "site/a", HOST_B, "--count", "1", "--timeout", "200ms"])?;
    ensure!(!code && said.contains("100 % lost"), "{said}");
    let (code, said) =
        pair.a.cli_any(&["ping", "site/a", HOST_B, "--count", "1", "--source", "192.0.2.77"])?;
    ensure!(!code && said.contains("no address 192.0.2.77"), "{said}");
    Ok(())
}

/// Both tunnels carry flows at once, and one alone when the other fails.
#[test]
fn b5_balanced_tunnels_share_the_flows() -> Result<()> {
    let pair = Pair::start(&[("balance", "true"), ("failback", "\"1s\"")], |at_a, tunnel| {
        let mut keys = by_ping("100ms")(at_a, tunnel);
        keys.push(("weight", "50".into()));
        keys
    })?;
    for gateway in [&pair.site.gateway_a, &pair.site.gateway_b] {
        gateway.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
    }
    let both = || {
        let active = |side: &Culvert, name| Some(side.tunnel("site", name).ok()?.0["active"] == true);
        let all = [(&pair.a, "a"), (&pair.a, "b"), (&pair.b, "a"), (&pair.b, "b")];
        all.iter()
            .map(|(side, name)| active(side, name))
            .collect::<Option<Vec<_>>>()
            .is_some_and(|all| all.iter().all(|active| *active))
            .then_some(())
    };
    wait_for("both tunnels active", PATIENCE, both)?;
    let bytes = |name: &str| -> Result<u64> {
        pair.a.tunnel("site", name)?.child()["bytes_out"].as_u64().context("no count")
    };
    let (before_a, before_b) = (bytes("a")?, bytes("b")?);
    let socket = pair.site.host_a.within(|| {
        (0..64).map(|_| std::net::UdpSocket::bind("0.0.0.0:0")).collect::<std::io::Result<Vec<_>>>()
    })??;
    for one in &socket {
        for _ in 0..20 {
            one.send_to(&[0; 1000], (HOST_B, 9))?;
        }
    }
    // Probes are a small part of this.
    wait_for("a good part by each", PATIENCE, || {
        (bytes("a").ok()? > before_a + 300_000 && bytes("b").ok()? > before_b + 300_000).then_some(())
    })
    .with_context(|| format!("{:?} {:?}", bytes("a"), bytes("b")))?;
    pair.cut(true)?;
    pair.wait_active("b")?;
    traffic(&pair.site, &pair.case.hosts())?;
    pair.cut(false)?;
    wait_for("both tunnels active again", PATIENCE, both)
}
