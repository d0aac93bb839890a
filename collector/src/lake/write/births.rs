//! Births as they came, and what they say of machines and sensors.

use std::collections::BTreeMap;

use millrace_protocol::{Birth, BirthTag, Item, Reporting};
use serde_json::json;

use super::rows::number;
use crate::lake::LakeError;
use crate::lake::db::{SqliteConnection, Statement};

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
        sensors(conn, &row).await?;
    }
    Ok(())
}

/// Adds a new version of each sensor that a birth describes otherwise than the newest one does. One statement for all:
/// a start of a thousand machines is a thousand births.
async fn sensors(conn: &mut SqliteConnection, row: &BirthRow<'_>) -> Result<(), LakeError> {
    // Of a name that a birth has twice, the last counts.
    let tags: BTreeMap<&str, serde_json::Value> =
        row.birth.tags.iter().map(|tag| (&*tag.name, described(tag))).collect();
    if tags.is_empty() {
        return Ok(());
    }
    let insert = Statement::new(
        "WITH new AS (SELECT key AS tag, value ->> 0 AS value_type, value ->> 1 AS unit, value ->> 2 AS source, \
         value ->> 3 AS reporting, value ->> 4 AS interval_us, value ->> 5 AS hold_us, value ->> 6 AS counter_modulus \
         FROM json_each(?)) \
         INSERT INTO sensor (machine_id, category, tag, value_type, unit, source, reporting, interval_us, hold_us, \
         counter_modulus, version, stream_id, after_seq, since) \
         SELECT birth.machine_id, birth.category, new.tag, new.value_type, new.unit, new.source, new.reporting, \
         new.interval_us, new.hold_us, new.counter_modulus, coalesce(old.version, 0) + 1, ?, ?, ? \
         FROM (SELECT ? AS machine_id, ? AS category) AS birth CROSS JOIN new LEFT JOIN sensor AS old \
         ON old.machine_id = birth.machine_id AND old.category = birth.category AND old.tag = new.tag AND old.version = \
         (SELECT max(version) FROM sensor WHERE machine_id = birth.machine_id AND category = birth.category \
         AND tag = new.tag) \
         WHERE old.version IS NULL OR NOT (old.value_type IS new.value_type AND old.unit IS new.unit \
         AND old.source IS new.source AND old.reporting IS new.reporting AND old.interval_us IS new.interval_us \
         AND old.hold_us IS new.hold_us AND old.counter_modulus IS new.counter_modulus)",
    );
    let insert = insert.bind(json!(tags).to_string()).bind(row.stream_id).bind(number(row.birth.after));
    let insert = insert.bind(row.birth.started_us).bind(row.machine_id).bind(row.category.to_owned());
    insert.execute(conn).await.map_err(LakeError::sql("add rows to sensor"))?;
    Ok(())
}

/// Gives what stands of a tag in `sensor`, in the order of [`sensors`].
fn described(tag: &BirthTag) -> serde_json::Value {
    let (reporting, interval_us) = match tag.reporting {
        Reporting::Cyclic { interval_us } => ("cyclic", Some(interval_us)),
        Reporting::ByException { max_interval_us } => ("by_exception", Some(max_interval_us)),
        Reporting::Spontaneous => ("spontaneous", None),
    };
    json!([
        tag.value_type.map(|t| t.name()),
        tag.unit.as_deref(),
        &*tag.source,
        reporting,
        interval_us,
        tag.hold_us,
        tag.counter_modulus.map(|m| m.to_string()),
    ])
}
