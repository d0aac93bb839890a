//! What pages, metrics and `status` say of the link to Kafka.

use std::time::Duration;

use prometheus::{IntGauge, IntGaugeVec};
use serde::{Deserialize, Serialize};

use crate::clock::rfc3339;
use crate::intake::{KafkaLink, Word};

/// `GET /api/kafka`, and the field `kafka` of `status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaPage {
    /// `connecting`, `up` or `down`.
    pub state: String,
    /// Since when.
    pub since: Option<String>,
    /// The last error, while it is down.
    pub reason: Option<String>,
    /// How far each partition is read.
    pub partitions: Vec<PartitionPage>,
}

/// How far a partition is read; null where it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPage {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The offset that is read next.
    pub next: Option<i64>,
    /// The offset after the last one in Kafka.
    pub end: Option<i64>,
    /// Records in Kafka that are not read.
    pub behind: Option<i64>,
    /// Append time of the newest record read since the collector's start.
    pub newest_append: Option<String>,
}

impl From<&KafkaLink> for KafkaPage {
    fn from(link: &KafkaLink) -> Self {
        let partitions = link.partitions.iter().map(|((topic, partition), lag)| PartitionPage {
            topic: topic.to_string(),
            partition: *partition,
            next: lag.next,
            end: lag.end,
            behind: lag.behind(),
            newest_append: lag.newest_append_us.and_then(rfc3339),
        });
        Self {
            state: link.word.name().to_owned(),
            since: rfc3339(link.since_us),
            reason: link.reason.clone(),
            partitions: partitions.collect(),
        }
    }
}

/// Says that Kafka is away, in one sentence, where it has been for at least so long.
pub(super) fn away(link: &KafkaLink, now_us: i64, at_least: Duration) -> Option<String> {
    let away = Duration::from_micros(u64::try_from(link.away_us(now_us)?).unwrap_or(0));
    let since = rfc3339(link.since_us).unwrap_or_default();
    let reason = link.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
    (away >= at_least).then(|| format!("Kafka is away since {since} ({} s){reason}", away.as_secs()))
}

/// The gauges; set when somebody looks.
#[derive(Clone)]
pub(super) struct Gauges {
    pub(super) up: IntGauge,
    pub(super) since: IntGauge,
    pub(super) behind: IntGaugeVec,
    pub(super) newest_append: IntGaugeVec,
}

impl Gauges {
    pub(super) fn set(&self, link: &KafkaLink) {
        self.up.set(i64::from(link.word == Word::Up));
        self.since.set(link.since_us / 1_000_000);
        for ((topic, partition), lag) in &link.partitions {
            let labels = [&**topic, &partition.to_string()];
            if let Some(behind) = lag.behind() {
                self.behind.with_label_values(&labels).set(behind);
            }
            if let Some(at_us) = lag.newest_append_us {
                self.newest_append.with_label_values(&labels).set(at_us / 1_000_000);
            }
        }
    }
}
