//! `run`: the agent, until SIGTERM or Ctrl-C.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{ConfigArgs, Failure};
use crate::app::App;

/// Two threads carry everything that waits; reading the disk has its own.
const WORKER_THREADS: usize = 2;
/// What still blocks after the stop is left behind: everything that counts is on disk.
const LEFT_BEHIND_AFTER: Duration = Duration::from_millis(100);

/// Runs the agent.
///
/// *Errors*: [`Failure::Config`], or [`Failure::App`] if it does not start or cannot go on.
pub(super) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let config = args.load()?;
    let app = App::build(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|source| Failure::Failed { what: "no runtime".to_owned(), source: source.into() })?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signals = Signals::listen()
            .map_err(|source| Failure::Failed { what: "no signals".to_owned(), source: source.into() })?;
        let running = app.run(stop.clone());
        tokio::pin!(running);
        tokio::select! {
            result = &mut running => return result.map_err(Failure::App),
            name = signals.next() => info!(signal = name, "stops"),
        }
        stop.cancel();
        running.await.map_err(Failure::App)
    });
    runtime.shutdown_timeout(LEFT_BEHIND_AFTER);
    result
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// The terminal was closed.
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}
