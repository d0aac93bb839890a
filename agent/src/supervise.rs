//! The agent's tasks: each has a name, a stage and a class, and its handle is always awaited.
//!
//! Invariant: this is the only place that spawns. A task ends because its stage is stopped, or because
//! what feeds it ended; sources are stopped first and the writer after all who have something for it:
//! rows of the sources, acknowledgements of the uplink. Correctness never depends on it: a stop that is cut short loses
//! nothing that was confirmed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info_span, warn};

/// What a stop may take, all told (promise 8): the sum of what the stages are given.
pub const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Whatever made a task end.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where in the flow a task stands; stages are stopped in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Reads machines.
    Source,
    /// Sends. It goes before the writer, which saves what Kafka has answered last.
    Uplink,
    /// Numbers and stores.
    Batch,
    /// Shows.
    Status,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Source, Self::Uplink, Self::Batch, Self::Status];

    /// How many tenths of the deadline the stage may take, after what the stages before it left over.
    /// The writer gets most: its last flush saves rows that would have to be read again.
    const fn patience(self) -> u32 {
        match self {
            Self::Source => 3,
            Self::Uplink => 2,
            Self::Batch => 4,
            Self::Status => 1,
        }
    }
}

/// How long a restartable task waits before it is built again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most; a task that ran longer than this begins with `first` again.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// Gives the pause after so many failures in a row: doubled each time, and half of it by chance, so
    /// that devices that failed together do not come back together.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let full = self.first.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.most);
        full / 2 + full.mul_f64(rand::rng().random_range(0.0..0.5))
    }
}

