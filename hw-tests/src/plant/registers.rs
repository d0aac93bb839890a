//! Puts values into the tables of a device: every type and order.
//!
//! The other direction, `truth::decode`, is written apart and shares nothing with this file.

use super::model::Shown;
use super::tag::{Half, Kind, Tag};

/// Gives the bit of a tag in the tables coil and discrete, and for `bit`.
#[must_use]
pub fn bit(shown: &Shown) -> bool {
    match shown {
        Shown::Flag(flag) => *flag,
        Shown::Count(count) => count % 2 == 1,
        Shown::Number(number) => *number > 0.0,
        Shown::Text(text) => !text.is_empty(),
    }
}

/// Gives the tag's registers: for each the value and a mask of the bits that belong to the tag.
#[must_use]
pub fn registers(tag: &Tag, shown: &Shown) -> Vec<(u16, u16)> {
    match tag.kind {
        Kind::Bool => Vec::new(),
        Kind::Bit => {
            let mask = 1u16 << (tag.bit.unwrap_or(0) & 15);
            vec![(if bit(shown) { mask } else { 0 }, mask)]
        }
        Kind::U8 | Kind::I8 => vec![byte(tag, shown)],
        Kind::String => text(tag, shown),
        _ => ordered(&big_endian(tag, shown), tag.order.as_deref()),
    }
}

fn byte(tag: &Tag, shown: &Shown) -> (u16, u16) {
    let value = match (tag.kind, raw(tag, shown)) {
        (_, Raw::Count(count)) => count as u8,
        (Kind::I8, Raw::Number(number)) => (number.round() as i8) as u8,
        (_, Raw::Number(number)) => number.round() as u8,
    };
    match tag.byte.unwrap_or(Half::Low) {
        Half::High => (u16::from(value) << 8, 0xff00),
        Half::Low => (u16::from(value), 0x00ff),
    }
}

fn text(tag: &Tag, shown: &Shown) -> Vec<(u16, u16)> {
    let length = usize::from(tag.length.unwrap_or(2));
    let content = match shown {
        Shown::Text(text) => (*text).to_owned(),
        Shown::Number(number) => number.to_string(),
        Shown::Count(count) => count.to_string(),
        Shown::Flag(flag) => flag.to_string(),
    };
    // Cut between characters: half a character would be a fault of its own.
    let cut = (0..=length.min(content.len())).rev().find(|&n| content.is_char_boundary(n)).unwrap_or(0);
    let mut bytes = content.as_bytes().get(..cut).unwrap_or_default().to_vec();
    bytes.resize(length.next_multiple_of(2), tag.padding.unwrap_or(0));
    bytes.chunks(2).flat_map(|pair| ordered(pair, tag.order.as_deref())).collect()
}

enum Raw {
    Number(f64),
    Count(u64),
}

/// Takes scale and offset off.
fn raw(tag: &Tag, shown: &Shown) -> Raw {
    let number = match shown {
        Shown::Count(count) if tag.scale.is_none() && tag.offset.is_none() => return Raw::Count(*count),
        Shown::Count(count) => *count as f64,
        Shown::Number(number) => *number,
        Shown::Flag(flag) => f64::from(u8::from(*flag)),
        Shown::Text(text) => text.len() as f64,
    };
    Raw::Number((number - tag.offset.unwrap_or(0.0)) / tag.scale.unwrap_or(1.0))
}

/// Gives the value's bytes, most significant first: counters wrap, measured quantities saturate.
fn big_endian(tag: &Tag, shown: &Shown) -> Vec<u8> {
    let raw = raw(tag, shown);
    macro_rules! integer {
        ($kind:ty) => {
            match raw {
                Raw::Count(count) => (count as $kind).to_be_bytes().to_vec(),
                Raw::Number(number) => (number.round() as $kind).to_be_bytes().to_vec(),
            }
        };
    }
    let float = match raw {
        Raw::Count(count) => count as f64,
        Raw::Number(number) => number,
    };
    match tag.kind {
        Kind::U16 => integer!(u16),
        Kind::I16 => integer!(i16),
        Kind::U32 => integer!(u32),
        Kind::I32 => integer!(i32),
        Kind::U64 => integer!(u64),
        Kind::I64 => integer!(i64),
        Kind::F32 => (float as f32).to_be_bytes().to_vec(),
        Kind::F64 => float.to_be_bytes().to_vec(),
        Kind::Bcd16 => bcd(float, 4),
        Kind::Bcd32 => bcd(float, 8),
        Kind::Bool | Kind::Bit | Kind::U8 | Kind::I8 | Kind::String => Vec::new(),
    }
}

fn bcd(number: f64, digits: u32) -> Vec<u8> {
    let mut left = (number.round() as u64) % 10u64.pow(digits);
    let mut bytes = vec![0; digits as usize / 2];
    for byte in bytes.iter_mut().rev() {
        *byte = ((left / 10 % 10) << 4 | (left % 10)) as u8;
        left /= 100;
    }
    bytes
}

/// Sends byte A (the first) where the order has its A, and so on.
fn ordered(value: &[u8], order: Option<&str>) -> Vec<(u16, u16)> {
    let place = |sent: usize| match order.and_then(|o| o.as_bytes().get(sent)) {
        Some(letter) => usize::from(letter - b'A'),
        None => sent,
    };
    let sent: Vec<u8> = (0..value.len()).map(|n| value.get(place(n)).copied().unwrap_or(0)).collect();
    sent.chunks_exact(2).map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), 0xffff)).collect()
}

#[cfg(test)]
#[path = "registers/tests.rs"]
mod tests;
