//! One lab of the matrix: a site and a charon that serve one cell after another. culvertd is started anew for each, so
//! that its log is the cell's own.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use culvert_lab::{Site, StrongSwan, wait_for};

use super::{Cell, Expect, Role};
use crate::{Case, Initiator, Pair};

/// What a site must have in common with a case to serve it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Layout {
    nat: bool,
    wan_mtu: Option<u32>,
    culvert_at_a: bool,
    charon: Vec<(String, String)>,
}

impl Layout {
    pub(super) fn of(case: &Case) -> Self {
        let charon = case.charon.clone();
        Self { nat: case.nat, wan_mtu: case.wan_mtu, culvert_at_a: case.culvert_at_a(), charon }
    }

    /// The links are the same, whoever runs on them.
    fn same_site(&self, other: &Self) -> bool {
        (self.nat, self.wan_mtu) == (other.nat, other.wan_mtu)
    }
}

/// What a cell left for the next.
#[derive(Debug, Default)]
pub(super) struct Lab {
    // Before the site: charon ends first.
    standing: Option<(Layout, Option<StrongSwan>, Site)>,
}

impl Lab {
    /// Whose cells it serves at once.
    pub(super) fn layout(&self) -> Option<&Layout> {
        self.standing.as_ref().map(|(layout, ..)| layout)
    }

    /// Runs a cell. After a failure the lab is laid anew.
    pub(super) fn run(&mut self, cell: &Cell, role: Role) -> Result<()> {
        let case = cell.in_role(role);
        let layout = Layout::of(&case);
        let (charon, site) = match self.standing.take() {
            Some((before, charon, site)) if before == layout => (charon, site),
            Some((before, charon, site)) if before.same_site(&layout) => {
                drop(charon);
                (None, site)
            }
            other => {
                drop(other);
                (None, case.site()?)
            }
        };
        let seen = charon.as_ref().map_or(0, |charon| charon.log_len());
        let mut pair = case.start(site, charon)?;
        let told = |pair: &Pair| {
            let theirs = pair.swan.log_since(seen);
            let radius = pair.radius.as_ref().map(|r| format!("--- freeradius\n{}\n", r.log()));
            let ours = pair.culvert.log();
            format!("--- culvertd\n{ours}\n--- charon\n{theirs}\n{}---", radius.unwrap_or_default())
        };
        let judged = match &cell.expect {
            Expect::Up => up(cell, &mut pair),
            Expect::Fails => {
                fails(&pair, &cell.words(role)).and_then(|()| explains(&pair, &cell.explanation(role)))
            }
        };
        // The cause first, then what the two said.
        judged.map_err(|error| anyhow!("{error:#}\n{}", told(&pair)))?;
        ensure!(pair.culvert.stop()?.success(), "culvertd ended badly\n{}", told(&pair));
        let Pair { swan, site, .. } = pair;
        // What culvertd deleted is gone; a charon that holds more would disturb the next cell.
        let clean = wait_for("charon to forget", Duration::from_millis(500), || {
            swan.ike_count().is_ok_and(|count| count == 0).then_some(())
        });
        self.standing = Some((layout, clean.is_ok().then_some(swan), site));
        Ok(())
    }
}

fn up(cell: &Cell, pair: &mut Pair) -> Result<()> {
    pair.connect()?;
    pair.pings()?;
    pair.agree()?;
    if cell.bulk {
        pair.traffic()?;
    }
    for (what, step) in &cell.steps {
        step(pair).with_context(|| format!("step: {what}"))?;
    }
    match (cell.ends_up, cell.steps.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => {
            pair.settle()?;
            pair.pings().and_then(|()| pair.agree()).context("after the last step")
        }
        (false, _) => {
            ensure!(!pair.culvert.site()?.is_up(), "the tunnel is still up");
            Ok(())
        }
    }
}

/// What the operator is told to do about it, in one place.
fn explains(pair: &Pair, words: &[&str]) -> Result<()> {
    if words.is_empty() {
        return Ok(());
    }
    let told = pair.culvert.cli(&["explain", "site"])?;
    for key in ["cause ", "fault ", "to mend ", "rule "] {
        let line = told.lines().find_map(|line| line.trim_start().strip_prefix(key));
        ensure!(line.is_some_and(|line| !line.trim().is_empty()), "no {key}in:\n{told}");
    }
    let lower = told.to_lowercase();
    for word in words {
        ensure!(lower.contains(&word.to_lowercase()), "`culvert explain` does not say {word:?}:\n{told}");
    }
    Ok(())
}

fn fails(pair: &Pair, words: &[&str]) -> Result<()> {
    if pair.case.initiator == Initiator::StrongSwan && pair.swan.initiate("net").is_ok() {
        bail!("strongSwan brought it up");
    }
    // A peer that does not answer is reported with the second retransmission, after 11 s.
    let fits = |line: &String| {
        let lower = line.to_lowercase();
        words.iter().all(|word| lower.contains(&word.to_lowercase()))
    };
    let line = wait_for(&format!("Culvert to say {words:?}"), Duration::from_secs(20), || {
        pair.culvert.told().into_iter().find(fits)
    })?;
    ensure!(line.contains("to mend: "), "it does not say how to mend it: {line}");
    ensure!(!pair.culvert.site()?.is_up(), "it came up");
    ensure!(pair.swan.children()?.is_empty(), "strongSwan has a child");
    Ok(())
}
