//! Answers as text. Whatever comes from peers is cleaned before a terminal sees it.

mod details;
mod drops;
mod explain;
#[cfg(test)]
pub(crate) mod fixture;
mod log;
mod status;
mod table;

pub(crate) use drops::{drop_line, drops};
pub(crate) use explain::explanation;
pub(crate) use log::{log_line, trace_line};
pub(crate) use status::{engine, narrow, narrow_to, status};

use culvert_api::{ChangeKind, Counters, Reloaded};

use crate::units;
pub(crate) use table::Table;

/// How the status is shown.
pub(crate) struct View {
    /// Unix time in seconds.
    pub(crate) now_s: u64,
    /// Whether the terminal takes colours.
    pub(crate) colour: bool,
    /// Whether everything is shown.
    pub(crate) verbose: bool,
}

/// One line without control characters: identities and messages of peers must not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_control(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// As [`clean`], for text of several lines.
pub(crate) fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// Controls, and the marks that turn the direction of writing around.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The guard's counters, then the tunnels' drops.
pub(crate) fn counters(counters: &Counters) -> String {
    let mut out = String::new();
    if !counters.guard.is_empty() {
        let mut table = Table::new(&["INTERFACE", "VERDICT", "REASON", "PACKETS", "BYTES"], &[3, 4]);
        for counter in &counters.guard {
            table.row([
                clean(counter.interface.as_deref().unwrap_or("all")),
                counter.verdict.to_string(),
                clean(&counter.reason),
                counter.packets.to_string(),
                units::bytes(counter.bytes),
            ]);
        }
        out.push_str(&table.finish());
    }
    let mut table = Table::new(&["TUNNEL", "DROPPED FOR", "PACKETS"], &[2]);
    let mut rows = 0;
    for tunnel in &counters.tunnels {
        for (reason, packets) in tunnel.drops.iter().filter(|(_, packets)| **packets > 0) {
            let name = format!("{}/{}", clean(&tunnel.connection), clean(&tunnel.tunnel));
            table.row([name, clean(reason), packets.to_string()]);
            rows += 1;
        }
    }
    if rows > 0 {
        out.push_str(if out.is_empty() { "" } else { "\n" });
        out.push_str(&table.finish());
    }
    if !counters.ike.is_empty() {
        let mut table = Table::new(&["IKE MESSAGES DROPPED FOR", "PACKETS"], &[1]);
        for (reason, packets) in &counters.ike {
            table.row([clean(reason), packets.to_string()]);
        }
        out.push_str(if out.is_empty() { "" } else { "\n" });
        out.push_str(&table.finish());
    }
    if out.is_empty() { "nothing was counted yet\n".to_owned() } else { out }
}

/// What a reload changed, one line each.
pub(crate) fn reloaded(reloaded: &Reloaded) -> String {
    if reloaded.changes.is_empty() {
        return "nothing changed\n".to_owned();
    }
    let mut out = String::new();
    for change in &reloaded.changes {
        out.push_str(&clean(&change.subject));
        match change.kind {
            ChangeKind::Changed if !change.keys.is_empty() => {
                out.push_str(&format!(": changed {}", clean(&change.keys.join(", "))));
            }
            kind => out.push_str(&format!(": {kind}")),
        }
        out.push_str(match (change.restart, change.renegotiate) {
            (true, _) => " (takes effect when culvertd restarts)",
            (false, true) => " (negotiated anew)",
            (false, false) => "",
        });
        out.push('\n');
    }
    out
}

