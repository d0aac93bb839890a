//! Consecutive entries in one zstd frame: what a segment keeps under one key.
//!
//! A flush has an entry for every machine, and each is small. One value per entry would cost an insert, a frame and
//! a share of a page's rewriting each (measured: 24 KB written for 8 KB of entries). docs/formats/buffer.md has every
//! byte.

use super::segment::Writes;

/// A block is closed when its entries take this much; a larger entry has a block of its own. *Units*: bytes.
const BLOCK_BYTES: usize = 32 * 1024;
/// A block is never larger (a note holds what must outlive its segment); keeps a damaged length from asking for
/// memory. *Units*: bytes.
const BLOCK_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Fast and small enough: columns of doubles do not get smaller on higher levels.
const ZSTD_LEVEL: i32 = 1;

/// Makes blocks; the context is kept between them.
pub(super) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    open: Vec<u8>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL)?, open: Vec::new() })
    }

    /// Adds entries to a batch, in blocks; the first has the given number.
    pub(super) fn pack(
        &mut self,
        first: u64,
        entries: impl IntoIterator<Item = Vec<u8>>,
        writes: &mut Writes,
    ) -> std::io::Result<()> {
        self.open.clear();
        let (mut block, mut next) = (first, first);
        for entry in entries {
            put_varint(&mut self.open, entry.len() as u64);
            self.open.extend_from_slice(&entry);
            next += 1;
            if self.open.len() >= BLOCK_BYTES {
                self.close(block, writes)?;
                block = next;
            }
        }
        if !self.open.is_empty() {
            self.close(block, writes)?;
        }
        // A rare large note must not be remembered by its room.
        self.open.shrink_to(2 * BLOCK_BYTES);
        Ok(())
    }

    fn close(&mut self, first: u64, writes: &mut Writes) -> std::io::Result<()> {
        let frame = self.zstd.compress(&self.open)?;
        let mut block = Vec::with_capacity(frame.len() + 5);
        put_varint(&mut block, self.open.len() as u64);
        block.extend_from_slice(&frame);
        writes.block(first, &block);
        self.open.clear();
        Ok(())
    }
}

/// Takes blocks apart; the context is kept between them.
pub(super) struct Unpacker(zstd::bulk::Decompressor<'static>);

impl Unpacker {
    pub(super) fn new() -> std::io::Result<Self> {
        zstd::bulk::Decompressor::new().map(Self)
    }

    /// Gives the entries of a block; `None` if it is damaged.
    pub(super) fn entries(&mut self, block: &[u8]) -> Option<Vec<u8>> {
        let mut frame = block;
        let bytes = usize::try_from(take_varint(&mut frame)?).ok()?;
        if bytes > BLOCK_MAX_BYTES {
            return None;
        }
        self.0.decompress(frame, bytes).ok().filter(|entries| entries.len() == bytes)
    }
}

/// Takes the first entry off what [`Unpacker::entries`] gave; `None` if there is no whole one.
pub(super) fn next_entry<'a>(entries: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = usize::try_from(take_varint(entries)?).ok()?;
    let (entry, rest) = entries.split_at_checked(bytes)?;
    *entries = rest;
    Some(entry)
}

/// Appends an unsigned LEB128 number. *Source*: DWARF 5, section 7.6.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes an unsigned LEB128 number; `None` if there is no whole one.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::disk::Disk;
    use super::super::segment::Segment;
    use super::*;

    fn entry(number: u64, bytes: usize) -> Vec<u8> {
        // Not compressible, so that large ones stand in parts.
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        std::iter::repeat_with(next).take(bytes).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_range_of_a_segment_gives_its_entries_however_they_were_packed(
            flushes in prop::collection::vec(prop::collection::vec(0usize..40_000, 1..8), 1..6),
            cut in (0u64..50, 0u64..50),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let segment = Segment::open(&Disk::default(), dir.path()).unwrap();
            let (mut packer, mut next) = (Packer::new().unwrap(), 7u64);
            let mut all = Vec::new();
            for flush in &flushes {
                let entries: Vec<_> = (next..).zip(flush).map(|(n, &bytes)| entry(n, bytes)).collect();
                let mut writes = Writes::default();
                packer.pack(next, entries.clone(), &mut writes).unwrap();
                segment.append(&writes).unwrap();
                all.extend((next..).zip(entries));
                next += flush.len() as u64;
            }
            for range in [7..=next, 7 + cut.0..=7 + cut.0 + cut.1, next..=next + 5] {
                let mut found = Vec::new();
                segment.entries(range.clone(), |n, e| { found.push((n, e.to_vec())); true }).unwrap();
                let wanted: Vec<_> = all.iter().filter(|(n, _)| range.contains(n)).cloned().collect();
                prop_assert_eq!(found, wanted);
            }
        }

        #[test]
        fn damaged_blocks_are_none_and_ask_for_no_memory(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut unpacker = Unpacker::new().unwrap();
            let entries = unpacker.entries(&bytes).unwrap_or_default();
            let mut rest = entries.as_slice();
            while let Some(entry) = next_entry(&mut rest) {
                prop_assert!(entry.len() <= entries.len());
            }
            prop_assert!(next_entry(&mut &bytes[..]).is_none_or(|e| e.len() < bytes.len()));
        }
    }

    #[test]
    fn a_block_cut_anywhere_is_damaged_and_so_is_one_with_a_wrong_length() {
        let mut writes = Vec::new();
        let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).unwrap();
        let raw = [3, 1, 2, 3];
        put_varint(&mut writes, raw.len() as u64);
        writes.extend(zstd.compress(&raw).unwrap());
        let mut unpacker = Unpacker::new().unwrap();
        assert_eq!(unpacker.entries(&writes).as_deref(), Some(&raw[..]));
        for cut in 0..writes.len() {
            assert_eq!(unpacker.entries(&writes[..cut]), None, "{cut}");
        }
        writes[0] = 5;
        assert_eq!(unpacker.entries(&writes), None);
        assert_eq!(unpacker.entries(&[0xff, 0xff, 0xff, 0xff, 0x7f]), None);
    }
}
