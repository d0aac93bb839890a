//! The writing side: one flush at a time, segments begun, dropped and removed, and what to do when the
//! disk fails (D4, D6, D9).
//!
//! Invariant: [`Buffer::flush`] returns `Stored` only when everything of the group is durable. Only the
//! thread that owns the [`Buffer`] writes to the disk.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_protocol::{IntervalSet, Layout, LayoutId, LossReason, MachineName};

use super::disk::Disk;
use super::entry::{Note, NoteLoss, Packer, RowsHead, StreamName, delta_of, hex};
use super::manifest::{self, Manifest};
use super::open::{bad_folder, lose_contents, segment_folder};
use super::segment::{Kind, Segment, Writes};
use super::state::{Amount, Flight, SegmentState};
use super::{BufferError, OpenOptions, Shared};
use crate::config::WhenFull;
use crate::delivery::SourceCounts;

/// A segment is closed when its log takes this much. *Units*: bytes.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// A small cap is cut into at least this many segments, so that a drop takes a small part of it.
const SEGMENTS_MIN: u64 = 12;
/// sled's log grows by whole segments of its own. *Units*: bytes.
const SLED_SEGMENT_BYTES: u64 = 512 * 1024;
/// What sled writes for each byte of values, at most (measured: 1.7 to 1.8 on disk).
const LOG_FACTOR: u64 = 2;
/// How often acknowledgements alone make a flush.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How often a dead disk is tried again.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Rows of one stream, packed, on their way to the disk.
#[derive(Debug, Clone)]
pub struct NewRows {
    /// From [`Buffer::stream`].
    pub stream: u32,
    /// The sequence of the first row; the one after the stream's last.
    pub first_seq: u64,
    /// How many.
    pub rows: u64,
    /// Points in them.
    pub points: u64,
    /// Event time of the newest. *Units*: microseconds since 1970-01-01 UTC.
    pub newest_us: i64,
    /// What a chunk's columns stand for.
    pub layout: Option<Arc<Layout>>,
    /// The encoded item.
    pub item: Vec<u8>,
}

impl NewRows {
    pub(super) fn head(&self) -> RowsHead {
        RowsHead {
            stream: self.stream,
            first_seq: self.first_seq,
            rows: self.rows,
            points: self.points,
            newest_us: self.newest_us,
            layout: self.layout.as_ref().map(|l| l.id()),
        }
    }
}

/// Everything that one flush makes durable together.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Rows, in the order of each stream.
    pub rows: Vec<NewRows>,
    /// What the sources counted.
    pub sources: Vec<(MachineName, SourceCounts)>,
    /// Hashes of the publishes in it, by session (D5).
    pub hashes: Vec<(u64, Vec<u64>)>,
    /// Publishes that were recognised as redelivered.
    pub redelivered: u64,
    /// Births: stream and encoded item.
    pub births: Vec<(u32, Vec<u8>)>,
}

impl Group {
    /// Tells whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.sources.is_empty()
            && self.hashes.is_empty()
            && self.redelivered == 0
            && self.births.is_empty()
    }
}

/// What became of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// It is on disk.
    Stored,
    /// The buffer is full: the rows are declared lost, all else is on disk.
    Refused,
    /// The disk is dead: nothing is stored; [`Buffer::pass`] takes the group, its rows flagged volatile.
    DiskDead,
}

/// The segment that is written to.
#[derive(Debug)]
struct Active {
    first: u64,
    segment: Segment,
    layouts: HashSet<LayoutId>,
    streams: HashSet<u32>,
}

/// The writing side of the buffer. The batch stage owns it.
#[derive(Debug)]
pub struct Buffer {
    pub(super) folder: PathBuf,
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    pub(super) options: OpenOptions,
    packer: Packer,
    active: Option<Active>,
    segment_bytes: u64,
    manifest_bytes: u64,
    /// Folders whose end stands in the next manifest.
    doomed: Vec<(PathBuf, Option<Segment>)>,
    checkpoint_due: bool,
    saved_at: Instant,
    probed_at: Instant,
    _lock: File,
}

