//! Takes a record into the open batch: what is new of it, by the ledger, and what cannot be read.
//!
//! Invariant: every sequence of a record ends in exactly one of stored, rejected, lost, or was there before.

use std::collections::HashSet;
use std::sync::Arc;

use millrace_preprocess::InputRow;
use millrace_protocol::chunk::CHUNK_MAX_ROWS;
use millrace_protocol::{
    AgentId, Birth, Category, Chunk, ChunkItem, ClockCorrection, DecodeError, Header, IntervalSet, Item,
    Layout, Loss, MachineName, RawRows, Record, Row, RowFlags, StreamId,
};
use serde_json::{Map, json};

use super::Memory;
use super::open::{NewRow, NewRows, OpenShard};
use crate::intake::Incoming;
use crate::lake::row;
use crate::lake::write::{ControlRow, DeadLetter, GapRow, LossRow, QuarantineRow, set_text};
use crate::ledger::Verdict;

/// A sequence that SQLite's integers cannot hold is nobody's.
const SEQ_MAX: u64 = i64::MAX as u64;

impl Memory {
    /// Takes a record; nothing is written before the next flush.
    pub fn absorb(&mut self, incoming: &Incoming) {
        let shard_number = incoming.partition;
        let shard = self.shard(shard_number);
        let clock = shard.clocks.entry(incoming.topic.to_string()).or_insert(incoming.append_us);
        *clock = (*clock).max(incoming.append_us);
        let open = self.open.shards.entry(shard_number).or_default();
        open.offsets.insert(incoming.topic.to_string(), incoming.offset + 1);
        open.last.insert(incoming.topic.to_string(), (incoming.offset, incoming.checksum()));
        match Record::decode(&incoming.value) {
            Ok(record) => self.record(incoming, record),
            Err(error) => self.undecodable(incoming, &error),
        }
    }

    pub(super) fn intern(&mut self, stream: &StreamId) -> Arc<StreamId> {
        if let Some(known) = self.streams.get(stream) {
            return Arc::clone(known);
        }
        let shared = Arc::new(stream.clone());
        self.streams.insert(stream.clone(), Arc::clone(&shared));
        shared
    }

    fn record(&mut self, incoming: &Incoming, record: Record) {
        let stream = self.intern(&record.header.stream);
        self.sent_by(incoming, &stream, record.header.sender);
        let append_us = incoming.append_us;
        let ledger = self.ledger.stream(&stream);
        ledger.numbered = ledger.numbered.max(record.header.numbered.min(SEQ_MAX));
        if append_us >= ledger.append_us {
            ledger.append_us = append_us;
            ledger.sender = Some(record.header.sender);
        }
        let shard = incoming.partition;
        self.touch(shard, &stream);
        self.shard(shard).driver.heard(&stream, &incoming.topic, append_us);
        for item in record.items {
            match item {
                Item::Chunk(chunk) => self.chunk(incoming, &stream, &record.header, &chunk),
                Item::Raw(raw) => self.raw(incoming, &stream, &raw),
                Item::Birth(birth) => self.birth(incoming, &stream, birth),
                Item::Loss(loss) => self.loss(incoming, &stream, &loss),
                Item::Clock(clock) => self.clock_correction(incoming, &stream, &clock),
                Item::Progress(progress) => {
                    self.ledger.stream(&stream).progress(&progress);
                    self.shard(shard).driver.progress(&stream, &progress, append_us);
                }
            }
        }
        self.settle(incoming, &stream);
    }

    /// Tells the driver how far the stream is complete, and notes an undeclared hole.
    fn settle(&mut self, incoming: &Incoming, stream: &Arc<StreamId>) {
        let ledger = self.ledger.stream(stream);
        let contiguous = ledger.contiguous();
        let hole = ledger.settled().last().is_some_and(|last| last > contiguous);
        let topic = &incoming.topic;
        let shard = self.shard(incoming.partition);
        shard.driver.contiguous(stream, contiguous);
        if !hole {
            shard.holes.remove(stream);
        } else if !shard.holes.contains_key(stream) {
            let now_us = shard.clocks.get(&**topic).copied().unwrap_or(incoming.append_us);
            shard.holes.insert(Arc::clone(stream), (topic.to_string(), now_us));
        }
    }

