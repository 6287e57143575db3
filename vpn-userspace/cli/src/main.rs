//! culvert: the operator's command line, a client of culvertd's control socket.
//!
//! Exit codes: 0 done, 1 failed (no culvertd, refused, a tunnel did not come up), 2 wrong usage.

mod args;
mod bgp;
mod capture;
mod client;
mod doctor;
mod drops;
mod environment;
mod forward;
mod graph;
mod logs;
mod monitor;
mod notice;
mod paper;
mod pcap;
mod ping;
mod pki;
mod render;
mod trace;
mod units;
mod up;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Parser;
use culvert_api::{Request, Response};

use args::{Args, Command, Environment, Forward, Notice, Route, Tunnel};
use client::{Client, ClientError};

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            // A reader that has seen enough (`culvert logs --follow | head`) is no failure.
            if let Some(error) = error.downcast_ref::<io::Error>()
                && error.kind() == io::ErrorKind::BrokenPipe
            {
                return ExitCode::SUCCESS;
            }
            eprintln!("culvert: {}", render::clean_lines(&error.to_string()));
            if let Some(mend) = error.downcast_ref::<ClientError>().and_then(ClientError::mend) {
                eprintln!("         {}", render::clean_lines(&mend));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    if let Command::Pki(command) = &args.command {
        // Its files are the operator's: the whole reason helps. A reader that has seen enough stays what it is.
        pki::run(command, &mut out).map_err(|e| match e.downcast_ref::<io::Error>() {
            Some(io) if io.kind() == io::ErrorKind::BrokenPipe => e,
            _ => anyhow::anyhow!("{e:#}"),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Paper(command) = &args.command {
        return paper::run(command, &args.socket, &mut out);
    }
    if let Command::Doctor { target, config, json } = &args.command {
        let options = doctor::Options {
            target: target.as_ref(),
            config,
            socket: &args.socket,
            json: *json,
            colour: colour(),
        };
        return doctor::doctor(&mut out, &options);
    }
    let mut client = Client::connect(&args.socket)?;
    match &args.command {
        Command::Pki(_) | Command::Paper(_) | Command::Doctor { .. } => {}
        Command::Status { json: true, .. } => print_json(&mut client, &mut out, &Request::Status)?,
        Command::Counters { json: true } => print_json(&mut client, &mut out, &Request::Counters)?,
        Command::Status { target, verbose, environment, .. } => {
            let mut status = client.status()?;
            if let Some(name) = environment {
                render::narrow_to(&mut status, name).with_context(|| {
                    format!("there is no environment `{name}`; `culvert environment list` shows them")
                })?;
            }
            if let Some(target) = target {
                render::narrow(&mut status, target).context(ClientError::no_such(target))?;
            }
            let view = render::View { now_s: now_s(), colour: colour(), verbose: *verbose };
            out.write_all(render::status(&status, &view).as_bytes())?;
        }
        Command::Counters { .. } => match client.ask(&Request::Counters)? {
            Response::Counters(counters) => out.write_all(render::counters(&counters).as_bytes())?,
            other => return Err(ClientError::unexpected(&other).into()),
        },
        Command::Explain { target, json: true, .. } => {
            print_json(&mut client, &mut out, &Request::Explain { target: target.clone() })?;
        }
        Command::Explain { target, verbose, .. } => {
            match client.ask(&Request::Explain { target: target.clone() })? {
                Response::Explanation(explanation) => {
                    let view = render::View { now_s: now_s(), colour: colour(), verbose: *verbose };
                    out.write_all(render::explanation(&explanation, &view).as_bytes())?;
                }
                other => return Err(ClientError::unexpected(&other).into()),
            }
        }
        Command::Monitor { target, interval } => {
            monitor::monitor(client, &args.socket, target.as_ref(), interval.0)?;
        }
        Command::Capture { target, write, count, duration } => {
            let duration = duration.map(|span| span.0);
            let options = capture::Options { target, file: write, count: *count, duration };
            capture::capture(&mut client, &mut out, &options)?;
        }
        Command::Drops { follow, tunnel, reason, count, duration, json } => {
            let options = drops::Options {
                target: tunnel.as_ref(),
                reason: reason.as_deref(),
                follow: *follow,
                count: *count,
                duration: duration.map(|span| span.0),
                json: *json,
            };
            drops::drops(&mut client, &mut out, &options)?;
        }
        Command::Trace { target, pcap, json } => {
            let options = trace::Options { target: target.as_ref(), json: *json, pcap: pcap.as_deref() };
            trace::trace(&mut client, &mut out, &options)?;
        }
        Command::Graph { target, since, json } => {
            let seconds = u32::try_from(since.0.as_secs()).unwrap_or(u32::MAX);
            let request = Request::Graph { target: target.clone(), seconds };
            if *json {
                print_json(&mut client, &mut out, &request)?;
            } else {
                match client.ask(&request)? {
                    Response::Graph(graph) => out.write_all(graph::draw(&graph, columns()).as_bytes())?,
                    other => return Err(ClientError::unexpected(&other).into()),
                }
            }
        }
        Command::Ping { target, to, source, count, interval, timeout, json } => {
            let options = ping::Options {
                target,
                to: *to,
                source: *source,
                count: *count,
                interval: interval.0,
                timeout: timeout.0,
                json: *json,
            };
            return ping::ping(&mut client, &mut out, &options);
        }
        Command::Up { target, no_wait, timeout } => {
            if !no_wait {
                return up::up(&mut client, &mut out, target, timeout.0);
            }
            print_done(&mut client, &mut out, &Request::Up { target: target.clone() })?;
        }
        Command::Down { target } => {
            print_done(&mut client, &mut out, &Request::Down { target: target.clone() })?;
        }
        Command::Rekey { target, ike } => {
            print_done(&mut client, &mut out, &Request::Rekey { target: target.clone(), ike: *ike })?;
        }
        Command::Forward(Forward::List { json: true }) => {
            let connections = client.status()?.connections.into_iter();
            let by_connection: BTreeMap<_, _> = connections.map(|c| (c.name, c.forwards)).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&by_connection)?)?;
        }
        Command::Forward(Forward::List { .. }) => forward::list(&mut out, &client.status()?)?,
        Command::Forward(Forward::Hosts { name }) => forward::hosts(&mut out, &client.status()?, name)?,
        Command::Notice(Notice::List { json: true }) => {
            writeln!(out, "{}", serde_json::to_string_pretty(&client.status()?.notices)?)?;
        }
        Command::Notice(Notice::List { .. }) => notice::list(&mut out, &client.status()?)?,
        Command::Notice(Notice::Test { name }) => {
            print_done(&mut client, &mut out, &Request::TestNotice { name: name.clone() })?;
        }
        Command::Bgp { json: true } => print_json(&mut client, &mut out, &Request::Bgp)?,
        Command::Bgp { .. } => match client.ask(&Request::Bgp)? {
            Response::Bgp(status) => bgp::sessions(&mut out, &status, now_s())?,
            other => return Err(ClientError::unexpected(&other).into()),
        },
        Command::Route(Route::List { json: true }) => print_json(&mut client, &mut out, &Request::Routes)?,
        Command::Route(Route::List { .. }) => match client.ask(&Request::Routes)? {
            Response::Routes(routes) => bgp::routes(&mut out, &routes)?,
            other => return Err(ClientError::unexpected(&other).into()),
        },
        Command::Environment(Environment::List { json: true }) => {
            writeln!(out, "{}", serde_json::to_string_pretty(&client.status()?.environments)?)?;
        }
        Command::Environment(Environment::List { .. }) => environment::list(&mut out, &client.status()?)?,
        Command::Tunnel(Tunnel::Failback { target }) => {
            print_done(&mut client, &mut out, &Request::Failback { target: target.clone() })?;
        }
        Command::Tunnel(Tunnel::Disable { target }) => {
            print_done(&mut client, &mut out, &Request::Switch { target: target.clone(), enabled: false })?;
        }
        Command::Tunnel(Tunnel::Enable { target }) => {
            print_done(&mut client, &mut out, &Request::Switch { target: target.clone(), enabled: true })?;
        }
        Command::Tunnel(Tunnel::Engine { target, engine }) => {
            print_done(&mut client, &mut out, &Request::Engine { target: target.clone(), engine: *engine })?;
        }
        Command::Reload => match client.ask(&Request::Reload)? {
            Response::Reload(reloaded) => out.write_all(render::reloaded(&reloaded).as_bytes())?,
            other => return Err(ClientError::unexpected(&other).into()),
        },
        Command::Logs { follow, target, connection, tunnel, environment, level, since, until, json } => {
            let options = logs::Options {
                target: target.as_ref().or(connection.as_ref()),
                tunnel: tunnel.as_deref(),
                environment: environment.as_deref(),
                level: *level,
                since: *since,
                until: *until,
                follow: *follow,
                json: *json,
            };
            return logs::logs(&mut client, &mut out, &options);
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what culvertd answered as it came, fields of newer versions included.
fn print_json(client: &mut Client, out: &mut impl Write, request: &Request) -> Result<()> {
    let mut answer = client.ask_raw(request)?;
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("response");
    }
    serde_json::to_writer_pretty(&mut *out, &answer)?;
    out.write_all(b"\n")?;
    Ok(())
}

fn print_done(client: &mut Client, out: &mut impl Write, request: &Request) -> Result<()> {
    match client.ask(request)? {
        Response::Done(done) if done.message.is_empty() => Ok(()),
        Response::Done(done) => Ok(writeln!(out, "{}", render::clean_lines(&done.message))?),
        other => Err(ClientError::unexpected(&other).into()),
    }
}

/// Unix time in seconds.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs())
}

/// Of the terminal; 100 where there is none.
fn columns() -> usize {
    ratatui::crossterm::terminal::size().map_or(100, |(columns, _)| usize::from(columns))
}

fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
