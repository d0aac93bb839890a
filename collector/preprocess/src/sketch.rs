//! Quantiles of windows that are too long to keep their samples: counts in logarithmic buckets.
//!
//! Invariant: the sketch depends on the set of samples only; merging is addition. A quantile is right to
//! 0.5 % of its value.
//!
//! *Source*: Masson, Rim, Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
//! Relative-Error Guarantees", VLDB 2019, without the collapsing of buckets: doubles need at most
//! 2 × 142,000, and measured quantities a few hundred.

use std::collections::BTreeMap;

/// Relative error of a quantile.
const ACCURACY: f64 = 0.005;
/// Smaller values count as zero.
const SMALLEST: f64 = 1e-300;

/// Counts of samples by their logarithm.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sketch {
    /// Negative samples have the keys below zero in the order of their values.
    buckets: BTreeMap<i64, u64>,
    n: u64,
}

/// Keys of positive samples lie above this, of negative ones below its negative.
const OFFSET: i64 = 1 << 20;

fn gamma_log() -> f64 {
    libm::log((1.0 + ACCURACY) / (1.0 - ACCURACY))
}

fn key(x: f64) -> i64 {
    if x.abs() < SMALLEST {
        return 0;
    }
    let exponent = (libm::log(x.abs()) / gamma_log()).ceil() as i64;
    if x > 0.0 { OFFSET + exponent } else { -OFFSET - exponent }
}

fn value(key: i64) -> f64 {
    if key == 0 {
        return 0.0;
    }
    let exponent = (key.abs() - OFFSET) as f64;
    let gamma = (1.0 + ACCURACY) / (1.0 - ACCURACY);
    let middle = 2.0 * libm::exp(exponent * gamma_log()) / (gamma + 1.0);
    if key > 0 { middle } else { -middle }
}

impl Sketch {
    pub(crate) fn merge(&mut self, other: &Self) {
        for (key, n) in &other.buckets {
            *self.buckets.entry(*key).or_insert(0) += n;
        }
        self.n += other.n;
    }

    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q * self.n.checked_sub(1)? as f64).floor() as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().find(|(_, n)| {
            seen += **n;
            seen > rank
        });
        bucket.map(|(key, _)| value(*key))
    }
}

impl FromIterator<f64> for Sketch {
    fn from_iter<T: IntoIterator<Item = f64>>(samples: T) -> Self {
        let mut sketch = Self::default();
        for x in samples {
            *sketch.buckets.entry(key(x)).or_insert(0) += 1;
            sketch.n += 1;
        }
        sketch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_half_a_percent() {
        let samples: Vec<f64> = (0..1001).map(|n| f64::from(n - 500) * 0.37).collect();
        let sketch: Sketch = samples.iter().copied().collect();
        for (q, exact) in [(0.0, -185.0), (0.1, -148.0), (0.5, 0.0), (0.75, 92.5), (1.0, 185.0)] {
            let got = sketch.quantile(q).unwrap();
            assert!((got - exact).abs() <= 0.0051 * f64::abs(exact), "{q}: {got} {exact}");
        }
        let (a, b) = samples.split_at(300);
        let mut merged: Sketch = b.iter().copied().collect();
        merged.merge(&a.iter().copied().collect());
        assert_eq!(merged, sketch, "merging is addition, in any order");
        assert_eq!(Sketch::default().quantile(0.5), None);
    }
}
