//! Tables for people, JSON for programs.

use std::io::{ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{Cell, CellAlignment, Table, presets};

/// A table: names of columns, and rows of text. Columns of numbers stand to the right.
pub(super) struct Sheet {
    table: Table,
    right: Vec<bool>,
}

impl Sheet {
    /// Begins a table; a name that ends in `>` makes a column of numbers.
    pub(super) fn new(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let right: Vec<bool> = columns.iter().map(|name| name.ends_with('>')).collect();
        table.set_header(
            columns.iter().zip(&right).map(|(name, right)| aligned(name.trim_end_matches('>'), *right)),
        );
        Self { table, right }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: &[String]) {
        self.table.add_row(cells.iter().zip(&self.right).map(|(text, right)| aligned(text, *right)));
    }

    /// Prints it.
    pub(super) fn print(&self) {
        self.table.to_string().lines().for_each(|text| line(text.trim_end()));
    }
}

fn aligned(text: &str, right: bool) -> Cell {
    Cell::new(text).set_alignment(if right { CellAlignment::Right } else { CellAlignment::Left })
}

/// Prints a value as JSON.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<(), serde_json::Error> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Whether something could not be printed, for another reason than a reader that has seen enough.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints a line; a reader that has seen enough (`| head`) is no reason to fail.
pub(super) fn line(line: &str) {
    text(format!("{line}\n").as_bytes());
}

/// Prints a text as it is.
pub(super) fn text(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => LOST.store(true, Ordering::Relaxed),
        _ => {}
    }
}

/// Tells whether something could not be printed.
pub(super) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Writes a time as RFC 3339, UTC; `-` for none.
pub(super) fn time(us: Option<i64>) -> String {
    us.and_then(crate::clock::rfc3339).unwrap_or_else(|| "-".to_owned())
}

/// Gives a time for JSON: RFC 3339 in UTC, or null.
pub(super) fn json_time(us: Option<i64>) -> serde_json::Value {
    us.and_then(crate::clock::rfc3339).into()
}
