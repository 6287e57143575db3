//! report.html: the table, and throughput over time as inline SVG. One file that needs nothing else.
use super::figures::{Figures, Leg, Run, kernel};
use crate::page::{escape, head, nice};
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 36.0;
const TOP: f64 = 12.0;

fn colour(leg: Leg) -> &'static str {
    match leg {
        Leg::Plain => "#8a8f98",
        Leg::Culvert => "#0b7a5c",
        Leg::Strongswan => "#b4541a",
    }
}

pub(super) fn html(figures: &Figures) -> String {
    let mut page = head("Culvert demo");
    let _ = write!(
        page,
        "<h1>Culvert demo</h1><p>hostA – gatewayA – WAN – gatewayB – hostB in network namespaces of one machine: \
         {} CPUs, kernel {}. Each run lasts {} s; {} rounds, interleaved.</p><pre>{}</pre>",
        std::thread::available_parallelism().map_or(0, usize::from),
        escape(&kernel()),
        figures.seconds,
        figures.rounds,
        escape(&figures.table()),
    );
    for streams in [1, 4] {
        let plural = if streams == 1 { "" } else { "s" };
        let _ = write!(page, "<h2>{streams} TCP stream{plural}</h2>");
        chart(&mut page, figures, streams);
    }
    page.push_str("</body></html>\n");
    page
}

/// A line of a chart: second since the first round, and Gbit/s.
struct Line {
    leg: Leg,
    run: Run,
    points: Vec<(f64, f64)>,
}

/// All rounds, one behind the other, of the runs with that many streams.
fn chart(page: &mut String, figures: &Figures, streams: u32) {
    let span = f64::from(figures.seconds);
    let total = (span * f64::from(figures.rounds)).max(1.0);
    let lines: Vec<Line> = figures
        .samples
        .iter()
        .filter(|((_, run), _)| run.streams == streams)
        .map(|((leg, run), rounds)| {
            let points = rounds.iter().enumerate().flat_map(|(round, sample)| {
                // Samples tell the end of their interval; drawn at its end, within its round.
                sample
                    .result
                    .samples
                    .iter()
                    .map(move |(at, gbps)| (round as f64 * span + at.min(span), *gbps))
            });
            Line { leg: *leg, run: *run, points: points.collect() }
        })
        .collect();
    let highest = lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)).fold(0.0, f64::max);
    let scale = nice(highest);
    let x = |seconds: f64| LEFT + seconds / total * (WIDTH - LEFT - 10.0);
    let y = |gbps: f64| HEIGHT - BOTTOM - gbps / scale * (HEIGHT - BOTTOM - TOP);
    let _ = write!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Throughput over time, {streams} streams\">"
    );
    for tick in 0..=4 {
        let value = scale * f64::from(tick) / 4.0;
        let at = y(value);
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - 10.0,
            LEFT - 8.0,
            at + 4.0,
        );
    }
    for round in 0..figures.rounds {
        let at = x(f64::from(round) * span);
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">round {}</text>",
            HEIGHT - BOTTOM,
            at + 4.0,
            HEIGHT - BOTTOM + 16.0,
            round + 1,
        );
    }
    let _ = write!(page, "<text x=\"4\" y=\"{:.1}\">Gbit/s</text>", HEIGHT - 6.0);
    for Line { leg, run, points } in &lines {
        let dash = if run.reverse { " stroke-dasharray=\"5 4\"" } else { "" };
        let _ = write!(
            page,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dash} points=\"",
            colour(*leg)
        );
        for (at, gbps) in points {
            let _ = write!(page, "{:.1},{:.1} ", x(*at), y(*gbps));
        }
        let _ = write!(page, "\"><title>{}, {}</title></polyline>", leg.title(), run.title());
    }
    page.push_str("</svg><p class=\"key\">");
    for Line { leg, run, .. } in &lines {
        let style = if run.reverse { "dashed" } else { "solid" };
        let median = figures.gbps(*leg, *run).unwrap_or(0.0);
        let direction = if run.reverse { "B to A" } else { "A to B" };
        let _ = write!(
            page,
            "<span><i style=\"border-top:3px {style} {}\"></i>{}, {direction}: {median:.2}</span>",
            colour(*leg),
            leg.title(),
        );
    }
    page.push_str("</p>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone() {
        let page = html(&Figures::new(1, 1));
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(!page.contains("http"), "the page must load nothing");
    }
}
