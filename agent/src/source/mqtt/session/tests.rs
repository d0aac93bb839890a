//! Tests of the connection against a scripted broker: acknowledgements, sessions, large packets, stops.

mod broker;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use millrace_protocol::{Category, ClockSegment};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::broker::{Broker, Connection, FromClient, Hello, Out, PATIENCE, publish};
use super::*;
use crate::clock::Clock;
use crate::config::{Mqtt, Payload, Subscription};
use crate::delivery::Publish as ToConfirm;
use crate::source::mqtt::deliver::ROW_MAX_BYTES;

struct StillClock;

impl Clock for StillClock {
    fn now_us(&self) -> i64 {
        1_700_000_000_000_000
    }

    fn monotonic_us(&self) -> i64 {
        0
    }

    fn boot_id(&self) -> millrace_protocol::BootId {
        millrace_protocol::BootId([0; 16])
    }

    fn segment(&self) -> ClockSegment {
        ClockSegment::default()
    }
}

fn config(port: u16) -> Mqtt {
    let subscription = |topic: &str, qos| Subscription {
        topic: topic.to_owned(),
        qos,
        payload: Payload::Json,
        timestamp: None,
        rows: None,
        machines: Vec::new(),
        tags: Vec::new(),
        category: Category::new("telemetry").unwrap(),
    };
    Mqtt {
        name: "broker".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        client_id: "millrace-gw-broker".to_owned(),
        credentials: None,
        receive_maximum: 20,
        max_packet: 1024,
        subscriptions: vec![subscription("plant/{machine}/data", 1), subscription("fast/{machine}/#", 0)],
    }
}

/// A running source and the far end of its deliveries.
struct Running {
    deliveries: Receiver<Delivery>,
    counters: Arc<Counters>,
    cancel: CancellationToken,
    run: JoinHandle<Result<(), MqttError>>,
}

#[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
fn start(config: Mqtt) -> Running {
    let (send, deliveries) = mpsc::channel(64);
    let cancel = CancellationToken::new();
    let source = Source::new(config, "hall3", Arc::new(StillClock), send, cancel.clone()).unwrap();
    let counters = source.counters();
    Running { deliveries, counters, cancel, run: tokio::spawn(source.run()) }
}

impl Running {
    async fn next(&mut self) -> Delivery {
        timeout(PATIENCE, self.deliveries.recv()).await.expect("a delivery comes").expect("the source runs")
    }

    async fn publish(&mut self) -> ToConfirm {
        self.next().await.publish.expect("it wants to be confirmed")
    }

    /// Gives the value of the next row's only point.
    async fn value(&mut self) -> String {
        let delivery = self.next().await;
        format!("{:?}", delivery.rows[0].row.cells)
    }

    async fn until(&self, state: impl Fn(&Counters) -> bool) {
        let wait = async {
            while !state(&self.counters) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the state is reached");
    }

    async fn stop(self) -> Result<(), MqttError> {
        self.cancel.cancel();
        timeout(PATIENCE, self.run).await.expect("the source stops").unwrap()
    }
}

fn confirm(publish: ToConfirm) {
    publish.confirm.send(Confirmed::Stored).unwrap();
}

/// Sends a publish that wants no acknowledgement and waits until the source has handed it on: then it
/// has dealt with everything before it.
async fn settle(connection: &mut Connection, running: &mut Running) {
    let marker = Out { id: 0, topic: "fast/m1/x", payload: b"0", qos: 0, dup: false };
    connection.publish(&marker).await;
    assert!(running.next().await.publish.is_none());
}

#[tokio::test]
async fn publishes_are_acknowledged_when_they_are_on_disk_in_order_of_receipt() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let mut connection = broker.first().await;
    for id in [11, 12, 13] {
        connection.publish(&publish(id, "1")).await;
    }
    let [first, second, third] = [running.publish().await, running.publish().await, running.publish().await];
    confirm(second);
    settle(&mut connection, &mut running).await;
    assert!(!connection.has_sent(), "the first is not on disk yet");
    confirm(first);
    assert_eq!(connection.next().await, FromClient::PubAck(11));
    assert_eq!(connection.next().await, FromClient::PubAck(12));
    settle(&mut connection, &mut running).await;
    assert!(!connection.has_sent(), "the third is not on disk yet");
    confirm(third);
    assert_eq!(connection.next().await, FromClient::PubAck(13));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_lost_connection_delivered_is_never_acknowledged_on_the_next_one() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let mut connection = broker.first().await;
    for id in [7, 8] {
        connection.publish(&publish(id, "71.5")).await;
    }
    let (while_gone, while_back) = (running.publish().await, running.publish().await);
    let (hash, old) = (while_back.hash, while_back.connection);
    drop(connection);
    running.until(|counters| !counters.connected.load(Ordering::Relaxed)).await;
    confirm(while_gone);

