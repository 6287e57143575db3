//! strongSwan as the peer: one charon per namespace, configured from a struct, asked through swanctl.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Map, Value};

use crate::cleanup::Scratch;
use crate::netns::Namespace;
use crate::process::{Process, run};
use crate::{vici, wait_for};

/// Who does ESP for strongSwan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwanEngine {
    /// Its own user space (plugin kernel-libipsec): in UDP only, and it drops packets while it rekeys.
    User,
    /// The kernel.
    Kernel,
}

/// A connection in swanctl.conf; empty strings and `None` leave strongSwan's default.
#[derive(Debug, Clone)]
pub struct SwanConnection {
    /// Its name.
    pub name: String,
    /// Own address, or empty.
    pub local_address: String,
    /// The peer's address, or `%any`.
    pub remote_address: String,
    /// Own id.
    pub local_id: String,
    /// The peer's id, or `%any`.
    pub remote_id: String,
    /// The shared secret.
    pub psk: String,
    /// IKE proposals, separated by commas.
    pub proposals: String,
    /// Pretends a NAT, so that ESP goes in UDP.
    pub encap: bool,
    /// Seconds between liveness checks; 0 for none.
    pub dpd_delay: u32,
    /// Seconds to the rekey of the IKE SA; 0 for never.
    pub rekey_time: u32,
    /// Its children.
    pub children: Vec<SwanChild>,
}

/// A child of a [`SwanConnection`].
#[derive(Debug, Clone)]
pub struct SwanChild {
    /// Its name.
    pub name: String,
    /// Own networks, separated by commas.
    pub local_ts: String,
    /// The peer's networks, separated by commas.
    pub remote_ts: String,
    /// ESP proposals, separated by commas.
    pub esp_proposals: String,
    /// Seconds to its rekey; 0 for never.
    pub rekey_time: u32,
    /// `none`, `trap` or `start`.
    pub start_action: String,
}

impl SwanConnection {
    /// The connection `site` between two addresses that are the ids too, with one child `net`.
    pub fn new(local: &str, remote: &str, local_ts: &str, remote_ts: &str) -> Self {
        Self {
            name: "site".into(),
            local_address: local.into(),
            remote_address: remote.into(),
            local_id: local.into(),
            remote_id: remote.into(),
            psk: "correct horse battery staple".into(),
            proposals: "aes128gcm16-prfsha256-ecp256".into(),
            encap: true,
            dpd_delay: 0,
            rekey_time: 0,
            children: vec![SwanChild {
                name: "net".into(),
                local_ts: local_ts.into(),
                remote_ts: remote_ts.into(),
                esp_proposals: "aes128gcm16".into(),
                rekey_time: 0,
                start_action: "none".into(),
            }],
        }
    }

    fn write(&self, out: &mut String) {
        let yes = |flag| if flag { "yes" } else { "no" };
        let _ = write!(
            out,
            "connections {{ {name} {{\n version = 2\n mobike = no\n local_addrs = {local}\n remote_addrs = {remote}\n \
             encap = {encap}\n proposals = {proposals}\n dpd_delay = {dpd}s\n rekey_time = {rekey}s\n \
             local {{\n auth = psk\n id = {local_id}\n }}\n remote {{\n auth = psk\n id = {remote_id}\n }}\n children {{\n",
            name = self.name,
            local = self.local_address,
            remote = self.remote_address,
            encap = yes(self.encap),
            proposals = self.proposals,
            dpd = self.dpd_delay,
            rekey = self.rekey_time,
            local_id = self.local_id,
            remote_id = self.remote_id,
        );
        for child in &self.children {
            let _ = write!(
                out,
                " {} {{\n local_ts = {}\n remote_ts = {}\n esp_proposals = {}\n rekey_time = {}s\n start_action = {}\n }}\n",
                child.name,
                child.local_ts,
                child.remote_ts,
                child.esp_proposals,
                child.rekey_time,
                child.start_action,
            );
        }
        let _ = write!(out, "}} }} }}\nsecrets {{ ike-{} {{\n secret = \"{}\"\n", self.name, self.psk);
        if self.remote_id != "%any" {
            let _ = writeln!(out, " id-remote = {}", self.remote_id);
        }
        out.push_str("} }\n");
    }
}

