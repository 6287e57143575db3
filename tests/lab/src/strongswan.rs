//! strongSwan as the peer: one charon per namespace, configured from a struct, asked through swanctl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Map, Value};

use crate::cleanup::Scratch;
use crate::netns::Namespace;
use crate::process::{Process, run};
use crate::settings::Settings;
pub use crate::swan_sas::{SwanChildSa, SwanIke};
use crate::topology::{LAN_A, LAN_B, Site, WAN_A, WAN_B};
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
    /// Changes to all of the above: `version` or `children.net.mode`, relative to the connection; `/secrets.eap-joe.id`
    /// from the root of swanctl.conf. An empty value takes the key away.
    pub set: Vec<(String, String)>,
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
            set: Vec::new(),
        }
    }

    fn write(&self, settings: &mut Settings) {
        let root = format!("connections.{}", self.name);
        let yes = |flag| if flag { "yes" } else { "no" };
        for (key, value) in [
            ("version", "2"),
            ("mobike", "no"),
            ("local_addrs", &self.local_address),
            ("remote_addrs", &self.remote_address),
            ("encap", yes(self.encap)),
            ("proposals", &self.proposals),
            ("dpd_delay", &format!("{}s", self.dpd_delay)),
            ("rekey_time", &format!("{}s", self.rekey_time)),
            ("local.auth", "psk"),
            ("local.id", &self.local_id),
            ("remote.auth", "psk"),
            ("remote.id", &self.remote_id),
        ] {
            settings.set(&format!("{root}.{key}"), value);
        }
        for child in &self.children {
            for (key, value) in [
                ("local_ts", &child.local_ts),
                ("remote_ts", &child.remote_ts),
                ("esp_proposals", &child.esp_proposals),
                ("rekey_time", &format!("{}s", child.rekey_time)),
                ("start_action", &child.start_action),
            ] {
                settings.set(&format!("{root}.children.{}.{key}", child.name), value);
            }
        }
        let secret = format!("secrets.ike-{}", self.name);
        settings.set(&format!("{secret}.secret"), &self.psk);
        if self.remote_id != "%any" {
            settings.set(&format!("{secret}.id-remote"), &self.remote_id);
        }
        for (path, value) in &self.set {
            match path.strip_prefix('/') {
                Some(path) => settings.set(path, value),
                None => settings.set(&format!("{root}.{path}"), value),
            }
        }
    }
}

/// Everything that a charon is told.
#[derive(Debug, Clone)]
pub struct SwanConfig {
    /// Who does ESP.
    pub engine: SwanEngine,
    /// Changes to strongswan.conf, relative to charon's section: `fragment_size` with a value. They hold from the start.
    pub charon: Vec<(String, String)>,
    /// The connections.
    pub connections: Vec<SwanConnection>,
    /// Keys and certificates, under swanctl's directory: `x509/b.pem`, `private/b.key`, `x509ca/ca.pem`.
    pub files: Vec<(String, Vec<u8>)>,
}

impl SwanConfig {
    /// These connections, the rest plain.
    pub fn new(engine: SwanEngine, connections: &[SwanConnection]) -> Self {
        Self { engine, charon: Vec::new(), connections: connections.to_vec(), files: Vec::new() }
    }
}

/// A running charon.
#[derive(Debug)]
pub struct StrongSwan {
    scratch: Scratch,
    process: Process,
    engine: SwanEngine,
    charon: Vec<(String, String)>,
}

/// charon's plugins but those for the kernel; which is not installed is left out by charon.
const PLUGINS: &str = "random nonce aes des rc2 openssl sha1 sha2 md5 mgf1 hmac cmac xcbc kdf gcm ccm ctr chapoly gmp drbg \
     fips-prf pem pkcs1 pkcs7 pkcs8 pkcs12 pubkey x509 constraints revocation curl curve25519 attr unity counters \
     eap-identity eap-mschapv2 eap-md5 eap-tls eap-ttls eap-radius xauth-generic";

impl StrongSwan {
    /// Starts charon in the namespace and loads the connections.
    ///
    /// # Errors
    /// When strongSwan is not installed, does not start, or refuses the configuration.
    pub fn start(namespace: &Namespace, engine: SwanEngine, connections: &[SwanConnection]) -> Result<Self> {
        Self::with(namespace, &SwanConfig::new(engine, connections))
    }

