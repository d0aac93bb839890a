//! One table of a feature file, read key by key; what nobody asked for is a problem.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::Expression;
use crate::language::duration_us;
use crate::problem::{Problem, SourceFile, nearest};

/// A text and its bytes in the file.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

/// Where problems of one file go.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) file: &'a SourceFile,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Report<'a> {
    pub(super) const fn new(file: &'a SourceFile) -> Self {
        Self { file, problems: RefCell::new(Vec::new()) }
    }

    pub(super) fn say(&self, span: Range<usize>, message: impl Into<String>) {
        self.suggest(span, message, None);
    }

    pub(super) fn suggest(&self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        self.problems.borrow_mut().push(Problem::at(self.file, span, message).suggest(hint));
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A table, what it is, and the keys that were asked for.
pub(super) struct Section<'a> {
    pub(super) report: &'a Report<'a>,
    /// `feature view "press_health_1m"`, for messages.
    pub(super) what: String,
    pub(super) span: Range<usize>,
    table: &'a DeTable<'a>,
    asked: RefCell<Vec<&'static str>>,
    refused: Cell<bool>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        report: &'a Report<'a>,
        what: &str,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Self {
        Self {
            report,
            what: what.to_owned(),
            span,
            table,
            asked: RefCell::default(),
            refused: Cell::new(false),
        }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    /// Says that the table as a whole was refused, so that its keys do not matter.
    pub(super) fn refuse(&self) {
        self.refused.set(true);
    }

    /// Reports keys that nobody asked for.
    pub(super) fn finish(&self) {
        if self.refused.get() {
            return;
        }
        let asked = self.asked.borrow();
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if !asked.contains(&name) {
                let hint = nearest(name, asked.iter().copied())
                    .or_else(|| Some(format!("its keys are {}", asked.join(", "))));
                self.report.suggest(key.span(), format!("{} has no key {name:?}", self.what), hint);
            }
        }
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let message = format!(
            "{}: {key} is {}, and {} was given",
            self.what,
            wanted,
            a_type(value.get_ref().type_str())
        );
        self.report.say(value.span(), message);
    }

    pub(super) fn word(&self, key: &'static str) -> Option<Word> {
        let value = self.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(Word { text: text.to_owned(), span: value.span() }),
            None => {
                self.wrong(key, value, "a text");
                None
            }
        }
    }

    pub(super) fn required(&self, key: &'static str) -> Option<Word> {
        if self.table.get(key).is_none() {
            self.get(key);
            self.report.say(self.span.clone(), format!("{} has no {key}", self.what));
            return None;
        }
        self.word(key)
    }

    /// Takes a name: it becomes a column, a table, a Feast object.
    pub(super) fn name(&self, key: &'static str) -> Option<Word> {
        let word = self.required(key)?;
        if !is_name(&word.text) {
            let message =
                format!("{:?} cannot be a name; use letters, digits and _, a letter first", word.text);
            self.report.say(word.span.clone(), message);
            return None;
        }
        Some(word)
    }

    pub(super) fn words(&self, key: &'static str) -> Vec<Word> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, value, "a list of texts");
            return Vec::new();
        };
        let mut words = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str() {
                Some(text) => words.push(Word { text: text.to_owned(), span: item.span() }),
                None => self.wrong(key, item, "a list of texts"),
            }
        }
        words
    }

    pub(super) fn duration(&self, key: &'static str) -> Option<i64> {
        let word = self.word(key)?;
        let us = duration_us(&word.text);
        if us.is_none() {
            let message = format!("{:?} is no duration", word.text);
            let hint = "write a number and one of us, ms, s, min, h, d: \"10 s\"".to_owned();
            self.report.suggest(word.span, message, Some(hint));
        }
        us
    }

    pub(super) fn count(&self, key: &'static str) -> Option<u32> {
        let value = self.get(key)?;
        let number = value.get_ref().as_integer().and_then(|n| n.as_str().parse::<u32>().ok());
        if number.is_none_or(|n| n == 0) {
            self.wrong(key, value, "a whole number from 1");
        }
        number.filter(|&n| n > 0)
    }

    pub(super) fn expression(&self, key: &'static str) -> Option<Expression> {
        let value = self.get(key)?;
        if value.get_ref().as_str().is_none() {
            self.wrong(key, value, "an expression in quotes");
        }
        expression(self.report.file, value)
    }

    pub(super) fn table(&self, key: &'static str) -> Option<(Range<usize>, &'a DeTable<'a>)> {
        let value = self.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some((value.span(), table)),
            None => {
                self.wrong(key, value, "a table");
                None
            }
        }
    }
}

fn a_type(name: &str) -> String {
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {name}")
}

pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 100
}

/// Takes a text value as an expression.
pub(super) fn expression(file: &SourceFile, value: &Spanned<DeValue<'_>>) -> Option<Expression> {
    let text = value.get_ref().as_str()?.to_owned();
    let span = value.span();
    let written = file.text.get(span.clone()).unwrap_or_default();
    let begin = written.find(text.as_str()).filter(|_| !text.is_empty());
    Some(Expression { text, begin: begin.map(|at| span.start + at), span })
}
