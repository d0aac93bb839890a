//! What agent and collector must agree on, and nothing else.
//!
//! Data flows through this crate in this order: points stand in a [`Row`], consecutive rows of one
//! [`StreamId`] make a [`Chunk`], a chunk is one of the [`Item`]s, items of one stream make a
//! [`Record`], which is the value of one Kafka message. [`IntervalSet`] does the arithmetic of
//! sequences on both sides.
//!
//! Invariant: everything here is a pure function of its arguments. There is no I/O, no clock, no
//! random number and no task in this crate. Rules D1 to D3 are its contract; `docs/formats/record.md`
//! is the same contract in words.

#![warn(missing_docs)]

mod cbor;
pub mod chunk;
pub mod id;
pub mod interval;
pub mod item;
pub mod point;
pub mod record;
pub mod row;
mod wire;

pub use chunk::{Chunk, ClockSegment, Column, UnsyncedClock};
pub use id::{AgentId, BootId, Category, Epoch, MachineName, NameError, StreamId};
pub use interval::IntervalSet;
pub use item::{
    Birth, BirthTag, ChunkItem, ClockCorrection, Item, Loss, LossReason, PreviousEpoch, Progress, RawRow,
    RawRows, Reporting, SeqRange,
};
pub use point::{Cell, Quality, Samples, Value, ValueType, Waveform};
pub use record::{DecodeError, Header, Record, RecordBuilder};
pub use row::{Layout, LayoutColumn, LayoutId, Row, RowFlags, StreamRow};

/// The version of the record format that this crate writes.
pub const FORMAT_VERSION: u64 = 1;
/// The `content-type` header of every Kafka message (D2).
pub const CONTENT_TYPE: &str = "application/vnd.millrace.v1+cbor";
/// A record is closed when it would grow past this many bytes (D2).
pub const RECORD_TARGET_BYTES: usize = 256 * 1024;
/// A single item larger than this is unreadable and becomes a raw row (D2).
pub const ITEM_MAX_BYTES: usize = 1024 * 1024;
/// `max.message.bytes`, the producer's `message.max.bytes` and the fetch limits (D2).
pub const MESSAGE_MAX_BYTES: usize = 2 * 1024 * 1024;
/// The category whose topic always exists (D3).
pub const DEFAULT_CATEGORY: &str = "telemetry";
/// Kafka header that is reserved for a signature of the value; nothing writes it yet.
pub const SIGNATURE_HEADER: &str = "signature";
