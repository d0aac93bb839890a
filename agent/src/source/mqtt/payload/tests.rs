//! Tests of payload decoding: tables, and any bytes at all.

use millrace_protocol::{Category, Value};
use proptest::prelude::*;

use super::*;
use crate::config::{Payload, PayloadTag};

fn subscription(timestamp: Option<&str>, rows: Option<&str>, tags: &[(&str, &str)]) -> Subscription {
    let category = Category::new("telemetry").unwrap();
    Subscription {
        topic: "plant/{machine}".to_owned(),
        qos: 1,
        payload: Payload::Json,
        timestamp: timestamp.map(|path| Timestamp { path: path.to_owned(), format: TimestampFormat::UnixMs }),
        rows: rows.map(str::to_owned),
        machines: Vec::new(),
        tags: tags
            .iter()
            .map(|(name, path)| PayloadTag {
                name: (*name).to_owned(),
                path: (*path).to_owned(),
                unit: None,
                category: category.clone(),
            })
            .collect(),
        category,
    }
}

fn plan(timestamp: Option<&str>, rows: Option<&str>, tags: &[(&str, &str)]) -> Plan {
    Plan::new(&subscription(timestamp, rows, tags)).unwrap()
}

type Flat = Vec<(Option<i64>, Vec<(String, Reading)>)>;

fn flat(samples: Vec<Sample>) -> Flat {
    let points = |points: Vec<Point>| points.into_iter().map(|p| (p.name.to_string(), p.reading)).collect();
    samples.into_iter().map(|sample| (sample.time_us, points(sample.points))).collect()
}

fn f64(x: f64) -> Reading {
    Reading::Value(Value::F64(x))
}

#[test]
fn declared_tags_are_found_by_their_paths() {
    let plan = plan(Some("ts"), None, &[("bearing_temp", "bearing.temp"), ("on", "on"), ("x", "bearing")]);
    let payload = br#"{"ts": 5, "bearing": {"temp": 71.5}, "other": 1}"#;
    assert_eq!(
        flat(plan.decode(payload).unwrap()),
        vec![(Some(5_000), vec![("bearing_temp".to_owned(), f64(71.5)), ("x".to_owned(), Reading::NotOne)])]
    );
}

#[test]
fn without_tags_every_leaf_but_the_timestamp_is_one() {
    let plan = plan(Some("meta.ts"), None, &[]);
    let payload = br#"{"meta": {"ts": 1, "v": 1}, "a": {"b": [true, "x"]}, "n": null, "e": {}, "l": []}"#;
    let named = |name: &str, reading| (name.to_owned(), reading);
    assert_eq!(
        flat(plan.decode(payload).unwrap()),
        vec![(
            Some(1_000),
            vec![
                named("meta.v", f64(1.0)),
                named("a.b[0]", Reading::Value(Value::Bool(true))),
                named("a.b[1]", Reading::Value(Value::Text("x".into()))),
                named("n", Reading::Null),
            ]
        )]
    );
    let scalar = Plan::new(&subscription(None, None, &[])).unwrap();
    assert_eq!(flat(scalar.decode(b" 23.5 ").unwrap()), vec![(None, vec![named("value", f64(23.5))])]);
}

#[test]
fn numbers_are_doubles_unless_a_double_cannot_hold_them() {
    let cases = [
        ("20", Value::F64(20.0)),
        ("20.5", Value::F64(20.5)),
        ("-0.0", Value::F64(-0.0)),
        ("9007199254740992", Value::F64(9_007_199_254_740_992.0)),
        ("9007199254740993", Value::I64(9_007_199_254_740_993)),
        ("-9007199254740993", Value::I64(-9_007_199_254_740_993)),
        ("18446744073709551615", Value::U64(u64::MAX)),
        ("18446744073709551616", Value::F64(18_446_744_073_709_551_616.0)),
        ("5e-324", Value::F64(5e-324)),
        ("0.1", Value::F64(0.1)),
    ];
    let plan = plan(None, None, &[]);
    for (text, expected) in cases {
        let samples = plan.decode(text.as_bytes()).unwrap();
        let Reading::Value(value) = &samples[0].points[0].reading else { panic!("{text}") };
        assert!(value.same_bits(&expected), "{text}: {value:?}");
    }
}

