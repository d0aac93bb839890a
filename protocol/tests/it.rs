//! The codec as a whole: round trips over every type, golden files, and foreign bytes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by a panic what it found")]

#[path = "it/any.rs"]
mod any;
#[path = "it/corpus.rs"]
mod corpus;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/hostile.rs"]
mod hostile;
#[path = "it/round_trip.rs"]
mod round_trip;
