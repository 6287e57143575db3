//! What a running culvertd says of its tunnels, from the guard to an echo through each.

use culvert_api::{Connection, Explanation, Guard, HealthVerdict, Pings, Status, Tunnel, TunnelState};

use crate::{Finding, Grade};

/// Drops that tell of a mistake somewhere, and what to look for.
const TELLING: [(&str, &str, &str); 4] = [
    (
        "selector-mismatch",
        "packets came or went that the SA's networks do not cover",
        "compare the local and remote networks of both sides, and the routes that lead here",
    ),
    (
        "not-authentic",
        "packets did not authenticate",
        "somebody forges them, or a device between changes them",
    ),
    ("no-outbound-sa", "packets were to be sent and there was no SA", "see why the tunnel is not up"),
    ("replay-duplicate", "packets came twice", "a path that doubles packets, or somebody who repeats them"),
];

/// Judges the guard, and the tunnels that are `wanted`.
pub fn judge(
    status: &Status,
    explained: Option<&Explanation>,
    pings: Option<&Pings>,
    wanted: impl Fn(&str, &str) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for warning in &status.warnings {
        findings.push(Finding::new(Grade::Warning, "gateway", warning, "see `culvert status -v`"));
    }
    for wan in &status.gateway.wan {
        let place = format!("guard on {}", wan.interface);
        let reason = wan.attach_reason.as_deref().unwrap_or_default();
        findings.push(match (&wan.attach, wan.guard) {
            (_, Guard::Off) => {
                let text = "the guard is off: floods and forgeries reach the stack";
                Finding::new(Grade::Note, place, text, "write guard = \"on\"")
            }
            (Some(attach), _) => {
                Finding::fine(place, format!("attached by {}{}", attach.as_str(), in_brackets(reason)))
            }
            (None, _) => {
                let text = format!("the guard is not attached: {reason}");
                Finding::new(Grade::Warning, place, text, "see `culvert status -v`, and the log of its start")
            }
        });
    }
    for connection in &status.connections {
        for tunnel in connection.tunnels.iter().filter(|tunnel| wanted(&connection.name, &tunnel.name)) {
            findings.extend(judge_tunnel(connection, tunnel, explained));
            findings.extend(echo(connection, tunnel, pings));
        }
    }
    findings
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn judge_tunnel(connection: &Connection, tunnel: &Tunnel, explained: Option<&Explanation>) -> Vec<Finding> {
    let place = format!("tunnel {}/{}", connection.name, tunnel.name);
    let history = explained
        .into_iter()
        .flat_map(|explained| &explained.tunnels)
        .find(|history| history.connection == connection.name && history.tunnel == tunnel.name);
    let reason =
        history.and_then(|history| history.reason()).and_then(|happening| happening.failure.as_ref());
    let mut findings = Vec::new();
    // A tunnel that is up may still fail to renew its keys.
    if let Some(reason) = reason {
        let grade = if tunnel.state == TunnelState::Up { Grade::Warning } else { Grade::Fault };
        let mut text = format!("{} fails: {} (look at {})", reason.phase, reason.cause, reason.fault);
        for (whose, values) in [("this side", &reason.ours), ("the peer", &reason.theirs)] {
            if !values.is_empty() {
                text.push_str(&format!("; {whose}: {values}"));
            }
        }
        findings.push(Finding::new(grade, &place, text, format!("{} ({})", reason.mend, reason.rule)));
    }
    match tunnel.state {
        TunnelState::Up => {
            let child = tunnel.children.first();
            let how = child.map(|child| child.suite.clone()).unwrap_or_default();
            let engine =
                tunnel.engine.map(|engine| format!(", engine {}", engine.as_str())).unwrap_or_default();
            findings.push(Finding::fine(&place, format!("IKE and child SA stand: {how}{engine}")));
        }
        TunnelState::Disabled => {
            findings.push(Finding::new(Grade::Note, &place, "it is switched off", "write enabled = true"));
        }
        _ if reason.is_none() => {
            let cause = tunnel.cause.clone().unwrap_or_else(|| "it negotiates".to_owned());
            let mend = "`culvert trace` shows what passes between the two sides";
            findings.push(Finding::new(Grade::Fault, &place, format!("it is not up: {cause}"), mend));
        }
        _ => {}
    }
    for missing in &tunnel.missing_children {
        findings.push(Finding::new(Grade::Note, &place, missing, "the tunnel works without it"));
    }
    if let Some(health) = tunnel.health.as_ref().filter(|health| health.verdict == HealthVerdict::Unhealthy) {
        let cause = health.cause.clone().unwrap_or_else(|| "no answer".to_owned());
        findings.push(Finding::new(
            Grade::Fault,
            &place,
            format!("the SAs stand, but the health check of {} fails: {cause}", health.target),
            "see that the target runs and answers, that the far side routes the check's source back by this tunnel, and that no \
             firewall there drops it",
        ));
    }
    let mut drops = tunnel.drops.clone();
    for child in &tunnel.children {
        for (reason, count) in &child.drops {
            *drops.entry(reason.clone()).or_default() += count;
        }
    }
    for (reason, text, mend) in TELLING {
        if let Some(count) = drops.get(reason).filter(|count| **count > 0) {
            findings.push(Finding::new(
                Grade::Note,
                &place,
                format!("{text}: {count} dropped as {reason}"),
                mend,
            ));
        }
    }
    findings
}

fn echo(connection: &Connection, tunnel: &Tunnel, pings: Option<&Pings>) -> Option<Finding> {
    let place = format!("tunnel {}/{}", connection.name, tunnel.name);
    let mut all = pings?.pings.iter();
    let ping = all.find(|ping| ping.connection == connection.name && ping.tunnel == tunnel.name)?;
    let to = ping.to?;
    Some(match (ping.round_trip_us, &ping.error) {
        (Some(trip), _) => {
            Finding::fine(place, format!("{to} answers through it after {:.1} ms", trip as f64 / 1000.0))
        }
        (None, Some(error)) => Finding::new(
            Grade::Warning,
            place,
            format!("{to} could not be asked through it: {error}"),
            "`culvert ping` with --source names another address",
        ),
        (None, None) => Finding::new(
            Grade::Warning,
            place,
            format!("{to} does not answer through it"),
            "see whether it answers to others, and whether its way back leads through this tunnel",
        ),
    })
}
