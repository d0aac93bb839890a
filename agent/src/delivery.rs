//! What a source hands to the batch stage, and how it learns that it is on disk.
//!
//! This is the one type between `source` and `batch`; it belongs to neither, so that the stages do not
//! import each other.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use millrace_protocol::{BirthTag, Category, ClockSegment, MachineName, RawRow, StreamRow};
use tokio::sync::oneshot;

/// One Modbus poll cycle of a device, or one MQTT message.
#[derive(Debug)]
pub struct Delivery {
    /// The rows, at most one for each machine, category and instant.
    pub rows: Vec<StreamRow>,
    /// The payload, if it could not be read.
    pub raw: Option<RawRow>,
    /// What the source counted for the books (D14), for each machine that it concerns.
    pub counts: Vec<(MachineName, SourceCounts)>,
    /// The clock that the event times come from (D8).
    pub clock: ClockSegment,
    /// Streams and tags that this delivery shows for the first time (MQTT leaves, new machines).
    pub new_tags: Vec<NewTags>,
    /// Present for MQTT: how to recognise a redelivery, and whom to tell that it is on disk (D5).
    pub publish: Option<Publish>,
}

/// The earliest event time that may still be handed over, so that progress does not run past a poll that
/// is under way (D1). Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Horizon {
    underway: Arc<Mutex<Vec<Weak<AtomicI64>>>>,
}

/// A source's share in the [`Horizon`]; it ends with the source.
#[derive(Debug, Clone)]
pub struct Underway {
    since_us: Arc<AtomicI64>,
}

/// Nothing is under way.
const IDLE: i64 = i64::MAX;

impl Horizon {
    /// Lets a source take part.
    #[must_use]
    pub fn source(&self) -> Underway {
        let since_us = Arc::new(AtomicI64::new(IDLE));
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        underway.retain(|source| source.strong_count() > 0);
        underway.push(Arc::downgrade(&since_us));
        Underway { since_us }
    }

    /// Gives the time before which everything has been handed over, if anything is under way.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn earliest_us(&self) -> Option<i64> {
        let underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        let times = underway.iter().filter_map(Weak::upgrade).map(|since| since.load(Ordering::SeqCst));
        times.min().filter(|since_us| *since_us != IDLE)
    }
}

impl Underway {
    /// Says that rows from this time on may come. Event times must be read after it.
    pub fn begin(&self, now_us: i64) {
        self.since_us.store(now_us, Ordering::SeqCst);
    }

    /// Says that what was under way is handed over.
    pub fn end(&self) {
        self.since_us.store(IDLE, Ordering::SeqCst);
    }
}

/// Looks at deliveries as they are received; must be quick and never block.
#[derive(Clone)]
pub struct Observer(pub Arc<dyn Fn(&Delivery) + Send + Sync>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// What an MQTT publish needs beside its rows.
#[derive(Debug)]
pub struct Publish {
    /// Hash of the session's name (the MQTT client id): windows are counted for each session.
    pub session: u64,
    /// Differs for every connection that was made: a redelivered publish comes once on each.
    pub connection: u64,
    /// Hash of (connection's session name, topic, payload; the packet's number too where the payload has
    /// no timestamp, so that equal payloads are told apart); redeliveries have the same (D5).
    pub hash: u64,
    /// The broker says that it may have sent this before.
    pub dup: bool,
    /// Told once the delivery is on disk, or recognised as one that is there already; with a dead disk, once
    /// Kafka has it. Dropped without a word if its rows had to give way: the broker must send it again.
    pub confirm: oneshot::Sender<Confirmed>,
}

/// How a publish came to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// Its rows were stored now.
    Stored,
    /// It was a redelivery; its rows were stored before.
    Redelivered,
}

/// Tags that a source saw for the first time.
#[derive(Debug, Clone)]
pub struct NewTags {
    /// The machine.
    pub machine: MachineName,
    /// The category.
    pub category: Category,
    /// Every tag of the stream that this source has seen since it started, the new ones included. The
    /// next birth has these and, by their names, those that another source or an earlier start announced.
    pub tags: Arc<[BirthTag]>,
    /// Attributes of the machine.
    pub attributes: Vec<(String, String)>,
}

/// A source's part of the books, in points (D14): `due = good + bad + skipped` and
/// `good + bad = suppressed + points in rows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceCounts {
    /// Tags × due cycles, or points of the messages received (redelivered ones excepted).
    pub due: u64,
    /// Points of good quality.
    pub good: u64,
    /// Points of bad quality.
    pub bad: u64,
    /// Points whose cycle fell into a running poll.
    pub skipped: u64,
    /// Points read and not reported (deadband, repeated bad quality).
    pub suppressed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_is_the_earliest_that_is_under_way() {
        let horizon = Horizon::default();
        let (a, b) = (horizon.source(), horizon.source());
        assert_eq!(horizon.earliest_us(), None);
        a.begin(5);
        b.begin(3);
        assert_eq!(horizon.earliest_us(), Some(3));
        b.end();
        assert_eq!(horizon.earliest_us(), Some(5));
        drop(a);
        assert_eq!(horizon.earliest_us(), None, "who is gone hands nothing over");
    }
}
