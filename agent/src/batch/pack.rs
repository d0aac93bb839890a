//! Numbers rows and packs them: consecutive rows of one stream, layout and clock segment make a chunk.
//!
//! Invariant: the sequences of a stream have no holes, and packing the same rows again gives the same
//! sequences: numbers count only after the flush ([`Packed::next_seqs`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_protocol::{
    Birth, Chunk, ClockSegment, DecodeError, ITEM_MAX_BYTES, Item, RawRow, RawRows, Row, RowFlags,
};

use crate::buffer::NewRows;

/// A chunk is closed at about this size; several make a record (D2). *Units*: bytes, estimated.
const CHUNK_BYTES: usize = 48 * 1024;
/// A raw row keeps only the beginning of a larger payload, so that it fits an item. *Units*: bytes.
const RAW_PAYLOAD_BYTES: usize = ITEM_MAX_BYTES / 2;

/// What waits in one stream, in order.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Birth(Birth),
    Run { clock: ClockSegment, rows: Vec<Row>, bytes: usize },
    Raw(Vec<RawRow>),
}

impl Waiting {
    /// Adds a row; returns its estimated size.
    pub(super) fn row(&mut self, clock: ClockSegment, row: Row) -> usize {
        let more = 24 + row.cells.iter().map(cell_bytes).sum::<usize>();
        if let Some(Piece::Run { clock: same, rows, bytes }) = self.pieces.last_mut()
            && *same == clock
            && *bytes < CHUNK_BYTES
            && rows.len() < millrace_protocol::chunk::CHUNK_MAX_ROWS
            && rows.first().is_some_and(|first| first.layout.id() == row.layout.id())
        {
            rows.push(row);
            *bytes += more;
        } else {
            self.pieces.push(Piece::Run { clock, rows: vec![row], bytes: more });
        }
        more
    }

    /// Adds a payload that could not be read; returns its estimated size.
    pub(super) fn raw(&mut self, mut row: RawRow) -> usize {
        if let Some(beginning) = row.payload.get(..RAW_PAYLOAD_BYTES) {
            row.payload = beginning.into();
        }
        let more = row.payload.len() + row.topic.len() + row.reason.len() + 32;
        match self.pieces.last_mut() {
            Some(Piece::Raw(rows)) if rows.iter().map(|r| r.payload.len()).sum::<usize>() < CHUNK_BYTES => {
                rows.push(row);
            }
            _ => self.pieces.push(Piece::Raw(vec![row])),
        }
        more
    }

    /// Adds a birth; its place is filled in when the rows before it are numbered.
    pub(super) fn birth(&mut self, birth: Birth) {
        self.pieces.push(Piece::Birth(birth));
    }

    /// Takes out rows that no chunk can hold; the caller keeps them as raw rows.
    pub(super) fn remove_unfit(&mut self) {
        for piece in &mut self.pieces {
            if let Piece::Run { clock, rows, .. } = piece {
                rows.retain(|row| {
                    let alone = Chunk::pack(1, *clock, std::slice::from_ref(row));
                    alone.is_ok_and(|chunk| Item::Chunk(chunk).encode().is_ok())
                });
            }
        }
    }

    /// Flags every row: it will not have been on disk.
    pub(super) fn make_volatile(&mut self) {
        for piece in &mut self.pieces {
            if let Piece::Run { rows, .. } = piece {
                rows.iter_mut().for_each(|row| row.flags = row.flags.union(RowFlags::VOLATILE));
            }
        }
    }
}

fn cell_bytes(cell: &millrace_protocol::Cell) -> usize {
    use millrace_protocol::{Samples, Value};
    match cell.value() {
        Some(Value::Text(text)) => text.len() + 3,
        Some(Value::Bytes(bytes)) => bytes.len() + 3,
        Some(Value::Waveform(w)) => match &w.samples {
            Samples::I16(s) => s.len() * 2 + 16,
            Samples::F32(s) => s.len() * 4 + 16,
            Samples::F64(s) => s.len() * 8 + 16,
        },
        Some(_) => 9,
        None => 1,
    }
}

/// What packing gives.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub(super) rows: Vec<NewRows>,
    pub(super) births: Vec<(u32, Vec<u8>)>,
    /// For each stream the sequence after its last row here.
    pub(super) next_seqs: BTreeMap<u32, u64>,
    /// Rows that no chunk can hold, with the stream they were for and their points.
    pub(super) unfit: Vec<(u32, RawRow, u64)>,
}

impl Packed {
    /// Numbers and packs what waits in a stream whose next sequence is given.
    pub(super) fn stream(&mut self, stream: u32, next_seq: u64, waiting: &Waiting) {
        let mut next = next_seq;
        for piece in &waiting.pieces {
            match piece {
                Piece::Birth(birth) => {
                    let after = next.saturating_sub(1);
                    match Item::Birth(Birth { after, ..birth.clone() }).encode() {
                        Ok(item) => self.births.push((stream, item)),
                        Err(error) => tracing::error!(%error, "a birth cannot be written"),
                    }
                }
                Piece::Run { clock, rows, .. } => next = self.run(stream, next, *clock, rows),
                Piece::Raw(rows) => next = self.raw(stream, next, rows),
            }
        }
        self.next_seqs.insert(stream, next);
    }

    /// Packs a run as one chunk, or in halves if it is too large; returns the next sequence.
    fn run(&mut self, stream: u32, first_seq: u64, clock: ClockSegment, rows: &[Row]) -> u64 {
        if rows.is_empty() {
            return first_seq;
        }
        let packed = Chunk::pack(first_seq, clock, rows)
            .and_then(|chunk| Ok((u64::from(chunk.points), Item::Chunk(chunk).encode()?)));
        match (packed, rows) {
            (Ok((points, item)), [first, ..]) => {
                self.rows.push(NewRows {
                    stream,
                    first_seq,
                    rows: rows.len() as u64,
                    points,
                    newest_us: rows.iter().map(|r| r.time_us).max().unwrap_or_default(),
                    layout: Some(Arc::clone(&first.layout)),
                    item,
                });
                first_seq + rows.len() as u64
            }
            (Err(error), [row]) => {
                self.unfit.push((stream, unfit(row, &error), row.points() as u64));
                first_seq
            }
            (_, rows) => {
                let (left, right) = rows.split_at(rows.len() / 2);
                let next = self.run(stream, first_seq, clock, left);
                self.run(stream, next, clock, right)
            }
        }
    }

    fn raw(&mut self, stream: u32, first_seq: u64, rows: &[RawRow]) -> u64 {
        let item = match Item::Raw(RawRows::new(first_seq, rows.to_vec())).encode() {
            Ok(item) => item,
            Err(error) => {
                // Topic and reason are bounded by MQTT's own limits; half an item holds the payload.
                tracing::error!(%error, "raw rows cannot be written");
                return first_seq;
            }
        };
        self.rows.push(NewRows {
            stream,
            first_seq,
            rows: rows.len() as u64,
            points: 0,
            newest_us: rows.iter().map(|r| r.time_us).max().unwrap_or_default(),
            layout: None,
            item,
        });
        first_seq + rows.len() as u64
    }
}

/// Makes a raw row of a row that no item can hold.
fn unfit(row: &Row, error: &DecodeError) -> RawRow {
    let tags: Vec<&str> = row.layout.columns().iter().map(|c| &*c.tag).take(20).collect();
    RawRow {
        time_us: row.time_us,
        topic: Arc::from(tags.join(", ")),
        payload: Arc::from([]),
        reason: Arc::from(error.to_string()),
    }
}
