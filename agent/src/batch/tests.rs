//! The batch stage on a real buffer: numbers, chunks, confirmations, redelivery, births.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;

use millrace_protocol::{
    Birth, BootId, Cell, Chunk, ClockSegment, Layout, LayoutColumn, Quality, RawRow, Reporting, Row,
    RowFlags, StreamRow, UnsyncedClock, Value, ValueType,
};
use tokio::sync::oneshot;

use super::*;
use crate::buffer::tests::Rig;
use crate::buffer::{BufferReader, Stored};
use crate::delivery::Publish;

fn machine(name: &str) -> MachineName {
    MachineName::new(name).unwrap()
}

fn telemetry() -> Category {
    Category::new("telemetry").unwrap()
}

fn layout(tags: &[&str]) -> Arc<Layout> {
    let column = |tag: &&str| LayoutColumn { tag: Arc::from(*tag), value_type: ValueType::F64 };
    Arc::new(Layout::new(tags.iter().map(column).collect()))
}

fn row(name: &str, layout: &Arc<Layout>, time_us: i64) -> StreamRow {
    let cells = vec![Cell::Good(Value::F64(time_us as f64)); layout.columns().len()];
    let row = Row { time_us, flags: RowFlags::default(), layout: Arc::clone(layout), cells };
    StreamRow { machine: machine(name), category: telemetry(), row }
}

fn delivery(rows: Vec<StreamRow>) -> Delivery {
    let counts = rows.iter().map(|r| {
        let points = r.row.points() as u64;
        (r.machine.clone(), SourceCounts { due: points, good: points, ..SourceCounts::default() })
    });
    Delivery {
        counts: counts.collect(),
        rows,
        raw: None,
        clock: ClockSegment::default(),
        new_tags: Vec::new(),
        publish: None,
    }
}

fn published(
    delivery: Delivery,
    connection: u64,
    hash: u64,
    dup: bool,
) -> (Delivery, oneshot::Receiver<Confirmed>) {
    let (confirm, confirmed) = oneshot::channel();
    let publish = Publish { session: 1, connection, hash, dup, confirm };
    (Delivery { publish: Some(publish), ..delivery }, confirmed)
}

fn tag(name: &str, unit: &str) -> BirthTag {
    BirthTag {
        name: name.into(),
        value_type: None,
        unit: Some(unit.into()),
        source: "test".into(),
        reporting: Reporting::Spontaneous,
        hold_us: 0,
        counter_modulus: None,
    }
}

fn tags(name: &str, tags: &[BirthTag]) -> NewTags {
    NewTags { machine: machine(name), category: telemetry(), tags: tags.into(), attributes: Vec::new() }
}

fn options(streams: Vec<NewTags>) -> BatchOptions {
    BatchOptions {
        streams,
        site: "hall".to_owned(),
        sync_interval: Duration::from_millis(20),
        mqtt_window: 20,
        observer: None,
        horizon: crate::delivery::Horizon::default(),
        clock: Arc::new(TestClock::set(1)),
        clock_hold: Duration::from_secs(600),
    }
}

/// A clock that a test sets; its monotonic time runs from 0 and stands between two looks.
#[derive(Debug)]
struct TestClock {
    boot_id: BootId,
    monotonic_us: AtomicI64,
    /// Wall time − monotonic time; 0: not set.
    offset_us: AtomicI64,
}

impl TestClock {
    fn unset(boot: u8) -> Self {
        Self { boot_id: BootId([boot; 16]), monotonic_us: AtomicI64::new(0), offset_us: AtomicI64::new(0) }
    }

    fn set(boot: u8) -> Self {
        let clock = Self::unset(boot);
        clock.offset_us.store(SET_US, Ordering::SeqCst);
        clock
    }
}

const SET_US: i64 = 1_800_000_000_000_000;

impl Clock for TestClock {
    fn now_us(&self) -> i64 {
        self.monotonic_us() + self.offset_us.load(Ordering::SeqCst)
    }

