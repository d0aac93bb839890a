//! A plain producer for loads: as many messages as Kafka takes, every one acknowledged or counted as failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace_protocol::CONTENT_TYPE;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use thiserror::Error;

use crate::load::LoadRecord;

/// The local queue is full: so long until there may be room again.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// Says why a load could not be sent.
#[derive(Debug, Error)]
pub enum ProduceError {
    /// librdkafka refuses the configuration or the message.
    #[error("Kafka at {brokers} cannot be written to")]
    Kafka {
        /// Where.
        brokers: String,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// Some messages were never acknowledged.
    #[error("{failed} of {sent} records were not acknowledged by Kafka at {brokers}")]
    Unacknowledged {
        /// Where.
        brokers: String,
        /// How many.
        failed: u64,
        /// Of how many.
        sent: u64,
    },
}

#[derive(Default)]
struct Counted {
    failed: Arc<AtomicU64>,
}

impl ClientContext for Counted {}

impl ProducerContext for Counted {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends records of a load.
pub struct LoadProducer {
    brokers: String,
    producer: ThreadedProducer<Counted>,
    failed: Arc<AtomicU64>,
    sent: u64,
}

impl LoadProducer {
    /// Connects to brokers, without TLS.
    ///
    /// *Errors*: [`ProduceError::Kafka`].
    pub fn new(brokers: &str) -> Result<Self, ProduceError> {
        let context = Counted::default();
        let failed = Arc::clone(&context.failed);
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "zstd")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20")
            .create_with_context(context);
        let producer =
            producer.map_err(|source| ProduceError::Kafka { brokers: brokers.to_owned(), source })?;
        Ok(Self { brokers: brokers.to_owned(), producer, failed, sent: 0 })
    }

    /// Sends a record, waiting for room in the local queue. Blocking.
    ///
    /// *Errors*: [`ProduceError::Kafka`]; the record is not sent then.
    pub fn send(&mut self, topic: &str, record: &LoadRecord) -> Result<(), ProduceError> {
        let (epoch, seq) = (record.stream.epoch.to_string(), record.first_seq.to_string());
        let rows = record.rows.to_string();
        let pairs = [
            ("content-type", CONTENT_TYPE),
            ("agent", record.stream.agent.as_str()),
            ("epoch", &epoch),
            ("category", record.stream.category.as_str()),
            ("seq", &seq),
            ("rows", &rows),
        ];
        let mut headers = OwnedHeaders::new_with_capacity(pairs.len());
        for (key, value) in pairs {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut message =
            BaseRecord::to(topic).key(record.stream.machine.as_str()).payload(&record.value).headers(headers);
        loop {
            match self.producer.send(message) {
                Ok(()) => {
                    self.sent += 1;
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    message = back;
                    std::thread::sleep(FULL_PAUSE);
                }
                Err((source, _)) => {
                    return Err(ProduceError::Kafka { brokers: self.brokers.clone(), source });
                }
            }
        }
    }

    /// Waits until everything is acknowledged. Blocking.
    ///
    /// *Errors*: [`ProduceError::Kafka`] after `limit`; [`ProduceError::Unacknowledged`].
    pub fn finish(self, limit: Duration) -> Result<u64, ProduceError> {
        let flushed = self.producer.flush(limit);
        flushed.map_err(|source| ProduceError::Kafka { brokers: self.brokers.clone(), source })?;
        match self.failed.load(Ordering::Relaxed) {
            0 => Ok(self.sent),
            failed => Err(ProduceError::Unacknowledged { brokers: self.brokers, failed, sent: self.sent }),
        }
    }
}
