//! `cargo xtask features`: what Culvert promises its users, row by row, and whether an end-to-end test proves it.
//!
//! A test belongs to the rows that its name begins with: `b5_balanced_tunnels_share_the_flows`,
//! `c2_c7_probes_go_through_their_own_tunnel`, and in the interop matrix `auth::a1_eap_mschapv2::initiates`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::process::{self, is_root};
use crate::setup;
use crate::test::{END_TO_END, Sum, follow, test_program};

/// Print the table of features with the end-to-end tests that prove them, and their results.
///
/// Needs root, for the namespaces. Ends with 1 if a row has no test, or one that fails.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these rows, such as `b5`; or a letter, for all of its rows.
    rows: Vec<String>,
    /// Only say which tests there are; run none.
    #[arg(long)]
    list: bool,
    /// Write the table to this file as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Number and text of every feature: client-to-site (A), site-to-site to a cloud (B), two public addresses (C), border
/// gateway (D).
const ROWS: [(&str, &str); 36] = [
    ("a1", "IKEv2 client with EAP-MSCHAPv2"),
    ("a2", "IKEv2 client with EAP-TLS, and with certificates alone"),
    ("a3", "IKEv2 server: pool of addresses, DNS, users in a file or by RADIUS"),
    ("a4", "OpenVPN client connections"),
    ("a5", "port forwards, added and removed while running"),
    ("a6", "redundant tunnels behind one listen address"),
    ("a7", "environments isolated from each other"),
    ("a8", "log view by connection, time and level"),
    ("a9", "limits by environment and connection"),
    ("b1", "IKEv1 main mode and IKEv2 with PSK, behind NAT too"),
    ("b2", "ESP tunnel mode with the suites and groups of the clouds"),
    ("b3", "rekeys that lose no packet"),
    ("b4", "dead peer detection: clear, restart, hold"),
    ("b5", "two tunnels, active/active or active/standby"),
    ("b6", "routing static or by BGP"),
    ("b7", "idle tunnels kept up by generated traffic"),
    ("b8", "import of the configuration that a cloud offers"),
    ("b9", "CIDRs changed while other traffic runs"),
    ("b10", "impossible requests refused with cause and mend"),
    ("b11", "firewall rules printed or installed"),
    ("b12", "a doctor that says which phase fails and why"),
    ("b13", "notices by command and webhook"),
    ("c1", "two public addresses to the same gateway"),
    ("c2", "a health check for each tunnel"),
    ("c3", "weighted routes, takeover and controlled return"),
    ("c4", "start at once, on traffic, or respond only"),
    ("c5", "PSK rules and generated PSKs"),
    ("c6", "configuration generated for the other side"),
    ("c7", "reverse routes for the sources of health checks"),
    ("c8", "traffic graphs in which failover is visible"),
    ("d1", "tunnels laid out from the counts of addresses"),
    ("d2", "each tunnel with parameters of its own, recommended defaults, copies"),
    ("d3", "eBGP over inner addresses, static before BGP, propagation"),
    ("d4", "a tunnel disabled, edited and enabled beside the others"),
    ("d5", "status with cause; the cloud's side begins by itself"),
    ("d6", "ping through a given tunnel, with loss and latency"),
];

/// One test: the program that has it, its name, and what came of it.
struct Test {
    program: &'static str,
    name: String,
    passed: Option<bool>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let wanted = |row: &str| {
        args.rows.is_empty()
            || args
                .rows
                .iter()
                .any(|asked| asked == row || (asked.len() == 1 && row.starts_with(asked.as_str())))
    };
    if let Some(unknown) =
        args.rows.iter().find(|asked| !ROWS.iter().any(|(row, _)| row.starts_with(asked.as_str())))
    {
        bail!("there is no feature {unknown}; the rows are {} to {}", ROWS[0].0, ROWS[ROWS.len() - 1].0);
    }
    if !args.list && !is_root() {
        bail!("the end-to-end tests make network namespaces and need root; run it with sudo, or with --list");
    }
    setup::ensure(if args.list { setup::Part::Build } else { setup::Part::All })?;
    process::run(process::cargo().args(["build", "--workspace", "--bins"]))?;

