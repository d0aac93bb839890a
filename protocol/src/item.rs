//! What travels: chunks, raw rows, births, losses, clock corrections and progress (D1).
//!
//! Only rows have sequences. Every other item stands *after* a sequence and is idempotent: a loss is a
//! set union, a birth an upsert.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::id::{BootId, Epoch};
use crate::interval::IntervalSet;
use crate::point::ValueType;
use crate::row::LayoutId;

/// A chunk as it travels: its body stays packed until someone needs the rows.
///
/// The checksum covers layout, first sequence, number of rows and body, so the ledger can tell a
/// repeated chunk from a conflicting one without unpacking it (D11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkItem {
    /// Sequence of the first row; the following rows have the following sequences.
    pub first_seq: u64,
    /// Number of rows, at least 1.
    pub rows: u32,
    /// Number of points in those rows, good and bad.
    pub points: u32,
    /// What the columns stand for; the record's header describes it.
    pub layout: LayoutId,
    /// CRC-32C.
    pub crc: u32,
    /// The packed columns; [`crate::Chunk::unpack`] opens them.
    pub body: Arc<[u8]>,
}

impl ChunkItem {
    /// Gives the sequence of the last row.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.rows.saturating_sub(1) as u64)
    }
}

/// A payload that could not be read: it has a sequence and no points; the collector puts it into
/// `dead_letter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRow {
    /// When it came. *Units*: microseconds since 1970-01-01 UTC.
    pub time_us: i64,
    /// MQTT topic, or the place it came from.
    pub topic: Arc<str>,
    /// The payload, or its beginning.
    pub payload: Arc<[u8]>,
    /// Why it could not be read, as a sentence.
    pub reason: Arc<str>,
}

/// Consecutive raw rows of the stream `<site>/<agent id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRows {
    /// Sequence of the first row.
    pub first_seq: u64,
    /// CRC-32C over the first sequence and every field of every row.
    pub crc: u32,
    /// The rows.
    pub rows: Vec<RawRow>,
}

impl RawRows {
    /// Makes the item and computes its checksum.
    #[must_use]
    pub fn new(first_seq: u64, rows: Vec<RawRow>) -> Self {
        Self { first_seq, crc: Self::checksum(first_seq, &rows), rows }
    }

    /// Computes the checksum.
    #[must_use]
    pub fn checksum(first_seq: u64, rows: &[RawRow]) -> u32 {
        let mut crc = crc32c::crc32c(&first_seq.to_le_bytes());
        for row in rows {
            crc = crc32c::crc32c_append(crc, &row.time_us.to_le_bytes());
            for field in [row.topic.as_bytes(), &row.payload, row.reason.as_bytes()] {
                crc = crc32c::crc32c_append(crc, &(field.len() as u64).to_le_bytes());
                crc = crc32c::crc32c_append(crc, field);
            }
        }
        crc
    }
}

/// How a tag is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reporting {
    /// A point every cycle. *Units*: microseconds.
    Cyclic {
        /// Time between two polls.
        interval_us: i64,
    },
    /// A point when the value changes, and at least once in this time. *Units*: microseconds.
    ByException {
        /// The longest silence.
        max_interval_us: i64,
    },
    /// A point whenever the source sends one.
    Spontaneous,
}

/// What is known of one tag.
#[derive(Debug, Clone, PartialEq)]
pub struct BirthTag {
    /// The tag's name.
    pub name: Arc<str>,
    /// The type of its values; `None` until the first value shows it (MQTT leaves).
    pub value_type: Option<ValueType>,
    /// The unit's symbol.
    pub unit: Option<Arc<str>>,
    /// Where it comes from, as an installer would write it (`line-a unit 3 holding 100 f32 ABCD`).
    pub source: Arc<str>,
    /// How it is reported.
    pub reporting: Reporting,
    /// How long a value is held (F3). *Units*: microseconds.
    pub hold_us: i64,
    /// A counter's modulus: it starts anew at 0 after modulus − 1 (F3); `None` for what is no counter
    /// or one of unknown size.
    pub counter_modulus: Option<u64>,
}

/// The previous stream of the same agent, machine and category (D7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousEpoch {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its last sequence on disk.
    pub last_seq: u64,
}

