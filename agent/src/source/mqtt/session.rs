//! The connection to a broker: what is received, and what is acknowledged when.
//!
//! Three futures run in one task: `poll` drives the client, `deliver` makes deliveries, `acknowledge`
//! waits for them in order of receipt. Invariants:
//!
//! - An acknowledgement is queued only while the connection that delivered its publish is the live one.
//!   [`Link`] changes in the step in which the client's `poll` returns the error, and the client empties
//!   its queue of acknowledgements in that same step; since the futures share a task nothing comes
//!   between. So no acknowledgement ever reaches another connection or session.
//! - Publishes that the client had read when its connection broke come out of it only after the next
//!   connection is made; they are taken out at once and belong to the old one.
//! - `poll` waits for nobody but for a free place in the window, so pings go out however long the disk
//!   takes, unless the broker sends more than the window without waiting for acknowledgements. Then up to
//!   ten packets that the client has read ahead must find places before it writes again; places become
//!   free when publishes are on disk, not when acknowledgements are written, so nothing waits in a circle.
//!
//! The client's own trouble is handled here: it has no backoff, forgets subscriptions with the session,
//! and fails on a large packet for ever, because the broker sends it again.

mod backoff;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use millrace_protocol::ClockSegment;
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{
    AsyncClient, ConnAck, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing,
    Packet, Publish, QoS, StateError, SubAck, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use self::backoff::Backoff;
use super::deliver::{Deliverer, Ignored, Message, Outcome, ROW_MAX_BYTES, Sent};
use super::{Counters, MqttError, Source};
use crate::clock::Clock;
use crate::config;
use crate::delivery::{Confirmed, Delivery};

/// Silence after which the broker is asked whether it is there; twice this finds a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Acknowledgements that wait for the client: more than it can have read without looking at them.
const REQUESTS: usize = 1024;
/// The largest packet that goes out, a SUBSCRIBE of all filters. *Units*: bytes.
const MAX_OUTGOING: usize = 1024 * 1024;
/// Packets of up to this many times `max_packet` become raw rows without costing a connection.
const SPARE_FACTOR: usize = 2;
/// How long a stop waits for the disk and for the broker.
const LEAVE: Duration = Duration::from_millis(500);
/// Until the client's full queue of acknowledgements is tried again.
const RETRY_ACK: Duration = Duration::from_millis(1);

/// No connection.
const NONE: u64 = 0;

/// What the three futures share.
struct Link {
    name: String,
    /// The live connection's number, or [`NONE`].
    live: AtomicU64,
    stopping: AtomicBool,
    /// One permit for each publish that is received and not yet dealt with (`receive_maximum`).
    window: Arc<Semaphore>,
    window_size: u32,
    counters: Arc<Counters>,
}

/// A publish and where it came from.
struct Received {
    publish: Publish,
    packet_bytes: usize,
    connection: u64,
    arrived_us: i64,
    clock: ClockSegment,
    permit: OwnedSemaphorePermit,
}

/// A publish on its way to the disk.
struct Flight {
    /// The packet's number and QoS, without the rest.
    ack: Publish,
    connection: u64,
    /// `None`: there is nothing to wait for.
    confirmed: Option<oneshot::Receiver<Confirmed>>,
    /// Held until the publish is dealt with.
    permit: OwnedSemaphorePermit,
}

/// Runs a source; see [`Source::run`].
pub(super) async fn run(source: Source) -> Result<(), MqttError> {
    let Source { config, deliverer, clock, deliveries, cancel, counters } = source;
    let window = usize::from(config.receive_maximum.max(1));
    let link = Link {
        name: config.name.clone(),
        live: AtomicU64::new(NONE),
        stopping: AtomicBool::new(false),
        window: Arc::new(Semaphore::new(window)),
        window_size: u32::from(config.receive_maximum.max(1)),
        counters,
    };
    let mut options = options(&config);
    set_password(&mut options, &config).await?;
    let (client, events) = AsyncClient::new(options, REQUESTS);
    let (received, to_deliver) = mpsc::channel(window);
    let (flights, to_acknowledge) = mpsc::channel(window);
    let poller = Poller {
        filters: filters(&deliverer),
        link: &link,
        config: &config,
        client: &client,
        events,
        clock: &*clock,
        received,
        connection: NONE,
        subscribed: false,
        backoff: Backoff::default(),
    };
    let work = async {
        tokio::select! {
            biased;
            ended = acknowledge(&link, &client, to_acknowledge) => ended,
            ended = deliver(&link, deliverer, to_deliver, &deliveries, flights) => ended,
            ended = poller.run() => ended,
        }
    };
    let mut work = Box::pin(work);
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        ended = &mut work => return ended,
    }
    link.stopping.store(true, Ordering::Relaxed);
    if link.live() != NONE {
        let leave = async {
            let calm = async {
                // All permits are free when everything received is acknowledged.
                drop(link.window.acquire_many(link.window_size).await);
                drop(client.try_disconnect());
            };
            tokio::select! {
                biased;
                ended = &mut work => return ended,
                () = calm => {}
            }
            // It ends when the client has sent that.
            work.await
        };
        if let Ok(Err(error)) = timeout(LEAVE, leave).await {
            tracing::debug!(%error, connection = link.name, "the source stopped before all was acknowledged");
        }
    }
    Ok(())
}

