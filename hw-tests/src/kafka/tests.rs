//! What agent and collector rely on when they talk to the in-process broker.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::*;

const BOUND: Duration = Duration::from_secs(30);
const TOPIC: &str = "millrace.telemetry";

fn producer(broker: &KafkaBroker) -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", broker.brokers())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "zstd")
        .set("reconnect.backoff.max.ms", "200")
        .create()
        .expect("producer")
}

async fn send(producer: &FutureProducer, payload: &str) -> (i32, i64) {
    let headers = OwnedHeaders::new().insert(Header { key: "seq", value: Some("1") });
    let record = FutureRecord::to(TOPIC).key("hall3/press-01").payload(payload).headers(headers);
    let delivery = producer.send(record, Duration::ZERO).await.expect("delivered");
    (delivery.partition, delivery.offset)
}

fn read(broker: &KafkaBroker, partition: i32, count: usize) -> Vec<(i64, String, Option<String>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.brokers())
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()
        .expect("consumer");
    let mut places = TopicPartitionList::new();
    places.add_partition_offset(TOPIC, partition, Offset::Offset(0)).expect("offset");
    consumer.assign(&places).expect("assigned");
    let mut found = Vec::new();
    let end = std::time::Instant::now() + BOUND;
    while found.len() < count && std::time::Instant::now() < end {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.expect("message");
            let header = message.headers().and_then(|h| h.iter().next().map(|h| h.key.to_owned()));
            let text = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
            found.push((message.offset(), text, header));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_produced_with_zstd_and_headers_is_read_back_at_its_offsets() {
    let broker = KafkaBroker::start(&[TOPIC.to_owned()], 3).expect("broker");
    let producer = producer(&broker);
    let mut partition = 0;
    for n in 0..3 {
        let place = send(&producer, &format!("{n}-{}", "x".repeat(1000))).await;
        partition = place.0;
        assert_eq!(place.1, n);
    }
    let found = read(&broker, partition, 3);
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(found.iter().all(|f| f.2.as_deref() == Some("seq")));
    assert!(found.iter().enumerate().all(|(n, f)| f.1.starts_with(&format!("{n}-x"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_with_the_partitions_asked_for() {
    let topics = ["a.telemetry".to_owned(), "a.vibration".to_owned()];
    let broker = KafkaBroker::start(&topics, 5).expect("broker");
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", broker.brokers()).create().expect("consumer");
    for topic in &topics {
        let metadata = consumer.fetch_metadata(Some(topic), BOUND).expect("metadata");
        assert_eq!(metadata.topics()[0].partitions().len(), 5, "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_link_fails_clients_and_comes_back_at_the_same_address_with_everything_stored() {
    let broker = KafkaBroker::start(&[TOPIC.to_owned()], 1).expect("broker");
    let producer = producer(&broker);
    send(&producer, "before").await;

    broker.down().await.expect("down");
    let address = broker.brokers().to_owned();
    let refused = tokio::net::TcpStream::connect(&address).await.map_err(|e| e.kind());
    assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
    let during = producer.send_result(FutureRecord::<(), _>::to(TOPIC).payload("during")).expect("queued");
    tokio::pin!(during);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut during).await;
    assert!(early.is_err(), "nothing is delivered over a cut link");

    broker.up().await.expect("up");
    assert_eq!(broker.brokers(), address);
    let place = tokio::time::timeout(BOUND, during).await.expect("in time").expect("kept").expect("sent");
    assert_eq!(place.offset, 1);
    let found = read(&broker, 0, 2);
    assert_eq!(found.iter().map(|f| f.1.as_str()).collect::<Vec<_>>(), ["before", "during"]);
}
