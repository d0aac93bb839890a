//! Tests of deliveries: rows, births, books, raw rows, bounds.

use millrace_protocol::{Cell, Quality, UnsyncedClock, ValueType};
use proptest::prelude::*;

use super::*;
use crate::config::{Payload, PayloadTag, Timestamp, TimestampFormat};

fn category(name: &str) -> Category {
    Category::new(name).unwrap()
}

fn leaves(topic: &str) -> Subscription {
    Subscription {
        topic: topic.to_owned(),
        qos: 1,
        payload: Payload::Json,
        timestamp: None,
        rows: None,
        machines: Vec::new(),
        tags: Vec::new(),
        category: category("telemetry"),
    }
}

fn connection(subscriptions: Vec<Subscription>) -> Mqtt {
    Mqtt {
        name: "hall3-broker".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 1883,
        client_id: "millrace-gw-hall3-broker".to_owned(),
        credentials: None,
        receive_maximum: 20,
        max_packet: 1024 * 1024,
        subscriptions,
    }
}

fn deliverer(subscriptions: Vec<Subscription>) -> Deliverer {
    Deliverer::new(&connection(subscriptions), "hall3").unwrap()
}

fn message<'m>(topic: &'m str, payload: &'m str) -> Message<'m> {
    Message {
        topic,
        payload: payload.as_bytes(),
        packet_bytes: topic.len() + payload.len() + 6,
        sent: Sent { packet_id: Some(1), ..Sent::default() },
        connection: 1,
        arrived_us: 1_000,
        clock: ClockSegment::default(),
    }
}

fn delivered(outcome: Outcome) -> (Delivery, Option<String>) {
    match outcome {
        Outcome::Deliver { delivery, problem, .. } => (*delivery, problem.map(|p| p.to_string())),
        Outcome::Ignore(why) => panic!("ignored: {why:?}"),
    }
}

/// Machine, category, event time, and the cells with their tags.
type FlatRow = (String, String, i64, Vec<(String, Cell)>);

fn good(delivery: &Delivery) -> Vec<FlatRow> {
    let cells = |row: &Row| {
        let tags = row.layout.columns().iter().map(|column| column.tag.to_string());
        tags.zip(row.cells.iter().cloned()).collect()
    };
    let row = |r: &StreamRow| (r.machine.to_string(), r.category.to_string(), r.row.time_us, cells(&r.row));
    delivery.rows.iter().map(row).collect()
}

fn number(x: f64) -> Cell {
    Cell::Good(Value::F64(x))
}

