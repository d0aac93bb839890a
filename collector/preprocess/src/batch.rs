//! Computes windows from rows that are all there: backfill, repair, parity.

use std::sync::Arc;

use millrace_protocol::{Birth, MachineName, StreamId};

use crate::feature::FeatureRow;
use crate::graph::View;
use crate::input::InputRow;

/// Runs one view's graph over one machine's lake rows.
///
/// Give the births of the machine's streams, then ask [`BatchDriver::rows_from_us`], give the rows from
/// there to the end of the range, and [`BatchDriver::run`].
#[derive(Debug)]
pub struct BatchDriver {
    view: Arc<View>,
}

impl BatchDriver {
    /// Makes a driver for a view and a machine. `stall_after_us` decides which rows were known in time (F7).
    #[must_use]
    pub fn new(view: Arc<View>, machine: MachineName, stall_after_us: i64) -> Self {
        let _ = (machine, stall_after_us);
        Self { view }
    }

    /// Takes what a stream's rows mean from a place on.
    pub fn birth(&mut self, stream: &Arc<StreamId>, birth: &Birth) {
        let _ = (stream, birth, &self.view);
    }

    /// Gives the event time from which rows are needed for windows that end after `from_us`.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn rows_from_us(&self, from_us: i64) -> i64 {
        from_us
    }

    /// Takes rows of the machine, in any order and any pieces.
    pub fn rows(&mut self, rows: &[InputRow]) {
        let _ = rows;
    }

    /// Gives the rows of the windows with `from_us` < end ≤ `to_us`, by time; a window twice when rows of
    /// it became known only after it would have been given up (F7): what was known first, then all.
    #[must_use]
    pub fn run(&mut self, from_us: i64, to_us: i64) -> Vec<FeatureRow> {
        let _ = (from_us, to_us);
        Vec::new()
    }
}
