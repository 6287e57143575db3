//! `cargo xtask bench`: measurements that are printed side by side with those of other systems.
mod ike;
mod net;

use anyhow::Result;
use std::process::ExitCode;

/// Measure Culvert beside others on this machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Ike(ike::Args),
    Net(net::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Ike(args) => ike::run(args),
        What::Net(args) => net::run(args),
    }
}
