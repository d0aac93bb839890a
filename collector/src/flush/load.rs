//! Takes the shards: what the last flush left in the lake becomes a worker's memory (D10, D12).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use millrace_preprocess::{Control, Mode};
use millrace_protocol::{MachineName, StreamId};

use super::batch::BatchRuns;
use super::clock::Corrections;
use super::open::Open;
use super::senders::Senders;
use super::{FlushError, Memory, Settings, Shard};
use crate::features::offline;
use crate::lake::LakeError;
use crate::lake::db::SqliteConnection;
use crate::lake::read::{self, LoadedStream};
use crate::lake::write::{Ids, StreamState};
use crate::ledger::{Ledger, StreamLedger};

/// Flushes whose chunks' checksums are remembered, to recognise a conflict after a restart.
const CHECKSUM_FLUSHES: u32 = 2_000;

impl Memory {
    /// Raises the fence of every shard and loads what is known of it.
    ///
    /// # Errors
    /// [`FlushError`]; only fences may be changed then.
    pub async fn load(conn: &mut SqliteConnection, settings: Settings) -> Result<Self, FlushError> {
        let states = read::take_shards(conn).await?;
        let loaded = read::streams(conn).await?;
        let mut shards: BTreeMap<i32, Shard> =
            states.into_iter().map(|(number, state)| (number, Shard::new(&settings, state))).collect();
        let mut memory = Self {
            settings,
            ledger: Ledger::default(),
            ids: Ids::default(),
            shards: BTreeMap::new(),
            streams: HashMap::new(),
            sound: HashSet::new(),
            open: Open::default(),
            batch: BatchRuns::load(conn).await?,
            senders: Senders::default(),
            corrections: Corrections::load(conn).await?,
        };
        let mut ledgers: HashMap<i64, StreamLedger> =
            loaded.iter().map(|s| (s.stream_id, ledger(&s.state))).collect();
        for (stream_id, first_seq, rows, crc) in read::recent_chunks(conn, CHECKSUM_FLUSHES).await? {
            if let Some(ledger) = ledgers.get_mut(&stream_id) {
                ledger.remember(first_seq, rows, crc);
            }
        }
        let births = read::births(conn).await?;
        for (stream_id, birth) in &births {
            if let Some(ledger) = ledgers.get_mut(stream_id) {
                (ledger.previous, ledger.started_us) = (birth.previous, birth.started_us);
            }
        }
        memory.drivers(conn, &mut shards, &loaded, &births, &ledgers).await?;
        for stream in &loaded {
            memory.ids.know_stream(&stream.stream, stream.stream_id, stream.machine_id);
            memory.streams.insert((*stream.stream).clone(), Arc::clone(&stream.stream));
            if let Some(ledger) = ledgers.remove(&stream.stream_id) {
                memory.ledger.load((*stream.stream).clone(), ledger);
            }
        }
        memory.shards = shards;
        Ok(memory)
    }

