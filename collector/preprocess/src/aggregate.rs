//! Aggregates as partial results: of a whole window, or of its panes, merged in their order (F2).
//!
//! Invariant: left to right over sorted steps; moments in two passes; minima and maxima by plain
//! comparison, so that no platform chooses between 0.0 and −0.0. `merge.rs` puts panes together and makes
//! values of partials.

mod merge;

use crate::graph::AggregateFn;
use crate::history::{Point, TagHistory};
use crate::row::{Step, Steps};
use crate::sketch::Sketch;
use crate::value::Val;

/// A piece of time with one value.
struct Piece<'a> {
    start_us: i64,
    length_us: i64,
    value: &'a Val,
    sample: bool,
    inside: bool,
}

/// Walks over the pieces that value and domain make together.
fn walk(steps: &Steps, domain: Option<&Steps>, to_us: i64, mut visit: impl FnMut(&Piece<'_>)) {
    let values = steps.list.as_slice();
    let domain = domain.map_or(&[] as &[Step], |d| d.list.as_slice());
    let mut inside = domain.is_empty();
    let (mut at, mut domain_at) = (0, 0);
    let mut current: Option<&Step> = None;
    while at < values.len() || domain_at < domain.len() {
        let value_time = values.get(at).map_or(i64::MAX, |s| s.time_us);
        let domain_time = domain.get(domain_at).map_or(i64::MAX, |s| s.time_us);
        let start_us = value_time.min(domain_time);
        let mut sample = false;
        if value_time == start_us {
            current = values.get(at);
            sample = current.is_some_and(|step| step.sample);
            at += 1;
        }
        if domain_time == start_us {
            inside = domain.get(domain_at).is_some_and(|d| d.value == Val::Bool(true));
            domain_at += 1;
        }
        let next_value = values.get(at).map_or(to_us, |s| s.time_us);
        let next_domain = domain.get(domain_at).map_or(to_us, |s| s.time_us);
        let value = current.map_or(&Val::Null, |step| &step.value);
        let length_us = next_value.min(next_domain) - start_us;
        visit(&Piece { start_us, length_us, value, sample, inside });
    }
}

/// The time that counts, and whether there is any.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Extent {
    pub(crate) length_us: i64,
    pub(crate) seen: bool,
}

/// Measures a domain.
pub(crate) fn extent(domain: Option<&Steps>, from_us: i64, to_us: i64) -> Extent {
    let Some(domain) = domain else { return Extent { length_us: to_us - from_us, seen: true } };
    let mut extent = Extent::default();
    walk(domain, None, to_us, |piece| {
        if *piece.value == Val::Bool(true) {
            extent.length_us += piece.length_us;
            extent.seen = true;
        }
    });
    extent
}

/// Measures how long a value was known in a domain. *Units*: microseconds.
pub(crate) fn known_us(steps: &Steps, domain: Option<&Steps>, to_us: i64) -> i64 {
    let mut known = 0;
    walk(steps, domain, to_us, |piece| {
        if piece.inside && !piece.value.is_null() {
            known += piece.length_us;
        }
    });
    known
}

/// The result of an aggregate over a part of a window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Partial {
    Count {
        n: u64,
        known: bool,
    },
    /// Σ value × length, and Σ length.
    Area {
        area: f64,
        known_us: i64,
    },
    Range(Option<(f64, f64)>),
    Sum {
        n: u64,
        sum: f64,
    },
    Moments {
        n: u64,
        mean: f64,
        m2: f64,
    },
    Squares {
        n: u64,
        sum: f64,
    },
    Line {
        n: u64,
        origin_us: i64,
        mean_t: f64,
        mean_x: f64,
        s_tt: f64,
        s_tx: f64,
    },
    Ends {
        first: Option<Val>,
        last: Option<Val>,
    },
    Samples(Vec<f64>),
    Sketch(Sketch),
    Increase {
        sum: f64,
        known: bool,
    },
    Delta {
        start: Option<f64>,
        last: Option<f64>,
    },
    Time {
        true_us: i64,
        known_us: i64,
        known: bool,
    },
    Transitions {
        n: u64,
        known: bool,
    },
    Age {
        last_us: Option<i64>,
        held: bool,
    },
    Known {
        known_us: i64,
        extent: Extent,
    },
}