#[test]
fn a_message_makes_a_row_for_each_category_and_births_for_what_is_new() {
    let tag = |name: &str, path: &str, unit: Option<&str>, in_category| PayloadTag {
        name: name.to_owned(),
        path: path.to_owned(),
        unit: unit.map(str::to_owned),
        category: category(in_category),
    };
    let mut deliverer = deliverer(vec![Subscription {
        timestamp: Some(Timestamp { path: "ts".to_owned(), format: TimestampFormat::UnixMs }),
        tags: vec![
            tag("temp", "bearing.temp", Some("degC"), "temperature"),
            tag("speed", "speed", None, "telemetry"),
            tag("mode", "mode", None, "telemetry"),
        ],
        ..leaves("plant/{line}/{machine}/telemetry")
    }]);
    let first = message("plant/L1/press-03/telemetry", r#"{"ts":7,"bearing":{"temp":71},"speed":[1]}"#);
    let (delivery, problem) = delivered(deliverer.deliver(&first));
    assert_eq!(problem, None);
    let machine = || "hall3/press-03".to_owned();
    assert_eq!(
        good(&delivery),
        vec![
            (machine(), "temperature".to_owned(), 7_000, vec![("temp".to_owned(), number(71.0))]),
            (
                machine(),
                "telemetry".to_owned(),
                7_000,
                vec![("speed".to_owned(), Cell::Bad(Quality::WRONG_TYPE))]
            ),
        ]
    );
    assert_eq!(delivery.rows[0].row.flags, RowFlags::SOURCE_TIME);
    let counts = SourceCounts { due: 2, good: 1, bad: 1, ..SourceCounts::default() };
    assert_eq!(delivery.counts, vec![(MachineName::new("hall3/press-03").unwrap(), counts)]);

    let births: Vec<_> = delivery.new_tags.iter().map(|new| (new.category.as_str(), &*new.tags)).collect();
    let [("telemetry", telemetry), ("temperature", temperature)] = births[..] else { panic!("{births:?}") };
    let names: Vec<_> = telemetry.iter().map(|tag| (&*tag.name, tag.value_type)).collect();
    assert_eq!(names, vec![("speed", None), ("mode", None)]);
    assert_eq!(temperature[0].value_type, Some(ValueType::F64));
    assert_eq!(temperature[0].unit.as_deref(), Some("degC"));
    assert_eq!(&*temperature[0].source, "hall3-broker plant/{line}/{machine}/telemetry bearing.temp");
    assert_eq!(temperature[0].hold_us, 600_000_000);
    assert_eq!(delivery.new_tags[0].attributes, vec![("line".to_owned(), "L1".to_owned())]);

    let again = message("plant/L2/press-03/telemetry", r#"{"ts":8,"bearing":{"temp":71.5}}"#);
    let (delivery, _) = delivered(deliverer.deliver(&again));
    assert!(delivery.new_tags.is_empty(), "{:?}", delivery.new_tags);
    assert_eq!(good(&delivery)[0].3, vec![("temp".to_owned(), number(71.5))]);
}

#[test]
fn a_leaf_seen_for_the_first_time_makes_a_birth_with_every_tag_of_its_stream() {
    let mut deliverer = deliverer(vec![leaves("{machine}")]);
    let mut births = |payload: &str| -> Vec<(String, Option<ValueType>)> {
        let (delivery, _) = delivered(deliverer.deliver(&message("m", payload)));
        assert!(delivery.new_tags.len() <= 1);
        let tags = delivery.new_tags.iter().flat_map(|new| new.tags.iter());
        tags.map(|tag| (tag.name.to_string(), tag.value_type)).collect()
    };
    let named = |name: &str, value_type| (name.to_owned(), value_type);
    let number = Some(ValueType::F64);
    assert_eq!(births(r#"{"a": 1, "n": null}"#), vec![named("a", number)]);
    assert_eq!(births(r#"{"a": 1.5}"#), vec![]);
    assert_eq!(births(r#"{"b": 1}"#), vec![named("a", number), named("b", number)]);
    assert_eq!(births(r#"{"a": "off"}"#), vec![named("a", None), named("b", number)]);
    for payload in [r#"{"a": 2}"#, r#"{"a": "off"}"#, r#"{"a": true}"#, r#"{"a": null}"#] {
        assert_eq!(births(payload), vec![], "a tag of several types is announced once: {payload}");
    }
}

#[test]
fn null_is_a_bad_point_of_a_tag_that_is_known_and_makes_none() {
    let mut deliverer = deliverer(vec![leaves("{machine}")]);
    let nulls = message("m", r#"{"a": null}"#);
    assert!(matches!(deliverer.deliver(&nulls), Outcome::Ignore(Ignored::Empty)));
    let (_, problem) = delivered(deliverer.deliver(&message("m", r#"{"a": 1}"#)));
    assert_eq!(problem, None);
    let (delivery, _) = delivered(deliverer.deliver(&nulls));
    assert_eq!(good(&delivery)[0].3, vec![("a".to_owned(), Cell::Bad(Quality::BAD_VALUE))]);
    assert_eq!(delivery.counts[0].1, SourceCounts { due: 1, bad: 1, ..SourceCounts::default() });
}

#[test]
fn rows_of_one_shape_share_a_layout_whatever_the_order_of_their_keys() {
    let mut deliverer = deliverer(vec![leaves("{machine}")]);
    let mut layout = |payload: &str| {
        let (delivery, _) = delivered(deliverer.deliver(&message("m", payload)));
        Arc::clone(&delivery.rows[0].row.layout)
    };
    let first = layout(r#"{"a": 1, "b": 2, "c": 3}"#);
    for same in [r#"{"c": 1, "a": 2.5, "b": 3}"#, r#"{"a": 1, "c": 2}"#] {
        assert!(Arc::ptr_eq(&first, &layout(same)), "{same}");
    }
    let sparse = layout(r#"{"b": 1}"#);
    assert_eq!(sparse.columns().len(), 1, "less than half full: a layout of its own");
    let text = layout(r#"{"a": "x", "b": 2, "c": 3}"#);
    assert_eq!(text.columns()[0].value_type, ValueType::Text);
    assert_eq!(layout(r#"{"a": 1, "b": 2, "c": 3}"#).id(), first.id());
}

#[test]
fn what_no_subscription_asks_for_is_ignored_and_the_first_that_accepts_reads() {
    let mut presses = leaves("{machine}/data");
    presses.machines = vec!["press-*".to_owned()];
    presses.category = category("presses");
    let mut ovens = leaves("{machine}/+");
    ovens.machines = vec!["oven-*".to_owned(), "press-1".to_owned()];
    let mut deliverer = deliverer(vec![presses, ovens]);
    let mut outcome = |topic| match deliverer.deliver(&message(topic, r#"{"a":1}"#)) {
        Outcome::Ignore(why) => Err(why),
        Outcome::Deliver { delivery, .. } => Ok(delivery.rows[0].category.as_str().to_owned()),
    };
    assert_eq!(outcome("press-1/data"), Ok("presses".to_owned()));
    assert_eq!(outcome("oven-1/data"), Ok("telemetry".to_owned()));
    assert_eq!(outcome("press-1/x"), Ok("telemetry".to_owned()));
    assert_eq!(outcome("typo-1/data"), Err(Ignored::NotAccepted));
    assert_eq!(outcome("a/b/c"), Err(Ignored::NotSubscribed));
}

#[test]
fn what_cannot_be_read_is_a_raw_row_with_topic_bytes_and_reason() {
    let mut deliverer = deliverer(vec![leaves("{machine}/a")]);
    let large = message("m/a", "{}");
    let cases = [
        (message("m/a", "{nonsense"), "the payload is not JSON: key must be a string at line 1 column 2"),
        (
            message("press 3/a", "1"),
            "\"press 3\" in the topic is no machine's name: ' ' is not allowed in a name; use letters, digits, '.', '_' and '-'",
        ),
        (
            Message { packet_bytes: 1_048_577, ..large },
            "the packet has 1048577 bytes and max_packet is 1048576",
        ),
        (
            Message { sent: Sent { retained: true, ..Sent::default() }, ..message("m/a", "1") },
            "a retained message without a timestamp does not say when it was true",
        ),
    ];
    for (message, reason) in cases {
        let (delivery, problem) = delivered(deliverer.deliver(&message));
        let raw = delivery.raw.unwrap();
        assert_eq!((&*raw.reason, problem.as_deref()), (reason, Some(reason)));
        assert_eq!((&*raw.topic, &*raw.payload, raw.time_us), (message.topic, message.payload, 1_000));
        assert!(delivery.rows.is_empty() && delivery.counts.is_empty() && delivery.new_tags.is_empty());
        assert_eq!(delivery.publish.is_some(), message.sent.packet_id.is_some());
    }
}

#[test]
fn a_raw_row_and_a_row_fit_an_item() {
    let mut config = connection(vec![leaves("{machine}")]);
    config.max_packet = 8 * 1024 * 1024;
    let mut deliverer = Deliverer::new(&config, "hall3").unwrap();
    let text = format!("{:?}", "x".repeat(ROW_MAX_BYTES));
    let (delivery, _) = delivered(deliverer.deliver(&message("m", &text)));
    let raw = delivery.raw.unwrap();
    assert_eq!(raw.payload.len(), ROW_MAX_BYTES);
    assert_eq!(
        &*raw.reason,
        "a row of 917520 bytes does not fit an item; at most 917504 do; the last 2 bytes of the payload are cut off"
    );
}

#[test]
fn machines_and_tags_are_bounded_with_a_clear_reason() {
    let mut deliverer = deliverer(vec![leaves("{machine}")]);
    for n in 0..MAX_MACHINES {
        let (_, problem) = delivered(deliverer.deliver(&message(&format!("m{n}"), "1")));
        assert_eq!(problem, None);
    }
    let (_, problem) = delivered(deliverer.deliver(&message("typo", "1")));
    assert_eq!(
        problem.unwrap(),
        "machine hall3/typo is new and this connection has 1000 already; name the real ones in `machines`"
    );
    let many = |from: usize, n: usize| {
        let leaves: Vec<String> = (from..from + n).map(|n| format!("\"t{n}\":1")).collect();
        format!("{{{}}}", leaves.join(","))
    };
    let (_, problem) = delivered(deliverer.deliver(&message("m0", &many(0, 8_000))));
    assert!(problem.unwrap().contains("need more than 524288 bytes to describe"));
    for machine in 0..9 {
        let (_, problem) = delivered(deliverer.deliver(&message(&format!("m{machine}"), &many(0, 2_000))));
        assert_eq!(problem, None);
    }
    let (_, problem) = delivered(deliverer.deliver(&message("m9", &many(0, 2_000))));
    assert_eq!(
        problem.unwrap(),
        "machine hall3/m9 brings 2000 new tags and this connection has 19000 of at most 20000; name the real ones in `tags`"
    );
    let (delivery, problem) = delivered(deliverer.deliver(&message("m0", &many(0, 2_000))));
    assert_eq!((problem, delivery.counts[0].1.good), (None, 2_000), "what is known goes on");
}

#[test]
fn arrival_is_the_event_time_where_the_payload_has_none() {
    let mut deliverer = deliverer(vec![leaves("{machine}")]);
    let (delivery, _) = delivered(deliverer.deliver(&message("m", "1")));
    assert_eq!((delivery.rows[0].row.time_us, delivery.rows[0].row.flags), (1_000, RowFlags::default()));
    let unsynced = UnsyncedClock { boot_id: millrace_protocol::BootId([1; 16]), wall_minus_monotonic_us: 5 };
    let clock = ClockSegment { number: 3, unsynced: Some(unsynced) };
    let (delivery, _) = delivered(deliverer.deliver(&Message { clock, ..message("m", "1") }));
    assert_eq!((delivery.clock, delivery.rows[0].row.flags), (clock, RowFlags::CLOCK_UNSYNCED));
}

#[test]
fn a_payload_without_a_time_of_its_own_is_told_apart_by_the_number_of_its_packet() {
    let timed = Subscription {
        timestamp: Some(Timestamp { path: "ts".to_owned(), format: TimestampFormat::UnixMs }),
        ..leaves("{machine}/timed")
    };
    let mut deliverer = deliverer(vec![timed, leaves("{machine}/on")]);
    let mut hash = |topic, packet_id, connection| {
        let sent = Sent { packet_id: Some(packet_id), ..Sent::default() };
        let message = Message { sent, connection, ..message(topic, r#"{"ts": 1, "on": true}"#) };
        delivered(deliverer.deliver(&message)).0.publish.unwrap().hash
    };
    assert_eq!(hash("m/timed", 1, 1), hash("m/timed", 2, 2));
    assert_eq!(hash("m/on", 1, 1), hash("m/on", 1, 2));
    assert_ne!(hash("m/on", 1, 1), hash("m/on", 2, 1), "the next \"on\" is another message");
}

#[test]
fn the_hash_is_the_same_for_ever() {
    // Hashes of the last windows are on disk; another function would let redeliveries through.
    assert_eq!(hash("client", "topic", 7, b"payload"), GOLDEN_HASH);
    let different = [
        hash("client", "topic", 7, b"payloae"),
        hash("client", "topic", 8, b"payload"),
        hash("client", "topicp", 7, b"ayload"),
        hash("clientt", "opic", 7, b"payload"),
    ];
    assert!(different.iter().all(|other| *other != GOLDEN_HASH));
}

/// CRC-64/XZ of `06 00×7 client 05 00×7 topic 07 00 payload`, computed by another implementation.
const GOLDEN_HASH: u64 = 0xfd25_53c2_adbe_732f;

proptest! {
    #[test]
    fn rows_and_books_add_up_whatever_comes(
        payloads in prop::collection::vec("[\\[\\]{}\",:0-9a-c.tre-]{0,24}|\\{\"[ab]\": ?([0-9]{1,18}|null|true|\"x\"|\\[1\\])(, \"c\": 1)?\\}", 1..8),
        topics in prop::collection::vec("[a-c/ ]{0,4}", 1..8),
    ) {
        let mut deliverer = deliverer(vec![leaves("{machine}"), leaves("+/{machine}/#")]);
        for (payload, topic) in payloads.iter().zip(&topics) {
            let Outcome::Deliver { delivery, problem, confirmed } = deliverer.deliver(&message(topic, payload)) else {
                continue;
            };
            prop_assert_eq!(delivery.raw.is_some(), problem.is_some());
            prop_assert_ne!(delivery.raw.is_some(), !delivery.rows.is_empty());
            prop_assert!(confirmed.is_some() && delivery.publish.is_some());
            let points: usize = delivery.rows.iter().map(|row| row.row.points()).sum();
            let counted: u64 = delivery.counts.iter().map(|(_, c)| c.due).sum();
            prop_assert_eq!(points as u64, counted);
            for row in &delivery.rows {
                prop_assert_eq!(row.row.cells.len(), row.row.layout.columns().len());
                for (cell, column) in row.row.cells.iter().zip(row.row.layout.columns()) {
                    if let Cell::Good(value) = cell {
                        prop_assert_eq!(value.value_type(), column.value_type);
                    }
                }
            }
        }
    }
}
