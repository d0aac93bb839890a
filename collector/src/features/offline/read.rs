//! Rows of the offline store, read back with their bits.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_preprocess::{FeatureRow, FeatureType, FeatureValue, ViewSchema};

use super::{DAY_US, OfflineError, WrittenRow};
use crate::features::sql::{
    self, AssertSqlSafe, Executor, Row, SqliteArguments, SqliteConnection, SqliteRow, literal, query_with,
    quoted,
};
use crate::features::view::offline_table;

/// Reads the newest revision of every row of an entity with an event time in `(after_us, to_us]`, by event time.
///
/// # Errors
/// [`OfflineError::Sql`] if the database refuses.
pub async fn newest_between(
    conn: &mut SqliteConnection,
    schema: &Arc<ViewSchema>,
    entity: &str,
    after_us: i64,
    to_us: i64,
) -> Result<Vec<WrittenRow>, OfflineError> {
    let table = quoted(&offline_table(schema));
    let (key, entity) = (quoted(&schema.entity), literal(entity));
    let condition = format!(
        "WHERE t.{key} = {entity} AND t.event_timestamp > {after_us} AND t.event_timestamp <= {to_us} \
         AND NOT EXISTS (SELECT 1 FROM {table} AS n WHERE n.{key} = t.{key} \
         AND n.event_timestamp = t.event_timestamp AND n.created > t.created) ORDER BY t.event_timestamp"
    );
    select(conn, schema, &format!("{table} AS t"), &condition).await
}

/// Reads the newest row of every entity: what the online store must hold.
///
/// It jumps from entity to entity along the primary key, so that its cost grows with the entities, not the rows.
///
/// # Errors
/// [`OfflineError::Sql`] if the database refuses.
pub async fn newest_per_entity(
    conn: &mut SqliteConnection,
    schema: &Arc<ViewSchema>,
) -> Result<Vec<WrittenRow>, OfflineError> {
    let table = quoted(&offline_table(schema));
    let entity = quoted(&schema.entity);
    let from = format!(
        "(WITH RECURSIVE e(name) AS (SELECT min({entity}) FROM {table} UNION ALL SELECT (SELECT min({entity}) \
         FROM {table} WHERE {entity} > e.name) FROM e WHERE e.name IS NOT NULL) \
         SELECT name FROM e WHERE name IS NOT NULL) AS e CROSS JOIN {table} AS t ON t.{entity} = e.name"
    );
    let condition = format!(
        "WHERE t.event_timestamp = (SELECT max(event_timestamp) FROM {table} WHERE {entity} = e.name) \
         AND t.created = (SELECT max(created) FROM {table} AS n WHERE n.{entity} = e.name \
         AND n.event_timestamp = t.event_timestamp)"
    );
    select(conn, schema, &from, &condition).await
}

/// Reads all revisions of the windows that end on a day, ordered by event time, entity and revision.
///
/// *Units*: days since 1970-01-01 UTC.
///
/// # Errors
/// [`OfflineError::Sql`] if the database refuses.
pub async fn rows_of_day(
    conn: &mut SqliteConnection,
    schema: &Arc<ViewSchema>,
    day: i64,
) -> Result<Vec<WrittenRow>, OfflineError> {
    let entity = quoted(&schema.entity);
    let (from_us, to_us) = (day.saturating_mul(DAY_US), day.saturating_add(1).saturating_mul(DAY_US));
    let condition = format!(
        "WHERE t.event_timestamp >= {from_us} AND t.event_timestamp < {to_us} \
         ORDER BY t.event_timestamp, t.{entity}, t.created"
    );
    select(conn, schema, &format!("{} AS t", quoted(&offline_table(schema))), &condition).await
}

async fn select(
    conn: &mut SqliteConnection,
    schema: &Arc<ViewSchema>,
    from: &str,
    condition: &str,
) -> Result<Vec<WrittenRow>, OfflineError> {
    let statement = format!("SELECT {} FROM {from} {condition}", columns(schema));
    let rows = conn.fetch_all(AssertSqlSafe(statement)).await;
    let rows = rows.map_err(OfflineError::sql("read", &offline_table(schema)))?;
    rows.iter().map(|row| decode(row, schema)).collect()
}

