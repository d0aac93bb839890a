//! The producer, and the world of a real process: the one place that names rdkafka.
//!
//! Invariants: every ticket that [`Producer::send`] took is answered by one [`Answer`], unless the
//! producer was ended first: then what became of the record is not known. librdkafka may keep an
//! idempotent record for ever (`message.timeout.ms` is 0): retrying after hours is its work, deciding
//! what a refusal means is the uplink's. TLS keys and passwords never reach a log line from here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_link::{Diagnosis, PasswordError, Stamp};
use millrace_protocol::{CONTENT_TYPE, MESSAGE_MAX_BYTES};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::UplinkError;
use super::health::Monitor;
use super::outside::{Outside, Produce};
use super::record::Outgoing;
use super::route::TopicAnswer;
use crate::config::Kafka;
use crate::supervise::chain;

/// The most records that librdkafka holds; bounds the channel of their answers too.
pub(super) const RECORDS_IN_FLIGHT: usize = 2_000;
/// The most that librdkafka queues. The uplink itself keeps less in flight, so that this is never met.
const QUEUE_KBYTES: u32 = 8 * 1024;
/// How long the metadata of a topic may take.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an ended producer may take to hand over what it still knows.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the thread that serves librdkafka's answers waits for the next one. The crate spins through the last
/// millisecond of every wait, so short ones cost: with the 100 ms of its own thread, 1 % of a core for nothing.
const ANSWERS_WAIT: Duration = Duration::from_secs(1);

/// Says why no producer can be made.
#[derive(Debug, Error)]
pub enum ProducerError {
    /// librdkafka does not take the configuration, or a certificate or key.
    #[error("[kafka]: librdkafka does not take the configuration")]
    Configuration(#[source] KafkaError),
    /// The password's file cannot be read.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All replicas have it.
    Delivered,
    /// Kafka will never take this record; the text is librdkafka's.
    RecordRefused(String),
    /// Its topic is gone or forbidden.
    TopicRefused(String),
    /// Not known: it may be stored, so it is sent again.
    Unknown(String),
}

/// A ticket and what became of its record.
pub type Answered = (usize, Answer);

/// Where a record goes and whose it is.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Comes back with the answer.
    pub ticket: usize,
}

/// Says why a record was not even taken.
#[derive(Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Too much is queued: try again after an answer.
    Full,
    /// As if it had been answered so.
    Answered(Answer),
}

/// The world as it is: librdkafka, tokio's time and its threads.
#[derive(Debug)]
pub struct Librdkafka {
    kafka: Arc<Kafka>,
    client_id: Arc<str>,
}

impl Librdkafka {
    /// *Errors*: [`ProducerError`] if the configuration is not good.
    pub(super) fn new(kafka: &Kafka, client_id: &str) -> Result<Self, ProducerError> {
        Settings::new(kafka, client_id)?;
        Ok(Self { kafka: Arc::new(kafka.clone()), client_id: client_id.into() })
    }
}

impl Outside for Librdkafka {
    type Producer = Producer;

    /// Does not wait for a broker.
    fn start(&self, answers: mpsc::Sender<Answered>, monitor: Monitor) -> Result<Producer, ProducerError> {
        let told = monitor.clone();
        let diagnosis =
            Diagnosis::new(&self.kafka.brokers, &self.kafka.security, move |refusal| told.explain(refusal));
        let context = Context { answers, monitor, diagnosis };
        // Before they are read: what changes meanwhile is seen as changed.
        let stamp = Stamp::of(&self.kafka.security);
        let settings = Settings::new(&self.kafka, &self.client_id)?;
        let inner: Arc<BaseProducer<Context>> =
            Arc::new(settings.0.create_with_context(context).map_err(ProducerError::Configuration)?);
        let is_ended = Arc::new(AtomicBool::new(false));
        let (served, stop) = (Arc::clone(&inner), Arc::clone(&is_ended));
        std::thread::Builder::new()
            .name("kafka-answers".to_owned())
            .spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    served.poll(ANSWERS_WAIT);
                }
            })
            .map_err(|error| ProducerError::Configuration(KafkaError::ClientCreation(error.to_string())))?;
        let files = Files {
            kafka: Arc::clone(&self.kafka),
            client_id: Arc::clone(&self.client_id),
            stamp,
            refused: Mutex::default(),
        };
        Ok(Producer { running: Arc::new(Running { inner, is_ended, files }) })
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(at).await;
    }

    async fn blocking<T: Send + 'static>(
        &self,
        step: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, UplinkError> {
        spawn_blocking(work).await.map_err(|source| UplinkError::Panicked { step, source })
    }
}

