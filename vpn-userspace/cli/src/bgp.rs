//! `culvert bgp` and `culvert route list`: sessions, and which way goes where.

use std::io::{self, Write};

use culvert_api::{BgpStatus, RouteOrigin, Routes};

use crate::render::{Table, clean};
use crate::units;

/// The routing program and its sessions.
pub(crate) fn sessions(out: &mut impl Write, status: &BgpStatus, now_s: u64) -> io::Result<()> {
    if status.sessions.is_empty() {
        return writeln!(
            out,
            "no BGP: a connection with routing = \"bgp\" and bgp = {{ remote_asn = … }} has sessions"
        );
    }
    let program = status.program.as_deref().map_or("no routing program".to_owned(), clean);
    let runs = if status.running { "runs" } else { "does not run" };
    let restarts = match status.restarts {
        0 => String::new(),
        n => format!(", started again {n} times"),
    };
    writeln!(out, "{program} {runs}{restarts}; AS {}, router {}", status.asn, clean(&status.router_id))?;
    if let Some(fault) = &status.fault {
        writeln!(out, "WARNING: {}", clean(fault))?;
    }
    writeln!(out)?;
    let headings = [
        "TUNNEL",
        "NEIGHBOUR",
        "AS",
        "STATE",
        "FOR",
        "RECEIVED",
        "ACCEPTED",
        "ADVERTISED",
        "PREFERENCE",
        "BFD",
    ];
    let mut table = Table::new(&headings, &[5, 6, 7, 8]);
    let mut errors = String::new();
    for session in &status.sessions {
        let name = format!("{}/{}", clean(&session.connection), clean(&session.tunnel));
        if let Some(error) = &session.error {
            errors.push_str(&format!("{name} {}: {}\n", clean(&session.neighbor), clean(error)));
        }
        table.row([
            name,
            clean(&session.neighbor),
            session.remote_asn.to_string(),
            clean(&session.state),
            units::duration(now_s.saturating_sub(session.since)),
            session.received.map_or("-".to_owned(), |received| received.to_string()),
            session.accepted.to_string(),
            session.advertised.to_string(),
            session.local_preference.to_string(),
            session.bfd_up.map_or("", |up| if up { "up" } else { "down" }).to_owned(),
        ]);
    }
    out.write_all(table.finish().as_bytes())?;
    if !errors.is_empty() {
        write!(out, "\n{errors}")?;
    }
    Ok(())
}

/// Every route, those that traffic takes marked.
pub(crate) fn routes(out: &mut impl Write, routes: &Routes) -> io::Result<()> {
    if let Some(fault) = &routes.fault {
        writeln!(out, "WARNING: {}\n", clean(fault))?;
    }
    let mut table = Table::new(&["DESTINATION", "BY", "FROM", "METRIC", "PREFERENCE", "PATH"], &[3, 4]);
    for route in &routes.routes {
        let by = match route.origin {
            RouteOrigin::Floor => "refused".to_owned(),
            _ => clean(&route.tunnels.join(" ")),
        };
        table.row([
            format!("{}{}", clean(&route.destination), if route.active { " *" } else { "" }),
            by,
            route.origin.to_string(),
            route.metric.to_string(),
            route.local_preference.map_or(String::new(), |preference| preference.to_string()),
            route.path.as_deref().map(clean).unwrap_or_default(),
        ]);
    }
    out.write_all(table.finish().as_bytes())
}

#[cfg(test)]
mod tests {
    use culvert_api::{BgpSession, RouteEntry};

    use super::*;

    #[test]
    fn tables() {
        let session = BgpSession {
            connection: "hangzhou".into(),
            tunnel: "a".into(),
            local: "169.254.10.2".into(),
            neighbor: "169.254.10.1".into(),
            remote_asn: 4_200_000_001,
            state: "established".into(),
            since: 940,
            received: Some(7),
            accepted: 5,
            advertised: 2,
            local_preference: 300,
            bfd_up: Some(true),
            error: None,
        };
        let down = BgpSession {
            tunnel: "b\u{1b}[31m".into(),
            state: "active".into(),
            received: None,
            bfd_up: None,
            error: Some("Hold Timer Expired".into()),
            ..session.clone()
        };
        let status = BgpStatus {
            program: Some("FRR".into()),
            running: false,
            fault: Some("bgpd ended".into()),
            restarts: 2,
            asn: 65_000,
            router_id: "198.51.100.1".into(),
            sessions: vec![session, down],
        };
        let route = |destination: &str, tunnels: &[&str], origin, metric, active| RouteEntry {
            destination: destination.into(),
            tunnels: tunnels.iter().map(|t| (*t).to_owned()).collect(),
            origin,
            metric,
            active,
            local_preference: (origin == RouteOrigin::Bgp).then_some(300),
            path: (origin == RouteOrigin::Bgp).then(|| "64512 64513".into()),
        };
        let list = Routes {
            routes: vec![
                route("172.16.0.0/16", &["hangzhou/a", "hangzhou/b"], RouteOrigin::Bgp, 20, true),
                route("172.16.0.0/16", &[], RouteOrigin::Floor, 65_000, false),
                route("10.0.0.0/8", &["branch/a"], RouteOrigin::Static, 10, true),
            ],
            fault: None,
        };
        let mut out = Vec::new();
        sessions(&mut out, &status, 1000).unwrap();
        out.extend_from_slice(b"\n");
        routes(&mut out, &list).unwrap();
        sessions(&mut out, &BgpStatus::default(), 0).unwrap();
        insta::assert_snapshot!("bgp", String::from_utf8(out).unwrap());
    }
}
