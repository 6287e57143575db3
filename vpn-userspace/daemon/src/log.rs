//! The log: one line per record on standard error (or journald's pipe), and the last records in memory
//! for `culvert logs`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_api::{Level, LogRecord};
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, reload};

use crate::kept::Kept;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people: level, connection/tunnel, message.
    Text,
    /// One JSON object per line.
    Json,
}

/// Records that a slow follower may lag behind before it loses some.
const LAG: usize = 1024;

/// The records in memory and those who follow them.
pub(crate) struct LogStore {
    kept: Mutex<Kept>,
    /// The environments of connections that are not in the default one.
    environments: Mutex<HashMap<String, String>>,
    live: broadcast::Sender<Arc<LogRecord>>,
}

/// Changes the level of the running log.
pub(crate) type LevelHandle = reload::Handle<LevelFilter, tracing_subscriber::Registry>;

impl LogStore {
    fn new() -> Self {
        Self { kept: Mutex::default(), environments: Mutex::default(), live: broadcast::channel(LAG).0 }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic while holding the lock leaves whole records behind: they stay usable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, record: LogRecord) {
        let record = Arc::new(record);
        let mut kept = self.kept();
        kept.push(record.clone());
        // Sent under the lock, so that a new follower neither misses nor repeats a record.
        let _ = self.live.send(record);
    }

    /// What is kept, of one connection or of all, oldest first, and from then on everything new.
    pub(crate) fn follow(
        &self,
        connection: Option<&str>,
    ) -> (Vec<Arc<LogRecord>>, broadcast::Receiver<Arc<LogRecord>>) {
        let kept = self.kept();
        (kept.of(connection), self.live.subscribe())
    }

    /// Which environments connections are in, from now on. Those of the default one need not be named.
    pub(crate) fn set_environments(&self, environments: HashMap<String, String>) {
        *self.environments.lock().unwrap_or_else(PoisonError::into_inner) = environments;
    }

    fn environment(&self, connection: &str) -> Option<String> {
        self.environments.lock().unwrap_or_else(PoisonError::into_inner).get(connection).cloned()
    }
}

/// Starts the log of the process. To be called once.
pub(crate) fn start(format: Format, level: Level) -> anyhow::Result<(Arc<LogStore>, LevelHandle)> {
    let store = Arc::new(LogStore::new());
    let (filter, handle) = reload::Layer::new(filter(level));
    let writer: Box<dyn Fn(&LogRecord) -> String + Send + Sync> = match format {
        Format::Text => Box::new(text),
        Format::Json => Box::new(|record| serde_json::to_string(record).unwrap_or_default()),
    };
    tracing_subscriber::registry().with(filter).with(Recorder { store: store.clone(), writer }).try_init()?;
    Ok((store, handle))
}

/// The filter that lets records of `level` and above through.
pub(crate) fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

struct Recorder {
    store: Arc<LogStore>,
    writer: Box<dyn Fn(&LogRecord) -> String + Send + Sync>,
}

impl<S: tracing::Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // Libraries below us log at their own taste; an operator wants their trouble only.
        let ours = metadata.target().starts_with("culvert");
        if !ours && *metadata.level() > tracing::Level::WARN {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut record = fields.into_record(metadata);
        record.environment = record.connection.as_deref().and_then(|c| self.store.environment(c));
        eprintln!("{}", (self.writer)(&record));
        self.store.push(record);
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Fields {
    fn into_record(mut self, metadata: &tracing::Metadata<'_>) -> LogRecord {
        let message = one_line(&self.0.remove("message").unwrap_or_default());
        let mut connection = self.0.remove("connection");
        let mut tunnel = self.0.remove("tunnel");
        // The IKE core knows a tunnel by its full name.
        if connection.is_none()
            && let Some((c, t)) = tunnel.as_deref().and_then(|full| full.split_once('/'))
        {
            (connection, tunnel) = (Some(c.to_owned()), Some(t.to_owned()));
        }
        // A forward's full name begins with its connection's.
        if connection.is_none() {
            let forward = self.0.get("forward").and_then(|full| full.split_once('/'));
            connection = forward.map(|(connection, _)| connection.to_owned());
        }
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let fields = self.0.into_iter().map(|(name, value)| (name, one_line(&value))).collect();
        LogRecord {
            time_ms,
            level: level(*metadata.level()),
            environment: None,
            connection,
            tunnel,
            target: metadata.target().to_owned(),
            message,
            fields,
        }
    }
}

fn level(level: tracing::Level) -> Level {
    match level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

/// Text from outside must not forge lines or drive the terminal.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            c.is_control()
                .then(|| c.escape_default())
                .into_iter()
                .flatten()
                .chain((!c.is_control()).then_some(c))
        })
        .collect()
}

fn text(record: &LogRecord) -> String {
    use fmt::Write;
    let mut line = format!("{:5} ", record.level.as_str().to_uppercase());
    if let Some(environment) = &record.environment {
        let _ = write!(line, "[{environment}] ");
    }
    match (&record.connection, &record.tunnel) {
        (Some(connection), Some(tunnel)) => line.push_str(&format!("{connection}/{tunnel}: ")),
        (Some(one), None) | (None, Some(one)) => line.push_str(&format!("{one}: ")),
        (None, None) => {}
    }
    line.push_str(&record.message);
    for (name, value) in &record.fields {
        let _ = write!(line, " {name}={value}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_carry_connection_and_tunnel_and_stay_one_line() {
        let store = Arc::new(LogStore::new());
        let recorder = Recorder { store: store.clone(), writer: Box::new(text) };
        let subscriber = tracing_subscriber::registry().with(recorder);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "culvert_ike", tunnel = "site/a", spi = 7, "up\nERROR forged \u{1b}[2J");
            tracing::info!(target: "culvertd", connection = "site", "plain");
            store.set_environments([("site".to_owned(), "production".to_owned())].into());
            tracing::warn!(target: "culvert_forward", forward = "site/hello", "full");
            tracing::info!(target: "some_library", "noise");
        });
        let (kept, _) = store.follow(None);
        let lines: Vec<_> = kept.iter().map(|r| text(r)).collect();
        assert_eq!(
            lines,
            [
                "INFO  site/a: up\\nERROR forged \\u{1b}[2J spi=7",
                "INFO  site: plain",
                "WARN  [production] site: full forward=site/hello"
            ]
        );
        assert_eq!((kept[0].connection.as_deref(), kept[0].tunnel.as_deref()), (Some("site"), Some("a")));
    }
}
