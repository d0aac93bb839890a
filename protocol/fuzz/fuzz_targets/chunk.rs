//! A chunk's body with a right checksum, for a layout of every type: the first byte says how many rows.
#![no_main]
use std::sync::Arc;

use millrace_protocol::{Chunk, ChunkItem, Layout, LayoutColumn, ValueType};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [rows, points, body @ ..] = data else { return };
    let columns = ValueType::ALL.iter().map(|&value_type| LayoutColumn { tag: value_type.name().into(), value_type });
    let layout = Arc::new(Layout::new(columns.collect()));
    let mut item = ChunkItem {
        first_seq: 1,
        rows: u32::from(*rows),
        points: u32::from(*points),
        layout: layout.id(),
        crc: 0,
        body: body.into(),
    };
    item.crc = item.checksum();
    if let Ok(chunk) = Chunk::unpack(&item, &layout) {
        assert_eq!(chunk.rows().count(), usize::from(*rows));
    }
});
