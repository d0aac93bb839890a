//! One machine of the stream driver: its chains, its points, and how far each view's windows are closed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_protocol::{AgentId, Birth, Category, LayoutId, MachineName, StreamId};
use serde::{Deserialize, Serialize};

use super::Clocks;
use super::panes::{Cut, PaneBook};
use crate::feature::{FeatureRow, ViewSchema};
use crate::graph::{Catalog, Mode, View, Window};
use crate::history::{History, MAX_AHEAD_US, Touched};
use crate::input::InputRow;
use crate::watermark::{Chain, Control, Low};
use crate::window::{Panes, Subject, last_multiple, next_multiple};

pub(super) const HOUR_US: i64 = 3_600_000_000;
/// The version of the saved state; another one is ignored.
const SAVED_VERSION: u32 = 1;

/// A view of the machine.
#[derive(Debug)]
struct Open {
    view: Arc<View>,
    places: Vec<usize>,
    /// Windows that end here or earlier are closed.
    closed_until_us: Option<i64>,
    panes: PaneBook,
    /// Hours that must be computed again.
    late: BTreeSet<i64>,
    /// A point came since the open cell was last given.
    fresh: bool,
}

impl Open {
    /// Asks for the closed windows that a change from `from_us` to `until_us` touches, by hours (F6).
    fn ask(&mut self, from_us: i64, until_us: i64) {
        let Some(closed) = self.closed_until_us.filter(|closed| from_us < *closed) else { return };
        let last_end = closed.min(until_us.saturating_add(self.view.window.size_us()));
        let mut hour_us = last_multiple(from_us, HOUR_US);
        while hour_us < last_end {
            self.late.insert(hour_us);
            hour_us = hour_us.saturating_add(HOUR_US);
        }
    }
}

/// A chain and the tags that were seen in it.
#[derive(Debug, Default)]
struct Carrier {
    chain: Chain,
    tags: BTreeSet<Arc<str>>,
    /// The layouts that were looked at.
    layouts: BTreeSet<LayoutId>,
}

/// One machine.
#[derive(Debug)]
pub(super) struct Machine {
    name: Arc<str>,
    carriers: BTreeMap<(AgentId, Category), Carrier>,
    history: History,
    views: Vec<Open>,
    /// Something happened that may close a window.
    pub(super) touched: bool,
    /// Views that only a clock can move on.
    waits_for_clock: bool,
    /// Something changed that `save` holds.
    pub(super) unsaved: bool,
    /// Views are computed from its rows in the lake: how far its streams came is saved although no window closes.
    pub(super) batched: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    /// Name, version, graph, closed until.
    views: Vec<(String, u32, u64, Option<i64>)>,
    chains: Vec<(String, String, Chain, Vec<String>)>,
}

impl Machine {
    pub(super) fn new(catalog: &Catalog, name: &MachineName) -> Self {
        let mut history = History::default();
        let streamed = catalog.views_of(name).filter(|view| view.mode == Mode::Stream);
        let views = streamed.map(|view| Open {
            view: Arc::clone(view),
            places: view.tags.iter().map(|tag| history.tag(&tag.name, tag.wanted)).collect(),
            closed_until_us: None,
            panes: PaneBook::default(),
            late: BTreeSet::new(),
            fresh: false,
        });
        let views = views.collect();
        Self {
            name: name.as_str().into(),
            carriers: BTreeMap::new(),
            history,
            views,
            touched: true,
            waits_for_clock: false,
            unsaved: true,
            batched: catalog.views_of(name).any(|view| view.mode != Mode::Stream),
        }
    }

    fn carrier(&mut self, stream: &StreamId) -> &mut Carrier {
        self.carriers.entry((stream.agent.clone(), stream.category.clone())).or_default()
    }

    pub(super) fn chain(&mut self, stream: &StreamId) -> &mut Chain {
        &mut self.carrier(stream).chain
    }

    pub(super) fn birth(&mut self, stream: &Arc<StreamId>, birth: &Birth) -> bool {
        let carrier = self.carrier(stream);
        carrier.chain.birth(stream.epoch, birth);
        carrier.tags.extend(birth.tags.iter().map(|tag| Arc::clone(&tag.name)));
        let changed = self.history.birth(stream, birth);
        let is_new = changed.is_some();
        for touched in changed.unwrap_or_default() {
            self.changed(&touched, true);
        }
        (self.touched, self.unsaved) = (true, true);
        is_new
    }

