//! `cargo xtask`: sets up, builds, tests, demonstrates and packages Culvert.
mod bench;
mod build;
mod ci;
mod debian;
mod demo;
mod features;
mod fuzz;
mod lab;
mod page;
mod process;
mod setup;
mod test;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Everything there is to do with this repository, from a fresh clone on.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Build(build::Args),
    Demo(demo::Args),
    Lab(lab::Args),
    Test(test::Args),
    Features(features::Args),
    Fuzz(fuzz::Args),
    Bench(bench::Args),
    Ci(ci::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Features(args) => features::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Vm(args) => vm::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
