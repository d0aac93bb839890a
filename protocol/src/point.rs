//! A tag's value at one instant, and how far it can be trusted.

use std::fmt;
use std::sync::Arc;

/// How far a point can be trusted, and if not, why: one byte on the wire.
///
/// Codes are for ever: a new reason takes a new number. 0 is good, 255 means "no point here" in a
/// chunk and is therefore no quality; 0x20 + n is the Modbus exception n.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Quality(u8);

impl Quality {
    /// The value was read and passed every check.
    pub const GOOD: Self = Self(0);
    /// The device did not answer in time.
    pub const TIMEOUT: Self = Self(1);
    /// There was no connection to the device or its gateway.
    pub const NO_CONNECTION: Self = Self(2);
    /// The answer was for another unit, another function or another question.
    pub const MISMATCH: Self = Self(3);
    /// The answer had another length than the question asked for.
    pub const WRONG_LENGTH: Self = Self(4);
    /// The raw value is one of the tag's `bad_values`.
    pub const BAD_VALUE: Self = Self(5);
    /// The value lies outside the tag's `valid` range.
    pub const OUT_OF_RANGE: Self = Self(6);
    /// The registers do not hold a value of the tag's type (a BCD digit above 9, text that is not UTF-8).
    pub const NOT_DECODABLE: Self = Self(7);
    /// The payload's value has another type than the tag.
    pub const WRONG_TYPE: Self = Self(8);
    /// The unit is left alone for a while after failures (backoff).
    pub const BACKOFF: Self = Self(9);

    const EXCEPTION_BASE: u8 = 0x20;

    /// The device answered with a Modbus exception.
    ///
    /// *Source*: Modbus Application Protocol V1.1b3, section 7.
    #[must_use]
    pub const fn exception(code: u8) -> Self {
        Self(Self::EXCEPTION_BASE + (code & 0x1f))
    }

    /// Takes a code from the wire; 255 is no quality.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        if code == u8::MAX { None } else { Some(Self(code)) }
    }

    /// Gives the code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// Tells whether the value can be used.
    #[must_use]
    pub const fn is_good(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match *self {
            Self::GOOD => "good",
            Self::TIMEOUT => "timeout",
            Self::NO_CONNECTION => "no_connection",
            Self::MISMATCH => "mismatch",
            Self::WRONG_LENGTH => "wrong_length",
            Self::BAD_VALUE => "bad_value",
            Self::OUT_OF_RANGE => "out_of_range",
            Self::NOT_DECODABLE => "not_decodable",
            Self::WRONG_TYPE => "wrong_type",
            Self::BACKOFF => "backoff",
            Self(code) if (Self::EXCEPTION_BASE..Self::EXCEPTION_BASE + 0x20).contains(&code) => {
                return write!(f, "exception_{}", code - Self::EXCEPTION_BASE);
            }
            Self(code) => return write!(f, "quality_{code}"),
        };
        f.write_str(word)
    }
}

impl fmt::Debug for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The type of a layout's column; the number is its code on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ValueType {
    /// True or false.
    Bool = 1,
    /// A signed integer.
    I64 = 2,
    /// An unsigned integer.
    U64 = 3,
    /// A single-precision float.
    F32 = 4,
    /// A double-precision float.
    F64 = 5,
    /// UTF-8 text.
    Text = 6,
    /// Bytes without meaning to us.
    Bytes = 7,
    /// Samples at a fixed rate.
    Waveform = 8,
}

impl ValueType {
    /// Every type, in the order of the codes.
    pub const ALL: [Self; 8] =
        [Self::Bool, Self::I64, Self::U64, Self::F32, Self::F64, Self::Text, Self::Bytes, Self::Waveform];

    /// Takes a code from the wire.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.code() == code)
    }

    /// Gives the code on the wire.
    #[must_use]
    pub const fn code(self) -> u64 {
        self as u64
    }

    /// Gives the word that configuration and tables use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::Waveform => "waveform",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Samples of a waveform in the format the sensor gave them.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// 16-bit integers.
    I16(Vec<i16>),
    /// Single-precision floats.
    F32(Vec<f32>),
    /// Double-precision floats.
    F64(Vec<f64>),
}

impl Samples {
    /// Gives the number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::I16(s) => s.len(),
            Self::F32(s) => s.len(),
            Self::F64(s) => s.len(),
        }
    }

    /// Tells whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A burst of samples at a fixed rate; one waveform is one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Waveform {
    /// *Units*: samples per second.
    pub rate_hz: f64,
    /// The samples, the first at the point's event time.
    pub samples: Samples,
}

