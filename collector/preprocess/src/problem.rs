//! What is wrong with a feature file: its place, the text there, and what may have been meant.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A feature file, as read by whoever does I/O.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The name that messages show.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// One thing that is wrong with the feature files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The whole line.
    pub text: String,
    /// How many characters of it are meant.
    pub width: usize,
    /// What is wrong, as a sentence without its full stop.
    pub message: String,
    /// What may have been meant.
    pub suggestion: Option<String>,
}

impl Problem {
    /// Makes a problem at bytes of a file's text.
    pub(crate) fn at(file: &SourceFile, bytes: Range<usize>, message: impl Into<String>) -> Self {
        let start = floor_char(&file.text, bytes.start);
        let before = file.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = file.text.get(line_start..).unwrap_or_default();
        let text = rest.lines().next().unwrap_or_default();
        let end = floor_char(&file.text, bytes.end).min(line_start + text.len()).max(start);
        let marked = file.text.get(start..end).unwrap_or_default();
        Self {
            file: file.name.as_str().into(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            text: text.trim_end().to_owned(),
            width: marked.chars().count().max(1),
            message: message.into(),
            suggestion: None,
        }
    }

    /// Adds what may have been meant.
    pub(crate) fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }
}

fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// ```text
/// press.toml:12:21: bearing_tmp is no tag …; did you mean "bearing_temp"?
///    12 | temp_mean = "mean(bearing_tmp)"
///       |                   ^^^^^^^^^^^
/// ```
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; {suggestion}")?;
        }
        let lead = self.text.chars().take(self.column - 1);
        let blank: String = lead.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "\n{:>5} | {}\n      | {blank}{}", self.line, self.text, "^".repeat(self.width))
    }
}

/// Gives "did you mean …?" for the nearest known name, if one is near.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let best = known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .min_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)))?;
    let length = name.chars().count();
    let limit = (length / 3).max(1) + usize::from(length > 3);
    (best.0 <= limit && best.0 < length).then(|| format!("did you mean {:?}?", best.1))
}
