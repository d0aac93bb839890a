//! The collector's clock, and how a time is written. The only file that reads the system's clock.

/// Gives the time now. *Units*: microseconds since 1970-01-01 UTC.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now_us() -> i64 {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    }
}

/// Writes a time as RFC 3339 in UTC, always with six decimals, so that texts sort as times do; `None` for one beyond the
/// year 9999. *Units*: microseconds since 1970-01-01 UTC.
#[must_use]
pub fn rfc3339(us: i64) -> Option<String> {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1_000).ok()?;
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    );
    time.format(format).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_six_decimals() {
        for (us, text) in [
            (0, Some("1970-01-01T00:00:00.000000Z")),
            (1_709_251_200_120_000, Some("2024-03-01T00:00:00.120000Z")),
            (-1, Some("1969-12-31T23:59:59.999999Z")),
            (i64::MAX, None),
        ] {
            assert_eq!(rfc3339(us).as_deref(), text, "{us}");
        }
    }
}
