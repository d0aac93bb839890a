//! The collector as a whole, against librdkafka's in-process broker: one binary for all integration tests.

#[path = "it/plant.rs"]
mod plant;
#[path = "it/thread.rs"]
mod thread;
