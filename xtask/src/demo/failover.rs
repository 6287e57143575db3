//! `cargo xtask demo --failover`: two tunnels by two paths, traffic through them, and the path of the active one cut.
use super::{legs, step};
use crate::page::{escape, head, nice};
use crate::process;
use anyhow::{Context, Result};
use culvert_lab::measure::{Echo, Iperf, IperfResult, IperfServer, Ping};
use culvert_lab::topology::{HOST_A, HOST_B, LAN_A, LAN_B, WAN_A, WAN_B};
use culvert_lab::two_paths::{self, WAN_B_TOO};
use culvert_lab::{Connection, Culvert, GatewayConfig, Site, wait_for};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two datagrams of those that measure silence.
const PACE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(20);

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 36.0;
const TOP: f64 = 28.0;

/// How health is checked.
struct Profile {
    key: &'static str,
    interval: Duration,
    retries: u32,
    /// From the takeover to the mend: TCP tries again after a silence about as long as the one before.
    dwell: Duration,
    /// How long iperf3 runs: from before the cut until after the return.
    seconds: u32,
}

const PROFILES: [Profile; 2] = [
    Profile {
        key: "sub-second",
        interval: Duration::from_millis(100),
        retries: 3,
        dwell: Duration::from_secs(2),
        seconds: 14,
    },
    Profile {
        key: "default",
        interval: Duration::from_secs(3),
        retries: 3,
        dwell: Duration::from_secs(8),
        seconds: 32,
    },
];

impl Profile {
    /// The traffic must have moved by then (sub-second: half a second).
    fn bound(&self) -> Duration {
        if self.interval < Duration::from_secs(1) {
            Duration::from_millis(500)
        } else {
            self.interval * self.retries + Duration::from_secs(1)
        }
    }
}

/// What was measured with one profile. Times are in seconds since iperf3 began.
struct Outcome {
    profile: &'static Profile,
    iperf: IperfResult,
    /// From before the cut until after the takeover.
    takeover: Ping,
    /// From before the mend until after the return.
    back: Ping,
    marks: Vec<(f64, &'static str)>,
}

pub(super) fn run(json: Option<&Path>) -> Result<()> {
    let mut outcomes = Vec::new();
    for profile in &PROFILES {
        outcomes.push(measure(profile)?);
    }
    println!("\n{}", table(&outcomes));
    let directory = process::target_dir().join("demo");
    std::fs::create_dir_all(&directory)?;
    let page = directory.join("failover.html");
    std::fs::write(&page, html(&outcomes)).with_context(|| format!("cannot write {}", page.display()))?;
    println!("throughput over time: {}", page.display());
    if let Some(path) = json {
        let all: serde_json::Map<String, Value> =
            outcomes.iter().map(|outcome| (outcome.profile.key.to_owned(), outcome.json())).collect();
        let text = serde_json::to_string_pretty(&all)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        println!("figures: {}", path.display());
    }
    Ok(())
}

fn measure(profile: &'static Profile) -> Result<Outcome> {
    step(&format!(
        "two tunnels, health asked every {} ms, {} retries",
        profile.interval.as_millis(),
        profile.retries
    ));
    let site = Site::new()?;
    two_paths::prepare(&site)?;
    let gateway = |at_a: bool| {
        let namespace = if at_a { &site.gateway_a } else { &site.gateway_b };
        let config = GatewayConfig::new(vec![connection(profile, at_a)]).binaries(legs::binaries());
        Culvert::start(namespace, &config)
    };
    let (b, a) = (gateway(false)?, gateway(true)?);
    for name in ["a", "b"] {
        a.wait_up("site", name, PATIENCE)?;
    }
    wait_active(&a, &b, "a")?;
    println!("  both tunnels are up, a carries the traffic");
    let server = IperfServer::start(&site.host_b)?;
    let what = Iperf { seconds: profile.seconds, sample_ms: 100, ..Iperf::default() };
    let echo = || Echo::start(&site.host_a, &site.host_b, HOST_B, PACE);

    let first = echo()?;
    let began = Instant::now();
    let job = server.begin(&site.host_a, HOST_B, &what)?;
    let mut marks = Vec::new();
    let mut mark = |what: &'static str| {
        println!("  {:>5.1} s  {what}", began.elapsed().as_secs_f64());
        marks.push((began.elapsed().as_secs_f64(), what));
    };
    std::thread::sleep(Duration::from_secs(3));
    mark("path of tunnel a cut");
    two_paths::cut(&site, true)?;
    wait_active(&a, &b, "b")?;
    mark("traffic goes by b");
    std::thread::sleep(profile.dwell);
    let takeover = first.stop()?;
    let second = echo()?;
    std::thread::sleep(Duration::from_millis(500));
    mark("path of tunnel a mended");
    two_paths::cut(&site, false)?;
    wait_active(&a, &b, "a")?;
    mark("traffic goes by a again");
    std::thread::sleep(Duration::from_secs(1));
    let back = second.stop()?;
    // An error here is a connection that was lost.
    let iperf = job.finish().context("iperf3's connection did not survive")?;
    a.log_lines()
        .iter()
        .filter(|line| line.contains("traffic") || line.contains("health"))
        .for_each(|line| println!("  A | {line}"));
    Ok(Outcome { profile, iperf, takeover, back, marks })
}

