//! `bpf-linker`, which turns the compiler's bitcode into a BPF object. Its LLVM must not be older than the compiler's.
use super::{Toolchain, packages};
use crate::process::{self, cargo, find_program};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// The version that the programs are built and verified with.
const VERSION: &str = "0.13.0";
/// Older ones lack the BTF fixes that the programs' maps need.
const OLDEST: (u32, u32) = (0, 13);

pub(super) fn ensure(toolchain: &Toolchain) -> Result<bool> {
    match installed() {
        Some(version) if version >= OLDEST => return Ok(false),
        Some((major, minor)) => println!("setup: bpf-linker {major}.{minor} is too old, {VERSION} is needed"),
        None => println!("setup: bpf-linker is missing (it links the eBPF programs)"),
    }
    if find_program("cargo-binstall").is_some() {
        println!("  by cargo binstall …");
        match process::output(cargo().args(["binstall", "--no-confirm", "--version", VERSION, "bpf-linker"]))
        {
            Ok(_) => return found(),
            Err(error) => {
                println!("  cargo binstall cannot: {}", format!("{error:#}").lines().next().unwrap_or(""))
            }
        }
    }
    let llvm = toolchain.llvm;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("include/llvm-c/Core.h").is_file() {
        packages::install(&[&format!("llvm-{llvm}-dev")], "LLVM, which bpf-linker is built with").with_context(|| {
            format!(
                "LLVM {llvm} (that of rustc {}) is not to be had from this distribution; install `llvm-{llvm}-dev` from \
                 apt.llvm.org, or a built bpf-linker: cargo install cargo-binstall && cargo binstall bpf-linker@{VERSION}",
                toolchain.version
            )
        })?;
    }
    println!("  building bpf-linker {VERSION} with LLVM {llvm} (about a minute) …");
    process::output(
        cargo()
            // Outside of the repository: its configuration and lock file do not apply.
            .current_dir("/")
            .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
            .env_remove("CARGO_TARGET_DIR")
            .env("LLVM_PREFIX", &prefix)
            .env("RUSTFLAGS", format!("-L {prefix}/lib")),
    )?;
    found()
}

fn found() -> Result<bool> {
    if installed().is_none() {
        bail!("bpf-linker was installed, but is not on PATH; add cargo's bin directory (~/.cargo/bin) to it");
    }
    Ok(true)
}

fn installed() -> Option<(u32, u32)> {
    let output = Command::new("bpf-linker").arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix("bpf-linker ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read() {
        assert_eq!(parse_version("bpf-linker 0.13.0\n"), Some((0, 13)));
        assert_eq!(parse_version("command not found"), None);
    }
}
