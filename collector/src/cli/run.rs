//! `run`.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::GOOD;
use crate::app::App;

pub(super) async fn run(file: &Path) -> anyhow::Result<u8> {
    let app = App::build(super::configuration(file)?).await?;
    tracing::info!(address = %app.address()?, "serving");
    let shutdown = CancellationToken::new();
    let stops = [
        ("SIGTERM", signal(SignalKind::terminate())?),
        ("SIGINT", signal(SignalKind::interrupt())?),
        ("SIGHUP", signal(SignalKind::hangup())?),
    ];
    let running = app.run(shutdown.clone());
    let mut running = std::pin::pin!(running);
    tokio::select! {
        biased;
        name = first(stops) => {
            tracing::info!(signal = name, "stops");
            shutdown.cancel();
        }
        ended = &mut running => {
            ended?;
            return Ok(GOOD);
        }
    }
    running.await?;
    tracing::info!("stopped");
    Ok(GOOD)
}

/// Waits for one of the signals that ask for a stop; gives its name.
async fn first([a, b, c]: [(&'static str, Signal); 3]) -> &'static str {
    let ((a, mut on_a), (b, mut on_b), (c, mut on_c)) = (a, b, c);
    tokio::select! {
        _ = on_a.recv() => a,
        _ = on_b.recv() => b,
        _ = on_c.recv() => c,
    }
}
