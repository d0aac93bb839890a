//! The collector's configuration, validated. `collector.toml` becomes these types in `config/load.rs`.
//!
//! Invariant: a value of these types needs no further check; every problem of the files was reported
//! with its line and key path before one exists. What a later release brings is refused, never ignored.

mod load;
mod problem;
mod reader;
mod security;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use millrace_link::Security;

pub use load::{ConfigError, load, read};
pub use problem::Problem;

/// Everything `collector.toml` and `conf.d` say.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[collector] data_dir`.
    pub data_dir: PathBuf,
    /// `[collector] features_dir`: the feature files (preprocessing.md).
    pub features_dir: PathBuf,
    /// `[collector] stall_after`: a stream without progress is given up (F5).
    pub stall_after: Duration,
    /// `[kafka]`.
    pub kafka: Kafka,
    /// `[lake] url`: the SQLite file.
    pub lake_file: PathBuf,
    /// `[flush]`.
    pub flush: Flush,
    /// `[limits]`.
    pub limits: Limits,
    /// `[online_store] url`: the SQLite file.
    pub online_file: PathBuf,
    /// `[feast] project`.
    pub feast_project: String,
    /// `[serve] listen`; always a loopback address in this release.
    pub serve_listen: SocketAddr,
    /// `[serve] ready_without_kafka`: how long Kafka may be away before `/readyz` says no.
    pub ready_without_kafka: Duration,
}

/// How to reach Kafka. In this release plain text to loopback brokers only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `host:port` each.
    pub brokers: Vec<String>,
    /// First part of every topic's name.
    pub topic_prefix: String,
    /// librdkafka consumer options that Millrace does not own itself.
    pub options: BTreeMap<String, String>,
    /// `tls` and `sasl`.
    pub security: Security,
}

/// When an open batch is written (D12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    /// Not sooner than this after the last one …
    pub min: Duration,
    /// … unless so many points wait.
    pub max_points: usize,
}

/// Bounds of believable event times; rows beyond them wait in `quarantine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub earliest_us: i64,
    /// How far an event time may lie after its append time.
    pub ahead: Duration,
}
