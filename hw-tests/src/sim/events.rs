//! The loop: what happens next is drawn from the dice, one event at a time; then everything heals and drains.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use millrace_collector::flush::Settings;
use millrace_collector::lake::db::{Executor as _, SqliteConnection};
use millrace_protocol::Epoch;
use tokio::runtime::Runtime;

use super::agent::{Agent, Cap, Ground};
use super::character::{Character, Event};
use super::check::{self, Counts, Findings};
use super::collector::{Collector, Fate};
use super::dice::Dice;
use super::disk::{End, GatewayDisk, Images};
use super::features;
use super::kafka::Kafka;
use super::plant::{Habits, Plant};
use super::tally::Tally;
use super::time::{BEGIN_US, SECOND_US, Time};
use super::truth::Truth;
use super::values::Values;
use super::{Options, Sabotage};

/// The agent's books hold four earlier streams of a chain; with more starts some would be out of sight.
const STARTS: u64 = 5;
/// Rounds in which everything must have drained.
const PATIENCE: u32 = 120;

/// The seed's chance, a stream for each concern.
struct Rolls {
    /// What happens next, and when.
    events: Dice,
    /// How much of Kafka moves.
    link: Dice,
    /// What the agent's process draws, and its loops.
    agent: Dice,
    /// When the agent ends, and how.
    ends: Dice,
    /// How the clock steps.
    clock: Dice,
    /// What the collector reads.
    reads: Dice,
    /// Where a flush of the lake is cut.
    fates: Dice,
}

/// One seed's world.
pub(super) struct Sim {
    options: Options,
    character: Character,
    rolls: Rolls,
    time: Time,
    kafka: Kafka,
    plant: Plant,
    truth: Truth,
    data: PathBuf,
    images: Images,
    cap: Cap,
    agent: Option<Agent>,
    starts: u64,
    /// Ended epochs some rows of which passed through memory.
    volatile: BTreeSet<Epoch>,
    collector: Collector,
    runtime: Runtime,
    pub(super) tally: Tally,
}

impl Sim {
    pub(super) fn new(
        seed: u64,
        options: Options,
        folder: &Path,
        settings: Settings,
        runtime: Runtime,
    ) -> anyhow::Result<Self> {
        let dice = |concern: &str| Dice::of(seed, concern);
        let character = Character::draw(seed, options.sabotage);
        let time = Time::new();
        let loses = options.sabotage == Some(Sabotage::LoseRecords);
        let kafka = Kafka::new(&time, dice("kafka"), 2, &["telemetry", "counters"], loses);
        let values = Values::new(dice("values"));
        let habits = Habits { disorder: options.disorder, raw: dice("raw").one_in(2) };
        let plant = Plant::new(dice("plant"), values, habits)?;
        let data = folder.join("agent");
        std::fs::create_dir_all(&data)?;
        let images = Images::new(&data);
        let rolls = Rolls {
            events: dice("events"),
            link: dice("link"),
            agent: dice("agent"),
            ends: dice("ends"),
            clock: dice("clock"),
            reads: dice("reads"),
            fates: dice("fates"),
        };
        Ok(Self {
            options,
            character,
            time,
            kafka,
            plant,
            truth: Truth::default(),
            data,
            images,
            cap: character.cap(seed),
            agent: None,
            starts: 0,
            volatile: BTreeSet::new(),
            collector: Collector::new(folder, settings, options.sabotage == Some(Sabotage::SkipRecords)),
            runtime,
            tally: Tally::default(),
            rolls,
        })
    }

