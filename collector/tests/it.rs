//! The collector as a whole, against librdkafka's in-process broker: one binary for all integration tests.

<<<<<<< HEAD
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

=======
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by a panic what it found")]

#[path = "it/feast_golden.rs"]
mod feast_golden;
>>>>>>> 78fd26f (docs: lake, figures, decisions, what this release does not bring; one integration binary for the collector)
#[path = "it/plant.rs"]
mod plant;
#[path = "it/thread.rs"]
mod thread;
#[path = "it/verbs.rs"]
mod verbs;
