//! Pushing rows: compare-and-set of the side table, then Feast's fields, in one transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{OnlineError, OnlineRow, OnlineStore, Served, Table, Writer};
use crate::features::feast::{Value, sqlite_seconds, string_key, value_text};
use crate::features::sql::{
    self, AssertSqlSafe, Connection, Row, SqliteArguments, SqliteConnection, literal, query_with,
};

/// Rows that are decided by one statement; at 64 the statement's own cost no longer shows.
const ROWS_PER_STATEMENT: usize = 64;

/// Numbered parameters that a statement may have. The client looks up the name of each, and SQLite looks through all
/// names for it: the cost grows with their square.
const MOST_PARAMETERS: usize = 200;

/// A row on its way.
struct Pending<'a> {
    row: OnlineRow<'a>,
    key: Vec<u8>,
    values: Box<[Value]>,
}

impl Pending<'_> {
    /// What decides which row of an entity is the newer one; promotion is that of the table.
    fn order(&self) -> (i64, i64) {
        (self.row.row.event_us, self.row.revision)
    }

    fn entity(&self) -> &Arc<str> {
        &self.row.row.entity
    }
}

pub(super) async fn push<'a>(
    store: &OnlineStore,
    rows: impl IntoIterator<Item = OnlineRow<'a>>,
) -> Result<usize, OnlineError> {
    let pending = newest_of_each(store, rows);
    if pending.is_empty() {
        return Ok(0);
    }
    let mut writer = store.writer.lock().await;
    let Writer { conn, deciding, writing } = &mut *writer;
    let begun = conn.begin_with("BEGIN IMMEDIATE").await;
    let mut tx = begun.map_err(OnlineError::new("begin a transaction"))?;
    let mut taken = Vec::new();
    for (place, mut rows) in pending {
        let Some(table) = store.tables.get(place) else { continue };
        let wrong = || OnlineError::new(format!("write {}", table.feast_name));
        let mut won = HashSet::new();
        for piece in sql::pieces(&rows, ROWS_PER_STATEMENT) {
            let statement = deciding
                .entry((place, piece.len()))
                .or_insert_with(|| deciding_statement(table, piece.len()));
            won.extend(compare_and_set(&mut tx, statement.clone(), piece).await.map_err(wrong())?);
        }
        rows.retain(|row| won.contains(&**row.entity()));
        let features = table.view.schema.features.len();
        let most = if features == 0 { 0 } else { (MOST_PARAMETERS / (3 + 2 * features)).max(1) };
        for piece in sql::pieces(&rows, ROWS_PER_STATEMENT.min(most)) {
            let statement =
                writing.entry((place, piece.len())).or_insert_with(|| writing_statement(table, piece.len()));
            write_fields(&mut tx, statement.clone(), piece).await.map_err(wrong())?;
        }
        taken.push((place, rows));
    }
    tx.commit().await.map_err(OnlineError::new("commit"))?;
    // Still under the connection's lock: two pushes cannot change the map in another order than the file.
    let mut count = 0;
    for (place, rows) in taken {
        count += rows.len();
        if let Some(slot) = store.newest.slots().get(place) {
            slot.replace(rows.into_iter().map(|row| (row.entity().clone(), Arc::new(served(row)))));
        }
    }
    Ok(count)
}

/// Sorts the rows by table and keeps the newest of each entity.
fn newest_of_each<'a>(
    store: &OnlineStore,
    rows: impl IntoIterator<Item = OnlineRow<'a>>,
) -> BTreeMap<usize, Vec<Pending<'a>>> {
    let mut pending: BTreeMap<usize, Vec<Pending<'a>>> = BTreeMap::new();
    let mut known: HashMap<(usize, &'a str), usize> = HashMap::new();
    let mut last: Option<(*const millrace_preprocess::ViewSchema, usize)> = None;
    for row in rows {
        let view = &row.row.view;
        let place = match last {
            Some((same, place)) if same == Arc::as_ptr(view) => place,
            _ => match store.places.get(&(view.name.clone(), view.version)) {
                Some(place) => *place,
                None => continue,
            },
        };
        last = Some((Arc::as_ptr(view), place));
        let values = row.row.values.iter().map(|value| Value::of_feature(value.as_ref())).collect();
        let new = Pending { row, key: string_key(&view.entity, &row.row.entity), values };
        let rows = pending.entry(place).or_default();
        let at = *known.entry((place, &row.row.entity)).or_insert(rows.len());
        match rows.get_mut(at) {
            Some(old) if new.order() >= old.order() => *old = new,
            Some(_) => {}
            None => rows.push(new),
        }
    }
    pending
}

