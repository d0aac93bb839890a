//! The page `/`: the newest features, for people.

use std::fmt::Write as _;

use crate::features::feast::{Value, value_text};
use crate::features::online::{Newest, Served, Slot};

/// Rows shown per view; who wants more asks the interface for programs.
const MOST_ROWS: usize = 200;

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" \
     content=\"5\"><title>Millrace: newest features</title><style>body{font:14px sans-serif;margin:2em}\
     table{border-collapse:collapse;margin-bottom:2em}th,td{border:1px solid #ccc;padding:.2em .6em;\
     text-align:left}td.n{text-align:right}tr.old{color:#999}</style></head><body>";

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
        let _infallible = write!(out, "<td class=\"n\">{}", escape(&text));
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
