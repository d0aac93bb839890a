//! The page for people: plain HTML that reloads itself, no script, nothing from elsewhere.

use std::fmt::Write;

use super::{Level, NewestPoint, Snapshot};

/// So many newest values are shown; all of them stand in `/api/tags`.
const VALUES_MAX: usize = 200;
/// More than a sensor has.
const SIGNIFICANT_DIGITS: f64 = 7.0;

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta http-equiv=\"refresh\" content=\"5\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>Millrace agent</title><style>\
body{font:15px/1.4 system-ui,sans-serif;margin:2em;max-width:70em}\
table{border-collapse:collapse;margin:.5em 0 1.5em}\
td,th{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:left;white-space:nowrap}\
td.n{text-align:right;font-variant-numeric:tabular-nums}\
.ok{color:#070}.degraded{color:#a60}.red{color:#c00}</style></head><body>";

/// Writes text so that no name can become markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn table(out: &mut String, header: &[&str], rows: impl Iterator<Item = Vec<Cell>>) {
    out.push_str("<table><tr>");
    for name in header {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("</tr>");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = match cell {
                Cell::Text(text) => write!(out, "<td>{}</td>", escape(&text)),
                Cell::Number(number) => write!(out, "<td class=\"n\">{number}</td>"),
                Cell::Signed(number) => write!(out, "<td class=\"n\">{number}</td>"),
                Cell::Figure(number) => write!(out, "<td class=\"n\">{number}</td>"),
            };
        }
        out.push_str("</tr>");
    }
    out.push_str("</table>");
}

enum Cell {
    Text(String),
    Number(u64),
    Signed(i64),
    /// A number as text.
    Figure(String),
}

fn text(value: impl ToString) -> Cell {
    Cell::Text(value.to_string())
}

/// Writes the page.
pub(super) fn render(agent: &str, epoch: &str, snapshot: &Snapshot, newest: &[NewestPoint]) -> String {
    let mut out = HEAD.to_owned();
    let health = snapshot.health();
    let (class, word) = match health.status {
        Level::Ok => ("ok", "all is well"),
        Level::Degraded => ("degraded", "degraded; nothing is lost"),
        Level::Red => ("red", "data is in danger"),
    };
    let _ = write!(
        out,
        "<h1>Millrace agent {}</h1><p>Version {}, epoch {}. <b class=\"{class}\">{word}</b></p>",
        escape(agent),
        env!("CARGO_PKG_VERSION"),
        escape(epoch)
    );
    if !health.reasons.is_empty() {
        out.push_str("<ul>");
        for reason in &health.reasons {
            let _ = write!(out, "<li>{}</li>", escape(reason));
        }
        out.push_str("</ul>");
    }
    flow(&mut out, snapshot);
    books(&mut out, snapshot);
    values(&mut out, newest);
    out.push_str(
        "<p><a href=\"/api/books\">/api/books</a> · <a href=\"/api/tags\">/api/tags</a> · \
         <a href=\"/healthz\">/healthz</a> · <a href=\"/metrics\">/metrics</a></p></body></html>",
    );
    out
}

fn flow(out: &mut String, snapshot: &Snapshot) {
    let (buffer, uplink) = (&snapshot.buffer, &snapshot.uplink);
    out.push_str("<h2>Buffer and Kafka</h2>");
    let rows = [
        vec![text("Rows on disk that Kafka does not have"), Cell::Number(buffer.waiting_rows)],
        vec![text("Bytes on disk"), Cell::Number(buffer.disk_bytes)],
        vec![text("Segments"), Cell::Number(buffer.segments)],
        vec![text("Kafka"), text(uplink.link.name())],
        vec![text("Records without an answer"), Cell::Number(uplink.in_flight_records)],
        vec![text("Rows sent since the start"), Cell::Number(uplink.sent_rows)],
        vec![text("Points sent since the start"), Cell::Number(uplink.sent_points)],
        vec![text("Categories without a topic of their own"), Cell::Number(uplink.fallback_topics)],
    ];
    table(out, &["", ""], rows.into_iter());
    if !snapshot.mqtt.is_empty() {
        let row = |m: &super::MqttHealth| {
            let state = if m.is_connected { "connected" } else { "away" };
            vec![text(&m.name), text(state), Cell::Number(m.publishes), Cell::Number(m.raw)]
        };
        out.push_str("<h2>MQTT</h2>");
        table(out, &["Broker", "State", "Publishes", "Not readable"], snapshot.mqtt.iter().map(row));
    }
}

