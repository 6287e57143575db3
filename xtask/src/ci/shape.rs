//! The shape of the house, checked: who may depend on whom, where `unsafe` may stand, what pure crates must not touch,
//! and that every file says what it is for.
use crate::process::{self, cargo, repository};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each crate may use (ARCHITECTURE.md, "The house"). A crate that is not here is a fault.
const ARROWS: &[(&str, &[&str])] = &[
    ("culvert-types", &[]),
    ("culvert-ebpf-shared", &[]),
    ("culvert-api", &[]),
    ("culvert-crypto", &[]),
    ("culvert-pki", &["culvert-crypto"]),
    ("culvert-eap", &["culvert-crypto"]),
    ("culvert-ike", &["culvert-types", "culvert-crypto"]),
    ("culvert-esp", &["culvert-types", "culvert-crypto", "culvert-ebpf-shared"]),
    ("culvert-forward", &[]),
    ("culvert-bgp", &[]),
    ("culvert-gateway", &["culvert-types"]),
    ("culvert-notice", &[]),
    ("culvert-config", &["culvert-types", "culvert-crypto", "culvert-pki", "culvert-ike", "culvert-bgp"]),
    ("culvert-paper", &["culvert-crypto", "culvert-ike", "culvert-config"]),
    ("culvert-doctor", &["culvert-api", "culvert-config", "culvert-pki"]),
    ("culvert-sys", &["culvert-types", "culvert-crypto", "culvert-ebpf-shared"]),
    (
        "culvert-dataplane",
        &[
            "culvert-types",
            "culvert-crypto",
            "culvert-ike",
            "culvert-esp",
            "culvert-sys",
            "culvert-ebpf-shared",
        ],
    ),
    (
        "culvertd",
        &[
            "culvert-types",
            "culvert-crypto",
            "culvert-ike",
            "culvert-esp",
            "culvert-forward",
            "culvert-bgp",
            "culvert-gateway",
            "culvert-notice",
            "culvert-eap",
            "culvert-pki",
            "culvert-config",
            "culvert-sys",
            "culvert-dataplane",
            "culvert-api",
            "culvert-ebpf-shared",
        ],
    ),
    // Paperwork is done where there may be no daemon: on the file itself.
    (
        "culvert",
        &[
            "culvert-api",
            "culvert-crypto",
            "culvert-pki",
            "culvert-ike",
            "culvert-config",
            "culvert-doctor",
            "culvert-paper",
        ],
    ),
    ("culvert-lab", &["culvert-traffic"]),
    ("culvert-load", &["culvert-types", "culvert-crypto", "culvert-pki", "culvert-ike"]),
    ("culvert-traffic", &[]),
    ("culvert-tests", &["culvert-lab", "culvert-traffic"]),
    ("xtask", &["culvert-lab", "culvert-traffic"]),
];

/// Where `unsafe` may stand.
const UNSAFE: [&str; 2] = ["vpn-userspace/sys/", "vpn-ebpf/"];

/// Crates without I/O, clock and randomness of their own.
const PURE: [&str; 7] = [
    "vpn-userspace/crypto/src",
    "vpn-userspace/pki/src",
    "vpn-userspace/ike/src",
    "vpn-userspace/esp/src",
    "vpn-userspace/gateway/src",
    "vpn-userspace/paper/src",
    "vpn-userspace/bgp/src",
];

/// What a pure crate must not say.
const IMPURE: [&str; 12] = [
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "UdpSocket",
    "TcpStream",
    "tokio",
    "SystemRandom",
    "rand::",
    "getrandom",
];

/// Where one of them may stand after all: crypto has the source of randomness that daemons hand to everything else,
/// and ring's key agreement and signatures take no other.
const MAY: &[(&str, &str)] = &[
    ("vpn-userspace/crypto/src/random.rs", "SystemRandom"),
    ("vpn-userspace/crypto/src/random.rs", "rand::"),
    ("vpn-userspace/crypto/src/random.rs", "getrandom"),
    ("vpn-userspace/crypto/src/dh.rs", "rand::"),
    ("vpn-userspace/crypto/src/dh.rs", "SystemRandom"),
    ("vpn-userspace/crypto/src/sign/private.rs", "rand::"),
    ("vpn-userspace/crypto/src/sign/private.rs", "SystemRandom"),
    ("vpn-userspace/crypto/src/lib.rs", "SystemRandom"),
];

