//! What an entry of a segment holds: the rows of one item, or a note of one flush.
//!
//! An item's rows: `1`, stream number, first sequence, rows, points (LEB128 each), newest event time
//! (8 bytes), `0` or `1` and a layout id (8 bytes), then the item. A note: `2`, then JSON.
//! docs/formats/buffer.md has every byte. A note says what the flush changed beside rows, so that
//! state = manifest + fold over the entries after it.

use millrace_protocol::{AgentId, Category, Epoch, ITEM_MAX_BYTES, LayoutId, MachineName, StreamId};
use serde::{Deserialize, Serialize};

use super::block::{put_varint, take_varint};
use crate::delivery::SourceCounts;

const KIND_ROWS: u8 = 1;
const KIND_NOTE: u8 = 2;

/// Where an item's rows stand in their stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowsHead {
    pub(super) stream: u32,
    pub(super) first_seq: u64,
    pub(super) rows: u64,
    pub(super) points: u64,
    pub(super) newest_us: i64,
    pub(super) layout: Option<LayoutId>,
}

impl RowsHead {
    pub(super) const fn last_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.rows.saturating_sub(1))
    }
}

/// An entry as read.
#[derive(Debug)]
pub(super) enum Entry<'a> {
    /// What the rows are, and their item.
    Rows(RowsHead, &'a [u8]),
    Note(Box<Note>),
}

/// A stream's identity as it stands in segments and in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamName {
    agent: AgentId,
    epoch: Epoch,
    machine: MachineName,
    category: Category,
}

impl From<&StreamId> for StreamName {
    fn from(stream: &StreamId) -> Self {
        let StreamId { agent, epoch, machine, category } = stream.clone();
        Self { agent, epoch, machine, category }
    }
}

impl From<StreamName> for StreamId {
    fn from(name: StreamName) -> Self {
        Self { agent: name.agent, epoch: name.epoch, machine: name.machine, category: name.category }
    }
}

/// What a flush changed beside rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    /// When the flush began. *Units*: microseconds since 1970-01-01 UTC.
    #[serde(rename = "t")]
    pub(super) flushed_us: i64,
    /// Everything that a source read before this is on disk: earlier than the flush by the time that a delivery may take
    /// to be handed over, and by more while a poll cycle is under way.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    pub(super) settled_us: Option<i64>,
    /// What the sources counted since the note before.
    #[serde(rename = "s", skip_serializing_if = "Vec::is_empty")]
    pub(super) sources: Vec<(MachineName, SourceDelta)>,
    /// All acknowledged entries that are still on disk; `None` if nothing changed.
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    pub(super) acknowledged: Option<Vec<(u64, u64)>>,
    /// What Kafka has of each stream that an acknowledgement changed, all told: stream, rows, points.
    #[serde(rename = "k", skip_serializing_if = "Vec::is_empty")]
    pub(super) counted: Vec<(u32, u64, u64)>,
    /// Hashes of publishes stored, by session (D5).
    #[serde(rename = "h", skip_serializing_if = "Vec::is_empty")]
    pub(super) hashes: Vec<(u64, Vec<u64>)>,
    /// Whether `hashes` are all that is known (the first note of a segment) and not an addition.
    #[serde(rename = "c", skip_serializing_if = "std::ops::Not::not")]
    pub(super) carries_hashes: bool,
    /// Publishes recognised as redelivered.
    #[serde(rename = "r", skip_serializing_if = "is_zero")]
    pub(super) redelivered: u64,
    /// Births, as encoded items in hexadecimal.
    #[serde(rename = "b", skip_serializing_if = "Vec::is_empty")]
    pub(super) births: Vec<(u32, String)>,
    /// Rows that will not come: refused at the cap, or by Kafka.
    #[serde(rename = "l", skip_serializing_if = "Vec::is_empty")]
    pub(super) losses: Vec<NoteLoss>,
}

/// A range of rows that will not come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NoteLoss {
    pub(super) stream: u32,
    pub(super) reason: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) points: u64,
}

