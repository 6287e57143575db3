//! IKE messages for those who watch (`culvert trace`), and IKE keys for a packet analyser (`log.ike_secrets`).

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use culvert_api::TraceRecord;
use culvert_ike::IkeSecrets;
use tokio::sync::broadcast;

/// How far a watcher may fall behind, in records.
const LAG: usize = 1024;

/// What watchers are told. Nobody watching costs nothing.
#[derive(Clone)]
pub(crate) struct Watchers {
    live: broadcast::Sender<Arc<TraceRecord>>,
}

impl Watchers {
    pub(crate) fn new() -> Self {
        Self { live: broadcast::channel(LAG).0 }
    }

    /// Every record from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<TraceRecord>> {
        self.live.subscribe()
    }

    /// Whether anybody watches.
    pub(crate) fn any(&self) -> bool {
        self.live.receiver_count() > 0
    }

    /// A message in words. `of`: connection and tunnel.
    pub(crate) fn message(
        &self,
        of: Option<(&str, &str)>,
        remote: Option<SocketAddr>,
        sent: bool,
        text: String,
    ) {
        let (connection, tunnel) = of.map(|(c, t)| (c.to_owned(), t.to_owned())).unzip();
        self.tell(TraceRecord { connection, tunnel, remote, text: Some(text), ..empty(sent) });
    }

    /// A datagram, without the non-ESP marker, which it has on the wire when `marked`.
    pub(crate) fn datagram(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        sent: bool,
        marked: bool,
        bytes: &[u8],
    ) {
        if !self.any() {
            return;
        }
        let mut hex = String::with_capacity(2 * bytes.len() + 8);
        if marked {
            hex.push_str("00000000");
        }
        for byte in bytes {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
        }
        let (local, remote) = (Some(local), Some(remote));
        self.tell(TraceRecord { local, remote, datagram: Some(hex), ..empty(sent) });
    }

    fn tell(&self, record: TraceRecord) {
        // Without receivers it goes nowhere, which is right.
        let _ = self.live.send(Arc::new(record));
    }
}

fn empty(sent: bool) -> TraceRecord {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TraceRecord {
        time_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
        connection: None,
        tunnel: None,
        sent,
        local: None,
        remote: None,
        text: None,
        datagram: None,
    }
}

/// The file that takes the keys of every IKE SA, in the form of Wireshark's `ikev2_decryption_table`.
pub(crate) struct SecretsFile(File);

impl SecretsFile {
    /// Opens it, for its owner alone, and says so where nobody overlooks it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("cannot write log.ike_secrets, {}", path.display()))?;
        tracing::warn!(
            "the keys of every IKE SA are written to {}: whoever reads it reads the negotiations; \
             take log.ike_secrets out of the configuration when the fault is found",
            path.display()
        );
        Ok(Self(file))
    }

    pub(crate) fn write(&mut self, secrets: &IkeSecrets) {
        let line = match secrets.to_wireshark() {
            Some(line) => format!("{line}\n"),
            None => format!("# {secrets:?}: Wireshark has no name for its algorithms\n"),
        };
        if let Err(error) = self.0.write_all(line.as_bytes()) {
            tracing::warn!("cannot write log.ike_secrets: {error}");
        }
    }
}
