//! The page `/`: the newest features, for people.

use std::fmt::Write as _;

use crate::features::feast::{Value, value_text};
use crate::features::online::{Newest, Served, Slot};

/// Rows shown per view; who wants more asks the interface for programs.
const MOST_ROWS: usize = 200;

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" \
     content=\"5\"><title>Millrace: newest features</title><style>body{font:14px sans-serif;margin:2em}\
     table{border-collapse:collapse;margin-bottom:2em}th,td{border:1px solid #ccc;padding:.2em .6em;\
     text-align:left;white-space:nowrap}td.n{text-align:right}tr.old{color:#999}</style></head><body>";

/// Writes the page. *Units*: microseconds since 1970-01-01 UTC.
pub(super) fn newest(newest: &Newest, project: &str, now_us: i64) -> String {
    let mut out = HEAD.to_owned();
    let _infallible = write!(out, "<h1>Newest features of {}</h1>", escape(project));
    for slot in newest.slots() {
        push_view(&mut out, slot, now_us);
    }
    out.push_str("<p><a href=\"/metrics\">metrics</a> · <a href=\"/readyz\">ready?</a></p></body></html>\n");
    out
}

fn push_view(out: &mut String, slot: &Slot, now_us: i64) {
    let (schema, rows) = (&slot.view.schema, slot.all());
    let _infallible = write!(
        out,
        "<h2>{}</h2><p>version {}, {} of {}</p><table><tr><th>{}<th>age<th>coverage<th>revision",
        escape(&slot.feast_name),
        schema.version,
        rows.len().min(MOST_ROWS),
        rows.len(),
        escape(&schema.entity)
    );
    for feature in &schema.features {
        let unit = feature.unit.as_ref().map(|unit| format!(" [{}]", escape(unit))).unwrap_or_default();
        let _infallible = write!(out, "<th>{}{unit}", escape(&feature.name));
    }
    for (entity, row) in rows.iter().take(MOST_ROWS) {
        push_row(out, entity, row, now_us, schema.ttl_us);
    }
    out.push_str("</table>");
}

fn push_row(out: &mut String, entity: &str, row: &Served, now_us: i64, ttl_us: i64) {
    let age_us = now_us.saturating_sub(row.event_us);
    let class = if ttl_us > 0 && age_us > ttl_us { " class=\"old\"" } else { "" };
    let _infallible = write!(
        out,
        "<tr{class}><td>{}<td class=\"n\">{:.1} s<td class=\"n\">{:.2}<td class=\"n\">{}",
        escape(entity),
        age_us as f64 / 1e6,
        row.coverage,
        row.revision
    );
    for value in &row.values {
        let text = match value {
            Value::Null => "–".to_owned(),
            value => value_text(value).unwrap_or_default(),
        };
        let _infallible =
            write!(out, "<td class=\"n\" title=\"{}\">{}", escape(&text), escape(&figure(&text)));
    }
}

/// Gives a number with the six digits that matter to a person; the whole of it is the cell's title.
fn figure(text: &str) -> String {
    let float = text.parse::<f64>().ok().filter(|float| float.is_finite() && text.contains(['.', 'e']));
    let rounded = float.and_then(|float| {
        // Nobody wants zeros in the place of digits before the point.
        let large = (1e5..1e15).contains(&float.abs());
        if large { format!("{float:.1}") } else { format!("{float:.5e}") }.parse::<f64>().ok()
    });
    rounded.map_or_else(|| text.to_owned(), |float| format!("{float:?}").trim_end_matches(".0").to_owned())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let table = [
            ("48.92842260333824", "48.9284"),
            ("11.806000000000001", "11.806"),
            ("40.0", "40"),
            ("-0.00012345678", "-0.000123457"),
            ("6.5e300", "6.5e300"),
            ("123456789.46", "123456789.5"),
            ("18446744073709551615", "18446744073709551615"),
            ("NaN", "NaN"),
            ("running", "running"),
            ("v1.2", "v1.2"),
        ];
        for (text, expected) in table {
            assert_eq!(figure(text), expected);
        }
    }
}
