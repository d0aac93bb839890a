//! The machines that publish: one MQTT client for all of them, JSON, QoS 1, with the event time in the
//! payload.
//!
//! Invariant: timestamps of one machine rise strictly, so that (machine, timestamp) names a message.
//! The rumqttc crate is named here only.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::config::{Field, PublisherProfile};
use super::fault::{Fault, FaultKind, Faults};
use super::model::{Model, Shown};
use super::mqtt::Broker;
use crate::clock;
use crate::supervise::Tasks;

/// Publishes that wait for the client's event loop; more than all machines make in one tick.
const REQUESTS: usize = 1024;
/// Between two tries to reach the broker, which is in the same process.
const RECONNECT: Duration = Duration::from_millis(100);

/// One machine that publishes.
#[derive(Debug)]
pub struct Publisher {
    machine: String,
    topic: String,
    interval: Duration,
    fields: Vec<Field>,
    model: Model,
    frozen: Option<Model>,
    last_ms: i64,
    messages: u64,
}

impl Publisher {
    /// Makes one.
    #[must_use]
    pub fn new(machine: &str, topic: String, profile: &PublisherProfile, seed: u64) -> Self {
        Self {
            machine: machine.to_owned(),
            topic,
            interval: profile.interval,
            fields: profile.fields.clone(),
            model: Model::new(seed),
            frozen: None,
            last_ms: 0,
            messages: 0,
        }
    }

    /// Makes the next payload; `None` if a fault keeps the machine silent.
    pub fn payload(&mut self, elapsed: Duration, now_us: i64, faults: &[Fault]) -> Option<String> {
        let has = |kind| faults.iter().any(|fault| fault.kind == kind);
        if has(FaultKind::Dead) {
            return None;
        }
        self.model.run_to(elapsed);
        match (has(FaultKind::Frozen), &self.frozen) {
            (true, None) => self.frozen = Some(self.model.clone()),
            (false, Some(_)) => self.frozen = None,
            _ => {}
        }
        self.messages += 1;
        self.last_ms = (self.last_ms + 1).max(now_us / 1000);
        let model = self.frozen.as_ref().unwrap_or(&self.model);
        let mut root = Map::new();
        root.insert("ts".to_owned(), json!(self.last_ms));
        for field in &self.fields {
            let value = match model.show(field.signal, self.messages) {
                Shown::Number(number) => json!(number),
                Shown::Count(count) => json!(count),
                Shown::Flag(flag) => json!(flag),
                Shown::Text(text) => json!(text),
            };
            insert(&mut root, &field.path, value);
        }
        Some(Value::Object(root).to_string())
    }
}

fn insert(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(object.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = object.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// What a machine's task needs.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What goes wrong.
    pub faults: Arc<Faults>,
    /// The broker in this process, for the fault that closes connections.
    pub broker: Broker,
    /// When the plant started.
    pub start: Instant,
    /// Ends the publishing.
    pub stop: CancellationToken,
}

/// Starts the client among `tasks`, and among `machines` a task for each; the answer tells how many publishes the broker has
/// not acknowledged yet.
#[must_use]
pub fn start(
    broker: SocketAddr,
    publishers: Vec<Publisher>,
    around: &Surroundings,
    tasks: &Tasks,
    machines: &Tasks,
) -> watch::Receiver<usize> {
    let mut options = MqttOptions::new("millrace-plant", broker.ip().to_string(), broker.port());
    // A broken connection must not lose what it carried: the plant's own session is kept too.
    options.set_clean_session(false).set_keep_alive(Duration::from_secs(30));
    let (client, events) = AsyncClient::new(options, REQUESTS);
    let (open, unacknowledged) = watch::channel(0usize);
    let open = Arc::new(open);
    tasks.start("mqtt client", drive(events, Arc::clone(&open)));
    for publisher in publishers {
        let work = publish(publisher, client.clone(), Arc::clone(&open), around.clone());
        machines.start_graceful("publisher", work);
    }
    unacknowledged
}

async fn drive(mut events: EventLoop, open: Arc<watch::Sender<usize>>) {
    let mut in_flight = BTreeSet::new();
    loop {
        match events.poll().await {
            Ok(Event::Outgoing(Outgoing::Publish(id))) => drop(in_flight.insert(id)),
            Ok(Event::Incoming(Packet::PubAck(ack))) => {
                if in_flight.remove(&ack.pkid) {
                    open.send_modify(|open| *open = open.saturating_sub(1));
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the plant's own MQTT client is cut off");
                tokio::time::sleep(RECONNECT).await;
            }
        }
    }
}

async fn publish(
    mut publisher: Publisher,
    client: AsyncClient,
    open: Arc<watch::Sender<usize>>,
    around: Surroundings,
) {
    let mut ticks = tokio::time::interval(publisher.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = around.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        if around.faults.take(&publisher.machine, FaultKind::Close, now) {
            around.broker.close_subscribers();
        }
        let faults = around.faults.of(&publisher.machine, now);
        let Some(payload) = publisher.payload(now - around.start, clock::now_us(), &faults) else { continue };
        open.send_modify(|open| *open += 1);
        if client.publish(publisher.topic.clone(), QoS::AtLeastOnce, false, payload).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher() -> Publisher {
        let profile = toml::from_str(
            r#"
            topic = "plant/{machine}"
            interval = "1 s"
            fields = [{ path = "a.b.speed", signal = "speed" }, { path = "a.count", signal = "polls" }]"#,
        );
        Publisher::new("m", "plant/m".to_owned(), &profile.expect("profile"), 3)
    }

    fn fault(kind: &str) -> Vec<Fault> {
        vec![serde_json::from_str(&format!(r#"{{"machine":"m","kind":"{kind}"}}"#)).expect("fault")]
    }

    fn next(publisher: &mut Publisher, s: u64, now_us: i64, faults: &[Fault]) -> Option<Value> {
        let payload = publisher.payload(Duration::from_secs(s), now_us, faults)?;
        Some(serde_json::from_str(&payload).expect("JSON"))
    }

    #[test]
    fn timestamps_rise_even_when_the_clock_does_not() {
        let mut publisher = publisher();
        let times: Vec<_> = [5_000, 5_999, 4_000, 9_000, 9_000]
            .into_iter()
            .map(|now_us| next(&mut publisher, 1, now_us, &[]).and_then(|payload| payload["ts"].as_i64()))
            .collect();
        assert_eq!(times, [5, 6, 7, 9, 10].map(Some));
    }

    #[test]
    fn a_dead_machine_is_silent_and_a_frozen_one_repeats_its_values_with_new_times_and_counts() {
        let mut publisher = publisher();
        assert_eq!(next(&mut publisher, 1, 0, &fault("dead")), None);
        let first = next(&mut publisher, 1, 0, &fault("frozen")).expect("payload");
        let second = next(&mut publisher, 5, 0, &fault("frozen")).expect("payload");
        assert_eq!(first["a"]["b"], second["a"]["b"]);
        assert_eq!([&first, &second].map(|p| p["a"]["count"].as_i64()), [Some(1), Some(2)]);
        assert_ne!(next(&mut publisher, 5, 0, &[]).expect("payload")["a"]["b"], first["a"]["b"]);
    }
}
