//! The uplink's side of the buffer: what waits is taken, then acknowledged, given back or refused.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use millrace_protocol::{IntervalSet, Layout, LayoutId, LossReason, StreamId};

use super::entry::{Entry, RowsHead};
use super::open::segment_folder;
use super::pick::{
    Basket, Lane, NextRange, next_fresh, next_given_back, next_overtaking, stored, take_notices, take_passing,
};
use super::segment::{Kind, Segment};
use super::state::{Flight, State};
use super::{BufferError, Position, Shared};
use crate::books::Books;

/// Something of one stream that Kafka does not have yet.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Names it in [`BufferReader::acknowledge`] and its kin.
    pub position: Position,
    /// Whose it is.
    pub stream: StreamId,
    /// First and last sequence, if it has rows; births and losses have none.
    pub seq: Option<(u64, u64)>,
    /// Rows in it.
    pub rows: u64,
    /// Points in it.
    pub points: u64,
    /// Event time of its newest row. *Units*: microseconds since 1970-01-01 UTC.
    pub newest_us: Option<i64>,
    /// The item's bytes ([`millrace_protocol::Item::encode`]).
    pub item: Vec<u8>,
    /// What a chunk's columns stand for.
    pub layout: Option<Arc<Layout>>,
}

/// What the buffer knows of a stream, on disk and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// The stream.
    pub stream: StreamId,
    /// Whether it belongs to the running process's epoch.
    pub is_current: bool,
    /// The last sequence on disk: `numbered` of record headers and progress.
    pub numbered: u64,
    /// Rows on disk that are not acknowledged, in flight or not.
    pub waiting_rows: u64,
    /// Births and losses that are not acknowledged, in flight or not.
    pub waiting_notices: u64,
    /// Event time of the newest row. *Units*: microseconds since 1970-01-01 UTC.
    pub newest_us: Option<i64>,
}

/// How the buffer fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BufferHealth {
    /// Why rows pass through memory only (dead disk); `None` when all is well.
    pub pass_through: Option<String>,
    /// Segments on disk.
    pub segments: u64,
    /// Bytes on disk, all told.
    pub disk_bytes: u64,
    /// Segments that were set aside as damaged since the process started.
    pub set_aside_segments: u64,
    /// When rows last gave way because the buffer was full, since the process started.
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub gave_way_us: Option<i64>,
    /// Rows on disk that are not acknowledged.
    pub waiting_rows: u64,
    /// Flushes since the process started; systemd's watchdog is fed by it.
    pub flushes: u64,
}

/// The uplink's handle. Clones share one cursor: what one takes, no other does.
#[derive(Debug, Clone)]
pub struct BufferReader {
    pub(super) shared: Arc<Shared>,
}

impl BufferReader {
    /// Takes items that were not handed out yet, at least one if any waits, until they have `max_bytes`.
    ///
    /// Births and losses come first, then what was given back, then rows of this start, then those of
    /// earlier starts, which are left half of the room and have at least one item (D9); each oldest first
    /// and of one stream in order. Among those of this start, streams that have nothing old waiting go ahead
    /// of the others, with half of the room. Blocks on the disk: call it outside the async runtime's threads.
    #[must_use]
    pub fn take(&self, max_bytes: usize) -> Vec<Stored> {
        let gate = self.shared.gate();
        let mut basket = Basket { taken: Vec::new(), bytes: 0, max_bytes };
        let has_backlog = {
            let mut state = self.shared.lock();
            take_notices(&mut state, &mut basket);
            take_passing(&mut state, &mut basket);
            next_fresh(&mut state, Lane::Backlog).is_some()
        };
        self.fill(&mut basket, next_given_back);
        let before = basket.taken.len();
        self.overtake(&mut basket);
        let max_bytes = basket.max_bytes;
        if has_backlog {
            basket.max_bytes = basket.bytes + max_bytes.saturating_sub(basket.bytes) / 2;
        }
        self.fill(&mut basket, |state| next_fresh(state, Lane::Live));
        let is_shared = has_backlog && basket.taken.len() > before;
        basket.max_bytes = max_bytes.max(if is_shared { basket.bytes + 1 } else { 0 });
        self.fill(&mut basket, |state| next_fresh(state, Lane::Backlog));
        basket.max_bytes = max_bytes;
        // Room that the end of the backlog left over.
        self.fill(&mut basket, |state| next_fresh(state, Lane::Live));
        {
            let mut state = self.shared.lock();
            if state.cursors.live > state.durable {
                state.unsent.clear();
            }
        }
        self.shared.close_idle();
        drop(gate);
        basket.taken
    }

    /// Takes rows of streams that have nothing old waiting; whoever is behind has the rest of the room, and one
    /// item at least.
    fn overtake(&self, basket: &mut Basket) {
        let entries = {
            let state = self.shared.lock();
            // The clock of this start's rows is not set (D8).
            if state.is_live_held { Vec::new() } else { state.unsent.overtaking(state.cursors.live) }
        };
        let (max_bytes, before) = (basket.max_bytes, basket.taken.len());
        basket.max_bytes = basket.bytes + max_bytes.saturating_sub(basket.bytes) / 2;
        for entry in entries {
            let next = next_overtaking(&self.shared.lock(), entry);
            let Some(next) = next.filter(|_| !basket.is_full()) else { break };
            if let Err(error) = self.take_range(&next, basket) {
                self.trouble(next.segment, &error);
                break;
            }
        }
        let is_shared = basket.taken.len() > before;
        basket.max_bytes = max_bytes.max(if is_shared { basket.bytes + 1 } else { 0 });
    }

