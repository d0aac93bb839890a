//! Whether Kafka answers, since when, and how far each partition is behind: what pages, metrics and `/readyz` show.
//!
//! Pure but for the log: what librdkafka's statistics say goes in, with its own time. Invariant: one line is logged when
//! Kafka goes away and one when it answers again, also where the intake is started anew in between. What only waits for
//! us (a full channel, so that nothing is asked) is no sign of either.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So long no broker must have answered anything that was asked before Kafka counts as away: asked is several times a
/// second, and one lost packet is sent again within it.
const SILENCE_US: i64 = 3_000_000;

/// Whether Kafka answers. The words are the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Word {
    /// It was not heard yet, and it was not silent for long.
    #[default]
    Connecting,
    /// It answers.
    Up,
    /// No broker answers.
    Down,
}

impl Word {
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

/// How far a topic's partition is read, as far as known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// The offset that is handed to the worker next.
    pub next: Option<i64>,
    /// The offset after the last one that Kafka has.
    pub end: Option<i64>,
    /// Append time of the newest record read since the start. *Units*: microseconds since 1970-01-01 UTC.
    pub newest_append_us: Option<i64>,
}

impl Lag {
    /// Gives how many records Kafka has that the worker does not.
    #[must_use]
    pub fn behind(&self) -> Option<i64> {
        Some(self.end?.saturating_sub(self.next?).max(0))
    }
}

/// How the link to Kafka fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kafka {
    /// Whether it answers.
    pub word: Word,
    /// Since when. *Units*: microseconds since 1970-01-01 UTC.
    pub since_us: i64,
    /// The last error, while it is away.
    pub reason: Option<String>,
    /// Lag by topic and partition.
    pub partitions: BTreeMap<(Arc<str>, i32), Lag>,
}

impl Kafka {
    /// Says for how long Kafka has been away. *Units*: microseconds.
    #[must_use]
    pub fn away_us(&self, now_us: i64) -> Option<i64> {
        (self.word == Word::Down).then(|| now_us.saturating_sub(self.since_us).max(0))
    }
}

/// What one snapshot of librdkafka's statistics says of all brokers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// One of them answered since the last snapshot.
    Answer,
    /// None did, and nothing was asked of one that is connected.
    NothingAsked,
    /// None did.
    Silence,
}

