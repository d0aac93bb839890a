//! From register to record, over a cut link and a restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_agent::app::{App, AppError};
use millrace_agent::books::Books;
use millrace_agent::config::Config;
use millrace_agent::status::{Health, Level};
use millrace_protocol::{Birth, Chunk, Epoch, Item, Record, Value};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::device::Device;
use crate::kafka::Broker;

const PATIENCE: Duration = Duration::from_secs(30);
/// Register 0 of the device.
const COUNT: &str = "count";

fn configuration(folder: &Path, device: &Device, broker: &Broker) -> Config {
    let text = format!(
        r#"
version = 1
[agent]
id = "gw"
site = "hall3"
data_dir = "{data}"
[status]
listen = "127.0.0.1:0"
[kafka]
brokers = ["{brokers}"]
topic_prefix = "m"
progress_interval = "200 ms"
options = {{ "reconnect.backoff.max.ms" = "300" }}
[buffer]
sync_interval = "50 ms"
[[bus]]
name = "line-a"
endpoint = "tcp://{device}"
[[device]]
machine = "press"
bus = "line-a"
unit_id = 1
template = "press"
[template.press]
poll_interval = "50 ms"
tags = [
  {{ name = "{COUNT}", address = 0, type = "u16" }},
  {{ name = "level", address = 1, type = "u16" }},
]
"#,
        data = folder.join("data").display(),
        brokers = broker.address(),
        device = device.address,
    );
    let file = folder.join("agent.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(&file).unwrap_or_else(|problems| panic!("{problems}"))
}

/// An agent that runs beside the test.
struct Running {
    address: String,
    epoch: Epoch,
    stop: CancellationToken,
    thread: std::thread::JoinHandle<Result<(), AppError>>,
}

impl Running {
    fn start(config: Config) -> Self {
        let app = App::build(config).unwrap();
        let (address, epoch) = (app.status_address().to_string(), app.epoch());
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(app.run(token))
        });
        Self { address, epoch, stop, thread }
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let mut answer = ureq::get(format!("http://{}{path}", self.address)).call().unwrap();
        serde_json::from_reader(answer.body_mut().as_reader()).unwrap()
    }

    fn books(&self) -> Books {
        let books: Books = self.get("/api/books");
        assert!(books.balanced && books.sums_hold(), "{books:?}");
        books
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}: {:?}", self.books());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives (acknowledged, waiting) rows of an epoch.
    fn rows(&self, epoch: Epoch) -> (u64, u64) {
        let books = self.books();
        let lines = books.transport.iter().filter(|line| line.epoch == epoch.to_string());
        lines.fold((0, 0), |(a, w), line| (a + line.rows.acknowledged, w + line.rows.waiting))
    }

    fn stop(self) {
        let begun = Instant::now();
        self.stop.cancel();
        self.thread.join().unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "a stop took {:?}", begun.elapsed());
    }
}

/// What the collector would know of an epoch.
#[derive(Default)]
struct Seen {
    /// The register's value, by sequence.
    counts: BTreeMap<u64, u64>,
    births: Vec<Birth>,
    /// The last sequence that a header or a progress item told.
    numbered: u64,
    progress_until_us: i64,
    newest_us: i64,
}

fn collect(records: &[Record]) -> BTreeMap<Epoch, Seen> {
    let mut all: BTreeMap<Epoch, Seen> = BTreeMap::new();
    for record in records {
        let seen = all.entry(record.header.stream.epoch).or_default();
        seen.numbered = seen.numbered.max(record.header.numbered);
        for item in &record.items {
            match item {
                Item::Chunk(item) => {
                    let chunk = Chunk::unpack(item, record.header.layout(item.layout).unwrap()).unwrap();
                    let columns = chunk.layout.columns();
                    let column = columns.iter().position(|c| &*c.tag == COUNT).unwrap();
                    for row in 0..item.rows as usize {
                        let count = match chunk.columns[column].value(row) {
                            Some(Value::U64(n)) => n,
                            Some(Value::I64(n)) => n as u64,
                            other => panic!("{other:?}"),
                        };
                        let before = seen.counts.insert(item.first_seq + row as u64, count);
                        assert!(before.is_none_or(|b| b == count), "a sequence stands for one row");
                        seen.newest_us = seen.newest_us.max(chunk.times_us[row]);
                    }
                }
                Item::Birth(birth) => seen.births.push(birth.clone()),
                Item::Progress(progress) => {
                    seen.progress_until_us = seen.progress_until_us.max(progress.complete_until_us);
                }
                other => panic!("nothing was lost: {other:?}"),
            }
        }
    }
    all
}

