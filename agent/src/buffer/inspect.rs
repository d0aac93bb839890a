//! What `buffer show` and `buffer verify` say of a buffer whose agent is stopped. Nothing is changed.

use std::collections::BTreeSet;
use std::path::Path;

use millrace_protocol::{AgentId, Chunk, Epoch, Item, Layout, LayoutId};
use serde::Serialize;

use super::disk::{Disk, folder_bytes};
use super::entry::{Entry, RowsHead};
use super::manifest::Manifest;
use super::open::{Found, Purpose, find, lock, segment_folder};
use super::segment::{Kind, Segment};
use super::{BufferError, state};
use crate::books::{Books, TransportLine};

/// What a buffer holds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whose it is; `None` without a manifest.
    pub agent: Option<AgentId>,
    /// Of the last start.
    pub epoch: Option<String>,
    /// On disk, all told. *Units*: bytes.
    pub disk_bytes: u64,
    /// What is wrong with the manifest; the next start finds what it can without it.
    pub manifest_damage: Option<String>,
    /// Oldest first.
    pub segments: Vec<SegmentReport>,
    /// In the order in which they began.
    pub streams: Vec<StreamReport>,
    /// Folders that were set aside earlier.
    pub set_aside: Vec<String>,
    /// The books as the next start would find them.
    pub books: Books,
}

/// One segment.
#[derive(Debug, Serialize)]
pub struct SegmentReport {
    /// Its folder.
    pub name: String,
    /// Entries in it, notes included.
    pub entries: u64,
    /// Rows in it that are not acknowledged.
    pub waiting_rows: u64,
    /// *Units*: bytes.
    pub disk_bytes: u64,
    /// What is wrong with it.
    pub damage: Option<String>,
}

/// One stream.
#[derive(Debug, Serialize)]
pub struct StreamReport {
    /// `site/machine`.
    pub machine: String,
    /// The kind of data.
    pub category: String,
    /// 16 hexadecimal digits.
    pub epoch: String,
    /// Its last sequence.
    pub numbered: u64,
    /// Rows that are not acknowledged.
    pub waiting_rows: u64,
    /// Rows that are numbered and nowhere to be found; below zero if some were counted twice.
    pub unaccounted_rows: i64,
    /// Births and losses that are not acknowledged.
    pub waiting_notices: u64,
}

impl Report {
    /// Tells whether something is damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.manifest_damage.is_some() || self.segments.iter().any(|s| s.damage.is_some())
    }
}

/// Says what the buffer of a data folder holds.
///
/// *Errors*: [`BufferError::InUse`] while its agent runs, [`BufferError::Io`] if it cannot be read.
pub fn inspect(data_dir: &Path) -> Result<Report, BufferError> {
    look(data_dir, |_, _| {})
}

/// Like [`inspect`], and reads every row of every segment down to its checksum, so that the books count
/// what is really there; `progress` is told the segments read and how many there are.
///
/// *Errors*: as [`inspect`]; damage is no error, it stands in the report.
pub fn verify(data_dir: &Path, mut progress: impl FnMut(usize, usize)) -> Result<Report, BufferError> {
    look(data_dir, |found, folder| {
        let all: Vec<u64> = found.state.segments.keys().copied().collect();
        for (at, &first) in all.iter().enumerate() {
            progress(at, all.len());
            let Some(segment) = found.state.segments.get_mut(&first) else { continue };
            match verify_segment(folder, first, segment) {
                Ok(heads) => found.state.recount(first, &heads),
                Err(BufferError::Damaged { what, .. }) => segment.damaged = Some(what),
                Err(other) => segment.damaged = Some(other.to_string()),
            }
        }
        progress(all.len(), all.len());
    })
}

