//! One small sled database of the buffer: opened, appended to, read, never deleted from (D6).
//!
//! Two rules keep a power cut from costing anything, both measured: after `flush()` the database's file
//! is synchronised by an `fdatasync` of our own, because sled's flush does not reach the disk; and no
//! value is larger than [`VALUE_MAX_BYTES`], because a page of sixteen values must stay below a quarter
//! of sled's segment, else it goes to a file that sled never synchronises. A larger block stands as
//! numbered parts in one batch. Invariant: what [`Segment::append`] has returned from is on the disk
//! whole; what it has not is there whole or not at all.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use super::BufferError;
use super::block::{Unpacker, next_entry};
use super::disk::{Disk, Step, file_bytes, folder_bytes, sync_folder};

/// No value of the database is larger (D6 allows 8 KB; sixteen of these and their keys fill a page to
/// three quarters of what sled keeps in its log). *Units*: bytes.
pub(super) const VALUE_MAX_BYTES: usize = 6 * 1024;
/// What a part holds beside the byte that says whether it is the last.
const PART_BYTES: usize = VALUE_MAX_BYTES - 1;
/// sled's page cache of one segment; more does not help a log that is written and read once.
const CACHE_BYTES: u64 = 1024 * 1024;
/// A database that is not open after this time is treated as damaged; a sound one takes 0.1 s.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// How long sled's own threads may hold the lock of a database that was just closed.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// How often that lock is tried.
const RELEASE_TICK: Duration = Duration::from_millis(5);

const PART_MORE: u8 = 0;
const PART_LAST: u8 = 1;

/// What stands in a database beside entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A layout, by its id.
    Layout,
    /// A stream's identity, by its number.
    Stream,
}

impl Kind {
    const fn prefix(self) -> u8 {
        match self {
            Self::Layout => b'l',
            Self::Stream => b's',
        }
    }
}

/// What one flush writes, all of it or nothing. It can be applied again after a fault.
#[derive(Debug, Default)]
pub(super) struct Writes {
    batch: sled::Batch,
}

impl Writes {
    /// Adds a block by the number of its first entry, in parts if it is large.
    pub(super) fn block(&mut self, number: u64, bytes: &[u8]) {
        self.put(b'e', number, bytes);
    }

    /// Adds or replaces a layout or a stream's identity.
    pub(super) fn name(&mut self, kind: Kind, number: u64, bytes: &[u8]) {
        self.put(kind.prefix(), number, bytes);
    }

    fn put(&mut self, prefix: u8, number: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut part = 0u16;
        loop {
            let (chunk, after) = rest.split_at(rest.len().min(PART_BYTES));
            let mut value = Vec::with_capacity(chunk.len() + 1);
            value.push(if after.is_empty() { PART_LAST } else { PART_MORE });
            value.extend_from_slice(chunk);
            self.batch.insert(&key(prefix, number, part)[..], value);
            if after.is_empty() {
                return;
            }
            (rest, part) = (after, part.saturating_add(1));
        }
    }
}

fn key(prefix: u8, number: u64, part: u16) -> [u8; 11] {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    let [i, j] = part.to_be_bytes();
    [prefix, a, b, c, d, e, f, g, h, i, j]
}

fn parse_key(key: &[u8]) -> Option<(u64, u16)> {
    let (number, part) = key.get(1..)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), u16::from_be_bytes(part.try_into().ok()?)))
}

/// An open database. Clones share it; it is closed when the last one is dropped.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    db: sled::Db,
    folder: PathBuf,
    log: Arc<File>,
    disk: Disk,
}

impl Segment {
    /// Opens or makes a database, in a thread of its own: sled panics on damaged files.
    ///
    /// *Errors*: [`BufferError::Damaged`] if it does not open, also not without its snapshot, or not in
    /// time; [`BufferError::Io`] if the disk refuses.
    pub(super) fn open(disk: &Disk, folder: &Path) -> Result<Self, BufferError> {
        disk.at(Step::OpenSegment, folder)?;
        let db = match open_released(folder) {
            Ok(db) => db,
            Err(OpenFailure::Io(error)) => return Err(BufferError::io("opening", folder, error)),
            Err(OpenFailure::Damaged(_)) => {
                // A snapshot cut in half keeps a good log from opening; sled makes it anew.
                remove_snapshots(folder);
                open_released(folder).map_err(|failure| BufferError::Damaged {
                    path: folder.to_owned(),
                    what: failure.text(),
                })?
            }
        };
        let log_path = folder.join("db");
        let log = File::open(&log_path).map_err(|e| BufferError::io("opening", &log_path, e))?;
        sync_folder(folder)?;
        Ok(Self { db, folder: folder.to_owned(), log: Arc::new(log), disk: disk.clone() })
    }

