//! `cargo xtask bench ike`: what a handshake and an established IKE SA cost, Culvert and strongSwan under the same load.
//!
//! The load comes from `culvert-load` (tests/load), whose responder is Culvert's IKE core over UDP sockets as the daemon
//! has it, without a data plane. strongSwan is charon with its user-space ESP, without routes, cookies and limits. Costs are
//! the responder's own CPU time (/proc/PID/stat), so that they hold on a machine that others use, too.
use crate::process::{self, cargo, is_root, target_dir};
use crate::setup;
use anyhow::{Context, Result, bail, ensure};
use comfy_table::{Table, presets};
use culvert_lab::measure::median;
use culvert_lab::process::Process;
use culvert_lab::topology::{LAN_B, WAN_B};
use culvert_lab::{Site, StrongSwan, SwanConfig, SwanConnection, SwanEngine};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Handshakes per second and core, and memory per IKE SA; Culvert and strongSwan by turns under the same load.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handshakes of each round.
    #[arg(long, default_value_t = 2000)]
    handshakes: u32,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// IKE SAs, each with one child, at which memory is measured.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000])]
    sas: Vec<u32>,
    /// Write the figures here as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What both sides propose and how they prove who they are.
struct Suite {
    title: &'static str,
    ike: &'static str,
    esp: &'static str,
    /// By certificates with ECDSA on P-256, else by a pre-shared key.
    certificates: bool,
}

const SUITES: [Suite; 3] = [
    Suite {
        title: "X25519, PSK",
        ike: "aes128gcm16-prfsha256-curve25519",
        esp: "aes128gcm16",
        certificates: false,
    },
    Suite {
        title: "P-256, ECDSA",
        ike: "aes128gcm16-prfsha256-ecp256",
        esp: "aes128gcm16",
        certificates: true,
    },
    Suite {
        title: "MODP-2048, PSK",
        ike: "aes128-sha256-modp2048",
        esp: "aes128-sha256",
        certificates: false,
    },
];

/// All peers of a run share the host of gateway A.
const PEERS: &str = "100.64.0.0/12";

/// Where the networks behind the peers are.
const BEHIND_PEERS: &str = "10.64.0.0/12";

/// The aims of the project.
const FASTER: f64 = 5.0;
const KIB_PER_SA: f64 = 10.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Culvert,
    StrongSwan,
}

/// A responder that serves, and how much it has used.
enum Responder {
    Culvert(Process),
    StrongSwan(StrongSwan),
}

impl Responder {
    fn start(who: Who, site: &Site, count: u32, suite: &Suite, proofs: &Path) -> Result<Self> {
        match who {
            Who::Culvert => {
                let mut command = site.gateway_b.command(load());
                command.args(["respond", WAN_B, &count.to_string(), suite.ike, suite.esp]);
                if suite.certificates {
                    command.arg(proofs);
                }
                let mut process = Process::spawn("culvert-load, responder", &mut command)?;
                process.wait_log("ready", Duration::from_secs(30))?;
                Ok(Self::Culvert(process))
            }
            Who::StrongSwan => {
                let mut connection = SwanConnection::new(WAN_B, "%any", LAN_B, BEHIND_PEERS);
                connection.local_id = WAN_B.into();
                connection.remote_id = "%any".into();
                connection.proposals = suite.ike.into();
                connection.encap = false;
                connection.set.push(("unique".into(), "never".into()));
                connection.children.iter_mut().for_each(|child| child.esp_proposals = suite.esp.into());
                let mut files = Vec::new();
                if suite.certificates {
                    for (key, value) in [
                        ("local.auth", "pubkey"),
                        ("local.certs", "responder.pem"),
                        ("local.id", "responder.load.test"),
                        ("remote.auth", "pubkey"),
                    ] {
                        connection.set.push((key.into(), value.into()));
                    }
                    for (file, name) in [
                        ("ca.pem", "x509ca/ca.pem"),
                        ("responder.pem", "x509/responder.pem"),
                        ("responder.key", "private/responder.key"),
                    ] {
                        files.push((name.to_owned(), std::fs::read(proofs.join(file))?));
                    }
                }
                let mut config = SwanConfig::new(SwanEngine::User, &[connection]);
                config.files = files;
                // Without limits and logs, and with tables for many: its best.
                for (key, value) in [
                    ("cookie_threshold", "0"),
                    ("block_threshold", "0"),
                    ("init_limit_half_open", "0"),
                    ("install_routes", "no"),
                    ("ikesa_table_size", "4096"),
                    ("ikesa_table_segments", "16"),
                    ("filelog.stderr.default", "-1"),
                    ("filelog.stderr.knl", "-1"),
                ] {
                    config.charon.push((key.into(), value.into()));
                }
                Ok(Self::StrongSwan(StrongSwan::with(&site.gateway_b, &config)?))
            }
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Culvert(process) => process.pid(),
            Self::StrongSwan(swan) => swan.pid(),
        }
    }
}

fn load() -> PathBuf {
    target_dir().join("release/culvert-load")
}

/// CPU seconds that a process has used, all its threads, ended ones too. USER_HZ is 100 on every Linux of today.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces; fields 14 and 15 are counted after it.
    let rest = text.rsplit_once(") ").context("/proc/PID/stat is not as it should be")?.1;
    let fields: Vec<u64> = rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    ensure!(fields.len() > 12, "/proc/PID/stat is too short");
    Ok((fields[11] + fields[12]) as f64 / 100.0)
}

/// Bytes that a process has in memory.
fn resident(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024.0)
}

