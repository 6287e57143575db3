//! Culvert itself: a configuration written from a struct, culvertd in a namespace, asked through `culvert`.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cleanup::Scratch;
use crate::netns::Namespace;
use crate::process::{Process, run};
use crate::wait_for;

/// A configuration file.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Lines of the section `[gateway]`.
    pub gateway: Vec<(String, String)>,
    /// Lines of the section `[log]`.
    pub log: Vec<(String, String)>,
    /// The connections.
    pub connections: Vec<Connection>,
    /// Further sections, as TOML.
    pub sections: String,
    /// Files beside the configuration, for their owner only: name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// What culvertd sees as /etc/hosts; that of the host otherwise. [`Setup::hosts`] changes it later.
    pub hosts: Option<String>,
    /// Where culvertd and culvert are; looked for otherwise, see [`binary`].
    pub binaries: Option<PathBuf>,
}

impl GatewayConfig {
    /// A gateway whose interfaces are called `wan` and `lan`, as the lab's are.
    pub fn new(connections: Vec<Connection>) -> Self {
        let gateway = vec![("wan".into(), "\"wan\"".into()), ("lan".into(), "[\"lan\"]".into())];
        Self {
            gateway,
            log: Vec::new(),
            connections,
            sections: String::new(),
            files: Vec::new(),
            hosts: None,
            binaries: None,
        }
    }

    /// Takes culvertd and culvert from this directory.
    pub fn binaries(mut self, directory: Option<PathBuf>) -> Self {
        self.binaries = directory;
        self
    }

    /// Adds a line to `[log]`; the value as TOML.
    pub fn log(mut self, key: &str, value: &str) -> Self {
        self.log.push((key.into(), value.into()));
        self
    }

    /// Adds a line to `[gateway]`; the value as TOML.
    pub fn gateway(mut self, key: &str, value: &str) -> Self {
        self.gateway.retain(|(name, _)| name != key);
        self.gateway.push((key.into(), value.into()));
        self
    }
}

/// A connection of a [`GatewayConfig`].
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// Local networks.
    pub local: Vec<String>,
    /// Remote networks.
    pub remote: Vec<String>,
    /// `immediate`, `on-traffic` or `respond`.
    pub start: String,
    /// `auto`, `xfrm` or `user`.
    pub engine: String,
    /// `auto`, `udp` or `esp`.
    pub encap: String,
    /// IKE proposals.
    pub ike: Vec<String>,
    /// IKE lifetime, such as `8h`.
    pub ike_lifetime: String,
    /// ESP proposals.
    pub esp: Vec<String>,
    /// ESP lifetime.
    pub esp_lifetime: String,
    /// The whole value of `dpd`, as TOML.
    pub dpd: String,
    /// Further lines, key and value as TOML.
    pub extra: Vec<(String, String)>,
    /// Changes to all of the above: `ike.version` or `tunnel.a.local_id` with a value as TOML; an empty one takes the
    /// key away.
    pub set: Vec<(String, String)>,
    /// The tunnels.
    pub tunnels: Vec<Tunnel>,
}

/// A tunnel of a [`Connection`].
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// Own address.
    pub local_address: String,
    /// The peer's address; `None` takes anybody.
    pub remote_address: Option<String>,
    /// Own id; the address otherwise.
    pub local_id: Option<String>,
    /// The peer's id; its address otherwise.
    pub remote_id: Option<String>,
    /// The shared secret.
    pub psk: String,
    /// Addresses on the tunnel's interface.
    pub inside: Option<String>,
    /// Further lines, key and value as TOML.
    pub extra: Vec<(String, String)>,
}

impl Connection {
    /// The connection `site` with the tunnel `a` between two addresses.
    pub fn new(local: &str, remote: &str, local_net: &[&str], remote_net: &[&str]) -> Self {
        let strings = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        Self {
            name: "site".into(),
            local: strings(local_net),
            remote: strings(remote_net),
            start: "immediate".into(),
            engine: "auto".into(),
            encap: "udp".into(),
            ike: vec!["aes128gcm16-prfsha256-ecp256".into()],
            ike_lifetime: "4h".into(),
            esp: vec!["aes128gcm16".into()],
            esp_lifetime: "1h".into(),
            dpd: "{ interval = \"2s\", timeout = \"6s\", action = \"restart\" }".into(),
            extra: Vec::new(),
            set: Vec::new(),
            tunnels: vec![Tunnel {
                name: "a".into(),
                local_address: local.into(),
                remote_address: Some(remote.into()),
                local_id: None,
                remote_id: None,
                psk: "correct horse battery staple".into(),
                inside: None,
                extra: Vec::new(),
            }],
        }
    }

