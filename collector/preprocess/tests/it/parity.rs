//! Batch over the lake = newest revision of the stream, bit for bit (F2), and both = a slow oracle.
//!
//! A scenario is drawn from a seed: one machine, two categories, several starts of the agent, disorder
//! inside a stream, rows that come days late or from the future, lost rows, silence until streams are
//! given up. What the lake holds is what the driver was given; the ledger is an interval set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_preprocess::{BatchDriver, Catalog, FeatureRow, FeatureValue, InputRow, StreamDriver};
use millrace_protocol::*;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use super::oracle::Oracle;
use super::plant::*;

const HOUR: i64 = 3600 * S;
const BEGIN: i64 = 1_700_000_000 * S;

const VIEWS: &str = r#"
[[kind]]
name = "press"
machines = ["h/*"]
attributes = [{ machine = "h/m", rated = 3 }, { machine = "h/m", valid_from = "2023-11-14T22:20:00Z", rated = 5 }]
[[signal]]
name = "steady"
kind = "press"
debounce = "3 s"
expr = "if(a > 0, 'up', 'down')"
[[feature_view]]
name = "hop"
kind = "press"
lateness = "2 s"
window = { size = "1 min", every = "10 s" }
[feature_view.features]
mean = "mean(a)"
std = "std(a)"
max = "max(a)"
median = "quantile(a, 0.5)"
made = "increase(n)"
run_s = "duration(state == 'run')"
both = "mean(a + b)"
ratio = "made / run_s * attr.rated"
slope = "slope(a)"
last = "last(state)"
n = "count(a)"
[[feature_view]]
name = "tumble"
kind = "press"
lateness = "2 s"
where = "state != 'idle'"
window = { size = "30 s" }
[feature_view.features]
mean = "mean(a - lag(b, '7 s'))"
flips = "transitions(steady)"
rises = "count(rising(a > 0))"
rate = "max(rate(n))"
made = "increase(n)"
age = "age(b)"
delta = "delta(a)"
[[feature_view]]
name = "long"
kind = "press"
lateness = "2 s"
window = { size = "15 min", every = "5 min" }
[feature_view.features]
mean = "mean(a)"
std = "std(a + b)"
q = "quantile(a, 0.9)"
made = "increase(n)"
slope = "slope(b)"
flips = "transitions(state)"
[[feature_view]]
name = "now"
kind = "press"
lateness = "2 s"
window = "latest"
min_interval = "2 s"
[feature_view.features]
a = "a"
sum = "a + b"
state = "state"
age = "age(n)"
"#;

/// A small generator, so that a scenario depends on its seed only.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

struct Stream {
    id: Arc<StreamId>,
    birth: Birth,
    /// Another birth in the middle, with other holds.
    later: Option<Birth>,
    rows: Vec<InputRow>,
    last_seq: u64,
    lost: Vec<u64>,
}

fn cells(dice: &mut Dice, category: &str, made: &mut f64, t: i64) -> Vec<(&'static str, Cell)> {
    let value = |dice: &mut Dice| match dice.roll(12) {
        0 => Cell::Bad(Quality::TIMEOUT),
        1 => Cell::Absent,
        _ => num((dice.roll(20_000) as f64 - 10_000.0) / 7.0 + t as f64 * 1e-9),
    };
    if category == "telemetry" {
        let state = ["run", "idle", "fault"][dice.roll(3) as usize];
        vec![("a", value(dice)), ("state", if dice.one_in(9) { Cell::Absent } else { text(state) })]
    } else {
        *made += dice.roll(5) as f64;
        vec![
            ("b", value(dice)),
            ("n", if dice.one_in(10) { Cell::Bad(Quality::TIMEOUT) } else { num(*made) }),
        ]
    }
}

