//! The SQL client's names, for the lake and the feature stores. The only file tree that names sqlx.

pub use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
pub use sqlx::{
    AssertSqlSafe, ColumnIndex, Connection, Decode, Error, Executor, Row, Type, TypeInfo, ValueRef,
};
pub use sqlx::{query, query_with};

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