    let mut tests = Vec::new();
    for (program, _, threads) in END_TO_END {
        let path = test_program(program)?;
        let listed = process::text(Command::new(&path).arg("--list"))?;
        let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        let names: Vec<_> = names.filter(|name| rows_of(name).iter().any(|row| wanted(row))).collect();
        let mut outcomes = BTreeMap::new();
        if !args.list && !names.is_empty() {
            println!("\n== {program}");
            let mut sum = Sum::default();
            let mut command = Command::new(&path);
            command.args(["--test-threads", &threads.to_string(), "--exact"]).args(&names);
            command.env("CULVERT_BIN_DIR", process::target_dir().join("debug"));
            follow(&mut command, program, &mut sum)?;
            outcomes = sum.outcomes;
        }
        tests.extend(names.iter().map(|name| Test {
            program,
            name: (*name).to_owned(),
            passed: outcomes.get(*name).copied(),
        }));
    }

    let shown: Vec<_> = ROWS.iter().filter(|(row, _)| wanted(row)).collect();
    let mut complete = true;
    let mut rows = Vec::new();
    println!();
    for (row, text) in shown {
        let of_row: Vec<_> = tests.iter().filter(|test| rows_of(&test.name).contains(row)).collect();
        let result = verdict(&of_row, args.list);
        complete &= result == "passed" || (args.list && result == "listed");
        print!("{}", line(row, text, result, &of_row));
        let of_row = of_row
            .iter()
            .map(|test| json!({"program": test.program, "name": test.name, "passed": test.passed}));
        rows.push(
            json!({"row": row, "feature": text, "result": result, "tests": of_row.collect::<Vec<_>>()}),
        );
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&json!({ "features": rows }))?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The rows that a test's name claims, at the beginning of one of its parts.
fn rows_of(name: &str) -> Vec<&str> {
    name.split("::")
        .flat_map(|part| part.split('_').take_while(|word| ROWS.iter().any(|(row, _)| row == word)))
        .collect()
}

/// Of a row: a test that could not run (a role of the matrix that a peer does not have) counts neither way.
fn verdict(tests: &[&Test], listed: bool) -> &'static str {
    if tests.iter().any(|test| test.passed == Some(false)) {
        "FAILED"
    } else if tests.iter().any(|test| test.passed == Some(true)) {
        "passed"
    } else if listed && !tests.is_empty() {
        "listed"
    } else {
        "missing"
    }
}

fn line(row: &str, text: &str, result: &str, tests: &[&Test]) -> String {
    let mut lines = format!("{:<4}{result:<9}{text}\n", row.to_uppercase());
    // The matrix has dozens of one row: the first ones tell which.
    const SHOWN: usize = 3;
    for test in tests.iter().take(SHOWN) {
        let _ = writeln!(lines, "             {} {}", test.program, test.name);
    }
    if tests.len() > SHOWN {
        let _ = writeln!(lines, "             and {} more", tests.len() - SHOWN);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{ROWS, Test, rows_of, verdict};

    #[test]
    fn names_say_their_rows() {
        assert_eq!(rows_of("failover::b5_balanced_tunnels_share_the_flows"), ["b5"]);
        assert_eq!(rows_of("failover::c2_c7_probes_go_through_their_own_tunnel"), ["c2", "c7"]);
        assert_eq!(rows_of("auth::a1_eap_mschapv2::initiates"), ["a1"]);
        assert!(rows_of("algorithms::aes128_sha1::responds").is_empty());
        assert!(rows_of("b99_no_such_row").is_empty());
    }

    #[test]
    fn one_failure_fails_a_row_and_none_that_ran_leaves_it_missing() {
        let test = |passed| Test { program: "twins", name: "b5_x".into(), passed };
        let (good, bad, not_run) = (test(Some(true)), test(Some(false)), test(None));
        assert_eq!(verdict(&[&good, &bad], false), "FAILED");
        assert_eq!(verdict(&[&good, &not_run], false), "passed");
        assert_eq!(verdict(&[&not_run], false), "missing");
        assert_eq!(verdict(&[], true), "missing");
    }

    #[test]
    fn the_rows_are_in_order_and_unique() {
        let key = |row: &str| (row.as_bytes()[0], row[1..].parse::<u8>().unwrap());
        assert!(ROWS.windows(2).all(|two| key(two[0].0) < key(two[1].0)));
    }
}
