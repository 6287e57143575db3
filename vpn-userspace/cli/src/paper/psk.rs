//! `culvert psk`: new pre-shared keys.

use std::io::Write;

use anyhow::Result;
use clap::Subcommand;
use culvert_config::PskRules;
use culvert_crypto::SystemRandom;

#[derive(Debug, Subcommand)]
pub(crate) enum Psk {
    /// Print a new random key
    #[command(after_help = "Examples:\n  \
        culvert psk generate\n  \
        (umask 077; culvert psk generate --for aws > /etc/culvert/secrets/hangzhou-a.psk)")]
    Generate {
        /// Whose rules it keeps: culvert, aws, alibaba, jdcloud or cisco (letters and digits alone)
        #[arg(long = "for", value_name = "WHOM", default_value = "culvert")]
        rules: PskRules,
    },
}

impl Psk {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<()> {
        let Self::Generate { rules } = self;
        writeln!(out, "{}", *rules.generate(&mut SystemRandom::new()))?;
        Ok(())
    }
}
