//! Which topics there are: `<prefix>.telemetry` and the categories' own, found by asking for metadata; and how far
//! each of their partitions is read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_protocol::Category;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Incoming;
use super::ends::Ends;
use super::position::{self, LastRecord, Position, Start};

/// How often new topics are looked for.
const EVERY: Duration = Duration::from_secs(10);
/// The same while there is none yet, or Kafka is away.
const EVERY_AT_FIRST: Duration = Duration::from_secs(1);
/// How long Kafka may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Carries heartbeats and newest values for pages (D3), nothing that is accounted for.
const STATUS: &str = "status";
/// How librdkafka's in-process broker names itself: it has no append times of its own (D10).
const EMBEDDED: &str = "mockCluster";

/// A partition that is assigned.
#[derive(Debug, Clone, Copy)]
struct Reading {
    next: i64,
    /// Must come first, and is known already.
    compare: Option<LastRecord>,
    stopped: bool,
}

/// The topics that are read.
pub(super) struct Topics {
    prefix: String,
    positions: BTreeMap<(String, i32), Position>,
    /// How many partitions of each are assigned.
    assigned: BTreeMap<String, i32>,
    reading: BTreeMap<(String, i32), Reading>,
    troubles: Vec<(String, i32, String)>,
    next: Option<Instant>,
}

impl Topics {
    pub(super) fn new(prefix: &str, positions: BTreeMap<(String, i32), Position>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            positions,
            assigned: BTreeMap::new(),
            reading: BTreeMap::new(),
            troubles: Vec::new(),
            next: None,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Takes what was found wrong since the last call: (topic, partition, text).
    pub(super) fn troubles(&mut self) -> Vec<(String, i32, String)> {
        std::mem::take(&mut self.troubles)
    }

    /// Asks which topics there are and assigns what is new, at the lake's offsets.
    pub(super) fn discover(&mut self, consumer: &BaseConsumer<Ends>) {
        match consumer.fetch_metadata(None, ANSWER) {
            Err(error) => tracing::debug!("Kafka does not say which topics there are: {error}"),
            Ok(metadata) => {
                for topic in metadata.topics() {
                    let partitions = i32::try_from(topic.partitions().len()).unwrap_or(0);
                    if topic.error().is_none()
                        && self.is_ours(topic.name())
                        && let Err(error) = self.assign(consumer, topic.name(), partitions)
                    {
                        tracing::error!(topic = topic.name(), "cannot be read yet: {error}");
                    }
                }
            }
        }
        let every = if self.assigned.is_empty() { EVERY_AT_FIRST } else { EVERY };
        self.next = Some(Instant::now() + every);
    }

    fn is_ours(&self, topic: &str) -> bool {
        let category = topic.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('.'));
        category.is_some_and(|category| category != STATUS && Category::new(category).is_ok())
    }

