//! `/metrics`: the same figures as the books and the page, for Prometheus.
//!
//! Invariant: names and labels are a contract; units stand in the name, `_total` marks counters.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Snapshot;
use crate::books::{Balance, SourceLine};
use crate::uplink::{Link, UplinkHealth};

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// Writes families one after the other. *Source*: Prometheus text exposition format 0.0.4.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, kind: Kind, name: &str, help: &str, samples: &[(String, u64)]) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let name = format!("millrace_agent_{name}");
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn single(&mut self, kind: Kind, name: &str, help: &str, value: u64) {
        self.family(kind, name, help, &[(String::new(), value)]);
    }
}

/// Writes labels. Backslash, quote and line end are escaped.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// Writes a snapshot.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    text.family(
        Kind::Gauge,
        "build_info",
        "The version that runs.",
        &[(labels(&[("version", env!("CARGO_PKG_VERSION"))]), 1)],
    );
    if let Some(bytes) = resident_bytes() {
        text.single(Kind::Gauge, "resident_memory_bytes", "Memory of the process.", bytes);
    }
    source(&mut text, snapshot);
    transport(&mut text, snapshot);
    buffer(&mut text, snapshot);
    uplink(&mut text, &snapshot.uplink);
    mqtt(&mut text, snapshot);
    text.0
}

fn source(text: &mut Text, snapshot: &Snapshot) {
    type Column = (&'static str, &'static str, fn(&SourceLine) -> u64);
    let columns: [Column; 6] = [
        ("due", "Points that were due.", |l| l.due),
        ("good", "Points of good quality.", |l| l.good),
        ("bad", "Points of bad quality.", |l| l.bad),
        ("skipped", "Points whose cycle fell into a running poll.", |l| l.skipped),
        ("suppressed", "Points read and not reported.", |l| l.suppressed),
        ("numbered", "Points in rows that have a sequence.", |l| l.numbered),
    ];
    for (name, help, value) in columns {
        let sample = |line: &SourceLine| (labels(&[("machine", line.machine.as_str())]), value(line));
        let samples: Vec<_> = snapshot.books.source.iter().map(sample).collect();
        text.family(Kind::Counter, &format!("source_{name}_points_total"), help, &samples);
    }
    text.single(
        Kind::Counter,
        "source_redelivered_publishes_total",
        "Publishes that were recognised as sent again.",
        snapshot.books.redelivered,
    );
}

fn transport(text: &mut Text, snapshot: &Snapshot) {
    // Epochs come and go; a series for each would never end.
    let mut sums: BTreeMap<(&str, &str), (Balance, Balance)> = BTreeMap::new();
    for line in &snapshot.books.transport {
        let (rows, points) = sums.entry((line.machine.as_str(), line.category.as_str())).or_default();
        for (sum, of) in [(rows, &line.rows), (points, &line.points)] {
            sum.numbered += of.numbered;
            sum.acknowledged += of.acknowledged;
            sum.dropped += of.dropped;
            sum.set_aside += of.set_aside;
            sum.waiting += of.waiting;
            // One that is missing does not make up for another that is there twice.
            sum.unaccounted = sum.unaccounted.saturating_add(of.unaccounted.saturating_abs());
        }
    }
    type Column = (Kind, &'static str, &'static str, fn(&Balance) -> u64);
    let columns: [Column; 6] = [
        (Kind::Gauge, "numbered", "with a sequence, of the epochs in the books.", |b| b.numbered),
        (Kind::Gauge, "acknowledged", "that Kafka has, of the epochs in the books.", |b| b.acknowledged),
        (Kind::Gauge, "dropped", "that gave way or were refused, of the epochs in the books.", |b| b.dropped),
        (Kind::Gauge, "set_aside", "in damaged segments, of the epochs in the books.", |b| b.set_aside),
        (Kind::Gauge, "waiting", "on disk that Kafka does not have.", |b| b.waiting),
        (Kind::Gauge, "unaccounted", "that have disappeared from the buffer or were counted twice.", |b| {
            b.unaccounted.unsigned_abs()
        }),
    ];
    for (kind, name, help, value) in columns {
        for (unit, word, pick) in [("rows", "Rows", 0), ("points", "Points", 1)] {
            let sample = |((machine, category), (rows, points)): (&(&str, &str), &(Balance, Balance))| {
                let balance = if pick == 0 { rows } else { points };
                (labels(&[("machine", machine), ("category", category)]), value(balance))
            };
            let samples: Vec<_> = sums.iter().map(sample).collect();
            text.family(kind, &format!("buffer_{name}_{unit}"), &format!("{word} {help}"), &samples);
        }
    }
    text.single(
        Kind::Gauge,
        "books_balanced",
        "1 while every sum of the books holds.",
        snapshot.books.balanced.into(),
    );
}

