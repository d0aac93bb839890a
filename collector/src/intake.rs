//! Reads records from Kafka, embedded form (D10): one worker owns all partitions of every category's topic.
//!
//! The only module that names rdkafka. A thread of its own polls librdkafka and hands records over a bounded
//! channel; when the channel is full it waits, and librdkafka's own queues are bounded too, so memory is. Offsets are the
//! caller's (they stand in the lake); nothing is ever committed to Kafka. Dropping [`Intake`] ends the thread.

mod ends;
mod link;
mod position;
mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millrace_link::{Diagnosis, PasswordError, Stamp};
use millrace_protocol::MESSAGE_MAX_BYTES;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::sync::mpsc;

use crate::config::Kafka;
use ends::Ends;
pub use link::{Kafka as KafkaLink, Lag, Link, Word};
pub use position::{LastRecord, Position};
use topics::Topics;

/// librdkafka wants a name; nobody joins a group here and nothing is committed to one.
const GROUP: &str = "millrace";
/// Records between Kafka and the worker: at 256 KiB each 16 MiB, which a flush takes in one go.
const CHANNEL: usize = 64;
/// librdkafka's own queue. *Units*: KiB.
const QUEUE_KBYTES: usize = 16 * 1024;
/// How often the files of a secured link are looked at.
const FILES: Duration = Duration::from_secs(10);
/// The longest that the thread sleeps before it looks whether it shall stop.
const POLL: Duration = Duration::from_millis(100);
/// How often ends are looked at (F5), by librdkafka's statistics.
const STATISTICS_MS: u64 = 1_000;

/// A record as Kafka has it.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition, which is the shard.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Append time; embedded: the record's own timestamp, set when it was sent. *Units*: microseconds since
    /// 1970-01-01 UTC.
    pub append_us: i64,
    /// Key: the machine.
    pub key: Option<Vec<u8>>,
    /// Headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Value.
    pub value: Vec<u8>,
}

impl Incoming {
    /// Gives the CRC-32C of the value: what a record is recognised by when a topic may have been made anew (D13).
    #[must_use]
    pub fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.value)
    }

    /// Finds a header that is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// What the intake tells the worker, in the order in which it happened.
#[derive(Debug)]
pub enum Event {
    /// A record was read.
    Record(Incoming),
    /// Everything that a topic's partition held at a time has been handed over.
    End {
        /// Topic.
        topic: Arc<str>,
        /// Partition.
        partition: i32,
        /// *Units*: microseconds since 1970-01-01 UTC.
        at_us: i64,
    },
    /// Something is wrong with a topic's partition, which is not read on if the text says so; a person must act.
    Trouble {
        /// Topic.
        topic: Arc<str>,
        /// Partition.
        partition: i32,
        /// What, and what to do.
        text: String,
    },
    /// Reading cannot go on; a person must act.
    Failed(IntakeError),
    /// A file of `[kafka]` `tls` or `sasl` has changed: an intake that is started now uses it.
    Renewed,
}

/// Why reading cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// librdkafka refuses its configuration.
    #[error("[kafka]: librdkafka refuses its configuration")]
    Configuration(#[source] KafkaError),
    /// The password's file cannot be read.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The thread does not start.
    #[error("the intake's thread does not start")]
    Thread(#[source] std::io::Error),
    /// Kafka does not have an offset that is asked for, and no partition shows which (D13).
    #[error("Kafka does not have the offset that a topic under {prefix:?} is read at")]
    Offsets {
        /// `[kafka] topic_prefix`.
        prefix: String,
    },
}

/// A running intake.
#[derive(Debug)]
pub struct Intake {
    /// What happened; ends only with the intake.
    pub events: mpsc::Receiver<Event>,
    stop: Arc<AtomicBool>,
}

impl Intake {
    /// Begins to read at the given positions; what has none is read from its beginning. Where a position knows the
    /// record before it, that one is read again and compared first (D13).
    ///
    /// Kafka may be away: it is waited for, and `link` says so.
    ///
    /// # Errors
    /// [`IntakeError::Configuration`], [`IntakeError::Password`] and [`IntakeError::Thread`].
    pub fn start(
        kafka: &Kafka,
        positions: BTreeMap<(String, i32), Position>,
        clock: fn() -> i64,
        link: Link,
    ) -> Result<Self, IntakeError> {
        link.begin(clock());
        // Before they are read: what changes meanwhile is seen as changed.
        let files =
            Files { kafka: kafka.clone(), stamp: Stamp::of(&kafka.security), next: Instant::now() + FILES };
        let told = link.clone();
        let diagnosis = Diagnosis::new(&kafka.brokers, &kafka.security, move |refusal| told.explain(refusal));
        let consumer: BaseConsumer<Ends> = client(kafka)?
            .create_with_context(Ends::new(link.clone(), diagnosis))
            .map_err(IntakeError::Configuration)?;
        let (sender, events) = mpsc::channel(CHANNEL);
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            consumer,
            topics: Topics::new(&kafka.topic_prefix, positions),
            names: BTreeMap::new(),
            sender,
            stop: Arc::clone(&stop),
            clock,
            link,
            timed: false,
            files,
        };
        std::thread::Builder::new()
            .name("intake".to_owned())
            .spawn(move || reader.run())
            .map_err(IntakeError::Thread)?;
        Ok(Self { events, stop })
    }
}

