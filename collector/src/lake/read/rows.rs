//! Rows of the lake, as preprocessing takes them.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_preprocess::InputRow;
use millrace_protocol::{Layout, LayoutColumn, MachineName, RowFlags, StreamId, ValueType};

use crate::lake::db::{self, Row as _, SqliteConnection, SqliteRow, Statement};
use crate::lake::{LakeError, row, waveform};

const WHAT: &str = "read rows of reading";

/// *Units*: microseconds.
pub const HOUR_US: i64 = 3_600_000_000;

/// Layouts by their number.
#[derive(Debug, Default)]
pub struct Layouts(HashMap<i64, Arc<Layout>>);

impl Layouts {
    /// Gives a layout.
    ///
    /// # Errors
    /// [`LakeError`].
    pub async fn get(
        &mut self,
        conn: &mut SqliteConnection,
        layout_id: i64,
    ) -> Result<Arc<Layout>, LakeError> {
        if let Some(layout) = self.0.get(&layout_id) {
            return Ok(Arc::clone(layout));
        }
        let select = Statement::new("SELECT tags FROM layout WHERE layout_id = ?").bind(layout_id);
        let found = select.fetch_optional(conn).await.map_err(LakeError::sql("read a layout"))?;
        let found =
            found.ok_or_else(|| LakeError::stored("a layout", format!("number {layout_id} is not there")))?;
        let tags: String = found.try_get(0).map_err(LakeError::sql("read a layout"))?;
        let layout = Arc::new(parse_layout(&tags).ok_or_else(|| LakeError::stored("a layout", tags))?);
        self.0.insert(layout_id, Arc::clone(&layout));
        Ok(layout)
    }
}

fn parse_layout(tags: &str) -> Option<Layout> {
    let columns: Vec<(String, String)> = serde_json::from_str(tags).ok()?;
    let columns = columns.into_iter().map(|(tag, word)| {
        let value_type = ValueType::ALL.into_iter().find(|t| t.name() == word)?;
        Some(LayoutColumn { tag: tag.into(), value_type })
    });
    columns.collect::<Option<Vec<_>>>().map(Layout::new)
}

/// Reads a machine's rows with `from_us` ≤ event time ≤ `to_us`, ordered by event time, stream and sequence.
///
/// # Errors
/// [`LakeError`]; a row that cannot be read back is named by its stream and sequence.
pub async fn machine_rows(
    conn: &mut SqliteConnection,
    layouts: &mut Layouts,
    streams: &HashMap<i64, Arc<StreamId>>,
    machine: &MachineName,
    from_us: i64,
    to_us: i64,
) -> Result<Vec<InputRow>, LakeError> {
    let select = Statement::new(
        "SELECT ts, stream_id, seq, append_ts, flags, layout_id, vals, extra FROM reading \
         WHERE machine_id = (SELECT machine_id FROM machine WHERE name = ?) AND ts >= ? AND ts <= ? \
         ORDER BY ts, stream_id, seq",
    );
    let select = select.bind(machine.as_str().to_owned()).bind(from_us).bind(to_us);
    let found = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let waveforms = waveform::read(conn, machine, from_us, to_us).await?;
    let mut rows = Vec::with_capacity(found.len());
    for found in &found {
        let layout_id: i64 = found.try_get(5).map_err(LakeError::sql(WHAT))?;
        let layout = layouts.get(conn, layout_id).await?;
        rows.push(decode(found, layout, streams, &waveforms)?);
    }
    Ok(rows)
}

fn decode(
    found: &SqliteRow,
    layout: Arc<Layout>,
    streams: &HashMap<i64, Arc<StreamId>>,
    waveforms: &waveform::Waveforms,
) -> Result<InputRow, LakeError> {
    type Columns = (i64, i64, i64, i64, i64, Option<String>, Option<String>);
    let columns = || -> Result<Columns, db::Error> {
        Ok((
            found.try_get(0)?,
            found.try_get(1)?,
            found.try_get(2)?,
            found.try_get(3)?,
            found.try_get(4)?,
            found.try_get(6)?,
            found.try_get(7)?,
        ))
    };
    let (time_us, stream_id, seq, append_us, flags, vals, extra) = columns().map_err(LakeError::sql(WHAT))?;
    let stored = |what: &str| {
        LakeError::stored("a row of reading", format!("stream {stream_id}, sequence {seq}: {what}"))
    };
    let stream = streams.get(&stream_id).ok_or_else(|| stored("its stream is unknown"))?;
    let waveforms = waveforms.get(&(stream_id, seq)).map_or(&[][..], Vec::as_slice);
    let cells = row::decode(&layout, vals.as_deref(), extra.as_deref(), waveforms)
        .ok_or_else(|| stored("vals, extra and waveforms do not fit its layout"))?;
    Ok(InputRow {
        stream: Arc::clone(stream),
        seq: u64::try_from(seq).map_err(|_| stored("a negative sequence"))?,
        time_us,
        append_us,
        flags: RowFlags(u16::try_from(flags).map_err(|_| stored("flags beyond 16 bits"))?),
        layout,
        cells,
    })
}

