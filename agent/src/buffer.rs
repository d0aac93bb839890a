//! The buffer: rows that are on disk and not yet in Kafka (D4, D6, D7).
//!
//! A row of small sled databases, a manifest for what must outlive them, and in memory only counters
//! and positions. One thread writes ([`Buffer`]); the uplink reads and acknowledges through
//! [`BufferReader`]. Invariants: an item is handed out only after its flush; a segment is removed only
//! when everything in it is acknowledged, or its loss stands in the manifest. This file tree is the only
//! place that names sled and zstd.

use std::path::PathBuf;
use std::sync::Arc;

use millrace_protocol::{AgentId, Epoch};
use thiserror::Error;

use crate::config::WhenFull;

mod reader;

pub use reader::{BufferHealth, BufferReader, Stored, StreamState};

/// Gives the wall clock in microseconds since 1970-01-01 UTC; tests inject theirs.
#[derive(Clone)]
pub struct WallClock(pub Arc<dyn Fn() -> i64 + Send + Sync>);

impl std::fmt::Debug for WallClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallClock")
    }
}

/// How the buffer is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// `[agent] data_dir`; the buffer lives in `buffer/` below it and holds its lock file.
    pub data_dir: PathBuf,
    /// Whose rows.
    pub agent: AgentId,
    /// Drawn at this start (D7).
    pub epoch: Epoch,
    /// On disk, all told. *Units*: bytes.
    pub max_bytes: u64,
    /// What gives way at the cap.
    pub when_full: WhenFull,
    /// For births and the books.
    pub clock: WallClock,
}

/// Names something that was taken from the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Position {
    /// A birth or a loss, by its number.
    Notice(u64),
    /// Rows, by the number of their entry.
    Entry(u64),
}

/// Says what went wrong with the buffer.
#[derive(Debug, Error)]
pub enum BufferError {
    /// The system refused an operation on a file.
    #[error("{operation} {path}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Another agent holds the data folder.
    #[error("{path} is in use by another agent; stop that one, or give this one its own data_dir")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
}

/// The writing side of the buffer. The batch stage owns it.
#[derive(Debug)]
pub struct Buffer {}

/// Opens the buffer: what is on disk is found again, what is damaged is set aside and declared.
///
/// *Errors*: [`BufferError::InUse`] if another process holds it, [`BufferError::Io`] if the folder
/// cannot be made or read.
pub fn open(_options: OpenOptions) -> Result<(Buffer, BufferReader), BufferError> {
    Ok((Buffer {}, BufferReader {}))
}
