//! The points of one machine that its windows may still need, in canonical order.
//!
//! Invariant: what is kept is a function of the set of rows and births given, never of their order: of
//! several points of a tag at one instant the last one by (stream, sequence) stays (F2), and how long a
//! point is held is what the birth before its place in the stream says (F3).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_protocol::{Birth, Cell, Layout, StreamId};

use crate::input::InputRow;
use crate::value::{Type, Val};

/// How long a value is held when no birth says it (F3).
pub(crate) const DEFAULT_HOLD_US: i64 = 600_000_000;
/// Rows further ahead of their append time take no part in windows (F5).
pub(crate) const MAX_AHEAD_US: i64 = 5_000_000;
/// How many shapes of rows are remembered; a machine has one for each category, some more around a birth.
const ROUTES: usize = 16;

/// What a birth says of a tag, as far as windows need it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TagRules {
    pub(crate) hold_us: i64,
    pub(crate) modulus: Option<f64>,
}

impl Default for TagRules {
    fn default() -> Self {
        Self { hold_us: DEFAULT_HOLD_US, modulus: None }
    }
}

/// A point; `Null` stands for bad quality or a value that does not fit.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) time_us: i64,
    pub(crate) append_us: i64,
    pub(crate) value: Val,
    pub(crate) rules: TagRules,
    seq: u64,
    stream: usize,
}

impl Point {
    /// Gives the end of the time for which the value is held, the next point apart.
    pub(crate) const fn held_until_us(&self) -> i64 {
        self.time_us.saturating_add(self.rules.hold_us)
    }
}

/// The points of one tag, by time, each instant once.
#[derive(Debug, Clone)]
pub(crate) struct TagHistory {
    name: Arc<str>,
    wanted: Type,
    points: Vec<Point>,
    /// Points before this place are forgotten and wait to be removed together.
    begin: usize,
    /// Points before this time may be missing.
    kept_us: i64,
}

impl TagHistory {
    pub(crate) fn points(&self) -> &[Point] {
        self.points.get(self.begin..).unwrap_or_default()
    }

    /// Gives the place of the first point at or after a time.
    pub(crate) fn at(&self, time_us: i64) -> usize {
        self.points().partition_point(|p| p.time_us < time_us)
    }

    fn put(&mut self, point: Point, streams: &[StreamBirths]) {
        if self.points.last().is_none_or(|last| last.time_us < point.time_us) {
            self.points.push(point);
            return;
        }
        let at = self.begin + self.at(point.time_us);
        match self.points.get_mut(at) {
            Some(known) if known.time_us == point.time_us => {
                if order(known, &point, streams) == Ordering::Less {
                    *known = point;
                }
            }
            _ => self.points.insert(at, point),
        }
    }

    /// Forgets points that no window from `horizon_us` on can see. The one held there stays, and if it is
    /// bad the good one before it, from which a counter goes on.
    fn forget(&mut self, horizon_us: i64) {
        self.kept_us = self.kept_us.max(horizon_us);
        let earlier = self.points().get(..self.at(horizon_us)).unwrap_or_default();
        self.begin += earlier.iter().rposition(|point| !point.value.is_null()).unwrap_or(0);
        if self.begin > 64 && self.begin * 2 > self.points.len() {
            self.points.drain(..self.begin);
            self.begin = 0;
        }
    }
}

fn order(a: &Point, b: &Point, streams: &[StreamBirths]) -> Ordering {
    let id = |p: &Point| streams.get(p.stream).map(|s| &s.id);
    id(a).cmp(&id(b)).then(a.seq.cmp(&b.seq))
}

#[derive(Debug, Clone)]
struct StreamBirths {
    id: Arc<StreamId>,
    /// By the sequence after which they apply.
    births: BTreeMap<u64, BTreeMap<Arc<str>, TagRules>>,
}

impl StreamBirths {
    fn rules(&self, seq: u64, tag: &str) -> TagRules {
        let before = self.births.range(..seq).rev();
        before.filter_map(|(_, tags)| tags.get(tag)).next().copied().unwrap_or_default()
    }
}

