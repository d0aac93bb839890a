//! The answer to `POST /get-online-features`, written straight into a string.

mod json;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::Serving;
use super::problem::Problem;
use super::request::{EntityValue, Request};
use crate::features::online::{Served, Slot};
use json::{EPOCH, push_float, push_list, push_string, push_value, timestamp};

/// Whose statuses are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compat {
    /// Feast's Go server: a row older than its view's ttl is `OUTSIDE_MAX_AGE`.
    Go,
    /// Feast's Python server: it is `PRESENT`.
    Python,
}

/// One feature that is asked for.
struct Column {
    /// Place of the view among those of the request.
    view: usize,
    /// Place of the feature in its view.
    feature: usize,
    /// Its name in the answer.
    name: String,
}

/// A join key with its column of values.
type JoinKey<'a> = (&'a str, &'a [EntityValue]);

/// A view that is asked for, with the rows of the entities.
struct Asked<'a> {
    slot: &'a Slot,
    rows: Vec<Option<Arc<Served>>>,
    /// The rows' event timestamps as JSON, shared by the view's features.
    times: Vec<String>,
}

/// Answers a request.
pub(super) fn answer(
    serving: &Serving,
    services: &HashMap<String, Vec<String>>,
    request: &Request,
    compat: Compat,
    now_us: i64,
) -> Result<String, Problem> {
    let references = match &request.feature_service {
        Some(service) => services.get(service).ok_or_else(|| Problem::NoService {
            service: service.clone(),
            project: serving.project.clone(),
        })?,
        None => &request.features,
    };
    if references.is_empty() {
        return Err(Problem::Other("No features specified for retrieval".to_owned()));
    }
    let (slots, columns) = resolve(serving, references, request.full_feature_names)?;
    let keys = join_keys(request, &slots)?;
    let rows = keys.first().map_or(0, |(_, values)| values.len());
    let asked: Vec<_> = slots.iter().map(|slot| ask(slot, request, &keys)).collect::<Result<_, _>>()?;
    let cell = if request.include_freshness { 96 } else { 64 };
    let mut out = String::with_capacity(256 + (columns.len() + keys.len()) * (96 + cell * rows));
    out.push_str("{\"results\":[");
    for (_, values) in &keys {
        push_key(&mut out, values, request.include_freshness);
        out.push(',');
    }
    for column in &columns {
        if let Some(asked) = asked.get(column.view) {
            push_feature(&mut out, asked, column.feature, request.include_freshness, compat, now_us);
            out.push(',');
        }
    }
    if out.ends_with(',') {
        out.pop();
    }
    out.push_str("],\"metadata\":{\"feature_names\":[");
    let names = keys.iter().map(|(name, _)| *name).chain(columns.iter().map(|column| &*column.name));
    push_list(&mut out, names, push_string);
    out.push(']');
    if request.include_feature_view_version_metadata {
        out.push_str(",\"feature_view_metadata\":[");
        push_list(&mut out, &slots, |out, slot| {
            out.push_str("{\"name\":");
            push_string(out, &slot.feast_name);
            out.push('}');
        });
        out.push(']');
    }
    out.push_str("}}");
    Ok(out)
}

/// Finds the views and features that are asked for, and refuses two of one name.
fn resolve<'a>(
    serving: &'a Serving,
    references: &[String],
    full_names: bool,
) -> Result<(Vec<&'a Slot>, Vec<Column>), Problem> {
    let mut slots: Vec<&Slot> = Vec::new();
    let mut places: Vec<usize> = Vec::new();
    let mut columns = Vec::with_capacity(references.len());
    for reference in references {
        let Some((view, feature)) = reference.split_once(':') else {
            return Err(Problem::Other(format!(
                "Invalid feature reference '{reference}'. Expected format: '<feature_view>:<feature>' or \
                 '<feature_view>@<version>:<feature>'"
            )));
        };
        let unknown = || Problem::NoView { view: view.to_owned(), project: serving.project.clone() };
        let (place, slot) = serving.newest.slot(view).ok_or_else(unknown)?;
        let view_place = places.iter().position(|known| *known == place).unwrap_or_else(|| {
            places.push(place);
            slots.push(slot);
            slots.len() - 1
        });
        let name = if full_names { format!("{view}__{feature}") } else { feature.to_owned() };
        let found = slot.view.schema.features.iter().position(|column| &*column.name == feature);
        let Some(feature) = found else {
            return Err(Problem::Other(format!("'Feature {feature} not found in projection {view}'")));
        };
        columns.push(Column { view: view_place, feature, name });
    }
    let mut seen = HashSet::with_capacity(columns.len());
    let mut names: Vec<String> = columns
        .iter()
        .filter(|column| !seen.insert(&*column.name))
        .map(|column| column.name.clone())
        .collect();
    names.dedup();
    if names.is_empty() { Ok((slots, columns)) } else { Err(Problem::Collision { names, full_names }) }
}

