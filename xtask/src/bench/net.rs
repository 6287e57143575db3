//! `cargo xtask bench net`: what the data plane carries, every engine and port beside plain forwarding and other systems.
mod aims;
mod figures;
mod legs;
mod measure;
mod report;
mod strain;
mod table;
mod tunnels;

use crate::process::{self, cargo, is_root, target_dir};
use crate::{setup, vm};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use culvert_lab::cleanup;
use figures::Book;
use legs::{Cipher, Conditions, Leg};
use measure::{Packets, Plan, Size, Tcp, Variant};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Throughput, packets per second, latency and cost of every engine and port, beside plain forwarding and other systems.
///
/// Lays out hostA - gatewayA - WAN - gatewayB - hostB in network namespaces once for each leg, brings all of them up and
/// measures them by turns: iperf3, packets counted one by one at a rate that is searched, round trips by rank. Ends with
/// tables, the aims of the project beside what was measured, and target/bench/report.html. Needs root. What a leg's
/// configuration or this host refuses is told with its reason, and is no failure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Shorter and fewer runs: under five minutes.
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only these legs.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LEG")]
    only: Vec<Leg>,
    /// Measure only these things.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    parts: Vec<Part>,
    /// Only floods of forged and broken packets beside valid traffic: short for `--parts flood`.
    #[arg(long, conflicts_with = "parts")]
    flood: bool,
    /// Ciphers, one pass for each. All legs take part in the first pass, those with another cipher by their own.
    #[arg(long, value_enum, value_delimiter = ',')]
    ciphers: Vec<Cipher>,
    /// How often each run is made; the runs are interleaved and medians are reported.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: Option<u32>,
    /// Seconds of each iperf3 run.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: Option<u32>,
    /// Connections, of two tunnels each, of the part `tunnels`.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=5000))]
    tunnels: Option<u32>,
    /// Numbers of child SAs at which the cost is measured.
    #[arg(long, value_delimiter = ',', value_name = "COUNT")]
    sas: Vec<usize>,
    /// Measure in a virtual machine of this kernel (6.1, 6.12, 7.3), which has ESP of its own: engines `user` and `xfrm`
    /// beside strongSwan with kernel ESP. The machine is emulated: compare its figures with each other only.
    #[arg(long, value_name = "KERNEL", conflicts_with = "prebuilt")]
    vm: Option<String>,
    /// Say with the figures that the machine is emulated.
    #[arg(long, hide = true)]
    emulated: bool,
    /// Take culvertd and culvert from this directory and build nothing.
    #[arg(long, value_name = "DIRECTORY")]
    prebuilt: Option<PathBuf>,
}

/// Something that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Round trips, idle and beside a TCP stream.
    Latency,
    /// iperf3 and the CPU time that it costs.
    Tcp,
    /// The largest rate of packets without loss.
    Pps,
    /// TCP where the WAN's links do not segment.
    #[value(name = "no-gso")]
    NoGso,
    /// The other ciphers.
    Ciphers,
    /// Links of 9000 bytes.
    Jumbo,
    /// More and more workers.
    Cores,
    /// Many SAs.
    Sas,
    /// Many connections: how long they take to come up, and what they cost then.
    Tunnels,
    /// Floods beside valid traffic.
    Flood,
    /// Rekeys under load.
    Rekeys,
}

impl Part {
    const QUICK: [Part; 9] = [
        Part::Latency,
        Part::Tcp,
        Part::Pps,
        Part::NoGso,
        Part::Ciphers,
        Part::Sas,
        Part::Tunnels,
        Part::Flood,
        Part::Rekeys,
    ];
    const ALL: [Part; 11] = [
        Part::Latency,
        Part::Tcp,
        Part::Pps,
        Part::NoGso,
        Part::Ciphers,
        Part::Jumbo,
        Part::Cores,
        Part::Sas,
        Part::Tunnels,
        Part::Flood,
        Part::Rekeys,
    ];
}

