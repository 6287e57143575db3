//! OpenVPN as another way from site to site: one process in each gateway, TLS between two certificates that each pins,
//! AES-128-GCM over UDP.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cleanup::Scratch;
use crate::netns::Namespace;
use crate::process::{Process, run};
use crate::topology::{LAN_A, LAN_B, Site, WAN_A, WAN_B};

/// IPv4, UDP, and what OpenVPN adds at most.
const OVERHEAD: u32 = 80;

/// Both ends; the interfaces are called `ovpn`.
#[derive(Debug)]
pub struct OpenVpn {
    _a: Process,
    _b: Process,
    _scratch: Scratch,
}

/// What the two ends do not have in common.
struct Side<'a> {
    gateway: &'a Namespace,
    name: &'a str,
    peer: &'a str,
    role: &'a str,
    local: &'a str,
    remote: &'a str,
    inner: [&'a str; 2],
}

impl OpenVpn {
    /// Starts both ends and waits for the tunnel.
    ///
    /// # Errors
    /// When OpenVPN or OpenSSL is not installed, or the ends do not find each other; with their logs.
    pub fn start(site: &Site, cipher: &str, wan_mtu: u32) -> Result<Self> {
        let scratch = Scratch::new("openvpn")?;
        for name in ["a", "b"] {
            certificate(scratch.path(), name)?;
        }
        let (a, b) = ("10.99.0.1", "10.99.0.2");
        let mut first = begin(
            scratch.path(),
            (cipher, wan_mtu - OVERHEAD),
            &Side {
                gateway: &site.gateway_a,
                name: "a",
                peer: "b",
                role: "--tls-server",
                local: WAN_A,
                remote: WAN_B,
                inner: [a, b],
            },
        )?;
        let mut second = begin(
            scratch.path(),
            (cipher, wan_mtu - OVERHEAD),
            &Side {
                gateway: &site.gateway_b,
                name: "b",
                peer: "a",
                role: "--tls-client",
                local: WAN_B,
                remote: WAN_A,
                inner: [b, a],
            },
        )?;
        for end in [&mut first, &mut second] {
            end.wait_log("Initialization Sequence Completed", Duration::from_secs(20))?;
        }
        site.gateway_a.ip(&format!("route replace {LAN_B} dev ovpn"))?;
        site.gateway_b.ip(&format!("route replace {LAN_A} dev ovpn"))?;
        Ok(Self { _a: first, _b: second, _scratch: scratch })
    }
}

fn certificate(directory: &Path, name: &str) -> Result<()> {
    let at = |suffix: &str| directory.join(format!("{name}.{suffix}"));
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", &format!("/CN={name}"), "-keyout"])
        .arg(at("key"))
        .arg("-out")
        .arg(at("pem")))?;
    let text = run(Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(at("pem")))?;
    let (_, print) = text.trim().split_once('=').context("OpenSSL tells no fingerprint")?;
    fs::write(at("print"), print).map_err(Into::into)
}

fn begin(directory: &Path, (cipher, mtu): (&str, u32), side: &Side<'_>) -> Result<Process> {
    let file = |name: &str, suffix: &str| directory.join(format!("{name}.{suffix}")).display().to_string();
    let print = fs::read_to_string(file(side.peer, "print"))?;
    let mut command = side.gateway.command("openvpn");
    command.args(["--dev", "ovpn", "--dev-type", "tun", "--proto", "udp4", "--port", "1194"]);
    command.args([
        "--local",
        side.local,
        "--remote",
        side.remote,
        "--ifconfig",
        side.inner[0],
        side.inner[1],
    ]);
    command.args([side.role, "--cert", &file(side.name, "pem"), "--key", &file(side.name, "key")]);
    command.args(["--peer-fingerprint", &print, "--cipher", cipher, "--data-ciphers", cipher]);
    // Its best over a fast link: no path in the kernel to fall back from, and large socket buffers.
    command.args(["--disable-dco", "--sndbuf", "4194304", "--rcvbuf", "4194304", "--txqueuelen", "1000"]);
    command.args(["--tun-mtu", &mtu.to_string(), "--verb", "1"]);
    if side.role == "--tls-server" {
        command.args(["--dh", "none"]);
    }
    Process::spawn(format!("openvpn in {}", side.gateway.name()), &mut command)
}