    /// The same that only answers.
    pub fn respond(mut self) -> Self {
        self.start = "respond".into();
        self
    }

    /// The same with another name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    fn write(&self, out: &mut String, directory: &Path) -> Result<()> {
        let mut text = String::new();
        self.write_plain(&mut text, directory)?;
        if !self.set.is_empty() {
            let mut table: toml::Table = text.parse().context("the lab's own configuration")?;
            for (path, value) in &self.set {
                let whole = format!("connection.{}.{path}", self.name);
                set(&mut table, &whole, value).with_context(|| format!("{path} = {value}"))?;
            }
            text = toml::to_string(&table)?;
        }
        out.push_str(&text);
        Ok(())
    }

    fn write_plain(&self, out: &mut String, directory: &Path) -> Result<()> {
        let list = |items: &[String]| {
            let quoted: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            format!("[{}]", quoted.join(", "))
        };
        writeln!(out, "\n[connection.{}]", self.name)?;
        writeln!(out, "local = {}\nremote = {}", list(&self.local), list(&self.remote))?;
        writeln!(out, "start = {:?}\nengine = {:?}\nencap = {:?}", self.start, self.engine, self.encap)?;
        writeln!(out, "ike = {{ proposals = {}, lifetime = {:?} }}", list(&self.ike), self.ike_lifetime)?;
        writeln!(out, "esp = {{ proposals = {}, lifetime = {:?} }}", list(&self.esp), self.esp_lifetime)?;
        writeln!(out, "dpd = {}", self.dpd)?;
        for (key, value) in &self.extra {
            writeln!(out, "{key} = {value}")?;
        }
        for tunnel in &self.tunnels {
            writeln!(out, "\n[connection.{}.tunnel.{}]", self.name, tunnel.name)?;
            writeln!(out, "local_address = {:?}", tunnel.local_address)?;
            let optional = [
                ("remote_address", &tunnel.remote_address),
                ("local_id", &tunnel.local_id),
                ("remote_id", &tunnel.remote_id),
                ("inside", &tunnel.inside),
            ];
            for (key, value) in optional {
                if let Some(value) = value {
                    writeln!(out, "{key} = {value:?}")?;
                }
            }
            let secret = format!("{}-{}.psk", self.name, tunnel.name);
            write_secret(&directory.join(&secret), tunnel.psk.as_bytes())?;
            writeln!(out, "psk_file = {secret:?}")?;
            for (key, value) in &tunnel.extra {
                writeln!(out, "{key} = {value}")?;
            }
        }
        Ok(())
    }
}

/// Sets one key, by its dotted path; an empty value takes it away.
fn set(table: &mut toml::Table, path: &str, value: &str) -> Result<()> {
    let (sections, key) = path.rsplit_once('.').context("a path has a section and a key")?;
    let mut at = table;
    for name in sections.split('.') {
        let entry = at.entry(name).or_insert_with(|| toml::Table::new().into());
        at = entry.as_table_mut().with_context(|| format!("{name} is no section"))?;
    }
    if value.is_empty() {
        at.remove(key);
    } else {
        let mut line: toml::Table = format!("value = {value}").parse()?;
        at.insert(key.to_owned(), line.remove("value").context("no value")?);
    }
    Ok(())
}

/// Where `culvertd` and `culvert` are: `CULVERT_BIN_DIR`, or beside the running program, or under target/.
///
/// # Errors
/// When there is no such program: it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("CULVERT_BIN_DIR") {
        let path = PathBuf::from(directory).join(name);
        return if path.exists() {
            Ok(path)
        } else {
            bail!("CULVERT_BIN_DIR has no {name}: {}", path.display())
        };
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    // target/PROFILE/deps/test-0123 or target/PROFILE/xtask: the same profile first.
    let near = own.ancestors().skip(1).take(2).map(Path::to_path_buf);
    let target = own.ancestors().find(|path| path.ends_with("target"));
    let other =
        target.into_iter().flat_map(|target| ["release", "debug"].map(|profile| target.join(profile)));
    let mut candidates = near.chain(other).map(|directory| directory.join(name));
    candidates
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built; run `cargo xtask build`"))
}

