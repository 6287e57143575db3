//! Bytes to lines, lines to values: one JSON object per line, of limited length.

use serde::Serialize;

use crate::protocol::{ErrorCode, Request, Response};

/// The longest request line that culvertd reads, in bytes with the newline.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The longest response line that a client reads, in bytes with the newline: the status of some
/// thousand tunnels.
pub const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// A line cannot be taken from the stream, or makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The line is longer than the reader's limit. The stream cannot be used further.
    #[error("a line of more than {limit} bytes")]
    TooLong {
        /// In bytes.
        limit: usize,
    },
    /// The line is no JSON object, or a field has the wrong type.
    #[error("cannot be read: {0}")]
    Malformed(#[source] serde_json::Error),
    /// The line is a request of a name that this version does not know.
    #[error("the request `{0}` is not known to culvertd {version}", version = env!("CARGO_PKG_VERSION"))]
    UnknownRequest(String),
}

impl FrameError {
    /// The answer to a client that sent such a line.
    pub fn to_response(&self) -> Response {
        match self {
            Self::UnknownRequest(_) => Response::error(
                ErrorCode::UnknownRequest,
                self.to_string(),
                "use the culvert of the same version as culvertd (`culvert --version`)",
            ),
            Self::TooLong { .. } | Self::Malformed(_) => Response::error(
                ErrorCode::BadRequest,
                format!("the request {self}"),
                "send one JSON object per line, such as {\"request\":\"status\"}",
            ),
        }
    }
}

/// A value as one line, newline included.
///
/// Never fails for the types of this crate: they have string keys only and no failing `Serialize`.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_else(|error| {
        // Still one line of the protocol, and one that names the fault.
        let fallback =
            Response::error(ErrorCode::Internal, format!("the answer cannot be encoded: {error}"), "");
        serde_json::to_vec(&fallback).unwrap_or_default()
    });
    line.push(b'\n');
    line
}

/// Reads a request line (with or without its newline).
pub fn decode_request(line: &[u8]) -> Result<Request, FrameError> {
    let value: serde_json::Value = serde_json::from_slice(line).map_err(FrameError::Malformed)?;
    let name = value.get("request").and_then(|name| name.as_str()).map(str::to_owned);
    match serde_json::from_value(value) {
        Ok(request) => Ok(request),
        Err(error) => match name {
            Some(name) if !KNOWN.contains(&name.as_str()) => {
                Err(FrameError::UnknownRequest(name.chars().take(64).flat_map(char::escape_debug).collect()))
            }
            _ => Err(FrameError::Malformed(error)),
        },
    }
}

const KNOWN: [&str; 14] = [
    "status", "up", "down", "rekey", "failback", "switch", "engine", "reload", "logs", "counters", "trace",
    "explain", "drops", "capture",
];

/// Reads a response line (with or without its newline).
pub fn decode_response(line: &[u8]) -> Result<Response, FrameError> {
    serde_json::from_slice(line).map_err(FrameError::Malformed)
}

/// Cuts a byte stream into lines.
///
/// ```
/// # use culvert_api::frame::Lines;
/// let mut lines = Lines::new(100);
/// lines.push(b"{\"request\":\"sta");
/// assert!(lines.next_line().unwrap().is_none());
/// lines.push(b"tus\"}\n");
/// assert_eq!(lines.next_line().unwrap().unwrap(), b"{\"request\":\"status\"}");
/// ```
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Bytes at the front that were searched for a newline in vain.
    searched: usize,
    limit: usize,
}

