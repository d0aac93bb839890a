//! The uplink: what the buffer holds becomes records, Kafka takes them, the buffer forgets them (D2,
//! D3, D9), and streams with nothing waiting say how far they are complete (D1).
//!
//! Invariants: an item is acknowledged only after all replicas have its record; an item whose fate is
//! not known is sent again; only rows that Kafka refused when they were sent alone become a loss. Memory
//! is bounded by [`IN_FLIGHT_BYTES`], however long Kafka is away. rdkafka is named in `producer` only.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use millrace_protocol::{Epoch, Item, RECORD_TARGET_BYTES, RecordBuilder, StreamId};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::buffer::Position;
use crate::config::Kafka;

mod answers;
mod health;
mod outbox;
mod outside;
mod producer;
mod progress;
mod record;
mod route;

pub use health::{Link, Monitor, UplinkHealth};
pub use outbox::Outbox;
pub use outside::{Outside, Produce};
pub use producer::{Answer, Answered, Envelope, Librdkafka, NotTaken, ProducerError};
use producer::{RECORDS_IN_FLIGHT, Settings};
pub use record::Outgoing;
use record::assemble;
pub use route::TopicAnswer;
use route::{Route, Routes};

/// The most that is read from the buffer and not answered by Kafka, give or take one item.
pub const IN_FLIGHT_BYTES: usize = 1024 * 1024;
/// Between two looks at the buffer, so that rows of a moment share a record.
const GATHER: Duration = Duration::from_millis(50);
/// After trouble that concerns no single record: long enough to spare the broker, short for a person.
const PAUSE: Duration = Duration::from_secs(1);
/// A record without an answer for this long means trouble, whatever librdkafka says.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How long a stop waits for answers; what comes later is sent again by the next start.
const LAST_ANSWERS: Duration = Duration::from_millis(400);

