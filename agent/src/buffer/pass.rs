//! Faults of the disk, and pass-through: with a dead disk rows go through memory, flagged volatile (D9),
//! at least once instead of exactly once, and bounded.

use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::LossReason;

use super::BufferError;
use super::entry::{Note, delta_of, hex};
use super::open::segment_folder;
use super::segment::Segment;
use super::state::{Amount, Done, Passing, State};
use super::writer::{Active, Buffer, Group};

/// What passes through memory at most; then the oldest gives way. *Units*: bytes.
const PASSING_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Below this the file system counts as full. *Units*: bytes.
const FREE_BYTES: u64 = 32 * 1024 * 1024;
/// How often a dead disk is tried again.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

impl Buffer {
    /// Opens the active segment again: after an error sled refuses everything until then.
    pub(super) fn reopen(&mut self) -> Result<(), BufferError> {
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

    /// Goes over to pass-through: the disk does not take rows.
    pub(super) fn die(&mut self, error: &BufferError) {
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
        self.probed_at = self.disk.now();
    }

    /// Tries a dead disk again, with a new segment.
    pub(super) fn probe(&mut self) {
        if self.active.is_some() || self.disk.now().duration_since(self.probed_at) < PROBE_INTERVAL {
            return;
        }
        self.revive();
    }

    /// Refuses to go near a full file system: sled's files may not survive it (two of four did not), and
    /// what fills it may be somebody else, so that dropping rows would not help.
    pub(super) fn check_space(&self) -> Result<(), BufferError> {
        match self.disk.available_bytes(&self.folder) {
            Some(bytes) if bytes < FREE_BYTES => Err(BufferError::io(
                "writing",
                &self.folder,
                std::io::Error::new(
                    std::io::ErrorKind::StorageFull,
                    format!("the file system has only {} MiB of free space left", bytes >> 20),
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Tries a dead disk now.
    pub(super) fn revive(&mut self) {
        self.probed_at = self.disk.now();
        match self.check_space().and_then(|()| self.begin_segment()) {
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

    /// Takes a group that the disk refused; its rows must carry `VOLATILE`. `done` is called when Kafka
    /// has all of its rows, and dropped if some of them had to give way.
    pub fn pass(&mut self, group: &Group, done: Done) {
        let done = Arc::new(done);
        let mut state = self.shared.lock();
        for rows in &group.rows {
            let head = rows.head();
            if let Some(stream) = state.streams.get_mut(&head.stream) {
                stream.numbered.add(Amount { rows: head.rows, points: head.points });
                stream.newest_us = stream.newest_us.max(Some(head.newest_us));
                let machine = stream.id.machine.clone();
                state.count_source(&machine, head.points);
            }
            let passing = Passing {
                head,
                item: rows.item.clone(),
                layout: rows.layout.clone(),
                in_flight: false,
                done: Arc::clone(&done),
            };
            let number = state.next_passing;
            state.passing.insert(number, passing);
            state.next_passing += 1;
        }
        let note = Note {
            flushed_us: state.last_flushed_us.unwrap_or_default(),
            sources: group.sources.iter().map(|(m, c)| (m.clone(), delta_of(c))).collect(),
            hashes: group.hashes.clone(),
            redelivered: group.redelivered,
            births: group.births.iter().map(|(stream, item)| (*stream, hex(item))).collect(),
            ..Note::default()
        };
        state.fold_note(&note);
        give_way(&mut state);
        drop(state);
        // A group without rows has reached its end.
        if let Some(done) = Arc::into_inner(done) {
            done.run();
        }
        self.shared.changed.notify_one();
    }
}

/// Drops the oldest rows beyond the bound, and declares them.
fn give_way(state: &mut State) {
    let mut bytes: usize = state.passing.values().map(|p| p.item.len()).sum();
    while bytes > PASSING_MAX_BYTES
        && let Some((_, passing)) = state.passing.pop_first()
    {
        bytes -= passing.item.len();
        let head = passing.head;
        if let Some(stream) = state.streams.get_mut(&head.stream) {
            stream.lose(LossReason::DroppedOldest, Amount { rows: head.rows, points: head.points });
        }
        let range = Some(head.first_seq..=head.last_seq());
        state.add_loss(head.stream, LossReason::DroppedOldest, range, None, head.points);
    }
}

impl Done {
    pub(super) fn run(self) {
        self.0.into_iter().for_each(|tell| tell());
    }
}
