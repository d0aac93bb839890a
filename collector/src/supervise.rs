//! The collector's tasks: each has a name and a token, and its handle is always awaited.
//!
//! Every task here is critical: when one ends, the others are stopped in the order of the flow, and the process ends;
//! systemd or Kubernetes starts it again. Correctness never depends on a clean stop: what was not committed is read
//! again.

use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// What a stop may take, all told.
pub const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Whatever made a task end.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the tasks ended before they were told to.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task failed.
    #[error("{name} failed")]
    Failed {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// A task panicked.
    #[error("{name} panicked")]
    Panicked {
        /// Which.
        name: &'static str,
        /// Where.
        #[source]
        source: JoinError,
    },
    /// A task ended although nobody stopped it.
    #[error("{name} ended")]
    Ended {
        /// Which.
        name: &'static str,
    },
}

struct Task {
    name: &'static str,
    stop: CancellationToken,
    handle: JoinHandle<Result<(), BoxError>>,
}

impl Drop for Task {
    /// A task never outlives those who wait for it.
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// The tasks, in the order in which they are stopped.
#[derive(Default)]
pub struct Tasks(Vec<Task>);

impl Tasks {
    /// Starts a task; it gets the token that will stop it. *Cancel safety*: the task itself decides what it ends.
    pub fn spawn<F, T>(&mut self, name: &'static str, task: T)
    where
        T: FnOnce(CancellationToken) -> F,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let future = task(stop.clone()).instrument(tracing::info_span!("task", name));
        #[expect(clippy::disallowed_methods, reason = "this is supervise.rs")]
        let handle = tokio::spawn(future);
        self.0.push(Task { name, stop, handle });
    }

    /// Waits until `shutdown` or until a task ends, then stops all, in order, under the deadline.
    ///
    /// # Errors
    /// [`TaskError`] of the first task that ended by itself or failed while it stopped.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), TaskError> {
        let mut first = tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            ended = any_ended(&mut self.0) => Some(ended),
        };
        let deadline = tokio::time::Instant::now() + STOP_DEADLINE;
        for mut task in self.0 {
            task.stop.cancel();
            match tokio::time::timeout_at(deadline, &mut task.handle).await {
                Ok(done) => {
                    let failed = outcome(task.name, done).err();
                    first = first.or(failed.filter(|error| !matches!(error, TaskError::Ended { .. })));
                }
                Err(_) => {
                    tracing::warn!(name = task.name, "did not stop in time and is left behind");
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Waits for the first task that ends and takes it out.
async fn any_ended(tasks: &mut Vec<Task>) -> TaskError {
    if tasks.is_empty() {
        return std::future::pending().await;
    }
    let handles = tasks.iter_mut().map(|task| &mut task.handle);
    let (done, at, _) = futures_util::future::select_all(handles).await;
    let name = tasks.remove(at).name;
    outcome(name, done).err().unwrap_or(TaskError::Ended { name })
}

fn outcome(name: &'static str, done: Result<Result<(), BoxError>, JoinError>) -> Result<(), TaskError> {
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(TaskError::Failed { name, source }),
        Err(source) if source.is_cancelled() => Err(TaskError::Ended { name }),
        Err(source) => Err(TaskError::Panicked { name, source }),
    }
}
