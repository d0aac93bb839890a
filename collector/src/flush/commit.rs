//! One transaction for all that is open (D12).

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_preprocess::{Control, FeatureRow};
use millrace_protocol::StreamId;

use super::open::{Open, OpenShard};
use super::senders::Duplicates;
use super::{FlushError, Memory};
use crate::features::offline::{self, WrittenRow};
use crate::lake::LakeError;
use crate::lake::db::{Executor as _, SqliteConnection};
use crate::lake::read;
use crate::lake::write::{self, BirthRow, ControlRow, GapRow, Ids, Reading, ShardState, StreamState};
use crate::ledger::{Ledger, StreamLedger};

/// Operator state is saved at most this often for a machine that is known. *Units*: microseconds.
const SAVE_EVERY_US: i64 = 60_000_000;
/// `flush_id = shard << 40 | n` (D12).
const FLUSH_BITS: u32 = 40;

/// What a flush wrote.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Rows of the lake.
    pub rows: u64,
    /// Points of the lake.
    pub points: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Rows in quarantine.
    pub quarantined: u64,
    /// Agents that send from two processes.
    pub duplicates: Duplicates,
    /// Rows of features, to be pushed online.
    pub written: Vec<WrittenRow>,
    /// Rows of open cells of `latest` views, to be pushed online (F8).
    pub latest: Vec<FeatureRow>,
}

/// What a shard's graphs want written, taken from them before the transaction begins.
struct Due {
    shard: i32,
    state: ShardState,
    open: OpenShard,
    closed: Vec<FeatureRow>,
    controls: Vec<(Arc<StreamId>, i64)>,
    late: Vec<(String, u32, String, i64)>,
    saved: Vec<(String, Vec<u8>)>,
}

/// Gives the number of a shard's n-th flush.
pub(crate) fn flush_id(shard: i32, n: i64) -> i64 {
    (i64::from(shard) << FLUSH_BITS) | n
}

impl Memory {
    /// Writes everything that is open and every window that can be closed, in one transaction.
    ///
    /// The connection must be inside `BEGIN IMMEDIATE`; this commits it. Afterwards push what was written online.
    ///
    /// # Errors
    /// [`FlushError`]; the outcome may be unknown: roll back, throw this memory away and load it again.
    pub async fn flush(&mut self, conn: &mut SqliteConnection, now_us: i64) -> Result<Flushed, FlushError> {
        let mut flushed = Flushed::default();
        self.release(conn).await?;
        self.read_again(conn).await?;
        let due = self.due(now_us);
        for due in due {
            self.write_shard(conn, due, now_us, &mut flushed).await?;
        }
        conn.execute("COMMIT").await.map_err(LakeError::sql("commit"))?;
        flushed.duplicates = self.senders.take();
        for shard in self.shards.values_mut() {
            if shard.state.flushes > 0 {
                shard.state.fence = shard.state.fence.max(1);
            }
            flushed.latest.extend(shard.driver.open());
        }
        Ok(flushed)
    }

    /// Asks for repairs around stored rows whose stream's birth came after them (topics keep no order between them).
    async fn read_again(&mut self, conn: &mut SqliteConnection) -> Result<(), LakeError> {
        for (number, open) in &mut self.open.shards {
            let Some(shard) = self.shards.get_mut(number) else { continue };
            for (stream, after) in std::mem::take(&mut open.misread) {
                for hour_us in read::hours_of(conn, &stream, after).await? {
                    shard.driver.misread(&stream.machine, hour_us, hour_us.saturating_add(read::HOUR_US));
                }
            }
        }
        Ok(())
    }