fn scenario(dice: &mut Dice) -> Vec<Stream> {
    let mut streams = Vec::new();
    for category in ["telemetry", "counters"] {
        let mut time = BEGIN + dice.roll(100) as i64 * S;
        let mut previous: Option<PreviousEpoch> = None;
        let mut made = 0.0;
        for epoch in 0..=dice.roll(3) {
            let epoch = dice.roll(1000) * 10 + epoch + 1;
            let id = stream("gw", epoch, category);
            let hold = (3 + dice.roll(20) as i64) * S;
            let names = if category == "telemetry" { ["a", "state"] } else { ["b", "n"] };
            let tags = names.iter().map(|name| birth_tag(name, hold, None)).collect();
            let birth = Birth { tags, previous, started_us: time, ..Birth::default() };
            let hold = (3 + dice.roll(20) as i64) * S;
            let tags = names.iter().map(|name| birth_tag(name, hold, None)).collect();
            let later = Birth { after: 1 + dice.roll(60), tags, ..birth.clone() };
            let later = dice.one_in(2).then_some(later);
            let (mut rows, mut lost) = (Vec::new(), Vec::new());
            let count = dice.roll(120);
            for seq in 1..=count {
                time += match dice.roll(30) {
                    0 => (30 + dice.roll(200) as i64) * S,
                    _ => 100_000 + dice.roll(3_000_000) as i64,
                };
                if dice.one_in(25) {
                    lost.push(seq);
                    continue;
                }
                let event = match dice.roll(40) {
                    0 => time - dice.roll(3600) as i64 * S,
                    1 => time + dice.roll(60) as i64 * S,
                    2..8 => time - dice.roll(2_500_000) as i64,
                    _ => time / S * S,
                };
                let mut row = row(&id, seq, event, &cells(dice, category, &mut made, event));
                row.append_us = time + 50_000 + dice.roll(2_000_000) as i64;
                if dice.one_in(60) {
                    row.append_us += 700 * S;
                }
                rows.push(row);
            }
            streams.push(Stream { id, birth, later, rows, last_seq: count, lost });
            previous = Some(PreviousEpoch { epoch: Epoch(epoch), last_seq: count });
            time += dice.roll(40) as i64 * S;
        }
    }
    streams
}

/// The newest revision of every row, by view and event time, as the offline store keeps it: a row that is no
/// more is withdrawn by one of NULLs, never deleted.
type Newest = BTreeMap<(String, i64), FeatureRow>;

/// The stores and the ledger around a driver, as the collector keeps them.
struct World {
    catalog: Arc<Catalog>,
    driver: StreamDriver,
    lake: Vec<InputRow>,
    births: Vec<(Arc<StreamId>, Birth)>,
    ledger: BTreeMap<Arc<StreamId>, IntervalSet>,
    controls: Vec<millrace_preprocess::Control>,
    saved: Option<Vec<u8>>,
    newest: Newest,
    repairs: usize,
    restarts: usize,
}

impl World {
    fn new(catalog: &Arc<Catalog>) -> Self {
        Self {
            catalog: Arc::clone(catalog),
            driver: StreamDriver::new(Arc::clone(catalog), STALL),
            lake: Vec::new(),
            births: Vec::new(),
            ledger: BTreeMap::new(),
            controls: Vec::new(),
            saved: None,
            newest: Newest::new(),
            repairs: 0,
            restarts: 0,
        }
    }

    fn keep(&mut self, rows: Vec<FeatureRow>) {
        for row in rows {
            self.newest.insert((row.view.name.to_string(), row.event_us), row);
        }
    }

    /// What a repair, a backfill and the parity check compute: the lake's windows, and those of the store that the
    /// lake gives no more.
    fn batch(&self, view: &str, from: i64, to: i64) -> Vec<FeatureRow> {
        let view = self.catalog.view(view).unwrap();
        // With no end to waiting, each window comes out once, from all rows (F7 has its own test).
        let mut driver = BatchDriver::new(Arc::clone(view), &machine(), 1_000_000 * S);
        for (id, birth) in self.births.iter().rev() {
            driver.birth(id, birth);
        }
        let begin = driver.rows_from_us(from);
        let needed = self.lake.iter().rev().filter(|r| r.time_us >= begin && r.time_us < to).cloned();
        driver.rows(&needed.collect::<Vec<_>>());
        let mut computed = driver.run(from, to);
        let given: BTreeSet<i64> = computed.iter().map(|row| row.event_us).collect();
        let stored = self.newest.keys().filter(|(name, event_us)| {
            let end = view.window.closed_us(*event_us);
            **name == *view.schema.name && end > from && end <= to && !given.contains(event_us)
        });
        computed.extend(stored.map(|(_, event_us)| driver.again(*event_us)));
        computed
    }

    /// One flush: windows, repairs (from the lake as it is now), controls, and perhaps the state.
    fn flush(&mut self, save: bool) {
        let rows = self.driver.close();
        self.keep(rows);
        for late in self.driver.late() {
            self.repairs += 1;
            let closed = self.driver.closed_until_us(&late.view, &machine()).unwrap();
            let to = closed.min(late.hour_us + HOUR);
            let rows = self.batch(&late.view.schema.name, late.hour_us, to);
            self.keep(rows);
        }
        self.controls.extend(self.driver.controls());
        if save || self.saved.is_none() {
            for (_, bytes) in self.driver.save() {
                self.saved = Some(bytes);
            }
        }
    }

