//! The one place of the plant that reads a clock.
//!
//! The truth log's times are for people; the proof does not rest on them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Gives the wall time. *Units*: microseconds since 1970-01-01 UTC.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