    fn assign(
        &mut self,
        consumer: &BaseConsumer<Ends>,
        topic: &str,
        partitions: i32,
    ) -> Result<(), KafkaError> {
        let known = self.assigned.get(topic).copied().unwrap_or(0);
        if partitions <= known {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        let mut reading = Vec::new();
        let mut stopped = Vec::new();
        for partition in known..partitions {
            let key = (topic.to_owned(), partition);
            let Some(&position) = self.positions.get(&key) else {
                list.add_partition_offset(topic, partition, Offset::Beginning)?;
                reading.push((key, Reading { next: 0, compare: None, stopped: false }));
                continue;
            };
            let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
            let (offset, compare) = match position::start(position, low, high) {
                Start::At(offset) => (offset, None),
                Start::Compare(last) => (last.offset, Some(last)),
                Start::Stop(what) => {
                    reading.push((key, Reading { next: position.next, compare: None, stopped: true }));
                    stopped.push((partition, what));
                    continue;
                }
            };
            list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
            reading.push((key, Reading { next: position.next, compare, stopped: false }));
        }
        consumer.incremental_assign(&list)?;
        tracing::info!(topic, partitions, "reading");
        self.assigned.insert(topic.to_owned(), partitions);
        self.reading.extend(reading);
        for (partition, what) in stopped {
            self.report(topic, partition, &what);
        }
        Ok(())
    }

    /// Takes note of a record; `false` if it is not to be handed on: it is the last one known and only recognises the
    /// partition, or the partition is stopped.
    pub(super) fn is_next(&mut self, consumer: &BaseConsumer<Ends>, incoming: &Incoming) -> bool {
        let key = (incoming.topic.to_string(), incoming.partition);
        let Some(reading) = self.reading.get_mut(&key) else { return true };
        if reading.stopped {
            return false;
        }
        let Some(last) = reading.compare.take() else {
            reading.next = incoming.offset + 1;
            return true;
        };
        if let Some(what) = position::difference(last, incoming.offset, incoming.checksum()) {
            self.stop(consumer, &key, &what);
        }
        false
    }

    fn stop(&mut self, consumer: &BaseConsumer<Ends>, key: &(String, i32), what: &str) {
        if let Some(reading) = self.reading.get_mut(key) {
            reading.stopped = true;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&key.0, key.1);
        if let Err(error) = consumer.incremental_unassign(&list) {
            // What still comes of it is dropped: it is marked as stopped.
            tracing::debug!(topic = key.0, partition = key.1, "is not unassigned: {error}");
        }
        self.report(&key.0, key.1, what);
    }

    fn report(&mut self, topic: &str, partition: i32, what: &str) {
        let text = position::stopped(topic, partition, what);
        tracing::error!("{text}");
        self.troubles.push((topic.to_owned(), partition, text));
    }

    /// Finds the partitions that do not have the offset that they are read at, and stops them; `false` if there is none.
    pub(super) fn stop_what_is_out_of_range(&mut self, consumer: &BaseConsumer<Ends>) -> bool {
        let mut wrong = Vec::new();
        for (key, reading) in self.reading.iter().filter(|(_, reading)| !reading.stopped) {
            let Ok((low, high)) = consumer.fetch_watermarks(&key.0, key.1, ANSWER) else { continue };
            let position = Position { next: reading.next, last: None };
            if let Start::Stop(what) = position::start(position, low, high) {
                wrong.push((key.clone(), what));
            }
        }
        wrong.iter().for_each(|(key, what)| self.stop(consumer, key, what));
        !wrong.is_empty()
    }

    /// Looks at a record's kind of timestamp: only a topic that takes Kafka's own time keeps a backlog of old event
    /// times, and rules out that a sender's fast clock lifts everybody's (D3, F5).
    pub(super) fn timestamps(&mut self, consumer: &BaseConsumer<Ends>, message: &BorrowedMessage<'_>) {
        let cluster = consumer.client().fetch_cluster_id(ANSWER);
        if is_senders_time(message.timestamp(), cluster.as_deref()) {
            let (topic, partition) = (message.topic(), message.partition());
            let text = format!(
                "topic {topic} keeps the time at which a record was sent; set message.timestamp.type=LogAppendTime, or \
                 Kafka may delete an old backlog as it comes, and a gateway's clock decides what counts as late"
            );
            tracing::warn!("{text}");
            self.troubles.push((topic.to_owned(), partition, text));
        }
    }
}

/// Tells whether a record has its sender's time although its broker could give its own.
fn is_senders_time(timestamp: Timestamp, cluster: Option<&str>) -> bool {
    let embedded = cluster.is_some_and(|id| id.starts_with(EMBEDDED));
    matches!(timestamp, Timestamp::CreateTime(_)) && !embedded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_time_is_a_fault_of_a_real_broker_only() {
        let cases = [
            (Timestamp::CreateTime(1), Some("mockCluster7f00"), false),
            (Timestamp::CreateTime(1), Some("5L6g3nShT-eMCtK--X86sw"), true),
            (Timestamp::CreateTime(1), None, true),
            (Timestamp::LogAppendTime(1), Some("5L6g3nShT-eMCtK--X86sw"), false),
        ];
        for (timestamp, cluster, expected) in cases {
            assert_eq!(is_senders_time(timestamp, cluster), expected, "{timestamp:?} {cluster:?}");
        }
    }
}
