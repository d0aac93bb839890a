//! One window of one view and machine: the pure function that both drivers call (F2).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::aggregate::{Extent, Part, Partial, extent, known_us, partial};
use crate::feature::{FeatureRow, FeatureType, FeatureValue};
use crate::graph::{Leaf, Tree, View, Window};
use crate::history::History;
use crate::row::{Rows, Steps};
use crate::tree::{Scene, evaluate};
use crate::value::Val;

/// What a part of a window gives.
#[derive(Debug, Clone)]
pub(crate) struct Pane {
    partials: Vec<Partial>,
    /// For each tag of the view: how long it was known where it counts.
    known_us: Vec<i64>,
    extent: Extent,
    length_us: i64,
    /// The newest append time among the points used (F7).
    newest_append_us: i64,
    /// Whether any tag had a value or a point.
    any: bool,
}

/// A view on one machine's history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) view: &'a Arc<View>,
    pub(crate) machine: &'a Arc<str>,
    pub(crate) history: &'a History,
    /// For each tag of the view its place in the history.
    pub(crate) places: &'a [usize],
}

/// Panes that were computed before, by their begin.
pub(crate) type Panes = BTreeMap<i64, Pane>;

/// A window's row, and the newest append time among the points used.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) row: Option<FeatureRow>,
    pub(crate) newest_append_us: i64,
}

impl Subject<'_> {
    /// Computes the window `[end − size, end)`.
    pub(crate) fn window(&self, end_us: i64, panes: &mut Panes) -> Computed {
        let start_us = end_us.saturating_sub(self.view.window.size_us());
        let pane_us = match self.view.window {
            Window::Sliding { pane_us, .. } => pane_us,
            Window::Latest { .. } => None,
        };
        let Some(pane_us) = pane_us else {
            let pane = self.pane(start_us, end_us, false);
            return self.finish(&pane, end_us, end_us);
        };
        let mut whole: Option<Pane> = None;
        let mut from_us = start_us;
        while from_us < end_us {
            let to_us = from_us.saturating_add(pane_us);
            let pane = panes.entry(from_us).or_insert_with(|| self.pane(from_us, to_us, true));
            match &mut whole {
                None => whole = Some(pane.clone()),
                Some(whole) => whole.merge(pane),
            }
            from_us = to_us;
        }
        match whole {
            Some(whole) => self.finish(&whole, end_us, end_us),
            None => Computed { row: None, newest_append_us: i64::MIN },
        }
    }

    /// Computes the row of a cell from its newest point before `cell_end_us` (F8).
    pub(crate) fn cell(&self, cell_end_us: i64) -> Computed {
        let begin_us = cell_end_us.saturating_sub(self.view.window.size_us());
        match self.newest_before(cell_end_us).filter(|&newest| newest >= begin_us) {
            None => Computed { row: None, newest_append_us: i64::MIN },
            Some(newest_us) => self.instant(newest_us),
        }
    }

    /// Computes what is known at an instant, as a row of its cell (F8).
    pub(crate) fn instant(&self, time_us: i64) -> Computed {
        let pane = self.pane(time_us, time_us.saturating_add(1), false);
        self.finish(&pane, time_us, self.view.window.closed_us(time_us))
    }

    /// Gives the row that says that nothing is known.
    pub(crate) fn nothing(&self, event_us: i64, newest_append_us: i64) -> FeatureRow {
        FeatureRow {
            view: Arc::clone(&self.view.schema),
            entity: Arc::clone(self.machine),
            event_us,
            created_us: self
                .view
                .window
                .closed_us(event_us)
                .saturating_add(self.view.lateness_us)
                .max(newest_append_us),
            coverage: 0.0,
            values: vec![None; self.view.features.len()],
        }
    }

    /// Gives the time of the newest point before a time.
    pub(crate) fn newest_before(&self, time_us: i64) -> Option<i64> {
        let newest = self.tags().filter_map(|tag| {
            let at = tag.at(time_us).checked_sub(1)?;
            tag.points().get(at).map(|p| p.time_us)
        });
        newest.max()
    }

    fn tags(&self) -> impl Iterator<Item = &crate::history::TagHistory> {
        self.places.iter().filter_map(|&place| self.history.points_of(place))
    }

    /// Gives the first point at or after a time.
    pub(crate) fn next_point(&self, time_us: i64) -> Option<i64> {
        self.tags().filter_map(|tag| tag.points().get(tag.at(time_us)).map(|p| p.time_us)).min()
    }

    /// Gives the first instant from a time on at which anything is known or comes.
    pub(crate) fn next_known(&self, time_us: i64) -> Option<i64> {
        let held = self.tags().any(|tag| {
            let earlier = tag.at(time_us).checked_sub(1).and_then(|at| tag.points().get(at));
            earlier.is_some_and(|p| p.held_until_us() >= time_us)
        });
        // What operators remember from before keeps a window alive as well.
        let remembered = self.view.memory_us > 0
            && self.next_point(time_us.saturating_sub(self.view.memory_us)).is_some_and(|t| t < time_us);
        if held || remembered { Some(time_us) } else { self.next_point(time_us) }
    }

    /// Gives the end of the time for which the newest values are held.
    pub(crate) fn known_until(&self) -> Option<i64> {
        self.tags().filter_map(|tag| tag.points().last()).map(|p| p.held_until_us()).max()
    }

    pub(crate) fn pane(&self, from_us: i64, to_us: i64, pane: bool) -> Pane {
        let scene = Scene { kind: &self.view.kind, machine: self.machine, before_us: to_us };
        let rows = Rows::new(self.view, self.history, self.places, scene, (from_us, to_us));
        let domain: Option<Rc<Steps>> = self.view.domain.map(|row| rows.row(row));
        let domain = domain.as_deref();
        let mut any = false;
        let mut known = Vec::with_capacity(self.view.tags.len());
        for (at, tag) in self.view.tags.iter().enumerate() {
            let steps = rows.tag(at);
            any |= steps.list.iter().any(|s| !s.value.is_null());
            // What only `where` reads counts over the whole window: it makes the domain.
            known.push(known_us(&steps, domain.filter(|_| tag.in_features), to_us));
        }
        any |= self.view.memory_us > 0;
        let partials = self.view.aggregates.iter().map(|aggregate| {
            let steps = rows.row(aggregate.row);
            let tag = self.counter(aggregate.row);
            let part = Part { steps: &steps, domain, from_us, to_us, pane, tag };
            partial(aggregate.function, &part)
        });
        Pane {
            partials: partials.collect(),
            known_us: known,
            extent: extent(domain, from_us, to_us),
            length_us: to_us - from_us,
            newest_append_us: self.newest_append_us(from_us, to_us),
            any,
        }
    }

    fn counter(&self, row: usize) -> Option<&crate::history::TagHistory> {
        let expr = self.view.rows.get(row)?;
        match (&expr.tree, expr.leaves.as_slice()) {
            (Tree::Leaf(0), [Leaf::Tag(tag)]) => self.history.points_of(*self.places.get(*tag)?),
            _ => None,
        }
    }

    /// Gives the newest append time among the points of a range and those held at its begin (F7).
    fn newest_append_us(&self, from_us: i64, to_us: i64) -> i64 {
        let from_us = from_us.saturating_sub(self.view.memory_us);
        let mut newest = i64::MIN;
        for tag in self.tags() {
            let (points, first) = (tag.points(), tag.at(from_us));
            let earlier = points.get(..first).unwrap_or_default().iter().rev();
            let held = earlier.take_while(|p| p.held_until_us() >= from_us).take(1);
            let inside = points.get(first..).unwrap_or_default().iter().take_while(|p| p.time_us < to_us);
            newest = held.chain(inside).map(|p| p.append_us).fold(newest, i64::max);
        }
        newest
    }

    fn finish(&self, pane: &Pane, event_us: i64, closed_us: i64) -> Computed {
        let newest_append_us = pane.newest_append_us;
        if !pane.any || !pane.extent.seen {
            return Computed { row: None, newest_append_us };
        }
        let before_us = match self.view.window {
            Window::Sliding { .. } => event_us,
            Window::Latest { .. } => event_us.saturating_add(1),
        };
        let scene = Scene { kind: &self.view.kind, machine: self.machine, before_us };
        let aggregates: Vec<Val> = self
            .view
            .aggregates
            .iter()
            .zip(&pane.partials)
            .map(|(aggregate, partial)| partial.finish(aggregate.function, event_us))
            .collect();
        let each = self.view.features.iter().zip(&self.view.schema.features);
        let values: Vec<Option<FeatureValue>> = each
            .map(|(feature, column)| {
                feature_value(evaluate(&feature.tree, &aggregates, scene), column.feature_type)
            })
            .collect();
        if values.iter().all(Option::is_none) {
            return Computed { row: None, newest_append_us };
        }
        let row = FeatureRow {
            view: Arc::clone(&self.view.schema),
            entity: Arc::clone(self.machine),
            event_us,
            created_us: closed_us.saturating_add(self.view.lateness_us).max(newest_append_us),
            coverage: self.coverage(pane),
            values,
        };
        Computed { row: Some(row), newest_append_us }
    }

    /// Gives the least of the tags' coverages (F4).
    fn coverage(&self, pane: &Pane) -> f64 {
        let of = |(tag, known): (&crate::graph::TagUse, &i64)| {
            let whole = if tag.in_features { pane.extent.length_us } else { pane.length_us };
            if whole > 0 { *known as f64 / whole as f64 } else { 1.0 }
        };
        let least = self.view.tags.iter().zip(&pane.known_us).map(of);
        least.fold(1.0, |least, x| if x < least { x } else { least })
    }
}

