//! What the collector tells about itself: metrics, and whether it can do its work.
//!
//! The only module that names prometheus.

mod kafka;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::flush::Flushed;
use crate::intake::Link;
pub use kafka::{KafkaPage, PartitionPage};

/// Metrics and readiness, shared by the worker and the server.
#[derive(Clone)]
pub struct Status {
    /// How the link to Kafka fares.
    pub link: Link,
    /// How long Kafka may be away before the collector is not ready.
    ready_without_kafka: Duration,
    registry: Registry,
    rows: IntCounter,
    points: IntCounter,
    dead_letters: IntCounter,
    quarantined: IntCounter,
    feature_rows: IntCounter,
    duplicate_agent: IntCounter,
    flushes: IntCounter,
    reloads: IntCounter,
    answered: IntCounter,
    refused: IntCounter,
    kafka: kafka::Gauges,
    paused: IntGauge,
    troubles_found: IntGauge,
    not_ready: Arc<Mutex<Option<String>>>,
    troubles: Arc<Mutex<BTreeMap<String, String>>>,
}

/// Makes a metric and adds it to the registry.
fn made<M: Collector + Clone + 'static>(
    registry: &Registry,
    (name, help): (&str, &str),
    make: impl FnOnce(Opts) -> prometheus::Result<M>,
) -> M {
    let options = Opts::new(format!("millrace_collector_{name}"), help);
    #[expect(clippy::expect_used, reason = "the names are constants of the right form")]
    let metric = make(options).expect("a valid metric name");
    let _unique = registry.register(Box::new(metric.clone()));
    metric
}

impl Status {
    /// Makes the metrics; the collector is not ready yet. While Kafka has been away for longer than
    /// `ready_without_kafka`, it is not ready either.
    #[must_use]
    pub fn new(ready_without_kafka: Duration) -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| made(&registry, (name, help), IntCounter::with_opts);
        let gauge = |name: &str, help: &str| made(&registry, (name, help), IntGauge::with_opts);
        let by_partition = |name: &str, help: &str| {
            made(&registry, (name, help), |options| IntGaugeVec::new(options, &["topic", "partition"]))
        };
        Self {
            link: Link::default(),
            ready_without_kafka,
            answered: counter("serve_answered_total", "Requests for online features that were answered."),
            refused: counter("serve_refused_total", "Requests for online features that were refused."),
            kafka: kafka::Gauges {
                up: gauge("kafka_up", "1 while Kafka answers."),
                since: gauge(
                    "kafka_state_since_timestamp_seconds",
                    "When kafka_up took the value that it has.",
                ),
                behind: by_partition("kafka_lag_records", "Records in Kafka that are not read."),
                newest_append: by_partition(
                    "kafka_newest_append_timestamp_seconds",
                    "Append time of the newest record read since the start.",
                ),
            },
            rows: counter("lake_rows_total", "Rows written to the lake."),
            points: counter("lake_points_total", "Points written to the lake."),
            dead_letters: counter(
                "dead_letters_total",
                "Records, items and payloads that could not be read.",
            ),
            quarantined: counter("quarantined_rows_total", "Rows that are not believed."),
            feature_rows: counter("feature_rows_total", "Rows written to the offline store."),
            duplicate_agent: counter(
                "duplicate_agent_records_total",
                "Records whose sender had been replaced: two processes send as one agent.",
            ),
            flushes: counter("flushes_total", "Transactions committed."),
            reloads: counter("reloads_total", "Times that the memory was loaded from the lake."),
            paused: gauge("paused", "1 while the lake cannot be written."),
            troubles_found: gauge("troubles", "What a person must look at; /healthz says what."),
            not_ready: Arc::new(Mutex::new(Some("starting".to_owned()))),
            troubles: Arc::default(),
            registry,
        }
    }

    /// Counts what a flush wrote.
    pub fn flushed(&self, flushed: &Flushed) {
        self.rows.inc_by(flushed.rows);
        self.points.inc_by(flushed.points);
        self.dead_letters.inc_by(flushed.dead_letters);
        self.quarantined.inc_by(flushed.quarantined);
        self.feature_rows.inc_by(flushed.written.len() as u64);
        self.flushes.inc();
        self.duplicate_agent.inc_by(flushed.duplicates.records);
        for (agent, text) in &flushed.duplicates.texts {
            self.trouble(&format!("agent {agent}"), text.clone());
        }
    }

    /// Counts a load of the memory.
    pub fn reloaded(&self) {
        self.reloads.inc();
    }

    /// Says that the lake cannot be written, and why; `true` the first time of a pause, however often its reason
    /// changes: it is met at one statement and then at another.
    pub fn pause(&self, why: &str) -> bool {
        let mut not_ready = self.not_ready.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.paused.get() == 0;
        self.paused.set(1);
        *not_ready = Some(why.to_owned());
        first
    }

    /// Says that all is well; `true` if it was not before.
    pub fn ready(&self) -> bool {
        self.paused.set(0);
        self.not_ready.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    /// Takes note of something that a person must look at, under a key of which only the newest text counts.
    pub fn trouble(&self, key: &str, text: String) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.insert(key.to_owned(), text);
        self.troubles_found.set(i64::try_from(troubles.len()).unwrap_or(i64::MAX));
    }

    /// Forgets what was found, as it is looked for anew.
    pub fn forget_troubles(&self) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.troubles_found.set(0);
    }

    /// Gives what a person must look at, one sentence each.
    #[must_use]
    pub fn troubles(&self, now_us: i64) -> Vec<String> {
        let found = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let away = kafka::away(&self.link.kafka(), now_us, Duration::ZERO);
        found.values().cloned().chain(away).collect()
    }

    /// Gives why the collector is not ready, if it is not.
    #[must_use]
    pub fn not_ready(&self, now_us: i64) -> Option<String> {
        let lake = self.not_ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lake.or_else(|| kafka::away(&self.link.kafka(), now_us, self.ready_without_kafka))
    }

    /// Gives how the link to Kafka fares, as pages show it.
    #[must_use]
    pub fn kafka(&self) -> KafkaPage {
        KafkaPage::from(&self.link.kafka())
    }

    /// Counts a request for online features that was answered.
    pub fn answered(&self) {
        self.answered.inc();
    }

    /// Counts a request for online features that was refused.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// Writes all metrics. *Source*: Prometheus text exposition format 0.0.4.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.kafka.set(&self.link.kafka());
        // Writing to a string fails for metrics without a name or a sample, of which there are none.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}
