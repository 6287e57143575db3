//! `culvert status -v`: everything about each tunnel, and the engines.

use std::collections::BTreeMap;
use std::fmt::Write;

use culvert_api::{Child, Connection, Encap, Health, HealthVerdict, Nat, Status, Tunnel};

use super::clean;
use super::table::Table;
use crate::units;

/// A block per tunnel, then the engines with their algorithms.
pub(super) fn details(status: &Status) -> String {
    let mut out = String::new();
    for connection in &status.connections {
        for tunnel in &connection.tunnels {
            out.push('\n');
            block(&mut out, connection, tunnel);
        }
    }
    if !status.engines.is_empty() {
        out.push('\n');
        out.push_str(&engines(status));
    }
    out
}

/// `key        value`, with the value's further lines below it.
fn line(out: &mut String, key: &str, value: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "  {key:<10} {}", clean(value));
}

fn block(out: &mut String, connection: &Connection, tunnel: &Tunnel) {
    let _ = writeln!(out, "{}/{}", clean(&connection.name), clean(&tunnel.name));
    let mtu = tunnel.mtu.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
    let role = if tunnel.active { ", carries the routes" } else { "" };
    line(out, "interface", &format!("{}{mtu}, weight {}{role}", tunnel.interface, tunnel.weight));
    line(out, "networks", &format!("{} = {}", connection.local.join(" "), connection.remote.join(" ")));
    if !connection.limits.is_empty() {
        line(out, "limits", &crate::environment::limits(&connection.limits));
    }
    if let Some(name) = &tunnel.remote_name {
        let in_use = tunnel.remote_address.as_deref().unwrap_or("not resolved yet");
        line(out, "peer", &format!("{name}: {in_use}"));
    }
    if let Some(cause) = &tunnel.cause {
        line(out, "cause", cause);
    }
    if let Some(check) = &tunnel.health {
        health(out, check);
    }
    if let Some(seconds) = tunnel.returns_in_s {
        line(out, "failback", &format!("traffic may return in {}", units::duration(seconds)));
    }
    if tunnel.failures > 0 {
        line(out, "failures", &format!("{} attempts since culvertd started", tunnel.failures));
    }
    if let Some(ike) = &tunnel.ike {
        let role = if ike.initiator { "initiator" } else { "responder" };
        let rekey = ike
            .rekey_in_s
            .map_or("the peer rekeys".to_owned(), |s| format!("rekey in {}", units::duration(s)));
        line(
            out,
            "IKE",
            &format!(
                "version {}, {role}, {}{}, since {}, {rekey}",
                ike.version,
                ike.suite,
                if ike.ppk { " with a post-quantum pre-shared key" } else { "" },
                units::duration(ike.established_s)
            ),
        );
        line(out, "", &format!("SPIs {} {}", ike.spi_initiator, ike.spi_responder));
        line(out, "local", &format!("{} ({})", ike.local.address, ike.local.id));
        line(out, "remote", &format!("{} ({})", ike.remote.address, ike.remote.id));
        let list = |addresses: &[std::net::IpAddr]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        for (what, addresses) in [
            ("this gateway has the inner address", &ike.virtual_ips),
            ("the peer has the inner address", &ike.peer_virtual_ips),
            ("DNS behind the tunnel", &ike.dns),
        ] {
            if !addresses.is_empty() {
                line(out, "", &format!("{what} {}", list(addresses)));
            }
        }
        let nat = match ike.nat {
            Nat::None => "nobody is behind a NAT",
            Nat::Local => "this gateway is behind a NAT",
            Nat::Remote => "the peer is behind a NAT, or says so to have ESP in UDP",
            Nat::Both => "both are behind a NAT",
            Nat::Unknown => "unknown",
        };
        line(out, "NAT", nat);
        if ike.mobike {
            line(out, "", "either side may change its address (MOBIKE)");
        }
    }
    for session in &tunnel.bgp {
        let error = session.error.as_ref().map_or(String::new(), |error| format!(", last error: {error}"));
        let counts = format!("{} prefixes accepted, {} advertised", session.accepted, session.advertised);
        let text = format!(
            "{} of AS {}: {}, {counts}, preference {}{error}",
            session.neighbor, session.remote_asn, session.state, session.local_preference
        );
        line(out, "BGP", &text);
    }
    for one in &tunnel.children {
        child(out, one, &tunnel.engine_reasons);
    }
    for missing in &tunnel.missing_children {
        line(out, "missing", missing);
    }
    if let Some(drops) = drops(&tunnel.drops) {
        line(out, "dropped", &drops);
    }
    let engine = super::engine(tunnel);
    if !engine.is_empty() {
        let configured = tunnel.engine_configured.map_or(String::new(), |c| format!(", configured {c}"));
        let operator = tunnel
            .engine_by_operator
            .map_or(String::new(), |asked| format!(", now {asked} by the operator until the next reload"));
        line(out, "engine", &format!("{engine}{configured}{operator}"));
    }
    for (index, reason) in tunnel.engine_reasons.iter().enumerate() {
        line(out, if index == 0 { "why" } else { "" }, reason);
    }
}

