//! `culvert plan` and `culvert apply`: what a reload would change, and doing it.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use culvert_api::{Change, ChangeKind, Reloaded, Request, Response};
use culvert_config::{Config, Effect, Kind};

use super::File;
use crate::client::{Client, ClientError};
use crate::render;

/// The exit code of a plan that has changes: 1 is a failure, 2 wrong usage.
const CHANGES: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// A configuration to compare with the one that --config names; by default the latter is compared with what runs
    with: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: File,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// What culvertd says that a reload would change.
fn asked(client: &mut Client) -> Result<Reloaded> {
    match client.ask(&Request::Plan)? {
        Response::Reload(planned) => Ok(planned),
        other => Err(ClientError::unexpected(&other).into()),
    }
}

impl Plan {
    pub(super) fn run(&self, socket: &Path, out: &mut impl Write) -> Result<ExitCode> {
        let planned = match &self.with {
            None => asked(&mut Client::connect(socket)?)?,
            Some(path) => {
                let (old, new) = (self.config.load()?, super::load(path)?);
                Reloaded { changes: Config::diff(&old, &new).iter().map(change).collect() }
            }
        };
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&planned)?)?;
        } else {
            out.write_all(render::planned(&planned).as_bytes())?;
        }
        out.flush()?;
        Ok(if planned.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
    }
}

impl Apply {
    pub(super) fn run(&self, socket: &Path, out: &mut impl Write) -> Result<()> {
        let mut client = Client::connect(socket)?;
        let planned = asked(&mut client)?;
        out.write_all(render::planned(&planned).as_bytes())?;
        out.flush()?;
        if planned.changes.is_empty() {
            return Ok(());
        }
        if !self.yes && !confirmed("Apply these changes?")? {
            bail!("nothing was changed");
        }
        match client.ask(&Request::Reload)? {
            Response::Reload(reloaded) => out.write_all(render::reloaded(&reloaded).as_bytes())?,
            other => return Err(ClientError::unexpected(&other).into()),
        }
        Ok(())
    }
}

/// Asks on the terminal; without one somebody has to say so beforehand.
pub(super) fn confirmed(question: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("this is no terminal to ask on: add --yes");
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn change(change: &culvert_config::Change) -> Change {
    Change {
        subject: change.subject.to_string(),
        kind: match change.kind {
            Kind::Added => ChangeKind::Added,
            Kind::Removed => ChangeKind::Removed,
            Kind::Changed { .. } => ChangeKind::Changed,
        },
        keys: change.keys().iter().map(ToString::to_string).collect(),
        renegotiate: change.effect() == Effect::Renegotiate,
        restart: change.effect() == Effect::Restart,
    }
}
