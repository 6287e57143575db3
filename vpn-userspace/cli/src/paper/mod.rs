//! The paperwork: commands that read and write configurations, Culvert's own and those of others. Most need no culvertd.

mod export;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use culvert_config::{Config, Connection, DEFAULT_PATH};

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
pub(crate) fn run(command: &Paper, _socket: &Path, out: &mut impl Write) -> Result<ExitCode> {
    match command {
        Paper::Export(export) => export.run(out)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
