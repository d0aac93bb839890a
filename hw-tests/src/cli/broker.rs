//! `millrace-plant broker`: the in-process Kafka broker as a process of its own.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;

use super::{print_line, told_to_stop};
use crate::control;
use crate::kafka::{KafkaBroker, PARTITION_MAX_BYTES, PARTITION_MAX_MESSAGES};
use crate::supervise::Tasks;

/// Arguments of `broker`.
///
/// There is no argument for Kafka's own port: librdkafka's broker takes one that is free and keeps it,
/// also while the link is cut; clients take it from the line `MILLRACE_KAFKA_BROKERS=…`.
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// The topics to make, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "millrace.telemetry")]
    pub topics: Vec<String>,
    /// Partitions of each topic
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..))]
    pub partitions: u16,
    /// Where `GET /`, `POST /down` and `POST /up` are answered; loopback only, port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub control: SocketAddr,
}

/// Runs the broker until SIGTERM or Ctrl-C.
///
/// *Errors*: the broker or the control address does not start.
pub async fn run(args: BrokerArgs) -> anyhow::Result<()> {
    let told = told_to_stop().context("waiting for a signal")?;
    let broker = KafkaBroker::start(&args.topics, args.partitions)?;
    let brokers = broker.brokers().to_owned();
    let tasks = Tasks::new();
    let router = control::broker::router(broker, args.topics.clone(), args.partitions);
    let control = control::serve(args.control, router, &tasks).await?;
    tracing::info!(
        partition_max_bytes = PARTITION_MAX_BYTES,
        partition_max_messages = PARTITION_MAX_MESSAGES,
        "this broker is for the demo and for tests: it keeps that much of a partition, forgets the oldest \
         beyond it, and forgets everything when it ends; no TLS, no append time"
    );
    print_line("MILLRACE_KAFKA_BROKERS", brokers);
    print_line("MILLRACE_BROKER_CONTROL", format!("http://{control}"));
    print_line("MILLRACE_BROKER_TOPICS", args.topics.join(","));
    print_line(
        "MILLRACE_BROKER_LIMITS",
        "5 MB or 100000 messages per partition; nothing outlives the process",
    );
    told.await;
    tasks.stop().await;
    Ok(())
}
