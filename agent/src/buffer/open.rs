//! Opening: what is on disk is found again, what is damaged is set aside and declared (D4, D6).
//!
//! The manifest is restored, then every segment that may hold entries after it is read and folded in.
//! Invariant: nothing is removed or renamed before what it means stands in the manifest, except that a
//! damaged segment is renamed first: one that is listed and missing counts as damaged.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use millrace_protocol::{AgentId, Epoch, LossReason, StreamId};

use super::BufferError;
use super::disk::{Disk, folder_bytes};
use super::entry::{Entry, RowsHead, StreamName};
use super::manifest::{self, Manifest};
use super::pick::Cursors;
use super::segment::{Kind, Segment};
use super::state::{Amount, SegmentState, State};

/// The buffer as it was found.
pub(super) struct Found {
    pub(super) state: State,
    /// Folders that are of no more use, to be removed after the next manifest.
    pub(super) leftovers: Vec<PathBuf>,
    /// Segments that were set aside, by their first entry, and why.
    pub(super) damaged: Vec<(u64, String)>,
}

/// Gives the folder of a segment.
pub(super) fn segment_folder(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}"))
}

/// Takes the lock of a data folder; it is held until the file is dropped.
///
/// *Errors*: [`BufferError::InUse`], [`BufferError::Io`].
pub(super) fn lock(folder: &Path) -> Result<File, BufferError> {
    let path = folder.join("lock");
    let options = File::options().create(true).truncate(false).write(true).open(&path);
    let file = options.map_err(|e| BufferError::io("opening", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BufferError::InUse { path }),
        Err(TryLockError::Error(e)) => Err(BufferError::io("locking", &path, e)),
    }
}

/// Whether finding may change the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Damaged segments and manifests get other names.
    Run,
    /// Nothing is renamed or removed.
    Inspect,
}

/// Finds everything that a folder holds.
///
/// *Errors*: [`BufferError::Io`] if it cannot be read.
pub(super) fn find(
    folder: &Path,
    disk: &Disk,
    purpose: Purpose,
    agent: &AgentId,
    epoch: Epoch,
) -> Result<Found, BufferError> {
    let mut state = State::new(agent.clone(), epoch);
    let manifest = match Manifest::read(folder) {
        Ok(manifest) => manifest,
        Err(error @ BufferError::Manifest { .. }) => {
            if purpose == Purpose::Run {
                tracing::error!(%error, "the manifest is set aside; the books begin anew from the segments");
                let (from, to) = (folder.join(manifest::FILE), folder.join("bad-manifest.json.zst"));
                std::fs::rename(&from, &to).map_err(|e| BufferError::io("renaming", &from, e))?;
            }
            None
        }
        Err(error) => return Err(error),
    };
    if let Some(manifest) = &manifest {
        manifest.restore(&mut state);
    }
    let mut finder = Finder {
        folder,
        disk,
        purpose,
        manifest: manifest.as_ref(),
        folded_to: state.durable,
        state,
        heads: BTreeMap::new(),
        leftovers: Vec::new(),
        damaged: Vec::new(),
    };
    finder.list()?;
    let all: Vec<u64> = finder.state.segments.keys().copied().collect();
    for (at, &first) in all.iter().enumerate() {
        finder.fold(first, all.get(at + 1).copied())?;
    }
    finder.count_waiting()?;
    finder.finish();
    Ok(Found { state: finder.state, leftovers: finder.leftovers, damaged: finder.damaged })
}

struct Finder<'a> {
    folder: &'a Path,
    disk: &'a Disk,
    purpose: Purpose,
    manifest: Option<&'a Manifest>,
    folded_to: u64,
    state: State,
    /// Rows of every segment that was read, by entry.
    heads: BTreeMap<u64, Vec<(u64, RowsHead)>>,
    leftovers: Vec<PathBuf>,
    damaged: Vec<(u64, String)>,
}

