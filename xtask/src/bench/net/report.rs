//! report.html: aims, and every metric as bars with the range of its rounds. One file that needs nothing else.
use super::aims::Outcome;
use super::figures::{Book, Row, extremes};
use super::legs::Leg;
use super::table::verdict;
use crate::page::{escape, head, nice};
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 110.0;
const BAR: f64 = 22.0;

fn colour(leg: Leg) -> &'static str {
    match leg {
        Leg::Plain => "#8a8f98",
        _ if leg.is_culvert() => "#0b7a5c",
        _ => "#b4541a",
    }
}

pub(super) fn html(book: &Book, outcomes: &[Outcome], about: &str) -> String {
    let mut page = head("Culvert bench");
    let _ = write!(page, "<h1>Culvert bench</h1><p>{}</p><h2>Aims</h2><table>", escape(about));
    page.push_str("<tr><th>aim<th>wanted<th>measured<th></tr>");
    for outcome in outcomes {
        let verdict = verdict(outcome.met);
        let measured = outcome.measured.as_deref().unwrap_or("not measured");
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td>{}<td class=\"{verdict}\">{verdict}</tr>",
            escape(outcome.aim),
            escape(&outcome.wanted),
            escape(measured)
        );
    }
    page.push_str("</table>");
    for (leg, reason) in &book.absent {
        let _ = write!(page, "<p>Not measured: {}: {}</p>", leg.name(), escape(reason));
    }
    let mut cipher = None;
    for row in &book.rows {
        if cipher != Some(row.cipher) {
            let _ = write!(page, "<h2>{}</h2>", row.cipher.title());
            cipher = Some(row.cipher);
        }
        chart(&mut page, row);
    }
    page.push_str("</body></html>\n");
    page
}

/// A bar for each leg: its median, and a line from the lowest to the highest round.
fn chart(page: &mut String, row: &Row) {
    let all: Vec<(Leg, &Vec<f64>)> =
        Leg::ALL.into_iter().filter_map(|leg| Some((leg, row.cells.get(&leg)?))).collect();
    let highest = all.iter().map(|(_, values)| extremes(values).1).fold(0.0, f64::max);
    let scale = nice(highest);
    let x = |value: f64| LEFT + value.max(0.0) / scale * (WIDTH - LEFT - RIGHT);
    let height = all.len() as f64 * BAR + 26.0;
    let _ = write!(
        page,
        "<h3>{}, {}</h3><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(&row.title),
        row.unit.name(),
        escape(&row.title)
    );
    for tick in 0..=4 {
        let value = scale * f64::from(tick) / 4.0;
        let at = x(value);
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - 20.0,
            height - 6.0,
            row.unit.show(value)
        );
    }
    for (place, (leg, values)) in all.iter().enumerate() {
        let top = place as f64 * BAR + 3.0;
        let middle = row.median(*leg).unwrap_or(0.0);
        let (low, high) = extremes(values);
        let line = top + BAR / 2.0 - 2.0;
        let _ = write!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{line:.1}\" y2=\"{line:.1}\" stroke=\"currentColor\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            top + BAR - 8.0,
            leg.name(),
            x(middle) - LEFT,
            BAR - 5.0,
            colour(*leg),
            x(low),
            x(high),
            x(high) + 8.0,
            top + BAR - 8.0,
            escape(&row.shown(*leg)),
        );
    }
    page.push_str("</svg>");
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Metric, Unit};
    use super::super::legs::Cipher;
    use super::*;

    #[test]
    fn the_page_stands_alone_and_shows_every_leg() {
        let mut book = Book::default();
        let metric = Metric("tcp1".into(), "TCP, <1> stream".into(), Unit::Gbps);
        for (leg, value) in [(Leg::Plain, 16.0), (Leg::TunUdp, 8.0), (Leg::TunUdp, 9.0)] {
            book.put(&metric, Cipher::Aes128Gcm, leg, value);
        }
        book.absent.push((Leg::Bpf, "not in this version".into()));
        let page = html(&book, &super::super::aims::judge(&book), "2 CPUs");
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(!page.contains("http"), "the page must load nothing");
        assert!(
            page.contains("8.50 ±6 %") && page.contains("&lt;1&gt;") && page.contains("Not measured: bpf")
        );
        assert_eq!(page.matches("<rect").count(), 2);
    }
}
