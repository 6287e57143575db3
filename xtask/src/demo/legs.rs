//! The legs of the demo: each has a site of its own, all alike, so that runs can be interleaved.
use super::figures::{Figures, Leg, Run, Sample};
use super::step;
use anyhow::{Context, Result};
use culvert_lab::measure::{Iperf, IperfServer, busy_cpu_seconds, ping};
use culvert_lab::topology::{HOST_B, LAN_A, LAN_B, WAN_A, WAN_B};
use culvert_lab::{Connection, Culvert, GatewayConfig, Site, StrongSwan, SwanEngine};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

static BINARIES: OnceLock<PathBuf> = OnceLock::new();

/// Where this run has built culvertd.
pub(super) fn set_binaries(directory: PathBuf) {
    let _ = BINARIES.set(directory);
}

/// The directory with culvertd and culvert.
pub(super) fn binaries() -> Option<PathBuf> {
    BINARIES.get().cloned()
}

/// What runs in the gateways.
enum Daemons {
    None,
    Culvert { a: Culvert, b: Culvert },
    StrongSwan { a: StrongSwan, b: StrongSwan },
}

struct Standing {
    leg: Leg,
    // Before the site: the daemons end first.
    daemons: Daemons,
    server: IperfServer,
    site: Site,
}

/// Brings every leg up, then measures them by turns.
pub(super) fn measure(legs: &[Leg], figures: &mut Figures) -> Result<()> {
    let mut standing = Vec::new();
    for leg in legs {
        standing.push(raise(*leg, figures)?);
    }
    step("Ping");
    for this in &standing {
        let seen = ping(&this.site.host_a, HOST_B, 50, Duration::from_millis(20))?;
        println!(
            "  {:<24} {} of {} answered, mean {:.0} µs",
            this.leg.title(),
            seen.received,
            seen.sent,
            seen.mean_us
        );
        anyhow::ensure!(seen.received > 0, "host B does not answer through {}", this.leg.title());
        figures.rtt_us.insert(this.leg, seen.mean_us);
    }
    step(&format!("iperf3, TCP, {} rounds of {} s", figures.rounds, figures.seconds));
    for round in 1..=figures.rounds {
        for run in Run::ALL {
            print!("  round {round}, {:<18}", run.title());
            for this in &standing {
                let sample = this.run(run, figures.seconds)?;
                print!("  {} {:.2}", this.leg.key(), sample.result.gbps);
                let _ = std::io::stdout().flush();
                figures.samples.entry((this.leg, run)).or_default().push(sample);
            }
            println!(" Gbit/s");
        }
    }
    for this in &mut standing {
        match &mut this.daemons {
            Daemons::Culvert { a, b } => {
                figures.status = Some(b.status()?);
                step("Taking the tunnel down");
                let seen = b.log_lines().len();
                a.stop()?;
                let lines = b.log_lines();
                std::thread::sleep(Duration::from_millis(200));
                lines.iter().skip(seen).for_each(|line| println!("  B | {line}"));
                b.stop()?;
            }
            Daemons::StrongSwan { a, b } => {
                a.stop()?;
                b.stop()?;
            }
            Daemons::None => {}
        }
    }
    Ok(())
}

impl Standing {
    fn run(&self, run: Run, seconds: u32) -> Result<Sample> {
        let what = Iperf { seconds, streams: run.streams, reverse: run.reverse, ..Iperf::default() };
        let before = busy_cpu_seconds()?;
        let result = self
            .server
            .measure(&self.site.host_a, HOST_B, &what)
            .with_context(|| format!("{}, {}", self.leg.title(), run.title()))?;
        Ok(Sample { result, cpu_seconds: busy_cpu_seconds()? - before })
    }
}

fn raise(leg: Leg, figures: &mut Figures) -> Result<Standing> {
    step(&format!("hostA - gatewayA - WAN - gatewayB - hostB: {}", leg.title()));
    let site = Site::new()?;
    let daemons = match leg {
        Leg::Plain => {
            site.route_plain()?;
            Daemons::None
        }
        Leg::Culvert => culvert(&site, figures)?,
        Leg::Strongswan => strongswan(&site)?,
    };
    let server = IperfServer::start(&site.host_b)?;
    Ok(Standing { leg, daemons, server, site })
}

fn culvert(site: &Site, figures: &mut Figures) -> Result<Daemons> {
    let config = |connection| GatewayConfig::new(vec![connection]).binaries(binaries());
    let mut answering = Connection::new(WAN_B, WAN_A, &[LAN_B], &[LAN_A]).respond();
    let mut starting = Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B]);
    for connection in [&mut answering, &mut starting] {
        connection.ike = vec!["aes128gcm16-prfsha256-ecp256".into()];
        connection.esp = vec!["aes128gcm16-ecp256".into()];
    }
    let b = Culvert::start(&site.gateway_b, &config(answering))?;
    let a = Culvert::start(&site.gateway_a, &config(starting))?;
    let mut shown = [0, 0];
    let mut show = |a: &Culvert, b: &Culvert| {
        for (at, name, culvert) in [(0, "A", a), (1, "B", b)] {
            let lines = culvert.log_lines();
            lines.iter().skip(shown[at]).for_each(|line| println!("  {name} | {line}"));
            shown[at] = lines.len();
        }
    };
    let start = Instant::now();
    while !(a.site()?.is_up() && b.site()?.is_up()) && start.elapsed() < Duration::from_secs(15) {
        show(&a, &b);
        std::thread::sleep(Duration::from_millis(20));
    }
    a.wait_up("site", "a", Duration::ZERO)?;
    std::thread::sleep(Duration::from_millis(100));
    show(&a, &b);
    let tunnel = a.site()?;
    figures.negotiation_ms =
        tunnel.0["ike"]["negotiation_ms"].as_u64().or(a.status()?["negotiation_ms"].as_u64());
    let child = tunnel.child();
    println!(
        "  up: interface {}, engine {}, {} (SPIs {} in, {} out), negotiated in {} ms",
        tunnel.interface(),
        tunnel.0["engine"].as_str().unwrap_or("-"),
        child["suite"].as_str().unwrap_or("-"),
        child["spi_in"].as_str().unwrap_or("-"),
        child["spi_out"].as_str().unwrap_or("-"),
        figures.negotiation_ms.map_or("-".into(), |ms| ms.to_string()),
    );
    Ok(Daemons::Culvert { a, b })
}

/// strongSwan at its best: each charon bound to a core of its own.
fn strongswan(site: &Site) -> Result<Daemons> {
    let (a, b) = StrongSwan::pair(site, SwanEngine::User, "aes128gcm16")?;
    let child = a.wait_child("net", Duration::from_secs(5))?;
    println!("  up: {}, SPIs {} in, {} out", child.suite, child.spi_in, child.spi_out);
    Ok(Daemons::StrongSwan { a, b })
}
