//! `culvert environment`: how environments are kept apart, and how full they are.

use std::io::{self, Write};

use culvert_api::{Environment, Limit, Status};

use crate::render::{Table, clean};

/// A line for each environment, one for each limit of any, and what is wrong.
pub(crate) fn list(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let headings = ["ENVIRONMENT", "KEPT APART BY", "LAN", "CONNECTIONS", "TUNNELS", "FORWARDS", "LIMITS"];
    let mut table = Table::new(&headings, &[3, 4, 5]);
    for environment in &status.environments {
        table.row([
            clean(&environment.name),
            apart(environment),
            clean(&environment.lan.join(" ")),
            environment.connections.to_string(),
            environment.tunnels.to_string(),
            environment.forwards.to_string(),
            limits(&environment.limits),
        ]);
    }
    out.write_all(table.finish().as_bytes())?;
    for environment in &status.environments {
        for fault in environment.faults.iter().chain(&environment.reason) {
            writeln!(out, "{}: {}", clean(&environment.name), clean(fault))?;
        }
    }
    Ok(())
}

/// `namespace culvert-production`, `table 1001`, or what the default one is.
pub(crate) fn apart(environment: &Environment) -> String {
    match &environment.place {
        Some(place) => format!("{} {}", environment.isolation, clean(place)),
        None => "the gateway's own".to_owned(),
    }
}

/// `forwards 3 of 10, bandwidth 100 Mbit/s`
pub(crate) fn limits(limits: &[Limit]) -> String {
    let one = |limit: &Limit| {
        let most = if limit.name == "bandwidth" { rate(limit.most) } else { limit.most.to_string() };
        let used = limit.used.map_or(String::new(), |used| format!(" {used} of"));
        let note = limit.note.as_ref().map_or(String::new(), |note| format!(" ({})", clean(note)));
        format!("{}{used} {most}{note}", clean(&limit.name))
    };
    limits.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Bits per second.
fn rate(bits: u64) -> String {
    let exact = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1000, "kbit/s")];
    let unit = exact.into_iter().find(|(factor, _)| bits >= *factor && bits.is_multiple_of(*factor));
    unit.map_or(format!("{bits} bit/s"), |(factor, unit)| format!("{} {unit}", bits / factor))
}

#[cfg(test)]
mod tests {
    use culvert_api::Isolation;

    use super::*;

    #[test]
    fn environments_are_shown_with_their_limits_and_faults() {
        let mut status = crate::render::fixture::status();
        let environment = |name: &str, isolation, place: Option<&str>| Environment {
            name: name.into(),
            isolation,
            place: place.map(str::to_owned),
            reason: None,
            lan: vec!["eth2".into()],
            faults: Vec::new(),
            connections: 1,
            tunnels: 2,
            forwards: 3,
            limits: Vec::new(),
        };
        let limit = |name: &str, most, used| Limit { name: name.into(), most, used, note: None };
        status.environments = vec![
            environment("default", Isolation::None, None),
            Environment {
                limits: vec![limit("forwards", 10, Some(3)), limit("bandwidth", 20_000_000, None)],
                faults: vec!["there is no interface \u{1b}[2Jeth2".into()],
                ..environment("production", Isolation::Table, Some("1001"))
            },
        ];
        let mut out = Vec::new();
        list(&mut out, &status).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("the gateway's own") && text.contains("table 1001"), "{text}");
        assert!(text.contains("forwards 3 of 10, bandwidth 20 Mbit/s"), "{text}");
        assert!(text.contains("production: there is no interface") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(rate(1500), "1500 bit/s");
    }
}