/// A range and what stands in it.
pub(crate) struct Part<'a> {
    pub(crate) steps: &'a Steps,
    pub(crate) domain: Option<&'a Steps>,
    pub(crate) from_us: i64,
    pub(crate) to_us: i64,
    /// Whether the part is a pane of a longer window.
    pub(crate) pane: bool,
    /// The tag itself, for counters.
    pub(crate) tag: Option<&'a TagHistory>,
}

/// Computes an aggregate over a part.
pub(crate) fn partial(function: AggregateFn, part: &Part<'_>) -> Partial {
    use AggregateFn as F;
    match function {
        F::Count => count(part),
        F::Mean | F::Integral => area(part),
        F::Min | F::Max | F::P2p => range(part),
        F::Sum => {
            let samples = samples(part);
            Partial::Sum { n: samples.len() as u64, sum: sum(samples.iter().copied()) }
        }
        F::Std | F::Var => moments(&samples(part)),
        F::Rms => {
            let samples = samples(part);
            Partial::Squares { n: samples.len() as u64, sum: sum(samples.iter().map(|x| x * x)) }
        }
        F::Slope => line(part),
        F::First | F::Last => ends(part),
        F::Quantile(_) if part.pane => Partial::Sketch(samples(part).into_iter().collect()),
        F::Quantile(_) => Partial::Samples(samples(part)),
        F::Increase => increase(part),
        F::Delta => delta(part),
        F::Duration | F::Share => time(part),
        F::Transitions => transitions(part),
        F::Age => age(part),
        F::Coverage => Partial::Known {
            known_us: known_us(part.steps, part.domain, part.to_us),
            extent: extent(part.domain, part.from_us, part.to_us),
        },
    }
}

fn visit(part: &Part<'_>, f: impl FnMut(&Piece<'_>)) {
    walk(part.steps, part.domain, part.to_us, f);
}

/// Collects the values of the samples that count.
fn samples(part: &Part<'_>) -> Vec<f64> {
    if part.domain.is_none() {
        let samples = part.steps.list.iter().filter(|step| step.sample);
        return samples.filter_map(|step| step.value.as_num()).collect();
    }
    let mut samples = Vec::new();
    visit(part, |piece| {
        if let (true, true, Some(x)) = (piece.inside, piece.sample, piece.value.as_num()) {
            samples.push(x);
        }
    });
    samples
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, x| sum + x)
}

fn count(part: &Part<'_>) -> Partial {
    let (mut n, mut known) = (0, false);
    visit(part, |piece| {
        if piece.inside && !piece.value.is_null() {
            known = true;
            n += u64::from(piece.sample && *piece.value != Val::Bool(false));
        }
    });
    Partial::Count { n, known }
}

fn area(part: &Part<'_>) -> Partial {
    let (mut area, mut known_us) = (0.0, 0);
    visit(part, |piece| {
        if let (true, Some(x)) = (piece.inside, piece.value.as_num()) {
            area += x * piece.length_us as f64;
            known_us += piece.length_us;
        }
    });
    Partial::Area { area, known_us }
}

fn range(part: &Part<'_>) -> Partial {
    let mut range: Option<(f64, f64)> = None;
    visit(part, |piece| {
        if let (true, Some(x)) = (piece.inside, piece.value.as_num()) {
            range = Some(widen(range, x, x));
        }
    });
    Partial::Range(range)
}

fn widen(range: Option<(f64, f64)>, low: f64, high: f64) -> (f64, f64) {
    match range {
        None => (low, high),
        Some((min, max)) => (if low < min { low } else { min }, if high > max { high } else { max }),
    }
}

fn moments(samples: &[f64]) -> Partial {
    let n = samples.len() as u64;
    let mean = if n == 0 { 0.0 } else { sum(samples.iter().copied()) / n as f64 };
    let m2 = sum(samples.iter().map(|x| (x - mean) * (x - mean)));
    Partial::Moments { n, mean, m2 }
}

