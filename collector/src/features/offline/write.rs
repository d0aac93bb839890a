//! Deciding revision and `created` of a row, and writing it (F7, F9).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_preprocess::{FeatureRow, FeatureValue, ViewSchema};

use super::{DAY_US, OfflineError, WrittenRow, read};
use crate::features::sql::{
    self, AssertSqlSafe, Executor, SqliteArguments, SqliteConnection, literal, query_with, quoted,
};
use crate::features::view::{offline_table, versioned_name};

/// Windows looked up, or rows inserted, by one statement; at 64 the statement's own cost no longer shows.
const ROWS_PER_STATEMENT: usize = 64;

/// Writes what a flush computed: of each window only the last of `rows` (F9), and nothing where its bits are those
/// of the newest revision. Returns what was written, with revision and `created`.
///
/// Call it inside the flush's transaction; after COMMIT hand the result to the online store.
///
/// # Errors
/// [`OfflineError`]; some rows may then be written: roll the transaction back.
pub async fn write(
    conn: &mut SqliteConnection,
    rows: &[FeatureRow],
    flush_id: i64,
    computed_at_us: i64,
) -> Result<Vec<WrittenRow>, OfflineError> {
    write_windows(conn, rows, Keep::Last, flush_id, computed_at_us).await
}

/// Writes what a backfill or a repair computed, which may hold a window twice: as it was known by then, and from
/// all rows (F7). Both are kept where the window has no revision yet; where it has, only the last counts.
///
/// # Errors
/// [`OfflineError`]; some rows may then be written: roll the transaction back.
pub async fn write_revisions(
    conn: &mut SqliteConnection,
    rows: &[FeatureRow],
    flush_id: i64,
    computed_at_us: i64,
) -> Result<Vec<WrittenRow>, OfflineError> {
    write_windows(conn, rows, Keep::All, flush_id, computed_at_us).await
}

/// Which of a window's rows count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Last,
    All,
}

/// A window and the rows that were computed for it, in order.
struct Window<'a> {
    key: (Arc<str>, i64),
    rows: Vec<&'a FeatureRow>,
}

async fn write_windows(
    conn: &mut SqliteConnection,
    rows: &[FeatureRow],
    keep: Keep,
    flush_id: i64,
    computed_at_us: i64,
) -> Result<Vec<WrittenRow>, OfflineError> {
    let mut written = Vec::new();
    for (table, windows) in group(rows)? {
        let from = written.len();
        for piece in sql::pieces(&windows, ROWS_PER_STATEMENT) {
            let Some(schema) = piece.first().and_then(|w| w.rows.first()).map(|row| &row.view) else {
                continue;
            };
            let keys: Vec<_> = piece.iter().map(|window| window.key.clone()).collect();
            let stored = read::revisions(conn, schema, &keys).await?;
            let mut newest: HashMap<(Arc<str>, i64), WrittenRow> =
                stored.into_iter().map(|row| ((row.row.entity.clone(), row.row.event_us), row)).collect();
            for window in piece {
                decide(window, newest.remove(&window.key), keep, flush_id, computed_at_us, &mut written);
            }
        }
        for piece in sql::pieces(written.get(from..).unwrap_or_default(), ROWS_PER_STATEMENT) {
            insert(conn, &table, piece).await?;
        }
    }
    note_days(conn, &written).await?;
    Ok(written)
}

/// Sorts the rows by table and window; tables by name, windows as they first appear.
fn group(rows: &[FeatureRow]) -> Result<BTreeMap<String, Vec<Window<'_>>>, OfflineError> {
    let mut tables: BTreeMap<String, Vec<Window<'_>>> = BTreeMap::new();
    let mut names: HashMap<*const ViewSchema, String> = HashMap::new();
    let mut places: HashMap<(*const ViewSchema, &str, i64), usize> = HashMap::new();
    for row in rows {
        let view = Arc::as_ptr(&row.view);
        let table = names.entry(view).or_insert_with(|| offline_table(&row.view));
        let expected = row.view.features.len();
        if row.values.len() != expected {
            return Err(OfflineError::Shape { table: table.clone(), found: row.values.len(), expected });
        }
        if !tables.contains_key(table) {
            tables.insert(table.clone(), Vec::new());
        }
        let Some(windows) = tables.get_mut(table) else { continue };
        let place = *places.entry((view, &row.entity, row.event_us)).or_insert(windows.len());
        match windows.get_mut(place) {
            Some(window) => window.rows.push(row),
            None => windows.push(Window { key: (row.entity.clone(), row.event_us), rows: vec![row] }),
        }
    }
    Ok(tables)
}

