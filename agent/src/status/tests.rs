//! What the pages answer, over a real socket.

use std::sync::Arc;

use millrace_protocol::{Cell, Layout, LayoutColumn, Quality, Row, RowFlags, StreamRow, Value, ValueType};

use super::*;
use crate::books::{Balance, SourceLine, TransportLine};
use crate::delivery::Delivery;
use crate::uplink::Link;

fn snapshot() -> Snapshot {
    let line = SourceLine {
        machine: "hall3/press-03".parse().unwrap(),
        due: 10,
        good: 7,
        bad: 2,
        skipped: 1,
        suppressed: 4,
        numbered: 5,
    };
    let rows = Balance { numbered: 5, acknowledged: 3, dropped: 0, set_aside: 0, waiting: 2, unaccounted: 0 };
    let stream = |epoch: &str, rows| TransportLine {
        machine: "hall3/press-03".parse().unwrap(),
        category: "telemetry".parse().unwrap(),
        epoch: epoch.to_owned(),
        rows,
        points: rows,
    };
    let books = Books {
        flushed_at: Some("2026-11-24T12:00:00Z".to_owned()),
        settled_at: Some("2026-11-24T11:59:59Z".to_owned()),
        source: vec![line],
        transport: vec![stream("00000000000000aa", rows), stream("00000000000000bb", rows)],
        redelivered: 6,
        balanced: true,
    };
    let buffer = BufferHealth { waiting_rows: 4, ..BufferHealth::default() };
    let uplink = UplinkHealth { link: Link::Up, sent_rows: 6, ..UplinkHealth::default() };
    Snapshot { books, buffer, uplink, mqtt: Vec::new() }
}

fn delivery(time_us: i64, cells: Vec<Cell>) -> Delivery {
    let column = |tag: &str| LayoutColumn { tag: tag.into(), value_type: ValueType::F32 };
    let layout = Arc::new(Layout::new(vec![column("pressure"), column("<b>temp</b>")]));
    let row = StreamRow {
        machine: "hall3/press-03".parse().unwrap(),
        category: "telemetry".parse().unwrap(),
        row: Row { time_us, flags: RowFlags::default(), layout, cells },
    };
    Delivery {
        rows: vec![row],
        raw: None,
        counts: Vec::new(),
        clock: millrace_protocol::ClockSegment::default(),
        new_tags: Vec::new(),
        publish: None,
    }
}

#[test]
fn health_names_what_is_wrong_and_takes_the_worst_of_it() {
    let away = UplinkHealth {
        link: Link::Down,
        trouble: Some("connection refused".to_owned()),
        ..UplinkHealth::default()
    };
    let dead = BufferHealth { pass_through: Some("EIO".to_owned()), ..BufferHealth::default() };
    let mqtt = MqttHealth { name: "b".to_owned(), is_connected: false, publishes: 0, raw: 0, ignored: 0 };
    let with = |change: fn(&mut Snapshot, UplinkHealth, BufferHealth, MqttHealth)| {
        let mut snapshot = snapshot();
        change(&mut snapshot, away.clone(), dead.clone(), mqtt.clone());
        snapshot.health()
    };
    let table = [
        (with(|_, _, _, _| {}), Level::Ok, 0),
        (with(|s, away, _, _| s.uplink = away), Level::Degraded, 1),
        (with(|s, _, _, mqtt| s.mqtt = vec![mqtt]), Level::Degraded, 1),
        (with(|s, _, dead, _| s.buffer = dead), Level::Red, 1),
        (with(|s, _, _, _| s.books.balanced = false), Level::Red, 1),
        (with(|s, away, dead, _| (s.uplink, s.buffer) = (away, dead)), Level::Red, 2),
    ];
    for (health, level, reasons) in table {
        assert_eq!((health.status, health.reasons.len()), (level, reasons), "{health:?}");
    }
}