impl Lines {
    /// For lines of at most `limit` bytes, newline included.
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), searched: 0, limit }
    }

    /// Bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its newline; empty lines are skipped.
    ///
    /// # Errors
    /// [`FrameError::TooLong`]; from then on every call answers the same.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            let end = fresh.iter().position(|b| *b == b'\n').map(|at| self.searched + at);
            if end.map_or(self.buffer.len(), |end| end + 1) > self.limit {
                return Err(FrameError::TooLong { limit: self.limit });
            }
            let Some(end) = end else {
                self.searched = self.buffer.len();
                return Ok(None);
            };
            let rest = self.buffer.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.buffer, rest);
            self.searched = 0;
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Level, LogRecord, LogsRequest};

    #[test]
    fn requests_have_the_documented_shape() {
        let cases = [
            (Request::Status, r#"{"request":"status"}"#),
            (Request::Up { target: "c".parse().unwrap() }, r#"{"request":"up","target":"c"}"#),
            (Request::Down { target: "c/t".parse().unwrap() }, r#"{"request":"down","target":"c/t"}"#),
            (
                Request::Rekey { target: "c".parse().unwrap(), ike: true },
                r#"{"request":"rekey","target":"c","ike":true}"#,
            ),
            (
                Request::Engine { target: "c".parse().unwrap(), engine: crate::EngineChoice::User },
                r#"{"request":"engine","target":"c","engine":"user"}"#,
            ),
            (Request::Failback { target: "c".parse().unwrap() }, r#"{"request":"failback","target":"c"}"#),
            (
                Request::Switch { target: "c/t".parse().unwrap(), enabled: false },
                r#"{"request":"switch","target":"c/t","enabled":false}"#,
            ),
            (Request::Reload, r#"{"request":"reload"}"#),
            (
                Request::Logs(LogsRequest {
                    connection: Some("c".parse().unwrap()),
                    level: Some(Level::Warn),
                    since_ms: Some(5),
                    follow: true,
                    ..LogsRequest::default()
                }),
                r#"{"request":"logs","connection":"c","level":"warn","since_ms":5,"follow":true}"#,
            ),
            (Request::Counters, r#"{"request":"counters"}"#),
            (
                Request::Trace { target: Some("c".parse().unwrap()), datagrams: true },
                r#"{"request":"trace","target":"c","datagrams":true}"#,
            ),
            (
                Request::Drops(crate::DropsRequest { follow: true, ..Default::default() }),
                r#"{"request":"drops","target":null,"reason":null,"follow":true}"#,
            ),
            (Request::Explain { target: "c/t".parse().unwrap() }, r#"{"request":"explain","target":"c/t"}"#),
            (Request::Capture { target: "c".parse().unwrap() }, r#"{"request":"capture","target":"c"}"#),
        ];
        assert_eq!(cases.len(), KNOWN.len());
        for (request, text) in cases {
            assert_eq!(String::from_utf8(encode(&request)).unwrap(), format!("{text}\n"));
            assert_eq!(decode_request(text.as_bytes()).unwrap(), request);
        }
    }

    #[test]
    fn fields_of_a_newer_client_are_ignored() {
        let line = br#"{"request":"rekey","target":"c","urgency":7}"#;
        assert_eq!(
            decode_request(line).unwrap(),
            Request::Rekey { target: "c".parse().unwrap(), ike: false }
        );
        assert_eq!(decode_request(br#"{"request":"logs"}"#).unwrap(), Request::Logs(LogsRequest::default()));
    }

    #[test]
    fn wrong_requests_are_answered_in_text() {
        let cases: [(&[u8], &str, &str); 6] = [
            (b"{\"request\":\"dance\"}", "unknown-request", "the request `dance` is not known"),
            (b"{\"request\":\"up\"}", "bad-request", "missing field `target`"),
            (b"{\"request\":\"up\",\"target\":\"a b\"}", "bad-request", "names no connection"),
            (b"{}", "bad-request", "missing field `request`"),
            (b"status", "bad-request", "the request cannot be read"),
            (b"\xff\xfe", "bad-request", "the request cannot be read"),
        ];
        for (line, code, text) in cases {
            let Response::Error(failure) = decode_request(line).unwrap_err().to_response() else { panic!() };
            assert_eq!(failure.code.as_str(), code, "{failure:?}");
            assert!(failure.message.contains(text), "{failure:?}");
            assert!(!failure.mend.is_empty());
        }
    }

    #[test]
    fn answers_of_a_newer_daemon_are_understood_as_far_as_possible() {
        let line = br#"{"response":"error","code":"novel","message":"m","mend":"n","more":1}"#;
        assert_eq!(decode_response(line).unwrap(), Response::error(ErrorCode::Unknown, "m", "n"));
        assert_eq!(decode_response(br#"{"response":"sculpture","x":[1]}"#).unwrap(), Response::Unknown);
        let status = br#"{"response":"status","version":"9","pid":1,"uptime_s":2,"gateway":{"wan":[
            {"interface":"eth0","attach":"xdp-offload","guard":"on"}]},"future":{}}"#;
        let Response::Status(status) = decode_response(status).unwrap() else { panic!() };
        assert_eq!(status.gateway.wan[0].attach, Some(crate::Attach::Unknown));
        assert_eq!(
            decode_response(&encode(&Response::Status(status.clone()))).unwrap(),
            Response::Status(status)
        );
    }

    #[test]
    fn lines_are_cut_however_they_arrive() {
        let text = b"one\n\r\n\ntwo\r\nthree\nfo";
        for chunk in 1..text.len() {
            let mut lines = Lines::new(16);
            let mut got = Vec::new();
            for part in text.chunks(chunk) {
                lines.push(part);
                while let Some(line) = lines.next_line().unwrap() {
                    got.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(got, ["one", "two", "three"], "in chunks of {chunk}");
        }
    }

    /// Public mistake: local API.
    #[test]
    fn a_line_over_the_limit_is_refused_for_good() {
        let mut lines = Lines::new(4);
        lines.push(b"abc\n");
        assert_eq!(lines.next_line().unwrap().unwrap(), b"abc");
        lines.push(b"abcd");
        assert!(lines.next_line().unwrap().is_none());
        lines.push(b"\nx\n");
        for _ in 0..2 {
            assert!(matches!(lines.next_line(), Err(FrameError::TooLong { limit: 4 })));
        }
    }

    #[test]
    fn a_logs_request_picks_its_records() {
        let record = |connection: Option<&str>, tunnel: Option<&str>, level| LogRecord {
            time_ms: 0,
            level,
            environment: None,
            connection: connection.map(str::to_owned),
            tunnel: tunnel.map(str::to_owned),
            target: String::new(),
            message: String::new(),
            fields: Default::default(),
        };
        let wants = |target: Option<&str>, level, record: &LogRecord| {
            LogsRequest { connection: target.map(|t| t.parse().unwrap()), level, ..Default::default() }
                .wants(record)
        };
        let tunnel = record(Some("c"), Some("a"), Level::Info);
        assert!(
            wants(None, None, &tunnel)
                && wants(Some("c"), None, &tunnel)
                && wants(Some("c/a"), None, &tunnel)
        );
        assert!(!wants(Some("c/b"), None, &tunnel) && !wants(Some("d"), None, &tunnel));
        assert!(wants(None, Some(Level::Info), &tunnel) && !wants(None, Some(Level::Warn), &tunnel));
        assert!(!wants(Some("c/a"), None, &record(Some("c"), None, Level::Error)));
        assert!(!wants(Some("c"), None, &record(None, None, Level::Error)));
        let between = |from, until| LogsRequest { from_ms: from, until_ms: until, ..Default::default() };
        let at = |time_ms| LogRecord { time_ms, ..tunnel.clone() };
        assert!(between(Some(5), Some(7)).wants(&at(5)) && between(Some(5), Some(7)).wants(&at(7)));
        assert!(!between(Some(5), None).wants(&at(4)) && !between(None, Some(7)).wants(&at(8)));
        let of =
            |environment: &str| LogsRequest { environment: Some(environment.into()), ..Default::default() };
        let production = LogRecord { environment: Some("production".into()), ..tunnel.clone() };
        assert!(of("production").wants(&production) && !of("default").wants(&production));
        assert!(of("default").wants(&tunnel) && !of("production").wants(&tunnel));
    }
}
