//! Environments: two with the same networks on both sides, of which neither reaches the other; limits; the log of each.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::measure::ping;
use culvert_lab::netns::{End, link};
use culvert_lab::topology::{WAN_A, WAN_B};
use culvert_lab::{Capture, Culvert, GatewayConfig, Namespace, Site, capture, wait_for};
use serde_json::Value;

use super::failover::PATIENCE;
use culvert_lab::Connection;

/// The second address of each gateway, by which the tunnel of environment blue goes.
const WAN_A_TOO: &str = "198.51.100.2";
const WAN_B_TOO: &str = "203.0.113.2";
/// The hosts of both environments, and the networks that only blue has.
const HOST_A: &str = "10.1.0.2";
const HOST_B: &str = "10.2.0.2";
const BLUE_A: &str = "10.3.0.2";
const BLUE_B: &str = "10.4.0.2";
const PORT: u16 = 7000;
/// Longer than an answer takes here.
const SOON: Duration = Duration::from_millis(200);

/// Two gateways, each with the LANs of environments red and blue, which have the same addresses.
struct Two {
    site: Site,
    /// Hosts of blue at A and B; those of red are the site's.
    blue_a: Namespace,
    blue_b: Namespace,
    a: Option<Culvert>,
    b: Culvert,
    isolation: &'static str,
}

impl Drop for Two {
    fn drop(&mut self) {
        // What a test that failed leaves behind.
        let all = [(true, "red"), (true, "blue"), (false, "red"), (false, "blue")];
        for name in all.map(|(at_a, colour)| namespace(self.isolation, at_a, colour)) {
            if let Some(left) = Namespace::existing(&name) {
                let _ = std::process::Command::new("ip").args(["netns", "del", left.name()]).status();
            }
        }
    }
}

/// Names of namespaces are for the whole host, where other tests run: one's own for each process and side.
fn environment(isolation: &str, at_a: bool, colour: &str) -> String {
    format!("{colour}-{isolation}{}{}", std::process::id(), if at_a { "a" } else { "b" })
}

fn namespace(isolation: &str, at_a: bool, colour: &str) -> String {
    format!("culvert-{}", environment(isolation, at_a, colour))
}

fn config(at_a: bool, isolation: &str) -> GatewayConfig {
    let one = |colour: &str| {
        let ((local, remote), (own, other)) = match (colour, at_a) {
            ("red", true) => ((WAN_A, WAN_B), (&["10.1.0.0/24"][..], &["10.2.0.0/24"][..])),
            ("red", false) => ((WAN_B, WAN_A), (&["10.2.0.0/24"][..], &["10.1.0.0/24"][..])),
            (_, true) => (
                (WAN_A_TOO, WAN_B_TOO),
                (&["10.1.0.0/24", "10.3.0.0/24"][..], &["10.2.0.0/24", "10.4.0.0/24"][..]),
            ),
            (_, false) => (
                (WAN_B_TOO, WAN_A_TOO),
                (&["10.2.0.0/24", "10.4.0.0/24"][..], &["10.1.0.0/24", "10.3.0.0/24"][..]),
            ),
        };
        let mut connection = Connection::new(local, remote, own, other).named(colour);
        connection.extra.push(("environment".into(), format!("{:?}", environment(isolation, at_a, colour))));
        if at_a {
            for (name, listen, to) in [("who", "10.1.0.1:33000", HOST_B), ("here", "127.0.0.1:33001", HOST_B)]
            {
                // In one namespace 127.0.0.1 is one for both.
                let port =
                    if colour == "blue" { listen.replace("33001", "33002") } else { listen.to_owned() };
                connection.set.push((format!("forward.{name}.listen"), format!("{port:?}")));
                connection.set.push((format!("forward.{name}.to"), format!("\"{to}:{PORT}\"")));
            }
            let health = format!("{{ target = \"{HOST_B}\", source = \"10.1.0.1\", interval = \"1s\" }}");
            connection.set.push(("tunnel.a.health".into(), health));
        }
        connection
    };
    let mut config = GatewayConfig::new(vec![one("red"), one("blue")]);
    config.gateway.retain(|(key, _)| key != "lan");
    for (colour, lan) in [("red", "lan"), ("blue", "lan2")] {
        config.sections += &format!(
            "\n[environment.{}]\nisolation = \"{isolation}\"\nlan = \"{lan}\"\n",
            environment(isolation, at_a, colour)
        );
    }
    config
}

