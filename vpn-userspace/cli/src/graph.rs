//! `culvert graph`: the traffic of tunnels in the past, drawn on one scale, so that a failover shows.

use std::fmt::Write as _;

use culvert_api::Graph;

use crate::render::clean;
use crate::units;

/// From nothing to the highest rate.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Each tunnel as two lines of bars, `columns` wide.
pub(crate) fn draw(graph: &Graph, columns: usize) -> String {
    let rates = || graph.tunnels.iter().flat_map(|t| t.bits_in.iter().chain(&t.bits_out));
    let highest = rates().copied().max().unwrap_or(0);
    let samples = graph.tunnels.iter().map(|t| t.bits_in.len()).max().unwrap_or(0);
    let names: Vec<String> =
        graph.tunnels.iter().map(|t| format!("{}/{}", clean(&t.connection), clean(&t.tunnel))).collect();
    let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let columns = columns.saturating_sub(widest + 16).clamp(10, samples.max(10));
    let mut out = String::new();
    for (name, tunnel) in names.iter().zip(&graph.tunnels) {
        for (title, direction, list) in
            [(name.as_str(), "in", &tunnel.bits_in), ("", "out", &tunnel.bits_out)]
        {
            let now = list.last().copied().unwrap_or(0);
            let bars = bars(list, highest, columns);
            let _ = writeln!(out, "{title:<widest$} {direction:<3} {bars} {}", units::bits(now as f64));
        }
    }
    let span = units::duration(samples as u64 * u64::from(graph.step_s));
    let _ =
        writeln!(out, "{:<widest$}     {span} until now, full height is {}", "", units::bits(highest as f64));
    out
}

/// One character for each part of the list: the highest rate within.
fn bars(list: &[u64], highest: u64, columns: usize) -> String {
    let bar = |column: usize| {
        let (from, to) = (
            column * list.len() / columns,
            ((column + 1) * list.len() / columns).max(column * list.len() / columns + 1),
        );
        let rate = list.get(from..to.min(list.len())).unwrap_or_default().iter().copied().max().unwrap_or(0);
        // Whatever is not nothing shows.
        let height = if highest == 0 { 0 } else { (u128::from(rate) * 8).div_ceil(u128::from(highest)) };
        BARS[usize::try_from(height).unwrap_or(8).min(8)]
    };
    (0..columns).map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_api::TunnelGraph;

    #[test]
    fn a_failover_shows() {
        let tunnel = |name: &str, out: &[u64]| TunnelGraph {
            connection: "site".into(),
            tunnel: name.into(),
            bits_in: vec![0; out.len()],
            bits_out: out.to_vec(),
        };
        let mega = 1_000_000;
        let graph = Graph {
            end: 0,
            step_s: 1,
            tunnels: vec![
                tunnel("a", &[8 * mega, 8 * mega, 8 * mega, 4 * mega, 0, 0, 0, 0, 0, 0]),
                tunnel("b", &[1, 1, 1, 1, 4 * mega, 8 * mega, 8 * mega, 8 * mega, 8 * mega, 6 * mega]),
            ],
        };
        assert_eq!(
            draw(&graph, 80),
            "site/a in             0 bit/s\n       out ███▄       0 bit/s\nsite/b in             0 bit/s\n       \
             out ▁▁▁▁▄████▆ 6.0 Mbit/s\n           10s until now, full height is 8.0 Mbit/s\n"
        );
        // More samples than columns: the highest of each part.
        assert_eq!(bars(&[0, 8, 0, 0, 0, 4], 8, 3), "█ ▄");
        assert_eq!(bars(&[], 0, 3), "   ");
    }
}
