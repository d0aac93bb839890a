//! The broker, spoken to by a client that is written here, and by the plant's own publishers.

use std::net::SocketAddr;

use super::*;
use crate::plant::config::PlantConfig;
use crate::plant::mqtt::packet::Again;
use crate::plant::running::Plant;

const BOUND: Duration = Duration::from_secs(20);

/// What came: first byte of the packet and its body.
type Got = (u8, Vec<u8>);

struct Client(TcpStream);

impl Client {
    /// Connects and gives whether the broker knew the session.
    async fn connect(address: SocketAddr, id: &str, clean: bool) -> (Self, bool) {
        let mut client = Self(TcpStream::connect(address).await.expect("connected"));
        let mut body = b"\x00\x04MQTT\x04".to_vec();
        body.extend([if clean { 2 } else { 0 }, 0, 0, 0, id.len() as u8]);
        body.extend(id.as_bytes());
        client.send(0x10, &body).await;
        let (first, body) = client.next().await.expect("connack");
        assert_eq!((first, body[1]), (0x20, 0));
        (client, body[0] == 1)
    }

    async fn send(&mut self, first: u8, body: &[u8]) {
        let header = [first, u8::try_from(body.len()).expect("short")];
        self.0.write_all(&[&header, body].concat()).await.expect("sent");
    }

    async fn next(&mut self) -> Option<Got> {
        let read = async {
            let first = self.0.read_u8().await.ok()?;
            let (mut length, mut shift) = (0, 0);
            loop {
                let byte = usize::from(self.0.read_u8().await.ok()?);
                length |= (byte & 127) << shift;
                shift += 7;
                if byte < 128 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.ok()?;
            Some((first, body))
        };
        tokio::time::timeout(BOUND, read).await.expect("a packet or a hang-up in time")
    }

    async fn subscribe(&mut self, filter: &str) {
        let mut body = vec![0, 9, 0, filter.len() as u8];
        body.extend(filter.as_bytes());
        body.push(1);
        self.send(0x82, &body).await;
        assert_eq!(self.next().await.expect("suback"), (0x90, vec![0, 9, 1]));
    }

    /// Publishes with QoS 1 and waits until the broker has it.
    async fn publish(&mut self, topic: &str, payload: &str) {
        let bytes = packet::publish_to(topic, payload.as_bytes(), Some(77), Again::No);
        self.0.write_all(&bytes).await.expect("sent");
        assert_eq!(self.next().await.expect("puback"), (0x40, vec![0, 77]));
    }

    /// Gives (first byte, packet id, payload) of the next publish.
    async fn message(&mut self) -> (u8, u16, String) {
        let (first, body) = self.next().await.expect("publish");
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let id = u16::from_be_bytes([body[2 + topic], body[3 + topic]]);
        (first, id, String::from_utf8(body[4 + topic..].to_vec()).expect("text"))
    }

    async fn acknowledge(&mut self, id: u16) {
        self.send(0x40, &id.to_be_bytes()).await;
    }
}

async fn broker() -> (Broker, SocketAddr, Tasks) {
    let (broker, tasks) = (Broker::new(Arc::new(TruthLog::none())), Tasks::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    tasks.start("broker", broker.clone().serve(listener, tasks.clone()));
    (broker, address, tasks)
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, wait).await.expect("in time");
}

#[tokio::test]
async fn a_persistent_session_gets_everything_in_order_and_unacknowledged_messages_again_with_dup() {
    let (broker, address, tasks) = broker().await;
    let (mut source, _) = Client::connect(address, "source", true).await;
    let (mut agent, present) = Client::connect(address, "agent", false).await;
    assert!(!present);
    agent.subscribe("plant/+/telemetry").await;
    for n in ["a", "b", "c"] {
        source.publish("plant/m/telemetry", n).await;
    }
    source.publish("plant/m/other", "x").await;
    for (n, expected) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(agent.message().await, (0x32, n as u16 + 1, expected.to_owned()));
    }
    agent.acknowledge(1).await;
    until(|| broker.sessions().iter().any(|(id, state)| id == "agent" && state.in_flight == 2)).await;
    drop(agent);
    until(|| broker.sessions().iter().any(|(id, state)| id == "agent" && !state.connected)).await;
    source.publish("plant/m/telemetry", "d").await;

    let (mut agent, present) = Client::connect(address, "agent", false).await;
    assert!(present);
    let mut again = Vec::new();
    for _ in 0..3 {
        again.push(agent.message().await);
    }
    let expected = [(0x3a, 2, "b"), (0x3a, 3, "c"), (0x32, 4, "d")];
    assert_eq!(again, expected.map(|(first, id, text)| (first, id, text.to_owned())));
    for (_, id, _) in again {
        agent.acknowledge(id).await;
    }
    let empty = |state: &SessionState| state.in_flight + state.waiting == 0;
    until(|| broker.sessions().iter().any(|(id, state)| id == "agent" && empty(state))).await;
    tasks.stop().await;
}