    /// Reads what `next` names until the basket is full or there is nothing more.
    fn fill(&self, basket: &mut Basket, next: fn(&mut State) -> Option<NextRange>) {
        while !basket.is_full() {
            let Some(next) = next(&mut self.shared.lock()) else { break };
            if let Err(error) = self.take_range(&next, basket) {
                self.trouble(next.segment, &error);
                if !matches!(error, BufferError::Damaged { .. }) {
                    break;
                }
            }
        }
    }

    /// Reads entries of one segment; what was read counts as handed out.
    fn take_range(&self, next: &NextRange, basket: &mut Basket) -> Result<(), BufferError> {
        let segment = self.open(next.segment)?;
        let (mut read, mut without_rows) = (Vec::new(), Vec::new());
        let (mut expected, mut bytes) = (*next.range.start(), basket.bytes);
        let mut is_damaged = false;
        segment.entries(next.range.clone(), |number, entry| {
            is_damaged = number != expected;
            expected = number + 1;
            if is_damaged || next.skip.contains(number) {
                return !is_damaged;
            }
            match Entry::read(entry) {
                Some(Entry::Rows(head, item)) => {
                    bytes += item.len();
                    read.push((number, head, item.to_vec()));
                }
                // A note that is not acknowledged stands where rows stood: the books will lack them.
                Some(Entry::Note(_)) => without_rows.push(number),
                None => is_damaged = true,
            }
            !is_damaged && bytes < basket.max_bytes
        })?;
        let is_short = expected <= *next.range.end() && bytes < basket.max_bytes;
        let mut layouts = BTreeMap::new();
        for id in read.iter().filter_map(|(_, head, _)| head.layout) {
            layouts.insert(id, self.layout(&segment, id)?);
        }
        let mut state = self.shared.lock();
        for (number, head, item) in read {
            let layout = head.layout.and_then(|id| layouts.get(&id).cloned());
            let Some(stream) = state.streams.get(&head.stream) else { continue };
            basket.bytes += item.len();
            basket.taken.push(stored(Position::Entry(number), stream.id.clone(), &head, item, layout));
            state.in_flight.insert(number, Flight { head });
            if !state.given_back.remove(&number) {
                state.unsent.handed_out(number, head.stream);
            }
        }
        if is_damaged || is_short {
            drop(state);
            return Err(BufferError::Damaged {
                path: segment_folder(&self.shared.folder, next.segment),
                what: format!(
                    "entry {} is missing or not readable",
                    expected.saturating_sub(u64::from(is_damaged))
                ),
            });
        }
        without_rows.into_iter().for_each(|number| state.acknowledged.insert(number..=number));
        if let Some(lane) = next.lane {
            let cursor = state.cursors.of(lane);
            *cursor = expected.max(*cursor);
        }
        if next.lane.is_none() {
            // A note, or what was acknowledged in the meantime, is done with.
            state.given_back.retain(|number| !next.range.contains(number));
        }
        Ok(())
    }

    fn layout(&self, segment: &Segment, id: LayoutId) -> Result<Arc<Layout>, BufferError> {
        if let Some(layout) = self.shared.lock().layouts.get(&id) {
            return Ok(Arc::clone(layout));
        }
        let bytes = segment.name(Kind::Layout, id.0)?.unwrap_or_default();
        let layout = Layout::decode(&bytes).ok().filter(|layout| layout.id() == id).map(Arc::new);
        let layout = layout.ok_or_else(|| BufferError::Damaged {
            path: self.shared.folder.clone(),
            what: format!("layout {id} is missing"),
        })?;
        self.shared.lock().remember_layout(&layout);
        Ok(layout)
    }

    fn open(&self, first: u64) -> Result<Segment, BufferError> {
        let open = self.shared.lock().segments.get(&first).and_then(|s| s.open.clone());
        if let Some(segment) = open {
            return Ok(segment);
        }
        let segment = Segment::open(&self.shared.disk, &segment_folder(&self.shared.folder, first))?;
        if let Some(state) = self.shared.lock().segments.get_mut(&first) {
            state.open = Some(segment.clone());
        }
        Ok(segment)
    }

    /// Notes what is wrong with a segment; the writer sets a damaged one aside.
    fn trouble(&self, first: u64, error: &BufferError) {
        tracing::warn!(%error, "a segment cannot be read");
        let mut state = self.shared.lock();
        let Some(segment) = state.segments.get_mut(&first) else { return };
        match error {
            BufferError::Damaged { what, .. } => segment.damaged = Some(what.clone()),
            _ => {
                let open = segment.open.take();
                drop(state);
                open.into_iter().for_each(Segment::close);
            }
        }
    }