fn line(part: &Part<'_>) -> Partial {
    let mut points: Vec<(f64, f64)> = Vec::new();
    visit(part, |piece| {
        if let (true, true, Some(x)) = (piece.inside, piece.sample, piece.value.as_num()) {
            points.push(((piece.start_us - part.from_us) as f64 / 1e6, x));
        }
    });
    let n = points.len() as u64;
    let over = if n == 0 { 1.0 } else { n as f64 };
    let mean_t = sum(points.iter().map(|p| p.0)) / over;
    let mean_x = sum(points.iter().map(|p| p.1)) / over;
    let s_tt = sum(points.iter().map(|p| (p.0 - mean_t) * (p.0 - mean_t)));
    let s_tx = sum(points.iter().map(|p| (p.0 - mean_t) * (p.1 - mean_x)));
    Partial::Line { n, origin_us: part.from_us, mean_t, mean_x, s_tt, s_tx }
}

fn ends(part: &Part<'_>) -> Partial {
    let (mut first, mut last) = (None, None);
    visit(part, |piece| {
        if piece.inside && !piece.value.is_null() {
            first.get_or_insert_with(|| piece.value.clone());
            last = Some(piece.value.clone());
        }
    });
    Partial::Ends { first, last }
}

fn delta(part: &Part<'_>) -> Partial {
    let mut start = if part.domain.is_none() { part.steps.before.as_num() } else { None };
    let mut last = None;
    visit(part, |piece| {
        if let (true, Some(x)) = (piece.inside, piece.value.as_num()) {
            start = start.or(Some(x));
            last = Some(x);
        }
    });
    Partial::Delta { start, last }
}

fn time(part: &Part<'_>) -> Partial {
    let (mut true_us, mut known_us, mut known) = (0, 0, false);
    visit(part, |piece| {
        if let (true, Some(fact)) = (piece.inside, piece.value.as_bool()) {
            known = true;
            known_us += piece.length_us;
            true_us += if fact { piece.length_us } else { 0 };
        }
    });
    Partial::Time { true_us, known_us, known }
}

fn transitions(part: &Part<'_>) -> Partial {
    let (mut n, mut known) = (0, false);
    let mut previous = part.steps.before.clone();
    visit(part, |piece| {
        if piece.value.is_null() {
            return;
        }
        known |= piece.inside;
        if piece.inside && !previous.is_null() && previous != *piece.value {
            n += 1;
        }
        previous = piece.value.clone();
    });
    Partial::Transitions { n, known }
}

fn age(part: &Part<'_>) -> Partial {
    let (mut last_us, mut held) = (part.steps.since_us, false);
    visit(part, |piece| {
        held = piece.inside && !piece.value.is_null();
        if piece.sample && !piece.value.is_null() {
            last_us = Some(piece.start_us);
        }
    });
    Partial::Age { last_us, held }
}

/// Adds up a counter's steps. A bad point between two good ones loses nothing; only a silence longer
/// than `hold` before the part does.
fn increase(part: &Part<'_>) -> Partial {
    let Some(tag) = part.tag else { return Partial::Increase { sum: 0.0, known: false } };
    let (points, first) = (tag.points(), tag.at(part.from_us));
    let earlier = points.get(..first).unwrap_or_default().iter().rev();
    let mut held = earlier.take_while(|p| p.held_until_us() >= part.from_us);
    let mut previous = held.find_map(|p| p.value.as_num());
    let (mut sum, mut known) = (0.0, previous.is_some());
    let mut domain = part.domain.map(|d| d.list.iter().peekable());
    let mut inside = domain.is_none();
    for point in points.get(first..).unwrap_or_default() {
        if point.time_us >= part.to_us {
            break;
        }
        if let Some(domain) = &mut domain {
            while let Some(step) = domain.next_if(|step| step.time_us <= point.time_us) {
                inside = step.value == Val::Bool(true);
            }
        }
        let Some(x) = point.value.as_num() else { continue };
        if let (Some(before), true) = (previous, inside) {
            sum += counted(before, x, point);
        }
        known |= inside;
        previous = Some(x);
    }
    Partial::Increase { sum, known }
}

/// Gives what a counter counted from one value to the next: a smaller value is an overflow when that
/// explains it with less than half a turn, else a reset to 0.
fn counted(before: f64, now: f64, point: &Point) -> f64 {
    if now >= before {
        return now - before;
    }
    match point.rules.modulus {
        Some(modulus) if now + modulus - before < modulus / 2.0 => now + modulus - before,
        _ if now > 0.0 => now,
        _ => 0.0,
    }
}
