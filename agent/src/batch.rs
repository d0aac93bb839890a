//! The batch stage: numbers rows, packs them into chunks, and confirms what is on disk (D5, D7).
//!
//! One OS thread runs [`Batch::run`]; it is the only writer of the buffer. The simulation takes the same steps
//! one by one: [`Batch::accept`], [`Batch::flush`], [`Batch::rest`]. Invariant: a delivery is
//! confirmed only after the flush that holds its rows, and confirmations go out in order of receipt.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_protocol::{BirthTag, Category, ClockCorrection, DEFAULT_CATEGORY, Item, MachineName};
use thiserror::Error;
use tokio::sync::mpsc::{self, error::TryRecvError};

use crate::buffer::{Buffer, Confirm, Flushed, Group};
use crate::clock::Clock;
use crate::delivery::{Confirmed, Delivery, Horizon, NewTags, Observer, SourceCounts};

mod births;
mod hold;
mod pack;
mod redelivery;

use hold::{Hold, Order};
use pack::{Packed, Waiting};
use redelivery::Redelivery;

/// Bound of the channel that leads here: a second of 250 devices; sources wait when it is full.
pub const DELIVERIES: usize = 256;
/// A flush is due when this much waits. *Units*: bytes, estimated.
const FLUSH_BYTES: usize = 256 * 1024;
/// A flush is due when no publish came for so long (D5).
const PUBLISH_PAUSE: Duration = Duration::from_millis(5);
/// Progress stays so far behind the clock: a publish is given its time a moment before it is handed over.
const HAND_OVER_US: i64 = 250_000;
/// How often the buffer may tidy up when nothing comes.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// What the batch stage must know at start.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// Every stream that the configuration names; each gets a birth (D7).
    pub streams: Vec<NewTags>,
    /// `[agent] site`: raw rows go to the stream `<site>/<agent id>`.
    pub site: String,
    /// The most that a poll waits for its fsync (D5).
    pub sync_interval: Duration,
    /// The largest `receive_maximum` of the MQTT connections.
    pub mqtt_window: u16,
    /// Looks at what is received, for the status page.
    pub observer: Option<Observer>,
    /// What sources have under way.
    pub horizon: Horizon,
    /// The clock that sources read.
    pub clock: Arc<dyn Clock>,
    /// `[clock] hold`: how long rows of a clock that is not set wait before they are sent (D8).
    pub clock_hold: Duration,
}

