//! Partials of panes put together in pane order, and values made of them.

use super::{Extent, Partial, widen};
use crate::graph::AggregateFn;
use crate::value::Val;

impl Partial {
    /// Adds the next pane's partial.
    ///
    /// *Source*: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    /// Variances", 1979, for moments and lines.
    pub(crate) fn merge(&mut self, next: &Self) {
        match (self, next) {
            (Self::Count { n, known }, Self::Count { n: m, known: k })
            | (Self::Transitions { n, known }, Self::Transitions { n: m, known: k }) => {
                *n += m;
                *known |= k;
            }
            (Self::Area { area, known_us }, Self::Area { area: a, known_us: k }) => {
                *area += a;
                *known_us += k;
            }
            (Self::Range(range), Self::Range(other)) => {
                if let Some((low, high)) = *other {
                    *range = Some(widen(*range, low, high));
                }
            }
            (Self::Sum { n, sum }, Self::Sum { n: m, sum: s })
            | (Self::Squares { n, sum }, Self::Squares { n: m, sum: s }) => {
                *n += m;
                *sum += s;
            }
            (Self::Ends { first, last }, Self::Ends { first: f, last: l }) => {
                if first.is_none() {
                    first.clone_from(f);
                }
                if l.is_some() {
                    last.clone_from(l);
                }
            }
            (Self::Sketch(sketch), Self::Sketch(other)) => sketch.merge(other),
            (Self::Samples(samples), Self::Samples(other)) => samples.extend_from_slice(other),
            (Self::Increase { sum, known }, Self::Increase { sum: s, known: k }) => {
                *sum += s;
                *known |= k;
            }
            (Self::Delta { start, last }, Self::Delta { start: s, last: l }) => {
                *start = start.or(*s);
                *last = l.or(*last);
            }
            (Self::Time { true_us, known_us, known }, Self::Time { true_us: t, known_us: u, known: k }) => {
                *true_us += t;
                *known_us += u;
                *known |= k;
            }
            (Self::Age { last_us, held }, Self::Age { last_us: l, held: h }) => {
                *last_us = l.or(*last_us);
                *held = *h;
            }
            (Self::Known { known_us, extent }, Self::Known { known_us: k, extent: e }) => {
                *known_us += k;
                extent.length_us += e.length_us;
                extent.seen |= e.seen;
            }
            (this, next) => this.merge_moments(next),
        }
    }

    fn merge_moments(&mut self, next: &Self) {
        match (self, next) {
            (this @ Self::Moments { n: 0, .. }, next @ Self::Moments { .. })
            | (this @ Self::Line { n: 0, .. }, next @ Self::Line { .. }) => *this = next.clone(),
            (_, Self::Moments { n: 0, .. } | Self::Line { n: 0, .. }) => {}
            (Self::Moments { n, mean, m2 }, Self::Moments { n: m, mean: other, m2: more }) => {
                let (a, b) = (*n as f64, *m as f64);
                let apart = other - *mean;
                *m2 = *m2 + more + apart * apart * a * b / (a + b);
                *mean += apart * b / (a + b);
                *n += m;
            }
            (
                Self::Line { n, origin_us, mean_t, mean_x, s_tt, s_tx },
                Self::Line { n: m, origin_us: from, mean_t: t, mean_x: x, s_tt: tt, s_tx: tx },
            ) => {
                let (a, b) = (*n as f64, *m as f64);
                let apart_t = t + (from - *origin_us) as f64 / 1e6 - *mean_t;
                let apart_x = x - *mean_x;
                *s_tt = *s_tt + tt + apart_t * apart_t * a * b / (a + b);
                *s_tx = *s_tx + tx + apart_t * apart_x * a * b / (a + b);
                *mean_t += apart_t * b / (a + b);
                *mean_x += apart_x * b / (a + b);
                *n += m;
            }
            _ => {}
        }
    }

    /// Gives the aggregate's value; `end_us` is the end of the window.
    pub(crate) fn finish(&self, function: AggregateFn, end_us: i64) -> Val {
        use AggregateFn as F;
        let given = |given: bool, x: f64| if given { Val::num(x) } else { Val::Null };
        match (self, function) {
            (Self::Count { n, known } | Self::Transitions { n, known }, _) => given(*known, *n as f64),
            (Self::Area { area, known_us }, F::Integral) => given(*known_us > 0, area / 1e6),
            (Self::Area { area, known_us }, _) => given(*known_us > 0, area / *known_us as f64),
            (Self::Range(range), _) => range.map_or(Val::Null, |(low, high)| match function {
                F::Min => Val::num(low),
                F::Max => Val::num(high),
                _ => Val::num(high - low),
            }),
            (Self::Sum { n, sum }, _) => given(*n > 0, *sum),
            (Self::Moments { n, m2, .. }, F::Var) => given(*n > 0, m2 / *n as f64),
            (Self::Moments { n, m2, .. }, _) => given(*n > 0, (m2 / *n as f64).sqrt()),
            (Self::Squares { n, sum }, _) => given(*n > 0, (sum / *n as f64).sqrt()),
            (Self::Line { n, s_tt, s_tx, .. }, _) => given(*n > 1 && *s_tt > 0.0, s_tx / s_tt),
            (Self::Ends { first, .. }, F::First) => first.clone().unwrap_or(Val::Null),
            (Self::Ends { last, .. }, _) => last.clone().unwrap_or(Val::Null),
            (Self::Samples(samples), F::Quantile(q)) => quantile(samples, q),
            (Self::Sketch(sketch), F::Quantile(q)) => sketch.quantile(q).map_or(Val::Null, Val::num),
            (Self::Samples(_) | Self::Sketch(_), _) => Val::Null,
            (Self::Increase { sum, known }, _) => given(*known, *sum),
            (Self::Delta { start, last }, _) => {
                start.zip(*last).map_or(Val::Null, |(start, last)| Val::num(last - start))
            }
            (Self::Time { true_us, known, .. }, F::Duration) => given(*known, *true_us as f64 / 1e6),
            (Self::Time { true_us, known_us, .. }, _) => {
                given(*known_us > 0, *true_us as f64 / *known_us as f64)
            }
            (Self::Age { last_us, held }, _) => {
                let last = last_us.filter(|_| *held);
                last.map_or(Val::Null, |last| Val::num((end_us - last) as f64 / 1e6))
            }
            (Self::Known { known_us, extent }, _) => share(*known_us, *extent),
        }
    }
}

fn share(known_us: i64, extent: Extent) -> Val {
    if extent.length_us > 0 { Val::num(known_us as f64 / extent.length_us as f64) } else { Val::Null }
}

/// Gives the exact quantile, interpolated between the two nearest of the sorted samples.
///
/// *Source*: Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996, definition 7 (the default
/// of numpy and R).
fn quantile(samples: &[f64], q: f64) -> Val {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return Val::Null };
    let place = q * last as f64;
    let below = place.floor();
    let at = |n: f64| sorted.get((n as usize).min(last)).copied().unwrap_or_default();
    let (low, high) = (at(below), at(below + 1.0));
    Val::num(low + (high - low) * (place - below))
}
