//! Drives the client library: connects, subscribes, receives, and starts over when the connection breaks.
//!
//! The client's own trouble is handled here: it has no backoff, forgets subscriptions with the session,
//! keeps what it read on a lost connection, and fails on a large packet for ever, because the broker
//! sends it again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{
    AsyncClient, ConnAck, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing,
    Packet, Publish, QoS, StateError, SubAck, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::{Link, NONE, Received};
use crate::clock::Clock;
use crate::config;
use crate::source::mqtt::MqttError;
use crate::source::mqtt::deliver::{Deliverer, ROW_MAX_BYTES};

/// Silence after which the broker is asked whether it is there; twice this finds a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// The largest packet that goes out, a SUBSCRIBE of all filters. *Units*: bytes.
const MAX_OUTGOING: usize = 1024 * 1024;
/// Packets of up to this many times `max_packet` become raw rows without costing a connection.
const SPARE_FACTOR: usize = 2;

/// Drives the client.
pub(super) struct Poller<'a> {
    pub(super) link: &'a Link,
    pub(super) config: &'a config::Mqtt,
    pub(super) client: &'a AsyncClient,
    pub(super) events: EventLoop,
    pub(super) clock: &'a dyn Clock,
    pub(super) received: mpsc::Sender<Received>,
    pub(super) filters: Vec<SubscribeFilter>,
    /// The newest connection's number, live or not.
    pub(super) connection: u64,
    /// Whether the broker has granted every filter in the session that it keeps now.
    pub(super) subscribed: bool,
    pub(super) backoff: Backoff,
}

impl Poller<'_> {
    /// Polls until it is told to stop, or nobody takes publishes any more.
    pub(super) async fn run(mut self) -> Result<(), MqttError> {
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

/// Gives the client's options, without the password.
pub(super) fn options(config: &config::Mqtt) -> MqttOptions {
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
pub(super) async fn set_password(options: &mut MqttOptions, config: &config::Mqtt) -> Result<(), MqttError> {
    let Some((user, path)) = &config.credentials else { return Ok(()) };
    let password = tokio::fs::read_to_string(path).await.map_err(|cause| MqttError::Password {
        connection: config.name.clone(),
        path: path.clone(),
        cause,
    })?;
    options.set_credentials(user.as_str(), password.trim_end_matches(['\r', '\n']));
    Ok(())
}

/// Gives what to subscribe.
pub(super) fn filters(deliverer: &Deliverer) -> Vec<SubscribeFilter> {
    let qos = |qos| if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    deliverer.filters().map(|(filter, level)| SubscribeFilter::new(filter, qos(level))).collect()
}
