//! Writes the truth log.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use super::entry::Entry;

/// Says why the truth cannot be written down.
#[derive(Debug, Error)]
pub enum TruthError {
    /// The file cannot be made.
    #[error("the truth log {path} cannot be made")]
    Create {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A line cannot be written; what it tells of must not be sent.
    #[error("the truth log cannot be written")]
    Write(#[source] std::io::Error),
}

/// An open truth log; an older one at the same place is replaced.
#[derive(Debug)]
pub struct TruthLog {
    /// `None`: the truth is not asked for.
    file: Option<Mutex<File>>,
}

impl TruthLog {
    /// Opens a log.
    ///
    /// *Errors*: [`TruthError::Create`].
    pub fn create(path: &Path) -> Result<Self, TruthError> {
        let file =
            File::create(path).map_err(|source| TruthError::Create { path: path.to_owned(), source })?;
        Ok(Self { file: Some(Mutex::new(file)) })
    }

    /// Makes a log that keeps nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { file: None }
    }

    /// Writes one line; a reader of the file sees it when this returns.
    ///
    /// *Errors*: [`TruthError::Write`].
    pub fn write(&self, entry: &Entry) -> Result<(), TruthError> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut line = serde_json::to_vec(entry).map_err(|error| TruthError::Write(error.into()))?;
        line.push(b'\n');
        // One write of the whole line: a line that is cut off can only be the last one.
        file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line).map_err(TruthError::Write)
    }
}