/// Writes culvert.toml and the secrets that it names into a directory.
///
/// # Errors
/// When they cannot be written.
pub fn write_to(directory: &Path, config: &GatewayConfig) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut text = String::from("[gateway]\n");
    for (key, value) in &config.gateway {
        writeln!(text, "{key} = {value}")?;
    }
    if !config.log.is_empty() {
        text.push_str("[log]\n");
    }
    for (key, value) in &config.log {
        writeln!(text, "{key} = {value}")?;
    }
    for connection in &config.connections {
        connection.write(&mut text, directory)?;
    }
    text.push_str(&config.sections);
    for (name, content) in &config.files {
        write_secret(&directory.join(name), content)?;
    }
    let file = directory.join("culvert.toml");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn write_secret(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Into::into)
}

/// A directory with a configuration, and what can be done with it.
#[derive(Debug)]
pub struct Setup {
    scratch: Scratch,
    binaries: Option<PathBuf>,
    /// culvertd has a names file of its own.
    named: bool,
}

impl Setup {
    /// Writes configuration and secrets.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn new(config: &GatewayConfig) -> Result<Self> {
        let setup = Self {
            scratch: Scratch::new("culvert")?,
            binaries: config.binaries.clone(),
            named: config.hosts.is_some(),
        };
        setup.write(config)?;
        if let Some(hosts) = &config.hosts {
            setup.hosts(hosts)?;
        }
        Ok(setup)
    }

    /// Changes what culvertd sees as /etc/hosts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn hosts(&self, text: &str) -> Result<()> {
        fs::write(self.scratch.path().join("hosts"), text).map_err(Into::into)
    }

    /// Writes another configuration in its place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, config: &GatewayConfig) -> Result<()> {
        write_to(self.scratch.path(), config)
    }

    fn binary(&self, name: &str) -> Result<PathBuf> {
        match &self.binaries {
            Some(directory) => Ok(directory.join(name)),
            None => binary(name),
        }
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("culvert.toml")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("culvert.sock")
    }

    /// culvertd with this configuration, as a command inside the namespace.
    ///
    /// # Errors
    /// When it is not built.
    pub fn command(&self, namespace: &Namespace) -> Result<Command> {
        let culvertd = self.binary("culvertd")?;
        let mut command = if self.named {
            // A mount namespace of its own, in which the file lies over the host's.
            let mut command = namespace.command("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c"]);
            command.arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"");
            command.arg(self.scratch.path().join("hosts")).arg(culvertd);
            command
        } else {
            namespace.command(culvertd)
        };
        command.arg("--config").arg(self.config()).arg("--control-socket").arg(self.socket());
        command.args(["--log-format", "text"]).env("NO_COLOR", "1");
        Ok(command)
    }

    /// Runs culvertd where it should refuse to start, and returns what it said.
    ///
    /// # Errors
    /// When it is not built, or still runs after ten seconds.
    pub fn refused(&self, namespace: &Namespace) -> Result<(ExitStatus, String)> {
        self.ends(&mut self.command(namespace)?)
    }

    /// Runs a command made from [`Setup::command`] to its end.
    ///
    /// # Errors
    /// When it still runs after ten seconds.
    pub fn ends(&self, command: &mut Command) -> Result<(ExitStatus, String)> {
        let mut process = Process::spawn("culvertd", command)?;
        let status = process.wait(Duration::from_secs(10))?;
        Ok((status, process.log()))
    }
}

/// A running culvertd.
#[derive(Debug)]
pub struct Culvert {
    process: Process,
    setup: Setup,
    namespace: String,
}

impl Culvert {
    /// Starts culvertd in the namespace and waits for its control socket.
    ///
    /// # Errors
    /// When it is not built or does not start; with its log.
    pub fn start(namespace: &Namespace, config: &GatewayConfig) -> Result<Self> {
        Self::resume(namespace, Setup::new(config)?)
    }

    /// Starts culvertd on what an earlier one left.
    ///
    /// # Errors
    /// As for [`Culvert::start`].
    pub fn resume(namespace: &Namespace, setup: Setup) -> Result<Self> {
        let label = format!("culvertd in {}", namespace.name());
        let process = Process::spawn(label, &mut setup.command(namespace)?)?;
        let mut culvert = Self { process, setup, namespace: namespace.name().to_owned() };
        let started = wait_for("culvertd", Duration::from_secs(30), || match culvert.process.try_wait() {
            Ok(None) => culvert.status().is_ok().then_some(true),
            _ => Some(false),
        });
        if !matches!(started, Ok(true)) {
            bail!("culvertd did not start; its log:\n{}", culvert.log());
        }
        Ok(culvert)
    }

