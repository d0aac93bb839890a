//! Consecutive rows of one stream in columns, and how they are packed (D1).
//!
//! Body: the CBOR array `[clock segment, unsynchronised clock | null, first time, time differences,
//! flags | null, states | null, values]`, all but the first three as byte strings;
//! `docs/formats/record.md` has every byte. Unpacking allocates in proportion to the bytes it reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};

use crate::id::BootId;
use crate::item::ChunkItem;
use crate::point::{Cell, Quality, Samples, Value, ValueType, Waveform};
use crate::record::DecodeError;
use crate::row::{Layout, Row, RowFlags};
use crate::wire::{Malformed, Reader, put_varint, unzigzag, zigzag};

/// The state byte of a place without a point.
const ABSENT: u8 = u8::MAX;
/// The largest chunk in rows; keeps a hostile header from asking for more work than its bytes hold.
pub const CHUNK_MAX_ROWS: usize = 65_535;

/// How to find the event time of rows that were read before the clock was synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsyncedClock {
    /// Which boot's monotonic clock was running.
    pub boot_id: BootId,
    /// Monotonic time = event time − this. *Units*: microseconds.
    pub wall_minus_monotonic_us: i64,
}

/// The part of an agent's life in which its wall clock did not step (D8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockSegment {
    /// Counts the steps since the agent started.
    pub number: u32,
    /// Present while the clock was not synchronised.
    pub unsynced: Option<UnsyncedClock>,
}

/// The values of one column, one for each row; where the row has no good point, a default stands.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the value types")]
pub enum Column {
    Bool(Vec<bool>),
    I64(Vec<i64>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Text(Vec<Arc<str>>),
    Bytes(Vec<Arc<[u8]>>),
    Waveform(Vec<Arc<Waveform>>),
}

impl Column {
    /// Gives the value of a row; meaningful only where the state is good.
    #[must_use]
    pub fn value(&self, row: usize) -> Option<Value> {
        match self {
            Self::Bool(v) => v.get(row).copied().map(Value::Bool),
            Self::I64(v) => v.get(row).copied().map(Value::I64),
            Self::U64(v) => v.get(row).copied().map(Value::U64),
            Self::F32(v) => v.get(row).copied().map(Value::F32),
            Self::F64(v) => v.get(row).copied().map(Value::F64),
            Self::Text(v) => v.get(row).cloned().map(Value::Text),
            Self::Bytes(v) => v.get(row).cloned().map(Value::Bytes),
            Self::Waveform(v) => v.get(row).cloned().map(Value::Waveform),
        }
    }
}

/// A chunk's rows, unpacked.
///
/// *Shape*: `times_us`, `flags` and every column have one entry for each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Sequence of the first row.
    pub first_seq: u64,
    /// What the columns stand for.
    pub layout: Arc<Layout>,
    /// The clock that the event times come from.
    pub clock: ClockSegment,
    /// Event times. *Units*: microseconds since 1970-01-01 UTC.
    pub times_us: Vec<i64>,
    /// What is special about each row.
    pub flags: Vec<RowFlags>,
    /// Column-major; `None` when every place holds a good point. 0 good, 255 absent, else a quality's code.
    states: Option<Vec<u8>>,
    /// The values.
    pub columns: Vec<Column>,
}

#[derive(Serialize)]
struct BodyOut<'a>(
    u32,
    Option<(&'a Bytes, i64)>,
    i64,
    &'a Bytes,
    Option<&'a Bytes>,
    Option<&'a Bytes>,
    &'a Bytes,
);

#[derive(Deserialize)]
struct BodyIn<'a>(
    u32,
    Option<(ByteBuf, i64)>,
    i64,
    #[serde(borrow)] &'a Bytes,
    #[serde(borrow)] Option<&'a Bytes>,
    #[serde(borrow)] Option<&'a Bytes>,
    #[serde(borrow)] &'a Bytes,
);

