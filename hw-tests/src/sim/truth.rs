//! The truth: what the plant emitted, and what of it the agent confirmed.

use std::collections::{BTreeMap, BTreeSet};

use millrace_protocol::{Category, Cell, Epoch, MachineName, Row, RowFlags, StreamId};

/// A row as the plant emitted it.
#[derive(Debug, Clone)]
pub struct TrueRow {
    /// Of which machine.
    pub machine: MachineName,
    /// Of which kind.
    pub category: Category,
    /// The row; `None`: a payload that nobody can read.
    pub row: Option<Row>,
    /// The agent said that it is on disk (or that Kafka has it).
    pub is_confirmed: bool,
    /// By which start of the agent, and under which sequence it must stand, where that is known.
    pub place: Option<(Epoch, u64)>,
}

impl TrueRow {
    /// Tells whether what was found is this row, bit for bit. Only the agent may add that a row was volatile; a row of
    /// a clock that was not set is placed anew by a correction (D8).
    #[must_use]
    pub fn is(&self, time_us: i64, flags: RowFlags, cells: &[Cell]) -> bool {
        let Some(row) = &self.row else { return false };
        let is_unset = row.flags.contains(RowFlags::CLOCK_UNSYNCED);
        let of_agent =
            if is_unset { RowFlags::VOLATILE.union(RowFlags::CLOCK_UNSYNCED) } else { RowFlags::VOLATILE };
        (row.time_us == time_us || is_unset)
            && row.flags.union(of_agent) == flags.union(of_agent)
            && row.cells.len() == cells.len()
            && row.cells.iter().zip(cells).all(|(a, b)| a.same_bits(b))
    }
}

/// Everything that was emitted, by its number.
#[derive(Debug, Default)]
pub struct Truth {
    /// The rows.
    pub rows: BTreeMap<u64, TrueRow>,
    /// Rows of publishes that passed through the agent's memory.
    pub passed: BTreeSet<u64>,
    /// The next sequence of each stream, as long as it can be told.
    next: BTreeMap<StreamId, Option<u64>>,
}

impl Truth {
    /// Says that rows got sequences, in this order; `how` says whether that is certain.
    pub fn number(&mut self, stream_of: impl Fn(&TrueRow) -> StreamId, ids: &[u64], how: Numbered) {
        for id in ids {
            let Some(row) = self.rows.get_mut(id) else { continue };
            let stream = stream_of(row);
            let epoch = stream.epoch;
            let next = self.next.entry(stream).or_insert(Some(1));
            match (how, *next) {
                (Numbered::OnDisk, Some(seq)) => {
                    row.place.get_or_insert((epoch, seq));
                    *next = Some(seq + 1);
                }
                // A kill takes them out of memory, and the source sends them again.
                (Numbered::InMemory, Some(seq)) => *next = Some(seq + 1),
                // From here on nobody outside the agent can count.
                (Numbered::Perhaps, _) | (_, None) => *next = None,
            }
        }
    }

    /// Says that rows are confirmed.
    pub fn confirm(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(row) = self.rows.get_mut(id) {
                row.is_confirmed = true;
            }
        }
    }
}

/// Whether rows got sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbered {
    /// They did, and are on disk.
    OnDisk,
    /// They did, and pass through memory.
    InMemory,
    /// They did, or were recognised as sent again.
    Perhaps,
}
