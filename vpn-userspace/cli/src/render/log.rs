//! Log records as lines.

use culvert_api::{Level, LogRecord, TraceRecord};

use super::clean;
use crate::units;

/// `2026-11-22T01:37:08.123Z info  hangzhou/a: message key=value`
pub(crate) fn log_line(record: &LogRecord, colour: bool) -> String {
    let level = match (colour, record.level) {
        (true, Level::Error) => "\u{1b}[31merror\u{1b}[0m".to_owned(),
        (true, Level::Warn) => "\u{1b}[33mwarn\u{1b}[0m ".to_owned(),
        (_, level) => format!("{level:<5}"),
    };
    let environment = record.environment.as_ref().map_or(String::new(), |name| format!("[{}] ", clean(name)));
    let about = match (&record.connection, &record.tunnel) {
        (Some(connection), Some(tunnel)) => format!("{}/{}: ", clean(connection), clean(tunnel)),
        (Some(connection), None) => format!("{}: ", clean(connection)),
        _ => String::new(),
    };
    let mut line = format!(
        "{} {level} {environment}{about}{}",
        units::timestamp(record.time_ms),
        clean(&record.message)
    );
    for (key, value) in &record.fields {
        let value = clean(value);
        if value.is_empty() || value.contains([' ', '"', '=']) {
            line.push_str(&format!(" {}={value:?}", clean(key)));
        } else {
            line.push_str(&format!(" {}={value}", clean(key)));
        }
    }
    line.push('\n');
    line
}

/// `2026-11-22T01:37:08.123Z hangzhou/a > IKE_AUTH request 1 [ … ]`; `>` was sent, `<` came.
pub(crate) fn trace_line(record: &TraceRecord, text: &str) -> String {
    let whose = match (&record.connection, &record.tunnel, record.remote) {
        (Some(connection), Some(tunnel), _) => format!("{}/{}", clean(connection), clean(tunnel)),
        (_, _, Some(remote)) => remote.to_string(),
        _ => "unknown".to_owned(),
    };
    let way = if record.sent { '>' } else { '<' };
    format!("{} {whose} {way} {}\n", units::timestamp(record.time_us / 1000), clean(text))
}
