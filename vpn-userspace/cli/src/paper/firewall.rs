//! `culvert firewall`: the rules that connections need, printed or installed.
//!
//! A verdict of one table does not keep another from dropping the packet: so the rules are put at the head of every chain that
//! filters what this host gets or sends, and, to be seen and counted, into a table of our own.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use culvert_paper::firewall::{Direction, Rule, rules, table};
use serde_json::Value;

use super::File;

#[derive(Debug, Args)]
pub(crate) struct Firewall {
    /// Only for this connection; by default for all
    #[arg(conflicts_with = "remove")]
    connection: Option<String>,
    /// How they are printed: text, or nft (a script for `nft -f`)
    #[arg(long, default_value = "text", value_parser = ["text", "nft"], conflicts_with_all = ["install", "remove"])]
    format: String,
    /// Install them with nftables, in place of those installed before
    #[arg(long, conflicts_with = "connection")]
    install: bool,
    /// Take the installed ones away
    #[arg(long, conflicts_with = "install")]
    remove: bool,
    #[command(flatten)]
    config: File,
}

impl Firewall {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<()> {
        if self.remove {
            let script = script(&listed()?, &[]);
            nft(&format!("{script}table inet culvert\ndelete table inet culvert\n"))?;
            writeln!(out, "removed")?;
            return Ok(());
        }
        let config = self.config.load()?;
        let rules = match &self.connection {
            Some(name) => rules(&config, [super::connection(&config, name)?]),
            None => rules(&config, &config.connections),
        };
        for rule in rules.iter().filter(|rule| rule.name.is_some() && rule.direction == Direction::In) {
            eprintln!("culvert: {} has a name for its far end: its rules let any address in", rule.tunnel);
        }
        if self.install {
            let listed = listed()?;
            nft(&format!("{}{}", script(&listed, &rules), table(&rules)))?;
            let chains = chains(&listed).len();
            writeln!(
                out,
                "installed {} rules in table inet culvert and in {chains} chains of others",
                rules.len()
            )?;
        } else if self.format == "nft" {
            out.write_all(table(&rules).as_bytes())?;
        } else {
            let width = rules.iter().map(|rule| rule.tunnel.len()).max().unwrap_or(0);
            for rule in &rules {
                writeln!(out, "{:<width$}  {rule}", rule.tunnel)?;
            }
        }
        Ok(())
    }
}

/// A chain of somebody else's that filters what this host gets or sends.
struct Chain {
    family: String,
    table: String,
    name: String,
    direction: Direction,
}

fn chains(listed: &Value) -> Vec<Chain> {
    let all = listed["nftables"].as_array().into_iter().flatten().filter_map(|object| object.get("chain"));
    all.filter_map(|chain| {
        let text = |key: &str| chain[key].as_str().map(str::to_owned);
        let direction = match chain["hook"].as_str()? {
            "input" => Direction::In,
            "output" => Direction::Out,
            _ => return None,
        };
        let (family, table, name) = (text("family")?, text("table")?, text("name")?);
        let ours = family == "inet" && table == "culvert";
        let filters = chain["type"] == "filter" && matches!(family.as_str(), "inet" | "ip" | "ip6");
        (filters && !ours).then_some(Chain { family, table, name, direction })
    })
    .collect()
}

/// What nftables has now.
fn listed() -> Result<Value> {
    let output = Command::new("nft")
        .args(["--json", "list", "ruleset"])
        .output()
        .context("nft cannot be run; install nftables, or use --format text for another firewall")?;
    if !output.status.success() {
        bail!("nft cannot list the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("nft says something that is no JSON")
}

/// Takes ours out of the chains of others, and puts these in.
fn script(listed: &Value, rules: &[Rule]) -> String {
    let mut text = String::new();
    let all = listed["nftables"].as_array().into_iter().flatten().filter_map(|object| object.get("rule"));
    for rule in all {
        let ours = rule["comment"].as_str().is_some_and(|comment| comment.starts_with("culvert: "));
        let at =
            [&rule["family"], &rule["table"], &rule["chain"]].map(|value| value.as_str().unwrap_or_default());
        if ours
            && at[..2] != ["inet", "culvert"]
            && let Some(handle) = rule["handle"].as_u64()
        {
            text.push_str(&format!("delete rule {} {} {} handle {handle}\n", at[0], at[1], at[2]));
        }
    }
    for chain in chains(listed) {
        for rule in rules.iter().filter(|rule| rule.direction == chain.direction) {
            if let Some(line) = rule.nft(&chain.family, "") {
                text.push_str(&format!(
                    "insert rule {} {} {} {line}\n",
                    chain.family, chain.table, chain.name
                ));
            }
        }
    }
    text
}

/// All of a script, or nothing of it.
fn nft(script: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft cannot be run; install nftables, or use --format text for another firewall")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "nft refused the rules, nothing was changed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chains_that_filter_this_hosts_packets_are_touched() {
        let listed: Value = serde_json::from_str(
            r#"{"nftables": [
            {"metainfo": {}},
            {"chain": {"family": "inet", "table": "fw", "name": "in", "type": "filter", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "nat", "name": "post", "type": "nat", "hook": "postrouting"}},
            {"chain": {"family": "ip", "table": "fw", "name": "out", "type": "filter", "hook": "output"}},
            {"chain": {"family": "inet", "table": "culvert", "name": "input", "type": "filter", "hook": "input"}},
            {"rule": {"family": "inet", "table": "fw", "chain": "in", "handle": 7, "comment": "culvert: a/a"}},
            {"rule": {"family": "inet", "table": "fw", "chain": "in", "handle": 8, "comment": "mine"}},
            {"rule": {"family": "inet", "table": "culvert", "chain": "input", "handle": 9, "comment": "culvert: a/a"}}
        ]}"#,
        )
        .unwrap();
        assert_eq!(script(&listed, &[]), "delete rule inet fw in handle 7\n");
        let rule = |direction| Rule {
            tunnel: "a/a".into(),
            direction,
            packets: culvert_paper::firewall::Packets::Esp,
            local: None,
            remote: Some("203.0.113.1".parse().unwrap()),
            name: None,
        };
        let text = script(&listed, &[rule(Direction::In), rule(Direction::Out)]);
        let want = "delete rule inet fw in handle 7\n\
            insert rule inet fw in ip saddr 203.0.113.1 meta l4proto esp accept comment \"culvert: a/a\"\n\
            insert rule ip fw out ip daddr 203.0.113.1 meta l4proto esp accept comment \"culvert: a/a\"\n";
        assert_eq!(text, want);
    }
}
