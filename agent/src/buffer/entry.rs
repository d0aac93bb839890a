//! What an entry of a segment holds: the rows of one item, or a note of one flush.
//!
//! An item's rows: `1`, stream number, first sequence, rows, points, bytes of the item (LEB128 each),
//! newest event time (8 bytes), `0` or `1` and a layout id (8 bytes), then the item in a zstd frame of
//! its own. A note: `2`, then JSON in a zstd frame. docs/formats/buffer.md has every byte. A note says
//! what the flush changed beside rows, so that state = manifest + fold over the entries after it.

use millrace_protocol::{AgentId, Category, Epoch, ITEM_MAX_BYTES, LayoutId, MachineName, StreamId};
use serde::{Deserialize, Serialize};

use crate::delivery::SourceCounts;

/// Fast and small enough: columns of doubles do not get smaller on higher levels.
const ZSTD_LEVEL: i32 = 1;
/// A note is never larger; keeps a damaged length from asking for memory. *Units*: bytes.
const NOTE_MAX_BYTES: usize = 64 * 1024 * 1024;

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

/// An entry as read; an item stays compressed until someone needs it.
#[derive(Debug)]
pub(super) enum Entry<'a> {
    Rows(RowsHead, Packed<'a>),
    Note(Box<Note>),
}

/// A compressed item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed<'a> {
    frame: &'a [u8],
    bytes: usize,
}

impl Packed<'_> {
    /// Gives the item's bytes; `None` if the frame is damaged.
    pub(super) fn unpack(self) -> Option<Vec<u8>> {
        zstd::bulk::decompress(self.frame, self.bytes).ok().filter(|item| item.len() == self.bytes)
    }
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

/// Compresses entries; the context is kept between them.
pub(super) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    pub(super) fn new() -> std::io::Result<Self> {
        zstd::bulk::Compressor::new(ZSTD_LEVEL).map(|zstd| Self { zstd })
    }

    /// Makes the bytes of an item's entry.
    pub(super) fn rows(&mut self, head: &RowsHead, item: &[u8]) -> std::io::Result<Vec<u8>> {
        let frame = self.zstd.compress(item)?;
        let mut out = Vec::with_capacity(frame.len() + 64);
        out.push(KIND_ROWS);
        for number in [u64::from(head.stream), head.first_seq, head.rows, head.points, item.len() as u64] {
            put_varint(&mut out, number);
        }
        out.extend_from_slice(&head.newest_us.to_le_bytes());
        out.push(u8::from(head.layout.is_some()));
        out.extend_from_slice(&head.layout.map_or(0, |l| l.0).to_le_bytes());
        out.extend_from_slice(&frame);
        Ok(out)
    }

    /// Makes the bytes of a note's entry.
    pub(super) fn note(&mut self, note: &Note) -> std::io::Result<Vec<u8>> {
        let json = serde_json::to_vec(note)?;
        let mut out = vec![KIND_NOTE];
        put_varint(&mut out, json.len() as u64);
        out.extend_from_slice(&self.zstd.compress(&json)?);
        Ok(out)
    }
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
                let bytes = usize::try_from(take_varint(&mut rest)?).ok()?;
                let (newest, rest) = rest.split_first_chunk::<8>()?;
                let (&has_layout, rest) = rest.split_first()?;
                let (layout, frame) = rest.split_first_chunk::<8>()?;
                if bytes > ITEM_MAX_BYTES || rows == 0 || first_seq == 0 {
                    return None;
                }
                let layout = (has_layout == 1).then(|| LayoutId(u64::from_le_bytes(*layout)));
                let newest_us = i64::from_le_bytes(*newest);
                let head = RowsHead { stream, first_seq, rows, points, newest_us, layout };
                Some(Self::Rows(head, Packed { frame, bytes }))
            }
            KIND_NOTE => {
                let bytes = usize::try_from(take_varint(&mut rest)?).ok()?;
                if bytes > NOTE_MAX_BYTES {
                    return None;
                }
                let json = zstd::bulk::decompress(rest, bytes).ok()?;
                serde_json::from_slice(&json).ok().map(|note| Self::Note(Box::new(note)))
            }
            _ => None,
        }
    }
}

/// Appends an unsigned LEB128 number. *Source*: DWARF 5, section 7.6.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
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

    #[test]
    fn entries_are_read_as_they_are_written() {
        let mut packer = Packer::new().unwrap();
        let head = RowsHead {
            stream: 7,
            first_seq: u64::MAX / 2,
            rows: 3,
            points: 0,
            newest_us: -5,
            layout: Some(LayoutId(9)),
        };
        for item in [Vec::new(), vec![1; 70_000], (0..=255).collect::<Vec<u8>>()] {
            let bytes = packer.rows(&head, &item).unwrap();
            let Some(Entry::Rows(read, packed)) = Entry::read(&bytes) else { panic!("no rows") };
            assert_eq!((read, packed.unpack()), (head, Some(item)));
        }
        let note = Note { flushed_us: 5, redelivered: 2, births: vec![(1, "00".into())], ..Note::default() };
        let bytes = packer.note(&note).unwrap();
        let Some(Entry::Note(read)) = Entry::read(&bytes) else { panic!("no note") };
        assert_eq!(*read, note);
    }

    #[test]
    fn foreign_bytes_are_no_entry_and_ask_for_no_memory() {
        let mut packer = Packer::new().unwrap();
        let head =
            RowsHead { stream: 1, first_seq: 1, rows: 1, points: 1, newest_us: 0, layout: Some(LayoutId(1)) };
        let good = packer.rows(&head, b"item").unwrap();
        for cut in 0..good.len() {
            let whole = matches!(Entry::read(&good[..cut]), Some(Entry::Rows(_, p)) if p.unpack().is_some());
            assert!(!whole, "{cut}");
        }
        assert!(Entry::read(&[KIND_NOTE, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_none());
        assert!(Entry::read(&[9, 1, 2]).is_none());
        assert_eq!(unhex(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        assert_eq!((unhex("0"), unhex("zz")), (None, None));
    }
}
