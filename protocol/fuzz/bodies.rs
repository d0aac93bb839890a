//! What a fuzzer does with its bytes. The targets call these, and so do the ordinary tests over the committed corpus:
//! they compile without a fuzzer, too.

use std::sync::Arc;

use millrace_protocol::{Chunk, ChunkItem, Item, Layout, LayoutColumn, Record, ValueType};

/// A Kafka message's value, and every chunk in it.
pub(crate) fn record(data: &[u8]) {
    let Ok(record) = Record::decode(data) else { return };
    for item in &record.items {
        if let Item::Chunk(chunk) = item
            && let Some(layout) = record.header.layout(chunk.layout)
        {
            drop(Chunk::unpack(chunk, layout));
        }
    }
}

/// An item or a layout as it stands on the agent's disk; what is read is written again the same.
pub(crate) fn item(data: &[u8]) {
    if let Ok(item) = Item::decode(data)
        && let Ok(bytes) = item.encode()
    {
        assert_eq!(Item::decode(&bytes), Ok(item));
    }
    drop(Layout::decode(data));
}

/// A chunk's body with a right checksum, for a layout of every type: the first two bytes say how many rows and points.
pub(crate) fn chunk(data: &[u8]) {
    let [rows, points, body @ ..] = data else { return };
    let columns =
        ValueType::ALL.iter().map(|&value_type| LayoutColumn { tag: value_type.name().into(), value_type });
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
}
