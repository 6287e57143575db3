//! The matrix as a table: on the terminal and as target/interop.html.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::run::Outcome;
use super::{Cell, Expect, Role};

/// What came of every cell.
pub(super) struct Report<'a> {
    rows: Vec<Row<'a>>,
    took: Duration,
}

struct Row<'a> {
    cell: &'a Cell,
    outcomes: [Option<&'a Outcome>; 2],
}

impl<'a> Report<'a> {
    pub(super) fn new(
        cells: &'a [Cell],
        outcomes: &'a BTreeMap<(usize, Role), Outcome>,
        took: Duration,
    ) -> Self {
        let rows = cells
            .iter()
            .enumerate()
            .map(|(at, cell)| Row { cell, outcomes: Role::BOTH.map(|role| outcomes.get(&(at, role))) });
        Self { rows: rows.filter(|row| row.outcomes.iter().any(Option::is_some)).collect(), took }
    }

    fn count(&self, fits: impl Fn(&Outcome) -> bool) -> usize {
        self.rows.iter().flat_map(|row| row.outcomes).flatten().filter(|outcome| fits(outcome)).count()
    }

    pub(super) fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed(..)))
    }

    fn sum(&self) -> String {
        format!(
            "{} cells ok, {} failed, {} not run; {:.0} s",
            self.count(|outcome| matches!(outcome, Outcome::Ok(_))),
            self.failed(),
            self.count(|outcome| matches!(outcome, Outcome::NotRun(_))),
            self.took.as_secs_f32()
        )
    }

    pub(super) fn print(&self) {
        print!("{}", self.text());
    }

    fn text(&self) -> String {
        let width = self.rows.iter().map(|row| row.cell.name.len()).max().unwrap_or(0).max(4);
        let mut out =
            format!("\n{:width$}   {:<12} {}\n", "Culvert with strongSwan", "initiates", "responds");
        let mut theme = "";
        for row in &self.rows {
            if row.cell.theme != theme {
                theme = &row.cell.theme;
                let _ = writeln!(out, "{theme}");
            }
            let [initiates, responds] = row.outcomes.map(short);
            let _ = writeln!(out, "  {:width$} {initiates:<12} {responds}", row.cell.name);
            for (role, outcome) in Role::BOTH.iter().zip(row.outcomes) {
                if let Some(Outcome::NotRun(reason)) = outcome {
                    let _ = writeln!(out, "  {:width$} {role}: {reason}", "");
                }
            }
        }
        let _ = writeln!(out, "{}", self.sum());
        out
    }

    /// Where the build puts its files; not on a file system that is read only, as in a virtual machine.
    pub(super) fn write_html(&self, filters: &[String]) {
        let own = std::env::current_exe().unwrap_or_default();
        let target = own.ancestors().find(|path| path.ends_with("target"));
        let path: PathBuf = target.unwrap_or_else(|| Path::new("target")).join("interop.html");
        match std::fs::write(&path, self.html(filters)) {
            Ok(()) => println!("written to {}", path.display()),
            Err(error) => println!("not written to {}: {error}", path.display()),
        }
    }

    fn html(&self, filters: &[String]) -> String {
        let mut out = String::from(HEAD);
        let only = if filters.is_empty() { String::new() } else { format!("; only {}", filters.join(", ")) };
        let _ = writeln!(out, "<p>{}{}</p>\n<table>", self.sum(), escape(&only));
        out.push_str("<tr><th>Cell</th><th>IKE</th><th>ESP</th><th>Expected</th><th>Culvert initiates</th><th>Culvert responds</th></tr>\n");
        let mut theme = "";
        for row in &self.rows {
            if row.cell.theme != theme {
                theme = &row.cell.theme;
                let _ = writeln!(out, "<tr><th class=\"theme\" colspan=\"6\">{}</th></tr>", escape(theme));
            }
            let case = &row.cell.case;
            let expected = match &row.cell.expect {
                Expect::Up => {
                    let steps: Vec<&str> = row.cell.steps.iter().map(|(what, _)| what.as_str()).collect();
                    if steps.is_empty() { "up".to_owned() } else { format!("up; {}", steps.join("; ")) }
                }
                Expect::Fails => {
                    let words: Vec<&str> = row.cell.says.iter().map(|(_, word)| word.as_str()).collect();
                    format!("fails, saying: {}", words.join(" … "))
                }
            };
            let _ = write!(
                out,
                "<tr><td>{}</td><td><code>{}</code></td><td><code>{}</code></td><td>{}</td>",
                escape(&row.cell.name.replace('_', " ")),
                escape(&case.ike),
                escape(&case.esp),
                escape(&expected)
            );
            for outcome in row.outcomes {
                let class = match outcome {
                    Some(Outcome::Ok(_)) => "ok",
                    Some(Outcome::Failed(..)) => "failed",
                    Some(Outcome::NotRun(_)) | None => "not-run",
                };
                let more = match outcome {
                    Some(Outcome::Failed(_, why)) => format!("<pre>{}</pre>", escape(why)),
                    Some(Outcome::NotRun(reason)) => format!("<br>{}", escape(reason)),
                    Some(Outcome::Ok(_)) | None => String::new(),
                };
                let _ = write!(out, "<td class=\"{class}\">{}{more}</td>", short(outcome));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table>\n");
        out
    }
}

fn short(outcome: Option<&Outcome>) -> String {
    match outcome {
        Some(Outcome::Ok(took)) => format!("ok {:.1} s", took.as_secs_f32()),
        Some(Outcome::Failed(took, _)) => format!("FAILED {:.1} s", took.as_secs_f32()),
        Some(Outcome::NotRun(_)) => "not run".to_owned(),
        None => "-".to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Culvert with strongSwan</title>
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3em .7em; border-bottom: 1px solid #ddd; }
.theme { background: #f2f2f2; padding-top: 1em; }
.ok { color: #17692c; } .failed { color: #a11; } .not-run { color: #666; }
pre { max-height: 20em; overflow: auto; font-size: 12px; white-space: pre-wrap; }
</style></head><body>
<h1>Culvert with strongSwan</h1>
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::Report;
    use crate::matrix::run::Outcome;
    use crate::matrix::{Cell, Role};

    #[test]
    fn every_outcome_is_shown() {
        let cells = [
            Cell::new("auth", "psk", "aes128-sha256-ecp256", "aes128-sha256"),
            Cell::new("auth", "wrong_psk", "aes128-sha256-ecp256", "aes128-sha256")
                .fails(&["pre-shared <key>"]),
        ];
        let outcomes = BTreeMap::from([
            ((0, Role::Initiates), Outcome::Ok(Duration::from_millis(1250))),
            ((0, Role::Responds), Outcome::NotRun("for a reason".into())),
            ((1, Role::Initiates), Outcome::Failed(Duration::from_secs(3), "a < b".into())),
        ]);
        let report = Report::new(&cells, &outcomes, Duration::from_secs(4));
        let text = report.text();
        for part in [
            "psk       ok 1.2 s     not run",
            "responds: for a reason",
            "FAILED 3.0 s",
            "1 cells ok, 1 failed, 1 not run; 4 s",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
        let html = report.html(&[]);
        assert!(
            html.contains("a &lt; b")
                && html.contains("pre-shared &lt;key&gt;")
                && html.contains("for a reason")
        );
    }
}