#[tokio::test]
async fn a_clean_session_is_forgotten_and_a_second_connection_takes_over() {
    let (broker, address, tasks) = broker().await;
    let (mut first, _) = Client::connect(address, "agent", false).await;
    first.subscribe("#").await;
    let (second, present) = Client::connect(address, "agent", false).await;
    assert!(present);
    assert_eq!(first.next().await, None, "the older connection is closed");
    drop(second);
    let (clean, present) = Client::connect(address, "agent", true).await;
    assert!(!present);
    drop(clean);
    until(|| broker.sessions().is_empty()).await;
    tasks.stop().await;
}

#[tokio::test]
async fn pings_unsubscriptions_and_refusals_are_answered() {
    let (_broker, address, tasks) = broker().await;
    let (mut client, _) = Client::connect(address, "agent", true).await;
    client.send(0xc0, &[]).await;
    assert_eq!(client.next().await, Some((0xd0, vec![])));
    client.subscribe("t").await;
    client.send(0xa2, &[0, 5, 0, 1, b't']).await;
    assert_eq!(client.next().await, Some((0xb0, vec![0, 5])));
    let mut other = Client(TcpStream::connect(address).await.expect("connected"));
    other.send(0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00\x01a").await;
    assert_eq!(other.next().await, Some((0x20, vec![0, 1])), "version 5 is refused");
    tasks.stop().await;
}

#[tokio::test]
async fn publishers_wait_for_an_absent_subscriber_and_every_publish_is_in_the_truth() {
    let dir = tempfile::TempDir::new().expect("dir");
    let path = dir.path().join("truth.jsonl");
    let config = PlantConfig::parse(
        r#"
        version = 1
        site = "s"
        mqtt = { name = "b" }
        publisher = [{ machine = "m", profile = "p" }, { machine = "n", profile = "p" }]
        [publisher_profile.p]
        topic = "plant/{machine}"
        interval = "5 ms"
        fields = [{ path = "a.count", signal = "polls" }, { path = "a.speed", signal = "speed" }]"#,
    )
    .expect("config");
    let plant = Plant::start(config, TruthLog::create(&path).expect("truth")).await.expect("plant");
    let address = plant.addresses().mqtt.expect("broker");
    let (mut agent, _) = Client::connect(address, "agent", false).await;
    agent.subscribe("plant/#").await;
    let first = agent.message().await;
    drop(agent);
    let waiting = || plant.state()["sessions"]["agent"]["waiting"].as_u64().unwrap_or(0);
    until(|| waiting() > 50).await;
    plant.stop().await.expect("stopped");

    let text = std::fs::read_to_string(&path).expect("truth");
    let entries: Vec<Entry> = text.lines().map(|line| serde_json::from_str(line).expect("entry")).collect();
    let logged: Vec<String> = entries
        .into_iter()
        .filter_map(|entry| match entry {
            Entry::Publish(publish) if publish.receivers == 1 => Some(publish.payload),
            _ => None,
        })
        .collect();
    let (mut agent, present) = Client::connect(address, "agent", false).await;
    assert!(present);
    let mut seen = Vec::new();
    while seen.len() < logged.len() {
        let (_, id, payload) = agent.message().await;
        agent.acknowledge(id).await;
        seen.push(payload);
    }
    assert_eq!(seen, logged);
    assert_eq!(seen[0], first.2);
    until(|| plant.state()["sessions"]["agent"]["in_flight"] == 0 && waiting() == 0).await;
    plant.end().await;
}

#[tokio::test]
async fn closing_the_subscribers_leads_to_redelivery_and_leaves_publishers_alone() {
    let (broker, address, tasks) = broker().await;
    let (mut source, _) = Client::connect(address, "source", false).await;
    let (mut agent, _) = Client::connect(address, "agent", false).await;
    agent.subscribe("t").await;
    assert_eq!(broker.publish("t", b"1").expect("written down"), 1);
    assert_eq!(agent.message().await.0, 0x32);
    broker.close_subscribers();
    assert_eq!(agent.next().await, None);
    source.publish("t", "2").await;
    let (mut agent, present) = Client::connect(address, "agent", false).await;
    assert!(present);
    assert_eq!(agent.message().await, (0x3a, 1, "1".to_owned()));
    assert_eq!(agent.message().await, (0x32, 2, "2".to_owned()));
    tasks.stop().await;
}
