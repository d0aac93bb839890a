//! What an entry changes: the books, what its segment holds, births and losses.
//!
//! The state is the manifest plus a fold over the entries after it ([`State::fold_rows`],
//! [`State::fold_note`]); a running buffer applies the same two functions to what it has just flushed.

use std::ops::RangeInclusive;

use millrace_protocol::{LossReason, MachineName};

use super::entry::{Note, RowsHead, unhex};
use super::notice::{Notice, NoticeBody};
use super::state::{Amount, Contents, State, Stream};

impl State {
    /// Counts an entry with rows that is on disk now. Rows that should stand between it and the last
    /// one are declared lost: a segment has lost entries in its middle.
    pub(super) fn fold_rows(&mut self, segment: u64, entry: u64, head: &RowsHead) {
        let expected = self.streams.get(&head.stream).map_or(0, |s| s.numbered.rows).saturating_add(1);
        if head.first_seq > expected {
            self.fold_loss(head.stream, LossReason::SetAsideDamaged, expected..=head.first_seq - 1, 0);
        }
        let amount = Amount { rows: head.rows, points: head.points };
        let Some(stream) = self.streams.get_mut(&head.stream) else { return };
        stream.numbered.rows = stream.numbered.rows.max(head.last_seq());
        stream.numbered.points = stream.numbered.points.saturating_add(head.points);
        stream.newest_us = stream.newest_us.max(Some(head.newest_us));
        let machine = stream.id.machine.clone();
        self.count_source(&machine, head.points);
        self.add_contents(segment, head, amount);
        self.unsent.stored(entry, head.stream);
        self.passed(segment, entry);
    }

    /// Counts points that have a sequence now; raw rows have none.
    pub(super) fn count_source(&mut self, machine: &MachineName, points: u64) {
        if points > 0 {
            let source = self.sources.entry(machine.clone()).or_default();
            source.numbered = source.numbered.saturating_add(points);
        }
    }

    /// Begins a stream that nothing is known of at its first sequence found.
    pub(super) fn begin_at(&mut self, number: u32, first_seq: u64) {
        if let Some(stream) = self.streams.get_mut(&number).filter(|s| s.numbered.rows == 0) {
            stream.numbered.rows = first_seq.saturating_sub(1);
        }
    }

    /// Says that an entry is on disk.
    pub(super) fn passed(&mut self, segment: u64, entry: u64) {
        if let Some(state) = self.segments.get_mut(&segment) {
            state.last = state.last.max(entry);
        }
        self.durable = self.durable.max(entry);
    }

    pub(super) fn add_contents(&mut self, segment: u64, head: &RowsHead, waiting: Amount) {
        let Some(state) = self.segments.get_mut(&segment) else { return };
        let contents = state.contents.entry(head.stream).or_insert(Contents {
            first_seq: head.first_seq,
            last_seq: head.last_seq(),
            total: Amount::default(),
            waiting: Amount::default(),
        });
        contents.first_seq = contents.first_seq.min(head.first_seq);
        contents.last_seq = contents.last_seq.max(head.last_seq());
        contents.total.add(Amount { rows: head.rows, points: head.points });
        contents.waiting.add(waiting);
    }

    /// Counts anew what a segment holds, from the rows that were read in it.
    pub(super) fn recount(&mut self, segment: u64, heads: &[(u64, RowsHead)]) {
        if let Some(state) = self.segments.get_mut(&segment) {
            state.contents.clear();
        }
        for (entry, head) in heads {
            let all = Amount { rows: head.rows, points: head.points };
            let waiting = if self.acknowledged.contains(*entry) { Amount::default() } else { all };
            self.add_contents(segment, head, waiting);
        }
    }

