//! Reads records from Kafka, embedded form (D10): one worker owns every partition, without a group.
//!
//! A thread of its own polls the consumer and hands records over a bounded channel; a full channel stops
//! the polling, and Kafka keeps. This is the only file that names rdkafka. Invariant: reading begins
//! exactly at the offsets that the lake holds; nothing is ever committed to Kafka or skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use millrace_protocol::MESSAGE_MAX_BYTES;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Kafka;

/// Records between the polling thread and the worker: a few flushes' worth, bounded in bytes by the
/// fetch queue's own limit.
pub const RECORDS: usize = 1_000;
/// How long a poll waits; also how soon a stop is noticed.
const POLL: Duration = Duration::from_millis(50);
/// How often new topics and partitions are looked for.
const DISCOVER: Duration = Duration::from_secs(10);
/// How long the broker may take to answer for its topics.
const METADATA_LIMIT: Duration = Duration::from_secs(5);
/// The compacted topic of heartbeats holds no records.
const STATUS: &str = "status";

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition, which is the shard.
    pub partition: i32,
}

/// A Kafka message as it was read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Where it stands.
    pub place: Place,
    /// Its offset.
    pub offset: i64,
    /// When Kafka took it (embedded: when it was sent). *Units*: microseconds since 1970-01-01 UTC.
    pub append_us: i64,
    /// The headers whose values are text.
    pub headers: BTreeMap<String, String>,
    /// The value.
    pub payload: Vec<u8>,
}

/// What the intake tells the worker.
#[derive(Debug)]
pub enum Event {
    /// A record.
    Read(Read),
    /// Everything that was there has been read.
    Idle,
    /// Reading cannot go on from the offsets that the lake holds; a person must decide.
    Broken(String),
}

/// Says why the intake did not start.
#[derive(Debug, thiserror::Error)]
#[error("the Kafka consumer cannot be made: {0}")]
pub struct IntakeError(String);

/// Polls until cancelled or the worker is gone. Blocking: give it a thread of its own.
///
/// *Errors*: [`IntakeError`] if librdkafka refuses the configuration.
pub fn run(
    kafka: &Kafka,
    offsets: BTreeMap<Place, i64>,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
) -> Result<(), IntakeError> {
    let consumer = consumer(kafka)?;
    let mut reader = Reader {
        consumer,
        prefix: format!("{}.", kafka.topic_prefix),
        offsets,
        assigned: BTreeSet::new(),
        trouble: None,
    };
    let mut discovered: Option<Instant> = None;
    while !stop.is_cancelled() {
        if discovered.is_none_or(|at| at.elapsed() > DISCOVER) {
            reader.discover();
            discovered = (!reader.assigned.is_empty()).then(Instant::now);
        }
        let Some(event) = reader.poll() else { continue };
        if events.blocking_send(event).is_err() {
            break;
        }
    }
    Ok(())
}

fn consumer(kafka: &Kafka) -> Result<BaseConsumer, IntakeError> {
    let mut config = ClientConfig::new();
    for (key, value) in &kafka.options {
        config.set(key, value);
    }
    config
        .set("bootstrap.servers", kafka.brokers.join(","))
        .set("group.id", &kafka.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.message.max.bytes", MESSAGE_MAX_BYTES.to_string())
        .set("fetch.max.bytes", (8 * MESSAGE_MAX_BYTES).to_string())
        .set("queued.max.messages.kbytes", "16384")
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false");
    config.create().map_err(|e| IntakeError(e.to_string()))
}

struct Reader {
    consumer: BaseConsumer,
    prefix: String,
    offsets: BTreeMap<Place, i64>,
    assigned: BTreeSet<Place>,
    /// The last trouble that was logged; the same one is not logged again.
    trouble: Option<String>,
}

impl Reader {
    /// Looks for topics of the prefix and takes their partitions at the lake's offsets.
    fn discover(&mut self) {
        let metadata = match self.consumer.fetch_metadata(None, METADATA_LIMIT) {
            Ok(metadata) => metadata,
            Err(error) => return self.say(&format!("Kafka cannot be asked for its topics: {error}")),
        };
        let mut new = TopicPartitionList::new();
        for topic in metadata.topics() {
            let category = topic.name().strip_prefix(&self.prefix);
            if category.is_none_or(|category| category == STATUS) {
                continue;
            }
            for partition in topic.partitions() {
                let place = Place { topic: topic.name().to_owned(), partition: partition.id() };
                if self.assigned.contains(&place) {
                    continue;
                }
                let offset = self.offsets.get(&place).map_or(Offset::Beginning, |&next| Offset::Offset(next));
                if new.add_partition_offset(&place.topic, place.partition, offset).is_ok() {
                    self.assigned.insert(place);
                }
            }
        }
        if new.count() == 0 {
            return;
        }
        tracing::info!(partitions = new.count(), "reading from Kafka");
        if let Err(error) = self.consumer.incremental_assign(&new) {
            self.say(&format!("partitions cannot be taken: {error}"));
        }
    }

    fn poll(&mut self) -> Option<Event> {
        let polled = self.consumer.poll(POLL).map(|result| result.map(|message| read(&message)));
        match polled {
            None => Some(Event::Idle),
            Some(Ok(read)) => {
                if self.trouble.take().is_some() {
                    tracing::info!("reading from Kafka again");
                }
                Some(Event::Read(read))
            }
            Some(Err(error)) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &KafkaError) -> Option<Event> {
        let code = error.rdkafka_error_code();
        if matches!(code, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)) {
            return Some(Event::Broken(format!(
                "Kafka no longer has the offset at which the lake stands ({error}): the topic was made anew or its \
                 retention has passed; nothing is skipped by itself"
            )));
        }
        // Everything else (a broker that is away) librdkafka mends by itself.
        self.say(&error.to_string());
        None
    }

    fn say(&mut self, what: &str) {
        if self.trouble.as_deref() != Some(what) {
            tracing::warn!("{what}; trying again");
            self.trouble = Some(what.to_owned());
        }
    }
}

fn read(message: &BorrowedMessage<'_>) -> Read {
    let millis = match message.timestamp() {
        Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms,
        Timestamp::NotAvailable => 0,
    };
    let mut headers = BTreeMap::new();
    for header in message.headers().into_iter().flat_map(|h| h.iter()) {
        if let Some(Ok(text)) = header.value.map(std::str::from_utf8) {
            headers.insert(header.key.to_owned(), text.to_owned());
        }
    }
    Read {
        place: Place { topic: message.topic().to_owned(), partition: message.partition() },
        offset: message.offset(),
        append_us: millis.saturating_mul(1_000),
        headers,
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}
