//! Entity key bytes, serialization version 3: the only one that Feast still supports.

use super::Value;

/// `ValueType` of a string in Feast's registry; join keys themselves are written as strings.
const STRING: u32 = 2;

/// Why a value cannot be part of an entity key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Feast has no key form for this type.
    #[error("join key {key:?}: a value of this type cannot be an entity key in Feast")]
    Type {
        /// The join key.
        key: String,
    },
    /// A name or a value is longer than the format can say.
    #[error("join key {key:?}: longer than 4 GiB")]
    Long {
        /// The join key.
        key: String,
    },
}

/// Encodes the entity key of (join key, value) pairs, in whatever order they come.
///
/// *Shape*: the number of keys, the names sorted by their bytes, then the values in that order; all integers
/// little-endian. *Source*: Feast's `serialize_entity_key`, version 3.
///
/// # Errors
/// [`KeyError`] for a value of a type that Feast refuses as a key.
pub fn entity_key(keys: &[(&str, &Value)]) -> Result<Vec<u8>, KeyError> {
    let mut sorted = keys.to_vec();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let long = |key: &str| KeyError::Long { key: key.to_owned() };
    let mut out = Vec::with_capacity(16 + 48 * keys.len());
    let count = u32::try_from(keys.len()).map_err(|_| long(keys.first().map_or("", |k| k.0)))?;
    out.extend_from_slice(&count.to_le_bytes());
    for (key, _) in &sorted {
        push(&mut out, STRING, key.as_bytes()).ok_or_else(|| long(key))?;
    }
    for (key, value) in &sorted {
        match value {
            Value::Bytes(bytes) => push(&mut out, 1, bytes),
            Value::String(text) => push(&mut out, STRING, text.as_bytes()),
            Value::Int32(number) => push(&mut out, 3, &number.to_le_bytes()),
            Value::Int64(number) => push(&mut out, 4, &number.to_le_bytes()),
            Value::UnixTimestamp(seconds) => push(&mut out, 8, &seconds.to_le_bytes()),
            _ => return Err(KeyError::Type { key: (*key).to_owned() }),
        }
        .ok_or_else(|| long(key))?;
    }
    Ok(out)
}

/// Encodes the entity key of one join key with a string value, which is what Millrace's entities are.
#[must_use]
pub fn string_key(join_key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + join_key.len() + value.len());
    out.extend_from_slice(&1_u32.to_le_bytes());
    let pushed =
        push(&mut out, STRING, join_key.as_bytes()).and_then(|()| push(&mut out, STRING, value.as_bytes()));
    debug_assert!(pushed.is_some(), "names of machines are shorter than 4 GiB");
    out
}

fn push(out: &mut Vec<u8>, value_type: u32, bytes: &[u8]) -> Option<()> {
    let length = u32::try_from(bytes.len()).ok()?;
    out.extend_from_slice(&value_type.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
    Some(())
}
