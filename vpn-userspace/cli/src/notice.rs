//! `culvert notice`: the ways by which somebody is told what happens.

use std::io::{self, Write};

use culvert_api::Status;

use crate::render::{Table, clean};

pub(crate) fn list(out: &mut impl Write, status: &Status) -> io::Result<()> {
    if status.notices.is_empty() {
        return writeln!(out, "no notices: add [notice.NAME] to the configuration, then `culvert reload`");
    }
    let mut table = Table::new(&["NOTICE", "BY", "TOLD", "GIVEN UP", "NOT TRIED"], &[2, 3, 4]);
    let mut errors = String::new();
    for notice in &status.notices {
        let name = clean(&notice.name);
        if let Some(error) = &notice.error {
            errors.push_str(&format!("{name}: last failure: {}\n", clean(error)));
        }
        let counts = [notice.told, notice.failed, notice.dropped].map(|count| count.to_string());
        let [told, failed, dropped] = counts;
        table.row([name.to_string(), clean(&notice.way).to_string(), told, failed, dropped]);
    }
    out.write_all(table.finish().as_bytes())?;
    if !errors.is_empty() {
        write!(out, "\n{errors}")?;
    }
    Ok(())
}