    /// Applies what a flush changed beside rows.
    pub(super) fn fold_note(&mut self, note: &Note) {
        self.last_flushed_us = Some(note.flushed_us);
        self.settled_durable_us = note.settled_us.or(self.settled_durable_us);
        for (machine, (due, good, bad, skipped, suppressed)) in &note.sources {
            let counts = &mut self.sources.entry(machine.clone()).or_default().counts;
            counts.due = counts.due.saturating_add(*due);
            counts.good = counts.good.saturating_add(*good);
            counts.bad = counts.bad.saturating_add(*bad);
            counts.skipped = counts.skipped.saturating_add(*skipped);
            counts.suppressed = counts.suppressed.saturating_add(*suppressed);
        }
        if let Some(ranges) = &note.acknowledged {
            self.acknowledged = ranges.iter().map(|&(from, to)| from..=to).collect();
        }
        for &(number, rows, points) in &note.counted {
            if let Some(stream) = self.streams.get_mut(&number) {
                stream.acknowledged = Amount { rows, points };
            }
        }
        if note.carries_hashes {
            self.hashes.clear();
        }
        for (session, hashes) in &note.hashes {
            self.remember_hashes(*session, hashes);
        }
        self.redelivered = self.redelivered.saturating_add(note.redelivered);
        for (stream, birth) in &note.births {
            if let Some(bytes) = unhex(birth) {
                self.add_birth(*stream, bytes);
            }
        }
        for loss in &note.losses {
            if let Some(reason) = LossReason::from_code(loss.reason) {
                self.fold_loss(loss.stream, reason, loss.from..=loss.to, loss.points);
            }
        }
    }

    /// Adds to the publishes by which redeliveries are recognised (D5).
    pub(super) fn remember_hashes(&mut self, session: u64, hashes: &[u64]) {
        let ring = self.hashes.entry(session).or_default();
        ring.extend(hashes);
        ring.drain(..ring.len().saturating_sub(self.hashes_kept));
    }

    /// Counts rows that will not come and makes their loss a notice. Rows that were not numbered yet
    /// are numbered by it.
    pub(super) fn fold_loss(
        &mut self,
        number: u32,
        reason: LossReason,
        range: RangeInclusive<u64>,
        points: u64,
    ) {
        let (from, to) = (*range.start(), *range.end());
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let amount = Amount { rows: (to - from).saturating_add(1), points };
        if to > stream.numbered.rows {
            stream.numbered.rows = to;
            stream.numbered.points = stream.numbered.points.saturating_add(points);
            let machine = stream.id.machine.clone();
            stream.lose(reason, amount);
            self.count_source(&machine, points);
        } else {
            stream.lose(reason, amount);
        }
        self.add_loss(number, reason, Some(range), None, points);
    }

    /// Makes a birth a notice and remembers it for the next epoch.
    pub(super) fn add_birth(&mut self, number: u32, bytes: Vec<u8>) {
        let Some(stream) = self.streams.get(&number) else { return };
        let key = (stream.id.machine.clone(), stream.id.category.clone());
        self.births.insert(key, bytes.clone());
        self.push_notice(Notice { stream: number, body: NoticeBody::Birth(bytes), in_flight: false });
    }

    /// Declares a loss, as an addition to one that waits where there is one.
    pub(super) fn add_loss(
        &mut self,
        number: u32,
        reason: LossReason,
        range: Option<RangeInclusive<u64>>,
        open_from: Option<u64>,
        points: u64,
    ) {
        let waiting = self.notices.values_mut().rev().find(|n| n.takes_loss(number, reason));
        if let Some(notice) = waiting {
            notice.extend_loss(range, open_from, points);
            return;
        }
        let mut notice = Notice::loss(number, reason);
        notice.extend_loss(range, open_from, points);
        self.push_notice(notice);
    }
}

impl Stream {
    pub(super) const fn lose(&mut self, reason: LossReason, amount: Amount) {
        match reason {
            LossReason::SetAsideDamaged | LossReason::SetAsideExported => self.set_aside.add(amount),
            LossReason::DroppedOldest | LossReason::DroppedNewest | LossReason::Refused => {
                self.dropped.add(amount);
            }
        }
    }
}
