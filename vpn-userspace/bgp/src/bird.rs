//! BIRD 2: its file, and what it answers at its control socket.
//!
//! An answer's lines begin with a code of four digits and `-`, the last one's with a blank (BIRD's doc/reply_codes): 0 is done, 8
//! and 9 are failures.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::ReadError;
use crate::model::{Session, Speaker};
use crate::report::{LearnedRoute, Report, SessionReport, SessionState};

/// Asks for the sessions.
pub const PROTOCOLS: &str = "show protocols all \"cv_*\"";
/// Asks for the routes.
pub const ROUTES: &str = "show route all";
/// Asks for BFD.
pub const BFD: &str = "show bfd sessions";

/// The configuration file. Holds the sessions' passwords: for its owner only. BIRD itself finds out what a changed file
/// changes, and leaves the other sessions alone.
pub fn config(speaker: &Speaker) -> String {
    let mut text = String::from("log stderr { info, remote, warning, error, auth, fatal, bug };\n");
    let _ = writeln!(text, "router id {};", speaker.router_id);
    text.push_str("protocol device { scan time 2; }\n");
    let table = speaker.table.map_or(String::new(), |table| format!(" kernel table {table};"));
    for (name, family) in [("k4", "ipv4"), ("k6", "ipv6")] {
        // The metric that zebra's routes have too: static routes of the gateway win.
        let _ = writeln!(
            text,
            "protocol kernel {name} {{ scan time 10; metric 20; merge paths yes limit 8;{table} {family} {{ import none; export where source = RTS_BGP; }}; }}"
        );
    }
    for (name, six) in [("own4", false), ("own6", true)] {
        let own: BTreeSet<IpNet> = speaker
            .sessions
            .iter()
            .filter(|s| s.is_ipv6() == six)
            .flat_map(|s| s.announce.iter().copied())
            .collect();
        let _ = write!(
            text,
            "protocol static {name} {{ {} {{ import all; }};",
            if six { "ipv6" } else { "ipv4" }
        );
        for net in own {
            // Known to BIRD alone: nothing but routes of BGP goes to the kernel.
            let _ = write!(text, " route {net} blackhole;");
        }
        text.push_str(" }\n");
    }
    let fast: Vec<&Session> = speaker.sessions.iter().filter(|s| s.bfd.is_some()).collect();
    if !fast.is_empty() {
        text.push_str("protocol bfd {\n");
        for session in fast {
            let Some(bfd) = session.bfd else { continue };
            let _ = writeln!(
                text,
                "  interface \"{}\" {{ interval {} ms; idle tx interval {} ms; multiplier {}; }};",
                session.interface,
                bfd.interval.as_millis(),
                bfd.interval.as_millis().max(1000),
                bfd.multiplier
            );
        }
        text.push_str("}\n");
    }
    for session in &speaker.sessions {
        protocol(&mut text, speaker.asn, session);
    }
    text
}

fn protocol(text: &mut String, asn: u32, session: &Session) {
    let Session { name, local, neighbor, interface, remote_asn, preference, .. } = session;
    let _ = write!(
        text,
        "protocol bgp {} {{\n  description \"{name}\";\n  local {local} as {asn};\n  neighbor {neighbor} as {remote_asn};\n  interface \"{interface}\"; direct;\n",
        session.identifier()
    );
    let (hold, keepalive) = (session.hold_time.as_secs(), session.keepalive.as_secs());
    let _ = writeln!(text, "  hold time {hold}; keepalive time {keepalive};");
    text.push_str("  connect delay time 1; connect retry time 5; error wait time 1,10;\n");
    if !preference.enabled {
        text.push_str("  disabled yes;\n");
    }
    if let Some(password) = &session.password {
        let _ = writeln!(text, "  password \"{}\";", password.expose());
    }
    if session.bfd.is_some() {
        text.push_str("  bfd on;\n");
    }
    let _ = writeln!(text, "  graceful restart {};", if session.graceful_restart { "on" } else { "aware" });
    let family = if session.is_ipv6() { "ipv6" } else { "ipv4" };
    let own = if session.is_ipv6() { "own6" } else { "own4" };
    let _ = writeln!(text, "  {family} {{\n    next hop self; import keep filtered yes;");
    if let Some(most) = session.max_prefixes {
        let _ = writeln!(text, "    receive limit {most} action restart;");
    }
    let inner: Vec<String> = session.accept.iter().map(|net| format!("{net}+")).collect();
    let _ = writeln!(
        text,
        "    import filter {{ if net ~ [ {} ] then {{ bgp_local_pref = {}; accept; }} reject; }};",
        inner.join(", "),
        preference.local_preference
    );
    let mut announced = Vec::new();
    if !session.announce.is_empty() {
        let nets: Vec<String> = session.announce.iter().map(ToString::to_string).collect();
        announced.push(format!("(proto = \"{own}\" && net ~ [ {} ])", nets.join(", ")));
    }
    if !session.transit.is_empty() {
        let nets: Vec<String> = session.transit.iter().map(|net| format!("{net}+")).collect();
        announced.push(format!("(source = RTS_BGP && net ~ [ {} ])", nets.join(", ")));
    }
    if announced.is_empty() {
        text.push_str("    export none;\n");
    } else {
        let prepend = format!(" bgp_path.prepend({asn});").repeat(preference.prepend.into());
        let _ = writeln!(
            text,
            "    export filter {{ if {} then {{ bgp_med = {};{prepend} accept; }} reject; }};",
            announced.join(" || "),
            preference.med
        );
    }
    text.push_str("  };\n}\n");
}

