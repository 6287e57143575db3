//! FRR: the files of its daemons, the commands that change a running one, and what it answers.
//!
//! Each daemon has a file of its own (`-f`) and listens for commands at `NAME.vty`: a command ends with a NUL, an answer with
//! three and a status (lib/vty.c of FRR).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::change;
use crate::error::ReadError;
use crate::model::{Session, Speaker};
use crate::report::{LearnedRoute, Report, SessionReport, SessionState};

/// Asks for the sessions.
pub const NEIGHBORS: &str = "show bgp neighbors json";
/// Asks for the IPv4 routes.
pub const ROUTES: &str = "show bgp ipv4 unicast json";
/// Asks for the IPv6 routes.
pub const ROUTES6: &str = "show bgp ipv6 unicast json";
/// After these, changed filters and preferences hold for what has been learned already.
pub const REFRESH: [&str; 4] = [
    "clear bgp ipv4 unicast * soft in",
    "clear bgp ipv4 unicast * soft out",
    "clear bgp ipv6 unicast * soft in",
    "clear bgp ipv6 unicast * soft out",
];

/// `zebra.conf`: who puts learned routes into the kernel.
pub fn zebra(speaker: &Speaker) -> String {
    let mut text = String::from("hostname culvert\nlog stdout informational\n");
    // Routes as `ip route` shows them, and none left behind as an object that nothing points to.
    text.push_str("no zebra nexthop kernel enable\n");
    if let Some(table) = speaker.table {
        let _ = writeln!(text, "table {table}");
    }
    text
}

/// `bfdd.conf`.
pub fn bfdd(speaker: &Speaker) -> String {
    let mut text = String::from("hostname culvert\nlog stdout informational\n");
    if speaker.sessions.iter().any(|s| s.bfd.is_some()) {
        text.push_str("bfd\n");
        for session in &speaker.sessions {
            let Some(bfd) = session.bfd else { continue };
            let millis = bfd.interval.as_millis();
            let _ = write!(
                text,
                " profile {}\n  detect-multiplier {}\n  receive-interval {millis}\n  transmit-interval {millis}\n exit\n",
                session.identifier(),
                bfd.multiplier
            );
        }
        text.push_str("exit\n");
    }
    text
}

/// `bgpd.conf`. Holds the sessions' passwords: for its owner only.
pub fn bgpd(speaker: &Speaker) -> String {
    let mut text = String::from("hostname culvert\nlog stdout informational\nbgp route-map delay-timer 1\n");
    for session in &speaker.sessions {
        filters(&mut text, speaker.asn, session);
    }
    let _ = writeln!(text, "router bgp {}", speaker.asn);
    let _ = writeln!(text, " bgp router-id {}", speaker.router_id);
    // What is announced is said session by session, and stands whatever the kernel's routes are.
    text.push_str(" no bgp default ipv4-unicast\n no bgp network import-check\n bgp log-neighbor-changes\n");
    // Ways of equal preference by several systems share the traffic.
    text.push_str(" bgp bestpath as-path multipath-relax\n");
    for session in &speaker.sessions {
        neighbor(&mut text, session);
    }
    for six in [false, true] {
        let of_family: Vec<&Session> = speaker.sessions.iter().filter(|s| s.is_ipv6() == six).collect();
        let _ = writeln!(text, " address-family {} unicast", if six { "ipv6" } else { "ipv4" });
        let own: BTreeSet<IpNet> = of_family.iter().flat_map(|s| s.announce.iter().copied()).collect();
        for net in own {
            let _ = writeln!(text, "  network {net}");
        }
        for session in of_family {
            let (peer, name) = (session.neighbor, session.identifier());
            let _ = write!(
                text,
                "  neighbor {peer} activate\n  neighbor {peer} soft-reconfiguration inbound\n  neighbor {peer} route-map {name}_in in\n  neighbor {peer} route-map {name}_out out\n"
            );
            if let Some(most) = session.max_prefixes {
                let _ = writeln!(text, "  neighbor {peer} maximum-prefix {most} restart 5");
            }
        }
        text.push_str(" exit-address-family\n");
    }
    text.push_str("exit\n");
    text
}

