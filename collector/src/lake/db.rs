//! The SQL client's names, for the lake and the feature stores. The only file tree that names sqlx.

use std::path::Path;
use std::time::Duration;

pub use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
pub use sqlx::{
    AssertSqlSafe, ColumnIndex, Connection, Decode, Error, Executor, Row, Type, TypeInfo, ValueRef,
};
pub use sqlx::{query, query_with};

/// How long a statement waits for another process's lock before the lake counts as locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Prepared statements kept by a connection: powers of two of rows for every table, with room to spare.
const STATEMENTS: usize = 256;

/// Opens the connection that writes, and makes the file where there is none.
///
/// WAL with `synchronous = FULL`: a commit that returned survives a power cut, and readers never wait.
///
/// # Errors
/// The database's own, when the file cannot be made or is no database.
pub async fn open_writer(file: &Path) -> Result<SqliteConnection, Error> {
    let options = options(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    SqliteConnection::connect_with(&options).await
}

/// Opens a connection that only reads.
///
/// # Errors
/// The database's own, when there is no such file.
pub async fn open_reader(file: &Path) -> Result<SqliteConnection, Error> {
    // Not SQLite's read-only mode: the first reader after a crash must be able to recover the WAL.
    let mut conn = SqliteConnection::connect_with(&options(file)).await?;
    conn.execute("PRAGMA query_only = 1").await?;
    Ok(conn)
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false)
        .statement_cache_capacity(STATEMENTS)
        .pragma("cache_size", "-16384")
        .pragma("temp_store", "memory")
}

/// A statement and its arguments in order.
pub struct Statement {
    sql: String,
    arguments: SqliteArguments,
}

impl Statement {
    /// Begins a statement; its places are question marks.
    #[must_use]
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), arguments: SqliteArguments::default() }
    }

    /// Gives the next place its value.
    #[must_use]
    pub fn bind<'q, T>(mut self, value: T) -> Self
    where
        T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        bind(&mut self.arguments, value);
        self
    }

    /// Gives the next place its value.
    pub fn add<'q, T>(&mut self, value: T)
    where
        T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        bind(&mut self.arguments, value);
    }

    /// Runs it; gives the number of rows that it changed.
    ///
    /// # Errors
    /// The database's own.
    pub async fn execute(self, conn: &mut SqliteConnection) -> Result<u64, Error> {
        let done = query_with(AssertSqlSafe(self.sql), self.arguments).execute(conn).await?;
        Ok(done.rows_affected())
    }

    /// Runs it and gives its rows.
    ///
    /// # Errors
    /// The database's own.
    pub async fn fetch_all(self, conn: &mut SqliteConnection) -> Result<Vec<SqliteRow>, Error> {
        query_with(AssertSqlSafe(self.sql), self.arguments).fetch_all(conn).await
    }

    /// Runs it and gives its first row, if there is one.
    ///
    /// # Errors
    /// The database's own.
    pub async fn fetch_optional(self, conn: &mut SqliteConnection) -> Result<Option<SqliteRow>, Error> {
        query_with(AssertSqlSafe(self.sql), self.arguments).fetch_optional(conn).await
    }
}

/// Adds a value to a statement's arguments.
pub fn bind<'q, T>(arguments: &mut SqliteArguments, value: T)
where
    T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    let added = sqlx::Arguments::add(arguments, value);
    debug_assert!(added.is_ok(), "numbers, texts and bytes are always encoded");
}

/// Tells whether an error passes by itself: the database is locked, its disk is full or unreachable (D12).
#[must_use]
pub fn is_transient(error: &Error) -> bool {
    match error {
        Error::Io(_) | Error::PoolTimedOut | Error::WorkerCrashed => true,
        Error::Database(database) => {
            // Primary result codes: 5 busy, 6 locked, 10 I/O error, 13 full, 14 cannot open.
            let code = database.code().and_then(|c| c.parse::<u32>().ok()).unwrap_or(0) & 0xff;
            matches!(code, 5 | 6 | 10 | 13 | 14)
        }
        _ => false,
    }
}
