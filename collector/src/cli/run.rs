//! `run`.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::GOOD;
use crate::app::App;

pub(super) async fn run(file: &Path) -> anyhow::Result<u8> {
    let app = App::build(super::configuration(file)?).await?;
    tracing::info!(address = %app.address()?, "serving");
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = app.run(shutdown.clone());
    let mut running = std::pin::pin!(running);
    tokio::select! {
        biased;
        _ = terminate.recv() => shutdown.cancel(),
        _ = interrupt.recv() => shutdown.cancel(),
        ended = &mut running => {
            ended?;
            return Ok(GOOD);
        }
    }
    running.await?;
    Ok(GOOD)
}