fn filters(text: &mut String, asn: u32, session: &Session) {
    let name = session.identifier();
    let (ip, longest) = if session.is_ipv6() { ("ipv6", 128) } else { ("ip", 32) };
    let mut list = |kind: &str, net: &IpNet, inner: bool| {
        let more = if inner && net.prefix_len() < longest { format!(" le {longest}") } else { String::new() };
        let _ = writeln!(text, "{ip} prefix-list {name}_{kind} permit {net}{more}");
    };
    session.accept.iter().for_each(|net| list("accept", net, true));
    session.announce.iter().for_each(|net| list("announce", net, false));
    session.transit.iter().for_each(|net| list("transit", net, true));
    let preference = session.preference;
    let _ = write!(
        text,
        "route-map {name}_in permit 10\n match {ip} address prefix-list {name}_accept\n set local-preference {}\n",
        preference.local_preference
    );
    if session.is_ipv6() {
        // The kernel knows the tunnel's interface by the address that the file names, not by a link's.
        text.push_str(" set ipv6 next-hop prefer-global\n");
    }
    text.push_str("exit\n");
    // What both sides name twice is not sent back as if it were ours: own prefixes come first.
    for (number, kind, there) in
        [(10, "announce", !session.announce.is_empty()), (20, "transit", !session.transit.is_empty())]
    {
        if !there {
            continue;
        }
        let _ = write!(
            text,
            "route-map {name}_out permit {number}\n match {ip} address prefix-list {name}_{kind}\n set metric {}\n",
            preference.med
        );
        if preference.prepend > 0 {
            let path = vec![asn.to_string(); preference.prepend.into()].join(" ");
            let _ = writeln!(text, " set as-path prepend {path}");
        }
        text.push_str("exit\n");
    }
    // A map that lets nothing through, so that there is one.
    let _ = write!(text, "route-map {name}_out deny 100\nexit\n");
}

fn neighbor(text: &mut String, session: &Session) {
    let peer = session.neighbor;
    let mut say = |what: &str| {
        let _ = writeln!(text, " neighbor {peer} {what}");
    };
    say(&format!("remote-as {}", session.remote_asn));
    say(&format!("description {}", session.name));
    say(&format!("update-source {}", session.local));
    say(&format!("timers {} {}", session.keepalive.as_secs(), session.hold_time.as_secs()));
    say("timers connect 2");
    if let Some(password) = &session.password {
        say(&format!("password {}", password.expose()));
    }
    if session.bfd.is_some() {
        say("bfd");
        say(&format!("bfd profile {}", session.identifier()));
    }
    say(if session.graceful_restart { "graceful-restart" } else { "graceful-restart-disable" });
    if !session.preference.enabled {
        say("shutdown");
    }
}