/// [`SourceCounts`] as it stands on disk: due, good, bad, skipped, suppressed.
pub(super) type SourceDelta = (u64, u64, u64, u64, u64);

pub(super) const fn delta_of(c: &SourceCounts) -> SourceDelta {
    (c.due, c.good, c.bad, c.skipped, c.suppressed)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Makes the bytes of an item's entry.
pub(super) fn rows_entry(head: &RowsHead, item: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(item.len() + 64);
    out.push(KIND_ROWS);
    for number in [u64::from(head.stream), head.first_seq, head.rows, head.points] {
        put_varint(&mut out, number);
    }
    out.extend_from_slice(&head.newest_us.to_le_bytes());
    out.push(u8::from(head.layout.is_some()));
    out.extend_from_slice(&head.layout.map_or(0, |l| l.0).to_le_bytes());
    out.extend_from_slice(item);
    out
}

/// Makes the bytes of a note's entry.
pub(super) fn note_entry(note: &Note) -> std::io::Result<Vec<u8>> {
    let mut out = vec![KIND_NOTE];
    serde_json::to_writer(&mut out, note)?;
    Ok(out)
}

impl<'a> Entry<'a> {
    /// Reads an entry; `None` if it is none of this version.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&kind, mut rest) = bytes.split_first()?;
        match kind {
            KIND_ROWS => {
                let stream = u32::try_from(take_varint(&mut rest)?).ok()?;
                let first_seq = take_varint(&mut rest)?;
                let rows = take_varint(&mut rest)?;
                let points = take_varint(&mut rest)?;
                let (newest, rest) = rest.split_first_chunk::<8>()?;
                let (&has_layout, rest) = rest.split_first()?;
                let (layout, item) = rest.split_first_chunk::<8>()?;
                if item.len() > ITEM_MAX_BYTES || rows == 0 || first_seq == 0 {
                    return None;
                }
                let layout = (has_layout == 1).then(|| LayoutId(u64::from_le_bytes(*layout)));
                let newest_us = i64::from_le_bytes(*newest);
                let head = RowsHead { stream, first_seq, rows, points, newest_us, layout };
                Some(Self::Rows(head, item))
            }
            KIND_NOTE => serde_json::from_slice(rest).ok().map(|note| Self::Note(Box::new(note))),
            _ => None,
        }
    }
}

/// Writes bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String does not fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Reads hexadecimal digits; `None` if they are none.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[a, b]| u8::try_from(digit(a)? * 16 + digit(b)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: RowsHead = RowsHead {
        stream: 7,
        first_seq: u64::MAX / 2,
        rows: 3,
        points: 0,
        newest_us: -5,
        layout: Some(LayoutId(9)),
    };

    #[test]
    fn entries_are_read_as_they_are_written() {
        for item in [Vec::new(), vec![1; 70_000], (0..=255).collect::<Vec<u8>>()] {
            let bytes = rows_entry(&HEAD, &item);
            let Some(Entry::Rows(read, found)) = Entry::read(&bytes) else { panic!("no rows") };
            assert_eq!((read, found), (HEAD, &item[..]));
        }
        let note = Note { flushed_us: 5, redelivered: 2, births: vec![(1, "00".into())], ..Note::default() };
        let bytes = note_entry(&note).unwrap();
        let Some(Entry::Note(read)) = Entry::read(&bytes) else { panic!("no note") };
        assert_eq!(*read, note);
    }

    #[test]
    fn foreign_bytes_are_no_entry() {
        let good = rows_entry(&HEAD, b"");
        for cut in 0..good.len() {
            assert!(Entry::read(&good[..cut]).is_none(), "{cut}");
        }
        let large = rows_entry(&HEAD, &vec![0; ITEM_MAX_BYTES + 1]);
        assert!(Entry::read(&large).is_none());
        assert!(Entry::read(&[KIND_NOTE, b'{']).is_none());
        assert!(Entry::read(&[9, 1, 2]).is_none());
        assert_eq!(unhex(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        assert_eq!((unhex("0"), unhex("zz")), (None, None));
    }
}
