//! The gateway as tables: one line per tunnel.

use comfy_table::Cell;
use culvert_api::{DEFAULT_ENVIRONMENT, HealthVerdict, Nat, Status, Target, Tunnel, TunnelState};

use super::details;
use super::table::{Table, state_cell};
use super::{View, clean};
use crate::{environment, units};

/// The whole status.
pub(crate) fn status(status: &Status, view: &View) -> String {
    let mut out = head(status);
    for warning in &status.warnings {
        let text = format!("WARNING: {}", clean(warning));
        out.push_str(&if view.colour {
            format!("\u{1b}[1;31m{text}\u{1b}[0m\n")
        } else {
            format!("{text}\n")
        });
    }
    out.push('\n');
    if !status.gateway.wan.is_empty() {
        out.push_str(&wan(status));
        out.push('\n');
    }
    if status.connections.is_empty() {
        out.push_str("no connections: add [connection.NAME] to the configuration, then `culvert reload`\n");
    } else {
        let several = status.connections.iter().any(|c| c.environment != DEFAULT_ENVIRONMENT);
        let mut environments: Vec<&str> = Vec::new();
        for connection in &status.connections {
            if !environments.contains(&connection.environment.as_str()) {
                environments.push(&connection.environment);
            }
        }
        for (index, name) in environments.into_iter().enumerate() {
            if several {
                out.push_str(if index > 0 { "\n" } else { "" });
                out.push_str(&environment(status, name));
            }
            out.push_str(&tunnels(status, name, view));
        }
        let causes = causes(status);
        if !causes.is_empty() {
            out.push('\n');
            out.push_str(&causes);
        }
    }
    if view.verbose {
        out.push_str(&details::details(status));
    }
    out
}

/// Leaves the target only; `None` when there is no such connection or tunnel.
pub(crate) fn narrow(status: &mut Status, target: &Target) -> Option<()> {
    status.connections.retain(|connection| connection.name == target.connection_name());
    for connection in &mut status.connections {
        let name = connection.name.clone();
        connection.tunnels.retain(|tunnel| target.covers(&name, &tunnel.name));
    }
    let found = status.connections.iter().any(|c| target.tunnel_name().is_none() || !c.tunnels.is_empty());
    found.then_some(())
}

/// Leaves one environment only; `None` when there is no such one.
pub(crate) fn narrow_to(status: &mut Status, environment: &str) -> Option<()> {
    status.connections.retain(|connection| connection.environment == environment);
    status.environments.retain(|e| e.name == environment);
    (!status.environments.is_empty() || !status.connections.is_empty()).then_some(())
}

fn head(status: &Status) -> String {
    let mut line = format!(
        "culvertd {}, process {}, running for {}",
        clean(&status.version),
        status.pid,
        units::duration(status.uptime_s)
    );
    if let Some(ms) = status.negotiation_ms {
        line.push_str(&format!(", last negotiation took {ms} ms"));
    }
    if let Some(refused) = status.ike_drops.get("ikev1-refused") {
        line.push_str(&format!(", {refused} messages of IKEv1 refused (no tunnel has ike.version = 1)"));
    }
    line.push('\n');
    line
}

fn wan(status: &Status) -> String {
    let mut table = Table::new(&["WAN", "ADDRESSES", "GUARD", "ATTACHED"], &[]);
    for wan in &status.gateway.wan {
        let attached = wan.attach.map_or("no".to_owned(), |attach| attach.to_string());
        let attached = match &wan.attach_reason {
            Some(reason) => format!("{attached} ({})", clean(reason)),
            None => attached,
        };
        table.row([clean(&wan.interface), clean(&wan.addresses.join(" ")), wan.guard.to_string(), attached]);
    }
    table.finish()
}

/// What stands above the connections of an environment.
fn environment(status: &Status, name: &str) -> String {
    let Some(found) = status.environments.iter().find(|e| e.name == name) else {
        return format!("environment {}\n", clean(name));
    };
    let mut out = format!("environment {}, {}", clean(name), environment::apart(found));
    let limits = environment::limits(&found.limits);
    out.push_str(&if limits.is_empty() { "\n".to_owned() } else { format!(": {limits}\n") });
    for fault in &found.faults {
        out.push_str(&format!("FAULT: {}\n", clean(fault)));
    }
    out
}

