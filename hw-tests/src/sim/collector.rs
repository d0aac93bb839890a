//! The collector of the simulation: its real memory, flush and lake; reading is by hand, and a flush can be cut at
//! any instruction of any of its statements.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use anyhow::Context as _;
use millrace_collector::flush::{FlushError, Flushed, Memory, Settings};
use millrace_collector::lake::db::{
    AssertSqlSafe, Connection as _, Executor as _, Row as _, SqliteConnection,
};
use millrace_collector::{app, features, lake};
use tokio::runtime::Runtime;

use super::dice::Dice;
use super::kafka::{Kafka, Partition};
use super::tally::Tally;

/// SQLite's own instructions between two places where a statement can be cut.
const CUT_EVERY: i32 = 20;
/// A file that may not grow beyond this has no limit. *Units*: pages.
const NO_LIMIT: i64 = 1_073_741_823;

/// What becomes of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is dropped in the middle and the process with it.
    Killed(u64),
    /// A statement in the middle fails; the worker loads anew.
    Failed(u64),
    /// It is committed, and nobody learns it.
    Unknown,
}

/// The collector, its process running or not.
pub struct Collector {
    file: PathBuf,
    settings: Settings,
    running: Option<Running>,
    /// What became of flushes.
    pub tally: Tally,
    is_lake_full: bool,
    /// Sabotage: some records are not taken.
    skips: bool,
}

