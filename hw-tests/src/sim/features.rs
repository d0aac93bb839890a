//! Stream = batch = oracle: every window that the lake gives must be stored with the same bits; any other
//! that is stored must have been withdrawn.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_collector::flush::{self, Backfill, Settings};
use millrace_collector::lake::db::SqliteConnection;
use millrace_collector::lake::read;
use millrace_preprocess::{FeatureRow, FeatureValue, InputRow, View, Window};
use millrace_protocol::{Birth, StreamId};

use super::check::{Counts, Findings};
use super::functions::Range;
use super::oracle::Oracle;
use super::tally::Tally;
use super::time::{BEGIN_US, SECOND_US};

/// Before everything that a seed emits.
const FROM_US: i64 = BEGIN_US - 6 * 3_600 * SECOND_US;
/// How far the oracle may be off, relative to values above 1.
const NEAR: f64 = 1e-9;
/// The same for slopes.
const NEAR_SLOPE: f64 = 1e-6;

/// Compares all windows that end by `to_us`.
///
/// *Errors*: the lake cannot be read.
pub async fn compare(
    conn: &mut SqliteConnection,
    settings: &Settings,
    machines: &BTreeMap<String, Vec<InputRow>>,
    to_us: i64,
    (counts, functions): (&mut Counts, &mut Tally),
    findings: &mut Findings,
) -> anyhow::Result<()> {
    // As `parity` does it: a window may come twice (F7), and the last is from all rows.
    let stall_us = i64::try_from(settings.stall_after.as_micros()).unwrap_or(i64::MAX);
    let mut backfill = Backfill::open(conn, stall_us).await?;
    let births = births(conn).await?;
    for view in settings.catalog.views() {
        for machine in backfill.machines().into_iter().filter(|machine| view.kind.holds(machine)) {
            let computed = backfill.compute(conn, view, &machine, FROM_US, to_us).await?;
            let computed: BTreeMap<i64, &FeatureRow> =
                computed.iter().map(|row| (row.event_us, row)).collect();
            let stored = flush::stored(conn, view, &machine, FROM_US, to_us).await?;
            let stored: BTreeMap<i64, &FeatureRow> = stored.iter().map(|row| (row.event_us, row)).collect();
            windows(view, &computed, &stored, (counts, functions), findings);
            if let Some(before_us) = known_to_oracle(view) {
                let rows = machines.get(machine.as_str()).map(Vec::as_slice).unwrap_or_default();
                let oracle = Oracle::new(rows, |row, tag| hold(&births, row, tag));
                let given = stored.iter().filter(|(event_us, _)| computed.contains_key(event_us));
                given.for_each(|(_, row)| against(&oracle, row, before_us, (counts, functions), findings));
            }
        }
    }
    Ok(())
}

/// The kinds of findings tell sliding and `latest` windows apart: their causes are.
const fn kinds(view: &View) -> [&'static str; 2] {
    match view.window {
        Window::Sliding { .. } => ["window not stored", "window differs"],
        Window::Latest { .. } => ["cell not stored", "cell differs"],
    }
}

/// Gives the size of a view's windows, 0 for one instant, if the oracle knows it: it knows no `where` and no panes.
fn known_to_oracle(view: &View) -> Option<i64> {
    match (&*view.schema.name, view.window) {
        ("hop" | "minute", Window::Sliding { size_us, .. }) => Some(size_us),
        ("now", Window::Latest { .. }) => Some(0),
        _ => None,
    }
}

/// Names the kind of a view's windows.
const fn window_kind(view: &View) -> &'static str {
    match view.window {
        Window::Latest { .. } => "latest",
        Window::Sliding { pane_us: Some(_), .. } => "panes",
        Window::Sliding { size_us, every_us, .. } if size_us == every_us => "tumbling",
        Window::Sliding { .. } => "hopping",
    }
}

/// Gives the function's name of a feature of `functions.toml`.
fn function(feature: &str) -> Option<&str> {
    feature.strip_prefix("f_")
}

/// Counts the values of functions that are not NULL.
fn count(row: &FeatureRow, view: &View, functions: &mut Tally) {
    for (feature, value) in row.view.features.iter().zip(&row.values) {
        if let (Some(function), Some(_)) = (function(&feature.name), value) {
            functions.once(&format!("{}: {function}", window_kind(view)));
        }
    }
}

