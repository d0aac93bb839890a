//! Where a partition is read on, and whether it is still the one that was read (D13).
//!
//! Pure: what the lake knows and what Kafka says go in. Invariant: nothing is skipped in silence; a partition that is
//! not the one that was read before, or no longer has what comes next, is not read on.

/// Where reading goes on in a topic's partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The next offset.
    pub next: i64,
    /// The last record that was read, where the lake knows it.
    pub last: Option<LastRecord>,
}

/// A record by which a partition is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRecord {
    /// Its offset.
    pub offset: i64,
    /// CRC-32C of its value.
    pub crc: u32,
}

/// What to do with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    /// Read from this offset.
    At(i64),
    /// Read this record again and compare it; go on if it is the same.
    Compare(LastRecord),
    /// Do not read: this is wrong with it.
    Stop(String),
}

/// Decides how a partition whose first offset is `low` and whose next one will be `high` is read on.
pub(super) fn start(position: Position, low: i64, high: i64) -> Start {
    let Position { next, last } = position;
    if next > high {
        return Start::Stop(format!(
            "Kafka has records up to offset {high}, and the lake continues at offset {next}: the topic was made anew or cut"
        ));
    }
    if next < low {
        return Start::Stop(format!(
            "Kafka has records from offset {low} on, and the lake continues at offset {next}: records expired before \
             they were read, or the topic was made anew"
        ));
    }
    match last {
        Some(last) if (low..high).contains(&last.offset) => Start::Compare(last),
        // The record expired after it was read; what comes next is there.
        _ => Start::At(next),
    }
}

/// Says what is wrong with the record that stands where the last one read stood; `None` if it is the same.
pub(super) fn difference(last: LastRecord, offset: i64, crc: u32) -> Option<String> {
    if offset == last.offset && crc == last.crc {
        return None;
    }
    let found = if offset == last.offset {
        format!("the record at offset {offset} is not the one that was read there")
    } else {
        format!("the record at offset {} is gone and the next one is at offset {offset}", last.offset)
    };
    Some(format!("{found}: the topic was made anew"))
}

/// Says what is wrong with a partition and how to go on.
pub(super) fn stopped(topic: &str, partition: i32, what: &str) -> String {
    let path = format!("$.\"{topic}\"");
    format!(
        "topic {topic}, partition {partition} is not read on: {what}. What was lost shows in the audit. To read what \
         the topic has now from its beginning, stop the collector, run UPDATE shard SET offsets = json_remove(offsets, \
         '{path}'), last = json_remove(last, '{path}') WHERE shard = {partition} in the lake, and start it again; rows \
         that are in the lake already are recognised"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_is_read_on_only_where_it_is_the_one_that_was_read() {
        let last = LastRecord { offset: 9, crc: 7 };
        let position = Position { next: 10, last: Some(last) };
        assert_eq!(start(position, 0, 10), Start::Compare(last));
        assert_eq!(start(position, 9, 20), Start::Compare(last));
        // Everything that was read has expired since, and nothing else.
        assert_eq!(start(position, 10, 10), Start::At(10));
        assert_eq!(start(Position { next: 10, last: None }, 0, 12), Start::At(10));
        for (low, high, expected) in
            [(0, 9, "up to offset 9"), (11, 20, "from offset 11 on"), (0, 0, "up to offset 0")]
        {
            let Start::Stop(text) = start(position, low, high) else { panic!("{low}..{high} is read") };
            assert!(text.contains(expected) && text.contains("continues at offset 10"), "{text}");
        }
        assert_eq!(difference(last, 9, 7), None);
        assert!(
            difference(last, 9, 8).is_some_and(|text| text.contains("is not the one that was read there"))
        );
        assert!(difference(last, 12, 7).is_some_and(|text| text.contains("the next one is at offset 12")));
    }
}
