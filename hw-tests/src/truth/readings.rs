//! Reads a truth log and says which values it expects to be found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use super::decode::{TrueValue, decode};
use super::entry::{DeviceEntry, Entry, PublishEntry, PublisherEntry, ReplyEntry};
use crate::plant::fault::FaultKind;
use crate::plant::tag::{Table, Tag};

/// Says why a truth log cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file.
    #[error("{path} cannot be read")]
    Read {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A line; the last one may be cut off, and is passed over then.
    #[error("line {line} is not understood")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// A truth log, decoded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    /// In the order in which they were sent.
    pub readings: Vec<Reading>,
    /// Whether the plant was stopped in order, so that nothing can follow.
    pub stopped: bool,
}

/// The values of one reply or publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// `site/name`.
    pub machine: String,
    /// When it was sent. *Units*: microseconds since 1970-01-01 UTC.
    pub sent_us: i64,
    /// How it was sent.
    pub origin: Origin,
    /// By tag.
    pub values: Vec<(String, TrueValue)>,
}

/// How a reading was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// As a reply.
    Reply {
        /// Bus and number.
        connection: (String, u64),
        /// Whether the client must have taken it.
        taken: Taken,
    },
    /// As a publish.
    Publish {
        /// The event time of the payload. *Units*: microseconds since 1970-01-01 UTC.
        time_us: i64,
        /// Sessions that it was queued for.
        receivers: usize,
    },
}

/// Whether a client must have taken a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It came in time.
    Yes,
    /// It was held back, perhaps for too long.
    PerhapsLate,
    /// After it the client closed the connection: perhaps it gave up waiting.
    PerhapsGivenUp,
}

impl Truth {
    /// Reads a log, also one that is being written.
    ///
    /// *Errors*: every variant of [`ReadError`].
    pub fn load(path: &Path) -> Result<Self, ReadError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ReadError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads the text of a log.
    ///
    /// *Errors*: [`ReadError::Line`].
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
        let mut builder = Builder::default();
        for (n, line) in whole.lines().enumerate() {
            let entry =
                serde_json::from_str(line).map_err(|source| ReadError::Line { line: n + 1, source })?;
            builder.take(entry);
        }
        Ok(builder.finish())
    }

    /// Counts the values.
    #[must_use]
    pub fn values(&self) -> usize {
        self.readings.iter().map(|reading| reading.values.len()).sum()
    }
}

#[derive(Debug, Default)]
struct Builder {
    devices: BTreeMap<String, DeviceEntry>,
    publishers: BTreeMap<String, PublisherEntry>,
    truth: Truth,
    /// The last reading of each connection.
    last: BTreeMap<(String, u64), usize>,
    hung_up: BTreeSet<(String, u64)>,
}

impl Builder {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Device(device) => drop(self.devices.insert(device.machine.clone(), device)),
            Entry::Publisher(publisher) => drop(self.publishers.insert(publisher.topic.clone(), publisher)),
            Entry::Reply(reply) => self.reply(&reply),
            Entry::Publish(publish) => self.publish(&publish),
            Entry::HungUp { bus, connection, .. } => drop(self.hung_up.insert((bus, connection))),
            Entry::Stopped { .. } => self.truth.stopped = true,
        }
    }

    fn reply(&mut self, reply: &ReplyEntry) {
        let connection = (reply.bus.clone(), reply.connection);
        // Whatever came last on a connection is what the client may have given up.
        self.last.remove(&connection);
        let bent = !matches!(reply.fault, None | Some(FaultKind::Late | FaultKind::Frozen));
        let (Some(device), Some(table)) =
            (self.devices.get(&reply.machine), Table::from_function(reply.function))
        else {
            return;
        };
        if bent || reply.exception.is_some() {
            return;
        }
        let held =
            device.tags.iter().filter(|tag| tag.table == table && tag.lies_in(reply.address, reply.count));
        let values = held.filter_map(|tag| Some((tag.name.clone(), value_of(tag, reply)?))).collect();
        let late = reply.fault == Some(FaultKind::Late);
        let taken = if late { Taken::PerhapsLate } else { Taken::Yes };
        self.last.insert(connection.clone(), self.truth.readings.len());
        self.truth.readings.push(Reading {
            machine: reply.machine.clone(),
            sent_us: reply.t,
            origin: Origin::Reply { connection, taken },
            values,
        });
    }

    fn publish(&mut self, publish: &PublishEntry) {
        let Some(publisher) = self.publishers.get(&publish.topic) else { return };
        let Ok(payload) = serde_json::from_str::<Value>(&publish.payload) else { return };
        let Some(ms) = payload.get("ts").and_then(Value::as_i64) else { return };
        let found =
            publisher.tags.iter().filter_map(|(name, path)| Some((name.clone(), leaf(&payload, path)?)));
        self.truth.readings.push(Reading {
            machine: publisher.machine.clone(),
            sent_us: publish.t,
            origin: Origin::Publish { time_us: ms * 1000, receivers: publish.receivers },
            values: found.collect(),
        });
    }

    fn finish(mut self) -> Truth {
        for (connection, index) in &self.last {
            if let Some(Reading { origin: Origin::Reply { taken, .. }, .. }) =
                self.truth.readings.get_mut(*index)
                && self.hung_up.contains(connection)
                && *taken == Taken::Yes
            {
                *taken = Taken::PerhapsGivenUp;
            }
        }
        self.truth
    }
}

fn value_of(tag: &Tag, reply: &ReplyEntry) -> Option<TrueValue> {
    let from = usize::from(tag.address.checked_sub(reply.address)?);
    if let Some(bits) = &reply.bits {
        return bits.as_bytes().get(from).map(|bit| TrueValue::Bool(*bit == b'1'));
    }
    decode(tag, reply.registers.as_ref()?.get(from..from + usize::from(tag.width()))?)
}

fn leaf(payload: &Value, path: &str) -> Option<TrueValue> {
    let value = path.split('.').try_fold(payload, |value, name| value.get(name))?;
    match value {
        Value::Bool(value) => Some(TrueValue::Bool(*value)),
        Value::String(value) => Some(TrueValue::Text(value.clone())),
        Value::Number(number) => {
            let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            whole.map(TrueValue::Integer).or_else(|| number.as_f64().map(TrueValue::F64))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