    /// Its configuration, to change it.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The command line tool with these arguments, and what it printed.
    ///
    /// # Errors
    /// When it fails, with its words.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(self.setup.binary("culvert")?)
            .arg("--socket")
            .arg(self.setup.socket())
            .args(arguments))
    }

    /// The same, also when it fails: whether it did well, and what it printed, errors last.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli_any(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new(self.setup.binary("culvert")?);
        let output = command.arg("--socket").arg(self.setup.socket()).args(arguments).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// The command line tool running beside the test.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli_beside(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(self.setup.binary("culvert")?);
        command.arg("--socket").arg(self.setup.socket()).args(arguments);
        Process::spawn(format!("culvert {}", arguments.join(" ")), &mut command)
    }

    /// `culvert status --json`.
    ///
    /// # Errors
    /// When culvertd does not answer or what it says is no JSON.
    pub fn status(&self) -> Result<Value> {
        let text = self.cli(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("`culvert status --json` is no JSON:\n{text}"))
    }

    /// One tunnel of the status.
    ///
    /// # Errors
    /// When culvertd does not answer or has no such tunnel.
    pub fn tunnel(&self, connection: &str, tunnel: &str) -> Result<TunnelStatus> {
        let status = self.status()?;
        let named = |list: &Value, name: &str| -> Option<Value> {
            list.as_array()?.iter().find(|item| item["name"] == name).cloned()
        };
        named(&status["connections"], connection)
            .and_then(|connection| named(&connection["tunnels"], tunnel))
            .map(TunnelStatus)
            .with_context(|| format!("the status has no tunnel {connection}/{tunnel}: {status:#}"))
    }

    /// The tunnel `a` of the connection `site`, which most tests have.
    ///
    /// # Errors
    /// When culvertd does not answer or has no such tunnel.
    pub fn site(&self) -> Result<TunnelStatus> {
        self.tunnel("site", "a")
    }

    /// Waits until the tunnel is up.
    ///
    /// # Errors
    /// When the time is over; with the status and the log.
    pub fn wait_up(&self, connection: &str, tunnel: &str, timeout: Duration) -> Result<TunnelStatus> {
        let what = format!("tunnel {connection}/{tunnel} of culvertd in {}", self.namespace);
        wait_for(&what, timeout, || self.tunnel(connection, tunnel).ok().filter(TunnelStatus::is_up))
            .with_context(|| {
                let status =
                    self.tunnel(connection, tunnel).map_or_else(|e| e.to_string(), |t| format!("{:#}", t.0));
                format!("status: {status}\nculvertd's log:\n{}", self.log())
            })
    }

    /// Waits until `site/a` is up, at most 20 seconds.
    ///
    /// # Errors
    /// When the time is over; with the status and the log.
    pub fn wait_site(&self) -> Result<TunnelStatus> {
        self.wait_up("site", "a", Duration::from_secs(20))
    }

    /// Waits until a tunnel is not up.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_down(&self, connection: &str, tunnel: &str, timeout: Duration) -> Result<TunnelStatus> {
        wait_for(&format!("tunnel {connection}/{tunnel} to go down"), timeout, || {
            self.tunnel(connection, tunnel).ok().filter(|tunnel| !tunnel.is_up())
        })
    }

    /// Rekeys the children of `site` and waits until the inbound SPI is another.
    ///
    /// # Errors
    /// When it does not come to that within five seconds.
    pub fn rekey_child(&self) -> Result<()> {
        let before = self.site()?.spi_in().context("no child to rekey")?;
        self.cli(&["rekey", "site"])?;
        wait_for("Culvert's rekeyed child", Duration::from_secs(60), || {
            self.site().ok()?.spi_in().filter(|spi| *spi != before)
        })
        .map(drop)
        .with_context(|| format!("culvertd's log:\n{}", self.log()))
    }

    /// Rekeys the IKE SA of `site` and waits until its SPIs are others.
    ///
    /// # Errors
    /// When it does not come to that within five seconds.
    pub fn rekey_ike(&self) -> Result<()> {
        let before = self.site()?.ike_spis().context("no IKE SA to rekey")?;
        self.cli(&["rekey", "site", "--ike"])?;
        wait_for("Culvert's rekeyed IKE SA", Duration::from_secs(60), || {
            self.site().ok()?.ike_spis().filter(|spis| *spis != before)
        })
        .map(drop)
        .with_context(|| format!("culvertd's log:\n{}", self.log()))
    }

    /// Everything culvertd has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Everything culvertd has logged, by line.
    pub fn log_lines(&self) -> Vec<String> {
        self.process.lines()
    }

    /// Waits for a log line that contains all of `parts`, in whatever case.
    ///
    /// # Errors
    /// When the time is over; with the log.
    pub fn wait_log(&self, parts: &[&str], timeout: Duration) -> Result<String> {
        let fits = |line: &String| {
            let line = line.to_lowercase();
            parts.iter().all(|part| line.contains(&part.to_lowercase()))
        };
        wait_for(&format!("a log line with {parts:?}"), timeout, || self.log_lines().into_iter().find(fits))
            .with_context(|| format!("culvertd's log:\n{}", self.log()))
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// What has happened to the tunnel `site/a`, wherever it is told: the status's cause and every line of the log.
    pub fn told(&self) -> Vec<String> {
        let cause = self.site().map(|tunnel| tunnel.cause().to_owned()).unwrap_or_default();
        std::iter::once(cause).chain(self.log_lines()).collect()
    }

    /// Takes it off its CPU, or lets it go on: one that polls would slow others down that are measured meanwhile.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&self, pause: bool) -> Result<()> {
        let signal = if pause { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.pid() as i32), signal).context("culvertd has ended")
    }

    /// kill -9.
    pub fn kill(mut self) -> Setup {
        self.process.kill();
        self.setup
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end within ten seconds.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(Duration::from_secs(10))
    }
}

