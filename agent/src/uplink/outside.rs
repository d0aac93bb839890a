//! What the uplink needs of Kafka, of time and of threads, so that the simulation puts its own in their place.

use std::future::Future;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::UplinkError;
use super::health::Monitor;
use super::producer::{Answered, Envelope, NotTaken, ProducerError};
use super::record::Outgoing;
use super::route::TopicAnswer;

/// The world around the uplink.
pub trait Outside: Send + Sync + 'static {
    /// Who takes records.
    type Producer: Produce;
    /// Starts a producer, which gives its answers into a channel with room for all that can be in flight.
    ///
    /// *Errors*: [`ProducerError`].
    fn start(
        &self,
        answers: mpsc::Sender<Answered>,
        monitor: Monitor,
    ) -> Result<Self::Producer, ProducerError>;
    /// Gives the monotonic time.
    fn now(&self) -> Instant;
    /// Waits until a time. Must be cancel safe.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send;
    /// Does something that blocks, where it keeps nobody waiting; `step` names it.
    ///
    /// *Errors*: [`UplinkError::Panicked`].
    fn blocking<T: Send + 'static>(
        &self,
        step: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, UplinkError>> + Send;
}

/// Takes records and answers for each of them. Clones share it.
pub trait Produce: Clone + Send + Sync + 'static {
    /// Takes a record. Never blocks. *Errors*: [`NotTaken`]: it has no room, or knows the answer already.
    fn send(&self, to: &Envelope<'_>, record: &Outgoing) -> Result<(), NotTaken>;
    /// Asks whether a topic is there. May block for seconds.
    fn ask(&self, topic: &str) -> TopicAnswer;
    /// Says why another producer must take this one's place, if so: it cannot go on, or its certificates have changed.
    fn why_not_on(&self) -> Option<String>;
    /// Ends the producer; what it has not answered afterwards is unknown. May block for a second.
    fn end(self);
}
