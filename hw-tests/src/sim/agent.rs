//! The agent of the simulation: its real batch stage, buffer and uplink, taken step by step and killed anywhere.
//!
//! The uplink is its own `run`, polled by hand; the batch stage is one step at a time. What a kill leaves is what
//! the disk of the moment holds ([`super::disk`]).

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::Context as _;
use millrace_agent::batch::{Batch, BatchOptions};
use millrace_agent::buffer::{self, BufferReader, OpenOptions, WallClock};
use millrace_agent::clock::Clock;
use millrace_agent::config::WhenFull;
use millrace_agent::delivery::{Confirmed, Horizon, NewTags, Underway};
use millrace_agent::uplink::{Uplink, UplinkError};
use millrace_protocol::{AgentId, Epoch, StreamId};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio_util::sync::CancellationToken;

use super::dice::Dice;
use super::disk::{GatewayDisk, Images};
use super::kafka::{Kafka, PREFIX, World};
use super::plant::{Emitted, Plant, Session, WINDOW};
use super::time::{GatewayClock, Time};
use super::truth::{Numbered, TrueRow, Truth};

/// How long rows of a clock that is not set wait to be sent; short, so that a seed drains.
const CLOCK_HOLD: Duration = Duration::from_secs(20);

/// How often a quiet stream says so.
const PROGRESS: Duration = Duration::from_secs(10);

/// How the agent is configured.
#[derive(Debug, Clone, Copy)]
pub struct Cap {
    /// `[buffer] max_bytes`.
    pub max_bytes: u64,
    /// `[buffer] when_full`.
    pub when_full: WhenFull,
}

/// What every start of the agent gets.
#[derive(Debug)]
pub struct Ground<'a> {
    /// `[agent] data_dir`.
    pub data: &'a Path,
    /// Where its buffer and the images of it stand.
    pub images: &'a Images,
    /// The time.
    pub time: &'a Time,
    /// The cluster.
    pub kafka: &'a Kafka,
    /// The buffer's configuration.
    pub cap: Cap,
    /// The streams that the configuration names.
    pub streams: Vec<NewTags>,
}

/// A delivery that the batch stage has, and no flush yet.
struct Waiting {
    ids: Vec<u64>,
    publish: Option<(u64, bool, oneshot::Receiver<Confirmed>)>,
}

