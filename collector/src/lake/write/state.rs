//! What a flush changes: the ledger of its streams, the shard's offsets, operator state, repairs.

use std::collections::BTreeMap;

use millrace_protocol::IntervalSet;
use serde_json::json;

use super::rows::{number, pieces};
use crate::lake::LakeError;
use crate::lake::db::{Row as _, SqliteConnection, Statement};

/// Flushes are remembered longer than Kafka keeps a record (14 days, D3): whatever comes again is recognised.
/// *Units*: microseconds.
const REMEMBERED_US: i64 = 30 * 86_400_000_000;
/// Old flushes are forgotten at every 1,024th: a mask of the flush id's low bits.
const FORGET_EVERY: i64 = 0x3ff;

/// A stream's ledger as the lake keeps it.
#[derive(Debug, Clone, Default)]
pub struct StreamState {
    /// Epoch of the process that sent the last record, 16 hexadecimal digits.
    pub sender: String,
    /// The last sequence on the agent's disk, as far as it was heard.
    pub numbered: u64,
    /// Up to here the agent has Kafka's acknowledgement, as far as it was heard.
    pub acknowledged: u64,
    /// The stream is complete up to this event time. *Units*: microseconds since 1970-01-01 UTC.
    pub complete_until: Option<i64>,
    /// Event time of the newest row. *Units*: microseconds since 1970-01-01 UTC.
    pub event_ts: Option<i64>,
    /// Append time of the last record. *Units*: microseconds since 1970-01-01 UTC.
    pub append_ts: Option<i64>,
    /// Older epochs that wait at the sender, 16 hexadecimal digits each.
    pub waiting: Vec<String>,
    /// In the lake.
    pub stored: IntervalSet,
    /// In `dead_letter` or `quarantine`.
    pub rejected: IntervalSet,
    /// Declared lost.
    pub lost: IntervalSet,
    /// Given up.
    pub given_up: IntervalSet,
    /// Rows met again and recognised.
    pub repeated: u64,
    /// Chunks met again with another content.
    pub conflicts: u64,
}

/// A shard's row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardState {
    /// Counts the owners (D12); 0 for a shard that has no row yet, whose first flush makes it 1.
    pub fence: i64,
    /// Counts the flushes.
    pub flushes: i64,
    /// The next offset of every topic.
    pub offsets: BTreeMap<String, i64>,
    /// The last record read of every topic: its offset and the CRC-32C of its value (D13).
    pub last: BTreeMap<String, (i64, u32)>,
    /// What is wrong with a topic here, as found since the worker started.
    pub trouble: BTreeMap<String, String>,
}

/// Writes a set of sequences as text: `1-500,502`.
#[must_use]
pub fn set_text(set: &IntervalSet) -> String {
    let ranges: Vec<String> =
        set.ranges()
            .map(|r| {
                if r.start() == r.end() {
                    r.start().to_string()
                } else {
                    format!("{}-{}", r.start(), r.end())
                }
            })
            .collect();
    ranges.join(",")
}

/// Saves the ledger of streams.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn streams(conn: &mut SqliteConnection, states: Vec<(i64, StreamState)>) -> Result<(), LakeError> {
    // One statement for many: with a thousand machines every flush touches as many streams.
    for piece in pieces(&states) {
        let rows = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; piece.len()].join(", ");
        let mut update = Statement::new(format!(
            "WITH new (stream_id, sender, numbered, acknowledged, complete_until, seen, event_ts, append_ts, waiting, \
             stored, rejected, lost, given_up, repeated, conflicts) AS (VALUES {rows}) \
             UPDATE stream SET sender = new.sender, numbered = new.numbered, acknowledged = new.acknowledged, \
             complete_until = new.complete_until, seen = new.seen, event_ts = new.event_ts, append_ts = new.append_ts, \
             waiting = new.waiting, stored = new.stored, rejected = new.rejected, lost = new.lost, \
             given_up = new.given_up, repeated = new.repeated, conflicts = new.conflicts \
             FROM new WHERE stream.stream_id = new.stream_id",
        ));
        piece.iter().for_each(|(stream_id, state)| add_stream(&mut update, *stream_id, state));
        update.execute(conn).await.map_err(LakeError::sql("save the ledger (table stream)"))?;
    }
    Ok(())
}

