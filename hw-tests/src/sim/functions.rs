//! Every function of the feature language by the oracle: what each feature of `functions.toml` must be, from points
//! and holds, by the definitions of `docs/functions.md` and by none of the crate's code.

use super::oracle::Oracle;
use super::time::SECOND_US;
use millrace_protocol::Value;

/// What `views.toml` has in place of the features of a sliding view.
pub const SLIDING: &str = include_str!("functions.toml");
/// The same for a `latest` view, whose features are values of one instant.
pub const LATEST: &str = include_str!("functions_latest.toml");

/// The functions of the language, as features of sliding views are called after them (with `f_`).
pub const FUNCTIONS: [&str; 33] = [
    "count",
    "mean",
    "min",
    "max",
    "sum",
    "std",
    "var",
    "first",
    "last",
    "quantile",
    "increase",
    "delta",
    "integral",
    "duration",
    "share",
    "transitions",
    "p2p",
    "rms",
    "slope",
    "age",
    "coverage",
    "case",
    "if",
    "coalesce",
    "abs",
    "clamp",
    "rising",
    "falling",
    "lag",
    "rate",
    "sqrt",
    "log",
    "exp",
];
/// Those that a `latest` view can have.
pub const INSTANT: [&str; 14] = [
    "last", "age", "case", "if", "coalesce", "abs", "clamp", "rising", "falling", "lag", "rate", "sqrt",
    "log", "exp",
];

const LAG_US: i64 = 7 * SECOND_US;

/// A range of a machine's time.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a> {
    /// The machine's points.
    pub(super) oracle: &'a Oracle,
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub from_us: i64,
    /// The end, which is not part of it.
    pub to_us: i64,
}

/// A row expression: the tags that it stands on, with how much later their changes show, and its value at an instant.
#[derive(Clone, Copy)]
struct Row {
    tags: &'static [(&'static str, i64)],
    at: fn(Range<'_>, i64) -> Option<f64>,
}

const A: Row = Row { tags: &[("a", 0)], at: |range, t| range.oracle.number("a", t) };
const POSITIVE: Row =
    Row { tags: &[("a", 0)], at: |range, t| Some(f64::from(u8::from((A.at)(range, t)? > 0.0))) };
const STATE: Row = Row { tags: &[("state", 0)], at: |range, t| range.state(t) };
const CASE: Row = Row { tags: &[("a", 0), ("b", 0)], at: |range, t| range.case(t) };
const IF: Row = Row {
    tags: &[("a", 0), ("b", 0), ("state", 0)],
    at: |range, t| range.oracle.number(if range.state(t) == Some(RUN) { "a" } else { "b" }, t),
};
const COALESCE: Row = Row {
    tags: &[("a", 0), ("b", 0)],
    at: |range, t| (SQRT.at)(range, t).or_else(|| range.oracle.number("b", t)),
};
const ABS: Row = Row { tags: &[("a", 0)], at: |range, t| Some((A.at)(range, t)?.abs()) };
const CLAMP: Row = Row { tags: &[("a", 0)], at: |range, t| Some((A.at)(range, t)?.clamp(-100.0, 100.0)) };
const RISING: Row = Row { tags: &[("a", 0)], at: |range, t| range.edge(t, 0.0) };
const FALLING: Row = Row { tags: &[("a", 0)], at: |range, t| range.edge(t, 1.0) };
const LAG: Row = Row {
    tags: &[("a", 0), ("b", 0), ("b", LAG_US)],
    at: |range, t| Some((A.at)(range, t)? - range.oracle.number("b", t - LAG_US)?),
};
const RATE: Row = Row { tags: &[("n", 0)], at: |range, t| range.rate(t) };
const SQRT: Row =
    Row { tags: &[("a", 0)], at: |range, t| (A.at)(range, t).filter(|x| *x >= 0.0).map(f64::sqrt) };
const LOG: Row = Row { tags: &[("a", 0)], at: |range, t| (A.at)(range, t).filter(|x| *x > 0.0).map(f64::ln) };
const EXP: Row = Row { tags: &[("a", 0)], at: |range, t| Some(((A.at)(range, t)? / 1000.0).exp()) };

/// Any number stands for a text.
const RUN: f64 = 1.0;

