//! culvertd: the event loop that wires IKE, data plane, gateway decisions and the control socket.

mod additional;
mod bgp;
mod bgp_talk;
mod bgp_worker;
mod children;
mod clients;
mod control;
mod daemon;
mod drops;
mod eap;
mod engines;
mod environment;
mod environment_state;
mod environment_status;
mod events;
mod failover;
mod fetch;
mod forwards;
mod graph;
mod guard;
mod history;
mod jobs;
mod kept;
mod log;
mod measured;
mod notices;
mod pace;
mod ping;
mod plan;
mod preflight;
mod probe;
mod radius;
mod reload;
mod requests;
mod resolve;
mod revocation;
mod roam;
mod routes;
mod spread;
mod status;
mod switch;
mod trace;
mod trust;
mod tunnels;
mod wan;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// The Culvert IPsec gateway daemon.
///
/// Negotiates the tunnels of the configuration file and carries their traffic until SIGTERM, which closes them
/// at the peers and removes every interface, route, SA and eBPF program that it made. SIGHUP, like
/// `culvert reload`, applies a changed file.
#[derive(Parser)]
#[command(name = "culvertd", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/culvert/culvert.toml")]
    config: PathBuf,
    /// Check the configuration file, say what is wrong with it, and exit.
    #[arg(long)]
    check: bool,
    /// Where the control socket is made, in place of the configuration's control_socket.
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
    /// How the log is written to standard error, in place of the configuration's [log] format.
    #[arg(long, value_enum)]
    log_format: Option<log::Format>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match culvert_config::Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{}", error.render(std::io::stderr().is_terminal()));
            return ExitCode::from(2);
        }
    };
    if arguments.check {
        println!("{}: {} is sound", arguments.config.display(), plan::summary(&config));
        print!("{}", plan::proposals(&config));
        return ExitCode::SUCCESS;
    }
    match run(arguments, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvertd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, mut config: culvert_config::Config) -> anyhow::Result<()> {
    preflight::check()?;
    if let Some(path) = arguments.control_socket.clone() {
        config.gateway.control_socket = path;
    }
    let format = arguments.log_format.unwrap_or_else(|| plan::log_format(config.log.format));
    let (log, level) = log::start(format, plan::log_level(config.log.level))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The packets have threads of their own; these serve sockets, netlink and clients.
        .worker_threads(2)
        .thread_name("culvertd")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let paths = daemon::Paths { config: arguments.config, control_socket: arguments.control_socket };
        let mut signals = daemon::Signals::new()?;
        let daemon = tokio::select! {
            daemon = daemon::Daemon::start(paths, config, log, level) => daemon?,
            () = signals.stop() => return Ok(()),
        };
        daemon.run(signals).await
    })
}
