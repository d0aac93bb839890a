//! The writing side: one flush at a time, and segments and manifests begun (D6).
//!
//! Invariant: [`Buffer::flush`] returns `Stored` only when everything of the group is durable. Only the
//! thread that owns the [`Buffer`] writes to the disk.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_protocol::{IntervalSet, LayoutId, LossReason};

use super::block::Packer;
use super::disk::Disk;
use super::entry::{Note, NoteLoss, RowsHead, StreamName, delta_of, hex, note_entry, rows_entry};
use super::group::{Flushed, Group, NewRows};
use super::manifest::{self, Manifest};
use super::open::segment_folder;
use super::segment::{Kind, Segment, Writes};
use super::state::{Amount, Flight, SegmentState};
use super::{BufferError, OpenOptions, Shared};

/// A segment is closed when its log takes this much. *Units*: bytes.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// A small cap is cut into at least this many segments, so that a drop takes a small part of it.
const SEGMENTS_MIN: u64 = 12;
/// sled's log grows by whole segments of its own. *Units*: bytes.
pub(super) const SLED_SEGMENT_BYTES: u64 = 512 * 1024;
/// What sled writes for each byte of values, at most (measured: 1.7 to 1.8 on disk).
pub(super) const LOG_FACTOR: u64 = 2;
/// How often acknowledgements alone make a flush.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) first: u64,
    pub(super) segment: Segment,
    pub(super) layouts: HashSet<LayoutId>,
    pub(super) streams: HashSet<u32>,
}

/// The writing side of the buffer. The batch stage owns it.
#[derive(Debug)]
pub struct Buffer {
    pub(super) folder: PathBuf,
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    pub(super) options: OpenOptions,
    packer: Packer,
    pub(super) active: Option<Active>,
    pub(super) segment_bytes: u64,
    pub(super) manifest_bytes: u64,
    /// Folders whose end stands in the next manifest.
    pub(super) doomed: Vec<(PathBuf, Option<Segment>)>,
    pub(super) checkpoint_due: bool,
    saved_at: Instant,
    pub(super) probed_at: Instant,
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
        let now = disk.now();
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
        // A start may have found this number unwritten and doomed its folder: it is a new segment now.
        self.doomed.retain(|(path, _)| *path != folder);
        self.disk.make_folder(&folder)?;
        let segment = Segment::open(&self.disk, &folder)?;
        let mut writes = Writes::default();
        self.pack_entries(first, &[], &note, &mut writes)?;
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
        {
            // While Kafka is away nobody reads, so the reader does not do it.
            let _gate = self.shared.gate();
            self.shared.close_idle();
        }
        self.checkpoint()
    }

    /// Removes what an attempt that failed left of a segment that was never listed.
    fn clear_unwritten(&mut self, folder: &std::path::Path) -> Result<(), BufferError> {
        if folder.exists() { self.disk.remove_folder(folder) } else { Ok(()) }
    }

    fn pack_entries(
        &mut self,
        first: u64,
        rows: &[NewRows],
        note: &Note,
        writes: &mut Writes,
    ) -> Result<(), BufferError> {
        let rows = rows.iter().map(|row| rows_entry(&row.head(), &row.item));
        note_entry(note)
            .and_then(|note| self.packer.pack(first, rows.chain([note]), writes))
            .map_err(|e| BufferError::io("packing entries for", &self.folder, e))
    }

    /// Replaces the manifest by the state as it is now.
    pub(super) fn checkpoint(&mut self) -> Result<(), BufferError> {
        let (manifest, acknowledged) = {
            let mut state = self.shared.lock();
            state.retire();
            let acknowledged: Vec<(u32, Amount)> =
                state.streams.iter().map(|(&n, s)| (n, s.acknowledged)).collect();
            state.unsaved.clear();
            (Manifest::of(&state), acknowledged)
        };
        let path = self.folder.join(manifest::FILE);
        let bytes = manifest.to_bytes().map_err(|e| BufferError::io("packing", &path, e));
        drop(manifest);
        let written = bytes.and_then(|bytes| {
            self.manifest_bytes = bytes.len() as u64;
            self.disk.replace(&path, &bytes)
        });
        let mut state = self.shared.lock();
        for (number, amount) in acknowledged {
            if written.is_err() {
                state.unsaved.insert(number);
            } else if let Some(stream) = state.streams.get_mut(&number) {
                stream.acknowledged_durable = amount;
            }
        }
        drop(state);
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
        if let Err(error) = self.check_space() {
            self.die(&error);
            return Flushed::DiskDead;
        }
        match self.write(group, has_room) {
            Ok(()) if has_room => Flushed::Stored,
            Ok(()) => {
                self.shared.lock().gave_way_us = Some(self.options.clock.now_us());
                Flushed::Refused
            }
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
        let flushed_us = self.options.clock.now_us();
        let note = Note {
            flushed_us,
            // A clock that was set back meanwhile must not make it later than the flush.
            settled_us: group.settled_us.map(|settled_us| settled_us.min(flushed_us)),
            sources: group.sources.iter().map(|(m, c)| (m.clone(), delta_of(c))).collect(),
            acknowledged: ranges.as_ref().map(range_pairs),
            counted: acknowledged.iter().map(|&(n, amount)| (n, amount.rows, amount.points)).collect(),
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
        let rows: &[NewRows] = if plan.stores_rows { &group.rows } else { &[] };
        self.pack_entries(plan.first, rows, &plan.note, &mut writes)?;
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
        // The uplink may have acknowledged more meanwhile; what stands in memory is newer.
        plan.note.acknowledged = None;
        plan.note.counted.clear();
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
        self.saved_at = self.disk.now();
        self.shared.changed.notify_one();
    }

    /// Flushes acknowledgements that no flush has carried for a while; called when nothing else comes.
    pub fn idle(&mut self) {
        let is_unsaved = {
            let state = self.shared.lock();
            !state.unsaved.is_empty() || !state.refused.is_empty()
        };
        if is_unsaved
            && self.active.is_some()
            && self.disk.now().duration_since(self.saved_at) >= SAVE_INTERVAL
        {
            self.flush(&Group::default());
        } else if let Err(error) = self.tidy() {
            tracing::warn!(%error, "the buffer cannot tidy up");
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
