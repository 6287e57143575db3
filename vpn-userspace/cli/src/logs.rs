//! `culvert logs`: what culvertd keeps of its log, by connection, time and level.

use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use culvert_api::{Level, LogsRequest, Request, Response, Target};

use crate::client::{Client, ClientError};
use crate::units::Span;
use crate::{colour, now_s, render};

/// A time on the command line: how long ago (`10m`), or when in UTC (`2026-11-22T01:37`, with or without seconds and Z).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long ago.
    Ago(Span),
    /// Unix time in milliseconds.
    At(u64),
}

impl FromStr for Moment {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(span) = text.parse() {
            return Ok(Self::Ago(span));
        }
        utc(text)
            .map(Self::At)
            .ok_or("write how long ago, such as 10m, or a time in UTC such as 2026-11-22T01:37:08Z")
    }
}

impl Moment {
    /// Unix time in milliseconds.
    fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(span) => now_ms.saturating_sub(u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)),
            Self::At(ms) => ms,
        }
    }
}

/// `YYYY-MM-DD[THH:MM[:SS[.mmm]]][Z]`, with a space in place of the T if that is quoted, as Unix milliseconds.
fn utc(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let number = |part: &str, digits: usize| {
        (part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse::<u64>().ok())
            .flatten()
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || year < 1970 || !(1..=days).contains(&day) {
        return None;
    }
    let mut parts = time.split(':');
    let (hours, minutes) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let (seconds, millis) = match parts.next() {
        None => (0, 0),
        Some(part) => match part.split_once('.') {
            None => (number(part, 2)?, 0),
            Some((seconds, millis)) => (number(seconds, 2)?, number(millis, 3)?),
        },
    };
    if parts.next().is_some() || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    // Days since the era began, with years from March, so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let whole = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((((whole * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + millis)
}

/// What the command line says.
pub(crate) struct Options<'a> {
    pub(crate) target: Option<&'a Target>,
    pub(crate) tunnel: Option<&'a str>,
    pub(crate) environment: Option<&'a str>,
    pub(crate) level: Option<Level>,
    pub(crate) since: Option<Moment>,
    pub(crate) until: Option<Moment>,
    pub(crate) follow: bool,
    pub(crate) json: bool,
}

/// Prints the records, and with `follow` goes on until it is interrupted.
pub(crate) fn logs(client: &mut Client, out: &mut impl Write, options: &Options<'_>) -> Result<ExitCode> {
    let now_ms = now_s().saturating_mul(1000).saturating_add(999);
    let target = match (options.target, options.tunnel) {
        (Some(target), Some(tunnel)) => Some(format!("{}/{tunnel}", target.connection_name()).parse()?),
        (target, _) => target.cloned(),
    };
    client.send(&Request::Logs(LogsRequest {
        connection: target,
        environment: options.environment.map(str::to_owned),
        level: options.level,
        // By culvertd's clock, and not by this one.
        since_ms: match options.since {
            Some(Moment::Ago(span)) => Some(u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)),
            _ => None,
        },
        from_ms: match options.since {
            Some(Moment::At(ms)) => Some(ms),
            _ => None,
        },
        until_ms: options.until.map(|moment| moment.unix_ms(now_ms)),
        follow: options.follow,
    }))?;
    if options.follow {
        client.wait_for_ever()?;
    }
    let colour = colour();
    loop {
        match client.receive() {
            Ok(Response::Log(record)) if options.json => serde_json::to_writer(&mut *out, &record)?,
            Ok(Response::Log(record)) => out.write_all(render::log_line(&record, colour).as_bytes())?,
            Ok(Response::Done(_)) => break,
            // Something newer than this culvert in the stream does not end it.
            Ok(Response::Unknown) => continue,
            Ok(other) => return Err(ClientError::unexpected(&other).into()),
            Err(error) => return Err(error.into()),
        }
        if options.json {
            out.write_all(b"\n")?;
        }
        if options.follow {
            out.flush()?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::timestamp;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for ms in [0, 951_827_696_000, 1_795_311_428_123, 4_107_542_399_999] {
            assert_eq!(timestamp(ms).parse(), Ok(Moment::At(ms)), "{}", timestamp(ms));
        }
        for (text, same) in [
            ("2026-11-22", "2026-11-22T00:00:00.000Z"),
            ("2026-11-22T01:37", "2026-11-22T01:37:00.000Z"),
            ("2026-11-22 01:37:08", "2026-11-22T01:37:08.000Z"),
        ] {
            assert_eq!(text.parse::<Moment>(), same.parse());
        }
        for wrong in [
            "",
            "yesterday",
            "2026-13-01",
            "2026-02-29",
            "1969-12-31",
            "2026-11-22T24:00",
            "2026-11-22T1:00",
            "2026-1-2",
            "10",
        ] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
        assert_eq!("10m".parse::<Moment>().unwrap().unix_ms(700_000), 100_000);
    }
}