impl Finder<'_> {
    /// Adds segments that the manifest does not list: newer ones are kept, older ones are left over
    /// from a removal.
    fn list(&mut self) -> Result<(), BufferError> {
        let entries =
            std::fs::read_dir(self.folder).map_err(|e| BufferError::io("reading", self.folder, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| BufferError::io("reading", self.folder, e))?;
            let name = entry.file_name();
            let Some(first) = name.to_str().filter(|n| n.len() == 20).and_then(|n| n.parse::<u64>().ok())
            else {
                continue;
            };
            if self.state.segments.contains_key(&first) {
                continue;
            }
            if self.manifest.is_some() && first <= self.folded_to {
                self.leftovers.push(entry.path());
            } else {
                let segment = SegmentState { last: first.saturating_sub(1), ..SegmentState::default() };
                self.state.segments.insert(first, segment);
            }
        }
        Ok(())
    }

    fn is_listed(&self, first: u64) -> bool {
        self.manifest.is_some() && first <= self.folded_to
    }

    /// Reads a segment that may hold entries which the manifest does not count.
    fn fold(&mut self, first: u64, next: Option<u64>) -> Result<(), BufferError> {
        let path = segment_folder(self.folder, first);
        let listed_last = self.state.segments.get(&first).map_or(0, |s| s.last);
        // The manifest knows all of a segment if it was written after the next one had begun.
        let is_closed = self.manifest.and_then(Manifest::newest_segment).is_some_and(|newest| first < newest);
        let is_complete = is_closed || (self.is_listed(first) && next == listed_last.checked_add(1));
        if !path.is_dir() {
            self.lose(first, is_complete, "its folder is missing");
            return Ok(());
        }
        if is_complete {
            return Ok(());
        }
        let read = self.open(first).and_then(|()| self.read(first, next));
        match read {
            Ok(entries) if entries.is_empty() && !self.is_listed(first) => {
                // It was made and nothing was written: the manifest lists it after its first flush.
                self.drop_unwritten(first, path);
            }
            Ok(entries) => match check(first, listed_last, &entries) {
                Ok(()) => self.apply(first, &entries),
                Err(what) => self.set_aside(first, is_complete, what)?,
            },
            Err(BufferError::Damaged { .. }) if !self.is_listed(first) && self.manifest.is_some() => {
                self.drop_unwritten(first, path);
            }
            Err(BufferError::Damaged { what, .. }) => self.set_aside(first, is_complete, &what)?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn drop_unwritten(&mut self, first: u64, path: PathBuf) {
        self.close(first);
        self.state.segments.remove(&first);
        self.leftovers.push(path);
    }

    fn open(&mut self, first: u64) -> Result<(), BufferError> {
        let segment = Segment::open(self.disk, &segment_folder(self.folder, first))?;
        if let Some(state) = self.state.segments.get_mut(&first) {
            state.open = Some(segment);
        }
        Ok(())
    }

    fn close(&mut self, first: u64) {
        if let Some(segment) = self.state.segments.get_mut(&first).and_then(|s| s.open.take()) {
            segment.close();
        }
    }

    /// Reads every entry of an open segment, and the streams that it names.
    fn read(&mut self, first: u64, next: Option<u64>) -> Result<Vec<Read>, BufferError> {
        let Some(segment) = self.state.segments.get(&first).and_then(|s| s.open.clone()) else {
            return Ok(Vec::new());
        };
        for (number, bytes) in segment.names(Kind::Stream)? {
            let name = serde_json::from_slice::<StreamName>(&bytes).ok().map(StreamId::from);
            if let (Ok(number), Some(id)) = (u32::try_from(number), name) {
                self.state.insert_stream(number, id);
            }
        }
        let last = next.map_or(u64::MAX, |next| next.saturating_sub(1));
        let folded_to = self.folded_to;
        let mut entries = Vec::new();
        segment.entries(first..=last, |number, bytes| {
            let body = match Entry::read(bytes) {
                Some(Entry::Rows(head, _)) => Body::Rows(head),
                Some(Entry::Note(note)) if number > folded_to => Body::Note(note),
                Some(Entry::Note(_)) => Body::Counted,
                None => Body::Unreadable,
            };
            entries.push(Read { number, body });
            true
        })?;
        Ok(entries)
    }

    /// Folds what the manifest does not count.
    fn apply(&mut self, first: u64, entries: &[Read]) {
        let mut heads = Vec::new();
        for entry in entries {
            let is_new = entry.number > self.folded_to || self.manifest.is_none();
            match &entry.body {
                Body::Rows(head) => {
                    heads.push((entry.number, *head));
                    if self.manifest.is_none() {
                        // What came before the first segment left is gone with the manifest.
                        self.state.begin_at(head.stream, head.first_seq);
                    }
                    if is_new {
                        self.state.fold_rows(first, entry.number, head);
                    }
                }
                Body::Note(note) => {
                    self.state.fold_note(note);
                    self.state.acknowledged.insert(entry.number..=entry.number);
                    self.state.passed(first, entry.number);
                }
                Body::Counted | Body::Unreadable => {}
            }
        }
        self.heads.insert(first, heads);
    }

    /// Finds out what of each segment is not acknowledged.
    fn count_waiting(&mut self) -> Result<(), BufferError> {
        let all: Vec<u64> = self.state.segments.keys().copied().collect();
        for &first in &all {
            let Some(segment) = self.state.segments.get(&first) else { continue };
            let missing = self.state.acknowledged.missing_in(first..=segment.last).len();
            let entries = (segment.last + 1).saturating_sub(first);
            if !self.heads.contains_key(&first) && missing != 0 && missing != entries {
                // Partly acknowledged, by entry; which rows that are only the segment knows.
                match self.open(first).and_then(|()| self.read(first, Some(segment_end(&self.state, first))))
                {
                    Ok(read) => {
                        // A backlog can have a hundred segments: each is open only while it is read.
                        if all.last() != Some(&first) {
                            self.close(first);
                        }
                        let last = self.state.segments.get(&first).map_or(0, |s| s.last);
                        match check(first, last, &read) {
                            Ok(()) => {
                                self.heads.insert(first, read.iter().filter_map(Read::head).collect());
                            }
                            Err(what) => self.set_aside(first, true, what)?,
                        }
                    }
                    Err(BufferError::Damaged { what, .. }) => self.set_aside(first, true, &what)?,
                    Err(error) => return Err(error),
                }
            }
            self.count_waiting_of(first, missing);
        }
        Ok(())
    }

    fn count_waiting_of(&mut self, first: u64, missing: u64) {
        let heads = self.heads.remove(&first);
        let Some(segment) = self.state.segments.get_mut(&first) else { return };
        match heads {
            Some(heads) => self.state.recount(first, &heads),
            None if missing == 0 => {
                segment.contents.values_mut().for_each(|c| c.waiting = Amount::default());
            }
            None => segment.contents.values_mut().for_each(|c| c.waiting = c.total),
        }
    }

    fn set_aside(&mut self, first: u64, is_complete: bool, what: &str) -> Result<(), BufferError> {
        self.close(first);
        let path = segment_folder(self.folder, first);
        if self.purpose == Purpose::Run {
            self.disk.rename_folder(&path, &bad_folder(self.folder, first))?;
        }
        self.lose(first, is_complete, what);
        Ok(())
    }

    /// Declares what a segment held; with an open end where nobody knows all of it.
    fn lose(&mut self, first: u64, is_complete: bool, what: &str) {
        if self.purpose == Purpose::Run {
            tracing::error!(segment = first, what, "a segment of the buffer is damaged and set aside");
        }
        self.damaged.push((first, what.to_owned()));
        lose_contents(&mut self.state, first, LossReason::SetAsideDamaged);
        self.state.forget_segment(first);
        self.state.set_aside_segments += 1;
        let Some(manifest) = self.manifest.filter(|_| !is_complete) else { return };
        let writing: Vec<(u32, u64)> = self
            .state
            .streams
            .iter()
            .filter(|(_, s)| s.id.epoch == manifest.epoch)
            .map(|(&number, s)| (number, s.numbered.rows.saturating_add(1)))
            .collect();
        for (number, from) in writing {
            self.state.add_loss(number, LossReason::SetAsideDamaged, None, Some(from), 0);
        }
    }

    /// Counts what was in memory only, and what must have been acknowledged.
    fn finish(&mut self) {
        for entry in self.manifest.map(|m| m.passing.as_slice()).unwrap_or_default() {
            let amount = Amount { rows: entry.to - entry.from + 1, points: entry.points };
            if let Some(stream) = self.state.streams.get_mut(&entry.stream) {
                stream.lose(LossReason::SetAsideDamaged, amount);
            }
            let range = Some(entry.from..=entry.to);
            self.state.add_loss(entry.stream, LossReason::SetAsideDamaged, range, None, entry.points);
        }
        for (&first, segment) in &mut self.state.segments {
            let folder = segment_folder(self.folder, first);
            segment.disk_bytes = self.disk.segment_bytes(&folder, folder_bytes(&folder));
        }
        self.reckon();
        let first_live = self.state.durable + 1;
        let backlog = self.state.segments.keys().next().copied().unwrap_or(first_live);
        self.state.cursors = Cursors { first_live, backlog, live: first_live };
        // Those that were folded are of earlier starts.
        self.state.unsent.clear();
        self.state.retire();
    }

    /// Settles what Kafka has of every stream, as the manifest and the notes after it count it.
    fn reckon(&mut self) {
        let set_aside = self.manifest.map(Manifest::set_aside);
        let waiting = self.state.waiting();
        for (number, stream) in &mut self.state.streams {
            let waiting = waiting.get(number).copied().unwrap_or_default();
            match &set_aside {
                Some(before) => {
                    let new = stream.set_aside.less(before.get(number).copied().unwrap_or_default());
                    // Of a segment that is gone nobody knows what Kafka had of it since the manifest; the
                    // stream's own count does. It is not counted twice.
                    let twice = stream.accounted(waiting).less(stream.numbered);
                    stream.set_aside = stream.set_aside.less(twice.at_most(new));
                }
                // Without a manifest nothing else says what became of rows that stand in no segment.
                None => {
                    let left = stream.numbered.less(stream.dropped).less(stream.set_aside);
                    stream.acknowledged = left.less(waiting);
                }
            }
            stream.acknowledged_durable = stream.acknowledged;
            if self.purpose == Purpose::Run && stream.accounted(waiting) != stream.numbered {
                tracing::error!(
                    stream = %stream.id, numbered = ?stream.numbered, accounted = ?stream.accounted(waiting),
                    "rows have disappeared from the buffer, or were counted twice"
                );
            }
        }
    }
}

/// Gives the entry after a segment's last.
fn segment_end(state: &State, first: u64) -> u64 {
    state.segments.get(&first).map_or(first, |s| s.last + 1)
}

/// Gives the name of a segment that was set aside; one that was set aside before keeps its name.
pub(super) fn bad_folder(folder: &Path, first: u64) -> PathBuf {
    let name = |n: u32| {
        folder.join(if n == 0 { format!("bad-{first:020}") } else { format!("bad-{first:020}.{n}") })
    };
    (0..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
}

/// Counts everything that waits in a segment as lost and declares it.
pub(super) fn lose_contents(state: &mut State, first: u64, reason: LossReason) {
    let Some(segment) = state.segments.get(&first) else { return };
    let contents: Vec<_> = segment.contents.iter().map(|(&number, &c)| (number, c)).collect();
    for (number, contents) in contents {
        if contents.waiting.rows == 0 {
            continue;
        }
        if let Some(stream) = state.streams.get_mut(&number) {
            stream.lose(reason, contents.waiting);
        }
        let range = contents.first_seq..=contents.last_seq;
        state.add_loss(number, reason, Some(range), None, contents.waiting.points);
    }
}

/// One entry of a segment, without its item.
struct Read {
    number: u64,
    body: Body,
}

impl Read {
    fn head(&self) -> Option<(u64, RowsHead)> {
        match self.body {
            Body::Rows(head) => Some((self.number, head)),
            _ => None,
        }
    }
}

enum Body {
    Rows(RowsHead),
    Note(Box<super::entry::Note>),
    /// A note that the manifest counts already.
    Counted,
    Unreadable,
}

/// Says what is wrong with the entries of a segment: they are numbered without holes, and sled may
/// have lost any of them in silence.
fn check(first: u64, listed_last: u64, entries: &[Read]) -> Result<(), &'static str> {
    let numbers_fit = entries.iter().zip(first..).all(|(entry, expected)| entry.number == expected);
    let last = entries.last().map_or(first.saturating_sub(1), |e| e.number);
    if entries.is_empty() {
        Err("it is empty")
    } else if !numbers_fit {
        Err("entries are missing")
    } else if last < listed_last {
        Err("its last entries are missing")
    } else if entries.iter().any(|e| matches!(e.body, Body::Unreadable)) {
        Err("an entry is not readable")
    } else {
        Ok(())
    }
}