/// A running charon.
#[derive(Debug)]
pub struct StrongSwan {
    scratch: Scratch,
    process: Process,
}

impl StrongSwan {
    /// Starts charon in the namespace and loads the connections.
    ///
    /// # Errors
    /// When strongSwan is not installed, does not start, or refuses the configuration.
    pub fn start(namespace: &Namespace, engine: SwanEngine, connections: &[SwanConnection]) -> Result<Self> {
        let scratch = Scratch::new("charon")?;
        let directory = scratch.path().display().to_string();
        // The order matters: the plugin that is loaded first does ESP.
        let kernel = match engine {
            SwanEngine::User => "kernel-libipsec kernel-netlink",
            SwanEngine::Kernel => "kernel-netlink",
        };
        let conf = format!(
            "charon-systemd {{\n load = random nonce openssl aes sha1 sha2 hmac kdf gcm chapoly drbg pem pkcs1 pubkey \
             x509 curve25519 {kernel} socket-default vici updown\n piddir = {directory}\n \
             install_virtual_ip = no\n delete_rekeyed_delay = 2\n retransmit_timeout = 1.0\n retransmit_tries = 3\n \
             filelog {{ stderr {{ default = 1\n knl = 1\n }}\n }}\n journal {{ default = -1\n }}\n \
             plugins {{ vici {{ socket = unix://{directory}/vici.sock\n }}\n }}\n}}\n\
             swanctl {{ load = pem pkcs1 x509 openssl\n }}\n"
        );
        fs::write(scratch.path().join("strongswan.conf"), conf)?;
        for directory in SWANCTL_DIRECTORIES {
            fs::create_dir(scratch.path().join(directory))?;
        }
        let mut command = namespace.command("unshare");
        command.args(["--mount", "--propagation", "private", "charon-systemd"]);
        command.env("STRONGSWAN_CONF", scratch.path().join("strongswan.conf"));
        let process = Process::spawn(format!("charon in {}", namespace.name()), &mut command)?;
        let mut swan = Self { scratch, process };
        let socket = swan.scratch.path().join("vici.sock");
        let started =
            wait_for("charon's control socket", Duration::from_secs(10), || socket.exists().then_some(()));
        if started.is_err() || swan.process.try_wait()?.is_some() {
            bail!("charon did not start (is charon-systemd installed?); its log:\n{}", swan.process.log());
        }
        swan.load(connections)?;
        Ok(swan)
    }

    /// Loads these connections and secrets in place of those that it has.
    ///
    /// # Errors
    /// When strongSwan refuses one.
    pub fn load(&self, connections: &[SwanConnection]) -> Result<()> {
        let mut text = String::new();
        for connection in connections {
            connection.write(&mut text);
        }
        let file = self.scratch.path().join("swanctl.conf");
        fs::write(&file, text)?;
        self.swanctl(&["--load-all", "--clear", "--file", &file.display().to_string()]).map(drop)
    }

    fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let socket: PathBuf = self.scratch.path().join("vici.sock");
        let mut command = Command::new("swanctl");
        command.args(arguments).arg("--uri").arg(format!("unix://{}", socket.display()));
        command.env("STRONGSWAN_CONF", self.scratch.path().join("strongswan.conf"));
        command.env("SWANCTL_DIR", self.scratch.path());
        run(&mut command)
    }

    /// Brings a child up and waits for it.
    ///
    /// # Errors
    /// When the negotiation fails; with charon's words.
    pub fn initiate(&self, child: &str) -> Result<()> {
        self.swanctl(&["--initiate", "--child", child, "--timeout", "15"]).map(drop)
    }

    /// Rekeys a child and waits until it has another inbound SPI.
    ///
    /// # Errors
    /// When it does not come to that within five seconds.
    pub fn rekey_child(&self, child: &str) -> Result<()> {
        let before = self.child(child)?.context("no such child to rekey")?.spi_in;
        self.swanctl(&["--rekey", "--child", child])?;
        wait_for("strongSwan's rekeyed child", Duration::from_secs(5), || {
            self.child(child).ok().flatten().filter(|now| now.spi_in != before)
        })
        .map(drop)
    }

    /// Rekeys the IKE SA and waits until it has another SPI.
    ///
    /// # Errors
    /// When it does not come to that within five seconds.
    pub fn rekey_ike(&self, connection: &str) -> Result<()> {
        let before = self.ike(connection)?.context("no such IKE SA to rekey")?.spi_initiator;
        self.swanctl(&["--rekey", "--ike", connection])?;
        wait_for("strongSwan's rekeyed IKE SA", Duration::from_secs(5), || {
            self.ike(connection).ok().flatten().filter(|now| now.spi_initiator != before)
        })
        .map(drop)
    }

    /// Deletes an IKE SA, telling the peer.
    ///
    /// # Errors
    /// When there is none or the peer does not answer.
    pub fn terminate(&self, connection: &str) -> Result<()> {
        self.swanctl(&["--terminate", "--ike", connection, "--timeout", "10"]).map(drop)
    }

    /// Its IKE SAs, as `swanctl --list-sas --raw` tells them: objects with the connection's name as the only key.
    ///
    /// # Errors
    /// When charon does not answer.
    pub fn sas(&self) -> Result<Vec<Map<String, Value>>> {
        let text = self.swanctl(&["--list-sas", "--raw"])?;
        let events = text.lines().filter(|line| line.starts_with("list-sa event"));
        events.map(|line| vici::parse_line(line).with_context(|| format!("cannot read: {line}"))).collect()
    }

    /// The newest established IKE SA of a connection.
    ///
    /// # Errors
    /// When charon does not answer.
    pub fn ike(&self, connection: &str) -> Result<Option<SwanIke>> {
        let sas = self.sas()?;
        let mut found: Vec<SwanIke> =
            sas.iter().filter_map(|sa| SwanIke::read(sa.get(connection)?)).collect();
        found.retain(|sa| sa.state == "ESTABLISHED");
        Ok(found.into_iter().max_by_key(|sa| sa.unique))
    }

    /// How many IKE SAs there are, in whatever state.
    ///
    /// # Errors
    /// When charon does not answer.
    pub fn ike_count(&self) -> Result<usize> {
        Ok(self.sas()?.len())
    }

    /// The newest installed child of that name.
    ///
    /// # Errors
    /// When charon does not answer.
    pub fn child(&self, name: &str) -> Result<Option<SwanChildSa>> {
        Ok(self.children(name)?.into_iter().max_by_key(|child| child.unique))
    }

    /// The installed children of that name.
    ///
    /// # Errors
    /// When charon does not answer.
    pub fn children(&self, name: &str) -> Result<Vec<SwanChildSa>> {
        let mut found = Vec::new();
        for sa in self.sas()? {
            for ike in sa.values() {
                let children = ike["child-sas"].as_object().into_iter().flat_map(Map::values);
                found.extend(
                    children
                        .filter(|c| c["name"] == name && c["state"] == "INSTALLED")
                        .map(SwanChildSa::read),
                );
            }
        }
        Ok(found)
    }

    /// Waits for an installed child.
    ///
    /// # Errors
    /// When the time is over; with charon's log.
    pub fn wait_child(&self, name: &str, timeout: Duration) -> Result<SwanChildSa> {
        wait_for("a child SA of strongSwan", timeout, || self.child(name).ok().flatten())
            .with_context(|| format!("charon's log:\n{}", self.log()))
    }

    /// Everything charon has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Binds all its threads to one CPU, which makes its user-space ESP faster.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pin(&self, cpu: usize) -> Result<()> {
        run(Command::new("taskset").args(["-acp", &cpu.to_string(), &self.pid().to_string()])).map(drop)
    }

    /// Ends it at once, so that the peer is not told.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it orderly: it deletes its SAs at the peer.
    ///
    /// # Errors
    /// When it does not end within ten seconds.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(Duration::from_secs(10)).map(drop)
    }
}

