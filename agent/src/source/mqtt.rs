//! The MQTT 3.1.1 source: publishes become rows, and are acknowledged when the rows are on disk (D5).
//!
//! Data flows through the modules in this order: `session` holds the connection and is the only one that
//! knows the client library; `topic` and `payload` are pure decoders; `deliver` makes
//! [`Delivery`]s with them. Acknowledgements go back through `session`.

pub mod deliver;
pub mod payload;
mod session;
pub mod topic;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::deliver::{Deliverer, SubscriptionError};
use crate::clock::Clock;
use crate::config;
use crate::delivery::Delivery;

/// Says why an MQTT source cannot start or go on. A broker that is away is no error: it is waited for.
#[derive(Debug, Error)]
pub enum MqttError {
    /// A subscription's pattern or path is wrong; the configuration's loader refuses it first.
    #[error("mqtt \"{connection}\" cannot start")]
    Subscription {
        /// `name` of the connection.
        connection: String,
        /// What is wrong.
        #[source]
        cause: Box<SubscriptionError>,
    },
    /// The password's file cannot be read.
    #[error("mqtt \"{connection}\": the password file {path} cannot be read")]
    Password {
        /// `name` of the connection.
        connection: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A persistent session needs a client id.
    #[error("mqtt \"{connection}\" needs a client id; the broker keeps its session by it")]
    NoClientId {
        /// `name` of the connection.
        connection: String,
    },
    /// The batch stage let go of a publish without storing it. Nothing after it may be acknowledged on
    /// this connection; a new start gets it again from the broker.
    #[error("mqtt \"{connection}\": a publish was not stored; the broker will send it again")]
    NotStored {
        /// `name` of the connection.
        connection: String,
    },
    /// The batch stage takes no deliveries any more.
    #[error("mqtt \"{connection}\": the batch stage has ended")]
    BatchEnded {
        /// `name` of the connection.
        connection: String,
    },
}

/// What a source counts for metrics; nothing that accounting needs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Whether the broker is connected now.
    pub connected: AtomicBool,
    /// Connections made.
    pub connects: AtomicU64,
    /// Publishes received, redelivered ones included.
    pub publishes: AtomicU64,
    /// Publishes that became raw rows.
    pub raw: AtomicU64,
    /// Publishes that no subscription asks for.
    pub ignored: AtomicU64,
    /// Acknowledgements dropped because their connection was gone; the broker sends those publishes again.
    pub stale_acks: AtomicU64,
}

/// One `[[mqtt]]` connection.
pub struct Source {
    config: config::Mqtt,
    deliverer: Deliverer,
    clock: Arc<dyn Clock>,
    deliveries: mpsc::Sender<Delivery>,
    cancel: CancellationToken,
    counters: Arc<Counters>,
}

impl Source {
    /// Takes a connection's configuration.
    ///
    /// *Errors*: [`MqttError::Subscription`], [`MqttError::NoClientId`].
    pub fn new(
        config: config::Mqtt,
        site: &str,
        clock: Arc<dyn Clock>,
        deliveries: mpsc::Sender<Delivery>,
        cancel: CancellationToken,
    ) -> Result<Self, MqttError> {
        if config.client_id.is_empty() {
            return Err(MqttError::NoClientId { connection: config.name });
        }
        let deliverer = Deliverer::new(&config, site).map_err(|cause| MqttError::Subscription {
            connection: config.name.clone(),
            cause: Box::new(cause),
        })?;
        Ok(Self { config, deliverer, clock, deliveries, cancel, counters: Arc::default() })
    }

    /// Gives the counters, which are shared with the running source.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Runs until it is cancelled; then waits up to half a second for what is on its way to the disk,
    /// acknowledges it and takes leave of the broker.
    ///
    /// *Errors*: [`MqttError`]; nothing that was not stored is acknowledged, so it may be built and run
    /// again. *Cancel safety*: may be dropped at any await, with the same promise.
    pub async fn run(self) -> Result<(), MqttError> {
        session::run(self).await
    }
}
