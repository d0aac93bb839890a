//! What a flush adds: readings, dead letters, quarantine, losses, gaps, controls.

use crate::lake::db::{SqliteConnection, Statement};
use crate::lake::{LakeError, waveform};

/// Rows written by one statement; a power of two, as few different statements are then prepared.
const ROWS_PER_STATEMENT: usize = 128;

/// A row of `reading`.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Event time. *Units*: microseconds since 1970-01-01 UTC.
    pub ts: i64,
    /// Which machine.
    pub machine_id: i64,
    /// Which stream.
    pub stream_id: i64,
    /// Which row of the stream.
    pub seq: u64,
    /// Which flush wrote it.
    pub flush_id: i64,
    /// When Kafka took it. *Units*: microseconds since 1970-01-01 UTC.
    pub append_ts: i64,
    /// What is special about it.
    pub flags: u16,
    /// What the cells stand for.
    pub layout_id: i64,
    /// The cells.
    pub columns: crate::lake::row::Columns,
}

/// A row of `dead_letter`: bytes that could not be read.
#[derive(Debug, Clone, Default)]
pub struct DeadLetter {
    /// Append time. *Units*: microseconds since 1970-01-01 UTC.
    pub received: i64,
    /// `record`, `item` or `payload`.
    pub kind: &'static str,
    /// Kafka topic.
    pub topic: String,
    /// Kafka partition.
    pub part: i32,
    /// Kafka offset.
    pub offset: i64,
    /// The stream, where known.
    pub stream_id: Option<i64>,
    /// The first sequence, where known.
    pub first_seq: Option<u64>,
    /// Number of rows, where known.
    pub rows: Option<u64>,
    /// Which sequences are rejected by it, as a set's text.
    pub rejected: String,
    /// The source's own topic, for a payload.
    pub source: Option<String>,
    /// Kafka headers and key as JSON.
    pub headers: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Why they could not be read.
    pub reason: String,
}

/// A row of `quarantine`: rows that were read but are not believed.
#[derive(Debug, Clone)]
pub struct QuarantineRow {
    /// `conflict`, `time` or `clock`.
    pub kind: &'static str,
    /// Which stream.
    pub stream_id: i64,
    /// The first sequence.
    pub first_seq: u64,
    /// Number of rows.
    pub rows: u64,
    /// Event time of the first. *Units*: microseconds since 1970-01-01 UTC.
    pub ts: Option<i64>,
    /// Append time. *Units*: microseconds since 1970-01-01 UTC.
    pub append_ts: i64,
    /// Which sequences are rejected by it, as a set's text.
    pub rejected: String,
    /// The layout (its bytes as in a record's header).
    pub layout: Option<Vec<u8>>,
    /// The item (its bytes as in a record).
    pub item: Vec<u8>,
    /// Why.
    pub reason: String,
}

/// A row of `loss`.
#[derive(Debug, Clone)]
pub struct LossRow {
    /// Which stream.
    pub stream_id: i64,
    /// The first sequence.
    pub from: u64,
    /// The last, if known.
    pub to: Option<u64>,
    /// The reason's word.
    pub reason: &'static str,
    /// Points, where known.
    pub points: Option<u64>,
    /// Append time. *Units*: microseconds since 1970-01-01 UTC.
    pub append_ts: i64,
}

/// A row of `gap`.
#[derive(Debug, Clone)]
pub struct GapRow {
    /// Which stream.
    pub stream_id: i64,
    /// `agent_down` or `undeclared`.
    pub kind: &'static str,
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub from_ts: Option<i64>,
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub to_ts: Option<i64>,
    /// First sequence.
    pub from_seq: Option<u64>,
    /// Last sequence.
    pub to_seq: Option<u64>,
}

/// A row of `control`: a decision that depended on the clock.
#[derive(Debug, Clone)]
pub struct ControlRow {
    /// Which stream.
    pub stream_id: i64,
    /// `give_up` or `clock_correction`.
    pub kind: &'static str,
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub at: i64,
    /// More, as JSON.
    pub detail: String,
}

/// A row of `audit_log`: something that whoever audits must know of; it accepts nothing.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// Which stream it was seen in.
    pub stream_id: i64,
    /// `duplicate_agent`.
    pub kind: &'static str,
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub at: i64,
    /// What, as a sentence.
    pub reason: String,
}

/// A sequence or count as SQLite keeps it; the ledger refuses what does not fit.
pub(super) fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Cuts `items` into pieces whose lengths are powers of two.
pub(super) fn pieces<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut length = ROWS_PER_STATEMENT;
        while length > items.len() {
            length /= 2;
        }
        let (piece, rest) = items.split_at_checked(length).filter(|(piece, _)| !piece.is_empty())?;
        items = rest;
        Some(piece)
    })
}

/// Adds rows to `reading`, and their waveforms. The unique index is the backstop: a row that is there already is an error.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn readings(conn: &mut SqliteConnection, rows: Vec<Reading>) -> Result<(), LakeError> {
    const HEAD: &str = "INSERT INTO reading (ts, machine_id, stream_id, seq, flush_id, append_ts, quality, flags, \
                        layout_id, vals, extra) VALUES ";
    for piece in pieces(&rows) {
        let marks = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; piece.len()].join(", ");
        let mut insert = Statement::new(format!("{HEAD}{marks}"));
        for row in piece {
            for number in
                [row.ts, row.machine_id, row.stream_id, number(row.seq), row.flush_id, row.append_ts]
            {
                insert.add(number);
            }
            for number in [row.columns.quality, i64::from(row.flags), row.layout_id] {
                insert.add(number);
            }
            insert.add(row.columns.vals.clone());
            insert.add(row.columns.extra.clone());
        }
        insert.execute(conn).await.map_err(LakeError::sql("add rows to reading"))?;
    }
    waveform::write(conn, &rows).await
}

