//! Rows that were read before their gateway's clock was synchronised, placed by a correction (D8).
//!
//! Such a row waits in `quarantine` with the boot whose monotonic clock it carries. A correction of that boot, of the
//! same agent and in the same shard, gives it its event time, and it goes into the lake as if it had come with the
//! correction: earlier the centre could not know it (F7). Invariant: the transaction that adds its row to `reading` takes
//! it out of `quarantine` and moves its sequence in the ledger.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_preprocess::InputRow;
use millrace_protocol::{
    AgentId, BootId, Chunk, ClockCorrection, ClockSegment, IntervalSet, Item, Layout, Row, StreamId,
};

use super::Memory;
use super::open::{NewRow, NewRows};
use crate::lake::LakeError;
use crate::lake::db::SqliteConnection;
use crate::lake::write;
use crate::lake::{read, row};

/// A correction and when it came.
#[derive(Debug, Clone, Copy)]
struct Correction {
    from_monotonic_us: i64,
    offset_us: i64,
    append_us: i64,
}

/// The corrections of every agent's boots.
#[derive(Debug, Default)]
pub(super) struct Corrections(HashMap<(AgentId, BootId), Vec<Correction>>);

impl Corrections {
    pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Self, LakeError> {
        let mut corrections = Self::default();
        for (agent, clock, append_us) in read::clock_corrections(conn).await? {
            corrections.add(&agent, &clock, append_us);
        }
        Ok(corrections)
    }

    pub(super) fn add(&mut self, agent: &AgentId, clock: &ClockCorrection, append_us: i64) {
        let (from_monotonic_us, offset_us) = (clock.from_monotonic_us, clock.offset_us);
        let known = self.0.entry((agent.clone(), clock.boot_id)).or_default();
        known.push(Correction { from_monotonic_us, offset_us, append_us });
    }

    /// Gives the event time of a row by a clock that was not synchronised, and the append time of the correction
    /// that says it: the one that holds from the latest monotonic time on, of several the newest.
    pub(super) fn place(&self, agent: &AgentId, clock: &ClockSegment, time_us: i64) -> Option<(i64, i64)> {
        let unsynced = clock.unsynced?;
        let monotonic_us = time_us.checked_sub(unsynced.wall_minus_monotonic_us)?;
        let of_boot = self.0.get(&(agent.clone(), unsynced.boot_id))?;
        let holds = of_boot.iter().filter(|correction| correction.from_monotonic_us <= monotonic_us);
        let best = holds.max_by_key(|correction| (correction.from_monotonic_us, correction.append_us))?;
        Some((monotonic_us.checked_add(best.offset_us)?, best.append_us))
    }
}

impl Memory {
    /// Places the rows that wait for the corrections that came since the last flush. Inside the flush's transaction.
    pub(super) async fn release(&mut self, conn: &mut SqliteConnection) -> Result<(), LakeError> {
        let shards: Vec<i32> = self.open.shards.keys().copied().collect();
        for shard in shards {
            let Some(open) = self.open.shards.get_mut(&shard) else { continue };
            let agents = std::mem::take(&mut open.corrected);
            if agents.is_empty() {
                continue;
            }
            for (stream, row) in std::mem::take(&mut open.quarantine) {
                let waits = row.kind == "clock" && agents.contains(&stream.agent);
                let layout = row.layout.as_deref().unwrap_or_default();
                if !(waits && self.place(shard, &stream, layout, &row.item)) {
                    self.touch(shard, &stream).quarantine.push((stream, row));
                }
            }
            for agent in agents {
                for waiting in read::waiting_for_clock(conn, shard, &agent).await? {
                    let stream = self.intern(&waiting.stream);
                    if self.place(shard, &stream, &waiting.layout, &waiting.item) {
                        write::released(conn, waiting.quarantine_id).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts one quarantined row into the open batch, if a correction places it and its time can be believed.
    fn place(&mut self, shard: i32, stream: &Arc<StreamId>, layout: &[u8], item: &[u8]) -> bool {
        let Some((chunk, mut row)) = read_back(layout, item) else { return false };
        let placed = self.corrections.place(&stream.agent, &chunk.clock, row.time_us);
        let Some((time_us, append_us)) = placed else { return false };
        let limits = self.settings.limits;
        let ahead_us = i64::try_from(limits.ahead.as_micros()).unwrap_or(i64::MAX);
        if time_us < limits.earliest_us || time_us > append_us.saturating_add(ahead_us) {
            return false;
        }
        row.time_us = time_us;
        let seq = chunk.first_seq;
        let ledger = self.ledger.stream(stream);
        ledger.rejected.remove(seq..=seq);
        ledger.stored.union_with(&IntervalSet::from_iter([seq..=seq]));
        ledger.event_us = ledger.event_us.max(time_us);
        let points = row.points();
        let columns = row::encode(&row.layout, &row.cells);
        let new = NewRow { time_us, seq, flags: row.flags.0, columns };
        let layout = Arc::clone(&row.layout);
        let open = self.touch(shard, stream);
        open.rows += 1;
        open.points += points as u64;
        open.chunks.push(NewRows { stream: Arc::clone(stream), layout, append_us, rows: vec![new] });
        if self.settings.catalog.views_of(&stream.machine).next().is_some() {
            let (stream, flags) = (Arc::clone(stream), row.flags);
            let input =
                InputRow { stream, seq, time_us, append_us, flags, layout: row.layout, cells: row.cells };
            self.shard(shard).driver.rows(&[input]);
        }
        true
    }
}

/// Reads a row of `quarantine` back: a chunk of one row.
fn read_back(layout: &[u8], item: &[u8]) -> Option<(Chunk, Row)> {
    let layout = Arc::new(Layout::decode(layout).ok()?);
    let Ok(Item::Chunk(item)) = Item::decode(item) else { return None };
    let chunk = Chunk::unpack(&item, &layout).ok().filter(|chunk| chunk.len() == 1)?;
    let row = chunk.row(0)?;
    Some((chunk, row))
}
