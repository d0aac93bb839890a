//! What a reply says about a tag (pure): registers or bits in, one cell out.
//!
//! Invariant: whatever the device sent, a cell comes out; nothing here panics or allocates, but for
//! text and for the digits of an integer that an enum does not know.

use std::fmt::Write as _;
use std::sync::Arc;

use millrace_protocol::{Cell, Quality, Value, ValueType};

use crate::config::{Convert, Decode, NumberKind, Tag};

/// What a device answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Holding or input registers.
    Registers(Vec<u16>),
    /// Coils or discrete inputs.
    Bits(Vec<bool>),
}

/// A tag's way from registers to a value, prepared once.
#[derive(Debug, Clone)]
pub struct Decoder {
    // Shared: a template's tags are those of a hundred devices.
    tag: Arc<Tag>,
}

impl Decoder {
    /// Prepares a tag.
    #[must_use]
    pub const fn new(tag: Arc<Tag>) -> Self {
        Self { tag }
    }

    /// Gives the type of every good value.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match (&self.tag.convert, &self.tag.decode) {
            (_, Decode::Text { .. }) | (Convert::Enum(_), _) => ValueType::Text,
            (Convert::Linear { .. }, _) => ValueType::F64,
            (Convert::None | Convert::Counter { .. }, Decode::Bool | Decode::Bit(_)) => ValueType::Bool,
            (Convert::None | Convert::Counter { .. }, Decode::Number { kind, .. }) => match kind {
                NumberKind::I8High | NumberKind::I8Low => ValueType::I64,
                NumberKind::I16 | NumberKind::I32 | NumberKind::I64 => ValueType::I64,
                NumberKind::F32 => ValueType::F32,
                NumberKind::F64 => ValueType::F64,
                NumberKind::U8High | NumberKind::U8Low | NumberKind::U16 | NumberKind::U32 => ValueType::U64,
                NumberKind::U64 | NumberKind::Bcd16 | NumberKind::Bcd32 => ValueType::U64,
            },
        }
    }

    /// Reads the tag that begins at a place of a reply.
    #[must_use]
    pub fn cell(&self, reply: &Reply, offset: usize) -> Cell {
        let Some(raw) = self.raw(reply, offset) else { return Cell::Bad(Quality::NOT_DECODABLE) };
        if self.tag.bad_values.iter().any(|&bad| is_same_number(&raw, bad)) {
            return Cell::Bad(Quality::BAD_VALUE);
        }
        let Some(value) = self.convert(raw) else { return Cell::Bad(Quality::NOT_DECODABLE) };
        match (self.tag.valid, as_f64(&value)) {
            // A NaN lies in no range.
            (Some((low, high)), Some(number)) if !(low <= number && number <= high) => {
                Cell::Bad(Quality::OUT_OF_RANGE)
            }
            _ => Cell::Good(value),
        }
    }

    fn raw(&self, reply: &Reply, offset: usize) -> Option<Value> {
        let words = match reply {
            Reply::Bits(bits) => return bits.get(offset).copied().map(Value::Bool),
            Reply::Registers(words) => {
                words.get(offset..offset.checked_add(usize::from(self.tag.decode.width()))?)?
            }
        };
        match &self.tag.decode {
            Decode::Bool => words.first().map(|&word| Value::Bool(word != 0)),
            Decode::Bit(bit) => {
                let word = words.first()?.checked_shr(u32::from(*bit))?;
                Some(Value::Bool(word & 1 == 1))
            }
            Decode::Number { kind, order } => number(words, *kind, order),
            Decode::Text { length, padding, swapped } => {
                text(words, usize::from(*length), *padding, *swapped)
            }
        }
    }

    fn convert(&self, raw: Value) -> Option<Value> {
        match &self.tag.convert {
            Convert::None | Convert::Counter { .. } => Some(raw),
            Convert::Linear { scale, offset } => Some(Value::F64(as_f64(&raw)? * scale + offset)),
            Convert::Enum(texts) => {
                let number = as_integer(&raw)?;
                let known = i64::try_from(number).ok().and_then(|n| texts.get(&n));
                Some(Value::Text(known.map_or_else(|| digits(number), Arc::clone)))
            }
        }
    }
}

/// Gives a byte of the registers as they were sent: the high byte of a register first.
fn byte_at(words: &[u16], place: usize) -> Option<u8> {
    let [high, low] = words.get(place / 2)?.to_be_bytes();
    Some(if place.is_multiple_of(2) { high } else { low })
}

