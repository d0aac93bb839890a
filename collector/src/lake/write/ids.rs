//! The small numbers that stand for machines, streams and layouts in the lake's rows.
//!
//! Invariant: what is remembered here is committed, or the whole is thrown away with the flush that failed.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_protocol::{Layout, LayoutId, MachineName, StreamId};
use serde_json::json;

use crate::lake::LakeError;
use crate::lake::db::{Row as _, SqliteConnection, Statement};

/// Remembers the numbers; makes one for what was never seen (promise 11).
#[derive(Debug, Default)]
pub struct Ids {
    machines: HashMap<MachineName, i64>,
    streams: HashMap<Arc<StreamId>, i64>,
    layouts: HashMap<LayoutId, Vec<(Arc<Layout>, i64)>>,
}

impl Ids {
    /// Takes a number that was read from the lake.
    pub fn know_stream(&mut self, stream: &Arc<StreamId>, stream_id: i64, machine_id: i64) {
        self.streams.insert(Arc::clone(stream), stream_id);
        self.machines.insert(stream.machine.clone(), machine_id);
    }

    /// Gives a machine's number.
    ///
    /// # Errors
    /// [`LakeError::Sql`].
    pub async fn machine(
        &mut self,
        conn: &mut SqliteConnection,
        name: &MachineName,
        now_us: i64,
    ) -> Result<i64, LakeError> {
        if let Some(id) = self.machines.get(name) {
            return Ok(*id);
        }
        let insert = Statement::new(
            "INSERT INTO machine (name, first_seen) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET name = name \
             RETURNING machine_id",
        );
        let insert = insert.bind(name.as_str().to_owned()).bind(now_us);
        let id = one(conn, insert, "add a machine").await?;
        self.machines.insert(name.clone(), id);
        Ok(id)
    }

    /// Gives a stream's number.
    ///
    /// # Errors
    /// [`LakeError::Sql`].
    pub async fn stream(
        &mut self,
        conn: &mut SqliteConnection,
        stream: &Arc<StreamId>,
        shard: i32,
        now_us: i64,
    ) -> Result<i64, LakeError> {
        if let Some(id) = self.streams.get(stream) {
            return Ok(*id);
        }
        let machine_id = self.machine(conn, &stream.machine, now_us).await?;
        let insert = Statement::new(
            "INSERT INTO stream (agent, epoch, machine_id, category, shard) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (agent, epoch, machine_id, category) DO UPDATE SET agent = agent RETURNING stream_id",
        );
        let insert = insert
            .bind(stream.agent.as_str().to_owned())
            .bind(stream.epoch.to_string())
            .bind(machine_id)
            .bind(stream.category.as_str().to_owned())
            .bind(shard);
        let id = one(conn, insert, "add a stream").await?;
        self.streams.insert(Arc::clone(stream), id);
        Ok(id)
    }

    /// Gives a layout's number. Layouts are told apart by their columns; their 64-bit id is only where to look.
    ///
    /// # Errors
    /// [`LakeError::Sql`].
    pub async fn layout(
        &mut self,
        conn: &mut SqliteConnection,
        layout: &Arc<Layout>,
    ) -> Result<i64, LakeError> {
        let known = self.layouts.entry(layout.id()).or_default();
        if let Some((_, id)) = known.iter().find(|(known, _)| Arc::ptr_eq(known, layout) || known == layout) {
            return Ok(*id);
        }
        let tags: Vec<_> = layout.columns().iter().map(|c| json!([&*c.tag, c.value_type.name()])).collect();
        let tags = serde_json::Value::Array(tags).to_string();
        let insert = Statement::new(
            "INSERT INTO layout (tags) VALUES (?) ON CONFLICT (tags) DO UPDATE SET tags = tags RETURNING layout_id",
        );
        let id = one(conn, insert.bind(tags), "add a layout").await?;
        known.push((Arc::clone(layout), id));
        Ok(id)
    }
}

/// Runs an insert that gives back a number: the new row's, or that of the row that was there.
async fn one(conn: &mut SqliteConnection, insert: Statement, what: &'static str) -> Result<i64, LakeError> {
    let row = insert.fetch_optional(conn).await.map_err(LakeError::sql(what))?;
    let row = row.ok_or_else(|| LakeError::stored(what, "it is not there although it was just added"))?;
    row.try_get(0).map_err(LakeError::sql(what))
}
