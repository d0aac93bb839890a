//! Takes keys out of a TOML table, one by one, and collects what is wrong with them.
//!
//! Invariant: every key of a table is either asked for or reported as unknown by [`Section::end`].

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, Source, nearest};

/// The problems found so far.
pub(super) type Problems = Vec<Problem>;

/// A table, of one file or of several, with the keys that nobody has asked for yet.
pub(super) struct Section<'a> {
    /// `[kafka]`, or nothing at the top.
    path: String,
    at: Option<Place<'a>>,
    left: BTreeMap<String, Vec<(Place<'a>, Spanned<DeValue<'a>>)>>,
    known: Vec<&'static str>,
    fallback: &'a Source,
}

impl<'a> Section<'a> {
    /// Puts a table of several files together; `fallback` is named for what stands in none.
    pub(super) fn new(fallback: &'a Source, path: &str, tables: Vec<(Place<'a>, DeTable<'a>)>) -> Self {
        let at = tables.first().map(|(at, _)| at.clone());
        let mut left: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (place, table) in tables {
            for (key, value) in table {
                let at = Place { source: place.source, bytes: key.span() };
                left.entry(key.get_ref().to_string()).or_default().push((at, value));
            }
        }
        Self { path: path.to_owned(), at, left, known: Vec::new(), fallback }
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{} {key}", self.path) }
    }

    fn take(&mut self, problems: &mut Problems, key: &'static str) -> Option<(Place<'a>, DeValue<'a>)> {
        self.known.push(key);
        let mut found = self.left.remove(key)?.into_iter();
        let (at, value) = found.next()?;
        for (again, _) in found {
            self.wrong(problems, Some(again), key, "is set in an earlier file");
        }
        Some((Place { source: at.source, bytes: value.span() }, value.into_inner()))
    }

    /// Reports something about a key that was read.
    pub(super) fn wrong(&self, problems: &mut Problems, at: Option<Place<'a>>, key: &str, message: &str) {
        let at = at.or_else(|| self.at.clone());
        let problem = match at {
            Some(at) => at.source.problem(Some(at.bytes), message),
            None => self.fallback.problem(None, message),
        };
        problems.push(Problem { path: Some(self.name(key)), ..problem });
    }

    fn missing(&self, problems: &mut Problems, key: &str) {
        self.wrong(problems, None, key, "is missing");
    }

    /// Takes a table below this one, from every file that has it.
    pub(super) fn table(&mut self, problems: &mut Problems, key: &'static str) -> Section<'a> {
        self.known.push(key);
        let mut tables = Vec::new();
        for (at, value) in self.left.remove(key).unwrap_or_default() {
            match value.into_inner() {
                DeValue::Table(table) => tables.push((at, table)),
                _ => self.wrong(problems, Some(at), key, "must be a table"),
            }
        }
        Section::new(self.fallback, &format!("[{key}]"), tables)
    }

    /// Tells whether a key is there that nobody has asked for yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.left.contains_key(key)
    }

    /// Takes a table within this one, if it is there.
    pub(super) fn inner(&mut self, problems: &mut Problems, key: &'static str) -> Option<Section<'a>> {
        let (at, value) = self.take(problems, key)?;
        let DeValue::Table(table) = value else {
            self.wrong(problems, Some(at), key, "must be a table: { … }");
            return None;
        };
        Some(Section::new(self.fallback, &self.name(key), vec![(at, table)]))
    }

    /// Takes an optional text with its place.
    pub(super) fn text(&mut self, problems: &mut Problems, key: &'static str) -> Option<(Place<'a>, String)> {
        match self.take(problems, key)? {
            (at, DeValue::String(text)) => Some((at, text.into_owned())),
            (at, _) => {
                self.wrong(problems, Some(at), key, "must be a text in quotes");
                None
            }
        }
    }

    /// Takes a text that must be there.
    pub(super) fn required(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
    ) -> Option<(Place<'a>, String)> {
        if !self.left.contains_key(key) {
            self.known.push(key);
            self.missing(problems, key);
            return None;
        }
        self.text(problems, key)
    }

    /// Takes a list of texts that must be there and not be empty.
    pub(super) fn texts(&mut self, problems: &mut Problems, key: &'static str) -> Vec<(Place<'a>, String)> {
        let Some((at, value)) = self.take(problems, key) else {
            self.missing(problems, key);
            return Vec::new();
        };
        let DeValue::Array(array) = value else {
            self.wrong(problems, Some(at), key, "must be a list of texts");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for element in array {
            let place = Place { source: at.source, bytes: element.span() };
            match (place, element.into_inner()) {
                (at, DeValue::String(text)) => texts.push((at, text.into_owned())),
                (at, _) => self.wrong(problems, Some(at), key, "must be a list of texts"),
            }
        }
        if texts.is_empty() {
            self.wrong(problems, Some(at), key, "must name at least one");
        }
        texts
    }

    /// Takes a whole number within bounds.
    pub(super) fn whole(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        default: u64,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let Some((at, value)) = self.take(problems, key) else { return default };
        let number = match &value {
            DeValue::Integer(n) => u64::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        match number {
            Some(number) if bounds.contains(&number) => number,
            _ => {
                let message = format!("must be a whole number from {} to {}", bounds.start(), bounds.end());
                self.wrong(problems, Some(at), key, &message);
                default
            }
        }
    }

    /// Takes a duration with its unit.
    pub(super) fn duration(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        default: Duration,
    ) -> Duration {
        let Some((at, text)) = self.text(problems, key) else { return default };
        match humantime::parse_duration(&text) {
            Ok(duration) => duration,
            Err(_) => {
                self.wrong(
                    problems,
                    Some(at),
                    key,
                    &format!("{text:?} is no duration; write it as \"10 min\""),
                );
                default
            }
        }
    }

    /// Takes a table of texts, numbers and truth values, all as texts.
    pub(super) fn options(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
    ) -> Vec<(Place<'a>, String, String)> {
        let Some((at, value)) = self.take(problems, key) else { return Vec::new() };
        let DeValue::Table(table) = value else {
            self.wrong(problems, Some(at), key, "must be a table");
            return Vec::new();
        };
        let mut options = Vec::new();
        for (name, value) in table {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(n) if n.radix() == 10 => n.as_str().to_owned(),
                DeValue::Boolean(truth) => truth.to_string(),
                _ => {
                    let path = format!("{key}.{}", name.get_ref());
                    self.wrong(
                        problems,
                        Some(Place { source: at.source, bytes: value.span() }),
                        &path,
                        "must be a text in quotes",
                    );
                    continue;
                }
            };
            options.push((Place { source: at.source, bytes: name.span() }, name.get_ref().to_string(), text));
        }
        options
    }

    /// Refuses a key of a later release, if it is there.
    pub(super) fn later(&mut self, problems: &mut Problems, key: &'static str, sentence: &str) {
        if let Some((at, _)) = self.take(problems, key) {
            self.wrong(problems, Some(at), key, sentence);
        }
    }

    /// Reports every key that nobody asked for.
    pub(super) fn end(self, problems: &mut Problems) {
        for (key, found) in &self.left {
            let message = format!("is not a key of this file{}", nearest(key, &self.known));
            for (at, _) in found {
                self.wrong(problems, Some(at.clone()), key, &message);
            }
        }
    }
}