    /// Starts charon in the namespace and loads the whole configuration.
    ///
    /// # Errors
    /// When strongSwan is not installed, does not start, or refuses the configuration.
    pub fn with(namespace: &Namespace, config: &SwanConfig) -> Result<Self> {
        let scratch = Scratch::new("charon")?;
        let at = scratch.path().display();
        // The order matters: the plugin that is loaded first does ESP.
        let kernel = match config.engine {
            SwanEngine::User => "kernel-libipsec kernel-netlink",
            SwanEngine::Kernel => "kernel-netlink",
        };
        let mut settings = Settings::new();
        for (path, value) in [
            ("load", format!("{PLUGINS} {kernel} socket-default vici updown").as_str()),
            ("piddir", &at.to_string()),
            ("install_virtual_ip", "no"),
            ("delete_rekeyed_delay", "2"),
            ("retransmit_timeout", "1.0"),
            ("retransmit_tries", "3"),
            ("filelog.stderr.default", "1"),
            ("filelog.stderr.knl", "1"),
            ("journal.default", "-1"),
            ("plugins.vici.socket", &format!("unix://{at}/vici.sock")),
        ] {
            settings.set(&format!("charon-systemd.{path}"), value);
        }
        for (path, value) in &config.charon {
            settings.set(&format!("charon-systemd.{path}"), value);
        }
        settings.set("swanctl.load", "pem pkcs1 pkcs7 pkcs8 pkcs12 x509 openssl curve25519");
        fs::write(scratch.path().join("strongswan.conf"), settings.render())?;
        let mut command = namespace.command("unshare");
        command.args(["--mount", "--propagation", "private", "charon-systemd"]);
        command.env("STRONGSWAN_CONF", scratch.path().join("strongswan.conf"));
        let process = Process::spawn(format!("charon in {}", namespace.name()), &mut command)?;
        let mut swan = Self { scratch, process, engine: config.engine, charon: config.charon.clone() };
        let socket = swan.scratch.path().join("vici.sock");
        let started =
            wait_for("charon's control socket", Duration::from_secs(10), || socket.exists().then_some(()));
        if started.is_err() || swan.process.try_wait()?.is_some() {
            bail!("charon did not start (is charon-systemd installed?); its log:\n{}", swan.process.log());
        }
        swan.load_all(config)?;
        Ok(swan)
    }

    /// Both ends of a site with the tunnel up. User-space ESP is at its best, each charon bound to a core of its own.
    ///
    /// # Errors
    /// When strongSwan is not installed, does not start, or the tunnel does not come up.
    pub fn pair(site: &Site, engine: SwanEngine, esp: &str) -> Result<(Self, Self)> {
        let start = |gateway, local, remote, local_ts, remote_ts| {
            let mut connection = SwanConnection::new(local, remote, local_ts, remote_ts);
            // The kernel does best without UDP, the user space cannot without.
            connection.encap = engine == SwanEngine::User;
            connection.children.iter_mut().for_each(|child| child.esp_proposals = esp.into());
            Self::start(gateway, engine, &[connection])
        };
        let a = start(&site.gateway_a, WAN_A, WAN_B, LAN_A, LAN_B)?;
        let b = start(&site.gateway_b, WAN_B, WAN_A, LAN_B, LAN_A)?;
        a.initiate("net")?;
        a.wait_child("net", Duration::from_secs(5))?;
        if engine == SwanEngine::User {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            a.pin(0)?;
            b.pin(1 % cpus)?;
        }
        Ok((a, b))
    }

    /// Whether a running charon can take this configuration by [`StrongSwan::load_all`]: what it has from its start is
    /// the same.
    pub fn can_load(&self, config: &SwanConfig) -> bool {
        self.engine == config.engine && self.charon == config.charon
    }

    /// Loads these connections and secrets in place of those that it has.
    ///
    /// # Errors
    /// When strongSwan refuses one.
    pub fn load(&self, connections: &[SwanConnection]) -> Result<()> {
        self.load_all(&SwanConfig::new(self.engine, connections))
    }

    /// Loads connections, secrets, keys and certificates in place of those that it has.
    ///
    /// # Errors
    /// When strongSwan refuses one.
    pub fn load_all(&self, config: &SwanConfig) -> Result<()> {
        for directory in SWANCTL_DIRECTORIES {
            let path = self.scratch.path().join(directory);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path)?;
        }
        for (name, content) in &config.files {
            fs::write(self.scratch.path().join(name), content)
                .with_context(|| format!("no place for the file {name}"))?;
        }
        let mut settings = Settings::new();
        for connection in &config.connections {
            connection.write(&mut settings);
        }
        let file = self.scratch.path().join("swanctl.conf");
        fs::write(&file, settings.render())?;
        self.swanctl(&["--load-all", "--clear", "--noprompt", "--file", &file.display().to_string()])
            .map(drop)
    }

    /// Where its configuration is.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// `swanctl ARGUMENTS`, and what it printed.
    ///
    /// # Errors
    /// When it fails, with its words.
    pub fn swanctl(&self, arguments: &[&str]) -> Result<String> {
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
        let named = self.children()?.into_iter().filter(|child| child.name == name);
        Ok(named.max_by_key(|child| child.unique))
    }

    /// All installed children.
    ///
    /// # Errors
    /// When charon does not answer.
    pub fn children(&self) -> Result<Vec<SwanChildSa>> {
        let mut found = Vec::new();
        for sa in self.sas()? {
            for ike in sa.values() {
                let children = ike["child-sas"].as_object().into_iter().flat_map(Map::values);
                found.extend(children.filter(|c| c["state"] == "INSTALLED").map(SwanChildSa::read));
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

    /// How many lines charon has logged.
    pub fn log_len(&self) -> usize {
        self.process.lines().len()
    }

    /// What charon has logged after so many lines.
    pub fn log_since(&self, lines: usize) -> String {
        self.process.lines().get(lines..).unwrap_or_default().join("\n")
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
