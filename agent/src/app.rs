//! The agent put together: sources → batch → buffer → uplink, and the status page beside them.
//!
//! This is the one place that knows all stages. Invariant: nothing is read before the buffer is open
//! and every stream has its birth, so whatever a source hands over has a place on disk.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_protocol::Epoch;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::batch::{Batch, BatchError, BatchOptions, DELIVERIES};
use crate::buffer::{self, BufferError, BufferReader, OpenOptions, WallClock};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Mqtt};
use crate::delivery::{Delivery, Horizon, Observer};
use crate::source::{modbus, mqtt};
use crate::status::{self, MqttHealth, Newest, Snapshot, StatusError, View};
use crate::supervise::{Backoff, Stage, Supervisor, TaskError};
use crate::uplink::{Monitor, Uplink, UplinkError};

/// Window of redelivered publishes where no MQTT connection is configured.
const NO_MQTT_WINDOW: u16 = 20;

/// Says why the agent does not start or ended.
#[derive(Debug, Error)]
pub enum AppError {
    /// The data folder cannot be made.
    #[error("[agent] data_dir: {path} cannot be made")]
    DataDir {
        /// As configured.
        path: std::path::PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The buffer does not open.
    #[error("the buffer does not open")]
    Buffer(#[from] BufferError),
    /// The batch stage does not start.
    #[error("the rows cannot be numbered")]
    Batch(#[from] BatchError),
    /// The uplink does not start.
    #[error("the uplink does not start")]
    Uplink(#[from] UplinkError),
    /// The status page does not start.
    #[error("the status page does not start")]
    Status(#[from] StatusError),
    /// A critical task ended.
    #[error("the agent cannot go on")]
    Task(#[from] TaskError),
}

/// An agent that is ready to run.
#[derive(Debug)]
pub struct App {
    config: Config,
    clock: Arc<SystemClock>,
    epoch: Epoch,
    batch: Batch,
    reader: BufferReader,
    uplink: Uplink<BufferReader>,
    listener: TcpListener,
    newest: Newest,
    horizon: Horizon,
}

impl App {
    /// Draws the epoch, opens the buffer, takes the status address and stores the births (D7).
    ///
    /// Blocks on the disk; needs no runtime. *Errors*: [`AppError`]; nothing is left running.
    pub fn build(config: Config) -> Result<Self, AppError> {
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| AppError::DataDir { path: config.data_dir.clone(), source })?;
        let clock = Arc::new(SystemClock::new());
        let epoch = Epoch(rand::random());
        let for_buffer = Arc::clone(&clock);
        let (buffer, reader) = buffer::open(OpenOptions {
            data_dir: config.data_dir.clone(),
            agent: config.id.clone(),
            epoch,
            max_bytes: config.buffer.max_bytes,
            when_full: config.buffer.when_full,
            clock: WallClock(Arc::new(move || for_buffer.now_us())),
        })?;
        // The lock of the folder comes first: that a second agent runs on it is what must be said, also where
        // both have one address. No stream of this start exists yet.
        let listener = status::bind(config.status_listen)?;
        clock.doubt(buffer.last_flushed_us(), buffer.unset_boot(), config.clock_hold);
        let newest = Newest::default();
        let streams: Vec<_> = config.buses.iter().flat_map(modbus::streams).collect();
        newest.learn(&streams);
        let observed = newest.clone();
        let horizon = Horizon::default();
        let options = BatchOptions {
            streams,
            site: config.site.clone(),
            sync_interval: config.buffer.sync_interval,
            mqtt_window: config.mqtt.iter().map(|m| m.receive_maximum).max().unwrap_or(NO_MQTT_WINDOW),
            observer: Some(Observer(Arc::new(move |delivery| observed.observe(delivery)))),
            horizon: horizon.clone(),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            clock_hold: config.clock_hold,
        };
        let batch = Batch::new(buffer, options)?;
        let client_id = format!("millrace-agent-{}", config.id);
        let uplink = Uplink::new(reader.clone(), &config.kafka, &client_id, epoch)?;
        Ok(Self { config, clock, epoch, batch, reader, uplink, listener, newest, horizon })
    }

    /// Gives the address of the status page, with the port that was taken.
    #[must_use]
    pub fn status_address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.status_listen)
    }

    /// Gives the epoch of this start.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Runs until it is stopped; a stop takes at most five seconds.
    ///
    /// *Errors*: [`AppError::Task`] if a critical task ended by itself. Whatever was confirmed is on disk.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AppError> {
        info!(
            agent = %self.config.id, epoch = %self.epoch, status = %format!("http://{}", self.status_address()),
            buses = self.config.buses.len(), mqtt = self.config.mqtt.len(), "started"
        );
        let (deliveries, received) = mpsc::channel::<Delivery>(DELIVERIES);
        let mqtt = MqttCounters::default();
        let view = self.view(&mqtt);
        let mut supervisor = Supervisor::new(stop);
        let batch = self.batch;
        supervisor.critical_thread(Stage::Batch, "batch", move || batch.run(received));
        let uplink = self.uplink;
        supervisor.critical(Stage::Uplink, "uplink", |token| uplink.run(token));
        let listener = self.listener;
        supervisor.critical(Stage::Status, "status", |token| status::serve(listener, view, token));
        let clock: Arc<dyn Clock> = self.clock;
        for bus in self.config.buses {
            let (clock, deliveries) = (Arc::clone(&clock), deliveries.clone());
            let underway = self.horizon.source();
            let name = format!("bus {}", bus.name);
            supervisor.restartable(Stage::Source, name, Backoff::default(), move |token| {
                // What a run that panicked had under way was not handed over and will not be.
                underway.end();
                let (clock, deliveries) = (Arc::clone(&clock), deliveries.clone());
                let run = modbus::run(bus.clone(), clock, deliveries, underway.clone(), token);
                async move {
                    run.await;
                    Ok::<_, TaskError>(())
                }
            });
        }
        for connection in self.config.mqtt {
            let source = MqttSource {
                connection,
                site: self.config.site.clone(),
                clock: Arc::clone(&clock),
                deliveries: deliveries.clone(),
                counters: mqtt.clone(),
            };
            let name = format!("mqtt {}", source.connection.name);
            supervisor.restartable(Stage::Source, name, Backoff::default(), move |token| source.run(token));
        }
        // The batch stage ends when the last sender is gone: not before the uplink is stopped, even if
        // there are no sources.
        supervisor.critical(Stage::Batch, "gate", |token| async move {
            token.cancelled().await;
            drop(deliveries);
            Ok::<_, TaskError>(())
        });
        let result = supervisor.run().await;
        info!("stopped");
        Ok(result?)
    }

    fn view(&self, mqtt: &MqttCounters) -> View {
        let (reader, monitor): (BufferReader, Monitor) = (self.reader.clone(), self.uplink.monitor());
        let mqtt = mqtt.clone();
        let snapshot = move || Snapshot {
            books: reader.books(),
            buffer: reader.health(),
            uplink: monitor.health(),
            mqtt: mqtt.health(),
        };
        View {
            agent: self.config.id.to_string(),
            epoch: self.epoch.to_string(),
            snapshot: Arc::new(snapshot),
            newest: self.newest.clone(),
        }
    }
}

/// What it takes to build an MQTT connection again and again.
struct MqttSource {
    connection: Mqtt,
    site: String,
    clock: Arc<dyn Clock>,
    deliveries: mpsc::Sender<Delivery>,
    counters: MqttCounters,
}

impl MqttSource {
    fn run(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), mqtt::MqttError>> + Send + use<> {
        let source = mqtt::Source::new(
            self.connection.clone(),
            &self.site,
            Arc::clone(&self.clock),
            self.deliveries.clone(),
            stop,
        );
        if let Ok(source) = &source {
            self.counters.follow(&self.connection.name, source.counters());
        }
        async move { source?.run().await }
    }
}

/// The counters of every run of every MQTT connection.
#[derive(Clone, Default)]
struct MqttCounters {
    runs: Arc<Mutex<BTreeMap<String, Vec<Arc<mqtt::Counters>>>>>,
}

impl MqttCounters {
    fn follow(&self, name: &str, counters: Arc<mqtt::Counters>) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = runs.entry(name.to_owned()).or_default();
        // What earlier runs counted is folded into one, so that restarts do not pile up.
        if let [folded, last] = runs.as_slice() {
            for (sum, of) in [
                (&folded.publishes, &last.publishes),
                (&folded.raw, &last.raw),
                (&folded.ignored, &last.ignored),
            ] {
                sum.fetch_add(of.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            runs.pop();
        }
        runs.push(counters);
    }

    fn health(&self) -> Vec<MqttHealth> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let health = |(name, runs): (&String, &Vec<Arc<mqtt::Counters>>)| {
            let sum = |of: fn(&mqtt::Counters) -> u64| runs.iter().map(|run| of(run)).sum();
            MqttHealth {
                name: name.clone(),
                is_connected: runs.last().is_some_and(|run| run.connected.load(Ordering::Relaxed)),
                publishes: sum(|c| c.publishes.load(Ordering::Relaxed)),
                raw: sum(|c| c.raw.load(Ordering::Relaxed)),
                ignored: sum(|c| c.ignored.load(Ordering::Relaxed)),
            }
        };
        runs.iter().map(health).collect()
    }
}