    fn monotonic_us(&self) -> i64 {
        self.monotonic_us.load(Ordering::SeqCst)
    }

    fn boot_id(&self) -> BootId {
        self.boot_id
    }

    fn segment(&self) -> ClockSegment {
        let offset_us = self.offset_us.load(Ordering::SeqCst);
        let clock = UnsyncedClock { boot_id: self.boot_id, wall_minus_monotonic_us: offset_us };
        ClockSegment { number: 0, unsynced: (offset_us == 0).then_some(clock) }
    }
}

struct Running {
    sender: mpsc::Sender<Delivery>,
    thread: JoinHandle<Result<(), BatchError>>,
    reader: BufferReader,
}

impl Running {
    fn start(rig: &mut Rig, options: BatchOptions) -> Self {
        let (buffer, reader) = rig.start();
        let batch = Batch::new(buffer, options).unwrap();
        let (sender, receiver) = mpsc::channel(DELIVERIES);
        let thread = std::thread::spawn(move || batch.run(receiver));
        Self { sender, thread, reader }
    }

    fn send(&self, delivery: Delivery) {
        self.sender.blocking_send(delivery).unwrap();
    }

    /// Ends the stage, which flushes what waits; the reader stays.
    fn stop(self) -> BufferReader {
        drop(self.sender);
        self.thread.join().unwrap().unwrap();
        self.reader
    }
}

fn rows_of(taken: &[Stored], name: &str) -> Vec<(u64, Row)> {
    let mut rows = Vec::new();
    for stored in taken.iter().filter(|s| s.stream.machine == machine(name)) {
        if let Ok(Item::Chunk(chunk)) = Item::decode(&stored.item) {
            let layout = stored.layout.as_ref().unwrap();
            rows.extend(Chunk::unpack(&chunk, layout).unwrap().rows());
        }
    }
    rows
}

fn births_of(taken: &[Stored], name: &str) -> Vec<Birth> {
    let items = taken.iter().filter(|s| s.stream.machine == machine(name)).map(|s| Item::decode(&s.item));
    items.filter_map(|item| if let Ok(Item::Birth(birth)) = item { Some(birth) } else { None }).collect()
}