    pub(super) fn misread(&mut self, from_us: i64, until_us: i64) {
        for open in &mut self.views {
            let hold = open.places.iter().map(|&place| self.history.longest_hold_us(place)).max();
            let until_us = until_us.saturating_add(hold.unwrap_or(0));
            open.ask(from_us, until_us.saturating_add(open.view.memory_us).saturating_add(1));
        }
        self.touched = true;
    }

    /// Takes rows of one stream.
    pub(super) fn rows(&mut self, stream: &Arc<StreamId>, rows: &[InputRow], live: bool) {
        let carrier = self.carrier(stream);
        for row in rows {
            if carrier.layouts.insert(row.layout.id()) {
                carrier.tags.extend(row.layout.columns().iter().map(|c| Arc::clone(&c.tag)));
            }
            // A row from the future says no more than that time has come to its append time.
            let ahead = row.time_us > row.append_us.saturating_add(MAX_AHEAD_US);
            let time_us = if ahead { row.append_us } else { row.time_us };
            carrier.chain.row(stream.epoch, row.seq, time_us);
        }
        for row in rows {
            if let Some(touched) = self.history.row(row) {
                self.changed(&touched, live);
            }
        }
        self.touched = true;
    }

    /// Marks what a changed point touches: cached panes, and closed windows of live data (F6).
    fn changed(&mut self, touched: &Touched, live: bool) {
        for open in &mut self.views {
            if matches!(open.view.window, Window::Latest { .. }) && !open.fresh {
                open.fresh = touched.any_of(&open.places);
            }
            let newest = open.closed_until_us.max(open.panes.until_us());
            if newest.is_none_or(|newest| touched.time_us >= newest) || !touched.any_of(&open.places) {
                continue;
            }
            let until = touched.until_us.saturating_add(open.view.memory_us).saturating_add(1);
            if let Window::Sliding { size_us, every_us, pane_us: Some(pane_us) } = open.view.window {
                let kept_us = self.history.kept_us(&open.places);
                let cut = Cut { size_us, every_us, pane_us };
                open.panes.changed(touched, until, cut, open.view.memory_us, kept_us);
            }
            if live {
                open.ask(touched.time_us, until);
            }
        }
    }

    pub(super) fn clock(
        &mut self,
        topic: &str,
        now_us: i64,
        stall_after_us: i64,
        controls: &mut Vec<Control>,
    ) {
        for ((agent, category), carrier) in &mut self.carriers {
            for epoch in carrier.chain.clock(topic, now_us, stall_after_us) {
                let Ok(machine) = MachineName::new(&self.name) else { continue };
                let stream = StreamId { agent: agent.clone(), epoch, machine, category: category.clone() };
                controls.push(Control::GiveUp { stream: Arc::new(stream), at_us: now_us });
                (self.touched, self.unsaved) = (true, true);
            }
        }
        self.touched |= self.waits_for_clock;
    }

    /// Closes what can be closed.
    pub(super) fn close(&mut self, stall_after_us: i64, clocks: &Clocks, closed: &mut Vec<FeatureRow>) {
        if !std::mem::take(&mut self.touched) {
            return;
        }
        self.waits_for_clock = false;
        self.carriers.values_mut().for_each(|carrier| carrier.chain.prune());
        for open in &mut self.views {
            let carriers = self.carriers.values();
            let mine = carriers.filter(|c| open.view.tags.iter().any(|tag| c.tags.contains(&tag.name)));
            let low =
                |c: &Carrier| c.chain.low(open.view.lateness_us, stall_after_us, |topic| clocks.of(topic));
            let lows: Vec<Low> = mine.map(low).collect();
            let subject = Subject {
                view: &open.view,
                machine: &self.name,
                history: &self.history,
                places: &open.places,
            };
            let complete_us = if lows.is_empty() {
                // No stream carries its tags: time passes over it all the same, at a distance, so that a
                // restart need not look for them in the whole lake.
                let others = complete(self.carriers.values().map(low), &subject, stall_after_us, &mut false);
                others.map(|us| us.saturating_sub(stall_after_us).saturating_sub(HOUR_US))
            } else {
                complete(lows.into_iter(), &subject, stall_after_us, &mut self.waits_for_clock)
            };
            let Some(complete_us) = complete_us.filter(|us| *us > 0) else { continue };
            let before = open.closed_until_us;
            match open.view.window {
                Window::Sliding { size_us, every_us, pane_us: Some(pane_us) } => {
                    let cut = Cut { size_us, every_us, pane_us };
                    let until = &mut open.closed_until_us;
                    open.panes.slide(&subject, cut, complete_us, until, &mut open.late, closed);
                }
                Window::Sliding { every_us, pane_us: None, .. } => {
                    slide(&subject, every_us, complete_us, &mut open.closed_until_us, closed);
                }
                Window::Latest { cell_us } => {
                    cells(&subject, cell_us, complete_us, &mut open.closed_until_us, closed);
                }
            }
            self.unsaved |= before != open.closed_until_us;
        }
        self.forget();
    }