fn number(words: &[u16], kind: NumberKind, order: &[u8]) -> Option<Value> {
    // The bytes of a register have their names already, so an order says nothing about them.
    let order: &[u8] = match kind {
        NumberKind::U8High | NumberKind::I8High => &[0],
        NumberKind::U8Low | NumberKind::I8Low => &[1],
        _ => order,
    };
    let mut bits = 0_u64;
    for &place in order {
        bits = bits << 8 | u64::from(byte_at(words, usize::from(place))?);
    }
    // The sign is the highest bit of the bytes that there are.
    let unused = 64_usize.checked_sub(order.len().checked_mul(8)?)?;
    let signed = || bits.checked_shl(u32::try_from(unused).ok()?).map(|up| up.cast_signed() >> unused);
    match kind {
        NumberKind::U8High | NumberKind::U8Low | NumberKind::U16 | NumberKind::U32 | NumberKind::U64 => {
            Some(Value::U64(bits))
        }
        NumberKind::I8High | NumberKind::I8Low | NumberKind::I16 | NumberKind::I32 | NumberKind::I64 => {
            signed().map(Value::I64)
        }
        NumberKind::F32 => u32::try_from(bits).ok().map(|bits| Value::F32(f32::from_bits(bits))),
        NumberKind::F64 => Some(Value::F64(f64::from_bits(bits))),
        NumberKind::Bcd16 => bcd(bits, 4).map(Value::U64),
        NumberKind::Bcd32 => bcd(bits, 8).map(Value::U64),
    }
}

fn bcd(bits: u64, digits: u32) -> Option<u64> {
    let mut value = 0;
    for place in (0..digits).rev() {
        let digit = bits >> (4 * place) & 0xf;
        value = value * 10 + (digit <= 9).then_some(digit)?;
    }
    Some(value)
}

fn text(words: &[u16], length: usize, padding: u8, swapped: bool) -> Option<Value> {
    let mut bytes = Vec::with_capacity(words.len().checked_mul(2)?);
    for word in words {
        bytes.extend(if swapped { word.to_le_bytes() } else { word.to_be_bytes() });
    }
    bytes.truncate(length);
    let end = bytes.iter().rposition(|&byte| byte != padding).map_or(0, |last| last + 1);
    std::str::from_utf8(bytes.get(..end)?).ok().map(|text| Value::Text(text.into()))
}

fn digits(number: i128) -> Arc<str> {
    let mut text = String::new();
    let _ = write!(text, "{number}");
    text.into()
}

/// Gives a number or truth value as a double, rounded to the nearest.
pub(super) fn as_f64(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        Value::I64(number) => Some(*number as f64),
        Value::U64(number) => Some(*number as f64),
        Value::F32(number) => Some(f64::from(*number)),
        Value::F64(number) => Some(*number),
        Value::Text(_) | Value::Bytes(_) | Value::Waveform(_) => None,
    }
}

/// Gives a whole number as an integer.
fn as_integer(value: &Value) -> Option<i128> {
    match value {
        Value::Bool(yes) => Some(i128::from(*yes)),
        Value::I64(number) => Some(i128::from(*number)),
        Value::U64(number) => Some(i128::from(*number)),
        Value::F32(_) | Value::F64(_) => as_f64(value).filter(|n| n.fract() == 0.0).map(|n| n as i128),
        Value::Text(_) | Value::Bytes(_) | Value::Waveform(_) => None,
    }
}

/// Compares a raw value with a number of the configuration, exactly at the ends of the 64-bit types
/// too, where the configuration's double stands for the nearest integer of the type.
fn is_same_number(raw: &Value, number: f64) -> bool {
    // A number that is no integer of the type does not survive there and back.
    match raw {
        Value::I64(raw) => number as i64 == *raw && *raw as f64 == number,
        Value::U64(raw) => number as u64 == *raw && *raw as f64 == number,
        Value::F32(raw) if number.is_nan() => raw.is_nan(),
        Value::F64(raw) if number.is_nan() => raw.is_nan(),
        // A configured 0.1 means the single-precision 0.1 here.
        Value::F32(raw) => *raw == number as f32,
        other => as_f64(other) == Some(number),
    }
}

#[cfg(test)]
mod tests;