/// Says why the uplink ended or did not start.
#[derive(Debug, Error)]
pub enum UplinkError {
    /// librdkafka does not take the configuration.
    #[error("the Kafka producer cannot be made")]
    Producer(#[from] ProducerError),
    /// A blocking step panicked.
    #[error("{step} did not come to its end")]
    Panicked {
        /// Which.
        step: &'static str,
        /// What the runtime says.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// What was sent and not answered.
#[derive(Debug)]
struct InFlight {
    stream: StreamId,
    positions: Vec<Position>,
    rows: u64,
    points: u64,
    bytes: usize,
    is_alone: bool,
    is_progress: bool,
    since: Instant,
}

/// The uplink of one process.
pub struct Uplink<O, W: Outside = Librdkafka> {
    outbox: O,
    outside: W,
    sender: Epoch,
    progress_interval: Duration,
    producer: W::Producer,
    answers: mpsc::Receiver<Answered>,
    routes: Routes,
    /// Assembled, not yet handed to librdkafka.
    pending: VecDeque<Outgoing>,
    in_flight: BTreeMap<usize, InFlight>,
    in_flight_bytes: usize,
    next_ticket: usize,
    /// Items that were refused in company and are tried alone.
    alone: BTreeSet<Position>,
    /// Births and losses that were refused even alone.
    refused: BTreeSet<Position>,
    /// Those of them that go back to the buffer with the next progress, so that each is tried again, seldom.
    held_back: Vec<Position>,
    may_have_more: bool,
    next_take: Instant,
    /// Until when nothing new is sent.
    paused_until: Option<Instant>,
    /// Something failed that may mean that the producer has ended.
    is_suspect: bool,
    monitor: Monitor,
}

impl<O, W: Outside> std::fmt::Debug for Uplink<O, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uplink")
            .field("pending", &self.pending.len())
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

/// Checks what `[kafka]` says without connecting.
///
/// *Errors*: [`UplinkError::Producer`] if librdkafka does not know an option or its value.
pub fn check(kafka: &Kafka) -> Result<(), UplinkError> {
    Settings::new(kafka, "check")?;
    Ok(())
}

impl<O: Outbox> Uplink<O> {
    /// Makes the uplink and starts its producer; Kafka need not be there. `sender` is the running
    /// process's epoch.
    ///
    /// *Errors*: [`UplinkError::Producer`].
    pub fn new(outbox: O, kafka: &Kafka, client_id: &str, sender: Epoch) -> Result<Self, UplinkError> {
        let outside = Librdkafka::new(kafka, client_id)?;
        Self::with_outside(outbox, outside, &kafka.topic_prefix, kafka.progress_interval, sender)
    }
}

impl<O: Outbox, W: Outside> Uplink<O, W> {
    /// Makes the uplink in a world of its own, as the simulation does.
    ///
    /// *Errors*: [`UplinkError::Producer`].
    pub fn with_outside(
        outbox: O,
        outside: W,
        topic_prefix: &str,
        progress_interval: Duration,
        sender: Epoch,
    ) -> Result<Self, UplinkError> {
        let monitor = Monitor::default();
        let (sender_half, answers) = mpsc::channel(RECORDS_IN_FLIGHT);
        Ok(Self {
            outbox,
            sender,
            progress_interval,
            producer: outside.start(sender_half, monitor.clone())?,
            answers,
            routes: Routes::new(topic_prefix),
            pending: VecDeque::new(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            next_ticket: 1,
            alone: BTreeSet::new(),
            refused: BTreeSet::new(),
            held_back: Vec::new(),
            may_have_more: true,
            next_take: outside.now(),
            paused_until: None,
            is_suspect: false,
            monitor,
            outside,
        })
    }

    /// Gives a view of how it fares, for the status page.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    /// Runs until it is stopped; waits a moment for answers that are due.
    ///
    /// *Errors*: [`UplinkError`] if no producer can be made or a blocking step panicked. Whatever was
    /// not acknowledged is still in the buffer.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), UplinkError> {
        let mut next_progress = self.outside.now() + self.progress_interval;
        // A clone, so that waiting for a change does not borrow what a change makes us do.
        let outbox = self.outbox.clone();
        while !stop.is_cancelled() {
            // Not cancel safe: it may have taken items from the buffer, but then the process ends and
            // the next start finds them there.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                sent = self.send_pending() => sent?,
            }
            if std::mem::take(&mut self.is_suspect)
                && let Some(why) = self.producer.why_not_on()
            {
                self.rebuild(&why).await?;
            }
            let paused_until = self.paused_until;
            let may_take = paused_until.is_none() && self.has_room();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(answered) = self.answers.recv() => self.hear(answered),
                () = self.outside.sleep_until(next_progress) => {
                    // A tick that comes late delays those after it.
                    next_progress = self.outside.now() + self.progress_interval;
                    self.say_progress();
                    self.try_refused_again();
                    // A certificate may have been replaced, which nothing else tells.
                    self.is_suspect = true;
                }
                () = self.outside.sleep_until(paused_until.unwrap_or(self.next_take)), if paused_until.is_some() => {
                    self.paused_until = None;
                }
                () = self.outside.sleep_until(self.next_take), if may_take && self.may_have_more => self.take().await?,
                () = outbox.changed(), if may_take && !self.may_have_more => self.may_have_more = true,
            }
        }
        self.end().await
    }

    fn has_room(&self) -> bool {
        self.pending.is_empty()
            && self.in_flight_bytes < IN_FLIGHT_BYTES
            && self.in_flight.len() < RECORDS_IN_FLIGHT / 2
    }

    async fn take(&mut self) -> Result<(), UplinkError> {
        // One record's worth at least, or a nearly full window would be filled with crumbs.
        let room = (IN_FLIGHT_BYTES - self.in_flight_bytes).max(RECORD_TARGET_BYTES);
        let outbox = self.outbox.clone();
        let taken = self.outside.blocking("reading the buffer", move || outbox.take(room)).await?;
        let bytes: usize = taken.iter().map(|stored| stored.item.len()).sum();
        self.may_have_more = !taken.is_empty();
        // A backlog goes as fast as it is taken.
        self.next_take =
            self.outside.now() + if bytes < RECORD_TARGET_BYTES { GATHER } else { Duration::ZERO };
        self.pending = assemble(taken, self.sender, &self.alone, |stream| self.outbox.numbered(stream));
        Ok(())
    }

    /// Hands over what is assembled, as far as topics are known and librdkafka has room.
    async fn send_pending(&mut self) -> Result<(), UplinkError> {
        while self.paused_until.is_none() {
            let Some(record) = self.pending.front() else { break };
            let is_company = record.is_alone && !self.in_flight.is_empty();
            if is_company || self.in_flight.values().any(|sent| sent.is_alone) {
                break;
            }
            let category = record.stream.category.clone();
            match self.routes.route(&category) {
                Route::Ask(topic) => {
                    let answer = self.ask(&topic).await?;
                    self.learn(&category, &topic, &answer);
                }
                Route::Topic(topic) => {
                    let Some(record) = self.pending.pop_front() else { break };
                    if let Some(record) = self.send(&topic, record, false) {
                        self.pending.push_front(record);
                        break;
                    }
                }
            }
        }
        self.show();
        Ok(())
    }

    async fn ask(&self, topic: &str) -> Result<TopicAnswer, UplinkError> {
        let (producer, asked) = (self.producer.clone(), topic.to_owned());
        self.outside.blocking("asking the metadata", move || producer.ask(&asked)).await
    }

    fn learn(&mut self, category: &millrace_protocol::Category, topic: &str, answer: &TopicAnswer) {
        let falls_back = self.routes.answered(category, topic, answer);
        match answer {
            TopicAnswer::Present => self.monitor.trouble_is_over(),
            TopicAnswer::Absent(why) if falls_back => {
                warn!(%category, why, "the category's records go to telemetry until the next start");
            }
            TopicAnswer::Absent(why) => {
                let advice = format!("{why}; make it, or let this agent write to it");
                self.monitor.trouble("topic", &advice);
                self.pause();
            }
            TopicAnswer::Unknown(why) => {
                self.monitor.link_trouble("metadata", why);
                self.pause();
            }
        }
    }

    fn pause(&mut self) {
        self.paused_until = Some(self.outside.now() + PAUSE);
    }

    /// Hands one record to librdkafka; gives it back if there is no room.
    fn send(&mut self, topic: &str, record: Outgoing, is_progress: bool) -> Option<Outgoing> {
        if self.in_flight.len() >= RECORDS_IN_FLIGHT {
            return Some(record);
        }
        let ticket = self.next_ticket;
        let taken = self.producer.send(&Envelope { topic, ticket }, &record);
        if taken == Err(NotTaken::Full) {
            return Some(record);
        }
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let sent = InFlight {
            bytes: record.value.len(),
            stream: record.stream,
            positions: record.positions,
            rows: record.rows,
            points: record.points,
            is_alone: record.is_alone,
            is_progress,
            since: self.outside.now(),
        };
        match taken {
            Err(NotTaken::Answered(answer)) => self.settle(sent, answer),
            Ok(()) | Err(NotTaken::Full) => {
                self.in_flight_bytes += sent.bytes;
                self.in_flight.insert(ticket, sent);
            }
        }
        None
    }

    /// Replaces a producer that met a fatal error (D9): flushed first, and what it does not answer is
    /// sent again.
    async fn rebuild(&mut self, why: &str) -> Result<(), UplinkError> {
        warn!(why, in_flight = self.in_flight.len(), "the producer ended; a new one takes over");
        let (answers, receiver) = mpsc::channel(RECORDS_IN_FLIGHT);
        let next = self.outside.start(answers, self.monitor.clone())?;
        let ended = std::mem::replace(&mut self.producer, next);
        self.outside.blocking("ending the producer", move || ended.end()).await?;
        let mut old = std::mem::replace(&mut self.answers, receiver);
        while let Ok((ticket, answer)) = old.try_recv() {
            if let Some(sent) = self.in_flight.remove(&ticket) {
                self.settle(sent, answer);
            }
        }
        for sent in std::mem::take(&mut self.in_flight).into_values() {
            self.give_back(&sent);
        }
        self.in_flight_bytes = 0;
        self.monitor.update(|health| health.rebuilt_producers += 1);
        self.pause();
        Ok(())
    }

    /// Sends progress for streams that have nothing waiting.
    fn say_progress(&mut self) {
        let now = self.outside.now();
        let is_stalled =
            self.in_flight.values().next().is_some_and(|s| now.duration_since(s.since) > STALLED_AFTER);
        self.monitor.update(|health| health.is_stalled = is_stalled);
        // The time first: what comes to disk in between makes a stream wait, not the time too late.
        let Some(settled_us) = self.outbox.settled_us() else { return };
        let on_their_way: HashSet<StreamId> =
            self.in_flight.values().filter(|s| s.is_progress).map(|s| s.stream.clone()).collect();
        for (stream, progress) in progress::due(settled_us, &self.outbox.streams(), &on_their_way) {
            // A topic that is not known yet is asked for by the first row, not by this.
            let Route::Topic(topic) = self.routes.route(&stream.category) else { continue };
            let numbered = progress.numbered;
            let Ok(item) = Item::Progress(progress).encode() else { continue };
            let mut builder = RecordBuilder::new(stream.clone(), self.sender);
            builder.push(&item, None);
            let record = Outgoing {
                stream,
                positions: Vec::new(),
                first_seq: None,
                rows: 0,
                points: 0,
                is_alone: false,
                value: builder.finish(numbered),
            };
            if self.send(&topic, record, true).is_some() {
                break;
            }
        }
    }

    fn show(&self) {
        let (records, bytes) = (self.in_flight.len() as u64, self.in_flight_bytes as u64);
        let fallbacks = self.routes.fallbacks();
        self.monitor.update(|health| {
            health.in_flight_records = records;
            health.in_flight_bytes = bytes;
            health.fallback_topics = fallbacks;
        });
    }

    async fn end(mut self) -> Result<(), UplinkError> {
        let deadline = self.outside.now() + LAST_ANSWERS;
        while !self.in_flight.is_empty() {
            let answered = tokio::select! {
                biased;
                answered = self.answers.recv() => answered,
                () = self.outside.sleep_until(deadline) => None,
            };
            let Some((ticket, answer)) = answered else { break };
            if let Some(sent) = self.in_flight.remove(&ticket) {
                self.settle(sent, answer);
            }
        }
        let unanswered: u64 = self.in_flight.values().map(|sent| sent.rows).sum();
        info!(unanswered_rows = unanswered, "what is not answered is sent again by the next start");
        // Not flushed: what librdkafka still holds is on disk.
        let producer = self.producer;
        self.outside.blocking("ending the producer", move || drop(producer)).await
    }
}

#[cfg(test)]
mod tests;
