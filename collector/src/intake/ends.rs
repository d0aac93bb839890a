//! When the end of a topic's partition is reached (F5), from librdkafka's statistics.
//!
//! Between two statistics a broker that answered and a position at the high watermark mean: all that was there at
//! the earlier of the two has been handed over. While the link is cut no broker answers and no clock moves, so that
//! nobody is given up because we are deaf.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::statistics::{Partition, Statistics};

/// Answers take at most `fetch.wait.max.ms` and the way; an answer may be older than its arrival by that.
const MARGIN_US: i64 = 500_000;

/// Collects ends until the thread takes them.
#[derive(Default)]
pub(super) struct Ends {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Answers of each broker by then.
    answers: HashMap<i32, u64>,
    /// When the last statistics were made.
    last_us: Option<i64>,
    found: Vec<(String, i32, i64)>,
}

impl Ends {
    /// Takes what was found since the last call: (topic, partition, time).
    pub(super) fn take(&self) -> Vec<(String, i32, i64)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.found)
    }
}

fn at_end(partition: &Partition) -> bool {
    let position = if partition.app_offset >= 0 { partition.app_offset } else { partition.next_offset };
    partition.fetch_state == "active" && partition.hi_offset >= 0 && position >= partition.hi_offset
}

impl ClientContext for Ends {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        // It repeats itself at every attempt; what a person must know comes as an event of the intake, once.
        tracing::debug!(target: "librdkafka", facility, "{line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }

    fn stats(&self, statistics: Statistics) {
        // The snapshot's own time: after a stall many are handled at once, and the time of handling would claim
        // that an end was reached which lies minutes back.
        let now_us = statistics.time.saturating_mul(1_000_000);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answered = HashMap::new();
        for broker in statistics.brokers.values().filter(|broker| broker.nodeid >= 0) {
            let before = state.answers.insert(broker.nodeid, broker.rx);
            let answers = broker.state == "UP" && before.is_some_and(|before| broker.rx > before);
            answered.insert(broker.nodeid, answers);
        }
        let Some(last_us) = state.last_us.replace(now_us) else { return };
        for (name, topic) in &statistics.topics {
            for (&number, partition) in topic.partitions.iter().filter(|(number, _)| **number >= 0) {
                let heard = answered.get(&partition.leader).copied().unwrap_or(false);
                if heard && at_end(partition) {
                    state.found.push((name.clone(), number, last_us.saturating_sub(MARGIN_US)));
                }
            }
        }
    }
}

impl ConsumerContext for Ends {}