#[test]
fn rows_are_numbered_without_holes_across_layouts_and_clock_segments() {
    let mut rig = Rig::new();
    let running = Running::start(&mut rig, options(Vec::new()));
    let (one, two) = (layout(&["a"]), layout(&["a", "b"]));
    for n in 0..100 {
        let shape = if n % 10 == 9 { &two } else { &one };
        let mut delivery = delivery(vec![row("hall/m", shape, n), row("hall/other", &one, n)]);
        delivery.clock.number = u32::from(n >= 55);
        running.send(delivery);
    }
    let reader = running.stop();
    let taken = reader.take(usize::MAX);
    let rows = rows_of(&taken, "hall/m");
    assert_eq!(rows.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
    assert_eq!(rows.iter().map(|(_, r)| r.time_us).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    let books = reader.books();
    assert!(books.balanced, "{books:?}");
    assert_eq!(books.source.iter().map(|s| s.numbered).collect::<Vec<_>>(), [110, 100]);
}

#[test]
fn a_publish_is_confirmed_when_it_is_on_disk_and_stored_once_over_kills() {
    let mut rig = Rig::new();
    let one = layout(&["a"]);
    let running = Running::start(&mut rig, options(Vec::new()));
    let mut waiting = Vec::new();
    for n in 0..25 {
        let (delivery, confirmed) = published(delivery(vec![row("hall/m", &one, n)]), 1, n as u64, false);
        running.send(delivery);
        waiting.push(confirmed);
    }
    for confirmed in waiting {
        assert_eq!(confirmed.blocking_recv(), Ok(Confirmed::Stored));
        assert!(running.reader.numbered(&running.reader.streams()[0].stream) > 0);
    }
    rig.end();
    drop(running.stop());
    rig.restore_image();
    let running = Running::start(&mut rig, options(Vec::new()));
    for (n, dup, expected) in [(23, true, Confirmed::Redelivered), (24, false, Confirmed::Stored)] {
        let again = delivery(vec![row("hall/m", &one, n)]);
        let (delivery, confirmed) = published(again, 2, n as u64, dup);
        running.send(delivery);
        assert_eq!(confirmed.blocking_recv(), Ok(expected), "{n}");
    }
    let reader = running.stop();
    let times: Vec<i64> =
        rows_of(&reader.take(usize::MAX), "hall/m").iter().map(|(_, r)| r.time_us).collect();
    assert_eq!(times, [24].into_iter().chain(0..25).collect::<Vec<_>>(), "this start's rows go first");
    let books = reader.books();
    assert_eq!((books.redelivered, books.balanced), (1, true));
    assert_eq!(books.source[0].due, 26, "what was redelivered is not due again");
}

#[test]
fn every_stream_of_configuration_and_manifest_is_born_at_each_start() {
    let mut rig = Rig::new();
    let one = layout(&["a"]);
    let running = Running::start(&mut rig, options(vec![tags("hall/m", &[tag("a", "bar")])]));
    running.send(delivery(vec![
        row("hall/m", &one, 1),
        row("hall/m", &one, 2),
        row("hall/unnamed", &one, 1),
    ]));
    let announced = Delivery {
        new_tags: vec![tags("hall/m", &[tag("b", "A")]), tags("hall/m", &[tag("a", "Pa")])],
        ..delivery(vec![row("hall/m", &one, 3)])
    };
    running.send(announced);
    let taken = running.stop().take(usize::MAX);
    let births = births_of(&taken, "hall/m");
    assert_eq!(births.iter().map(|b| b.after).collect::<Vec<_>>(), [0, 2, 2]);
    let names = |b: &Birth| {
        b.tags.iter().map(|t| (t.name.to_string(), t.unit.clone().unwrap().to_string())).collect::<Vec<_>>()
    };
    assert_eq!(names(&births[1]), [("a".into(), "bar".into()), ("b".into(), "A".into())]);
    assert_eq!(names(&births[2]), [("a".into(), "Pa".into()), ("b".into(), "A".into())]);
    assert!(births.iter().all(|b| b.previous.is_none() && b.last_flushed_us.is_none()));
    assert_eq!(births_of(&taken, "hall/unnamed").len(), 1);

    let running = Running::start(&mut rig, options(Vec::new()));
    let streams = running.reader.streams();
    let previous =
        streams.iter().find(|s| !s.is_current && s.stream.machine == machine("hall/m")).unwrap().clone();
    let taken: Vec<Stored> =
        running.stop().take(usize::MAX).into_iter().filter(|s| s.stream != previous.stream).collect();
    let births = births_of(&taken, "hall/m");
    let chain = births[0].previous.unwrap();
    assert_eq!((births.len(), births[0].after), (1, 0));
    assert_eq!((chain.epoch, chain.last_seq), (previous.stream.epoch, 3));
    assert_eq!(names(&births[0]), [("a".into(), "Pa".into()), ("b".into(), "A".into())]);
    assert!(births[0].last_flushed_us.is_some());
}

#[test]
fn what_no_item_can_hold_becomes_a_raw_row_and_the_books_balance() {
    let mut rig = Rig::new();
    let running = Running::start(&mut rig, options(Vec::new()));
    let text = Arc::new(Layout::new(vec![LayoutColumn { tag: "text".into(), value_type: ValueType::Text }]));
    let mut large = row("hall/m", &text, 2);
    large.row.cells = vec![Cell::Good(Value::Text("x".repeat(2_000_000).into()))];
    let mut small = row("hall/m", &text, 1);
    small.row.cells = vec![Cell::Good(Value::Text("x".into()))];
    let mut bad = row("hall/m", &text, 3);
    bad.row.cells = vec![Cell::Bad(Quality::TIMEOUT)];
    running.send(delivery(vec![small, large, bad]));
    let raw = RawRow {
        time_us: 4,
        topic: "plant/x".into(),
        payload: vec![7; 1_500_000].into(),
        reason: "not JSON".into(),
    };
    running.send(Delivery { raw: Some(raw), ..delivery(Vec::new()) });
    let reader = running.stop();
    let taken = reader.take(usize::MAX);
    let rows = rows_of(&taken, "hall/m");
    assert_eq!(rows.iter().map(|(seq, r)| (*seq, r.time_us)).collect::<Vec<_>>(), [(1, 1), (2, 3)]);
    let mut raws = Vec::new();
    for stored in taken.iter().filter(|s| s.stream.machine == machine("hall/gw")) {
        if let Ok(Item::Raw(raw)) = Item::decode(&stored.item) {
            raws.extend(raw.rows);
        }
    }
    raws.sort_by_key(|r| -r.time_us);
    assert_eq!(raws.iter().map(|r| r.time_us).collect::<Vec<_>>(), [4, 2]);
    assert_eq!(raws[0].payload.len(), 512 * 1024);
    let books = reader.books();
    assert!(books.balanced, "{books:?}");
    assert_eq!(
        books.source.iter().map(|s| (s.due, s.suppressed, s.numbered)).collect::<Vec<_>>(),
        [(3, 1, 2)]
    );
}

#[test]
fn with_a_dead_disk_rows_are_volatile_and_confirmed_by_kafka() {
    let mut rig = Rig::new();
    let one = layout(&["a"]);
    let running = Running::start(&mut rig, options(Vec::new()));
    let (first, confirmed) = published(delivery(vec![row("hall/m", &one, 1)]), 1, 1, false);
    running.send(first);
    assert_eq!(confirmed.blocking_recv(), Ok(Confirmed::Stored));
    rig.fill_disk(true);
    let (second, mut confirmed) = published(delivery(vec![row("hall/m", &one, 2)]), 1, 2, false);
    running.send(second);
    let mut taken = Vec::new();
    while rows_of(&taken, "hall/m").len() < 2 {
        taken.extend(running.reader.take(usize::MAX));
        std::thread::yield_now();
    }
    let mut rows = rows_of(&taken, "hall/m");
    rows.sort_by_key(|(seq, _)| *seq);
    let flags: Vec<(u64, bool)> =
        rows.iter().map(|(seq, r)| (*seq, r.flags.contains(RowFlags::VOLATILE))).collect();
    assert_eq!(flags, [(1, false), (2, true)]);
    assert!(confirmed.try_recv().is_err(), "it is neither on disk nor in Kafka");
    let positions: Vec<_> = taken.iter().map(|s| s.position).collect();
    running.reader.acknowledge(&positions);
    assert_eq!(confirmed.blocking_recv(), Ok(Confirmed::Stored));
    running.stop();
}

#[test]
fn with_a_dead_disk_a_redelivery_waits_for_kafka_and_is_new_when_its_rows_gave_way() {
    let mut rig = Rig::new();
    let (one, text) = (layout(&["a"]), LayoutColumn { tag: "text".into(), value_type: ValueType::Text });
    let text = Arc::new(Layout::new(vec![text]));
    let running = Running::start(&mut rig, options(Vec::new()));
    rig.fill_disk(true);
    let publish = |connection, dup| published(delivery(vec![row("hall/m", &one, 2)]), connection, 2, dup);
    // Takes until so many rows of the machine have come.
    let take = |name: &str, rows: usize| {
        let mut taken = Vec::new();
        while rows_of(&taken, name).len() < rows {
            taken.extend(running.reader.take(usize::MAX));
            std::thread::yield_now();
        }
        taken
    };
    let (first, mut confirmed) = publish(1, false);
    running.send(first);
    let (again, mut confirmed_again) = publish(2, true);
    running.send(again);
    running.send(delivery(vec![row("hall/later", &one, 1)]));
    let taken = take("hall/later", 1);
    assert_eq!(rows_of(&taken, "hall/m").len(), 1);
    assert!(confirmed.try_recv().is_err() && confirmed_again.try_recv().is_err());
    running.reader.acknowledge(&taken.iter().map(|s| s.position).collect::<Vec<_>>());
    assert_eq!(confirmed.blocking_recv(), Ok(Confirmed::Stored));
    assert_eq!(confirmed_again.blocking_recv(), Ok(Confirmed::Redelivered));

    let (second, confirmed) = published(delivery(vec![row("hall/m", &one, 3)]), 2, 3, false);
    running.send(second);
    for n in 0..11 {
        let mut large = row("hall/large", &text, n);
        large.row.cells = vec![Cell::Good(Value::Text("x".repeat(900_000).into()))];
        running.send(delivery(vec![large]));
    }
    assert!(confirmed.blocking_recv().is_err(), "its rows gave way: the broker must send it again");
    let (again, confirmed) = published(delivery(vec![row("hall/m", &one, 3)]), 3, 3, true);
    running.send(again);
    let taken = take("hall/m", 1);
    running.reader.acknowledge(&taken.iter().map(|s| s.position).collect::<Vec<_>>());
    assert_eq!(confirmed.blocking_recv(), Ok(Confirmed::Stored), "it is a new one");
    running.stop();
}

/// Waits until what the reader gives says so; nothing is taken back.
fn take_until(reader: &BufferReader, is_so: impl Fn(&[Stored]) -> bool) -> Vec<Stored> {
    let (begun, mut taken) = (Instant::now(), Vec::new());
    while !is_so(&taken) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{taken:?}");
        taken.extend(reader.take(usize::MAX));
        std::thread::sleep(Duration::from_millis(1));
    }
    taken
}

/// Corrections of the clock by machine: (boot, offset, after), and at which place they were taken.
fn corrections(taken: &[Stored]) -> Vec<(usize, String, (u8, i64, u64))> {
    let correction = |(at, stored): (usize, &Stored)| match Item::decode(&stored.item) {
        Ok(Item::Clock(c)) => {
            Some((at, stored.stream.machine.to_string(), (c.boot_id.0[0], c.offset_us, c.after)))
        }
        _ => None,
    };
    taken.iter().enumerate().filter_map(correction).collect()
}

#[test]
fn rows_of_a_clock_that_is_not_set_wait_on_disk_and_the_correction_goes_ahead_of_them() {
    let mut rig = Rig::new();
    let one = layout(&["a"]);
    let clock = Arc::new(TestClock::unset(7));
    let options = BatchOptions { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..options(Vec::new()) };
    let running = Running::start(&mut rig, options);
    let (first, confirmed) = published(delivery(vec![row("hall/m", &one, 5)]), 1, 1, false);
    running.send(first);
    assert_eq!(confirmed.blocking_recv(), Ok(Confirmed::Stored), "it is on disk, so it is confirmed");
    let early = running.reader.take(usize::MAX);
    assert!(early.iter().all(|s| s.seq.is_none()), "{early:?}");
    clock.monotonic_us.store(30_000_000, Ordering::SeqCst);
    clock.offset_us.store(SET_US, Ordering::SeqCst);
    let taken = take_until(&running.reader, |taken| !rows_of(taken, "hall/m").is_empty());
    let found = corrections(&taken);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&*found[0].1, found[0].2), ("hall/m", (7, SET_US, 1)));
    assert!(taken[..found[0].0].iter().all(|s| s.seq.is_none()), "the correction is the first to know");
    running.stop();
}