/// A running librdkafka producer. Clones share it.
#[derive(Clone)]
pub struct Producer {
    running: Arc<Running>,
}

struct Running {
    inner: Arc<BaseProducer<Context>>,
    is_ended: Arc<AtomicBool>,
    files: Files,
}

/// The certificates and the password that a producer was made with.
struct Files {
    kafka: Arc<Kafka>,
    client_id: Arc<str>,
    stamp: Stamp,
    /// What was found of them when they were last refused, so that it is said once.
    refused: Mutex<Option<Stamp>>,
}

impl Files {
    /// Tells whether they have changed, and a producer can be made of what is there now.
    fn are_newer(&self) -> bool {
        let now = Stamp::of(&self.kafka.security);
        if now == self.stamp {
            return false;
        }
        let made = Settings::new(&self.kafka, &self.client_id).and_then(|settings| {
            let made: Result<BaseProducer, _> = settings.0.create();
            made.map_err(ProducerError::Configuration)
        });
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(_) => true,
            Err(error) => {
                // Certificate and key are rarely replaced in one instant.
                if refused.as_ref() != Some(&now) {
                    tracing::warn!(error = %chain(&error), "the changed files of [kafka] tls and sasl do not fit; the old ones go on");
                    *refused = Some(now);
                }
                false
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is sent any more from here on: what follows in another producer must not be overtaken. The thread
        // lets go of librdkafka within its wait; nobody waits for it.
        self.inner.purge(PurgeConfig::default().queue().inflight());
        self.is_ended.store(true, Ordering::Relaxed);
    }
}

impl Produce for Producer {
    fn send(&self, to: &Envelope<'_>, record: &Outgoing) -> Result<(), NotTaken> {
        let message = BaseRecord::with_opaque_to(to.topic, to.ticket)
            .key(record.stream.machine.as_str())
            .payload(&record.value)
            .headers(headers(record));
        self.running.inner.send(message).map_err(|(error, _)| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => NotTaken::Full,
            code => NotTaken::Answered(classify(code, &error)),
        })
    }

    /// Asks the metadata. Blocks for up to two seconds.
    fn ask(&self, topic: &str) -> TopicAnswer {
        let metadata = match self.running.inner.client().fetch_metadata(Some(topic), METADATA_TIMEOUT) {
            Ok(metadata) => metadata,
            Err(error) => return TopicAnswer::Unknown(error.to_string()),
        };
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
            return TopicAnswer::Unknown(format!("the metadata does not mention {topic}"));
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None if found.partitions().is_empty() => {
                TopicAnswer::Unknown(format!("{topic} has no partition"))
            }
            None => TopicAnswer::Present,
            Some(
                code @ (RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::InvalidTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed),
            ) => TopicAnswer::Absent(format!("{topic}: {code}")),
            Some(code) => TopicAnswer::Unknown(format!("{topic}: {code}")),
        }
    }

    fn why_not_on(&self) -> Option<String> {
        let fatal = self.running.inner.client().fatal_error().map(|(code, text)| format!("{code}: {text}"));
        fatal.or_else(|| {
            self.running.files.are_newer().then(|| "a file of [kafka] tls or sasl has changed".to_owned())
        })
    }

    /// Gives what is in flight a last chance to be answered. Blocks for up to a second.
    fn end(self) {
        // Flushing first: a producer that is dropped purges what it could still have delivered.
        drop(self.running.inner.flush(FLUSH_TIMEOUT));
    }
}