/// Says why the batch stage cannot start or go on.
#[derive(Debug, Error)]
pub enum BatchError {
    /// `<site>/<agent id>` is no machine name.
    #[error("the site and the agent's id make no machine name")]
    Name(#[from] millrace_protocol::NameError),
    /// The thread cannot wait for deliveries.
    #[error("the thread of the batch stage cannot have a timer")]
    Timer(#[source] std::io::Error),
}

/// A stream of this epoch.
#[derive(Debug)]
struct OpenStream {
    number: u32,
    next_seq: u64,
    tags: Vec<BirthTag>,
    attributes: BTreeMap<String, String>,
    waiting: Waiting,
    /// Whether it stands in [`Pending::streams`].
    is_pending: bool,
}

/// The batch stage.
#[derive(Debug)]
pub struct Batch {
    buffer: Buffer,
    options: BatchOptions,
    raw: (MachineName, Category),
    started_us: i64,
    /// Before this everything that the previous process read is on disk (D14).
    last_flushed_us: Option<i64>,
    streams: HashMap<(MachineName, Category), OpenStream>,
    redelivery: Redelivery,
    hold: Hold,
    pending: Pending,
    /// All that was read before this has been accepted. *Units*: microseconds since 1970-01-01 UTC.
    reached_us: i64,
    /// The next such time, and how many deliveries were in the channel when it was read: once they are accepted it is
    /// reached, however many come meanwhile.
    mark: Option<(i64, usize)>,
}

/// What came since the last flush, rows excepted.
#[derive(Debug, Default)]
struct Pending {
    /// When the first of it came.
    since: Option<Instant>,
    last_publish: Option<Instant>,
    publishes: usize,
    bytes: usize,
    /// Streams with something waiting, in order of receipt.
    streams: Vec<(MachineName, Category)>,
    sources: BTreeMap<MachineName, SourceCounts>,
    hashes: BTreeMap<u64, Vec<u64>>,
    redelivered: u64,
    confirms: Vec<Confirm>,
}

impl Batch {
    /// Takes the buffer and stores the births of this start (D7).
    ///
    /// *Errors*: [`BatchError::Name`].
    pub fn new(mut buffer: Buffer, options: BatchOptions) -> Result<Self, BatchError> {
        let raw = (
            MachineName::new(&format!("{}/{}", options.site, buffer.agent()))?,
            Category::new(DEFAULT_CATEGORY)?,
        );
        // Two windows, and never none: a configuration without MQTT keeps what an earlier one left.
        let kept = 2 * usize::from(options.mqtt_window.max(1));
        buffer.keep_hashes(kept);
        let mut batch = Self {
            redelivery: Redelivery::new(kept, buffer.hashes()),
            hold: Hold::new(Arc::clone(&options.clock), options.clock_hold, buffer.unset_boot()),
            raw,
            started_us: buffer.now_us(),
            // This process has read nothing before it began.
            reached_us: buffer.now_us(),
            mark: None,
            last_flushed_us: buffer.settled_before_us(),
            streams: HashMap::new(),
            pending: Pending::default(),
            options,
            buffer,
        };
        batch.begin();
        batch.look_at_clock();
        Ok(batch)
    }

    /// Runs until every sender is gone, then flushes what waits and closes the buffer.
    ///
    /// Blocks: call it on a thread of its own. A disk that dies is no error, it turns into
    /// pass-through. *Errors*: [`BatchError::Timer`].
    pub fn run(mut self, mut deliveries: mpsc::Receiver<Delivery>) -> Result<(), BatchError> {
        let timer =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(BatchError::Timer)?;
        loop {
            self.set_mark(&deliveries);
            let due = self.due().unwrap_or_else(|| Instant::now() + IDLE_TICK);
            let next = timer.block_on(async { tokio::time::timeout_at(due.into(), deliveries.recv()).await });
            match next {
                Ok(Some(delivery)) => self.take(delivery),
                Ok(None) => break,
                Err(_) => {}
            }
            self.look_at_clock();
            // Take what is there already without asking the clock for each.
            while !self.is_full() {
                match deliveries.try_recv() {
                    Ok(delivery) => self.take(delivery),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            if self.is_full() || self.due().is_some_and(|due| due <= Instant::now()) {
                self.flush();
            }
            if deliveries.is_empty() {
                self.rest();
            } else if self.pending.since.is_none() {
                self.buffer.settled(self.reached_us);
            }
        }
        self.close();
        Ok(())
    }

    /// Reads the horizon, and then how much is in the channel: what was handed over before is in it, unless a source
    /// waits for room; then nothing is known of what it holds.
    fn set_mark(&mut self, deliveries: &mpsc::Receiver<Delivery>) {
        if self.mark.is_none() {
            let settled_us = self.settled_us();
            let (waiting, room) = (deliveries.len(), deliveries.capacity());
            // Room that is promised to a source is neither.
            if room > 0 && waiting + room == deliveries.max_capacity() {
                self.mark = Some((settled_us, waiting));
            }
        }
        self.look_at_mark(0);
    }

    fn take(&mut self, delivery: Delivery) {
        self.accept(delivery);
        self.look_at_mark(1);
    }

    fn look_at_mark(&mut self, accepted: usize) {
        let Some((settled_us, left)) = &mut self.mark else { return };
        *left = left.saturating_sub(accepted);
        if *left == 0 {
            self.reached_us = *settled_us;
            self.mark = None;
        }
    }

    /// Says that all that was read before a time has been accepted.
    pub fn reached(&mut self, settled_us: i64) {
        self.reached_us = settled_us;
    }

    /// Gives the time up to which all that is handed over is here, once the channel's deliveries are accepted.
    #[must_use]
    pub fn settled_us(&self) -> i64 {
        let now_us = self.buffer.now_us().saturating_sub(HAND_OVER_US);
        self.options.horizon.earliest_us().map_or(now_us, |e| now_us.min(e - 1))
    }

    /// Lets the buffer tidy up if nothing waits here.
    pub fn rest(&mut self) {
        if self.pending.since.is_none() {
            self.buffer.settled(self.reached_us);
            self.buffer.idle();
        }
    }

    /// Flushes what waits and closes the buffer.
    pub fn close(mut self) {
        self.reached_us = self.settled_us();
        self.flush();
        self.buffer.close();
    }

    /// Holds rows of this start back while the clock is not set, and places them when it is (D8).
    pub fn look_at_clock(&mut self) {
        match self.hold.look() {
            Some(Order::Hold(boot_id)) => {
                tracing::warn!("the clock is not set; what is read waits on disk until it is");
                self.buffer.hold(boot_id);
            }
            Some(Order::LetGo) => {
                tracing::warn!("the clock is still not set; rows go out flagged and wait in quarantine");
                self.buffer.let_go();
            }
            Some(Order::Place { boot_id, offset_us }) => {
                tracing::info!(offset_us, "the clock is set; what was read before is placed");
                let correction = |stream: &OpenStream| {
                    let after = stream.next_seq.saturating_sub(1);
                    let item = ClockCorrection { after, boot_id, offset_us, from_monotonic_us: 0 };
                    Some((stream.number, Item::Clock(item).encode().ok()?))
                };
                self.buffer.place(self.streams.values().filter_map(correction).collect());
            }
            None => {}
        }
    }

    /// Tells when what waits must be flushed (D5).
    fn due(&self) -> Option<Instant> {
        let by_poll = self.pending.since? + self.options.sync_interval;
        let by_publish = self.pending.last_publish.map(|at| at + PUBLISH_PAUSE);
        Some(by_publish.map_or(by_poll, |at| at.min(by_poll)))
    }

    /// Tells whether what waits must be flushed at once.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let half_a_window = usize::from(self.options.mqtt_window / 2).max(1);
        self.pending.bytes >= FLUSH_BYTES || self.pending.publishes >= half_a_window
    }

    /// Puts a delivery to what waits.
    pub fn accept(&mut self, delivery: Delivery) {
        let now = Instant::now();
        self.pending.since.get_or_insert(now);
        if let Some(Observer(observe)) = &self.options.observer {
            observe(&delivery);
        }
        for new in &delivery.new_tags {
            self.new_tags(new);
        }
        let mut is_redelivered = false;
        if let Some(publish) = delivery.publish {
            is_redelivered = self.redelivery.is_stored(&publish);
            self.pending.publishes += 1;
            self.pending.last_publish = Some(now);
            let how = if is_redelivered {
                self.pending.redelivered += 1;
                Confirmed::Redelivered
            } else {
                self.pending.hashes.entry(publish.session).or_default().push(publish.hash);
                Confirmed::Stored
            };
            let (id, tell) = ((publish.session, publish.hash), publish.confirm);
            self.pending.confirms.push(Confirm { publish: id, how, tell });
        }
        if is_redelivered {
            return;
        }
        for row in delivery.rows {
            let waiting = self.waiting(&(row.machine, row.category));
            self.pending.bytes += waiting.row(delivery.clock, row.row);
        }
        if let Some(raw) = delivery.raw {
            let key = self.raw.clone();
            self.pending.bytes += self.waiting(&key).raw(raw);
        }
        for (machine, counts) in delivery.counts {
            add_counts(self.pending.sources.entry(machine).or_default(), &counts);
        }
    }

    /// Makes everything that waits durable, then confirms it in order of receipt.
    pub fn flush(&mut self) {
        let mut packed = self.pack();
        if !packed.unfit.is_empty() {
            self.make_raw(std::mem::take(&mut packed.unfit));
            packed = self.pack();
        }
        let mut group = self.group(packed.rows, packed.births);
        if group.is_empty() && self.pending.confirms.is_empty() {
            self.clear(&packed.next_seqs);
            return;
        }
        let confirms = std::mem::take(&mut self.pending.confirms);
        match self.buffer.flush(&group) {
            Flushed::Stored | Flushed::Refused => self.buffer.confirm(confirms),
            Flushed::DiskDead => {
                for key in &self.pending.streams {
                    if let Some(stream) = self.streams.get_mut(key) {
                        stream.waiting.make_volatile();
                    }
                }
                let again = self.pack();
                group.rows = again.rows;
                for publish in self.buffer.pass(&group, confirms) {
                    self.redelivery.forget(publish);
                }
            }
        }
        self.clear(&packed.next_seqs);
    }

    fn pack(&self) -> Packed {
        let mut packed = Packed::default();
        for key in &self.pending.streams {
            if let Some(stream) = self.streams.get(key) {
                packed.stream(stream.number, stream.next_seq, &stream.waiting);
            }
        }
        packed
    }

    /// Turns rows that no item can hold into raw rows. Their points were read and are not reported.
    fn make_raw(&mut self, unfit: Vec<(u32, millrace_protocol::RawRow, u64)>) {
        let machines: HashMap<u32, MachineName> =
            self.streams.iter().map(|(key, stream)| (stream.number, key.0.clone())).collect();
        for stream in self.streams.values_mut() {
            stream.waiting.remove_unfit();
        }
        let key = self.raw.clone();
        for (number, raw, points) in unfit {
            tracing::error!(reason = &*raw.reason, "a row cannot be written and becomes a raw row");
            if let Some(machine) = machines.get(&number) {
                self.pending.sources.entry(machine.clone()).or_default().suppressed += points;
            }
            self.waiting(&key).raw(raw);
        }
    }

    fn group(&self, rows: Vec<crate::buffer::NewRows>, births: Vec<(u32, Vec<u8>)>) -> Group {
        Group {
            rows,
            births,
            sources: self.pending.sources.iter().map(|(m, &c)| (m.clone(), c)).collect(),
            hashes: self.pending.hashes.iter().map(|(&s, h)| (s, h.clone())).collect(),
            redelivered: self.pending.redelivered,
            settled_us: Some(self.reached_us),
        }
    }

    fn clear(&mut self, next_seqs: &BTreeMap<u32, u64>) {
        for key in std::mem::take(&mut self.pending.streams) {
            if let Some(stream) = self.streams.get_mut(&key) {
                stream.waiting = Waiting::default();
                stream.is_pending = false;
                stream.next_seq = next_seqs.get(&stream.number).copied().unwrap_or(stream.next_seq);
            }
        }
        self.pending = Pending::default();
    }
}

fn add_counts(sum: &mut SourceCounts, more: &SourceCounts) {
    sum.due += more.due;
    sum.good += more.good;
    sum.bad += more.bad;
    sum.skipped += more.skipped;
    sum.suppressed += more.suppressed;
}

#[cfg(test)]
mod tests;