impl Chunk {
    /// Packs consecutive rows of one stream, all of one layout, into an item.
    ///
    /// *Errors*: [`DecodeError::Chunk`] if there is no row, there are too many, a row has another layout
    /// or number of cells, or a good cell holds a value of another type than its column.
    pub fn pack(first_seq: u64, clock: ClockSegment, rows: &[Row]) -> Result<ChunkItem, DecodeError> {
        let wrong = |what| DecodeError::Chunk { first_seq, what };
        let first = rows.first().ok_or(wrong("has no rows"))?;
        if rows.len() > CHUNK_MAX_ROWS {
            return Err(wrong("has too many rows"));
        }
        let layout = &first.layout;
        let width = layout.columns().len();
        for row in rows {
            if row.layout.id() != layout.id() || row.cells.len() != width {
                return Err(wrong("has rows of different shapes"));
            }
        }
        let mut times = Vec::with_capacity(rows.len() * 4);
        for pair in rows.windows(2) {
            if let [before, after] = pair {
                put_varint(&mut times, zigzag(after.time_us.wrapping_sub(before.time_us)));
            }
        }
        let flags = pack_flags(rows);
        let (states, points) = pack_states(rows, width);
        let mut values = Vec::with_capacity(rows.len() * width * 4);
        for (at, column) in layout.columns().iter().enumerate() {
            for row in rows {
                if let Some(Cell::Good(value)) = row.cells.get(at)
                    && !put_value(&mut values, value, column.value_type)
                {
                    return Err(wrong("has a value of another type than its column"));
                }
            }
        }
        let unsynced = clock.unsynced.as_ref();
        let body = serde_cbor::to_vec(&BodyOut(
            clock.number,
            unsynced.map(|u| (Bytes::new(&u.boot_id.0), u.wall_minus_monotonic_us)),
            first.time_us,
            Bytes::new(&times),
            flags.as_deref().map(Bytes::new),
            states.as_deref().map(Bytes::new),
            Bytes::new(&values),
        ))
        .map_err(|_| wrong("cannot be written"))?;
        let rows = u32::try_from(rows.len()).map_err(|_| wrong("has too many rows"))?;
        let mut item = ChunkItem { first_seq, rows, points, layout: layout.id(), crc: 0, body: body.into() };
        item.crc = item.checksum();
        Ok(item)
    }

    /// Unpacks an item whose layout is known.
    ///
    /// *Errors*: [`DecodeError::Crc`] if the bytes changed on the way, [`DecodeError::Chunk`] if they do
    /// not hold what they announce.
    pub fn unpack(item: &ChunkItem, layout: &Arc<Layout>) -> Result<Self, DecodeError> {
        let first_seq = item.first_seq;
        let wrong = |what| DecodeError::Chunk { first_seq, what };
        if item.layout != layout.id() {
            return Err(DecodeError::MissingLayout { first_seq, layout: item.layout });
        }
        if item.crc != item.checksum() {
            return Err(DecodeError::Crc { first_seq });
        }
        let BodyIn(number, unsynced, start_us, deltas, flags, states, values) =
            serde_cbor::from_slice(&item.body).map_err(|_| wrong("has a body that is not a chunk's"))?;
        let rows = item.rows as usize;
        let width = layout.columns().len();
        // Every further row takes at least one byte of differences: this bounds all that follows.
        if rows == 0 || rows > CHUNK_MAX_ROWS || rows - 1 > deltas.len() {
            return Err(wrong("announces more rows than it holds"));
        }
        let unsynced = match unsynced {
            None => None,
            Some((boot, wall_minus_monotonic_us)) => Some(UnsyncedClock {
                boot_id: BootId(
                    boot.as_slice()
                        .try_into()
                        .map_err(|_| wrong("has a boot id of another length than 16"))?,
                ),
                wall_minus_monotonic_us,
            }),
        };
        if states.is_some_and(|s| Some(s.len()) != rows.checked_mul(width)) {
            return Err(wrong("has states of a wrong length"));
        }
        let times_us =
            unpack_times(start_us, rows, deltas).map_err(|_| wrong("has times of a wrong length"))?;
        let flags =
            unpack_flags(rows, flags.map(AsRef::as_ref)).ok_or(wrong("has flags of a wrong length"))?;
        let states = states.map(|s| s.to_vec());
        let columns = unpack_columns(layout, rows, states.as_deref(), values)
            .map_err(|_| wrong("has values of a wrong length"))?;
        let chunk = Self {
            first_seq,
            layout: Arc::clone(layout),
            clock: ClockSegment { number, unsynced },
            times_us,
            flags,
            states,
            columns,
        };
        if chunk.points() != item.points as usize {
            return Err(wrong("announces another number of points than it holds"));
        }
        Ok(chunk)
    }