    let mut connection = broker.welcome(true).await;
    running.until(|counters| counters.connected.load(Ordering::Relaxed)).await;
    confirm(while_back);
    running.until(|counters| counters.stale_acks.load(Ordering::Relaxed) == 2).await;
    // The broker uses the number 7 for another publish, which must not be acknowledged by the old 7.
    connection.publish(&publish(7, "72")).await;
    let other = running.publish().await;
    connection.publish(&Out { dup: true, ..publish(8, "71.5") }).await;
    let again = running.publish().await;
    assert_eq!((again.hash, again.dup), (hash, true));
    assert_ne!(again.connection, old);
    assert_ne!(other.hash, hash);
    assert!(!connection.has_sent());
    again.confirm.send(Confirmed::Redelivered).unwrap();
    confirm(other);
    assert_eq!(connection.next().await, FromClient::PubAck(7));
    assert_eq!(connection.next().await, FromClient::PubAck(8));
    running.stop().await.unwrap();
    assert_eq!(connection.next().await, FromClient::Disconnect);
}

#[tokio::test]
async fn publishes_that_came_just_before_the_connection_broke_belong_to_it() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let mut connection = broker.first().await;
    // One write, then the end: the client reads all of it before it hands out the first.
    let together: Vec<u8> = [1, 2, 3].iter().flat_map(|id| publish(*id, "5").frame()).collect();
    connection.send(&together).await;
    drop(connection);
    let mut connection = broker.welcome(true).await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        let publish = running.publish().await;
        connections.push(publish.connection);
        confirm(publish);
    }
    connections.dedup();
    assert_eq!(connections.len(), 1);
    running.until(|counters| counters.stale_acks.load(Ordering::Relaxed) == 3).await;
    connection.publish(&publish(9, "6")).await;
    let new = running.publish().await;
    assert_ne!(new.connection, connections[0]);
    confirm(new);
    assert_eq!(connection.next().await, FromClient::PubAck(9));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_lost_session_is_subscribed_again_and_a_kept_one_is_not() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let (mut connection, hello) = broker.accept().await;
    let expected = Hello { client_id: "millrace-gw-broker".to_owned(), clean_session: false, login: None };
    assert_eq!(hello, expected);
    // The first connection of a process subscribes always: the session may be of another configuration.
    connection.answer(true, 0).await;
    let filters = || FromClient::Subscribe(vec![("plant/+/data".to_owned(), 1), ("fast/+/#".to_owned(), 0)]);
    assert_eq!(connection.next().await, filters());
    settle(&mut connection, &mut running).await;
    drop(connection);

    let mut connection = broker.welcome(true).await;
    connection.publish(&publish(1, "1")).await;
    confirm(running.publish().await);
    assert_eq!(connection.next().await, FromClient::PubAck(1), "and no SUBSCRIBE before it");
    drop(connection);

    let mut connection = broker.welcome(false).await;
    assert_eq!(connection.next().await, filters());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_packet_larger_than_max_packet_becomes_a_raw_row_and_is_acknowledged() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let mut connection = broker.first().await;
    let number = "1".repeat(1_500);
    connection.publish(&publish(3, &number)).await;
    let delivery = running.next().await;
    let raw = delivery.raw.unwrap();
    assert_eq!(&*raw.reason, "the packet has 1520 bytes and max_packet is 1024");
    assert_eq!((&*raw.topic, raw.payload.len()), ("plant/m1/data", 1_500));
    confirm(delivery.publish.unwrap());
    assert_eq!(connection.next().await, FromClient::PubAck(3), "without another connection");

    // Far larger: the client gives up the connection and is told to read it on the next one.
    let number = "2".repeat(3 * 1024 * 1024);
    connection.try_send(&publish(4, &number).frame()).await;
    drop(connection);
    let mut connection = broker.welcome(true).await;
    connection.publish(&Out { dup: true, ..publish(4, &number) }).await;
    let delivery = running.next().await;
    let raw = delivery.raw.unwrap();
    assert_eq!(&*raw.reason, "the packet has 3145750 bytes and max_packet is 1024");
    assert_eq!(raw.payload.len(), ROW_MAX_BYTES);
    confirm(delivery.publish.unwrap());
    assert_eq!(connection.next().await, FromClient::PubAck(4));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn qos_0_is_delivered_and_not_acknowledged() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let mut connection = broker.first().await;
    for payload in ["1", "2"] {
        let out = Out { id: 0, topic: "fast/m1/a/b", payload: payload.as_bytes(), qos: 0, dup: false };
        connection.publish(&out).await;
        assert_eq!(running.value().await, format!("[Good(F64({payload}.0))]"));
    }
    assert!(!connection.has_sent());
    running.stop().await.unwrap();
    assert_eq!(connection.next().await, FromClient::Disconnect);
}

