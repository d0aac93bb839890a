//! The agent's MQTT source against the plant's broker: whatever connections break, every publish is
//! stored, a redelivery is recognised as one (D5), and in the end the broker has nothing left.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use millrace_agent::clock::Clock;
use millrace_agent::config::{Mqtt, Payload, Subscription, Timestamp, TimestampFormat};
use millrace_agent::delivery::{Confirmed, Delivery, Publish};
use millrace_agent::source::mqtt::Source;
use millrace_hw_tests::plant::mqtt::Broker;
use millrace_hw_tests::supervise::Tasks;
use millrace_hw_tests::truth::log::TruthLog;
use millrace_protocol::{Category, ClockSegment};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const BOUND: Duration = Duration::from_secs(60);
const MESSAGES: i64 = 300;

#[derive(Default)]
struct CountingClock(AtomicI64);

impl Clock for CountingClock {
    fn now_us(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic_us(&self) -> i64 {
        self.now_us()
    }

    fn boot_id(&self) -> millrace_protocol::BootId {
        millrace_protocol::BootId([0; 16])
    }

    fn segment(&self) -> ClockSegment {
        ClockSegment::default()
    }
}

fn config(port: u16) -> Mqtt {
    Mqtt {
        name: "plant".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        client_id: "millrace-gw-plant".to_owned(),
        credentials: None,
        receive_maximum: 20,
        max_packet: 4096,
        subscriptions: vec![Subscription {
            topic: "plant/{machine}/data".to_owned(),
            qos: 1,
            payload: Payload::Json,
            timestamp: Some(Timestamp { path: "ts".to_owned(), format: TimestampFormat::UnixUs }),
            rows: None,
            machines: Vec::new(),
            tags: Vec::new(),
            category: Category::new("telemetry").unwrap(),
        }],
    }
}

/// Stores like the batch stage, in memory: confirms the oldest first, and never what was stored before.
#[derive(Default)]
struct Disk {
    waiting: VecDeque<(i64, Publish)>,
    stored: BTreeMap<u64, i64>,
    times: Vec<i64>,
    redelivered: u64,
}

impl Disk {
    fn take(&mut self, delivery: Delivery) {
        assert!(delivery.raw.is_none());
        self.waiting.push_back((delivery.rows[0].row.time_us, delivery.publish.unwrap()));
    }

    fn flush(&mut self, publishes: usize) {
        for _ in 0..publishes {
            let Some((time_us, publish)) = self.waiting.pop_front() else { return };
            let how = match self.stored.insert(publish.hash, time_us) {
                Some(before) => {
                    assert_eq!((before, publish.dup), (time_us, true), "only what is sent again is the same");
                    self.redelivered += 1;
                    Confirmed::Redelivered
                }
                None => {
                    self.times.push(time_us);
                    Confirmed::Stored
                }
            };
            // The source may be gone.
            let _ = publish.confirm.send(how);
        }
    }
}

/// Starts the source as a process would be started: with the same session and no memory.
fn start(port: u16, tasks: &Tasks) -> (mpsc::Receiver<Delivery>, CancellationToken) {
    let (send, deliveries) = mpsc::channel(64);
    let cancel = CancellationToken::new();
    let clock = Arc::new(CountingClock::default());
    let source = Source::new(config(port), "hall3", clock, send, cancel.clone()).unwrap();
    tasks.start("source", async move {
        source.run().await.unwrap();
    });
    (deliveries, cancel)
}

async fn until_subscribed(broker: &Broker) {
    let wait = async {
        // A publish to nobody is gone, so it does not disturb the test.
        while broker.publish("plant/probe/data", br#"{"ts": -1, "v": 0}"#).unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, wait).await.unwrap();
}

#[tokio::test]
async fn every_publish_is_stored_once_whatever_connections_break() {
    let (broker, tasks) = (Broker::new(Arc::new(TruthLog::none())), Tasks::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.start("broker", broker.clone().serve(listener, tasks.clone()));
    let mut random = StdRng::seed_from_u64(20_261_124);
    let mut disk = Disk::default();
    let (mut deliveries, mut cancel) = start(port, &tasks);
    until_subscribed(&broker).await;

    // The source waits twice as long after every cut, so a process gets five at most.
    let (mut next, mut cuts) = (0, 0);
    let run = async {
        while next < MESSAGES || disk.times.len() <= MESSAGES as usize {
            // Few enough on their way that every cut meets a connection that carries something.
            if next < MESSAGES && (next - disk.times.len() as i64) < 30 {
                let payload = format!("{{\"ts\": {next}, \"v\": 1}}");
                assert_eq!(broker.publish("plant/m1/data", payload.as_bytes()).unwrap(), 1);
                next += 1;
                match random.random_range(0..100) {
                    0..=2 if cuts < 5 => {
                        cuts += 1;
                        broker.close_subscribers();
                    }
                    3 => {
                        // A new process: what the old one had in memory is lost, what is on disk stays.
                        cancel.cancel();
                        disk.waiting.clear();
                        cuts = 0;
                        (deliveries, cancel) = start(port, &tasks);
                    }
                    _ => {}
                }
            }
            while let Ok(delivery) = deliveries.try_recv() {
                disk.take(delivery);
            }
            disk.flush(random.random_range(0..3));
            tokio::task::yield_now().await;
        }
        while broker.sessions().iter().any(|(_, state)| state.in_flight + state.waiting > 0) {
            while let Ok(delivery) = deliveries.try_recv() {
                disk.take(delivery);
            }
            disk.flush(usize::MAX);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND * 2, run).await.expect("everything is stored and acknowledged");
    disk.times.sort_unstable();
    assert_eq!(disk.times, (-1..MESSAGES).collect::<Vec<_>>());
    assert!(disk.redelivered > 0, "no connection broke at the right moment: another seed is needed");
    tasks.stop().await;
}