/// Where the cells of a shape of rows go, for the sequences between two births.
#[derive(Debug, Clone)]
struct Route {
    stream: usize,
    layout: Arc<Layout>,
    after: u64,
    until: u64,
    columns: Arc<[(usize, usize, TagRules)]>,
}

/// What a row changed.
#[derive(Debug, Clone)]
pub(crate) struct Touched {
    /// The places of the tags, some of them perhaps untouched.
    tags: Arc<[(usize, usize, TagRules)]>,
    pub(crate) time_us: i64,
    /// No window that begins after this sees the row.
    pub(crate) until_us: i64,
}

impl Touched {
    /// Tells whether any of these tags may have changed.
    pub(crate) fn any_of(&self, places: &[usize]) -> bool {
        self.tags.iter().any(|(_, tag, _)| places.contains(tag))
    }
}

/// The points of one machine, of the tags that its views read.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    tags: Vec<TagHistory>,
    streams: Vec<StreamBirths>,
    routes: Vec<Route>,
}

impl History {
    /// Gives the place of a tag's points; makes one.
    pub(crate) fn tag(&mut self, name: &Arc<str>, wanted: Type) -> usize {
        let found = self.tags.iter().position(|tag| tag.name == *name && tag.wanted == wanted);
        found.unwrap_or_else(|| {
            let name = Arc::clone(name);
            self.tags.push(TagHistory { name, wanted, points: Vec::new(), begin: 0, kept_us: i64::MIN });
            self.routes.clear();
            self.tags.len() - 1
        })
    }

    pub(crate) fn points_of(&self, tag: usize) -> Option<&TagHistory> {
        self.tags.get(tag)
    }

    fn stream(&mut self, id: &Arc<StreamId>) -> usize {
        let found = self.streams.iter().rposition(|s| Arc::ptr_eq(&s.id, id) || s.id == *id);
        found.unwrap_or_else(|| {
            self.streams.push(StreamBirths { id: Arc::clone(id), births: BTreeMap::new() });
            self.streams.len() - 1
        })
    }

    /// Takes a birth; points that came before it and belong after it get its rules. Gives what changed; `None` if the
    /// birth says nothing that was not said before.
    pub(crate) fn birth(&mut self, id: &Arc<StreamId>, birth: &Birth) -> Option<Vec<Touched>> {
        let stream = self.stream(id);
        self.routes.clear();
        let read = birth.tags.iter().filter(|tag| self.tags.iter().any(|known| known.name == tag.name));
        let tags: BTreeMap<Arc<str>, TagRules> = read
            .map(|tag| {
                let modulus = tag.counter_modulus.map(|m| m as f64);
                (Arc::clone(&tag.name), TagRules { hold_us: tag.hold_us.max(0), modulus })
            })
            .collect();
        let births = self.streams.get_mut(stream)?;
        if births.births.get(&birth.after) == Some(&tags) {
            return None;
        }
        births.births.insert(birth.after, tags);
        let mut touched = Vec::new();
        for (at, tag) in self.tags.iter_mut().enumerate() {
            for point in tag.points.iter_mut().filter(|p| p.stream == stream && p.seq > birth.after) {
                let rules = births.rules(point.seq, &tag.name);
                if rules != point.rules {
                    let until_us = point.held_until_us();
                    point.rules = rules;
                    let until_us = until_us.max(point.held_until_us());
                    let tags = Arc::new([(0, at, rules)]);
                    touched.push(Touched { tags, time_us: point.time_us, until_us });
                }
            }
        }
        Some(touched)
    }

    /// Gives the longest time for which a tag's value may be held.
    pub(crate) fn longest_hold_us(&self, tag: usize) -> i64 {
        let Some(tag) = self.tags.get(tag) else { return DEFAULT_HOLD_US };
        let births = self.streams.iter().flat_map(|s| s.births.values());
        births
            .filter_map(|tags| tags.get(&tag.name))
            .map(|r| r.hold_us)
            .max()
            .unwrap_or(0)
            .max(DEFAULT_HOLD_US)
    }