/// Gives the first and last event time of a machine's rows.
///
/// # Errors
/// [`LakeError::Sql`].
pub async fn time_range(
    conn: &mut SqliteConnection,
    machine: &MachineName,
) -> Result<Option<(i64, i64)>, LakeError> {
    let select = Statement::new(
        "SELECT min(ts), max(ts) FROM reading WHERE machine_id = (SELECT machine_id FROM machine WHERE name = ?)",
    );
    let select = select.bind(machine.as_str().to_owned());
    let found = select.fetch_optional(conn).await.map_err(LakeError::sql(WHAT))?;
    let Some(found) = found else { return Ok(None) };
    let range: Result<(Option<i64>, Option<i64>), db::Error> =
        found.try_get(0).and_then(|first| Ok((first, found.try_get(1)?)));
    let (first, last) = range.map_err(LakeError::sql(WHAT))?;
    Ok(first.zip(last))
}

/// Gives the number of the newest row that was written: whatever is written later has a greater one.
///
/// # Errors
/// [`LakeError::Sql`].
pub async fn rows_seen(conn: &mut SqliteConnection) -> Result<i64, LakeError> {
    let select = Statement::new("SELECT coalesce(max(rowid), 0) FROM reading");
    let found = select.fetch_optional(conn).await.map_err(LakeError::sql(WHAT))?;
    found.map_or(Ok(0), |found| found.try_get(0)).map_err(LakeError::sql(WHAT))
}

/// Gives the first event time among a machine's rows that were written after [`rows_seen`] gave a number.
///
/// # Errors
/// [`LakeError::Sql`].
pub async fn first_since(
    conn: &mut SqliteConnection,
    machine: &MachineName,
    rows_seen: i64,
) -> Result<Option<i64>, LakeError> {
    // The plus sign keeps SQLite from going through all rows of the machine by the index.
    let select = Statement::new(
        "SELECT min(ts) FROM reading WHERE rowid > ? AND +machine_id = (SELECT machine_id FROM machine WHERE name = ?)",
    );
    let select = select.bind(rows_seen).bind(machine.as_str().to_owned());
    let found = select.fetch_optional(conn).await.map_err(LakeError::sql(WHAT))?;
    found.map_or(Ok(None), |found| found.try_get(0)).map_err(LakeError::sql(WHAT))
}

/// Gives the beginnings of the hours in which a stream has rows after a sequence.
/// *Units*: microseconds since 1970-01-01 UTC.
///
/// # Errors
/// [`LakeError`].
pub async fn hours_of(
    conn: &mut SqliteConnection,
    stream: &StreamId,
    after: u64,
) -> Result<Vec<i64>, LakeError> {
    let select = Statement::new(
        "SELECT DISTINCT r.ts / 3600000000 FROM machine AS m JOIN stream AS s USING (machine_id) \
         JOIN reading AS r ON r.machine_id = m.machine_id AND r.stream_id = s.stream_id \
         WHERE m.name = ? AND s.agent = ? AND s.epoch = ? AND s.category = ? AND r.seq > ?",
    );
    let select = select.bind(stream.machine.as_str().to_owned()).bind(stream.agent.as_str().to_owned());
    let select = select.bind(stream.epoch.to_string()).bind(stream.category.as_str().to_owned());
    let select = select.bind(i64::try_from(after).unwrap_or(i64::MAX));
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let hour = |row: &SqliteRow| row.try_get::<i64, _>(0).map(|hour| hour.saturating_mul(HOUR_US));
    rows.iter().map(hour).collect::<Result<_, _>>().map_err(LakeError::sql(WHAT))
}
