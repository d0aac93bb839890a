//! The uplink against librdkafka's in-process broker, with a buffer in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_protocol::{Birth, Item, LossReason, Progress, RawRow, RawRows, Record};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::sync::Notify;

use super::*;
use crate::buffer::{Stored, StreamState};

const SENDER: Epoch = Epoch(7);
const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A buffer in memory: items in the order of their positions.
#[derive(Clone, Default)]
struct Shelf {
    inner: Arc<Mutex<Items>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Items {
    next: u64,
    waiting: BTreeMap<Position, Stored>,
    taken: BTreeMap<Position, Stored>,
    numbered: HashMap<StreamId, u64>,
    refused: Vec<(Position, LossReason)>,
    acknowledged: Vec<Position>,
}

impl Shelf {
    fn put(&self, stream: &StreamId, seq: Option<(u64, u64)>, item: &Item) -> Position {
        let mut items = self.inner.lock().unwrap();
        items.next += 1;
        let position = if seq.is_some() { Position::Entry(items.next) } else { Position::Notice(items.next) };
        let rows = seq.map_or(0, |(first, last)| last - first + 1);
        if let Some((_, last)) = seq {
            items.numbered.insert(stream.clone(), last);
        }
        items.numbered.entry(stream.clone()).or_default();
        let stored = Stored {
            position,
            stream: stream.clone(),
            seq,
            rows,
            points: 0,
            newest_us: None,
            item: item.encode().unwrap(),
            layout: None,
        };
        items.waiting.insert(position, stored);
        position
    }

    /// Stores so many rows of so many bytes, an item each.
    fn put_rows(
        &self,
        stream: &StreamId,
        seqs: std::ops::RangeInclusive<u64>,
        bytes: usize,
    ) -> Vec<Position> {
        let row = |seq| {
            let raw = RawRow {
                time_us: seq as i64,
                topic: "t".into(),
                payload: vec![b'x'; bytes].into(),
                reason: "test".into(),
            };
            self.put(stream, Some((seq, seq)), &Item::Raw(RawRows::new(seq, vec![raw])))
        };
        let positions = seqs.map(row).collect();
        self.changed.notify_one();
        positions
    }

    fn is_empty(&self) -> bool {
        let items = self.inner.lock().unwrap();
        items.waiting.is_empty() && items.taken.is_empty()
    }
}

impl Outbox for Shelf {
    fn take(&self, max_bytes: usize) -> Vec<Stored> {
        let mut items = self.inner.lock().unwrap();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes
            && let Some((position, stored)) = items.waiting.pop_first()
        {
            bytes += stored.item.len();
            taken.push(stored.clone());
            items.taken.insert(position, stored);
        }
        taken
    }

    fn acknowledge(&self, positions: &[Position]) {
        let mut items = self.inner.lock().unwrap();
        for position in positions {
            items.taken.remove(position).expect("only what was taken is acknowledged");
            items.acknowledged.push(*position);
        }
    }

    fn give_back(&self, positions: &[Position]) {
        let mut items = self.inner.lock().unwrap();
        for position in positions {
            let stored = items.taken.remove(position).expect("only what was taken is given back");
            items.waiting.insert(*position, stored);
        }
    }

    fn refuse(&self, position: Position, reason: LossReason) {
        let mut items = self.inner.lock().unwrap();
        items.taken.remove(&position).expect("only what was taken is refused");
        items.refused.push((position, reason));
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    fn streams(&self) -> Vec<StreamState> {
        let items = self.inner.lock().unwrap();
        let waiting = |stream: &StreamId| {
            items.waiting.values().chain(items.taken.values()).filter(|s| s.stream == *stream).count() as u64
        };
        let state = |(stream, numbered): (&StreamId, &u64)| StreamState {
            stream: stream.clone(),
            is_current: stream.epoch == SENDER,
            numbered: *numbered,
            waiting_rows: waiting(stream),
            waiting_notices: 0,
            newest_us: None,
        };
        items.numbered.iter().map(state).collect()
    }

    fn numbered(&self, stream: &StreamId) -> u64 {
        self.inner.lock().unwrap().numbered.get(stream).copied().unwrap_or(0)
    }

    fn settled_us(&self) -> Option<i64> {
        Some(5_000)
    }
}

fn stream(machine: &str, category: &str) -> StreamId {
    StreamId {
        agent: "gw".parse().unwrap(),
        epoch: SENDER,
        machine: machine.parse().unwrap(),
        category: category.parse().unwrap(),
    }
}

fn cluster(topics: &[&str]) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    for topic in topics {
        cluster.create_topic(topic, PARTITIONS, 1).unwrap();
    }
    cluster
}

struct Running {
    shelf: Shelf,
    monitor: Monitor,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), UplinkError>>,
}