    /// Takes from every shard what is to be written; shards without anything are left out.
    fn due(&mut self, now_us: i64) -> Vec<Due> {
        let open = std::mem::take(&mut self.open);
        let Open { shards: mut opened, .. } = open;
        let stall_us = self.settings.stall_after_us();
        let mut all = Vec::new();
        for (&number, shard) in &mut self.shards {
            let mut open = opened.remove(&number).unwrap_or_default();
            give_up_holes(shard, &mut self.ledger, &mut open, stall_us);
            for (topic, &clock_us) in &shard.clocks {
                shard.driver.clock(topic, clock_us);
            }
            let closed = shard.driver.close();
            let late = shard.driver.late();
            let controls = shard.driver.controls();
            let fresh = open.touched.iter().any(|stream| !shard.saved.contains(&stream.machine));
            let mut saved = Vec::new();
            if fresh || now_us.saturating_sub(shard.saved_at_us) >= SAVE_EVERY_US {
                shard.saved_at_us = now_us;
                for (machine, body) in shard.driver.save() {
                    saved.push((machine.as_str().to_owned(), body));
                    shard.saved.insert(machine);
                }
            }
            let idle = open.offsets.is_empty() && open.touched.is_empty() && !open.trouble;
            if idle && closed.is_empty() && late.is_empty() && controls.is_empty() && saved.is_empty() {
                continue;
            }
            for (topic, offset) in std::mem::take(&mut open.offsets) {
                shard.state.offsets.insert(topic, offset);
            }
            shard.state.last.append(&mut open.last);
            let late = late
                .into_iter()
                .map(|asked| {
                    let view = &asked.view.schema;
                    (view.name.to_string(), view.version, asked.machine.as_str().to_owned(), asked.hour_us)
                })
                .collect();
            let controls =
                controls.into_iter().map(|Control::GiveUp { stream, at_us }| (stream, at_us)).collect();
            let state = shard.state.clone();
            all.push(Due { shard: number, state, open, closed, controls, late, saved });
        }
        all
    }

    async fn write_shard(
        &mut self,
        conn: &mut SqliteConnection,
        due: Due,
        now_us: i64,
        flushed: &mut Flushed,
    ) -> Result<(), FlushError> {
        let Due { shard, state, open, closed, controls, late, saved } = due;
        let flushes = write::shard(conn, shard, &state, now_us).await?;
        self.shard(shard).state.flushes = flushes;
        let flush_id = flush_id(shard, flushes);
        let mut books = Books { conn, ids: &mut self.ids, shard, flush_id, now_us };
        let checksums = books.checksums(&open).await?;
        let (rows, points) = (open.rows, open.points);
        flushed.dead_letters += open.dead_letters.len() as u64;
        flushed.quarantined += open.quarantine.len() as u64;
        books.open(open, controls, &self.ledger).await?;
        write::flush_row(conn, flush_id, now_us, rows, points, &checksums).await?;
        flushed.written.extend(offline::write(conn, &closed, flush_id, now_us).await?);
        write::repairs(conn, late, now_us).await?;
        write::operator_states(conn, shard, flush_id, saved).await?;
        flushed.rows += rows;
        flushed.points += points;
        Ok(())
    }
}

/// Gives up undeclared holes that nobody filled for `stall_after` (D11): a row in `gap` each.
fn give_up_holes(shard: &mut super::Shard, ledger: &mut Ledger, open: &mut OpenShard, stall_us: i64) {
    let mut given_up = Vec::new();
    for (stream, (topic, since_us)) in &shard.holes {
        let clock_us = shard.clocks.get(topic).copied().unwrap_or(i64::MIN);
        if clock_us.saturating_sub(*since_us) >= stall_us {
            given_up.push(Arc::clone(stream));
        }
    }
    for stream in given_up {
        shard.holes.remove(&stream);
        let known = ledger.stream(&stream);
        let last = known.settled().last().unwrap_or(0);
        for hole in known.give_up(last).ranges() {
            tracing::error!(stream = %stream, "sequences {} to {} never came and nobody declared them lost",
                hole.start(), hole.end());
            let gap = GapRow {
                stream_id: 0,
                kind: "undeclared",
                from_ts: None,
                to_ts: None,
                from_seq: Some(*hole.start()),
                to_seq: Some(*hole.end()),
            };
            open.gaps.push((Arc::clone(&stream), gap));
        }
        shard.driver.contiguous(&stream, known.contiguous());
        open.touched.insert(stream);
    }
}

/// Writes one shard's part.
struct Books<'a> {
    conn: &'a mut SqliteConnection,
    ids: &'a mut Ids,
    shard: i32,
    flush_id: i64,
    now_us: i64,
}

