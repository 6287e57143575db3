//! Requests and responses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bgp::{BgpStatus, Routes};
use crate::capture::Capture;
use crate::drops::{DropRecord, Drops, DropsRequest};
use crate::environment::DEFAULT_ENVIRONMENT;
use crate::explain::Explanation;
use crate::graph::Graph;
use crate::ping::{PingRequest, Pings};
use crate::status::{Counter, EngineChoice, Status};
use crate::target::Target;
use crate::trace::TraceRecord;
use crate::words::words;

/// What a client may ask. In JSON the name stands in `request`: `{"request":"up","target":"hangzhou/a"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// The gateway at this moment; answered with [`Response::Status`].
    Status,
    /// Bring up. Answered with [`Response::Done`] as soon as the negotiation is under way: whoever wants
    /// the outcome asks for the status, see [`crate::Tunnel::failures`].
    Up {
        /// What to bring up.
        target: Target,
    },
    /// Take down and keep down until `up`, a reload that changes it or a restart; the peer is told.
    Down {
        /// What to take down.
        target: Target,
    },
    /// Rekey every child SA now, or the IKE SA.
    Rekey {
        /// What to rekey.
        target: Target,
        /// The IKE SA instead of its child SAs.
        #[serde(default)]
        ike: bool,
    },
    /// Let traffic return now to tunnels that failed and are well again.
    Failback {
        /// Which.
        target: Target,
    },
    /// Take tunnels out of service, as `enabled = false` does, or back into it, whatever the configuration says. It outlives
    /// reloads, but not one that changes `enabled`, and no restart.
    Switch {
        /// Which.
        target: Target,
        /// Back into service.
        enabled: bool,
    },
    /// Have tunnels served by another engine, until the next reload: their child SAs are rekeyed at once.
    Engine {
        /// Whose.
        target: Target,
        /// Which one.
        engine: EngineChoice,
    },
    /// Send something that did not happen by one of the ways to tell somebody.
    TestNotice {
        /// Its name in the configuration.
        name: String,
    },
    /// Read the configuration file again and apply what changed; answered with [`Response::Reload`].
    Reload,
    /// What a reload would change, without changing it; answered with [`Response::Reload`].
    Plan,
    /// Log records: those kept in memory, oldest first, then with `follow` new ones as they come.
    Logs(LogsRequest),
    /// Every counter; answered with [`Response::Counters`].
    Counters,
    /// IKE messages as they pass, until either side closes the connection; answered with [`Response::Trace`] for
    /// each.
    Trace {
        /// Only those of this connection or tunnel, where that is known; `None`: all.
        #[serde(default)]
        target: Option<Target>,
        /// Also the datagrams.
        #[serde(default)]
        datagrams: bool,
    },
    /// What was dropped and why; answered with [`Response::Drops`], or with `follow`, until either side closes the connection,
    /// with [`Response::Drop`] for each packet that is shown.
    Drops(DropsRequest),
    /// Packet sockets that see a connection's or tunnel's packets inside and the WAN's; answered with
    /// [`Response::Capture`].
    Capture {
        /// Whose.
        target: Target,
    },
    /// Rates of the past; answered with [`Response::Graph`].
    Graph {
        /// Of which tunnels.
        target: Target,
        /// How far back; more than 600 are told by the minute, at most a day.
        seconds: u32,
    },
    /// An echo through each of some tunnels; answered with [`Response::Pings`] when the last is back or late.
    Ping(PingRequest),
    /// Routing by BGP; answered with [`Response::Bgp`].
    Bgp,
    /// Every route of every connection; answered with [`Response::Routes`].
    Routes,
    /// What happened to a connection or tunnel and why; answered with [`Response::Explanation`].
    Explain {
        /// What to explain.
        target: Target,
    },
}

/// Which log records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// Only those of this connection or tunnel; `None`: all.
    #[serde(default)]
    pub connection: Option<Target>,
    /// Only those of this environment's connections; `None`: all. `default` also has those of no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Only those at least this severe; `None`: all.
    #[serde(default)]
    pub level: Option<Level>,
    /// Only those of the last so many milliseconds; `None`: all that are kept.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Only those since then, Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    /// Only those until then, Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Go on with new records until the client closes.
    #[serde(default)]
    pub follow: bool,
}

impl LogsRequest {
    /// Whether a record is among those asked for, apart from `since_ms`.
    pub fn wants(&self, record: &LogRecord) -> bool {
        self.level.is_none_or(|level| record.level <= level)
            && self.from_ms.is_none_or(|from| record.time_ms >= from)
            && self.until_ms.is_none_or(|until| record.time_ms <= until)
            && self.environment.as_ref().is_none_or(|environment| {
                record.environment.as_deref().unwrap_or(DEFAULT_ENVIRONMENT) == environment
            })
            && self.connection.as_ref().is_none_or(|target| {
                match (&record.connection, target.tunnel_name()) {
                    (Some(connection), None) => connection == target.connection_name(),
                    (Some(connection), Some(tunnel)) => {
                        connection == target.connection_name() && record.tunnel.as_deref() == Some(tunnel)
                    }
                    (None, _) => false,
                }
            })
    }
}