/// librdkafka's configuration, made of ours.
#[derive(Debug)]
pub(super) struct Settings(ClientConfig);

impl Settings {
    /// Makes it, and has librdkafka check it.
    ///
    /// *Errors*: [`ProducerError`] if an option is unknown or has an impossible value, or the password cannot be read.
    pub(super) fn new(kafka: &Kafka, client_id: &str) -> Result<Self, ProducerError> {
        let mut config = ClientConfig::new();
        // Ours to propose, the user's to change.
        for (key, value) in [
            ("linger.ms", "20"),
            // With the default of 100 ms a gateway without a link is busy with connecting.
            ("reconnect.backoff.ms", "250"),
            ("reconnect.backoff.max.ms", "5000"),
            ("log.connection.close", "false"),
            // The default, 3, takes 3.7 MB for every batch under way, on a gateway that should need 20 in all.
            ("compression.level", "1"),
        ] {
            config.set(key, value);
        }
        for (key, value) in &kafka.options {
            config.set(key, value);
        }
        // Ours alone; see `config::OWNED_KAFKA_OPTIONS`.
        let owned = [
            ("bootstrap.servers", kafka.brokers.join(",")),
            ("client.id", client_id.to_owned()),
            ("enable.idempotence", "true".to_owned()),
            ("acks", "all".to_owned()),
            // The disk remembers; librdkafka only tries. A time limit would make gaps in its sequences.
            ("message.timeout.ms", "0".to_owned()),
            ("message.max.bytes", MESSAGE_MAX_BYTES.to_string()),
            ("partitioner", "murmur2_random".to_owned()),
            ("compression.codec", "zstd".to_owned()),
            ("queue.buffering.max.kbytes", QUEUE_KBYTES.to_string()),
            ("queue.buffering.max.messages", RECORDS_IN_FLIGHT.to_string()),
            // A missing topic must be seen as missing, not be made with the wrong number of partitions.
            ("allow.auto.create.topics", "false".to_owned()),
        ];
        for (key, value) in owned {
            config.set(key, value);
        }
        for (key, value) in kafka.security.settings()? {
            config.set(key, value);
        }
        // All lines come; ours decide what is worth showing.
        config.set_log_level(RDKafkaLogLevel::Info);
        config.create_native_config().map_err(ProducerError::Configuration)?;
        Ok(Self(config))
    }
}

/// Makes the headers of D2, so that a value that cannot be decoded is still counted to its stream.
fn headers(record: &Outgoing) -> OwnedHeaders {
    let stream = &record.stream;
    let (epoch, rows) = (stream.epoch.to_string(), record.rows.to_string());
    let mut headers = OwnedHeaders::new_with_capacity(6)
        .insert(Header { key: "content-type", value: Some(CONTENT_TYPE) })
        .insert(Header { key: "agent", value: Some(stream.agent.as_str()) })
        .insert(Header { key: "epoch", value: Some(epoch.as_str()) })
        .insert(Header { key: "category", value: Some(stream.category.as_str()) });
    if let Some(first) = record.first_seq {
        headers = headers.insert(Header { key: "seq", value: Some(first.to_string().as_str()) });
    }
    headers.insert(Header { key: "rows", value: Some(rows.as_str()) })
}

/// Decides whom an error concerns. What is not known to concern one record or one topic is unknown.
fn classify(code: Option<RDKafkaErrorCode>, error: &KafkaError) -> Answer {
    use RDKafkaErrorCode as Code;
    let text = error.to_string();
    match code {
        Some(
            Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessage | Code::InvalidMessageSize,
        ) => Answer::RecordRefused(text),
        Some(
            Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
            | Code::InvalidTopic
            | Code::TopicAuthorizationFailed,
        ) => Answer::TopicRefused(text),
        _ => Answer::Unknown(text),
    }
}

