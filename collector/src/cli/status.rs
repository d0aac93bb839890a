//! `status`: what the ledger knows of every stream, and how far each shard has read.

use clap::Args;
use serde_json::json;

use super::{ConfigFile, GOOD, table};
use crate::lake::{self, read};

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
    if arguments.json {
        let streams: Vec<_> = streams
            .iter()
            .map(|s| {
                json!({
                    "machine": s.stream.machine.as_str(), "category": s.stream.category.as_str(),
                    "agent": s.stream.agent.as_str(), "epoch": s.stream.epoch.to_string(), "shard": s.shard,
                    "numbered": s.state.numbered, "stored": s.state.stored.len(),
                    "rejected": s.state.rejected.len(), "lost": s.state.lost.len(),
                    "event_ts": s.state.event_ts, "append_ts": s.state.append_ts,
                    "complete_until": s.state.complete_until,
                })
            })
            .collect();
        let shards: Vec<_> = shards
            .iter()
            .map(|(shard, s)| json!({
                "shard": shard, "fence": s.fence, "flushes": s.flushes, "offsets": s.offsets, "trouble": s.trouble,
            }))
            .collect();
        table::json(&json!({ "streams": streams, "shards": shards }))?;
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
    let troubles = shards.values().flat_map(|state| state.trouble.values());
    troubles.for_each(|trouble| table::line(trouble));
    Ok(GOOD)
}