/// What a stream's rows mean from its place on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Birth {
    /// The sequence before it.
    pub after: u64,
    /// Every tag of this machine and category.
    pub tags: Vec<BirthTag>,
    /// Attributes of the machine.
    pub attributes: BTreeMap<String, String>,
    /// The stream before this one in the chain; `None` for the first.
    pub previous: Option<PreviousEpoch>,
    /// Before this everything that the previous process read is on disk, by its last flush; what it read after that is
    /// in no book (D14). It is earlier than that flush, the more so if a poll cycle was under way.
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub last_flushed_us: Option<i64>,
    /// When this process started. *Units*: microseconds since 1970-01-01 UTC.
    pub started_us: i64,
}

/// Why sequences will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LossReason {
    /// The buffer was full and the oldest rows gave way.
    DroppedOldest = 1,
    /// The buffer was full and new rows were refused.
    DroppedNewest = 2,
    /// A segment was damaged and set aside.
    SetAsideDamaged = 3,
    /// A segment was taken out by hand; an import turns the rows back.
    SetAsideExported = 4,
    /// Kafka refused the record for good.
    Refused = 5,
}

impl LossReason {
    /// Every reason, in the order of the codes.
    pub const ALL: [Self; 5] = [
        Self::DroppedOldest,
        Self::DroppedNewest,
        Self::SetAsideDamaged,
        Self::SetAsideExported,
        Self::Refused,
    ];

    /// Takes a code from the wire.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.code() == code)
    }

    /// Gives the code on the wire.
    #[must_use]
    pub const fn code(self) -> u64 {
        self as u64
    }

    /// Gives the word that tables use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DroppedOldest => "dropped_oldest",
            Self::DroppedNewest => "dropped_newest",
            Self::SetAsideDamaged => "set_aside_damaged",
            Self::SetAsideExported => "set_aside_exported",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A closed range of sequences; an open end (`to: None`) says that the last one is not known (D4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqRange {
    /// The first sequence.
    pub from: u64,
    /// The last sequence, if known.
    pub to: Option<u64>,
}

/// Sequences that will not come, and why (D4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The sequence before it.
    pub after: u64,
    /// Why.
    pub reason: LossReason,
    /// Which.
    pub ranges: Vec<SeqRange>,
    /// How many points they held, where known.
    pub points: Option<u64>,
}

impl Loss {
    /// Gives the ranges whose end is known.
    #[must_use]
    pub fn closed_ranges(&self) -> IntervalSet {
        self.ranges.iter().filter_map(|r| r.to.map(|to| r.from..=to)).collect()
    }
}

/// Places rows that were read before the clock was synchronised (D8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockCorrection {
    /// The sequence before it.
    pub after: u64,
    /// Which boot's monotonic clock is meant.
    pub boot_id: BootId,
    /// Event time = monotonic time + this. *Units*: microseconds.
    pub offset_us: i64,
    /// From which monotonic time on it holds. *Units*: microseconds since boot.
    pub from_monotonic_us: i64,
}

/// Says that a stream is complete up to an event time (D1). Made by the uplink, never on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to this sequence has been sent and acknowledged.
    pub after: u64,
    /// No later row will have an event time up to this one. *Units*: microseconds since 1970-01-01 UTC.
    pub complete_until_us: i64,
    /// The stream's last sequence on disk; equal to `after` when nothing waits.
    pub numbered: u64,
    /// Older epochs of this (agent, machine, category) that still have rows waiting at the sender.
    pub waiting_epochs: Vec<Epoch>,
}

/// One thing that travels in a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Rows in columns.
    Chunk(ChunkItem),
    /// Payloads that could not be read.
    Raw(RawRows),
    /// What rows mean from here on.
    Birth(Birth),
    /// Sequences that will not come.
    Loss(Loss),
    /// A correction of the clock.
    Clock(ClockCorrection),
    /// Complete up to a time.
    Progress(Progress),
}

impl Item {
    /// Gives the first and last sequence, for items that have rows.
    #[must_use]
    pub fn seq_range(&self) -> Option<(u64, u64)> {
        match self {
            Self::Chunk(chunk) => Some((chunk.first_seq, chunk.last_seq())),
            Self::Raw(raw) => {
                let rows = raw.rows.len() as u64;
                Some((raw.first_seq, raw.first_seq.saturating_add(rows.saturating_sub(1))))
            }
            Self::Birth(_) | Self::Loss(_) | Self::Clock(_) | Self::Progress(_) => None,
        }
    }
}