/// The commands that lead from one configuration of a daemon to another, without touching sessions that stay the same.
pub fn commands(old: &str, new: &str) -> Vec<String> {
    change::commands(old, new)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Neighbor {
    bgp_state: Option<String>,
    admin_shut_down: Option<bool>,
    last_reset_due_to: Option<String>,
    last_notification_reason: Option<String>,
    last_shutdown_description: Option<String>,
    #[serde(default)]
    connections_established: u64,
    #[serde(default)]
    address_family_info: std::collections::BTreeMap<String, Family>,
    peer_bfd_info: Option<BfdInfo>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Family {
    accepted_prefix_counter: u64,
    sent_prefix_counter: u64,
}

#[derive(Deserialize)]
struct BfdInfo {
    status: Option<String>,
}

/// Reads the answer to [`NEIGHBORS`]. Received prefixes are counted by [`prefix_counts`].
///
/// # Errors
/// When it is not what FRR says.
pub fn neighbors(answer: &str) -> Result<Vec<SessionReport>, ReadError> {
    // Beside the neighbours there may be words of the whole, such as a table version.
    let all: std::collections::BTreeMap<String, serde_json::Value> = read(NEIGHBORS, answer)?;
    let mut sessions = Vec::new();
    for (address, value) in all {
        if address.parse::<IpAddr>().is_err() {
            continue;
        }
        let said: Neighbor = serde_json::from_value(value)
            .map_err(|source| ReadError::Json { question: NEIGHBORS, source })?;
        let state = match (said.admin_shut_down, said.bgp_state.as_deref().and_then(SessionState::parse)) {
            (Some(true), _) => SessionState::Shut,
            (_, state) => state.unwrap_or_default(),
        };
        let family = said.address_family_info.into_values().next().unwrap_or_default();
        let failed = match state {
            SessionState::Shut => false,
            SessionState::Established => said.connections_established > 1,
            _ => true,
        };
        let mut error = said.last_reset_due_to.filter(|_| failed);
        if let (Some(error), Some(more)) =
            (&mut error, said.last_notification_reason.or(said.last_shutdown_description))
            && !more.is_empty()
        {
            let _ = write!(error, ": {}", more.trim_end());
        }
        // What FRR calls the reason before there was anything to reset.
        let error =
            error.filter(|text| text != "Waiting for peer OPEN" && text != "No AFI/SAFI activated for peer");
        let established = state == SessionState::Established;
        sessions.push(SessionReport {
            neighbor: address,
            state,
            received: 0,
            accepted: if established { family.accepted_prefix_counter } else { 0 },
            advertised: if established { family.sent_prefix_counter } else { 0 },
            error,
            bfd_up: said.peer_bfd_info.map(|info| info.status.is_some_and(|status| status == "Up")),
        });
    }
    Ok(sessions)
}

/// Asks how many prefixes a neighbour sends.
pub fn prefix_counts_of(neighbor: IpAddr) -> String {
    let family = if neighbor.is_ipv6() { "ipv6" } else { "ipv4" };
    format!("show bgp {family} unicast neighbors {neighbor} prefix-counts json")
}

/// Reads the answer to that.
///
/// # Errors
/// When it is not what FRR says.
pub fn prefix_counts(answer: &str) -> Result<u64, ReadError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Counts {
        rib_table_walk_counters: std::collections::BTreeMap<String, u64>,
    }
    let counts: Counts = read("prefix-counts", answer)?;
    Ok(counts.rib_table_walk_counters.get("Adj-in").copied().unwrap_or_default())
}

/// Reads the answers to [`ROUTES`] and [`ROUTES6`].
///
/// # Errors
/// When one is not what FRR says.
pub fn routes(answer: &str) -> Result<Vec<LearnedRoute>, ReadError> {
    #[derive(Deserialize)]
    struct Table {
        #[serde(default)]
        routes: std::collections::BTreeMap<String, Vec<Path>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Path {
        #[serde(default)]
        valid: bool,
        #[serde(default)]
        bestpath: bool,
        #[serde(default)]
        multipath: bool,
        #[serde(default)]
        peer_id: String,
        #[serde(default)]
        path: String,
        loc_prf: Option<u32>,
        metric: Option<u32>,
    }
    // A table that does not exist yet is no table.
    if answer.trim().is_empty() {
        return Ok(Vec::new());
    }
    let table: Table = read(ROUTES, answer)?;
    let mut routes = Vec::new();
    for (destination, paths) in table.routes {
        let Ok(destination) = destination.parse::<IpNet>() else { continue };
        for path in paths.into_iter().filter(|path| path.valid) {
            // Our own have no neighbour.
            let Ok(neighbor) = path.peer_id.parse() else { continue };
            routes.push(LearnedRoute {
                destination,
                neighbor,
                best: path.bestpath || path.multipath,
                path: path.path,
                local_preference: path.loc_prf,
                med: path.metric,
            });
        }
    }
    Ok(routes)
}

/// Puts the answers together.
pub fn report(sessions: Vec<SessionReport>, mut routes: Vec<LearnedRoute>) -> Report {
    routes.sort_by_key(|route| (route.destination, !route.best, route.neighbor));
    Report { sessions, routes }
}

fn read<'a, T: Deserialize<'a>>(question: &'static str, answer: &'a str) -> Result<T, ReadError> {
    serde_json::from_str(answer).map_err(|source| ReadError::Json { question, source })
}

#[cfg(test)]
#[path = "frr_tests.rs"]
pub(crate) mod tests;
