//! The batch stage: numbers rows, packs them into chunks, and confirms what is on disk (D5, D7).
//!
//! One OS thread runs [`Batch::run`]; it is the only writer of the buffer. Invariant: a delivery is
//! confirmed only after the flush that holds its rows, and confirmations go out in order of receipt.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;

use crate::buffer::{Buffer, BufferError};
use crate::delivery::{Delivery, NewTags};

/// Bound of the channel that leads here: a second of 250 devices; sources wait when it is full.
pub const DELIVERIES: usize = 256;

/// What the batch stage must know at start.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// Every stream that the configuration names; each gets a birth (D7).
    pub streams: Vec<NewTags>,
    /// `[agent] site`: raw rows go to the stream `<site>/<agent id>`.
    pub site: String,
    /// The most that a poll waits for its fsync (D5).
    pub sync_interval: Duration,
    /// The largest `receive_maximum` of the MQTT connections.
    pub mqtt_window: u16,
}

/// Says why the batch stage ended.
#[derive(Debug, Error)]
pub enum BatchError {
    /// The buffer cannot go on.
    #[error("the buffer cannot go on")]
    Buffer(#[from] BufferError),
}

/// The batch stage.
#[derive(Debug)]
pub struct Batch {
    #[expect(dead_code, reason = "filled in with the writer")]
    buffer: Buffer,
}

impl Batch {
    /// Takes the buffer and stores the births of this start (D7).
    ///
    /// *Errors*: [`BatchError::Buffer`].
    pub fn new(buffer: Buffer, _options: BatchOptions) -> Result<Self, BatchError> {
        Ok(Self { buffer })
    }

    /// Runs until every sender is gone, then flushes what waits and closes the buffer.
    ///
    /// Blocks: call it on a thread of its own. *Errors*: [`BatchError::Buffer`]; a disk that dies is no
    /// error, it turns into pass-through.
    pub fn run(self, mut deliveries: mpsc::Receiver<Delivery>) -> Result<(), BatchError> {
        while deliveries.blocking_recv().is_some() {}
        Ok(())
    }
}
