//! `culvert ping`: echoes through given tunnels, with loss and latency.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use culvert_api::{Ping, PingRequest, Request, Response, Target};
use serde_json::json;

use crate::client::{Client, ClientError};
use crate::render::clean;

pub(crate) struct Options<'a> {
    pub(crate) target: &'a Target,
    pub(crate) to: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) count: u32,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) json: bool,
}

/// Of one tunnel, round trips in microseconds.
#[derive(Debug, Default)]
struct Sum {
    sent: u32,
    trips: Vec<u64>,
}

impl Sum {
    fn add(&mut self, ping: &Ping) {
        self.sent += 1;
        self.trips.extend(ping.round_trip_us);
    }

    fn loss_percent(&self) -> f64 {
        let lost = f64::from(self.sent) - self.trips.len() as f64;
        100.0 * lost / f64::from(self.sent.max(1))
    }

    /// The least, the median and the greatest, in microseconds.
    fn spread(&self) -> Option<(u64, u64, u64)> {
        let mut sorted = self.trips.clone();
        sorted.sort_unstable();
        Some((*sorted.first()?, *sorted.get(sorted.len() / 2)?, *sorted.last()?))
    }
}

/// Exits with 1 if a tunnel brought no answer at all.
pub(crate) fn ping(client: &mut Client, out: &mut impl Write, options: &Options<'_>) -> Result<ExitCode> {
    // culvertd answers when the last echo is back or late.
    client.wait_for(Some(options.timeout + Duration::from_secs(10)))?;
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for number in 1..=options.count {
        let began = Instant::now();
        let request = PingRequest {
            target: options.target.clone(),
            to: options.to,
            source: options.source,
            timeout_ms: u64::try_from(options.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let pings = match client.ask(&Request::Ping(request))? {
            Response::Pings(pings) => pings.pings,
            other => return Err(ClientError::unexpected(&other).into()),
        };
        for ping in &pings {
            let name = format!("{}/{}", clean(&ping.connection), clean(&ping.tunnel));
            if !options.json {
                writeln!(out, "{name}: {}", line(number, ping))?;
            }
            sums.entry(name).or_default().add(ping);
        }
        out.flush()?;
        if number < options.count {
            std::thread::sleep(options.interval.saturating_sub(began.elapsed()));
        }
    }
    if options.json {
        write_json(out, &sums)?
    } else {
        write_sums(out, &sums)?
    }
    let silent = sums.is_empty() || sums.values().any(|sum| sum.trips.is_empty());
    Ok(if silent { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(number: u32, ping: &Ping) -> String {
    let to = ping.to.map(|to| format!(" from {to}")).unwrap_or_default();
    match (ping.round_trip_us, &ping.error) {
        (Some(trip), _) => format!("answer {number}{to} after {}", milliseconds(trip)),
        (None, Some(error)) => format!("none {number}: {}", clean(error)),
        (None, None) => format!("no answer {number}{to}"),
    }
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

fn write_sums(out: &mut impl Write, sums: &BTreeMap<String, Sum>) -> io::Result<()> {
    writeln!(out)?;
    for (name, sum) in sums {
        write!(
            out,
            "{name}: {} sent, {} answered, {:.0} % lost",
            sum.sent,
            sum.trips.len(),
            sum.loss_percent()
        )?;
        if let Some((least, median, greatest)) = sum.spread() {
            let [least, median, greatest] = [least, median, greatest].map(milliseconds);
            write!(out, "; least {least}, median {median}, greatest {greatest}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_json(out: &mut impl Write, sums: &BTreeMap<String, Sum>) -> Result<()> {
    let tunnels: BTreeMap<_, _> = sums
        .iter()
        .map(|(name, sum)| {
            let spread = sum.spread();
            let value = json!({
                "sent": sum.sent,
                "answered": sum.trips.len(),
                "loss_percent": sum.loss_percent(),
                "least_us": spread.map(|s| s.0),
                "median_us": spread.map(|s| s.1),
                "greatest_us": spread.map(|s| s.2),
                "round_trips_us": sum.trips,
            });
            (name, value)
        })
        .collect();
    writeln!(out, "{}", serde_json::to_string_pretty(&tunnels)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong(round_trip_us: Option<u64>) -> Ping {
        Ping {
            connection: "hangzhou".into(),
            tunnel: "a".into(),
            to: Some(IpAddr::from([10, 2, 0, 1])),
            source: None,
            round_trip_us,
            error: None,
        }
    }

    #[test]
    fn loss_and_latency_are_summed_up() {
        let mut sum = Sum::default();
        for trip in [Some(900), None, Some(12_345), Some(1000)] {
            sum.add(&pong(trip));
        }
        let mut text = Vec::new();
        write_sums(&mut text, &BTreeMap::from([("hangzhou/a".to_owned(), sum)])).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "\nhangzhou/a: 4 sent, 3 answered, 25 % lost; least 0.900 ms, median 1.000 ms, greatest 12.345 ms\n"
        );
    }

    #[test]
    fn a_line_tells_silence_from_a_mistake() {
        assert_eq!(line(1, &pong(Some(1500))), "answer 1 from 10.2.0.1 after 1.500 ms");
        assert_eq!(line(2, &pong(None)), "no answer 2 from 10.2.0.1");
        let wrong = Ping { error: Some("no such\naddress".into()), ..pong(None) };
        assert!(line(3, &wrong).starts_with("none 3: no such") && !line(3, &wrong).contains('\n'));
    }
}