    /// Restores the operator graphs: state, births, rows, controls, ledger, in this order.
    async fn drivers(
        &self,
        conn: &mut SqliteConnection,
        shards: &mut BTreeMap<i32, Shard>,
        loaded: &[LoadedStream],
        births: &[(i64, millrace_protocol::Birth)],
        ledgers: &HashMap<i64, StreamLedger>,
    ) -> Result<(), FlushError> {
        let by_number: HashMap<i64, &LoadedStream> = loaded.iter().map(|s| (s.stream_id, s)).collect();
        for (machine, number, body) in read::operator_states(conn).await? {
            let name = MachineName::new(&machine).map_err(|e| LakeError::stored("operator state", e))?;
            if let Some(shard) = shards.get_mut(&number) {
                shard.driver.restore(&name, &body);
                shard.saved.insert(name);
            }
        }
        self.stored(conn, shards, loaded).await?;
        for stream in loaded {
            // A stream that was heard since its machine's state was saved is waited for, also after a kill: its
            // last append time is saved with every flush.
            if let (Some(shard), Some(ledger)) =
                (shards.get_mut(&stream.shard), ledgers.get(&stream.stream_id))
                && let Some(topic) = topic_of(shard, &stream.stream)
            {
                shard.driver.heard(&stream.stream, &topic, ledger.append_us);
            }
        }
        for (stream_id, birth) in births {
            let Some(stream) = by_number.get(stream_id) else { continue };
            if let Some(shard) = shards.get_mut(&stream.shard) {
                shard.driver.birth(&stream.stream, birth);
            }
        }
        let streams: HashMap<i64, Arc<StreamId>> = read::by_number(loaded);
        let mut layouts = read::Layouts::default();
        let machines: BTreeSet<(i32, &MachineName)> =
            loaded.iter().map(|s| (s.shard, &s.stream.machine)).collect();
        for (number, machine) in machines {
            let Some(shard) = shards.get_mut(&number) else { continue };
            if self.settings.catalog.views_of(machine).next().is_none() {
                continue;
            }
            let from_us = shard.driver.rows_from_us(machine);
            let rows = read::machine_rows(conn, &mut layouts, &streams, machine, from_us, i64::MAX).await?;
            shard.driver.replay(&rows);
        }
        for (stream_id, at_us) in read::controls(conn).await? {
            let Some(stream) = by_number.get(&stream_id) else { continue };
            if let Some(shard) = shards.get_mut(&stream.shard) {
                shard.driver.control(&Control::GiveUp { stream: Arc::clone(&stream.stream), at_us });
            }
        }
        for stream in loaded {
            if let (Some(shard), Some(ledger)) =
                (shards.get_mut(&stream.shard), ledgers.get(&stream.stream_id))
            {
                let contiguous = ledger.contiguous();
                shard.driver.contiguous(&stream.stream, contiguous);
                // A hole of before the restart is given up in its time, too, though no record comes any more.
                if ledger.settled().last().is_some_and(|last| last > contiguous)
                    && let Some(topic) = topic_of(shard, &stream.stream)
                {
                    shard.holes.insert(Arc::clone(&stream.stream), (topic, ledger.append_us));
                }
            }
        }
        Ok(())
    }
}

impl Memory {
    /// Tells the operator graphs which windows the offline store holds: they were closed, also since the state was
    /// saved.
    async fn stored(
        &self,
        conn: &mut SqliteConnection,
        shards: &mut BTreeMap<i32, Shard>,
        loaded: &[LoadedStream],
    ) -> Result<(), FlushError> {
        let of_machine: HashMap<&str, (&MachineName, i32)> =
            loaded.iter().map(|s| (s.stream.machine.as_str(), (&s.stream.machine, s.shard))).collect();
        for view in self.settings.catalog.views().iter().filter(|view| view.mode == Mode::Stream) {
            for newest in offline::newest_per_entity(conn, &view.schema).await? {
                let Some((machine, shard)) = of_machine.get(&*newest.row.entity) else { continue };
                if let Some(shard) = shards.get_mut(shard) {
                    shard.driver.stored(machine, &view.schema, newest.row.event_us);
                }
            }
        }
        Ok(())
    }
}

/// The topic that a stream came by, as far as the shard's offsets tell: its category's own, or `telemetry` (D3).
fn topic_of(shard: &Shard, stream: &StreamId) -> Option<String> {
    let of = |category: &str| {
        shard.state.offsets.keys().find(|topic| topic.ends_with(&format!(".{category}"))).cloned()
    };
    of(stream.category.as_str()).or_else(|| of(millrace_protocol::DEFAULT_CATEGORY))
}

fn ledger(state: &StreamState) -> StreamLedger {
    StreamLedger {
        stored: state.stored.clone(),
        rejected: state.rejected.clone(),
        lost: state.lost.clone(),
        given_up: state.given_up.clone(),
        numbered: state.numbered,
        acknowledged: state.acknowledged,
        complete_until_us: state.complete_until.unwrap_or(0),
        append_us: state.append_ts.unwrap_or(0),
        event_us: state.event_ts.unwrap_or(0),
        waiting_epochs: state.waiting.iter().filter_map(|epoch| epoch.parse().ok()).collect(),
        sender: state.sender.parse().ok(),
        repeated: state.repeated,
        conflicts: state.conflicts,
        ..StreamLedger::default()
    }
}