#[test]
fn rows_arrive_with_sequences_without_holes_over_a_cut_link_and_a_restart() {
    let (folder, device, broker) =
        (tempfile::tempdir().unwrap(), Device::start(), Broker::start(&["m.telemetry"]));
    let first = Running::start(configuration(folder.path(), &device, &broker));
    let one = first.epoch;
    first.until("rows are acknowledged", |agent| agent.rows(one).0 >= 10);
    assert_eq!(first.get::<Health>("/healthz").status, Level::Ok);
    broker.down();
    first.until("rows wait on disk", |agent| agent.rows(one).1 >= 10);
    first.until("the health says so", |agent| agent.get::<Health>("/healthz").status == Level::Degraded);
    first.stop();
    let asked_by_first = u64::from(device.answered());

    let second = Running::start(configuration(folder.path(), &device, &broker));
    let two = second.epoch;
    assert_ne!(one, two);
    second.until("new rows wait too", |agent| agent.rows(two).1 >= 5);
    broker.up();
    second.until("the first start's rows are gone", |agent| agent.rows(one).1 == 0);
    second.until("its own rows are acknowledged", |agent| agent.rows(two).0 >= 10);
    second.stop();

    let seen = collect(&broker.read("m.telemetry"));
    assert_eq!(seen.keys().copied().collect::<std::collections::BTreeSet<_>>(), [one, two].into());
    for (epoch, seen) in &seen {
        let sequences: Vec<u64> = seen.counts.keys().copied().collect();
        let last = sequences.len() as u64;
        assert_eq!(sequences, (1..=last).collect::<Vec<_>>(), "no holes in {epoch}");
        let counts: Vec<u64> = seen.counts.values().copied().collect();
        assert!(counts.windows(2).all(|w| w[0] < w[1]), "rows stand in the order of their polls: {counts:?}");
    }
    let (before, after) = (&seen[&one], &seen[&two]);
    assert_eq!(before.numbered, before.counts.len() as u64, "all of the first start's rows arrived");
    // A poll that was under way at the stop was answered and not delivered.
    let delivered = before.counts.values().next_back().copied().unwrap();
    assert!(
        delivered == asked_by_first || delivered + 1 == asked_by_first,
        "{delivered} of {asked_by_first}"
    );
    let previous = after.births.first().and_then(|birth| birth.previous).unwrap();
    assert_eq!((previous.epoch, previous.last_seq), (one, before.numbered));
}

#[test]
fn a_quiet_stream_says_how_far_it_is_and_never_further_than_its_rows_to_come() {
    let (folder, device, broker) =
        (tempfile::tempdir().unwrap(), Device::start(), Broker::start(&["m.telemetry"]));
    let mut config = configuration(folder.path(), &device, &broker);
    for device in config.buses.iter_mut().flat_map(|bus| &mut bus.devices) {
        device.poll_interval = Duration::from_secs(3_600);
    }
    let agent = Running::start(config);
    let epoch = agent.epoch;
    agent.until("its one row is acknowledged", |agent| agent.rows(epoch) == (1, 0));
    agent.until("progress follows", |_| {
        let seen = collect(&broker.read("m.telemetry"));
        let seen = &seen[&epoch];
        assert_eq!(seen.births.len(), 1);
        seen.newest_us > 0 && seen.progress_until_us > seen.newest_us
    });
    agent.stop();
}

#[test]
fn what_kafka_answers_during_a_clean_stop_is_not_sent_again() {
    let (folder, device, broker) =
        (tempfile::tempdir().unwrap(), Device::start(), Broker::start(&["m.telemetry"]));
    let first = Running::start(configuration(folder.path(), &device, &broker));
    let one = first.epoch;
    first.until("rows are acknowledged", |agent| agent.rows(one).0 >= 5);
    // Longer than a cycle, so that something is on its way at any moment; shorter than a stop waits.
    broker.delay(Duration::from_millis(200));
    let before = first.rows(one).0;
    first.until("more of them are", |agent| agent.rows(one).0 > before);
    first.stop();
    broker.delay(Duration::ZERO);
    let second = Running::start(configuration(folder.path(), &device, &broker));
    let two = second.epoch;
    second.until("what was left is gone", |agent| agent.rows(one).1 == 0 && agent.rows(two).0 >= 5);
    second.stop();
    let mut sent = BTreeMap::new();
    for record in broker.read("m.telemetry").iter().filter(|r| r.header.stream.epoch == one) {
        for item in &record.items {
            if let Item::Chunk(chunk) = item {
                *sent.entry(chunk.first_seq).or_insert(0) += 1;
            }
        }
    }
    let twice: Vec<u64> = sent.iter().filter(|(_, times)| **times > 1).map(|(&seq, _)| seq).collect();
    assert!(sent.len() > 5 && twice.is_empty(), "{twice:?} of {}", sent.len());
}

#[test]
fn a_second_agent_on_the_same_data_folder_is_refused() {
    let (folder, device, broker) =
        (tempfile::tempdir().unwrap(), Device::start(), Broker::start(&["m.telemetry"]));
    let first = Running::start(configuration(folder.path(), &device, &broker));
    let error = App::build(configuration(folder.path(), &device, &broker)).unwrap_err();
    assert!(matches!(error, AppError::Buffer(_)), "{error:?}");
    first.stop();
}
