//! `millrace-plant load`: publishes at a rate, or as fast as Kafka takes it, straight to Kafka.

use std::time::{Duration, Instant};

use clap::Args;
use millrace_protocol::Epoch;

use super::print_line;
use crate::clock;
use crate::kafka::LoadProducer;
use crate::load::{Load, Shape};

/// How long Kafka may take for what is still unacknowledged at the end.
const FINISH_LIMIT: Duration = Duration::from_secs(60);

/// Arguments of `load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Where Kafka is: host:port, more of them separated by commas
    #[arg(long)]
    pub kafka: String,
    /// The topic
    #[arg(long, default_value = "millrace.telemetry")]
    pub topic: String,
    /// Machines, each a stream of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=99_999))]
    pub machines: u32,
    /// Tags of each machine
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub tags: u16,
    /// Rows of each record, a second apart
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rows: u32,
    /// Stop after at least so many points
    #[arg(long, default_value_t = 1_000_000)]
    pub points: u64,
    /// Points per second; without it as fast as Kafka takes them
    #[arg(long)]
    pub rate: Option<u64>,
}

/// Sends a load.
///
/// *Errors*: Kafka does not take it, or not all of it was acknowledged.
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || send(&args)).await?
}

fn send(args: &LoadArgs) -> anyhow::Result<()> {
    let now_us = clock::now_us();
    let per_machine = args.points / (u64::from(args.machines) * u64::from(args.tags)).max(1);
    // The newest rows stand near now, so that nothing lies in the future or before the lake's bounds.
    let from_us = now_us - i64::try_from(per_machine).unwrap_or(i64::MAX / 2_000_000) * 1_000_000;
    let shape = Shape { machines: args.machines, tags: args.tags, rows: args.rows, from_us };
    let mut load = Load::new(shape, Epoch(u64::try_from(now_us).unwrap_or(1)))?;
    let mut producer = LoadProducer::new(&args.kafka)?;
    let begin = Instant::now();
    let (mut points, mut rows, mut bytes) = (0, 0, 0);
    while points < args.points {
        let Some(record) = load.next_record()? else { break };
        if let Some(rate) = args.rate.filter(|rate| *rate > 0) {
            let due = Duration::from_secs_f64(points as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        producer.send(&args.topic, &record)?;
        points += record.points;
        rows += u64::from(record.rows);
        bytes += record.value.len() as u64;
    }
    let records = producer.finish(FINISH_LIMIT)?;
    print_line("MILLRACE_LOAD_POINTS", points);
    print_line("MILLRACE_LOAD_ROWS", rows);
    print_line("MILLRACE_LOAD_RECORDS", records);
    print_line("MILLRACE_LOAD_BYTES", bytes);
    print_line("MILLRACE_LOAD_SECONDS", format_args!("{:.3}", begin.elapsed().as_secs_f64()));
    Ok(())
}