#[test]
fn the_newest_value_of_a_tag_stays_until_a_newer_point_comes() {
    let newest = Newest::default();
    newest.observe(&delivery(2_000_000, vec![Cell::Good(Value::F32(0.1)), Cell::Good(Value::F32(f32::NAN))]));
    newest.observe(&delivery(3_000_000, vec![Cell::Absent, Cell::Bad(Quality::TIMEOUT)]));
    newest.observe(&delivery(1_000_000, vec![Cell::Good(Value::F32(9.0)), Cell::Absent]));
    let got: Vec<_> =
        newest.points().into_iter().map(|p| (p.tag.to_string(), p.value, p.quality, p.time)).collect();
    let temp =
        ("<b>temp</b>".to_owned(), serde_json::Value::Null, "timeout".into(), "1970-01-01T00:00:03Z".into());
    let pressure =
        ("pressure".to_owned(), serde_json::json!(0.1), "good".into(), "1970-01-01T00:00:02Z".into());
    assert_eq!(got, [temp, pressure]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_address_answers() {
    let newest = Newest::default();
    let tag = millrace_protocol::BirthTag {
        name: "pressure".into(),
        value_type: None,
        unit: Some("bar".into()),
        source: "".into(),
        reporting: millrace_protocol::Reporting::Cyclic { interval_us: 1 },
        hold_us: 1,
        counter_modulus: None,
    };
    let stream = crate::delivery::NewTags {
        machine: "hall3/press-03".parse().unwrap(),
        category: "telemetry".parse().unwrap(),
        tags: vec![tag].into(),
        attributes: Vec::new(),
    };
    newest.learn(&[stream]);
    newest.observe(&delivery(2_000_000, vec![Cell::Good(Value::F32(0.1)), Cell::Good(Value::F32(2.0))]));
    let view = View {
        agent: "gw".to_owned(),
        epoch: "00000000000000aa".to_owned(),
        snapshot: Arc::new(snapshot),
        newest,
    };
    let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
    let server = tokio::spawn(serve(listener, view, stop.clone()));
    let get = |path: &'static str| async move {
        tokio::task::spawn_blocking(move || {
            let mut answer = ureq::get(format!("http://{address}{path}")).call().unwrap();
            answer.body_mut().read_to_string().unwrap()
        })
        .await
        .unwrap()
    };
    let books: Books = serde_json::from_str(&get("/api/books").await).unwrap();
    assert_eq!(books, snapshot().books);
    let health: Health = serde_json::from_str(&get("/healthz").await).unwrap();
    assert_eq!((health.status, health.waiting_rows, health.kafka.as_str()), (Level::Ok, 4, "up"));
    let tags: serde_json::Value = serde_json::from_str(&get("/api/tags").await).unwrap();
    assert_eq!(tags["tags"][1]["tag"], "pressure");
    assert_eq!(
        (&tags["tags"][1]["unit"], &tags["tags"][0]["unit"]),
        (&"bar".into(), &serde_json::Value::Null)
    );
    let metrics = get("/metrics").await;
    for line in [
        "millrace_agent_source_due_points_total{machine=\"hall3/press-03\"} 10",
        "millrace_agent_buffer_waiting_rows{machine=\"hall3/press-03\",category=\"telemetry\"} 4",
        "# TYPE millrace_agent_uplink_sent_rows_total counter",
        "millrace_agent_uplink_up 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    let page = get("/").await;
    assert!(page.contains("<td class=\"n\">0.1</td><td>bar</td><td>good</td>"), "{page}");
    assert!(page.contains("all is well") && page.contains("&lt;b&gt;temp&lt;/b&gt;"), "{page}");
    stop.cancel();
    server.await.unwrap().unwrap();
}

#[test]
fn rows_that_are_unaccounted_for_are_said_everywhere() {
    let mut snapshot = snapshot();
    // One line lacks two rows, the other has one too many: neither makes up for the other.
    let [first, second] = snapshot.books.transport.as_mut_slice() else { panic!("two streams") };
    first.rows = Balance { numbered: 7, ..first.rows }.closed();
    second.rows = Balance { numbered: 4, ..second.rows }.closed();
    assert_eq!((first.rows.unaccounted, second.rows.unaccounted), (2, -1));
    snapshot.books.balanced = snapshot.books.sums_hold();
    let health = snapshot.health();
    assert_eq!(health.status, Level::Red);
    assert!(health.reasons[0].contains("3 rows unaccounted for"), "{health:?}");
    let metrics = metrics::render(&snapshot);
    for line in [
        "millrace_agent_buffer_unaccounted_rows{machine=\"hall3/press-03\",category=\"telemetry\"} 3",
        "millrace_agent_books_balanced 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    let page = page::render("gw", "aa", &snapshot, &[]);
    assert!(page.contains("<td class=\"n\">-1</td>") && page.contains("data is in danger"), "{page}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let first = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = first.local_addr().unwrap();
    let error = bind(address).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("[status] listen: {address} cannot be used; choose another, or stop what listens there")
    );
}
