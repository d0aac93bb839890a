//! Ledgers, offsets, births, controls and operator state, as the last flush left them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_protocol::{AgentId, Birth, Category, IntervalSet, Item, MachineName, StreamId};

use crate::lake::LakeError;
use crate::lake::db::{self, Row as _, SqliteConnection, SqliteRow, Statement};
use crate::lake::write::{BatchRun, ShardState, StreamState};

/// A stream and its ledger.
#[derive(Debug, Clone)]
pub struct LoadedStream {
    /// Its number.
    pub stream_id: i64,
    /// Its machine's number.
    pub machine_id: i64,
    /// Its shard.
    pub shard: i32,
    /// Its identity.
    pub stream: Arc<StreamId>,
    /// What is known of it.
    pub state: StreamState,
}

/// Reads a set of sequences (`1-500,502`); `None` if the text is none.
#[must_use]
pub fn parse_set(text: &str) -> Option<IntervalSet> {
    let mut set = IntervalSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        set.insert(from.trim().parse().ok()?..=to.trim().parse().ok()?);
    }
    Some(set)
}

/// Reads every stream.
///
/// # Errors
/// [`LakeError`]; a ledger that cannot be read back is named.
pub async fn streams(conn: &mut SqliteConnection) -> Result<Vec<LoadedStream>, LakeError> {
    const WHAT: &str = "read the ledger (table stream)";
    let select =
        Statement::new("SELECT stream.*, m.name AS machine FROM stream JOIN machine AS m USING (machine_id)");
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    rows.iter().map(|row| stream(row).map_err(LakeError::sql(WHAT))?).collect()
}

fn stream(row: &SqliteRow) -> Result<Result<LoadedStream, LakeError>, db::Error> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let count = |column: &str| row.try_get::<i64, _>(column).map(|n| u64::try_from(n).unwrap_or(0));
    let stream_id: i64 = row.try_get("stream_id")?;
    let bad =
        |what: &str| LakeError::stored("the ledger (table stream)", format!("stream {stream_id}: {what}"));
    let identity = (
        AgentId::new(&text("agent")?),
        text("epoch")?.parse(),
        MachineName::new(&text("machine")?),
        Category::new(&text("category")?),
    );
    let (Ok(agent), Ok(epoch), Ok(machine), Ok(category)) = identity else {
        return Ok(Err(bad("its name is none")));
    };
    let sets = (
        parse_set(&text("stored")?),
        parse_set(&text("rejected")?),
        parse_set(&text("lost")?),
        parse_set(&text("given_up")?),
    );
    let (Some(stored), Some(rejected), Some(lost), Some(given_up)) = sets else {
        return Ok(Err(bad("a set of sequences is none")));
    };
    let Ok(waiting) = serde_json::from_str(&text("waiting")?) else {
        return Ok(Err(bad("the list of waiting epochs is none")));
    };
    let state = StreamState {
        sender: text("sender")?,
        numbered: count("numbered")?,
        acknowledged: count("acknowledged")?,
        complete_until: row.try_get("complete_until")?,
        event_ts: row.try_get("event_ts")?,
        append_ts: row.try_get("append_ts")?,
        waiting,
        stored,
        rejected,
        lost,
        given_up,
        repeated: count("repeated")?,
        conflicts: count("conflicts")?,
    };
    Ok(Ok(LoadedStream {
        stream_id,
        machine_id: row.try_get("machine_id")?,
        shard: row.try_get("shard")?,
        stream: Arc::new(StreamId { agent, epoch, machine, category }),
        state,
    }))
}

/// Takes every shard that there is (D12): its fence rises, so that an earlier owner's next flush fails. What was wrong
/// with its topics is to be found anew.
///
/// # Errors
/// [`LakeError`]; nothing is changed then.
pub async fn take_shards(conn: &mut SqliteConnection) -> Result<BTreeMap<i32, ShardState>, LakeError> {
    const WHAT: &str = "take the shards (table shard)";
    let update = Statement::new(
        "UPDATE shard SET fence = fence + 1, trouble = '{}' RETURNING shard, fence, flushes, offsets, last, trouble",
    );
    let rows = update.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    decode_shards(&rows)
}

/// Reads every shard without taking it.
///
/// # Errors
/// [`LakeError`].
pub async fn shards(conn: &mut SqliteConnection) -> Result<BTreeMap<i32, ShardState>, LakeError> {
    let select = Statement::new("SELECT shard, fence, flushes, offsets, last, trouble FROM shard");
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql("read the shards (table shard)"))?;
    decode_shards(&rows)
}

fn decode_shards(rows: &[SqliteRow]) -> Result<BTreeMap<i32, ShardState>, LakeError> {
    const WHAT: &str = "read the shards (table shard)";
    let mut shards = BTreeMap::new();
    for row in rows {
        let columns = || -> Result<(i32, i64, i64, [String; 3]), db::Error> {
            let maps = [row.try_get(3)?, row.try_get(4)?, row.try_get(5)?];
            Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, maps))
        };
        let (shard, fence, flushes, [offsets, last, trouble]) = columns().map_err(LakeError::sql(WHAT))?;
        let state = || -> Result<ShardState, serde_json::Error> {
            let (offsets, last) = (serde_json::from_str(&offsets)?, serde_json::from_str(&last)?);
            Ok(ShardState { fence, flushes, offsets, last, trouble: serde_json::from_str(&trouble)? })
        };
        shards.insert(shard, state().map_err(|e| LakeError::stored("a shard's offsets", e))?);
    }
    Ok(shards)
}