fn windows(
    view: &Arc<View>,
    computed: &BTreeMap<i64, &FeatureRow>,
    stored: &BTreeMap<i64, &FeatureRow>,
    (counts, functions): (&mut Counts, &mut Tally),
    findings: &mut Findings,
) {
    let [not_stored, differs] = kinds(view);
    for (event_us, row) in computed {
        counts.windows += 1;
        let place = format!("{} {} {event_us}", view.schema.name, row.entity);
        match stored.get(event_us) {
            None if !flush::is_owed(view, computed, row) => {}
            None => findings.say(not_stored, place),
            Some(known) if !same(row, known) => {
                findings.say(
                    differs,
                    format!("{place}: {:?} from the lake, {:?} stored", row.values, known.values),
                );
            }
            Some(_) => count(row, view, functions),
        }
    }
}

fn same(a: &FeatureRow, b: &FeatureRow) -> bool {
    let bits = |(x, y): (&Option<FeatureValue>, &Option<FeatureValue>)| match (x, y) {
        (Some(x), Some(y)) => x.same_bits(y),
        (x, y) => x.is_none() && y.is_none(),
    };
    a.coverage.to_bits() == b.coverage.to_bits()
        && a.values.len() == b.values.len()
        && a.values.iter().zip(&b.values).all(bits)
}

async fn births(conn: &mut SqliteConnection) -> anyhow::Result<Vec<(Arc<StreamId>, Birth)>> {
    let streams = read::by_number(&read::streams(conn).await?);
    let births = read::births(conn).await?.into_iter();
    Ok(births.filter_map(|(id, birth)| Some((Arc::clone(streams.get(&id)?), birth))).collect())
}

/// Finds the hold of a row's tag: the newest birth before it says it.
fn hold(births: &[(Arc<StreamId>, Birth)], row: &InputRow, tag: &str) -> i64 {
    let before = births.iter().filter(|(id, birth)| *id == row.stream && birth.after < row.seq);
    let newest = before.max_by_key(|(_, birth)| birth.after);
    let tags = newest.map(|(_, birth)| birth.tags.as_slice()).unwrap_or_default();
    tags.iter().find(|known| &*known.name == tag).map_or(UNBORN_HOLD_US, |tag| tag.hold_us)
}

/// What no birth speaks of is held so long (F3: MQTT and imports).
const UNBORN_HOLD_US: i64 = 600 * SECOND_US;

fn against(
    oracle: &Oracle,
    row: &FeatureRow,
    size_us: i64,
    (counts, functions): (&mut Counts, &mut Tally),
    findings: &mut Findings,
) {
    let range =
        Range { oracle, from_us: row.event_us - size_us, to_us: row.event_us + i64::from(size_us == 0) };
    for (feature, got) in row.view.features.iter().zip(&row.values) {
        let expected = match function(&feature.name) {
            Some(name) if size_us == 0 => range.instant(name),
            Some(name) => range.sliding(name),
            None if &*row.view.name == "hop" => plain(range, &feature.name),
            None => None,
        };
        let (Some(expected), name) = (expected, &*feature.name) else { continue };
        let got = got.as_ref().map(number);
        counts.oracle += 1;
        if let (Some(function), Some(_)) = (function(name), got) {
            functions.once(&format!("oracle: {function}"));
        }
        if !is_near(got, expected, name) {
            let place = format!("{name} of {} at {}", row.entity, row.event_us);
            findings.say("oracle", format!("{place}: {got:?} stored, {expected:?} by the oracle"));
        }
    }
}

/// Gives what the oracle says of the view's own features, by its own code for each.
fn plain(Range { oracle, from_us, to_us }: Range<'_>, feature: &str) -> Option<Option<f64>> {
    Some(match feature {
        "mean" => oracle.mean("a", from_us, to_us),
        "std" => oracle.std("a", from_us, to_us),
        "max" => oracle.max("a", from_us, to_us),
        "median" => oracle.median("a", from_us, to_us),
        "made" => oracle.increase("n", from_us, to_us),
        "run_s" => oracle.seconds_in("state", "run", from_us, to_us),
        "both" => oracle.mean_of_sum("a", "b", from_us, to_us),
        _ => return None,
    })
}

/// Gives a value as a number; what is none is near nothing.
fn number(value: &FeatureValue) -> f64 {
    match value {
        FeatureValue::F64(x) => *x,
        FeatureValue::I64(n) => *n as f64,
        _ => f64::NAN,
    }
}

fn is_near(got: Option<f64>, expected: Option<f64>, feature: &str) -> bool {
    // Samples that lie a microsecond apart leave few digits of a slope.
    let near = if feature == "f_slope" { NEAR_SLOPE } else { NEAR };
    match (got, expected) {
        (Some(a), Some(b)) => (a - b).abs() <= near * b.abs().max(1.0),
        (a, b) => a.is_none() && b.is_none(),
    }
}
