//! `culvert import`: another's file becomes a connection.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use culvert_paper::Side;
use culvert_paper::import::{Format, Verdict, import};

use super::{File, Network, edit};

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file, or - for the standard input
    file: PathBuf,
    /// What it is: aws-text, aws-xml, alibaba-json, swanctl, ipsec-conf or cisco-ios; by default what it looks like
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The ipsec.secrets of an ipsec.conf; by default the one beside it
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// The connection's name; by default as in the file
    #[arg(long)]
    name: Option<String>,
    /// Networks of this side, where the file does not say them or others are meant
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    local: Vec<Network>,
    /// Networks of the far side, where the file does not say them or others are meant
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    remote: Vec<Network>,
    /// This gateway's own address, where it is another than the file says (behind a NAT)
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// The file is that of the far end, not of this one
    #[arg(long)]
    mirror: bool,
    /// Add it to the configuration, and write its keys to files of mode 600
    #[arg(long)]
    write: bool,
    /// Show the keys, too
    #[arg(long, conflicts_with = "write")]
    with_secrets: bool,
    #[command(flatten)]
    config: File,
}

/// The largest file that is read, in bytes.
const MOST: u64 = 8 * 1024 * 1024;

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MOST).read_to_end(&mut bytes)?;
    } else {
        let file = fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        file.take(MOST)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{} cannot be read", path.display()))?;
    }
    Ok(bytes)
}

impl Import {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<()> {
        let bytes = read(&self.file)?;
        let beside = self.file.with_file_name("ipsec.secrets");
        let secrets = match &self.secrets {
            Some(path) => Some(read(path)?),
            None => fs::read(beside).ok(),
        };
        let imported = import(&bytes, self.format, secrets.as_deref())
            .with_context(|| format!("{} cannot be imported", self.file.display()))
            .map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let mut sides = imported.sides;
        if self.mirror {
            sides = sides.iter().map(Side::mirror).collect();
        }
        if let Some(name) = &self.name {
            ensure!(sides.len() == 1, "there are {} connections in the file: --name has one", sides.len());
            name.clone_into(&mut sides[0].name);
        }
        for side in &mut sides {
            for (nets, given) in [(&mut side.local, &self.local), (&mut side.remote, &self.remote)] {
                if !given.is_empty() {
                    *nets = given.iter().map(|net| net.0).collect();
                }
            }
            if let Some(address) = self.address {
                *side = side.clone().with_address(address);
            }
        }
        // The report goes where it does not disturb what is printed.
        eprintln!("{} as {}:", self.file.display(), imported.format);
        for finding in &imported.findings {
            match finding.line {
                0 => eprintln!("          {:<8}  {}", finding.verdict.to_string(), finding.text),
                line => eprintln!("line {line:>4} {:<8}  {}", finding.verdict.to_string(), finding.text),
            }
        }
        let open = imported.findings.iter().filter(|finding| finding.verdict == Verdict::Refused).count();
        if open > 0 {
            eprintln!("{open} to CHECK");
        }
        let comments = [format!("From {} ({}).", self.file.display(), imported.format)];
        if !self.write {
            out.write_all(edit::added(&sides, &comments).trim_start().as_bytes())?;
            for (side, tunnel) in sides.iter().flat_map(|side| side.tunnels.iter().map(move |t| (side, t))) {
                let file = edit::psk_file(side, tunnel);
                match &tunnel.psk {
                    Some(psk) if self.with_secrets => {
                        writeln!(out, "# {file}: {}", String::from_utf8_lossy(psk.as_bytes()))?;
                    }
                    Some(_) => {
                        writeln!(out, "# {file} is not written: --write does it, --with-secrets shows it")?
                    }
                    None => writeln!(out, "# {file}: write the key to it, mode 600")?,
                }
            }
            return Ok(());
        }
        for path in edit::add(&self.config.config, &sides, &comments)? {
            writeln!(out, "wrote {}", path.display())?;
        }
        writeln!(out, "`culvert plan` shows what changes, `culvert reload` applies it")?;
        Ok(())
    }
}