fn look(data_dir: &Path, check: impl FnOnce(&mut Found, &Path)) -> Result<Report, BufferError> {
    let folder = data_dir.join("buffer");
    let _lock = lock(&folder)?;
    let (manifest, mut manifest_damage) = match Manifest::read(&folder) {
        Ok(manifest) => (manifest, None),
        Err(error) => (None, Some(error.to_string())),
    };
    #[expect(clippy::expect_used, reason = "a constant that is a name")]
    let unknown = || AgentId::new("unknown").expect("a constant that is a name");
    let agent = manifest.as_ref().map_or_else(unknown, |m| m.agent.clone());
    let epoch = manifest.as_ref().map_or(Epoch(0), |m| m.epoch);
    let mut found = find(&folder, &Disk::default(), Purpose::Inspect, &agent, epoch)?;
    check(&mut found, &folder);
    let state = &found.state;
    let mut segments: Vec<SegmentReport> = state
        .segments
        .iter()
        .map(|(&first, s)| SegmentReport {
            name: format!("{first:020}"),
            entries: (s.last + 1).saturating_sub(first),
            waiting_rows: s.waiting_rows(),
            disk_bytes: folder_bytes(&segment_folder(&folder, first)),
            damage: s.damaged.clone(),
        })
        .collect();
    segments.extend(found.damaged.iter().map(|(first, what)| SegmentReport {
        name: format!("{first:020}"),
        entries: 0,
        waiting_rows: 0,
        disk_bytes: folder_bytes(&segment_folder(&folder, *first)),
        damage: Some(what.clone()),
    }));
    segments.sort_by(|a, b| a.name.cmp(&b.name));
    let books = state.books();
    if manifest.is_none() && manifest_damage.is_none() && !segments.is_empty() {
        manifest_damage = Some("it is missing".to_owned());
    }
    let report = Report {
        agent: manifest.as_ref().map(|m| m.agent.clone()),
        epoch: manifest.as_ref().map(|m| m.epoch.to_string()),
        disk_bytes: folder_bytes(&folder),
        manifest_damage,
        segments,
        streams: books.transport.iter().zip(state.streams.values()).map(stream_report).collect(),
        set_aside: set_aside(&folder),
        books,
    };
    for segment in found.state.segments.into_values().filter_map(|s| s.open) {
        segment.close();
    }
    Ok(report)
}

fn stream_report((line, stream): (&TransportLine, &state::Stream)) -> StreamReport {
    StreamReport {
        machine: line.machine.to_string(),
        category: line.category.to_string(),
        epoch: line.epoch.clone(),
        numbered: line.rows.numbered,
        waiting_rows: line.rows.waiting,
        unaccounted_rows: line.rows.unaccounted,
        waiting_notices: stream.notices,
    }
}

fn set_aside(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: BTreeSet<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.into_iter().filter(|name| name.starts_with("bad-")).collect()
}

/// Reads every entry and gives those with rows.
fn verify_segment(
    folder: &Path,
    first: u64,
    state: &state::SegmentState,
) -> Result<Vec<(u64, RowsHead)>, BufferError> {
    let path = segment_folder(folder, first);
    let segment = match &state.open {
        Some(segment) => segment.clone(),
        None => Segment::open(&Disk::default(), &path)?,
    };
    let layouts = segment.names(Kind::Layout)?;
    let (mut heads, mut wrong) = (Vec::new(), None);
    let mut expected = first;
    segment.entries(first..=state.last, |number, bytes| {
        if number != expected {
            wrong = Some(format!("entry {expected} is missing"));
        } else {
            let layout = |id: LayoutId| Layout::decode(layouts.get(&id.0)?).ok().filter(|l| l.id() == id);
            match verify_entry(bytes, layout) {
                Ok(head) => heads.extend(head.map(|head| (number, head))),
                Err(what) => wrong = Some(format!("entry {number}: {what}")),
            }
        }
        expected = number + 1;
        wrong.is_none()
    })?;
    if wrong.is_none() && expected <= state.last {
        wrong = Some(format!("entry {expected} is missing"));
    }
    segment.close();
    wrong.map_or(Ok(heads), |what| Err(BufferError::Damaged { path, what }))
}

/// Gives where the rows of an entry stand, `None` for a note.
fn verify_entry(
    bytes: &[u8],
    layout: impl Fn(LayoutId) -> Option<Layout>,
) -> Result<Option<RowsHead>, String> {
    let Some(entry) = Entry::read(bytes) else { return Err("it is not readable".to_owned()) };
    let Entry::Rows(head, item) = entry else { return Ok(None) };
    let item = Item::decode(item).map_err(|e| e.to_string())?;
    if item.seq_range() != Some((head.first_seq, head.last_seq())) {
        return Err("it announces other rows than it holds".to_owned());
    }
    match item {
        Item::Chunk(chunk) => {
            let layout = layout(chunk.layout).ok_or("its layout is missing")?;
            Chunk::unpack(&chunk, &layout.into()).map(|_| Some(head)).map_err(|e| e.to_string())
        }
        Item::Raw(raw) if raw.crc != millrace_protocol::RawRows::checksum(raw.first_seq, &raw.rows) => {
            Err("its checksum does not fit".to_owned())
        }
        _ => Ok(Some(head)),
    }
}
