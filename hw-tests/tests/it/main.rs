//! What holds for the repository as a whole, and for the programs as a user starts them.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod agent_config;
mod audit_can_fail;
mod documentation;
mod dropped_segment;
mod kills;
mod mqtt_redelivery;
mod programs;
mod real_kafka;
mod simulation;
mod structure;
mod truth;
