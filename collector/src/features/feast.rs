//! Feast's own bytes: entity keys, values, timestamps, field hashes, the SQLite table.
//!
//! Written by hand from Feast 0.67's formats, small and pure, and held to the vectors in
//! `tests/golden/feast.json`. Nothing here does I/O; decoding foreign bytes never panics and allocates no more
//! than a small multiple of its input.

mod hash;
mod key;
mod proto;
mod text;
mod value;

pub use hash::{field_hash, murmur3_x86_32};
pub use key::{KeyError, entity_key, string_key};
pub use proto::DecodeError;
pub use text::{push_python_float, sqlite_seconds, sqlite_table, sqlite_table_ddl, value_text};
pub use value::{Value, timestamp_bytes};