impl Buffer {
    pub(super) fn new(
        folder: PathBuf,
        disk: Disk,
        options: OpenOptions,
        shared: Arc<Shared>,
        leftovers: Vec<PathBuf>,
        lock: File,
    ) -> Result<Self, BufferError> {
        let now = Instant::now();
        let packer = Packer::new().map_err(|e| BufferError::io("preparing", &folder, e))?;
        let mut buffer = Self {
            segment_bytes: (options.max_bytes / SEGMENTS_MIN).clamp(SLED_SEGMENT_BYTES, SEGMENT_BYTES),
            folder,
            disk,
            shared,
            options,
            packer,
            active: None,
            manifest_bytes: 0,
            doomed: leftovers.into_iter().map(|path| (path, None)).collect(),
            checkpoint_due: true,
            saved_at: now,
            probed_at: now,
            _lock: lock,
        };
        let begun = buffer.resume().and_then(|()| buffer.tidy());
        if let Err(error) = begun {
            buffer.die(&error);
        }
        Ok(buffer)
    }

    /// Goes on in the newest segment if it is open and has room, else begins one.
    fn resume(&mut self) -> Result<(), BufferError> {
        let newest = {
            let state = self.shared.lock();
            state.segments.iter().next_back().and_then(|(&first, s)| Some((first, s.open.clone()?)))
        };
        let Some((first, segment)) = newest.filter(|(_, s)| s.log_bytes() < self.segment_bytes) else {
            return self.begin_segment();
        };
        let layouts = segment.names(Kind::Layout)?.into_keys().map(LayoutId).collect();
        let streams =
            segment.names(Kind::Stream)?.into_keys().filter_map(|n| u32::try_from(n).ok()).collect();
        self.active = Some(Active { first, segment, layouts, streams });
        Ok(())
    }

    /// Begins a segment. Its first entry carries the hashes of publishes (D5); then the manifest lists it.
    pub(super) fn begin_segment(&mut self) -> Result<(), BufferError> {
        self.active = None;
        let (first, note) = {
            let state = self.shared.lock();
            let hashes = state.hashes.iter().map(|(&s, ring)| (s, ring.iter().copied().collect())).collect();
            let flushed_us = state.last_flushed_us.unwrap_or_else(|| self.options.clock.now_us());
            (state.durable + 1, Note { flushed_us, hashes, carries_hashes: true, ..Note::default() })
        };
        let folder = segment_folder(&self.folder, first);
        self.clear_unwritten(&folder)?;
        self.disk.make_folder(&folder)?;
        let segment = Segment::open(&self.disk, &folder)?;
        let mut writes = Writes::default();
        writes.entry(first, &self.pack_note(&note)?);
        segment.append(&writes)?;
        {
            let mut state = self.shared.lock();
            let disk_bytes = segment.disk_bytes();
            let new = SegmentState {
                last: first,
                open: Some(segment.clone()),
                disk_bytes,
                ..SegmentState::default()
            };
            state.segments.insert(first, new);
            state.passed(first, first);
            state.acknowledged.insert(first..=first);
        }
        self.active = Some(Active { first, segment, layouts: HashSet::new(), streams: HashSet::new() });
        self.checkpoint()
    }

    /// Removes what an attempt that failed left of a segment that was never listed.
    fn clear_unwritten(&mut self, folder: &std::path::Path) -> Result<(), BufferError> {
        if folder.exists() { self.disk.remove_folder(folder) } else { Ok(()) }
    }

    fn pack_note(&mut self, note: &Note) -> Result<Vec<u8>, BufferError> {
        self.packer.note(note).map_err(|e| BufferError::io("packing a note for", &self.folder, e))
    }

