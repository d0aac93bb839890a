//! Faults of the disk, and pass-through: with a dead disk rows go through memory, flagged volatile (D9),
//! at least once instead of exactly once, and bounded.

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_protocol::LossReason;
use tokio::sync::oneshot;

use super::BufferError;
use super::entry::{Note, delta_of, hex};
use super::group::Group;
use super::open::segment_folder;
use super::segment::Segment;
use super::state::{Amount, Passing, State};
use super::writer::{Active, Buffer};
use crate::delivery::Confirmed;

/// What passes through memory at most; then the oldest gives way. *Units*: bytes.
const PASSING_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Below this the file system counts as full. *Units*: bytes.
pub(super) const FREE_BYTES: u64 = 32 * 1024 * 1024;
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
        // It may be our own backlog that filled the file system: first what is of no more use goes, then
        // what must give way.
        let swept = self.sweep();
        self.make_room(0);
        match swept.and_then(|()| self.check_space()).and_then(|()| self.begin_segment()) {
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

    /// Takes a group that the disk refused; its rows must carry `VOLATILE`. Its publishes are confirmed when
    /// Kafka has all of its rows.
    ///
    /// Gives the publishes whose rows had to give way, of this group or an earlier one: they are never
    /// confirmed, so that the broker sends them again, and must then be taken as new.
    pub fn pass(&mut self, group: &Group, confirms: Vec<Confirm>) -> Vec<PublishId> {
        let (again, first): (Vec<_>, Vec<_>) =
            confirms.into_iter().partition(|c| c.how == Confirmed::Redelivered);
        let mut state = self.shared.lock();
        let done = state.wait(first, group.rows.len());
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
                done: done.into_iter().collect(),
            };
            let number = state.next_passing;
            state.passing.insert(number, passing);
            state.next_passing += 1;
        }
        let note = Note {
            flushed_us: state.last_flushed_us.unwrap_or_default(),
            sources: group.sources.iter().map(|(m, c)| (m.clone(), delta_of(c))).collect(),
            // The hashes are remembered when Kafka has the rows: until then a kill forgets both.
            hashes: Vec::new(),
            redelivered: group.redelivered,
            births: group.births.iter().map(|(stream, item)| (*stream, hex(item))).collect(),
            ..Note::default()
        };
        state.fold_note(&note);
        again.into_iter().for_each(|confirm| state.confirm_again(confirm));
        let gone = state.give_way();
        drop(state);
        self.shared.changed.notify_one();
        gone
    }

    /// Confirms publishes that a flush made durable; one that came again while its rows pass through memory
    /// waits for Kafka as they do.
    pub fn confirm(&self, confirms: Vec<Confirm>) {
        let mut state = self.shared.lock();
        for confirm in confirms {
            match confirm.how {
                Confirmed::Stored => confirm.send(),
                Confirmed::Redelivered => state.confirm_again(confirm),
            }
        }
    }
}

/// A publish: the hash of its session and its own (D5).
pub type PublishId = (u64, u64);

/// Whom to tell what became of a publish. Dropped without a word, the source breaks its connection and the
/// broker sends the publish again.
#[derive(Debug)]
pub struct Confirm {
    /// Which.
    pub publish: PublishId,
    /// What to say.
    pub how: Confirmed,
    /// To whom.
    pub tell: oneshot::Sender<Confirmed>,
}

impl Confirm {
    fn send(self) {
        // A source that has gone does not need to know.
        let _ = self.tell.send(self.how);
    }
}

/// Publishes that are confirmed together.
#[derive(Debug)]
pub(super) struct Done {
    /// Items that must be settled first.
    left: usize,
    confirms: Vec<Confirm>,
}

impl Done {
    /// Tells whether all of it only repeats an earlier publish, on a connection that is gone.
    fn is_abandoned(&self) -> bool {
        self.confirms.iter().all(|c| c.how == Confirmed::Redelivered && c.tell.is_closed())
    }
}

impl State {
    /// Makes confirmations wait for so many items; for none they go out at once.
    fn wait(&mut self, confirms: Vec<Confirm>, items: usize) -> Option<u64> {
        let number = self.next_done;
        self.next_done += 1;
        self.done.insert(number, Done { left: items, confirms });
        if items > 0 {
            return Some(number);
        }
        self.finish(number);
        None
    }

    /// Confirms what waited only for an item that is settled now: Kafka has it, or will never take it.
    pub(super) fn release(&mut self, done: &[u64]) {
        for number in done {
            let Some(waiting) = self.done.get_mut(number) else { continue };
            waiting.left = waiting.left.saturating_sub(1);
            if waiting.left == 0 {
                self.finish(*number);
            }
        }
    }

    fn finish(&mut self, number: u64) {
        for confirm in self.done.remove(&number).into_iter().flat_map(|done| done.confirms) {
            if confirm.how == Confirmed::Stored {
                let (session, hash) = confirm.publish;
                self.remember_hashes(session, &[hash]);
            }
            confirm.send();
        }
    }

    /// Confirms a publish that came again: at once, or when every item is settled that may hold its rows.
    fn confirm_again(&mut self, confirm: Confirm) {
        let has = |done: &Done| done.confirms.iter().any(|c| c.publish == confirm.publish);
        let numbers: BTreeSet<u64> = self.done.iter().filter(|(_, d)| has(d)).map(|(&n, _)| n).collect();
        let holds = |p: &Passing| p.done.iter().any(|number| numbers.contains(number));
        let items: Vec<u64> = self.passing.iter().filter(|(_, p)| holds(p)).map(|(&n, _)| n).collect();
        // Every connection brings it once; those that are gone do not pile up.
        self.done.retain(|_, done| !done.is_abandoned());
        let Some(number) = self.wait(vec![confirm], items.len()) else { return };
        for item in items {
            if let Some(passing) = self.passing.get_mut(&item) {
                passing.done.retain(|number| self.done.contains_key(number));
                passing.done.push(number);
            }
        }
    }

    /// Drops the oldest rows beyond the bound, declares them, and gives the publishes that they came from:
    /// nobody is told of these.
    fn give_way(&mut self) -> Vec<PublishId> {
        let mut gone = Vec::new();
        let mut bytes: usize = self.passing.values().map(|p| p.item.len()).sum();
        while bytes > PASSING_MAX_BYTES
            && let Some((_, passing)) = self.passing.pop_first()
        {
            bytes -= passing.item.len();
            let head = passing.head;
            if let Some(stream) = self.streams.get_mut(&head.stream) {
                stream.lose(LossReason::DroppedOldest, Amount { rows: head.rows, points: head.points });
            }
            let range = Some(head.first_seq..=head.last_seq());
            self.add_loss(head.stream, LossReason::DroppedOldest, range, None, head.points);
            let void = passing.done.iter().filter_map(|number| self.done.remove(number));
            let void = void.flat_map(|done| done.confirms).filter(|c| c.how == Confirmed::Stored);
            gone.extend(void.map(|c| c.publish));
        }
        gone
    }
}
