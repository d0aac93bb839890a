//! Computes windows from rows that are all there: backfill, repair, parity.

use std::sync::Arc;

use millrace_protocol::{Birth, MachineName, StreamId};

use crate::feature::FeatureRow;
use crate::graph::{View, Window};
use crate::history::History;
use crate::input::InputRow;
use crate::window::{Panes, Subject, last_multiple};

/// Runs one view's graph over one machine's lake rows.
///
/// Give the births of the machine's streams, then ask [`BatchDriver::rows_from_us`], give the rows from
/// there up to the end of the range, and [`BatchDriver::run`].
#[derive(Debug)]
pub struct BatchDriver {
    view: Arc<View>,
    machine: Arc<str>,
    stall_after_us: i64,
    history: History,
    places: Vec<usize>,
    panes: Panes,
}

impl BatchDriver {
    /// Makes a driver for a view and a machine. `stall_after_us` decides which rows were known in time (F7).
    #[must_use]
    pub fn new(view: Arc<View>, machine: &MachineName, stall_after_us: i64) -> Self {
        let mut history = History::default();
        let places = view.tags.iter().map(|tag| history.tag(&tag.name, tag.wanted)).collect();
        let machine = machine.as_str().into();
        Self { view, machine, stall_after_us, history, places, panes: Panes::new() }
    }

    /// Takes what a stream's rows mean from a place on.
    pub fn birth(&mut self, stream: &Arc<StreamId>, birth: &Birth) {
        self.history.birth(stream, birth);
        self.panes.clear();
    }

    /// Gives how far before its window a row can matter: the window, what operators remember, and the
    /// longest hold. *Units*: microseconds.
    #[must_use]
    pub fn warm_up_us(&self) -> i64 {
        self.view.window.size_us().saturating_add(self.memory_us())
    }

    fn memory_us(&self) -> i64 {
        let hold = self.places.iter().map(|&place| self.history.longest_hold_us(place)).max().unwrap_or(0);
        self.view.memory_us.saturating_add(hold)
    }

    /// Gives the event time from which rows are needed for windows that end after `from_us`.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn rows_from_us(&self, from_us: i64) -> i64 {
        from_us.saturating_sub(self.warm_up_us())
    }

    /// Takes rows of the machine, in any order and any pieces.
    pub fn rows(&mut self, rows: &[InputRow]) {
        for row in rows {
            self.history.row(row);
        }
        self.panes.clear();
    }

    /// Gives the rows of the windows with `from_us` < end ≤ `to_us`, by time; a window twice when rows of
    /// it became known only after it would have been given up (F7): what was known first, then all.
    /// For a `latest` view the cell's end is meant.
    ///
    /// A window of the range without a row has none now; for one that a store still holds, see
    /// [`Self::again`].
    #[must_use]
    pub fn run(&mut self, from_us: i64, to_us: i64) -> Vec<FeatureRow> {
        let mut rows = Vec::new();
        let every_us = self.view.window.every_us();
        let mut until = last_multiple(from_us, every_us);
        let last_end = last_multiple(to_us, every_us);
        while until < last_end {
            let subject = self.subject(&self.history);
            let end_us = until.saturating_add(every_us);
            let next = match self.view.window {
                Window::Sliding { size_us, .. } => subject.next_known(end_us.saturating_sub(size_us)),
                Window::Latest { .. } => subject.next_point(until),
            };
            match next {
                Some(next) if next < end_us => {
                    self.emit(end_us, &mut rows);
                    until = end_us;
                }
                Some(next) => until = last_multiple(next, every_us),
                None => break,
            }
        }
        rows
    }

    /// Gives the row of a window that a store holds and [`Self::run`] does not give.
    ///
    /// Of a `latest` view that is an instant that was its cell's newest until a later one came late: it is
    /// computed as of that instant, for what it says about that moment is still asked for. Where nothing
    /// is known any more (a late bad point can take away the only value) the row is all NULL with
    /// coverage 0: it withdraws what was said.
    #[must_use]
    pub fn again(&self, event_us: i64) -> FeatureRow {
        let subject = self.subject(&self.history);
        let computed = match self.view.window {
            Window::Sliding { .. } => subject.window(event_us, &mut Panes::new()),
            Window::Latest { .. } => subject.instant(event_us),
        };
        computed.row.unwrap_or_else(|| subject.nothing(event_us, computed.newest_append_us))
    }

    fn subject<'a>(&'a self, history: &'a History) -> Subject<'a> {
        Subject { view: &self.view, machine: &self.machine, history, places: &self.places }
    }

    fn emit(&mut self, end_us: i64, rows: &mut Vec<FeatureRow>) {
        let mut panes = std::mem::take(&mut self.panes);
        panes = panes.split_off(&end_us.saturating_sub(self.view.window.size_us()));
        let all = self.compute(&self.history, end_us, &mut panes);
        self.panes = panes;
        let known_by = end_us.saturating_add(self.view.lateness_us).saturating_add(self.stall_after_us);
        if all.newest_append_us > known_by {
            let begin = end_us.saturating_sub(self.view.window.size_us()).saturating_sub(self.memory_us());
            let known = self.history.known_at(known_by, begin, end_us);
            if let Some(known) = self.compute(&known, end_us, &mut Panes::new()).row {
                let event_us = known.event_us;
                rows.push(known);
                // All rows together may give none, or move a cell's newest instant: what was known is then revised
                // where it stands.
                if all.row.as_ref().is_none_or(|row| row.event_us != event_us) {
                    rows.push(self.again(event_us));
                }
            }
        }
        rows.extend(all.row);
    }

    fn compute(&self, history: &History, end_us: i64, panes: &mut Panes) -> crate::window::Computed {
        match self.view.window {
            Window::Sliding { .. } => self.subject(history).window(end_us, panes),
            Window::Latest { .. } => self.subject(history).cell(end_us),
        }
    }
}
