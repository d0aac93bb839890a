//! `feast.types.Value` and `google.protobuf.Timestamp`.

use std::sync::Arc;

use millrace_preprocess::feature::FeatureValue;

use super::proto::{DecodeError, Field, Reader, push_bytes, push_tag, push_varint};

/// A value as Feast's online stores keep it.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "the variants are Feast's types")]
pub enum Value {
    /// No value: the empty message, zero bytes.
    #[default]
    Null,
    Bytes(Vec<u8>),
    String(Arc<str>),
    Int32(i32),
    Int64(i64),
    Float64(f64),
    Float32(f32),
    Bool(bool),
    /// Whole seconds since 1970-01-01 UTC.
    UnixTimestamp(i64),
    BytesList(Vec<Vec<u8>>),
    StringList(Vec<String>),
    Int32List(Vec<i32>),
    Int64List(Vec<i64>),
    Float64List(Vec<f64>),
    Float32List(Vec<f32>),
    BoolList(Vec<bool>),
    UnixTimestampList(Vec<i64>),
}

impl Value {
    /// Makes the value that Feast's own writer would store for a feature: a scalar NaN becomes null.
    #[must_use]
    pub fn of_feature(value: Option<&FeatureValue>) -> Self {
        match value {
            None => Self::Null,
            Some(FeatureValue::F64(number)) if number.is_nan() => Self::Null,
            Some(FeatureValue::F64(number)) => Self::Float64(*number),
            Some(FeatureValue::I64(number)) => Self::Int64(*number),
            Some(FeatureValue::Bool(truth)) => Self::Bool(*truth),
            Some(FeatureValue::Text(text)) => Self::String(text.clone()),
        }
    }

    /// Encodes the value. A default scalar is written (it is a `oneof`); null is zero bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Null => {}
            Self::Bytes(bytes) => push_bytes(&mut out, 1, bytes),
            Self::String(text) => push_bytes(&mut out, 2, text.as_bytes()),
            Self::Int32(number) => push_int(&mut out, 3, i64::from(*number)),
            Self::Int64(number) => push_int(&mut out, 4, *number),
            Self::Float64(number) => {
                push_tag(&mut out, 5, 1);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Float32(number) => {
                push_tag(&mut out, 6, 5);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Bool(truth) => push_int(&mut out, 7, i64::from(*truth)),
            Self::UnixTimestamp(seconds) => push_int(&mut out, 8, *seconds),
            Self::BytesList(items) => push_items(&mut out, 11, items),
            Self::StringList(items) => push_items(&mut out, 12, items),
            Self::Int32List(items) => push_varints(&mut out, 13, items.iter().map(|n| i64::from(*n))),
            Self::Int64List(items) => push_varints(&mut out, 14, items.iter().copied()),
            Self::Float64List(items) => {
                push_packed(&mut out, 15, &items.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
            }
            Self::Float32List(items) => {
                push_packed(&mut out, 16, &items.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
            }
            Self::BoolList(items) => push_varints(&mut out, 17, items.iter().map(|t| i64::from(*t))),
            Self::UnixTimestampList(items) => push_varints(&mut out, 18, items.iter().copied()),
        }
        out
    }

    /// Decodes a value; unknown fields are skipped, as protobuf does, and the last known one counts.
    ///
    /// # Errors
    /// [`DecodeError`] where the bytes are not a protobuf message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        let mut value = Self::Null;
        while let Some((number, field)) = reader.field()? {
            if let Some(read) = Self::of_field(number, field)? {
                value = read;
            }
        }
        Ok(value)
    }

    fn of_field(number: u64, field: Field<'_>) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match (number, field) {
            (1, Field::Bytes(bytes)) => Self::Bytes(bytes.to_vec()),
            (2, Field::Bytes(bytes)) => Self::String(text(bytes)?.into()),
            (3, Field::Varint(number)) => Self::Int32(low_32(number)),
            (4, Field::Varint(number)) => Self::Int64(number.cast_signed()),
            (5, Field::Fixed64(bytes)) => Self::Float64(f64::from_le_bytes(bytes)),
            (6, Field::Fixed32(bytes)) => Self::Float32(f32::from_le_bytes(bytes)),
            (7, Field::Varint(number)) => Self::Bool(number != 0),
            (8, Field::Varint(number)) => Self::UnixTimestamp(number.cast_signed()),
            (11, Field::Bytes(bytes)) => {
                Self::BytesList(items(bytes)?.into_iter().map(<[u8]>::to_vec).collect())
            }
            (12, Field::Bytes(bytes)) => Self::StringList(
                items(bytes)?
                    .into_iter()
                    .map(|item| text(item).map(str::to_owned))
                    .collect::<Result<_, _>>()?,
            ),
            (13, Field::Bytes(bytes)) => Self::Int32List(varints(bytes)?.into_iter().map(low_32).collect()),
            (14, Field::Bytes(bytes)) => Self::Int64List(signed(bytes)?),
            (15, Field::Bytes(bytes)) => {
                Self::Float64List(fixed(bytes, f64::from_le_bytes, |field| match field {
                    Field::Fixed64(bytes) => Some(bytes),
                    _ => None,
                })?)
            }
            (16, Field::Bytes(bytes)) => {
                Self::Float32List(fixed(bytes, f32::from_le_bytes, |field| match field {
                    Field::Fixed32(bytes) => Some(bytes),
                    _ => None,
                })?)
            }
            (17, Field::Bytes(bytes)) => {
                Self::BoolList(varints(bytes)?.into_iter().map(|n| n != 0).collect())
            }
            (18, Field::Bytes(bytes)) => Self::UnixTimestampList(signed(bytes)?),
            (19, Field::Varint(_)) => Self::Null,
            _ => return Ok(None),
        }))
    }
}

