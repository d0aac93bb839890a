//! `where`: which stage holds what a machine measured at a time.

use clap::Args;
use serde_json::json;

use super::{ConfigFile, GOOD, table};
use crate::lake::db::{Row as _, SqliteConnection, Statement};
use crate::lake::{self, LakeError, read};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The machine (site/name).
    machine: String,
    /// The time (RFC 3339).
    time: String,
    /// How far around it to look, for instance 5s.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    around: std::time::Duration,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let config = super::configuration(&arguments.file.config)?;
    let at_us = super::time_us(&arguments.time)?;
    let around_us = i64::try_from(arguments.around.as_micros())?;
    let mut conn = lake::open_reader(&config.lake_file).await?;
    let streams = read::streams(&mut conn).await?;
    let mut found = Vec::new();
    for stream in streams.iter().filter(|s| s.stream.machine.as_str() == arguments.machine) {
        let bounds = (at_us - around_us, at_us + around_us);
        let counts = Counts::read(&mut conn, stream.stream_id, bounds, at_us).await?;
        let place = counts.place(&stream.state, at_us);
        found.push((stream, place));
    }
    if arguments.json {
        let list: Vec<_> = found
            .iter()
            .map(|(s, place)| {
                json!({
                    "category": s.stream.category.as_str(), "agent": s.stream.agent.as_str(),
                    "epoch": s.stream.epoch.to_string(), "where": place,
                })
            })
            .collect();
        table::json(&list)?;
        return Ok(GOOD);
    }
    if found.is_empty() {
        table::line(&format!("{}: no stream was ever heard of", arguments.machine));
    }
    let mut sheet = table::Sheet::new(&["category", "agent", "epoch", "where"]);
    for (s, place) in found {
        sheet.row(&[
            s.stream.category.to_string(),
            s.stream.agent.to_string(),
            s.stream.epoch.to_string(),
            place,
        ]);
    }
    sheet.print();
    Ok(GOOD)
}

/// What each table holds of a stream around a time.
struct Counts {
    lake: i64,
    rejected: i64,
    down: i64,
}

impl Counts {
    async fn read(
        conn: &mut SqliteConnection,
        stream_id: i64,
        (from, to): (i64, i64),
        at_us: i64,
    ) -> Result<Self, LakeError> {
        let select = Statement::new(
            "SELECT (SELECT count(*) FROM reading AS r JOIN stream AS s USING (machine_id) WHERE s.stream_id = ?1 \
             AND r.stream_id = ?1 AND r.ts BETWEEN ?2 AND ?3), \
             (SELECT count(*) FROM quarantine WHERE stream_id = ?1 AND ts BETWEEN ?2 AND ?3) \
             + (SELECT count(*) FROM dead_letter WHERE stream_id = ?1 AND received BETWEEN ?2 AND ?3), \
             (SELECT count(*) FROM gap WHERE stream_id = ?1 AND from_ts <= ?4 AND to_ts >= ?4)",
        );
        let select = select.bind(stream_id).bind(from).bind(to).bind(at_us);
        let row = select.fetch_optional(conn).await.map_err(LakeError::sql("look for rows"))?;
        let count = |at: usize| row.as_ref().map_or(Ok(0), |row| row.try_get::<i64, _>(at));
        let read = || Ok(Self { lake: count(0)?, rejected: count(1)?, down: count(2)? });
        read().map_err(LakeError::sql("look for rows"))
    }

    fn place(&self, state: &lake::write::StreamState, at_us: i64) -> String {
        let complete = state.complete_until.unwrap_or(i64::MIN);
        if self.lake > 0 {
            return format!("in the lake ({} rows)", self.lake);
        }
        if self.rejected > 0 {
            return format!("in dead_letter or quarantine ({} rows)", self.rejected);
        }
        if self.down > 0 {
            return "nowhere: the agent was down (table gap)".to_owned();
        }
        if at_us <= complete {
            let lost = if state.lost.is_empty() { "" } else { "; the agent declared losses, see table loss" };
            return format!("nowhere: the stream is complete up to {}{lost}", table::time(Some(complete)));
        }
        format!(
            "at the agent or in Kafka: the stream is complete up to {}",
            table::time(state.complete_until)
        )
    }
}