fn add_stream(update: &mut Statement, stream_id: i64, state: &StreamState) {
    let seen = [&state.stored, &state.rejected].iter().filter_map(|set| set.last()).max().unwrap_or(0);
    update.add(stream_id);
    update.add(state.sender.clone());
    update.add(number(state.numbered));
    update.add(number(state.acknowledged));
    update.add(state.complete_until);
    update.add(number(seen));
    update.add(state.event_ts);
    update.add(state.append_ts);
    update.add(json!(state.waiting).to_string());
    for set in [&state.stored, &state.rejected, &state.lost, &state.given_up] {
        update.add(set_text(set));
    }
    update.add(number(state.repeated));
    update.add(number(state.conflicts));
}

/// Moves a shard's offsets under its fence and gives the number of this flush (D12).
///
/// # Errors
/// [`LakeError::Fenced`] if another worker has taken the shard, [`LakeError::Sql`]; roll the transaction back.
pub async fn shard(
    conn: &mut SqliteConnection,
    shard: i32,
    state: &ShardState,
    now_us: i64,
) -> Result<i64, LakeError> {
    const WHAT: &str = "save the shard's offsets";
    let [offsets, last, trouble] =
        [json!(state.offsets), json!(state.last), json!(state.trouble)].map(|map| map.to_string());
    let new = state.fence == 0;
    let statement = if new {
        "INSERT INTO shard (flushes, offsets, last, trouble, updated, shard, fence) VALUES (1, ?, ?, ?, ?, ?, 1) \
         ON CONFLICT DO NOTHING RETURNING flushes"
    } else {
        "UPDATE shard SET flushes = flushes + 1, offsets = ?, last = ?, trouble = ?, updated = ? \
         WHERE shard = ? AND fence = ? RETURNING flushes"
    };
    let mut statement =
        Statement::new(statement).bind(offsets).bind(last).bind(trouble).bind(now_us).bind(shard);
    if !new {
        statement.add(state.fence);
    }
    let row = statement.fetch_optional(conn).await.map_err(LakeError::sql(WHAT))?;
    row.ok_or(LakeError::Fenced { shard })?.try_get(0).map_err(LakeError::sql(WHAT))
}

/// Takes the next flush of a shard for someone who writes features beside its worker (D12).
///
/// # Errors
/// [`LakeError`]; roll the transaction back.
pub async fn next_flush(conn: &mut SqliteConnection, shard: i32, now_us: i64) -> Result<i64, LakeError> {
    const WHAT: &str = "take the next flush of a shard";
    let update = Statement::new(
        "UPDATE shard SET flushes = flushes + 1, updated = ? WHERE shard = ? RETURNING flushes",
    );
    let row = update.bind(now_us).bind(shard).fetch_optional(conn).await.map_err(LakeError::sql(WHAT))?;
    let row = row.ok_or_else(|| LakeError::stored("a shard", format!("shard {shard} is not there")))?;
    row.try_get(0).map_err(LakeError::sql(WHAT))
}

/// Adds the flush's own row; `chunks` are (stream id, first sequence, rows, CRC-32C).
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn flush_row(
    conn: &mut SqliteConnection,
    flush_id: i64,
    at: i64,
    rows: u64,
    points: u64,
    chunks: &[(i64, u64, u32, u32)],
) -> Result<(), LakeError> {
    let insert =
        Statement::new("INSERT INTO flush (flush_id, at, rows, points, chunks) VALUES (?, ?, ?, ?, ?)");
    let insert = insert
        .bind(flush_id)
        .bind(at)
        .bind(number(rows))
        .bind(number(points))
        .bind(json!(chunks).to_string());
    insert.execute(conn).await.map_err(LakeError::sql("add a row to flush"))?;
    if flush_id & FORGET_EVERY == 0 {
        let delete = Statement::new("DELETE FROM flush WHERE at < ?").bind(at.saturating_sub(REMEMBERED_US));
        delete.execute(conn).await.map_err(LakeError::sql("forget old rows of flush"))?;
    }
    Ok(())
}

