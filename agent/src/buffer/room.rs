//! Room on the disk: the cap, what gives way at it, and segments that are of no more use (D4, D6).
//!
//! Invariant: before a segment is removed its losses, or that nothing in it waits, stand in the manifest;
//! a damaged segment is renamed first, because one that is listed and missing counts as damaged.

use millrace_protocol::LossReason;

use super::BufferError;
use super::entry::RowsHead;
use super::open::{bad_folder, lose_contents, segment_folder};
use super::pass::FREE_BYTES;
use super::segment::Segment;
use super::state::{Amount, SegmentState};
use super::writer::{Buffer, LOG_FACTOR, SLED_SEGMENT_BYTES};
use crate::config::WhenFull;

/// What the buffer leaves free in the file system: as much again as the disk needs to count as alive, for
/// the notes of losses and for what others write. *Units*: bytes.
const KEPT_FREE_BYTES: u64 = 2 * FREE_BYTES;
/// While the buffer takes no more segments than these it is somebody else who fills the file system, and
/// dropping rows would not help.
const OURS_SEGMENTS: u64 = 4;

impl Buffer {
    /// Makes room for a write; `false` if there is none and nothing may be dropped.
    pub(super) fn make_room(&mut self, bytes: u64) -> bool {
        let need = bytes.saturating_mul(LOG_FACTOR).saturating_add(SLED_SEGMENT_BYTES);
        while self.disk_bytes().saturating_add(need) > self.limit() {
            let is_freed = self.options.when_full == WhenFull::DropOldest && self.drop_oldest();
            if !is_freed {
                return false;
            }
        }
        true
    }

    /// Gives what the buffer may take: the cap but for 5 %, or what the file system has for it if that is
    /// less, so that a cap that was set too large drops by policy before the disk is full.
    fn limit(&self) -> u64 {
        let cap = self.options.max_bytes.saturating_sub(self.options.max_bytes / 20);
        let Some(free) = self.disk.available_bytes(&self.folder) else { return cap };
        let there = self.disk_bytes().saturating_add(free).saturating_sub(KEPT_FREE_BYTES);
        cap.min(there.max(OURS_SEGMENTS * self.segment_bytes))
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        let segments: u64 = self.shared.lock().segments.values().map(|s| s.disk_bytes).sum();
        // The old manifest stands until the new one is there.
        segments.saturating_add(self.manifest_bytes.saturating_mul(2))
    }

    /// Drops the oldest segment that is not in the uplink's hands, or else the oldest (D4).
    pub(super) fn drop_oldest(&mut self) -> bool {
        let active = self.active.as_ref().map(|a| a.first);
        let victim = {
            let state = self.shared.lock();
            let in_hands = |first: u64, last: u64| state.in_flight.range(first..=last).next().is_some();
            let mut closed = state.segments.iter().filter(|&(&first, _)| Some(first) != active);
            let free = closed.clone().find(|&(&first, s)| !in_hands(first, s.last));
            free.or_else(|| closed.next()).map(|(&first, _)| first)
        };
        match victim {
            Some(first) => {
                let before = self.disk_bytes();
                self.lose_segment(first);
                if let Err(error) = self.sweep() {
                    tracing::error!(%error, "a dropped segment cannot be removed");
                    return false;
                }
                self.disk_bytes() < before
            }
            // Only the active one is left: it becomes the oldest, unless it is new itself.
            None => {
                let Some(active) = active else { return false };
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
                for (entry, head) in heads {
                    // Kafka answered while the segment was read.
                    if state.acknowledged.contains(entry) {
                        continue;
                    }
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
        state.gave_way_us = Some(self.options.clock.now_us());
        let segment = state.forget_segment(first);
        drop(state);
        self.doomed.push((segment_folder(&self.folder, first), segment.and_then(|s| s.open)));
        self.checkpoint_due = true;
    }

    /// Reads what of a partly acknowledged segment is not; `None` if all of it waits or nobody can tell.
    fn unacknowledged(&self, first: u64) -> Option<Vec<(u64, RowsHead)>> {
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

    /// Tries a dead disk; sets damaged segments aside, removes finished ones, saves acknowledgements.
    ///
    /// *Errors*: the disk refuses; what was not done is done the next time.
    pub fn tidy(&mut self) -> Result<(), BufferError> {
        self.probe();
        if self.active.is_none() {
            // A dead disk is not asked for anything until the next probe.
            return Ok(());
        }
        self.sweep()
    }

    /// Does what [`Self::tidy`] does, to a dead disk too.
    pub(super) fn sweep(&mut self) -> Result<(), BufferError> {
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
        if self.doomed.is_empty() {
            return Ok(());
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
        let is_done = |first: u64, s: &SegmentState| {
            s.damaged.is_none() && state.acknowledged.missing_in(first..=s.last).is_empty()
        };
        let finished: Vec<u64> = state
            .segments
            .iter()
            .filter(|&(&first, s)| Some(first) != active && is_done(first, s))
            .map(|(&first, _)| first)
            .collect();
        for first in finished {
            let segment = state.forget_segment(first);
            let left = segment.as_ref().map_or(0, SegmentState::waiting_rows);
            if left > 0 {
                // The entries are done with; the books lack the rows from now on.
                tracing::error!(
                    segment = first,
                    rows = left,
                    "a segment held fewer rows than were stored in it"
                );
            }
            self.doomed.push((segment_folder(&self.folder, first), segment.and_then(|s| s.open)));
            self.checkpoint_due = true;
        }
    }
}
