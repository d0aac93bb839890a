//! A slow second opinion: windows from first principles, written apart from the crate.
//!
//! It knows points and holds only: the value at an instant is found by looking at all points; a window is
//! cut at every instant at which anything can change.

use std::collections::BTreeMap;

use millrace_preprocess::InputRow;
use millrace_protocol::*;

/// A point of a tag: value (`None`: bad), hold.
type Tag = BTreeMap<i64, (Option<Value>, i64)>;

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    tags: BTreeMap<String, Tag>,
}

impl Oracle {
    /// Takes all rows of a machine; `hold` tells how long a row's tag is held.
    pub(crate) fn new(rows: &[InputRow], hold: impl Fn(&InputRow, &str) -> i64) -> Self {
        let mut sorted: Vec<&InputRow> =
            rows.iter().filter(|r| r.time_us - r.append_us <= 5_000_000).collect();
        sorted.sort_by(|a, b| (a.time_us, &a.stream, a.seq).cmp(&(b.time_us, &b.stream, b.seq)));
        let mut tags: BTreeMap<String, Tag> = BTreeMap::new();
        for row in sorted {
            for (column, cell) in row.layout.columns().iter().zip(&row.cells) {
                let value = match cell {
                    Cell::Absent => continue,
                    Cell::Bad(_) => None,
                    Cell::Good(value) => Some(value.clone()),
                };
                let tag = tags.entry(column.tag.to_string()).or_default();
                tag.insert(row.time_us, (value, hold(row, &column.tag)));
            }
        }
        Self { tags }
    }

    pub(crate) fn tag(
        &self,
        name: &str,
    ) -> impl DoubleEndedIterator<Item = (i64, &Option<Value>, i64)> + Clone {
        self.tags.get(name).into_iter().flatten().map(|(t, (value, hold))| (*t, value, *hold))
    }

    /// Gives the value held at an instant.
    pub(crate) fn at(&self, name: &str, instant: i64) -> Option<Value> {
        let (time, (value, hold)) = self.tags.get(name)?.range(..=instant).next_back()?;
        value.clone().filter(|_| instant < time + hold)
    }

    pub(crate) fn number(&self, name: &str, instant: i64) -> Option<f64> {
        match self.at(name, instant)? {
            Value::F64(x) => Some(x),
            _ => None,
        }
    }

    /// Gives the instants of a window at which one of the tags can change, its begin included.
    fn cuts(&self, names: &[&str], from: i64, to: i64) -> Vec<i64> {
        let mut cuts = vec![from];
        for name in names {
            cuts.extend(self.tag(name).flat_map(|(t, _, hold)| [t, t + hold]));
        }
        cuts.retain(|t| (from..to).contains(t));
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    fn pieces(&self, names: &[&str], from: i64, to: i64) -> Vec<(i64, i64)> {
        let cuts = self.cuts(names, from, to);
        let ends = cuts.iter().skip(1).copied().chain([to]);
        cuts.iter().copied().zip(ends).collect()
    }

    pub(crate) fn mean_of_sum(&self, a: &str, b: &str, from: i64, to: i64) -> Option<f64> {
        let mut parts = Vec::new();
        for (start, end) in self.pieces(&[a, b], from, to) {
            if let (Some(x), Some(y)) = (self.number(a, start), self.number(b, start)) {
                parts.push((x + y, (end - start) as f64));
            }
        }
        let length: f64 = parts.iter().map(|p| p.1).sum();
        (length > 0.0).then(|| parts.iter().map(|p| p.0 * (p.1 / length)).sum())
    }

    pub(crate) fn mean(&self, name: &str, from: i64, to: i64) -> Option<f64> {
        let mut parts = Vec::new();
        for (start, end) in self.pieces(&[name], from, to) {
            parts.extend(self.number(name, start).map(|x| (x, (end - start) as f64)));
        }
        let length: f64 = parts.iter().map(|p| p.1).sum();
        (length > 0.0).then(|| parts.iter().map(|p| p.0 * (p.1 / length)).sum())
    }

    pub(crate) fn max(&self, name: &str, from: i64, to: i64) -> Option<f64> {
        self.cuts(&[name], from, to).into_iter().filter_map(|t| self.number(name, t)).reduce(f64::max)
    }

    fn samples(&self, name: &str, from: i64, to: i64) -> Vec<f64> {
        let inside = self.tag(name).filter(|(t, ..)| (from..to).contains(t));
        inside.filter_map(|(t, ..)| self.number(name, t)).collect()
    }

    pub(crate) fn std(&self, name: &str, from: i64, to: i64) -> Option<f64> {
        let samples = self.samples(name, from, to);
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        (n > 0.0).then(|| (samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    pub(crate) fn median(&self, name: &str, from: i64, to: i64) -> Option<f64> {
        let mut samples = self.samples(name, from, to);
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        match samples.len() {
            0 => None,
            n if n % 2 == 1 => Some(samples[middle]),
            _ => Some(f64::midpoint(samples[middle - 1], samples[middle])),
        }
    }

    pub(crate) fn seconds_in(&self, name: &str, state: &str, from: i64, to: i64) -> Option<f64> {
        let (mut known, mut time) = (false, 0);
        for (start, end) in self.pieces(&[name], from, to) {
            if let Some(Value::Text(text)) = self.at(name, start) {
                known = true;
                time += if &*text == state { end - start } else { 0 };
            }
        }
        known.then_some(time as f64 / 1e6)
    }

    /// Counts a counter without a modulus: from the newest good value that still holds at the begin (a bad
    /// one after it takes nothing away); what is smaller than before began anew at 0.
    pub(crate) fn increase(&self, name: &str, from: i64, to: i64) -> Option<f64> {
        let good = |(t, value, hold): (i64, &Option<Value>, i64)| match value {
            Some(Value::F64(x)) => Some((t, *x, hold)),
            _ => None,
        };
        let before = self.tag(name).rev().filter(|(t, ..)| *t < from);
        let before = before.take_while(|(t, _, hold)| t + hold >= from).find_map(good);
        let inside = self.tag(name).filter(|(t, ..)| (from..to).contains(t)).filter_map(good);
        let values: Vec<f64> = before.into_iter().chain(inside).map(|(_, x, _)| x).collect();
        let steps = values.windows(2).map(|w| if w[1] >= w[0] { w[1] - w[0] } else { w[1].max(0.0) });
        (!values.is_empty()).then(|| steps.sum())
    }
}
