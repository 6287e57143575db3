//! Tells somebody what happened to the gateway: by a command, or by a webhook.
//!
//! Each way has a task and a bounded queue of its own: one that hangs delays nobody, and loses its oldest wish to be told
//! of the newest when the queue is full. A command is run without a shell and gets what it is told in its environment;
//! a webhook gets JSON by POST, with a signature if a secret is given.

mod command;
mod webhook;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Happenings that wait for one way to be told.
const QUEUE: usize = 256;
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Happening {
    /// The kind: `up`, `down`, `failover`, `health`, `certificate`, `rekey` or `test`.
    pub event: &'static str,
    /// Unix time in seconds.
    pub time: u64,
    /// The gateway's host name.
    pub gateway: String,
    /// The connection that it is about; empty if it is about the gateway.
    pub connection: String,
    /// The tunnel; empty if it is about the connection.
    pub tunnel: String,
    /// One line for people.
    pub text: String,
}

/// One way to tell.
#[derive(Clone, PartialEq, Eq)]
pub struct Way {
    /// How.
    pub how: How,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How often a failed attempt is repeated, with growing pauses.
    pub retries: u32,
}

/// How it is told.
#[derive(Clone, PartialEq, Eq)]
pub enum How {
    /// By this program, run with these arguments.
    Command(PathBuf, Vec<String>),
    /// By POST to this URL.
    Webhook(Webhook),
}

/// Where a webhook is.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// `https://…` or `http://…`.
    pub url: String,
    /// Key of the signature (HMAC-SHA256).
    pub secret: Option<Zeroizing<Vec<u8>>>,
    /// Authorities, in PEM, that its certificate may be by; `None`: those of the system.
    pub authorities: Option<Vec<u8>>,
}

impl std::fmt::Debug for Way {
    /// Without the secret, and without the URL: many carry a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match &self.how {
            How::Command(program, _) => format!("command {}", program.display()),
            How::Webhook(webhook) => format!("webhook at {}", webhook::place(&webhook.url)),
        };
        f.write_str(&how)
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot run {program}: {error}")]
    Start { program: String, error: std::io::Error },
    #[error("{program} ends with {status}{said}")]
    Status { program: String, status: std::process::ExitStatus, said: String },
    #[error("nothing came of it in {} s", .0.as_secs_f32())]
    Late(Duration),
    #[error("{place}: {error}")]
    Http { place: String, error: String },
    #[error("{place} answers with status {status}")]
    Refused { place: String, status: u16 },
    #[error("{0}")]
    Tls(String),
}

impl Error {
    /// Whether it would fail the next time as well.
    fn lasts(&self) -> bool {
        matches!(self, Self::Refused { status: 400..=499, .. })
            && !matches!(self, Self::Refused { status: 408 | 429, .. })
    }
}

/// What a way has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Told.
    pub told: u64,
    /// Given up.
    pub failed: u64,
    /// Never tried: the queue was full.
    pub dropped: u64,
    /// Why the latest attempt failed that did.
    pub error: Option<String>,
}

/// All ways, each with its name.
#[derive(Default)]
pub struct Notices {
    running: BTreeMap<String, Running>,
}

struct Running {
    way: Way,
    queue: mpsc::Sender<Happening>,
    counts: Arc<Mutex<Counts>>,
}

impl Notices {
    /// These ways and no others from now on. Those that stay as they are go on; what others have queued is still told.
    pub fn set(&mut self, ways: BTreeMap<String, Way>) {
        self.running.retain(|name, running| ways.get(name) == Some(&running.way));
        for (name, way) in ways {
            self.running.entry(name.clone()).or_insert_with(|| Running::start(name, way));
        }
    }

    /// Tells something by one way; `false` if there is none of this name.
    pub fn tell(&self, name: &str, happening: &Happening) -> bool {
        let Some(running) = self.running.get(name) else { return false };
        if running.queue.try_send(happening.clone()).is_err() {
            let mut counts = lock(&running.counts);
            counts.dropped += 1;
            if counts.dropped.is_power_of_two() {
                tracing::warn!(
                    notice = name,
                    "{} happenings were not told: earlier ones wait",
                    counts.dropped
                );
            }
        }
        true
    }

    /// What each way has done.
    pub fn counts(&self) -> impl Iterator<Item = (&str, &Way, Counts)> {
        self.running
            .iter()
            .map(|(name, running)| (name.as_str(), &running.way, lock(&running.counts).clone()))
    }
}

impl Running {
    fn start(name: String, way: Way) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let counts = Arc::new(Mutex::new(Counts::default()));
        tokio::spawn(serve(name, way.clone(), waiting, counts.clone()));
        Self { way, queue, counts }
    }
}

fn lock(counts: &Mutex<Counts>) -> std::sync::MutexGuard<'_, Counts> {
    // Numbers that a panic left behind are as good as any.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(name: String, way: Way, mut waiting: mpsc::Receiver<Happening>, counts: Arc<Mutex<Counts>>) {
    while let Some(happening) = waiting.recv().await {
        let mut pause = Duration::from_secs(1);
        let mut left = way.retries;
        loop {
            let Err(error) = attempt(&way, &happening).await else {
                lock(&counts).told += 1;
                break;
            };
            let text = error.to_string();
            lock(&counts).error = Some(text.clone());
            if left == 0 || error.lasts() {
                lock(&counts).failed += 1;
                tracing::warn!(notice = name, "could not tell `{}`: {text}", happening.event);
                break;
            }
            left -= 1;
            tracing::debug!(notice = name, "{text}; once more in {} s", pause.as_secs());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

async fn attempt(way: &Way, happening: &Happening) -> Result<(), Error> {
    match &way.how {
        How::Command(program, arguments) => command::run(program, arguments, happening, way.timeout).await,
        How::Webhook(webhook) => webhook::post(webhook, happening, way.timeout).await,
    }
}

#[cfg(test)]
mod tests;
