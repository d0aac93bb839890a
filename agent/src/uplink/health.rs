//! How the uplink fares: what the status page and the metrics show of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{debug, info, warn};

/// Whether Kafka can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// Nothing was delivered yet, and nothing failed.
    #[default]
    Connecting,
    /// The last word was a delivery.
    Up,
    /// No broker can be reached.
    Down,
}

impl Link {
    /// Gives the word that pages use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// How the uplink fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkHealth {
    /// Whether Kafka can be reached.
    pub link: Link,
    /// The last trouble that is not over, as a sentence.
    pub trouble: Option<String>,
    /// Records that Kafka has not answered.
    pub in_flight_records: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
    /// Whether a record has waited so long for its answer that something must be wrong.
    pub is_stalled: bool,
    /// Records that Kafka took since the start.
    pub sent_records: u64,
    /// Their bytes before compression.
    pub sent_bytes: u64,
    /// Their rows.
    pub sent_rows: u64,
    /// Their points.
    pub sent_points: u64,
    /// Progress items that Kafka took.
    pub sent_progress: u64,
    /// Records whose fate was not known and that were sent again.
    pub resent_records: u64,
    /// Items that Kafka will never take; each is a declared loss.
    pub refused_items: u64,
    /// Births and losses that Kafka refuses now; they are kept and tried again.
    pub refused_notices: u64,
    /// Categories whose records go to `telemetry` because their topic is missing or refuses (D3).
    pub fallback_topics: u64,
    /// Producers that ended with a fatal error.
    pub rebuilt_producers: u64,
}

impl UplinkHealth {
    /// Tells whether a person should look.
    #[must_use]
    pub const fn is_degraded(&self) -> bool {
        matches!(self.link, Link::Down) || self.is_stalled || self.trouble.is_some()
    }
}

/// A view of a running uplink. Clones look at the same one.
#[derive(Debug, Clone, Default)]
pub struct Monitor {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    health: UplinkHealth,
    /// What was logged since the link was last up, so that each kind of trouble is logged once.
    logged: Vec<String>,
    /// What a handshake of our own found, until the link is up; better words than librdkafka's.
    explained: Option<String>,
}

impl Monitor {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Counters are whole after every statement.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how the uplink fares now.
    #[must_use]
    pub fn health(&self) -> UplinkHealth {
        self.lock().health.clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut UplinkHealth)) {
        change(&mut self.lock().health);
    }

    pub(super) fn link_up(&self) {
        let mut shared = self.lock();
        if shared.health.link != Link::Up {
            let was = std::mem::replace(&mut shared.health.link, Link::Up);
            shared.health.trouble = None;
            shared.explained = None;
            shared.logged.clear();
            drop(shared);
            info!(was = was.name(), "Kafka takes records");
        }
    }

    pub(super) fn link_down(&self, reason: &str) {
        let mut shared = self.lock();
        if shared.health.link != Link::Down {
            let was = std::mem::replace(&mut shared.health.link, Link::Down);
            shared.health.trouble.get_or_insert_with(|| reason.to_owned());
            let is_said = was == Link::Connecting && !shared.logged.is_empty();
            drop(shared);
            if !is_said {
                warn!(reason, "no Kafka broker can be reached; rows stay on disk");
            }
        }
    }

    /// Notes what librdkafka says of a connection. One of several brokers may be away while the others serve;
    /// if none is left, it says that too, and that is what a person must know.
    pub(super) fn connection_trouble(&self, kind: &str, reason: &str) {
        let mut shared = self.lock();
        if shared.health.link != Link::Up && shared.explained.is_none() {
            shared.health.trouble = Some(reason.to_owned());
        }
        drop(shared);
        debug!(kind, reason, "trouble with a connection to Kafka");
    }

    /// Notes what a handshake of our own was refused for; `None`: it was not, and librdkafka's words stand.
    pub(super) fn explain(&self, refusal: Option<String>) {
        let mut shared = self.lock();
        if shared.health.link == Link::Up {
            return;
        }
        let is_new = refusal.is_some() && refusal != shared.explained;
        if refusal.is_some() {
            shared.health.trouble.clone_from(&refusal);
        }
        shared.explained = refusal;
        let text = shared.explained.clone().filter(|_| is_new);
        drop(shared);
        if let Some(reason) = text {
            warn!(reason, "Kafka cannot be spoken to");
        }
    }

    /// Notes trouble of a kind; it is logged once until the link is up again. While no broker can be reached
    /// that was said, and what follows from it is no news.
    pub(super) fn link_trouble(&self, kind: &str, reason: &str) {
        let mut shared = self.lock();
        if shared.health.link != Link::Up {
            shared.health.trouble = Some(reason.to_owned());
        }
        if shared.health.link == Link::Down {
            drop(shared);
            debug!(kind, reason, "trouble with Kafka");
        } else if !shared.logged.iter().any(|k| k == kind) {
            shared.logged.push(kind.to_owned());
            drop(shared);
            warn!(kind, reason, "trouble with Kafka");
        }
    }

    /// Notes trouble that the uplink sees itself, such as a missing topic.
    pub(super) fn trouble(&self, kind: &str, reason: &str) {
        self.lock().health.trouble = Some(reason.to_owned());
        self.link_trouble(kind, reason);
    }

    pub(super) fn trouble_is_over(&self) {
        let mut shared = self.lock();
        if shared.health.link == Link::Up {
            shared.health.trouble = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_degraded_while_kafka_is_away_and_good_after_a_delivery() {
        let monitor = Monitor::default();
        assert!(!monitor.health().is_degraded(), "a start is no trouble");
        monitor.connection_trouble("Resolve", "name not known");
        monitor.link_down("1/1 brokers are down");
        let health = monitor.health();
        assert!(health.is_degraded());
        assert_eq!((health.link, health.trouble.as_deref()), (Link::Down, Some("name not known")));
        monitor.link_up();
        assert!(!monitor.health().is_degraded());
        monitor.connection_trouble("Transport", "one of three is away");
        assert!(!monitor.health().is_degraded());
    }
}
