//! Tables of texts and numbers for a terminal.

use comfy_table::{CellAlignment, Table, presets};

/// Lays out a table; numbers stand on the right.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    let mut is_number = [true; N];
    let mut count = 0;
    for row in rows {
        for (is_number, cell) in is_number.iter_mut().zip(&row) {
            *is_number &= cell.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '%' | ' '));
        }
        table.add_row(row);
        count += 1;
    }
    for (column, is_number) in is_number.iter().enumerate() {
        if *is_number
            && count > 0
            && let Some(column) = table.column_mut(column)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_on_the_right_and_words_on_the_left() {
        let rows = [["a".to_owned(), "5".to_owned()], ["long name".to_owned(), "1234".to_owned()]];
        let text = table(["Machine", "Rows"], rows);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 3, "{text}");
        let end = |line: &str| line.len();
        assert_eq!(end(lines[1]), end(lines[2]), "{text}");
        assert!(lines[1].trim_start().starts_with("a "), "{text}");
    }
}