impl Link {
    fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn not_stored(&self) -> MqttError {
        MqttError::NotStored { connection: self.name.clone() }
    }

    fn batch_ended(&self) -> MqttError {
        MqttError::BatchEnded { connection: self.name.clone() }
    }
}

fn options(config: &config::Mqtt) -> MqttOptions {
    // The client joins host and port by a colon.
    let host = match config.host.contains(':') && !config.host.starts_with('[') {
        true => format!("[{}]", config.host),
        false => config.host.clone(),
    };
    let mut options = MqttOptions::new(config.client_id.as_str(), host, config.port);
    options
        .set_clean_session(false)
        .set_manual_acks(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_max_packet_size(config.max_packet.saturating_mul(SPARE_FACTOR), MAX_OUTGOING);
    options
}

/// Reads the password anew, so that a changed one is followed at the next connection.
async fn set_password(options: &mut MqttOptions, config: &config::Mqtt) -> Result<(), MqttError> {
    let Some((user, path)) = &config.credentials else { return Ok(()) };
    let password = tokio::fs::read_to_string(path).await.map_err(|cause| MqttError::Password {
        connection: config.name.clone(),
        path: path.clone(),
        cause,
    })?;
    options.set_credentials(user.as_str(), password.trim_end_matches(['\r', '\n']));
    Ok(())
}

fn filters(deliverer: &Deliverer) -> Vec<SubscribeFilter> {
    let qos = |qos| if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    deliverer.filters().map(|(filter, level)| SubscribeFilter::new(filter, qos(level))).collect()
}

/// Drives the client.
struct Poller<'a> {
    link: &'a Link,
    config: &'a config::Mqtt,
    client: &'a AsyncClient,
    events: EventLoop,
    clock: &'a dyn Clock,
    received: mpsc::Sender<Received>,
    filters: Vec<SubscribeFilter>,
    /// The newest connection's number, live or not.
    connection: u64,
    /// Whether the broker has granted every filter in the session that it keeps now.
    subscribed: bool,
    backoff: Backoff,
}

