//! Tests of `poll`: against a scripted device where there is a wire, against a slow reference where there is none.

use std::collections::BTreeMap;
use std::sync::Mutex;

use millrace_protocol::{Category, Cell, RowFlags, UnsyncedClock, Value};

use super::super::sample;
use super::super::script::{Answer, Asked, Server};
use super::*;
use crate::config::{Device, Tag};
use crate::delivery::{Horizon, SourceCounts};

/// A clock that goes on by a millisecond at each reading and steps when a test says so.
struct TestClock(Mutex<(i64, ClockSegment)>);

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((1_000_000, ClockSegment::default()))))
    }
}

impl Clock for TestClock {
    fn now_us(&self) -> i64 {
        let mut state = self.0.lock().unwrap();
        state.0 += 1_000;
        state.0
    }
    fn monotonic_us(&self) -> i64 {
        0
    }
    fn boot_id(&self) -> millrace_protocol::BootId {
        millrace_protocol::BootId([0; 16])
    }

    fn segment(&self) -> ClockSegment {
        self.0.lock().unwrap().1
    }
}

/// The deliveries of a running poll; ends it when dropped.
struct Running {
    deliveries: mpsc::Receiver<Delivery>,
    clock: Arc<TestClock>,
    _stop: tokio_util::sync::DropGuard,
}

impl Running {
    #[expect(clippy::disallowed_methods, reason = "a poll for tests has no supervisor")]
    fn start(bus: Bus) -> Self {
        let (sender, deliveries) = mpsc::channel(1);
        let (clock, stop) = (TestClock::new(), CancellationToken::new());
        let of_task: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        tokio::spawn(run(bus, of_task, sender, Horizon::default().source(), stop.clone()));
        Self { deliveries, clock, _stop: stop.drop_guard() }
    }

    async fn next(&mut self) -> Delivery {
        tokio::time::timeout(Duration::from_secs(20), self.deliveries.recv()).await.unwrap().unwrap()
    }

    async fn next_of(&mut self, unit: u8) -> Delivery {
        let machine = format!("hall/unit-{unit}");
        loop {
            let delivery = self.next().await;
            if delivery.counts.iter().any(|(name, _)| name.as_str() == machine) {
                return delivery;
            }
        }
    }
}

/// The cells of a delivery by tag.
fn cells(delivery: &Delivery) -> BTreeMap<String, Cell> {
    let rows = delivery.rows.iter().map(|row| &row.row);
    rows.flat_map(|row| row.layout.columns().iter().zip(&row.cells))
        .filter(|(_, cell)| cell.is_point())
        .map(|(column, cell)| (column.tag.to_string(), cell.clone()))
        .collect()
}

fn expected(cells: &[(&str, Result<u64, Quality>)]) -> BTreeMap<String, Cell> {
    let cell = |result: Result<u64, Quality>| result.map_or_else(Cell::Bad, |n| Cell::Good(Value::U64(n)));
    cells.iter().map(|&(name, result)| (name.to_owned(), cell(result))).collect()
}

fn counts(delivery: &Delivery) -> SourceCounts {
    delivery.counts[0].1
}

fn assert_balanced(delivery: &Delivery) {
    let counts = counts(delivery);
    let points: usize = delivery.rows.iter().map(|row| row.row.points()).sum();
    assert_eq!(counts.due, counts.good + counts.bad + counts.skipped, "{counts:?}");
    assert_eq!(counts.good + counts.bad, counts.suppressed + points as u64, "{counts:?}");
}

/// Tags so far apart that each makes a request of its own.
fn apart(addresses: &[u16]) -> Vec<Tag> {
    addresses.iter().map(|&a| sample::holding(&format!("t{a}"), a)).collect()
}

async fn start(
    devices: Vec<Device>,
    script: impl Fn(Asked) -> Answer + Send + Sync + 'static,
) -> (Server, Running) {
    let server = Server::start(script).await;
    let running = Running::start(sample::bus(&server.endpoint(), devices));
    (server, running)
}

#[tokio::test]
async fn a_cycle_gives_one_row_per_category_all_at_the_instant_of_the_first_reply() {
    let mut tags = apart(&[0, 100, 200]);
    tags[1].category = Category::new("temperature").unwrap();
    let (_server, mut running) = start(vec![sample::device(1, tags)], |_| Answer::Addresses(7)).await;
    let delivery = running.next().await;
    assert_eq!(cells(&delivery), expected(&[("t0", Ok(7)), ("t100", Ok(107)), ("t200", Ok(207))]));
    let rows: Vec<_> = delivery
        .rows
        .iter()
        .map(|row| (row.category.as_str(), row.row.time_us, row.row.cells.len()))
        .collect();
    // Three readings at the beginning, two at the first reply, none at the others.
    assert_eq!(rows, [("telemetry", 1_005_000, 2), ("temperature", 1_005_000, 1)]);
    assert_balanced(&delivery);
    assert_eq!(counts(&delivery).good, 3);
}