/// A tunnel in `culvert status --json`.
#[derive(Debug, Clone)]
pub struct TunnelStatus(pub Value);

impl TunnelStatus {
    /// Whether its state is `up`.
    pub fn is_up(&self) -> bool {
        self.0["state"] == "up"
    }

    /// The newest child SA.
    pub fn child(&self) -> &Value {
        &self.0["children"][0]
    }

    /// Inbound SPI of the newest child, 8 hexadecimal digits.
    pub fn spi_in(&self) -> Option<String> {
        self.child()["spi_in"].as_str().map(str::to_owned)
    }

    /// Outbound SPI of the newest child.
    pub fn spi_out(&self) -> Option<String> {
        self.child()["spi_out"].as_str().map(str::to_owned)
    }

    /// Initiator's and responder's SPI of the IKE SA.
    pub fn ike_spis(&self) -> Option<(String, String)> {
        let spi = |key: &str| self.0["ike"][key].as_str().map(str::to_owned);
        Some((spi("spi_initiator")?, spi("spi_responder")?))
    }

    /// A number somewhere in the newest child, such as `bytes_in`.
    pub fn count(&self, key: &str) -> u64 {
        self.child()[key].as_u64().unwrap_or(0)
    }

    /// Its interface.
    pub fn interface(&self) -> &str {
        self.0["interface"].as_str().unwrap_or_default()
    }

    /// Why it is not up, as the status says it.
    pub fn cause(&self) -> &str {
        self.0["cause"].as_str().unwrap_or_default()
    }

    /// Packets that were dropped, whether they belonged to a child or not. Link-local ones do not count: they are the
    /// kernel's own IPv6 chatter on a new interface, which no tunnel carries.
    pub fn drops(&self) -> u64 {
        let sum = |drops: &Value| -> u64 {
            let counted =
                drops.as_object().into_iter().flatten().filter(|(reason, _)| *reason != "link-local");
            counted.filter_map(|(_, count)| count.as_u64()).sum()
        };
        let children = self.0["children"].as_array().into_iter().flatten();
        sum(&self.0["drops"]) + children.map(|child| sum(&child["drops"])).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::set;

    #[test]
    fn keys_are_set_by_path() {
        let mut table: toml::Table =
            "[connection.site]\nike = { version = 2, lifetime = \"4h\" }".parse().unwrap();
        set(&mut table, "connection.site.ike.version", "1").unwrap();
        set(&mut table, "connection.site.ike.lifetime", "").unwrap();
        set(&mut table, "connection.site.tunnel.a.pool", "[\"10.9.0.0/24\"]").unwrap();
        let expected =
            "[connection.site.ike]\nversion = 1\n[connection.site.tunnel.a]\npool = [\"10.9.0.0/24\"]";
        assert_eq!(table, expected.parse().unwrap());
        assert!(set(&mut table, "connection.site.ike.version.major", "1").is_err());
    }
}
