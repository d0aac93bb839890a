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

mod backoff;
mod poll;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use millrace_protocol::ClockSegment;
use rumqttc::{AsyncClient, Publish, QoS};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use self::backoff::Backoff;
use self::poll::{Poller, filters, options, set_password};
use super::deliver::{Deliverer, Ignored, Message, Outcome, Sent};
use super::{Counters, MqttError, Source};
use crate::delivery::{Confirmed, Delivery};

/// Acknowledgements that wait for the client: more than it can have read without looking at them.
const REQUESTS: usize = 1024;
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
    if link.live() != NONE && timeout(LEAVE, leave(&link, &client, work)).await.is_err() {
        tracing::debug!(connection = link.name, "stopped before all was acknowledged; it will come again");
    }
    Ok(())
}

/// Goes on until everything received is acknowledged, then takes leave of the broker.
async fn leave(
    link: &Link,
    client: &AsyncClient,
    mut work: impl Future<Output = Result<(), MqttError>> + Unpin,
) {
    let calm = async {
        // All permits are free when nothing is left.
        drop(link.window.acquire_many(link.window_size).await);
        drop(client.try_disconnect());
    };
    let ended = tokio::select! {
        biased;
        ended = &mut work => ended,
        // The work ends when the client has sent its farewell.
        () = calm => work.await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, connection = link.name, "stopped before all was acknowledged");
    }
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
        let packet_id = (publish.qos != QoS::AtMostOnce).then_some(publish.pkid);
        let sent = Sent { packet_id, dup: publish.dup, retained: publish.retain };
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
        if packet_id.is_some() {
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