    pub(super) fn touch(&mut self, shard: i32, stream: &Arc<StreamId>) -> &mut OpenShard {
        let open = self.open.shards.entry(shard).or_default();
        if !open.touched.contains(stream) {
            open.touched.insert(Arc::clone(stream));
        }
        open
    }

    fn chunk(&mut self, incoming: &Incoming, stream: &Arc<StreamId>, header: &Header, item: &ChunkItem) {
        let believable = item.first_seq > 0 && item.rows > 0 && item.rows as usize <= CHUNK_MAX_ROWS;
        if !believable || item.last_seq() > SEQ_MAX || item.crc != item.checksum() {
            let reason = if item.crc == item.checksum() {
                format!("chunk at sequence {} of {} rows is beyond every bound", item.first_seq, item.rows)
            } else {
                DecodeError::Crc { first_seq: item.first_seq }.to_string()
            };
            return self.bad_chunk(incoming, stream, header, item, reason);
        }
        match self.ledger.stream(stream).meet(item.first_seq, item.rows, item.crc) {
            Verdict::Known => {}
            Verdict::Conflict => self.conflict(incoming, stream, header, item),
            Verdict::New(new) => {
                if let Some(tag) = header.layout(item.layout).and_then(|layout| self.doubled_tag(layout)) {
                    let reason = format!("chunk at sequence {} has the tag {tag:?} twice", item.first_seq);
                    return self.bad_chunk(incoming, stream, header, item, reason);
                }
                let chunk = header
                    .layout(item.layout)
                    .ok_or(DecodeError::MissingLayout { first_seq: item.first_seq, layout: item.layout })
                    .and_then(|layout| Chunk::unpack(item, layout));
                match chunk {
                    Ok(chunk) => {
                        let open = self.touch(incoming.partition, stream);
                        open.checksums.push((Arc::clone(stream), item.first_seq, item.rows, item.crc));
                        self.rows(incoming, stream, &chunk, &new);
                    }
                    Err(error) => self.bad_chunk(incoming, stream, header, item, error.to_string()),
                }
            }
        }
    }

    /// Finds a tag that a layout names twice: the lake's row is by tag, and no agent makes such a layout.
    fn doubled_tag(&mut self, layout: &Layout) -> Option<Arc<str>> {
        if self.sound.contains(&layout.id()) {
            return None;
        }
        let mut seen = HashSet::new();
        let doubled = layout.columns().iter().find(|column| !seen.insert(&column.tag));
        match doubled {
            Some(column) => Some(Arc::clone(&column.tag)),
            None => {
                self.sound.insert(layout.id());
                None
            }
        }
    }

