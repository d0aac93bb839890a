//! The agent as a whole: a scripted Modbus device on one side, librdkafka's in-process broker on the
//! other, a real buffer on disk in between.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by a panic what it found")]

#[path = "it/away.rs"]
mod away;
#[path = "it/device.rs"]
mod device;
#[path = "it/kafka.rs"]
mod kafka;
#[path = "it/program.rs"]
mod program;
#[path = "it/thread.rs"]
mod thread;
#[path = "it/verbs.rs"]
mod verbs;
