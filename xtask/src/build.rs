//! `cargo xtask build`: the eBPF programs and user space. The programs are built by `culvert-sys`'s build script.
use crate::process::{self, cargo};
use crate::setup;
use anyhow::Result;
use std::process::ExitCode;

/// Build the eBPF programs and user space.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimise, as for use in earnest.
    #[arg(long)]
    pub(crate) release: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Part::Build)?;
    process::run(cargo().arg("build").arg("--workspace").args(args.release.then_some("--release")))?;
    let profile = if args.release { "release" } else { "debug" };
    println!("built: {}", process::target_dir().join(profile).display());
    Ok(ExitCode::SUCCESS)
}
