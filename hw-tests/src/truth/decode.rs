//! Reads values out of registers: slow, plain, and written apart from the agent's decoder and from the
//! plant's encoder, so that a mistake in one of them shows.
//!
//! *Source*: `interface.md`, the table of types and orders under `agent.toml`.

use std::fmt;

use crate::plant::tag::{Half, Kind, Tag};

/// A value of the truth.
#[derive(Debug, Clone, PartialEq)]
pub enum TrueValue {
    /// A coil, a discrete input, a bit of a register, `true` and `false` of JSON.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// A single-precision float.
    F32(f32),
    /// A double.
    F64(f64),
    /// A double that was scaled: the last digits depend on the order of the arithmetic.
    Scaled(f64),
    /// Text.
    Text(String),
}

impl fmt::Display for TrueValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::F32(value) => write!(f, "{value}"),
            Self::F64(value) | Self::Scaled(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{value:?}"),
        }
    }
}

/// Decodes a tag's registers, scales and names included. `None`: they hold no value of its type.
#[must_use]
pub fn decode(tag: &Tag, registers: &[u16]) -> Option<TrueValue> {
    let raw = decode_raw(tag, registers)?;
    if tag.scale.is_some() || tag.offset.is_some() {
        let number = match raw {
            TrueValue::Integer(value) => value as f64,
            TrueValue::F32(value) => f64::from(value),
            TrueValue::F64(value) => value,
            other => return Some(other),
        };
        return Some(TrueValue::Scaled(number * tag.scale.unwrap_or(1.0) + tag.offset.unwrap_or(0.0)));
    }
    if !tag.words.is_empty() {
        let digits = raw.to_string();
        return Some(TrueValue::Text(tag.words.get(&digits).cloned().unwrap_or(digits)));
    }
    Some(raw)
}

fn decode_raw(tag: &Tag, registers: &[u16]) -> Option<TrueValue> {
    let first = *registers.first()?;
    match tag.kind {
        Kind::Bool => return Some(TrueValue::Bool(first != 0)),
        Kind::Bit => return Some(TrueValue::Bool((first / 2u16.pow(u32::from(tag.bit?))) % 2 == 1)),
        Kind::U8 | Kind::I8 => {
            let byte = i128::from(if tag.byte == Some(Half::High) { first / 256 } else { first % 256 });
            let signed = tag.kind == Kind::I8 && byte > 127;
            return Some(TrueValue::Integer(if signed { byte - 256 } else { byte }));
        }
        Kind::String => return text(tag, registers),
        _ => {}
    }
    let sent: Vec<u8> =
        registers.iter().flat_map(|register| [(register / 256) as u8, (register % 256) as u8]).collect();
    let bytes = in_order(&sent, tag.order.as_deref())?;
    let whole = bytes.iter().fold(0i128, |number, byte| number * 256 + i128::from(*byte));
    let bits = 8 * u32::try_from(bytes.len()).ok()?;
    Some(match tag.kind {
        Kind::I16 | Kind::I32 | Kind::I64 if whole >= 1 << (bits - 1) => {
            TrueValue::Integer(whole - (1 << bits))
        }
        Kind::F32 => TrueValue::F32(f32::from_bits(u32::try_from(whole).ok()?)),
        Kind::F64 => TrueValue::F64(f64::from_bits(u64::try_from(whole).ok()?)),
        Kind::Bcd16 | Kind::Bcd32 => TrueValue::Integer(bcd(&bytes)?),
        _ => TrueValue::Integer(whole),
    })
}

/// Gives the bytes of a value, byte A first: A is sent where the order has its A.
fn in_order(sent: &[u8], order: Option<&str>) -> Option<Vec<u8>> {
    let Some(order) = order else { return Some(sent.to_vec()) };
    (0..sent.len())
        .map(|n| {
            let letter = char::from_u32(u32::from('A') + u32::try_from(n).ok()?)?;
            sent.get(order.find(letter)?).copied()
        })
        .collect()
}

fn bcd(bytes: &[u8]) -> Option<i128> {
    let mut number = 0;
    for byte in bytes {
        for digit in [byte / 16, byte % 16] {
            if digit > 9 {
                return None;
            }
            number = number * 10 + i128::from(digit);
        }
    }
    Some(number)
}

fn text(tag: &Tag, registers: &[u16]) -> Option<TrueValue> {
    let swapped = tag.order.as_deref() == Some("BA");
    let mut bytes = Vec::new();
    for register in registers {
        let (high, low) = ((register / 256) as u8, (register % 256) as u8);
        bytes.extend(if swapped { [low, high] } else { [high, low] });
    }
    bytes.truncate(usize::from(tag.length?));
    while bytes.last() == Some(&tag.padding.unwrap_or(0)) {
        bytes.pop();
    }
    String::from_utf8(bytes).ok().map(TrueValue::Text)
}