#[tokio::test]
async fn what_nobody_asked_for_is_acknowledged_in_its_turn_and_not_delivered() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let mut connection = broker.first().await;
    connection.publish(&publish(1, "1")).await;
    connection.publish(&Out { topic: "earlier/configuration", ..publish(2, "1") }).await;
    let first = running.publish().await;
    running.until(|counters| counters.ignored.load(Ordering::Relaxed) == 1).await;
    settle(&mut connection, &mut running).await;
    assert!(!connection.has_sent());
    confirm(first);
    assert_eq!(connection.next().await, FromClient::PubAck(1));
    assert_eq!(connection.next().await, FromClient::PubAck(2));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn no_more_than_the_window_is_unacknowledged() {
    let broker = Broker::start().await;
    let mut running = start(Mqtt { receive_maximum: 2, ..config(broker.port()) });
    let mut connection = broker.first().await;
    for id in 1..=5 {
        connection.publish(&publish(id, "1")).await;
    }
    let mut waiting = VecDeque::from([running.publish().await, running.publish().await]);
    // The third was read and waits for a place.
    running.until(|counters| counters.publishes.load(Ordering::Relaxed) == 3).await;
    for _ in 3..=5 {
        assert!(running.deliveries.try_recv().is_err());
        confirm(waiting.pop_front().unwrap());
        waiting.push_back(running.publish().await);
    }
    waiting.into_iter().for_each(confirm);
    for id in 1..=5 {
        assert_eq!(connection.next().await, FromClient::PubAck(id));
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_publish_that_is_not_stored_ends_the_source_and_nothing_after_it_is_acknowledged() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let mut connection = broker.first().await;
    for id in [1, 2] {
        connection.publish(&publish(id, "1")).await;
    }
    let (lost, stored) = (running.publish().await, running.publish().await);
    confirm(stored);
    drop(lost);
    let ended = timeout(PATIENCE, running.run).await.unwrap().unwrap();
    assert!(matches!(ended, Err(MqttError::NotStored { .. })), "{ended:?}");
    assert_eq!(connection.next().await, FromClient::Gone);
}

#[tokio::test]
async fn a_stop_acknowledges_what_reaches_the_disk_in_time_and_takes_leave() {
    let broker = Broker::start().await;
    let mut running = start(config(broker.port()));
    let mut connection = broker.first().await;
    connection.publish(&publish(1, "1")).await;
    let publish = running.publish().await;
    running.cancel.cancel();
    tokio::task::yield_now().await;
    confirm(publish);
    assert_eq!(connection.next().await, FromClient::PubAck(1));
    assert_eq!(connection.next().await, FromClient::Disconnect);
    running.run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_takes_less_than_a_second_whatever_the_broker_does() {
    let nobody = Broker::start().await.port();
    let silent = Broker::start().await;
    let slow_disk = Broker::start().await;
    for port in [nobody, silent.port(), slow_disk.port()] {
        let mut running = start(config(port));
        let mut held = Vec::new();
        if port == silent.port() {
            held.push(silent.accept().await.0);
        }
        let mut unstored = None;
        if port == slow_disk.port() {
            let mut connection = slow_disk.first().await;
            connection.publish(&publish(1, "1")).await;
            unstored = Some(running.publish().await);
            held.push(connection);
        }
        let begin = Instant::now();
        running.stop().await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        drop(unstored);
    }
}

#[tokio::test]
async fn a_broker_that_drops_every_connection_is_waited_for_longer_and_longer() {
    let broker = Broker::start().await;
    let running = start(config(broker.port()));
    let begin = Instant::now();
    for _ in 0..4 {
        drop(broker.welcome(true).await);
    }
    // At least half of 200, 400 and 800 ms.
    assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn the_password_is_read_from_its_file_for_every_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.pw");
    let credentials = Some(("gw".to_owned(), path.clone()));
    let broker = Broker::start().await;
    let with_password = || Mqtt { credentials: credentials.clone(), ..config(broker.port()) };
    let missing = start(with_password()).run.await.unwrap();
    assert!(matches!(missing, Err(MqttError::Password { .. })), "{missing:?}");

    std::fs::write(&path, "old\n").unwrap();
    let running = start(with_password());
    let (mut connection, hello) = broker.accept().await;
    assert_eq!(hello.login, Some(("gw".to_owned(), "old".to_owned())));
    std::fs::write(&path, "new").unwrap();
    connection.answer(false, 5).await;
    let (_connection, hello) = broker.accept().await;
    assert_eq!(hello.login, Some(("gw".to_owned(), "new".to_owned())));
    running.stop().await.unwrap();
}

#[test]
fn an_ipv6_host_is_put_in_brackets() {
    let host = |host: &str| {
        let config = Mqtt { host: host.to_owned(), ..config(1883) };
        options(&config).broker_address().0
    };
    for (written, expected) in [("::1", "[::1]"), ("[::1]", "[::1]"), ("broker.example", "broker.example")] {
        assert_eq!(host(written), expected);
    }
}

#[test]
fn a_source_without_client_id_or_with_a_wrong_pattern_does_not_start() {
    let new = |config| {
        let (send, _) = mpsc::channel(1);
        Source::new(config, "hall3", Arc::new(StillClock), send, CancellationToken::new()).err()
    };
    let nameless = Mqtt { client_id: String::new(), ..config(1883) };
    assert!(matches!(new(nameless), Some(MqttError::NoClientId { .. })));
    let mut wrong = config(1883);
    wrong.subscriptions[0].topic = "plant/data".to_owned();
    wrong.credentials = Some(("gw".to_owned(), PathBuf::from("/nonexistent")));
    assert!(matches!(new(wrong), Some(MqttError::Subscription { .. })));
}
