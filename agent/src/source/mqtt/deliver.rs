//! A message becomes a [`Delivery`]: rows of its machine, or one raw row that says why it has none.
//!
//! Invariant: a message of a subscribed machine is never dropped. What the subscriptions do not ask for
//! (no pattern matches, the machine is not among `machines`, an array of rows without rows) is ignored,
//! which is the one outcome that stores nothing.
//!
//! Where several subscriptions match a topic, the first in the file that accepts the machine reads it.
//! This module makes the values that [`crate::delivery`] names and knows nothing of connections.

mod known;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_protocol::{
    Category, ClockSegment, ITEM_MAX_BYTES, MachineName, RawRow, Row, RowFlags, StreamRow, Value,
};
use thiserror::Error;
use tokio::sync::oneshot;

use self::known::{Known, Wish, Wishes, value_type};
pub use self::known::{MAX_BIRTH_BYTES, MAX_MACHINES, MAX_TAGS, Refused};
use super::payload::{Plan, PlanError, Point, Reading, Sample, Undecodable};
use super::topic::{MachineFilter, Match, Pattern, PatternError};
use crate::config::{Mqtt, Subscription};
use crate::delivery::{Confirmed, Delivery, NewTags, Publish, SourceCounts};

/// What an item keeps free for a topic (at most 64 KiB), the reason, and what CBOR adds. *Units*: bytes.
const ITEM_RESERVE: usize = 128 * 1024;
/// The most that a raw row keeps of a payload, and that a row may take. *Units*: bytes.
pub const ROW_MAX_BYTES: usize = ITEM_MAX_BYTES - ITEM_RESERVE;

/// Says what is wrong with a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubscriptionError {
    /// Its topic is no pattern.
    #[error("topic \"{topic}\" is no pattern")]
    Pattern {
        /// The topic as written.
        topic: String,
        /// What is wrong with it.
        #[source]
        cause: PatternError,
    },
    /// One of its paths is wrong.
    #[error("subscription \"{topic}\" cannot be read")]
    Plan {
        /// The topic as written.
        topic: String,
        /// Which path, and what is wrong with it.
        #[source]
        cause: PlanError,
    },
}

/// A message as the connection received it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'m> {
    /// Its topic.
    pub topic: &'m str,
    /// Its payload.
    pub payload: &'m [u8],
    /// Of the whole packet. *Units*: bytes.
    pub packet_bytes: usize,
    /// How the broker sent it.
    pub sent: Sent,
    /// The connection that it came on.
    pub connection: u64,
    /// When it came. *Units*: microseconds since 1970-01-01 UTC.
    pub arrived_us: i64,
    /// The clock that said so.
    pub clock: ClockSegment,
}

/// How the broker sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// The number to acknowledge it by; `None` for QoS 0.
    pub packet_id: Option<u16>,
    /// It may have been sent before.
    pub dup: bool,
    /// The broker kept it and sent it because of a subscription.
    pub retained: bool,
}

/// What becomes of a message.
#[derive(Debug)]
pub enum Outcome {
    /// It goes to the batch stage.
    Deliver {
        /// What goes there.
        delivery: Box<Delivery>,
        /// Resolves when it is on disk; `None` for a message that wants no acknowledgement.
        confirmed: Option<oneshot::Receiver<Confirmed>>,
        /// Why it is a raw row.
        problem: Option<Problem>,
    },
    /// Nothing of it is stored; it is acknowledged at once.
    Ignore(Ignored),
}

/// Why nothing of a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// No subscription matches its topic: the broker's session remembers an earlier configuration.
    NotSubscribed,
    /// The subscriptions that match do not accept its machine.
    NotAccepted,
    /// It has no rows, or nothing but nulls of tags that never had a value.
    Empty,
}

/// Why a message became a raw row, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Problem {
    #[error("the packet has {bytes} bytes and max_packet is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("a retained message without a timestamp does not say when it was true")]
    NoTime,
    #[error("a row of {0} bytes does not fit an item; at most {ROW_MAX_BYTES} do")]
    RowTooLarge(usize),
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    #[error(transparent)]
    Refused(#[from] Refused),
}

#[derive(Debug)]
struct Reader {
    pattern: Pattern,
    machines: MachineFilter,
    plan: Plan,
    config: Subscription,
}

/// Makes deliveries of a connection's messages.
#[derive(Debug)]
pub struct Deliverer {
    connection: String,
    client_id: String,
    session: u64,
    max_packet: usize,
    readers: Vec<Reader>,
    known: Known,
}