struct Running {
    conn: SqliteConnection,
    memory: Memory,
    positions: BTreeMap<Partition, i64>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Collector {
    /// Makes one that does not run yet.
    #[must_use]
    pub fn new(folder: &Path, settings: Settings, skips: bool) -> Self {
        let file = folder.join("lake.db");
        Self { file, settings, running: None, tally: Tally::default(), is_lake_full: false, skips }
    }

    /// Opens the lake as a process does that starts.
    ///
    /// *Errors*: it does not open.
    pub async fn connect(&self) -> anyhow::Result<SqliteConnection> {
        let mut conn = lake::open(&self.file).await.context("opening the lake")?;
        features::migrate(&mut conn, &app::schemas(&self.settings.catalog))
            .await
            .context("making its tables")?;
        Ok(conn)
    }

    /// Starts, unless it runs.
    async fn start(&mut self) -> anyhow::Result<()> {
        if self.running.is_none() {
            let conn = self.connect().await?;
            self.running = Some(self.load(conn).await?);
        }
        Ok(())
    }

    async fn load(&self, mut conn: SqliteConnection) -> anyhow::Result<Running> {
        let memory = Memory::load(&mut conn, self.settings.clone()).await.context("loading the memory")?;
        let positions = memory
            .positions()
            .into_iter()
            .map(|((topic, shard), at)| ((topic.into(), shard), at.next))
            .collect();
        Ok(Running { conn, memory, positions })
    }

    /// Reads some records of one partition, or takes note that its end is reached.
    ///
    /// *Errors*: it does not start.
    pub fn read(
        &mut self,
        runtime: &Runtime,
        kafka: &Kafka,
        dice: &mut Dice,
        now_us: i64,
    ) -> anyhow::Result<()> {
        runtime.block_on(self.start())?;
        let Some(running) = &mut self.running else { return Ok(()) };
        let ends = kafka.ends();
        let Some((partition, end)) = ends.get(dice.place(ends.len())) else { return Ok(()) };
        running.read(kafka, partition, *end, 1 + dice.place(6), now_us, self.skips);
        Ok(())
    }

    /// Reads everything.
    ///
    /// *Errors*: it does not start.
    pub fn read_all(&mut self, runtime: &Runtime, kafka: &Kafka, now_us: i64) -> anyhow::Result<()> {
        runtime.block_on(self.start())?;
        let Some(running) = &mut self.running else { return Ok(()) };
        for (partition, end) in kafka.ends() {
            running.read(kafka, &partition, end, usize::MAX, now_us, self.skips);
            running.read(kafka, &partition, end, 0, now_us, false);
        }
        Ok(())
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        if self.running.take().is_some() {
            self.tally.once("collector killed");
        }
    }

    /// Fills the lake's disk, or gives it space again.
    ///
    /// *Errors*: the lake's.
    pub fn fill(&mut self, runtime: &Runtime, is_full: bool) -> anyhow::Result<()> {
        self.is_lake_full = is_full;
        runtime.block_on(async {
            self.start().await?;
            let Some(running) = &mut self.running else { return Ok(()) };
            let pages: i64 = running.conn.fetch_one("PRAGMA page_count").await?.try_get(0)?;
            let limit = if is_full { pages } else { NO_LIMIT };
            running.conn.execute(AssertSqlSafe(format!("PRAGMA max_page_count = {limit}"))).await?;
            Ok(())
        })
    }

    /// Tells whether the lake's disk is full.
    #[must_use]
    pub const fn is_lake_full(&self) -> bool {
        self.is_lake_full
    }

    /// Flushes, then does one repair, as the worker does.
    ///
    /// *Errors*: a flush failed that nothing was in the way of.
    pub fn flush(&mut self, runtime: &Runtime, now_us: i64, fate: Fate) -> anyhow::Result<()> {
        runtime.block_on(self.start())?;
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let flushed = running.flush(runtime, now_us, fate)?;
        match (fate, flushed) {
            (Fate::Killed(_), None) => {
                self.tally.once("lake flush killed at an instruction");
                // The connection goes with the process.
                drop(running.memory);
                runtime.block_on(running.conn.close()).context("ending the connection")?;
            }
            (Fate::Failed(_), None) => {
                self.tally.once("lake flush failed at an instruction");
                self.running = Some(runtime.block_on(self.reload(running.conn))?);
            }
            (_, None) => anyhow::bail!("a flush was dropped that nobody cut"),
            (_, Some(Ok(_))) if fate == Fate::Unknown => {
                self.tally.once("lake flush committed, nobody knows");
                self.running = Some(runtime.block_on(self.reload(running.conn))?);
            }
            (_, Some(Ok(_))) => {
                self.tally.once("lake flush");
                match runtime.block_on(running.memory.repair(&mut running.conn, now_us)) {
                    Ok(_) => self.running = Some(running),
                    Err(error) => self.failed(runtime, running.conn, error)?,
                }
            }
            (_, Some(Err(error))) => self.failed(runtime, running.conn, error)?,
        }
        Ok(())
    }

    fn failed(&mut self, runtime: &Runtime, conn: SqliteConnection, error: FlushError) -> anyhow::Result<()> {
        let was_expected = self.is_lake_full && error.is_transient();
        if !was_expected {
            return Err(error).context("a flush failed");
        }
        self.tally.once("lake's disk full");
        self.running = Some(runtime.block_on(self.reload(conn))?);
        Ok(())
    }

    /// Loads the memory anew over the same connection, as the worker does after a flush that failed.
    async fn reload(&self, mut conn: SqliteConnection) -> anyhow::Result<Running> {
        // There may be no transaction to roll back.
        drop(conn.execute("ROLLBACK").await);
        self.load(conn).await
    }

    /// Computes every hour again that waits for it.
    ///
    /// *Errors*: a repair fails.
    pub fn repair_all(&mut self, runtime: &Runtime, now_us: i64) -> anyhow::Result<()> {
        runtime.block_on(async {
            self.start().await?;
            let Some(running) = &mut self.running else { return Ok(()) };
            while running.memory.repair(&mut running.conn, now_us).await.context("a repair")?.is_some() {}
            Ok(())
        })
    }

    /// Ends in good order and gives the connection to the lake.
    ///
    /// *Errors*: it cannot be opened.
    pub fn finish(&mut self, runtime: &Runtime) -> anyhow::Result<SqliteConnection> {
        match self.running.take() {
            Some(running) => Ok(running.conn),
            None => runtime.block_on(self.connect()),
        }
    }

    /// Tells whether all that Kafka holds is in the lake.
    #[must_use]
    pub fn is_quiet(&self, kafka: &Kafka) -> bool {
        let Some(running) = &self.running else { return false };
        let stored = running.memory.positions();
        let at =
            |(topic, shard): &Partition| stored.get(&(topic.to_string(), *shard)).map_or(0, |at| at.next);
        kafka.ends().iter().all(|(partition, end)| at(partition) >= *end) && !running.memory.has_open()
    }
}

impl Running {
    fn read(
        &mut self,
        kafka: &Kafka,
        partition: &Partition,
        end: i64,
        most: usize,
        now_us: i64,
        skips: bool,
    ) {
        let position = self.positions.entry(partition.clone()).or_insert(0);
        if *position >= end {
            self.memory.end_reached(&partition.0, partition.1, now_us);
            return;
        }
        for incoming in kafka.read(partition, *position, most) {
            *position = incoming.offset + 1;
            if !(skips && incoming.offset % 20 == 7) {
                self.memory.absorb(&incoming);
            }
        }
    }