impl Poller<'_> {
    async fn run(mut self) -> Result<(), MqttError> {
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => self.connected(&ack),
                Ok(Event::Incoming(Packet::SubAck(ack))) => self.granted(&ack),
                Ok(Event::Incoming(Packet::Publish(publish))) => self.receive(publish).await?,
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return Ok(()),
                Ok(Event::Incoming(_) | Event::Outgoing(_)) => {}
                Err(error) => {
                    let left = self.disconnected();
                    self.report(&error);
                    for event in left {
                        match event {
                            Event::Incoming(Packet::Publish(publish)) => self.receive(publish).await?,
                            Event::Incoming(Packet::SubAck(ack)) => self.granted(&ack),
                            Event::Incoming(_) | Event::Outgoing(_) => {}
                        }
                    }
                    if self.link.is_stopping() {
                        return Ok(());
                    }
                    self.wait_to_reconnect().await;
                }
            }
        }
    }

    fn connected(&mut self, ack: &ConnAck) {
        self.connection = rand::random::<u64>().max(NONE + 1);
        self.link.live.store(self.connection, Ordering::Relaxed);
        self.link.counters.connected.store(true, Ordering::Relaxed);
        self.link.counters.connects.fetch_add(1, Ordering::Relaxed);
        self.backoff.connected(self.clock.monotonic_us());
        let session = if ack.session_present { "kept" } else { "new" };
        tracing::info!(connection = self.link.name, session, "connected to the MQTT broker");
        // A session that the broker kept may be one of an earlier configuration with other filters.
        if !ack.session_present || !self.subscribed {
            self.subscribed = false;
            if self.client.try_subscribe_many(self.filters.iter().cloned()).is_err() {
                // The queue is empty at this moment and the filters were checked when they were read.
                tracing::error!(connection = self.link.name, "the subscriptions could not be sent");
            }
        }
    }

    fn granted(&mut self, ack: &SubAck) {
        self.subscribed = true;
        for (filter, code) in self.filters.iter().zip(&ack.return_codes) {
            match code {
                SubscribeReasonCode::Failure => {
                    self.subscribed = false;
                    tracing::error!(
                        connection = self.link.name,
                        filter = filter.path,
                        "the broker refused the subscription; look at its access rules"
                    );
                }
                SubscribeReasonCode::Success(qos) if *qos != filter.qos => {
                    tracing::warn!(
                        connection = self.link.name,
                        filter = filter.path,
                        ?qos,
                        "the broker granted another QoS than was asked for"
                    );
                }
                SubscribeReasonCode::Success(_) => {}
            }
        }
    }

    /// Marks the connection as gone, and takes out of the client what belonged to it.
    ///
    /// Must be called before anything is awaited after the client's error.
    fn disconnected(&mut self) -> VecDeque<Event> {
        self.link.live.store(NONE, Ordering::Relaxed);
        self.link.counters.connected.store(false, Ordering::Relaxed);
        // Requests that wait for the next connection; what is still due is asked for anew there.
        self.events.pending.clear();
        std::mem::take(&mut self.events.state.events)
    }

    fn report(&mut self, error: &ConnectionError) {
        let connection = self.link.name.as_str();
        match error {
            ConnectionError::MqttState(StateError::Deserialization(
                PacketError::PayloadSizeLimitExceeded(bytes),
            )) => {
                tracing::warn!(
                    connection,
                    bytes,
                    "a packet is far larger than max_packet; it is read once more to be set aside as a raw row"
                );
                // Otherwise the broker would send it on every connection, for ever. MQTT's own limit is 256 MiB.
                self.events.mqtt_options.set_max_packet_size(*bytes, MAX_OUTGOING);
            }
            ConnectionError::ConnectionRefused(
                code @ (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized),
            ) => {
                tracing::error!(connection, ?code, "the MQTT broker refuses this user name or password");
            }
            error if self.link.is_stopping() => tracing::debug!(connection, %error, "the connection ended"),
            error => tracing::warn!(connection, %error, "no connection to the MQTT broker; trying again"),
        }
    }

    async fn wait_to_reconnect(&mut self) {
        loop {
            sleep(self.backoff.next(self.clock.monotonic_us())).await;
            match set_password(&mut self.events.mqtt_options, self.config).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "waiting for the password");
                }
            }
        }
    }

    /// Hands a publish on when the window has a place for it.
    async fn receive(&mut self, mut publish: Publish) -> Result<(), MqttError> {
        if self.link.is_stopping() {
            return Ok(());
        }
        let clock = self.clock.segment();
        let arrived_us = self.clock.now_us();
        self.link.counters.publishes.fetch_add(1, Ordering::Relaxed);
        let packet_bytes = publish.size();
        if packet_bytes > self.config.max_packet {
            // A raw row keeps no more, and a copy lets go of the rest.
            let kept = publish.payload.get(..ROW_MAX_BYTES).unwrap_or(&publish.payload).to_vec();
            publish.payload = kept.into();
        }
        let Ok(permit) = Arc::clone(&self.link.window).acquire_owned().await else {
            return Err(self.link.batch_ended());
        };
        let connection = self.connection;
        let received = Received { publish, packet_bytes, connection, arrived_us, clock, permit };
        self.received.send(received).await.map_err(|_| self.link.batch_ended())
    }
}