impl Deliverer {
    /// Takes a connection's subscriptions. *Errors*: [`SubscriptionError`] for the first wrong one.
    pub fn new(config: &Mqtt, site: &str) -> Result<Self, SubscriptionError> {
        let readers = config.subscriptions.iter().map(|subscription| {
            let topic = || subscription.topic.clone();
            Ok(Reader {
                pattern: Pattern::parse(&subscription.topic)
                    .map_err(|cause| SubscriptionError::Pattern { topic: topic(), cause })?,
                machines: MachineFilter::new(&subscription.machines),
                plan: Plan::new(subscription)
                    .map_err(|cause| SubscriptionError::Plan { topic: topic(), cause })?,
                config: subscription.clone(),
            })
        });
        Ok(Self {
            connection: config.name.clone(),
            client_id: config.client_id.clone(),
            session: hash(&config.client_id, "", 0, &[]),
            max_packet: config.max_packet,
            readers: readers.collect::<Result<_, _>>()?,
            known: Known::new(site),
        })
    }

    /// Gives the filters to subscribe, each with its QoS, in the order of the file.
    pub fn filters(&self) -> impl Iterator<Item = (String, u8)> + '_ {
        self.readers.iter().map(|reader| (reader.pattern.filter(), reader.config.qos))
    }

    /// Makes a message's delivery.
    pub fn deliver(&mut self, message: &Message<'_>) -> Outcome {
        let (readers, known) = (&self.readers, &mut self.known);
        let mut matching = readers.iter().enumerate().filter_map(|(at, reader)| {
            let matched = reader.pattern.matches(message.topic)?;
            Some(Question { at, reader, matched, message, connection: &self.connection })
        });
        let mut next = matching.next();
        if next.is_none() {
            return Outcome::Ignore(Ignored::NotSubscribed);
        }
        while next.as_ref().is_some_and(|q| !q.reader.machines.accepts(q.matched.machine)) {
            next = matching.next();
        }
        let Some(question) = next else { return Outcome::Ignore(Ignored::NotAccepted) };
        let subscription = &question.reader.config;
        let (rows, counts, new_tags, problem) = match question.read(self.max_packet, known) {
            Ok(None) => return Outcome::Ignore(Ignored::Empty),
            Ok(Some(read)) => (read.rows, vec![(read.machine, read.counts)], read.new_tags, None),
            Err(problem) => (Vec::new(), Vec::new(), Vec::new(), Some(problem)),
        };
        let (publish, confirmed) = self.publish(message, subscription);
        let raw = problem.as_ref().map(|problem| raw_row(message, problem));
        let delivery = Delivery { rows, raw, counts, clock: message.clock, new_tags, publish };
        Outcome::Deliver { delivery: Box::new(delivery), confirmed, problem }
    }

    /// Makes what a redelivery is recognised by (D5).
    ///
    /// A payload with a timestamp of its own differs from every other one, so the same payload is the same
    /// message. One without ("on", "off", "on") does not; there the packet's number counts too, which a
    /// broker must keep when it sends again. *Source*: MQTT 3.1.1, section 4.4.
    fn publish(
        &self,
        message: &Message<'_>,
        config: &Subscription,
    ) -> (Option<Publish>, Option<oneshot::Receiver<Confirmed>>) {
        let Some(packet_id) = message.sent.packet_id else { return (None, None) };
        let (confirm, confirmed) = oneshot::channel();
        let number = if config.timestamp.is_some() { 0 } else { packet_id };
        let publish = Publish {
            session: self.session,
            connection: message.connection,
            hash: hash(&self.client_id, message.topic, number, message.payload),
            dup: message.sent.dup,
            confirm,
        };
        (Some(publish), Some(confirmed))
    }
}

/// A message and the subscription that reads it.
struct Question<'a> {
    at: usize,
    reader: &'a Reader,
    matched: Match<'a>,
    message: &'a Message<'a>,
    connection: &'a str,
}

struct Read {
    machine: MachineName,
    rows: Vec<StreamRow>,
    counts: SourceCounts,
    new_tags: Vec<NewTags>,
}