    /// Gives how the flush ended; `None` if it was cut.
    fn flush(
        &mut self,
        runtime: &Runtime,
        now_us: i64,
        fate: Fate,
    ) -> anyhow::Result<Option<Result<Flushed, FlushError>>> {
        let Self { conn, memory, .. } = self;
        runtime.block_on(conn.execute("BEGIN IMMEDIATE")).context("beginning a flush")?;
        let (Fate::Killed(left) | Fate::Failed(left)) = fate else {
            return Ok(Some(runtime.block_on(memory.flush(conn, now_us))));
        };
        let gate = Gate::new();
        let at_gate = Arc::clone(&gate);
        let mut left = left;
        runtime.block_on(conn.lock_handle())?.set_progress_handler(CUT_EVERY, move || {
            left = left.saturating_sub(1);
            left > 0 || at_gate.stop()
        });
        let entered = runtime.enter();
        let flushed = {
            let mut flush = pin!(memory.flush(conn, now_us));
            let waker = Waker::from(Arc::clone(&gate));
            let mut context = Context::from_waker(&waker);
            loop {
                if let Poll::Ready(flushed) = flush.as_mut().poll(&mut context) {
                    break Some(flushed);
                }
                gate.wait();
                if gate.is_reached() {
                    break None;
                }
            }
            // Here the future is dropped, while its statement stands still.
        };
        drop(entered);
        gate.open();
        runtime.block_on(conn.lock_handle())?.remove_progress_handler();
        Ok(flushed)
    }
}

/// Where a statement stands still while its flush is dropped.
struct Gate {
    waiting: Thread,
    woken: AtomicBool,
    reached: AtomicBool,
    opened: (Mutex<bool>, Condvar),
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: std::thread::current(),
            woken: AtomicBool::new(false),
            reached: AtomicBool::new(false),
            opened: (Mutex::new(false), Condvar::new()),
        })
    }

    /// Is called in the middle of a statement; gives false once the flush is gone, which ends the statement.
    fn stop(&self) -> bool {
        self.reached.store(true, Ordering::SeqCst);
        self.notify();
        let mut opened = self.opened.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*opened {
            opened = self.opened.1.wait(opened).unwrap_or_else(PoisonError::into_inner);
        }
        false
    }

    fn notify(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.waiting.unpark();
    }

    fn wait(&self) {
        while !self.woken.swap(false, Ordering::SeqCst) {
            std::thread::park();
        }
    }

    fn is_reached(&self) -> bool {
        self.reached.load(Ordering::SeqCst)
    }

    fn open(&self) {
        *self.opened.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.1.notify_all();
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.notify();
    }
}