/// Takes what librdkafka reports, on its polling thread.
struct Context {
    answers: mpsc::Sender<Answered>,
    monitor: Monitor,
    /// `None`: plain text.
    diagnosis: Option<Diagnosis>,
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        // It repeats itself at every attempt; what a person must know comes by `error` too.
        tracing::debug!(target: "librdkafka", facility, "{line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        let code = error.rdkafka_error_code();
        let kind = code.map_or_else(String::new, |code| code.to_string());
        match code {
            Some(Code::AllBrokersDown) => self.monitor.link_down(reason),
            Some(Code::Authentication) => {
                // The handshake was good.
                self.monitor.explain(None);
                let text = format!("user name or password are refused: look at [kafka] sasl ({reason})");
                self.monitor.connection_trouble(&kind, &text);
            }
            Some(Code::ClusterAuthorizationFailed) => {
                let text =
                    format!("Kafka gives us no right: we need Write and Describe on our topics ({reason})");
                self.monitor.connection_trouble(&kind, &text);
            }
            _ => self.monitor.connection_trouble(&kind, reason),
        }
        if let (Some(diagnosis), Some(Code::SSL | Code::BrokerTransportFailure | Code::AllBrokersDown)) =
            (&self.diagnosis, code)
        {
            diagnosis.look_into(&kind);
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let answer = match result {
            Ok(_) => Answer::Delivered,
            Err((error, _)) => classify(error.rdkafka_error_code(), error),
        };
        if answer == Answer::Delivered {
            self.monitor.link_up();
        }
        // There is room for every ticket. Who no longer listens has given everything back.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.try_send((ticket, answer)) {
            tracing::error!(ticket, "the answer of a record has no room; it is sent again after a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OWNED_KAFKA_OPTIONS;

    #[test]
    fn users_change_what_is_theirs_and_never_what_is_ours() {
        let kafka = |pairs: &[(&str, &str)]| Kafka {
            brokers: vec!["a:1".to_owned(), "b:2".to_owned()],
            topic_prefix: "m".to_owned(),
            options: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            security: millrace_link::Security::default(),
            progress_interval: Duration::from_secs(10),
        };
        let config = Settings::new(&kafka(&[("linger.ms", "50"), ("acks", "0")]), "gw").unwrap().0;
        assert_eq!(config.get("linger.ms"), Some("50"));
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("bootstrap.servers"), Some("a:1,b:2"));
        for (key, value) in [("no.such.option", "1"), ("linger.ms", "soon")] {
            let error = Settings::new(&kafka(&[(key, value)]), "gw").unwrap_err();
            assert!(crate::supervise::chain(&error).contains(key), "{key}");
        }
    }

    #[test]
    fn every_option_that_is_ours_is_known_to_librdkafka_by_that_name() {
        // The numbers and words that a valid value needs are librdkafka's business; a name that it does
        // not know is ours.
        for key in OWNED_KAFKA_OPTIONS {
            let result = ClientConfig::new().set(key, "\u{0}").create_native_config();
            let text = result.err().map(|e| format!("{e:?}")).unwrap_or_default();
            assert!(!text.contains("UNKNOWN"), "{key}: {text}");
        }
    }

    #[test]
    fn errors_concern_a_record_a_topic_or_nobody_knows() {
        use RDKafkaErrorCode as Code;
        let table = [
            (Code::MessageSizeTooLarge, "record"),
            (Code::InvalidRecord, "record"),
            (Code::UnknownTopicOrPartition, "topic"),
            (Code::TopicAuthorizationFailed, "topic"),
            (Code::MessageTimedOut, "unknown"),
            (Code::PurgeInflight, "unknown"),
            (Code::OutOfOrderSequenceNumber, "unknown"),
            // A gateway's clock is wrong more often than its data.
            (Code::InvalidTimestamp, "unknown"),
        ];
        for (code, expected) in table {
            let got = match classify(Some(code), &KafkaError::MessageProduction(code)) {
                Answer::RecordRefused(_) => "record",
                Answer::TopicRefused(_) => "topic",
                Answer::Unknown(_) => "unknown",
                Answer::Delivered => "delivered",
            };
            assert_eq!(got, expected, "{code:?}");
        }
    }
}