/// Crates that may use all others: nobody uses them.
const OUTSIDE: [&str; 1] = ["culvert-benches"];

/// Everything that is wrong, one line each.
pub(super) fn check() -> Result<Vec<String>> {
    let mut faults = arrows()?;
    let mut files = Vec::new();
    for top in ["vpn-userspace", "vpn-ebpf", "tests", "benches", "xtask"] {
        collect(&repository().join(top), &mut files)?;
    }
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(repository()).unwrap_or(&path).display().to_string();
        faults.extend(file(&name, &text));
    }
    Ok(faults)
}

fn arrows() -> Result<Vec<String>> {
    let text = process::text(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cannot read `cargo metadata`")?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` names no packages")?;
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if OUTSIDE.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == name) else {
            faults
                .push(format!("crate {name} has no place in the house yet: add it to xtask/src/ci/shape.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            // Tests may look further.
            if ours.contains(on) && dependency["kind"] != "dev" && !allowed.contains(&on) {
                faults.push(format!("crate {name} must not depend on {on}"));
            }
        }
    }
    Ok(faults)
}

fn file(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.trim_start().starts_with("//!") {
        faults.push(format!("{name}: the first line must be `//!` and say what the file is for"));
    }
    let pure = PURE.iter().any(|start| name.starts_with(start)) && !is_test(name);
    let mut depth_of_tests = false;
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let at = format!("{name}:{}", number + 1);
        if has_word(code, "unsafe") && !UNSAFE.iter().any(|start| name.starts_with(start)) {
            faults.push(format!("{at}: `unsafe` stands only in {}", UNSAFE.join(" and ")));
        }
        // Tests are last in a file.
        depth_of_tests |= code.contains("#[cfg(test)]") || code.contains("feature = \"testing\"");
        if pure && !depth_of_tests {
            let allowed = |word: &str| MAY.iter().any(|(start, may)| name.starts_with(start) && *may == word);
            for word in IMPURE.into_iter().filter(|word| code.contains(word) && !allowed(word)) {
                faults.push(format!(
                    "{at}: `{word}` in a crate that does no I/O and has no clock or randomness"
                ));
            }
        }
    }
    faults
}

/// `unsafe` as a word: not in `unsafe_code`, not in a string that talks of it.
fn has_word(code: &str, word: &str) -> bool {
    let border = |c: Option<char>| c.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '_' | '`' | '"')));
    code.match_indices(word).any(|(at, _)| {
        border(code[..at].chars().next_back()) && border(code[at + word.len()..].chars().next())
    })
}

fn is_test(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    file == "tests.rs"
        || file.ends_with("_tests.rs")
        || file == "testing.rs"
        || name.contains("/tests/")
        || name.contains("/testing/")
}

pub(super) fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found() {
        let check = |name: &str, text: &str| file(name, text).len();
        assert_eq!(check("vpn-userspace/ike/src/a.rs", "//! A.\nfn a() {}\n"), 0);
        assert_eq!(check("vpn-userspace/ike/src/a.rs", "fn a() {}\n"), 1);
        assert_eq!(check("vpn-userspace/ike/src/a.rs", "//! A.\nlet now = Instant::now();\n"), 1);
        assert_eq!(check("vpn-userspace/ike/src/a.rs", "//! A.\n#[cfg(test)]\nInstant::now();\n"), 0);
        assert_eq!(check("vpn-userspace/daemon/src/a.rs", "//! A.\nlet now = Instant::now();\n"), 0);
        let block = concat!("//! A.\nun", "safe { a() }\n");
        assert_eq!(check("vpn-userspace/daemon/src/a.rs", block), 1);
        assert_eq!(check("vpn-userspace/sys/src/a.rs", block), 0);
        assert_eq!(check("vpn-userspace/daemon/src/a.rs", "//! A.\n#![deny(unsafe_code)] // unsafe\n"), 0);
    }

    #[test]
    fn the_house_has_its_shape() {
        let faults = check().unwrap_or_else(|error| vec![format!("{error:#}")]);
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
