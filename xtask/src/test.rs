//! `cargo xtask test`: every test there is, and one line at the end that sums them up.
use crate::ci::mistakes;
use crate::process::{self, cargo, is_root, shown};
use crate::setup;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Run every test: unit, end to end against strongSwan in network namespaces, and under other kernels in QEMU.
///
/// Needs root, for the namespaces. Ends with `N passed, N failed`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the unit tests; needs no root.
    #[arg(long, conflicts_with_all = ["end_to_end", "vm"])]
    unit: bool,
    /// Only the end-to-end tests in network namespaces.
    #[arg(long, conflicts_with = "vm")]
    end_to_end: bool,
    /// Only the tests under other kernels.
    #[arg(long)]
    vm: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

impl Args {
    /// Without any restriction.
    pub(crate) fn everything() -> Self {
        Self { unit: false, end_to_end: false, vm: false, filter: None }
    }
}

/// The end-to-end tests, in the order in which they run: tests/tests/NAME.rs. Each of the last column runs so many
/// at a time: more than the cores, because most of their time is waiting.
pub(crate) const END_TO_END: [(&str, &str, usize); 6] = [
    ("lab", "the lab itself (strongSwan with strongSwan)", 2),
    ("twins", "Culvert with Culvert", 2),
    ("matrix", "Culvert with strongSwan", 4),
    ("bad_input", "bad input", 4),
    ("lifecycle", "life and death of culvertd", 3),
    ("clients", "many clients of one tunnel", 1),
];

/// What has been counted.
#[derive(Default)]
pub(crate) struct Sum {
    passed: usize,
    failed: Vec<String>,
    ignored: usize,
    /// Whether each test passed that ran, by its name.
    pub(crate) outcomes: BTreeMap<String, bool>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let all = !(args.unit || args.end_to_end || args.vm);
    if !args.unit && !is_root() {
        bail!("the end-to-end tests make network namespaces and need root; run it with sudo, or with --unit");
    }
    setup::ensure(if args.unit { setup::Part::Build } else { setup::Part::All })?;
    let start = Instant::now();
    let mut sum = Sum::default();

    headline("building");
    // One profile for everything: on two cores a second build would cost more than it brings. And every call names the
    // whole workspace: of a part, cargo would build with other features, and half of the dependencies again.
    process::run(cargo().args(["build", "--workspace", "--bins", "--tests", "--examples"]))?;

    let filter = args.filter.as_deref();
    if all || args.unit {
        headline("unit and protocol tests");
        let mut command = cargo();
        command.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
        for name in integration_tests()? {
            command.args(["--test", &name]);
        }
        // This kernel runs all that these run, in tests of its own.
        command.args(["--", "--skip", "pass_on_other_kernels"]);
        follow(command.args(filter), "", &mut sum)?;
        let mut command = cargo();
        command.args(["test", "--workspace", "--no-fail-fast", "--doc", "--"]);
        follow(command.args(filter), "", &mut sum)?;
        println!("{}", mistakes::summary()?);
    }
    if all || args.end_to_end {
        for (name, title, threads) in END_TO_END {
            headline(title);
            let mut command = cargo();
            command.args(["test", "--workspace", "--test", name, "--"]);
            command.args(["--test-threads", &threads.to_string()]).args(filter);
            command.env("CULVERT_BIN_DIR", process::target_dir().join("debug"));
            follow(&mut command, name, &mut sum)?;
        }
    }
    if all || args.vm {
        in_vm(filter, &mut sum)?;
    }

