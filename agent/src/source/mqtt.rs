//! The MQTT 3.1.1 source: publishes become rows, and are acknowledged when the rows are on disk (D5).

pub mod deliver;
pub mod payload;
pub mod topic;
