//! Reads the lake as any SQLite client would, apart from the collector's own code.
//!
//! The only module of the plant that names sqlx.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row, TypeInfo, ValueRef};

use crate::truth::compare::{LakePoint, LakeValue};

/// An open lake.
#[derive(Debug)]
pub struct Lake {
    connection: SqliteConnection,
}

impl Lake {
    /// Opens the file of a lake.
    ///
    /// *Errors*: it is not there or not a database.
    pub async fn open(path: &Path) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(false);
        let connection = SqliteConnection::connect_with(&options)
            .await
            .with_context(|| format!("opening the lake {}", path.display()))?;
        Ok(Self { connection })
    }

    /// Counts the rows.
    ///
    /// *Errors*: the table is not there.
    pub async fn rows(&mut self) -> anyhow::Result<i64> {
        let row = sqlx::query("SELECT count(*) FROM reading").fetch_one(&mut self.connection).await?;
        Ok(row.try_get(0)?)
    }

    /// Counts the points of each quality, by the quality's code.
    ///
    /// *Errors*: the view `point` is not there.
    pub async fn qualities(&mut self) -> anyhow::Result<BTreeMap<u8, i64>> {
        let rows = sqlx::query("SELECT quality, count(*) FROM point GROUP BY quality")
            .fetch_all(&mut self.connection)
            .await
            .context("counting qualities")?;
        rows.iter().map(|row| Ok((u8::try_from(row.try_get::<i64, _>(0)?)?, row.try_get(1)?))).collect()
    }

    /// Gives rows and last sequence of every stream of `millrace-plant load`.
    ///
    /// *Errors*: a table is not there.
    pub async fn load_streams(&mut self) -> anyhow::Result<Vec<(i64, i64)>> {
        let rows = sqlx::query(
            "SELECT count(*), max(r.seq) FROM reading r JOIN machine m USING (machine_id) \
             WHERE m.name LIKE 'load/%' GROUP BY r.stream_id",
        )
        .fetch_all(&mut self.connection)
        .await
        .context("counting the load's rows")?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Gives every good point of a plant's machines; those of a load stand in no plant's log.
    ///
    /// *Errors*: the view `point` is not there or has a value of a type that no lake has.
    pub async fn good_points(&mut self) -> anyhow::Result<Vec<LakePoint>> {
        let rows = sqlx::query(
            "SELECT machine, tag, ts, value, text FROM point WHERE quality = 0 AND machine NOT LIKE 'load/%'",
        )
        .fetch_all(&mut self.connection)
        .await
        .context("reading the view point")?;
        rows.iter()
            .map(|row| {
                let number = row.try_get_raw("value")?;
                let value = if number.is_null() {
                    let text: String = row.try_get("text")?;
                    text.parse::<i128>().map_or(LakeValue::Text(text), LakeValue::Integer)
                } else if number.type_info().name() == "INTEGER" {
                    LakeValue::Integer(i128::from(row.try_get::<i64, _>("value")?))
                } else {
                    LakeValue::Number(row.try_get("value")?)
                };
                Ok(LakePoint {
                    machine: row.try_get("machine")?,
                    tag: row.try_get("tag")?,
                    time_us: row.try_get("ts")?,
                    value,
                })
            })
            .collect()
    }

    /// Carries out a statement, to spoil what a check must find.
    ///
    /// *Errors*: the lake refuses it.
    pub async fn spoil(&mut self, statement: &'static str) -> anyhow::Result<()> {
        sqlx::query(statement).execute(&mut self.connection).await.context("spoiling the lake")?;
        Ok(())
    }

    /// Deletes one row out of the middle and gives its machine, stream and sequence.
    ///
    /// *Errors*: there is no row, or the lake is locked.
    pub async fn delete_one_row(&mut self) -> anyhow::Result<String> {
        let row = sqlx::query(
            "SELECT r.rowid AS id, m.name AS machine, r.stream_id AS stream, r.seq AS seq FROM reading r \
             JOIN machine m USING (machine_id) ORDER BY r.rowid LIMIT 1 OFFSET (SELECT count(*) / 2 FROM reading)",
        )
        .fetch_one(&mut self.connection)
        .await
        .context("choosing a row")?;
        sqlx::query("DELETE FROM reading WHERE rowid = ?")
            .bind(row.try_get::<i64, _>("id")?)
            .execute(&mut self.connection)
            .await
            .context("deleting a row")?;
        let (machine, stream, seq): (String, i64, i64) =
            (row.try_get("machine")?, row.try_get("stream")?, row.try_get("seq")?);
        Ok(format!("machine {machine}, stream {stream}, sequence {seq}"))
    }
}
