//! Stored items become the values of Kafka messages (D2): a pure function of what was taken.
//!
//! Invariants: a record has items of one stream, in their order, and its rows have consecutive
//! sequences, so that the headers `seq` and `rows` say which they are even if the value cannot be
//! decoded.

use std::collections::{BTreeSet, HashMap, VecDeque};

use millrace_protocol::{Epoch, RECORD_TARGET_BYTES, RecordBuilder, StreamId};

use crate::buffer::{Position, Stored};

/// A record that is ready to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Whose rows.
    pub stream: StreamId,
    /// What the buffer may forget once Kafka has it; empty for progress.
    pub positions: Vec<Position>,
    /// First sequence, if it has rows.
    pub first_seq: Option<u64>,
    /// Rows in it.
    pub rows: u64,
    /// Points in it.
    pub points: u64,
    /// Its one item was refused in company: it is sent with nothing else in flight, so that the answer
    /// is about it alone.
    pub is_alone: bool,
    /// The message's value.
    pub value: Vec<u8>,
}

struct Open {
    builder: RecordBuilder,
    positions: Vec<Position>,
    first_seq: Option<u64>,
    last_seq: u64,
    rows: u64,
    points: u64,
}

impl Open {
    fn new(stream: StreamId, sender: Epoch) -> Self {
        Self {
            builder: RecordBuilder::new(stream, sender),
            positions: Vec::new(),
            first_seq: None,
            last_seq: 0,
            rows: 0,
            points: 0,
        }
    }

    /// Tells whether an item must not join what is there.
    fn is_closed_to(&self, item: &Stored) -> bool {
        let has_hole = match (self.first_seq, item.seq) {
            (Some(_), Some((first, _))) => self.last_seq.checked_add(1) != Some(first),
            _ => false,
        };
        let is_full = self.builder.estimated_bytes() + item.item.len() > RECORD_TARGET_BYTES;
        !self.builder.is_empty() && (has_hole || is_full)
    }

    fn push(&mut self, item: &Stored) {
        self.builder.push(&item.item, item.layout.as_ref());
        self.positions.push(item.position);
        self.rows += item.rows;
        self.points += item.points;
        if let Some((first, last)) = item.seq {
            self.first_seq.get_or_insert(first);
            self.last_seq = last;
        }
    }

    fn close(self, stream: StreamId, numbered: u64, is_alone: bool) -> Outgoing {
        Outgoing {
            stream,
            positions: self.positions,
            first_seq: self.first_seq,
            rows: self.rows,
            points: self.points,
            is_alone,
            // What is handed out is on disk, so this is `numbered` unless the answer is older.
            value: self.builder.finish(numbered.max(self.last_seq)),
        }
    }
}

