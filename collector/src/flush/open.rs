//! What waits for the next flush.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_protocol::{AgentId, Birth, Layout, StreamId};

use crate::lake::row::Columns;
use crate::lake::write::{AuditRow, ControlRow, DeadLetter, GapRow, LossRow, QuarantineRow};

/// The open batch. Rows of the lake still lack the numbers of their stream, machine and layout, which only the
/// transaction can give.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) shards: BTreeMap<i32, OpenShard>,
    pub(super) points: usize,
}

/// A shard's part of it.
#[derive(Debug, Default)]
pub(super) struct OpenShard {
    pub(super) offsets: BTreeMap<String, i64>,
    /// The last record of each topic: offset and checksum.
    pub(super) last: BTreeMap<String, (i64, u32)>,
    /// Something is wrong that was not before.
    pub(super) trouble: bool,
    pub(super) touched: BTreeSet<Arc<StreamId>>,
    pub(super) chunks: Vec<NewRows>,
    pub(super) checksums: Vec<(Arc<StreamId>, u64, u32, u32)>,
    pub(super) dead_letters: Vec<(Option<Arc<StreamId>>, DeadLetter)>,
    pub(super) quarantine: Vec<(Arc<StreamId>, QuarantineRow)>,
    pub(super) losses: Vec<(Arc<StreamId>, LossRow)>,
    pub(super) gaps: Vec<(Arc<StreamId>, GapRow)>,
    pub(super) births: Vec<(Arc<StreamId>, i64, Birth)>,
    /// Streams whose birth came after rows that it is about, and after which sequence it begins.
    pub(super) misread: Vec<(Arc<StreamId>, u64)>,
    pub(super) controls: Vec<(Arc<StreamId>, ControlRow)>,
    /// Agents whose clock was corrected: their rows in quarantine are to be placed.
    pub(super) corrected: BTreeSet<AgentId>,
    pub(super) audits: Vec<(Arc<StreamId>, AuditRow)>,
    pub(super) rows: u64,
    pub(super) points: u64,
}

/// New rows of one chunk.
#[derive(Debug)]
pub(super) struct NewRows {
    pub(super) stream: Arc<StreamId>,
    pub(super) layout: Arc<Layout>,
    pub(super) append_us: i64,
    pub(super) rows: Vec<NewRow>,
}

/// A new row.
#[derive(Debug)]
pub(super) struct NewRow {
    pub(super) time_us: i64,
    pub(super) seq: u64,
    pub(super) flags: u16,
    pub(super) columns: Columns,
}
