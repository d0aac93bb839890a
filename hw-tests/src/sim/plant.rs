//! The plant: machines that are polled, and a broker's session that publishes, with payloads' own times.
//!
//! The session does what MQTT asks of a broker: what was not acknowledged is sent again on the next connection,
//! flagged, in order; so many publishes are open at once and no more.

use millrace_agent::clock::Clock as _;
use millrace_agent::delivery::{Confirmed, Delivery, NewTags, Publish, SourceCounts};
use millrace_protocol::{Category, Cell, ClockSegment, MachineName, RawRow, Row, RowFlags, StreamRow};
use tokio::sync::oneshot;

use super::dice::Dice;
use super::time::{GatewayClock, SECOND_US, Time};
use super::truth::{TrueRow, Truth};
use super::values::{Values, birth_tags, layout, machine};

/// `receive_maximum`.
pub const WINDOW: u16 = 8;
/// Days ahead are not believed.
const IMPOSSIBLE_US: i64 = 3 * 86_400 * SECOND_US;

/// A publish that the broker has not seen acknowledged.
#[derive(Debug)]
struct OpenPublish {
    hash: u64,
    ids: Vec<u64>,
    rows: Vec<StreamRow>,
    raw: Option<RawRow>,
    was_sent: bool,
}

/// A delivery and what it means for the truth.
#[derive(Debug)]
pub struct Emitted {
    /// What the agent gets.
    pub delivery: Delivery,
    /// The numbers of its rows.
    pub ids: Vec<u64>,
    /// For a publish: its hash, whether it is flagged, and who is told.
    pub publish: Option<(u64, bool, oneshot::Receiver<Confirmed>)>,
}

/// What of the plant is drawn from the seed.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Payload times go back and forth, some by an hour.
    pub disorder: bool,
    /// Payloads that nobody can read come too.
    pub raw: bool,
}

/// The plant.
#[derive(Debug)]
pub struct Plant {
    dice: Dice,
    values: Values,
    habits: Habits,
    polled: Vec<MachineName>,
    publishing: MachineName,
    raw_stream: MachineName,
    categories: [Category; 2],
    hold_us: i64,
    open: Vec<OpenPublish>,
    hashes: u64,
    connection: u64,
    /// Whether the source has announced its tags to this start of the agent.
    announced: [bool; 2],
    segment: u32,
}

impl Plant {
    /// Makes it.
    ///
    /// *Errors*: a name is none.
    pub fn new(mut dice: Dice, values: Values, habits: Habits) -> anyhow::Result<Self> {
        let polled = (0..=dice.roll(2)).map(|n| machine(&format!("hall/m{n}"))).collect::<Result<_, _>>()?;
        Ok(Self {
            hold_us: (3 + dice.us(20)) * SECOND_US,
            // In half of the seeds a machine is both polled and published.
            publishing: machine(if dice.one_in(2) { "hall/m0" } else { "hall/mqtt" })?,
            raw_stream: machine("hall/gw")?,
            categories: [Category::new("telemetry")?, Category::new("counters")?],
            dice,
            values,
            habits,
            polled,
            open: Vec::new(),
            hashes: 0,
            connection: 0,
            announced: [false; 2],
            segment: 0,
        })
    }

    /// Gives the streams that the agent's configuration names.
    #[must_use]
    pub fn configured(&self) -> Vec<NewTags> {
        let streams = self.polled.iter().flat_map(|m| self.categories.iter().map(move |c| (m, c)));
        streams.map(|(machine, category)| self.tags(machine, category)).collect()
    }

    fn tags(&self, machine: &MachineName, category: &Category) -> NewTags {
        NewTags {
            machine: machine.clone(),
            category: category.clone(),
            tags: birth_tags(category, self.hold_us).into(),
            attributes: Vec::new(),
        }
    }

    fn row(
        &mut self,
        truth: &mut Truth,
        machine: &MachineName,
        category: &Category,
        time_us: i64,
        flags: RowFlags,
    ) -> (u64, StreamRow) {
        let id = self.values.id();
        let layout = layout(category, !self.dice.one_in(5));
        let cells = self.values.cells(&layout, id);
        let row = Row { time_us, flags, layout, cells };
        let (machine, category) = (machine.clone(), category.clone());
        let known = TrueRow {
            machine: machine.clone(),
            category: category.clone(),
            row: Some(row.clone()),
            is_confirmed: false,
            place: None,
        };
        truth.rows.insert(id, known);
        (id, StreamRow { machine, category, row })
    }