/// Puts items together into records of up to 256 KiB, those of the running epoch first (D9): what an
/// earlier start left is old, and the newest values should not wait behind it.
///
/// `alone` names items that make a record each; `numbered` gives a stream's last sequence on disk.
pub(super) fn assemble(
    items: Vec<Stored>,
    sender: Epoch,
    alone: &BTreeSet<Position>,
    mut numbered: impl FnMut(&StreamId) -> u64,
) -> VecDeque<Outgoing> {
    let mut records = Vec::new();
    let mut open: HashMap<StreamId, Open> = HashMap::new();
    let mut order = Vec::new();
    for item in items {
        let is_alone = alone.contains(&item.position);
        if open.get(&item.stream).is_some_and(|record| is_alone || record.is_closed_to(&item))
            && let Some(full) = open.remove(&item.stream)
        {
            let numbered = numbered(&item.stream);
            records.push(full.close(item.stream.clone(), numbered, false));
        }
        if is_alone {
            let mut record = Open::new(item.stream.clone(), sender);
            record.push(&item);
            let numbered = numbered(&item.stream);
            records.push(record.close(item.stream, numbered, true));
            continue;
        }
        let record = open.entry(item.stream.clone()).or_insert_with(|| {
            order.push(item.stream.clone());
            Open::new(item.stream.clone(), sender)
        });
        record.push(&item);
    }
    for stream in order {
        if let Some(record) = open.remove(&stream) {
            let numbered = numbered(&stream);
            records.push(record.close(stream, numbered, false));
        }
    }
    // Stable: the order within a stream stays.
    records.sort_by_key(|record| record.stream.epoch != sender);
    records.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_protocol::{
        Birth, Cell, Chunk, ClockSegment, Item, Layout, LayoutColumn, Loss, LossReason, Record, Row,
        RowFlags, SeqRange, Value, ValueType,
    };

    use super::*;

    const SENDER: Epoch = Epoch(7);

    fn stream(machine: &str, epoch: Epoch) -> StreamId {
        StreamId {
            agent: "gw".parse().unwrap(),
            epoch,
            machine: machine.parse().unwrap(),
            category: "telemetry".parse().unwrap(),
        }
    }

    fn rows(position: u64, stream: &StreamId, first: u64, count: u64, text_bytes: usize) -> Stored {
        let column = LayoutColumn { tag: "note".into(), value_type: ValueType::Text };
        let layout = Arc::new(Layout::new(vec![column]));
        let cell = Cell::Good(Value::Text("x".repeat(text_bytes).into()));
        let row = |time_us| Row {
            time_us,
            flags: RowFlags::default(),
            layout: layout.clone(),
            cells: vec![cell.clone()],
        };
        let all: Vec<Row> = (0..count as i64).map(row).collect();
        let chunk = Chunk::pack(first, ClockSegment::default(), &all).unwrap();
        Stored {
            position: Position::Entry(position),
            stream: stream.clone(),
            seq: Some((first, first + count - 1)),
            rows: count,
            points: count,
            newest_us: Some(0),
            item: Item::Chunk(chunk).encode().unwrap(),
            layout: Some(layout),
        }
    }

    fn notice(position: u64, stream: &StreamId, item: &Item) -> Stored {
        Stored {
            position: Position::Notice(position),
            stream: stream.clone(),
            seq: None,
            rows: 0,
            points: 0,
            newest_us: None,
            item: item.encode().unwrap(),
            layout: None,
        }
    }

    /// First sequence, rows, and how many items of each record.
    fn shape(records: &VecDeque<Outgoing>) -> Vec<(String, Option<u64>, u64, usize)> {
        let shape = |r: &Outgoing| {
            let record = Record::decode(&r.value).unwrap();
            assert_eq!((&record.header.stream, record.header.sender), (&r.stream, SENDER));
            assert_eq!(record.items.len(), r.positions.len());
            (r.stream.machine.to_string(), r.first_seq, r.rows, record.items.len())
        };
        records.iter().map(shape).collect()
    }

    #[test]
    fn a_record_has_one_stream_with_births_and_losses_in_their_place() {
        let (a, b) = (stream("h/a", SENDER), stream("h/b", SENDER));
        let loss = Loss {
            after: 2,
            reason: LossReason::DroppedOldest,
            ranges: vec![SeqRange { from: 3, to: Some(4) }],
            points: Some(2),
        };
        let items = vec![
            notice(1, &a, &Item::Birth(Birth::default())),
            rows(1, &a, 1, 2, 1),
            rows(2, &b, 1, 1, 1),
            notice(2, &a, &Item::Loss(loss)),
            rows(3, &a, 3, 1, 1),
        ];
        let records = assemble(items, SENDER, &BTreeSet::new(), |_| 9);
        assert_eq!(shape(&records), [("h/a".into(), Some(1), 3, 4), ("h/b".into(), Some(1), 1, 1)]);
        let record = Record::decode(&records[0].value).unwrap();
        assert_eq!(record.header.numbered, 9);
        assert!(matches!(record.items[..], [Item::Birth(_), Item::Chunk(_), Item::Loss(_), Item::Chunk(_)]));
    }

    #[test]
    fn a_hole_or_the_size_limit_begins_a_new_record_and_the_order_stays() {
        let a = stream("h/a", SENDER);
        let big = 100_000;
        let items = vec![
            rows(1, &a, 1, 1, 1),
            // after a loss that was declared before
            rows(2, &a, 5, 1, big),
            rows(3, &a, 6, 1, big),
            rows(4, &a, 7, 1, big),
            rows(5, &a, 8, 1, 400_000),
            rows(6, &a, 9, 1, 1),
        ];
        let records = assemble(items, SENDER, &BTreeSet::new(), |_| 0);
        let expected = [(Some(1), 1, 1), (Some(5), 2, 2), (Some(7), 1, 1), (Some(8), 1, 1), (Some(9), 1, 1)];
        let got: Vec<_> = shape(&records).into_iter().map(|(_, s, r, i)| (s, r, i)).collect();
        assert_eq!(got, expected);
        // `numbered` is never less than what the record itself holds.
        assert_eq!(Record::decode(&records[1].value).unwrap().header.numbered, 6);
    }

    #[test]
    fn what_an_earlier_start_left_goes_behind_the_running_epoch() {
        let (old, new) = (stream("h/a", Epoch(1)), stream("h/a", SENDER));
        let items = vec![rows(1, &old, 5, 1, 1), rows(2, &old, 9, 1, 1), rows(3, &new, 1, 1, 1)];
        let records = assemble(items, SENDER, &BTreeSet::new(), |_| 0);
        let got: Vec<_> = records.iter().map(|r| (r.stream.epoch, r.first_seq)).collect();
        assert_eq!(got, [(SENDER, Some(1)), (Epoch(1), Some(5)), (Epoch(1), Some(9))]);
    }

    #[test]
    fn an_item_that_was_refused_in_company_makes_a_record_of_its_own() {
        let a = stream("h/a", SENDER);
        let items = vec![rows(1, &a, 1, 1, 1), rows(2, &a, 2, 1, 1), rows(3, &a, 3, 1, 1)];
        let alone = BTreeSet::from([Position::Entry(2)]);
        let records = assemble(items, SENDER, &alone, |_| 0);
        let got: Vec<_> = records.iter().map(|r| (r.first_seq, r.is_alone)).collect();
        assert_eq!(got, [(Some(1), false), (Some(2), true), (Some(3), false)]);
    }
}
