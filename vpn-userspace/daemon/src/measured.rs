//! How fast the engines are on this host, for `engine = "auto"`: measured once for each kernel, processor and version of
//! culvertd, and remembered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use culvert_config::Config;
use culvert_crypto::Suite;
use culvert_dataplane::{Dataplane, Engine, Figures, Measured};
use culvert_pki::civil;
use serde_json::{Value, json};

/// Longest that a start may be held up.
const MOST: Duration = Duration::from_secs(3);
/// Where it is remembered when systemd does not say (`StateDirectory`).
const STATE: &str = "/var/lib/culvert";
const FILE: &str = "engines.json";

/// What is known, after measuring what is not: only suites of connections with `auto`, and only where both engines take them.
pub(crate) async fn measured(config: &Config, plane: &Dataplane) -> Measured {
    let wanted = wanted(config, plane);
    if wanted.is_empty() {
        return Measured::default();
    }
    let path = path();
    let here = host();
    let mut known = std::fs::read_to_string(&path).map(|text| read(&text, &here)).unwrap_or_default();
    let missing: Vec<Suite> = wanted.into_iter().filter(|suite| !known.suites.contains_key(suite)).collect();
    if missing.is_empty() {
        return known;
    }
    let began = Instant::now();
    let measuring =
        tokio::task::spawn_blocking(move || culvert_dataplane::measure(&missing, began + MOST)).await;
    match measuring.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(new) if new.is_empty() => {}
        Ok(new) => {
            known.day = today();
            known.suites.extend(new);
            if let Err(error) = remember(&path, &write(&known, &here)) {
                tracing::warn!("what was measured cannot be remembered in {}: {error}", path.display());
            }
            tracing::info!(
                "measured the engines user and xfrm in {} ms: {}",
                began.elapsed().as_millis(),
                summary(&known)
            );
        }
        Err(error) => tracing::warn!("the engines cannot be measured, the kernel comes first: {error}"),
    }
    known
}

fn wanted(config: &Config, plane: &Dataplane) -> Vec<Suite> {
    let engines = plane.engines();
    let Some(kernel) = engines.iter().find(|e| e.engine == Engine::Xfrm && e.available.is_ok()) else {
        return Vec::new();
    };
    let taken = |suite: &Suite| kernel.suites.iter().any(|(s, taken)| s == suite && taken.is_ok());
    let auto = config.connections.iter().filter(|c| c.engine == culvert_config::Engine::Auto);
    let mut wanted: Vec<Suite> = Vec::new();
    for suite in auto.flat_map(|c| c.esp.proposals.iter().flat_map(|p| p.suites())) {
        if taken(&suite) && !wanted.contains(&suite) {
            wanted.push(suite);
        }
    }
    wanted
}

fn summary(measured: &Measured) -> String {
    let gigabits = |bits: u64| bits as f64 / 1e9;
    let mut lines: Vec<String> = measured
        .suites
        .iter()
        .map(|(suite, f)| format!("{suite} {:.1} and {:.1} Gbit/s", gigabits(f.user), gigabits(f.xfrm)))
        .collect();
    lines.sort();
    lines.join(", ")
}

fn path() -> PathBuf {
    // systemd may name several, separated by colons.
    let folder =
        std::env::var("STATE_DIRECTORY").ok().and_then(|all| all.split(':').next().map(str::to_owned));
    Path::new(folder.as_deref().unwrap_or(STATE)).join(FILE)
}

/// What the figures hold for: another kernel, processor or version may be faster or slower.
fn host() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} of {model}, culvertd {}", kernel.trim(), env!("CARGO_PKG_VERSION"))
}

fn write(measured: &Measured, host: &str) -> String {
    let suites: BTreeMap<String, Value> = measured
        .suites
        .iter()
        .map(|(suite, f)| (suite.to_string(), json!({"user": f.user, "xfrm": f.xfrm})))
        .collect();
    json!({"host": host, "day": measured.day, "bits_per_second": suites}).to_string()
}

/// Nothing if the file is of another host, or none of ours.
fn read(text: &str, host: &str) -> Measured {
    let file: Value = serde_json::from_str(text).unwrap_or_default();
    let (true, Some(day)) = (file["host"] == host, file["day"].as_str()) else { return Measured::default() };
    let suites = Suite::all().filter_map(|suite| {
        let figures = &file["bits_per_second"][suite.to_string()];
        Some((suite, Figures { user: figures["user"].as_u64()?, xfrm: figures["xfrm"].as_u64()? }))
    });
    Measured { day: day.to_owned(), suites: suites.collect() }
}

fn remember(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Whole or not at all.
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// The day in UTC, as `2026-11-22`.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day, ..) = civil(seconds);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn what_was_measured_is_remembered_for_this_host_alone() {
        let suite = Suite::all().next().unwrap();
        let measured = Measured {
            day: "2026-11-22".to_owned(),
            suites: HashMap::from([(suite, Figures { user: 6_000_000_000, xfrm: 3_100_000_000 })]),
        };
        let text = write(&measured, "6.12, 2 of x");
        assert_eq!(read(&text, "6.12, 2 of x"), measured);
        assert_eq!(read(&text, "6.13, 2 of x"), Measured::default());
        assert_eq!(read("{", "6.12, 2 of x"), Measured::default());
        let folder = std::env::temp_dir().join(format!("culvert-measured-{}", std::process::id()));
        remember(&folder.join("a/engines.json"), &text).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a/engines.json")).unwrap(), text);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