/// Adds rows to `dead_letter`.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn dead_letters(
    conn: &mut SqliteConnection,
    rows: Vec<DeadLetter>,
    flush_id: i64,
) -> Result<(), LakeError> {
    for row in rows {
        let insert = Statement::new(
            "INSERT INTO dead_letter (received, kind, topic, part, kafka_offset, stream_id, first_seq, rows, rejected, \
             source, headers, bytes, reason, flush_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        );
        let insert = insert
            .bind(row.received)
            .bind(row.kind)
            .bind(row.topic)
            .bind(row.part)
            .bind(row.offset)
            .bind(row.stream_id)
            .bind(row.first_seq.map(number))
            .bind(row.rows.map(number))
            .bind(row.rejected)
            .bind(row.source)
            .bind(row.headers)
            .bind(row.bytes)
            .bind(row.reason)
            .bind(flush_id);
        insert.execute(conn).await.map_err(LakeError::sql("add rows to dead_letter"))?;
    }
    Ok(())
}

/// Adds rows to `quarantine`.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn quarantine(
    conn: &mut SqliteConnection,
    rows: Vec<QuarantineRow>,
    flush_id: i64,
) -> Result<(), LakeError> {
    for row in rows {
        let insert = Statement::new(
            "INSERT INTO quarantine (kind, stream_id, first_seq, rows, ts, append_ts, rejected, layout, item, reason, \
             flush_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        );
        let insert = insert
            .bind(row.kind)
            .bind(row.stream_id)
            .bind(number(row.first_seq))
            .bind(number(row.rows))
            .bind(row.ts)
            .bind(row.append_ts)
            .bind(row.rejected)
            .bind(row.layout)
            .bind(row.item)
            .bind(row.reason)
            .bind(flush_id);
        insert.execute(conn).await.map_err(LakeError::sql("add rows to quarantine"))?;
    }
    Ok(())
}

/// Takes a row out of `quarantine` that goes into `reading`.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn released(conn: &mut SqliteConnection, quarantine_id: i64) -> Result<(), LakeError> {
    let delete = Statement::new("DELETE FROM quarantine WHERE quarantine_id = ?").bind(quarantine_id);
    delete.execute(conn).await.map_err(LakeError::sql("take a row out of quarantine"))?;
    Ok(())
}

/// Adds rows to `loss`; one that is there already changes nothing.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn losses(conn: &mut SqliteConnection, rows: Vec<LossRow>, flush_id: i64) -> Result<(), LakeError> {
    for row in rows {
        let insert = Statement::new(
            "INSERT INTO loss (stream_id, from_seq, to_seq, reason, points, append_ts, flush_id) \
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        );
        let insert = insert
            .bind(row.stream_id)
            .bind(number(row.from))
            .bind(row.to.map(number))
            .bind(row.reason)
            .bind(row.points.map(number))
            .bind(row.append_ts)
            .bind(flush_id);
        insert.execute(conn).await.map_err(LakeError::sql("add rows to loss"))?;
    }
    Ok(())
}

/// Adds rows to `gap`; one that is there already changes nothing.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn gaps(conn: &mut SqliteConnection, rows: Vec<GapRow>, flush_id: i64) -> Result<(), LakeError> {
    for row in rows {
        let insert = Statement::new(
            "INSERT INTO gap (stream_id, kind, from_ts, to_ts, from_seq, to_seq, flush_id) \
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        );
        let insert = insert
            .bind(row.stream_id)
            .bind(row.kind)
            .bind(row.from_ts)
            .bind(row.to_ts)
            .bind(row.from_seq.map(number))
            .bind(row.to_seq.map(number))
            .bind(flush_id);
        insert.execute(conn).await.map_err(LakeError::sql("add rows to gap"))?;
    }
    Ok(())
}

/// Adds rows to `control`.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn controls(
    conn: &mut SqliteConnection,
    rows: Vec<ControlRow>,
    shard: i32,
    flush_id: i64,
) -> Result<(), LakeError> {
    for row in rows {
        let insert = Statement::new(
            "INSERT INTO control (shard, stream_id, kind, at, detail, flush_id) VALUES (?, ?, ?, ?, ?, ?)",
        );
        let insert = insert
            .bind(shard)
            .bind(row.stream_id)
            .bind(row.kind)
            .bind(row.at)
            .bind(row.detail)
            .bind(flush_id);
        insert.execute(conn).await.map_err(LakeError::sql("add rows to control"))?;
    }
    Ok(())
}

/// Adds rows to `audit_log`, without sequences.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn audits(conn: &mut SqliteConnection, rows: Vec<AuditRow>) -> Result<(), LakeError> {
    for row in rows {
        let insert = Statement::new(
            "INSERT INTO audit_log (at, kind, stream_id, sequences, reason) VALUES (?, ?, ?, '', ?)",
        );
        let insert = insert.bind(row.at).bind(row.kind).bind(row.stream_id).bind(row.reason);
        insert.execute(conn).await.map_err(LakeError::sql("add rows to audit_log"))?;
    }
    Ok(())
}
