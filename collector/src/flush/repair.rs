//! Windows computed from the lake: repairs (F6), backfill and parity run the batch driver here.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_preprocess::{BatchDriver, FeatureRow, View};
use millrace_protocol::{Birth, MachineName, StreamId};

use super::commit::flush_id;
use super::{FlushError, Memory};
use crate::features::offline::{self, WrittenRow};
use crate::lake::LakeError;
use crate::lake::db::{Executor as _, SqliteConnection};
use crate::lake::read::{self, Layouts, LoadedStream};
use crate::lake::write;

const HOUR_US: i64 = 3_600_000_000;

/// Reads the lake for the batch driver.
#[derive(Debug)]
pub struct Backfill {
    loaded: Vec<LoadedStream>,
    streams: HashMap<i64, Arc<StreamId>>,
    births: Vec<(i64, Birth)>,
    layouts: Layouts,
    stall_after_us: i64,
}

impl Backfill {
    /// Reads which streams and births there are.
    ///
    /// # Errors
    /// [`LakeError`].
    pub async fn open(conn: &mut SqliteConnection, stall_after_us: i64) -> Result<Self, LakeError> {
        let loaded = read::streams(conn).await?;
        let streams = read::by_number(&loaded);
        let births = read::births(conn).await?;
        Ok(Self { loaded, streams, births, layouts: Layouts::default(), stall_after_us })
    }

    /// Gives every machine, sorted.
    #[must_use]
    pub fn machines(&self) -> Vec<MachineName> {
        let mut machines: Vec<_> = self.loaded.iter().map(|s| s.stream.machine.clone()).collect();
        machines.sort();
        machines.dedup();
        machines
    }

    /// Gives a machine's shard, the first of its streams'.
    #[must_use]
    pub fn shard(&self, machine: &MachineName) -> i32 {
        self.loaded.iter().find(|s| s.stream.machine == *machine).map_or(0, |s| s.shard)
    }

    /// Writes what [`Self::compute`] gave, in a transaction of its own (D12).
    ///
    /// # Errors
    /// [`FlushError`]; nothing is written then.
    pub async fn write(
        &self,
        conn: &mut SqliteConnection,
        machine: &MachineName,
        rows: &[FeatureRow],
        now_us: i64,
    ) -> Result<Vec<WrittenRow>, FlushError> {
        conn.execute("BEGIN IMMEDIATE").await.map_err(LakeError::sql("begin a backfill"))?;
        let done = self.write_rows(conn, machine, rows, now_us).await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        conn.execute(end).await.map_err(LakeError::sql("end a backfill"))?;
        done
    }

    async fn write_rows(
        &self,
        conn: &mut SqliteConnection,
        machine: &MachineName,
        rows: &[FeatureRow],
        now_us: i64,
    ) -> Result<Vec<WrittenRow>, FlushError> {
        let shard = self.shard(machine);
        let flushes = write::next_flush(conn, shard, now_us).await?;
        Ok(offline::write_revisions(conn, rows, flush_id(shard, flushes), now_us).await?)
    }

    /// Computes a view's windows of a machine with `from_us` < end ≤ `to_us`.
    ///
    /// # Errors
    /// [`LakeError`].
    pub async fn compute(
        &mut self,
        conn: &mut SqliteConnection,
        view: &Arc<View>,
        machine: &MachineName,
        from_us: i64,
        to_us: i64,
    ) -> Result<Vec<FeatureRow>, LakeError> {
        let mut driver = BatchDriver::new(Arc::clone(view), machine, self.stall_after_us);
        for (stream_id, birth) in &self.births {
            if let Some(stream) = self.streams.get(stream_id).filter(|stream| stream.machine == *machine) {
                driver.birth(stream, birth);
            }
        }
        let rows_from_us = driver.rows_from_us(from_us);
        let rows =
            read::machine_rows(conn, &mut self.layouts, &self.streams, machine, rows_from_us, to_us).await?;
        driver.rows(&rows);
        Ok(driver.run(from_us, to_us))
    }
}

impl Memory {
    /// Does one repair, the oldest, if there is any: its hour is computed again from the lake and written in a
    /// transaction of its own. `None`: nothing to repair.
    ///
    /// Only windows that the stream has closed are written; the others are the stream's own.
    ///
    /// # Errors
    /// [`FlushError`]; the outcome may be unknown: roll back and load the memory again.
    pub async fn repair(
        &mut self,
        conn: &mut SqliteConnection,
        now_us: i64,
    ) -> Result<Option<Vec<WrittenRow>>, FlushError> {
        let Some((name, version, machine, hour_us)) = read::repairs(conn).await?.into_iter().next() else {
            return Ok(None);
        };
        conn.execute("BEGIN IMMEDIATE").await.map_err(LakeError::sql("begin a repair"))?;
        let mut written = Vec::new();
        let views = self.settings.catalog.views();
        let view = views.iter().find(|v| *v.schema.name == *name && v.schema.version == version).cloned();
        if let (Some(view), Ok(machine)) = (view, MachineName::new(&machine)) {
            let mut backfill = Backfill::open(conn, self.settings.stall_after_us()).await?;
            let shard = backfill.shard(&machine);
            let closed_us = self.shard(shard).driver.closed_until_us(&view, &machine).unwrap_or(i64::MIN);
            let to_us = hour_us.saturating_add(HOUR_US).min(closed_us);
            let rows = backfill.compute(conn, &view, &machine, hour_us, to_us).await?;
            let state = self.shard(shard).state.clone();
            let flushes = write::shard(conn, shard, &state, now_us).await?;
            self.shard(shard).state.flushes = flushes;
            let id = flush_id(shard, flushes);
            written = offline::write_revisions(conn, &rows, id, now_us).await?;
        }
        write::repaired(conn, &name, version, &machine, hour_us).await?;
        conn.execute("COMMIT").await.map_err(LakeError::sql("commit a repair"))?;
        Ok(Some(written))
    }
}
