//! The collector as a whole, against librdkafka's in-process broker: one binary for all integration tests.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "it/feast_golden.rs"]
mod feast_golden;
#[path = "it/plant.rs"]
mod plant;
#[path = "it/program.rs"]
mod program;
#[path = "it/thread.rs"]
mod thread;
#[path = "it/trouble.rs"]
mod trouble;
#[path = "it/verbs.rs"]
mod verbs;