/// A running agent.
pub struct Agent {
    batch: Batch,
    /// The buffer's read side.
    pub reader: BufferReader,
    uplink: Pin<Box<dyn Future<Output = Result<(), UplinkError>> + Send>>,
    /// The clocks as this process reads them.
    pub clock: Arc<GatewayClock>,
    /// Its disk.
    pub disk: Arc<GatewayDisk>,
    /// What it has sent to this process.
    pub session: Session,
    epoch: Epoch,
    name: AgentId,
    underway: Underway,
    /// A poll that has begun and is not handed over.
    polled: Option<Emitted>,
    waiting: VecDeque<Waiting>,
    /// Publishes whose rows pass through memory.
    passing: Vec<(u64, Vec<u64>, oneshot::Receiver<Confirmed>)>,
    has_passed: bool,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Agent {
    /// Starts as a new process would, in a new epoch; `None` if the world ended meanwhile.
    ///
    /// *Errors*: it does not start although the disk is well.
    pub fn start(
        ground: Ground<'_>,
        dice: &mut Dice,
        disk: Arc<GatewayDisk>,
    ) -> anyhow::Result<Option<Self>> {
        let clock = Arc::new(GatewayClock::new(ground.time));
        let (name, epoch) = (AgentId::new("gw")?, Epoch(dice.bits()));
        let for_buffer = Arc::clone(&clock);
        let options = OpenOptions {
            data_dir: ground.data.to_owned(),
            agent: name.clone(),
            epoch,
            max_bytes: ground.cap.max_bytes,
            when_full: ground.cap.when_full,
            clock: WallClock(Arc::new(move || for_buffer.now_us())),
        };
        let opened = buffer::open_with_faults(Arc::<GatewayDisk>::clone(&disk), options);
        let (buffer, reader) = match opened {
            Ok(opened) => opened,
            Err(_) if disk.ended().is_some() => return Ok(None),
            Err(error) => return Err(error).context("the buffer does not open"),
        };
        let horizon = Horizon::default();
        let underway = horizon.source();
        let options = BatchOptions {
            streams: ground.streams,
            site: "hall".to_owned(),
            sync_interval: Duration::from_secs(1),
            mqtt_window: WINDOW,
            observer: None,
            horizon,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            clock_hold: CLOCK_HOLD,
        };
        let batch = Batch::new(buffer, options)?;
        let (kafka, time) = (ground.kafka.clone(), ground.time.clone());
        let world = World { kafka, time, dice: Mutex::new(dice.fork()) };
        let uplink = Uplink::with_outside(reader.clone(), world, PREFIX, PROGRESS, epoch)?;
        Ok(Some(Self {
            batch,
            reader,
            uplink: Box::pin(uplink.run(CancellationToken::new())),
            clock,
            disk,
            session: Session::default(),
            epoch,
            name,
            underway,
            polled: None,
            waiting: VecDeque::new(),
            passing: Vec::new(),
            has_passed: false,
        }))
    }

    fn accept(&mut self, emitted: Emitted) {
        self.batch.accept(emitted.delivery);
        self.waiting.push_back(Waiting { ids: emitted.ids, publish: emitted.publish });
    }

    /// Begins a poll, or hands over the one that has begun.
    pub fn poll(&mut self, plant: &mut Plant, truth: &mut Truth) {
        match self.polled.take() {
            Some(polled) => {
                self.accept(polled);
                self.underway.end();
            }
            None => {
                self.underway.begin(self.clock.now_us());
                self.polled = plant.poll(truth, &self.clock);
            }
        }
    }

    /// Takes what the broker sends.
    pub fn receive(&mut self, plant: &mut Plant) -> bool {
        let segment = self.clock.segment();
        let Some(emitted) = plant.send(&mut self.session, segment) else { return false };
        self.accept(emitted);
        true
    }

    /// Sabotage: takes what was received last for confirmed.
    pub fn confirm_early(&self, plant: &mut Plant, truth: &mut Truth) {
        if let Some(Waiting { ids, publish: Some((hash, ..)) }) = self.waiting.back() {
            truth.confirm(ids);
            plant.acknowledged(*hash);
        }
    }

    /// Flushes, and takes note of what is confirmed; `loses_acks`: the connection breaks before the broker sees it.
    pub fn flush(&mut self, plant: &mut Plant, truth: &mut Truth, loses_acks: bool) {
        // What was handed over is accepted at once here.
        self.batch.reached(self.batch.settled_us());
        self.batch.flush();
        self.has_passed |= self.is_passing();
        let is_sound = self.disk.ended().is_none() && self.reader.health().pass_through.is_none();
        for Waiting { ids, publish } in std::mem::take(&mut self.waiting) {
            let Some((hash, dup, mut confirmed)) = publish else {
                self.number(truth, &ids, if is_sound { Numbered::OnDisk } else { Numbered::InMemory });
                if is_sound {
                    truth.confirm(&ids);
                }
                continue;
            };
            match confirmed.try_recv() {
                Ok(how) => {
                    tracing::debug!(?ids, ?how, dup, "confirmed");
                    if how == Confirmed::Stored {
                        self.number(truth, &ids, Numbered::OnDisk);
                    }
                    truth.confirm(&ids);
                    if !loses_acks {
                        plant.acknowledged(hash);
                    }
                }
                Err(TryRecvError::Empty) => {
                    let how = if dup { Numbered::Perhaps } else { Numbered::InMemory };
                    self.number(truth, &ids, how);
                    tracing::debug!(?ids, dup, "passes through memory");
                    truth.passed.extend(&ids);
                    self.passing.push((hash, ids, confirmed));
                }
                Err(TryRecvError::Closed) => {}
            }
        }
        if loses_acks {
            plant.reconnect();
        }
    }

    fn number(&self, truth: &mut Truth, ids: &[u64], how: Numbered) {
        // What the end of the world interrupted may have been numbered or not.
        if self.disk.ended().is_some() {
            return;
        }
        let stream = |row: &TrueRow| StreamId {
            agent: self.name.clone(),
            epoch: self.epoch,
            machine: row.machine.clone(),
            category: row.category.clone(),
        };
        truth.number(stream, ids, how);
    }

    /// Lets the buffer tidy up and progress move on.
    pub fn rest(&mut self) {
        self.batch.look_at_clock();
        self.batch.reached(self.batch.settled_us());
        self.batch.rest();
    }

    /// Polls the uplink once.
    ///
    /// *Errors*: it ended.
    pub fn send(&mut self, plant: &mut Plant, truth: &mut Truth) -> anyhow::Result<()> {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(ended) = self.uplink.as_mut().poll(&mut context) {
            ended.context("the uplink")?;
            anyhow::bail!("the uplink ended although nobody stopped it");
        }
        let mut left = Vec::new();
        for (hash, ids, mut confirmed) in std::mem::take(&mut self.passing) {
            match confirmed.try_recv() {
                Ok(_) => {
                    truth.confirm(&ids);
                    plant.acknowledged(hash);
                }
                Err(TryRecvError::Empty) => left.push((hash, ids, confirmed)),
                // Its rows gave way: the broker will send it again.
                Err(TryRecvError::Closed) => {}
            }
        }
        self.passing = left;
        Ok(())
    }

    /// Tells whether everything is in Kafka and nothing under way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let streams = self.reader.streams();
        self.waiting.is_empty()
            && self.passing.is_empty()
            && self.polled.is_none()
            && streams.iter().all(|stream| stream.waiting_rows == 0 && stream.waiting_notices == 0)
    }

    /// Tells whether a poll has begun and is not handed over.
    #[must_use]
    pub const fn is_polling(&self) -> bool {
        self.polled.is_some()
    }

    /// Gives the epoch of this start.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Tells whether rows pass through memory.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.reader.health().pass_through.is_some()
    }

    /// Tells whether rows ever passed through memory.
    #[must_use]
    pub const fn has_passed(&self) -> bool {
        self.has_passed
    }

    /// Tells whether what waits should be flushed at once.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.batch.is_full()
    }

    /// Ends the process in good order.
    pub fn stop(mut self, plant: &mut Plant, truth: &mut Truth) {
        self.flush(plant, truth, false);
        drop(self.uplink);
        drop(self.reader);
        self.batch.close();
    }
}