    /// Writes a batch and returns when it is on the disk.
    ///
    /// *Errors*: [`BufferError::Io`], [`BufferError::Sled`]: nothing of the batch counts as stored, and
    /// the segment must be opened again before it is used.
    pub(super) fn append(&self, writes: &Writes) -> Result<(), BufferError> {
        self.disk.at(Step::Append, &self.folder)?;
        self.guarded("writing", |db| db.apply_batch(writes.batch.clone()))?;
        self.disk.at(Step::Flush, &self.folder)?;
        self.guarded("flushing", |db| db.flush().map(drop))?;
        self.disk.at(Step::Sync, &self.folder)?;
        self.disk.sync_data(&self.log, &self.folder)?;
        self.disk.at(Step::Synced, &self.folder)
    }

    /// Reads the entries of a range in order, until the caller has enough (`false`). A block that is damaged
    /// comes as one empty entry, which is none.
    ///
    /// *Errors*: [`BufferError::Sled`], [`BufferError::Damaged`].
    pub(super) fn entries(
        &self,
        range: RangeInclusive<u64>,
        mut each: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), BufferError> {
        let mut unpacker = Unpacker::new().map_err(|e| BufferError::io("reading", &self.folder, e))?;
        let (start, end) = (*range.start(), *range.end());
        let mut hand_over = |first: u64, block: &[u8]| {
            let Some(entries) = unpacker.entries(block) else { return each(first.max(start), &[]) };
            let (mut rest, mut number) = (entries.as_slice(), first);
            while !rest.is_empty() {
                let Some(entry) = next_entry(&mut rest) else { return each(number.max(start), &[]) };
                if range.contains(&number) && !each(number, entry) {
                    return false;
                }
                number = number.saturating_add(1);
            }
            true
        };
        self.guarded("reading", |db| {
            // The first entry may stand in the middle of a block.
            let before = db.range(key(b'e', 0, 0)..=key(b'e', start, u16::MAX)).next_back().transpose()?;
            let from = before.and_then(|(key, _)| parse_key(&key)).map_or(start, |(number, _)| number);
            let mut open: Option<(u64, Vec<u8>)> = None;
            for pair in db.range(key(b'e', from, 0)..=key(b'e', end, u16::MAX)) {
                let (key, value) = pair?;
                let (Some((number, part)), Some((&last, bytes))) = (parse_key(&key), value.split_first())
                else {
                    continue;
                };
                let mut block = match open.take() {
                    Some((before, block)) if before == number && part > 0 => block,
                    // Parts whose beginning or end is missing were never confirmed.
                    _ if part > 0 => continue,
                    _ => Vec::with_capacity(bytes.len()),
                };
                block.extend_from_slice(bytes);
                if last != PART_LAST {
                    open = Some((number, block));
                } else if !hand_over(number, &block) {
                    return Ok(());
                }
            }
            Ok(())
        })
    }

    /// Reads everything of one kind, by number.
    pub(super) fn names(&self, kind: Kind) -> Result<BTreeMap<u64, Vec<u8>>, BufferError> {
        self.guarded("reading", |db| {
            let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            for pair in db.scan_prefix([kind.prefix()]) {
                let (key, value) = pair?;
                if let (Some((number, _)), Some((_, bytes))) = (parse_key(&key), value.split_first()) {
                    found.entry(number).or_default().extend_from_slice(bytes);
                }
            }
            Ok(found)
        })
    }

    /// Reads one layout or identity.
    pub(super) fn name(&self, kind: Kind, number: u64) -> Result<Option<Vec<u8>>, BufferError> {
        let bounds = key(kind.prefix(), number, 0)..=key(kind.prefix(), number, u16::MAX);
        self.guarded("reading", |db| {
            let mut found: Option<Vec<u8>> = None;
            for pair in db.range(bounds.clone()) {
                let (_, value) = pair?;
                found.get_or_insert_default().extend_from_slice(value.get(1..).unwrap_or_default());
            }
            Ok(found)
        })
    }

