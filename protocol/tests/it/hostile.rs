//! Foreign bytes: every fault is an error that names it, nothing panics, nothing allocates beyond its input.

use std::sync::Arc;

use millrace_protocol::*;
use proptest::prelude::*;

use crate::any::{any_rows, stream};

/// A record of one chunk of two rows with one column.
fn small_record() -> (Vec<u8>, Item, Arc<Layout>) {
    let layout =
        Arc::new(Layout::new(vec![LayoutColumn { tag: "speed".into(), value_type: ValueType::F64 }]));
    let row = |time_us, value| Row {
        time_us,
        flags: RowFlags::default(),
        layout: Arc::clone(&layout),
        cells: vec![Cell::Good(Value::F64(value))],
    };
    let item = Item::Chunk(Chunk::pack(1, ClockSegment::default(), &[row(0, 1.5), row(1000, 2.5)]).unwrap());
    let mut builder = RecordBuilder::new(stream(), Epoch(1));
    builder.push(&item.encode().unwrap(), Some(&layout));
    (builder.finish(2), item, layout)
}

fn cbor(value: &impl serde::Serialize) -> Vec<u8> {
    serde_cbor::to_vec(value).unwrap()
}

#[test]
fn unknown_version_is_named() {
    let (bytes, ..) = small_record();
    let at = bytes.windows(3).position(|w| w == [0x61, b'v', 0x01]).unwrap();
    let mut later = bytes;
    later[at + 2] = 0x02;
    assert_eq!(Record::decode(&later), Err(DecodeError::Version(2)));
    // A later version may change everything but the place of its number.
    let foreign = cbor(&[std::collections::BTreeMap::from([("v", 9)])]);
    assert_eq!(Record::decode(&foreign), Err(DecodeError::Version(9)));
}

#[test]
fn unknown_item_is_named() {
    let mut builder = RecordBuilder::new(stream(), Epoch(1));
    builder.push(&cbor(&(77u64, "whatever", [1, 2, 3])), None);
    assert_eq!(Record::decode(&builder.finish(0)), Err(DecodeError::UnknownItem(77)));
}

#[test]
fn chunk_without_its_layout_is_named() {
    let (_, item, layout) = small_record();
    let mut builder = RecordBuilder::new(stream(), Epoch(1));
    builder.push(&item.encode().unwrap(), None);
    assert_eq!(
        Record::decode(&builder.finish(2)),
        Err(DecodeError::MissingLayout { first_seq: 1, layout: layout.id() })
    );
}

#[test]
fn changed_chunk_is_found_by_its_checksum() {
    let (_, item, layout) = small_record();
    let Item::Chunk(chunk) = item else { unreachable!() };
    let mut body = chunk.body.to_vec();
    *body.last_mut().unwrap() ^= 1;
    let changed = ChunkItem { body: body.into(), ..chunk.clone() };
    assert_eq!(Chunk::unpack(&changed, &layout), Err(DecodeError::Crc { first_seq: 1 }));
    let moved = ChunkItem { first_seq: 2, ..chunk };
    assert_eq!(Chunk::unpack(&moved, &layout), Err(DecodeError::Crc { first_seq: 2 }));
}

#[test]
fn chunk_that_announces_too_much_is_refused_before_it_allocates() {
    let (_, item, layout) = small_record();
    let Item::Chunk(chunk) = item else { unreachable!() };
    for rows in [0, 3, 65_535, 65_536, u32::MAX] {
        let mut lying = ChunkItem { rows, ..chunk.clone() };
        lying.crc = lying.checksum();
        let error = Chunk::unpack(&lying, &layout).unwrap_err();
        assert!(matches!(error, DecodeError::Chunk { .. }), "{rows}: {error}");
    }
    let mut lying = ChunkItem { points: 1, ..chunk };
    lying.crc = lying.checksum();
    assert_eq!(
        Chunk::unpack(&lying, &layout).unwrap_err().to_string(),
        "chunk at sequence 1 announces another number of points than it holds"
    );
}

#[test]
fn record_cut_anywhere_is_malformed() {
    let (bytes, ..) = small_record();
    for length in 0..bytes.len() {
        assert!(matches!(Record::decode(&bytes[..length]), Err(DecodeError::Malformed(_))), "{length}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(Record::decode(&longer), Err(DecodeError::Malformed(_))));
}

#[test]
fn array_that_announces_more_than_it_holds_reserves_nothing() {
    // [header, item …] with 2^60 announced elements; reserving them would end the process.
    let mut bytes = vec![0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&cbor(&std::collections::BTreeMap::from([("v", 1)])));
    assert!(matches!(Record::decode(&bytes), Err(DecodeError::Malformed(_))));
    // A birth with 2^60 announced tags.
    let mut birth = vec![0x87, 0x02, 0x00, 0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0];
    birth.push(0x80);
    assert!(matches!(Item::decode(&birth), Err(DecodeError::Malformed(_))));
}

#[test]
fn text_that_is_not_utf8_is_malformed_and_bytes_are_kept() {
    let layout = Arc::new(Layout::new(vec![LayoutColumn { tag: "t".into(), value_type: ValueType::Text }]));
    let text = Row {
        time_us: 0,
        flags: RowFlags::default(),
        layout: Arc::clone(&layout),
        cells: vec![Cell::Good(Value::Text("ab".into()))],
    };
    let item = Chunk::pack(1, ClockSegment::default(), std::slice::from_ref(&text)).unwrap();
    let mut body = item.body.to_vec();
    let end = body.len();
    body[end - 2..].copy_from_slice(&[0xff, 0xfe]);
    let mut broken = ChunkItem { body: body.into(), ..item };
    broken.crc = broken.checksum();
    assert!(matches!(Chunk::unpack(&broken, &layout), Err(DecodeError::Chunk { .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Record::decode(&bytes);
        let _ = Item::decode(&bytes);
        let _ = Layout::decode(&bytes);
    }

    #[test]
    fn flipped_record_is_an_error_or_another_record_but_never_a_panic(rows in any_rows(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let layout = &rows[0].layout;
        let item = Item::Chunk(Chunk::pack(1, ClockSegment::default(), &rows).unwrap());
        let mut builder = RecordBuilder::new(stream(), Epoch(1));
        builder.push(&item.encode().unwrap(), Some(layout));
        let mut bytes = builder.finish(1);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(record) = Record::decode(&bytes) {
            for item in &record.items {
                if let Item::Chunk(chunk) = item {
                    // Whatever is unpacked has the checksum of what was packed.
                    let _ = Chunk::unpack(chunk, record.header.layout(chunk.layout).unwrap());
                }
            }
        }
    }

    #[test]
    fn hostile_chunk_bodies_never_panic(mut body in prop::collection::vec(any::<u8>(), 0..200), rows in any_rows(), keep in any::<bool>()) {
        let honest = Chunk::pack(1, ClockSegment::default(), &rows).unwrap();
        if keep {
            let half = honest.body.len() / 2;
            let mut joined = honest.body[..half].to_vec();
            joined.append(&mut body);
            body = joined;
        }
        let mut item = ChunkItem { body: body.into(), ..honest };
        item.crc = item.checksum();
        let _ = Chunk::unpack(&item, &rows[0].layout);
    }
}