    headline(&format!("done in {} s", start.elapsed().as_secs()));
    if sum.ignored > 0 {
        println!("{} ignored", sum.ignored);
    }
    for name in &sum.failed {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", sum.passed, sum.failed.len());
    Ok(if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// This very program, also when the build of the workspace has put another in its place meanwhile.
const MYSELF: &str = "/proc/self/exe";

/// Test programs that run under another kernel too, with the part of them that does (all, if empty).
type InVm = &'static [(&'static str, &'static str)];

/// The classifier loads and judges packets; the kernel's ESP treats the corpus as ours does; AF_XDP carries packets past
/// the stack.
const EVERYWHERE: InVm =
    &[("guard", ""), ("behaviour", "xfrm_"), ("gateways", "frames_pass_on_other_kernels")];
/// The corpus, AF_XDP, the engine `bpf`, links with VLAN tags, and tunnels of the engine `xfrm` with Culvert and its calls to
/// the kernel. The classifier runs on the oldest and the newest kernel, and on the host's.
const WITH_CULVERT: InVm = &[
    ("behaviour", "xfrm_"),
    ("behaviour", "tagged"),
    ("gateways", "pass_on_other_kernels"),
    ("xfrm", ""),
    ("engines", "xfrm"),
    ("engines", "kernel_"),
];
/// The newest kernel takes more of an SA: its CPU.
const NEWEST: InVm = &[
    ("guard", ""),
    ("behaviour", "xfrm_"),
    ("gateways", "xfrm_cpus"),
    ("gateways", "frames_pass_on_other_kernels"),
];
/// Tunnels of both engines with strongSwan, and between two gateways.
const BETWEEN_TWO: InVm = &[("vm_interop", ""), ("gateways", "xfrm_")];

/// Virtual machines, in two rows that run side by side and take about as long.
const MACHINES: [&[(&str, InVm)]; 2] =
    [&[("6.1", EVERYWHERE), ("7.3", NEWEST), ("6.12", WITH_CULVERT)], &[("6.12", BETWEEN_TWO)]];

fn in_vm(filter: Option<&str>, sum: &mut Sum) -> Result<()> {
    headline("under other kernels: the classifier, the corpus over kernel ESP, tunnels of the engine xfrm");
    let mut programs = BTreeMap::new();
    for (name, _) in MACHINES.iter().flat_map(|row| *row).flat_map(|(_, tests)| *tests) {
        programs.insert(*name, test_program(name)?);
    }
    let row = |machines: &[(&str, InVm)]| -> Result<Sum> {
        let mut sum = Sum::default();
        for (kernel, tests) in machines {
            let mut script = vec!["code=0".to_owned()];
            for (name, part) in *tests {
                let program = programs[name].display();
                // A guest without KVM is slow: one at a time.
                script.push(format!("{program} --color never --test-threads 1 {part} $* || code=1"));
            }
            script.push("exit $code".to_owned());
            let mut command = Command::new(MYSELF);
            command.args([
                "vm",
                "--kernel",
                kernel,
                "--timeout",
                "1200",
                "--",
                "env",
                "CULVERT_EXPECT_ESP=1",
            ]);
            command.arg(format!("CULVERT_BIN_DIR={}", process::target_dir().join("debug").display()));
            command.args(["sh", "-c", &script.join("\n"), "sh"]).args(filter);
            follow(&mut command, &format!("kernel {kernel}"), &mut sum)?;
        }
        Ok(sum)
    };
    let sums = std::thread::scope(|scope| {
        let rows = MACHINES.map(|machines| scope.spawn(|| row(machines)));
        rows.map(|row| row.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    for one in sums {
        let one = one?;
        sum.passed += one.passed;
        sum.ignored += one.ignored;
        sum.failed.extend(one.failed);
    }
    Ok(())
}

/// The integration tests of all crates but those that are [`END_TO_END`].
fn integration_tests() -> Result<Vec<String>> {
    let text = process::text(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cannot read `cargo metadata`")?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` names no packages")?;
    let others = packages.iter().filter(|package| package["name"] != "culvert-tests");
    let targets = others.filter_map(|package| package["targets"].as_array()).flatten();
    let tests = targets.filter(|target| target["test"] == true && target["kind"][0] == "test");
    Ok(tests.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect())
}

/// Where cargo has put a test program.
pub(crate) fn test_program(name: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--test", name, "--no-run", "--message-format", "json"]);
    let messages = process::text(command.stderr(Stdio::inherit()))?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| {
            let fits = message["target"]["name"] == name;
            message["executable"].as_str().filter(|_| fits).map(PathBuf::from)
        });
    executable.with_context(|| format!("cargo built no test program {name}"))
}

/// Runs a program made by Rust's test harness (or several), shows what it says and counts. A program that ends badly
/// without a failed test counts as a failure itself.
pub(crate) fn follow(command: &mut Command, group: &str, sum: &mut Sum) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    let before = (sum.failed.len(), sum.passed);
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            // A virtual machine's console is a terminal: the harness colours what it says there.
            let line = without_colours(String::from_utf8_lossy(&line?).trim_end());
            sum.line(group, &line);
            // Crates without tests have nothing to tell.
            if !line.is_empty() && line != "running 0 tests" && !line.starts_with("test result: ok. 0 passed")
            {
                println!("{}{line}", prefix(group));
            }
        }
    }
    let status = child.wait()?;
    if !status.success() && sum.failed.len() == before.0 {
        let passed = sum.passed - before.1;
        sum.failed.push(format!("`{}` ({status}, after {passed} tests that passed)", shown(command)));
    }
    Ok(())
}

/// Says whose line it is where two machines talk at once.
fn prefix(group: &str) -> String {
    if group.starts_with("kernel ") { format!("[{group}] ") } else { String::new() }
}

impl Sum {
    /// Counts a line of the harness: `test NAME ... ok`.
    fn line(&mut self, group: &str, line: &str) {
        let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return;
        };
        if outcome == "ok" {
            self.passed += 1;
            self.outcomes.insert(name.to_owned(), true);
        } else if outcome.starts_with("FAILED") {
            self.outcomes.insert(name.to_owned(), false);
            let group = if group.is_empty() { String::new() } else { format!("{group}: ") };
            self.failed.push(format!("{group}{name}"));
        } else if outcome.starts_with("ignored") {
            self.ignored += 1;
        }
    }
}

/// Leaves out escape sequences such as `ESC [32m` and `ESC (B`.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' if rest.next() == Some('[') => {
                rest.by_ref().find(char::is_ascii_alphabetic);
            }
            '\u{1b}' => {
                rest.next();
            }
            _ => plain.push(c),
        }
    }
    plain
}

fn headline(text: &str) {
    println!("\n== {text}");
}

#[cfg(test)]
mod tests {
    use super::{Sum, without_colours};

    #[test]
    fn colours_are_left_out() {
        assert_eq!(without_colours("test a ... \u{1b}[32mok\u{1b}(B\u{1b}[m"), "test a ... ok");
    }

    #[test]
    fn outcomes_are_counted() {
        let mut sum = Sum::default();
        for line in [
            "running 4 tests",
            "test algorithms::aes128gcm16_ecp256::initiates ... ok",
            "test parse ... FAILED",
            "test slow ... ignored, for a reason",
            "test src/lib.rs - pair (line 3) ... ok",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            sum.line("interop", line);
        }
        assert_eq!((sum.passed, sum.ignored), (2, 1));
        assert_eq!(sum.failed, ["interop: parse"]);
    }
}
