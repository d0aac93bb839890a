//! The functions of the language: names, arguments, and what belongs to a later release.

use crate::graph::{AggregateFn, PointFn};

/// What a function works on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Function {
    /// Rows to one number; the parameter of `quantile` is filled in when it is lowered.
    Aggregate(AggregateFn),
    /// Values of one instant.
    Point(PointFn),
    /// Rows to rows.
    Time(TimeFn),
}

/// Functions that look along the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeFn {
    Rising,
    Falling,
    Lag,
    Rate,
}

/// A function's name and arguments.
#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) function: Function,
    /// How it is called, for messages.
    pub(crate) usage: &'static str,
    pub(crate) min_args: usize,
    pub(crate) max_args: usize,
}

const fn aggregate(name: &'static str, function: AggregateFn, usage: &'static str) -> Signature {
    Signature { name, function: Function::Aggregate(function), usage, min_args: 1, max_args: 1 }
}

const fn point(name: &'static str, f: PointFn, usage: &'static str, min: usize, max: usize) -> Signature {
    Signature { name, function: Function::Point(f), usage, min_args: min, max_args: max }
}

const fn time(name: &'static str, f: TimeFn, usage: &'static str, args: usize) -> Signature {
    Signature { name, function: Function::Time(f), usage, min_args: args, max_args: args }
}

pub(crate) const FUNCTIONS: [Signature; 33] = [
    aggregate("count", AggregateFn::Count, "count(x)"),
    aggregate("mean", AggregateFn::Mean, "mean(x)"),
    aggregate("min", AggregateFn::Min, "min(x)"),
    aggregate("max", AggregateFn::Max, "max(x)"),
    aggregate("sum", AggregateFn::Sum, "sum(x)"),
    aggregate("std", AggregateFn::Std, "std(x)"),
    aggregate("var", AggregateFn::Var, "var(x)"),
    aggregate("rms", AggregateFn::Rms, "rms(x)"),
    aggregate("p2p", AggregateFn::P2p, "p2p(x)"),
    aggregate("slope", AggregateFn::Slope, "slope(x)"),
    aggregate("first", AggregateFn::First, "first(x)"),
    aggregate("last", AggregateFn::Last, "last(x)"),
    Signature {
        name: "quantile",
        function: Function::Aggregate(AggregateFn::Quantile(0.5)),
        usage: "quantile(x, 0.95)",
        min_args: 2,
        max_args: 2,
    },
    aggregate("increase", AggregateFn::Increase, "increase(counter)"),
    aggregate("delta", AggregateFn::Delta, "delta(x)"),
    aggregate("integral", AggregateFn::Integral, "integral(x)"),
    aggregate("duration", AggregateFn::Duration, "duration(condition)"),
    aggregate("share", AggregateFn::Share, "share(condition)"),
    aggregate("transitions", AggregateFn::Transitions, "transitions(x)"),
    aggregate("age", AggregateFn::Age, "age(x)"),
    aggregate("coverage", AggregateFn::Coverage, "coverage(x)"),
    point("case", PointFn::Case, "case(condition, value, …, default)", 2, 99),
    point("if", PointFn::If, "if(condition, value, otherwise)", 3, 3),
    point("coalesce", PointFn::Coalesce, "coalesce(x, y, …)", 1, 99),
    point("abs", PointFn::Abs, "abs(x)", 1, 1),
    point("clamp", PointFn::Clamp, "clamp(x, low, high)", 3, 3),
    point("sqrt", PointFn::Sqrt, "sqrt(x)", 1, 1),
    point("log", PointFn::Log, "log(x)", 1, 1),
    point("exp", PointFn::Exp, "exp(x)", 1, 1),
    time("rising", TimeFn::Rising, "rising(condition)", 1),
    time("falling", TimeFn::Falling, "falling(condition)", 1),
    time("lag", TimeFn::Lag, "lag(x, '10 s')", 2),
    time("rate", TimeFn::Rate, "rate(x)", 1),
];

/// Functions that the language has and this release does not.
pub(crate) const LATER: [&str; 20] = [
    "skew",
    "kurtosis",
    "crest",
    "shape",
    "impulse",
    "corr",
    "ewma",
    "cusum",
    "zero_crossings",
    "wave_rms",
    "wave_kurtosis",
    "band_rms",
    "peak_hz",
    "spectral_centroid",
    "spectral_entropy",
    "envelope",
    "bpfo",
    "bpfi",
    "bsf",
    "ftf",
];

pub(crate) fn find(name: &str) -> Option<&'static Signature> {
    FUNCTIONS.iter().find(|f| f.name == name)
}
