//! The online store (F10): the newest row of every entity, in Feast's own SQLite tables.
//!
//! Feast's table `{project}_{view}` holds what the SDK reads; the side table `millrace_online` holds what decides:
//! (promotion, event time, revision) of every entity. Both change in one transaction, and only for a newer
//! row, so the store never goes back in time, whoever pushes what again. A map in memory mirrors it for the HTTP
//! answers. Invariant: this is the only writer; Feast may read, and its own writes (`materialize`, `push`) are not
//! seen by the HTTP answers.

mod newest;
mod write;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;

pub use newest::{Newest, NewestRow, Served, Slot};

use super::feast::{sqlite_table, sqlite_table_ddl};
use super::offline::WrittenRow;
use super::sql::{
    self, AssertSqlSafe, Connection, Executor, SqliteConnectOptions, SqliteConnection, SqliteJournalMode,
    SqliteSynchronous, literal, quoted,
};
use super::view::ActiveView;

/// Statements kept prepared: seven lengths of two kinds per view, for more views than a plant has.
const STATEMENT_CACHE: usize = 1_024;

const SIDE_TABLE: &str = "CREATE TABLE IF NOT EXISTS millrace_online (view TEXT NOT NULL, entity TEXT NOT NULL, \
     entity_key BLOB NOT NULL, promotion INTEGER NOT NULL, version INTEGER NOT NULL, event_us INTEGER NOT NULL, \
     created_us INTEGER NOT NULL, revision INTEGER NOT NULL, coverage REAL NOT NULL, \
     swept INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (view, entity)) WITHOUT ROWID";

/// Why the online store could not be read or written. Nothing is changed then, and whatever is missing is pushed
/// again by [`OnlineStore::rebuild`].
#[derive(Debug, thiserror::Error)]
#[error("online store: cannot {what}")]
pub struct OnlineError {
    what: String,
    #[source]
    source: sql::Error,
}

impl OnlineError {
    fn new(what: impl Into<String>) -> impl FnOnce(sql::Error) -> Self {
        let what = what.into();
        move |source| Self { what, source }
    }

    /// Tells whether trying again later can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        sql::is_transient(&self.source)
    }
}

/// A row for the online store.
#[derive(Debug, Clone, Copy)]
pub struct OnlineRow<'a> {
    /// The features.
    pub row: &'a millrace_preprocess::FeatureRow,
    /// Its revision; 0 for a row of a `latest` view that has not been written offline yet (F8).
    pub revision: i64,
}

impl<'a> From<&'a WrittenRow> for OnlineRow<'a> {
    fn from(written: &'a WrittenRow) -> Self {
        Self { row: &written.row, revision: written.revision }
    }
}

/// The online store in a SQLite file.
#[derive(Debug)]
pub struct OnlineStore {
    writer: Mutex<Writer>,
    newest: Arc<Newest>,
    /// Of every slot of `newest`, in its order.
    tables: Vec<Table>,
    /// The slot of a (view, version).
    places: HashMap<(Arc<str>, u32), usize>,
}

/// The connection, with the texts of the statements for each table and number of rows: they are long, and the
/// same again and again.
#[derive(Debug)]
struct Writer {
    conn: SqliteConnection,
    deciding: HashMap<(usize, usize), Arc<str>>,
    writing: HashMap<(usize, usize), Arc<str>>,
}

/// What is written for a view.
#[derive(Debug)]
struct Table {
    name: String,
    view: ActiveView,
    feast_name: String,
    /// 0 for a version that runs beside the promoted one, which has a table of its own.
    promotion: i64,
}

