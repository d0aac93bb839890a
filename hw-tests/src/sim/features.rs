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
use super::oracle::Oracle;
use super::time::{BEGIN_US, SECOND_US};

/// Before everything that a seed emits.
const FROM_US: i64 = BEGIN_US - 6 * 3_600 * SECOND_US;
/// How far the oracle may be off, relative to values above 1.
const NEAR: f64 = 1e-9;

/// Compares all windows that end by `to_us`.
///
/// *Errors*: the lake cannot be read.
pub async fn compare(
    conn: &mut SqliteConnection,
    settings: &Settings,
    machines: &BTreeMap<String, Vec<InputRow>>,
    to_us: i64,
    counts: &mut Counts,
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
            windows(view, &computed, &stored, counts, findings);
            if &*view.schema.name == "hop" {
                let rows = machines.get(machine.as_str()).map(Vec::as_slice).unwrap_or_default();
                let oracle = Oracle::new(rows, |row, tag| hold(&births, row, tag));
                let given = stored.iter().filter(|(event_us, _)| computed.contains_key(event_us));
                given.for_each(|(_, row)| against(&oracle, row, counts, findings));
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

fn windows(
    view: &Arc<View>,
    computed: &BTreeMap<i64, &FeatureRow>,
    stored: &BTreeMap<i64, &FeatureRow>,
    counts: &mut Counts,
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
            Some(_) => {}
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

fn against(oracle: &Oracle, row: &FeatureRow, counts: &mut Counts, findings: &mut Findings) {
    let (from, to) = (row.event_us - 60 * SECOND_US, row.event_us);
    let expected = [
        ("mean", oracle.mean("a", from, to)),
        ("std", oracle.std("a", from, to)),
        ("max", oracle.max("a", from, to)),
        ("median", oracle.median("a", from, to)),
        ("made", oracle.increase("n", from, to)),
        ("run_s", oracle.seconds_in("state", "run", from, to)),
        ("both", oracle.mean_of_sum("a", "b", from, to)),
    ];
    for (name, expected) in expected {
        let at = row.view.features.iter().position(|feature| &*feature.name == name);
        let got = match at.and_then(|at| row.values.get(at)) {
            Some(Some(FeatureValue::F64(x))) => Some(*x),
            _ => None,
        };
        let is_near = match (got, expected) {
            (Some(a), Some(b)) => (a - b).abs() <= NEAR * b.abs().max(1.0),
            (a, b) => a.is_none() && b.is_none(),
        };
        counts.oracle += 1;
        if !is_near {
            let place = format!("{name} of {} at {}", row.entity, row.event_us);
            findings.say("oracle", format!("{place}: {got:?} stored, {expected:?} by the oracle"));
        }
    }
}
