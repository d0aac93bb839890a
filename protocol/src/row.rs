//! The points of one machine and category at one instant.

use std::fmt;
use std::sync::Arc;

use crate::point::{Cell, ValueType};
use crate::{Category, MachineName};

/// The identity of a layout: CRC-64/XZ over its columns, so that the same shape has the same id in
/// every record, segment and process without anyone handing out numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayoutId(pub u64);

impl fmt::Display for LayoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One column of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayoutColumn {
    /// The tag's name.
    pub tag: Arc<str>,
    /// The type of its values.
    pub value_type: ValueType,
}

/// The tags that the cells of a row stand for, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    id: LayoutId,
    columns: Vec<LayoutColumn>,
}

impl Layout {
    /// Makes a layout and computes its id.
    #[must_use]
    pub fn new(columns: Vec<LayoutColumn>) -> Self {
        const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_XZ);
        let mut digest = CRC.digest();
        for column in &columns {
            digest.update(&(column.tag.len() as u64).to_le_bytes());
            digest.update(column.tag.as_bytes());
            digest.update(&[column.value_type as u8]);
        }
        Self { id: LayoutId(digest.finalize()), columns }
    }

    /// Gives the identity.
    #[must_use]
    pub const fn id(&self) -> LayoutId {
        self.id
    }

    /// Gives the columns in order.
    #[must_use]
    pub fn columns(&self) -> &[LayoutColumn] {
        &self.columns
    }
}

/// What is special about a row; bits on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RowFlags(pub u16);

impl RowFlags {
    /// The gateway's clock was not synchronised when the row was read (D8).
    pub const CLOCK_UNSYNCED: Self = Self(1);
    /// The first row after the clock stepped by more than a second (D8).
    pub const CLOCK_STEPPED: Self = Self(2);
    /// The row was never on the agent's disk: at least once, not exactly once (D9).
    pub const VOLATILE: Self = Self(4);
    /// The source marked the row as history (F6).
    pub const HISTORICAL: Self = Self(8);
    /// The event time came from the payload, not from the agent's clock.
    pub const SOURCE_TIME: Self = Self(16);

    /// Tells whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Gives both sets of bits together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The points of one machine and category at one instant.
///
/// *Shape*: one cell for each column of the layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Event time. *Units*: microseconds since 1970-01-01 UTC.
    pub time_us: i64,
    /// What is special about the row.
    pub flags: RowFlags,
    /// What the cells stand for.
    pub layout: Arc<Layout>,
    /// The points.
    pub cells: Vec<Cell>,
}

impl Row {
    /// Counts the points, good and bad.
    #[must_use]
    pub fn points(&self) -> usize {
        self.cells.iter().filter(|cell| cell.is_point()).count()
    }
}

/// A row on its way from a source to its stream, before it has a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRow {
    /// The machine it was read from.
    pub machine: MachineName,
    /// The kind of data.
    pub category: Category,
    /// The points.
    pub row: Row,
}