/// Where swanctl looks for keys and certificates; it complains of each that is missing.
const SWANCTL_DIRECTORIES: [&str; 13] = [
    "x509", "x509ca", "x509ocsp", "x509aa", "x509ac", "x509crl", "pubkey", "private", "rsa", "ecdsa",
    "bliss", "pkcs8", "pkcs12",
];

/// An IKE SA of strongSwan.
#[derive(Debug, Clone)]
pub struct SwanIke {
    /// Its running number.
    pub unique: u64,
    /// `ESTABLISHED` and others.
    pub state: String,
    /// Whether strongSwan initiated it.
    pub initiator: bool,
    /// 16 hexadecimal digits.
    pub spi_initiator: String,
    /// 16 hexadecimal digits.
    pub spi_responder: String,
    /// The peer's UDP port.
    pub remote_port: u16,
    /// The peer's proven id.
    pub remote_id: String,
    /// Whether strongSwan is behind a NAT (or pretends it).
    pub nat_local: bool,
    /// Whether the peer is (or pretends it).
    pub nat_remote: bool,
    /// `AES_GCM_16`, …
    pub encryption: String,
    /// `ECP_256`, …
    pub dh: String,
}

impl SwanIke {
    fn read(sa: &Value) -> Option<Self> {
        let text = |key: &str| sa[key].as_str().unwrap_or_default().to_owned();
        Some(Self {
            unique: text("uniqueid").parse().ok()?,
            state: text("state"),
            initiator: text("initiator") == "yes",
            spi_initiator: text("initiator-spi"),
            spi_responder: text("responder-spi"),
            remote_port: text("remote-port").parse().ok()?,
            remote_id: text("remote-id"),
            nat_local: text("nat-local") == "yes",
            nat_remote: text("nat-remote") == "yes",
            encryption: text("encr-alg"),
            dh: text("dh-group"),
        })
    }
}

/// A child SA of strongSwan.
#[derive(Debug, Clone)]
pub struct SwanChildSa {
    /// Its running number.
    pub unique: u64,
    /// 8 hexadecimal digits.
    pub spi_in: String,
    /// 8 hexadecimal digits.
    pub spi_out: String,
    /// Whether ESP goes in UDP.
    pub encap: bool,
    /// `AES_GCM_16`, `AES_CBC`, `CHACHA20_POLY1305`.
    pub encryption: String,
    /// Bits of the key, where the cipher has several lengths.
    pub key_bits: Option<u32>,
    /// `HMAC_SHA2_256_128`, …; empty for AEAD.
    pub integrity: String,
    /// The group of its own key exchange, if any.
    pub dh: String,
    /// Inner bytes in.
    pub bytes_in: u64,
    /// Inner bytes out.
    pub bytes_out: u64,
    /// Own networks.
    pub local_ts: Vec<String>,
    /// The peer's networks.
    pub remote_ts: Vec<String>,
}

impl SwanChildSa {
    fn read(child: &Value) -> Self {
        let text = |key: &str| child[key].as_str().unwrap_or_default().to_owned();
        let list = |key: &str| {
            let items = child[key].as_array().into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        Self {
            unique: text("uniqueid").parse().unwrap_or(0),
            spi_in: text("spi-in"),
            spi_out: text("spi-out"),
            encap: text("encap") == "yes",
            encryption: text("encr-alg"),
            key_bits: text("encr-keysize").parse().ok(),
            integrity: text("integ-alg"),
            dh: text("dh-group"),
            bytes_in: text("bytes-in").parse().unwrap_or(0),
            bytes_out: text("bytes-out").parse().unwrap_or(0),
            local_ts: list("local-ts"),
            remote_ts: list("remote-ts"),
        }
    }
}
