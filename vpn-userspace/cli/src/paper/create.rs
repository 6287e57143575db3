//! `culvert connection create`: a new connection from flags, or from answers where a terminal is there to ask on.

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use culvert_config::{Profile, PskRules, Remote, Start};
use culvert_crypto::SystemRandom;
use culvert_ike::Psk;
use culvert_paper::{Bgp, Side, Tunnel, layout};

use super::plan::confirmed;
use super::{File, Inside, Network, edit};

#[derive(Debug, Subcommand)]
pub(crate) enum Connection {
    /// Add a connection to the configuration
    #[command(
        after_help = "Tunnels are laid from the counts of addresses: one for each of the end that has more. With two of the cloud: one each \
        for two\nof this side, two each for four. The first tunnel is active, and the next in line goes to another address of \
        the cloud.\nWhat is not given is asked for on a terminal. Where no key is given, each tunnel gets a new one, by the \
        rules of PROFILE.\nIt needs no culvertd.\n\n\
        Examples:\n  \
        culvert connection create\n  \
        culvert connection create hangzhou --remote-address 203.0.113.21,203.0.113.22 --local 192.168.0.0/24 \\\n      \
        --remote 172.16.0.0/16 --profile alibaba"
    )]
    Create(Create),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name: letters, digits, `-` and `_`
    name: Option<String>,
    /// Addresses of the far end: 1, 2 or 4
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    remote_address: Vec<IpAddr>,
    /// Addresses of this end: 1, 2 or 4; by default the WAN's
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    local_address: Vec<IpAddr>,
    /// Networks of this side
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    local: Vec<Network>,
    /// Networks of the far side
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    remote: Vec<Network>,
    /// What is offered: modern, compatible, cnsa2, aws, alibaba, jdcloud or cisco
    #[arg(long, value_parser = profile)]
    profile: Option<Profile>,
    /// IKE's version
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    ike: u8,
    /// Addresses of this end inside the tunnels, in their order, such as 169.254.10.2/30
    #[arg(long, value_name = "ADDRESS/LENGTH", value_delimiter = ',')]
    inside: Vec<Inside>,
    /// Learn routes by BGP from this autonomous system, over the inner addresses; static routes otherwise
    #[arg(long, value_name = "AS", requires = "inside")]
    remote_asn: Option<u32>,
    /// Files with the keys of the tunnels, in their order; one for all, or none for new ones
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    psk_file: Vec<PathBuf>,
    /// Who begins: immediate, on-traffic or respond
    #[arg(long, default_value = "immediate", value_parser = start)]
    start: Start,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Check and show, but write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: File,
}

const PROFILES: [Profile; 7] = [
    Profile::Modern,
    Profile::Compatible,
    Profile::Cnsa2,
    Profile::Aws,
    Profile::Alibaba,
    Profile::JdCloud,
    Profile::Cisco,
];

fn profile(text: &str) -> Result<Profile, String> {
    PROFILES.into_iter().find(|profile| profile.as_str() == text).ok_or_else(|| {
        let all: Vec<&str> = PROFILES.iter().map(|profile| profile.as_str()).collect();
        format!("there are: {}", all.join(", "))
    })
}

fn start(text: &str) -> Result<Start, String> {
    match text {
        "immediate" => Ok(Start::Immediate),
        "on-traffic" => Ok(Start::OnTraffic),
        "respond" => Ok(Start::Respond),
        _ => Err("write immediate, on-traffic or respond".to_owned()),
    }
}

/// What was given, or the answer to a question.
fn or_ask<T: FromStr>(given: Vec<T>, flag: &str, question: &str) -> Result<Vec<T>>
where
    T::Err: std::fmt::Display,
{
    if !given.is_empty() {
        return Ok(given);
    }
    if !io::stdin().is_terminal() {
        bail!("--{flag} is missing");
    }
    loop {
        eprint!("{question}: ");
        let mut answer = String::new();
        ensure!(io::stdin().read_line(&mut answer)? > 0, "--{flag} is missing");
        let words = answer.split([',', ' ', '\n']).map(str::trim).filter(|word| !word.is_empty());
        match words.map(T::from_str).collect::<Result<Vec<T>, _>>() {
            Ok(all) if !all.is_empty() => return Ok(all),
            Ok(_) => {}
            Err(error) => eprintln!("  {error}"),
        }
    }
}

impl Connection {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<()> {
        let Self::Create(create) = self;
        create.run(out)
    }
}