fn books(out: &mut String, snapshot: &Snapshot) {
    let books = &snapshot.books;
    let at = books.flushed_at.as_deref().unwrap_or("never");
    let _ = write!(out, "<h2>Books of the last flush, {}</h2>", escape(at));
    let source = books.source.iter().map(|line| {
        let numbers =
            [line.due, line.good, line.bad, line.skipped, line.suppressed, line.numbered].map(Cell::Number);
        std::iter::once(text(&line.machine)).chain(numbers).collect()
    });
    let header = ["Machine", "Due", "Good", "Bad", "Skipped", "Suppressed", "Numbered"];
    out.push_str("<h3>Points by machine</h3>");
    table(out, &header, source);
    let transport = books.transport.iter().map(|line| {
        let b = line.rows;
        let numbers = [b.numbered, b.acknowledged, b.dropped, b.set_aside, b.waiting].map(Cell::Number);
        let names = [text(&line.machine), text(&line.category), text(&line.epoch)];
        names.into_iter().chain(numbers).chain([Cell::Signed(b.unaccounted)]).collect()
    });
    let header = [
        "Machine",
        "Category",
        "Epoch",
        "Numbered",
        "Acknowledged",
        "Dropped",
        "Set aside",
        "Waiting",
        "Unaccounted",
    ];
    out.push_str("<h3>Rows by stream</h3>");
    table(out, &header, transport);
}

/// Writes a number with the digits that matter to a person: seven, or three behind the point where there are
/// more before it. What a scale or a narrow type leaves behind them is not data; `/api/tags` has all of it.
fn figure(number: &serde_json::Number) -> String {
    let Some(float) = number.as_f64().filter(|f| number.is_f64() && *f != 0.0) else {
        return number.as_f64().filter(|f| *f == 0.0).map_or_else(|| number.to_string(), |_| "0".to_owned());
    };
    let exponent = float.abs().log10().floor();
    if !(-5.0..15.0).contains(&exponent) {
        return format!("{float:.6e}");
    }
    // Between 3 and 11.
    let decimals = (SIGNIFICANT_DIGITS - 1.0 - exponent).max(3.0) as usize;
    let text = format!("{float:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn values(out: &mut String, newest: &[NewestPoint]) {
    out.push_str("<h2>Newest values</h2>");
    let row = |point: &NewestPoint| {
        let value = match &point.value {
            serde_json::Value::Null => text("–"),
            serde_json::Value::String(word) => text(word),
            serde_json::Value::Number(number) => Cell::Figure(figure(number)),
            other => text(other),
        };
        let names = [text(&point.machine), text(&point.category), text(&point.tag)];
        let unit = text(point.unit.as_deref().unwrap_or_default());
        names.into_iter().chain([value, unit, text(&point.quality), text(&point.time)]).collect()
    };
    let header = ["Machine", "Category", "Tag", "Value", "Unit", "Quality", "Time"];
    table(out, &header, newest.iter().take(VALUES_MAX).map(row));
    if newest.len() > VALUES_MAX {
        let _ = write!(out, "<p>{} more in /api/tags</p>", newest.len() - VALUES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let table = [
            (23.400000000000002, "23.4"),
            (1.0000000149011612, "1"),
            (0.30000000000000004, "0.3"),
            (-17.499999999999996, "-17.5"),
            (12345678.5, "12345678.5"),
            (16777216.0, "16777216"),
            (100.0, "100"),
            (0.0, "0"),
            (-0.0, "0"),
            (0.000123456789, "0.0001234568"),
            (1e-12, "1.000000e-12"),
            (6.5e300, "6.500000e300"),
            (999_999.999_999_9, "1000000"),
        ];
        for (value, expected) in table {
            let number = serde_json::Number::from_f64(value).unwrap();
            assert_eq!(figure(&number), expected, "{value}");
        }
        assert_eq!(figure(&u64::MAX.into()), "18446744073709551615", "whole numbers stay whole");
    }
}