impl Question<'_> {
    /// Gives the rows; `None` if there is nothing to store. After an error nothing was taken in.
    fn read(&self, max_packet: usize, known: &mut Known) -> Result<Option<Read>, Problem> {
        let (message, machine) = (self.message, self.matched.machine);
        if message.packet_bytes > max_packet {
            return Err(Problem::TooLarge { bytes: message.packet_bytes, limit: max_packet });
        }
        let samples = self.reader.plan.decode(message.payload)?;
        if message.sent.retained && samples.iter().any(|sample| sample.time_us.is_none()) {
            return Err(Problem::NoTime);
        }
        let instants = self.by_category(samples, known);
        if let Some(bytes) = instants.iter().map(row_bytes).find(|bytes| *bytes > ROW_MAX_BYTES) {
            return Err(Problem::RowTooLarge(bytes));
        }
        if instants.is_empty() {
            return Ok(None);
        }
        let wishes = self.wishes(&instants, known);
        let (name, new_tags) = known.admit(machine, &self.matched.attributes, wishes)?;
        let (mut rows, mut counts) = (Vec::with_capacity(instants.len()), SourceCounts::default());
        for Instant { time_us, category, points } in instants {
            let (layout, cells) = known.place(machine, &category, self.at, &points);
            counts.good += cells.iter().filter(|cell| cell.value().is_some()).count() as u64;
            counts.due += cells.iter().filter(|cell| cell.is_point()).count() as u64;
            let (time_us, flags) = event_time(time_us, message);
            let row = Row { time_us, flags, layout, cells };
            rows.push(StreamRow { machine: name.clone(), category, row });
        }
        counts.bad = counts.due - counts.good;
        Ok(Some(Read { machine: name, rows, counts, new_tags }))
    }

    /// Sorts points into categories, and leaves out nulls that no tag is known for.
    fn by_category(&self, samples: Vec<Sample>, known: &Known) -> Vec<Instant> {
        let mut instants = Vec::new();
        for sample in samples {
            let mut categories: Vec<Instant> = Vec::with_capacity(1);
            for point in sample.points {
                let tag = point.tag.and_then(|at| self.reader.config.tags.get(at));
                let category = tag.map_or(&self.reader.config.category, |tag| &tag.category);
                let leaf_without_value = tag.is_none() && point.reading == Reading::Null;
                if leaf_without_value && !known.has_tag(self.matched.machine, category, &point.name) {
                    continue;
                }
                match categories.iter_mut().find(|instant| instant.category == *category) {
                    Some(instant) => instant.points.push(point),
                    None => categories.push(Instant {
                        time_us: sample.time_us,
                        category: category.clone(),
                        points: vec![point],
                    }),
                }
            }
            instants.append(&mut categories);
        }
        instants
    }

    /// Lists what the streams do not know yet: of the subscription's tags all, whether this message has
    /// them or not, and of this message every leaf and every type.
    fn wishes(&self, instants: &[Instant], known: &Known) -> BTreeMap<Category, Wishes> {
        let machine = self.matched.machine;
        let mut wishes: BTreeMap<Category, Wishes> = BTreeMap::new();
        let source = |path: &str| -> Arc<str> {
            format!("{} {} {path}", self.connection, self.reader.pattern.as_str()).into()
        };
        for tag in &self.reader.config.tags {
            if !known.has_tag(machine, &tag.category, &tag.name) {
                let wish = || Wish {
                    unit: tag.unit.as_deref().map(Into::into),
                    source: source(&tag.path),
                    types: Vec::new(),
                };
                wishes.entry(tag.category.clone()).or_default().add(&tag.name, wish);
            }
        }
        for instant in instants {
            for point in &instant.points {
                let value_type = value_type(point);
                if !known.knows(machine, &instant.category, &point.name, value_type) {
                    let wish = || Wish { unit: None, source: source(&point.name), types: Vec::new() };
                    let wishes = wishes.entry(instant.category.clone()).or_default();
                    wishes.add(&point.name, wish).types.extend(value_type);
                }
            }
        }
        wishes
    }
}

/// The points of one category at one instant: a row to be.
struct Instant {
    time_us: Option<i64>,
    category: Category,
    points: Vec<Point>,
}

/// Estimates what a row takes in a chunk, never too low.
fn row_bytes(instant: &Instant) -> usize {
    let cell = |point: &Point| match &point.reading {
        Reading::Value(Value::Text(text)) => text.len() + 16,
        _ => 16,
    };
    instant.points.iter().map(cell).sum()
}

fn event_time(time_us: Option<i64>, message: &Message<'_>) -> (i64, RowFlags) {
    match time_us {
        Some(time_us) => (time_us, RowFlags::SOURCE_TIME),
        None if message.clock.unsynced.is_some() => (message.arrived_us, RowFlags::CLOCK_UNSYNCED),
        None => (message.arrived_us, RowFlags::default()),
    }
}

fn raw_row(message: &Message<'_>, problem: &Problem) -> RawRow {
    let kept = message.payload.get(..ROW_MAX_BYTES).unwrap_or(message.payload);
    let cut = match message.payload.len() - kept.len() {
        0 => String::new(),
        more => format!("; the last {more} bytes of the payload are cut off"),
    };
    RawRow {
        time_us: message.arrived_us,
        topic: message.topic.into(),
        payload: kept.into(),
        reason: format!("{problem}{cut}").into(),
    }
}

/// CRC-64/XZ of session, topic, number and payload, the first two with their lengths, so that no two
/// messages give the same bytes.
fn hash(client_id: &str, topic: &str, number: u16, payload: &[u8]) -> u64 {
    const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_XZ);
    let mut digest = CRC.digest();
    for field in [client_id, topic] {
        digest.update(&(field.len() as u64).to_le_bytes());
        digest.update(field.as_bytes());
    }
    digest.update(&number.to_le_bytes());
    digest.update(payload);
    digest.finalize()
}

#[cfg(test)]
mod tests;