    /// Takes the new rows of a chunk.
    fn rows(&mut self, incoming: &Incoming, stream: &Arc<StreamId>, chunk: &Chunk, new: &IntervalSet) {
        let wanted = self.settings.catalog.views_of(&stream.machine).next().is_some();
        let limits = self.settings.limits;
        let ahead_us = i64::try_from(limits.ahead.as_micros()).unwrap_or(i64::MAX);
        let latest_us = incoming.append_us.saturating_add(ahead_us);
        let count = usize::try_from(new.len()).unwrap_or(0);
        let mut rows = Vec::with_capacity(count);
        let mut inputs = Vec::with_capacity(if wanted { count } else { 0 });
        let (mut points, mut newest_us) = (0, i64::MIN);
        let mut stored = new.clone();
        for seq in new.ranges().flatten() {
            let at = usize::try_from(seq - chunk.first_seq);
            let Some(mut row) = at.ok().and_then(|at| chunk.row(at)) else { continue };
            let mut placed = !row.flags.contains(RowFlags::CLOCK_UNSYNCED);
            if !placed && let Some((us, _)) = self.corrections.place(&stream.agent, &chunk.clock, row.time_us)
            {
                (row.time_us, placed) = (us, true);
            }
            let doubt = if !placed {
                Some((
                    "clock",
                    "the gateway's clock was not synchronised; a clock correction releases it".to_owned(),
                ))
            } else if row.time_us < limits.earliest_us {
                Some(("time", format!("event time {} lies before [limits] earliest", row.time_us)))
            } else if row.time_us > latest_us {
                Some((
                    "time",
                    format!("event time {} lies more than [limits] ahead after its append time", row.time_us),
                ))
            } else {
                None
            };
            if let Some((kind, reason)) = doubt {
                stored.remove(seq..=seq);
                self.doubtful(incoming, stream, chunk, seq, &row, kind, reason);
                continue;
            }
            points += row.points();
            newest_us = newest_us.max(row.time_us);
            let columns = row::encode(&row.layout, &row.cells);
            rows.push(NewRow { time_us: row.time_us, seq, flags: row.flags.0, columns });
            if wanted {
                inputs.push(InputRow {
                    stream: Arc::clone(stream),
                    seq,
                    time_us: row.time_us,
                    append_us: incoming.append_us,
                    flags: row.flags,
                    layout: row.layout,
                    cells: row.cells,
                });
            }
        }
        let ledger = self.ledger.stream(stream);
        ledger.stored.union_with(&stored);
        ledger.event_us = ledger.event_us.max(newest_us);
        let open = self.touch(incoming.partition, stream);
        open.rows += rows.len() as u64;
        open.points += points as u64;
        let layout = Arc::clone(&chunk.layout);
        open.chunks.push(NewRows { stream: Arc::clone(stream), layout, append_us: incoming.append_us, rows });
        self.open.points += points;
        if wanted {
            self.shard(incoming.partition).driver.rows(&inputs);
        }
    }

    /// Puts a row aside that was read but is not believed.
    #[expect(clippy::too_many_arguments, reason = "a row, its place, and why")]
    fn doubtful(
        &mut self,
        incoming: &Incoming,
        stream: &Arc<StreamId>,
        chunk: &Chunk,
        seq: u64,
        row: &Row,
        kind: &'static str,
        reason: String,
    ) {
        let item =
            Chunk::pack(seq, chunk.clock, std::slice::from_ref(row)).and_then(|c| Item::Chunk(c).encode());
        let rejected = IntervalSet::from_iter([seq..=seq]);
        self.ledger.stream(stream).reject(seq, seq);
        let quarantined = QuarantineRow {
            kind,
            stream_id: 0,
            first_seq: seq,
            rows: 1,
            ts: Some(row.time_us),
            append_ts: incoming.append_us,
            rejected: set_text(&rejected),
            layout: Some(row.layout.encode()),
            item: item.unwrap_or_default(),
            reason,
        };
        self.touch(incoming.partition, stream).quarantine.push((Arc::clone(stream), quarantined));
    }

    /// Keeps a chunk that came again with another content (D11).
    fn conflict(&mut self, incoming: &Incoming, stream: &Arc<StreamId>, header: &Header, item: &ChunkItem) {
        let ledger = self.ledger.stream(stream);
        let new = ledger.arrived().missing_in(item.first_seq..=item.last_seq());
        ledger.rejected.union_with(&new);
        let reason = format!(
            "sequences {} to {} came before with another content; what came first is in the lake",
            item.first_seq,
            item.last_seq()
        );
        tracing::error!(stream = %stream, "{reason}");
        let quarantined = QuarantineRow {
            kind: "conflict",
            stream_id: 0,
            first_seq: item.first_seq,
            rows: u64::from(item.rows),
            ts: None,
            append_ts: incoming.append_us,
            rejected: set_text(&new),
            layout: header.layout(item.layout).map(|layout| layout.encode()),
            item: Item::Chunk(item.clone()).encode().unwrap_or_default(),
            reason,
        };
        self.touch(incoming.partition, stream).quarantine.push((Arc::clone(stream), quarantined));
    }