/// Saves the operator state of machines.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn operator_states(
    conn: &mut SqliteConnection,
    shard: i32,
    flush_id: i64,
    states: Vec<(String, Vec<u8>)>,
) -> Result<(), LakeError> {
    for piece in pieces(&states) {
        let marks = vec!["(?, ?, ?, ?)"; piece.len()].join(", ");
        let mut upsert = Statement::new(format!(
            "INSERT INTO operator_state (machine, shard, body, flush_id) VALUES {marks} ON CONFLICT (machine) \
             DO UPDATE SET shard = excluded.shard, body = excluded.body, flush_id = excluded.flush_id",
        ));
        for (machine, body) in piece {
            upsert.add(machine.clone());
            upsert.add(shard);
            upsert.add(body.clone());
            upsert.add(flush_id);
        }
        upsert.execute(conn).await.map_err(LakeError::sql("save operator state"))?;
    }
    Ok(())
}

/// Notes hours that must be computed again from the lake (F6): (view, version, machine, hour).
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn repairs(
    conn: &mut SqliteConnection,
    asked: Vec<(String, u32, String, i64)>,
    now_us: i64,
) -> Result<(), LakeError> {
    for (view, version, machine, hour) in asked {
        let insert = Statement::new(
            "INSERT INTO repair (view, version, machine, hour, asked) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        );
        let insert = insert.bind(view).bind(version).bind(machine).bind(hour).bind(now_us);
        insert.execute(conn).await.map_err(LakeError::sql("note a repair"))?;
    }
    Ok(())
}

/// Takes a repair off the list.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn repaired(
    conn: &mut SqliteConnection,
    view: &str,
    version: u32,
    machine: &str,
    hour: i64,
) -> Result<(), LakeError> {
    let delete =
        Statement::new("DELETE FROM repair WHERE view = ? AND version = ? AND machine = ? AND hour = ?");
    let delete = delete.bind(view.to_owned()).bind(version).bind(machine.to_owned()).bind(hour);
    delete.execute(conn).await.map_err(LakeError::sql("end a repair"))?;
    Ok(())
}

/// How far a view with `mode = "batch"` is computed for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRun {
    /// The view's name.
    pub view: String,
    /// Its version.
    pub version: u32,
    /// The machine.
    pub machine: String,
    /// Windows that end here or earlier are computed. *Units*: microseconds since 1970-01-01 UTC.
    pub until: i64,
    /// From so many rows of the lake, see [`crate::lake::read::rows_seen`].
    pub rows_seen: i64,
    /// When the last run that was finished began. *Units*: microseconds since 1970-01-01 UTC.
    pub ran: i64,
}

/// Saves how far a view is computed.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn batch_run(conn: &mut SqliteConnection, run: BatchRun) -> Result<(), LakeError> {
    let upsert = Statement::new(
        "INSERT INTO batch_run (view, version, machine, until, rows_seen, ran) VALUES (?, ?, ?, ?, ?, ?) \
         ON CONFLICT (view, version, machine) DO UPDATE SET until = excluded.until, rows_seen = excluded.rows_seen, \
         ran = excluded.ran",
    );
    let upsert = upsert.bind(run.view).bind(run.version).bind(run.machine);
    let upsert = upsert.bind(run.until).bind(run.rows_seen).bind(run.ran);
    upsert
        .execute(conn)
        .await
        .map_err(LakeError::sql("save how far a view is computed (table batch_run)"))?;
    Ok(())
}
