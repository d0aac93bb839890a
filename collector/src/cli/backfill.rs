//! `backfill` and `parity`: features from the lake, written, or held against what the stream wrote (F2, F9).
//!
//! Both run the batch driver over (machine, day). A window whose bits are already the newest revision's is not
//! written again, so a backfill that was broken off is simply started again.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use millrace_preprocess::{Catalog, FeatureRow, FeatureValue, View};
use millrace_protocol::MachineName;
use serde_json::json;

use super::{ConfigFile, FAILED, FOUND, GOOD, table};
use crate::app;
use crate::clock;
use crate::features::{self, offline};
use crate::flush::{self, Backfill};
use crate::lake::db::SqliteConnection;
use crate::lake::{self, read};

const DAY_US: i64 = offline::DAY_US;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    scope: Scope,
    /// Write nothing; compare with what is stored, exit code 2 if anything differs.
    #[arg(long)]
    diff: bool,
}

/// What `backfill` and `parity` go over.
#[derive(Debug, Args)]
pub(super) struct Scope {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this view, as name or name:version.
    #[arg(long)]
    view: Option<String>,
    /// Only this machine (site/name).
    #[arg(long)]
    machine: Option<String>,
    /// Windows that end after this time (RFC 3339); without it: from the first row on.
    #[arg(long)]
    from: Option<String>,
    /// Windows that end at or before this time (RFC 3339); without it: as far as the stream has closed.
    #[arg(long)]
    to: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn parity(scope: Scope) -> anyhow::Result<u8> {
    run(Arguments { scope, diff: true }).await
}

/// What was found for one view.
#[derive(Debug, Default)]
struct Tally {
    windows: u64,
    written: u64,
    differences: Vec<String>,
}

/// One piece of work.
struct Part {
    view: Arc<View>,
    machine: MachineName,
    from_us: i64,
    to_us: i64,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let config = super::configuration(&arguments.scope.file.config)?;
    let catalog = Arc::new(app::feature_files(&config.features_dir)?);
    let mut conn = lake::open_existing(&config.lake_file).await?;
    features::migrate(&mut conn, &app::schemas(&catalog)).await?;
    let stall_us = i64::try_from(config.stall_after.as_micros()).unwrap_or(i64::MAX);
    let mut backfill = Backfill::open(&mut conn, stall_us).await?;
    let views = chosen_views(&arguments, catalog.views());
    if views.is_empty() && arguments.scope.view.is_some() {
        return Err(super::Usage("no feature view is called so; see views list".to_owned()).into());
    }
    if let Some(machine) = arguments.scope.machine.as_deref()
        && !backfill.machines().iter().any(|known| known.as_str() == machine)
    {
        return Err(super::Usage(format!("no machine is called {machine:?}; see status")).into());
    }
    let time = |text: &Option<String>| text.as_deref().map(super::time_us).transpose();
    let range = (time(&arguments.scope.from)?, time(&arguments.scope.to)?);
    if let (Some(from_us), Some(to_us)) = range
        && from_us >= to_us
    {
        return Err(
            super::Usage("--from is not before --to: there is no window between them".to_owned()).into()
        );
    }
    let parts = parts(&mut conn, &backfill, &catalog, &arguments, &views, range).await?;
    let bar = ProgressBar::new(parts.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} machine days, {eta} left")?);
    let mut tallies: BTreeMap<(Arc<str>, u32), Tally> = BTreeMap::new();
    for part in &parts {
        let rows = backfill.compute(&mut conn, &part.view, &part.machine, part.from_us, part.to_us).await?;
        let schema = &part.view.schema;
        let tally = tallies.entry((schema.name.clone(), schema.version)).or_default();
        if arguments.diff {
            compare(&mut conn, part, &rows, tally).await?;
        } else {
            tally.windows += rows.len() as u64;
            tally.written +=
                backfill.write(&mut conn, &part.machine, &rows, clock::now_us()).await?.len() as u64;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(&arguments, &tallies)
}

fn chosen_views(arguments: &Arguments, views: &[Arc<View>]) -> Vec<Arc<View>> {
    let wanted = |view: &&Arc<View>| match arguments.scope.view.as_deref() {
        None => true,
        Some(text) => match text.split_once(':') {
            Some((name, version)) => *view.schema.name == *name && view.schema.version.to_string() == version,
            None => *view.schema.name == *text,
        },
    };
    views.iter().filter(wanted).cloned().collect()
}

/// Cuts the work into machine days.
async fn parts(
    conn: &mut SqliteConnection,
    backfill: &Backfill,
    catalog: &Arc<Catalog>,
    arguments: &Arguments,
    views: &[Arc<View>],
    (from, to): (Option<i64>, Option<i64>),
) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for view in views {
        let closed = backfill.closed_until_us(conn, catalog, view).await?;
        let machines = backfill.machines().into_iter().filter(|machine| view.kind.holds(machine));
        for machine in
            machines.filter(|m| arguments.scope.machine.as_deref().is_none_or(|wanted| wanted == m.as_str()))
        {
            let Some((first, last)) = read::time_range(conn, &machine).await? else { continue };
            let end = match (to, closed.get(&machine)) {
                (Some(to), _) => to,
                (None, Some(closed)) => *closed,
                // Nothing was closed yet, so there is nothing to hold against the lake.
                (None, None) if arguments.diff => continue,
                // Without any closed window the machine's rows are history: all that can be computed is.
                (None, None) => last.saturating_add(view.window.size_us()),
            };
            let mut from_us = from.unwrap_or_else(|| first.saturating_sub(1));
            while from_us < end {
                let to_us = (from_us.div_euclid(DAY_US) + 1).saturating_mul(DAY_US).min(end);
                parts.push(Part { view: Arc::clone(view), machine: machine.clone(), from_us, to_us });
                from_us = to_us;
            }
        }
    }
    Ok(parts)
}

/// Holds computed windows against the newest stored revisions, bit for bit.
async fn compare(
    conn: &mut SqliteConnection,
    part: &Part,
    rows: &[FeatureRow],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    // A window may come twice (F7): the last is from all rows.
    let computed: BTreeMap<i64, &FeatureRow> = rows.iter().map(|row| (row.event_us, row)).collect();
    let stored = flush::stored(conn, &part.view, &part.machine, part.from_us, part.to_us).await?;
    let stored: BTreeMap<i64, FeatureRow> = stored.into_iter().map(|row| (row.event_us, row)).collect();
    tally.windows += computed.len() as u64;
    let place =
        |event_us: i64| format!("{} {} {}", part.view.schema.name, part.machine, table::time(Some(event_us)));
    for (event_us, row) in &computed {
        match stored.get(event_us) {
            None if !flush::is_owed(&part.view, &computed, row) => {}
            None => tally.differences.push(format!("{}: not stored", place(*event_us))),
            Some(known) => {
                if let Some(what) = difference(row, known) {
                    tally.differences.push(format!("{}: {what}", place(*event_us)));
                }
            }
        }
    }
    Ok(())
}

fn difference(computed: &FeatureRow, stored: &FeatureRow) -> Option<String> {
    if computed.coverage.to_bits() != stored.coverage.to_bits() {
        return Some(format!("coverage {} from the lake, {} stored", computed.coverage, stored.coverage));
    }
    let same = |a: &Option<FeatureValue>, b: &Option<FeatureValue>| match (a, b) {
        (Some(a), Some(b)) => a.same_bits(b),
        (a, b) => a.is_none() && b.is_none(),
    };
    let names = computed.view.features.iter();
    let mut values = names.zip(computed.values.iter().zip(&stored.values));
    let (name, (a, b)) = values.find(|(_, (a, b))| !same(a, b))?;
    Some(format!("{} {} from the lake, {} stored", name.name, shown(a.as_ref()), shown(b.as_ref())))
}

/// Writes a value so that two that differ look different.
fn shown(value: Option<&FeatureValue>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(FeatureValue::F64(x)) if x.is_nan() => format!("NaN ({:016x})", x.to_bits()),
        Some(FeatureValue::F64(x)) => format!("{x:?}"),
        Some(FeatureValue::I64(n)) => n.to_string(),
        Some(FeatureValue::Bool(b)) => b.to_string(),
        Some(FeatureValue::Text(text)) => format!("{text:?}"),
    }
}

fn report(arguments: &Arguments, tallies: &BTreeMap<(Arc<str>, u32), Tally>) -> anyhow::Result<u8> {
    let found = tallies.values().any(|tally| !tally.differences.is_empty());
    if arguments.scope.json {
        let views: Vec<_> = tallies
            .iter()
            .map(|((view, version), t)| {
                json!({
                    "view": &**view, "version": version, "windows": t.windows, "written": t.written,
                    "differences": t.differences,
                })
            })
            .collect();
        table::json(&json!({ "views": views }))?;
    } else {
        let mut sheet = table::Sheet::new(&["view", "version>", "windows>", "written>", "different>"]);
        for ((view, version), t) in tallies {
            let counts = [t.windows, t.written, t.differences.len() as u64].map(|n| n.to_string());
            let [windows, written, different] = counts;
            sheet.row(&[view.to_string(), version.to_string(), windows, written, different]);
        }
        sheet.print();
        let differences = tallies.values().flat_map(|tally| &tally.differences);
        differences.take(100).for_each(|difference| table::line(difference));
    }
    // Nothing that was compared proves nothing.
    let is_empty = arguments.diff && tallies.values().all(|tally| tally.windows == 0);
    if is_empty {
        super::report("no window was compared: none has closed for these views, machines and times");
    }
    Ok(match (found, is_empty) {
        (true, _) => FOUND,
        (false, true) => FAILED,
        (false, false) => GOOD,
    })
}
