//! `cargo xtask lab`: the demo's topology, standing, to play in.
use crate::process::is_root;
use crate::setup;
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use culvert_lab::topology::{HOST_A, HOST_B, LASTING, WAN_A, WAN_B};
use culvert_lab::{Connection, Namespace, Site};
use std::process::{Command, ExitCode};

/// Network namespaces to play in: hostA - gatewayA - WAN - gatewayB - hostB.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make the namespaces and the links between them.
    Up,
    /// Remove them, and end what runs in them.
    Down,
    /// Open a shell in one of them.
    Shell {
        /// hostA, gatewayA, wan, gatewayB or hostB
        #[arg(value_name = "NS")]
        namespace: String,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("network namespaces need root; run it with sudo");
    }
    match &args.action {
        Action::Up => up(),
        Action::Down => down(),
        Action::Shell { namespace } => shell(namespace),
    }
}

fn up() -> Result<ExitCode> {
    setup::ensure(setup::Part::All)?;
    let there = standing();
    if !there.is_empty() {
        bail!("the lab stands already ({}); `cargo xtask lab down` removes it", there.join(", "));
    }
    let site = Site::lasting().inspect_err(|_| remove())?;
    site.route_plain()?;
    // What is needed to start culvertd by hand in either gateway.
    let directory = crate::process::target_dir().join("lab");
    for (name, connection) in [
        ("gatewayA", Connection::new(WAN_A, WAN_B, &["10.1.0.0/24"], &["10.2.0.0/24"])),
        ("gatewayB", Connection::new(WAN_B, WAN_A, &["10.2.0.0/24"], &["10.1.0.0/24"]).respond()),
    ] {
        let config = culvert_lab::GatewayConfig::new(vec![connection]);
        culvert_lab::culvert::write_to(&directory.join(name), &config)?;
    }
    println!("hostA {HOST_A} - gatewayA {WAN_A} - wan - gatewayB {WAN_B} - hostB {HOST_B}");
    println!("  cargo xtask lab shell gatewayA    then: ping {HOST_B} (in clear), or start culvertd:");
    println!(
        "  target/release/culvertd --config target/lab/gatewayA/culvert.toml --control-socket /tmp/gatewayA.sock"
    );
    println!("  cargo xtask lab down              removes it");
    Ok(ExitCode::SUCCESS)
}

fn down() -> Result<ExitCode> {
    let there = standing();
    remove();
    match there.len() {
        0 => println!("the lab does not stand"),
        count => println!("{count} namespaces removed"),
    }
    Ok(ExitCode::SUCCESS)
}

fn shell(name: &str) -> Result<ExitCode> {
    let full = format!("culvert-{name}");
    if !LASTING.contains(&full.as_str()) {
        let names: Vec<&str> = LASTING.iter().filter_map(|name| name.strip_prefix("culvert-")).collect();
        bail!("there is no namespace `{name}` in the lab; it has {}", names.join(", "));
    }
    let namespace =
        Namespace::existing(&full).context("the lab does not stand; `cargo xtask lab up` makes it")?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let status = Command::new("nsenter")
        .arg(format!("--net={}", namespace.path().display()))
        .arg(&shell)
        .env("PS1", format!("{name}# "))
        .status()
        .with_context(|| format!("cannot run {shell} in {name}"))?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn standing() -> Vec<&'static str> {
    LASTING.into_iter().filter(|name| Namespace::existing(name).is_some()).collect()
}

fn remove() {
    for name in standing() {
        culvert_lab::cleanup::delete_namespace(name);
    }
}
