//! How far each stream is complete, and who is waited for (F5).

use std::sync::Arc;

use millrace_protocol::StreamId;

/// A decision that depended on the clock: stored in the lake, so that a replay sees it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A stream was silent for longer than `stall_after` and is no longer waited for, until it is heard
    /// again.
    GiveUp {
        /// Which.
        stream: Arc<StreamId>,
        /// Its topic's clock at that moment. *Units*: microseconds since 1970-01-01 UTC.
        at_us: i64,
    },
}