    fn restart(&mut self) {
        self.restarts += 1;
        self.driver = StreamDriver::new(Arc::clone(&self.catalog), STALL);
        if let Some(bytes) = &self.saved {
            self.driver.restore(&machine(), bytes);
        }
        for view in self.catalog.views() {
            let mut events = self.newest.keys().filter(|(name, _)| **name == *view.schema.name);
            if let Some((_, newest)) = events.next_back() {
                self.driver.stored(&machine(), &view.schema, *newest);
            }
        }
        for (id, birth) in &self.births {
            self.driver.birth(id, birth);
        }
        let from = self.driver.rows_from_us(&machine());
        let rows: Vec<InputRow> = self.lake.iter().rev().filter(|r| r.time_us >= from).cloned().collect();
        self.driver.replay(&rows);
        for control in &self.controls {
            self.driver.control(control);
        }
        for (id, set) in &self.ledger {
            self.driver.contiguous(id, set.contiguous());
        }
    }

    fn birth(&mut self, stream: &Arc<StreamId>, birth: &Birth) {
        self.driver.birth(stream, birth);
        self.births.push((Arc::clone(stream), birth.clone()));
    }

    fn deliver(&mut self, stream: &Arc<StreamId>, rows: &[InputRow], lost: &[u64]) {
        let append = rows.iter().map(|r| r.append_us).max().unwrap_or(BEGIN);
        self.driver.heard(stream, "telemetry", append);
        let ledger = self.ledger.entry(Arc::clone(stream)).or_default();
        rows.iter().for_each(|row| ledger.insert(row.seq..=row.seq));
        lost.iter().for_each(|seq| ledger.insert(*seq..=*seq));
        self.driver.rows(rows);
        self.driver.contiguous(stream, ledger.contiguous());
        self.lake.extend_from_slice(rows);
    }
}

/// Plays a scenario and ends it with everything complete.
fn play(dice: &mut Dice, catalog: &Arc<Catalog>, streams: Vec<Stream>) -> World {
    let mut world = World::new(catalog);
    let mut waiting: Vec<(Stream, usize)> = streams.into_iter().map(|s| (s, 0)).collect();
    let (mut born, mut clock) = (std::collections::BTreeSet::new(), BEGIN);
    while waiting.iter().any(|(stream, at)| *at < stream.rows.len() || !born.contains(&stream.id)) {
        let pick = dice.roll(waiting.len() as u64) as usize;
        let (stream, at) = &mut waiting[pick];
        if born.insert(Arc::clone(&stream.id)) {
            world.driver.heard(&stream.id, "telemetry", clock);
            world.birth(&stream.id, &stream.birth);
        }
        let length = 1 + dice.roll(25) as usize;
        let end = stream.rows.len().min(*at + length);
        let mut chunk = stream.rows[*at..end].to_vec();
        *at = end;
        if dice.one_in(3) {
            chunk.reverse();
        }
        let due = stream.later.take_if(|birth| chunk.iter().any(|row| row.seq > birth.after));
        let reached = chunk.iter().map(|r| r.seq).max().unwrap_or(0);
        let until = if end == stream.rows.len() { stream.last_seq } else { reached };
        let lost: Vec<u64> = stream.lost.iter().copied().filter(|seq| *seq <= until).collect();
        clock = chunk.iter().map(|r| r.append_us).max().unwrap_or(clock).max(clock);
        let id = Arc::clone(&stream.id);
        let (first, second) = chunk.split_at(dice.roll(chunk.len() as u64 + 1) as usize);
        let on_time = dice.one_in(2);
        if let Some(birth) = due.as_ref().filter(|_| on_time) {
            world.birth(&id, birth);
        }
        world.deliver(&id, first, &lost);
        world.deliver(&id, second, &[]);
        if let Some(birth) = due.as_ref().filter(|_| !on_time) {
            world.birth(&id, birth);
        }
        if dice.one_in(6) {
            world.driver.clock("telemetry", clock + if dice.one_in(8) { STALL + S } else { 0 });
        }
        if !dice.one_in(3) {
            let save = dice.one_in(3);
            world.flush(save);
            if dice.one_in(8) {
                world.restart();
            }
        }
    }
    let end = clock + 2 * HOUR;
    for (stream, _) in &waiting {
        if let Some(birth) = &stream.later {
            world.birth(&stream.id, birth);
        }
        world.deliver(&stream.id, &[], &stream.lost);
        let done = world.ledger.get(&stream.id).map_or(0, IntervalSet::contiguous);
        assert_eq!(done, stream.last_seq, "the scenario is complete");
        let progress =
            Progress { after: done, complete_until_us: end, numbered: done, waiting_epochs: vec![] };
        world.driver.progress(&stream.id, &progress, end);
    }
    world.flush(true);
    world
}

