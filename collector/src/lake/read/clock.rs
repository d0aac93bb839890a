//! Clock corrections, and the rows in quarantine that wait for one (D8).

use millrace_protocol::{AgentId, BootId, Category, ClockCorrection, MachineName, StreamId};

use crate::lake::LakeError;
use crate::lake::db::{self, Row as _, SqliteConnection, SqliteRow, Statement};
use crate::lake::row::unhex;

/// A row of `quarantine` whose gateway's clock was not synchronised.
#[derive(Debug, Clone)]
pub struct WaitingRow {
    /// Its number.
    pub quarantine_id: i64,
    /// Its stream.
    pub stream: StreamId,
    /// Its layout's bytes.
    pub layout: Vec<u8>,
    /// The bytes of a chunk item that holds it alone.
    pub item: Vec<u8>,
}

/// Reads every clock correction with its agent and append time, in the order in which they came.
///
/// # Errors
/// [`LakeError`].
pub async fn clock_corrections(
    conn: &mut SqliteConnection,
) -> Result<Vec<(AgentId, ClockCorrection, i64)>, LakeError> {
    const WHAT: &str = "read the clock corrections (table control)";
    let select = Statement::new(
        "SELECT s.agent, json_extract(detail, '$.boot_id'), json_extract(detail, '$.offset_us'), \
         json_extract(detail, '$.from_monotonic_us'), at FROM control JOIN stream AS s USING (stream_id) \
         WHERE kind = 'clock_correction' ORDER BY control_id",
    );
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let columns = |row: &SqliteRow| -> Result<(String, String, i64, i64, i64), db::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?))
    };
    let mut corrections = Vec::with_capacity(rows.len());
    for row in &rows {
        let (agent, boot_id, offset_us, from_monotonic_us, at) =
            columns(row).map_err(LakeError::sql(WHAT))?;
        let agent = AgentId::new(&agent).map_err(|e| LakeError::stored("a clock correction", e))?;
        let boot_id = unhex(&boot_id).and_then(|bytes| bytes.try_into().ok()).map(BootId);
        let boot_id =
            boot_id.ok_or_else(|| LakeError::stored("a clock correction", "its boot id is none"))?;
        corrections.push((agent, ClockCorrection { after: 0, boot_id, offset_us, from_monotonic_us }, at));
    }
    Ok(corrections)
}

/// Reads the rows of an agent's streams of a shard that wait for a clock correction.
///
/// # Errors
/// [`LakeError`].
pub async fn waiting_for_clock(
    conn: &mut SqliteConnection,
    shard: i32,
    agent: &AgentId,
) -> Result<Vec<WaitingRow>, LakeError> {
    const WHAT: &str = "read rows of quarantine";
    let select = Statement::new(
        "SELECT quarantine_id, s.epoch, m.name, s.category, layout, item FROM quarantine \
         JOIN stream AS s USING (stream_id) JOIN machine AS m USING (machine_id) \
         WHERE kind = 'clock' AND s.shard = ? AND s.agent = ? AND layout IS NOT NULL ORDER BY quarantine_id",
    );
    let rows = select.bind(shard).bind(agent.as_str().to_owned()).fetch_all(conn).await;
    let rows = rows.map_err(LakeError::sql(WHAT))?;
    let mut waiting = Vec::with_capacity(rows.len());
    for row in &rows {
        let text = |at: usize| row.try_get::<String, _>(at).map_err(LakeError::sql(WHAT));
        let name = (text(1)?.parse(), MachineName::new(&text(2)?), Category::new(&text(3)?));
        let (Ok(epoch), Ok(machine), Ok(category)) = name else {
            return Err(LakeError::stored("a row of quarantine", "its stream's name is none"));
        };
        waiting.push(WaitingRow {
            quarantine_id: row.try_get(0).map_err(LakeError::sql(WHAT))?,
            stream: StreamId { agent: agent.clone(), epoch, machine, category },
            layout: row.try_get(4).map_err(LakeError::sql(WHAT))?,
            item: row.try_get(5).map_err(LakeError::sql(WHAT))?,
        });
    }
    Ok(waiting)
}