    /// Gives the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times_us.len()
    }

    /// Tells whether there is no row; a packed chunk always has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times_us.is_empty()
    }

    /// Counts the points, good and bad.
    #[must_use]
    pub fn points(&self) -> usize {
        match &self.states {
            None => self.len() * self.columns.len(),
            Some(states) => states.iter().filter(|&&s| s != ABSENT).count(),
        }
    }

    /// Gives the states of a column, one byte for each row; `None` when every place is good.
    /// 0 good, 255 absent, else a quality's code.
    #[must_use]
    pub fn column_states(&self, column: usize) -> Option<&[u8]> {
        let rows = self.len();
        let start = column.checked_mul(rows)?;
        self.states.as_ref()?.get(start..start.checked_add(rows)?)
    }

    /// Gives one place.
    #[must_use]
    pub fn cell(&self, row: usize, column: usize) -> Cell {
        let state = self.column_states(column).and_then(|s| s.get(row)).copied().unwrap_or(0);
        match Quality::from_code(state) {
            None => Cell::Absent,
            Some(Quality::GOOD) => {
                self.columns.get(column).and_then(|c| c.value(row)).map_or(Cell::Absent, Cell::Good)
            }
            Some(quality) => Cell::Bad(quality),
        }
    }

    /// Gives one row; its sequence is `first_seq + row`.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<Row> {
        Some(Row {
            time_us: *self.times_us.get(row)?,
            flags: *self.flags.get(row)?,
            layout: Arc::clone(&self.layout),
            cells: (0..self.columns.len()).map(|column| self.cell(row, column)).collect(),
        })
    }

    /// Gives every row with its sequence.
    pub fn rows(&self) -> impl Iterator<Item = (u64, Row)> + '_ {
        (0..self.len()).filter_map(|at| Some((self.first_seq.wrapping_add(at as u64), self.row(at)?)))
    }
}

impl ChunkItem {
    /// Computes the checksum over layout, first sequence, rows, points and body.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        let mut crc = crc32c::crc32c(&self.layout.0.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &self.first_seq.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &self.rows.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &self.points.to_le_bytes());
        crc32c::crc32c_append(crc, &self.body)
    }
}

fn pack_flags(rows: &[Row]) -> Option<Vec<u8>> {
    if rows.iter().all(|row| row.flags == RowFlags::default()) {
        return None;
    }
    Some(rows.iter().flat_map(|row| row.flags.0.to_le_bytes()).collect())
}

fn unpack_flags(rows: usize, flags: Option<&[u8]>) -> Option<Vec<RowFlags>> {
    let Some(bytes) = flags else {
        return Some(vec![RowFlags::default(); rows]);
    };
    let (pairs, rest) = bytes.as_chunks::<2>();
    (pairs.len() == rows && rest.is_empty())
        .then(|| pairs.iter().map(|pair| RowFlags(u16::from_le_bytes(*pair))).collect())
}

/// Gives the states, or none if all are good, and the number of points.
fn pack_states(rows: &[Row], width: usize) -> (Option<Vec<u8>>, u32) {
    let mut states = Vec::with_capacity(rows.len() * width);
    for column in 0..width {
        states.extend(rows.iter().map(|row| match row.cells.get(column) {
            None | Some(Cell::Absent) => ABSENT,
            Some(Cell::Good(_)) => Quality::GOOD.code(),
            Some(Cell::Bad(quality)) => quality.code(),
        }));
    }
    let points = states.iter().filter(|&&s| s != ABSENT).count();
    let all_good = states.iter().all(|&s| s == Quality::GOOD.code());
    ((!all_good).then_some(states), u32::try_from(points).unwrap_or(u32::MAX))
}

fn put_value(out: &mut Vec<u8>, value: &Value, value_type: ValueType) -> bool {
    if value.value_type() != value_type {
        return false;
    }
    match value {
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::I64(v) => put_varint(out, zigzag(*v)),
        Value::U64(v) => put_varint(out, *v),
        Value::F32(v) => out.extend_from_slice(&v.to_bits().to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_bits().to_le_bytes()),
        Value::Text(v) => put_sized(out, v.as_bytes()),
        Value::Bytes(v) => put_sized(out, v),
        Value::Waveform(v) => put_waveform(out, v),
    }
    true
}

fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_waveform(out: &mut Vec<u8>, waveform: &Waveform) {
    out.extend_from_slice(&waveform.rate_hz.to_bits().to_le_bytes());
    out.push(match &waveform.samples {
        Samples::I16(_) => 1,
        Samples::F32(_) => 2,
        Samples::F64(_) => 3,
    });
    put_varint(out, waveform.samples.len() as u64);
    match &waveform.samples {
        Samples::I16(s) => s.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Samples::F32(s) => s.iter().for_each(|v| out.extend_from_slice(&v.to_bits().to_le_bytes())),
        Samples::F64(s) => s.iter().for_each(|v| out.extend_from_slice(&v.to_bits().to_le_bytes())),
    }
}

fn read_waveform(reader: &mut Reader<'_>) -> Result<Arc<Waveform>, Malformed> {
    let rate_hz = f64::from_bits(u64::from_le_bytes(reader.array()?));
    let format = reader.byte()?;
    let count = usize::try_from(reader.varint()?).map_err(|_| Malformed)?;
    let mut take = |width: usize| reader.take(count.checked_mul(width).ok_or(Malformed)?);
    let samples = match format {
        1 => Samples::I16(take(2)?.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b)).collect()),
        2 => Samples::F32(
            take(4)?.as_chunks().0.iter().map(|b| f32::from_bits(u32::from_le_bytes(*b))).collect(),
        ),
        3 => Samples::F64(
            take(8)?.as_chunks().0.iter().map(|b| f64::from_bits(u64::from_le_bytes(*b))).collect(),
        ),
        _ => return Err(Malformed),
    };
    Ok(Arc::new(Waveform { rate_hz, samples }))
}

fn unpack_times(start_us: i64, rows: usize, deltas: &[u8]) -> Result<Vec<i64>, Malformed> {
    let mut reader = Reader::new(deltas);
    let mut times = Vec::with_capacity(rows);
    let mut time = start_us;
    times.push(time);
    for _ in 1..rows {
        time = time.wrapping_add(unzigzag(reader.varint()?));
        times.push(time);
    }
    if reader.remaining() == 0 { Ok(times) } else { Err(Malformed) }
}

/// Reads one column: a value where the state is good, the default elsewhere.
fn unpack_column<T: Clone>(
    rows: usize,
    states: Option<&[u8]>,
    default: T,
    mut read: impl FnMut() -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let mut column = Vec::new();
    match states {
        None => {
            for _ in 0..rows {
                column.push(read()?);
            }
        }
        Some(states) => {
            for &state in states {
                column.push(if state == Quality::GOOD.code() { read()? } else { default.clone() });
            }
        }
    }
    Ok(column)
}

fn unpack_columns(
    layout: &Layout,
    rows: usize,
    states: Option<&[u8]>,
    values: &[u8],
) -> Result<Vec<Column>, Malformed> {
    let mut reader = Reader::new(values);
    let r = &mut reader;
    let mut columns = Vec::with_capacity(layout.columns().len());
    for (at, column) in layout.columns().iter().enumerate() {
        let states = match states {
            None => None,
            Some(all) => Some(all.get(at * rows..(at + 1) * rows).ok_or(Malformed)?),
        };
        columns.push(match column.value_type {
            ValueType::Bool => Column::Bool(unpack_column(rows, states, false, || match r.byte()? {
                0 => Ok(false),
                1 => Ok(true),
                _ => Err(Malformed),
            })?),
            ValueType::I64 => Column::I64(unpack_column(rows, states, 0, || r.varint().map(unzigzag))?),
            ValueType::U64 => Column::U64(unpack_column(rows, states, 0, || r.varint())?),
            ValueType::F32 => Column::F32(unpack_column(rows, states, 0.0, || {
                Ok(f32::from_bits(u32::from_le_bytes(r.array()?)))
            })?),
            ValueType::F64 => Column::F64(unpack_column(rows, states, 0.0, || {
                Ok(f64::from_bits(u64::from_le_bytes(r.array()?)))
            })?),
            ValueType::Text => Column::Text(unpack_column(rows, states, Arc::from(""), || {
                std::str::from_utf8(r.sized()?).map(Arc::from).map_err(|_| Malformed)
            })?),
            ValueType::Bytes => {
                Column::Bytes(unpack_column(rows, states, Arc::from([]), || r.sized().map(Arc::from))?)
            }
            ValueType::Waveform => {
                let empty = Arc::new(Waveform { rate_hz: 0.0, samples: Samples::F32(Vec::new()) });
                Column::Waveform(unpack_column(rows, states, empty, || read_waveform(r))?)
            }
        });
    }
    if reader.remaining() == 0 { Ok(columns) } else { Err(Malformed) }
}