fn same(a: &FeatureRow, b: &FeatureRow) -> bool {
    let bits = |x: &Option<FeatureValue>, y: &Option<FeatureValue>| match (x, y) {
        (Some(x), Some(y)) => x.same_bits(y),
        (x, y) => x == y,
    };
    a.event_us == b.event_us
        && a.entity == b.entity
        && a.coverage.to_bits() == b.coverage.to_bits()
        && a.values.len() == b.values.len()
        && a.values.iter().zip(&b.values).all(|(x, y)| bits(x, y))
}

fn check(seed: u64) -> Result<(), TestCaseError> {
    let mut dice = Dice(seed);
    let catalog = catalog(VIEWS);
    let streams = scenario(&mut dice);
    let world = play(&mut dice, &catalog, streams);
    let mut compared = 0;
    for view in catalog.views() {
        let name = view.schema.name.to_string();
        let closed = world.driver.closed_until_us(view, &machine()).unwrap_or(BEGIN);
        let batch = world.batch(&name, BEGIN - 3 * HOUR, closed);
        let batched: BTreeMap<i64, &FeatureRow> = batch.iter().map(|row| (row.event_us, row)).collect();
        let of_view = world.newest.iter().filter(|((view, _), _)| *view == name);
        let streamed: BTreeMap<i64, &FeatureRow> = of_view.map(|((_, at), row)| (*at, row)).collect();
        prop_assert_eq!(
            streamed.keys().collect::<Vec<_>>(),
            batched.keys().collect::<Vec<_>>(),
            "the windows of {} with seed {}",
            name,
            seed
        );
        for (end, row) in &streamed {
            prop_assert!(
                same(row, batched[end]),
                "{} at {} with seed {}:\n{:?}\n{:?}",
                name,
                end,
                seed,
                row,
                batched[end]
            );
            compared += 1;
        }
    }
    prop_assert!(compared > 0 || world.lake.is_empty() || world.newest.is_empty());
    against_oracle(&world, seed)
}

/// Finds the hold of a row's tag: the newest birth before it says it.
fn hold(births: &[(Arc<StreamId>, Birth)], row: &InputRow, tag: &str) -> i64 {
    let before = births.iter().filter(|(id, birth)| *id == row.stream && birth.after < row.seq);
    let newest = before.max_by_key(|(_, birth)| birth.after).unwrap();
    newest.1.tags.iter().find(|known| &*known.name == tag).unwrap().hold_us
}

fn against_oracle(world: &World, seed: u64) -> Result<(), TestCaseError> {
    let oracle = Oracle::new(&world.lake, |row, tag| hold(&world.births, row, tag));
    let nothing = |row: &FeatureRow| row.values.iter().all(Option::is_none);
    for ((view, end), row) in world.newest.iter().filter(|((view, _), row)| view == "hop" && !nothing(row)) {
        let (from, to) = (end - 60 * S, *end);
        let expected = [
            ("mean", oracle.mean("a", from, to)),
            ("std", oracle.std("a", from, to)),
            ("max", oracle.max("a", from, to)),
            ("median", oracle.median("a", from, to)),
            ("made", oracle.increase("n", from, to)),
            ("run_s", oracle.seconds_in("state", "run", from, to)),
            ("both", oracle.mean_of_sum("a", "b", from, to)),
        ];
        for (name, expected) in expected {
            let got = f64_of(row, name);
            let near = match (got, expected) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * b.abs().max(1.0),
                (a, b) => a == b,
            };
            prop_assert!(
                near,
                "{} {} at {} with seed {}: {:?}, oracle {:?}",
                view,
                name,
                end,
                seed,
                got,
                expected
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("MILLRACE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60), failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))), ..ProptestConfig::default() })]

    #[test]
    fn stream_equals_batch_equals_oracle(seed in any::<u64>()) {
        check(seed)?;
    }
}

#[test]
fn scenarios_hold_what_they_are_meant_to_test() {
    let catalog = catalog(VIEWS);
    let (mut windows, mut late, mut given_up, mut restarts) = (0, 0, 0, 0);
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let streams = scenario(&mut dice);
        let world = play(&mut dice, &catalog, streams);
        windows += world.newest.len();
        late += world.repairs;
        given_up += world.controls.len();
        restarts += world.restarts;
    }
    println!("{windows} windows, {late} repairs, {given_up} given up, {restarts} restarts");
    assert!(
        windows > 4000 && late > 100 && given_up > 10 && restarts > 40,
        "{windows} {late} {given_up} {restarts}"
    );
}
