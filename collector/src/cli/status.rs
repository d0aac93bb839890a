//! `status`: what the ledger knows of every stream, how far each shard has read, and, where the collector runs, whether
//! Kafka answers and how far it is behind.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{ConfigFile, GOOD, table};
use crate::lake::{self, read};
use crate::status::KafkaPage;

/// A collector answers from memory.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let config = super::configuration(&arguments.file.config)?;
    let mut conn = lake::open_reader(&config.lake_file).await?;
    let mut streams = read::streams(&mut conn).await?;
    streams.sort_by(|a, b| a.stream.cmp(&b.stream));
    let shards = read::shards(&mut conn).await?;
    let listen = config.serve_listen;
    let kafka = tokio::task::spawn_blocking(move || kafka(listen)).await?;
    if arguments.json {
        let streams: Vec<_> = streams
            .iter()
            .map(|s| {
                json!({
                    "machine": s.stream.machine.as_str(), "category": s.stream.category.as_str(),
                    "agent": s.stream.agent.as_str(), "epoch": s.stream.epoch.to_string(), "shard": s.shard,
                    "numbered": s.state.numbered, "stored": s.state.stored.len(),
                    "rejected": s.state.rejected.len(), "lost": s.state.lost.len(),
                    "event_ts": table::json_time(s.state.event_ts),
                    "append_ts": table::json_time(s.state.append_ts),
                    "complete_until": table::json_time(s.state.complete_until),
                })
            })
            .collect();
        let shards: Vec<_> = shards
            .iter()
            .map(|(shard, s)| json!({
                "shard": shard, "fence": s.fence, "flushes": s.flushes, "offsets": s.offsets, "trouble": s.trouble,
            }))
            .collect();
        table::json(&json!({ "kafka": kafka, "streams": streams, "shards": shards }))?;
        return Ok(GOOD);
    }
    let mut sheet = table::Sheet::new(&[
        "machine",
        "category",
        "agent",
        "epoch",
        "numbered>",
        "stored>",
        "rejected>",
        "lost>",
        "newest event",
        "complete until",
    ]);
    for s in &streams {
        sheet.row(&[
            s.stream.machine.to_string(),
            s.stream.category.to_string(),
            s.stream.agent.to_string(),
            s.stream.epoch.to_string(),
            s.state.numbered.to_string(),
            s.state.stored.len().to_string(),
            s.state.rejected.len().to_string(),
            s.state.lost.len().to_string(),
            table::time(s.state.event_ts),
            table::time(s.state.complete_until),
        ]);
    }
    sheet.print();
    let mut sheet = table::Sheet::new(&["shard>", "flushes>", "next offsets"]);
    for (shard, state) in &shards {
        let offsets: Vec<String> =
            state.offsets.iter().map(|(topic, offset)| format!("{topic} {offset}")).collect();
        sheet.row(&[shard.to_string(), state.flushes.to_string(), offsets.join(", ")]);
    }
    sheet.print();
    match &kafka {
        Some(kafka) => print(kafka),
        None => table::line(&format!(
            "no collector answers at http://{listen}/api/kafka, so whether Kafka answers and how far it is read is not known"
        )),
    }
    let troubles = shards.values().flat_map(|state| state.trouble.values());
    troubles.for_each(|trouble| table::line(trouble));
    Ok(GOOD)
}

/// Asks the running collector; `None` if none answers.
fn kafka(listen: SocketAddr) -> Option<KafkaPage> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    let mut answer = agent.get(format!("http://{listen}/api/kafka")).call().ok()?;
    serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()
}

fn print(kafka: &KafkaPage) {
    let since = kafka.since.as_deref().unwrap_or("-");
    let reason = kafka.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
    table::line(&format!("Kafka is {} since {since}{reason}", kafka.state));
    let mut sheet = table::Sheet::new(&["topic", "partition>", "next>", "end>", "behind>", "newest append"]);
    let known = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for part in &kafka.partitions {
        let newest = part.newest_append.clone().unwrap_or_else(|| "-".to_owned());
        let numbers = [known(part.next), known(part.end), known(part.behind)];
        let [next, end, behind] = numbers;
        sheet.row(&[part.topic.clone(), part.partition.to_string(), next, end, behind, newest]);
    }
    sheet.print();
}
