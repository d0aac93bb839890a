//! A value inside the graph.

use std::cmp::Ordering;
use std::sync::Arc;

use millrace_protocol::Value;
use millrace_protocol::point::widen_f32;

/// What an expression gives at one instant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Val {
    Null,
    Num(f64),
    Bool(bool),
    Text(Arc<str>),
}

/// The types of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Type {
    Num,
    Bool,
    Text,
}

impl Type {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Num => "number",
            Self::Bool => "bool",
            Self::Text => "text",
        }
    }
}

impl Val {
    /// Takes a point's value as the type that the graph gave its tag; what does not fit is NULL (F1).
    pub(crate) fn of(value: &Value, wanted: Type) -> Self {
        let number = match value {
            Value::Bool(b) => f64::from(u8::from(*b)),
            Value::I64(n) => *n as f64,
            Value::U64(n) => *n as f64,
            Value::F32(x) => widen_f32(*x),
            Value::F64(x) => *x,
            Value::Text(text) if wanted == Type::Text => return Self::Text(Arc::clone(text)),
            Value::Text(_) | Value::Bytes(_) | Value::Waveform(_) => return Self::Null,
        };
        match wanted {
            Type::Num => Self::num(number),
            Type::Bool if number.is_nan() => Self::Null,
            Type::Bool => Self::Bool(number != 0.0),
            Type::Text => Self::Null,
        }
    }

    /// Takes a number; NaN and infinities are NULL, as nothing can be computed from them.
    pub(crate) fn num(x: f64) -> Self {
        if x.is_finite() { Self::Num(x) } else { Self::Null }
    }

    pub(crate) const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(crate) const fn as_num(&self) -> Option<f64> {
        match self {
            Self::Num(x) => Some(*x),
            Self::Null | Self::Bool(_) | Self::Text(_) => None,
        }
    }

    pub(crate) const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            Self::Null | Self::Num(_) | Self::Text(_) => None,
        }
    }

    /// Compares values of one type; NULL with anything is unknown.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Num(a), Self::Num(b)) => a.partial_cmp(b),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}
