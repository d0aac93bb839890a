//! The tasks of a plant or a broker: each has a name and a span, all share one token, and the handles
//! are awaited.
//!
//! Invariant: after [`Tasks::stop`] no task of the set runs.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// A set of tasks that end together. Clones stand for the same set.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// Makes an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the token that ends the set.
    #[must_use]
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Starts a task. It is dropped at its next await when the set ends.
    pub fn start<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.tracker.spawn(
            async move {
                tokio::select! {
                    biased;
                    () = token.cancelled() => {}
                    () = work => {}
                }
            }
            .instrument(tracing::info_span!("task", name)),
        );
    }

    /// Starts a task that watches the token by itself, because it has something to finish.
    pub fn start_graceful<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(work.instrument(tracing::info_span!("task", name)));
    }

    /// Waits until every task has ended by itself.
    pub async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Ends every task and waits for them.
    pub async fn stop(&self) {
        self.token.cancel();
        self.finish().await;
    }
}