fn connection(profile: &Profile, at_a: bool) -> Connection {
    let mut connection = if at_a {
        Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B])
    } else {
        Connection::new(WAN_B, WAN_A, &[LAN_B], &[LAN_A]).respond()
    };
    connection.extra.push(("failback".into(), "\"2s\"".into()));
    two_paths::second_tunnel(&mut connection, at_a, WAN_B_TOO);
    let interval = profile.interval.as_millis();
    for tunnel in &mut connection.tunnels {
        let (source, theirs) =
            (two_paths::source(at_a, &tunnel.name), two_paths::source(!at_a, &tunnel.name));
        let target = if at_a { HOST_B } else { HOST_A };
        let health = format!(
            "{{ target = \"{target}\", source = \"{source}\", interval = \"{interval}ms\", retries = {} }}",
            profile.retries
        );
        tunnel.extra.push(("health".into(), health));
        tunnel.extra.push(("health_sources".into(), format!("\"{theirs}\"")));
        tunnel.extra.push(("weight".into(), if tunnel.name == "a" { "100" } else { "0" }.into()));
    }
    connection
}

/// Until both gateways send through this tunnel alone.
fn wait_active(a: &Culvert, b: &Culvert, name: &str) -> Result<()> {
    for side in [a, b] {
        wait_for(&format!("traffic by tunnel {name}"), PATIENCE, || {
            let active = |tunnel: &str| Some(side.tunnel("site", tunnel).ok()?.0["active"] == true);
            let other = if name == "a" { "b" } else { "a" };
            (active(name)? && !active(other)?).then_some(())
        })?;
    }
    Ok(())
}

impl Outcome {
    /// For how long nothing came through, in milliseconds.
    fn silence_ms(&self) -> u64 {
        self.takeover.silence.as_millis() as u64
    }

    fn met(&self) -> bool {
        u128::from(self.silence_ms()) <= self.profile.bound().as_millis()
    }

    /// Mean of the samples between two marks, in Gbit/s.
    fn gbps(&self, from: f64, to: f64) -> f64 {
        let inside =
            self.iperf.samples.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, gbps)| *gbps);
        let all: Vec<f64> = inside.collect();
        if all.is_empty() { 0.0 } else { all.iter().sum::<f64>() / all.len() as f64 }
    }

    /// Before the cut, and after the takeover until the mend.
    fn rates(&self) -> (f64, f64) {
        let at = |index: usize| self.marks.get(index).map_or(0.0, |mark| mark.0);
        (self.gbps(0.5, at(0)), self.gbps(at(1) + 0.5, at(2)))
    }

    fn json(&self) -> Value {
        let (before, after) = self.rates();
        json!({
            "interval_ms": self.profile.interval.as_millis() as u64,
            "retries": self.profile.retries,
            "silence_ms": self.silence_ms(),
            "bound_ms": self.profile.bound().as_millis() as u64,
            "within_bound": self.met(),
            "tcp_connections_lost": 0,
            "datagrams_lost_in_return": self.back.lost(),
            "datagrams_sent_in_return": self.back.sent,
            "gbps_before": before,
            "gbps_by_standby": after,
            "marks": self.marks.iter().map(|(at, what)| json!({"second": at, "what": what})).collect::<Vec<_>>(),
            "samples": self.iperf.samples,
        })
    }
}