/// Says which critical task ended and why.
#[derive(Debug, Error)]
pub enum TaskError {
    /// It returned an error.
    #[error("{task} failed")]
    Failed {
        /// Its name.
        task: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// It ended although nobody stopped it.
    #[error("{task} ended although nobody stopped it")]
    Ended {
        /// Its name.
        task: String,
    },
    /// It panicked.
    #[error("{task} panicked")]
    Panicked {
        /// Its name.
        task: String,
        /// What the runtime says.
        #[source]
        source: tokio::task::JoinError,
    },
}

struct Exit {
    task: String,
    stage: Stage,
    result: Result<Result<(), BoxError>, tokio::task::JoinError>,
}

type Exits = FuturesUnordered<Pin<Box<dyn Future<Output = Exit> + Send>>>;

/// Runs tasks and stops them.
pub struct Supervisor {
    stop: CancellationToken,
    stages: [CancellationToken; Stage::ALL.len()],
    exits: Exits,
    running: Vec<Running>,
    deadline: Duration,
}

#[derive(Debug)]
struct Running {
    stage: Stage,
    task: String,
    abort: tokio::task::AbortHandle,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Makes a supervisor that stops everything when `stop` is cancelled.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            stages: std::array::from_fn(|_| CancellationToken::new()),
            exits: FuturesUnordered::new(),
            running: Vec::new(),
            deadline: STOP_DEADLINE,
        }
    }

    /// Runs a task whose exit ends the process.
    pub fn critical<F, E>(
        &mut self,
        stage: Stage,
        name: impl Into<String>,
        make: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let name = name.into();
        let task = make(self.token(stage));
        let span = info_span!("task", name = %name);
        let handle = spawn(async move { task.await.map_err(Into::into) }.instrument(span));
        self.watch(stage, name, handle);
    }

    /// Runs blocking work on a thread of its own; its exit ends the process. It ends when what feeds it
    /// does: there is no token.
    pub fn critical_thread<E>(
        &mut self,
        stage: Stage,
        name: impl Into<String>,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) where
        E: Into<BoxError> + 'static,
    {
        let name = name.into();
        let span = info_span!("task", name = %name);
        let handle = tokio::task::spawn_blocking(move || span.in_scope(work).map_err(Into::into));
        self.watch(stage, name, handle);
    }

    /// Runs a task that is built again, after a pause, when it fails or panics while its peers go on.
    pub fn restartable<F, E>(
        &mut self,
        stage: Stage,
        name: impl Into<String>,
        backoff: Backoff,
        make: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let name = name.into();
        let span = info_span!("task", name = %name);
        let handle = spawn(keep(name.clone(), self.token(stage), backoff, make).instrument(span));
        self.watch(stage, name, handle);
    }

    fn token(&self, stage: Stage) -> CancellationToken {
        // The order of the variants is the order of the tokens.
        self.stages.get(stage as usize).map_or_else(CancellationToken::new, CancellationToken::child_token)
    }

    fn watch(&mut self, stage: Stage, task: String, handle: JoinHandle<Result<(), BoxError>>) {
        self.running.push(Running { stage, task: task.clone(), abort: handle.abort_handle() });
        self.exits.push(Box::pin(async move { Exit { task, stage, result: handle.await } }));
    }

    /// Waits until it is told to stop or a critical task exits, then stops everything in order.
    ///
    /// *Errors*: [`TaskError`] of the task that ended by itself first. When this returns, every task has
    /// ended or was late, was named in the log and aborted.
    pub async fn run(mut self) -> Result<(), TaskError> {
        let result = tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(()),
            Some(exit) = self.exits.next() => {
                self.forget(&exit);
                Err(reason(exit))
            }
        };
        for (stage, task) in self.stop_in_order().await {
            error!(%task, ?stage, "did not stop in time and was abandoned");
        }
        result
    }

    fn forget(&mut self, exit: &Exit) {
        self.running.retain(|r| r.stage != exit.stage || r.task != exit.task);
    }

    /// Stops one stage after the other and gives those that were late.
    async fn stop_in_order(&mut self) -> Vec<(Stage, String)> {
        let mut late = Vec::new();
        let mut deadline = Instant::now();
        for (stage, token) in Stage::ALL.into_iter().zip(self.stages.clone()) {
            token.cancel();
            deadline += self.deadline * stage.patience() / 10;
            while self.running.iter().any(|r| r.stage == stage) {
                let Ok(Some(exit)) = timeout_at(deadline, self.exits.next()).await else { break };
                self.forget(&exit);
                if !matches!(exit.result, Ok(Ok(()))) {
                    // Who fails while it is stopped has lost nothing, but it is worth a line.
                    warn!(error = chain(&reason(exit)), "failed while stopping");
                }
            }
            // What is late is dropped now: the next stage may be waiting for its end of a channel.
            for running in self.running.extract_if(.., |r| r.stage == stage) {
                running.abort.abort();
                late.push((stage, running.task));
            }
        }
        late
    }
}

fn reason(exit: Exit) -> TaskError {
    let task = exit.task;
    match exit.result {
        Ok(Ok(())) => TaskError::Ended { task },
        Ok(Err(source)) => TaskError::Failed { task, source },
        Err(source) => TaskError::Panicked { task, source },
    }
}

/// Gives an error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(task)
}

async fn keep<F, E>(
    name: String,
    stop: CancellationToken,
    backoff: Backoff,
    mut make: impl FnMut(CancellationToken) -> F,
) -> Result<(), BoxError>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let task = make(stop.clone());
        // A task of its own, so that a panic ends this one run of it and nothing else.
        let mut run = AbortOnDrop(spawn(async move { task.await.map_err(Into::into) }));
        let result = (&mut run.0).await;
        if stop.is_cancelled() {
            return Ok(());
        }
        let why = reason(Exit { task: name.clone(), stage: Stage::Source, result });
        if begun.elapsed() > backoff.most {
            failures = 0;
        }
        let pause = backoff.pause(failures);
        failures = failures.saturating_add(1);
        warn!(error = chain(&why), pause_ms = pause.as_millis(), "begins again after a pause");
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Ends the run of a task whose keeper is aborted.
struct AbortOnDrop(JoinHandle<Result<(), BoxError>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
