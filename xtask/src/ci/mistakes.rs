//! The regressions: classes of mistakes that VPN daemons have made in public, and the tests that stand for each. A test
//! names its class in its documentation: `Public mistake: amplification`.
use super::shape;
use crate::process::repository;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;

/// Every class. One without a test is a fault.
const CLASSES: [&str; 23] = [
    "internal value on the wire",
    "cross-version payloads",
    "missing payload",
    "lengths",
    "proposals",
    "DH values",
    "state order",
    "log path",
    "fragments",
    "reflection",
    "traffic selectors",
    "dead state",
    "no integrity check",
    "auth bypass",
    "signatures",
    "certificates",
    "EAP",
    "identity",
    "amplification",
    "counters",
    "inner parsing",
    "pad length",
    "local API",
];

const MARK: &str = "/// Public mistake: ";

/// How many tests stand for each class.
pub(crate) fn regressions() -> Result<BTreeMap<&'static str, usize>> {
    let mut files = Vec::new();
    for top in ["vpn-userspace", "vpn-ebpf", "tests"] {
        shape::collect(&repository().join(top), &mut files)?;
    }
    let mut found: BTreeMap<_, _> = CLASSES.into_iter().map(|class| (class, 0)).collect();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for mark in text.lines().filter_map(|line| line.trim_start().strip_prefix(MARK)) {
            // The class, and no longer word that begins like it.
            let stands = |class: &&str| {
                mark.strip_prefix(class).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            };
            match CLASSES.iter().find(|class| stands(class)).and_then(|class| found.get_mut(class)) {
                Some(count) => *count += 1,
                None => anyhow::bail!("{}: no class of public mistakes: {mark}", path.display()),
            }
        }
    }
    Ok(found)
}

/// One line for people.
pub(crate) fn summary() -> Result<String> {
    let found = regressions()?;
    let tests: usize = found.values().sum();
    Ok(format!("regressions: {tests} tests for {} classes of public mistakes", found.len()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_public_mistake_has_a_regression() {
        let found = super::regressions().unwrap_or_else(|error| panic!("{error:#}"));
        let bare: Vec<_> = found.iter().filter(|(_, tests)| **tests == 0).map(|(class, _)| class).collect();
        assert!(bare.is_empty(), "no test says `Public mistake:` and {bare:?}");
    }
}
