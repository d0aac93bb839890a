//! Attribute files: comma-separated, the first line names the columns, quotes as in RFC 4180.

use std::collections::BTreeMap;

use crate::attributes::AttributeRow;

/// Reads an attributes file. *Errors*: a sentence with the line for each thing that is wrong.
pub(super) fn read(text: &str) -> Result<Vec<AttributeRow>, Vec<String>> {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let mut lines = records(text).into_iter();
    let Some((_, header)) = lines.next() else { return Ok(rows) };
    let header: Vec<String> = header.iter().map(|cell| cell.trim().to_owned()).collect();
    if !header.iter().any(|column| column == "machine") {
        return Err(vec!["line 1: the columns must include machine".to_owned()]);
    }
    for (line, cells) in lines {
        if cells.len() == 1 && cells.first().is_some_and(|cell| cell.trim().is_empty()) {
            continue;
        }
        if cells.len() != header.len() {
            problems.push(format!(
                "line {line}: {} columns, and the first line has {}",
                cells.len(),
                header.len()
            ));
            continue;
        }
        let mut row =
            AttributeRow { machine: String::new(), valid_from_us: i64::MIN, values: BTreeMap::new() };
        for (column, cell) in header.iter().zip(&cells) {
            if let Err(message) = row.set(column, cell) {
                problems.push(format!("line {line}: {message}"));
            }
        }
        rows.push(row);
    }
    if problems.is_empty() { Ok(rows) } else { Err(problems) }
}

/// Splits a text into records, each with the number of its first line.
fn records(text: &str) -> Vec<(usize, Vec<String>)> {
    let (mut records, mut cells, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut begin, mut quoted) = (1, 1, false);
    let mut chars = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                cells.push(std::mem::take(&mut cell));
                records.push((begin, std::mem::take(&mut cells)));
                begin = line;
            }
            _ => cell.push(c),
        }
    }
    if !cell.is_empty() || !cells.is_empty() {
        cells.push(cell);
        records.push((begin, cells));
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_with_quotes_and_blank_cells() {
        let text = "machine,valid_from,line,\"rated kW\"\nhall3/press-01,2024-03-01,\"L \"\"1\"\"\",7.5\n\nhall3/press-02,,L2,\n";
        let rows = read(text).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].valid_from_us, 1_709_251_200_000_000);
        assert_eq!(rows[0].values.get("line").map(|v| &**v), Some("L \"1\""));
        assert_eq!(rows[1].values.len(), 1, "an empty cell says nothing");
        assert_eq!(
            read("machine,a\nx\n").unwrap_err(),
            vec!["line 2: 1 columns, and the first line has 2".to_owned()]
        );
        assert_eq!(read("a\n1\n").unwrap_err(), vec!["line 1: the columns must include machine".to_owned()]);
    }
}
