//! The uplink's side of the buffer: what waits is taken, then acknowledged, given back or refused.

use std::sync::Arc;

use millrace_protocol::{Layout, LossReason, StreamId};

use super::Position;
use crate::books::Books;

/// Something of one stream that Kafka does not have yet.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Names it in [`BufferReader::acknowledge`] and its kin.
    pub position: Position,
    /// Whose it is.
    pub stream: StreamId,
    /// First and last sequence, if it has rows; births and losses have none.
    pub seq: Option<(u64, u64)>,
    /// Rows in it.
    pub rows: u64,
    /// Points in it.
    pub points: u64,
    /// Event time of its newest row. *Units*: microseconds since 1970-01-01 UTC.
    pub newest_us: Option<i64>,
    /// The item's bytes ([`millrace_protocol::Item::encode`]).
    pub item: Vec<u8>,
    /// What a chunk's columns stand for.
    pub layout: Option<Arc<Layout>>,
}

/// What the buffer knows of a stream, on disk and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// The stream.
    pub stream: StreamId,
    /// Whether it belongs to the running process's epoch.
    pub is_current: bool,
    /// The last sequence on disk: `numbered` of record headers and progress.
    pub numbered: u64,
    /// Rows on disk that are not acknowledged, in flight or not.
    pub waiting_rows: u64,
    /// Births and losses that are not acknowledged, in flight or not.
    pub waiting_notices: u64,
    /// Event time of the newest row. *Units*: microseconds since 1970-01-01 UTC.
    pub newest_us: Option<i64>,
}

/// How the buffer fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BufferHealth {
    /// Why rows pass through memory only (dead disk); `None` when all is well.
    pub pass_through: Option<String>,
    /// Segments on disk.
    pub segments: u64,
    /// Bytes on disk, all told.
    pub disk_bytes: u64,
    /// Segments that were set aside as damaged since the process started.
    pub set_aside_segments: u64,
    /// Rows on disk that are not acknowledged.
    pub waiting_rows: u64,
    /// Flushes since the process started; systemd's watchdog is fed by it.
    pub flushes: u64,
}

/// The uplink's handle. Clones share one cursor: what one takes, no other does.
#[derive(Debug, Clone)]
pub struct BufferReader {}

impl BufferReader {
    /// Takes items that were not handed out yet, at least one if any waits, until they have `max_bytes`.
    ///
    /// Births and losses come first, then what was given back, then the oldest rows; of one stream in
    /// order. Blocks on the disk: call it outside the async runtime's threads.
    #[must_use]
    pub fn take(&self, _max_bytes: usize) -> Vec<Stored> {
        Vec::new()
    }

    /// Forgets items that Kafka has.
    pub fn acknowledge(&self, _positions: &[Position]) {}

    /// Hands items out again: what became of them is not known.
    pub fn give_back(&self, _positions: &[Position]) {}

    /// Turns an item that will never be accepted into a loss of its stream.
    pub fn refuse(&self, _position: Position, _reason: LossReason) {}

    /// Waits until something may be there to take. *Cancel safety*: cancel safe; a change between two
    /// calls is not missed.
    pub async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    /// Gives the state of every stream that the buffer knows.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamState> {
        Vec::new()
    }

    /// Gives a stream's last sequence on disk, 0 if it has none.
    #[must_use]
    pub fn numbered(&self, _stream: &StreamId) -> u64 {
        0
    }

    /// Gives the wall time up to which everything that the sources handed over is on disk.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn settled_us(&self) -> Option<i64> {
        None
    }

    /// Gives the books of the last flush.
    #[must_use]
    pub fn books(&self) -> Books {
        Books::default()
    }

    /// Says how the buffer fares.
    #[must_use]
    pub fn health(&self) -> BufferHealth {
        BufferHealth::default()
    }
}
