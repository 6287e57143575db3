//! `culvert export`: the configuration of the far end.

use std::io::Write;
use std::net::IpAddr;

use anyhow::Result;
use clap::Args;
use culvert_paper::{Options, Side, Target, export};

use super::File;

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Which connection
    connection: String,
    /// What stands at the far end
    #[arg(long = "for", value_name = "TARGET")]
    target: Target,
    /// Write the pre-shared keys, too; placeholders stand for them otherwise
    #[arg(long)]
    with_secrets: bool,
    /// This gateway's address as the far end sees it, where the configuration has none or a NAT changes it
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    #[command(flatten)]
    file: File,
}

impl Export {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<()> {
        let config = self.file.load()?;
        let connection = super::connection(&config, &self.connection)?;
        let mut side = Side::of(&config, connection);
        if let Some(address) = self.address {
            side = side.with_address(address);
        }
        let exported = export(&side, self.target, Options { secrets: self.with_secrets });
        for note in Side::beyond(connection).iter().chain(&exported.notes) {
            eprintln!("culvert: {note}");
        }
        out.write_all(exported.text.as_bytes())?;
        Ok(())
    }
}
