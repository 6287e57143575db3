//! The result for the terminal: figures by leg, Culvert's ratios to everybody, the aims.
use super::aims::Outcome;
use super::figures::{Book, Row, Unit};
use super::legs::{Cipher, Leg};
use comfy_table::{ContentArrangement, Table, presets};
use std::fmt::Write as _;

fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Everything, one section after the other.
pub(super) fn show(book: &Book, outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for cipher in Cipher::ALL {
        let rows: Vec<&Row> = book.rows.iter().filter(|row| row.cipher == cipher).collect();
        let legs: Vec<Leg> =
            Leg::ALL.into_iter().filter(|leg| rows.iter().any(|row| row.cells.contains_key(leg))).collect();
        if legs.is_empty() {
            continue;
        }
        let mut table = table();
        table.set_header(
            [cipher.title(), "unit"].into_iter().chain(legs.iter().map(|leg| leg.name())).collect::<Vec<_>>(),
        );
        for row in rows {
            let cells = legs.iter().map(|leg| row.shown(*leg));
            table.add_row(
                [row.title.clone(), row.unit.name().into()].into_iter().chain(cells).collect::<Vec<_>>(),
            );
        }
        let _ = writeln!(text, "{table}\n");
    }
    text.push_str(&ratios(book));
    text.push_str(&aims(outcomes));
    for (leg, described) in &book.described {
        let _ = writeln!(text, "{}: {described}", leg.name());
    }
    for (leg, reason) in &book.absent {
        let _ = writeln!(text, "not measured: {}: {reason}", leg.name());
    }
    for failure in &book.failures {
        let _ = writeln!(text, "failed: {failure}");
    }
    text
}

/// The best Culvert leg of each metric against plain forwarding and every peer: how many times as good.
fn ratios(book: &Book) -> String {
    let mut table = table();
    let others: Vec<Leg> = std::iter::once(Leg::Plain)
        .chain(Leg::PEERS)
        .filter(|leg| book.rows.iter().any(|row| row.cells.contains_key(leg)))
        .collect();
    let mut header = vec!["Culvert's best".to_owned(), "leg".into(), "median".into()];
    header.extend(others.iter().map(|leg| match leg {
        Leg::Plain => "of plain".to_owned(),
        other => format!("to {}", other.name()),
    }));
    table.set_header(header);
    for row in book.rows.iter().filter(|row| row.cipher == Cipher::Aes128Gcm) {
        let more = matches!(row.unit, Unit::Gbps | Unit::Pps);
        let less = matches!(row.unit, Unit::Micros | Unit::CpuPerGb);
        if !(more || less) || !others.iter().any(|leg| row.cells.contains_key(leg)) {
            continue;
        }
        let all = Leg::ALL.into_iter().filter(|leg| leg.is_culvert());
        let all = all.filter_map(|leg| Some((leg, row.median(leg)?)));
        let best = all.reduce(|a, b| if (b.1 > a.1) == more { b } else { a });
        let Some((leg, value)) = best else { continue };
        let mut cells = vec![row.title.clone(), leg.name().to_owned(), row.unit.show(value)];
        cells.extend(others.iter().map(|other| match (row.median(*other), other) {
            (Some(other), _) if other <= 0.0 => "-".into(),
            (Some(plain), Leg::Plain) => format!("{:.0} %", value / plain * 100.0),
            // For time and cost, how many times less.
            (Some(other), _) => {
                format!("{:.1} x", if more { value / other } else { other / value.max(f64::MIN_POSITIVE) })
            }
            (None, _) => String::new(),
        }));
        table.add_row(cells);
    }
    format!("{table}\n\n")
}

fn aims(outcomes: &[Outcome]) -> String {
    if outcomes.is_empty() {
        return String::new();
    }
    let mut table = table();
    table.set_header(["aim", "wanted", "measured", ""]);
    for outcome in outcomes {
        table.add_row([
            outcome.aim,
            &outcome.wanted,
            outcome.measured.as_deref().unwrap_or("not measured"),
            verdict(outcome.met),
        ]);
    }
    format!("{table}\n\n")
}

pub(super) fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::Metric;
    use super::*;

    #[test]
    fn the_best_leg_is_compared() {
        let (mut book, cipher) = (Book::default(), Cipher::Aes128Gcm);
        let tcp = Metric("tcp1".into(), "TCP".into(), Unit::Gbps);
        let rtt = Metric("rtt".into(), "RTT".into(), Unit::Micros);
        for (leg, gbps, micros) in [
            (Leg::Plain, 16.0, 20.0),
            (Leg::TunUdp, 8.0, 100.0),
            (Leg::Bpf, 1.0, 25.0),
            (Leg::WireguardGo, 2.0, 200.0),
        ] {
            book.put(&tcp, cipher, leg, gbps);
            book.put(&rtt, cipher, leg, micros);
        }
        let text = ratios(&book);
        let line = |start: &str| text.lines().find(|line| line.contains(start)).unwrap().to_owned();
        assert!(
            line("TCP").contains("tun+udp") && line("TCP").contains("50 %") && line("TCP").contains("4.0 x")
        );
        assert!(
            line("RTT").contains("bpf") && line("RTT").contains("125 %") && line("RTT").contains("8.0 x")
        );
        assert!(show(&book, &[]).contains("wireguard-go"));
    }
}
