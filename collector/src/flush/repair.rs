//! Windows computed from the lake: repairs (F6), backfill and parity run the batch driver here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use millrace_preprocess::{BatchDriver, Catalog, FeatureRow, StreamDriver, View, Window};
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

    /// Computes a view's windows of a machine with `from_us` < end ≤ `to_us`, by time, a window twice where F7 says
    /// so; then those that the offline store holds and the lake gives no more (see [`BatchDriver::again`]).
    ///
    /// # Errors
    /// [`FlushError`].
    pub async fn compute(
        &mut self,
        conn: &mut SqliteConnection,
        view: &Arc<View>,
        machine: &MachineName,
        from_us: i64,
        to_us: i64,
    ) -> Result<Vec<FeatureRow>, FlushError> {
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
        let mut computed = driver.run(from_us, to_us);
        let given: HashSet<i64> = computed.iter().map(|row| row.event_us).collect();
        let stored = stored(conn, view, machine, from_us, to_us).await?;
        let left = stored.iter().map(|row| row.event_us).filter(|event_us| !given.contains(event_us));
        computed.extend(left.map(|event_us| driver.again(event_us)));
        Ok(computed)
    }

    /// Gives up to which event time the stream has closed a view's windows of a machine, as far as the lake tells:
    /// by the operator state or by the newest window stored. `None`: none was ever closed.
    ///
    /// # Errors
    /// [`FlushError`].
    pub async fn closed_until_us(
        &self,
        conn: &mut SqliteConnection,
        catalog: &Arc<Catalog>,
        view: &Arc<View>,
    ) -> Result<HashMap<MachineName, i64>, FlushError> {
        let mut driver = StreamDriver::new(Arc::clone(catalog), self.stall_after_us);
        for (machine, _, state) in read::operator_states(conn).await? {
            let machine = MachineName::new(&machine).map_err(|e| LakeError::stored("operator state", e))?;
            driver.restore(&machine, &state);
        }
        let newest = offline::newest_per_entity(conn, &view.schema).await?;
        let stored: HashMap<&str, i64> =
            newest.iter().map(|row| (&*row.row.entity, view.window.closed_us(row.row.event_us))).collect();
        let mut closed = HashMap::new();
        for machine in self.machines() {
            let by_state = driver.closed_until_us(view, &machine);
            if let Some(us) = by_state.max(stored.get(machine.as_str()).copied()) {
                closed.insert(machine, us);
            }
        }
        Ok(closed)
    }
}

/// Tells whether a computed row must be in the offline store. One that withdraws need not, if nothing was said; nor
/// one at an instant that was its cell's newest only by what was known first (F7), if the stream waited for the rest.
#[must_use]
pub fn is_owed(view: &View, computed: &BTreeMap<i64, &FeatureRow>, row: &FeatureRow) -> bool {
    let cell = |event_us: i64| view.window.closed_us(event_us);
    let later = computed.range(row.event_us.saturating_add(1)..).next();
    row.values.iter().any(Option::is_some)
        && later.is_none_or(|(event_us, _)| cell(*event_us) != cell(row.event_us))
}

/// Reads the newest stored revision of a view's windows of a machine with `from_us` < end ≤ `to_us`, by time.
///
/// # Errors
/// [`FlushError`].
pub async fn stored(
    conn: &mut SqliteConnection,
    view: &View,
    machine: &MachineName,
    from_us: i64,
    to_us: i64,
) -> Result<Vec<FeatureRow>, FlushError> {
    let (after_us, until_us) = match view.window {
        Window::Sliding { .. } => (from_us, to_us),
        // A cell's row stands at an instant before the cell's end.
        Window::Latest { cell_us } => {
            let begin = |us: i64| us.div_euclid(cell_us).saturating_mul(cell_us).saturating_sub(1);
            (begin(from_us), begin(to_us))
        }
    };
    let rows = offline::newest_between(conn, &view.schema, machine.as_str(), after_us, until_us).await?;
    Ok(rows.into_iter().map(|row| row.row).collect())
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
