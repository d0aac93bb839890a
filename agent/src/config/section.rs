//! A table of the configuration while it is read: every key is taken once, with its type and its
//! default, and what nobody took is an unknown key.
//!
//! Invariant: a value that cannot be used is reported, and the default goes on in its place, so that
//! reading never stops at the first problem.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::problems::{At, Sink};
use super::tree::{Node, Table, Value};
use super::units;

/// How far a key may be from a known one to be taken for it. *Units*: edits.
const NEAREST_MAX_EDITS: usize = 3;

/// A table while it is read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    table: &'a Table,
    path: String,
    known: Vec<&'static str>,
    sink: &'a Sink,
}

impl<'a> Section<'a> {
    pub(super) const fn new(table: &'a Table, path: String, sink: &'a Sink) -> Self {
        Self { table, path, known: Vec::new(), sink }
    }

    pub(super) const fn sink(&self) -> &'a Sink {
        self.sink
    }

    pub(super) const fn at(&self) -> &'a At {
        &self.table.at
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Puts what the table is named by into its path once it is known.
    pub(super) fn set_path(&mut self, path: String) {
        self.path = path;
    }

    pub(super) fn report(&self, at: &At, message: impl Into<String>) {
        self.sink.report(at, &self.path, message);
    }

    /// Takes a key.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// Gives the line of a key, or of the table if it is not there.
    pub(super) fn line_of(&self, key: &str) -> At {
        let entry = self.table.entries.iter().find(|entry| entry.key == key);
        entry.map_or_else(|| self.table.at.clone(), |entry| entry.node.at.clone())
    }

    /// Refuses a key that a later release brings.
    pub(super) fn later(&mut self, key: &'static str, what_to_do: &str) {
        if let Some(node) = self.get(key) {
            self.report(&node.at, format!("{key} comes with a later release; {what_to_do}"));
        }
    }

    /// Reports a key of another kind than it must be.
    pub(super) fn wrong(&self, key: &str, node: &Node, wanted: &str) {
        self.report(&node.at, format!("{key} is {}; write {wanted}", node.value.kind()));
    }

    pub(super) fn missing(&self, key: &str, example: &str) {
        self.report(&self.table.at, format!("{key} is missing; write {example}"));
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let node = self.get(key)?;
        match &node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.wrong(key, node, "a text in quotes");
                None
            }
        }
    }

    pub(super) fn required_text(&mut self, key: &'static str, example: &str) -> Option<&'a str> {
        if self.get(key).is_none() {
            self.missing(key, example);
        }
        self.text(key)
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.get(key).map(|node| (node, &node.value)) {
            None => default,
            Some((_, Value::Bool(flag))) => *flag,
            Some((node, _)) => {
                self.wrong(key, node, "true or false");
                default
            }
        }
    }

    /// Takes an integer of a range; `None` when it is not there or was reported.
    pub(super) fn integer<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + std::fmt::Display,
    {
        let node = self.get(key)?;
        let Value::Integer(number) = node.value else {
            self.wrong(key, node, "an integer");
            return None;
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                let message = format!("{key} is {number}; write {} to {}", range.start(), range.end());
                self.report(&node.at, message);
                None
            }
        }
    }

    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        let node = self.get(key)?;
        let number = number_of(node);
        if number.is_none() {
            self.wrong(key, node, "a number");
        }
        number
    }

    /// Takes a list of numbers.
    pub(super) fn numbers(&mut self, key: &'static str) -> Option<(&'a At, Vec<f64>)> {
        let node = self.get(key)?;
        let numbers = match &node.value {
            Value::List(list) => list.iter().map(number_of).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        if numbers.is_none() {
            self.wrong(key, node, "a list of numbers, for instance [0, 10]");
        }
        numbers.map(|numbers| (&node.at, numbers))
    }

    /// Takes a list of two finite numbers.
    pub(super) fn pair(&mut self, key: &'static str) -> Option<(f64, f64)> {
        let (at, numbers) = self.numbers(key)?;
        match numbers[..] {
            [low, high] if low.is_finite() && high.is_finite() => Some((low, high)),
            _ => {
                self.report(at, format!("{key} takes two numbers, for instance [0, 10]"));
                None
            }
        }
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<(&'a At, &'a str)>> {
        let node = self.get(key)?;
        let text = |node: &'a Node| match &node.value {
            Value::Text(text) => Some((&node.at, text.as_str())),
            _ => None,
        };
        let texts = match &node.value {
            Value::List(list) => list.iter().map(text).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        if texts.is_none() {
            self.wrong(key, node, "a list of texts, for instance [\"a\", \"b\"]");
        }
        texts
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let node = self.get(key)?;
        let parsed = match &node.value {
            Value::Text(text) => units::duration(text),
            _ => None,
        };
        if parsed.is_none() {
            let message = format!(
                "{key} is no duration; write a number with its unit, for instance \"500 ms\" or \"10 min\""
            );
            self.report(&node.at, message);
        }
        parsed
    }

    /// Takes a duration of a range.
    pub(super) fn duration_in(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = self.duration(key)?;
        if !range.contains(&value) {
            let (from, to) = (shown(*range.start()), shown(*range.end()));
            self.report(&self.line_of(key), format!("{key} is {}; write {from} to {to}", shown(value)));
            return None;
        }
        Some(value)
    }

    pub(super) fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let node = self.get(key)?;
        let parsed = match &node.value {
            Value::Text(text) => units::size(text),
            _ => None,
        };
        match parsed {
            Some(size) if range.contains(&size) => parsed,
            Some(size) => {
                let (from, to) = (range.start(), range.end());
                self.report(&node.at, format!("{key} is {size} bytes; write {from} B to {to} B"));
                None
            }
            None => {
                let message = format!(
                    "{key} is no size; write a number with its unit, for instance \"512 MiB\" or \"2 GiB\""
                );
                self.report(&node.at, message);
                None
            }
        }
    }

    /// Takes the path of a file that must be there; relative to `base`.
    pub(super) fn readable_file(&mut self, key: &'static str, base: &std::path::Path) -> Option<PathBuf> {
        let path = base.join(self.text(key)?);
        match std::fs::File::open(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                let message = format!("{key} {} cannot be read ({error}); make it readable", path.display());
                self.report(&self.line_of(key), message);
                None
            }
        }
    }

    /// Takes a table as a section of its own.
    pub(super) fn table(&mut self, key: &'static str, path: String) -> Option<Section<'a>> {
        let node = self.get(key)?;
        match &node.value {
            Value::Table(table) => Some(Section::new(table, path, self.sink)),
            _ => {
                self.wrong(key, node, &format!("a table, for instance {key} = {{ … }}"));
                None
            }
        }
    }

    /// Takes a list of tables.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<&'a Table> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let Value::List(list) = &node.value else {
            self.wrong(key, node, "a list of tables");
            return Vec::new();
        };
        let mut tables = Vec::new();
        for node in list {
            match &node.value {
                Value::Table(table) => tables.push(table),
                _ => self.wrong(key, node, "a list of tables"),
            }
        }
        tables
    }

    /// Gives every key and value of a table whose keys are the user's own.
    pub(super) fn own_keys(&self) -> impl Iterator<Item = (&'a str, &'a Node)> {
        self.table.entries.iter().map(|entry| (entry.key.as_str(), &entry.node))
    }

    /// Ends reading: what was not taken is unknown.
    pub(super) fn finish(self) {
        for entry in self.table.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let distance = |known: &&&str| strsim::damerau_levenshtein(&entry.key, known);
            let hint = match self.known.iter().min_by_key(distance) {
                Some(nearest) if distance(&nearest) <= NEAREST_MAX_EDITS => {
                    format!("did you mean \"{nearest}\"?")
                }
                _ => format!("known here: {}", self.known.join(", ")),
            };
            self.report(&entry.at, format!("unknown key \"{}\"; {hint}", entry.key));
        }
    }
}

fn number_of(node: &Node) -> Option<f64> {
    match node.value {
        Value::Integer(number) => Some(number as f64),
        Value::Float(number) => Some(number),
        _ => None,
    }
}

/// Gives a duration as the configuration writes it.
pub(super) fn shown(duration: Duration) -> String {
    let us = duration.as_micros();
    let units = [(60_000_000, "min"), (1_000_000, "s"), (1_000, "ms"), (1, "us")];
    let (size, unit) =
        units.into_iter().find(|(size, _)| us >= *size && us.is_multiple_of(*size)).unwrap_or((1, "us"));
    format!("\"{} {unit}\"", us / size)
}