impl Running {
    fn start(brokers: &str, progress_interval: Duration) -> Self {
        let kafka = Kafka {
            brokers: vec![brokers.to_owned()],
            topic_prefix: "m".to_owned(),
            options: BTreeMap::from([("reconnect.backoff.max.ms".to_owned(), "300".to_owned())]),
            security: millrace_link::Security::default(),
            progress_interval,
        };
        let shelf = Shelf::default();
        let uplink = Uplink::new(shelf.clone(), &kafka, "test", SENDER).unwrap();
        let (monitor, stop) = (uplink.monitor(), CancellationToken::new());
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
        let task = tokio::spawn(uplink.run(stop.clone()));
        Self { shelf, monitor, stop, task }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let reached = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, reached).await;
        assert!(in_time.is_ok(), "waited in vain until {what}: {:?}", self.monitor.health());
    }

    async fn until_all_sent(&self) {
        self.until("all is sent", |running| running.shelf.is_empty()).await;
    }

    async fn stop(self) -> Shelf {
        self.stop.cancel();
        let begun = Instant::now();
        self.task.await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3), "a stop took {:?}", begun.elapsed());
        self.shelf
    }
}

/// A message as read.
struct Got {
    topic: String,
    partition: i32,
    key: String,
    headers: BTreeMap<String, String>,
    record: Record,
}

/// Reads every message of some topics, each partition in its order.
fn read(brokers: &str, topics: &[&str]) -> Vec<Got> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.partition.eof", "false")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    let mut due = 0;
    for topic in topics {
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            due += consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap().1;
        }
    }
    consumer.assign(&list).unwrap();
    let mut got = Vec::new();
    while (got.len() as i64) < due {
        let message = consumer.poll(PATIENCE).expect("a message").unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        got.push(Got {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            key: text(message.key().unwrap()),
            headers: message
                .headers()
                .unwrap()
                .iter()
                .map(|h| (h.key.to_owned(), text(h.value.unwrap())))
                .collect(),
            record: Record::decode(message.payload().unwrap()).unwrap(),
        });
    }
    got
}

/// Gives the sequences of each stream in the order of arrival.
fn sequences(got: &[Got]) -> BTreeMap<String, Vec<u64>> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in got {
        let stream = &message.record.header.stream;
        let seqs = all.entry(format!("{} {}", stream.machine, stream.category)).or_default();
        for (first, last) in message.record.items.iter().filter_map(Item::seq_range) {
            seqs.extend(first..=last);
        }
    }
    all
}

