//! The ledger: what the collector knows of every stream's sequences (D11).
//!
//! It decides what is new before anything is written, so that a record met again changes nothing, in
//! the lake and in the features alike. Invariants: a sequence is accepted once for ever; what was
//! accepted, rejected, declared lost or given up is never asked for again. Pure: it is loaded from the
//! lake and saved by the flush that also writes the rows.

use std::collections::BTreeMap;

use millrace_protocol::{Epoch, IntervalSet, Loss, PreviousEpoch, Progress, StreamId};

/// Checksums of so many chunks of a stream are remembered to recognise conflicts.
const REMEMBERED_CHUNKS: usize = 1_000;

/// What is known of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamLedger {
    /// Sequences whose rows are in the lake.
    pub stored: IntervalSet,
    /// Sequences that came and are in `dead_letter` or `quarantine`.
    pub rejected: IntervalSet,
    /// Sequences that the agent declared lost.
    pub lost: IntervalSet,
    /// Sequences that nobody declared and nobody waits for any more.
    pub given_up: IntervalSet,
    /// The stream's last sequence on the agent's disk, as far as it was heard.
    pub numbered: u64,
    /// Up to here the agent has Kafka's acknowledgement, as far as it was heard.
    pub acknowledged: u64,
    /// Event time up to which the stream was said to be complete. *Units*: microseconds since 1970 UTC.
    pub complete_until_us: i64,
    /// Append time of the last record. *Units*: microseconds since 1970 UTC.
    pub append_us: i64,
    /// Event time of the newest row. *Units*: microseconds since 1970 UTC.
    pub event_us: i64,
    /// Older epochs that wait at the sender, by its last progress.
    pub waiting_epochs: Vec<Epoch>,
    /// The stream before this one in the chain.
    pub previous: Option<PreviousEpoch>,
    /// Epoch of the process that sent the last record.
    pub sender: Option<Epoch>,
    /// When the process that began this stream started. *Units*: microseconds since 1970 UTC.
    pub started_us: i64,
    /// Rows met again and recognised.
    pub repeated: u64,
    /// Chunks met again with another content.
    pub conflicts: u64,
    pub(crate) chunks: BTreeMap<u64, (u32, u32)>,
}

/// What a chunk is to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// These of its sequences are new.
    New(IntervalSet),
    /// All of it was there before.
    Known,
    /// It came before with another content.
    Conflict,
}

impl StreamLedger {
    /// Says what is new of a chunk's (or raw rows') sequences and takes note of its checksum.
    ///
    /// The sequences are not accepted yet: [`Self::store`] or [`Self::reject`] does that, row by row.
    pub fn meet(&mut self, first_seq: u64, rows: u32, crc: u32) -> Verdict {
        if let Some(&(known_rows, known_crc)) = self.chunks.get(&first_seq)
            && (known_rows, known_crc) != (rows, crc)
        {
            self.conflicts += 1;
            return Verdict::Conflict;
        }
        self.remember(first_seq, rows, crc);
        let last_seq = first_seq.saturating_add(u64::from(rows.saturating_sub(1)));
        self.numbered = self.numbered.max(last_seq);
        let missing = self.arrived().missing_in(first_seq..=last_seq);
        self.repeated += u64::from(rows) - missing.len();
        if missing.is_empty() { Verdict::Known } else { Verdict::New(missing) }
    }

    /// Takes note of the checksum of a chunk that was stored by an earlier flush.
    pub fn remember(&mut self, first_seq: u64, rows: u32, crc: u32) {
        self.chunks.insert(first_seq, (rows, crc));
        if self.chunks.len() > REMEMBERED_CHUNKS {
            self.chunks.pop_first();
        }
    }

    /// Accepts a sequence whose row goes into the lake. A row that was declared lost and comes all the
    /// same is in the lake, and the declaration is counted without it.
    pub fn store(&mut self, seq: u64) {
        self.stored.insert(seq..=seq);
    }

    /// Accepts sequences that go into `dead_letter` or `quarantine`.
    pub fn reject(&mut self, first_seq: u64, last_seq: u64) {
        for range in self.stored.missing_in(first_seq..=last_seq).ranges() {
            self.rejected.insert(range);
        }
    }

    /// Takes a declared loss (a set union).
    pub fn lose(&mut self, loss: &Loss) {
        self.lost.union_with(&loss.closed_ranges());
        self.numbered = self.numbered.max(self.lost.last().unwrap_or(0));
    }