impl Books<'_> {
    async fn stream(&mut self, stream: &Arc<StreamId>) -> Result<i64, LakeError> {
        self.ids.stream(self.conn, stream, self.shard, self.now_us).await
    }

    async fn checksums(&mut self, open: &OpenShard) -> Result<Vec<(i64, u64, u32, u32)>, LakeError> {
        let mut checksums = Vec::with_capacity(open.checksums.len());
        for (stream, first_seq, rows, crc) in &open.checksums {
            checksums.push((self.stream(stream).await?, *first_seq, *rows, *crc));
        }
        Ok(checksums)
    }

    async fn open(
        &mut self,
        open: OpenShard,
        given_up: Vec<(Arc<StreamId>, i64)>,
        ledger: &Ledger,
    ) -> Result<(), LakeError> {
        self.readings(open.chunks).await?;
        for (stream, append_ts, birth) in &open.births {
            let stream_id = self.stream(stream).await?;
            let machine_id = self.ids.machine(self.conn, &stream.machine, self.now_us).await?;
            let category = stream.category.as_str();
            let row = BirthRow { stream_id, machine_id, category, append_ts: *append_ts, birth };
            write::births(self.conn, vec![row], self.flush_id).await?;
        }
        let mut letters = Vec::with_capacity(open.dead_letters.len());
        for (stream, mut letter) in open.dead_letters {
            if let Some(stream) = stream {
                letter.stream_id = Some(self.stream(&stream).await?);
            }
            letters.push(letter);
        }
        write::dead_letters(self.conn, letters, self.flush_id).await?;
        let mut quarantine = Vec::with_capacity(open.quarantine.len());
        for (stream, mut row) in open.quarantine {
            row.stream_id = self.stream(&stream).await?;
            quarantine.push(row);
        }
        write::quarantine(self.conn, quarantine, self.flush_id).await?;
        let mut losses = Vec::with_capacity(open.losses.len());
        for (stream, mut row) in open.losses {
            row.stream_id = self.stream(&stream).await?;
            losses.push(row);
        }
        write::losses(self.conn, losses, self.flush_id).await?;
        let mut gaps = Vec::with_capacity(open.gaps.len());
        for (stream, mut row) in open.gaps {
            row.stream_id = self.stream(&stream).await?;
            gaps.push(row);
        }
        write::gaps(self.conn, gaps, self.flush_id).await?;
        let mut controls = Vec::with_capacity(open.controls.len() + given_up.len());
        for (stream, mut row) in open.controls {
            row.stream_id = self.stream(&stream).await?;
            controls.push(row);
        }
        for (stream, at) in given_up {
            let stream_id = self.stream(&stream).await?;
            controls.push(ControlRow { stream_id, kind: "give_up", at, detail: "{}".to_owned() });
        }
        write::controls(self.conn, controls, self.shard, self.flush_id).await?;
        let mut audits = Vec::with_capacity(open.audits.len());
        for (stream, mut row) in open.audits {
            row.stream_id = self.stream(&stream).await?;
            audits.push(row);
        }
        write::audits(self.conn, audits).await?;
        let known: BTreeMap<&StreamId, &StreamLedger> =
            ledger.iter().filter(|(stream, _)| open.touched.contains(*stream)).collect();
        let mut states = Vec::with_capacity(known.len());
        for stream in &open.touched {
            let stream_id = self.stream(stream).await?;
            if let Some(ledger) = known.get(&**stream) {
                states.push((stream_id, state(ledger)));
            }
        }
        write::streams(self.conn, states).await
    }

    async fn readings(&mut self, chunks: Vec<super::open::NewRows>) -> Result<(), LakeError> {
        let mut readings = Vec::with_capacity(chunks.iter().map(|chunk| chunk.rows.len()).sum());
        for chunk in chunks {
            let stream_id = self.stream(&chunk.stream).await?;
            let machine_id = self.ids.machine(self.conn, &chunk.stream.machine, self.now_us).await?;
            let layout_id = self.ids.layout(self.conn, &chunk.layout).await?;
            let (flush_id, append_ts) = (self.flush_id, chunk.append_us);
            readings.extend(chunk.rows.into_iter().map(|row| Reading {
                ts: row.time_us,
                machine_id,
                stream_id,
                seq: row.seq,
                flush_id,
                append_ts,
                flags: row.flags,
                layout_id,
                columns: row.columns,
            }));
        }
        write::readings(self.conn, readings).await
    }
}

/// The ledger as the lake keeps it.
fn state(ledger: &StreamLedger) -> StreamState {
    let heard = |us: i64| (us > 0).then_some(us);
    StreamState {
        sender: ledger.sender.map(|epoch| epoch.to_string()).unwrap_or_default(),
        numbered: ledger.numbered,
        acknowledged: ledger.acknowledged,
        complete_until: heard(ledger.complete_until_us),
        event_ts: heard(ledger.event_us),
        append_ts: heard(ledger.append_us),
        waiting: ledger.waiting_epochs.iter().map(ToString::to_string).collect(),
        stored: ledger.stored.clone(),
        rejected: ledger.rejected.clone(),
        lost: ledger.lost.clone(),
        given_up: ledger.given_up.clone(),
        repeated: ledger.repeated,
        conflicts: ledger.conflicts,
    }
}
