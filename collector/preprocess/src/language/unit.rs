//! Units of measurement: products of powers of symbols. Nothing is converted: kW and W are two units.

use std::collections::BTreeMap;
use std::fmt;

/// The unit of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nobody said; fits everything.
    Unknown,
    /// A number as written, or what is made of such only; takes the other side's unit in a sum.
    Plain,
    /// A product of powers; the empty one is a ratio.
    Of(BTreeMap<String, i32>),
}

impl Unit {
    /// Reads a unit as installers write it: `degC`, `kW`, `m/s`, `1/min`, `kg*m/s^2`.
    pub(crate) fn read(text: &str) -> Self {
        let text = text.trim();
        if text.is_empty() {
            return Self::Unknown;
        }
        if text == "1" {
            return Self::ratio();
        }
        let mut powers = BTreeMap::new();
        for (n, part) in text.split('/').enumerate() {
            let sign = if n == 0 { 1 } else { -1 };
            for factor in part.split(['*', '·']) {
                let (symbol, power) = match factor.split_once('^') {
                    Some((symbol, power)) => (symbol.trim(), power.trim().parse().unwrap_or(1)),
                    None => (factor.trim(), 1),
                };
                if !symbol.is_empty() && symbol != "1" {
                    *powers.entry(symbol.to_owned()).or_insert(0) += sign * power;
                }
            }
        }
        Self::of(powers)
    }

    pub(crate) fn ratio() -> Self {
        Self::Of(BTreeMap::new())
    }

    fn of(mut powers: BTreeMap<String, i32>) -> Self {
        powers.retain(|_, power| *power != 0);
        Self::Of(powers)
    }

    /// Gives the unit of a sum, of alternatives, or of two sides of a comparison; `None` if they differ.
    pub(crate) fn join(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Unknown, Self::Plain) | (Self::Plain, Self::Unknown) => Some(Self::Unknown),
            (Self::Unknown | Self::Plain, known) | (known, Self::Unknown | Self::Plain) => {
                Some(known.clone())
            }
            (a, b) => (a == b).then(|| a.clone()),
        }
    }

    /// Gives the unit of a product.
    pub(crate) fn times(&self, other: &Self) -> Self {
        self.combine(other, 1)
    }

    /// Gives the unit of a quotient.
    pub(crate) fn per(&self, other: &Self) -> Self {
        self.combine(other, -1)
    }

    fn combine(&self, other: &Self, sign: i32) -> Self {
        let (left, right) = match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => return Self::Unknown,
            (Self::Plain, Self::Plain) => return Self::Plain,
            (a, b) => (a.powers(), b.powers()),
        };
        let mut powers = left;
        for (symbol, power) in right {
            *powers.entry(symbol).or_insert(0) += sign * power;
        }
        Self::of(powers)
    }

    fn powers(&self) -> BTreeMap<String, i32> {
        match self {
            Self::Of(powers) => powers.clone(),
            Self::Unknown | Self::Plain => BTreeMap::new(),
        }
    }

    /// Gives the unit of a square root.
    pub(crate) fn root(&self) -> Self {
        match self {
            Self::Of(powers) if powers.values().all(|p| p % 2 == 0) => {
                Self::of(powers.iter().map(|(s, p)| (s.clone(), p / 2)).collect())
            }
            Self::Of(_) => Self::Unknown,
            other => other.clone(),
        }
    }

    pub(crate) fn seconds() -> Self {
        Self::read("s")
    }

    /// Gives the symbol for a schema, where there is one.
    pub(crate) fn symbol(&self) -> Option<String> {
        matches!(self, Self::Of(powers) if !powers.is_empty()).then(|| self.to_string())
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Of(powers) = self else { return f.write_str("no unit") };
        let side = |sign: i32| {
            let factors = powers.iter().filter(|(_, power)| **power * sign > 0);
            let factors = factors.map(|(symbol, power)| match power.abs() {
                1 => symbol.clone(),
                n => format!("{symbol}^{n}"),
            });
            factors.collect::<Vec<_>>().join("*")
        };
        let (over, under) = (side(1), side(-1).replace('*', "/"));
        match (over.is_empty(), under.is_empty()) {
            (_, true) => f.write_str(if over.is_empty() { "1" } else { &over }),
            (true, false) => write!(f, "1/{under}"),
            (false, false) => write!(f, "{over}/{under}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_multiplied_and_compared() {
        let unit = Unit::read;
        let cases = [
            (unit("kW").times(&Unit::seconds()), "kW*s"),
            (unit("kW*h").per(&unit("h")), "kW"),
            (unit("m/s").per(&unit("s")), "m/s^2"),
            (unit("degC").per(&unit("degC")), "1"),
            (unit("1/min").times(&Unit::Plain), "1/min"),
            (unit("kg*m/s^2"), "kg*m/s^2"),
            (unit("m^2").root(), "m"),
            (unit("a/b/c"), "a/b/c"),
        ];
        for (unit, expected) in cases {
            assert_eq!(unit.to_string(), expected);
        }
        assert_eq!(unit("degC").join(&unit("kW")), None);
        assert_eq!(unit("degC").join(&Unit::Plain), Some(unit("degC")));
        assert_eq!(unit("degC").join(&Unit::Unknown), Some(unit("degC")));
        assert_eq!(unit("degC").times(&Unit::Unknown), Unit::Unknown);
    }
}