impl Drop for Intake {
    /// Tells the thread to end. It is not waited for: it may sit in a question to Kafka for seconds, and what it
    /// still reads goes nowhere.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Has librdkafka look at one consumer option, without connecting.
#[must_use]
pub fn takes_option(name: &str, value: &str) -> bool {
    ClientConfig::new().set(name, value).create_native_config().is_ok()
}

fn client(kafka: &Kafka) -> Result<ClientConfig, IntakeError> {
    let mut client = ClientConfig::new();
    client
        .set("queued.max.messages.kbytes", QUEUE_KBYTES.to_string())
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "2000");
    for (name, value) in &kafka.options {
        client.set(name, value);
    }
    let fetch_max = (4 * MESSAGE_MAX_BYTES).to_string();
    let receive_max = (4 * MESSAGE_MAX_BYTES + 4096).to_string();
    client
        .set("bootstrap.servers", kafka.brokers.join(","))
        .set("group.id", GROUP)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "false")
        .set("allow.auto.create.topics", "false")
        .set("check.crcs", "true")
        .set("fetch.message.max.bytes", MESSAGE_MAX_BYTES.to_string())
        .set("fetch.max.bytes", fetch_max)
        .set("receive.message.max.bytes", receive_max)
        .set("statistics.interval.ms", STATISTICS_MS.to_string());
    for (name, value) in kafka.security.settings()? {
        client.set(name, value);
    }
    Ok(client)
}

/// The thread's own state.
struct Reader {
    consumer: BaseConsumer<Ends>,
    topics: Topics,
    names: BTreeMap<String, Arc<str>>,
    sender: mpsc::Sender<Event>,
    stop: Arc<AtomicBool>,
    clock: fn() -> i64,
    link: Link,
    /// Whether a record's kind of timestamp was looked at.
    timed: bool,
    files: Files,
}

/// The certificates and the password that the consumer was made with.
struct Files {
    kafka: Kafka,
    stamp: Stamp,
    next: Instant,
}

impl Files {
    /// Tells, every now and then and once for each change, whether they have changed and a consumer can be made of what
    /// is there now. Certificate and key are rarely replaced in one instant: what does not fit is looked at again.
    fn are_newer(&mut self) -> bool {
        if Instant::now() < self.next {
            return false;
        }
        self.next = Instant::now() + FILES;
        let now = Stamp::of(&self.kafka.security);
        if now == self.stamp {
            return false;
        }
        let made: Result<BaseConsumer, IntakeError> =
            client(&self.kafka).and_then(|client| client.create().map_err(IntakeError::Configuration));
        match made {
            Ok(_) => {
                self.stamp = now;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the changed files of [kafka] tls and sasl do not fit; the old ones go on");
                false
            }
        }
    }
}

impl Reader {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            if self.topics.due(Instant::now()) {
                self.topics.discover(&self.consumer);
            }
            let event = match self.consumer.poll(POLL) {
                None => None,
                Some(Ok(message)) => {
                    if !std::mem::replace(&mut self.timed, true) {
                        self.topics.timestamps(&self.consumer, &message);
                    }
                    let incoming = taken(&message, &mut self.names, (self.clock)());
                    self.link.read(&incoming.topic, incoming.partition, incoming.append_us);
                    self.topics.is_next(&self.consumer, &incoming).then_some(Event::Record(incoming))
                }
                Some(Err(error)) => self.trouble(&error),
            };
            let ends = self.consumer.context().take().into_iter();
            let names = &mut self.names;
            let ends = ends.map(|(topic, partition, at_us)| Event::End {
                topic: name(names, &topic),
                partition,
                at_us,
            });
            let mut events: Vec<Event> = event.into_iter().chain(ends).collect();
            events.extend(self.files.are_newer().then_some(Event::Renewed));
            for (topic, partition, text) in self.topics.troubles() {
                events.push(Event::Trouble { topic: name(&mut self.names, &topic), partition, text });
            }
            for event in events {
                let failed = matches!(event, Event::Failed(_));
                if self.sender.blocking_send(event).is_err() || failed {
                    return;
                }
            }
        }
    }

    /// Only what no waiting mends stops a partition, or the intake; that Kafka is away is seen by its silence.
    fn trouble(&mut self, error: &KafkaError) -> Option<Event> {
        let code = error.rdkafka_error_code();
        if matches!(code, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)) {
            let prefix = self.topics.prefix().to_owned();
            let known = self.topics.stop_what_is_out_of_range(&self.consumer);
            return (!known).then_some(Event::Failed(IntakeError::Offsets { prefix }));
        }
        tracing::debug!("trouble with Kafka: {error}");
        self.link.trouble(error.to_string());
        None
    }
}

fn name(names: &mut BTreeMap<String, Arc<str>>, topic: &str) -> Arc<str> {
    match names.get(topic) {
        Some(name) => Arc::clone(name),
        None => {
            let name: Arc<str> = topic.into();
            names.insert(topic.to_owned(), Arc::clone(&name));
            name
        }
    }
}

fn taken(message: &BorrowedMessage<'_>, names: &mut BTreeMap<String, Arc<str>>, now_us: i64) -> Incoming {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
            .collect()
    });
    Incoming {
        topic: name(names, message.topic()),
        partition: message.partition(),
        offset: message.offset(),
        // Without LogAppendTime it is the sender's clock; one that is fast must not lift everybody's time (F5).
        append_us: message.timestamp().to_millis().unwrap_or(0).saturating_mul(1_000).min(now_us),
        key: message.key().map(<[u8]>::to_vec),
        headers,
        value: message.payload().unwrap_or_default().to_vec(),
    }
}