#[test]
fn rows_wait_no_longer_than_hold_and_are_placed_by_the_next_start_of_the_same_boot() {
    let mut rig = Rig::new();
    let one = layout(&["a"]);
    let clock = Arc::new(TestClock::unset(7));
    let with = |clock: &Arc<TestClock>| BatchOptions {
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        ..options(vec![tags("hall/m", &[])])
    };
    let running = Running::start(&mut rig, with(&clock));
    running.send(delivery(vec![row("hall/m", &one, 5)]));
    clock.monotonic_us.store(600_000_000, Ordering::SeqCst);
    let taken = take_until(&running.reader, |taken| !rows_of(taken, "hall/m").is_empty());
    assert_eq!(corrections(&taken), []);
    running.stop();

    clock.offset_us.store(SET_US, Ordering::SeqCst);
    let running = Running::start(&mut rig, with(&clock));
    let taken = take_until(&running.reader, |taken| !corrections(taken).is_empty());
    assert_eq!(corrections(&taken)[0].2, (7, SET_US, 0));
    running.stop();
    let reader = Running::start(&mut rig, with(&clock)).stop();
    let taken = reader.take(usize::MAX);
    assert_eq!(corrections(&taken).len(), 1, "it was not acknowledged; it is not made again");
}

#[test]
fn the_clock_of_another_boot_places_nothing() {
    let mut rig = Rig::new();
    let with =
        |clock: TestClock| BatchOptions { clock: Arc::new(clock), ..options(vec![tags("hall/m", &[])]) };
    Running::start(&mut rig, with(TestClock::unset(7))).stop();
    let reader = Running::start(&mut rig, with(TestClock::set(8))).stop();
    assert_eq!(corrections(&reader.take(usize::MAX)), []);
}