    fn forget(&mut self) {
        let mut horizons: BTreeMap<usize, i64> = BTreeMap::new();
        for open in &self.views {
            let begin = match open.view.window {
                Window::Sliding { pane_us: Some(_), .. } => open.panes.until_us(),
                _ => open.closed_until_us.map(|until| until.saturating_sub(open.view.window.size_us())),
            };
            let horizon = begin.map_or(i64::MIN, |us| us.saturating_sub(open.view.memory_us));
            for place in &open.places {
                let known = horizons.entry(*place).or_insert(horizon);
                *known = (*known).min(horizon);
            }
        }
        for (place, horizon) in horizons {
            self.history.forget(place, horizon);
        }
    }

    /// Gives the open cells that got a point.
    pub(super) fn open(&mut self) -> Vec<FeatureRow> {
        let mut rows = Vec::new();
        for open in &mut self.views {
            let Window::Latest { cell_us } = open.view.window else { continue };
            if !std::mem::take(&mut open.fresh) {
                continue;
            }
            let subject = Subject {
                view: &open.view,
                machine: &self.name,
                history: &self.history,
                places: &open.places,
            };
            let Some(newest) = subject.newest_before(i64::MAX) else { continue };
            if open.closed_until_us.is_none_or(|closed| newest >= closed) {
                rows.extend(subject.cell(next_multiple(newest, cell_us)).row);
            }
        }
        rows
    }

    pub(super) fn late(&mut self) -> Vec<(Arc<View>, i64)> {
        let mut late = Vec::new();
        for open in &mut self.views {
            late.extend(
                std::mem::take(&mut open.late).into_iter().map(|hour| (Arc::clone(&open.view), hour)),
            );
        }
        late
    }

    pub(super) fn points(&self) -> usize {
        self.history.len()
    }

    pub(super) fn closed_until_us(&self, view: &View) -> Option<i64> {
        self.views.iter().find(|open| open.view.schema == view.schema)?.closed_until_us
    }

    pub(super) fn stored(&mut self, view: &ViewSchema, event_us: i64) {
        for open in self.views.iter_mut().filter(|open| *open.view.schema == *view) {
            let closed_us = open.view.window.closed_us(event_us);
            open.closed_until_us = open.closed_until_us.max(Some(closed_us));
        }
    }

    /// As [`complete`], for a view whose points are not in memory: what a given-up stream still holds is in the lake.
    pub(super) fn complete_until_us(&self, view: &View, stall_after_us: i64, clocks: &Clocks) -> Option<i64> {
        let mine = self.carriers.values().filter(|c| view.tags.iter().any(|tag| c.tags.contains(&tag.name)));
        let (mut until, mut clock) = (None, None);
        for carrier in mine {
            match carrier.chain.low(view.lateness_us, stall_after_us, |topic| clocks.of(topic)) {
                Low::Silent => {}
                Low::Until(low) => until = Some(until.map_or(low, |least: i64| least.min(low))),
                Low::GivenUp(now) => clock = clock.max(Some(now.saturating_sub(stall_after_us))),
            }
        }
        until.or(clock).filter(|us| *us > 0)
    }

    pub(super) fn rows_from_us(&self) -> i64 {
        let from = self.views.iter().map(|open| {
            let hold =
                open.places.iter().map(|&place| self.history.longest_hold_us(place)).max().unwrap_or(0);
            open.closed_until_us.map_or(i64::MIN, |until| {
                until
                    .saturating_sub(open.view.window.size_us())
                    .saturating_sub(open.view.memory_us)
                    .saturating_sub(hold)
            })
        });
        // A machine without stream views needs no rows.
        from.min().unwrap_or(i64::MAX)
    }

