//! `cargo xtask demo`: two gateways, a tunnel, and what iperf3 measures through it, beside strongSwan and no encryption.
mod failover;
mod figures;
mod legs;
mod report;

use crate::process::{self, cargo, is_root};
use crate::setup;
use anyhow::{Context, Result, bail};
use culvert_lab::cleanup;
use figures::{Figures, Leg};
use std::path::PathBuf;
use std::process::ExitCode;

/// Negotiate a tunnel between two gateways and measure it with iperf3.
///
/// Lays out hostA - gatewayA - WAN - gatewayB - hostB in network namespaces, starts two culvertd, shows the
/// negotiation, pings, and runs iperf3 in both directions with 1 and 4 streams: through Culvert, through strongSwan's
/// user-space ESP, and without encryption. Ends with a table and target/demo/report.html. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure a failover instead: two tunnels, iperf3 running, the path of the active one cut and mended; ends with the
    /// time for which nothing came through, and target/demo/failover.html.
    #[arg(long, conflicts_with_all = ["seconds", "rounds", "only"])]
    failover: bool,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds of each iperf3 run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// How often each run is made; the runs are interleaved and medians are reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Measure only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Leg>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("the demo makes network namespaces and needs root; run it with sudo");
    }
    // A path that cannot be written must show now, not after minutes of measuring.
    if let Some(path) = &args.json {
        std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    setup::ensure(setup::Part::All)?;
    if args.failover {
        build()?;
        cleanup::start();
        failover::run(args.json.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let legs = if args.only.is_empty() { Leg::ALL.to_vec() } else { args.only.clone() };
    if legs.contains(&Leg::Culvert) {
        build()?;
    }
    cleanup::start();
    let mut figures = Figures::new(args.seconds, args.rounds);
    legs::measure(&legs, &mut figures)?;

    println!("\n{}", figures.table());
    let directory = process::target_dir().join("demo");
    std::fs::create_dir_all(&directory)?;
    let page = directory.join("report.html");
    std::fs::write(&page, report::html(&figures))
        .with_context(|| format!("cannot write {}", page.display()))?;
    println!("throughput over time: {}", page.display());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures.json())?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        println!("figures: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn build() -> Result<()> {
    step("Building (release)");
    process::run(cargo().args(["build", "--release", "-p", "culvertd", "-p", "culvert"]))?;
    legs::set_binaries(process::target_dir().join("release"));
    Ok(())
}

fn step(text: &str) {
    println!("\n== {text}");
}
