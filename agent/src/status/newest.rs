//! The newest value of every tag, for people who want to see that a machine is read right.
//!
//! It is taken as the batch stage receives rows, before they are on disk; nothing counts on it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_protocol::{Category, Cell, LayoutId, MachineName, StreamRow, Value};
use serde::Serialize;

use crate::clock::rfc3339;
use crate::delivery::{Delivery, NewTags};

/// So many tags are shown at most; a gateway that has more has them in the lake.
const TAGS_MAX: usize = 50_000;

/// A tag's newest value, as `/api/tags` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewestPoint {
    /// `site/machine`.
    pub machine: MachineName,
    /// The kind of data.
    pub category: Category,
    /// The tag.
    pub tag: String,
    /// Its event time, RFC 3339 in UTC.
    pub time: String,
    /// The value; null if the quality is not good.
    pub value: serde_json::Value,
    /// The unit's symbol, where it is known.
    pub unit: Option<String>,
    /// How far it can be trusted, and if not, why.
    pub quality: String,
}

/// The newest values. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Newest {
    shared: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    streams: BTreeMap<(MachineName, Category), Tags>,
    count: usize,
    /// Of tags that have one.
    units: HashMap<(MachineName, Category), HashMap<Arc<str>, Arc<str>>>,
}

#[derive(Debug, Default)]
struct Tags {
    places: HashMap<Arc<str>, usize>,
    points: Vec<(Arc<str>, i64, Cell)>,
    /// Where the columns of the last row's layout stand; `None` where there is no room.
    plan: Option<(LayoutId, Vec<Option<usize>>)>,
}

impl Newest {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every entry is whole after every statement.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the units of tags.
    pub fn learn(&self, streams: &[NewTags]) {
        let mut table = self.lock();
        for stream in streams {
            let with_unit =
                stream.tags.iter().filter_map(|tag| Some((Arc::clone(&tag.name), tag.unit.clone()?)));
            let key = (stream.machine.clone(), stream.category.clone());
            table.units.entry(key).or_default().extend(with_unit);
        }
    }

    /// Looks at a delivery.
    pub fn observe(&self, delivery: &Delivery) {
        if !delivery.new_tags.is_empty() {
            self.learn(&delivery.new_tags);
        }
        let mut table = self.lock();
        for row in &delivery.rows {
            table.observe(row);
        }
    }

    /// Gives every tag's newest value, by machine, category and tag.
    #[must_use]
    pub fn points(&self) -> Vec<NewestPoint> {
        let table = self.lock();
        let mut all = Vec::with_capacity(table.count);
        for (key @ (machine, category), tags) in &table.streams {
            let units = table.units.get(key);
            let mut points: Vec<_> = tags.points.iter().collect();
            points.sort_by(|(a, ..), (b, ..)| a.cmp(b));
            for (tag, time_us, cell) in points {
                let (value, quality) = match cell {
                    Cell::Good(value) => (json(value), "good".to_owned()),
                    Cell::Bad(quality) => (serde_json::Value::Null, quality.to_string()),
                    Cell::Absent => continue,
                };
                all.push(NewestPoint {
                    machine: machine.clone(),
                    category: category.clone(),
                    tag: tag.to_string(),
                    time: rfc3339(*time_us),
                    value,
                    unit: units.and_then(|units| units.get(tag)).map(ToString::to_string),
                    quality,
                });
            }
        }
        all
    }
}

impl Table {
    fn observe(&mut self, row: &StreamRow) {
        let tags = self.streams.entry((row.machine.clone(), row.category.clone())).or_default();
        let layout = &row.row.layout;
        if tags.plan.as_ref().is_none_or(|(id, _)| *id != layout.id()) {
            let places = layout.columns().iter().map(|c| tags.place(&c.tag, &mut self.count)).collect();
            tags.plan = Some((layout.id(), places));
        }
        let Some((_, places)) = &tags.plan else { return };
        for (place, cell) in places.iter().zip(&row.row.cells) {
            // A backlog that a device hands over late does not overwrite what is newer.
            if cell.is_point()
                && let Some((_, time_us, newest)) = place.and_then(|p| tags.points.get_mut(p))
                && row.row.time_us >= *time_us
            {
                *time_us = row.row.time_us;
                newest.clone_from(cell);
            }
        }
    }
}

impl Tags {
    fn place(&mut self, tag: &Arc<str>, count: &mut usize) -> Option<usize> {
        if let Some(place) = self.places.get(tag) {
            return Some(*place);
        }
        (*count < TAGS_MAX).then(|| {
            *count += 1;
            self.points.push((Arc::clone(tag), i64::MIN, Cell::Absent));
            self.places.insert(Arc::clone(tag), self.points.len() - 1);
            self.points.len() - 1
        })
    }
}

/// Shows a value; what JSON has no number for is text.
fn json(value: &Value) -> serde_json::Value {
    let float = |f: f64| serde_json::Number::from_f64(f).map_or_else(|| f.to_string().into(), Into::into);
    match value {
        Value::Bool(b) => (*b).into(),
        Value::I64(n) => (*n).into(),
        Value::U64(n) => (*n).into(),
        // By its shortest digits: 0.1 is shown as 0.1.
        Value::F32(f) => float(f.to_string().parse().unwrap_or_else(|_| f64::from(*f))),
        Value::F64(f) => float(*f),
        Value::Text(text) => text.as_ref().into(),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()).into(),
        Value::Waveform(wave) => format!("{} samples at {} Hz", wave.samples.len(), wave.rate_hz).into(),
    }
}