    /// Replaces the manifest by the state as it is now.
    pub(super) fn checkpoint(&mut self) -> Result<(), BufferError> {
        let (bytes, acknowledged) = {
            let mut state = self.shared.lock();
            state.retire();
            let acknowledged: Vec<(u32, Amount)> =
                state.streams.iter().map(|(&n, s)| (n, s.acknowledged)).collect();
            state.unsaved.clear();
            (Manifest::of(&state).to_bytes(), acknowledged)
        };
        let written = self.disk.replace(&self.folder.join(manifest::FILE), &bytes);
        let mut state = self.shared.lock();
        for (number, amount) in acknowledged {
            if written.is_err() {
                state.unsaved.insert(number);
            } else if let Some(stream) = state.streams.get_mut(&number) {
                stream.acknowledged_durable = amount;
            }
        }
        drop(state);
        self.manifest_bytes = bytes.len() as u64;
        self.checkpoint_due = written.is_err();
        written
    }

    /// Makes a group durable, in one flush.
    ///
    /// Never fails: what the disk refuses comes back as [`Flushed::DiskDead`], and the state is as if
    /// nothing had been asked.
    pub fn flush(&mut self, group: &Group) -> Flushed {
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, "the buffer cannot tidy up");
        }
        if self.active.is_none() {
            return Flushed::DiskDead;
        }
        let bytes: usize = group.rows.iter().map(|r| r.item.len() + 64).sum();
        let has_room = group.rows.is_empty() || self.make_room(bytes as u64);
        match self.write(group, has_room) {
            Ok(()) if has_room => Flushed::Stored,
            Ok(()) => Flushed::Refused,
            Err(error) => {
                self.die(&error);
                Flushed::DiskDead
            }
        }
    }

    fn write(&mut self, group: &Group, has_room: bool) -> Result<(), BufferError> {
        if self.active.as_ref().is_some_and(|a| a.segment.log_bytes() >= self.segment_bytes) {
            self.begin_segment()?;
        }
        let plan = self.plan(group, has_room);
        let written = self.pack(group, &plan).and_then(|writes| self.append_twice(&writes));
        match written {
            Ok(()) => self.publish(group, plan),
            Err(_) => self.shared.lock().unsaved.extend(plan.acknowledged.iter().map(|&(n, _)| n)),
        }
        written
    }

    fn append_twice(&mut self, writes: &Writes) -> Result<(), BufferError> {
        let Err(error) = self.append(writes) else { return Ok(()) };
        tracing::warn!(%error, "a flush failed; the segment is opened again");
        self.reopen()?;
        self.append(writes)
    }

    fn append(&self, writes: &Writes) -> Result<(), BufferError> {
        match &self.active {
            Some(active) => active.segment.append(writes),
            None => Err(BufferError::Closed),
        }
    }

    /// Opens the active segment again: after an error sled refuses everything until then.
    fn reopen(&mut self) -> Result<(), BufferError> {
        let Some(active) = self.active.take() else { return Err(BufferError::Closed) };
        let first = active.first;
        let _gate = self.shared.gate();
        let open = self.shared.lock().segments.get_mut(&first).and_then(|s| s.open.take());
        open.into_iter().chain([active.segment]).for_each(Segment::close);
        let segment = Segment::open(&self.disk, &segment_folder(&self.folder, first))?;
        if let Some(state) = self.shared.lock().segments.get_mut(&first) {
            state.open = Some(segment.clone());
        }
        self.active = Some(Active { first, segment, layouts: active.layouts, streams: active.streams });
        Ok(())
    }

    /// Decides what the flush will change, without changing it.
    fn plan(&self, group: &Group, has_room: bool) -> Plan {
        let mut state = self.shared.lock();
        let refused: Vec<(u64, Flight, LossReason)> =
            state.refused.iter().map(|(&entry, &(flight, reason))| (entry, flight, reason)).collect();
        let unsaved = std::mem::take(&mut state.unsaved);
        let acknowledged: Vec<(u32, Amount)> =
            unsaved.iter().filter_map(|&n| Some((n, state.streams.get(&n)?.acknowledged))).collect();
        let ranges = (!acknowledged.is_empty() || !refused.is_empty()).then(|| {
            let mut all = state.acknowledged.clone();
            refused.iter().for_each(|&(entry, ..)| all.insert(entry..=entry));
            all
        });
        let mut losses: Vec<NoteLoss> =
            refused.iter().map(|(_, flight, reason)| loss_of(&flight.head, *reason)).collect();
        if !has_room {
            losses.extend(group.rows.iter().map(|r| loss_of(&r.head(), LossReason::DroppedNewest)));
        }
        let note = Note {
            flushed_us: self.options.clock.now_us(),
            sources: group.sources.iter().map(|(m, c)| (m.clone(), delta_of(c))).collect(),
            acknowledged: ranges.as_ref().map(range_pairs),
            hashes: group.hashes.clone(),
            carries_hashes: false,
            redelivered: group.redelivered,
            births: group.births.iter().map(|(stream, item)| (*stream, hex(item))).collect(),
            losses,
        };
        Plan { first: state.durable + 1, note, acknowledged, refused, stores_rows: has_room }
    }

    fn pack(&mut self, group: &Group, plan: &Plan) -> Result<Writes, BufferError> {
        let mut writes = Writes::default();
        let mut number = plan.first;
        let rows: &[NewRows] = if plan.stores_rows { &group.rows } else { &[] };
        for row in rows {
            let bytes = self.packer.rows(&row.head(), &row.item);
            writes.entry(number, &bytes.map_err(|e| BufferError::io("packing rows for", &self.folder, e))?);
            number += 1;
        }
        writes.entry(number, &self.pack_note(&plan.note)?);
        let Some(active) = &mut self.active else { return Err(BufferError::Closed) };
        for layout in rows.iter().filter_map(|r| r.layout.as_ref()) {
            if active.layouts.insert(layout.id()) {
                writes.name(Kind::Layout, layout.id().0, &layout.encode());
            }
        }
        let noted = plan.note.births.iter().map(|(s, _)| *s).chain(plan.note.losses.iter().map(|l| l.stream));
        let state = self.shared.lock();
        for stream in rows.iter().map(|r| r.stream).chain(noted) {
            if active.streams.insert(stream)
                && let Some(known) = state.streams.get(&stream)
            {
                let name = serde_json::to_vec(&StreamName::from(&known.id)).unwrap_or_default();
                writes.name(Kind::Stream, u64::from(stream), &name);
            }
        }
        Ok(writes)
    }

    /// Applies what is durable now.
    fn publish(&mut self, group: &Group, mut plan: Plan) {
        let Some(active) = &self.active else { return };
        let mut state = self.shared.lock();
        let mut number = plan.first;
        if plan.stores_rows {
            for row in &group.rows {
                if let Some(layout) = &row.layout {
                    state.remember_layout(layout);
                }
                state.fold_rows(active.first, number, &row.head());
                number += 1;
            }
        }
        // The uplink may have acknowledged more meanwhile; the set in memory is the newer one.
        plan.note.acknowledged = None;
        state.fold_note(&plan.note);
        state.acknowledged.insert(number..=number);
        state.passed(active.first, number);
        for (entry, flight, _) in &plan.refused {
            state.refused.remove(entry);
            state.settle(*entry, &flight.head);
        }
        for (number, amount) in plan.acknowledged {
            if let Some(stream) = state.streams.get_mut(&number) {
                stream.acknowledged_durable = amount;
            }
        }
        state.flushes += 1;
        let bytes = active.segment.log_bytes();
        if let Some(segment) = state.segments.get_mut(&active.first) {
            segment.disk_bytes = segment.disk_bytes.max(bytes);
        }
        drop(state);
        self.saved_at = Instant::now();
        self.shared.changed.notify_one();
    }

    /// Makes room for a write; `false` if there is none and nothing may be dropped.
    fn make_room(&mut self, bytes: u64) -> bool {
        let reserve = self.options.max_bytes / 20;
        let limit = self.options.max_bytes.saturating_sub(reserve);
        let need = bytes.saturating_mul(LOG_FACTOR).saturating_add(SLED_SEGMENT_BYTES);
        while self.disk_bytes().saturating_add(need) > limit {
            let is_freed = self.options.when_full == WhenFull::DropOldest && self.drop_oldest();
            if !is_freed {
                return false;
            }
        }
        true
    }

    fn disk_bytes(&self) -> u64 {
        let segments: u64 = self.shared.lock().segments.values().map(|s| s.disk_bytes).sum();
        // The old manifest stands until the new one is there.
        segments.saturating_add(self.manifest_bytes.saturating_mul(2))
    }

    /// Drops the oldest segment that is not in the uplink's hands, or else the oldest (D4).
    pub(super) fn drop_oldest(&mut self) -> bool {
        let Some(active) = self.active.as_ref().map(|a| a.first) else { return false };
        let victim = {
            let state = self.shared.lock();
            let in_hands = |first: u64, last: u64| state.in_flight.range(first..=last).next().is_some();
            let mut closed = state.segments.iter().filter(|&(&first, _)| first != active);
            let free = closed.clone().find(|&(&first, s)| !in_hands(first, s.last));
            free.or_else(|| closed.next()).map(|(&first, _)| first)
        };
        match victim {
            Some(first) => {
                let before = self.disk_bytes();
                self.lose_segment(first);
                if let Err(error) = self.tidy() {
                    tracing::error!(%error, "a dropped segment cannot be removed");
                    return false;
                }
                self.disk_bytes() < before
            }
            // Only the active one is left: it becomes the oldest, unless it is new itself.
            None => {
                let is_new = self.shared.lock().segments.get(&active).is_none_or(|s| s.last <= active);
                !is_new && self.begin_segment().is_ok() && self.drop_oldest()
            }
        }
    }

    fn lose_segment(&mut self, first: u64) {
        let exact = self.unacknowledged(first);
        let mut state = self.shared.lock();
        match exact {
            Some(heads) => {
                for head in heads {
                    let amount = Amount { rows: head.rows, points: head.points };
                    if let Some(stream) = state.streams.get_mut(&head.stream) {
                        stream.lose(LossReason::DroppedOldest, amount);
                    }
                    let range = Some(head.first_seq..=head.last_seq());
                    state.add_loss(head.stream, LossReason::DroppedOldest, range, None, head.points);
                }
            }
            None => lose_contents(&mut state, first, LossReason::DroppedOldest),
        }
        tracing::error!(segment = first, "the buffer is full: the oldest rows are dropped and declared lost");
        let segment = state.forget_segment(first);
        drop(state);
        self.doomed.push((segment_folder(&self.folder, first), segment.and_then(|s| s.open)));
        self.checkpoint_due = true;
    }

    /// Reads what of a partly acknowledged segment is not; `None` if all of it waits or nobody can tell.
    fn unacknowledged(&self, first: u64) -> Option<Vec<RowsHead>> {
        let _gate = self.shared.gate();
        let (missing, range, open) = {
            let state = self.shared.lock();
            let segment = state.segments.get(&first)?;
            let range = first..=segment.last;
            (state.acknowledged.missing_in(range.clone()), range, segment.open.clone())
        };
        let is_whole =
            self.shared.lock().segments.get(&first)?.contents.values().all(|c| c.waiting == c.total);
        if is_whole {
            return None;
        }
        let segment =
            open.or_else(|| Segment::open(&self.disk, &segment_folder(&self.folder, first)).ok())?;
        let heads = super::reader::heads(&segment, range, &missing);
        self.shared.lock().segments.get_mut(&first)?.open = Some(segment);
        heads.ok()
    }

    /// Sets damaged segments aside, removes finished ones, saves acknowledgements, tries a dead disk.
    ///
    /// *Errors*: the disk refuses; what was not done is done the next time.
    pub fn tidy(&mut self) -> Result<(), BufferError> {
        self.probe();
        let damaged: Vec<(u64, String)> = {
            let state = self.shared.lock();
            state.segments.iter().filter_map(|(&f, s)| Some((f, s.damaged.clone()?))).collect()
        };
        for (first, what) in damaged {
            self.set_aside(first, &what)?;
        }
        self.collect_finished();
        if self.checkpoint_due {
            self.checkpoint()?;
        }
        let _gate = self.shared.gate();
        while let Some((folder, segment)) = self.doomed.pop() {
            if let Some(segment) = segment {
                segment.close();
            }
            if let Err(error) = self.disk.remove_folder(&folder) {
                self.doomed.push((folder, None));
                return Err(error);
            }
        }
        Ok(())
    }

    fn set_aside(&mut self, first: u64, what: &str) -> Result<(), BufferError> {
        tracing::error!(segment = first, what, "a segment of the buffer is damaged and set aside");
        if self.active.as_ref().is_some_and(|a| a.first == first) {
            self.begin_segment()?;
        }
        let _gate = self.shared.gate();
        let open = self.shared.lock().segments.get_mut(&first).and_then(|s| s.open.take());
        open.into_iter().for_each(Segment::close);
        self.disk.rename_folder(&segment_folder(&self.folder, first), &bad_folder(&self.folder, first))?;
        let mut state = self.shared.lock();
        lose_contents(&mut state, first, LossReason::SetAsideDamaged);
        state.forget_segment(first);
        state.set_aside_segments += 1;
        drop(state);
        self.checkpoint_due = true;
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Takes segments off the list in which nothing waits any more.
    fn collect_finished(&mut self) {
        let active = self.active.as_ref().map(|a| a.first);
        let mut state = self.shared.lock();
        let finished: Vec<u64> = state
            .segments
            .iter()
            .filter(|&(&first, s)| Some(first) != active && s.damaged.is_none() && s.waiting_rows() == 0)
            .map(|(&first, _)| first)
            .collect();
        for first in finished {
            let segment = state.forget_segment(first);
            self.doomed.push((segment_folder(&self.folder, first), segment.and_then(|s| s.open)));
            self.checkpoint_due = true;
        }
    }

    /// Flushes acknowledgements that no flush has carried for a while; called when nothing else comes.
    pub fn idle(&mut self) {
        let is_unsaved = {
            let state = self.shared.lock();
            !state.unsaved.is_empty() || !state.refused.is_empty()
        };
        if is_unsaved && self.active.is_some() && self.saved_at.elapsed() >= SAVE_INTERVAL {
            self.flush(&Group::default());
        } else if let Err(error) = self.tidy() {
            tracing::warn!(%error, "the buffer cannot tidy up");
        }
    }

    /// Goes over to pass-through: the disk does not take rows.
    fn die(&mut self, error: &BufferError) {
        let chain = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
        let text = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        tracing::error!(error = text, "the disk does not take rows; they pass through memory");
        let _gate = self.shared.gate();
        let active = self.active.take();
        let mut state = self.shared.lock();
        state.pass_through = Some(text);
        let open = active.as_ref().and_then(|a| state.segments.get_mut(&a.first)).and_then(|s| s.open.take());
        drop(state);
        open.into_iter().chain(active.map(|a| a.segment)).for_each(Segment::close);
        self.probed_at = Instant::now();
    }

    /// Tries a dead disk again, with a new segment.
    fn probe(&mut self) {
        if self.active.is_some() || self.probed_at.elapsed() < PROBE_INTERVAL {
            return;
        }
        self.revive();
    }

    /// Tries a dead disk now.
    pub(super) fn revive(&mut self) {
        self.probed_at = Instant::now();
        match self.begin_segment() {
            Ok(()) => {
                self.shared.lock().pass_through = None;
                tracing::info!("the disk takes rows again");
            }
            Err(error) => {
                self.active = None;
                tracing::warn!(%error, "the disk still does not take rows");
            }
        }
    }

    /// Saves everything and closes the buffer.
    pub fn close(mut self) {
        if self.active.is_some() {
            self.flush(&Group::default());
            self.checkpoint_due = true;
        }
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, "the buffer's last manifest could not be written");
        }
    }
}

/// What a flush will change.
struct Plan {
    first: u64,
    note: Note,
    acknowledged: Vec<(u32, Amount)>,
    refused: Vec<(u64, Flight, LossReason)>,
    stores_rows: bool,
}

fn loss_of(head: &RowsHead, reason: LossReason) -> NoteLoss {
    NoteLoss {
        stream: head.stream,
        reason: reason.code(),
        from: head.first_seq,
        to: head.last_seq(),
        points: head.points,
    }
}

fn range_pairs(set: &IntervalSet) -> Vec<(u64, u64)> {
    set.ranges().map(|r| (*r.start(), *r.end())).collect()
}
