//! Replays the fuzzers' corpus through the same decoders, so that what a fuzzer once found stays mended.

use std::path::PathBuf;
use std::sync::Arc;

use millrace_protocol::*;

fn replay(target: &str, decode: impl Fn(&[u8])) -> usize {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
        decode(&std::fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    files
}

fn unpack_all(record: &Record) {
    for item in &record.items {
        if let Item::Chunk(chunk) = item {
            let _ = Chunk::unpack(chunk, record.header.layout(chunk.layout).unwrap());
        }
    }
}

#[test]
fn fuzz_corpus_is_decoded_without_a_panic() {
    let columns =
        ValueType::ALL.iter().map(|&value_type| LayoutColumn { tag: value_type.name().into(), value_type });
    let layout = Arc::new(Layout::new(columns.collect()));
    let records = replay("record", |bytes| {
        if let Ok(record) = Record::decode(bytes) {
            unpack_all(&record);
        }
    });
    let items = replay("item", |bytes| {
        if let Ok(item) = Item::decode(bytes) {
            assert_eq!(Item::decode(&item.encode().unwrap()).unwrap(), item);
        }
    });
    let chunks = replay("chunk", |bytes| {
        let [rows, points, body @ ..] = bytes else { return };
        let mut item = ChunkItem {
            first_seq: 1,
            rows: u32::from(*rows),
            points: u32::from(*points),
            layout: layout.id(),
            crc: 0,
            body: body.into(),
        };
        item.crc = item.checksum();
        let _ = Chunk::unpack(&item, &layout);
    });
    assert!(records >= 7 && items >= 7 && chunks >= 2, "{records} {items} {chunks}");
}
