//! What the collector tells about itself: metrics, and whether it can do its work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntGauge, Registry};

use crate::flush::Flushed;

/// Metrics and readiness, shared by the worker and the server.
#[derive(Clone)]
pub struct Status {
    /// Everything that `/metrics` shows.
    pub registry: Registry,
    rows: IntCounter,
    points: IntCounter,
    dead_letters: IntCounter,
    quarantined: IntCounter,
    feature_rows: IntCounter,
    duplicate_agent: IntCounter,
    flushes: IntCounter,
    reloads: IntCounter,
    paused: IntGauge,
    troubles_found: IntGauge,
    not_ready: Arc<Mutex<Option<String>>>,
    troubles: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

impl Status {
    /// Makes the metrics; the collector is not ready yet.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            #[expect(clippy::expect_used, reason = "the names are constants of the right form")]
            let counter =
                IntCounter::new(format!("millrace_collector_{name}"), help).expect("a valid metric name");
            let _unique = registry.register(Box::new(counter.clone()));
            counter
        };
        let gauge = |name: &str, help: &str| {
            #[expect(clippy::expect_used, reason = "the names are constants of the right form")]
            let gauge =
                IntGauge::new(format!("millrace_collector_{name}"), help).expect("a valid metric name");
            let _unique = registry.register(Box::new(gauge.clone()));
            gauge
        };
        Self {
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

    /// Says that the lake cannot be written, and why; `true` the first time.
    pub fn pause(&self, why: &str) -> bool {
        self.paused.set(1);
        let mut not_ready = self.not_ready.lock().unwrap_or_else(PoisonError::into_inner);
        let first = not_ready.as_deref() != Some(why);
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
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Gives why the collector is not ready, if it is not.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        self.not_ready.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
