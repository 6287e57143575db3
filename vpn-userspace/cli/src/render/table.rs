//! Plain columns two spaces apart, which `grep`, `awk` and people read alike.

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement};

/// A table under construction.
pub(crate) struct Table {
    table: comfy_table::Table,
}

impl Table {
    /// With these headings; the columns whose indices are in `right` hold numbers.
    pub(crate) fn new(headings: &[&str], right: &[usize]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(Cell::new).collect::<Vec<_>>());
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table }
    }

    /// Colours even where the output is no terminal: who asks has looked.
    pub(crate) fn coloured(mut self, colour: bool) -> Self {
        if colour {
            self.table.enforce_styling();
        } else {
            self.table.force_no_tty();
        }
        self
    }

    pub(crate) fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.table.add_row(cells.into_iter().map(Into::into).collect::<Vec<Cell>>());
    }

    /// The lines, without blanks at their ends.
    pub(crate) fn finish(&self) -> String {
        self.table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A state's colour: green as it should be, yellow on the way, red not.
pub(crate) fn state_cell(state: &str) -> Cell {
    let cell = Cell::new(state);
    match state {
        "up" => cell.fg(Color::Green),
        "partial" | "connecting" => cell.fg(Color::Yellow),
        "down" => cell.fg(Color::Red),
        _ => cell,
    }
}
