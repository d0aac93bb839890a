//! Millrace's bytes against vectors taken from a running Feast (`golden/feast.json`, read when this runs, so that
//! anyone can add cases).

use millrace_collector::features::feast::{
    Value, entity_key, field_hash, murmur3_x86_32, sqlite_seconds, sqlite_table, sqlite_table_ddl,
    timestamp_bytes, value_text,
};
use serde_json::Value as Json;

fn golden() -> Json {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/feast.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Integers beyond 2^53 are decimal strings in the file.
fn int(json: &Json) -> i64 {
    json.as_i64().unwrap_or_else(|| json.as_str().unwrap().parse().unwrap())
}

fn items<T>(json: &Json, item: impl Fn(&Json) -> T) -> Vec<T> {
    json.as_array().unwrap().iter().map(item).collect()
}

fn seconds(json: &Json) -> i64 {
    json["micros"].as_i64().unwrap().div_euclid(1_000_000)
}

/// The doubles of a feature, from their bits.
fn doubles(feature: &Json) -> Vec<f64> {
    let bits = unhex(feature["f64_le_hex"].as_str().unwrap_or_default());
    bits.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

/// Makes the value that Feast's writer was given.
#[expect(clippy::cast_possible_truncation, reason = "the file gives Float32 as the double of equal value")]
fn value_of(feature: &Json) -> Value {
    let value = &feature["value"];
    let int_32 = |json: &Json| i32::try_from(int(json)).unwrap();
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    let bytes = |json: &Json| json["bytes_hex"].as_str().map(unhex).unwrap();
    match feature["dtype"].as_str().unwrap() {
        _ if value.is_null() => Value::Null,
        // Feast's writer stores a scalar NaN as null.
        "Float64" if doubles(feature)[0].is_nan() => Value::Null,
        "Float64" => Value::Float64(doubles(feature)[0]),
        "Float32" => Value::Float32(doubles(feature)[0] as f32),
        "Int64" => Value::Int64(int(value)),
        "Int32" => Value::Int32(int_32(value)),
        "Bool" => Value::Bool(value.as_bool().unwrap()),
        "String" => Value::String(text(value).into()),
        "Bytes" => Value::Bytes(bytes(value)),
        "UnixTimestamp" => Value::UnixTimestamp(seconds(value)),
        "Array(Float64)" => Value::Float64List(doubles(feature)),
        "Array(Float32)" => Value::Float32List(doubles(feature).iter().map(|n| *n as f32).collect()),
        "Array(Int64)" => Value::Int64List(items(value, int)),
        "Array(Int32)" => Value::Int32List(items(value, int_32)),
        "Array(Bool)" => Value::BoolList(items(value, |json| json.as_bool().unwrap())),
        "Array(String)" => Value::StringList(items(value, text)),
        "Array(Bytes)" => Value::BytesList(items(value, bytes)),
        "Array(UnixTimestamp)" => Value::UnixTimestampList(items(value, seconds)),
        other => panic!("dtype {other} is not known to this test"),
    }
}

fn key_of(case: &Json) -> Vec<u8> {
    let keys = items(&case["join_keys"], |key| {
        let value = &key["value"];
        let value = match key["type"].as_str().unwrap() {
            "STRING" => Value::String(value.as_str().unwrap().into()),
            "INT64" => Value::Int64(int(value)),
            "INT32" => Value::Int32(i32::try_from(int(value)).unwrap()),
            other => panic!("key type {other} is not known to this test"),
        };
        (key["name"].as_str().unwrap().to_owned(), value)
    });
    let keys: Vec<_> = keys.iter().map(|(name, value)| (name.as_str(), value)).collect();
    entity_key(&keys).unwrap()
}

fn cases(json: &Json) -> Vec<Json> {
    let mut cases = json["cases"].as_array().unwrap().clone();
    cases.extend(json["sqlite_tz_case"].as_array().unwrap().clone());
    assert!(cases.len() >= 23);
    cases
}

#[test]
fn golden_entity_keys_have_feasts_bytes() {
    let golden = golden();
    for case in cases(&golden) {
        assert_eq!(hex(&key_of(&case)), case["entity_key_hex"].as_str().unwrap(), "{}", case["name"]);
    }
    for vector in golden["entity_keys"].as_array().unwrap() {
        let names = items(&vector["join_keys"], |name| name.as_str().unwrap().to_owned());
        let values =
            items(&vector["values_hex"], |hex| Value::decode(&unhex(hex.as_str().unwrap())).unwrap());
        let keys: Vec<_> = names.iter().map(String::as_str).zip(&values).collect();
        assert_eq!(hex(&entity_key(&keys).unwrap()), vector["v3_hex"].as_str().unwrap(), "{names:?}");
    }
}

#[test]
fn golden_values_have_feasts_bytes_and_come_back() {
    let mut seen = 0;
    for case in cases(&golden()) {
        for feature in case["features"].as_array().unwrap() {
            let (value, bytes) = (value_of(feature), feature["value_hex"].as_str().unwrap());
            assert_eq!(hex(&value.encode()), bytes, "{} {}", case["name"], feature["name"]);
            let back = Value::decode(&unhex(bytes)).unwrap();
            assert_eq!(hex(&back.encode()), bytes, "{} {}", case["name"], feature["name"]);
            seen += 1;
        }
    }
    assert!(seen >= 135, "{seen} values");
}

#[test]
fn golden_redis_fields_and_timestamps_have_feasts_bytes() {
    let golden = golden();
    for vector in golden["mmh3"].as_array().unwrap() {
        let input = vector["input"].as_str().unwrap();
        let hash = murmur3_x86_32(input.as_bytes(), 0);
        assert_eq!(u64::from(hash), vector["hash_u32"].as_u64().unwrap(), "{input}");
        assert_eq!(hex(&hash.to_le_bytes()), vector["field_hex"].as_str().unwrap(), "{input}");
    }
    for case in cases(&golden) {
        let view = case["feature_view"].as_str().unwrap();
        for feature in case["features"].as_array().unwrap() {
            let field = field_hash(view, feature["name"].as_str().unwrap());
            assert_eq!(hex(&field), feature["redis_field_hex"].as_str().unwrap());
        }
        let event_us = case["event_ts"]["micros"].as_i64().unwrap();
        assert_eq!(hex(&timestamp_bytes(event_us)), case["redis"]["ts_value_hex"].as_str().unwrap());
    }
}

#[test]
fn golden_sqlite_rows_are_feasts() {
    for case in cases(&golden()) {
        let sqlite = &case["sqlite"];
        let table = sqlite_table(case["project"].as_str().unwrap(), case["feature_view"].as_str().unwrap());
        assert_eq!(table, sqlite["table"].as_str().unwrap());
        let mut expected = sqlite["rows"].as_array().unwrap().clone();
        // Feast subtracts the zone of the process that writes; Millrace writes the true epoch (TZ=UTC).
        let zone = if sqlite["tz"] == "Asia/Tokyo" { 9 * 3_600 } else { 0 };
        let times =
            ["event_ts", "created_ts"].map(|t| sqlite_seconds(case[t]["micros"].as_i64().unwrap()) - zone);
        for feature in case["features"].as_array().unwrap() {
            let value = value_of(feature);
            let text = value_text(&value);
            let text_type = if text.is_some() { "text" } else { "null" };
            let row = serde_json::json!([
                hex(&key_of(&case)),
                feature["name"],
                hex(&value.encode()),
                text,
                text_type,
                null,
                times[0],
                "integer",
                times[1],
                "integer"
            ]);
            let at = expected.iter().position(|expected| *expected == row);
            expected.remove(at.unwrap_or_else(|| panic!("{}: Feast has no row {row}", case["name"])));
        }
        assert_eq!(expected, Vec::<Json>::new(), "{}", case["name"]);
    }
}

#[test]
fn golden_sqlite_tables_are_feasts() {
    let golden = golden();
    let expected = items(&golden["sqlite_ddl"], |ddl| ddl.as_str().unwrap().replace("  ", " "));
    let made: Vec<_> = ["g_machine", "g_machine_line"]
        .iter()
        .flat_map(|view| sqlite_table_ddl("golden", view))
        .map(|ddl| ddl.replace("IF NOT EXISTS ", ""))
        .collect();
    assert_eq!(made, expected);
}