/// What one run cost.
struct Cost {
    /// CPU seconds of the responder per handshake.
    responder: f64,
    /// CPU seconds of the initiator, which is Culvert, per handshake.
    initiator: f64,
    /// By the clock.
    per_second: f64,
    /// Resident bytes that the responder has more than before, per IKE SA.
    bytes: f64,
}

fn measure(site: &Site, who: Who, count: u32, suite: &Suite, proofs: &Path) -> Result<Cost> {
    let responder = Responder::start(who, site, count, suite, proofs)?;
    let pid = responder.pid();
    let (cpu, memory) = (cpu_seconds(pid)?, resident(pid)?);
    let mut command = site.gateway_a.command("sh");
    // The shell tells what its child has used when that has ended.
    let line = format!(
        "{} initiate {WAN_B} {count} {} {} 32 {} && cat /proc/$$/stat",
        load().display(),
        suite.ike,
        suite.esp,
        if suite.certificates { proofs.display().to_string() } else { String::new() }
    );
    command.args(["-c", &line]);
    let mut generator = Process::spawn("culvert-load, initiator", &mut command)?;
    let status = generator.wait(Duration::from_secs(180))?;
    let said = generator.lines();
    ensure!(status.success(), "the load generator failed against {who:?}:\n{}", generator.log());
    let outcome: Value = serde_json::from_str(said.first().map_or("", String::as_str))?;
    let stat = said.get(1).context("no word of the generator's CPU time")?;
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace().collect();
    // Fields 16 and 17: of children that were waited for.
    let ticks: u64 = [13, 14].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    let up = outcome["up"].as_f64().unwrap_or(0.0);
    if up < f64::from(count) {
        bail!("only {up} of {count} handshakes succeeded against {who:?}");
    }
    Ok(Cost {
        responder: (cpu_seconds(pid)? - cpu) / up,
        initiator: ticks as f64 / 100.0 / up,
        per_second: up / outcome["seconds"].as_f64().unwrap_or(f64::INFINITY),
        bytes: (resident(pid)? - memory) / up,
    })
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("the bench makes network namespaces and needs root; run it with sudo");
    }
    setup::ensure(setup::Part::All)?;
    process::run(cargo().args(["build", "--release", "--package", "culvert-load"]))?;
    let site = Site::new()?;
    // Every address of the peers is gateway A's own.
    site.gateway_a.ip(&format!("route add local {PEERS} dev lo"))?;
    site.wan.ip(&format!("route add {PEERS} via 198.51.100.1"))?;
    let proofs = tempfile::tempdir()?;
    let proofs = proofs.path();
    process::run(Command::new(load()).arg("certificates").arg(proofs))?;
    let mut rates = Table::new();
    rates.load_preset(presets::UTF8_FULL_CONDENSED);
    rates.set_header([
        "handshakes per second and core",
        "Culvert responds",
        "strongSwan responds",
        "ratio",
        "Culvert initiates",
    ]);
    let mut figures = Vec::new();
    for suite in &SUITES {
        let title = suite.title;
        let (mut culvert, mut swan, mut initiator) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=args.rounds {
            let ours = measure(&site, Who::Culvert, args.handshakes, suite, proofs)?;
            let theirs = measure(&site, Who::StrongSwan, args.handshakes, suite, proofs)?;
            println!(
                "{title}, round {round}: Culvert {:.0} µs of CPU ({:.0}/s by the clock), strongSwan {:.0} µs ({:.0}/s)",
                ours.responder * 1e6,
                ours.per_second,
                theirs.responder * 1e6,
                theirs.per_second
            );
            culvert.push(1.0 / ours.responder);
            swan.push(1.0 / theirs.responder);
            initiator.push(1.0 / theirs.initiator);
        }
        let (culvert, swan, initiator) = (median(&culvert), median(&swan), median(&initiator));
        rates.add_row([
            title.to_owned(),
            format!("{culvert:.0}"),
            format!("{swan:.0}"),
            format!("{:.1} x (aim {FASTER} x)", culvert / swan),
            format!("{initiator:.0}"),
        ]);
        figures.push(json!({
            "suite": title, "ike": suite.ike, "esp": suite.esp, "culvert_responder_per_core": culvert,
            "strongswan_responder_per_core": swan, "culvert_initiator_per_core": initiator,
        }));
    }
    let mut memory = Table::new();
    memory.load_preset(presets::UTF8_FULL_CONDENSED);
    memory.set_header(["KiB per IKE SA with one child", "Culvert", "strongSwan", "aim"]);
    let mut bytes = Vec::new();
    for count in &args.sas {
        let [ours, theirs] =
            [Who::Culvert, Who::StrongSwan].map(|who| measure(&site, who, *count, &SUITES[0], proofs));
        let (ours, theirs) = (ours?.bytes, theirs?.bytes);
        memory.add_row([
            format!("at {count}"),
            format!("{:.1}", ours / 1024.0),
            format!("{:.1}", theirs / 1024.0),
            format!("below {KIB_PER_SA}"),
        ]);
        bytes.push(json!({ "ike_sas": count, "culvert_bytes": ours, "strongswan_bytes": theirs }));
    }
    println!("\n{rates}\n\n{memory}");
    println!(
        "CPU time of the process itself. Culvert's responder is its IKE core over UDP sockets, without a data plane; \
         strongSwan's installs SAs in its user-space ESP."
    );
    if let Some(file) = &args.json {
        let all = json!({ "handshakes": figures, "memory": bytes });
        std::fs::write(file, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
