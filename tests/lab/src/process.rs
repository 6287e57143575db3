//! Child processes of the lab: their output is kept, they end with the value, and with the process that started them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program. Dropping it kills it; when the thread is panicking, its log is printed first.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; `label` names it in errors and logs.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(label: impl Into<String>, command: &mut Command) -> Result<Self> {
        let label = label.into();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {label}: {command:?}"))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        if let Some(output) = child.stdout.take() {
            collect(output, Arc::clone(&log));
        }
        if let Some(output) = child.stderr.take() {
            collect(output, Arc::clone(&log));
        }
        Ok(Self { label, child, log, status: None })
    }

    /// Its process id. The helpers that enter a namespace replace themselves, so it is the program's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, line by line, output and errors in one.
    pub fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits until a line that contains `text` was printed, and returns it.
    ///
    /// # Errors
    /// When the time is over or the process ended without.
    pub fn wait_log(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            // Whether it has ended is asked before the log is read, so that its last words are not missed.
            let ended = self.try_wait()?.is_some() && start.elapsed() > Duration::from_millis(100);
            if let Some(line) = self.lines().into_iter().find(|line| line.contains(text)) {
                return Ok(line);
            }
            if ended || start.elapsed() > timeout {
                let how = if ended { "it ended first" } else { "the time is over" };
                bail!("{} never said `{text}` ({how}); its log:\n{}", self.label, self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits for its end, at most for `timeout`.
    ///
    /// # Errors
    /// When it still runs then.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.try_wait()? {
                // The readers may be behind; each holds the log until it has read everything. A grandchild that keeps
                // the pipe open is not waited for long.
                let ended = Instant::now();
                while Arc::strong_count(&self.log) > 1 && ended.elapsed() < Duration::from_secs(3) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                return Ok(status);
            }
            if start.elapsed() > timeout {
                bail!(
                    "{} still runs after {:.1} s; its log:\n{}",
                    self.label,
                    timeout.as_secs_f32(),
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        }
    }

    /// Ends it with SIGKILL and waits for that.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let lines = self.lines();
            let skipped = lines.len().saturating_sub(80);
            eprintln!(
                "--- log of {} ({skipped} lines left out) ---\n{}",
                self.label,
                lines[skipped..].join("\n")
            );
        }
    }
}

fn collect(stream: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            log.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            line.clear();
        }
    });
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails; the error carries what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}):\n{}{}", output.status, text.trim_end(), errors.trim_end());
    }
    Ok(text)
}
