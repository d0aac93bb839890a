//! What the uplink is given next: births and losses, rows that pass through memory, rows that were given
//! back, then rows that were never handed out: of streams of this start that have nothing old waiting, of the
//! others of this start, and of earlier ones (D9). Pure functions of the state.

use std::ops::RangeInclusive;
use std::sync::Arc;

use millrace_protocol::{IntervalSet, Layout, StreamId};

use super::Position;
use super::entry::RowsHead;
use super::reader::Stored;
use super::state::State;

/// What `BufferReader::take` has so far.
pub(super) struct Basket {
    pub(super) taken: Vec<Stored>,
    pub(super) bytes: usize,
    pub(super) max_bytes: usize,
}

impl Basket {
    pub(super) fn is_full(&self) -> bool {
        !self.taken.is_empty() && self.bytes >= self.max_bytes
    }
}

pub(super) fn take_notices(state: &mut State, basket: &mut Basket) {
    for (&number, notice) in &mut state.notices {
        if basket.is_full() {
            return;
        }
        let Some(stream) = state.streams.get(&notice.stream).filter(|_| !notice.in_flight) else { continue };
        let Some(item) = notice.encode() else { continue };
        notice.in_flight = true;
        basket.bytes += item.len();
        basket.taken.push(Stored {
            position: Position::Notice(number),
            stream: stream.id.clone(),
            seq: None,
            rows: 0,
            points: 0,
            newest_us: None,
            item,
            layout: None,
        });
    }
}

pub(super) fn take_passing(state: &mut State, basket: &mut Basket) {
    for (&number, passing) in &mut state.passing {
        if basket.is_full() {
            return;
        }
        let Some(stream) = state.streams.get(&passing.head.stream).filter(|_| !passing.in_flight) else {
            continue;
        };
        passing.in_flight = true;
        basket.bytes += passing.item.len();
        let (item, layout) = (passing.item.clone(), passing.layout.clone());
        basket.taken.push(stored(Position::Passing(number), stream.id.clone(), &passing.head, item, layout));
    }
}

pub(super) fn stored(
    position: Position,
    stream: StreamId,
    head: &RowsHead,
    item: Vec<u8>,
    layout: Option<Arc<Layout>>,
) -> Stored {
    Stored {
        position,
        stream,
        seq: Some((head.first_seq, head.last_seq())),
        rows: head.rows,
        points: head.points,
        newest_us: Some(head.newest_us),
        item,
        layout,
    }
}

/// Rows that are read in order, beside the others: every stream is of one epoch, so that all of its rows
/// stand in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Rows of this start: nothing older of their streams waits elsewhere.
    Live,
    /// Rows that earlier starts left.
    Backlog,
}

/// For each lane the next entry to hand out for the first time.
#[derive(Debug)]
pub(super) struct Cursors {
    /// The first entry of this start.
    pub(super) first_live: u64,
    pub(super) backlog: u64,
    pub(super) live: u64,
}

impl Cursors {
    pub(super) const fn of(&mut self, lane: Lane) -> &mut u64 {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Backlog => &mut self.backlog,
        }
    }
}

/// Entries of one segment that may be read next.
pub(super) struct NextRange {
    pub(super) segment: u64,
    pub(super) range: RangeInclusive<u64>,
    /// Entries in it that are acknowledged.
    pub(super) skip: IntervalSet,
    /// Whose cursor follows; `None` for what was given back.
    pub(super) lane: Option<Lane>,
}

/// Finds what was given back and is to be read again.
pub(super) fn next_given_back(state: &mut State) -> Option<NextRange> {
    while let Some(&entry) = state.given_back.first() {
        let sound =
            state.segment_of(entry).filter(|f| state.segments.get(f).is_some_and(|s| s.damaged.is_none()));
        if let Some(segment) = sound {
            return Some(NextRange { segment, range: entry..=entry, skip: IntervalSet::new(), lane: None });
        }
        state.given_back.remove(&entry);
    }
    None
}

/// Finds an entry that goes ahead of those before it.
pub(super) fn next_overtaking(state: &State, entry: u64) -> Option<NextRange> {
    let segment = state.segment_of(entry)?;
    state.segments.get(&segment).filter(|s| s.damaged.is_none())?;
    Some(NextRange { segment, range: entry..=entry, skip: IntervalSet::new(), lane: None })
}

/// Finds what of a lane was never handed out.
pub(super) fn next_fresh(state: &mut State, lane: Lane) -> Option<NextRange> {
    let end = match lane {
        Lane::Live if state.is_live_held => return None,
        Lane::Live => u64::MAX,
        Lane::Backlog => state.cursors.first_live.saturating_sub(1),
    };
    loop {
        let cursor = *state.cursors.of(lane);
        let (&first, segment) = match state.segment_of(cursor) {
            Some(first) => state.segments.get_key_value(&first)?,
            None => state.segments.range(cursor..).next()?,
        };
        let (from, last) = (cursor.max(first), segment.last.min(end));
        if from > end {
            return None;
        }
        if segment.damaged.is_some() || segment.last < first {
            *state.cursors.of(lane) = segment.last.max(first) + 1;
            continue;
        }
        let mut left = state.acknowledged.missing_in(from..=last);
        // Some went ahead of their turn.
        let in_hands = state.in_flight.range(from..=last).map(|(&entry, _)| entry);
        let handed_out = state.given_back.range(from..=last).copied().chain(in_hands);
        handed_out.chain(state.refused.keys().copied()).for_each(|entry| left.remove(entry..=entry));
        let Some(from) = left.ranges().next().map(|r| *r.start()) else {
            *state.cursors.of(lane) = last + 1;
            continue;
        };
        let range = from..=last;
        let skip = left.missing_in(range.clone());
        return Some(NextRange { segment: first, range, skip, lane: Some(lane) });
    }
}