/// A value of one tag. Cloning is cheap: long values are shared.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    I64(i64),
    /// An unsigned integer.
    U64(u64),
    /// A single-precision float, every bit of it kept.
    F32(f32),
    /// A double-precision float, every bit of it kept.
    F64(f64),
    /// UTF-8 text.
    Text(Arc<str>),
    /// Bytes without meaning to us.
    Bytes(Arc<[u8]>),
    /// Samples at a fixed rate.
    Waveform(Arc<Waveform>),
}

impl Value {
    /// Gives the type.
    #[must_use]
    pub const fn value_type(&self) -> ValueType {
        match self {
            Self::Bool(_) => ValueType::Bool,
            Self::I64(_) => ValueType::I64,
            Self::U64(_) => ValueType::U64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::Text(_) => ValueType::Text,
            Self::Bytes(_) => ValueType::Bytes,
            Self::Waveform(_) => ValueType::Waveform,
        }
    }

    /// Compares bit for bit: NaNs with one payload are equal, 0.0 and −0.0 are not.
    #[must_use]
    pub fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => a.to_bits() == b.to_bits(),
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            (Self::Waveform(a), Self::Waveform(b)) => same_waveform_bits(a, b),
            _ => self == other,
        }
    }
}

fn same_waveform_bits(a: &Waveform, b: &Waveform) -> bool {
    let bits32 = |s: &[f32]| s.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let bits64 = |s: &[f64]| s.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    a.rate_hz.to_bits() == b.rate_hz.to_bits()
        && match (&a.samples, &b.samples) {
            (Samples::I16(a), Samples::I16(b)) => a == b,
            (Samples::F32(a), Samples::F32(b)) => bits32(a) == bits32(b),
            (Samples::F64(a), Samples::F64(b)) => bits64(a) == bits64(b),
            _ => false,
        }
}

/// Widens a single-precision float, keeping sign and payload of a NaN (a plain cast quiets a
/// signalling one).
///
/// *Source*: IEEE 754-2019, section 3.4 (field widths of binary32 and binary64).
#[must_use]
pub fn widen_f32(value: f32) -> f64 {
    if !value.is_nan() {
        return f64::from(value);
    }
    let bits = u64::from(value.to_bits());
    let sign = (bits >> 31) << 63;
    let payload = (bits & 0x007f_ffff) << 29;
    f64::from_bits(sign | 0x7ff0_0000_0000_0000 | payload)
}

/// One place of a row: nothing, a good value, or the reason why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// The tag has no point at this instant (not polled, or suppressed).
    Absent,
    /// A point of good quality.
    Good(Value),
    /// A point of bad quality; the quality is never [`Quality::GOOD`].
    Bad(Quality),
}

impl Cell {
    /// Tells whether there is a point, good or bad.
    #[must_use]
    pub const fn is_point(&self) -> bool {
        !matches!(self, Self::Absent)
    }

    /// Gives the value of a good point.
    #[must_use]
    pub const fn value(&self) -> Option<&Value> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad(_) => None,
        }
    }

    /// Compares bit for bit, as [`Value::same_bits`] does.
    #[must_use]
    pub fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Good(a), Self::Good(b)) => a.same_bits(b),
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_keeps_value_sign_and_nan_payload() {
        for bits in [0u32, 0x8000_0000, 1, 0x3f80_0000, 0x7f80_0000, 0xff80_0000] {
            let narrow = f32::from_bits(bits);
            assert_eq!((widen_f32(narrow) as f32).to_bits(), bits, "{bits:#x}");
        }
        assert_eq!(widen_f32(f32::from_bits(0xffa0_0001)).to_bits(), 0xfff4_0000_2000_0000);
    }

    #[test]
    fn qualities_have_stable_codes_and_words() {
        let cases = [
            (Quality::GOOD, 0, "good"),
            (Quality::TIMEOUT, 1, "timeout"),
            (Quality::OUT_OF_RANGE, 6, "out_of_range"),
            (Quality::exception(2), 0x22, "exception_2"),
        ];
        for (quality, code, word) in cases {
            assert_eq!((quality.code(), quality.to_string().as_str()), (code, word));
        }
        assert_eq!(Quality::from_code(255), None);
    }
}