fn table(outcomes: &[Outcome]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "health check",
        "silence",
        "aim",
        "TCP connections lost",
        "lost in the return",
        "Gbit/s before, by b",
    ]);
    for outcome in outcomes {
        let (before, after) = outcome.rates();
        let bound = outcome.profile.bound().as_millis();
        table.add_row([
            format!("{}: every {} ms", outcome.profile.key, outcome.profile.interval.as_millis()),
            format!("{} ms", outcome.silence_ms()),
            format!("{bound} ms, {}", if outcome.met() { "met" } else { "missed" }),
            "0".to_owned(),
            format!("{} of {} datagrams", outcome.back.lost(), outcome.back.sent),
            format!("{before:.2}, {after:.2}"),
        ]);
    }
    format!(
        "{table}\nSilence: the longest time for which no datagram came back, of one each millisecond. Hosts, gateways, iperf3 and \
         the\nWAN share this machine's {} CPUs.\n",
        std::thread::available_parallelism().map_or(0, usize::from)
    )
}

fn html(outcomes: &[Outcome]) -> String {
    let mut page = head("Culvert failover");
    let _ = write!(
        page,
        "<h1>Failover</h1><p>Two tunnels by two paths, one TCP stream; the path of the active tunnel is cut, and mended. \
         Samples of 100 ms.</p><pre>{}</pre>",
        escape(&table(outcomes))
    );
    for outcome in outcomes {
        let _ = write!(page, "<h2>{}</h2>", escape(outcome.profile.key));
        chart(&mut page, outcome);
    }
    page.push_str("</body></html>\n");
    page
}

fn chart(page: &mut String, outcome: &Outcome) {
    let highest = outcome.iperf.samples.iter().map(|sample| sample.1).fold(0.0, f64::max);
    let (scale, total) = (nice(highest), f64::from(outcome.profile.seconds));
    let x = |second: f64| LEFT + second / total * (WIDTH - LEFT - 10.0);
    let y = |gbps: f64| HEIGHT - BOTTOM - gbps / scale * (HEIGHT - BOTTOM - TOP);
    let _ = write!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Throughput over time\">"
    );
    for tick in 0..=4 {
        let value = scale * f64::from(tick) / 4.0;
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - 10.0,
            y(value),
            y(value),
            LEFT - 8.0,
            y(value) + 4.0
        );
    }
    for (index, (at, what)) in outcome.marks.iter().enumerate() {
        // Two of them may be close to each other.
        let up = if index % 2 == 0 { 12.0 } else { 24.0 };
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1:.1}\"/><text x=\"{0:.1}\" y=\"{up}\">{2}</text>",
            x(*at),
            HEIGHT - BOTTOM,
            escape(what)
        );
    }
    page.push_str("<polyline fill=\"none\" stroke=\"#0b7a5c\" stroke-width=\"2\" points=\"");
    for (at, gbps) in &outcome.iperf.samples {
        let _ = write!(page, "{:.1},{:.1} ", x(at.min(total)), y(*gbps));
    }
    let _ = write!(page, "\"/><text x=\"4\" y=\"{:.1}\">Gbit/s</text></svg>", HEIGHT - 6.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(silent_ms: u32) -> Outcome {
        let ping = |lost: u32| Ping {
            sent: 1000,
            received: 1000 - lost,
            silence: Duration::from_millis(lost.into()),
            mean_us: 100.0,
        };
        let samples = (1..=140).map(|n| (f64::from(n) / 10.0, if (30..35).contains(&n) { 0.0 } else { 8.0 }));
        Outcome {
            profile: &PROFILES[0],
            iperf: IperfResult { samples: samples.collect(), ..IperfResult::default() },
            takeover: ping(silent_ms),
            back: ping(0),
            marks: vec![(3.0, "cut"), (3.4, "b"), (6.0, "mended"), (9.0, "a")],
        }
    }

    #[test]
    fn silence_is_held_against_the_aim() {
        assert!(outcome(499).met() && !outcome(501).met());
        assert_eq!(PROFILES[1].bound(), Duration::from_secs(10));
        let json = outcome(420).json();
        assert_eq!((json["silence_ms"].as_u64(), json["within_bound"].as_bool()), (Some(420), Some(true)));
        assert_eq!(json["gbps_before"], 8.0);
        assert!(table(&[outcome(900)]).contains("missed"));
    }

    #[test]
    fn the_page_stands_alone() {
        let page = html(&[outcome(420)]);
        assert!(page.contains("<polyline") && page.ends_with("</html>\n") && !page.contains("http"));
    }
}
