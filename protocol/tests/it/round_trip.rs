//! What goes in comes out, bit for bit.

use std::sync::Arc;

use millrace_protocol::*;
use proptest::prelude::*;

use crate::any::{any_clock, any_plain_item, any_rows, stream};

fn assert_same_rows(chunk: &Chunk, rows: &[Row]) {
    assert_eq!(chunk.len(), rows.len());
    for (at, (seq, row)) in chunk.rows().enumerate() {
        assert_eq!(seq, chunk.first_seq.wrapping_add(at as u64));
        let expected = &rows[at];
        assert_eq!((row.time_us, row.flags), (expected.time_us, expected.flags));
        assert_eq!(row.cells.len(), expected.cells.len());
        for (got, wanted) in row.cells.iter().zip(&expected.cells) {
            assert!(got.same_bits(wanted), "{got:?} is not {wanted:?}");
        }
    }
}

proptest! {
    #[test]
    fn chunk_keeps_every_bit(rows in any_rows(), clock in any_clock(), first_seq in any::<u64>()) {
        let item = Chunk::pack(first_seq, clock, &rows).unwrap();
        prop_assert_eq!(item.points as usize, rows.iter().map(Row::points).sum::<usize>());
        let chunk = Chunk::unpack(&item, &rows[0].layout).unwrap();
        prop_assert_eq!(chunk.clock, clock);
        assert_same_rows(&chunk, &rows);
        let again: Vec<Row> = chunk.rows().map(|(_, row)| row).collect();
        prop_assert_eq!(Chunk::pack(first_seq, clock, &again).unwrap(), item, "packing is canonical");
    }

    #[test]
    fn record_keeps_every_item(
        chunks in prop::collection::vec((any_rows(), 1u64..1_000_000), 0..3),
        plain in prop::collection::vec(any_plain_item(), 0..30),
        numbered in any::<u64>(),
    ) {
        let mut builder = RecordBuilder::new(stream(), Epoch(7));
        let mut items = plain;
        let mut layouts: Vec<Arc<Layout>> = Vec::new();
        for item in &items {
            builder.push(&item.encode().unwrap(), None);
        }
        for (rows, first_seq) in &chunks {
            let item = Item::Chunk(Chunk::pack(*first_seq, ClockSegment::default(), rows).unwrap());
            builder.push(&item.encode().unwrap(), Some(&rows[0].layout));
            items.push(item);
            layouts.push(Arc::clone(&rows[0].layout));
        }
        let estimate = builder.estimated_bytes();
        let bytes = builder.finish(numbered);
        prop_assert!(bytes.len() <= estimate, "{} bytes, estimated {}", bytes.len(), estimate);
        let record = Record::decode(&bytes).unwrap();
        prop_assert_eq!(&record.header.stream, &stream());
        prop_assert_eq!((record.header.sender, record.header.numbered), (Epoch(7), numbered));
        prop_assert_eq!(&record.items, &items);
        for layout in layouts {
            prop_assert_eq!(record.header.layout(layout.id()), Some(&layout));
        }
        for item in &items {
            prop_assert_eq!(&Item::decode(&item.encode().unwrap()).unwrap(), item);
        }
    }
}

#[test]
fn layouts_differ_when_a_name_or_a_type_differs() {
    let layout = |columns: &[(&str, ValueType)]| {
        Layout::new(
            columns.iter().map(|&(tag, value_type)| LayoutColumn { tag: tag.into(), value_type }).collect(),
        )
    };
    let shapes = [
        layout(&[]),
        layout(&[("a", ValueType::F64)]),
        layout(&[("a", ValueType::F32)]),
        layout(&[("b", ValueType::F64)]),
        layout(&[("a", ValueType::F64), ("b", ValueType::F64)]),
        layout(&[("ab", ValueType::F64)]),
    ];
    for (at, one) in shapes.iter().enumerate() {
        for (other_at, other) in shapes.iter().enumerate() {
            assert_eq!(one.id() == other.id(), at == other_at, "{one:?} {other:?}");
        }
    }
}

#[test]
fn rows_of_different_shapes_are_not_packed_together() {
    let narrow = Arc::new(Layout::new(vec![LayoutColumn { tag: "a".into(), value_type: ValueType::F64 }]));
    let row = |cells| Row { time_us: 0, flags: RowFlags::default(), layout: Arc::clone(&narrow), cells };
    let pack = |rows: &[Row]| Chunk::pack(5, ClockSegment::default(), rows).map_err(|e| e.to_string());
    assert_eq!(pack(&[]), Err("chunk at sequence 5 has no rows".into()));
    assert_eq!(pack(&[row(vec![])]), Err("chunk at sequence 5 has rows of different shapes".into()));
    assert_eq!(
        pack(&[row(vec![Cell::Good(Value::Bool(true))])]),
        Err("chunk at sequence 5 has a value of another type than its column".into())
    );
}

#[test]
fn item_above_one_mebibyte_is_refused() {
    let raw =
        RawRow { time_us: 0, topic: "t".into(), payload: vec![0; ITEM_MAX_BYTES].into(), reason: "r".into() };
    let error = Item::Raw(RawRows::new(1, vec![raw])).encode().unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { bytes } if bytes > ITEM_MAX_BYTES), "{error}");
}
