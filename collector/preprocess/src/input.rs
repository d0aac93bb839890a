//! What goes in: rows that the ledger found to be new.

use std::sync::Arc;

use millrace_protocol::{Cell, Layout, RowFlags, StreamId};

/// A row of the lake.
#[derive(Debug, Clone)]
pub struct InputRow {
    /// Whose row; its order is F2's.
    pub stream: Arc<StreamId>,
    /// Which row of the stream.
    pub seq: u64,
    /// Event time. *Units*: microseconds since 1970-01-01 UTC.
    pub time_us: i64,
    /// Append time: when the centre could know it. *Units*: microseconds since 1970-01-01 UTC.
    pub append_us: i64,
    /// What is special about the row.
    pub flags: RowFlags,
    /// What the cells stand for.
    pub layout: Arc<Layout>,
    /// The points.
    pub cells: Vec<Cell>,
}