/// A view of the link. Clones look at the same one.
#[derive(Debug, Clone, Default)]
pub struct Link(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    kafka: Kafka,
    /// When a broker was last heard, or asked for the first time.
    heard_us: i64,
    /// Why a secured link is refused, in better words than librdkafka's; until a broker answers.
    explained: Option<String>,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how the link fares.
    #[must_use]
    pub fn kafka(&self) -> Kafka {
        self.lock().kafka.clone()
    }

    /// Begins to ask, for the first time or with a new connection.
    pub(super) fn begin(&self, now_us: i64) {
        let mut state = self.lock();
        state.heard_us = state.heard_us.max(now_us);
        if state.kafka.word == Word::Connecting {
            state.kafka.since_us = now_us;
        }
    }

    /// Takes note of the last error, in case it is why nobody answers.
    pub(super) fn trouble(&self, reason: String) {
        let mut state = self.lock();
        if state.explained.is_none() {
            state.kafka.reason = Some(reason);
        }
    }

    /// Takes note of why the link is refused; `None`: a handshake of our own was good, and librdkafka's words stand.
    pub(super) fn explain(&self, refusal: Option<String>) {
        let mut state = self.lock();
        if state.kafka.word == Word::Up {
            return;
        }
        let is_new = refusal.is_some() && refusal != state.explained;
        if refusal.is_some() {
            state.kafka.reason.clone_from(&refusal);
        }
        state.explained.clone_from(&refusal);
        drop(state);
        if let Some(reason) = refusal.filter(|_| is_new) {
            tracing::warn!(reason, "Kafka cannot be spoken to");
        }
    }

    pub(super) fn statistics(&self, heard: Heard, at_us: i64) {
        let mut state = self.lock();
        match heard {
            Heard::NothingAsked => {}
            Heard::Answer => {
                state.heard_us = at_us;
                let was = std::mem::replace(&mut state.kafka.word, Word::Up);
                let reason = state.kafka.reason.take();
                state.explained = None;
                if was != Word::Up {
                    let since_us = std::mem::replace(&mut state.kafka.since_us, at_us);
                    drop(state);
                    if was == Word::Down {
                        let away_s = at_us.saturating_sub(since_us) / 1_000_000;
                        tracing::info!(away_s, was = reason, "Kafka answers again");
                    }
                }
            }
            Heard::Silence => {
                let silent_us = at_us.saturating_sub(state.heard_us);
                if silent_us >= SILENCE_US && state.kafka.word != Word::Down {
                    state.kafka.word = Word::Down;
                    state.kafka.since_us = state.heard_us;
                    let reason = state.kafka.reason.clone();
                    drop(state);
                    tracing::warn!(reason, "Kafka is away: no broker answers; waiting for it");
                }
            }
        }
    }

    pub(super) fn offsets(&self, topic: &Arc<str>, partition: i32, next: Option<i64>, end: Option<i64>) {
        let mut state = self.lock();
        let lag = state.kafka.partitions.entry((Arc::clone(topic), partition)).or_default();
        lag.next = next.or(lag.next);
        lag.end = end.or(lag.end);
    }

    pub(super) fn read(&self, topic: &Arc<str>, partition: i32, append_us: i64) {
        let mut state = self.lock();
        let lag = state.kafka.partitions.entry((Arc::clone(topic), partition)).or_default();
        lag.newest_append_us = lag.newest_append_us.max(Some(append_us));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn word(link: &Link) -> (Word, i64) {
        let kafka = link.kafka();
        (kafka.word, kafka.since_us / S)
    }

    #[test]
    fn silence_makes_it_away_since_it_was_last_heard_and_an_answer_ends_it() {
        let link = Link::default();
        link.begin(100 * S);
        assert_eq!(word(&link), (Word::Connecting, 100));
        link.statistics(Heard::Answer, 102 * S);
        link.statistics(Heard::Answer, 110 * S);
        assert_eq!(word(&link), (Word::Up, 102), "since the first answer");
        link.statistics(Heard::Silence, 112 * S);
        assert_eq!(word(&link), (Word::Up, 102), "one lost packet is no outage");
        link.trouble("refused".to_owned());
        link.statistics(Heard::Silence, 113 * S);
        link.statistics(Heard::Silence, 114 * S);
        assert_eq!(word(&link), (Word::Down, 110));
        assert_eq!(link.kafka().away_us(140 * S), Some(30 * S));
        // The intake starts anew, as after a locked lake.
        link.begin(120 * S);
        link.statistics(Heard::Silence, 121 * S);
        assert_eq!((word(&link), link.kafka().reason.as_deref()), ((Word::Down, 110), Some("refused")));
        link.statistics(Heard::Answer, 122 * S);
        assert_eq!((word(&link), link.kafka().reason), ((Word::Up, 122), None));
        assert_eq!(link.kafka().away_us(140 * S), None);
    }

    #[test]
    fn who_asks_nothing_because_the_worker_is_behind_hears_no_silence() {
        let link = Link::default();
        link.begin(0);
        link.statistics(Heard::Answer, S);
        for at in 2..60 {
            link.statistics(Heard::NothingAsked, at * S);
        }
        assert_eq!(word(&link).0, Word::Up);
    }

    #[test]
    fn a_kafka_that_never_answered_is_away_since_the_start() {
        let link = Link::default();
        link.begin(10 * S);
        link.statistics(Heard::Silence, 12 * S);
        assert_eq!(word(&link).0, Word::Connecting);
        link.statistics(Heard::Silence, 13 * S);
        assert_eq!(word(&link), (Word::Down, 10));
    }

    #[test]
    fn lag_is_told_as_far_as_it_is_known() {
        let (link, topic): (Link, Arc<str>) = (Link::default(), "m.telemetry".into());
        link.offsets(&topic, 1, None, Some(9));
        let lag = |link: &Link| *link.kafka().partitions.first_key_value().unwrap().1;
        assert_eq!(lag(&link).behind(), None);
        link.offsets(&topic, 1, Some(7), None);
        link.read(&topic, 1, 5);
        link.read(&topic, 1, 4);
        assert_eq!((lag(&link).behind(), lag(&link).newest_append_us), (Some(2), Some(5)));
    }
}