fn buffer(text: &mut Text, snapshot: &Snapshot) {
    let health = &snapshot.buffer;
    text.single(Kind::Gauge, "buffer_disk_bytes", "Bytes of the buffer on disk.", health.disk_bytes);
    text.single(Kind::Gauge, "buffer_segments", "Segments on disk.", health.segments);
    text.single(
        Kind::Counter,
        "buffer_set_aside_segments_total",
        "Damaged segments that were set aside.",
        health.set_aside_segments,
    );
    text.single(Kind::Counter, "buffer_flushes_total", "Flushes to disk.", health.flushes);
    text.single(
        Kind::Gauge,
        "buffer_pass_through",
        "1 while the disk is dead and rows pass through memory.",
        health.pass_through.is_some().into(),
    );
}

fn uplink(text: &mut Text, health: &UplinkHealth) {
    use Kind::{Counter, Gauge};
    let families = [
        (Gauge, "up", "1 while Kafka takes records.", (health.link == Link::Up).into()),
        (Gauge, "stalled", "1 while a record waits too long for its answer.", health.is_stalled.into()),
        (Gauge, "in_flight_records", "Records without an answer.", health.in_flight_records),
        (Gauge, "in_flight_bytes", "Bytes of records without an answer.", health.in_flight_bytes),
        (Counter, "sent_records_total", "Records that Kafka took.", health.sent_records),
        (Counter, "sent_bytes_total", "Bytes of those records before compression.", health.sent_bytes),
        (Counter, "sent_rows_total", "Rows that Kafka took.", health.sent_rows),
        (Counter, "sent_points_total", "Points that Kafka took.", health.sent_points),
        (Counter, "sent_progress_total", "Progress items that Kafka took.", health.sent_progress),
        (Counter, "resent_records_total", "Records whose fate was not known.", health.resent_records),
        (Counter, "refused_items_total", "Items that Kafka will never take.", health.refused_items),
        (
            Gauge,
            "refused_notices",
            "Births and losses that are refused and tried again.",
            health.refused_notices,
        ),
        (Gauge, "fallback_topics", "Categories that go to telemetry.", health.fallback_topics),
        (Counter, "rebuilt_producers_total", "Producers that met a fatal error.", health.rebuilt_producers),
    ];
    for (kind, name, help, value) in families {
        text.single(kind, &format!("uplink_{name}"), help, value);
    }
}

fn mqtt(text: &mut Text, snapshot: &Snapshot) {
    use Kind::{Counter, Gauge};
    type Column = (Kind, &'static str, &'static str, fn(&super::MqttHealth) -> u64);
    let columns: [Column; 4] = [
        (Gauge, "connected", "1 while the broker is connected.", |m| m.is_connected.into()),
        (Counter, "publishes_total", "Publishes received, redelivered ones included.", |m| m.publishes),
        (Counter, "raw_publishes_total", "Publishes that could not be read.", |m| m.raw),
        (Counter, "ignored_publishes_total", "Publishes that no subscription asks for.", |m| m.ignored),
    ];
    for (kind, name, help, value) in columns {
        let samples: Vec<_> =
            snapshot.mqtt.iter().map(|m| (labels(&[("broker", &m.name)]), value(m))).collect();
        if !samples.is_empty() {
            text.family(kind, &format!("mqtt_{name}"), help, &samples);
        }
    }
}

/// Gives the process's memory. *Source*: proc(5), `VmRSS` in kB.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(labels(&[("a", "x"), ("b", "\"\\\n")]), r#"{a="x",b="\"\\\n"}"#);
    }
}