/// Says who it is to whoever comes.
fn tell(host: &Namespace, name: &'static str) -> Result<()> {
    let listener = host.within(|| TcpListener::bind(("0.0.0.0", PORT)))??;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
    Ok(())
}

/// Who answers there.
fn who(host: &Namespace, to: &str, port: u16) -> Result<String> {
    within(host, to, port, Duration::from_secs(5))
}

/// The same, of somebody who answers so soon.
fn within(host: &Namespace, to: &str, port: u16, patience: Duration) -> Result<String> {
    let to = SocketAddr::new(to.parse::<IpAddr>()?, port);
    let mut stream = host.within(|| TcpStream::connect_timeout(&to, patience))??;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok(name)
}

impl Two {
    fn start(isolation: &'static str) -> Result<Self> {
        let site = Site::new()?;
        let (blue_a, blue_b) = (Namespace::new("blueA")?, Namespace::new("blueB")?);
        for (host, gateway, ours, theirs) in [
            (&blue_a, &site.gateway_a, ["10.1.0.2/24", "10.3.0.2/24"], ["10.1.0.1/24", "10.3.0.1/24"]),
            (&blue_b, &site.gateway_b, ["10.2.0.2/24", "10.4.0.2/24"], ["10.2.0.1/24", "10.4.0.1/24"]),
        ] {
            let host_end = End { namespace: host, name: "eth0", addresses: &ours };
            link(host_end, End { namespace: gateway, name: "lan2", addresses: &theirs }, None)?;
            host.ip(&format!("route add default via {}", theirs[0].trim_end_matches("/24")))?;
        }
        site.gateway_a.ip(&format!("addr add {WAN_A_TOO}/24 dev wan"))?;
        site.gateway_b.ip(&format!("addr add {WAN_B_TOO}/24 dev wan"))?;
        for (host, name) in [
            (&site.host_a, "red at A"),
            (&site.host_b, "red at B"),
            (&blue_a, "blue at A"),
            (&blue_b, "blue at B"),
        ] {
            tell(host, name)?;
        }
        let b = Culvert::start(&site.gateway_b, &config(false, isolation))?;
        let a = Culvert::start(&site.gateway_a, &config(true, isolation))?;
        let two = Self { site, blue_a, blue_b, a: Some(a), b, isolation };
        two.wait_up()?;
        Ok(two)
    }

    fn a(&self) -> &Culvert {
        self.a.as_ref().expect("it runs")
    }

    fn wait_up(&self) -> Result<()> {
        for colour in ["red", "blue"] {
            self.a().wait_up(colour, "a", PATIENCE)?;
        }
        Ok(())
    }

