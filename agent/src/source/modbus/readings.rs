//! A device's cells on their way into rows: which are worth reporting, and what was counted (D14).
//!
//! Invariant: `due = good + bad + skipped` and `good + bad = suppressed + points in rows`, for every
//! delivery by itself. A row's layout depends on the configuration alone, never on what was read.

use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::{
    Category, Cell, ClockSegment, Layout, LayoutColumn, MachineName, Quality, Row, RowFlags, StreamRow, Value,
};

use super::decode::{Decoder, Reply, as_f64};
use super::plan::Request;
use crate::config::{DEFAULT_MAX_INTERVAL, Device, Tag};
use crate::delivery::{Delivery, SourceCounts};

/// The cells of a device's running cycle.
pub(super) struct Readings {
    machine: MachineName,
    streams: Vec<Columns>,
    tags: Vec<TagState>,
    counts: SourceCounts,
    last_segment: Option<u32>,
}

/// The row in the making of one category.
struct Columns {
    category: Category,
    layout: Arc<Layout>,
    cells: Vec<Cell>,
    points: usize,
}

struct TagState {
    decoder: Decoder,
    address: u16,
    stream: usize,
    column: usize,
    gate: Gate,
}

impl Readings {
    pub(super) fn new(device: &Device) -> Self {
        let mut streams: Vec<(Category, Vec<LayoutColumn>)> = Vec::new();
        let mut tags = Vec::with_capacity(device.tags.len());
        for tag in &device.tags {
            let known = streams.iter().position(|(category, _)| *category == tag.category);
            let stream = known.unwrap_or(streams.len());
            if known.is_none() {
                streams.push((tag.category.clone(), Vec::new()));
            }
            let Some((_, columns)) = streams.get_mut(stream) else { continue };
            let decoder = Decoder::new(Arc::clone(tag));
            let column = columns.len();
            columns.push(LayoutColumn { tag: Arc::clone(&tag.name), value_type: decoder.value_type() });
            tags.push(TagState { decoder, address: tag.address, stream, column, gate: Gate::new(tag) });
        }
        let streams = streams.into_iter().map(|(category, columns)| Columns {
            category,
            cells: vec![Cell::Absent; columns.len()],
            layout: Arc::new(Layout::new(columns)),
            points: 0,
        });
        Self {
            machine: device.machine.clone(),
            streams: streams.collect(),
            tags,
            counts: SourceCounts::default(),
            last_segment: None,
        }
    }

    /// Takes what a reply says about the tags of its request.
    pub(super) fn take(&mut self, request: &Request, reply: &Reply, at: Duration) {
        for &place in &request.tags {
            let Some(tag) = self.tags.get(place) else { continue };
            let offset = usize::from(tag.address.saturating_sub(request.address));
            let cell = tag.decoder.cell(reply, offset);
            self.put(place, cell, at);
        }
    }

    /// Gives every tag of a request the same bad quality.
    pub(super) fn fail(&mut self, request: &Request, quality: Quality, at: Duration) {
        for &place in &request.tags {
            self.put(place, Cell::Bad(quality), at);
        }
    }

    fn put(&mut self, place: usize, cell: Cell, at: Duration) {
        let Some(tag) = self.tags.get_mut(place) else { return };
        self.counts.due += 1;
        match &cell {
            Cell::Good(_) => self.counts.good += 1,
            Cell::Bad(_) | Cell::Absent => self.counts.bad += 1,
        }
        let columns = self.streams.get_mut(tag.stream);
        let slot = columns.and_then(|c| c.cells.get_mut(tag.column).map(|slot| (slot, &mut c.points)));
        match slot {
            Some((slot, points)) if tag.gate.lets_through(&cell, at) => {
                *slot = cell;
                *points += 1;
            }
            _ => self.counts.suppressed += 1,
        }
    }

    /// Counts cycles that fell into a running poll.
    pub(super) fn skip(&mut self, cycles: u64) {
        let points = cycles.saturating_mul(self.tags.len() as u64);
        self.counts.due += points;
        self.counts.skipped += points;
    }

    /// Ends the cycle: everything that passed its gate, in a row for each category, at one instant.
    pub(super) fn deliver(&mut self, time_us: i64, clock: ClockSegment) -> Delivery {
        let flags = self.flags(clock);
        let mut rows = Vec::with_capacity(self.streams.len());
        for stream in &mut self.streams {
            if std::mem::take(&mut stream.points) == 0 {
                continue;
            }
            let empty = vec![Cell::Absent; stream.cells.len()];
            let cells = std::mem::replace(&mut stream.cells, empty);
            let row = Row { time_us, flags, layout: Arc::clone(&stream.layout), cells };
            rows.push(StreamRow { machine: self.machine.clone(), category: stream.category.clone(), row });
        }
        Delivery {
            rows,
            raw: None,
            counts: vec![(self.machine.clone(), std::mem::take(&mut self.counts))],
            clock,
            new_tags: Vec::new(),
            publish: None,
        }
    }

    fn flags(&mut self, clock: ClockSegment) -> RowFlags {
        let has_stepped = self.last_segment.replace(clock.number).is_some_and(|last| last != clock.number);
        let stepped = if has_stepped { RowFlags::CLOCK_STEPPED } else { RowFlags::default() };
        let unsynced = if clock.unsynced.is_some() { RowFlags::CLOCK_UNSYNCED } else { RowFlags::default() };
        stepped.union(unsynced)
    }
}

/// Decides which of a tag's points are reported.
struct Gate {
    /// `None`: every good point.
    by_exception: Option<f64>,
    max_interval: Duration,
    /// The last point that was reported, and when.
    last: Option<(Cell, Duration)>,
}

impl Gate {
    fn new(tag: &Tag) -> Self {
        Self {
            // Without a deadband, `max_interval` lets every change through.
            by_exception: tag.deadband.or(tag.max_interval.map(|_| 0.0)),
            max_interval: tag.max_interval.unwrap_or(DEFAULT_MAX_INTERVAL),
            last: None,
        }
    }

    /// Tells whether a point is reported, and remembers it if so. `at` is the time of the cycle on a
    /// clock that never steps.
    fn lets_through(&mut self, cell: &Cell, at: Duration) -> bool {
        let is_news = match (&self.last, cell) {
            (None, _) => true,
            (Some((_, since)), _) if at.saturating_sub(*since) >= self.max_interval => true,
            (Some((Cell::Good(last), _)), Cell::Good(value)) => {
                self.by_exception.is_none_or(|deadband| differs(last, value, deadband))
            }
            (Some((last, _)), cell) => last != cell,
        };
        if is_news {
            self.last = Some((cell.clone(), at));
        }
        is_news
    }
}

/// Tells whether a value lies further from the last one than the deadband.
fn differs(last: &Value, value: &Value, deadband: f64) -> bool {
    if last.same_bits(value) {
        return false;
    }
    let distance = match (last, value) {
        // Doubles do not tell neighbouring large integers apart.
        (Value::U64(last), Value::U64(value)) => last.abs_diff(*value) as f64,
        (Value::I64(last), Value::I64(value)) => last.abs_diff(*value) as f64,
        (Value::F32(_) | Value::F64(_), Value::F32(_) | Value::F64(_)) => {
            match as_f64(last).zip(as_f64(value)) {
                Some((last, value)) => (last - value).abs(),
                None => return true,
            }
        }
        _ => return true,
    };
    // A NaN is a change: it is no number that lies near another.
    distance.is_nan() || distance > deadband
}

#[cfg(test)]
mod tests;
