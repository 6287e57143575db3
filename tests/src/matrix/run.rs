//! Runs the cells in several labs at once, tells of each in the words of Rust's own test harness, and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use culvert_lab::{Namespace, SwanEngine};

use super::args::Args;
use super::lab::{Lab, Layout};
use super::report::Report;
use super::{Cell, Role};

/// What came of a cell in a role.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// As expected, after this time.
    Ok(Duration),
    /// Not as expected.
    Failed(Duration, String),
    /// It did not run, for this reason.
    NotRun(String),
}

struct Job {
    cell: usize,
    role: Role,
    layout: Layout,
}

/// Runs what the command line asks for.
pub fn main(cells: Vec<Cell>) -> ExitCode {
    match Args::parse(std::env::args().skip(1)).and_then(|args| run(&cells, &args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn name(cell: &Cell, role: Role) -> String {
    format!("{}::{}::{role}", cell.theme, cell.name)
}

fn run(cells: &[Cell], args: &Args) -> Result<bool> {
    check(cells)?;
    let all = (0..cells.len()).flat_map(|cell| Role::BOTH.map(|role| (cell, role)));
    let wanted: Vec<_> = all
        .filter(|(cell, role)| args.wants(&name(&cells[*cell], *role)))
        .filter(|(cell, _)| !args.kernel_esp || cells[*cell].case.swan_engine == SwanEngine::Kernel)
        .collect();
    if args.list {
        wanted.iter().for_each(|(cell, role)| println!("{}: test", name(&cells[*cell], *role)));
        return Ok(true);
    }
    println!("running {} tests", wanted.len());
    let start = Instant::now();
    let kernel = if wanted.is_empty() { Ok(()) } else { kernel_esp() };
    let mut outcomes = BTreeMap::new();
    let mut jobs = Vec::new();
    for (at, role) in wanted {
        let cell = &cells[at];
        let mut reason =
            cell.unable.iter().find(|(unable, _)| *unable == role).map(|(_, reason)| reason.clone());
        if let (SwanEngine::Kernel, Err(why)) = (cell.case.swan_engine, &kernel) {
            reason.get_or_insert_with(|| why.clone());
        }
        match reason {
            Some(reason) => {
                println!("test {} ... ignored, {reason}", name(cell, role));
                outcomes.insert((at, role), Outcome::NotRun(reason));
            }
            None => jobs.push(Job { cell: at, role, layout: Layout::of(&cell.in_role(role)) }),
        }
    }
    // Alike beside alike, so that labs serve long.
    jobs.sort_by(|a, b| a.layout.cmp(&b.layout));
    let (jobs, outcomes) = (Mutex::new(jobs), Mutex::new(outcomes));
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| work(cells, &jobs, &outcomes));
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let report = Report::new(cells, &outcomes, start.elapsed());
    report.print();
    report.write_html(&args.filters);
    Ok(report.failed() == 0)
}

fn work(cells: &[Cell], jobs: &Mutex<Vec<Job>>, outcomes: &Mutex<BTreeMap<(usize, Role), Outcome>>) {
    let mut lab = Lab::default();
    loop {
        // Of its own, so that the lock goes before the work begins.
        let job = next(&mut jobs.lock().unwrap_or_else(PoisonError::into_inner), lab.layout());
        let Some(job) = job else { return };
        let cell = &cells[job.cell];
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| lab.run(cell, job.role)));
        let took = started.elapsed();
        let outcome = match result {
            Ok(Ok(())) => Outcome::Ok(took),
            Ok(Err(error)) => Outcome::Failed(took, format!("{error:#}")),
            Err(_) => Outcome::Failed(took, "it panicked, see above".to_owned()),
        };
        let name = name(cell, job.role);
        match &outcome {
            Outcome::Ok(_) => println!("test {name} ... ok"),
            Outcome::NotRun(reason) => println!("test {name} ... ignored, {reason}"),
            Outcome::Failed(_, why) => {
                // In one piece, though others print meanwhile.
                let why: Vec<String> = why.lines().map(|line| format!("    {line}")).collect();
                println!("test {name} ... FAILED\n{}", why.join("\n"));
            }
        }
        outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert((job.cell, job.role), outcome);
    }
}

/// A job for a lab of this layout, else of the layout that has the most left.
fn next(jobs: &mut Vec<Job>, layout: Option<&Layout>) -> Option<Job> {
    let same = jobs.iter().position(|job| Some(&job.layout) == layout);
    let at = same.or_else(|| {
        let mut counts: BTreeMap<&Layout, usize> = BTreeMap::new();
        jobs.iter().for_each(|job| *counts.entry(&job.layout).or_default() += 1);
        let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        jobs.iter().position(|job| job.layout == *most)
    })?;
    Some(jobs.remove(at))
}

/// Names are unique and can stand in a test's name.
fn check(cells: &[Cell]) -> Result<()> {
    let mut names = BTreeSet::new();
    for cell in cells {
        let name = format!("{}::{}", cell.theme, cell.name);
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(
            cell.name.chars().all(plain),
            "the name of the cell {name} is not of small letters, digits and _"
        );
        if !names.insert(name.clone()) {
            bail!("two cells are called {name}");
        }
    }
    Ok(())
}

/// Whether this kernel has ESP of its own; the reason if not.
fn kernel_esp() -> Result<(), String> {
    let tried = Namespace::new("esp").and_then(|scratch| {
        scratch
            .ip("xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 mode tunnel enc cbc(aes) \
             0x00112233445566778899aabbccddeeff auth hmac(sha1) 0x000102030405060708090a0b0c0d0e0f10111213")
    });
    tried.map_err(|_| "this kernel has no ESP; the virtual machine's has (cargo xtask test --vm)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Job, Layout, next};
    use crate::matrix::{Cell, Role, run::check};

    #[test]
    fn a_lab_stays_with_its_layout() {
        let plain = Cell::new("t", "plain", "aes128-sha256-ecp256", "aes128-sha256");
        let nat = plain.clone().behind_nat();
        let job = |cell: &Cell| Job {
            cell: 0,
            role: Role::Initiates,
            layout: Layout::of(&cell.in_role(Role::Initiates)),
        };
        let mut jobs = vec![job(&plain), job(&nat), job(&plain)];
        let plain = Layout::of(&plain.in_role(Role::Initiates));
        assert_eq!(next(&mut jobs, None).map(|job| job.layout), Some(plain.clone()));
        assert_eq!(next(&mut jobs, Some(&plain)).map(|job| job.layout), Some(plain.clone()));
        assert!(next(&mut jobs, Some(&plain)).is_some_and(|job| job.layout != plain));
        assert!(next(&mut jobs, Some(&plain)).is_none());
    }

    #[test]
    fn names_are_checked() {
        let cell = |name| Cell::new("t", name, "aes128-sha256-ecp256", "aes128-sha256");
        assert!(check(&[cell("one"), cell("two")]).is_ok());
        assert!(check(&[cell("one"), cell("one")]).is_err());
        assert!(check(&[cell("One way")]).is_err());
    }
}
