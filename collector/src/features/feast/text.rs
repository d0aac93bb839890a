//! What Feast's SQLite online store keeps beside a value's bytes: its table, its text, whole seconds.

use std::fmt::Write as _;

use super::Value;

/// Names the table of a view: `{project}_{view}`.
#[must_use]
pub fn sqlite_table(project: &str, view: &str) -> String {
    format!("{project}_{view}")
}

/// Gives the statements that make a view's table as `feast apply` does.
#[must_use]
pub fn sqlite_table_ddl(project: &str, view: &str) -> [String; 2] {
    let table = sqlite_table(project, view).replace('"', "\"\"");
    [
        format!(
            "CREATE TABLE IF NOT EXISTS \"{table}\" (entity_key BLOB, feature_name TEXT, value BLOB, \
             value_text TEXT, vector_value BLOB, event_ts timestamp, created_ts timestamp, \
             PRIMARY KEY(entity_key, feature_name))"
        ),
        format!("CREATE INDEX IF NOT EXISTS \"{table}_ek\" ON \"{table}\" (entity_key)"),
    ]
}

/// Gives the whole seconds that Feast stores for a time: cut towards zero, as Python's `int()` does.
///
/// *Units*: microseconds to seconds since 1970-01-01 UTC. Every Feast process must run with `TZ=UTC`, or it
/// reads another instant.
#[must_use]
pub fn sqlite_seconds(time_us: i64) -> i64 {
    time_us / 1_000_000
}

/// Gives the text form of a value as Python's `str` writes it; none for lists, bytes, times and null.
#[must_use]
pub fn value_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string()),
        Value::Int32(number) => Some(number.to_string()),
        Value::Int64(number) => Some(number.to_string()),
        Value::Float64(number) => Some(python_float(*number)),
        Value::Float32(number) => Some(python_float(f64::from(*number))),
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        _ => None,
    }
}

fn python_float(number: f64) -> String {
    let mut text = String::new();
    push_python_float(&mut text, number);
    text
}

/// Appends a number as Python's `repr` writes it: the shortest digits that give its bits back.
///
/// Rust's `Debug` agrees with it but for the exponent (`1e-5` there, `1e-05` here) and the names of what is
/// not finite.
pub fn push_python_float(out: &mut String, number: f64) {
    if !number.is_finite() {
        out.push_str(match number {
            _ if number.is_nan() => "nan",
            _ if number > 0.0 => "inf",
            _ => "-inf",
        });
        return;
    }
    let start = out.len();
    let _infallible = write!(out, "{number:?}");
    let Some(at) = out.get(start..).and_then(|text| text.find('e')) else { return };
    let exponent = out.split_off(start + at + 1);
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent.as_str()), |rest| ('-', rest));
    let _infallible = write!(out, "{sign}{digits:0>2}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (number, text) in [
            (0.1, "0.1"),
            (5.0, "5.0"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e-7, "1.5e-07"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(python_float(number), text);
        }
    }
}
