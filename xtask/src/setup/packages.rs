//! Packages of the distribution: which are missing, and installing them without starting their services.
use crate::process::{self, find_program, is_root};
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// What tests, demo and VM run, with why: the texts are shown when something has to be installed.
const TEST_PROGRAMS: &[(&str, &[&str])] = &[
    (
        "to lay out and inspect networks",
        &["iproute2", "ethtool", "nftables", "tcpdump", "iputils-ping", "iperf3"],
    ),
    (
        "as the peer to interoperate with (strongSwan)",
        &[
            "strongswan-swanctl",
            "charon-systemd",
            "libcharon-extra-plugins",
            "libcharon-extauth-plugins",
            "libstrongswan-standard-plugins",
            "libstrongswan-extra-plugins",
            "strongswan-pki",
        ],
    ),
    ("as the server that knows users (RADIUS)", &["freeradius"]),
    ("to route by BGP (FRR, BIRD)", &["frr", "bird2"]),
    ("to run tests under other kernels", &["qemu-system-x86", "busybox-static", "cpio", "kmod", "xz-utils"]),
];

/// Services that these packages bring. Culvert's tests start their own daemons; on the host none may run, for it
/// would take UDP 500 and 4500, or RADIUS' 1812.
const UNWANTED_SERVICES: &[&str] = &[
    "strongswan.service",
    "strongswan-starter.service",
    "freeradius.service",
    "openvpn.service",
    "frr.service",
    "bird.service",
];

/// Asked by dpkg's helpers before they start a service: 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";

pub(crate) fn ensure_test_programs() -> Result<bool> {
    let all: Vec<&str> = TEST_PROGRAMS.iter().flat_map(|(_, packages)| packages.iter().copied()).collect();
    let missing = missing(&all)?;
    if missing.is_empty() {
        return Ok(false);
    }
    let why: Vec<&str> = TEST_PROGRAMS
        .iter()
        .filter(|(_, packages)| packages.iter().any(|package| missing.contains(package)))
        .map(|(why, _)| *why)
        .collect();
    install(&missing, &why.join(", "))?;
    Ok(true)
}

/// Those of `packages` that are not installed.
pub(crate) fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    if find_program("dpkg-query").is_none() || find_program("apt-get").is_none() {
        bail!(
            "this host has no dpkg and apt-get; `cargo xtask setup` serves Debian and Ubuntu. Install the equivalents of: {}",
            packages.join(" ")
        );
    }
    // dpkg-query fails when it does not know one of them, and still tells of the others.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("cannot run dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: HashSet<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// Installs `packages` (and only they are named, so apt says nothing of what is there already).
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    println!("setup: installing {why}: {}", packages.join(" "));
    if !is_root() {
        bail!(
            "installing packages needs root. Run: sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    let before: Vec<bool> = UNWANTED_SERVICES.iter().map(|service| unit_exists(service)).collect();
    let outcome = {
        let _policy = NoServices::engage()?;
        let installed = apt(&["install", "--no-install-recommends"], packages);
        match installed {
            Ok(()) => Ok(()),
            // The usual cause is a list that is missing or old.
            Err(first) => {
                println!("setup: refreshing the package lists (apt-get update)");
                apt(&["update"], &[])
                    .and_then(|()| apt(&["install", "--no-install-recommends"], packages))
                    .with_context(|| format!("first attempt: {first:#}"))
            }
        }
    };
    for (service, existed) in UNWANTED_SERVICES.iter().zip(before) {
        // A service that was here before belongs to the host's owner; without systemctl (a container) none starts.
        if !existed && unit_exists(service) && Path::new("/usr/bin/systemctl").exists() {
            println!("setup: {service} came with the packages: disabled, so that it takes no port of IKE");
            process::output(Command::new("systemctl").args(["disable", "--now", "--quiet", service]))
                .or_else(
                    // Without systemd as init there is nothing to stop.
                    |_| process::output(Command::new("systemctl").args(["disable", "--quiet", service])),
                )?;
        }
    }
    outcome
}

fn apt(action: &[&str], packages: &[&str]) -> Result<()> {
    process::output(
        Command::new("apt-get")
            .args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
            .args(action)
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C"),
    )
    .map(drop)
}

fn unit_exists(service: &str) -> bool {
    ["/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system"]
        .iter()
        .any(|dir| Path::new(dir).join(service).exists())
}

/// While it lives, packages that are being installed start no services.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn engage() -> Result<NoServices> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match file {
            Ok(mut file) => {
                file.write_all(b"#!/bin/sh\nexit 101\n")?;
                Ok(NoServices { ours: true })
            }
            // The host has a policy of its own; it stays, and the services are stopped afterwards.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(NoServices { ours: false }),
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
