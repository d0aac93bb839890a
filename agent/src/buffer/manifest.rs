//! The buffer's manifest: what must survive the dropping of segments (D4, D6, D7).
//!
//! One JSON file, compressed, replaced whole. It is written at start, when a segment is begun, removed, dropped or
//! set aside, and at a clean stop; `folded_to` names the last entry that it counts, and the entries
//! after it are folded in when the buffer is opened. Invariant: a loss stands here before its segment
//! is removed.

use std::collections::BTreeMap;
use std::path::Path;

use millrace_protocol::{AgentId, BootId, Category, Epoch, LossReason, MachineName};
use serde::{Deserialize, Serialize};

use super::BufferError;
use super::entry::{SourceDelta, StreamName, delta_of, hex, unhex};
use super::notice::{Notice, NoticeBody};
use super::state::{Amount, Contents, SegmentState, Source, State};
use crate::delivery::SourceCounts;

pub(super) const FILE: &str = "manifest.json.zst";
const ZSTD_LEVEL: i32 = 1;
const VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StreamEntry {
    number: u32,
    #[serde(flatten)]
    name: StreamName,
    numbered: Amount,
    acknowledged: Amount,
    dropped: Amount,
    set_aside: Amount,
    newest_us: Option<i64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct BirthEntry {
    machine: MachineName,
    category: Category,
    /// The item; the next epoch's birth begins with its tags.
    item: Hex,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SourceEntry {
    machine: MachineName,
    counts: SourceDelta,
    numbered: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SegmentEntry {
    first: u64,
    last: u64,
    contents: Vec<(u32, Contents)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoticeEntry {
    Birth { stream: u32, item: Hex },
    Clock { stream: u32, item: Hex },
    Loss { stream: u32, reason: u64, ranges: Vec<(u64, u64)>, open_from: Option<u64>, points: u64 },
}

/// Rows that were only in memory when the manifest was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PassingEntry {
    pub(super) stream: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) points: u64,
}

/// Bytes, in hexadecimal in the file.
#[derive(Debug, Clone)]
struct Hex(Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Digit by digit: births of a large gateway take a megabyte as text.
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        unhex(&text).map(Self).ok_or_else(|| serde::de::Error::custom("no hexadecimal digits"))
    }
}

/// Everything the manifest says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub(super) agent: AgentId,
    /// Of the process that wrote it.
    pub(super) epoch: Epoch,
    pub(super) folded_to: u64,
    pub(super) last_flushed_us: Option<i64>,
    settled_us: Option<i64>,
    redelivered: u64,
    next_stream: u32,
    streams: Vec<StreamEntry>,
    births: Vec<BirthEntry>,
    sources: Vec<SourceEntry>,
    segments: Vec<SegmentEntry>,
    acknowledged: Vec<(u64, u64)>,
    notices: Vec<NoticeEntry>,
    hashes: Vec<(u64, Vec<u64>)>,
    pub(super) passing: Vec<PassingEntry>,
    /// The boot whose rows wait for a correction of the clock, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unset_boot: Option<String>,
}

