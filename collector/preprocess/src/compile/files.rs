//! Feature files as written: every key read, every unknown key named, nothing resolved yet.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::section::{Report, Section, Word, expression, is_name};
use crate::attributes::AttributeRow;
use crate::language::duration_us;
use crate::problem::nearest;
use crate::value::Type;

/// An expression and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub(super) text: String,
    /// Bytes of the file: the value with its quotes.
    pub(super) span: Range<usize>,
    /// Where the text begins in the file, if it stands there as it is (without escapes).
    pub(super) begin: Option<usize>,
}

impl Expression {
    /// Gives the bytes of the file for bytes of the expression.
    pub(super) fn place(&self, inner: &Range<usize>) -> Range<usize> {
        match self.begin {
            Some(begin) => begin + inner.start..begin + inner.end.max(inner.start + 1),
            None => self.span.clone(),
        }
    }
}

/// A tag as a kind declares it.
#[derive(Debug, Clone, Default)]
pub(super) struct RawTag {
    pub(super) value_type: Option<Type>,
    pub(super) unit: Option<String>,
}

#[derive(Debug)]
pub(super) struct RawKind {
    pub(super) name: Word,
    pub(super) machines: Vec<Word>,
    pub(super) attributes_file: Option<Word>,
    pub(super) attributes: Vec<AttributeRow>,
    pub(super) tags: BTreeMap<String, RawTag>,
}

#[derive(Debug)]
pub(super) struct RawSignal {
    pub(super) name: Word,
    /// `None`: it names none.
    pub(super) kind: Option<Word>,
    pub(super) debounce_us: i64,
    pub(super) expr: Expression,
}

#[derive(Debug)]
pub(super) enum RawWindow {
    Sliding { size_us: i64, every_us: i64, span: Range<usize> },
    Latest { cell_us: i64 },
}

#[derive(Debug)]
pub(super) struct RawView {
    pub(super) name: Word,
    pub(super) version: u32,
    /// `None`: it names none.
    pub(super) kind: Option<Word>,
    /// `None`: stream.
    pub(super) run_every_us: Option<i64>,
    pub(super) domain: Option<Expression>,
    /// `None`: a word of which nobody knows what it was to mean; `latest` has features of another form.
    pub(super) window: Option<RawWindow>,
    pub(super) lateness_us: i64,
    pub(super) ttl_us: i64,
    pub(super) features: Vec<(Word, Expression)>,
    /// Something was missing or wrong, was told of, and has a stand-in here, so that the rest is looked at, too.
    pub(super) is_broken: bool,
}

#[derive(Debug)]
pub(super) struct RawService {
    pub(super) name: Word,
    pub(super) features: Vec<Word>,
}

/// What one file holds.
#[derive(Debug, Default)]
pub(super) struct RawFile {
    pub(super) kinds: Vec<RawKind>,
    pub(super) signals: Vec<RawSignal>,
    pub(super) views: Vec<RawView>,
    /// The names of all views, also of those that are so wrong that they are none.
    pub(super) view_names: Vec<String>,
    pub(super) services: Vec<RawService>,
}

const DEFAULT_LATENESS_US: i64 = 5_000_000;
const DEFAULT_CELL_US: i64 = 1_000_000;
const TABLES: [&str; 4] = ["kind", "signal", "feature_view", "feature_service"];
/// Columns that every feature table has (F9).
const RESERVED: [&str; 6] = ["machine", "event_timestamp", "created", "computed_at", "revision", "coverage"];

/// Reads one file.
pub(super) fn read(report: &Report<'_>) -> RawFile {
    let mut raw = RawFile::default();
    let (document, errors) = DeTable::parse_recoverable(&report.file.text);
    for error in &errors {
        report.say(error.span().unwrap_or(0..0), format!("this is not TOML: {}", error.message()));
    }
    if !errors.is_empty() {
        return raw;
    }
    for (key, value) in document.get_ref() {
        let name = key.get_ref().as_ref();
        match name {
            "calendar" => report.say(key.span(), "calendars come with a later release"),
            "cycle" => report.say(key.span(), "cycles come with a later release"),
            _ if !TABLES.contains(&name) => {
                let hint = nearest(name, TABLES).or_else(|| {
                    Some(format!("a feature file has {}", TABLES.map(|t| format!("[[{t}]]")).join(", ")))
                });
                report.suggest(key.span(), format!("feature files have no {name:?}"), hint);
            }
            _ => each(report, name, value, &mut raw),
        }
    }
    raw
}

