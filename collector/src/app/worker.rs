//! The one worker of an embedded lake: reads, flushes, and starts anew from the lake when a flush fails (D12).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::features::Stores;
use crate::flush::{FlushError, Memory, Settings};
use crate::intake::{Event, Intake, IntakeError};
use crate::lake::LakeError;
use crate::lake::db::{Executor as _, SqliteConnection};
use crate::status::Status;

/// Windows can be closed and streams given up without any record: looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// Waiting before a locked or full lake is tried again.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// The longest of these waits.
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// An open batch never grows beyond so many flushes' worth of points: then reading waits for the flush.
const FULL_FACTOR: usize = 20;
/// Events taken at once.
const EVENTS: usize = 64;

/// Why the worker ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    /// Kafka.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// The lake, beyond waiting.
    #[error("the lake cannot be used")]
    Lake(#[from] LakeError),
    /// A flush, beyond waiting.
    #[error("a flush failed")]
    Flush(#[from] FlushError),
    /// The thread that reads Kafka is gone.
    #[error("the intake thread has ended without being told to; its last words stand above in the log")]
    IntakeEnded,
}

/// Owns all shards.
pub(super) struct Worker {
    config: Config,
    settings: Settings,
    conn: SqliteConnection,
    stores: Arc<Stores>,
    status: Status,
}

/// How a round of work ended.
enum Ended {
    Stopped,
    /// The memory is no longer what is in the lake.
    Reload(FlushError),
    /// The link to Kafka is to be made anew; everything that was read is in the lake.
    Renew,
}

impl Worker {
    pub(super) fn new(
        config: Config,
        settings: Settings,
        conn: SqliteConnection,
        stores: Arc<Stores>,
        status: Status,
    ) -> Self {
        Self { config, settings, conn, stores, status }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), WorkerError> {
        let mut pause = PAUSE_FIRST;
        while !stop.is_cancelled() {
            let Some(memory) = self.load(&stop).await? else { break };
            self.status.reloaded();
            match self.work(memory, &stop, &mut pause).await? {
                Ended::Stopped => break,
                Ended::Reload(error) if error.is_transient() => {
                    self.paused(&error);
                    wait(&stop, &mut pause).await;
                }
                Ended::Reload(error) => return Err(error.into()),
                Ended::Renew => {
                    tracing::info!("a file of [kafka] tls or sasl has changed; the link is made anew");
                }
            }
        }
        if let Err(error) = self.stores.finish(&mut self.conn).await {
            tracing::warn!("Parquet files stay behind until the next start: {}", chain(&error));
        }
        Ok(())
    }

    /// Loads the memory, waiting while the lake is locked; `None` when stopped meanwhile.
    async fn load(&mut self, stop: &CancellationToken) -> Result<Option<Memory>, WorkerError> {
        let mut pause = PAUSE_FIRST;
        loop {
            // A transaction of a failed flush may still be open.
            drop(self.conn.execute("ROLLBACK").await);
            match Memory::load(&mut self.conn, self.settings.clone()).await {
                Ok(memory) => return Ok(Some(memory)),
                Err(error) if error.is_transient() => self.paused(&error),
                Err(error) => return Err(error.into()),
            }
            if wait(stop, &mut pause).await {
                return Ok(None);
            }
        }
    }

    async fn work(
        &mut self,
        mut memory: Memory,
        stop: &CancellationToken,
        pause: &mut Duration,
    ) -> Result<Ended, WorkerError> {
        let mut intake =
            Intake::start(&self.config.kafka, memory.positions(), clock::now_us, self.status.link.clone())?;
        self.status.forget_troubles();
        let (min, most) = (self.config.flush.min, self.config.flush.max_points);
        let mut last = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut events = Vec::with_capacity(EVENTS);
        let (mut stopping, mut renewed) = (false, false);
        loop {
            let due = memory.has_open() && (memory.waiting_points() >= most || last.elapsed() >= min);
            let full = memory.waiting_points() >= most.saturating_mul(FULL_FACTOR);
            let mut flush = stopping;
            // Every arm is cancel safe: a token, a timer, a channel.
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => { stopping = true; flush = true; }
                read = intake.events.recv_many(&mut events, EVENTS), if !full && !stopping => {
                    if read == 0 {
                        return Err(WorkerError::IntakeEnded);
                    }
                }
                _ = tick.tick(), if !stopping => flush = true,
                () = tokio::time::sleep_until(last + min), if memory.has_open() && !stopping => flush = true,
                () = std::future::ready(()), if stopping => {}
            }
            for event in events.drain(..) {
                renewed |= matches!(event, Event::Renewed);
                self.take(&mut memory, event)?;
            }
            flush |= renewed;
            if !(flush || due || full) {
                continue;
            }
            if !self.begin(stop).await? {
                return Ok(Ended::Stopped);
            }
            let now_us = clock::now_us();
            match memory.flush(&mut self.conn, now_us).await {
                Ok(flushed) => {
                    if self.status.ready() {
                        tracing::info!("the lake is being written");
                    }
                    *pause = PAUSE_FIRST;
                    self.status.flushed(&flushed);
                    last = Instant::now();
                    self.online(&flushed.written, &flushed.latest).await;
                }
                Err(error) => return Ok(Ended::Reload(error)),
            }
            if stopping {
                return Ok(Ended::Stopped);
            }
            if renewed {
                return Ok(Ended::Renew);
            }
            if let Some(ended) = self.idle_work(&mut memory, now_us).await {
                return Ok(ended);
            }
        }
    }

    fn take(&self, memory: &mut Memory, event: Event) -> Result<(), WorkerError> {
        match event {
            Event::Record(incoming) => memory.absorb(&incoming),
            Event::End { topic, partition, at_us } => memory.end_reached(&topic, partition, at_us),
            Event::Trouble { topic, partition, text } => {
                memory.trouble(&topic, partition, &text);
                self.status.trouble(&format!("{topic} {partition}"), text);
            }
            Event::Failed(error) => return Err(error.into()),
            Event::Renewed => {}
        }
        Ok(())
    }

    /// Does what is never in the way of live data: one repair, one piece of a batch view, and the stores' own upkeep.
    async fn idle_work(&mut self, memory: &mut Memory, now_us: i64) -> Option<Ended> {
        match memory.repair(&mut self.conn, now_us).await {
            Ok(None) => {}
            Ok(Some(written)) => self.online(&written, &[]).await,
            Err(error) => return Some(Ended::Reload(error)),
        }
        match memory.batch(&mut self.conn, now_us).await {
            Ok(None) => {}
            Ok(Some(written)) => self.online(&written, &[]).await,
            Err(error) => return Some(Ended::Reload(error)),
        }
        if let Err(error) = self.stores.tend(&mut self.conn, now_us).await {
            tracing::warn!("the feature stores' upkeep is tried again later: {}", chain(&error));
        }
        None
    }

    /// Begins the transaction; while the lake is locked nothing is lost by waiting. `false`: stopped meanwhile.
    async fn begin(&mut self, stop: &CancellationToken) -> Result<bool, WorkerError> {
        let mut pause = PAUSE_FIRST;
        loop {
            match self.conn.execute("BEGIN IMMEDIATE").await.map_err(LakeError::sql("begin a transaction")) {
                Ok(_) => return Ok(true),
                Err(error) if error.is_transient() => self.paused(&FlushError::from(error)),
                Err(error) => return Err(error.into()),
            }
            if wait(stop, &mut pause).await {
                return Ok(false);
            }
        }
    }

    /// Pushes online what was committed; a failure is mended by the next row or the next start.
    async fn online(
        &self,
        written: &[crate::features::offline::WrittenRow],
        latest: &[millrace_preprocess::FeatureRow],
    ) {
        if !written.is_empty()
            && let Err(error) = self.stores.push(written).await
        {
            tracing::warn!("features are not online yet: {}", chain(&error));
        }
        if !latest.is_empty()
            && let Err(error) = self.stores.push_latest(latest).await
        {
            tracing::warn!("newest values are not online yet: {}", chain(&error));
        }
    }

    /// Says once that the lake cannot be written and why; Kafka keeps the records meanwhile (promise 10).
    fn paused(&self, error: &FlushError) {
        let why = chain(error);
        if self.status.pause(&why) {
            tracing::error!("paused until the lake can be written again; Kafka keeps the records: {why}");
        }
    }
}

/// Waits, longer each time; `true` when stopped meanwhile.
async fn wait(stop: &CancellationToken, pause: &mut Duration) -> bool {
    let stopped = tokio::time::timeout(*pause, stop.cancelled()).await.is_ok();
    *pause = (*pause * 2).min(PAUSE_MOST);
    stopped
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        // Some errors say what their cause says.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Says(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn a_chain_tells_each_cause_once() {
        let because = |text, cause| Says(text, Some(Box::new(cause)));
        let disk = || Says("the disk is full", None);
        assert_eq!(chain(&because("the lake pauses", disk())), "the lake pauses: the disk is full");
        let twice = because("a statement failed: the disk is full", disk());
        assert_eq!(
            chain(&because("the lake pauses", twice)),
            "the lake pauses: a statement failed: the disk is full"
        );
    }
}
