//! The clocks of the agent (D8): the one place where the machine's time is read.
//!
//! Everything else takes a [`Clock`], so that tests and the simulation give the time.

use millrace_protocol::ClockSegment;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Gives the wall time. *Units*: microseconds since 1970-01-01 UTC.
    fn now_us(&self) -> i64;
    /// Gives the monotonic time. *Units*: microseconds since boot.
    fn monotonic_us(&self) -> i64;
    /// Gives the part of the agent's life in which the wall clock has not stepped.
    fn segment(&self) -> ClockSegment;
}