fn each(report: &Report<'_>, name: &str, value: &Spanned<DeValue<'_>>, raw: &mut RawFile) {
    let Some(items) = value.get_ref().as_array() else {
        report.say(value.span(), format!("{name} is written [[{name}]]"));
        return;
    };
    for item in items.iter() {
        let Some(table) = item.get_ref().as_table() else {
            report.say(item.span(), format!("{name} is written [[{name}]]"));
            continue;
        };
        let title = table.get("name").and_then(|v| v.get_ref().as_str());
        let what =
            title.map_or_else(|| name.replace('_', " "), |t| format!("{} {t:?}", name.replace('_', " ")));
        let section = Section::new(report, &what, item.span(), table);
        match name {
            "kind" => raw.kinds.extend(kind(&section)),
            "signal" => raw.signals.extend(signal(&section)),
            "feature_view" => {
                raw.view_names.extend(title.map(str::to_owned));
                raw.views.extend(view(&section));
            }
            _ => raw.services.extend(service(&section)),
        }
        section.finish();
    }
}

fn kind(section: &Section<'_>) -> Option<RawKind> {
    let name = section.name("name");
    let machines = section.words("machines");
    if machines.is_empty() {
        let message = format!("{} names no machines; write machines = [\"hall3/press-*\"]", section.what);
        section.report.say(section.span.clone(), message);
    }
    let attributes_file = section.word("attributes_file");
    let attributes = inline_attributes(section);
    let tags = declared_tags(section);
    Some(RawKind { name: name?, machines, attributes_file, attributes, tags })
}

fn inline_attributes(section: &Section<'_>) -> Vec<AttributeRow> {
    let Some(value) = section.get("attributes") else { return Vec::new() };
    let mut rows = Vec::new();
    for item in value.get_ref().as_array().into_iter().flat_map(|array| array.iter()) {
        let Some(table) = item.get_ref().as_table() else { continue };
        let mut row = AttributeRow { machine: "*".into(), valid_from_us: i64::MIN, values: BTreeMap::new() };
        for (key, value) in table {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(n) if n.radix() == 10 => n.as_str().to_owned(),
                DeValue::Float(x) => x.as_str().to_owned(),
                DeValue::Boolean(b) => b.to_string(),
                DeValue::Datetime(d) => d.to_string(),
                other => {
                    let message =
                        format!("an attribute is a text or a number, and a {} was given", other.type_str());
                    section.report.say(value.span(), message);
                    continue;
                }
            };
            if let Err(message) = row.set(key.get_ref(), &text) {
                section.report.say(value.span(), message);
            }
        }
        rows.push(row);
    }
    if value.get_ref().as_array().is_none() {
        let message = "attributes is a list of tables: [{ machine = \"hall3/press-01\", line = \"L1\" }]";
        section.report.say(value.span(), message);
    }
    rows
}

fn declared_tags(section: &Section<'_>) -> BTreeMap<String, RawTag> {
    let mut tags = BTreeMap::new();
    let Some((_, table)) = section.table("tags") else { return tags };
    for (key, value) in table {
        let Some(table) = value.get_ref().as_table() else {
            let message = "a tag is declared as { type = \"number\", unit = \"degC\" }";
            section.report.say(value.span(), message);
            continue;
        };
        let inner = Section::new(section.report, &format!("tag {:?}", key.get_ref()), value.span(), table);
        let mut tag = RawTag { unit: inner.word("unit").map(|w| w.text), value_type: None };
        if let Some(word) = inner.word("type") {
            tag.value_type = [Type::Num, Type::Bool, Type::Text].into_iter().find(|t| t.name() == word.text);
            if tag.value_type.is_none() {
                let message = format!("{:?} is no type; use number, bool or text", word.text);
                section.report.say(word.span, message);
            }
        }
        inner.finish();
        tags.insert(key.get_ref().to_string(), tag);
    }
    tags
}

fn signal(section: &Section<'_>) -> Option<RawSignal> {
    let name = section.name("name");
    let kind = section.required("kind");
    let debounce_us = section.duration("debounce").unwrap_or(0);
    let expr = section.expression("expr");
    if expr.is_none() {
        section.report.say(section.span.clone(), format!("{} has no expr", section.what));
    }
    let name = name.unwrap_or_else(|| nameless(section));
    Some(RawSignal { name, kind, debounce_us, expr: expr? })
}

fn view(section: &Section<'_>) -> Option<RawView> {
    let name = section.name("name");
    for key in ["from", "group"] {
        if let Some(value) = section.get(key) {
            let message = "views over the rows of another view (from, group) come with a later release";
            section.report.say(value.span(), message);
            section.refuse();
            return None;
        }
    }
    let version = section.count("version").unwrap_or(1);
    let kind = section.required("kind");
    let run_every_us = mode(section);
    let domain = section.expression("where");
    let window = window(section);
    let lateness_us = section.duration("lateness").unwrap_or(DEFAULT_LATENESS_US);
    let ttl_us = section.duration("ttl").unwrap_or(0);
    let features = features(section);
    let is_broken = name.is_none() || kind.is_none() || window.is_none();
    Some(RawView {
        name: name.unwrap_or_else(|| nameless(section)),
        version,
        kind,
        run_every_us,
        domain,
        window: window.or_else(|| stand_in(section)),
        lateness_us,
        ttl_us,
        features,
        is_broken,
    })
}

