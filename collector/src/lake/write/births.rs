//! Births as they came, and what they say of machines and sensors.

use millrace_protocol::{Birth, BirthTag, Item, Reporting};
use serde_json::json;

use super::rows::number;
use crate::lake::LakeError;
use crate::lake::db::{Row as _, SqliteConnection, Statement};

/// A birth with its place.
#[derive(Debug, Clone)]
pub struct BirthRow<'a> {
    /// Which stream.
    pub stream_id: i64,
    /// Which machine.
    pub machine_id: i64,
    /// Which category.
    pub category: &'a str,
    /// Append time. *Units*: microseconds since 1970-01-01 UTC.
    pub append_ts: i64,
    /// What it says.
    pub birth: &'a Birth,
}

/// Keeps births as they came, the machine's attributes, and a new version of each sensor that changed.
///
/// # Errors
/// [`LakeError`]; roll the transaction back.
pub async fn births(
    conn: &mut SqliteConnection,
    rows: Vec<BirthRow<'_>>,
    flush_id: i64,
) -> Result<(), LakeError> {
    for row in rows {
        let item = Item::Birth(row.birth.clone()).encode().map_err(|e| LakeError::stored("a birth", e))?;
        let upsert = Statement::new(
            "INSERT INTO birth (stream_id, after_seq, append_ts, item, flush_id) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (stream_id, after_seq) DO UPDATE SET item = excluded.item, flush_id = excluded.flush_id",
        );
        let upsert = upsert.bind(row.stream_id).bind(number(row.birth.after)).bind(row.append_ts).bind(item);
        upsert.bind(flush_id).execute(conn).await.map_err(LakeError::sql("add rows to birth"))?;
        if !row.birth.attributes.is_empty() {
            let patch = Statement::new(
                "UPDATE machine SET attributes = json_patch(attributes, ?) WHERE machine_id = ?",
            )
            .bind(json!(row.birth.attributes).to_string())
            .bind(row.machine_id);
            patch.execute(conn).await.map_err(LakeError::sql("set a machine's attributes"))?;
        }
        for tag in &row.birth.tags {
            sensor(conn, &row, tag).await?;
        }
    }
    Ok(())
}

async fn sensor(conn: &mut SqliteConnection, row: &BirthRow<'_>, tag: &BirthTag) -> Result<(), LakeError> {
    let (reporting, interval_us) = match tag.reporting {
        Reporting::Cyclic { interval_us } => ("cyclic", Some(interval_us)),
        Reporting::ByException { max_interval_us } => ("by_exception", Some(max_interval_us)),
        Reporting::Spontaneous => ("spontaneous", None),
    };
    let own = |statement: Statement| {
        statement
            .bind(tag.value_type.map(|t| t.name()))
            .bind(tag.unit.as_deref().map(str::to_owned))
            .bind(tag.source.to_string())
            .bind(reporting)
            .bind(interval_us)
            .bind(tag.hold_us)
            .bind(tag.counter_modulus.map(|m| m.to_string()))
    };
    let key = |statement: Statement| {
        statement.bind(row.machine_id).bind(row.category.to_owned()).bind(tag.name.to_string())
    };
    let newest = Statement::new(
        "SELECT version, value_type IS ? AND unit IS ? AND source IS ? AND reporting IS ? AND interval_us IS ? AND \
         hold_us IS ? AND counter_modulus IS ? AS same FROM sensor WHERE machine_id = ? AND category = ? AND tag = ? \
         ORDER BY version DESC LIMIT 1",
    );
    let found = key(own(newest)).fetch_optional(conn).await.map_err(LakeError::sql("read a sensor"))?;
    let version = match found {
        None => 1,
        Some(found) => {
            let read = LakeError::sql("read a sensor");
            let (version, same): (i64, bool) =
                found.try_get(0).and_then(|version| Ok((version, found.try_get(1)?))).map_err(read)?;
            if same {
                return Ok(());
            }
            version + 1
        }
    };
    let insert = Statement::new(
        "INSERT INTO sensor (machine_id, category, tag, value_type, unit, source, reporting, interval_us, hold_us, \
         counter_modulus, version, stream_id, after_seq, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    );
    let insert = own(key(insert)).bind(version).bind(row.stream_id).bind(number(row.birth.after));
    insert.bind(row.birth.started_us).execute(conn).await.map_err(LakeError::sql("add rows to sensor"))?;
    Ok(())
}