    /// Each reaches its own far side, and what only the other has is refused.
    fn each_reaches_its_own(&self) -> Result<()> {
        let (red_a, red_b) = (&self.site.host_a, &self.site.host_b);
        let log = || format!("{}\n{}", self.a().log(), self.b.log());
        for (from, to, port, name) in [
            (red_a, HOST_B, PORT, "red at B"),
            (&self.blue_a, HOST_B, PORT, "blue at B"),
            (red_b, HOST_A, PORT, "red at A"),
            (&self.blue_b, HOST_A, PORT, "blue at A"),
            (&self.blue_a, BLUE_B, PORT, "blue at B"),
            (&self.blue_b, BLUE_A, PORT, "blue at A"),
            // Forwards, at the same address of both LANs.
            (red_a, "10.1.0.1", 33000, "red at B"),
            (&self.blue_a, "10.1.0.1", 33000, "blue at B"),
        ] {
            let heard = who(from, to, port).with_context(|| format!("{name} at {to}:{port}: {}", log()))?;
            ensure!(heard == name, "{to}:{port}: {heard} in place of {name}");
        }
        // What was said until now has come to its end.
        std::thread::sleep(SOON);
        let watch = [&self.blue_a, &self.blue_b].map(Capture::start);
        let refused = |(from, to): (&Namespace, &str)| {
            ensure!(within(from, to, PORT, SOON).is_err(), "{to} answers who is not in its environment");
            let seen = ping(from, to, 2, Duration::from_millis(10))?;
            ensure!(seen.received == 0, "{to} answers who is not in its environment: {seen:?}");
            Ok(())
        };
        let across = [(red_a, BLUE_B), (red_a, BLUE_A), (red_b, BLUE_A), (red_b, BLUE_B)];
        std::thread::scope(|scope| -> Result<()> {
            let all = across.map(|pair| scope.spawn(move || refused(pair)));
            all.into_iter().try_for_each(|one| one.join().expect("it does not panic"))
        })?;
        // Nor may anybody of red speak to a listener that only blue has an address for.
        ensure!(within(red_a, "10.3.0.1", 33000, SOON).is_err());
        for watch in watch {
            let flows = watch?.finish();
            ensure!(
                capture::within(&flows, &["10.3.0.2/32", "10.4.0.2/32"]).is_empty(),
                "red came to blue: {flows:?}"
            );
        }
        Ok(())
    }

    /// Where culvertd's forwards of an environment are listened for.
    fn at_home(&self, colour: &str) -> Result<Namespace> {
        Ok(match self.isolation {
            "namespace" => {
                Namespace::existing(&namespace(self.isolation, true, colour)).context("no namespace")?
            }
            _ => Namespace::existing(self.site.gateway_a.name()).context("no gateway")?,
        })
    }
}

fn nothing_passes(isolation: &'static str) -> Result<()> {
    let mut two = Two::start(isolation)?;
    let watch = Capture::start(&two.site.wan)?;
    two.each_reaches_its_own()?;
    for (colour, port) in [("red", 33001), ("blue", 33002)] {
        let heard = who(&two.at_home(colour)?, "127.0.0.1", port)?;
        ensure!(heard == format!("{colour} at B"), "{colour}: {heard}");
    }
    wait_for("probes in both environments", PATIENCE, || {
        let well = |colour: &str| Some(two.a().tunnel(colour, "a").ok()?.0["health"]["verdict"] == "healthy");
        (well("red")? && well("blue")?).then_some(())
    })
    .with_context(|| two.a().log())?;
    let list: Value = serde_json::from_str(&two.a().cli(&["environment", "list", "--json"])?)?;
    for (index, lan) in [(1, "lan"), (2, "lan2")] {
        ensure!(list[index]["isolation"] == isolation && list[index]["lan"][0] == lan, "{list:#}");
        ensure!(list[index]["connections"] == 1 && list[index]["faults"].is_null(), "{list:#}");
    }
    let red = environment(isolation, true, "red");
    let shown = two.a().cli(&["status", "--environment", &red])?;
    ensure!(shown.contains(&format!("environment {red}, {isolation}")) && !shown.contains("blue"), "{shown}");

    // Killed, nothing gets out; started again, all is as it was.
    let setup = two.a.take().context("no culvertd")?.kill();
    for host in [&two.site.host_a, &two.blue_a] {
        ensure!(ping(host, HOST_B, 2, Duration::from_millis(10))?.received == 0);
    }
    two.a = Some(Culvert::resume(&two.site.gateway_a, setup)?);
    two.wait_up()?;
    two.each_reaches_its_own()?;
    if isolation == "table" {
        // By a reload it becomes the other way, with all that is in it.
        let namespaces = config(true, "namespace").sections.replace("-namespace", "-table");
        let mut now = config(true, isolation);
        now.sections = namespaces;
        two.a().setup().write(&now)?;
        two.a().cli(&["reload"])?;
        two.wait_up()?;
        two.each_reaches_its_own().context("after the reload")?;
        ensure!(Namespace::existing(&namespace(isolation, true, "red")).is_some(), "{}", two.a().log());
        ensure!(!two.site.gateway_a.ip_text("rule show")?.contains("20300"), "rules are left");
    }
    let flows = watch.finish();
    ensure!(capture::within(&flows, &["10.0.0.0/8"]).is_empty(), "in clear: {flows:?}");

    // All taken away: interfaces are back with their addresses.
    let status = two.a.as_mut().context("no culvertd")?.stop()?;
    let gateway = &two.site.gateway_a;
    ensure!(status.success(), "{status}: {}", two.a().log());
    let (rules, routes) = (gateway.ip_text("rule show")?, gateway.ip_text("route show table all")?);
    ensure!(!rules.contains("20300") && !routes.contains("proto 203"), "{rules}{routes}");
    let addresses = gateway.ip_text("-brief addr show")?;
    for own in ["10.1.0.1/24", "10.3.0.1/24", "fd01::1/64"] {
        ensure!(addresses.contains(own), "{addresses}");
    }
    ensure!(Namespace::existing(&namespace(isolation, true, "red")).is_none(), "the namespace is left");
    Ok(())
}