/// Reads all revisions of some windows, each window's in the order of `created`.
pub(super) async fn revisions(
    conn: &mut SqliteConnection,
    schema: &Arc<ViewSchema>,
    windows: &[(Arc<str>, i64)],
) -> Result<Vec<WrittenRow>, OfflineError> {
    let table = offline_table(schema);
    let marks = vec!["(?, ?)"; windows.len()].join(", ");
    let statement = format!(
        "SELECT {} FROM (VALUES {marks}) AS w CROSS JOIN {} AS t ON t.{} = w.column1 \
         AND t.event_timestamp = w.column2 ORDER BY t.created",
        columns(schema),
        quoted(&table),
        quoted(&schema.entity)
    );
    let mut arguments = SqliteArguments::default();
    for (entity, event_us) in windows {
        sql::bind(&mut arguments, entity.clone());
        sql::bind(&mut arguments, *event_us);
    }
    let rows = query_with(AssertSqlSafe(statement), arguments).fetch_all(conn).await;
    let rows = rows.map_err(OfflineError::sql("read the revisions of", &table))?;
    rows.iter().map(|row| decode(row, schema)).collect()
}

/// The columns in the order in which [`decode`] reads them.
fn columns(schema: &ViewSchema) -> String {
    let features: String = schema.features.iter().map(|f| format!(", t.{}", quoted(&f.name))).collect();
    format!(
        "t.{}, t.event_timestamp, t.created, t.computed_at, t.revision, t.coverage, t.flush_id, t.bits{features}",
        quoted(&schema.entity)
    )
}

fn decode(row: &SqliteRow, schema: &Arc<ViewSchema>) -> Result<WrittenRow, OfflineError> {
    let table = || offline_table(schema);
    let stored = |what| OfflineError::Stored { table: table(), what };
    decode_columns(row, schema)
        .map_err(|source| OfflineError::Sql { what: "read a row of", table: table(), source })?
        .ok_or_else(|| stored("bits that are not the hexadecimal digits of a double"))
}

fn decode_columns(row: &SqliteRow, schema: &Arc<ViewSchema>) -> Result<Option<WrittenRow>, sql::Error> {
    let entity: String = row.try_get(0)?;
    let bits: Option<String> = row.try_get(7)?;
    let Some(bits) = decode_bits(bits.as_deref()) else { return Ok(None) };
    let mut values = Vec::with_capacity(schema.features.len());
    for (at, feature) in schema.features.iter().enumerate() {
        let column = at + 8;
        values.push(match (feature.feature_type, bits.get(&*feature.name)) {
            (FeatureType::F64, Some(number)) => Some(FeatureValue::F64(*number)),
            (FeatureType::F64, None) => row.try_get::<Option<f64>, _>(column)?.map(FeatureValue::F64),
            (FeatureType::I64, _) => row.try_get::<Option<i64>, _>(column)?.map(FeatureValue::I64),
            (FeatureType::Bool, _) => row.try_get::<Option<bool>, _>(column)?.map(FeatureValue::Bool),
            (FeatureType::Text, _) => {
                row.try_get::<Option<String>, _>(column)?.map(|text| FeatureValue::Text(text.into()))
            }
        });
    }
    Ok(Some(WrittenRow {
        row: FeatureRow {
            view: schema.clone(),
            entity: entity.into(),
            event_us: row.try_get(1)?,
            created_us: row.try_get(2)?,
            coverage: row.try_get(5)?,
            values,
        },
        revision: row.try_get(4)?,
        computed_at_us: row.try_get(3)?,
        flush_id: row.try_get(6)?,
    }))
}

/// Writes down the doubles that SQLite cannot keep: it makes NULL of a NaN and may drop the sign of −0.0.
pub(super) fn encode_bits(row: &FeatureRow) -> Option<String> {
    let odd: BTreeMap<&str, String> = row
        .view
        .features
        .iter()
        .zip(&row.values)
        .filter_map(|(feature, value)| match value {
            Some(FeatureValue::F64(number))
                if number.is_nan() || number.to_bits() == (-0.0_f64).to_bits() =>
            {
                Some((&*feature.name, format!("{:016x}", number.to_bits())))
            }
            _ => None,
        })
        .collect();
    (!odd.is_empty()).then(|| serde_json::json!(odd).to_string())
}

fn decode_bits(bits: Option<&str>) -> Option<BTreeMap<String, f64>> {
    let Some(text) = bits else { return Some(BTreeMap::new()) };
    let odd: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    odd.into_iter()
        .map(|(name, hex)| Some((name, f64::from_bits(u64::from_str_radix(&hex, 16).ok()?))))
        .collect()
}
