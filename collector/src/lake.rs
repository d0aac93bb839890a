//! The lake in SQLite: every row, once, with its bits (D12, D16; docs/formats/lake.md).
//!
//! `db` names the SQL client, `ddl` makes the tables, `row` turns cells into the columns `vals` and `extra` and
//! back, `waveform` keeps what is too long for one, `write` puts rows and books into the caller's transaction, `read` gives them back to a worker that starts.

pub mod db;
pub mod ddl;
pub mod read;
pub mod row;
pub mod waveform;
pub mod write;

use std::path::{Path, PathBuf};

use db::SqliteConnection;

/// Why the lake could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// There is no such file.
    #[error("there is no lake at {}: `run` and `migrate` make one; if it stands elsewhere, see [lake] url", .file.display())]
    Missing {
        /// Where it should be.
        file: PathBuf,
    },
    /// The file cannot be opened.
    #[error("the lake at {} cannot be opened", .file.display())]
    Open {
        /// Which.
        file: PathBuf,
        /// The database's reason.
        #[source]
        source: db::Error,
    },
    /// The database refused.
    #[error("the lake: cannot {what}")]
    Sql {
        /// The operation and its subject.
        what: &'static str,
        /// The database's reason.
        #[source]
        source: db::Error,
    },
    /// A stored value cannot be read back.
    #[error("the lake: {what} cannot be read back: {reason}")]
    Stored {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The tables are of another release.
    #[error(
        "the lake has tables of version {found}, this release knows version {known}; run migrate, or use the newer release"
    )]
    Version {
        /// The file's version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another worker owns the shard now (D12).
    #[error("the lake: shard {shard} has another owner now; this one stops")]
    Fenced {
        /// Which.
        shard: i32,
    },
}

impl LakeError {
    /// Tells whether the lake is locked, its disk full or out of reach: waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Sql { source, .. } | Self::Open { source, .. } => db::is_transient(source),
            Self::Missing { .. } | Self::Stored { .. } | Self::Version { .. } | Self::Fenced { .. } => false,
        }
    }

    pub(crate) const fn sql(what: &'static str) -> impl FnOnce(db::Error) -> Self {
        move |source| Self::Sql { what, source }
    }

    pub(crate) fn stored(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Stored { what, reason: reason.to_string() }
    }
}

/// Opens the lake for writing and creates or upgrades its tables.
///
/// # Errors
/// [`LakeError::Open`], [`LakeError::Sql`] and [`LakeError::Version`].
pub async fn open(file: &Path) -> Result<SqliteConnection, LakeError> {
    let failed = |source| LakeError::Open { file: file.to_owned(), source };
    let mut conn = db::open_writer(file).await.map_err(failed)?;
    ddl::migrate(&mut conn).await?;
    Ok(conn)
}

/// As [`open()`], for those who have nothing to do where no lake is.
///
/// # Errors
/// [`LakeError::Missing`] if the file is not there; else as [`open()`].
pub async fn open_existing(file: &Path) -> Result<SqliteConnection, LakeError> {
    if !file.exists() {
        return Err(LakeError::Missing { file: file.to_owned() });
    }
    open(file).await
}

/// Opens the lake for reading.
///
/// # Errors
/// [`LakeError::Missing`], [`LakeError::Open`] and [`LakeError::Version`].
pub async fn open_reader(file: &Path) -> Result<SqliteConnection, LakeError> {
    if !file.exists() {
        return Err(LakeError::Missing { file: file.to_owned() });
    }
    let failed = |source| LakeError::Open { file: file.to_owned(), source };
    let mut conn = db::open_reader(file).await.map_err(failed)?;
    ddl::check_version(&mut conn).await?;
    Ok(conn)
}