/// How severe a log record is; the most severe is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Something failed and an operator must act.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What an operator wants to know in normal running.
    Info,
    /// Why things happened.
    Debug,
    /// Every message.
    Trace,
}

impl Level {
    /// From the most severe to the least.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What culvertd answers. In JSON the name stands in `response`: `{"response":"done","message":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To `up`, `down`, `rekey`, `engine`; and the end of the logs without `follow`.
    Done(Done),
    /// To [`Request::Reload`] and [`Request::Plan`].
    Reload(Reloaded),
    /// To [`Request::Logs`], once per record.
    Log(LogRecord),
    /// To [`Request::Counters`].
    Counters(Counters),
    /// To [`Request::Trace`], once per message or datagram.
    Trace(TraceRecord),
    /// To [`Request::Drops`].
    Drops(Drops),
    /// To [`Request::Drops`] with `follow`, once per packet or count.
    Drop(DropRecord),
    /// To [`Request::Explain`].
    Explanation(Explanation),
    /// To [`Request::Capture`].
    Capture(Capture),
    /// To [`Request::Graph`].
    Graph(Graph),
    /// To [`Request::Ping`].
    Pings(Pings),
    /// To [`Request::Bgp`].
    Bgp(BgpStatus),
    /// To [`Request::Routes`].
    Routes(Routes),
    /// The request was not carried out.
    Error(Failure),
    /// An answer that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Response {
    /// `Done` with a message.
    pub fn done(message: impl Into<String>) -> Self {
        Self::Done(Done { message: message.into() })
    }

    /// `Error` with what is wrong and what to do about it.
    pub fn error(code: ErrorCode, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Error(Failure { code, message: message.into(), mend: mend.into() })
    }
}

/// The request was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, for the operator; may be empty.
    #[serde(default)]
    pub message: String,
}

/// The request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// What is wrong. May have several lines (a configuration error with its excerpt).
    pub message: String,
    /// What to do about it; may be empty.
    #[serde(default)]
    pub mend: String,
}

words! {
    /// The class of a failure.
    pub enum ErrorCode {
        /// The request is not one that this culvertd knows.
        UnknownRequest = "unknown-request",
        /// The request cannot be read.
        BadRequest = "bad-request",
        /// There is no such connection or tunnel.
        UnknownTarget = "unknown-target",
        /// The tunnel's state does not allow it (disabled, not up).
        State = "state",
        /// The configuration file is wrong; the running configuration stays.
        Configuration = "configuration",
        /// culvertd failed; its log says more.
        Internal = "internal",
    }
}

/// What a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Empty when the file says what already runs.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// One difference between the configuration that ran and the one that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `gateway`, `connection NAME` or `tunnel CONNECTION/NAME`.
    pub subject: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// The keys that differ, when `changed`.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether the tunnel is negotiated anew (its traffic stops for a moment).
    #[serde(default)]
    pub renegotiate: bool,
    /// Whether it takes effect only when culvertd restarts.
    #[serde(default)]
    pub restart: bool,
}

words! {
    /// What happened to a connection or tunnel.
    pub enum ChangeKind {
        /// It is new.
        Added = "added",
        /// It is gone.
        Removed = "removed",
        /// It differs.
        Changed = "changed",
    }
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Unix time in milliseconds.
    pub time_ms: u64,
    /// How severe.
    pub level: Level,
    /// The environment that it is about, if that is not the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// The connection that it is about, if any.
    #[serde(default)]
    pub connection: Option<String>,
    /// The tunnel that it is about, if any.
    #[serde(default)]
    pub tunnel: Option<String>,
    /// The part of culvertd that speaks.
    #[serde(default)]
    pub target: String,
    /// One line of text.
    pub message: String,
    /// Everything else that was recorded, as text.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

/// Every counter of the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The guard's.
    #[serde(default)]
    pub guard: Vec<Counter>,
    /// The tunnels' drops.
    #[serde(default)]
    pub tunnels: Vec<TunnelDrops>,
    /// IKE messages that were dropped before they belonged to a tunnel, by reason.
    #[serde(default)]
    pub ike: BTreeMap<String, u64>,
}

/// What a tunnel dropped since culvertd started for which it had no SA. What an SA dropped is in the status, while it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelDrops {
    /// The connection's name.
    pub connection: String,
    /// The tunnel's name.
    pub tunnel: String,
    /// Packets by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}