#[test]
fn a7_nothing_passes_between_two_environments_with_routing_tables() -> Result<()> {
    nothing_passes("table")
}

#[test]
fn a7_nothing_passes_between_two_environments_with_namespaces() -> Result<()> {
    nothing_passes("namespace")
}

/// One gateway whose peers are not there: connection `site` in the default environment, `other` in one of its own.
fn alone(site: &Site) -> (GatewayConfig, String) {
    let name = format!("other{}", std::process::id());
    let one = Connection::new(WAN_A, "203.0.113.9", &["10.1.0.0/24"], &["10.2.0.0/24"]);
    let mut other = Connection::new(WAN_A, "203.0.113.10", &["10.1.0.0/24"], &["10.2.0.0/24"]).named("other");
    other.extra.push(("environment".into(), format!("{name:?}")));
    let mut config = GatewayConfig::new(vec![one, other]);
    config.sections = format!("[environment.{name}]\nisolation = \"table\"\n");
    // Nobody says that the peers are not there: negotiations take their time.
    let _ = site.wan.ip("route add blackhole 203.0.113.8/29");
    (config, name)
}

#[test]
fn a8_the_log_is_shown_by_connection_environment_time_and_level() -> Result<()> {
    let site = Site::new()?;
    let (config, environment) = alone(&site);
    let a = Culvert::start(&site.gateway_a, &config)?;
    let logs = |arguments: &[&str]| a.cli(&[&["logs"], arguments].concat());
    wait_for("both connections in the log", PATIENCE, || {
        (logs(&["site"]).ok()?.contains("negotiating") && logs(&["other"]).ok()?.contains("negotiating"))
            .then_some(())
    })?;
    let lines = |arguments: &[&str]| -> Result<Vec<Value>> {
        let text = logs(&[arguments, &["--json"]].concat())?;
        text.lines().map(|line| serde_json::from_str(line).context("a line of JSON")).collect()
    };
    for (connection, of) in [("site", None), ("other", Some(&environment))] {
        for arguments in [&[connection][..], &["-c", connection], &[connection, "--tunnel", "a"]] {
            let all = lines(arguments)?;
            ensure!(!all.is_empty(), "{arguments:?}");
            let fits = |line: &&Value| {
                line["connection"] == connection && line["environment"].as_str() == of.map(String::as_str)
            };
            ensure!(all.iter().all(|line| fits(&line)), "{arguments:?}: {all:#?}");
        }
    }
    ensure!(lines(&["site", "--tunnel", "b"])?.is_empty());
    let apart = lines(&["--environment", &environment])?;
    ensure!(!apart.is_empty() && apart.iter().all(|line| line["connection"] == "other"), "{apart:#?}");
    ensure!(lines(&["--environment", "default"])?.iter().all(|line| line["connection"] != "other"));
    // Of the time: all of it is of the last hour, and nothing before.
    ensure!(lines(&["site", "--since", "1h"])?.len() == lines(&["site"])?.len());
    ensure!(lines(&["--until", "1h"])?.is_empty() && lines(&["--since", "2100-01-01"])?.is_empty());
    let first = lines(&["site"])?[0]["time_ms"].as_u64().context("no time")?;
    ensure!(lines(&["--since", "2020-01-01T00:00:00Z"])?.iter().any(|line| line["time_ms"] == first));
    // Of the level.
    std::fs::write(a.setup().config(), "[gateway]\n")?;
    ensure!(a.cli(&["reload"]).is_err());
    let errors = lines(&["--level", "error"])?;
    ensure!(errors.iter().all(|line| line["level"] == "error"), "{errors:#?}");
    ensure!(errors.iter().any(|line| line["message"].as_str().is_some_and(|m| m.contains("reload refused"))));
    ensure!(a.log().contains(&format!("[{environment}] other/a: negotiating")), "{}", a.log());
    Ok(())
}

