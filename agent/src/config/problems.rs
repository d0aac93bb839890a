//! What is wrong with a configuration, and where: `file:line: key path: message; what to do`.
//!
//! Invariant: reading goes on after a problem, so that all of them are shown at once.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A place in one of the files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The file, as its directory's configuration names it (`agent.toml`, `conf.d/line-b.toml`).
    pub file: Arc<str>,
    /// From 1; 0 when the whole file is meant.
    pub line: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub at: At,
    /// The tables that lead there (`device "press-03", tag "torque"`); empty at the top of a file.
    pub path: String,
    /// What is wrong; what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in the order of files and lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 problem; nothing was started"),
            n => write!(f, "{n} problems; nothing was started"),
        }
    }
}

/// Collects problems while the files are read.
#[derive(Debug, Default)]
pub(super) struct Sink(RefCell<Vec<Problem>>);

impl Sink {
    pub(super) fn report(&self, at: &At, path: &str, message: impl Into<String>) {
        let problem = Problem { at: at.clone(), path: path.to_owned(), message: message.into() };
        self.0.borrow_mut().push(problem);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Gives what was reported, in order and each once.
    pub(super) fn into_problems(self) -> Problems {
        let mut problems = self.0.into_inner();
        problems.sort_by(|a, b| a.at.cmp(&b.at));
        problems.dedup();
        Problems(problems)
    }
}