impl Pane {
    /// Tells whether any tag had a value or a point.
    pub(crate) const fn any(&self) -> bool {
        self.any
    }

    fn merge(&mut self, next: &Self) {
        for (mine, other) in self.partials.iter_mut().zip(&next.partials) {
            mine.merge(other);
        }
        for (mine, other) in self.known_us.iter_mut().zip(&next.known_us) {
            *mine += other;
        }
        self.extent.length_us += next.extent.length_us;
        self.extent.seen |= next.extent.seen;
        self.length_us += next.length_us;
        self.newest_append_us = self.newest_append_us.max(next.newest_append_us);
        self.any |= next.any;
    }
}

fn feature_value(value: Val, feature_type: FeatureType) -> Option<FeatureValue> {
    match (value, feature_type) {
        (Val::Num(x), FeatureType::F64) => Some(FeatureValue::F64(x)),
        (Val::Num(x), FeatureType::I64) => Some(FeatureValue::I64(x as i64)),
        (Val::Bool(b), FeatureType::Bool) => Some(FeatureValue::Bool(b)),
        (Val::Text(text), FeatureType::Text) => Some(FeatureValue::Text(text)),
        _ => None,
    }
}

/// Gives the first multiple of `step_us` after a time.
pub(crate) const fn next_multiple(time_us: i64, step_us: i64) -> i64 {
    (time_us.div_euclid(step_us) + 1).saturating_mul(step_us)
}

/// Gives the last multiple of `step_us` at or before a time.
pub(crate) const fn last_multiple(time_us: i64, step_us: i64) -> i64 {
    time_us.div_euclid(step_us).saturating_mul(step_us)
}