/// Gives the columns of join keys that the views have, in the order of the request.
fn join_keys<'a>(request: &'a Request, slots: &[&Slot]) -> Result<Vec<JoinKey<'a>>, Problem> {
    let columns = &request.entities.0;
    let Some((_, first)) = columns.first() else {
        return Err(Problem::Other("'pop from an empty set'".to_owned()));
    };
    if columns.iter().any(|(_, values)| values.len() != first.len()) {
        return Err(Problem::Other("All entity rows must have the same columns.".to_owned()));
    }
    let known = |name: &str| slots.iter().any(|slot| &*slot.view.schema.entity == name);
    Ok(columns.iter().filter(|(name, _)| known(name)).map(|(name, values)| (&**name, &**values)).collect())
}

fn ask<'a>(slot: &'a Slot, request: &Request, keys: &[JoinKey<'_>]) -> Result<Asked<'a>, Problem> {
    let entity = &*slot.view.schema.entity;
    let Some((_, values)) = keys.iter().find(|(name, values)| *name == entity && !values.is_empty()) else {
        return Err(no_values(entity, request, keys));
    };
    if values.iter().any(|value| value.0.is_none()) {
        return Err(Problem::Other(format!("a value of the join key '{entity}' is null")));
    }
    let rows = slot.rows(values.iter().map(|value| value.0.as_deref().unwrap_or_default()));
    let time = |row: &Option<Arc<Served>>| match row {
        Some(row) => timestamp(row.event_us),
        None => EPOCH.to_owned(),
    };
    let times = rows.iter().map(time).collect();
    Ok(Asked { slot, rows, times })
}

/// Says what Feast says, in the quotes that Python puts around the text of a `KeyError`.
fn no_values(entity: &str, request: &Request, keys: &[JoinKey<'_>]) -> Problem {
    let missing = request.entities.0.iter().all(|(name, _)| name != entity);
    let missing = if missing { format!("'{entity}'") } else { String::new() };
    let provided: Vec<_> = keys.iter().map(|(name, _)| format!("'{name}'")).collect();
    Problem::Other(format!(
        "\"Missing join key values for keys: [{missing}]. No values provided for keys: ['{entity}']. Provided \
         join_key_values: [{}]\"",
        provided.join(", ")
    ))
}

fn push_key(out: &mut String, values: &[EntityValue], freshness: bool) {
    out.push_str("{\"values\":[");
    push_list(out, values, |out, value| push_string(out, value.0.as_deref().unwrap_or_default()));
    out.push_str("],\"statuses\":[");
    push_list(out, values, |out, _| out.push_str("\"PRESENT\""));
    out.push_str("],\"event_timestamps\":[");
    push_list(out, values, |out, _| out.push_str(EPOCH));
    out.push(']');
    if freshness {
        for name in ["age_ms", "coverage", "revision"] {
            let _infallible = write!(out, ",\"{name}\":[");
            push_list(out, values, |out, _| out.push_str("null"));
            out.push(']');
        }
    }
    out.push('}');
}

fn push_feature(
    out: &mut String,
    asked: &Asked<'_>,
    feature: usize,
    freshness: bool,
    compat: Compat,
    now_us: i64,
) {
    let ttl_us = asked.slot.view.schema.ttl_us;
    out.push_str("{\"values\":[");
    push_list(out, &asked.rows, |out, row| match row.as_deref().and_then(|row| row.values.get(feature)) {
        Some(value) => push_value(out, value),
        None => out.push_str("null"),
    });
    out.push_str("],\"statuses\":[");
    push_list(out, &asked.rows, |out, row| {
        out.push_str(match row.as_deref() {
            Some(row) if compat == Compat::Go && is_outside(now_us, row.event_us, ttl_us) => {
                "\"OUTSIDE_MAX_AGE\""
            }
            Some(_) => "\"PRESENT\"",
            None => "\"NOT_FOUND\"",
        });
    });
    out.push_str("],\"event_timestamps\":[");
    push_list(out, &asked.times, |out, time| out.push_str(time));
    out.push(']');
    if freshness {
        push_freshness(out, &asked.rows, now_us);
    }
    out.push('}');
}

/// Tells whether a row is older than its view's ttl; exactly as old is still inside, 0 is for ever.
fn is_outside(now_us: i64, event_us: i64, ttl_us: i64) -> bool {
    ttl_us > 0 && now_us.saturating_sub(event_us) > ttl_us
}

fn push_freshness(out: &mut String, rows: &[Option<Arc<Served>>], now_us: i64) {
    let mut push = |name: &str, cell: &dyn Fn(&mut String, &Served)| {
        let _infallible = write!(out, ",\"{name}\":[");
        push_list(out, rows, |out, row| match row {
            Some(row) => cell(out, row),
            None => out.push_str("null"),
        });
        out.push(']');
    };
    push("age_ms", &|out, row| {
        let _infallible = write!(out, "{}", now_us.saturating_sub(row.event_us) / 1_000);
    });
    push("coverage", &|out, row| push_float(out, row.coverage));
    push("revision", &|out, row| {
        let _infallible = write!(out, "{}", row.revision);
    });
}
