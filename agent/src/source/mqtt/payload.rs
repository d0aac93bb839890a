//! Payloads become samples: bytes in, instants with named readings out, or the reason why not. Pure.
//!
//! - A number is a double, whether it is written with a fraction or not, so that a tag keeps its type
//!   when a sensor sends 20.5 after 20. An integer beyond 2^53, which a double cannot hold, is an `i64`
//!   or, beyond that, a `u64`; one beyond 64 bits is a double again, as JSON parsers read it.
//! - A value takes the type that it has: if a tag sends a text where it sent numbers before, the row has
//!   another layout and nothing is lost. Nothing promised a type.
//! - `null` says that there is no value: it is a bad point of a tag that is known, and makes no tag.
//! - Without `tags` every leaf is a tag, named by its dotted path (`axes[0].load`); the timestamp is none.
//! - With `rows` every element of that array is a row; paths are looked up in the element, the timestamp
//!   also in the whole message if the element has none.
//!
//! A message is read as a whole or not at all, so that a raw row can be replayed without doubling rows.

mod instant;
mod path;

use std::sync::Arc;

use millrace_protocol::Value;
use serde_json::Value as Json;
use thiserror::Error;

pub use self::path::{Path, PathError};
use crate::config::{Subscription, Timestamp, TimestampFormat};

/// The largest integer up to which a double holds every one.
const EXACT: u64 = 1 << 53;
/// The longest name of a tag. *Units*: bytes.
const NAME_MAX_BYTES: usize = 200;

/// Says which path of a subscription is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key} \"{text}\" is not a path")]
pub struct PlanError {
    /// `timestamp`, `rows` or the tag.
    pub key: String,
    /// The path as written.
    pub text: String,
    /// What is wrong with it.
    #[source]
    pub cause: PathError,
}

/// Why a payload could not be read, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Undecodable {
    #[error("the payload is not JSON: {0}")]
    NotJson(String),
    #[error("there is no array at rows = \"{0}[*]\"")]
    NoRows(String),
    #[error("there is no timestamp at \"{0}\"")]
    NoTime(String),
    #[error("the timestamp at \"{path}\" is not {expected}: {found}")]
    BadTime { path: String, expected: &'static str, found: String },
    #[error("two values are named \"{0}\"")]
    TwoValues(String),
    #[error("the name of a value has {0} bytes; a tag's name has at most {NAME_MAX_BYTES}")]
    NameTooLong(usize),
    #[error("the message holds none of the tags of its subscription")]
    NoTag,
}

/// What a tag's place in the payload holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// A value.
    Value(Value),
    /// `null`.
    Null,
    /// An object or an array, where a tag wants one value.
    NotOne,
}

/// A reading and the tag that it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The tag's name.
    pub name: Arc<str>,
    /// Its place among the subscription's tags; `None` for a leaf.
    pub tag: Option<usize>,
    /// What was read.
    pub reading: Reading,
}

/// The points of a message at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Event time from the payload; `None`: arrival. *Units*: microseconds since 1970-01-01 UTC.
    pub time_us: Option<i64>,
    /// The points, no name twice.
    pub points: Vec<Point>,
}

/// How the payloads of a subscription are read.
#[derive(Debug, Clone)]
pub struct Plan {
    timestamp: Option<(Path, TimestampFormat)>,
    rows: Option<Path>,
    tags: Vec<(Arc<str>, Path)>,
}

impl Plan {
    /// Takes a subscription's paths. *Errors*: [`PlanError`] for the first wrong one.
    pub fn new(subscription: &Subscription) -> Result<Self, PlanError> {
        let wrong = |key: &str, text: &str| {
            let (key, text) = (key.to_owned(), text.to_owned());
            move |cause| PlanError { key, text, cause }
        };
        let timestamp = match &subscription.timestamp {
            Some(Timestamp { path, format }) => {
                Some((Path::parse(path).map_err(wrong("timestamp", path))?, *format))
            }
            None => None,
        };
        let rows = match &subscription.rows {
            Some(rows) => Some(Path::parse_rows(rows).map_err(wrong("rows", rows))?),
            None => None,
        };
        let mut tags = Vec::with_capacity(subscription.tags.len());
        for tag in &subscription.tags {
            let path = Path::parse(&tag.path).map_err(wrong(&format!("tag \"{}\":", tag.name), &tag.path))?;
            tags.push((tag.name.as_str().into(), path));
        }
        Ok(Self { timestamp, rows, tags })
    }