impl Range<'_> {
    /// Gives what a feature of a sliding view must be; `None` outside for a name that is none.
    #[must_use]
    pub fn sliding(self, function: &str) -> Option<Option<f64>> {
        Some(match function {
            "count" => self.is_known(A).then(|| self.samples(A).len() as f64),
            "mean" => self.mean(A),
            "min" => self.least(A),
            "max" => self.most(A),
            "p2p" => self.most(A).zip(self.least(A)).map(|(high, low)| high - low),
            "sum" => self.of_samples(|x| x.iter().sum()),
            "std" => self.of_samples(variance).map(f64::sqrt),
            "var" => self.of_samples(variance),
            "rms" => self.of_samples(|x| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt()),
            "quantile" => self.of_samples(|x| quantile(x, 0.9)),
            "slope" => self.slope(),
            "first" => self.known(A).first().map(|piece| piece.1),
            "last" => self.known(A).last().map(|piece| piece.1),
            "delta" => self.delta(),
            "increase" => self.oracle.increase("n", self.from_us, self.to_us),
            "integral" => self.area(A).map(|(area, _)| area),
            "duration" => self.area(POSITIVE).map(|(area, _)| area),
            "share" => self.area(POSITIVE).map(|(area, seconds)| area / seconds),
            "transitions" => self.transitions(STATE),
            "age" => self.age(),
            "coverage" => Some(
                self.area(A).map_or(0.0, |(_, seconds)| seconds * 1e6 / (self.to_us - self.from_us) as f64),
            ),
            "case" => self.mean(CASE),
            "if" => self.mean(IF),
            "coalesce" => self.mean(COALESCE),
            "abs" => self.mean(ABS),
            "clamp" => self.mean(CLAMP),
            "rising" => self.edges(RISING),
            "falling" => self.edges(FALLING),
            "lag" => self.mean(LAG),
            "rate" => self.most(RATE),
            "sqrt" => self.most(SQRT),
            "log" => self.most(LOG),
            "exp" => self.mean(EXP),
            _ => return None,
        })
    }

    /// Gives what a feature of a `latest` view must be; the range is one instant.
    #[must_use]
    pub fn instant(self, function: &str) -> Option<Option<f64>> {
        let row = match function {
            "last" => A,
            "age" => return Some(self.newest("a", self.from_us).map(|t| (self.from_us - t) as f64 / 1e6)),
            "case" => CASE,
            "if" => IF,
            "coalesce" => COALESCE,
            "abs" => ABS,
            "clamp" => CLAMP,
            // The features ask by an `if`, to which NULL is false.
            "rising" => return Some(self.edge(self.from_us, 0.0).or(Some(0.0))),
            "falling" => return Some(self.edge(self.from_us, 1.0).or(Some(0.0))),
            "lag" => LAG,
            "rate" => RATE,
            "sqrt" => SQRT,
            "log" => LOG,
            "exp" => EXP,
            _ => return None,
        };
        Some((row.at)(self, self.from_us))
    }

    fn state(self, t: i64) -> Option<f64> {
        match self.oracle.at("state", t)? {
            Value::Text(text) if &*text == "run" => Some(RUN),
            Value::Text(text) => Some(2.0 + text.len() as f64),
            _ => None,
        }
    }

    fn case(self, t: i64) -> Option<f64> {
        match (A.at)(self, t) {
            Some(a) if a > 500.0 => self.oracle.number("b", t),
            Some(a) if a < -500.0 => Some(2.0),
            _ => None,
        }
    }

    /// 1 in the microsecond in which the condition leaves `from`, 0 where it is known otherwise.
    fn edge(self, t: i64, from: f64) -> Option<f64> {
        let now = (POSITIVE.at)(self, t)?;
        let before = (POSITIVE.at)(self, t - 1);
        Some(f64::from(u8::from(before == Some(from) && now != from)))
    }

    /// The newest good point at or before an instant whose value is held there.
    fn newest(self, tag: &str, t: i64) -> Option<i64> {
        self.oracle.number(tag, t)?;
        self.oracle.tag(tag).map(|(time, ..)| time).rfind(|time| *time <= t)
    }

    fn rate(self, t: i64) -> Option<f64> {
        let now = self.newest("n", t).filter(|now| *now >= self.from_us)?;
        let before = self.newest("n", now - 1)?;
        let step = self.oracle.number("n", now)? - self.oracle.number("n", before)?;
        Some(step / ((now - before) as f64 / 1e6))
    }

    /// Cuts the range wherever the expression can change: start, value, length in seconds.
    fn pieces(self, row: Row) -> Vec<(i64, Option<f64>, f64)> {
        let mut cuts = vec![self.from_us];
        for (tag, later_us) in row.tags {
            let changes = self.oracle.tag(tag).flat_map(|(t, _, hold)| [t, t + 1, t + hold]);
            cuts.extend(changes.map(|t| t + later_us).filter(|t| (self.from_us..self.to_us).contains(t)));
        }
        cuts.sort_unstable();
        cuts.dedup();
        let ends: Vec<i64> = cuts.iter().skip(1).copied().chain([self.to_us]).collect();
        let piece = |(start, end): (i64, i64)| (start, (row.at)(self, start), (end - start) as f64 / 1e6);
        cuts.into_iter().zip(ends).map(piece).collect()
    }

    fn known(self, row: Row) -> Vec<(i64, f64, f64)> {
        let pieces = self.pieces(row).into_iter();
        pieces.filter_map(|(start, value, seconds)| Some((start, value?, seconds))).collect()
    }

    fn is_known(self, row: Row) -> bool {
        !self.known(row).is_empty()
    }

    /// The expression's values at the instants at which one of its tags has a good point.
    fn samples(self, row: Row) -> Vec<(i64, f64)> {
        let mut times: Vec<i64> = Vec::new();
        for (tag, _) in row.tags {
            let good = self.oracle.tag(tag).filter(|(_, value, _)| value.is_some()).map(|(t, ..)| t);
            times.extend(good.filter(|t| (self.from_us..self.to_us).contains(t)));
        }
        times.sort_unstable();
        times.dedup();
        times.into_iter().filter_map(|t| Some((t, (row.at)(self, t)?))).collect()
    }

    fn of_samples(self, f: impl Fn(&[f64]) -> f64) -> Option<f64> {
        let samples: Vec<f64> = self.samples(A).into_iter().map(|(_, x)| x).collect();
        (!samples.is_empty()).then(|| f(&samples))
    }

    /// Σ value · seconds, and the seconds in which it was known.
    fn area(self, row: Row) -> Option<(f64, f64)> {
        let known = self.known(row);
        let seconds: f64 = known.iter().map(|piece| piece.2).sum();
        (seconds > 0.0).then(|| (known.iter().map(|piece| piece.1 * piece.2).sum(), seconds))
    }

    fn mean(self, row: Row) -> Option<f64> {
        self.area(row).map(|(area, seconds)| area / seconds)
    }

    fn least(self, row: Row) -> Option<f64> {
        self.known(row).into_iter().map(|piece| piece.1).reduce(f64::min)
    }

    fn most(self, row: Row) -> Option<f64> {
        self.known(row).into_iter().map(|piece| piece.1).reduce(f64::max)
    }

    fn edges(self, row: Row) -> Option<f64> {
        self.is_known(row).then(|| self.samples(row).iter().map(|(_, is_edge)| is_edge).sum())
    }

    fn transitions(self, row: Row) -> Option<f64> {
        let known: Vec<f64> = self.known(row).into_iter().map(|piece| piece.1).collect();
        let before = (row.at)(self, self.from_us - 1);
        let all: Vec<f64> = before.into_iter().chain(known.iter().copied()).collect();
        let changes = all.windows(2).filter(|pair| pair.first() != pair.last()).count();
        (!known.is_empty()).then_some(changes as f64)
    }

    fn delta(self) -> Option<f64> {
        let known = self.known(A);
        let start = (A.at)(self, self.from_us - 1).or_else(|| known.first().map(|piece| piece.1))?;
        // A value that was held up to the begin only is start and end.
        Some(known.last().map_or(start, |piece| piece.1) - start).filter(|_| !known.is_empty())
    }

    fn age(self) -> Option<f64> {
        self.newest("a", self.to_us - 1).map(|t| (self.to_us - t) as f64 / 1e6)
    }

    /// Least squares, by the differences of all pairs.
    fn slope(self) -> Option<f64> {
        let samples = self.samples(A);
        let (mut above, mut below) = (0.0, 0.0);
        for (at, (t, x)) in samples.iter().enumerate() {
            for (u, y) in samples.iter().skip(at + 1) {
                let seconds = (u - t) as f64 / 1e6;
                above += seconds * (y - x);
                below += seconds * seconds;
            }
        }
        (below > 0.0).then(|| above / below)
    }
}

fn variance(samples: &[f64]) -> f64 {
    let mean = samples.iter().sum::<f64>() / samples.len() as f64;
    samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / samples.len() as f64
}

/// *Source*: Hyndman and Fan 1996, definition 7.
fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * (sorted.len() - 1) as f64;
    let at = |n: f64| sorted.get(n as usize).copied().unwrap_or_default();
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}