/// Makes the statement that writes what decides, where it is newer, and returns the entities whose row was taken.
///
/// A row of revision 0 (F8) replaces one of the same event time: more tags of that instant have come.
fn deciding_statement(table: &Table, rows: usize) -> Arc<str> {
    let (view, promotion, version) = (literal(&table.feast_name), table.promotion, table.view.schema.version);
    let marks = format!("({view}, ?, ?, {promotion}, {version}, ?, ?, ?, ?)");
    let statement = format!(
        "INSERT INTO millrace_online (view, entity, entity_key, promotion, version, event_us, created_us, \
         revision, coverage) VALUES {} ON CONFLICT (view, entity) DO UPDATE SET promotion = excluded.promotion, \
         version = excluded.version, event_us = excluded.event_us, created_us = excluded.created_us, \
         revision = excluded.revision, coverage = excluded.coverage, swept = 0 \
         WHERE (excluded.promotion, excluded.event_us, excluded.revision) > (promotion, event_us, revision) \
         OR (excluded.revision = 0 AND (excluded.promotion, excluded.event_us, 0) = (promotion, event_us, revision)) \
         RETURNING entity",
        vec![&*marks; rows].join(", ")
    );
    statement.into()
}

async fn compare_and_set(
    conn: &mut SqliteConnection,
    statement: Arc<str>,
    rows: &[Pending<'_>],
) -> Result<Vec<String>, sql::Error> {
    let mut arguments = SqliteArguments::default();
    for row in rows {
        sql::bind(&mut arguments, row.entity().clone());
        sql::bind(&mut arguments, row.key.clone());
        for number in [row.row.row.event_us, row.row.row.created_us, row.row.revision] {
            sql::bind(&mut arguments, number);
        }
        sql::bind(&mut arguments, row.row.row.coverage);
    }
    let taken = query_with(AssertSqlSafe(statement), arguments).fetch_all(conn).await?;
    taken.iter().map(|row| row.try_get(0)).collect()
}

/// Makes the statement that writes Feast's rows: one per entity and feature.
fn writing_statement(table: &Table, rows: usize) -> Arc<str> {
    let features = &table.view.schema.features;
    let per_row = 3 + 2 * features.len();
    let mut marks = Vec::with_capacity(rows * features.len());
    for first in (0..rows).map(|row| row * per_row + 1) {
        let (key, event, created) = (first, first + 1, first + 2);
        for (at, feature) in features.iter().enumerate() {
            let (value, text) = (first + 3 + 2 * at, first + 4 + 2 * at);
            marks.push(format!(
                "(?{key}, {}, ?{value}, ?{text}, ?{event}, ?{created})",
                literal(&feature.name)
            ));
        }
    }
    let statement = format!(
        "INSERT INTO {} (entity_key, feature_name, value, value_text, event_ts, created_ts) VALUES {} \
         ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, \
         value_text = excluded.value_text, event_ts = excluded.event_ts, created_ts = excluded.created_ts",
        table.name,
        marks.join(", ")
    );
    statement.into()
}

async fn write_fields(
    conn: &mut SqliteConnection,
    statement: Arc<str>,
    rows: &[Pending<'_>],
) -> Result<(), sql::Error> {
    let mut arguments = SqliteArguments::default();
    for row in rows {
        sql::bind(&mut arguments, row.key.clone());
        sql::bind(&mut arguments, sqlite_seconds(row.row.row.event_us));
        sql::bind(&mut arguments, sqlite_seconds(row.row.row.created_us));
        for value in &row.values {
            sql::bind(&mut arguments, value.encode());
            sql::bind(&mut arguments, value_text(value));
        }
    }
    query_with(AssertSqlSafe(statement), arguments).execute(conn).await.map(|_| ())
}

fn served(row: Pending<'_>) -> Served {
    Served {
        event_us: row.row.row.event_us,
        created_us: row.row.row.created_us,
        revision: row.row.revision,
        coverage: row.row.row.coverage,
        values: row.values,
    }
}