    /// Polls a machine: a row for each category, or one of them.
    pub fn poll(&mut self, truth: &mut Truth, clock: &GatewayClock) -> Option<Emitted> {
        let machine = self.polled.get(self.dice.place(self.polled.len()))?.clone();
        let time_us = clock.now_us();
        let segment = clock.segment();
        let mut flags = RowFlags::default();
        if segment.number != self.segment {
            self.segment = segment.number;
            flags = flags.union(RowFlags::CLOCK_STEPPED);
        }
        if segment.unsynced.is_some() {
            flags = flags.union(RowFlags::CLOCK_UNSYNCED);
        }
        let only = self.dice.place(4);
        let mut rows = Vec::new();
        for (at, category) in self.categories.clone().iter().enumerate() {
            if only == at || only > 1 {
                rows.push(self.row(truth, &machine, category, time_us, flags));
            }
        }
        let (ids, rows): (Vec<u64>, Vec<StreamRow>) = rows.into_iter().unzip();
        Some(Emitted { delivery: delivery(rows, None, segment), ids, publish: None })
    }

    /// Publishes something new, unless the window is full; an agent that is away gets it later.
    pub fn publish(&mut self, truth: &mut Truth, time: &Time) {
        if self.open.len() >= usize::from(WINDOW) {
            return;
        }
        self.hashes += 1;
        let mut publish =
            OpenPublish { hash: self.hashes, ids: Vec::new(), rows: Vec::new(), raw: None, was_sent: false };
        if self.habits.raw && self.dice.one_in(12) {
            let id = self.values.id();
            publish.ids.push(id);
            publish.raw = Some(RawRow {
                time_us: time.now_us(),
                topic: "plant/x".into(),
                payload: id.to_be_bytes().as_slice().into(),
                reason: "no JSON".into(),
            });
            let (machine, category) = (self.raw_stream.clone(), self.categories[0].clone());
            truth.rows.insert(id, TrueRow { machine, category, row: None, is_confirmed: false, place: None });
        } else {
            let machine = self.publishing.clone();
            for _ in 0..=self.dice.roll(2) {
                let time_us = self.payload_time_us(time);
                let category = self.categories[self.dice.place(2)].clone();
                let (id, row) = self.row(truth, &machine, &category, time_us, RowFlags::SOURCE_TIME);
                publish.ids.push(id);
                publish.rows.push(row);
            }
        }
        self.open.push(publish);
    }

    fn payload_time_us(&mut self, time: &Time) -> i64 {
        let now_us = time.now_us();
        if !self.habits.disorder {
            return now_us;
        }
        match self.dice.roll(200) {
            0 => now_us + IMPOSSIBLE_US,
            1..6 => now_us - self.dice.us(3_600 * SECOND_US),
            6..10 => now_us + self.dice.us(60 * SECOND_US),
            10..50 => now_us - self.dice.us(2_500_000),
            _ => now_us / 1_000 * 1_000,
        }
    }

    /// Breaks the MQTT connection: everything that is open is sent again.
    pub fn reconnect(&mut self) {
        self.connection += 1;
    }

    /// Tells the sources that a new process runs: they announce their tags anew.
    pub fn restarted(&mut self) {
        self.announced = [false; 2];
    }

    /// Gives what the broker sends next on this connection: `sent` says which were sent on it already.
    pub fn send(&mut self, session: &mut Session, segment: ClockSegment) -> Option<Emitted> {
        if session.connection != self.connection {
            *session = Session { connection: self.connection, sent: 0 };
        }
        let at = self.open.iter().position(|publish| publish.hash > session.sent)?;
        let (publishing, categories) = (self.publishing.clone(), self.categories.clone());
        let mut new_tags = Vec::new();
        for (at_category, category) in categories.iter().enumerate() {
            let publishes_it = self.open.get(at)?.rows.iter().any(|row| row.category == *category);
            if publishes_it && !self.announced[at_category] {
                self.announced[at_category] = true;
                new_tags.push(self.tags(&publishing, category));
            }
        }
        let publish = self.open.get_mut(at)?;
        session.sent = publish.hash;
        let dup = std::mem::replace(&mut publish.was_sent, true);
        let (confirm, confirmed) = oneshot::channel();
        let mut delivery = delivery(publish.rows.clone(), publish.raw.clone(), segment);
        delivery.new_tags = new_tags;
        delivery.publish =
            Some(Publish { session: 1, connection: self.connection, hash: publish.hash, dup, confirm });
        Some(Emitted { delivery, ids: publish.ids.clone(), publish: Some((publish.hash, dup, confirmed)) })
    }

    /// Takes an acknowledgement.
    pub fn acknowledged(&mut self, hash: u64) {
        self.open.retain(|publish| publish.hash != hash);
    }

    /// Tells whether the broker waits for nothing.
    #[must_use]
    pub const fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }
}

/// What was sent on the present connection.
#[derive(Debug, Default)]
pub struct Session {
    connection: u64,
    sent: u64,
}

fn delivery(rows: Vec<StreamRow>, raw: Option<RawRow>, clock: ClockSegment) -> Delivery {
    let counts = rows.iter().map(|row| {
        let points = row.row.points() as u64;
        let good = row.row.cells.iter().filter(|cell| matches!(cell, Cell::Good(_))).count() as u64;
        (
            row.machine.clone(),
            SourceCounts { due: points, good, bad: points - good, ..SourceCounts::default() },
        )
    });
    Delivery { counts: counts.collect(), rows, raw, clock, new_tags: Vec::new(), publish: None }
}
