//! The monitor's picture: tunnels with their rates, and two plots of the one that is selected.

use culvert_api::TunnelState;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Cell, Chart, Dataset, GraphType, Paragraph, Row as TableRow, Table, TableState,
};

use super::model::{HISTORY, Model, Rates, Row};
use crate::units::bits;

/// What to draw beside the model.
pub(crate) struct Look<'a> {
    /// Seconds between two samples.
    pub(crate) interval: f64,
    /// Why the figures are old.
    pub(crate) trouble: Option<&'a str>,
    pub(crate) colour: bool,
}

pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model, look: &Look<'_>) {
    let messages = model.warnings.len().min(3) + usize::from(look.trouble.is_some());
    let tunnels = u16::try_from(model.rows.len()).unwrap_or(u16::MAX).saturating_add(3);
    let [head, told, table, plots, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(messages).unwrap_or(4)),
        Constraint::Max(tunnels),
        Constraint::Min(8),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let total = model.total();
    let line = format!(
        "{}   in {}  out {}   drops {}/s   guard {}/s",
        model.head,
        bits(total.bits_in),
        bits(total.bits_out),
        count(total.drops),
        count(model.guard)
    );
    frame.render_widget(Paragraph::new(line).style(Style::new().add_modifier(Modifier::BOLD)), head);
    let red = if look.colour { Style::new().fg(Color::Red) } else { Style::new() };
    let warnings = model.warnings.iter().take(3).map(|w| format!("WARNING: {w}"));
    let trouble = look.trouble.map(|t| format!("{t}; trying again"));
    let lines: Vec<Line<'_>> = warnings.chain(trouble).map(|text| Line::styled(text, red)).collect();
    frame.render_widget(Paragraph::new(lines), told);
    frame.render_stateful_widget(
        list(model, look.colour),
        table,
        &mut TableState::default().with_selected((!model.rows.is_empty()).then_some(model.selected)),
    );
    match model.rows.get(model.selected) {
        Some(row) => selected(frame, plots, row, look),
        None => frame.render_widget(Paragraph::new("no tunnels"), plots),
    }
    frame.render_widget(Paragraph::new("q quit   up, down: choose a tunnel"), foot);
}

fn list(model: &Model, colour: bool) -> Table<'_> {
    let headings = ["TUNNEL", "STATE", "ENGINE", "IN", "OUT", "PACKETS IN", "PACKETS OUT", "DROPS"];
    let rows = model.rows.iter().map(|row| {
        let state = Span::raw(row.state.as_str());
        let state = match row.state {
            TunnelState::Up if colour => state.style(Style::new().fg(Color::Green)),
            TunnelState::Down if colour => state.style(Style::new().fg(Color::Red)),
            _ => state,
        };
        let Rates { bits_in, bits_out, packets_in, packets_out, drops } = row.now;
        TableRow::new([
            Cell::from(format!("{}{}", row.name, if row.active { " *" } else { "" })),
            Cell::from(state),
            Cell::from(row.engine.as_str()),
            Cell::from(bits(bits_in)),
            Cell::from(bits(bits_out)),
            Cell::from(format!("{}/s", count(packets_in))),
            Cell::from(format!("{}/s", count(packets_out))),
            Cell::from(format!("{}/s", count(drops))),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(12),
        Constraint::Length(14),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(10),
    ];
    Table::new(rows, widths)
        .header(TableRow::new(headings).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new())
}

fn selected(frame: &mut Frame<'_>, area: Rect, row: &Row, look: &Look<'_>) {
    let told = usize::from(row.cause.is_some()) + usize::from(!row.drops.is_empty());
    let [text, plots] =
        Layout::vertical([Constraint::Length(u16::try_from(told).unwrap_or(2)), Constraint::Min(6)])
            .areas(area);
    let drops: Vec<String> = row.drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
    let drops = (!drops.is_empty()).then(|| format!("dropped since the start: {}", drops.join(", ")));
    let lines: Vec<Line<'_>> = row.cause.clone().into_iter().chain(drops).map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines), text);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(plots);
    plot(frame, left, &format!("{} in", row.name), row, look, |r| r.bits_in);
    plot(frame, right, &format!("{} out", row.name), row, look, |r| r.bits_out);
}

fn plot(frame: &mut Frame<'_>, area: Rect, title: &str, row: &Row, look: &Look<'_>, of: fn(&Rates) -> f64) {
    // The newest sample stands at the right edge.
    let start = HISTORY - row.history.len();
    let points: Vec<(f64, f64)> =
        row.history.iter().enumerate().map(|(i, r)| ((start + i) as f64, of(r))).collect();
    let top = scale(row.history.iter().map(of).fold(0.0, f64::max));
    let line = if look.colour { Style::new().fg(Color::Cyan) } else { Style::new() };
    let data =
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(line).data(&points);
    let span = look.interval * HISTORY as f64;
    let chart = Chart::new(vec![data])
        .block(Block::bordered().title(title.to_owned()))
        .x_axis(
            Axis::default()
                .bounds([0.0, (HISTORY - 1) as f64])
                .labels([format!("-{span:.0} s"), "now".to_owned()]),
        )
        .y_axis(Axis::default().bounds([0.0, top]).labels(["0".to_owned(), bits(top)]));
    frame.render_widget(chart, area);
}

/// The next of 1, 2, 5 times a power of ten, from 1000 bit/s on.
fn scale(most: f64) -> f64 {
    let mut power = 1000.0;
    loop {
        for step in [1.0, 2.0, 5.0] {
            if most <= step * power || power > 1e15 {
                return step * power;
            }
        }
        power *= 10.0;
    }
}

/// Packets.
fn count(rate: f64) -> String {
    match rate {
        r if r >= 1e6 => format!("{:.2}M", r / 1e6),
        r if r >= 1e4 => format!("{:.1}k", r / 1e3),
        r => format!("{r:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_for_people() {
        assert_eq!([0.0, 9999.0, 12_345.0, 1.5e6].map(count), ["0", "9999", "12.3k", "1.50M"]);
        assert_eq!([0.0, 1001.0, 2e6, 6.1e9].map(scale), [1e3, 2e3, 2e6, 1e10]);
    }
}