/// The lines of an answer without their codes.
///
/// # Errors
/// When BIRD refuses.
pub fn lines(answer: &str) -> Result<Vec<&str>, ReadError> {
    let mut lines = Vec::new();
    for line in answer.lines() {
        match (line.get(..4).filter(|code| code.bytes().all(|b| b.is_ascii_digit())), line.get(5..)) {
            (Some(code), rest) => {
                let rest = rest.unwrap_or_default();
                if code.starts_with(['8', '9']) {
                    return Err(ReadError::Refused(rest.to_owned()));
                }
                lines.push(rest);
            }
            // The line before had the code.
            (None, _) => lines.push(line.strip_prefix(' ').unwrap_or(line)),
        }
    }
    Ok(lines)
}

/// Whether an answer is whole: its last line has a code with a blank behind it.
pub fn is_whole(answer: &str) -> bool {
    let Some(last) = answer.strip_suffix('\n').and_then(|all| all.rsplit('\n').next()) else { return false };
    last.len() >= 5
        && last.bytes().take(4).all(|b| b.is_ascii_digit())
        && last.as_bytes().get(4) == Some(&b' ')
}

/// Reads the answers to [`PROTOCOLS`], [`BFD`] and [`ROUTES`].
///
/// # Errors
/// When BIRD refuses to tell.
pub fn report(protocols: &str, bfd: &str, routes: &str) -> Result<Report, ReadError> {
    let mut sessions = sessions(protocols)?;
    // Refused where there is no BFD.
    let bfd = lines(bfd).unwrap_or_default();
    for line in bfd {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [address, _, state, ..] = words[..]
            && let Some(session) = sessions.iter_mut().find(|s| s.neighbor == address)
        {
            session.bfd_up = Some(state == "Up");
        }
    }
    let mut routes = learned(routes)?;
    routes.sort_by_key(|route| (route.destination, !route.best, route.neighbor));
    Ok(Report { sessions, routes })
}

fn sessions(answer: &str) -> Result<Vec<SessionReport>, ReadError> {
    let mut sessions: Vec<SessionReport> = Vec::new();
    for line in lines(answer)? {
        if line.starts_with("cv_") {
            let disabled = line.split_whitespace().nth(3) == Some("down");
            let state = if disabled { SessionState::Shut } else { SessionState::Idle };
            sessions.push(SessionReport { state, ..SessionReport::default() });
            continue;
        }
        let (Some(session), Some((key, value))) = (sessions.last_mut(), line.trim().split_once(':')) else {
            continue;
        };
        let value = value.trim();
        match key {
            "BGP state" if session.state != SessionState::Shut => {
                session.state = SessionState::parse(value).unwrap_or_default();
            }
            "Neighbor address" => {
                session.neighbor = value.split('%').next().unwrap_or_default().to_owned();
            }
            "Last error" => session.error = Some(value.to_owned()),
            "Routes" => {
                let count = |what: &str| {
                    let part = value.split(", ").find(|part| part.ends_with(what))?;
                    part.split(' ').next()?.parse().ok()
                };
                session.accepted = count("imported").unwrap_or(0);
                session.received = session.accepted + count("filtered").unwrap_or(0);
                session.advertised = count("exported").unwrap_or(0);
            }
            _ => {}
        }
    }
    sessions.retain(|session| !session.neighbor.is_empty());
    Ok(sessions)
}

fn learned(answer: &str) -> Result<Vec<LearnedRoute>, ReadError> {
    let mut routes: Vec<LearnedRoute> = Vec::new();
    // Further ways of one destination leave it out.
    let mut destination: Option<IpNet> = None;
    let mut open = false;
    for line in lines(answer)? {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.contains('[') && line.contains(']') {
            if let Some(net) = words.first().and_then(|word| word.parse().ok()) {
                destination = Some(net);
            }
            open = line.contains("[cv_");
            if let (true, Some(destination)) = (open, destination) {
                routes.push(LearnedRoute {
                    destination,
                    neighbor: IpAddr::from([0; 4]),
                    best: words.contains(&"*"),
                    path: String::new(),
                    local_preference: None,
                    med: None,
                });
            }
            continue;
        }
        let Some(route) = routes.last_mut().filter(|_| open) else { continue };
        match words[..] {
            ["via", address, ..] => {
                if let Ok(address) = address.parse() {
                    route.neighbor = address;
                }
            }
            ["BGP.as_path:", ..] => route.path = words[1..].join(" "),
            ["BGP.local_pref:", value] => route.local_preference = value.parse().ok(),
            ["BGP.med:", value] => route.med = value.parse().ok(),
            _ => {}
        }
    }
    Ok(routes)
}

#[cfg(test)]
#[path = "bird_tests.rs"]
mod tests;
