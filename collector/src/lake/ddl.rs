//! Tables and views of the lake; every name is of the interface (docs/formats/lake.md explains each column).
//!
//! Times are microseconds since 1970-01-01 UTC, epochs 16 hexadecimal digits, sets of sequences texts like
//! `1-500,502-777`.

use super::LakeError;
use super::db::{AssertSqlSafe, Executor, Row, SqliteConnection};

/// The version of the tables that this release makes (`PRAGMA user_version`).
pub const VERSION: i64 = 2;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS machine (
    machine_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, attributes TEXT NOT NULL DEFAULT '{}',
    first_seen INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS layout (
    layout_id INTEGER PRIMARY KEY, tags TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS stream (
    stream_id INTEGER PRIMARY KEY, agent TEXT NOT NULL, epoch TEXT NOT NULL, machine_id INTEGER NOT NULL,
    category TEXT NOT NULL, shard INTEGER NOT NULL, sender TEXT NOT NULL DEFAULT '',
    numbered INTEGER NOT NULL DEFAULT 0, acknowledged INTEGER NOT NULL DEFAULT 0, complete_until INTEGER,
    seen INTEGER NOT NULL DEFAULT 0, event_ts INTEGER, append_ts INTEGER, hole_since INTEGER,
    waiting TEXT NOT NULL DEFAULT '[]', stored TEXT NOT NULL DEFAULT '', rejected TEXT NOT NULL DEFAULT '',
    lost TEXT NOT NULL DEFAULT '', given_up TEXT NOT NULL DEFAULT '', repeated INTEGER NOT NULL DEFAULT 0,
    conflicts INTEGER NOT NULL DEFAULT 0, UNIQUE (agent, epoch, machine_id, category));
CREATE TABLE IF NOT EXISTS birth (
    stream_id INTEGER NOT NULL, after_seq INTEGER NOT NULL, append_ts INTEGER NOT NULL,
    item BLOB NOT NULL, flush_id INTEGER NOT NULL, PRIMARY KEY (stream_id, after_seq));
CREATE TABLE IF NOT EXISTS sensor (
    sensor_id INTEGER PRIMARY KEY, machine_id INTEGER NOT NULL, category TEXT NOT NULL, tag TEXT NOT NULL,
    version INTEGER NOT NULL, stream_id INTEGER NOT NULL, after_seq INTEGER NOT NULL, since INTEGER NOT NULL,
    value_type TEXT, unit TEXT, source TEXT NOT NULL, reporting TEXT NOT NULL, interval_us INTEGER,
    hold_us INTEGER NOT NULL, counter_modulus TEXT, UNIQUE (machine_id, category, tag, version));
CREATE TABLE IF NOT EXISTS reading (
    ts INTEGER NOT NULL, machine_id INTEGER NOT NULL, stream_id INTEGER NOT NULL, seq INTEGER NOT NULL,
    flush_id INTEGER NOT NULL, append_ts INTEGER NOT NULL, quality INTEGER NOT NULL, flags INTEGER NOT NULL,
    layout_id INTEGER NOT NULL, vals TEXT, extra TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS reading_key ON reading (machine_id, ts, stream_id, seq);
CREATE TABLE IF NOT EXISTS waveform (
    ts INTEGER NOT NULL, machine_id INTEGER NOT NULL, stream_id INTEGER NOT NULL, seq INTEGER NOT NULL,
    tag TEXT NOT NULL, rate_hz REAL, rate_bits INTEGER NOT NULL, format TEXT NOT NULL, samples BLOB NOT NULL,
    flush_id INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS waveform_key ON waveform (machine_id, ts, stream_id, seq, tag);
CREATE TABLE IF NOT EXISTS dead_letter (
    dead_letter_id INTEGER PRIMARY KEY, received INTEGER NOT NULL, kind TEXT NOT NULL, topic TEXT NOT NULL,
    part INTEGER NOT NULL, kafka_offset INTEGER NOT NULL, stream_id INTEGER, first_seq INTEGER, rows INTEGER,
    rejected TEXT NOT NULL DEFAULT '', source TEXT, headers TEXT NOT NULL DEFAULT '{}', bytes BLOB,
    reason TEXT NOT NULL, flush_id INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS quarantine (
    quarantine_id INTEGER PRIMARY KEY, kind TEXT NOT NULL, stream_id INTEGER NOT NULL,
    first_seq INTEGER NOT NULL, rows INTEGER NOT NULL, ts INTEGER, append_ts INTEGER NOT NULL,
    rejected TEXT NOT NULL DEFAULT '', layout BLOB, item BLOB NOT NULL, reason TEXT NOT NULL,
    flush_id INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS loss (
    loss_id INTEGER PRIMARY KEY, stream_id INTEGER NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER,
    reason TEXT NOT NULL, points INTEGER, append_ts INTEGER NOT NULL, flush_id INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS loss_key ON loss (stream_id, from_seq, ifnull(to_seq, -1), reason);
CREATE TABLE IF NOT EXISTS gap (
    gap_id INTEGER PRIMARY KEY, stream_id INTEGER NOT NULL, kind TEXT NOT NULL, from_ts INTEGER, to_ts INTEGER,
    from_seq INTEGER, to_seq INTEGER, flush_id INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS gap_key
    ON gap (stream_id, kind, ifnull(from_ts, 0), ifnull(to_ts, 0), ifnull(from_seq, 0), ifnull(to_seq, 0));
CREATE TABLE IF NOT EXISTS event (
    event_id INTEGER PRIMARY KEY, machine_id INTEGER NOT NULL, kind TEXT NOT NULL, from_ts INTEGER NOT NULL,
    to_ts INTEGER, detail TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS control (
    control_id INTEGER PRIMARY KEY, shard INTEGER NOT NULL, stream_id INTEGER NOT NULL, kind TEXT NOT NULL,
    at INTEGER NOT NULL, detail TEXT NOT NULL DEFAULT '{}', flush_id INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS repair (
    view TEXT NOT NULL, version INTEGER NOT NULL, machine TEXT NOT NULL, hour INTEGER NOT NULL,
    asked INTEGER NOT NULL, PRIMARY KEY (view, version, machine, hour));
CREATE TABLE IF NOT EXISTS batch_run (
    view TEXT NOT NULL, version INTEGER NOT NULL, machine TEXT NOT NULL, until INTEGER NOT NULL,
    rows_seen INTEGER NOT NULL, ran INTEGER NOT NULL, PRIMARY KEY (view, version, machine));
CREATE TABLE IF NOT EXISTS operator_state (
    machine TEXT PRIMARY KEY, shard INTEGER NOT NULL, body BLOB NOT NULL, flush_id INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS shard (
    shard INTEGER PRIMARY KEY, fence INTEGER NOT NULL, flushes INTEGER NOT NULL, offsets TEXT NOT NULL,
    updated INTEGER NOT NULL, last TEXT NOT NULL DEFAULT '{}', trouble TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS flush (
    flush_id INTEGER PRIMARY KEY, at INTEGER NOT NULL, rows INTEGER NOT NULL, points INTEGER NOT NULL,
    chunks TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS flush_at ON flush (at);
CREATE TABLE IF NOT EXISTS audit_log (
    audit_id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, stream_id INTEGER NOT NULL,
    sequences TEXT NOT NULL, reason TEXT NOT NULL);
";

/// What tables of version 1 lack; what is new as a whole stands in `TABLES`.
const FROM_1: &str = "
ALTER TABLE shard ADD COLUMN last TEXT NOT NULL DEFAULT '{}';
ALTER TABLE shard ADD COLUMN trouble TEXT NOT NULL DEFAULT '{}';
";

/// `v` is the tag's place in `vals`, `x` what `extra` says of it. `n` holds digits, which SQLite reads as JSON so
/// that −0.0 stays what it is.
const VIEWS: &str = "
DROP VIEW IF EXISTS point;
CREATE VIEW point AS
SELECT machine, category, tag, ts,
    CASE WHEN v IS NOT NULL THEN v ELSE json_extract(json_extract(x, '$.n'), '$') END AS value,
    coalesce(json_extract(x, '$.t'), json_extract(x, '$.i'), json_extract(x, '$.x'), json_extract(x, '$.b'),
        json_extract(x, '$.w'), CASE WHEN json_extract(x, '$.samples') IS NOT NULL THEN (SELECT lower(hex(w.samples))
            FROM waveform AS w WHERE w.machine_id = p.machine_id AND w.ts = p.ts AND w.stream_id = p.stream_id
            AND w.seq = p.seq AND w.tag = p.tag) END) AS text,
    coalesce(json_extract(x, '$.q'), 0) AS quality, flags, agent, epoch, seq, append_ts
FROM (
    SELECT r.ts, m.name AS machine, s.category, json_extract(c.value, '$[0]') AS tag,
        json_extract(r.vals, '$[' || c.key || ']') AS v,
        (SELECT e.value FROM json_each(r.extra) AS e WHERE e.key = json_extract(c.value, '$[0]')) AS x,
        r.flags, s.agent, s.epoch, r.seq, r.append_ts, r.machine_id, r.stream_id
    FROM reading AS r JOIN machine AS m USING (machine_id) JOIN stream AS s USING (stream_id)
        JOIN layout AS l USING (layout_id), json_each(l.tags) AS c) AS p
WHERE v IS NOT NULL OR x IS NOT NULL;
DROP VIEW IF EXISTS reading_json;
CREATE VIEW reading_json AS
SELECT r.ts, m.name AS machine, s.category,
    (SELECT json_group_object(tag, json(CASE
        WHEN q IS NOT NULL THEN 'null'
        WHEN digits IS NOT NULL THEN CASE WHEN type <> 'bool' THEN digits WHEN digits = '1' THEN 'true' ELSE 'false' END
        WHEN x ->> '$.i' IS NOT NULL THEN x ->> '$.i'
        WHEN x ->> '$.x' IN ('7ff0000000000000', '7f800000') THEN '\"Infinity\"'
        WHEN x ->> '$.x' IN ('fff0000000000000', 'ff800000') THEN '\"-Infinity\"'
        WHEN x ->> '$.x' IS NOT NULL THEN '\"NaN\"'
        WHEN x ->> '$.b' IS NOT NULL THEN x -> '$.b'
        WHEN x ->> '$.t' IS NOT NULL THEN x -> '$.t'
        ELSE x END))
    FROM (SELECT tag, type, x, x ->> '$.q' AS q, coalesce(nullif(v, 'null'), x ->> '$.n') AS digits
        FROM (SELECT c.value ->> '$[0]' AS tag, c.value ->> '$[1]' AS type, r.vals -> ('$[' || c.key || ']') AS v,
            (SELECT e.value FROM json_each(r.extra) AS e WHERE e.key = c.value ->> '$[0]') AS x
            FROM json_each(l.tags) AS c))
    WHERE digits IS NOT NULL OR x IS NOT NULL) AS readings,
    r.quality, r.flags, s.agent, s.epoch, r.seq, r.append_ts
FROM reading AS r JOIN machine AS m USING (machine_id) JOIN stream AS s USING (stream_id)
    JOIN layout AS l USING (layout_id);
DROP VIEW IF EXISTS newest;
CREATE VIEW newest AS
SELECT machine, category, tag, max(ts) AS ts, value, text, quality,
    unixepoch('subsec') - max(ts) / 1000000.0 AS age_s
FROM point GROUP BY machine, category, tag;
DROP VIEW IF EXISTS ledger;
CREATE VIEW ledger AS
SELECT agent, epoch, m.name AS machine, category, shard, numbered, acknowledged, seen, stored, rejected, lost,
    given_up, repeated, conflicts, complete_until, event_ts, append_ts, waiting
FROM stream JOIN machine AS m USING (machine_id);
";

/// Creates or upgrades all tables and views; idempotent.
///
/// # Errors
/// [`LakeError::Version`] for tables of a later release, [`LakeError::Sql`] if the database refuses; nothing is
/// changed then.
pub async fn migrate(conn: &mut SqliteConnection) -> Result<(), LakeError> {
    let found = version(conn).await?;
    if found > VERSION {
        return Err(LakeError::Version { found, known: VERSION });
    }
    if found == VERSION {
        return Ok(());
    }
    let upgrade = if found == 1 { FROM_1 } else { "" };
    let script =
        format!("BEGIN IMMEDIATE; {upgrade} {TABLES} {VIEWS} PRAGMA user_version = {VERSION}; COMMIT;");
    let done = conn.execute(AssertSqlSafe(script)).await;
    if let Err(source) = done {
        // Nothing to roll back when BEGIN itself failed; the first error is the one to tell.
        drop(conn.execute("ROLLBACK").await);
        return Err(LakeError::Sql { what: "create its tables", source });
    }
    Ok(())
}

/// Refuses tables of another version than this release's.
///
/// # Errors
/// [`LakeError::Version`], also for a file without tables.
pub async fn check_version(conn: &mut SqliteConnection) -> Result<(), LakeError> {
    let found = version(conn).await?;
    if found == VERSION { Ok(()) } else { Err(LakeError::Version { found, known: VERSION }) }
}

async fn version(conn: &mut SqliteConnection) -> Result<i64, LakeError> {
    let row = conn.fetch_one("PRAGMA user_version").await.map_err(LakeError::sql("read its version"))?;
    row.try_get(0).map_err(LakeError::sql("read its version"))
}

#[cfg(test)]
mod tests {
    use millrace_protocol::{Cell, Samples, Value};

    use super::*;
    use crate::lake::db::open_writer;

    /// The names of all columns, by table.
    async fn columns(conn: &mut SqliteConnection) -> Vec<String> {
        let rows = conn
            .fetch_all(
                "SELECT m.name || '.' || c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c ORDER BY 1",
            )
            .await
            .unwrap();
        rows.iter().map(|row| row.try_get(0).unwrap()).collect()
    }

    /// The file is what the first release made.
    #[tokio::test]
    async fn golden_tables_of_version_1_become_those_of_this_release_and_keep_their_rows() {
        let folder = tempfile::tempdir().unwrap();
        let mut old = open_writer(&folder.path().join("old.db")).await.unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/lake-1.sql");
        old.execute(AssertSqlSafe(std::fs::read_to_string(path).unwrap())).await.unwrap();
        assert_eq!(version(&mut old).await.unwrap(), 1);
        assert!(matches!(
            check_version(&mut old).await,
            Err(LakeError::Version { found: 1, known: VERSION })
        ));
        migrate(&mut old).await.unwrap();
        let mut new = open_writer(&folder.path().join("new.db")).await.unwrap();
        migrate(&mut new).await.unwrap();
        assert_eq!(columns(&mut old).await, columns(&mut new).await);
        let shards = crate::lake::read::shards(&mut old).await.unwrap();
        assert_eq!(shards[&3].offsets["m.telemetry"], 6);
        let streams = crate::lake::read::by_number(&crate::lake::read::streams(&mut old).await.unwrap());
        let machine = millrace_protocol::MachineName::new("hall3/press-03").unwrap();
        let mut layouts = crate::lake::read::Layouts::default();
        let rows =
            crate::lake::read::machine_rows(&mut old, &mut layouts, &streams, &machine, i64::MIN, i64::MAX);
        let rows = rows.await.unwrap();
        let Cell::Good(Value::Waveform(wave)) = &rows[1].cells[1] else { panic!("{rows:?}") };
        assert_eq!((wave.rate_hz, &wave.samples), (10_000.0, &Samples::I16(vec![1, -1])));
        let point = old.fetch_one("SELECT value FROM point WHERE tag = 'temp' AND seq = 1").await.unwrap();
        assert_eq!(point.try_get::<f64, _>(0).unwrap(), 1.0);
    }
}