#[tokio::test]
async fn a_failing_block_spoils_only_its_own_tags() {
    let (_server, mut running) =
        start(vec![sample::device(1, apart(&[0, 100, 200, 300, 400]))], |asked| match asked.address {
            100 => Answer::Exception(4),
            200 => Answer::Registers(vec![1, 2, 3]),
            300 => Answer::OtherUnit(9, vec![5]),
            _ => Answer::Addresses(0),
        })
        .await;
    let delivery = running.next().await;
    let seen = expected(&[
        ("t0", Ok(0)),
        ("t100", Err(Quality::exception(4))),
        ("t200", Err(Quality::WRONG_LENGTH)),
        ("t300", Err(Quality::MISMATCH)),
        ("t400", Ok(400)),
    ]);
    assert_eq!(cells(&delivery), seen);
    assert_balanced(&delivery);
    // The reasons stay, so they are not said again; the block without an answer is left alone.
    let delivery = running.next().await;
    assert_eq!(
        cells(&delivery),
        expected(&[("t0", Ok(0)), ("t300", Err(Quality::BACKOFF)), ("t400", Ok(400))])
    );
    assert_eq!((counts(&delivery).bad, counts(&delivery).suppressed), (3, 2));
    assert_balanced(&delivery);
}

#[tokio::test]
async fn a_dead_or_late_unit_costs_the_others_one_timeout_and_its_points_come_at_its_own_rate() {
    for answer in [Answer::Silence, Answer::Late(vec![111])] {
        slowed_by(answer).await;
    }
}

async fn slowed_by(answer: Answer) {
    let devices = vec![sample::device(1, apart(&[0, 100, 200])), sample::device(2, apart(&[0]))];
    let (server, mut running) = start(devices, move |asked| match asked.unit {
        1 => answer.clone(),
        _ => Answer::Addresses(0),
    })
    .await;
    let dead = running.next_of(1).await;
    let timeout = Err(Quality::TIMEOUT);
    assert_eq!(cells(&dead), expected(&[("t0", timeout), ("t100", timeout), ("t200", timeout)]));
    let backoff = running.next_of(1).await;
    assert_eq!(counts(&backoff).bad, 3);
    assert_eq!(cells(&backoff).into_values().collect::<Vec<_>>(), vec![Cell::Bad(Quality::BACKOFF); 3]);
    // Cycles of both go on in turn, and no question is asked of the dead one in its backoff.
    let (mut alive, mut left_alone) = (0, 0);
    while alive < 50 || left_alone < 50 {
        let delivery = running.next().await;
        assert_balanced(&delivery);
        match counts(&delivery) {
            SourceCounts { good: 1, bad: 0, .. } => alive += 1,
            SourceCounts { good: 0, bad: 3, .. } => left_alone += 1,
            other => unreachable!("{other:?}"),
        }
    }
    let asked = server.asked().iter().filter(|asked| asked.unit == 1).count();
    // The backoff doubles: ten questions would take minutes.
    assert!(asked < 10, "{asked} questions in {left_alone} cycles");
}

#[tokio::test]
async fn a_late_unit_never_answers_for_the_other_one() {
    let devices = vec![sample::device(1, apart(&[0])), sample::device(2, apart(&[0]))];
    let (_server, mut running) = start(devices, |asked| match asked.unit {
        1 => Answer::Late(vec![111]),
        _ => Answer::Registers(vec![222]),
    })
    .await;
    assert_eq!(cells(&running.next_of(1).await), expected(&[("t0", Err(Quality::TIMEOUT))]));
    for _ in 0..5 {
        assert_eq!(cells(&running.next_of(2).await), expected(&[("t0", Ok(222))]));
    }
}

#[tokio::test]
async fn a_refused_range_is_split_until_only_the_tag_that_is_not_there_is_bad_and_stays_so() {
    let tags = (0..6).map(|a| sample::holding(&format!("t{a}"), a)).collect();
    let (server, mut running) = start(vec![sample::device(1, tags)], |asked| {
        match (asked.address..asked.address + asked.count).contains(&4) {
            true => Answer::Exception(2),
            false => Answer::Addresses(0),
        }
    })
    .await;
    let first = running.next().await;
    let good = [("t0", Ok(0)), ("t1", Ok(1)), ("t2", Ok(2)), ("t3", Ok(3)), ("t5", Ok(5))];
    let mut all = expected(&good);
    all.insert("t4".to_owned(), Cell::Bad(Quality::exception(2)));
    assert_eq!(cells(&first), all);
    let second = running.next().await;
    assert_eq!(cells(&second), expected(&good));
    for delivery in [&first, &second] {
        assert_balanced(delivery);
        assert_eq!(delivery.rows[0].row.layout, first.rows[0].row.layout);
    }
    let asked: Vec<_> = server.asked().iter().map(|a| (a.address, a.count)).collect();
    // The whole, halves of what was refused, and in the next cycle what is left of it.
    assert_eq!(asked[..6], [(0, 6), (0, 3), (3, 3), (3, 2), (3, 1), (4, 1)]);
    assert_eq!(asked[6..11], [(5, 1), (0, 3), (3, 1), (4, 1), (5, 1)]);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_gives_bad_points_without_asking() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let devices = vec![sample::device(1, apart(&[0, 100])), sample::device(2, apart(&[0]))];
    let mut running = Running::start(sample::bus(&free.to_string(), devices));
    let no = Err(Quality::NO_CONNECTION);
    assert_eq!(cells(&running.next_of(1).await), expected(&[("t0", no), ("t100", no)]));
    assert_eq!(cells(&running.next_of(2).await), expected(&[("t0", no)]));
    let repeated = running.next_of(1).await;
    assert!(repeated.rows.is_empty());
    assert_eq!((counts(&repeated).bad, counts(&repeated).suppressed), (2, 2));
    assert_balanced(&repeated);
}