    /// Lets the seed's events happen.
    pub(super) fn play(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.character.steps {
            let weights = self.character.weights(self.agent.is_some());
            let Some(event) = self.rolls.events.weighted(&weights) else { break };
            self.tally.once("event");
            tracing::debug!(now_us = self.time.now_us(), ?event, "event");
            self.happen(event).with_context(|| format!("{event:?}"))?;
            self.bury()?;
            self.time.advance(self.rolls.events.us(SECOND_US * 3 / 2));
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> anyhow::Result<()> {
        let now_us = self.time.now_us();
        match event {
            Event::Publish => self.plant.publish(&mut self.truth, &self.time),
            Event::Link => (0..=self.rolls.link.roll(4)).for_each(|_| self.kafka.step()),
            Event::Trouble => self.kafka.trouble(),
            Event::Cut => {
                let is_up = !self.kafka.is_up();
                self.kafka.set_up(is_up);
                self.tally.add("link cut", u64::from(!is_up));
            }
            Event::LoseTopic => {
                let is_there = self.rolls.link.one_in(2);
                self.tally.add("topic lost", u64::from(!is_there));
                self.kafka.set_topic("counters", is_there);
            }
            Event::Read => self.collector.read(&self.runtime, &self.kafka, &mut self.rolls.reads, now_us)?,
            Event::LakeFlush => {
                let fate = self.fate();
                self.collector.flush(&self.runtime, now_us, fate)?;
            }
            Event::KillCollector => self.collector.kill(),
            Event::FillLake => {
                let is_full = !self.collector.is_lake_full();
                self.collector.fill(&self.runtime, is_full)?;
            }
            Event::StartAgent => self.start_agent()?,
            Event::StepClock => self.step_clock(),
            Event::Silence => {
                let silence_us = if self.rolls.events.one_in(5) { 900 } else { 90 };
                self.time.advance(self.rolls.events.us(silence_us * SECOND_US));
            }
            _ => self.agent_does(event)?,
        }
        Ok(())
    }

    fn agent_does(&mut self, event: Event) -> anyhow::Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        self.tally.add("rows through memory", u64::from(agent.is_passing()));
        match event {
            Event::Poll => agent.poll(&mut self.plant, &mut self.truth),
            Event::Receive => {
                if agent.receive(&mut self.plant) && self.options.sabotage == Some(Sabotage::ConfirmEarly) {
                    agent.confirm_early(&mut self.plant, &mut self.truth);
                }
                if agent.is_full() {
                    agent.flush(&mut self.plant, &mut self.truth, false);
                }
            }
            Event::BufferFlush => {
                let loses_acks = self.rolls.agent.one_in(25);
                agent.flush(&mut self.plant, &mut self.truth, loses_acks);
                agent.rest();
            }
            Event::Send => agent.send(&mut self.plant, &mut self.truth)?,
            Event::Reconnect => self.plant.reconnect(),
            Event::FillDisk => {
                let is_full = !agent.disk.is_full();
                agent.disk.fill(is_full);
            }
            Event::KillAgent if self.starts < STARTS => {
                agent.disk.end(how(&mut self.rolls.ends, self.character))?;
            }
            Event::EndAtStep if self.starts < STARTS => {
                let end = how(&mut self.rolls.ends, self.character);
                agent.disk.end_at(self.rolls.ends.roll(25), end);
            }
            _ => {}
        }
        Ok(())
    }

    fn fate(&mut self) -> Fate {
        if !self.character.kills_collector || self.collector.is_lake_full() {
            return Fate::Done;
        }
        // As often early as late: most flushes are small, and a large one has thousands of instructions.
        let dice = &mut self.rolls.fates;
        let magnitude = dice.roll(10);
        let place = 1 + dice.roll(1 << magnitude);
        match dice.roll(10) {
            0 => Fate::Killed(place),
            1 => Fate::Failed(place),
            2 => Fate::Unknown,
            _ => Fate::Done,
        }
    }

    fn step_clock(&mut self) {
        let dice = &mut self.rolls.clock;
        let off_us = match dice.roll(6) {
            0 | 1 => 0,
            2 => dice.us(4 * SECOND_US) - 2 * SECOND_US,
            3 => -dice.us(2 * 3_600 * SECOND_US),
            // A clock that was never set.
            4 if dice.one_in(6) => -self.time.now_us() + 3_600 * SECOND_US,
            _ => dice.us(2 * 3_600 * SECOND_US),
        };
        let before_us = self.time.set_wall_off(off_us);
        self.tally.once(match off_us - before_us {
            0 => return,
            _ if self.time.now_us() + off_us < BEGIN_US / 2 => "clock not set",
            ..0 => "clock stepped back",
            _ => "clock stepped forward",
        });
    }

    /// Starts an agent.
    fn start_agent(&mut self) -> anyhow::Result<()> {
        let forgets = self.options.sabotage == Some(Sabotage::ForgetSync);
        let disk = GatewayDisk::new(&self.time, &self.images, self.character.cuts_power, forgets);
        self.starts += 1;
        if self.starts > 1 && self.starts < STARTS && self.character.kills_agent && self.rolls.ends.one_in(4)
        {
            disk.end_at(self.rolls.ends.roll(12), how(&mut self.rolls.ends, self.character));
        }
        let ground = Ground {
            data: &self.data,
            images: &self.images,
            time: &self.time,
            kafka: &self.kafka,
            cap: self.cap,
            streams: self.plant.configured(),
        };
        let started = Agent::start(ground, &mut self.rolls.agent, Arc::clone(&disk))?;
        if let (None, Some(end)) = (&started, disk.ended()) {
            self.mourn(end)?;
        }
        self.agent = started;
        Ok(())
    }

    /// Takes away an agent whose world has ended.
    fn bury(&mut self) -> anyhow::Result<()> {
        let Some(end) = self.agent.as_ref().and_then(|agent| agent.disk.ended()) else { return Ok(()) };
        self.volatile.extend(self.agent.as_ref().filter(|agent| agent.has_passed()).map(Agent::epoch));
        self.agent = None;
        self.mourn(end)
    }

    fn mourn(&mut self, end: End) -> anyhow::Result<()> {
        tracing::debug!(?end, "the agent's world has ended");
        self.tally.once(match end {
            End::Kill => "agent killed",
            End::PowerCut => "agent: power cut",
        });
        self.kafka.cut();
        self.plant.reconnect();
        self.plant.restarted();
        if end == End::PowerCut {
            self.time.reboot();
        }
        self.images.restore(end)
    }

    /// Mends everything and waits until nothing is under way, then lets hours pass so that every window closes.
    pub(super) fn drain(&mut self) -> anyhow::Result<()> {
        self.bury()?;
        self.kafka.set_up(true);
        self.kafka.set_topic("counters", true);
        self.time.set_wall_off(0);
        self.collector.fill(&self.runtime, false)?;
        for _ in 0..PATIENCE {
            self.round(3 * SECOND_US)?;
            if self.is_quiet() {
                for _ in 0..3 {
                    self.round(11 * SECOND_US)?;
                }
                for _ in 0..8 {
                    self.round(1_500 * SECOND_US)?;
                }
                self.collector.repair_all(&self.runtime, self.time.now_us())?;
                return Ok(());
            }
        }
        let streams = self.agent.as_ref().map(|agent| agent.reader.streams());
        let waiting: Vec<_> = streams
            .into_iter()
            .flatten()
            .filter(|stream| stream.waiting_rows + stream.waiting_notices > 0)
            .collect();
        let quiet = (self.plant.is_quiet(), self.kafka.is_quiet(), self.collector.is_quiet(&self.kafka));
        anyhow::bail!("not drained (plant, kafka, collector: {quiet:?}): {waiting:?}")
    }

    fn is_quiet(&self) -> bool {
        self.agent.as_ref().is_some_and(Agent::is_quiet)
            && self.plant.is_quiet()
            && self.kafka.is_quiet()
            && self.collector.is_quiet(&self.kafka)
    }

    fn round(&mut self, us: i64) -> anyhow::Result<()> {
        self.time.advance(us);
        if self.agent.is_none() {
            self.starts = self.starts.max(STARTS);
            self.start_agent()?;
        }
        let Some(agent) = &mut self.agent else { return Ok(()) };
        agent.disk.fill(false);
        agent.disk.spare();
        if agent.is_polling() {
            agent.poll(&mut self.plant, &mut self.truth);
        }
        while agent.receive(&mut self.plant) {}
        agent.flush(&mut self.plant, &mut self.truth, false);
        agent.rest();
        for _ in 0..2 {
            for _ in 0..8 {
                agent.send(&mut self.plant, &mut self.truth)?;
            }
            self.kafka.settle();
        }
        agent.send(&mut self.plant, &mut self.truth)?;
        self.collector.read_all(&self.runtime, &self.kafka, self.time.now_us())?;
        self.collector.flush(&self.runtime, self.time.now_us(), Fate::Done)
    }

    /// Looks at what came of it.
    pub(super) fn check(
        &mut self,
        settings: &Settings,
        (counts, functions): (&mut Counts, &mut Tally),
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        let books = self.agent.as_ref().context("no agent")?.reader.books();
        self.tally.add("buffer full", books.transport.iter().map(|line| line.rows.dropped).sum());
        for tally in [&self.collector.tally, &self.images.tally(), &self.kafka.tally()] {
            self.tally.add_all(tally);
        }
        let excuses = self.character.excuses(self.cap.when_full, self.tally.of("record refused") > 0);
        let mut conn = self.collector.finish(&self.runtime)?;
        let to_us = self.time.now_us();
        self.runtime.block_on(async {
            spoil(&mut conn, self.options.sabotage).await?;
            let machines = check::truth(&mut conn, &self.truth, &excuses, counts, findings).await?;
            check::books(&mut conn, &books, &self.volatile, counts, findings).await?;
            features::compare(&mut conn, settings, &machines, to_us, (counts, functions), findings).await
        })
    }
}

fn how(dice: &mut Dice, character: Character) -> End {
    if character.cuts_power && dice.one_in(2) { End::PowerCut } else { End::Kill }
}

/// Spoils the lake on purpose.
async fn spoil(conn: &mut SqliteConnection, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let statement = match sabotage {
        Some(Sabotage::DeleteRow) => "DELETE FROM reading WHERE rowid = (SELECT max(rowid) / 2 FROM reading)",
        Some(Sabotage::ChangeValue) => {
            "UPDATE reading SET vals = json_set(vals, '$[0]', coalesce(json_extract(vals, '$[0]'), 0) + 0.5) \
             WHERE rowid = (SELECT min(rowid) FROM reading WHERE json_array_length(vals) > 0)"
        }
        Some(Sabotage::DoubleRow) => {
            "INSERT INTO reading SELECT ts + 1, machine_id, stream_id, seq, flush_id, append_ts, quality, flags, \
             layout_id, vals, extra FROM reading WHERE rowid = (SELECT max(rowid) / 2 FROM reading)"
        }
        Some(Sabotage::ForgetLedger) => "UPDATE stream SET stored = ''",
        Some(Sabotage::ChangeFeature) => {
            "UPDATE features_hop_v1 SET coverage = coverage + 1e-12 WHERE event_timestamp = (SELECT max(event_timestamp) FROM features_hop_v1)"
        }
        Some(Sabotage::DeleteWindow) => {
            "DELETE FROM features_tumble_v1 WHERE event_timestamp = (SELECT max(event_timestamp) FROM features_tumble_v1)"
        }
        _ => return Ok(()),
    };
    conn.execute(statement).await.context("spoiling the lake")?;
    Ok(())
}