    /// Gives the size of the log on disk, cheaply. *Units*: bytes.
    pub(super) fn log_bytes(&self) -> u64 {
        self.disk.segment_bytes(&self.folder, file_bytes(&self.log))
    }

    /// Gives the size of everything that belongs to the segment. *Units*: bytes.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk.segment_bytes(&self.folder, folder_bytes(&self.folder))
    }

    /// Closes the database if this is the last clone; a panic of a damaged one stays here.
    pub(super) fn close(self) {
        let Self { db, log, .. } = self;
        drop(log);
        drop(caught(move || drop(db)));
    }

    /// Runs something on the database; sled panics on damaged pages.
    fn guarded<T>(
        &self,
        operation: &'static str,
        mut run: impl FnMut(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, BufferError> {
        match caught(|| run(&self.db)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(sled::Error::Io(source))) => Err(BufferError::io(operation, &self.folder, source)),
            Ok(Err(sled::Error::Corruption { .. })) => Err(self.damaged("a page is corrupt")),
            Ok(Err(source)) => {
                Err(BufferError::Sled { operation, path: self.folder.clone(), what: source.to_string() })
            }
            Err(_) => Err(self.damaged("sled panicked on it")),
        }
    }

    fn damaged(&self, what: &str) -> BufferError {
        BufferError::Damaged { path: self.folder.clone(), what: what.to_owned() }
    }
}

thread_local! {
    /// Whether a panic of sled on this thread is expected and caught.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs something of sled's that may panic on damaged files, and keeps the panic's text from the terminal: the caller
/// says what happened in its own words.
fn caught<T>(run: impl FnOnce() -> T) -> std::thread::Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                loud(panic);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    IS_GUARDED.set(was_guarded);
    result
}

enum OpenFailure {
    Io(std::io::Error),
    Damaged(String),
}

impl OpenFailure {
    fn text(self) -> String {
        match self {
            Self::Io(error) => error.to_string(),
            Self::Damaged(what) => what,
        }
    }
}

/// Opens a database that this process may just have closed: a thread of sled's pool may hold it, and
/// with it the lock of its file, for a moment longer. Other processes are kept out by our own lock.
fn open_released(folder: &Path) -> Result<sled::Db, OpenFailure> {
    let begun = Instant::now();
    loop {
        match open_guarded(folder) {
            Err(OpenFailure::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && begun.elapsed() < RELEASE_LIMIT =>
            {
                std::thread::sleep(RELEASE_TICK);
            }
            other => return other,
        }
    }
}

fn open_guarded(folder: &Path) -> Result<sled::Db, OpenFailure> {
    let (sender, receiver) = sync_channel(1);
    let path = folder.to_owned();
    let opener = std::thread::Builder::new().name("buffer-open".to_owned()).spawn(move || {
        let opened = caught(|| {
            // No flusher of sled's own: a flush must end in our own fdatasync.
            let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
            let db = config.open()?;
            // Reading the ends makes a damaged page show itself here and not in the writer.
            drop(db.iter().next().transpose()?);
            drop(db.iter().next_back().transpose()?);
            Ok::<_, sled::Error>(db)
        });
        drop(sender.send(opened));
    });
    opener.map_err(OpenFailure::Io)?;
    match receiver.recv_timeout(OPEN_LIMIT) {
        Ok(Ok(Ok(db))) => Ok(db),
        Ok(Ok(Err(sled::Error::Io(error)))) => Err(OpenFailure::Io(error)),
        Ok(Ok(Err(error))) => Err(OpenFailure::Damaged(error.to_string())),
        Ok(Err(_)) => Err(OpenFailure::Damaged("sled panicked while it opened the files".to_owned())),
        Err(_) => Err(OpenFailure::Damaged(format!("it did not open within {} s", OPEN_LIMIT.as_secs()))),
    }
}

fn remove_snapshots(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            // If it cannot be removed, the second opening says why.
            drop(std::fs::remove_file(entry.path()));
        }
    }
}