impl Create {
    fn run(&self, out: &mut impl Write) -> Result<()> {
        let names = self.name.clone().into_iter().collect();
        let name: String = or_ask(names, "name (the first argument)", "Name of the connection")?.remove(0);
        let remote_addresses =
            or_ask(self.remote_address.clone(), "remote-address", "Addresses of the far end (1, 2 or 4)")?;
        let local = or_ask(self.local.clone(), "local", "Networks of this side")?;
        let remote = or_ask(self.remote.clone(), "remote", "Networks of the far side")?;
        let profile = match self.profile {
            Some(profile) => profile,
            None if io::stdin().is_terminal() && self.name.is_none() => {
                let all: Vec<&str> = PROFILES.iter().map(|p| p.as_str()).collect();
                let question = format!("Profile ({})", all.join(", "));
                let word: String = or_ask(Vec::new(), "profile", &question)?.remove(0);
                self::profile(&word).map_err(|error| anyhow::anyhow!(error))?
            }
            None => Profile::Modern,
        };
        let rules = match profile {
            Profile::Aws => PskRules::Aws,
            Profile::Alibaba => PskRules::Alibaba,
            Profile::JdCloud => PskRules::JdCloud,
            Profile::Cisco => PskRules::Cisco,
            Profile::Modern | Profile::Compatible | Profile::Cnsa2 => PskRules::Culvert,
        };
        let laid = layout(&self.local_address, &remote_addresses)?;
        ensure!(
            self.inside.is_empty() || self.inside.len() == laid.len(),
            "there are {} tunnels and {} inner addresses: give each tunnel one",
            laid.len(),
            self.inside.len()
        );
        ensure!(
            matches!(self.psk_file.len(), 0 | 1) || self.psk_file.len() == laid.len(),
            "there are {} tunnels and {} keys: give one for all, or one for each",
            laid.len(),
            self.psk_file.len()
        );
        let mut tunnels = Vec::new();
        for (index, laid) in laid.iter().enumerate() {
            let psk = match self.psk_file.get(index).or(self.psk_file.first()) {
                Some(path) => {
                    let text = std::fs::read_to_string(path)
                        .with_context(|| format!("{} cannot be read", path.display()))?;
                    let key = text.trim_end_matches(['\r', '\n']);
                    rules.check(key.as_bytes()).with_context(|| {
                        format!("the key in {} is not one for profile {}", path.display(), profile.as_str())
                    })?;
                    Psk::new(key.as_bytes())?
                }
                None => Psk::new(rules.generate(&mut SystemRandom::new()).as_bytes())?,
            };
            tunnels.push(Tunnel {
                name: char::from(b'a' + u8::try_from(index).unwrap_or(0)).to_string(),
                local_address: laid.local,
                remote_address: Remote::Address(laid.remote),
                local_id: None,
                remote_id: None,
                psk: Some(psk),
                proof: None,
                inside: self.inside.get(index).map(|net| net.0).into_iter().collect(),
                far_inside: Vec::new(),
                weight: laid.weight,
                enabled: true,
            });
        }
        let side = Side {
            name,
            version: self.ike,
            aggressive: false,
            local: local.into_iter().map(|net| net.0).collect(),
            remote: remote.into_iter().map(|net| net.0).collect(),
            start: self.start,
            profile: Some(profile),
            ike: Vec::new(),
            esp: Vec::new(),
            ike_lifetime: None,
            esp_lifetime: None,
            dpd: None,
            udp: false,
            each: false,
            bgp: match self.remote_asn {
                Some(remote) => Some(Bgp { local: self.config.load()?.gateway.bgp.asn, remote }),
                None => None,
            },
            mtu: None,
            tunnels,
        };
        let sides = [side];
        // Checked before it is shown: what is wrong is wrong whatever the answer would be.
        edit::check(&self.config.config, &sides, &[])?;
        for line in edit::added(&sides, &[]).lines() {
            writeln!(out, "{}", format!("+ {line}").trim_end())?;
        }
        out.flush()?;
        if self.dry_run {
            return Ok(());
        }
        if !self.yes
            && io::stdin().is_terminal()
            && !confirmed(&format!("Add it to {}?", self.config.config.display()))?
        {
            bail!("nothing was changed");
        }
        for path in edit::add(&self.config.config, &sides, &[])? {
            writeln!(out, "wrote {}", path.display())?;
        }
        let generated = self.psk_file.is_empty();
        if generated {
            writeln!(
                out,
                "the far end needs the keys in these files: `culvert export {} --for TARGET --with-secrets`",
                sides[0].name
            )?;
        }
        writeln!(out, "`culvert plan` shows what changes, `culvert reload` applies it")?;
        Ok(())
    }
}