    /// Puts a chunk that cannot be unpacked into `dead_letter`; what it announces is rejected as far as the header
    /// vouches for it.
    fn bad_chunk(
        &mut self,
        incoming: &Incoming,
        stream: &Arc<StreamId>,
        header: &Header,
        item: &ChunkItem,
        reason: String,
    ) {
        let rows = u64::from(item.rows).min(CHUNK_MAX_ROWS as u64);
        let last = item.first_seq.saturating_add(rows.saturating_sub(1)).min(header.numbered).min(SEQ_MAX);
        let rejected = self.reject(stream, item.first_seq.max(1), last);
        let letter = DeadLetter {
            kind: "item",
            first_seq: Some(item.first_seq),
            rows: Some(u64::from(item.rows)),
            rejected: set_text(&rejected),
            bytes: Item::Chunk(item.clone()).encode().unwrap_or_else(|_| item.body.to_vec()),
            reason,
            ..letter(incoming)
        };
        self.touch(incoming.partition, stream).dead_letters.push((Some(Arc::clone(stream)), letter));
    }

    /// Rejects what of a range has not come yet, and says which sequences that was.
    fn reject(&mut self, stream: &Arc<StreamId>, first: u64, last: u64) -> IntervalSet {
        if first == 0 || first > last {
            return IntervalSet::new();
        }
        let ledger = self.ledger.stream(stream);
        let new = ledger.arrived().missing_in(first..=last);
        ledger.rejected.union_with(&new);
        new
    }

    /// Puts payloads that the agent could not read into `dead_letter` (D1).
    fn raw(&mut self, incoming: &Incoming, stream: &Arc<StreamId>, raw: &RawRows) {
        let rows = u32::try_from(raw.rows.len()).unwrap_or(u32::MAX);
        let whole = raw.crc == RawRows::checksum(raw.first_seq, &raw.rows) && raw.first_seq > 0;
        let last = raw.first_seq.saturating_add(u64::from(rows));
        let new = match (whole && last <= SEQ_MAX && rows > 0)
            .then(|| self.ledger.stream(stream).meet(raw.first_seq, rows, raw.crc))
        {
            Some(Verdict::New(new)) => new,
            Some(Verdict::Known) => return,
            Some(Verdict::Conflict) | None => {
                let letter = DeadLetter {
                    kind: "item",
                    first_seq: Some(raw.first_seq),
                    rows: Some(u64::from(rows)),
                    bytes: Item::Raw(raw.clone()).encode().unwrap_or_default(),
                    reason:
                        "raw rows with another checksum than their bytes, or met before with another content"
                            .to_owned(),
                    ..letter(incoming)
                };
                self.touch(incoming.partition, stream).dead_letters.push((Some(Arc::clone(stream)), letter));
                return;
            }
        };
        for seq in new.ranges().flatten() {
            let at = usize::try_from(seq - raw.first_seq).unwrap_or(usize::MAX);
            let Some(row) = raw.rows.get(at) else { continue };
            self.ledger.stream(stream).reject(seq, seq);
            let letter = DeadLetter {
                received: row.time_us,
                kind: "payload",
                first_seq: Some(seq),
                rows: Some(1),
                rejected: seq.to_string(),
                source: Some(row.topic.to_string()),
                bytes: row.payload.to_vec(),
                reason: row.reason.to_string(),
                ..letter(incoming)
            };
            self.touch(incoming.partition, stream).dead_letters.push((Some(Arc::clone(stream)), letter));
        }
        let open = self.touch(incoming.partition, stream);
        open.checksums.push((Arc::clone(stream), raw.first_seq, rows, raw.crc));
    }

    fn birth(&mut self, incoming: &Incoming, stream: &Arc<StreamId>, birth: Birth) {
        let ledger = self.ledger.stream(stream);
        ledger.previous = birth.previous;
        ledger.started_us = birth.started_us;
        let is_late = ledger.stored.last().is_some_and(|last| last > birth.after);
        let append_us = incoming.append_us;
        let is_new = self.shard(incoming.partition).driver.birth(stream, &birth);
        let open = self.touch(incoming.partition, stream);
        if is_new && is_late {
            open.misread.push((Arc::clone(stream), birth.after));
        }
        if let Some(flushed_us) = birth.last_flushed_us.filter(|us| *us < birth.started_us) {
            let gap = GapRow {
                stream_id: 0,
                kind: "agent_down",
                from_ts: Some(flushed_us),
                to_ts: Some(birth.started_us),
                from_seq: None,
                to_seq: None,
            };
            open.gaps.push((Arc::clone(stream), gap));
        }
        open.births.push((Arc::clone(stream), append_us, birth));
    }