#[test]
fn a9_limits_are_refused_by_name() -> Result<()> {
    let site = Site::new()?;
    let (mut config, environment) = alone(&site);
    for (name, listen) in [("one", "127.0.0.1:33000"), ("two", "127.0.0.1:33001")] {
        config.connections[0].set.push((format!("forward.{name}.listen"), format!("{listen:?}")));
        config.connections[0].set.push((format!("forward.{name}.to"), "\"10.2.0.2:80\"".into()));
    }
    config.connections[0].set.push(("limits".into(), "{ forward_connections = 1 }".into()));
    let a = Culvert::start(&site.gateway_a, &config)?;
    // What is one too many refuses the whole reload, and what runs goes on.
    let with = |limits: &str, section: &str| {
        let mut more = config.clone();
        more.connections[0].set.push(("limits".into(), limits.into()));
        more.sections += section;
        more
    };
    let of_gateway = config.clone().gateway("limits", "{ tunnels = 1 }");
    for (wrong, said) in [
        (with("{ forwards = 1 }", ""), "limit forwards of connection site is 1: 2 are configured".to_owned()),
        (
            with("{}", "limits = { connections = 0 }\n"),
            format!("limit connections of environment {environment} is 0: 1 are configured"),
        ),
        (of_gateway, "limit tunnels of the gateway is 1: 2 are configured".to_owned()),
    ] {
        a.setup().write(&wrong)?;
        let refused = a.cli(&["reload"]).expect_err("it is one too many").to_string();
        ensure!(refused.contains(&said), "{said}: {refused}");
        ensure!(a.status()?["connections"].as_array().is_some_and(|all| all.len() == 2));
    }
    // Clients of all forwards together: the first waits for the far side, the second is one too many.
    let connect = |port: u16| site.gateway_a.within(|| TcpStream::connect(("127.0.0.1", port)));
    let _first = connect(33000)??;
    let limit =
        || -> Option<Value> { a.status().ok()?["connections"][0]["limits"].as_array()?.first().cloned() };
    wait_for("the first client", PATIENCE, || {
        limit().filter(|l| l["used"] == 1 && l["most"] == 1).map(drop)
    })?;
    let _second = connect(33001)??;
    wait_for("the second client to be refused", PATIENCE, || {
        let list: Value = serde_json::from_str(&a.cli(&["forward", "list", "--json"]).ok()?).ok()?;
        let two = list["site"].as_array()?.iter().find(|f| f["name"] == "two")?.clone();
        let why = "limit forward_connections of connection site is 1: a client was refused";
        (two["too_many"] == 1 && two["error"] == why).then_some(())
    })?;
    // More are let in when the limit is raised, and who is there stays.
    a.setup().write(&with("{ forward_connections = 2 }", ""))?;
    a.cli(&["reload"])?;
    ensure!(limit().is_some_and(|l| l["used"] == 1 && l["most"] == 2), "{:?}", limit());
    Ok(())
}
