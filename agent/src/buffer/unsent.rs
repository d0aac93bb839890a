//! Which streams of this start have nothing old waiting: their rows go ahead of those of streams that are
//! behind (D9), so that an alarm after a long cut does not wait for hours of measurements.
//!
//! Invariant: what overtakes is, of its stream, the oldest that was never handed out; so the order of every
//! stream stays. In doubt (a segment was dropped) a stream counts as behind until all is handed out.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

/// So many entries back is not old yet: some seconds of a busy gateway, and a few ten kilobytes here. Tests
/// come to old rows sooner.
const RECENT_MAX: usize = if cfg!(test) { 8 } else { 4096 };

/// Entries of this start that were never handed out.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// The newest of them, and whose they are.
    recent: BTreeMap<u64, u32>,
    /// How many there are of each stream, old ones included.
    counts: HashMap<u32, u64>,
}

impl Unsent {
    /// Says that an entry with rows is on disk.
    pub(super) fn stored(&mut self, entry: u64, stream: u32) {
        *self.counts.entry(stream).or_default() += 1;
        self.recent.insert(entry, stream);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_first();
        }
    }

    /// Says that an entry is handed out for the first time.
    pub(super) fn handed_out(&mut self, entry: u64, stream: u32) {
        self.recent.remove(&entry);
        if let Some(count) = self.counts.get_mut(&stream) {
            *count = count.saturating_sub(1);
        }
    }

    /// Says that entries are gone. How many of each stream nobody knows: they stay in the counts.
    pub(super) fn gone(&mut self, entries: &RangeInclusive<u64>) {
        self.recent.retain(|entry, _| !entries.contains(entry));
    }

    /// Says that nothing is left to hand out.
    pub(super) fn clear(&mut self) {
        self.recent.clear();
        self.counts.clear();
    }

    /// Gives the entries that may go ahead of the one that is next in order, oldest first.
    pub(super) fn overtaking(&self, next: u64) -> Vec<u64> {
        // As long as what is next is recent itself, there is nothing to overtake.
        if self.recent.first_key_value().is_none_or(|(&first, _)| next >= first) {
            return Vec::new();
        }
        let mut recent: HashMap<u32, u64> = HashMap::new();
        for stream in self.recent.values() {
            *recent.entry(*stream).or_default() += 1;
        }
        let has_nothing_old = |stream: &u32| self.counts.get(stream) == recent.get(stream);
        self.recent.iter().filter(|(_, stream)| has_nothing_old(stream)).map(|(&entry, _)| entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_whose_unsent_rows_are_all_recent_overtake() {
        let mut unsent = Unsent::default();
        unsent.stored(1, 7);
        assert!(unsent.overtaking(1).is_empty(), "what is next is recent");
        (2..=10).for_each(|entry| unsent.stored(entry, 8));
        unsent.stored(11, 7);
        unsent.stored(12, 9);
        unsent.stored(13, 9);
        // 7 has an old row, 8 several; 9 has none.
        assert_eq!(unsent.overtaking(1), [12, 13]);
        unsent.handed_out(1, 7);
        assert_eq!(unsent.overtaking(2), [11, 12, 13]);
        unsent.handed_out(12, 9);
        unsent.gone(&(13..=13));
        assert_eq!(unsent.overtaking(2), [11]);
        unsent.stored(14, 9);
        assert_eq!(unsent.overtaking(2), [11], "in doubt a stream is behind");
        unsent.clear();
        unsent.stored(15, 9);
        assert!(unsent.overtaking(15).is_empty());
    }
}
