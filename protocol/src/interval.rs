//! Sets of sequences, kept as sorted, disjoint, non-adjacent closed ranges.
//!
//! A stream's sequences arrive almost in order, so a set is nearly always one range; every operation
//! is a binary search and a local change.

use std::ops::RangeInclusive;

/// A set of sequences.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct IntervalSet {
    ranges: Vec<(u64, u64)>,
}

impl IntervalSet {
    /// Makes an empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Gives the ranges in order, disjoint and never adjacent.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.ranges.iter().map(|&(from, to)| from..=to)
    }

    /// Counts the sequences in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, &(from, to)| sum.saturating_add((to - from).saturating_add(1)))
    }

    /// Tells whether the set has no sequence.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Gives the greatest sequence.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.ranges.last().map(|&(_, to)| to)
    }

    /// Tells whether the sequence is in the set.
    #[must_use]
    pub fn contains(&self, seq: u64) -> bool {
        let at = self.ranges.partition_point(|&(_, to)| to < seq);
        self.ranges.get(at).is_some_and(|&(from, _)| from <= seq)
    }

    /// Gives the greatest n for which 1..=n is in the set; 0 if 1 is not.
    #[must_use]
    pub fn contiguous(&self) -> u64 {
        match self.ranges.first() {
            Some(&(from, to)) if from <= 1 => to,
            _ => 0,
        }
    }

    /// Adds a range; an empty one (from > to) adds nothing.
    pub fn insert(&mut self, range: RangeInclusive<u64>) {
        let (mut from, mut to) = (*range.start(), *range.end());
        if from > to {
            return;
        }
        let begin = self.ranges.partition_point(|&(_, end)| end.saturating_add(1) < from);
        let mut end = begin;
        while let Some(&(start, stop)) = self.ranges.get(end) {
            if start > to.saturating_add(1) {
                break;
            }
            from = from.min(start);
            to = to.max(stop);
            end += 1;
        }
        self.ranges.splice(begin..end, [(from, to)]);
    }

    /// Adds every range of another set.
    pub fn union_with(&mut self, other: &Self) {
        for range in other.ranges() {
            self.insert(range);
        }
    }

    /// Gives the parts of a range that are not in the set.
    #[must_use]
    pub fn missing_in(&self, range: RangeInclusive<u64>) -> Self {
        let (mut from, to) = (*range.start(), *range.end());
        let mut missing = Self::new();
        let begin = self.ranges.partition_point(|&(_, end)| end < from);
        for &(start, stop) in self.ranges.get(begin..).unwrap_or_default() {
            if start > to || from > to {
                break;
            }
            if start > from {
                missing.ranges.push((from, start - 1));
            }
            match stop.checked_add(1) {
                Some(next) => from = next,
                None => return missing,
            }
        }
        if from <= to {
            missing.ranges.push((from, to));
        }
        missing
    }

    /// Gives the sequences that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::new();
        for range in self.ranges() {
            let mut inside = Self::new();
            inside.insert(range.clone());
            for hole in other.missing_in(range).ranges() {
                inside.remove(hole);
            }
            both.union_with(&inside);
        }
        both
    }

    /// Takes a range out of the set.
    pub fn remove(&mut self, range: RangeInclusive<u64>) {
        let (from, to) = (*range.start(), *range.end());
        if from > to {
            return;
        }
        let begin = self.ranges.partition_point(|&(_, end)| end < from);
        let end = self.ranges.partition_point(|&(start, _)| start <= to);
        let mut kept = Vec::new();
        for &(start, stop) in self.ranges.get(begin..end).unwrap_or_default() {
            if start < from {
                kept.push((start, from - 1));
            }
            if stop > to {
                kept.push((to + 1, stop));
            }
        }
        if begin < end {
            self.ranges.splice(begin..end, kept);
        }
    }
}

impl FromIterator<RangeInclusive<u64>> for IntervalSet {
    fn from_iter<T: IntoIterator<Item = RangeInclusive<u64>>>(ranges: T) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extremes_do_not_overflow() {
        let mut set = IntervalSet::new();
        set.insert(u64::MAX..=u64::MAX);
        set.insert(0..=0);
        assert!(set.contains(u64::MAX) && set.contains(0) && !set.contains(1));
        assert_eq!(set.missing_in(0..=u64::MAX).ranges().collect::<Vec<_>>(), vec![1..=u64::MAX - 1]);
        set.insert(0..=u64::MAX);
        assert_eq!(set.len(), u64::MAX);
        assert!(set.missing_in(0..=u64::MAX).is_empty());
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..40), probe in (0u64..70, 0u64..20)) {
            let mut set = IntervalSet::new();
            let mut model = BTreeSet::new();
            for (add, from, length) in steps {
                let range = from..=from + length;
                if add {
                    set.insert(range.clone());
                    model.extend(range);
                } else {
                    set.remove(range.clone());
                    model.retain(|n| !range.contains(n));
                }
            }
            prop_assert_eq!(set.ranges().flatten().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), model.len() as u64);
            let ranges: Vec<_> = set.ranges().collect();
            for pair in ranges.windows(2) {
                prop_assert!(*pair[0].end() + 1 < *pair[1].start(), "{:?}", ranges);
            }
            let window = probe.0..=probe.0 + probe.1;
            let expected: Vec<u64> = window.clone().filter(|n| !model.contains(n)).collect();
            prop_assert_eq!(set.missing_in(window.clone()).ranges().flatten().collect::<Vec<_>>(), expected);
            let inside: Vec<u64> = window.clone().filter(|n| model.contains(n)).collect();
            let both = set.intersection(&IntervalSet::from_iter([window]));
            prop_assert_eq!(both.ranges().flatten().collect::<Vec<_>>(), inside);
            prop_assert_eq!(set.contiguous(), (1..).take_while(|n| model.contains(n)).last().unwrap_or(0));
        }
    }
}