    fn route(&mut self, row: &InputRow) -> Option<&Route> {
        let fits = |route: &Route, streams: &[StreamBirths]| {
            row.seq > route.after
                && row.seq <= route.until
                && (Arc::ptr_eq(&route.layout, &row.layout) || route.layout.id() == row.layout.id())
                && streams
                    .get(route.stream)
                    .is_some_and(|s| Arc::ptr_eq(&s.id, &row.stream) || s.id == row.stream)
        };
        if let Some(at) = self.routes.iter().position(|route| fits(route, &self.streams)) {
            return self.routes.get(at);
        }
        let stream = self.stream(&row.stream);
        let births = self.streams.get(stream)?;
        let after = births.births.range(..row.seq).next_back().map_or(0, |(after, _)| *after);
        let until = births.births.range(row.seq..).next().map_or(u64::MAX, |(after, _)| *after);
        let mut columns = Vec::new();
        for (column, shape) in row.layout.columns().iter().enumerate() {
            for (at, tag) in self.tags.iter().enumerate().filter(|(_, tag)| tag.name == shape.tag) {
                columns.push((column, at, births.rules(row.seq, &tag.name)));
            }
        }
        if self.routes.len() >= ROUTES {
            self.routes.remove(0);
        }
        self.routes.push(Route {
            stream,
            layout: Arc::clone(&row.layout),
            after,
            until,
            columns: columns.into(),
        });
        self.routes.last()
    }

    /// Takes a row. Gives what it changed; `None` if it takes no part in windows.
    pub(crate) fn row(&mut self, row: &InputRow) -> Option<Touched> {
        if row.time_us > row.append_us.saturating_add(MAX_AHEAD_US) {
            return None;
        }
        let route = self.route(row)?;
        let (stream, columns) = (route.stream, Arc::clone(&route.columns));
        let mut until_us = None;
        for &(column, tag, rules) in columns.iter() {
            let value = match row.cells.get(column) {
                None | Some(Cell::Absent) => continue,
                Some(Cell::Bad(_)) => Val::Null,
                Some(Cell::Good(value)) => match self.tags.get(tag) {
                    Some(tag) => Val::of(value, tag.wanted),
                    None => continue,
                },
            };
            let (time_us, append_us, seq) = (row.time_us, row.append_us, row.seq);
            let point = Point { time_us, append_us, value, rules, seq, stream };
            until_us = until_us.max(Some(point.held_until_us()));
            if let Some(tag) = self.tags.get_mut(tag) {
                tag.put(point, &self.streams);
            }
        }
        until_us.map(|until_us| Touched { tags: columns, time_us: row.time_us, until_us })
    }

    /// Forgets a tag's points that no window from `horizon_us` on can see.
    pub(crate) fn forget(&mut self, tag: usize, horizon_us: i64) {
        if let Some(tag) = self.tags.get_mut(tag) {
            tag.forget(horizon_us);
        }
    }

    /// Counts the points in memory.
    pub(crate) fn len(&self) -> usize {
        self.tags.iter().map(|tag| tag.points().len()).sum()
    }

    /// Gives the time from which all points of some tags are in memory.
    pub(crate) fn kept_us(&self, places: &[usize]) -> i64 {
        let kept = places.iter().filter_map(|&place| self.tags.get(place)).map(|tag| tag.kept_us);
        kept.max().unwrap_or(i64::MIN)
    }

    /// Gives a copy that holds only what was known at a time (F7).
    pub(crate) fn known_at(&self, append_us: i64, from_us: i64, to_us: i64) -> Self {
        let mut known = Self { tags: Vec::new(), streams: self.streams.clone(), routes: Vec::new() };
        for tag in &self.tags {
            let range = tag.points().get(tag.at(from_us)..tag.at(to_us)).unwrap_or_default();
            let points = range.iter().filter(|p| p.append_us <= append_us).cloned().collect();
            known.tags.push(TagHistory {
                name: Arc::clone(&tag.name),
                wanted: tag.wanted,
                points,
                begin: 0,
                kept_us: from_us,
            });
        }
        known
    }
}
