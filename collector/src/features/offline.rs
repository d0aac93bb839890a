//! The offline store (F9): every revision of every window, append-only, beside the lake in SQLite.
//!
//! One table `features_<view>_v<N>` per version; times are microseconds since 1970-01-01 UTC. Invariants: a
//! window's revisions count 1, 2, 3 … with rising `created`, and two neighbours differ in their bits; nothing
//! is ever changed or deleted. Writing happens on the caller's connection, inside the caller's transaction; the
//! days that it touched are noted there too, so that no crash hides them from the Parquet files.

mod ddl;
mod read;
mod write;

use millrace_preprocess::FeatureRow;

pub use ddl::{conflicts, migrate, promote};
pub use read::{newest_between, newest_per_entity, rows_of_day};
pub use write::{write, write_revisions};

use super::sql;

/// *Units*: microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// A row as the offline store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenRow {
    /// The row; its `created_us` is later than the previous revision's.
    pub row: FeatureRow,
    /// Which revision of its window, from 1.
    pub revision: i64,
    /// When it was computed. *Units*: microseconds since 1970-01-01 UTC.
    pub computed_at_us: i64,
    /// The flush that wrote it (D12).
    pub flush_id: i64,
}

/// Why the offline store could not be read or written; the caller's transaction is to be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The database refused.
    #[error("cannot {what} {table}")]
    Sql {
        /// The operation.
        what: &'static str,
        /// The table.
        table: String,
        /// The database's reason.
        #[source]
        source: sql::Error,
    },
    /// Two views, or two features of a view, would share a name in SQL.
    #[error(
        "{first} and {second} would both be called {name:?} in SQL, which does not tell cases apart; rename one"
    )]
    NameClash {
        /// What exists.
        first: String,
        /// What collides with it.
        second: String,
        /// The name.
        name: String,
    },
    /// The view's features changed under one version.
    #[error(
        "view {view:?} version {version}: its table has the columns {found}, the file says {expected}; give the view a new version"
    )]
    Changed {
        /// The view.
        view: String,
        /// Its version.
        version: u32,
        /// Columns of the table.
        found: String,
        /// Columns of the file.
        expected: String,
    },
    /// What the view's features mean changed under one version.
    #[error(
        "view {view:?} version {version}: its features do not mean what the stored ones mean (the view, a signal, a kind's \
         types or the program's rules changed); give the view a new version"
    )]
    Meaning {
        /// The view.
        view: String,
        /// Its version.
        version: u32,
    },
    /// A row has not as many values as its view has features.
    #[error("a row of {table} has {found} values, its view {expected} features")]
    Shape {
        /// The table.
        table: String,
        /// Values of the row.
        found: usize,
        /// Features of the view.
        expected: usize,
    },
    /// A stored row cannot be read back.
    #[error("{table}: a stored row has {what}")]
    Stored {
        /// The table.
        table: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The version that was to be promoted is not there.
    #[error("view {view:?} has no version {version} in the feature files")]
    NoVersion {
        /// The view.
        view: String,
        /// The version.
        version: u32,
    },
}

impl OfflineError {
    /// Tells whether trying again later can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Sql { source, .. } => sql::is_transient(source),
            Self::NameClash { .. }
            | Self::Changed { .. }
            | Self::Meaning { .. }
            | Self::Shape { .. }
            | Self::Stored { .. }
            | Self::NoVersion { .. } => false,
        }
    }

    fn sql<'a>(what: &'static str, table: &'a str) -> impl FnOnce(sql::Error) -> Self + use<'a> {
        move |source| Self::Sql { what, table: table.to_owned(), source }
    }
}

#[cfg(test)]
mod tests;
