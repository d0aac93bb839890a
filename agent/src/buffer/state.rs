//! What writer and reader share: counters, positions and notices, all in memory.
//!
//! Everything durable in it is the manifest plus a fold over the entries after it (`fold`).
//! Invariant: for every stream `numbered = acknowledged + dropped + set_aside + waiting` (D14); each term is
//! counted by itself, so that a row that disappears breaks it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use millrace_protocol::{
    AgentId, BootId, Category, Epoch, IntervalSet, Layout, LayoutId, LossReason, MachineName, StreamId,
};
use serde::{Deserialize, Serialize};

use super::entry::RowsHead;
use super::notice::Notice;
use super::pass::Done;
use super::pick::Cursors;
use super::segment::Segment;
use super::unsent::Unsent;
use crate::delivery::SourceCounts;

/// Finished streams that stay in the books, for each machine and category; older ones are folded away.
const FINISHED_KEPT: usize = 4;
/// Layouts kept in memory; beyond it the cache begins anew.
const LAYOUTS_KEPT: usize = 4096;
/// The largest `receive_maximum` that MQTT knows, twice (D5: the last two windows).
const HASHES_KEPT: usize = 2 * 65_535;

/// Rows and points of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Amount {
    pub(super) rows: u64,
    pub(super) points: u64,
}

impl Amount {
    pub(super) const fn add(&mut self, other: Self) {
        self.rows = self.rows.saturating_add(other.rows);
        self.points = self.points.saturating_add(other.points);
    }

    pub(super) const fn less(self, other: Self) -> Self {
        Self { rows: self.rows.saturating_sub(other.rows), points: self.points.saturating_sub(other.points) }
    }

    pub(super) fn at_most(self, other: Self) -> Self {
        Self { rows: self.rows.min(other.rows), points: self.points.min(other.points) }
    }
}

/// A stream's part of the books.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// `rows` is the last sequence.
    pub(super) numbered: Amount,
    /// As known now.
    pub(super) acknowledged: Amount,
    /// As the last flush or manifest says.
    pub(super) acknowledged_durable: Amount,
    pub(super) dropped: Amount,
    pub(super) set_aside: Amount,
    pub(super) newest_us: Option<i64>,
    /// Births and losses that are not acknowledged.
    pub(super) notices: u64,
}

impl Stream {
    /// Gives the sum over everything that may become of a row.
    pub(super) const fn accounted(&self, waiting: Amount) -> Amount {
        let mut sum = waiting;
        sum.add(self.acknowledged);
        sum.add(self.dropped);
        sum.add(self.set_aside);
        sum
    }
}

/// What a segment holds of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) total: Amount,
    pub(super) waiting: Amount,
}

/// A segment in memory; its key is its first entry.
#[derive(Debug, Default)]
pub(super) struct SegmentState {
    /// The last durable entry; `first - 1` while there is none.
    pub(super) last: u64,
    pub(super) contents: BTreeMap<u32, Contents>,
    pub(super) open: Option<Segment>,
    pub(super) disk_bytes: u64,
    /// Why it must be set aside.
    pub(super) damaged: Option<String>,
}

impl SegmentState {
    pub(super) fn waiting_rows(&self) -> u64 {
        self.contents.values().map(|c| c.waiting.rows).sum()
    }
}

/// Rows that the uplink holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) head: RowsHead,
}

/// A machine's part of the books.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Source {
    pub(super) counts: SourceCounts,
    pub(super) numbered: u64,
}

