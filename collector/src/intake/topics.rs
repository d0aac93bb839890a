//! Which topics there are: `<prefix>.telemetry` and the categories' own, found by asking for metadata.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_protocol::Category;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::ends::Ends;

/// How often new topics are looked for.
const EVERY: Duration = Duration::from_secs(10);
/// The same while there is none yet, or Kafka is away.
const EVERY_AT_FIRST: Duration = Duration::from_secs(1);
/// How long Kafka may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Carries heartbeats and newest values for pages (D3), nothing that is accounted for.
const STATUS: &str = "status";

/// The topics that are read.
pub(super) struct Topics {
    prefix: String,
    offsets: BTreeMap<(String, i32), i64>,
    /// How many partitions of each are assigned.
    assigned: BTreeMap<String, i32>,
    next: Option<Instant>,
}

impl Topics {
    pub(super) fn new(prefix: &str, offsets: BTreeMap<(String, i32), i64>) -> Self {
        Self { prefix: prefix.to_owned(), offsets, assigned: BTreeMap::new(), next: None }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Asks which topics there are and assigns what is new, at the lake's offsets.
    pub(super) fn discover(&mut self, consumer: &BaseConsumer<Ends>) {
        match consumer.fetch_metadata(None, ANSWER) {
            Err(error) => tracing::debug!("Kafka does not say which topics there are: {error}"),
            Ok(metadata) => {
                for topic in metadata.topics() {
                    let partitions = i32::try_from(topic.partitions().len()).unwrap_or(0);
                    if topic.error().is_none() && self.is_ours(topic.name()) {
                        self.assign(consumer, topic.name(), partitions);
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

    fn assign(&mut self, consumer: &BaseConsumer<Ends>, topic: &str, partitions: i32) {
        let known = self.assigned.get(topic).copied().unwrap_or(0);
        if partitions <= known {
            return;
        }
        let mut list = TopicPartitionList::new();
        for partition in known..partitions {
            let offset = match self.offsets.get(&(topic.to_owned(), partition)) {
                Some(&offset) => Offset::Offset(offset),
                None => Offset::Beginning,
            };
            if let Err(error) = list.add_partition_offset(topic, partition, offset) {
                tracing::error!(topic, partition, "an offset cannot be asked for: {error}");
                return;
            }
        }
        match consumer.incremental_assign(&list) {
            Ok(()) => {
                tracing::info!(topic, partitions, "reading");
                self.assigned.insert(topic.to_owned(), partitions);
            }
            Err(error) => tracing::error!(topic, "cannot be read yet: {error}"),
        }
    }
}