/// Decides what of a window is written after its newest stored revision.
fn decide(
    window: &Window<'_>,
    newest: Option<WrittenRow>,
    keep: Keep,
    flush_id: i64,
    computed_at_us: i64,
    written: &mut Vec<WrittenRow>,
) {
    let all = keep == Keep::All && newest.is_none();
    let skip = if all { 0 } else { window.rows.len().saturating_sub(1) };
    let mut before = newest;
    for row in window.rows.iter().skip(skip) {
        if before.as_ref().is_some_and(|before| same_bits(&before.row, row)) {
            continue;
        }
        let mut row = (*row).clone();
        let revision = before.as_ref().map_or(1, |before| before.revision + 1);
        if let Some(before) = &before {
            row.created_us = row.created_us.max(before.row.created_us.saturating_add(1));
        }
        let new = WrittenRow { row, revision, computed_at_us, flush_id };
        written.push(new.clone());
        before = Some(new);
    }
}

/// Tells whether two revisions of a window say the same; times of knowing aside.
fn same_bits(a: &FeatureRow, b: &FeatureRow) -> bool {
    let same = |(a, b): (&Option<FeatureValue>, &Option<FeatureValue>)| match (a, b) {
        (Some(a), Some(b)) => a.same_bits(b),
        (a, b) => a.is_none() && b.is_none(),
    };
    a.coverage.to_bits() == b.coverage.to_bits()
        && a.values.len() == b.values.len()
        && a.values.iter().zip(&b.values).all(same)
}

async fn insert(conn: &mut SqliteConnection, table: &str, rows: &[WrittenRow]) -> Result<(), OfflineError> {
    let Some(first) = rows.first() else { return Ok(()) };
    let schema = &first.row.view;
    let columns: String = schema.features.iter().map(|f| format!(", {}", quoted(&f.name))).collect();
    let marks = format!("({})", vec!["?"; 8 + schema.features.len()].join(", "));
    let statement = format!(
        "INSERT INTO {} ({}, event_timestamp, created, computed_at, revision, coverage, flush_id, bits{columns}) \
         VALUES {}",
        quoted(table),
        quoted(&schema.entity),
        vec![&*marks; rows.len()].join(", ")
    );
    let mut arguments = SqliteArguments::default();
    for WrittenRow { row, revision, computed_at_us, flush_id } in rows {
        sql::bind(&mut arguments, row.entity.clone());
        for number in [row.event_us, row.created_us, *computed_at_us, *revision] {
            sql::bind(&mut arguments, number);
        }
        sql::bind(&mut arguments, row.coverage);
        sql::bind(&mut arguments, *flush_id);
        sql::bind(&mut arguments, read::encode_bits(row));
        for value in &row.values {
            match value {
                None => sql::bind(&mut arguments, None::<i64>),
                Some(FeatureValue::F64(number)) => sql::bind(&mut arguments, *number),
                Some(FeatureValue::I64(number)) => sql::bind(&mut arguments, *number),
                Some(FeatureValue::Bool(truth)) => sql::bind(&mut arguments, *truth),
                Some(FeatureValue::Text(text)) => sql::bind(&mut arguments, text.clone()),
            }
        }
    }
    let done = query_with(AssertSqlSafe(statement), arguments).execute(conn).await;
    done.map(|_| ()).map_err(OfflineError::sql("write", table))
}

/// Notes which days' Parquet files are behind.
async fn note_days(conn: &mut SqliteConnection, written: &[WrittenRow]) -> Result<(), OfflineError> {
    let mut days: Vec<(String, i64)> = Vec::new();
    for row in written {
        let day = row.row.event_us.div_euclid(DAY_US);
        let name = versioned_name(&row.row.view);
        if !days.iter().any(|(view, known)| *known == day && *view == name) {
            days.push((name, day));
        }
    }
    for (view, day) in days {
        let note = format!(
            "INSERT INTO feature_dirty_day (view, day, writes) VALUES ({}, {day}, 1) \
             ON CONFLICT (view, day) DO UPDATE SET writes = writes + 1",
            literal(&view)
        );
        let done = conn.execute(AssertSqlSafe(note)).await;
        done.map_err(OfflineError::sql("write", "feature_dirty_day"))?;
    }
    Ok(())
}
