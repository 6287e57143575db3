//! wireguard-go as another way from site to site: user-space WireGuard over TUN, configured by its control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::topology::{LAN_A, LAN_B, Site, WAN_A, WAN_B};
use crate::wait_for;

const PORT: u16 = 51820;
/// 1500 of the WAN less 60 for IPv4, UDP and WireGuard.
const OVERHEAD: u32 = 60;
/// Key pairs for measuring; they protect nothing.
const ALICE: (&str, &str) = (
    "77076d0a7318a57d3c16c17251b26645df4c2f92ebc0992ac177fba51db92c2a",
    "f8a9535a2d2ff605e8e144d54f4ef5c62313a2055dbb21fddd3fd9c299eb015d",
);
const BOB: (&str, &str) = (
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
);

/// Two wireguard-go, one in each gateway of a site, with the routes through them.
#[derive(Debug)]
pub struct WireGuard {
    _a: End,
    _b: End,
}

/// One wireguard-go, and its control socket, which it does not remove when it is killed.
#[derive(Debug)]
struct End {
    _process: Process,
    socket: PathBuf,
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl WireGuard {
    /// Starts both from the given program and waits until their interfaces are up.
    ///
    /// # Errors
    /// When it does not start or refuses its configuration; with its log.
    pub fn start(site: &Site, program: &Path, wan_mtu: u32) -> Result<Self> {
        let one = |gateway, letter, own: (&str, &str), peer: (&str, &str), endpoint: &str, net: &str| {
            // The control sockets of all namespaces lie in one directory.
            let name = format!("wg{}{letter}", std::process::id());
            raise(gateway, program, &name, own.0, peer.1, (endpoint, net), wan_mtu)
        };
        Ok(Self {
            _a: one(&site.gateway_a, 'a', ALICE, BOB, WAN_B, LAN_B)?,
            _b: one(&site.gateway_b, 'b', BOB, ALICE, WAN_A, LAN_A)?,
        })
    }
}

fn raise(
    gateway: &crate::Namespace,
    program: &Path,
    name: &str,
    private_key: &str,
    peer: &str,
    (endpoint, net): (&str, &str),
    wan_mtu: u32,
) -> Result<End> {
    let mut command = gateway.command(program);
    command.args(["--foreground", name]).env("WG_PROCESS_FOREGROUND", "1").env("LOG_LEVEL", "error");
    let mut process = Process::spawn(format!("wireguard-go in {}", gateway.name()), &mut command)?;
    let socket = PathBuf::from(format!("/var/run/wireguard/{name}.sock"));
    let connected = wait_for("wireguard-go's control socket", Duration::from_secs(5), || {
        if matches!(process.try_wait(), Ok(Some(_))) {
            Some(None)
        } else {
            UnixStream::connect(&socket).ok().map(Some)
        }
    });
    let Ok(Some(stream)) = connected else {
        bail!("wireguard-go did not start; its log:\n{}", process.log())
    };
    let lines = [
        "set=1".to_owned(),
        format!("private_key={private_key}"),
        format!("listen_port={PORT}"),
        "replace_peers=true".to_owned(),
        format!("public_key={peer}"),
        format!("endpoint={endpoint}:{PORT}"),
        "replace_allowed_ips=true".to_owned(),
        format!("allowed_ip={net}"),
    ];
    configure(stream, &lines).with_context(|| format!("wireguard-go's log:\n{}", process.log()))?;
    gateway.ip(&format!("link set dev {name} mtu {}", wan_mtu - OVERHEAD))?;
    gateway.ip(&format!("link set dev {name} up"))?;
    gateway.ip(&format!("route replace {net} dev {name}"))?;
    Ok(End { _process: process, socket })
}

/// The configuration protocol: lines of key=value, an empty one, and an answer that ends with errno.
fn configure(mut stream: UnixStream, lines: &[String]) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("{}\n\n", lines.join("\n")).as_bytes())?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if let Some(errno) = line.strip_prefix("errno=") {
            return if errno == "0" {
                Ok(())
            } else {
                bail!("wireguard-go refuses its configuration: errno {errno}")
            };
        }
    }
    bail!("wireguard-go did not answer")
}
