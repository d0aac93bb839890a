//! When the end of a topic's partition is reached (F5), from librdkafka's statistics.
//!
//! Between two statistics a broker that answered and a position at the high watermark mean: all that was there at
//! the earlier of the two has been handed over. While the link is cut no broker answers and no clock moves, so that
//! nobody is given up because we are deaf.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_link::Diagnosis;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::{Broker, Partition, Statistics};

use super::link::{Heard, Link};

/// Answers take at most `fetch.wait.max.ms` and the way; an answer may be older than its arrival by that.
const MARGIN_US: i64 = 500_000;

/// Collects ends until the thread takes them.
pub(super) struct Ends {
    state: Mutex<State>,
    link: Link,
    /// `None`: plain text.
    diagnosis: Option<Diagnosis>,
}

#[derive(Default)]
struct State {
    /// Answers of each broker by then.
    answers: HashMap<String, u64>,
    /// When the last statistics were made.
    last_us: Option<i64>,
    found: Vec<(String, i32, i64)>,
}

impl Ends {
    pub(super) fn new(link: Link, diagnosis: Option<Diagnosis>) -> Self {
        Self { state: Mutex::default(), link, diagnosis }
    }

    /// Takes what was found since the last call: (topic, partition, time).
    pub(super) fn take(&self) -> Vec<(String, i32, i64)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.found)
    }
}

fn position(partition: &Partition) -> i64 {
    if partition.app_offset >= 0 { partition.app_offset } else { partition.next_offset }
}

fn at_end(partition: &Partition) -> bool {
    let position = position(partition);
    partition.fetch_state == "active" && partition.hi_offset >= 0 && position >= partition.hi_offset
}

fn is_up(broker: &Broker) -> bool {
    broker.state == "UP"
}

/// Sums up what all brokers did since the last statistics; `answered` holds those that answered.
fn heard(statistics: &Statistics, answered: &HashMap<i32, bool>) -> Heard {
    let idle = |broker: &Broker| is_up(broker) && broker.waitresp_cnt == 0 && broker.outbuf_cnt == 0;
    if answered.values().any(|answered| *answered) {
        Heard::Answer
    } else if statistics.brokers.values().any(idle) {
        Heard::NothingAsked
    } else {
        Heard::Silence
    }
}

impl ClientContext for Ends {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        // It repeats itself at every attempt; what a person must know comes as an event of the intake, once.
        tracing::debug!(target: "librdkafka", facility, "{line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
        let code = error.rdkafka_error_code();
        if code == Some(Code::Authentication) {
            self.link
                .explain(Some(format!("user name or password are refused: look at [kafka] sasl ({reason})")));
        }
        if let (Some(diagnosis), Some(Code::SSL | Code::BrokerTransportFailure | Code::AllBrokersDown)) =
            (&self.diagnosis, code)
        {
            diagnosis.look_into(&code.map_or_else(String::new, |code| code.to_string()));
        }
    }

    fn stats(&self, statistics: Statistics) {
        // The snapshot's own time: after a stall many are handled at once, and the time of handling would claim
        // that an end was reached which lies minutes back.
        let now_us = statistics.time.saturating_mul(1_000_000);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // What was only configured and not met yet has the number -1.
        let mut answered = HashMap::new();
        for (name, broker) in &statistics.brokers {
            let before = state.answers.insert(name.clone(), broker.rx);
            let answers = is_up(broker) && before.is_some_and(|before| broker.rx > before);
            *answered.entry(broker.nodeid).or_default() |= answers;
        }
        self.link.statistics(heard(&statistics, &answered), now_us);
        for (name, topic) in &statistics.topics {
            let name = Arc::from(name.as_str());
            for (&number, partition) in topic.partitions.iter().filter(|(number, _)| **number >= 0) {
                let known = |offset: i64| (offset >= 0).then_some(offset);
                self.link.offsets(&name, number, known(position(partition)), known(partition.hi_offset));
            }
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
