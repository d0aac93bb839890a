//! Values and times as Feast's server writes them in JSON.

use std::fmt::Write as _;

use time::OffsetDateTime;

use crate::features::feast::{Value, push_python_float};

/// The time of a row that is not there.
pub(super) const EPOCH: &str = "\"1970-01-01T00:00:00Z\"";

/// Writes a value as Feast's server does: what JSON has no number for is a string, bytes are base64.
pub(super) fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::String(text) => push_string(out, text),
        Value::Float64(number) => push_float(out, *number),
        Value::Float32(number) => push_float(out, f64::from(*number)),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Int64(number) | Value::UnixTimestamp(number) => {
            let _infallible = write!(out, "{number}");
        }
        Value::Int32(number) => {
            let _infallible = write!(out, "{number}");
        }
        Value::Bytes(bytes) => push_base64(out, bytes),
        Value::BytesList(items) => push_array(out, items, |out, item| push_base64(out, item)),
        Value::StringList(items) => push_array(out, items, |out, item| push_string(out, item)),
        Value::Float64List(items) => push_array(out, items, |out, item| push_float(out, *item)),
        Value::Float32List(items) => push_array(out, items, |out, item| push_float(out, f64::from(*item))),
        Value::BoolList(items) => push_array(out, items, |out, item| {
            out.push_str(if *item { "true" } else { "false" });
        }),
        Value::Int64List(items) | Value::UnixTimestampList(items) => push_array(out, items, |out, item| {
            let _infallible = write!(out, "{item}");
        }),
        Value::Int32List(items) => push_array(out, items, |out, item| {
            let _infallible = write!(out, "{item}");
        }),
    }
}

fn push_array<T>(out: &mut String, items: &[T], push: impl FnMut(&mut String, &T)) {
    out.push('[');
    push_list(out, items, push);
    out.push(']');
}

pub(super) fn push_list<I: IntoIterator>(
    out: &mut String,
    items: I,
    mut push: impl FnMut(&mut String, I::Item),
) {
    let mut first = true;
    for item in items {
        if !first {
            out.push(',');
        }
        first = false;
        push(out, item);
    }
}

pub(super) fn push_float(out: &mut String, number: f64) {
    match number {
        _ if number.is_nan() => out.push_str("\"NaN\""),
        f64::INFINITY => out.push_str("\"Infinity\""),
        f64::NEG_INFINITY => out.push_str("\"-Infinity\""),
        _ => push_python_float(out, number),
    }
}

pub(super) fn push_string(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        let _infallible = write!(out, "{}", serde_json::json!(text));
    }
}

fn push_base64(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push('"');
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = DIGITS.get((bits >> (18 - 6 * at)) as usize & 63).copied().unwrap_or_default();
            out.push(if at > group.len() { '=' } else { char::from(digit) });
        }
    }
    out.push('"');
}

/// Writes an event time as RFC 3339 in quotes, with 0, 3 or 6 decimals, as protobuf's JSON does.
pub(super) fn timestamp(time_us: i64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_us) * 1_000) else {
        return EPOCH.to_owned();
    };
    let (date, micros) = (time.date(), time.microsecond());
    let mut out = String::with_capacity(32);
    let _infallible = write!(
        out,
        "\"{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    let _infallible = match micros {
        0 => Ok(()),
        _ if micros % 1_000 == 0 => write!(out, ".{:03}", micros / 1_000),
        _ => write!(out, ".{micros:06}"),
    };
    out.push_str("Z\"");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_no_three_or_six_decimals() {
        for (time_us, text) in [
            (0, "\"1970-01-01T00:00:00Z\""),
            (1_709_251_200_123_456, "\"2024-03-01T00:00:00.123456Z\""),
            (1_709_251_200_120_000, "\"2024-03-01T00:00:00.120Z\""),
            (-1, "\"1969-12-31T23:59:59.999999Z\""),
            (i64::MAX, EPOCH),
        ] {
            assert_eq!(timestamp(time_us), text);
        }
    }

    #[test]
    fn values_are_written_as_feast_writes_them() {
        for (value, text) in [
            (Value::Null, "null"),
            (Value::Float64(3.5), "3.5"),
            (Value::Float64(1e16), "1e+16"),
            (Value::Float64(f64::NAN), "\"NaN\""),
            (Value::Float64(f64::NEG_INFINITY), "\"-Infinity\""),
            (Value::Float64List(vec![1.0, f64::INFINITY]), "[1.0,\"Infinity\"]"),
            (Value::Bytes(vec![0, 0xff]), "\"AP8=\""),
            (Value::BytesList(vec![vec![], b"a".to_vec(), b"abc".to_vec()]), "[\"\",\"YQ==\",\"YWJj\"]"),
            (Value::UnixTimestamp(1_763_856_000), "1763856000"),
            (Value::String("a\"\u{1}é".into()), "\"a\\\"\\u0001é\""),
            (Value::BoolList(vec![true, false]), "[true,false]"),
            (Value::Int64(i64::MIN), "-9223372036854775808"),
        ] {
            let mut out = String::new();
            push_value(&mut out, &value);
            assert_eq!(out, text);
        }
    }
}