    pub(super) fn save(&self) -> Vec<u8> {
        let views = self.views.iter().map(|open| {
            let schema = &open.view.schema;
            (schema.name.to_string(), schema.version, schema.graph_hash, open.closed_until_us)
        });
        let chains = self.carriers.iter().map(|((agent, category), carrier)| {
            let tags = carrier.tags.iter().map(ToString::to_string).collect();
            (agent.to_string(), category.to_string(), carrier.chain.clone(), tags)
        });
        let saved = Saved { version: SAVED_VERSION, views: views.collect(), chains: chains.collect() };
        serde_json::to_vec(&saved).unwrap_or_default()
    }

    pub(super) fn restore(&mut self, bytes: &[u8]) {
        let Ok(saved) = serde_json::from_slice::<Saved>(bytes) else { return };
        if saved.version != SAVED_VERSION {
            return;
        }
        let newest = saved.views.iter().filter_map(|view| view.3).max();
        for open in &mut self.views {
            let schema = &open.view.schema;
            let known = saved.views.iter().find(|(name, version, hash, _)| {
                **name == *schema.name && *version == schema.version && *hash == schema.graph_hash
            });
            // A view that is new here begins where the others stand; a backfill makes what lies before (F12).
            open.closed_until_us = match (known, newest) {
                (Some(known), _) => known.3,
                (None, newest) => newest.map(|us| last_multiple(us, open.view.window.every_us())),
            };
        }
        for (agent, category, chain, tags) in saved.chains {
            if let (Ok(agent), Ok(category)) = (AgentId::new(&agent), Category::new(&category)) {
                let carrier = self.carriers.entry((agent, category)).or_default();
                carrier.chain = chain;
                carrier.tags.extend(tags.into_iter().map(Arc::from));
            }
        }
        self.touched = true;
    }
}

/// Decides up to which time a view's data are complete (F5).
fn complete(
    lows: impl Iterator<Item = Low>,
    subject: &Subject<'_>,
    stall_after_us: i64,
    waits_for_clock: &mut bool,
) -> Option<i64> {
    let (mut until, mut clock) = (None, None);
    for low in lows {
        match low {
            Low::Silent => {}
            Low::Until(low) => until = Some(until.map_or(low, |least: i64| least.min(low))),
            Low::GivenUp(now) => clock = clock.max(Some(now)),
        }
    }
    if until.is_some() {
        return until;
    }
    // Nobody is there to wait for: what is known goes out once, as far as it is held; a backlog that
    // comes back later then closes its own windows.
    let now = clock?.saturating_sub(stall_after_us);
    let known = subject.known_until()?.saturating_add(subject.view.window.size_us());
    *waits_for_clock |= now < known;
    Some(now.min(known))
}

/// Closes windows up to a time.
fn slide(
    subject: &Subject<'_>,
    every_us: i64,
    complete_us: i64,
    closed_until: &mut Option<i64>,
    closed: &mut Vec<FeatureRow>,
) {
    let last_end = last_multiple(complete_us, every_us);
    let begin = || subject.next_point(i64::MIN).map(|first| last_multiple(first, every_us));
    let mut until = closed_until.or_else(begin).unwrap_or(last_end);
    if closed_until.is_some_and(|_| until >= last_end) || until > last_end {
        return;
    }
    while until < last_end {
        let end_us = until.saturating_add(every_us);
        let start_us = end_us.saturating_sub(subject.view.window.size_us());
        // Windows in which nothing is known give no row; over a long silence that is a leap.
        match subject.next_known(start_us) {
            Some(next) if next < end_us => {
                closed.extend(subject.window(end_us, &mut Panes::new()).row);
                until = end_us;
            }
            Some(next) => until = last_multiple(next, every_us).min(last_end),
            None => until = last_end,
        }
    }
    *closed_until = Some(until);
}

/// Closes cells up to a time.
fn cells(
    subject: &Subject<'_>,
    cell_us: i64,
    complete_us: i64,
    closed_until: &mut Option<i64>,
    closed: &mut Vec<FeatureRow>,
) {
    let last_end = last_multiple(complete_us, cell_us);
    let begin = || subject.next_point(i64::MIN).map(|first| last_multiple(first, cell_us));
    let first = closed_until.or_else(begin).unwrap_or(last_end);
    if closed_until.is_some_and(|_| first >= last_end) || first > last_end {
        return;
    }
    let mut until = first;
    while let Some(point) = subject.next_point(until).filter(|point| *point < last_end) {
        let end_us = next_multiple(point, cell_us);
        closed.extend(subject.cell(end_us).row);
        until = end_us;
    }
    *closed_until = Some(until.max(last_end));
}
