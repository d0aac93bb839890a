//! Views with `mode = "batch"`: computed from the lake every `run_every`, up to what is complete (F5).
//!
//! A run of a (view, machine) goes over the windows that ended since the last one, and from the earliest row on
//! that came since then, by the code of `backfill`. Its position is saved in the transaction of its windows, so that a
//! restart goes on; what is computed twice has the same bits and is not written again (F9). One machine day at a
//! time, between two flushes: never long in the way of live data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_preprocess::{Mode, View};
use millrace_protocol::MachineName;

use super::commit::flush_id;
use super::{Backfill, FlushError, Memory};
use crate::features::offline::{self, DAY_US, WrittenRow};
use crate::lake::LakeError;
use crate::lake::db::{Executor as _, SqliteConnection};
use crate::lake::read;
use crate::lake::write::{self, BatchRun};

/// What is due is looked for at most this often. *Units*: microseconds.
const LOOK_EVERY_US: i64 = 1_000_000;
/// What is due and has nothing to compute is looked at again after this time. *Units*: microseconds.
const ASK_AGAIN_US: i64 = 60_000_000;

type Key = (String, u32, MachineName);

/// How far every batch view is computed, and the run that is under way.
#[derive(Debug, Default)]
pub(super) struct BatchRuns {
    positions: BTreeMap<Key, BatchRun>,
    /// When something was due and nothing was there.
    asked: BTreeMap<Key, i64>,
    job: Option<Job>,
    looked_us: i64,
}

/// A run that is under way: windows that end in `(from_us, to_us]` are still to be computed.
#[derive(Debug)]
struct Job {
    view: Arc<View>,
    machine: MachineName,
    from_us: i64,
    to_us: i64,
    rows_seen: i64,
    began_us: i64,
}

impl BatchRuns {
    pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Self, LakeError> {
        let mut runs = Self { looked_us: i64::MIN, ..Self::default() };
        for run in read::batch_runs(conn).await? {
            let machine = MachineName::new(&run.machine).map_err(|e| LakeError::stored("a batch run", e))?;
            runs.positions.insert((run.view.clone(), run.version, machine), run);
        }
        Ok(runs)
    }
}

impl Memory {
    /// Computes one machine day of the batch views that are due, in a transaction of its own, and says what was written.
    /// `None`: nothing is due.
    ///
    /// # Errors
    /// [`FlushError`]; the outcome may be unknown: roll back and load the memory again.
    pub async fn batch(
        &mut self,
        conn: &mut SqliteConnection,
        now_us: i64,
    ) -> Result<Option<Vec<WrittenRow>>, FlushError> {
        if self.batch.job.is_none() {
            self.batch.job = self.due_job(conn, now_us).await?;
        }
        let Some(mut job) = self.batch.job.take() else { return Ok(None) };
        let day_end_us = (job.from_us.div_euclid(DAY_US) + 1).saturating_mul(DAY_US);
        let to_us = day_end_us.min(job.to_us);
        let mut backfill = Backfill::open(conn, self.settings.stall_after_us()).await?;
        let rows = backfill.compute(conn, &job.view, &job.machine, job.from_us, to_us).await?;
        job.from_us = to_us;
        let position = self.position(&job);

        conn.execute("BEGIN IMMEDIATE").await.map_err(LakeError::sql("begin a batch run"))?;
        let number = backfill.shard(&job.machine);
        let state = self.shard(number).state.clone();
        let flushes = write::shard(conn, number, &state, now_us).await?;
        self.shard(number).state.flushes = flushes;
        let written = offline::write_revisions(conn, &rows, flush_id(number, flushes), now_us).await?;
        write::batch_run(conn, position.clone()).await?;
        conn.execute("COMMIT").await.map_err(LakeError::sql("commit a batch run"))?;

        self.batch.positions.insert(key(&job.view, &job.machine), position);
        self.batch.job = Some(job).filter(|job| job.from_us < job.to_us);
        Ok(Some(written))
    }

    /// Says how far a view is computed when a job has come to its `from_us`. Only a finished one has seen all rows.
    fn position(&self, job: &Job) -> BatchRun {
        let schema = &job.view.schema;
        let before = self.batch.positions.get(&key(&job.view, &job.machine));
        let done = job.from_us >= job.to_us;
        BatchRun {
            view: schema.name.to_string(),
            version: schema.version,
            machine: job.machine.as_str().to_owned(),
            until: before.map_or(job.from_us, |before| before.until.max(job.from_us)),
            rows_seen: if done { job.rows_seen } else { before.map_or(0, |before| before.rows_seen) },
            ran: if done { job.began_us } else { before.map_or(i64::MIN, |before| before.ran) },
        }
    }

    /// Finds a view and machine whose time has come and that has something to compute.
    async fn due_job(&mut self, conn: &mut SqliteConnection, now_us: i64) -> Result<Option<Job>, LakeError> {
        let catalog = Arc::clone(&self.settings.catalog);
        if (0..LOOK_EVERY_US).contains(&now_us.saturating_sub(self.batch.looked_us)) {
            return Ok(None);
        }
        for view in catalog.views() {
            let Mode::Batch { run_every_us } = view.mode else { continue };
            let machines = self.ledger.iter().map(|(stream, _)| &stream.machine);
            let machines: BTreeSet<MachineName> = machines.filter(|m| view.kind.holds(m)).cloned().collect();
            for machine in machines {
                let key = key(view, &machine);
                let ran = self.batch.positions.get(&key).map(|known| known.ran.saturating_add(run_every_us));
                let asked = self.batch.asked.get(&key).map(|asked| asked.saturating_add(ASK_AGAIN_US));
                if ran.max(asked).is_some_and(|next_us| now_us < next_us) {
                    continue;
                }
                if let Some(job) = self.job(conn, view, machine, now_us).await? {
                    return Ok(Some(job));
                }
            }
        }
        self.batch.looked_us = now_us;
        Ok(None)
    }

    /// Makes a run's job; `None` when nothing is complete or nothing new is there.
    async fn job(
        &mut self,
        conn: &mut SqliteConnection,
        view: &Arc<View>,
        machine: MachineName,
        now_us: i64,
    ) -> Result<Option<Job>, LakeError> {
        let shards = self.shards.values();
        let complete = shards.filter_map(|shard| shard.driver.complete_until_us(view, &machine)).min();
        let Some(complete_us) = complete else { return Ok(None) };
        let rows_seen = read::rows_seen(conn).await?;
        let (from_us, to_us) = match self.batch.positions.get_mut(&key(view, &machine)) {
            None => match read::time_range(conn, &machine).await? {
                Some((first_us, _)) => (first_us.saturating_sub(1), complete_us),
                None => return Ok(None),
            },
            Some(known) => {
                let late_us = read::first_since(conn, &machine, known.rows_seen).await?;
                let range =
                    (late_us.map_or(known.until, |us| known.until.min(us)), complete_us.max(known.until));
                if range.0 >= range.1 {
                    // Nothing is there yet, perhaps as nothing was heard since the start: not asked every second.
                    self.batch.asked.insert(key(view, &machine), now_us);
                    known.rows_seen = rows_seen;
                }
                range
            }
        };
        let job = Job { view: Arc::clone(view), machine, from_us, to_us, rows_seen, began_us: now_us };
        Ok(Some(job).filter(|job| job.from_us < job.to_us))
    }
}

fn key(view: &View, machine: &MachineName) -> Key {
    (view.schema.name.to_string(), view.schema.version, machine.clone())
}
