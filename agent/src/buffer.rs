//! The buffer: rows that are on disk and not yet in Kafka (D4, D6, D7).
//!
//! A row of small sled databases, a manifest for what must outlive them, and in memory only counters
//! and positions. One thread writes ([`Buffer`]); the uplink reads and acknowledges through
//! [`BufferReader`]. Invariants: an item is handed out only after its flush; a segment is removed only
//! when everything in it is acknowledged, or its loss stands in the manifest. This file tree is the only
//! place that names sled and zstd.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_protocol::{AgentId, Epoch};
use thiserror::Error;

use crate::config::WhenFull;

mod account;
mod block;
mod disk;
mod entry;
mod fold;
mod group;
mod inspect;
mod manifest;
mod notice;
mod open;
mod pass;
mod pick;
mod reader;
mod room;
mod segment;
mod state;
mod streams;
mod unsent;
mod writer;

pub use disk::{Faults, Step};
pub use group::{Flushed, Group, NewRows};
pub use inspect::{Report, SegmentReport, StreamReport, inspect, verify};
pub use pass::{Confirm, PublishId};
pub use reader::{BufferHealth, BufferReader, Stored, StreamState};
pub use writer::Buffer;

use disk::Disk;
use open::Purpose;
use segment::Segment;
use state::State;

/// Gives the wall clock in microseconds since 1970-01-01 UTC; tests inject theirs.
#[derive(Clone)]
pub struct WallClock(pub Arc<dyn Fn() -> i64 + Send + Sync>);

impl WallClock {
    /// Reads it.
    #[must_use]
    pub fn now_us(&self) -> i64 {
        (self.0)()
    }
}

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
    /// Rows that pass through memory because the disk is dead.
    Passing(u64),
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
    /// sled refused an operation on a segment.
    #[error("{operation} {path}: {what}")]
    Sled {
        /// What was done.
        operation: &'static str,
        /// To which segment.
        path: PathBuf,
        /// What sled says.
        what: String,
    },
    /// A segment does not open or does not hold what it must.
    #[error("segment {path} is damaged: {what}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How it shows.
        what: String,
    },
    /// The manifest cannot be used.
    #[error("manifest {path}: {what}")]
    Manifest {
        /// Where it stands.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// No segment is open for writing.
    #[error("no segment is open for writing")]
    Closed,
    /// Another agent holds the data folder.
    #[error("{path} is in use by another agent; stop that one, or give this one its own data_dir")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
}

impl BufferError {
    fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { operation, path: path.to_owned(), source }
    }
}

/// What writer and reader share.
#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    disk: Disk,
    /// Held for memory only, never over an operation of the disk.
    state: Mutex<State>,
    /// Held while segments are opened, read or closed; always taken before the state.
    gate: Mutex<()>,
    changed: tokio::sync::Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if it did, the numbers would still be numbers.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes segments that are neither written to nor read next: each costs ten megabytes while it is
    /// open. The caller holds the gate.
    fn close_idle(&self) {
        let mut state = self.lock();
        let holding = |entry: u64| state.segments.range(..=entry).next_back().map(|(&first, _)| first);
        let newest = state.segments.keys().next_back().copied();
        let backlog = Some(state.cursors.backlog).filter(|entry| *entry < state.cursors.first_live);
        let used = [backlog.and_then(holding), holding(state.cursors.live), newest];
        let idle: Vec<Segment> = state
            .segments
            .iter_mut()
            .filter(|(first, _)| !used.contains(&Some(**first)))
            .filter_map(|(_, s)| s.open.take())
            .collect();
        drop(state);
        idle.into_iter().for_each(Segment::close);
    }
}

/// Opens the buffer: what is on disk is found again, what is damaged is set aside and declared.
///
/// A disk that takes no rows is no error: the buffer then passes them through memory.
/// *Errors*: [`BufferError::InUse`] if another process holds it, [`BufferError::Io`] if the folder
/// cannot be made or read.
pub fn open(options: OpenOptions) -> Result<(Buffer, BufferReader), BufferError> {
    open_on(Disk::default(), options)
}

/// Opens the buffer as [`open()`] does, on a disk with faults: for the simulation, which kills and cuts at every
/// step of it.
///
/// *Errors*: those of [`open()`].
pub fn open_with_faults(
    faults: Arc<dyn Faults>,
    options: OpenOptions,
) -> Result<(Buffer, BufferReader), BufferError> {
    open_on(Disk::with_faults(faults), options)
}

fn open_on(disk: Disk, options: OpenOptions) -> Result<(Buffer, BufferReader), BufferError> {
    let folder = options.data_dir.join("buffer");
    disk.make_folder(&folder)?;
    let lock = open::lock(&folder)?;
    let found = open::find(&folder, &disk, Purpose::Run, &options.agent, options.epoch)?;
    let shared = Arc::new(Shared {
        folder: folder.clone(),
        disk: disk.clone(),
        state: Mutex::new(found.state),
        gate: Mutex::new(()),
        changed: tokio::sync::Notify::new(),
    });
    let reader = BufferReader { shared: Arc::clone(&shared) };
    let buffer = Buffer::new(folder, disk, options, shared, found.leftovers, lock)?;
    Ok((buffer, reader))
}

#[cfg(test)]
pub(crate) mod tests;
