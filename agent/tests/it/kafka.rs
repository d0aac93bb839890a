//! The in-process broker and what is read from it: the one place of these tests that names rdkafka.

use std::time::Duration;

use millrace_protocol::Record;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Broker(MockCluster<'static, DefaultProducerContext>);

impl Broker {
    pub(crate) fn start(topics: &[&str]) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for topic in topics {
            cluster.create_topic(topic, PARTITIONS, 1).unwrap();
        }
        Self(cluster)
    }

    pub(crate) fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    pub(crate) fn down(&self) {
        self.0.broker_down(-1).unwrap();
    }

    /// Lets every answer of the broker take so long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.broker_round_trip_time(-1, delay).unwrap();
    }

    pub(crate) fn up(&self) {
        self.0.broker_up(-1).unwrap();
    }

    /// Reads every record of a topic, each partition in its order.
    pub(crate) fn read(&self, topic: &str) -> Vec<Record> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.address())
            .set("group.id", "test")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        let mut due = 0;
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            due += consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap().1;
        }
        consumer.assign(&list).unwrap();
        let next = |_| {
            let message = consumer.poll(PATIENCE).expect("a message in time").unwrap();
            Record::decode(message.payload().unwrap()).unwrap()
        };
        (0..due).map(next).collect()
    }
}
