//! `cargo xtask ci`: what must hold before a change is taken: format, lints, the shape of the house, tests.
pub(crate) mod mistakes;
mod shape;

use crate::process::{self, cargo};
use crate::{setup, test};
use anyhow::{Result, bail};
use std::process::ExitCode;

/// Check format, lints and the shape of the house (which crate may use which, where `unsafe` may stand), then test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the checks, without the tests.
    #[arg(long)]
    checks: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Part::Build)?;
    println!("== format");
    process::run(cargo().args(["fmt", "--all", "--check"]))?;
    println!("== shape");
    let faults = shape::check()?;
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults in the shape of the house; ARCHITECTURE.md says what must hold", faults.len());
    }
    println!("== lints");
    process::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    if args.checks {
        println!("checks passed");
        return Ok(ExitCode::SUCCESS);
    }
    test::run(&test::Args::everything())
}
