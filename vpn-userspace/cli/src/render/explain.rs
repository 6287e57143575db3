//! `culvert explain`: why a tunnel is as it is, what to do about it, and what happened before.

use std::fmt::Write;

use culvert_api::{Explanation, Happening, TunnelHistory, TunnelState};

use super::{View, clean};
use crate::units;

/// Happenings shown without `--verbose`.
const SHOWN: usize = 12;

/// A block per tunnel.
pub(crate) fn explanation(explanation: &Explanation, view: &View) -> String {
    let blocks: Vec<String> = explanation.tunnels.iter().map(|tunnel| block(tunnel, view)).collect();
    blocks.join("\n")
}

fn block(tunnel: &TunnelHistory, view: &View) -> String {
    let mut out = String::new();
    let span = units::duration(view.now_s.saturating_sub(tunnel.since));
    let colour = |text: &str, code: u8| match view.colour {
        true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        false => text.to_owned(),
    };
    let state = match tunnel.state {
        TunnelState::Up => colour("up", 32),
        TunnelState::Down => colour("down", 31),
        other => colour(other.as_str(), 33),
    };
    // Writing to a string does not fail.
    let _ = writeln!(out, "{}/{} is {state} for {span}", clean(&tunnel.connection), clean(&tunnel.tunnel));
    let reason = tunnel.reason();
    match reason.and_then(|happening| happening.failure.as_ref().map(|failure| (happening, failure))) {
        Some((happening, failure)) => {
            let often = match happening.times {
                1 => String::new(),
                times => format!(", {times} times in a row"),
            };
            let ago = units::duration(view.now_s.saturating_sub(happening.last_ms / 1000));
            line(&mut out, "failed", &format!("{}{often}, last {ago} ago", failure.phase));
            line(&mut out, "cause", &failure.cause);
            line(&mut out, "fault", &failure.fault);
            for (key, value) in [("ours", &failure.ours), ("the peer's", &failure.theirs)] {
                if !value.is_empty() {
                    line(&mut out, key, value);
                }
            }
            // Cleaned before the colour, which is ours.
            let _ = writeln!(out, "  {:<10} {}", "to mend", colour(&clean(&failure.mend), 1));
            line(&mut out, "rule", &failure.rule);
        }
        None => match &tunnel.cause {
            Some(cause) if tunnel.state != TunnelState::Up => line(&mut out, "cause", cause),
            _ if tunnel.state == TunnelState::Up => line(&mut out, "failures", "none since it came up"),
            _ => line(&mut out, "failures", "none; `culvert up` begins"),
        },
    }
    let skipped = if view.verbose { 0 } else { tunnel.history.len().saturating_sub(SHOWN) };
    if !tunnel.history.is_empty() {
        out.push_str("  history\n");
    }
    if skipped > 0 {
        let _ = writeln!(out, "    ({skipped} earlier: culvert explain --verbose)");
    }
    for happening in tunnel.history.iter().skip(skipped) {
        entry(&mut out, happening);
    }
    if reason.is_some_and(|reason| !tunnel.history.contains(reason)) || view.verbose {
        if !tunnel.strangers.is_empty() {
            out.push_str("  from the same address, of no tunnel that could be told\n");
        }
        for happening in &tunnel.strangers {
            entry(&mut out, happening);
        }
    }
    out
}

/// `key        value`
fn line(out: &mut String, key: &str, value: &str) {
    let _ = writeln!(out, "  {key:<10} {}", clean(value));
}

fn entry(out: &mut String, happening: &Happening) {
    let times = match happening.times {
        1 => String::new(),
        times => format!(" ({times} times, last {})", units::timestamp(happening.last_ms)),
    };
    let (time, what) = (units::timestamp(happening.time_ms), happening.what);
    let _ = writeln!(out, "    {time} {what:<8} {}{times}", clean(&happening.text));
}