fn health(out: &mut String, health: &Health) {
    let loss = health
        .loss_percent
        .map_or(String::new(), |loss| format!(", {loss} % of the latest {} lost", health.window_us.len()));
    let trip = health.latency_us.map_or(String::new(), |us| format!(", {} ms", us as f64 / 1000.0));
    line(out, "health", &format!("{}, {}{trip}{loss}", health.verdict, health.target));
    if let (HealthVerdict::Unhealthy, Some(cause)) = (health.verdict, &health.cause) {
        line(out, "", cause);
    }
}

fn child(out: &mut String, child: &Child, said: &[String]) {
    let dh = child.dh.as_ref().map_or(String::new(), |dh| format!("-{dh}"));
    let encap = match child.encap {
        Encap::Udp => "in UDP",
        Encap::None => "plain ESP",
        Encap::Unknown => "unknown encapsulation",
    };
    let purpose = match child.purpose.as_deref() {
        None => String::new(),
        Some("small") => ", for small packets".to_owned(),
        Some(cpu) => format!(", for {cpu}"),
    };
    let esn = if child.esn { ", ESN" } else { "" };
    let rekey =
        child.rekey_in_s.map_or("the peer rekeys".to_owned(), |s| format!("rekey in {}", units::duration(s)));
    line(
        out,
        "child",
        &format!("{}{dh}, {encap}{esn}, window {}, {rekey}{purpose}", child.suite, child.replay_window),
    );
    line(out, "", &format!("selectors {} = {}", child.local_ts.join(" "), child.remote_ts.join(" ")));
    line(
        out,
        "",
        &format!("in  {}  {} packets, {}", child.spi_in, child.packets_in, units::bytes(child.bytes_in)),
    );
    line(
        out,
        "",
        &format!("out {}  {} packets, {}", child.spi_out, child.packets_out, units::bytes(child.bytes_out)),
    );
    if let Some(drops) = drops(&child.drops) {
        line(out, "", &format!("dropped {drops}"));
    }
    if let Some(engine) = child.engine {
        let ports = match (child.lan_port, child.wan_port) {
            (Some(lan), Some(wan)) => format!(" {lan}+{wan}"),
            _ => String::new(),
        };
        let numbers = [
            ("opened by worker", child.worker),
            ("sealed by worker", child.sender),
            ("LAN queue", child.lan_queue),
            ("WAN queue", child.wan_queue),
        ];
        let numbers = numbers.into_iter().filter_map(|(what, number)| Some(format!(", {what} {}", number?)));
        line(out, "", &format!("engine {engine}{ports}{}", numbers.collect::<String>()));
    }
    // The tunnel says why for the newest, which comes first.
    for reason in child.engine_reasons.iter().filter(|reason| !said.contains(reason)) {
        line(out, "", reason);
    }
}

fn drops(drops: &BTreeMap<String, u64>) -> Option<String> {
    let list: Vec<_> =
        drops.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{reason} {n}")).collect();
    (!list.is_empty()).then(|| list.join(", "))
}

/// So many suites stand in a row by name.
const FEW: usize = 4;

fn engines(status: &Status) -> String {
    let mut table = Table::new(&["ENGINE", "SUITE", "AVAILABLE", "WHY NOT"], &[]);
    let yes = |available: bool| if available { "yes" } else { "no" }.to_owned();
    for engine in &status.engines {
        let reason = engine.reason.as_deref().map_or(String::new(), clean);
        table.row([engine.engine.to_string(), String::new(), yes(engine.available), reason.clone()]);
        // There are many suites: those that fare alike share a row.
        let mut rows: Vec<(bool, String, Vec<String>)> = Vec::new();
        for algorithm in &engine.algorithms {
            // The engine's reason is not said again for each of its suites.
            let why = algorithm.reason.as_deref().map_or(String::new(), clean);
            let why = if why == reason { String::new() } else { why };
            let suite = clean(&algorithm.suite);
            match rows.iter_mut().find(|(available, other, _)| {
                (*available, other.as_str()) == (algorithm.available, why.as_str())
            }) {
                Some((.., suites)) => suites.push(suite),
                None => rows.push((algorithm.available, why, vec![suite])),
            }
        }
        for (available, why, suites) in rows {
            let shown = match suites.as_slice() {
                all if all.len() == engine.algorithms.len() && all.len() > FEW => {
                    format!("all {}", all.len())
                }
                few if few.len() <= FEW => few.join(", "),
                many => {
                    let first: Vec<&str> = many.iter().take(FEW).map(String::as_str).collect();
                    format!("{} and {} more", first.join(", "), many.len() - FEW)
                }
            };
            table.row([String::new(), shown, yes(available), why]);
        }
    }
    let notes =
        status.engines.iter().flat_map(|e| e.notes.iter().map(|n| format!("{}: {}\n", e.engine, clean(n))));
    table.finish() + &notes.collect::<String>()
}