const NEVER: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_arrive_once_and_in_order_with_their_headers() {
    let cluster = cluster(&["m.telemetry", "m.heat"]);
    let brokers = cluster.bootstrap_servers();
    let running = Running::start(&brokers, NEVER);
    let (a, b) = (stream("h/a", "telemetry"), stream("h/b", "heat"));
    running.shelf.put(&a, None, &Item::Birth(Birth::default()));
    for part in 0..20 {
        let seqs = part * 10 + 1..=part * 10 + 10;
        running.shelf.put_rows(&a, seqs.clone(), 20_000);
        running.shelf.put_rows(&b, seqs, 10);
    }
    running.until_all_sent().await;
    let health = running.monitor.health();
    running.stop().await;
    let got = read(&brokers, &["m.telemetry", "m.heat"]);
    let expected: Vec<u64> = (1..=200).collect();
    assert_eq!(
        sequences(&got),
        BTreeMap::from([("h/a telemetry".into(), expected.clone()), ("h/b heat".into(), expected)])
    );
    assert_eq!((health.link, health.sent_rows, health.resent_records), (Link::Up, 400, 0));
    for message in &got {
        let stream = &message.record.header.stream;
        assert_eq!(message.key, stream.machine.as_str());
        assert_eq!(message.topic, format!("m.{}", stream.category));
        let rows: Vec<_> = message.record.items.iter().filter_map(Item::seq_range).collect();
        let first = rows.first().map(|(first, _)| first.to_string());
        assert_eq!(message.headers.get("seq"), first.as_ref());
        assert_eq!(message.headers["rows"], rows.len().to_string());
        assert_eq!(message.headers["content-type"], "application/vnd.millrace.v1+cbor");
        assert_eq!(message.headers["agent"], "gw");
        assert_eq!(message.headers["epoch"], "0000000000000007");
        assert_eq!(message.headers["category"], stream.category.as_str());
    }
    let of_a: Vec<i32> = got.iter().filter(|m| m.key == "h/a").map(|m| m.partition).collect();
    assert!(of_a.windows(2).all(|w| w[0] == w[1]), "a machine has one partition");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_kafka_is_away_memory_is_bounded_and_afterwards_everything_arrives_once() {
    let cluster = cluster(&["m.telemetry"]);
    let brokers = cluster.bootstrap_servers();
    let a = stream("h/a", "telemetry");
    // Away at start, back, away in between, back.
    cluster.broker_down(-1).unwrap();
    let running = Running::start(&brokers, NEVER);
    running.shelf.put_rows(&a, 1..=20, 1_000);
    running.until("the link is down", |r| r.monitor.health().link == Link::Down).await;
    assert!(running.monitor.health().is_degraded());
    cluster.broker_up(-1).unwrap();
    running.until_all_sent().await;
    assert!(!running.monitor.health().is_degraded());
    cluster.broker_down(-1).unwrap();
    running.shelf.put_rows(&a, 21..=70, 100_000);
    running.until("the link is down", |r| r.monitor.health().link == Link::Down).await;
    running
        .until("the window is full", |r| {
            r.monitor.health().in_flight_bytes as usize > IN_FLIGHT_BYTES - RECORD_TARGET_BYTES
        })
        .await;
    let taken = running.shelf.inner.lock().unwrap().taken.values().map(|s| s.item.len()).sum::<usize>();
    assert!(taken < IN_FLIGHT_BYTES + 2 * RECORD_TARGET_BYTES, "{taken} bytes taken");
    cluster.broker_up(-1).unwrap();
    running.until_all_sent().await;
    running.stop().await;
    let got = read(&brokers, &["m.telemetry"]);
    assert_eq!(sequences(&got)["h/a telemetry"], (1..=70).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_kafka_is_away_is_quick_and_leaves_everything_on_disk() {
    let cluster = cluster(&["m.telemetry"]);
    let a = stream("h/a", "telemetry");
    let running = Running::start(&cluster.bootstrap_servers(), NEVER);
    running.shelf.put_rows(&a, 1..=5, 10);
    running.until_all_sent().await;
    cluster.broker_down(-1).unwrap();
    running.shelf.put_rows(&a, 6..=9, 10);
    running.until("they are in flight", |r| r.monitor.health().in_flight_records > 0).await;
    let shelf = running.stop().await;
    let items = shelf.inner.lock().unwrap();
    assert_eq!((items.acknowledged.len(), items.taken.len() + items.waiting.len()), (5, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_falls_back_to_telemetry_and_is_counted() {
    let cluster = cluster(&["m.telemetry"]);
    let brokers = cluster.bootstrap_servers();
    let running = Running::start(&brokers, NEVER);
    let a = stream("h/a", "vibration");
    running.shelf.put_rows(&a, 1..=3, 10);
    running.until_all_sent().await;
    assert_eq!(running.monitor.health().fallback_topics, 1);
    assert!(!running.monitor.health().is_degraded());
    running.stop().await;
    let got = read(&brokers, &["m.telemetry"]);
    assert_eq!(sequences(&got)["h/a vibration"], [1, 2, 3]);
    assert_eq!(got[0].headers["category"], "vibration");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_telemetry_nothing_is_lost_and_the_trouble_is_named() {
    let cluster = cluster(&[]);
    let brokers = cluster.bootstrap_servers();
    let running = Running::start(&brokers, NEVER);
    running.shelf.put_rows(&stream("h/a", "telemetry"), 1..=3, 10);
    running
        .until("the trouble is named", |r| {
            r.monitor.health().trouble.is_some_and(|t| t.contains("m.telemetry"))
        })
        .await;
    cluster.create_topic("m.telemetry", PARTITIONS, 1).unwrap();
    running.until_all_sent().await;
    assert!(!running.monitor.health().is_degraded());
    running.stop().await;
    assert_eq!(sequences(&read(&brokers, &["m.telemetry"]))["h/a telemetry"], [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_hits_the_one_item_that_is_refused_alone() {
    let cluster = cluster(&["m.telemetry"]);
    let brokers = cluster.bootstrap_servers();
    let running = Running::start(&brokers, NEVER);
    let a = stream("h/a", "telemetry");
    running.shelf.put_rows(&a, 1..=1, 10);
    running.until_all_sent().await;
    // The record of three items, then the first of them alone.
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large, too_large]);
    let positions = running.shelf.put_rows(&a, 2..=4, 10);
    running.until_all_sent().await;
    let health = running.monitor.health();
    let shelf = running.stop().await;
    assert_eq!(shelf.inner.lock().unwrap().refused, [(positions[0], LossReason::Refused)]);
    assert_eq!(health.refused_items, 1);
    assert_eq!(sequences(&read(&brokers, &["m.telemetry"]))["h/a telemetry"], [1, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declared_loss_that_is_refused_is_kept_and_tried_again_while_rows_go_on() {
    let cluster = cluster(&["m.telemetry"]);
    let brokers = cluster.bootstrap_servers();
    let running = Running::start(&brokers, Duration::from_millis(300));
    let a = stream("h/a", "telemetry");
    running.shelf.put_rows(&a, 1..=1, 10);
    running.until_all_sent().await;
    let loss = Item::Loss(millrace_protocol::Loss {
        after: 1,
        reason: LossReason::DroppedOldest,
        ranges: vec![millrace_protocol::SeqRange { from: 2, to: Some(4) }],
        points: Some(3),
    });
    // In company, then alone; a progress that is on its way, or the row below in company, may use up the third.
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large; 3]);
    running.shelf.put(&a, None, &loss);
    running.shelf.changed.notify_one();
    running.until("it is refused alone", |r| r.monitor.health().refused_notices == 1).await;
    running.shelf.put_rows(&a, 5..=5, 10);
    running.until_all_sent().await;
    let health = running.monitor.health();
    let shelf = running.stop().await;
    assert_eq!((health.refused_notices, health.refused_items), (0, 0));
    assert!(shelf.inner.lock().unwrap().refused.is_empty());
    let got = read(&brokers, &["m.telemetry"]);
    assert_eq!(got.iter().flat_map(|m| &m.record.items).filter(|item| **item == loss).count(), 1);
    assert_eq!(sequences(&got)["h/a telemetry"], [1, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_refuses_falls_back_without_loss() {
    let cluster = cluster(&["m.telemetry", "m.heat"]);
    let brokers = cluster.bootstrap_servers();
    let running = Running::start(&brokers, NEVER);
    let a = stream("h/a", "heat");
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    running.shelf.put_rows(&a, 1..=3, 10);
    running.until_all_sent().await;
    assert_eq!(running.monitor.health().fallback_topics, 1);
    running.stop().await;
    assert_eq!(sequences(&read(&brokers, &["m.telemetry"]))["h/a heat"], [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fatal_error_makes_a_new_producer_that_sends_what_was_unknown() {
    let cluster = cluster(&["m.telemetry"]);
    let brokers = cluster.bootstrap_servers();
    cluster.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let running = Running::start(&brokers, NEVER);
    let a = stream("h/a", "telemetry");
    running.shelf.put_rows(&a, 1..=50, 10_000);
    running.until_all_sent().await;
    assert_eq!(running.monitor.health().rebuilt_producers, 1);
    running.stop().await;
    assert_eq!(sequences(&read(&brokers, &["m.telemetry"]))["h/a telemetry"], (1..=50).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_nothing_waiting_says_how_far_it_is() {
    let cluster = cluster(&["m.telemetry"]);
    let brokers = cluster.bootstrap_servers();
    let running = Running::start(&brokers, Duration::from_millis(50));
    let a = stream("h/a", "telemetry");
    running.shelf.put_rows(&a, 1..=3, 10);
    running.until("progress is sent", |r| r.monitor.health().sent_progress >= 2).await;
    running.stop().await;
    let got = read(&brokers, &["m.telemetry"]);
    let expected = Progress { after: 3, complete_until_us: 5_000, numbered: 3, waiting_epochs: Vec::new() };
    let last = &got.last().unwrap();
    assert_eq!(last.record.items, [Item::Progress(expected)]);
    assert_eq!((last.record.header.numbered, last.headers.get("seq")), (3, None));
    assert_eq!(last.headers["rows"], "0");
}
