//! `culvert up`: begin, and wait for the outcome.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use culvert_api::{Request, Response, Status, Target, Tunnel, TunnelState};

use crate::client::{Client, ClientError};
use crate::render;
use crate::units;

/// How often culvertd is asked.
const INTERVAL: Duration = Duration::from_millis(100);

/// Brings the target up and prints a line per tunnel as its fate is known. Exit code 1 when one of them
/// did not come up.
pub(crate) fn up(
    client: &mut Client,
    out: &mut impl Write,
    target: &Target,
    timeout: Duration,
) -> Result<ExitCode> {
    let before = client.status()?;
    let mut waiting: Vec<Waiting> = tunnels(&before, target)
        .filter(|(_, tunnel)| tunnel.state != TunnelState::Disabled)
        .map(|(connection, tunnel)| Waiting {
            target: Target::tunnel(connection, &tunnel.name),
            failures: tunnel.failures,
        })
        .collect();
    match client.ask(&Request::Up { target: target.clone() })? {
        Response::Done(_) if waiting.is_empty() => {
            eprintln!(
                "culvert: no tunnel of {target} is enabled\n         \
                 write enabled = true in the configuration, then `culvert reload`"
            );
            return Ok(ExitCode::FAILURE);
        }
        Response::Done(_) => {}
        other => return Err(ClientError::unexpected(&other).into()),
    }
    let begin = Instant::now();
    let mut failed = false;
    loop {
        let status = client.status()?;
        let late = begin.elapsed() >= timeout;
        let mut still = Vec::new();
        for wait in waiting {
            match fate(&status, &wait, late.then_some(timeout)) {
                Fate::Up(line) => writeln!(out, "{}: {line}", wait.target)?,
                Fate::Failed(line) => {
                    failed = true;
                    eprintln!("culvert: {}: {line}", wait.target);
                }
                Fate::Open => still.push(wait),
            }
        }
        out.flush()?;
        if still.is_empty() {
            return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        waiting = still;
        std::thread::sleep(INTERVAL.min(timeout.saturating_sub(begin.elapsed())));
    }
}

/// A tunnel whose fate is open.
struct Waiting {
    target: Target,
    /// How often it had failed before.
    failures: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Up(String),
    Failed(String),
    Open,
}

fn tunnels<'a>(status: &'a Status, target: &'a Target) -> impl Iterator<Item = (&'a str, &'a Tunnel)> {
    status.connections.iter().flat_map(move |connection| {
        let covered = connection.tunnels.iter().filter(move |t| target.covers(&connection.name, &t.name));
        covered.map(move |tunnel| (connection.name.as_str(), tunnel))
    })
}

/// What became of a tunnel. `late`: the time is over.
fn fate(status: &Status, wait: &Waiting, late: Option<Duration>) -> Fate {
    let Some((_, tunnel)) = tunnels(status, &wait.target).next() else {
        return Fate::Failed("it is no longer in the configuration".to_owned());
    };
    let cause = tunnel.cause.as_deref().map(render::clean);
    match (tunnel.state, late) {
        (TunnelState::Up, _) => {
            let suite = tunnel.children.first().map_or("", |child| child.suite.as_str());
            let took = tunnel.ike.as_ref().and_then(|ike| ike.negotiation_ms);
            let took = took.map_or(String::new(), |ms| format!(", negotiated in {ms} ms"));
            Fate::Up(format!("up, {} {}{took}", render::engine(tunnel), render::clean(suite)))
        }
        (TunnelState::Disabled, _) => Fate::Failed("it is disabled in the configuration".to_owned()),
        _ if tunnel.failures > wait.failures => {
            Fate::Failed(cause.unwrap_or_else(|| "the negotiation failed; see `culvert logs`".to_owned()))
        }
        (state, Some(timeout)) => {
            let because = cause.map_or(String::new(), |cause| format!(": {cause}"));
            Fate::Failed(format!(
                "still {state} after {}{because}; culvertd goes on, watch it with `culvert logs --follow --connection {}`",
                units::duration(timeout.as_secs()),
                wait.target
            ))
        }
        (_, None) => Fate::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixture;

    fn fate_of(change: impl FnOnce(&mut Tunnel), failures: u64, late: bool) -> Fate {
        let mut status = fixture::status();
        change(&mut status.connections[0].tunnels[1]);
        let wait = Waiting { target: "hangzhou/b".parse().unwrap(), failures };
        fate(&status, &wait, late.then_some(Duration::from_secs(30)))
    }

    #[test]
    fn a_tunnel_is_waited_for_until_its_fate_is_known() {
        let cause = |t: &mut Tunnel| t.cause = Some("IKE_AUTH: the peer refused the key\u{1b}[0m".into());
        assert_eq!(fate_of(|t| t.cause = None, 2, false), Fate::Open);
        assert_eq!(fate_of(cause, 2, false), Fate::Open, "an old failure");
        assert!(
            matches!(fate_of(cause, 1, false), Fate::Failed(line) if line == "IKE_AUTH: the peer refused the key\u{fffd}[0m")
        );
        assert!(matches!(fate_of(|t| t.cause = None, 2, true), Fate::Failed(line)
            if line.starts_with("still connecting after 30s; culvertd goes on") && line.ends_with("--connection hangzhou/b`")));
        assert!(matches!(fate_of(|t| t.state = TunnelState::Disabled, 2, false), Fate::Failed(_)));
        let up = fate_of(|t| t.state = TunnelState::Up, 1, true);
        assert!(matches!(up, Fate::Up(_)), "up counts, however late and after however many failures: {up:?}");
    }

    #[test]
    fn a_tunnel_that_a_reload_took_away_has_failed() {
        let wait = Waiting { target: "hangzhou/z".parse().unwrap(), failures: 0 };
        assert!(matches!(fate(&fixture::status(), &wait, None), Fate::Failed(_)));
    }
}