/// Rows that pass through memory because the disk is dead (D9).
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) head: RowsHead,
    pub(super) item: Vec<u8>,
    pub(super) layout: Option<Arc<Layout>>,
    pub(super) in_flight: bool,
    /// The [`Done`]s that wait for it: of its own group, and of publishes that came again meanwhile.
    pub(super) done: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) agent: AgentId,
    pub(super) epoch: Epoch,
    pub(super) streams: BTreeMap<u32, Stream>,
    pub(super) by_id: HashMap<StreamId, u32>,
    pub(super) next_stream: u32,
    /// The newest birth of each machine and category.
    pub(super) births: BTreeMap<(MachineName, Category), Vec<u8>>,
    pub(super) sources: BTreeMap<MachineName, Source>,
    pub(super) segments: BTreeMap<u64, SegmentState>,
    pub(super) notices: BTreeMap<u64, Notice>,
    pub(super) next_notice: u64,
    pub(super) acknowledged: IntervalSet,
    /// Streams with acknowledgements that no flush has seen.
    pub(super) unsaved: BTreeSet<u32>,
    pub(super) in_flight: BTreeMap<u64, Flight>,
    pub(super) given_back: BTreeSet<u64>,
    /// Refused by Kafka; the next flush makes losses of them.
    pub(super) refused: BTreeMap<u64, (Flight, LossReason)>,
    pub(super) cursors: Cursors,
    pub(super) unsent: Unsent,
    /// Rows of this start are not handed out: the clock is not set (D8).
    pub(super) is_live_held: bool,
    /// The boot whose rows wait for a correction of the clock.
    pub(super) unset_boot: Option<BootId>,
    /// Last durable entry.
    pub(super) durable: u64,
    pub(super) layouts: HashMap<LayoutId, Arc<Layout>>,
    pub(super) hashes: BTreeMap<u64, VecDeque<u64>>,
    pub(super) hashes_kept: usize,
    pub(super) redelivered: u64,
    pub(super) last_flushed_us: Option<i64>,
    /// What the last flush said to be on disk whole, by time; the previous process's at start.
    pub(super) settled_durable_us: Option<i64>,
    pub(super) settled_us: Option<i64>,
    pub(super) flushes: u64,
    pub(super) set_aside_segments: u64,
    /// When rows last gave way at the cap, since the process started.
    pub(super) gave_way_us: Option<i64>,
    pub(super) pass_through: Option<String>,
    pub(super) passing: BTreeMap<u64, Passing>,
    pub(super) next_passing: u64,
    /// Publishes that are confirmed when rows that pass through memory are in Kafka.
    pub(super) done: BTreeMap<u64, Done>,
    pub(super) next_done: u64,
}

impl State {
    pub(super) fn new(agent: AgentId, epoch: Epoch) -> Self {
        Self {
            agent,
            epoch,
            streams: BTreeMap::new(),
            by_id: HashMap::new(),
            next_stream: 1,
            births: BTreeMap::new(),
            sources: BTreeMap::new(),
            segments: BTreeMap::new(),
            notices: BTreeMap::new(),
            next_notice: 1,
            acknowledged: IntervalSet::new(),
            unsaved: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            given_back: BTreeSet::new(),
            refused: BTreeMap::new(),
            is_live_held: false,
            unset_boot: None,
            cursors: Cursors { first_live: 1, backlog: 1, live: 1 },
            unsent: Unsent::default(),
            durable: 0,
            layouts: HashMap::new(),
            hashes: BTreeMap::new(),
            hashes_kept: HASHES_KEPT,
            redelivered: 0,
            last_flushed_us: None,
            settled_durable_us: None,
            settled_us: None,
            flushes: 0,
            set_aside_segments: 0,
            gave_way_us: None,
            pass_through: None,
            passing: BTreeMap::new(),
            next_passing: 1,
            done: BTreeMap::new(),
            next_done: 1,
        }
    }

    /// Gives a stream's number, a new one if it is new.
    pub(super) fn stream_number(&mut self, id: &StreamId) -> u32 {
        if let Some(&number) = self.by_id.get(id) {
            return number;
        }
        let number = self.next_stream;
        self.insert_stream(number, id.clone());
        number
    }

