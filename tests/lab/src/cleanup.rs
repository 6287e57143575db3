//! What a lab leaves on the host (namespaces, scratch directories), and how it goes: on drop, on SIGINT and SIGTERM,
//! and, for makers that were killed, at the start of the next lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, Once};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};

/// First letters of every namespace and scratch directory, followed by the maker's process id.
pub(crate) const PREFIX: &str = "cvl";

static NAMESPACES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static START: Once = Once::new();

/// Removes what dead makers left, and from now on removes ours at SIGINT and SIGTERM (the process then exits with
/// 128 plus the signal's number). The lab does it by itself at the first namespace.
pub fn start() {
    START.call_once(|| {
        remove_stale();
        match signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) {
            Ok(mut signals) => {
                std::thread::spawn(move || {
                    if let Some(signal) = signals.forever().next() {
                        remove_ours();
                        std::process::exit(128 + signal);
                    }
                });
            }
            Err(error) => eprintln!("lab: no clean-up on signals: {error}"),
        }
    });
}

pub(crate) fn register(namespace: &str) {
    NAMESPACES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(namespace.to_owned());
}

pub(crate) fn remove(namespace: &str) {
    NAMESPACES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|name| name != namespace);
    delete_namespace(namespace);
}

/// Ends the processes in the namespace and deletes it. Silent when it is not there.
pub fn delete_namespace(name: &str) {
    for pid in processes_in(name) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

fn processes_in(namespace: &str) -> Vec<i32> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).stderr(Stdio::null()).output();
    let Ok(output) = output else { return Vec::new() };
    let own = std::process::id() as i32;
    // Threads of ours that are inside for a moment are no reason to end ourselves.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|l| l.trim().parse().ok())
        .filter(|p| *p != own)
        .collect()
}

fn remove_ours() {
    let names = NAMESPACES.lock().map(|names| names.clone()).unwrap_or_default();
    for name in names.iter().rev() {
        delete_namespace(name);
    }
    let own = std::process::id();
    for directory in scratch_directories().into_iter().filter(|(pid, _)| *pid == own).map(|(_, path)| path) {
        let _ = fs::remove_dir_all(directory);
    }
}

fn remove_stale() {
    let alive = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if maker(&name).is_some_and(|pid| !alive(pid)) {
            delete_namespace(&name);
        }
    }
    for (_, path) in scratch_directories().into_iter().filter(|(pid, _)| !alive(*pid)) {
        let _ = fs::remove_dir_all(path);
    }
}

fn scratch_directories() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((maker(&entry.file_name().to_string_lossy())?, entry.path()))).collect()
}

/// The process id in a name such as `cvl1234-0-wan`.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// A directory of its own under the system's temporary one, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes the directory (mode 0700); `label` is part of its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        start();
        let path = std::env::temp_dir().join(unique(label));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A name that no other lab has: prefix, process id, running number, label.
pub(crate) fn unique(label: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::maker;

    #[test]
    fn maker_is_read_from_the_name() {
        assert_eq!(maker("cvl812-3-wan"), Some(812));
        assert_eq!(maker("cvlx-3-wan"), None);
        assert_eq!(maker("blue"), None);
    }
}