#[test]
fn progress_does_not_run_past_a_poll_that_is_under_way() {
    let mut rig = Rig::new();
    let options = options(Vec::new());
    let underway = options.horizon.source();
    underway.begin(5);
    let running = Running::start(&mut rig, options);
    let until = |is_so: fn(i64) -> bool| {
        let begun = Instant::now();
        while !running.reader.settled_us().is_some_and(is_so) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", running.reader.settled_us());
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    until(|settled_us| settled_us == 4);
    underway.end();
    until(|settled_us| settled_us > 5);
    drop(running.stop());
}

#[test]
fn the_gap_that_a_kill_leaves_begins_before_the_poll_that_was_under_way_and_not_at_the_last_flush() {
    let mut rig = Rig::new();
    let options = options(vec![tags("hall/m", &[])]);
    let underway = options.horizon.source();
    underway.begin(5);
    let running = Running::start(&mut rig, options);
    let begun = Instant::now();
    while running.reader.settled_us() != Some(4) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", running.reader.settled_us());
        std::thread::sleep(Duration::from_millis(1));
    }
    // Another bus goes on and is flushed; what is under way is never handed over.
    running.send(delivery(vec![row("hall/other", &layout(&["a"]), 1)]));
    let books = running.stop().books();
    let settled_at = books.settled_at.unwrap();
    assert_eq!(settled_at, "1970-01-01T00:00:00.000004Z");
    assert!(books.flushed_at.unwrap() > settled_at);
    let taken = Running::start(&mut rig, self::options(vec![tags("hall/m", &[])])).stop().take(usize::MAX);
    let births = births_of(&taken, "hall/m");
    assert_eq!(births.last().unwrap().last_flushed_us, Some(4), "{births:?}");
}

#[test]
fn what_a_source_still_holds_for_want_of_room_is_not_passed_by() {
    let mut rig = Rig::new();
    let (buffer, _reader) = rig.start();
    let mut batch = Batch::new(buffer, options(Vec::new())).unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let began_us = batch.reached_us;
    batch.set_mark(&receiver);
    assert!(batch.reached_us < began_us, "the channel is empty: the horizon is reached");
    let reached_us = batch.reached_us;
    sender.try_send(delivery(vec![row("hall/m", &layout(&["a"]), 1)])).unwrap();
    batch.set_mark(&receiver);
    batch.take(receiver.try_recv().unwrap());
    assert_eq!(batch.reached_us, reached_us, "the channel was full: somebody may wait for room");
    let promised = sender.try_reserve().unwrap();
    batch.set_mark(&receiver);
    assert_eq!(batch.reached_us, reached_us, "room is promised");
    drop(promised);
    batch.set_mark(&receiver);
    assert!(batch.reached_us > reached_us);
}