    /// Takes a progress item; an older one changes nothing.
    pub fn progress(&mut self, progress: &Progress) {
        if progress.complete_until_us >= self.complete_until_us {
            self.complete_until_us = progress.complete_until_us;
            self.waiting_epochs.clone_from(&progress.waiting_epochs);
        }
        self.acknowledged = self.acknowledged.max(progress.after);
        self.numbered = self.numbered.max(progress.numbered);
    }

    /// Gives up waiting for the undeclared holes below a sequence, and says which they are.
    pub fn give_up(&mut self, up_to: u64) -> IntervalSet {
        if up_to == 0 {
            return IntervalSet::new();
        }
        let holes = self.settled().missing_in(1..=up_to);
        self.given_up.union_with(&holes);
        holes
    }

    /// Gives what has come.
    #[must_use]
    pub fn arrived(&self) -> IntervalSet {
        let mut arrived = self.stored.clone();
        arrived.union_with(&self.rejected);
        arrived
    }

    /// Gives what nobody waits for.
    #[must_use]
    pub fn settled(&self) -> IntervalSet {
        let mut settled = self.arrived();
        settled.union_with(&self.lost);
        settled.union_with(&self.given_up);
        settled
    }

    /// Gives n for which 1..=n is stored, rejected, declared lost or given up (D11).
    #[must_use]
    pub fn contiguous(&self) -> u64 {
        self.settled().contiguous()
    }
}

/// The ledgers of a worker's shards.
#[derive(Debug, Default)]
pub struct Ledger {
    streams: BTreeMap<StreamId, StreamLedger>,
}

impl Ledger {
    /// Puts a stream's ledger back, as it was saved.
    pub fn load(&mut self, stream: StreamId, ledger: StreamLedger) {
        self.streams.insert(stream, ledger);
    }

    /// Gives a stream's ledger; a stream that was never heard of has an empty one.
    pub fn stream(&mut self, stream: &StreamId) -> &mut StreamLedger {
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.clone(), StreamLedger::default());
        }
        // The entry was made above where it was missing.
        self.streams.entry(stream.clone()).or_default()
    }

    /// Gives every stream.
    pub fn iter(&self) -> impl Iterator<Item = (&StreamId, &StreamLedger)> {
        self.streams.iter()
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::{LossReason, SeqRange};
    use proptest::prelude::*;

    use super::*;

    fn ranges(set: &IntervalSet) -> Vec<(u64, u64)> {
        set.ranges().map(|r| (*r.start(), *r.end())).collect()
    }

    #[test]
    fn chunk_is_new_once_and_conflicts_with_another_content() {
        let mut ledger = StreamLedger::default();
        let Verdict::New(new) = ledger.meet(1, 3, 7) else { panic!() };
        assert_eq!(ranges(&new), [(1, 3)]);
        (1..=3).for_each(|seq| ledger.store(seq));
        assert_eq!(ledger.meet(1, 3, 7), Verdict::Known);
        assert_eq!(ledger.meet(1, 3, 8), Verdict::Conflict);
        assert_eq!((ledger.contiguous(), ledger.numbered), (3, 3));
    }

    #[test]
    fn holes_are_settled_by_losses_and_by_giving_up() {
        let mut ledger = StreamLedger::default();
        ledger.meet(5, 1, 0);
        ledger.store(5);
        assert_eq!(ledger.contiguous(), 0);
        let ranges_lost = vec![SeqRange { from: 1, to: Some(2) }, SeqRange { from: 9, to: None }];
        ledger.lose(&Loss { after: 0, reason: LossReason::DroppedOldest, ranges: ranges_lost, points: None });
        assert_eq!(ledger.contiguous(), 2);
        assert_eq!(ranges(&ledger.give_up(5)), [(3, 4)]);
        assert_eq!(ledger.contiguous(), 5);
    }

    proptest! {
        /// Chunks in any order, any number of times, are each row once.
        #[test]
        fn every_row_is_accepted_exactly_once(order in prop::collection::vec(0usize..20, 1..80)) {
            let mut ledger = StreamLedger::default();
            let mut accepted: BTreeMap<u64, u32> = BTreeMap::new();
            for at in &order {
                let first = *at as u64 * 3 + 1;
                if let Verdict::New(new) = ledger.meet(first, 3, *at as u32) {
                    for seq in new.ranges().flatten() {
                        ledger.store(seq);
                        *accepted.entry(seq).or_default() += 1;
                    }
                }
            }
            prop_assert!(accepted.values().all(|&n| n == 1));
            let distinct: std::collections::BTreeSet<_> = order.iter().collect();
            prop_assert_eq!(accepted.len(), distinct.len() * 3);
            prop_assert_eq!(ledger.stored.len(), accepted.len() as u64);
        }
    }
}