/// Gives a name that nothing else has in the place of one that is missing.
fn nameless(section: &Section<'_>) -> Word {
    Word { text: format!("?{}:{}", section.report.file.name, section.span.start), span: section.span.clone() }
}

fn mode(section: &Section<'_>) -> Option<i64> {
    const HOUR_US: i64 = 3_600_000_000;
    let run_every = section.duration("run_every");
    let mode = section.word("mode")?;
    match mode.text.as_str() {
        "stream" => None,
        "batch" => Some(run_every.filter(|&us| us > 0).unwrap_or(HOUR_US)),
        _ => {
            let message = format!("{:?} is no mode; use \"stream\" or \"batch\"", mode.text);
            section.report.suggest(mode.span, message, nearest(&mode.text, ["stream", "batch"]));
            None
        }
    }
}

/// Gives a window in the place of one that is missing or wrong, and was told of, as far as its form can be told.
fn stand_in(section: &Section<'_>) -> Option<RawWindow> {
    const MINUTE_US: i64 = 60_000_000;
    let value = section.get("window");
    match value.and_then(|value| value.get_ref().as_str()) {
        Some(word) if nearest(word, ["latest"]).is_some() => {
            return Some(RawWindow::Latest { cell_us: DEFAULT_CELL_US });
        }
        Some(word) if duration_us(word).is_none() => return None,
        _ => {}
    }
    let span = value.map_or_else(|| section.span.clone(), |value| value.span());
    Some(RawWindow::Sliding { size_us: MINUTE_US, every_us: MINUTE_US, span })
}

fn window(section: &Section<'_>) -> Option<RawWindow> {
    let cell_us = section.duration("min_interval").filter(|&us| us > 0).unwrap_or(DEFAULT_CELL_US);
    let Some(value) = section.get("window") else {
        let message =
            format!("{} has no window; write window = {{ size = \"1 min\" }} or \"latest\"", section.what);
        section.report.say(section.span.clone(), message);
        return None;
    };
    if value.get_ref().as_str() == Some("latest") {
        return Some(RawWindow::Latest { cell_us });
    }
    let Some(table) = value.get_ref().as_table() else {
        let message = "a window is { size = \"1 min\", every = \"10 s\" } or \"latest\"";
        let hint = value.get_ref().as_str().and_then(|word| nearest(word, ["latest"]));
        section.report.suggest(value.span(), message, hint);
        return None;
    };
    for (key, what) in [("cycle", "windows of cycles"), ("calendar", "windows of calendars")] {
        if table.get(key).is_some() {
            section.report.say(value.span(), format!("{what} come with a later release"));
            return None;
        }
    }
    let inner = Section::new(section.report, "window", value.span(), table);
    let size = inner.duration("size");
    let every = inner.duration("every");
    if table.get("size").is_none() {
        section.report.say(value.span(), "a window has a size: { size = \"1 min\" }");
    }
    inner.finish();
    let size_us = size?;
    Some(RawWindow::Sliding { size_us, every_us: every.unwrap_or(size_us), span: value.span() })
}

fn features(section: &Section<'_>) -> Vec<(Word, Expression)> {
    let Some((span, table)) = section.table("features") else {
        let message = format!("{} has no features; write them under [feature_view.features]", section.what);
        section.report.say(section.span.clone(), message);
        return Vec::new();
    };
    let mut features = Vec::new();
    for (key, value) in table {
        let word = Word { text: key.get_ref().to_string(), span: key.span() };
        if !is_name(&word.text) {
            let message = format!("{:?} cannot be a feature's name; use letters, digits and _", word.text);
            section.report.say(word.span.clone(), message);
        } else if RESERVED.contains(&word.text.as_str()) {
            let message = format!("{:?} is a column of every feature table; choose another name", word.text);
            section.report.say(word.span.clone(), message);
        }
        match expression(section.report.file, value) {
            Some(expr) => features.push((word, expr)),
            None => section.report.say(value.span(), "a feature is an expression in quotes"),
        }
    }
    // The order of the file, which the parser does not promise to keep.
    features.sort_by_key(|(word, _)| word.span.start);
    if features.is_empty() {
        section.report.say(span, format!("{} has no feature", section.what));
    }
    features
}

fn service(section: &Section<'_>) -> Option<RawService> {
    let name = section.name("name");
    let features = section.words("features");
    Some(RawService { name: name?, features })
}

impl AttributeRow {
    /// Sets one column; empty texts say nothing.
    pub(super) fn set(&mut self, column: &str, text: &str) -> Result<(), String> {
        let text = text.trim();
        match column {
            "machine" => self.machine = text.to_owned(),
            "valid_from" if text.is_empty() => {}
            "valid_from" => {
                self.valid_from_us = super::date::parse_us(text).ok_or_else(|| {
                    format!("{text:?} is no time; write 2026-03-01 or 2026-03-01T06:00:00Z")
                })?;
            }
            _ if text.is_empty() => {}
            _ => {
                self.values.insert(Arc::from(column), Arc::from(text));
            }
        }
        Ok(())
    }
}