/// Encodes an event time as `google.protobuf.Timestamp`; fields that are zero are left out.
///
/// *Units*: microseconds since 1970-01-01 UTC.
#[must_use]
pub fn timestamp_bytes(time_us: i64) -> Vec<u8> {
    let mut out = Vec::new();
    let (seconds, micros) = (time_us.div_euclid(1_000_000), time_us.rem_euclid(1_000_000));
    if seconds != 0 {
        push_int(&mut out, 1, seconds);
    }
    if micros != 0 {
        push_int(&mut out, 2, micros * 1_000);
    }
    out
}

fn push_int(out: &mut Vec<u8>, number: u64, value: i64) {
    push_tag(out, number, 0);
    push_varint(out, value.cast_unsigned());
}

fn push_items<T: AsRef<[u8]>>(out: &mut Vec<u8>, number: u64, items: &[T]) {
    let mut inner = Vec::new();
    for item in items {
        push_bytes(&mut inner, 1, item.as_ref());
    }
    push_bytes(out, number, &inner);
}

fn push_varints(out: &mut Vec<u8>, number: u64, items: impl Iterator<Item = i64>) {
    let mut packed = Vec::new();
    for item in items {
        push_varint(&mut packed, item.cast_unsigned());
    }
    push_packed(out, number, &packed);
}

/// Writes a list message with its packed items; an empty list is an empty message, which is not null.
fn push_packed(out: &mut Vec<u8>, number: u64, packed: &[u8]) {
    let mut inner = Vec::new();
    if !packed.is_empty() {
        push_bytes(&mut inner, 1, packed);
    }
    push_bytes(out, number, &inner);
}

fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8)
}

/// Cuts a number as protobuf does for `int32`.
#[expect(clippy::cast_possible_truncation, reason = "protobuf keeps the low 32 bits of an int32")]
fn low_32(number: u64) -> i32 {
    number as i32
}

fn items(message: &[u8]) -> Result<Vec<&[u8]>, DecodeError> {
    let mut reader = Reader(message);
    let mut items = Vec::new();
    while let Some((number, field)) = reader.field()? {
        if let (1, Field::Bytes(bytes)) = (number, field) {
            items.push(bytes);
        }
    }
    Ok(items)
}

fn varints(message: &[u8]) -> Result<Vec<u64>, DecodeError> {
    let mut reader = Reader(message);
    let mut items = Vec::new();
    while let Some((number, field)) = reader.field()? {
        match (number, field) {
            (1, Field::Varint(item)) => items.push(item),
            (1, Field::Bytes(packed)) => {
                let mut packed = Reader(packed);
                while !packed.0.is_empty() {
                    items.push(packed.varint()?);
                }
            }
            _ => {}
        }
    }
    Ok(items)
}

fn signed(message: &[u8]) -> Result<Vec<i64>, DecodeError> {
    Ok(varints(message)?.into_iter().map(u64::cast_signed).collect())
}

fn fixed<const N: usize, T>(
    message: &[u8],
    make: impl Fn([u8; N]) -> T,
    single: impl Fn(Field<'_>) -> Option<[u8; N]>,
) -> Result<Vec<T>, DecodeError> {
    let mut reader = Reader(message);
    let mut items = Vec::new();
    while let Some((number, field)) = reader.field()? {
        match field {
            Field::Bytes(packed) if number == 1 => {
                let mut packed = Reader(packed);
                while !packed.0.is_empty() {
                    items.push(make(packed.fixed()?));
                }
            }
            other if number == 1 => items.extend(single(other).map(&make)),
            _ => {}
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_bytes_are_an_error_and_not_a_panic() {
        for (bytes, error) in [
            (&[0x29, 0, 0][..], DecodeError::Truncated),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], DecodeError::Truncated),
            (&[0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], DecodeError::Varint),
            (&[0x12, 0x01, 0xff], DecodeError::Utf8),
            (&[0x0b], DecodeError::WireType(3)),
            (&[0x00, 0x01], DecodeError::WireType(0)),
            (&[0x7a, 0x05, 0x0a, 0x03, 1, 2, 3], DecodeError::Truncated),
        ] {
            assert_eq!(Value::decode(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_unpacked_lists_are_read() {
        let unknown_then_five = [0xa0, 0x06, 0x01, 0x20, 0x05];
        assert_eq!(Value::decode(&unknown_then_five), Ok(Value::Int64(5)));
        assert_eq!(Value::decode(&[0x72, 0x04, 0x08, 0x01, 0x08, 0x02]), Ok(Value::Int64List(vec![1, 2])));
        assert_eq!(Value::decode(&[0x98, 0x01, 0x00]), Ok(Value::Null));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = Value::decode(&bytes) {
                let again = Value::decode(&value.encode());
                prop_assert_eq!(again.map(|value| value.encode()), Ok(value.encode()));
            }
        }

        #[test]
        fn every_float_keeps_its_bits(bits in any::<u64>()) {
            let Ok(Value::Float64(read)) = Value::decode(&Value::Float64(f64::from_bits(bits)).encode()) else {
                return Err(TestCaseError::fail("not a Float64"));
            };
            prop_assert_eq!(read.to_bits(), bits);
        }
    }
}
