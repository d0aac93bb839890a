//! What one flush takes, and what it says.

use std::sync::Arc;

use millrace_protocol::{Layout, MachineName};

use super::entry::RowsHead;
use crate::delivery::SourceCounts;

/// Rows of one stream, packed, on their way to the disk.
#[derive(Debug, Clone)]
pub struct NewRows {
    /// From [`super::Buffer::stream`].
    pub stream: u32,
    /// The sequence of the first row; the one after the stream's last.
    pub first_seq: u64,
    /// How many.
    pub rows: u64,
    /// Points in them.
    pub points: u64,
    /// Event time of the newest. *Units*: microseconds since 1970-01-01 UTC.
    pub newest_us: i64,
    /// What a chunk's columns stand for.
    pub layout: Option<Arc<Layout>>,
    /// The encoded item.
    pub item: Vec<u8>,
}

impl NewRows {
    pub(super) fn head(&self) -> RowsHead {
        RowsHead {
            stream: self.stream,
            first_seq: self.first_seq,
            rows: self.rows,
            points: self.points,
            newest_us: self.newest_us,
            layout: self.layout.as_ref().map(|l| l.id()),
        }
    }
}

/// Everything that one flush makes durable together.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Rows, in the order of each stream.
    pub rows: Vec<NewRows>,
    /// What the sources counted.
    pub sources: Vec<(MachineName, SourceCounts)>,
    /// Hashes of the publishes in it, by session (D5).
    pub hashes: Vec<(u64, Vec<u64>)>,
    /// Publishes that were recognised as redelivered.
    pub redelivered: u64,
    /// Births: stream and encoded item.
    pub births: Vec<(u32, Vec<u8>)>,
    /// With it everything that a source read before this is stored. *Units*: microseconds since 1970-01-01 UTC.
    pub settled_us: Option<i64>,
}

impl Group {
    /// Tells whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.sources.is_empty()
            && self.hashes.is_empty()
            && self.redelivered == 0
            && self.births.is_empty()
    }
}

/// What became of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// It is on disk.
    Stored,
    /// The buffer is full: the rows are declared lost, all else is on disk.
    Refused,
    /// The disk is dead: nothing is stored; [`super::Buffer::pass`] takes the group, its rows flagged volatile.
    DiskDead,
}