    /// Reads a payload. Samples of one instant come as one.
    ///
    /// *Errors*: [`Undecodable`]; then nothing of the payload was taken.
    pub fn decode(&self, payload: &[u8]) -> Result<Vec<Sample>, Undecodable> {
        let root: Json =
            serde_json::from_slice(payload).map_err(|error| Undecodable::NotJson(error.to_string()))?;
        let elements = match &self.rows {
            None => std::slice::from_ref(&root),
            Some(path) => match path.find(&root) {
                Some(Json::Array(elements)) => elements.as_slice(),
                _ => return Err(Undecodable::NoRows(path.as_str().to_owned())),
            },
        };
        let mut samples = Vec::with_capacity(elements.len());
        for element in elements {
            let time_us = self.event_time(element, &root)?;
            samples.push(Sample { time_us, points: self.points(element)? });
        }
        if !elements.is_empty() && samples.iter().all(|sample| sample.points.is_empty()) {
            return Err(Undecodable::NoTag);
        }
        let mut samples = merge(samples);
        for sample in &mut samples {
            refuse_doubles(sample)?;
        }
        Ok(samples)
    }

    fn event_time(&self, element: &Json, root: &Json) -> Result<Option<i64>, Undecodable> {
        let Some((path, format)) = &self.timestamp else { return Ok(None) };
        let text = || path.as_str().to_owned();
        let value =
            path.find(element).or_else(|| path.find(root)).ok_or_else(|| Undecodable::NoTime(text()))?;
        match instant::read(value, *format) {
            Some(time_us) => Ok(Some(time_us)),
            None => Err(Undecodable::BadTime {
                path: text(),
                expected: format_name(*format),
                found: value.to_string().chars().take(60).collect(),
            }),
        }
    }

    fn points(&self, element: &Json) -> Result<Vec<Point>, Undecodable> {
        if !self.tags.is_empty() {
            return Ok(self
                .tags
                .iter()
                .enumerate()
                .filter_map(|(at, (name, path))| {
                    let reading = read(path.find(element)?);
                    Some(Point { name: Arc::clone(name), tag: Some(at), reading })
                })
                .collect());
        }
        let time = self.timestamp.as_ref().and_then(|(path, _)| path.find(element));
        let (mut points, mut longest) = (Vec::new(), 0);
        path::for_each_leaf(element, &mut |name, value| {
            // The same place, not an equal value: a tag may well hold the same number.
            if time.is_some_and(|time| std::ptr::eq(time, value)) {
                return;
            }
            longest = longest.max(name.len());
            if longest <= NAME_MAX_BYTES {
                points.push(Point { name: name.into(), tag: None, reading: read(value) });
            }
        });
        if longest > NAME_MAX_BYTES { Err(Undecodable::NameTooLong(longest)) } else { Ok(points) }
    }
}

/// Puts the points of one instant together, in the order in which the instants first came: a stream has
/// at most one row for each of them.
fn merge(samples: Vec<Sample>) -> Vec<Sample> {
    let mut merged: Vec<Sample> = Vec::with_capacity(samples.len());
    let mut places = std::collections::HashMap::new();
    for sample in samples {
        let at = *places.entry(sample.time_us).or_insert(merged.len());
        match merged.get_mut(at) {
            Some(earlier) => earlier.points.extend(sample.points),
            None => merged.push(sample),
        }
    }
    merged
}

fn refuse_doubles(sample: &Sample) -> Result<(), Undecodable> {
    let mut names = std::collections::HashSet::with_capacity(sample.points.len());
    match sample.points.iter().find(|point| !names.insert(&*point.name)) {
        Some(point) => Err(Undecodable::TwoValues(point.name.as_ref().to_owned())),
        None => Ok(()),
    }
}

fn read(value: &Json) -> Reading {
    match value {
        Json::Null => Reading::Null,
        Json::Bool(truth) => Reading::Value(Value::Bool(*truth)),
        Json::String(text) => Reading::Value(Value::Text(text.as_str().into())),
        Json::Number(number) => Reading::Value(read_number(number)),
        Json::Array(_) | Json::Object(_) => Reading::NotOne,
    }
}

fn read_number(number: &serde_json::Number) -> Value {
    match (number.as_i64(), number.as_u64()) {
        (Some(n), _) if n.unsigned_abs() <= EXACT => Value::F64(n as f64),
        (Some(n), _) => Value::I64(n),
        (None, Some(n)) => Value::U64(n),
        // Without arbitrary precision every number of serde_json is one of the three.
        (None, None) => Value::F64(number.as_f64().unwrap_or(f64::NAN)),
    }
}

const fn format_name(format: TimestampFormat) -> &'static str {
    match format {
        TimestampFormat::Rfc3339 => "an RFC 3339 time",
        TimestampFormat::UnixS => "a time in seconds since 1970",
        TimestampFormat::UnixMs => "a time in milliseconds since 1970",
        TimestampFormat::UnixUs => "a time in microseconds since 1970",
        TimestampFormat::UnixNs => "a time in nanoseconds since 1970",
    }
}

#[cfg(test)]
mod tests;
