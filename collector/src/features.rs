//! Rows of features: the offline store, the online store, and Feast's own formats.
//!
//! Data flows through the modules in this order: [`view`] says which versions are served, [`offline`] gives a
//! row its revision inside the flush, [`parquet`] copies it for Feast's file store, [`online`] keeps the newest
//! row of every entity, in the bytes of [`feast`]; [`export`] writes the Feast repository that describes it all.
//!
//! For the collector's flush, [`Stores`] holds them together:
//!
//! 1. once, at start: [`Stores::open`];
//! 2. in the flush's transaction: [`offline::write`] (a backfill or repair: [`offline::write_revisions`]);
//! 3. after COMMIT: [`Stores::push`] with what was returned (and [`Stores::push_latest`]); a failure is logged and
//!    not fatal: the next row of the entity, or the next start, mends it;
//! 4. about once a second, on a connection of its own: [`Stores::tend`];
//! 5. at a stop: [`Stores::finish`].

pub mod view;

pub mod offline;
pub mod parquet;

pub mod feast;
pub mod online;

pub mod export;

mod sql;

use std::path::PathBuf;
use std::sync::Arc;

use millrace_preprocess::{FeatureRow, ViewSchema};
use tokio::sync::Mutex;

use offline::{OfflineError, WrittenRow};
use online::{Newest, OnlineError, OnlineRow, OnlineStore};
use parquet::{ParquetFiles, ParquetFilesError};
use sql::{Connection as _, SqliteConnection};
use view::ActiveView;

/// Expired online rows are looked for at most this often. *Units*: microseconds.
const SWEEP_EVERY_US: i64 = 60_000_000;

/// Where the stores are, beside the lake.
#[derive(Debug, Clone)]
pub struct Places {
    /// The online store's SQLite file.
    pub online_file: PathBuf,
    /// The folder of Parquet files.
    pub parquet_folder: PathBuf,
    /// Feast's project.
    pub project: String,
}

/// Which store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// The tables beside the lake.
    #[error("offline store")]
    Offline(#[from] OfflineError),
    /// The online file.
    #[error("online store")]
    Online(#[from] OnlineError),
    /// The Parquet files.
    #[error("Parquet files")]
    Parquet(#[from] ParquetFilesError),
}

impl StoresError {
    /// Tells whether trying again later can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Offline(error) => error.is_transient(),
            Self::Online(error) => error.is_transient(),
            Self::Parquet(_) => true,
        }
    }
}

/// The feature stores of an embedded collector.
#[derive(Debug)]
pub struct Stores {
    views: Vec<ActiveView>,
    online: OnlineStore,
    files: Mutex<Files>,
}

#[derive(Debug)]
struct Files {
    parquet: ParquetFiles,
    swept_at_us: i64,
}

impl Stores {
    /// Brings the tables up to date, opens the online file and the Parquet folder, and pushes the newest row of
    /// every entity online again, which mends whatever a kill or a lost file left behind.
    ///
    /// `conn` is a connection to the lake, outside a transaction.
    ///
    /// # Errors
    /// [`StoresError`]; views that cannot be stored ([`OfflineError::Changed`], [`OfflineError::NameClash`]) change
    /// nothing.
    pub async fn open(
        conn: &mut SqliteConnection,
        places: &Places,
        views: &[Arc<ViewSchema>],
    ) -> Result<Self, StoresError> {
        let views = migrate(conn, views).await?;
        let schemas = views.iter().map(|view| view.schema.clone()).collect();
        let parquet = ParquetFiles::open(&places.parquet_folder, schemas)?;
        let online = OnlineStore::open(&places.online_file, &places.project, &views).await?;
        let stores = Self { views, online, files: Mutex::new(Files { parquet, swept_at_us: i64::MIN }) };
        stores.rebuild_online(conn).await?;
        Ok(stores)
    }

    /// Gives the views with their promotions.
    #[must_use]
    pub fn views(&self) -> &[ActiveView] {
        &self.views
    }

    /// Gives the newest rows, for the HTTP answers.
    #[must_use]
    pub fn newest(&self) -> Arc<Newest> {
        self.online.newest()
    }

    /// Pushes what a flush committed; returns how many rows were newer than those online.
    ///
    /// # Errors
    /// [`OnlineError`]; nothing is pushed then.
    pub async fn push(&self, written: &[WrittenRow]) -> Result<usize, OnlineError> {
        self.online.push(written.iter().map(OnlineRow::from)).await
    }

    /// Pushes rows of open cells of `latest` views (F8), which the offline store gets when the cell closes.
    ///
    /// # Errors
    /// [`OnlineError`]; nothing is pushed then.
    pub async fn push_latest(&self, rows: &[FeatureRow]) -> Result<usize, OnlineError> {
        self.online.push(rows.iter().map(|row| OnlineRow { row, revision: 0 })).await
    }

    /// Pushes the newest row of every entity from the offline store: `online rebuild`, and at every start.
    ///
    /// # Errors
    /// [`StoresError`]; part of it may be pushed.
    pub async fn rebuild_online(&self, conn: &mut SqliteConnection) -> Result<usize, StoresError> {
        let mut newest = Vec::new();
        for view in &self.views {
            newest.extend(offline::newest_per_entity(conn, &view.schema).await?);
        }
        Ok(self.online.rebuild(&newest).await?)
    }

    /// Does what is due: Parquet days that are behind, and expired online rows, each at most once a minute.
    ///
    /// `conn` is a connection to the lake, outside a transaction; not the flush's own, which would wait while files
    /// are encoded. *Units*: microseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// [`StoresError`]; it is tried again a minute later.
    pub async fn tend(&self, conn: &mut SqliteConnection, now_us: i64) -> Result<(), StoresError> {
        let mut files = self.files.lock().await;
        if !(0..SWEEP_EVERY_US).contains(&now_us.saturating_sub(files.swept_at_us)) {
            files.swept_at_us = now_us;
            self.online.sweep(now_us).await?;
        }
        files.parquet.write_due(conn, now_us).await?;
        Ok(())
    }

    /// Writes every Parquet day that is behind; returns how many.
    ///
    /// # Errors
    /// [`StoresError`]; the days stay on the list for the next start.
    pub async fn finish(&self, conn: &mut SqliteConnection) -> Result<usize, StoresError> {
        Ok(self.files.lock().await.parquet.write_all(conn).await?)
    }
}

/// Brings the offline store's tables up to date in a transaction of its own: `migrate`.
///
/// # Errors
/// [`OfflineError`]; nothing is changed then.
pub async fn migrate(
    conn: &mut SqliteConnection,
    views: &[Arc<ViewSchema>],
) -> Result<Vec<ActiveView>, OfflineError> {
    let failed =
        |what| move |source| OfflineError::Sql { what, table: "the offline store".to_owned(), source };
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(failed("begin to migrate"))?;
    let active = offline::migrate(&mut tx, views).await?;
    tx.commit().await.map_err(failed("migrate"))?;
    Ok(active)
}

#[cfg(test)]
mod tests;