/// Makes deliveries in order of receipt.
async fn deliver(
    link: &Link,
    mut deliverer: Deliverer,
    mut received: mpsc::Receiver<Received>,
    deliveries: &mpsc::Sender<Delivery>,
    flights: mpsc::Sender<Flight>,
) -> Result<(), MqttError> {
    while let Some(Received { publish, packet_bytes, connection, arrived_us, clock, permit }) =
        received.recv().await
    {
        let wants_ack = publish.qos != QoS::AtMostOnce;
        let sent = Sent { wants_ack, dup: publish.dup, retained: publish.retain };
        let (topic, payload) = (publish.topic.as_str(), &*publish.payload);
        let message = Message { topic, payload, packet_bytes, sent, connection, arrived_us, clock };
        let confirmed = match deliverer.deliver(&message) {
            Outcome::Deliver { delivery, confirmed, problem } => {
                if let Some(problem) = problem {
                    let raw = link.counters.raw.fetch_add(1, Ordering::Relaxed) + 1;
                    if is_round(raw) {
                        tracing::warn!(connection = link.name, topic, %problem, raw, "a message became a raw row");
                    }
                }
                deliveries.send(*delivery).await.map_err(|_| link.batch_ended())?;
                confirmed
            }
            Outcome::Ignore(why) => {
                note_ignored(link, topic, why);
                None
            }
        };
        if wants_ack {
            let mut ack = Publish::new("", publish.qos, Vec::new());
            ack.pkid = publish.pkid;
            let flight = Flight { ack, connection, confirmed, permit };
            flights.send(flight).await.map_err(|_| link.batch_ended())?;
        }
    }
    Ok(())
}

fn note_ignored(link: &Link, topic: &str, why: Ignored) {
    let connection = link.name.as_str();
    let ignored = link.counters.ignored.fetch_add(1, Ordering::Relaxed) + 1;
    if why == Ignored::NotSubscribed && is_round(ignored) {
        tracing::warn!(
            connection,
            topic,
            ignored,
            "no subscription matches; the broker's session remembers an earlier configuration"
        );
    }
}

/// 1, 10, 100, …: enough to notice, too few to fill a log.
fn is_round(count: u64) -> bool {
    count.checked_ilog10().is_some_and(|digits| count == 10u64.pow(digits))
}

/// Acknowledges what is on disk, in order of receipt, on the connection that delivered it.
async fn acknowledge(
    link: &Link,
    client: &AsyncClient,
    mut flights: mpsc::Receiver<Flight>,
) -> Result<(), MqttError> {
    while let Some(Flight { ack, connection, confirmed, permit }) = flights.recv().await {
        if let Some(confirmed) = confirmed {
            confirmed.await.map_err(|_| link.not_stored())?;
        }
        loop {
            if link.live() != connection {
                // The broker sends it again, and the batch stage knows it by its hash (D5).
                link.counters.stale_acks.fetch_add(1, Ordering::Relaxed);
                break;
            }
            // Not the waiting form: the connection could change while it waits.
            if client.try_ack(&ack).is_ok() {
                break;
            }
            sleep(RETRY_ACK).await;
        }
        drop(permit);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
