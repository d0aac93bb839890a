//! Event times in payloads: how they are written, and what they are in microseconds.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::TimestampFormat;

/// Reads an event time; `None` if the value is no time in that format.
///
/// Numbers may also be written as text. A part of a microsecond is cut off an integer or an RFC 3339
/// time, and rounded off a fraction. *Units*: microseconds since 1970-01-01 UTC.
/// *Source*: RFC 3339, section 5.6.
pub(super) fn read(value: &Value, format: TimestampFormat) -> Option<i64> {
    let (multiply, divide) = match format {
        TimestampFormat::Rfc3339 => {
            let time = OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()?;
            return i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).ok();
        }
        TimestampFormat::UnixS => (1_000_000, 1),
        TimestampFormat::UnixMs => (1_000, 1),
        TimestampFormat::UnixUs => (1, 1),
        TimestampFormat::UnixNs => (1, 1_000),
    };
    match Number::of(value)? {
        Number::Integer(n) => i64::try_from(n.checked_mul(multiply)?.div_euclid(divide)).ok(),
        Number::Fraction(x) => {
            let us = (x * multiply as f64 / divide as f64).round();
            // Both bounds are exact; a float outside them does not fit.
            (us >= i64::MIN as f64 && us < i64::MAX as f64).then_some(us as i64)
        }
    }
}

enum Number {
    Integer(i128),
    Fraction(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Number(n) => n.as_i128().map(Self::Integer).or_else(|| n.as_f64().map(Self::Fraction)),
            Value::String(text) => text
                .parse::<i64>()
                .map(|n| Self::Integer(n.into()))
                .or_else(|_| text.parse().map(Self::Fraction))
                .ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_format_gives_microseconds() {
        let cases = [
            (TimestampFormat::UnixS, json!(1_700_000_000), Some(1_700_000_000_000_000)),
            (TimestampFormat::UnixS, json!(1_700_000_000.25), Some(1_700_000_000_250_000)),
            (TimestampFormat::UnixS, json!("1700000000"), Some(1_700_000_000_000_000)),
            (TimestampFormat::UnixMs, json!(1_700_000_000_123_i64), Some(1_700_000_000_123_000)),
            (TimestampFormat::UnixMs, json!(-1), Some(-1_000)),
            (TimestampFormat::UnixUs, json!(7), Some(7)),
            (TimestampFormat::UnixNs, json!(1_999), Some(1)),
            (TimestampFormat::UnixNs, json!(-1), Some(-1)),
            (TimestampFormat::Rfc3339, json!("2023-11-14T22:13:20Z"), Some(1_700_000_000_000_000)),
            (
                TimestampFormat::Rfc3339,
                json!("2023-11-14T23:13:20.1234567+01:00"),
                Some(1_700_000_000_123_456),
            ),
            (TimestampFormat::Rfc3339, json!("14.11.2023"), None),
            (TimestampFormat::Rfc3339, json!(1_700_000_000), None),
            (TimestampFormat::UnixMs, json!("noon"), None),
            (TimestampFormat::UnixMs, json!(null), None),
            (TimestampFormat::UnixS, json!(u64::MAX), None),
            (TimestampFormat::UnixS, json!(1e300), None),
            (TimestampFormat::UnixS, json!("NaN"), None),
        ];
        for (format, value, expected) in cases {
            assert_eq!(read(&value, format), expected, "{format:?} {value}");
        }
    }

    proptest! {
        #[test]
        fn any_number_is_a_time_or_none(n in any::<i64>(), x in any::<f64>(), text in ".{0,12}") {
            use TimestampFormat::{Rfc3339, UnixMs, UnixNs, UnixS, UnixUs};
            for format in [Rfc3339, UnixS, UnixMs, UnixUs, UnixNs] {
                read(&json!(x), format);
                read(&json!(text), format);
            }
            prop_assert_eq!(read(&json!(n), UnixUs), Some(n));
            prop_assert_eq!(read(&json!(n), UnixNs), Some(n.div_euclid(1000)));
            prop_assert_eq!(read(&json!(n), UnixS), n.checked_mul(1_000_000));
        }
    }
}
