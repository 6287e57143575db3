//! The paperwork: commands that read and write configurations, Culvert's own and those of others. Most need no culvertd.

mod create;
mod edit;
mod export;
mod firewall;
mod import;
mod plan;
mod psk;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use culvert_config::{Config, Connection, DEFAULT_PATH};
use ipnet::IpNet;

#[derive(Debug, Subcommand)]
pub(crate) enum Paper {
    /// Write the configuration for the device at the far end of a connection
    #[command(
        after_help = "TARGET is cisco-ios, h3c, huawei, juniper, fortios, routeros, strongswan, libreswan, aws-json, \
        alibaba-json or culvert. What the\ntarget cannot say stands in its comments and on the standard error. It needs no culvertd.\n\n\
        Examples:\n  \
        culvert export hangzhou --for cisco-ios > hangzhou.ios\n  \
        culvert export hangzhou --for strongswan --with-secrets --address 198.51.100.20"
    )]
    Export(export::Export),
    /// Make a connection of what a cloud lets one download, or of another device's configuration
    #[command(
        after_help = "It reads AWS's generic text and XML, Alibaba Cloud's JSON, strongSwan's swanctl.conf and ipsec.conf, Cisco IOS crypto maps\nand \
        tunnel interfaces, and says of each line what became of it. Without --write it only prints. It needs no culvertd.\n\n\
        Examples:\n  \
        culvert import vpn-0a1b.txt --local 192.168.0.0/24 --remote 172.16.0.0/16\n  \
        culvert import vpn-0a1b.txt --local 192.168.0.0/24 --remote 172.16.0.0/16 --name aws --write\n  \
        culvert import /etc/swanctl/swanctl.conf --write"
    )]
    Import(import::Import),
    /// Make connections
    #[command(subcommand)]
    Connection(create::Connection),
    /// Show what `culvert reload` would change, and what it takes
    #[command(
        after_help = "Exit codes: 0 nothing changes, 3 something does, 1 failed (a configuration with a mistake, too), 2 wrong usage.\n\n\
        Examples:\n  \
        culvert plan\n  \
        culvert plan new.toml    compares two files, and needs no culvertd"
    )]
    Plan(plan::Plan),
    /// Show what `culvert reload` would change, ask, and do it
    Apply(plan::Apply),
    /// Print or install the firewall rules that connections need: UDP 500 and 4500, and ESP
    #[command(
        after_help = "--install puts them, by nft, at the head of every chain that filters what this host gets or sends: a chain that \
        drops would\nhave the last word otherwise. They also stand in a table of their own, inet culvert, which counts. \
        Install them again after\nthe firewall was loaded anew.\n\n\
        Examples:\n  \
        culvert firewall hangzhou\n  \
        culvert firewall --install\n  \
        culvert firewall --remove"
    )]
    Firewall(firewall::Firewall),
    /// Make pre-shared keys
    #[command(subcommand)]
    Psk(psk::Psk),
}

/// An address of an interface with the length of its network's prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside(pub(crate) IpNet);

impl FromStr for Inside {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim().parse().map(Self).map_err(|_| "write it like 169.254.10.2/30".to_owned())
    }
}

/// A network, by its first address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network(pub(crate) IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().parse::<IpNet>() {
            Ok(net) if net == net.trunc() => Ok(Self(net)),
            Ok(net) => Err(format!("write {}", net.trunc())),
            Err(_) => Err("write an address and a prefix length, such as 192.168.0.0/24".to_owned()),
        }
    }
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(crate) struct File {
    /// The configuration of culvertd
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(crate) config: PathBuf,
}

impl File {
    pub(crate) fn load(&self) -> Result<Config> {
        load(&self.config)
    }
}

/// The configuration, or every mistake in it.
pub(crate) fn load(path: &Path) -> Result<Config> {
    Config::load(path).map_err(|error| anyhow::anyhow!("{}", error.render(false).trim()))
}

/// A connection of it, or which there are.
pub(crate) fn connection<'a>(config: &'a Config, name: &str) -> Result<&'a Connection> {
    config.connection(name).with_context(|| {
        let names: Vec<&str> = config.connections.iter().map(|c| c.name.as_str()).collect();
        if names.is_empty() {
            format!("there is no connection {name}: the configuration has none")
        } else {
            format!("there is no connection {name}; there are: {}", names.join(", "))
        }
    })
}

/// Does what is asked.
pub(crate) fn run(command: &Paper, socket: &Path, out: &mut impl Write) -> Result<ExitCode> {
    match command {
        Paper::Export(export) => export.run(out)?,
        Paper::Import(import) => import.run(out)?,
        Paper::Psk(psk) => psk.run(out)?,
        Paper::Connection(connection) => connection.run(out)?,
        Paper::Plan(plan) => return plan.run(socket, out),
        Paper::Apply(apply) => apply.run(socket, out)?,
        Paper::Firewall(firewall) => firewall.run(out)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
