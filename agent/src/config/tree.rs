//! A TOML file as a tree of values that know their lines.
//!
//! It knows TOML and nothing of the agent. `toml` is named here only.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::problems::{At, Sink};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: At,
}

/// A value as written.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
    List(Vec<Node>),
    Table(Table),
    /// A date or time; no key takes one.
    Date,
}

impl Value {
    /// Gives the word for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Date => "a date",
        }
    }
}

/// Keys and values in no particular order.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
    pub(super) at: At,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: At,
    pub(super) node: Node,
}

/// Finds lines from places in a text.
struct Lines {
    file: Arc<str>,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl Lines {
    fn new(file: Arc<str>, text: &str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(place, _)| place + 1)).collect();
        Self { file, starts }
    }

    /// Gives the column of a place, in characters from 1.
    fn column(&self, text: &str, place: usize) -> usize {
        let line = self.starts.partition_point(|&start| start <= place).saturating_sub(1);
        let start = self.starts.get(line).copied().unwrap_or(0);
        text.get(start..place).map_or(0, |before| before.chars().count()) + 1
    }

    fn at(&self, place: usize) -> At {
        At { file: Arc::clone(&self.file), line: self.starts.partition_point(|&start| start <= place) }
    }
}

/// Reads a whole file. Of one that is not TOML the first place is reported: what seems wrong behind it may
/// only follow from it.
pub(super) fn parse(file: Arc<str>, text: &str, sink: &Sink) -> Option<Table> {
    let lines = Lines::new(Arc::clone(&file), text);
    match DeTable::parse(text) {
        Ok(table) => Some(table_of(table.get_ref(), At { file, line: 1 }, &lines)),
        Err(error) => {
            let place = error.span().map_or(0, |span| span.start);
            let column = lines.column(text, place);
            sink.report(
                &lines.at(place),
                "",
                format!("column {column}: this is not TOML: {}", error.message()),
            );
            None
        }
    }
}

/// Reads one value, for a cell of a CSV file; `None` if the text is no TOML value.
pub(super) fn parse_value(text: &str, at: &At) -> Option<Node> {
    let parsed = DeValue::parse(text).ok()?;
    let lines = Lines { file: Arc::clone(&at.file), starts: vec![0] };
    let mut node = node_of(parsed.get_ref(), at.clone(), &lines);
    move_to(&mut node, at);
    Some(node)
}

/// A cell's values all stand in the cell's line.
fn move_to(node: &mut Node, at: &At) {
    node.at = at.clone();
    match &mut node.value {
        Value::List(list) => list.iter_mut().for_each(|node| move_to(node, at)),
        Value::Table(table) => {
            table.at = at.clone();
            for entry in &mut table.entries {
                entry.at = at.clone();
                move_to(&mut entry.node, at);
            }
        }
        _ => {}
    }
}

fn table_of(table: &DeTable<'_>, at: At, lines: &Lines) -> Table {
    let entries = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            at: lines.at(key.span().start),
            node: node_of(value.get_ref(), lines.at(value.span().start), lines),
        })
        .collect();
    Table { entries, at }
}

fn node_of(value: &DeValue<'_>, at: At, lines: &Lines) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(n) => {
            // The digits are checked by the parser; what does not fit is out of every range anyway.
            Value::Integer(i128::from_str_radix(n.as_str(), n.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(n) => Value::Float(n.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(list) => {
            let node = |v: &toml::Spanned<DeValue<'_>>| node_of(v.get_ref(), lines.at(v.span().start), lines);
            Value::List(list.iter().map(node).collect())
        }
        DeValue::Table(table) => Value::Table(table_of(table, at.clone(), lines)),
    };
    Node { value, at }
}
