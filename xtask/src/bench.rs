//! `cargo xtask bench`: measurements that are printed side by side with those of other systems.
mod ike;

use anyhow::Result;
use std::process::ExitCode;

/// Measure Culvert beside strongSwan on this machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Ike(ike::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Ike(args) => ike::run(args),
    }
}
