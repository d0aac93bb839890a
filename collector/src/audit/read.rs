//! What the audit's witnesses say: the ledger, the declared losses, what was accepted, and the lake itself.
//!
//! Every table is read once, whatever its size.

use std::collections::BTreeMap;

use millrace_protocol::IntervalSet;

use super::{AuditError, Entry, StreamAudit};
use crate::lake::db::{self, Row as _, SqliteConnection, SqliteRow};
use crate::lake::read::parse_set;

pub(super) async fn streams(conn: &mut SqliteConnection) -> Result<BTreeMap<i64, Entry>, AuditError> {
    const WHAT: &str = "the ledger (table stream)";
    let rows = db::query(
        "SELECT stream_id, agent, epoch, m.name AS machine, category, sender, numbered, acknowledged, complete_until, \
         append_ts, waiting, stored, rejected, repeated, conflicts FROM stream JOIN machine AS m USING (machine_id)",
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(|source| AuditError::Sql { what: WHAT, source })?;
    let mut entries = BTreeMap::new();
    for row in &rows {
        let (id, entry) = entry(row).map_err(|source| AuditError::Sql { what: WHAT, source })?;
        let mut entry = entry;
        entry.stored = column_set(row, id, "stored", WHAT)?;
        entry.rejected = column_set(row, id, "rejected", WHAT)?;
        entries.insert(id, entry);
    }
    Ok(entries)
}

fn entry(row: &SqliteRow) -> Result<(i64, Entry), db::Error> {
    let count = |column: &str| row.try_get::<i64, _>(column).map(|n| u64::try_from(n).unwrap_or(0));
    let line = StreamAudit {
        machine: row.try_get("machine")?,
        category: row.try_get("category")?,
        agent: row.try_get("agent")?,
        epoch: row.try_get("epoch")?,
        numbered: count("numbered")?,
        repeated: count("repeated")?,
        conflicts: count("conflicts")?,
        ..StreamAudit::default()
    };
    let entry = Entry {
        line,
        acknowledged: count("acknowledged")?,
        sender: row.try_get("sender")?,
        append_us: row.try_get::<Option<i64>, _>("append_ts")?.unwrap_or(0),
        heard_progress: row.try_get::<Option<i64>, _>("complete_until")?.is_some(),
        waiting: row.try_get("waiting")?,
        ..Entry::default()
    };
    Ok((row.try_get("stream_id")?, entry))
}

fn column_set(
    row: &SqliteRow,
    stream_id: i64,
    column: &'static str,
    what: &'static str,
) -> Result<IntervalSet, AuditError> {
    let text: String = row.try_get(column).map_err(|source| AuditError::Sql { what, source })?;
    parse_set(&text).ok_or(AuditError::Set { stream_id, column, text })
}

pub(super) async fn losses(
    conn: &mut SqliteConnection,
    entries: &mut BTreeMap<i64, Entry>,
) -> Result<(), AuditError> {
    let failed = |source| AuditError::Sql { what: "the declared losses (table loss)", source };
    let rows = db::query("SELECT stream_id, from_seq, to_seq FROM loss")
        .fetch_all(&mut *conn)
        .await
        .map_err(failed)?;
    for row in &rows {
        let id: i64 = row.try_get("stream_id").map_err(failed)?;
        let from: i64 = row.try_get("from_seq").map_err(failed)?;
        let to: Option<i64> = row.try_get("to_seq").map_err(failed)?;
        if let Some(entry) = entries.get_mut(&id) {
            // An open end reaches to the last sequence that anybody heard of.
            entry.line.lost_without_end |= to.is_none();
            let to = to.map_or(entry.line.numbered, |to| u64::try_from(to).unwrap_or(0));
            entry.lost.insert(u64::try_from(from).unwrap_or(0)..=to);
        }
    }
    Ok(())
}

pub(super) async fn accepted(
    conn: &mut SqliteConnection,
    entries: &mut BTreeMap<i64, Entry>,
) -> Result<(), AuditError> {
    const WHAT: &str = "what was accepted (table audit_log)";
    let failed = |source| AuditError::Sql { what: WHAT, source };
    let rows = db::query("SELECT stream_id, sequences FROM audit_log")
        .fetch_all(&mut *conn)
        .await
        .map_err(failed)?;
    for row in &rows {
        let id: i64 = row.try_get("stream_id").map_err(failed)?;
        let accepted = column_set(row, id, "sequences", WHAT)?;
        if let Some(entry) = entries.get_mut(&id) {
            entry.accepted.union_with(&accepted);
        }
    }
    Ok(())
}

/// Reads which sequences stand in the lake, as ranges: the database finds them, so that a lake of any size
/// is read in one pass and little memory. Gives the rows of unknown streams.
pub(super) async fn lake(
    conn: &mut SqliteConnection,
    entries: &mut BTreeMap<i64, Entry>,
) -> Result<u64, AuditError> {
    let failed = |source| AuditError::Sql { what: "the lake (table reading)", source };
    let rows = db::query(
        "SELECT stream_id, min(seq) AS first, max(seq) AS last, sum(copies) AS rows FROM (\
           SELECT stream_id, seq, copies, seq - row_number() OVER (PARTITION BY stream_id ORDER BY seq) AS island \
           FROM (SELECT stream_id, seq, count(*) AS copies FROM reading GROUP BY stream_id, seq)) \
         GROUP BY stream_id, island",
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    let mut orphans = 0;
    for row in &rows {
        let number = |column: &str| row.try_get::<i64, _>(column).map(|n| u64::try_from(n).unwrap_or(0));
        let id: i64 = row.try_get("stream_id").map_err(failed)?;
        let (first, last, copies) = (
            number("first").map_err(failed)?,
            number("last").map_err(failed)?,
            number("rows").map_err(failed)?,
        );
        match entries.get_mut(&id) {
            Some(entry) => {
                entry.lake.insert(first..=last);
                entry.lake_rows += copies;
            }
            None => orphans += copies,
        }
    }
    Ok(orphans)
}