impl Manifest {
    /// Reads the manifest of a folder; `None` if there is none.
    ///
    /// *Errors*: [`BufferError::Manifest`] if it is not a manifest or of a later version.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, BufferError> {
        let path = folder.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(BufferError::io("reading", &path, e)),
        };
        let wrong = |what: String| BufferError::Manifest { path: path.clone(), what };
        let json = zstd::stream::Decoder::new(text.as_slice()).map_err(|e| wrong(e.to_string()))?;
        let manifest: Self =
            serde_json::from_reader(std::io::BufReader::new(json)).map_err(|e| wrong(e.to_string()))?;
        if manifest.version != VERSION {
            return Err(wrong(format!("is of version {}; this program reads {VERSION}", manifest.version)));
        }
        Ok(Some(manifest))
    }

    /// Takes the state as it is now.
    pub(super) fn of(state: &State) -> Self {
        let streams = state.streams.iter().map(|(&number, s)| StreamEntry {
            number,
            name: StreamName::from(&s.id),
            numbered: s.numbered,
            acknowledged: s.acknowledged,
            dropped: s.dropped,
            set_aside: s.set_aside,
            newest_us: s.newest_us,
        });
        let births = state.births.iter().map(|((machine, category), item)| BirthEntry {
            machine: machine.clone(),
            category: category.clone(),
            item: Hex(item.clone()),
        });
        let sources = state.sources.iter().map(|(machine, s)| SourceEntry {
            machine: machine.clone(),
            counts: delta_of(&s.counts),
            numbered: s.numbered,
        });
        let segments = state.segments.iter().map(|(&first, s)| SegmentEntry {
            first,
            last: s.last,
            contents: s.contents.iter().map(|(&stream, &c)| (stream, c)).collect(),
        });
        let passing = state.passing.values().map(|p| PassingEntry {
            stream: p.head.stream,
            from: p.head.first_seq,
            to: p.head.last_seq(),
            points: p.head.points,
        });
        Self {
            version: VERSION,
            agent: state.agent.clone(),
            epoch: state.epoch,
            folded_to: state.durable,
            last_flushed_us: state.last_flushed_us,
            settled_us: state.settled_durable_us,
            redelivered: state.redelivered,
            next_stream: state.next_stream,
            streams: streams.collect(),
            births: births.collect(),
            sources: sources.collect(),
            segments: segments.collect(),
            acknowledged: state.acknowledged.ranges().map(|r| (*r.start(), *r.end())).collect(),
            notices: state.notices.values().map(NoticeEntry::of).collect(),
            hashes: state.hashes.iter().map(|(&s, ring)| (s, ring.iter().copied().collect())).collect(),
            passing: passing.collect(),
            unset_boot: state.unset_boot.map(|boot| hex(&boot.0)),
        }
    }

    /// Gives the first entry of the newest segment that it lists.
    pub(super) fn newest_segment(&self) -> Option<u64> {
        self.segments.iter().map(|s| s.first).max()
    }

    /// Gives what it says was set aside, by stream.
    pub(super) fn set_aside(&self) -> BTreeMap<u32, Amount> {
        self.streams.iter().map(|stream| (stream.number, stream.set_aside)).collect()
    }

    /// Gives the bytes of the file. Compressed: it is written with every segment, and births of a large gateway are
    /// long and alike.
    pub(super) fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        let mut file = zstd::stream::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        file.include_checksum(true)?;
        serde_json::to_writer(&mut file, self)?;
        file.finish()
    }

    /// Puts everything into a state that is empty; segments come without their databases.
    pub(super) fn restore(&self, state: &mut State) {
        for entry in &self.streams {
            state.insert_stream(entry.number, entry.name.clone().into());
            if let Some(stream) = state.streams.get_mut(&entry.number) {
                stream.numbered = entry.numbered;
                stream.acknowledged = entry.acknowledged;
                stream.dropped = entry.dropped;
                stream.set_aside = entry.set_aside;
                stream.newest_us = entry.newest_us;
            }
        }
        state.next_stream = state.next_stream.max(self.next_stream);
        for entry in &self.births {
            state.births.insert((entry.machine.clone(), entry.category.clone()), entry.item.0.clone());
        }
        for entry in &self.sources {
            let (due, good, bad, skipped, suppressed) = entry.counts;
            let counts = SourceCounts { due, good, bad, skipped, suppressed };
            state.sources.insert(entry.machine.clone(), Source { counts, numbered: entry.numbered });
        }
        for entry in &self.segments {
            let contents = entry.contents.iter().copied().collect();
            let segment = SegmentState { last: entry.last, contents, ..SegmentState::default() };
            state.segments.insert(entry.first, segment);
        }
        state.acknowledged = self.acknowledged.iter().map(|&(from, to)| from..=to).collect();
        for entry in &self.notices {
            entry.restore(state);
        }
        state.hashes = self.hashes.iter().map(|(s, ring)| (*s, ring.iter().copied().collect())).collect();
        state.redelivered = self.redelivered;
        state.last_flushed_us = self.last_flushed_us;
        state.settled_durable_us = self.settled_us;
        state.durable = self.folded_to;
        let boot = self.unset_boot.as_deref().and_then(unhex).and_then(|bytes| bytes.try_into().ok());
        state.unset_boot = boot.map(BootId);
    }
}

impl NoticeEntry {
    fn of(notice: &Notice) -> Self {
        let stream = notice.stream;
        match &notice.body {
            NoticeBody::Birth(item) => Self::Birth { stream, item: Hex(item.clone()) },
            NoticeBody::Clock(item) => Self::Clock { stream, item: Hex(item.clone()) },
            NoticeBody::Loss { reason, ranges, open_from, points } => Self::Loss {
                stream,
                reason: reason.code(),
                ranges: ranges.ranges().map(|r| (*r.start(), *r.end())).collect(),
                open_from: *open_from,
                points: *points,
            },
        }
    }

    fn restore(&self, state: &mut State) {
        match self {
            Self::Birth { stream, item } => restore(state, *stream, item, NoticeBody::Birth),
            Self::Clock { stream, item } => restore(state, *stream, item, NoticeBody::Clock),
            Self::Loss { stream, reason, ranges, open_from, points } => {
                let Some(reason) = LossReason::from_code(*reason) else { return };
                let mut points = *points;
                for &(from, to) in ranges {
                    state.add_loss(*stream, reason, Some(from..=to), None, std::mem::take(&mut points));
                }
                if open_from.is_some() {
                    state.add_loss(*stream, reason, None, *open_from, points);
                }
            }
        }
    }
}

fn restore(state: &mut State, stream: u32, item: &Hex, body: fn(Vec<u8>) -> NoticeBody) {
    state.push_notice(Notice { stream, body: body(item.0.clone()), in_flight: false });
}