impl OnlineStore {
    /// Opens or creates the file, makes the tables of `views` as `feast apply` would, and reads what it holds.
    ///
    /// # Errors
    /// [`OnlineError`] if the file cannot be opened, written or read.
    pub async fn open(path: &Path, project: &str, views: &[ActiveView]) -> Result<Self, OnlineError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // After a power cut the newest commits may be missing, which the rebuild at start mends.
            .synchronous(SqliteSynchronous::Normal)
            .statement_cache_capacity(STATEMENT_CACHE);
        let opened = SqliteConnection::connect_with(&options).await;
        let mut conn = opened.map_err(OnlineError::new(format!("open {}", path.display())))?;
        conn.execute(SIDE_TABLE).await.map_err(OnlineError::new("create millrace_online"))?;
        let mut tables = Vec::new();
        let mut places = HashMap::new();
        for (place, view) in views.iter().enumerate() {
            let feast_name = view.feast_name();
            for ddl in sqlite_table_ddl(project, &feast_name) {
                let made = conn.execute(AssertSqlSafe(ddl)).await;
                made.map_err(OnlineError::new(format!("create the table of {feast_name}")))?;
            }
            places.insert((view.schema.name.clone(), view.schema.version), place);
            tables.push(Table {
                name: quoted(&sqlite_table(project, &feast_name)),
                view: view.clone(),
                feast_name,
                promotion: view.promotion.unwrap_or_default().cast_signed(),
            });
        }
        let newest = Arc::new(Newest::new(views));
        let writer = Mutex::new(Writer { conn, deciding: HashMap::new(), writing: HashMap::new() });
        let store = Self { writer, newest, tables, places };
        store.load().await?;
        Ok(store)
    }

    /// Gives the map of newest rows, which follows every push.
    #[must_use]
    pub fn newest(&self) -> Arc<Newest> {
        self.newest.clone()
    }

    /// Pushes rows that were committed to the offline store; those that are not newer than what is there are
    /// passed over. Returns how many were taken. Rows of views that were not given to [`Self::open`] are ignored.
    ///
    /// # Errors
    /// [`OnlineError`]; nothing of the call is stored then, and the map in memory is unchanged.
    ///
    /// # Cancel safety
    /// Dropped half-way, the transaction is rolled back before the connection is used again.
    pub async fn push<'a>(
        &self,
        rows: impl IntoIterator<Item = OnlineRow<'a>>,
    ) -> Result<usize, OnlineError> {
        write::push(self, rows).await
    }

    /// Pushes the newest rows of the whole offline store, then clears what a replaced version left behind.
    ///
    /// Called at start it makes the store whole again after any kill between COMMIT and push, a lost file or
    /// a promotion: compare-and-set passes over what is there already.
    ///
    /// # Errors
    /// [`OnlineError`]; the store holds then what it held, or part of the newer rows.
    pub async fn rebuild(&self, rows: &[WrittenRow]) -> Result<usize, OnlineError> {
        let taken = self.push(rows.iter().map(OnlineRow::from)).await?;
        let conn = &mut self.writer.lock().await.conn;
        for table in &self.tables {
            let wrong = || OnlineError::new(format!("clear old rows of {}", table.feast_name));
            let (view, promotion) = (literal(&table.feast_name), table.promotion);
            let old = format!("FROM millrace_online WHERE view = {view} AND promotion < {promotion}");
            let features: Vec<_> = table.view.schema.features.iter().map(|f| literal(&f.name)).collect();
            let fields = format!(
                "DELETE FROM {} WHERE feature_name NOT IN ({}) OR entity_key IN (SELECT entity_key {old})",
                table.name,
                features.join(", ")
            );
            let mut tx = conn.begin().await.map_err(wrong())?;
            tx.execute(AssertSqlSafe(fields)).await.map_err(wrong())?;
            tx.execute(AssertSqlSafe(format!("DELETE {old}"))).await.map_err(wrong())?;
            tx.commit().await.map_err(wrong())?;
        }
        Ok(taken)
    }

    /// Deletes the fields of rows older than their view's ttl, for readers that do not look at the time themselves
    /// (the SDK does not). What decides about newer rows stays. Returns how many rows were cleared.
    ///
    /// *Units*: microseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// [`OnlineError`]; the rest is cleared the next time.
    pub async fn sweep(&self, now_us: i64) -> Result<u64, OnlineError> {
        let conn = &mut self.writer.lock().await.conn;
        let mut swept = 0;
        for table in self.tables.iter().filter(|table| table.view.schema.ttl_us > 0) {
            let wrong = || OnlineError::new(format!("clear expired rows of {}", table.feast_name));
            let condition = format!(
                "view = {} AND swept = 0 AND event_us < {}",
                literal(&table.feast_name),
                now_us.saturating_sub(table.view.schema.ttl_us)
            );
            let mut tx = conn.begin().await.map_err(wrong())?;
            let fields = format!(
                "DELETE FROM {} WHERE entity_key IN (SELECT entity_key FROM millrace_online WHERE {condition})",
                table.name
            );
            tx.execute(AssertSqlSafe(fields)).await.map_err(wrong())?;
            let mark = format!("UPDATE millrace_online SET swept = 1 WHERE {condition}");
            swept += tx.execute(AssertSqlSafe(mark)).await.map_err(wrong())?.rows_affected();
            tx.commit().await.map_err(wrong())?;
        }
        Ok(swept)
    }
}

#[cfg(test)]
mod tests;
