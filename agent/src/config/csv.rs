//! Tags from a CSV file: the keys of a tag as columns.
//!
//! *Source*: RFC 4180, with `;` or a tab as separator too (as some spreadsheets write them), `#` lines
//! left out, and no line breaks inside a cell. An empty cell is a key that is not there.

use std::sync::Arc;

use super::problems::{At, Sink};
use super::tree::{self, Entry, Node, Table, Value};

/// Columns whose cells are texts whatever they look like.
const TEXTS: [&str; 9] =
    ["name", "table", "type", "byte", "order", "unit", "category", "max_interval", "description"];

/// Reads every line as a table; what is wrong with the file itself is reported.
pub(super) fn tables(file: &Arc<str>, text: &str, sink: &Sink) -> Vec<Table> {
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(number, line)| (At { file: Arc::clone(file), line: number + 1 }, line))
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let Some((at, head)) = lines.next() else {
        let at = At { file: Arc::clone(file), line: 0 };
        sink.report(&at, "", "the file is empty; write the keys of a tag as the first line");
        return Vec::new();
    };
    let separator = [',', ';', '\t'].into_iter().max_by_key(|&c| (head.matches(c).count(), c == ','));
    let separator = separator.unwrap_or(',');
    let Some(columns) = cells(head, separator) else {
        sink.report(&at, "", "a quote is not closed; close it in the same line");
        return Vec::new();
    };
    let mut tables = Vec::new();
    for (at, line) in lines {
        match cells(line, separator) {
            None => sink.report(&at, "", "a quote is not closed; close it in the same line"),
            Some(cells) if cells.len() > columns.len() => {
                let message = format!(
                    "{} cells for {} columns; put a cell that holds '{separator}' in quotes",
                    cells.len(),
                    columns.len()
                );
                sink.report(&at, "", message);
            }
            Some(cells) => tables.push(table(&columns, &cells, at)),
        }
    }
    tables
}

fn table(columns: &[String], cells: &[String], at: At) -> Table {
    let has_table = columns.iter().zip(cells).any(|(column, cell)| column == "table" && !cell.is_empty());
    let entries = columns
        .iter()
        .zip(cells)
        .filter(|(_, cell)| !cell.is_empty())
        .map(|(column, cell)| {
            let node = node(column, cell, has_table, &at);
            Entry { key: column.clone(), at: at.clone(), node }
        })
        .collect();
    Table { entries, at }
}

fn node(column: &str, cell: &str, has_table: bool, at: &At) -> Node {
    // A cell has no quotes that tell 40101 from "40101": where the table is not said, it says it.
    let notation = column == "address" && !has_table && super::address::is_notation(cell);
    let text = || Node { value: Value::Text(cell.to_owned()), at: at.clone() };
    if TEXTS.contains(&column) || notation {
        return text();
    }
    tree::parse_value(cell, at).unwrap_or_else(text)
}

/// Takes a line apart; `None` if a quote is not closed.
fn cells(line: &str, separator: char) -> Option<Vec<String>> {
    let mut cells = Vec::new();
    let (mut cell, mut quoted, mut was_quoted) = (String::new(), false, false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if cell.trim().is_empty() && !was_quoted => {
                cell.clear();
                (quoted, was_quoted) = (true, true);
            }
            c if c == separator && !quoted => {
                cells.push(finished(&cell, was_quoted));
                cell.clear();
                was_quoted = false;
            }
            c => cell.push(c),
        }
    }
    cells.push(finished(&cell, was_quoted));
    (!quoted).then_some(cells)
}

fn finished(cell: &str, was_quoted: bool) -> String {
    if was_quoted { cell.to_owned() } else { cell.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart_as_spreadsheets_write_them() {
        let strings = |cells: &[&str]| Some(cells.iter().map(|&c| c.to_owned()).collect::<Vec<_>>());
        for (line, separator, expected) in [
            ("a,b,c", ',', strings(&["a", "b", "c"])),
            (" a ; b,c ;", ';', strings(&["a", "b,c", ""])),
            (r#"a,"b,c","say ""hi""""#, ',', strings(&["a", "b,c", r#"say "hi""#])),
            (r#"a,"b"#, ',', None),
            (r#"5" pipe,b"#, ',', strings(&["5\" pipe", "b"])),
        ] {
            assert_eq!(cells(line, separator), expected, "{line}");
        }
    }

    #[test]
    fn too_many_cells_and_an_empty_file_are_reported_with_their_line() {
        let sink = Sink::default();
        let file: Arc<str> = "tags.csv".into();
        assert!(tables(&file, "# nothing\n\n", &sink).is_empty());
        assert_eq!(tables(&file, "name,address\n\na,1\nb,1,2\n", &sink).len(), 1);
        let shown: Vec<_> = sink.into_problems().0.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "tags.csv: the file is empty; write the keys of a tag as the first line",
                "tags.csv:4: 3 cells for 2 columns; put a cell that holds ',' in quotes",
            ]
        );
    }
}
