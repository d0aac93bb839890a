//! What is wrong with a configuration: the place, the key path, and what to do.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One thing that is wrong, in the form `collector.toml:41: [kafka] brokers: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as messages show it.
    pub file: Arc<str>,
    /// From 1; `None` when no line can be named (a missing key of a missing table).
    pub line: Option<usize>,
    /// The table and key, where it is about one.
    pub path: Option<String>,
    /// What is wrong, as a sentence without its full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: ", self.file)?,
            None => write!(f, "{}: ", self.file)?,
        }
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: Arc<str>,
    pub(super) text: String,
}

/// A place in a file.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    pub(super) source: &'a Source,
    pub(super) bytes: Range<usize>,
}

impl Source {
    pub(super) fn problem(&self, at: Option<Range<usize>>, message: impl Into<String>) -> Problem {
        let line = at.map(|at| {
            let before = self.text.as_bytes().get(..at.start).unwrap_or_default();
            before.iter().filter(|&&b| b == b'\n').count() + 1
        });
        Problem { file: Arc::clone(&self.file), line, path: None, message: message.into() }
    }
}

/// Gives `; did you mean "…"?` for the nearest known name, or nothing.
pub(super) fn nearest(name: &str, known: &[&str]) -> String {
    let best = known.iter().map(|k| (strsim::damerau_levenshtein(name, k), *k)).min();
    let limit = (name.chars().count() / 3).max(1) + 1;
    match best {
        Some((distance, known)) if distance <= limit => format!("; did you mean {known:?}?"),
        _ => String::new(),
    }
}
