//! The control API's types, shared by culvertd and culvert.
//!
//! The protocol: a Unix stream socket ([`DEFAULT_SOCKET`], mode 0600), one JSON object per line.
//! The client writes a [`Request`]; culvertd answers with one [`Response`], or, for
//! [`Request::Logs`], with a stream of [`Response::Log`] that ends with [`Response::Done`]
//! (with `follow` it ends only when either side closes the connection). After the last answer the client
//! may ask again on the same connection. Requests are answered in order.
//!
//! Compatibility: a reader ignores fields that it does not know, fields added later have defaults, and
//! words of an enumeration that the reader does not know become `Unknown`. A request that culvertd does not
//! know is answered with [`ErrorCode::UnknownRequest`], in text that says so.
//!
//! This crate does no I/O; [`frame`] turns bytes into lines and lines into values.

mod bgp;
mod capture;
mod drops;
mod environment;
mod explain;
pub mod frame;
mod graph;
mod ping;
mod protocol;
mod status;
mod target;
mod trace;
mod words;

pub use bgp::{BgpSession, BgpStatus, RouteEntry, RouteOrigin, Routes};
pub use capture::{Capture, CapturePlace};
pub use drops::{DropCount, DropEnd, DropInner, DropPlace, DropRecord, Drops, DropsRequest, ROUTINE};
pub use environment::{DEFAULT_ENVIRONMENT, Environment, Isolation, Limit};
pub use explain::{Explanation, Happening, Reason, TunnelHistory, What};
pub use graph::{Graph, TunnelGraph};
pub use ping::{Ping, PingRequest, Pings};
pub use protocol::{
    Change, ChangeKind, Counters, Done, ErrorCode, Failure, Level, LogRecord, LogsRequest, Reloaded, Request,
    Response, TunnelDrops,
};
pub use status::{
    Algorithm, Attach, Child, Connection, ConnectionState, Counter, Encap, Engine, EngineChoice,
    EngineStatus, Forward, Gateway, Guard, Health, HealthVerdict, Ike, IkeEnd, LanPort, Nat, Notice, Status,
    Tunnel, TunnelState, Verdict, Wan, WanPort,
};
pub use target::{Target, TargetError};
pub use trace::TraceRecord;

/// Where culvertd listens unless told otherwise (`control_socket` in `[gateway]`, `--control-socket`).
pub const DEFAULT_SOCKET: &str = "/run/culvert/culvert.sock";
