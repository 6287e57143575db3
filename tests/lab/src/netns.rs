//! Network namespaces, the links between them and commands inside them.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::process::{Process, run};
use crate::{cleanup, wait_for};

/// A network namespace; deleted on drop, unless it was made to stay.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    stays: bool,
}

impl Namespace {
    /// Makes one with a unique name, in which packets are forwarded and IPv6 addresses are usable at once.
    ///
    /// # Errors
    /// When the kernel refuses: most often for want of root.
    pub fn new(label: &str) -> Result<Self> {
        cleanup::start();
        let namespace = Self { name: cleanup::unique(label), stays: false };
        cleanup::register(&namespace.name);
        namespace.create()?;
        Ok(namespace)
    }

    /// Makes one with exactly this name that outlives the process.
    ///
    /// # Errors
    /// As for [`Namespace::new`], and when the name is taken.
    pub fn lasting(name: &str) -> Result<Self> {
        let namespace = Self { name: name.to_owned(), stays: true };
        namespace.create()?;
        Ok(namespace)
    }

    /// One that exists already, and stays.
    pub fn existing(name: &str) -> Option<Self> {
        let namespace = Self { name: name.to_owned(), stays: true };
        namespace.path().exists().then_some(namespace)
    }

    fn create(&self) -> Result<()> {
        run(Command::new("ip").args(["netns", "add", &self.name])).with_context(|| {
            format!("cannot make the network namespace {}; the lab needs root", self.name)
        })?;
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        for scope in ["all", "default"] {
            self.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            // Traffic that comes in on one path and leaves on another is the point here.
            self.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        }
        // Failures must be told at once, not at one a second.
        self.sysctl("net/ipv4/icmp_ratelimit", "0")?;
        self.sysctl("net/ipv6/icmp/ratelimit", "0")?;
        self.ip("link set dev lo up")
    }

    /// Its name, as in `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that will run inside, and be killed should this process die.
    /// Only the network is entered: /sys/fs/bpf stays visible, which `ip netns exec` would hide.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// Runs a program inside to its end; returns what it printed.
    ///
    /// # Errors
    /// When it fails, with its words.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(program).args(arguments))
    }

    /// Starts a program inside. `program` with its arguments, separated by spaces.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command_line: &str) -> Result<Process> {
        let mut words = command_line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        Process::spawn(format!("{program} in {}", self.name), self.command(program).args(words))
    }

    /// `ip` inside, with arguments separated by spaces.
    ///
    /// # Errors
    /// When `ip` fails, with its words.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace())).map(drop)
    }

    /// What `ip ARGUMENTS` prints inside.
    ///
    /// # Errors
    /// When `ip` fails, with its words.
    pub fn ip_text(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Writes a file under /proc/sys, for example `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When the kernel has no such file or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.within(|| std::fs::write(format!("/proc/sys/{key}"), value))?
            .with_context(|| format!("sysctl {key}={value} in {}", self.name))
    }

    /// Runs `work` on a thread of its own inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("no network namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, nix::Error>(work())
            });
            match inside.join() {
                Ok(result) => result.with_context(|| format!("cannot enter {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Names of the interfaces inside.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let text = self.ip_text("-o link show")?;
        // `2: wan@if3: <…`
        let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
        Ok(text.lines().filter_map(name).collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.stays {
            cleanup::remove(&self.name);
        }
    }
}

/// One end of a link: where, under which name, with which addresses (CIDR).
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The interface's name in it.
    pub name: &'a str,
    /// Addresses with prefix length.
    pub addresses: &'a [&'a str],
}

/// Joins two namespaces by a veth pair as a network card would: GRO on, a queue, up, addressed.
///
/// # Errors
/// When the kernel refuses a step.
pub fn link(a: End<'_>, b: End<'_>, mtu: Option<u32>) -> Result<()> {
    run(Command::new("ip")
        .args(["link", "add", "dev", a.name, "netns", a.namespace.name(), "type", "veth"])
        .args(["peer", "name", b.name, "netns", b.namespace.name()]))?;
    for end in [a, b] {
        if let Some(mtu) = mtu {
            end.namespace.ip(&format!("link set dev {} mtu {mtu}", end.name))?;
        }
        // veth comes without GRO; without a queue it drops bursts instead of holding the sender back.
        end.namespace.run("tc", &["qdisc", "add", "dev", end.name, "root", "pfifo"])?;
        end.namespace.ip(&format!("link set dev {} up", end.name))?;
        // While it is up: else its peer would not say that it takes frames from XDP.
        end.namespace.run("ethtool", &["-K", end.name, "gro", "on"])?;
        for address in end.addresses {
            let flags = if address.contains(':') { "nodad" } else { "" };
            end.namespace.ip(&format!("addr add {address} dev {} {flags}", end.name))?;
        }
    }
    let up = || {
        let text = a.namespace.ip_text(&format!("-o link show dev {}", a.name)).ok()?;
        text.contains("LOWER_UP").then_some(())
    };
    wait_for("the carrier of a new link", std::time::Duration::from_secs(3), up)
}