fn plan(args: &Args) -> Plan {
    let parts = match (args.flood, args.parts.as_slice()) {
        (true, _) => vec![Part::Flood],
        (false, []) if args.quick => Part::QUICK.to_vec(),
        (false, []) => Part::ALL.to_vec(),
        (false, some) => some.to_vec(),
    };
    let tcp = |streams, reverse| Tcp { streams, reverse };
    let packets = |size, flows, reverse| Packets { size, flows, reverse };
    let (tcp, pps) = if args.quick {
        (vec![Tcp::ONE, tcp(1, true), tcp(16, false)], vec![Packets::SMALL, packets(Size::Imix, 64, false)])
    } else {
        let streams = [1, 4, 16].into_iter().flat_map(|n| [tcp(n, false), tcp(n, true)]);
        let sizes = [Size::Fixed(64), Size::Fixed(512), Size::Imix, Size::Fixed(1400)];
        let forth = sizes.into_iter().flat_map(|size| [1, 64].map(|flows| packets(size, flows, false)));
        let back = [packets(Size::Fixed(64), 1, true), packets(Size::Imix, 64, true)];
        (streams.collect(), forth.chain(back).collect())
    };
    Plan {
        seconds: args.seconds.unwrap_or(if args.quick { 1 } else { 3 }),
        rounds: args.rounds.unwrap_or(if args.quick { 2 } else { 3 }),
        tcp,
        pps,
        step: Duration::from_millis(if args.quick { 150 } else { 400 }),
        steps: if args.quick { 5 } else { 8 },
        trips: Duration::from_millis(if args.quick { 300 } else { 1500 }),
        parts,
        deadline: (args.quick && !args.emulated).then(|| Instant::now() + QUICK),
    }
}