    /// Forgets items that Kafka has.
    pub fn acknowledge(&self, positions: &[Position]) {
        let mut state = self.shared.lock();
        for &position in positions {
            match position {
                Position::Notice(number) => state.settle_notice(number),
                Position::Passing(number) => {
                    if let Some(passing) = state.passing.remove(&number) {
                        state.count_acknowledged(&passing.head);
                        state.release(&passing.done);
                    }
                }
                Position::Entry(number) => {
                    if let Some(flight) = state.in_flight.remove(&number) {
                        state.settle(number, &flight.head);
                        state.count_acknowledged(&flight.head);
                    }
                }
            }
        }
    }

    /// Hands items out again: what became of them is not known.
    pub fn give_back(&self, positions: &[Position]) {
        let mut state = self.shared.lock();
        for &position in positions {
            match position {
                Position::Notice(number) => {
                    if let Some(notice) = state.notices.get_mut(&number) {
                        notice.in_flight = false;
                    }
                }
                Position::Passing(number) => {
                    if let Some(passing) = state.passing.get_mut(&number) {
                        passing.in_flight = false;
                    }
                }
                Position::Entry(number) => {
                    if state.in_flight.remove(&number).is_some() {
                        state.given_back.insert(number);
                    }
                }
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Turns rows that will never be accepted into a loss of their stream; durable with the next flush. A birth
    /// or a loss stays: nothing else says what it says (D4), and it is handed out again.
    pub fn refuse(&self, position: Position, reason: LossReason) {
        let mut state = self.shared.lock();
        match position {
            Position::Notice(number) => {
                if let Some(notice) = state.notices.get_mut(&number) {
                    notice.in_flight = false;
                }
            }
            Position::Passing(number) => {
                if let Some(passing) = state.passing.remove(&number) {
                    let head = passing.head;
                    state.fold_loss(head.stream, reason, head.first_seq..=head.last_seq(), head.points);
                    // It would be refused again: the broker need not send it a second time.
                    state.release(&passing.done);
                }
            }
            Position::Entry(number) => {
                if let Some(flight) = state.in_flight.remove(&number) {
                    state.refused.insert(number, (flight, reason));
                }
            }
        }
    }

    /// Waits until something may be there to take. *Cancel safety*: cancel safe; a change between two
    /// calls is not missed. One task waits at a time.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Gives the state of every stream that the buffer knows, in the order in which they began.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamState> {
        let state = self.shared.lock();
        let (epoch, waiting) = (state.epoch, state.waiting());
        let one = |(number, stream): (&u32, &super::state::Stream)| StreamState {
            stream: stream.id.clone(),
            is_current: stream.id.epoch == epoch,
            numbered: stream.numbered.rows,
            waiting_rows: waiting.get(number).map_or(0, |waiting| waiting.rows),
            waiting_notices: stream.notices,
            newest_us: stream.newest_us,
        };
        state.streams.iter().map(one).collect()
    }

    /// Gives a stream's last sequence on disk, 0 if it has none.
    #[must_use]
    pub fn numbered(&self, stream: &StreamId) -> u64 {
        let state = self.shared.lock();
        let number = state.by_id.get(stream);
        number.and_then(|n| state.streams.get(n)).map_or(0, |s| s.numbered.rows)
    }

    /// Gives the wall time up to which everything that the sources handed over is on disk.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn settled_us(&self) -> Option<i64> {
        self.shared.lock().settled_us
    }

    /// Gives the books of the last flush.
    #[must_use]
    pub fn books(&self) -> Books {
        self.shared.lock().books()
    }

    /// Says how the buffer fares.
    #[must_use]
    pub fn health(&self) -> BufferHealth {
        let state = self.shared.lock();
        BufferHealth {
            pass_through: state.pass_through.clone(),
            segments: state.segments.len() as u64,
            disk_bytes: state.segments.values().map(|s| s.disk_bytes).sum(),
            set_aside_segments: state.set_aside_segments,
            gave_way_us: state.gave_way_us,
            waiting_rows: state.waiting().values().map(|waiting| waiting.rows).sum(),
            flushes: state.flushes,
        }
    }
}

/// Reads the heads of the rows that are in a set, with the numbers of their entries.
///
/// *Errors*: [`BufferError::Damaged`] if an entry is missing or not readable.
pub(super) fn heads(
    segment: &Segment,
    range: RangeInclusive<u64>,
    wanted: &IntervalSet,
) -> Result<Vec<(u64, RowsHead)>, BufferError> {
    let mut heads = Vec::new();
    let (mut expected, mut is_whole) = (*range.start(), true);
    let last = *range.end();
    segment.entries(range, |number, entry| {
        is_whole = number == expected;
        expected = number + 1;
        match Entry::read(entry) {
            Some(Entry::Rows(head, _)) if wanted.contains(number) => heads.push((number, head)),
            Some(_) => {}
            None => is_whole = false,
        }
        is_whole
    })?;
    if is_whole && expected > last {
        Ok(heads)
    } else {
        Err(BufferError::Damaged { path: Default::default(), what: format!("entry {expected} is missing") })
    }
}