/// What a reload would change.
pub(crate) fn planned(planned: &Reloaded) -> String {
    if planned.changes.is_empty() {
        return "nothing changes\n".to_owned();
    }
    let mut out = String::new();
    for change in &planned.changes {
        let subject = clean(&change.subject);
        let keys = clean(&change.keys.join(", "));
        out.push_str(&match (change.kind, change.restart, change.renegotiate) {
            (ChangeKind::Added, ..) => format!("+ {subject}"),
            (ChangeKind::Removed, ..) => format!("- {subject}: its SAs are deleted"),
            (_, true, _) => format!("~ {subject}: {keys} (nothing before culvertd restarts)"),
            (_, _, true) => format!("~ {subject}: {keys} (negotiated anew: its traffic stops for a moment)"),
            (_, false, false) => format!("~ {subject}: {keys} (while it runs: no SA is touched)"),
        });
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_api::{Change, Explanation, Level, LogRecord, TunnelDrops, TunnelHistory};

    fn view(verbose: bool) -> View {
        View { now_s: fixture::NOW_S, colour: false, verbose }
    }

    #[test]
    fn status_is_as_reviewed() {
        insta::assert_snapshot!("status", status(&fixture::status(), &view(false)));
    }

    #[test]
    fn verbose_status_is_as_reviewed() {
        insta::assert_snapshot!("status_verbose", status(&fixture::status(), &view(true)));
    }

    #[test]
    fn an_empty_gateway_says_what_to_do() {
        let mut empty = fixture::status();
        empty.connections.clear();
        empty.gateway.wan.clear();
        insta::assert_snapshot!("status_empty", status(&empty, &view(false)));
    }

    #[test]
    fn colours_only_when_asked() {
        let plain = status(&fixture::status(), &view(true));
        assert!(!plain.contains('\u{1b}'));
        let coloured = status(&fixture::status(), &View { colour: true, ..view(false) });
        assert!(coloured.contains("\u{1b}[38;5;10mup"), "{coloured:?}");
    }

    #[test]
    fn a_target_narrows_the_status() {
        let mut one = fixture::status();
        narrow(&mut one, &"hangzhou/b".parse().unwrap()).unwrap();
        assert_eq!(one.connections.len(), 1);
        assert_eq!(one.connections[0].tunnels.len(), 1);
        for target in ["nowhere", "hangzhou/z"] {
            assert!(narrow(&mut fixture::status(), &target.parse().unwrap()).is_none(), "{target}");
        }
    }

    #[test]
    fn peers_do_not_steer_the_terminal() {
        let mut status_ = fixture::status();
        let tunnel = &mut status_.connections[0].tunnels[0];
        tunnel.ike.as_mut().unwrap().remote.id = "evil\u{1b}[2J\u{202e}".into();
        tunnel.cause = Some("a\rb\nc".into());
        let text = status(&status_, &view(true));
        assert!(!text.contains(['\u{1b}', '\r', '\u{202e}']) && text.contains("evil\u{fffd}[2J\u{fffd}"));
        assert_eq!(clean_lines("a\u{7}\nb"), "a\u{fffd}\nb");
    }

    #[test]
    fn counters_are_as_reviewed() {
        let guard = fixture::status().counters;
        let drops = [("replay".to_owned(), 3), ("ttl".to_owned(), 0), ("no-sa".to_owned(), 12)].into();
        let tunnels = vec![TunnelDrops { connection: "hangzhou".into(), tunnel: "a".into(), drops }];
        let ike = [("ikev1-refused".to_owned(), 4)].into();
        insta::assert_snapshot!("counters", counters(&Counters { guard, tunnels, ike }));
        assert_eq!(counters(&Counters::default()), "nothing was counted yet\n");
    }

    #[test]
    fn reloads_are_as_reviewed() {
        let change = |subject: &str, kind, keys: &[&str], renegotiate, restart| Change {
            subject: subject.into(),
            kind,
            keys: keys.iter().map(|k| k.to_string()).collect(),
            renegotiate,
            restart,
        };
        let changes = vec![
            change("gateway", ChangeKind::Changed, &["workers"], false, true),
            change("connection old", ChangeKind::Removed, &[], false, false),
            change("tunnel hangzhou/c", ChangeKind::Added, &[], false, false),
            change(
                "connection hangzhou",
                ChangeKind::Changed,
                &["esp.proposals", "ike.lifetime"],
                true,
                false,
            ),
            change("tunnel hangzhou/a", ChangeKind::Changed, &["weight"], false, false),
        ];
        insta::assert_snapshot!("planned", planned(&Reloaded { changes: changes.clone() }));
        insta::assert_snapshot!("reloaded", reloaded(&Reloaded { changes }));
        assert_eq!(reloaded(&Reloaded { changes: vec![] }), "nothing changed\n");
    }

    #[test]
    fn warnings_are_red() {
        let mut status_ = fixture::status();
        status_.warnings = vec!["the keys are written to /x\u{7}".into()];
        let text = status(&status_, &view(false));
        assert!(text.contains("\nWARNING: the keys are written to /x\u{fffd}\n"), "{text}");
        assert!(status(&status_, &View { colour: true, ..view(false) }).contains("\u{1b}[1;31mWARNING"));
    }

    #[test]
    fn explanations_are_as_reviewed() {
        let view = View { now_s: fixture::NOW_S, colour: false, verbose: false };
        insta::assert_snapshot!("explain", explanation(&fixture::explanation(), &view));
        let evil = Explanation {
            tunnels: vec![TunnelHistory {
                cause: Some("a\u{1b}[2J".into()),
                ..fixture::explanation().tunnels.remove(2)
            }],
        };
        assert!(!explanation(&evil, &view).contains('\u{1b}'));
        assert!(
            explanation(&fixture::explanation(), &View { colour: true, ..view }).contains("\u{1b}[31mdown")
        );
    }

    #[test]
    fn log_lines_are_as_reviewed() {
        let record = |level, connection: Option<&str>, tunnel: Option<&str>| LogRecord {
            environment: None,
            time_ms: 1_795_311_428_123,
            level,
            connection: connection.map(Into::into),
            tunnel: tunnel.map(Into::into),
            target: "culvertd::ike".into(),
            message: "IKE_AUTH failed\u{1b}[31m".into(),
            fields: [("peer".to_owned(), "203.0.113.21:500".to_owned()), ("id".to_owned(), "a b".to_owned())]
                .into(),
        };
        let lines = [
            record(Level::Error, Some("hangzhou"), Some("a")),
            record(Level::Info, Some("hangzhou"), None),
            record(Level::Debug, None, None),
        ]
        .map(|record| log_line(&record, false));
        insta::assert_snapshot!("log", lines.concat());
        assert!(log_line(&record(Level::Error, None, None), true).contains("\u{1b}[31merror"));
    }
}
