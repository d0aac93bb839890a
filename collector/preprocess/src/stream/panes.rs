//! Windows longer than 10 min in the stream driver: panes are computed as soon as their time is complete,
//! so that their points can be forgotten long before the window closes.
//!
//! A late row touches panes that were computed. As long as their points are in memory they are computed
//! again; after that they are stale, and a window over a stale pane is asked of the lake when it closes.

use std::collections::BTreeSet;

use super::machine::HOUR_US;
use crate::feature::FeatureRow;
use crate::history::Touched;
use crate::window::{Panes, Subject, last_multiple};

/// The panes of one view and machine.
#[derive(Debug, Default)]
pub(super) struct PaneBook {
    panes: Panes,
    /// Panes that end here or earlier were computed, or nothing was known in them.
    until_us: Option<i64>,
    /// Begins of panes that must be computed again.
    touched: BTreeSet<i64>,
    /// Begins of panes that cannot be computed again.
    stale: BTreeSet<i64>,
}

/// What does not change while windows are closed. *Units*: microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) size_us: i64,
    pub(super) every_us: i64,
    pub(super) pane_us: i64,
}

impl PaneBook {
    /// Gives the time from which the next panes need points.
    pub(super) const fn until_us(&self) -> Option<i64> {
        self.until_us
    }

    /// Marks the computed panes that see a changed point; `kept_us`: points from then on are in memory.
    pub(super) fn changed(
        &mut self,
        touched: &Touched,
        until_us: i64,
        cut: Cut,
        memory_us: i64,
        kept_us: i64,
    ) {
        let Some(computed_us) = self.until_us else { return };
        let mut begin = last_multiple(touched.time_us, cut.pane_us);
        while begin <= until_us && begin < computed_us {
            if kept_us <= begin.saturating_sub(memory_us) {
                self.touched.insert(begin);
            } else {
                self.stale.insert(begin);
            }
            begin = begin.saturating_add(cut.pane_us);
        }
    }

    /// Computes panes up to a time, then closes windows.
    pub(super) fn slide(
        &mut self,
        subject: &Subject<'_>,
        cut: Cut,
        complete_us: i64,
        closed_until: &mut Option<i64>,
        late: &mut BTreeSet<i64>,
        closed: &mut Vec<FeatureRow>,
    ) {
        let first = subject.next_point(i64::MIN);
        self.compute(subject, cut, complete_us, *closed_until, first);
        let last_end = last_multiple(complete_us, cut.every_us);
        let begin = || first.map(|first| last_multiple(first, cut.every_us));
        let mut until = closed_until.or_else(begin).unwrap_or(last_end);
        if closed_until.is_some_and(|_| until >= last_end) || until > last_end {
            return;
        }
        while until < last_end {
            let end_us = until.saturating_add(cut.every_us);
            let start_us = end_us.saturating_sub(cut.size_us);
            if self.stale.range(start_us..end_us).next().is_some() {
                late.insert(last_multiple(end_us - 1, HOUR_US));
                until = end_us;
                continue;
            }
            match self.panes.range(start_us..).find(|(_, pane)| pane.any()).map(|(begin, _)| *begin) {
                Some(begin) if begin < end_us => {
                    closed.extend(subject.window(end_us, &mut self.panes).row);
                    until = end_us;
                }
                next => {
                    let stale = self.stale.range(start_us..).next().copied();
                    let next = next.into_iter().chain(stale).min().unwrap_or(last_end);
                    until = last_multiple(next, cut.every_us).clamp(end_us, last_end);
                }
            }
        }
        *closed_until = Some(until);
        let needed = until.saturating_add(cut.every_us).saturating_sub(cut.size_us);
        self.panes = self.panes.split_off(&needed);
        self.stale = self.stale.split_off(&needed);
    }

    fn compute(
        &mut self,
        subject: &Subject<'_>,
        cut: Cut,
        complete_us: i64,
        closed_until: Option<i64>,
        first: Option<i64>,
    ) {
        for begin in std::mem::take(&mut self.touched) {
            self.panes.insert(begin, subject.pane(begin, begin.saturating_add(cut.pane_us), true));
        }
        let last = last_multiple(complete_us, cut.pane_us);
        let needed = closed_until.map(|us| us.saturating_add(cut.every_us).saturating_sub(cut.size_us));
        let begin = needed.or(first).map(|us| last_multiple(us, cut.pane_us));
        let mut at = self.until_us.or(begin).unwrap_or(last);
        while at < last {
            let end_us = at.saturating_add(cut.pane_us);
            match subject.next_known(at) {
                Some(next) if next < end_us => {
                    self.panes.insert(at, subject.pane(at, end_us, true));
                    at = end_us;
                }
                Some(next) => at = last_multiple(next, cut.pane_us).min(last),
                None => at = last,
            }
        }
        self.until_us = Some(at);
    }
}
