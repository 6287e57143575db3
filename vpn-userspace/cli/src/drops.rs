//! `culvert drops`: how many packets were dropped and why, and with `--follow` some of them as they are dropped.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use culvert_api::{DropsRequest, Engine, Request, Response, Status, Target};

use crate::client::{Client, ClientError};
use crate::render;

/// What to show, and when to end.
pub(crate) struct Options<'a> {
    pub(crate) target: Option<&'a Target>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) follow: bool,
    /// After so many lines.
    pub(crate) count: Option<u64>,
    /// After this time.
    pub(crate) duration: Option<Duration>,
    pub(crate) json: bool,
}

/// Prints counts, or packets until a limit is reached or either side ends it.
pub(crate) fn drops(client: &mut Client, out: &mut impl Write, options: &Options<'_>) -> Result<()> {
    let request = DropsRequest {
        target: options.target.cloned(),
        reason: options.reason.map(str::to_owned),
        follow: options.follow,
    };
    if options.follow {
        return follow(client, out, options, request);
    }
    match client.ask(&Request::Drops(request))? {
        Response::Drops(drops) if options.json => {
            serde_json::to_writer_pretty(&mut *out, &drops)?;
            out.write_all(b"\n")?;
        }
        Response::Drops(drops) => out.write_all(render::drops(&drops).as_bytes())?,
        other => return Err(ClientError::unexpected(&other).into()),
    }
    Ok(())
}

fn follow(
    client: &mut Client,
    out: &mut impl Write,
    options: &Options<'_>,
    request: DropsRequest,
) -> Result<()> {
    let status = client.status()?;
    // It may find that there is no such tunnel.
    match client.ask(&Request::Drops(request))? {
        Response::Done(_) => {}
        other => return Err(ClientError::unexpected(&other).into()),
    }
    eprintln!("culvert: following dropped packets{}; Ctrl-C ends it", counted_only(&status));
    let begin = Instant::now();
    let mut lines = 0;
    while options.count.is_none_or(|count| lines < count) {
        let left = options.duration.map(|limit| limit.saturating_sub(begin.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            break;
        }
        client.wait_for(left)?;
        match client.receive() {
            Ok(Response::Drop(record)) if options.json => {
                serde_json::to_writer(&mut *out, &record)?;
                out.write_all(b"\n")?;
            }
            Ok(Response::Drop(record)) => out.write_all(render::drop_line(&record).as_bytes())?,
            Ok(Response::Done(_)) => break,
            Ok(Response::Unknown) => continue,
            Ok(other) => return Err(ClientError::unexpected(&other).into()),
            Err(ClientError::Timeout(..)) if options.duration.is_some() => break,
            Err(error) => return Err(error.into()),
        }
        lines += 1;
        out.flush()?;
    }
    Ok(())
}

/// What will not be seen.
fn counted_only(status: &Status) -> &'static str {
    let counts = |engine: &Option<Engine>| *engine == Some(Engine::Xfrm);
    let mut tunnels = status.connections.iter().flat_map(|c| &c.tunnels);
    if tunnels.any(|t| counts(&t.engine) || t.children.iter().any(|c| counts(&c.engine))) {
        " (of engine xfrm only their numbers: the kernel shows no packets)"
    } else {
        ""
    }
}