#[tokio::test]
async fn a_request_is_repeated_within_its_cycle_as_often_as_configured() {
    let server = Server::start(|asked| match asked.connection {
        0 | 1 => Answer::OtherTransaction(vec![5]),
        _ => Answer::Addresses(0),
    })
    .await;
    let mut bus = sample::bus(&server.endpoint(), vec![sample::device(1, apart(&[3]))]);
    bus.retries = 2;
    let mut running = Running::start(bus);
    assert_eq!(cells(&running.next().await), expected(&[("t3", Ok(3))]));
    assert_eq!(server.asked()[..3].iter().map(|a| a.connection).collect::<Vec<_>>(), [0, 1, 2]);
}

#[tokio::test]
async fn a_gateway_that_cannot_reach_a_unit_counts_as_silence_of_the_unit() {
    let (server, mut running) =
        start(vec![sample::device(1, apart(&[0, 100]))], |_| Answer::Exception(11)).await;
    let no = Err(Quality::exception(11));
    assert_eq!(cells(&running.next().await), expected(&[("t0", no), ("t100", no)]));
    let backoff = Err(Quality::BACKOFF);
    assert_eq!(cells(&running.next().await), expected(&[("t0", backoff), ("t100", backoff)]));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn the_connection_is_closed_after_each_poll_where_that_is_configured() {
    let server = Server::start(|_| Answer::Addresses(0)).await;
    let mut bus = sample::bus(&server.endpoint(), vec![sample::device(1, apart(&[0, 100]))]);
    bus.close_after_poll = true;
    let mut running = Running::start(bus);
    for _ in 0..3 {
        assert_eq!(counts(&running.next().await).good, 2);
    }
    let connections: Vec<_> = server.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections[..6], [0, 0, 1, 1, 2, 2]);
}

#[tokio::test]
async fn rows_carry_the_state_of_the_clock_and_the_first_one_after_a_step_says_so() {
    let (_server, mut running) = start(vec![sample::device(1, apart(&[0]))], |_| Answer::Addresses(0)).await;
    assert_eq!(running.next().await.rows[0].row.flags, RowFlags::default());
    let unsynced = UnsyncedClock { boot_id: millrace_protocol::BootId([1; 16]), wall_minus_monotonic_us: 5 };
    let stepped = ClockSegment { number: 1, unsynced: Some(unsynced) };
    running.clock.0.lock().unwrap().1 = stepped;
    let mut after = running.next().await;
    while after.clock.number == 0 {
        after = running.next().await;
    }
    assert_eq!(after.clock, stepped);
    assert_eq!(after.rows[0].row.flags, RowFlags::CLOCK_STEPPED.union(RowFlags::CLOCK_UNSYNCED));
    assert_eq!(running.next().await.rows[0].row.flags, RowFlags::CLOCK_UNSYNCED);
}

#[tokio::test]
async fn cycles_that_nobody_had_time_for_are_counted_as_skipped() {
    let (_server, mut running) = start(vec![sample::device(1, apart(&[0]))], |_| Answer::Addresses(0)).await;
    let mut skipped = 0;
    // The channel holds one delivery, so the poll waits for us.
    while skipped == 0 {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(3) {
            tokio::task::yield_now().await;
        }
        let delivery = running.next().await;
        assert_balanced(&delivery);
        skipped = counts(&delivery).skipped;
    }
}

#[tokio::test]
async fn the_poll_ends_when_nobody_takes_its_deliveries_or_when_it_is_stopped() {
    let server = Server::start(|_| Answer::Silence).await;
    for is_stopped in [false, true] {
        let bus = sample::bus(&server.endpoint(), vec![sample::device(1, apart(&[0]))]);
        let (sender, deliveries) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let clock: Arc<dyn Clock> = TestClock::new();
        if is_stopped {
            stop.cancel();
        } else {
            drop(deliveries);
        }
        let end = tokio::time::timeout(
            Duration::from_secs(20),
            run(bus, clock, sender, Horizon::default().source(), stop),
        )
        .await;
        assert!(end.is_ok(), "stopped: {is_stopped}");
    }
}
