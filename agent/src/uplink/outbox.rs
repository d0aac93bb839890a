//! What the uplink needs of the buffer, so that tests put something simpler in its place.

use std::future::Future;

use millrace_protocol::{LossReason, StreamId};

use crate::buffer::{BufferReader, Position, Stored, StreamState};

/// What the uplink needs of the buffer. Calls do not block, but for [`Outbox::take`].
pub trait Outbox: Clone + Send + Sync + 'static {
    /// Takes items that were not handed out yet, of one stream in order; may read from disk.
    fn take(&self, max_bytes: usize) -> Vec<Stored>;
    /// Forgets items that Kafka has.
    fn acknowledge(&self, positions: &[Position]);
    /// Takes items back whose fate is not known, to hand them out again.
    fn give_back(&self, positions: &[Position]);
    /// Turns rows that Kafka will never take into a loss.
    fn refuse(&self, position: Position, reason: LossReason);
    /// Waits until there may be something to take. Must be cancel safe.
    fn changed(&self) -> impl Future<Output = ()> + Send;
    /// Gives the state of every stream.
    fn streams(&self) -> Vec<StreamState>;
    /// Gives a stream's last sequence on disk.
    fn numbered(&self, stream: &StreamId) -> u64;
    /// Gives the time up to which everything that was read is on disk.
    fn settled_us(&self) -> Option<i64>;
}

impl Outbox for BufferReader {
    fn take(&self, max_bytes: usize) -> Vec<Stored> {
        self.take(max_bytes)
    }

    fn acknowledge(&self, positions: &[Position]) {
        self.acknowledge(positions);
    }

    fn give_back(&self, positions: &[Position]) {
        self.give_back(positions);
    }

    fn refuse(&self, position: Position, reason: LossReason) {
        self.refuse(position, reason);
    }

    async fn changed(&self) {
        self.changed().await;
    }

    fn streams(&self) -> Vec<StreamState> {
        self.streams()
    }

    fn numbered(&self, stream: &StreamId) -> u64 {
        self.numbered(stream)
    }

    fn settled_us(&self) -> Option<i64> {
        self.settled_us()
    }
}
