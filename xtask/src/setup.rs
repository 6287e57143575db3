//! `cargo xtask setup`: what a build or a test needs on this host, installed once and only if missing.
mod bpf_linker;
pub(crate) mod packages;
pub(crate) mod peers;
mod rust_src;

use crate::process;
use anyhow::{Context, Result};
use std::process::{Command, ExitCode};

/// Install what a build or a test needs and this host lacks (Debian, Ubuntu).
///
/// Says what it does and why, and does nothing twice. Needs root only to install packages.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what a build needs; no packages for tests and demos.
    #[arg(long)]
    build_only: bool,
}

/// How much is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The eBPF toolchain.
    Build,
    /// The programs that tests, demo and VM run.
    Programs,
    /// The toolchain and the programs.
    All,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !ensure(if args.build_only { Part::Build } else { Part::All })? {
        println!("setup: everything is there");
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing of `part`; silent, and quick, when nothing is. True if something was installed.
pub(crate) fn ensure(part: Part) -> Result<bool> {
    let mut changed = false;
    if part != Part::Programs {
        let toolchain = Toolchain::inspect()?;
        changed |= rust_src::ensure(&toolchain)?;
        changed |= bpf_linker::ensure(&toolchain)?;
    }
    if part != Part::Build {
        changed |= packages::ensure_test_programs()?;
    }
    if changed {
        println!("setup: done");
    }
    Ok(changed)
}

/// What is known of the compiler in use.
pub(crate) struct Toolchain {
    /// For example `1.95.0`.
    pub(crate) version: String,
    /// Major version of the compiler's LLVM: the linker must understand its bitcode.
    pub(crate) llvm: u32,
    /// Where the compiler keeps its libraries.
    pub(crate) sysroot: std::path::PathBuf,
}

impl Toolchain {
    fn inspect() -> Result<Toolchain> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let verbose = process::text(Command::new(&rustc).arg("-vV"))?;
        let sysroot = process::text(Command::new(&rustc).args(["--print", "sysroot"]))?.into();
        let (version, llvm) = parse_version(&verbose)
            .with_context(|| format!("`rustc -vV` does not tell its release and LLVM version:\n{verbose}"))?;
        Ok(Toolchain { version, llvm, sysroot })
    }
}

fn parse_version(verbose: &str) -> Option<(String, u32)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiler_version_is_read() {
        let verbose = "rustc 1.95.0 (59807616e 2026-04-14)\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        assert_eq!(parse_version(verbose), Some(("1.95.0".to_owned(), 22)));
        assert_eq!(parse_version("release: 1.95.0\n"), None);
    }
}