fn tunnels(status: &Status, environment: &str, view: &View) -> String {
    let headings =
        ["CONNECTION", "STATE", "FOR", "ENGINE", "PEER", "SUITE", "NAT", "IN", "OUT", "DROPS", "REKEY IN"];
    let mut table = Table::new(&headings, &[7, 8, 9]).coloured(view.colour);
    for connection in status.connections.iter().filter(|c| c.environment == environment) {
        table.row([Cell::new(clean(&connection.name)), state_cell(connection.state.as_str())]);
        for tunnel in &connection.tunnels {
            table.row(tunnel_row(tunnel, view));
        }
    }
    table.finish()
}

fn tunnel_row(tunnel: &Tunnel, view: &View) -> [Cell; 11] {
    let role = if tunnel.active { " *" } else { "" };
    let ike = tunnel.ike.as_ref();
    let peer = match (ike, &tunnel.remote_name, &tunnel.remote_address) {
        (Some(ike), _, _) => ike.remote.address.to_string(),
        (None, Some(name), _) => clean(name),
        (None, None, Some(address)) => clean(address),
        (None, None, None) => "any".to_owned(),
    };
    let total = |count: fn(&culvert_api::Child) -> u64| {
        let sum = tunnel.children.iter().map(count).fold(0, u64::saturating_add);
        if tunnel.children.is_empty() { String::new() } else { units::bytes(sum) }
    };
    let drops = tunnel.children.iter().flat_map(|c| c.drops.values()).chain(tunnel.drops.values());
    let drops = drops.fold(0, |sum: u64, n| sum.saturating_add(*n));
    // The newest child is the one in use; the IKE SA's own rekey is among the details.
    let child = tunnel.children.first();
    let rekey = child.map_or(String::new(), |child| match child.rekey_in_s {
        Some(seconds) => units::duration(seconds),
        None => "by peer".to_owned(),
    });
    [
        Cell::new(format!("  {}{role}", clean(&tunnel.name))),
        state_cell(tunnel.state.as_str()),
        Cell::new(units::duration(view.now_s.saturating_sub(tunnel.since))),
        Cell::new(engine(tunnel)),
        Cell::new(peer),
        Cell::new(child.map_or(String::new(), |child| clean(&child.suite))),
        Cell::new(ike.map_or("", |ike| if ike.nat == Nat::None { "no" } else { ike.nat.as_str() })),
        Cell::new(total(|child| child.bytes_in)),
        Cell::new(total(|child| child.bytes_out)),
        Cell::new(drops),
        Cell::new(rekey),
    ]
}

/// `user tun+udp`, `xfrm`, or nothing before the choice.
pub(crate) fn engine(tunnel: &Tunnel) -> String {
    let Some(engine) = tunnel.engine else { return String::new() };
    match (tunnel.lan_port, tunnel.wan_port) {
        (Some(lan), Some(wan)) => format!("{engine} {lan}+{wan}"),
        _ => engine.to_string(),
    }
}

/// What is wrong with a tunnel that is up and has no routes.
fn without_routes(tunnel: &Tunnel) -> Option<String> {
    let session = tunnel.bgp.iter().find(|session| session.state != "established")?;
    let error = session.error.as_ref().map_or(String::new(), |error| format!(" ({error})"));
    Some(format!("up, but its BGP session with {} is {}{error}", session.neighbor, session.state))
}

/// A line for each tunnel that is not as it should be.
fn causes(status: &Status) -> String {
    let mut out = String::new();
    for connection in &status.connections {
        for tunnel in &connection.tunnels {
            let check = tunnel.health.as_ref().filter(|health| health.verdict == HealthVerdict::Unhealthy);
            let cause = match (tunnel.state, check) {
                (TunnelState::Up, Some(check)) => {
                    let cause = check.cause.as_deref().unwrap_or("no answer");
                    Some(format!("up, but its health check fails: {cause}"))
                }
                (TunnelState::Up, None) => without_routes(tunnel),
                _ => tunnel.cause.clone(),
            };
            if let Some(cause) = cause {
                let name = format!("{}/{}", clean(&connection.name), clean(&tunnel.name));
                out.push_str(&format!("{name}: {}\n", clean(&cause)));
            }
        }
    }
    out
}
