//! Programs that the bench compares with, where they can be had: each answers where it is, or why not.
use super::packages;
use crate::debian::Archive;
use crate::process::{self, find_program, target_dir};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// The release that segments and coalesces: the one in Debian 12 is older and six times slower.
const WIREGUARD_GO: &str = "0.0.20231211";
const SUITE: &str = "trixie";

/// wireguard-go of Debian trixie, unpacked aside.
pub(crate) fn wireguard_go() -> Result<PathBuf> {
    let root = target_dir().join("peers/wireguard-go");
    let program = root.join("usr/bin/wireguard-go");
    if !program.is_file() {
        let archive = Archive::open(&target_dir().join("peers/debian"), &[SUITE])?;
        let offers = archive.versions("wireguard-go")?;
        let offer = offers
            .iter()
            .find(|offer| offer.version.starts_with(WIREGUARD_GO))
            .or(offers.first())
            .with_context(|| format!("Debian {SUITE} has no wireguard-go"))?;
        archive.unpack(offer, &root)?;
    }
    process::output(Command::new(&program).arg("--version"))
        .with_context(|| format!("{} does not run here", program.display()))?;
    Ok(program)
}

/// OpenVPN 2.6 as this distribution has it, installed if it is missing.
pub(crate) fn openvpn() -> Result<()> {
    let wanted: Vec<&str> = [("openvpn", "openvpn"), ("openssl", "openssl")]
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if wanted.is_empty() { Ok(()) } else { packages::install(&wanted, "as a peer to compare with (OpenVPN)") }
}