/// When a quick bench begins no more rounds: what comes after them needs a minute and a half.
const QUICK: Duration = Duration::from_secs(170);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("the bench makes network namespaces and needs root; run it with sudo");
    }
    // A path that cannot be written must show now, not after minutes of measuring.
    if let Some(path) = &args.json {
        std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(kernel) = &args.vm {
        return in_machine(args, kernel);
    }
    let binaries = match &args.prebuilt {
        Some(directory) => std::fs::canonicalize(directory).context("--prebuilt")?,
        None => {
            setup::ensure(setup::Part::All)?;
            build()?
        }
    };
    if args.emulated {
        // What is read for the first time comes slowly over the machine's file system, and would time out.
        for program in ["culvertd", "culvert"] {
            process::output(std::process::Command::new(binaries.join(program)).arg("--version"))?;
        }
    }
    cleanup::start();
    let (plan, begun, mut book) = (plan(args), Instant::now(), Book::default());
    // What `auto` takes is one of the others, mostly; in little time it is not measured twice.
    let wanted = |leg: &Leg| match args.only.as_slice() {
        [] => !args.quick || *leg != Leg::Auto,
        only => only.contains(leg),
    };
    let legs: Vec<Leg> = Leg::ALL.into_iter().filter(wanted).collect();
    let first = args.ciphers.first().copied().unwrap_or(Cipher::Aes128Gcm);
    let conditions = Conditions { cipher: first, mtu: 1500, workers: None, binaries };
    measure_all(args, &legs, &conditions, &plan, &mut book)?;

    // An emulated machine says nothing of them.
    let outcomes = if args.emulated { Vec::new() } else { aims::judge(&book) };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let about = format!(
        "hostA - gatewayA - WAN - gatewayB - hostB in network namespaces of one machine ({cpus} CPUs, Linux {kernel}); \
         medians of {} interleaved rounds, iperf3 runs of {} s; took {:.0} s{}",
        plan.rounds,
        plan.seconds,
        begun.elapsed().as_secs_f64(),
        if args.emulated { "; EMULATED: only the ratios say something, and they little" } else { "" }
    );
    println!("\n{}", table::show(&book, &outcomes));
    println!("{about}");
    let directory = target_dir().join("bench");
    let page = directory.join("report.html");
    let written = std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(&page, report::html(&book, &outcomes, &about)));
    match written {
        Ok(()) => println!("plots: {}", page.display()),
        // As in a virtual machine, which may not write here; the table is there all the same.
        Err(error) => println!("no plots: cannot write {}: {error}", page.display()),
    }
    if let Some(path) = &args.json {
        let mut all = book.json();
        all["aims"] = aims::json(&outcomes);
        all["machine"] = json!({"cpus": cpus, "kernel": kernel});
        all["plan"] = json!({"rounds": plan.rounds, "seconds": plan.seconds, "quick": args.quick});
        all["emulated"] = args.emulated.into();
        let text = serde_json::to_string_pretty(&all)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        println!("figures: {}", path.display());
    }
    if book.rows.is_empty() {
        bail!("nothing could be measured");
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds what is measured; says where it is.
fn build() -> Result<PathBuf> {
    step("Building (release)");
    process::run(cargo().args(["build", "--release", "-p", "culvertd", "-p", "culvert"]))?;
    Ok(target_dir().join("release"))
}

/// Runs this program again in a machine with another kernel. Its files stay in its memory; the tables come out.
fn in_machine(args: &Args, kernel: &str) -> Result<ExitCode> {
    setup::ensure(setup::Part::All)?;
    let binaries = build()?;
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let names = |values: Vec<String>| values.join(",");
    let only: &[Leg] = match args.only.as_slice() {
        [] => &[Leg::Plain, Leg::TunUdp, Leg::Bpf, Leg::Xfrm, Leg::Auto, Leg::StrongswanKernel],
        some => some,
    };
    let parts: &[Part] = match (args.flood, args.parts.as_slice()) {
        (true, _) => &[Part::Flood],
        (false, []) => &[Part::Latency, Part::Tcp, Part::Pps, Part::Rekeys],
        (false, some) => some,
    };
    let name =
        |value: Option<clap::builder::PossibleValue>| value.map_or_else(String::new, |v| v.get_name().into());
    let mut command: Vec<String> = vec![own.display().to_string()];
    command.extend(["bench", "net", "--quick", "--emulated", "--prebuilt"].map(str::to_owned));
    command.push(binaries.display().to_string());
    command.extend(["--only".to_owned(), names(only.iter().map(|leg| leg.name().to_owned()).collect())]);
    command.extend([
        "--parts".to_owned(),
        names(parts.iter().map(|part| name(part.to_possible_value())).collect()),
    ]);
    command.extend(["--seconds".to_owned(), args.seconds.unwrap_or(3).to_string()]);
    command.extend(["--rounds".to_owned(), args.rounds.unwrap_or(2).to_string()]);
    if args.json.is_some() {
        command.extend(["--json".to_owned(), vm::OUTPUT.to_owned()]);
    }
    // The file is made anew by the machine, whatever directory that starts in.
    let output = args.json.as_ref().map(std::fs::canonicalize).transpose()?;
    vm::run_command(kernel, 1800, command, output.as_deref())
}

fn measure_all(
    args: &Args,
    legs: &[Leg],
    conditions: &Conditions,
    plan: &Plan,
    book: &mut Book,
) -> Result<()> {
    let has = |part: Part| plan.parts.contains(&part);
    if [Part::Latency, Part::Tcp, Part::Pps, Part::NoGso].into_iter().any(has) {
        step(&format!("Bringing all up: {}", conditions.cipher.title()));
        let standing = measure::raise(legs, conditions, book, true);
        step(&format!("Measuring by turns, {} rounds", plan.rounds));
        measure::pass(&standing, conditions.cipher, plan, &Variant::default(), book);
    }
    if has(Part::Ciphers) {
        let others: Vec<Cipher> = match args.ciphers.as_slice() {
            [] => Cipher::ALL[1..].to_vec(),
            some => some[1..].to_vec(),
        };
        for cipher in others {
            step(&format!("Bringing all up: {}", cipher.title()));
            let conditions = Conditions { cipher, ..conditions.clone() };
            // In little time the fastest port stands for all.
            let few = |leg: &&Leg| !args.quick || matches!(leg, Leg::TunUdp | Leg::Plain);
            let legs: Vec<Leg> = legs.iter().filter(few).copied().collect();
            let standing = measure::raise(&legs, &conditions, book, false);
            let only = |part: &Part| plan.parts.contains(part) || *part == Part::Tcp;
            let parts = if args.quick { vec![Part::Tcp] } else { vec![Part::Tcp, Part::Pps] };
            let plan = Plan {
                tcp: if args.quick { vec![Tcp::ONE] } else { plan.tcp.clone() },
                parts: parts.into_iter().filter(only).collect(),
                ..plan.clone()
            };
            measure::pass(&standing, cipher, &plan, &Variant::default(), book);
        }
    }
    if has(Part::Jumbo) {
        measure::jumbo(legs, conditions, plan, book);
    }
    // These need a Culvert whose engine is here; a failure of one is told, and the others go on.
    let attempt = |book: &mut Book, what: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
            println!("  failed: {first}");
            book.failures.push(format!("{what}: {first}"));
        }
    };
    let present: Vec<Leg> =
        [Leg::TunUdp, Leg::TunRaw, Leg::TunXsk, Leg::XskXsk, Leg::Bpf, Leg::BpfXdp, Leg::Xfrm]
            .into_iter()
            .filter(|leg| legs.contains(leg) && book.absent.iter().all(|(absent, _)| absent != leg))
            .collect();
    let strained: &[Leg] = if args.quick { &present[..present.len().min(1)] } else { &present };
    if has(Part::Cores) && present.contains(&Leg::TunUdp) {
        let outcome = measure::cores(conditions, plan, book);
        attempt(book, "cores", outcome);
    }
    if has(Part::Sas) && present.contains(&Leg::TunUdp) {
        let counts = match (args.sas.as_slice(), args.quick) {
            ([], true) => vec![1, 1000],
            ([], false) => vec![1, 100, 1000, 10_000],
            (some, _) => some.to_vec(),
        };
        let outcome = strain::many(&counts, conditions, plan, book);
        attempt(book, "SAs", outcome);
    }
    if has(Part::Tunnels) && present.contains(&Leg::TunUdp) {
        let count = args.tunnels.unwrap_or(if args.quick { 100 } else { 1000 });
        let outcome = tunnels::many(count, conditions, book);
        attempt(book, "tunnels", outcome);
    }
    for leg in strained {
        // A flood comes to UDP 4500, as the peer's packets do.
        if has(Part::Flood) && *leg == Leg::TunUdp {
            let outcome = strain::flood(*leg, conditions, plan, book);
            attempt(book, "flood", outcome);
        }
        if has(Part::Rekeys) {
            let outcome = strain::rekeys(*leg, conditions, 20, book);
            attempt(book, &format!("rekeys, {}", leg.name()), outcome);
        }
    }
    Ok(())
}

fn step(text: &str) {
    println!("\n== {text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn planned(line: &[&str]) -> Plan {
        plan(&Line::try_parse_from([&["net"], line].concat()).unwrap().args)
    }

    #[test]
    fn the_command_line_makes_the_plan() {
        let quick = planned(&["--quick", "--only", "plain,tun+udp,wireguard-go"]);
        assert_eq!((quick.seconds, quick.rounds, quick.tcp.len()), (1, 2, 3));
        assert!(!quick.parts.contains(&Part::Jumbo));
        let full = planned(&["--rounds", "5"]);
        assert_eq!((full.rounds, full.tcp.len(), full.pps.len(), full.parts.len()), (5, 6, 10, 11));
        assert_eq!(planned(&["--flood"]).parts, [Part::Flood]);
        assert_eq!(planned(&["--parts", "pps,no-gso"]).parts, [Part::Pps, Part::NoGso]);
        assert!(Line::try_parse_from(["net", "--only", "tun+carrier-pigeon"]).is_err());
    }
}
