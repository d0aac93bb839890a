//! librdkafka's in-process Kafka broker, owned by a thread of its own.
//!
//! It is for the demo and for tests only. What differs from Apache Kafka: it keeps
//! [`PARTITION_MAX_BYTES`] or [`PARTITION_MAX_MESSAGES`] of a partition and forgets the oldest beyond
//! that without a word, it has no TLS and no log append time, it knows no static members, it makes any
//! topic that somebody asks for, and everything is gone when the process ends.
//!
//! Its port is the kernel's choice: librdkafka binds port 0 and the binding has no way to ask for
//! another one. The port stays the same for the life of the process, also across [`KafkaBroker::down`]
//! and [`KafkaBroker::up`], so clients take the address that is printed at start.
//!
//! Invariant: rdkafka is named here and in this module's tests only; the cluster lives and dies on one thread.

mod admin;
mod produce;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use thiserror::Error;
use tokio::sync::oneshot;

pub use admin::{AdminError, Administrator, make_topics};
pub use produce::{LoadProducer, ProduceError};

/// A partition keeps about this many bytes. *Source*: `rdkafka_mock.c`, `rd_kafka_mock_partition_init`.
pub const PARTITION_MAX_BYTES: usize = 5 * 1024 * 1024;
/// A partition keeps this many messages. *Source*: as above.
pub const PARTITION_MAX_MESSAGES: usize = 100_000;

/// Commands wait only while the thread carries out another one, which takes microseconds.
const COMMANDS: usize = 4;
/// The mock's number for "every broker".
const ALL_BROKERS: i32 = -1;

/// Says what went wrong with the broker.
#[derive(Debug, Error)]
pub enum KafkaBrokerError {
    /// librdkafka could not start its cluster.
    #[error("the in-process Kafka broker does not start")]
    Start(#[source] KafkaError),
    /// A topic could not be made.
    #[error("topic {topic} with {partitions} partitions cannot be made")]
    Topic {
        /// Its name.
        topic: String,
        /// How many partitions were asked for.
        partitions: i32,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// The link could not be cut or mended.
    #[error("the in-process Kafka broker cannot change its link")]
    Link(#[source] KafkaError),
    /// The broker's thread is gone.
    #[error("the in-process Kafka broker has ended")]
    Ended,
}

enum Command {
    Down(oneshot::Sender<Result<(), KafkaBrokerError>>),
    Up(oneshot::Sender<Result<(), KafkaBrokerError>>),
}

/// A running broker; dropping it ends it and everything that it kept.
#[derive(Debug)]
pub struct KafkaBroker {
    brokers: String,
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl KafkaBroker {
    /// Starts a broker with the given topics.
    ///
    /// *Errors*: [`KafkaBrokerError::Start`] and [`KafkaBrokerError::Topic`]; nothing is left running.
    pub fn start(topics: &[String], partitions: u16) -> Result<Self, KafkaBrokerError> {
        let (commands, receiver) = sync_channel(COMMANDS);
        let (started, start) = sync_channel(1);
        let topics = topics.to_vec();
        let thread = std::thread::Builder::new()
            .name("kafka-broker".to_owned())
            .spawn(move || match open(&topics, i32::from(partitions)) {
                Ok(cluster) => {
                    if started.send(Ok(cluster.bootstrap_servers())).is_ok() {
                        serve(&cluster, &receiver);
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            })
            .map_err(|_| KafkaBrokerError::Ended)?;
        let brokers = start.recv().map_err(|_| KafkaBrokerError::Ended)??;
        Ok(Self { brokers, commands: Some(commands), thread: Some(thread) })
    }

    /// Gives `host:port`, for `bootstrap.servers`.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Cuts the link: every connection is closed and new ones are refused. What was stored is kept.
    ///
    /// *Errors*: [`KafkaBrokerError::Link`], [`KafkaBrokerError::Ended`].
    pub async fn down(&self) -> Result<(), KafkaBrokerError> {
        self.command(Command::Down).await
    }

    /// Mends the link, at the same address.
    ///
    /// *Errors*: [`KafkaBrokerError::Link`], [`KafkaBrokerError::Ended`].
    pub async fn up(&self) -> Result<(), KafkaBrokerError> {
        self.command(Command::Up).await
    }

    async fn command(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<(), KafkaBrokerError>>) -> Command,
    ) -> Result<(), KafkaBrokerError> {
        let (answer, done) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(KafkaBrokerError::Ended)?;
        commands.send(make(answer)).map_err(|_| KafkaBrokerError::Ended)?;
        done.await.map_err(|_| KafkaBrokerError::Ended)?
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

type Cluster = MockCluster<'static, rdkafka::producer::DefaultProducerContext>;

fn open(topics: &[String], partitions: i32) -> Result<Cluster, KafkaBrokerError> {
    let cluster = MockCluster::new(1).map_err(KafkaBrokerError::Start)?;
    for topic in topics {
        cluster.create_topic(topic, partitions, 1).map_err(|source| KafkaBrokerError::Topic {
            topic: topic.clone(),
            partitions,
            source,
        })?;
    }
    Ok(cluster)
}

fn serve(cluster: &Cluster, commands: &Receiver<Command>) {
    while let Ok(command) = commands.recv() {
        let (result, answer) = match command {
            Command::Down(answer) => (cluster.broker_down(ALL_BROKERS), answer),
            Command::Up(answer) => (cluster.broker_up(ALL_BROKERS), answer),
        };
        // Whoever asked may have given up waiting.
        drop(answer.send(result.map_err(KafkaBrokerError::Link)));
    }
}

#[cfg(test)]
#[path = "kafka/tests.rs"]
mod tests;
