//! `where`: which stage holds what a machine measured at a time.

use clap::Args;
use millrace_protocol::StreamId;
use serde_json::json;

use super::{ConfigFile, GOOD, table};
use crate::lake::db::{Row as _, SqliteConnection, Statement};
use crate::lake::write::StreamState;
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
        // The epoch that began last goes on; the others of its chain have ended.
        let is_newest = streams
            .iter()
            .all(|other| !follows(&stream.stream, &other.stream) || other.stream_id <= stream.stream_id);
        found.push((stream, counts.place(&stream.state, is_newest, at_us)));
    }
    if found.is_empty() {
        return Err(super::Usage(format!("no machine is called {:?}; see status", arguments.machine)).into());
    }
    if arguments.json {
        let list: Vec<_> = found
            .iter()
            .map(|(s, place)| {
                json!({
                    "category": s.stream.category.as_str(), "agent": s.stream.agent.as_str(),
                    "epoch": s.stream.epoch.to_string(), "state": place.state, "rows": place.rows,
                    "where": place.text,
                })
            })
            .collect();
        table::json(&list)?;
        return Ok(GOOD);
    }
    let mut sheet = table::Sheet::new(&["category", "agent", "epoch", "where"]);
    for (s, place) in found {
        sheet.row(&[
            s.stream.category.to_string(),
            s.stream.agent.to_string(),
            s.stream.epoch.to_string(),
            place.text,
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

    fn place(&self, state: &StreamState, is_newest: bool, at_us: i64) -> Place {
        let place = |state, rows, text| Place { state, rows, text };
        if self.lake > 0 {
            return place("in_lake", Some(self.lake), format!("in the lake ({} rows)", self.lake));
        }
        if self.rejected > 0 {
            let text = format!("in dead_letter or quarantine ({} rows)", self.rejected);
            return place("rejected", Some(self.rejected), text);
        }
        if self.down > 0 {
            return place("agent_down", None, "nowhere: the agent was down (table gap)".to_owned());
        }
        let lost = if state.lost.is_empty() { "" } else { "; the agent declared losses, see table loss" };
        if let Some(until) = state.complete_until.filter(|until| at_us <= *until) {
            let text = format!("nowhere: the stream is complete up to {}{lost}", table::time(Some(until)));
            return place("nowhere", None, text);
        }
        let missing = missing(state);
        if !is_newest && missing == 0 {
            let text = format!(
                "nowhere: the epoch ended, and what became of its {} rows is known{lost}",
                state.numbered
            );
            return place("nowhere", None, text);
        }
        let text = match (is_newest, state.complete_until) {
            (false, _) => format!(
                "at the agent or in Kafka: the epoch ended, and {missing} of its rows are still to come"
            ),
            (true, Some(_)) => {
                let until = table::time(state.complete_until);
                format!("at the agent or in Kafka: the stream is complete up to {until}")
            }
            (true, None) => {
                "at the agent or in Kafka: up to when the stream is complete was never said".to_owned()
            }
        };
        place("on_the_way", None, text)
    }
}

/// Where rows of a time are.
struct Place {
    /// `in_lake`, `rejected`, `agent_down`, `nowhere` or `on_the_way`.
    state: &'static str,
    /// How many, where they are counted.
    rows: Option<i64>,
    text: String,
}

/// Tells whether two streams are of one chain (D7).
fn follows(stream: &StreamId, other: &StreamId) -> bool {
    (&stream.agent, &stream.machine, &stream.category) == (&other.agent, &other.machine, &other.category)
}

/// Counts the rows of an epoch of which nobody knows what became of them.
fn missing(state: &StreamState) -> u64 {
    let mut settled = state.stored.clone();
    for set in [&state.rejected, &state.lost, &state.given_up] {
        set.ranges().for_each(|range| settled.insert(range));
    }
    state.numbered.saturating_sub(settled.len())
}

#[cfg(test)]
mod tests {
    use millrace_protocol::IntervalSet;

    use super::*;

    fn counts(lake: i64, rejected: i64, down: i64) -> Counts {
        Counts { lake, rejected, down }
    }

    /// An epoch that numbered ten rows, of which so many are stored.
    fn state(stored: u64, complete_until: Option<i64>) -> StreamState {
        let stored: IntervalSet = (stored > 0).then_some(1..=stored).into_iter().collect();
        StreamState { numbered: 10, stored, complete_until, ..StreamState::default() }
    }

    #[test]
    fn every_place_where_a_row_can_be_is_named() {
        let lost = StreamState { lost: [9..=10].into_iter().collect(), ..state(8, Some(100)) };
        let rejected = StreamState { rejected: [10..=10].into_iter().collect(), ..state(9, None) };
        let table = [
            (counts(3, 1, 1), state(10, Some(9)), true, "in_lake", "in the lake (3 rows)"),
            (counts(0, 2, 1), state(8, Some(9)), true, "rejected", "dead_letter or quarantine (2 rows)"),
            (counts(0, 0, 1), state(8, Some(9)), true, "agent_down", "the agent was down"),
            (counts(0, 0, 0), state(10, Some(100)), true, "nowhere", "complete up to 1970-01-01T00:00:00"),
            (counts(0, 0, 0), lost.clone(), true, "nowhere", "declared losses"),
            (
                counts(0, 0, 0),
                state(10, None),
                false,
                "nowhere",
                "the epoch ended, and what became of its 10 rows",
            ),
            (counts(0, 0, 0), rejected, false, "nowhere", "the epoch ended"),
            (
                counts(0, 0, 0),
                StreamState { complete_until: None, ..lost },
                false,
                "nowhere",
                "declared losses",
            ),
            (counts(0, 0, 0), state(7, None), false, "on_the_way", "the epoch ended, and 3 of its rows"),
            (counts(0, 0, 0), state(7, Some(9)), true, "on_the_way", "complete up to 1970-01-01T00:00:00"),
            (counts(0, 0, 0), state(0, None), true, "on_the_way", "never said"),
        ];
        for (counts, state, is_newest, expected, part) in table {
            let place = counts.place(&state, is_newest, 50);
            assert_eq!(place.state, expected, "{}", place.text);
            assert!(place.text.contains(part), "{} instead of {part}", place.text);
            assert_eq!(place.rows.is_some(), matches!(expected, "in_lake" | "rejected"));
        }
    }
}