#[test]
fn every_element_of_rows_is_a_row_and_one_instant_is_one_row() {
    let plan = plan(Some("t"), Some("samples[*]"), &[]);
    let payload = br#"{"t": 9, "samples": [{"t": 1, "a": 1}, {"a": 2}, {"t": 1, "b": 3}, {"t": 2, "a": 4}]}"#;
    let named = |name: &str, x| (name.to_owned(), f64(x));
    assert_eq!(
        flat(plan.decode(payload).unwrap()),
        vec![
            (Some(1_000), vec![named("a", 1.0), named("b", 3.0)]),
            (Some(9_000), vec![named("a", 2.0)]),
            (Some(2_000), vec![named("a", 4.0)]),
        ]
    );
    assert_eq!(plan.decode(br#"{"samples": []}"#), Ok(Vec::new()));
}

#[test]
fn what_cannot_be_read_has_a_reason_in_a_sentence() {
    let leaves = plan(None, None, &[]);
    let timed = plan(Some("ts"), None, &[]);
    let rows = plan(Some("ts"), Some("s[*]"), &[]);
    let tags = plan(None, None, &[("a", "a")]);
    let long = format!("{{\"{}\": 1}}", "k".repeat(201));
    let deep = "[".repeat(200);
    let cases: [(&Plan, &[u8], &str); 13] = [
        (&leaves, b"", "the payload is not JSON: EOF while parsing a value at line 1 column 0"),
        (&leaves, b"{\"a\":1} x", "the payload is not JSON: trailing characters at line 1 column 9"),
        (&leaves, b"\xff", "the payload is not JSON: expected value at line 1 column 1"),
        (&leaves, b"1e999", "the payload is not JSON: number out of range at line 1 column 5"),
        (&leaves, deep.as_bytes(), "the payload is not JSON: recursion limit exceeded at line 1 column 128"),
        (&leaves, b"{}", "the message holds none of the tags of its subscription"),
        (&leaves, br#"{"a.b": 1, "a": {"b": 2}}"#, "two values are named \"a.b\""),
        (&leaves, long.as_bytes(), "the name of a value has 201 bytes; a tag's name has at most 200"),
        (&timed, br#"{"a": 1}"#, "there is no timestamp at \"ts\""),
        (
            &timed,
            br#"{"ts": "noon", "a": 1}"#,
            "the timestamp at \"ts\" is not a time in milliseconds since 1970: \"noon\"",
        ),
        (&rows, br#"{"s": {"a": 1}}"#, "there is no array at rows = \"s[*]\""),
        (&rows, br#"{"s": [{"ts": 1, "a": 1}, {"ts": 1, "a": 2}]}"#, "two values are named \"a\""),
        (&tags, br#"{"b": 1}"#, "the message holds none of the tags of its subscription"),
    ];
    for (plan, payload, reason) in cases {
        let error = plan.decode(payload).unwrap_err();
        assert_eq!(error.to_string(), reason, "{}", String::from_utf8_lossy(payload));
    }
}

#[test]
fn wrong_paths_name_their_key() {
    let cases = [
        (subscription(Some("a..b"), None, &[]), "timestamp \"a..b\" is not a path"),
        (subscription(None, Some("s"), &[]), "rows \"s\" is not a path"),
        (subscription(None, None, &[("t", "x[")]), "tag \"t\": \"x[\" is not a path"),
    ];
    for (subscription, expected) in cases {
        assert_eq!(Plan::new(&subscription).unwrap_err().to_string(), expected);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_samples_or_a_reason(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            "[\\[\\]{}\",:0-9a-c.tse +-]{0,48}".prop_map(String::into_bytes),
        ],
    ) {
        for plan in [
            plan(None, None, &[]),
            plan(Some("t"), None, &[("a", "a.b[0]")]),
            plan(Some("t"), Some("[*]"), &[]),
        ] {
            if let Ok(samples) = plan.decode(&bytes) {
                let mut times: Vec<_> = samples.iter().map(|sample| sample.time_us).collect();
                times.sort_unstable();
                times.dedup();
                prop_assert_eq!(times.len(), samples.len());
            }
        }
    }

    #[test]
    fn every_double_keeps_its_bits(x in any::<f64>()) {
        prop_assume!(x.is_finite());
        let payload = serde_json::to_vec(&serde_json::json!({ "x": x })).unwrap();
        let samples = plan(None, None, &[]).decode(&payload).unwrap();
        let Reading::Value(Value::F64(read)) = samples[0].points[0].reading else { panic!("{x}") };
        prop_assert_eq!(read.to_bits(), x.to_bits());
    }
}
