//! `cargo xtask fuzz`: runs the fuzz targets of tests/fuzz under libFuzzer, with the stable compiler.
use crate::process::{self, cargo, repository, shown, target_dir};
use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;

/// Feed the parsers, the encrypted payloads and ESP with what nobody would write, and look for crashes.
///
/// Builds tests/fuzz with coverage instrumentation and the address sanitizer. New inputs go to target/fuzz/corpus; a
/// crash stays in target/fuzz/crashes and is printed with the command that reproduces it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target; may be given several times. `--list` names them.
    #[arg(long)]
    target: Vec<String>,
    /// Targets at the same time.
    #[arg(long)]
    jobs: Option<usize>,
    /// Name the targets and run none.
    #[arg(long)]
    list: bool,
    /// Write the seed corpora of tests/fuzz/corpus anew, and run nothing.
    #[arg(long)]
    seeds: bool,
    /// Run one target on this file only: a crash that was found.
    #[arg(long, value_name = "FILE", requires = "target")]
    reproduce: Option<PathBuf>,
}

/// What the compiler must put in: edges, counted in bytes, and operands of comparisons, for libFuzzer to learn from.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "--cfg fuzzing",
    "-Cdebug-assertions",
    "-Ccodegen-units=8",
];

/// Instrumented code needs `--target`, or build scripts would be instrumented as well.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What one target did.
struct Outcome {
    target: String,
    runs: u64,
    seconds: u64,
    coverage: u64,
    corpus: u64,
    crash: Option<PathBuf>,
    /// It ended badly and left no file.
    said: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let all = targets()?;
    if args.list {
        all.iter().for_each(|target| println!("{target}"));
        return Ok(ExitCode::SUCCESS);
    }
    if args.seeds {
        let mut command = cargo();
        command.current_dir(directory()).args(["run", "--quiet", "--bin", "seeds", "--target-dir"]);
        process::run(command.arg(target_dir().join("fuzz")))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = args.target.iter().find(|target| !all.contains(target)) {
        bail!("there is no fuzz target {unknown}; there are {}", all.join(", "));
    }
    let chosen = if args.target.is_empty() { all } else { args.target.clone() };
    build()?;
    if let (Some(file), Some(target)) = (&args.reproduce, chosen.first()) {
        let status = Command::new(program(target)).arg(file).status()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    println!("{} targets, {} s each, {jobs} at a time", chosen.len(), args.seconds);
    let (left, outcomes) = (Mutex::new(chosen.iter().rev()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| -> Result<()> {
        let work = || -> Result<()> {
            loop {
                let next = left.lock().map_or(None, |mut left| left.next());
                let Some(target) = next else { return Ok(()) };
                let outcome = one(target, args.seconds)?;
                if let Ok(mut outcomes) = outcomes.lock() {
                    outcomes.push(outcome);
                }
            }
        };
        let running: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(report(&outcomes.into_inner().unwrap_or_default()))
}

fn directory() -> PathBuf {
    repository().join("tests/fuzz")
}

fn program(target: &str) -> PathBuf {
    target_dir().join("fuzz").join(TRIPLE).join("release").join(target)
}

/// The programs in tests/fuzz/src/bin but for the one that writes the seeds.
fn targets() -> Result<Vec<String>> {
    let bins = directory().join("src/bin");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&bins).with_context(|| format!("no {}", bins.display()))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if name != "seeds" {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn build() -> Result<()> {
    let mut command = cargo();
    command.current_dir(directory()).args(["build", "--release", "--bins", "--target", TRIPLE]);
    command.arg("--target-dir").arg(target_dir().join("fuzz"));
    // The sanitizer and its flags are unstable; the compiler is not.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", FLAGS.join(" "));
    process::run(&mut command)
}

fn one(target: &str, seconds: u64) -> Result<Outcome> {
    let (grown, crashes) = (target_dir().join("fuzz/corpus").join(target), target_dir().join("fuzz/crashes"));
    std::fs::create_dir_all(&grown)?;
    std::fs::create_dir_all(&crashes)?;
    let prefix = crashes.join(format!("{target}-"));
    let mut command = Command::new(program(target));
    // The first corpus is the one that grows.
    command.arg(&grown).arg(directory().join("corpus").join(target));
    let dictionary = directory().join("dictionaries").join(target);
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}", prefix.display()));
    // The largest datagram is the largest input; what takes a second has a fault.
    command.args([
        "-max_len=4096",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=1",
    ]);
    let before = files(&crashes, target);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", shown(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let crash = files(&crashes, target).into_iter().find(|file| !before.contains(file));
    let (coverage, corpus) = last_line(&said);
    let stat = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("stat::{name}:")));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    println!("{target}: {}", if output.status.success() { "no crash" } else { "CRASH" });
    let tail =
        || said.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    Ok(Outcome {
        target: target.to_owned(),
        runs: stat("number_of_executed_units"),
        seconds,
        coverage,
        corpus,
        said: (!output.status.success()).then(tail),
        crash,
    })
}

fn files(directory: &Path, target: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let prefix = format!("{target}-");
    entries
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
        .collect()
}

/// Coverage and size of the corpus, from libFuzzer's last line of progress: `#123 DONE cov: 45 ft: 67 corp: 8/90b …`.
fn last_line(said: &str) -> (u64, u64) {
    let Some(line) = said.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: ")) else {
        return (0, 0);
    };
    let after = |word: &str| {
        let value = line.split(word).nth(1)?.split_whitespace().next()?;
        value.split('/').next()?.parse().ok()
    };
    (after(" cov: ").unwrap_or(0), after(" corp: ").unwrap_or(0))
}

fn report(outcomes: &[Outcome]) -> ExitCode {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["target", "runs", "runs/s", "edges covered", "corpus", "crashes"]);
    let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
    sorted.sort_by(|a, b| a.target.cmp(&b.target));
    for outcome in &sorted {
        table.add_row([
            outcome.target.clone(),
            outcome.runs.to_string(),
            (outcome.runs / outcome.seconds.max(1)).to_string(),
            outcome.coverage.to_string(),
            outcome.corpus.to_string(),
            usize::from(outcome.said.is_some()).to_string(),
        ]);
    }
    println!("{table}");
    let mut failed = false;
    for outcome in sorted {
        let Some(said) = &outcome.said else { continue };
        failed = true;
        println!("\n{} crashed:\n{said}", outcome.target);
        if let Some(crash) = &outcome.crash {
            println!(
                "input: {}\nagain: cargo xtask fuzz --target {} --reproduce {}",
                crash.display(),
                outcome.target,
                crash.display()
            );
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::last_line;

    #[test]
    fn progress_is_read() {
        let said = "#2\tINITED cov: 5 ft: 6 corp: 1/1b\n#524288\tpulse  cov: 1318 ft: 5000 corp: 812/45Kb lim: 98\nDone 1 runs";
        assert_eq!(last_line(said), (1318, 812));
        assert_eq!(last_line(""), (0, 0));
    }
}
