//! Records as an agent would send them, made without one: for filling Kafka at a rate that no plant reaches.
//!
//! Every machine is one stream, born with its first record; its rows are a second apart and hold doubles with one
//! decimal. The sequences have no holes, so that the collector's audit of a load sums to zero as well.

use std::sync::Arc;

use millrace_protocol::{
    AgentId, Birth, BirthTag, Category, Cell, Chunk, ClockSegment, Epoch, Item, Layout, LayoutColumn,
    MachineName, RecordBuilder, Reporting, Row, RowFlags, StreamId, Value, ValueType,
};

/// *Units*: microseconds between two rows of a machine.
const INTERVAL_US: i64 = 1_000_000;

/// What is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Machines, each a stream.
    pub machines: u32,
    /// Tags of a machine.
    pub tags: u16,
    /// Rows of a record.
    pub rows: u32,
    /// Event time of the first rows. *Units*: microseconds since 1970-01-01 UTC.
    pub from_us: i64,
}

/// A Kafka message to be.
#[derive(Debug)]
pub struct LoadRecord {
    /// Whose rows.
    pub stream: StreamId,
    /// Sequence of the first row.
    pub first_seq: u64,
    /// Rows in it.
    pub rows: u32,
    /// Points in it.
    pub points: u64,
    /// The message's value (D2).
    pub value: Vec<u8>,
}

/// Makes records for ever, machine by machine, round by round.
#[derive(Debug)]
pub struct Load {
    shape: Shape,
    streams: Vec<StreamId>,
    layout: Arc<Layout>,
    birth: Birth,
    /// Records made so far.
    made: u64,
}

impl Load {
    /// Makes the streams of an epoch; no machine makes no record.
    ///
    /// *Errors*: a name is refused, which no number of machines brings about.
    pub fn new(shape: Shape, epoch: Epoch) -> anyhow::Result<Self> {
        let (agent, category) = (AgentId::new("load")?, Category::new(millrace_protocol::DEFAULT_CATEGORY)?);
        let streams = (0..shape.machines).map(|n| {
            let machine = MachineName::new(&format!("load/m-{n:05}"))?;
            Ok(StreamId { agent: agent.clone(), epoch, machine, category: category.clone() })
        });
        let names: Vec<Arc<str>> = (0..shape.tags).map(|n| format!("tag_{n:03}").into()).collect();
        let column = |tag: &Arc<str>| LayoutColumn { tag: Arc::clone(tag), value_type: ValueType::F64 };
        let tag = |name: &Arc<str>| BirthTag {
            name: Arc::clone(name),
            value_type: Some(ValueType::F64),
            unit: None,
            source: "load".into(),
            reporting: Reporting::Cyclic { interval_us: INTERVAL_US },
            hold_us: 2 * INTERVAL_US,
            counter_modulus: None,
        };
        let tags = names.iter().map(tag).collect();
        Ok(Self {
            shape,
            streams: streams.collect::<anyhow::Result<_>>()?,
            layout: Arc::new(Layout::new(names.iter().map(column).collect())),
            birth: Birth { tags, started_us: shape.from_us, ..Birth::default() },
            made: 0,
        })
    }

    /// Makes the next record; `None` without any machine.
    ///
    /// *Errors*: it cannot be encoded, which a sound shape does not bring about.
    pub fn next_record(&mut self) -> anyhow::Result<Option<LoadRecord>> {
        let machines = self.streams.len() as u64;
        if machines == 0 {
            return Ok(None);
        }
        let (round, machine) = (self.made / machines, self.made % machines);
        let Some(stream) = usize::try_from(machine).ok().and_then(|at| self.streams.get(at)) else {
            return Ok(None);
        };
        let first_seq = round * u64::from(self.shape.rows) + 1;
        let rows: Vec<Row> =
            (0..self.shape.rows).map(|n| self.row(machine, first_seq + u64::from(n))).collect();
        let chunk = Item::Chunk(Chunk::pack(first_seq, ClockSegment::default(), &rows)?);
        let mut builder = RecordBuilder::new(stream.clone(), stream.epoch);
        if round == 0 {
            builder.push(&Item::Birth(self.birth.clone()).encode()?, None);
        }
        builder.push(&chunk.encode()?, Some(&self.layout));
        let numbered = first_seq + u64::from(self.shape.rows) - 1;
        let points = u64::from(self.shape.rows) * u64::from(self.shape.tags);
        let record = LoadRecord {
            stream: stream.clone(),
            first_seq,
            rows: self.shape.rows,
            points,
            value: builder.finish(numbered),
        };
        self.made += 1;
        Ok(Some(record))
    }

    fn row(&self, machine: u64, seq: u64) -> Row {
        let value = |tag: u16| {
            let wave = (seq as f64 * 0.01 + f64::from(tag) + machine as f64).sin();
            Cell::Good(Value::F64((200.0 + wave * 50.0).round() / 10.0))
        };
        Row {
            time_us: self.shape.from_us + i64::try_from(seq - 1).unwrap_or(0) * INTERVAL_US,
            flags: RowFlags::default(),
            layout: Arc::clone(&self.layout),
            cells: (0..self.shape.tags).map(value).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::Record;

    use super::*;

    #[test]
    fn sequences_have_no_holes_and_the_first_record_is_born() {
        let shape = Shape { machines: 2, tags: 3, rows: 4, from_us: 1_000 };
        let mut load = Load::new(shape, Epoch(9)).unwrap();
        let made: Vec<LoadRecord> = (0..4).map(|_| load.next_record().unwrap().unwrap()).collect();
        let said: Vec<_> =
            made.iter().map(|r| (r.stream.machine.as_str().to_owned(), r.first_seq, r.points)).collect();
        let expected = [("load/m-00000", 1), ("load/m-00001", 1), ("load/m-00000", 5), ("load/m-00001", 5)];
        assert_eq!(said, expected.map(|(machine, seq)| (machine.to_owned(), seq, 12)));
        let items: Vec<usize> = made.iter().map(|r| Record::decode(&r.value).unwrap().items.len()).collect();
        assert_eq!(items, [2, 2, 1, 1]);
        assert_eq!(Record::decode(&made[3].value).unwrap().header.numbered, 8);
    }
}