/// Reads every birth as (stream number, birth), in the order of streams and places.
///
/// # Errors
/// [`LakeError`].
pub async fn births(conn: &mut SqliteConnection) -> Result<Vec<(i64, Birth)>, LakeError> {
    const WHAT: &str = "read the births (table birth)";
    let select = Statement::new("SELECT stream_id, item FROM birth ORDER BY stream_id, after_seq");
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let mut births = Vec::with_capacity(rows.len());
    for row in &rows {
        let columns: Result<(i64, Vec<u8>), db::Error> =
            row.try_get(0).and_then(|id| Ok((id, row.try_get(1)?)));
        let (stream_id, item) = columns.map_err(LakeError::sql(WHAT))?;
        match Item::decode(&item) {
            Ok(Item::Birth(birth)) => births.push((stream_id, birth)),
            Ok(_) => return Err(LakeError::stored("a birth", "it is another item")),
            Err(error) => return Err(LakeError::stored("a birth", error)),
        }
    }
    Ok(births)
}

/// Reads the streams that were given up, as (stream number, when), in the order in which it was decided.
///
/// # Errors
/// [`LakeError`].
pub async fn controls(conn: &mut SqliteConnection) -> Result<Vec<(i64, i64)>, LakeError> {
    const WHAT: &str = "read the controls (table control)";
    let select =
        Statement::new("SELECT stream_id, at FROM control WHERE kind = 'give_up' ORDER BY control_id");
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let pair = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(|row| pair(row).map_err(LakeError::sql(WHAT))).collect()
}

/// Reads the operator state of every machine as (machine, shard, bytes).
///
/// # Errors
/// [`LakeError`].
pub async fn operator_states(conn: &mut SqliteConnection) -> Result<Vec<(String, i32, Vec<u8>)>, LakeError> {
    const WHAT: &str = "read the operator state (table operator_state)";
    let select = Statement::new("SELECT machine, shard, body FROM operator_state ORDER BY machine");
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let columns = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    rows.iter().map(|row| columns(row).map_err(LakeError::sql(WHAT))).collect()
}

/// Reads the checksums of the chunks of the last `flushes` flushes, oldest first.
///
/// # Errors
/// [`LakeError`].
pub async fn recent_chunks(
    conn: &mut SqliteConnection,
    flushes: u32,
) -> Result<Vec<(i64, u64, u32, u32)>, LakeError> {
    const WHAT: &str = "read the last flushes (table flush)";
    let select =
        Statement::new("SELECT chunks FROM flush ORDER BY at DESC, flush_id DESC LIMIT ?").bind(flushes);
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let mut chunks = Vec::new();
    for row in rows.iter().rev() {
        let text: String = row.try_get(0).map_err(LakeError::sql(WHAT))?;
        let more: Vec<(i64, u64, u32, u32)> =
            serde_json::from_str(&text).map_err(|e| LakeError::stored("a flush's chunks", e))?;
        chunks.extend(more);
    }
    Ok(chunks)
}

/// Reads what must be computed again, oldest first: (view, version, machine, hour).
///
/// # Errors
/// [`LakeError`].
pub async fn repairs(conn: &mut SqliteConnection) -> Result<Vec<(String, u32, String, i64)>, LakeError> {
    const WHAT: &str = "read the repairs (table repair)";
    let select =
        Statement::new("SELECT view, version, machine, hour FROM repair ORDER BY asked, hour LIMIT 100");
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let columns = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
    rows.iter().map(|row| columns(row).map_err(LakeError::sql(WHAT))).collect()
}

/// Reads how far the views with `mode = "batch"` are computed.
///
/// # Errors
/// [`LakeError`].
pub async fn batch_runs(conn: &mut SqliteConnection) -> Result<Vec<BatchRun>, LakeError> {
    const WHAT: &str = "read the batch runs (table batch_run)";
    let select = Statement::new("SELECT view, version, machine, until, rows_seen, ran FROM batch_run");
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let columns = |row: &SqliteRow| {
        Ok(BatchRun {
            view: row.try_get(0)?,
            version: row.try_get(1)?,
            machine: row.try_get(2)?,
            until: row.try_get(3)?,
            rows_seen: row.try_get(4)?,
            ran: row.try_get(5)?,
        })
    };
    rows.iter().map(|row| columns(row).map_err(LakeError::sql(WHAT))).collect()
}

/// Streams by their number.
#[must_use]
pub fn by_number(streams: &[LoadedStream]) -> HashMap<i64, Arc<StreamId>> {
    streams.iter().map(|s| (s.stream_id, Arc::clone(&s.stream))).collect()
}