    fn loss(&mut self, incoming: &Incoming, stream: &Arc<StreamId>, loss: &Loss) {
        self.ledger.stream(stream).lose(loss);
        let open = self.touch(incoming.partition, stream);
        for range in loss.ranges.iter().filter(|r| r.from > 0 && r.to.is_none_or(|to| to >= r.from)) {
            let row = LossRow {
                stream_id: 0,
                from: range.from,
                to: range.to,
                reason: loss.reason.name(),
                points: loss.points,
                append_ts: incoming.append_us,
            };
            open.losses.push((Arc::clone(stream), row));
        }
    }

    fn clock_correction(&mut self, incoming: &Incoming, stream: &Arc<StreamId>, clock: &ClockCorrection) {
        let detail = json!({
            "boot_id": row::hex(&clock.boot_id.0),
            "offset_us": clock.offset_us,
            "from_monotonic_us": clock.from_monotonic_us,
        });
        let control = ControlRow {
            stream_id: 0,
            kind: "clock_correction",
            at: incoming.append_us,
            detail: detail.to_string(),
        };
        self.corrections.add(&stream.agent, clock, incoming.append_us);
        let open = self.touch(incoming.partition, stream);
        open.corrected.insert(stream.agent.clone());
        open.controls.push((Arc::clone(stream), control));
    }

    /// Keeps a record that cannot be decoded; by its Kafka headers its rows are still counted to their stream (D2).
    fn undecodable(&mut self, incoming: &Incoming, error: &DecodeError) {
        let stream = stream_of(incoming).map(|stream| self.intern(&stream));
        let number = |name: &str| incoming.header(name)?.parse::<u64>().ok();
        let (first_seq, rows) = (number("seq"), number("rows"));
        let mut rejected = IntervalSet::new();
        if let (Some(stream), Some(first), Some(rows)) = (&stream, first_seq, rows) {
            let rows = rows.min(CHUNK_MAX_ROWS as u64 * 16);
            let last = first.saturating_add(rows.saturating_sub(1)).min(SEQ_MAX);
            if rows > 0 && first <= last {
                rejected = self.reject(stream, first, last);
                let ledger = self.ledger.stream(stream);
                ledger.numbered = ledger.numbered.max(last);
                ledger.append_us = ledger.append_us.max(incoming.append_us);
            }
        }
        tracing::warn!(topic = %incoming.topic, partition = incoming.partition, offset = incoming.offset,
            "a record cannot be read and is kept in dead_letter: {error}");
        let letter = DeadLetter {
            kind: "record",
            first_seq,
            rows,
            rejected: set_text(&rejected),
            bytes: incoming.value.clone(),
            reason: error.to_string(),
            ..letter(incoming)
        };
        if let Some(stream) = &stream {
            self.touch(incoming.partition, stream);
            self.settle(incoming, stream);
        }
        let open = self.open.shards.entry(incoming.partition).or_default();
        open.dead_letters.push((stream, letter));
    }
}

/// A dead letter with its place in Kafka.
fn letter(incoming: &Incoming) -> DeadLetter {
    let mut headers = Map::new();
    for (name, value) in &incoming.headers {
        headers.insert(name.clone(), json!(String::from_utf8_lossy(value)));
    }
    if let Some(key) = &incoming.key {
        headers.insert("key".to_owned(), json!(String::from_utf8_lossy(key)));
    }
    DeadLetter {
        received: incoming.append_us,
        topic: incoming.topic.to_string(),
        part: incoming.partition,
        offset: incoming.offset,
        headers: serde_json::Value::Object(headers).to_string(),
        ..DeadLetter::default()
    }
}

/// Finds the stream of a record by its Kafka headers and key (D2).
fn stream_of(incoming: &Incoming) -> Option<StreamId> {
    let machine = std::str::from_utf8(incoming.key.as_deref()?).ok()?;
    Some(StreamId {
        agent: AgentId::new(incoming.header("agent")?).ok()?,
        epoch: incoming.header("epoch")?.parse().ok()?,
        machine: MachineName::new(machine).ok()?,
        category: Category::new(incoming.header("category")?).ok()?,
    })
}
