//! The source of `core`, from which it is built for the BPF target: by rustup, or Debian's package of the same version.
use super::{Toolchain, packages};
use crate::debian::{Archive, Offer};
use crate::process::{self, find_program};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Suites that carry `rust-src`, the likeliest first: backports keeps several versions side by side.
const SUITES: &[&str] = &["trixie-backports", "trixie", "bookworm", "sid"];

pub(super) fn ensure(toolchain: &Toolchain) -> Result<bool> {
    let source = toolchain.sysroot.join("lib/rustlib/src/rust");
    let library = source.join("library");
    if library.join("core/src/lib.rs").is_file() {
        return Ok(false);
    }
    println!(
        "setup: the source of Rust's core {} is missing (the eBPF programs are built with it)",
        toolchain.version
    );
    if toolchain.sysroot == Path::new("/usr") {
        packages::install(&["rust-src"], "Rust's library source, for the distribution's compiler")?;
        return found(&library);
    }
    if find_program("rustup").is_some() {
        println!("  by rustup (component rust-src) …");
        match process::output(Command::new("rustup").args(["component", "add", "rust-src"])) {
            Ok(_) => return found(&library),
            Err(error) => println!("  rustup cannot: {}", first_line(&format!("{error:#}"))),
        }
    }
    println!("  by Debian's package rust-src …");
    from_debian(toolchain, &source, &library).with_context(|| {
        format!(
            "no source of Rust {} could be had; with a network, run `rustup component add rust-src`",
            toolchain.version
        )
    })?;
    found(&library)
}

fn from_debian(toolchain: &Toolchain, source: &Path, library: &Path) -> Result<()> {
    let work = process::target_dir().join("setup/debian");
    let (archive, offer) = find(toolchain, &work)?;
    let unpacked = work.join("rust-src");
    let _ = fs::remove_dir_all(&unpacked);
    archive.unpack(&offer, &unpacked)?;
    let from = unpacked.join(format!("usr/src/rustc-{}/library", toolchain.version));
    if !from.join("core/src/lib.rs").is_file() {
        bail!("package rust-src {} has no {}", offer.version, from.display());
    }
    fs::create_dir_all(source).with_context(|| format!("cannot make {}", source.display()))?;
    // `cp -a` into a temporary name, then rename: an interrupted copy is never taken for the whole.
    let partial = source.join("library.partial");
    let _ = fs::remove_dir_all(&partial);
    process::output(Command::new("cp").arg("-a").arg(&from).arg(&partial))?;
    fs::rename(&partial, library).with_context(|| format!("cannot make {}", library.display()))?;
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

/// The first suite that has the compiler's exact version. Suites are asked one by one: their lists are large.
fn find(toolchain: &Toolchain, work: &Path) -> Result<(Archive, Offer)> {
    let wanted = format!("{}+", toolchain.version);
    let mut seen = Vec::new();
    for suite in SUITES {
        let archive = Archive::open(&work.join(suite), &[suite])?;
        for offer in archive.versions("rust-src")? {
            if offer.version.starts_with(&wanted) {
                return Ok((archive, offer));
            }
            seen.push(offer.version);
        }
    }
    bail!("Debian ({}) has no rust-src {}, only {}", SUITES.join(", "), toolchain.version, seen.join(", "))
}

fn found(library: &Path) -> Result<bool> {
    if !library.join("core/src/lib.rs").is_file() {
        bail!("{} is still missing after the installation", library.display());
    }
    Ok(true)
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| line.contains("error")).or(text.lines().next()).unwrap_or("")
}