    pub(super) fn insert_stream(&mut self, number: u32, id: StreamId) {
        self.next_stream = self.next_stream.max(number.saturating_add(1));
        self.by_id.insert(id.clone(), number);
        self.streams.entry(number).or_insert(Stream {
            id,
            numbered: Amount::default(),
            acknowledged: Amount::default(),
            acknowledged_durable: Amount::default(),
            dropped: Amount::default(),
            set_aside: Amount::default(),
            newest_us: None,
            notices: 0,
        });
    }

    /// Gives the newest stream of a machine and category that belongs to an earlier start.
    pub(super) fn previous(&self, machine: &MachineName, category: &Category) -> Option<&Stream> {
        self.streams
            .values()
            .rev()
            .find(|s| s.id.epoch != self.epoch && &s.id.machine == machine && &s.id.category == category)
    }

    pub(super) fn push_notice(&mut self, notice: Notice) {
        let Some(stream) = self.streams.get_mut(&notice.stream) else { return };
        stream.notices += 1;
        self.notices.insert(self.next_notice, notice);
        self.next_notice += 1;
    }

    /// Takes a notice off the list: Kafka has it.
    pub(super) fn settle_notice(&mut self, number: u64) {
        if let Some(notice) = self.notices.remove(&number)
            && let Some(stream) = self.streams.get_mut(&notice.stream)
        {
            stream.notices = stream.notices.saturating_sub(1);
        }
    }

    /// Finds the segment that holds an entry.
    pub(super) fn segment_of(&self, entry: u64) -> Option<u64> {
        let (&first, state) = self.segments.range(..=entry).next_back()?;
        (entry <= state.last).then_some(first)
    }

    /// Takes an entry out of what waits.
    pub(super) fn settle(&mut self, entry: u64, head: &RowsHead) {
        self.acknowledged.insert(entry..=entry);
        let Some(first) = self.segment_of(entry) else { return };
        let contents = self.segments.get_mut(&first).and_then(|s| s.contents.get_mut(&head.stream));
        if let Some(contents) = contents {
            contents.waiting = contents.waiting.less(Amount { rows: head.rows, points: head.points });
        }
    }

    pub(super) fn remember_layout(&mut self, layout: &Arc<Layout>) {
        if self.layouts.len() >= LAYOUTS_KEPT {
            self.layouts.clear();
        }
        self.layouts.entry(layout.id()).or_insert_with(|| Arc::clone(layout));
    }

    /// Forgets a segment and everything that was to become of its entries.
    pub(super) fn forget_segment(&mut self, first: u64) -> Option<SegmentState> {
        let state = self.segments.remove(&first)?;
        let entries = first..=state.last.max(first);
        self.acknowledged.remove(entries.clone());
        self.in_flight.retain(|entry, _| !entries.contains(entry));
        self.refused.retain(|entry, _| !entries.contains(entry));
        self.given_back.retain(|entry| !entries.contains(entry));
        self.unsent.gone(&entries);
        Some(state)
    }

    /// Folds away streams of earlier starts that are done; the newest ones stay in the books.
    pub(super) fn retire(&mut self) {
        let held: BTreeSet<u32> = self.segments.values().flat_map(|s| s.contents.keys().copied()).collect();
        let waiting = self.waiting();
        let mut kept: HashMap<(MachineName, Category), usize> = HashMap::new();
        let mut gone = Vec::new();
        for (&number, stream) in self.streams.iter().rev() {
            if stream.id.epoch == self.epoch {
                continue;
            }
            let kept = kept.entry((stream.id.machine.clone(), stream.id.category.clone())).or_default();
            *kept += 1;
            let waiting = waiting.get(&number).copied().unwrap_or_default();
            // One whose rows have disappeared stays, so that the books go on saying it.
            let is_balanced = stream.accounted(waiting) == stream.numbered;
            let done = waiting.rows == 0 && is_balanced && stream.notices == 0 && !held.contains(&number);
            if done && *kept > FINISHED_KEPT {
                gone.push(number);
            }
        }
        for number in gone {
            if let Some(stream) = self.streams.remove(&number) {
                self.by_id.remove(&stream.id);
            }
        }
    }
}
