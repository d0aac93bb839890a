//! The MQTT 3.1.1 broker inside the plant: QoS 0 and 1, persistent sessions, redelivery with DUP.
//!
//! It is our own because the agent's promise needs a broker that marks what it sends again (D5,
//! [MQTT-3.3.1-1]): rumqttd 0.20 rewinds a returning session and sends from its log with DUP clear,
//! cannot tell which port it took for port 0, and cannot be stopped. What this one leaves out: QoS 2,
//! retained messages, wills, passwords, TLS, and a disk: sessions end with the process.
//!
//! `packet` reads and writes packets, `session` is what the broker remembers (both pure), this file
//! does the I/O.
//!
//! Invariant: a message is written to the truth log before any session gets it, and is acknowledged to
//! its publisher after every session has it.
//!
//! *Source*: MQTT Version 3.1.1, OASIS Standard, 29 October 2014.

pub mod packet;
pub mod session;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use self::packet::{Connect, Packet, PacketError};
use self::session::{Message, Session, SessionState};
use crate::clock;
use crate::supervise::Tasks;
use crate::truth::entry::{Entry, PublishEntry};
use crate::truth::log::{TruthError, TruthLog};

/// A client has this long to say who it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A running broker. Clones stand for the same one.
#[derive(Debug, Clone)]
pub struct Broker {
    hub: Arc<Hub>,
}

#[derive(Debug)]
struct Hub {
    truth: Arc<TruthLog>,
    sessions: Mutex<BTreeMap<String, Entered>>,
}

/// A session and the connection that it has now.
#[derive(Debug)]
struct Entered {
    session: Session,
    connection: Option<Connection>,
}

/// How others reach the task of a connection.
#[derive(Debug, Clone)]
struct Connection {
    /// Wakes the task when the session has something to send.
    wake: Arc<tokio::sync::Notify>,
    /// Closes the connection.
    close: CancellationToken,
}

impl Broker {
    /// Makes a broker without sessions.
    #[must_use]
    pub fn new(truth: Arc<TruthLog>) -> Self {
        Self { hub: Arc::new(Hub { truth, sessions: Mutex::default() }) }
    }

    /// Accepts clients until the tasks end.
    pub async fn serve(self, listener: TcpListener, tasks: Tasks) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    tracing::debug!(%peer, "connected");
                    let broker = self.clone();
                    tasks.start("mqtt connection", async move {
                        if let Err(error) = broker.connection(stream).await {
                            tracing::debug!(%error, %peer, "connection ends");
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "an MQTT connection could not be accepted"),
            }
        }
    }

    /// Gives what each session has waiting, by client id.
    #[must_use]
    pub fn sessions(&self) -> Vec<(String, SessionState)> {
        let sessions = self.hub.lock();
        sessions.iter().map(|(id, e)| (id.clone(), e.session.state(e.connection.is_some()))).collect()
    }

    /// Publishes with QoS 1, as a client would, and gives the number of sessions that it is queued for.
    ///
    /// *Errors*: it cannot be written down; nobody gets it then.
    pub fn publish(&self, topic: &str, payload: &[u8]) -> Result<usize, TruthError> {
        self.hub.publish(Message { topic: topic.to_owned(), payload: payload.to_vec(), qos: 1 })
    }

    /// Closes the connection of every client that has subscribed to something.
    pub fn close_subscribers(&self) {
        for entered in self.hub.lock().values().filter(|entered| entered.session.has_subscriptions()) {
            if let Some(connection) = &entered.connection {
                connection.close.cancel();
            }
        }
    }

    async fn connection(&self, stream: TcpStream) -> Result<(), PacketError> {
        stream.set_nodelay(true)?;
        let (mut read, mut write) = stream.into_split();
        let first = tokio::time::timeout(CONNECT_TIMEOUT, read_packet(&mut read)).await;
        let Ok(Ok(Packet::Connect(connect))) = first else {
            return Err(PacketError::Unexpected("no CONNECT"));
        };
        if let Some(code) = connect.refusal() {
            return Ok(write.write_all(&packet::connack(false, code)).await?);
        }
        let (connection, present) = self.hub.enter(&connect);
        let result = self.run(&mut read, &mut write, &connect, &connection, present).await;
        self.hub.leave(&connect, &connection);
        result
    }

    /// *Cancel safety*: the packet that is being read is lost only when the connection ends.
    async fn run(
        &self,
        read: &mut OwnedReadHalf,
        write: &mut OwnedWriteHalf,
        connect: &Connect,
        connection: &Connection,
        present: bool,
    ) -> Result<(), PacketError> {
        write.write_all(&packet::connack(present, 0)).await?;
        // Reading has a future of its own: `select!` must not drop one that has read half a packet.
        let incoming = async {
            loop {
                let packet = within_keep_alive(connect, read_packet(read)).await?;
                match self.handle(connect, packet)? {
                    Some(answer) => self.hub.answer(&connect.client_id, connection, answer),
                    None => return Ok(()),
                }
            }
        };
        let outgoing = async {
            loop {
                let bytes = self.hub.outgoing(&connect.client_id, connection);
                if bytes.is_empty() {
                    connection.wake.notified().await;
                } else {
                    write.write_all(&bytes).await?;
                }
            }
        };
        tokio::select! {
            biased;
            () = connection.close.cancelled() => Ok(()),
            ended = incoming => ended,
            ended = outgoing => ended,
        }
    }

    /// Gives the answer; `None`: the client said good-bye.
    fn handle(&self, connect: &Connect, packet: Packet) -> Result<Option<Vec<u8>>, PacketError> {
        let id = &connect.client_id;
        Ok(Some(match packet {
            Packet::Publish(publish) => {
                self.hub.publish(Message {
                    topic: publish.topic,
                    payload: publish.payload,
                    qos: publish.qos,
                })?;
                publish.packet_id.map_or_else(Vec::new, packet::puback)
            }
            Packet::PubAck(packet_id) => {
                self.hub.with_session(id, |session| session.acknowledge(packet_id));
                Vec::new()
            }
            Packet::Subscribe { packet_id, filters } => {
                let codes =
                    self.hub.with_session(id, |session| session.subscribe(filters)).unwrap_or_default();
                packet::suback(packet_id, &codes)
            }
            Packet::Unsubscribe { packet_id, filters } => {
                self.hub.with_session(id, |session| session.unsubscribe(&filters));
                packet::unsuback(packet_id)
            }
            Packet::PingReq => packet::pingresp(),
            Packet::Disconnect => return Ok(None),
            Packet::Connect(_) => return Err(PacketError::Unexpected("a second CONNECT")),
        }))
    }
}

impl Hub {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entered>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_session<T>(&self, id: &str, work: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.lock().get_mut(id).map(|entered| work(&mut entered.session))
    }

    /// Gives a client its session, and closes the connection that it had before [MQTT-3.1.4-2].
    fn enter(&self, connect: &Connect) -> (Connection, bool) {
        let connection = Connection { wake: Arc::default(), close: CancellationToken::new() };
        let mut sessions = self.lock();
        let old = sessions.remove(&connect.client_id);
        if let Some(before) = old.as_ref().and_then(|entered| entered.connection.as_ref()) {
            before.close.cancel();
        }
        let kept = old.filter(|entered| !connect.clean && !entered.session.is_clean());
        let present = kept.is_some();
        let mut session = kept.map_or_else(|| Session::new(connect.clean), |entered| entered.session);
        session.reconnected();
        sessions.insert(connect.client_id.clone(), Entered { session, connection: Some(connection.clone()) });
        (connection, present)
    }

    fn leave(&self, connect: &Connect, connection: &Connection) {
        let mut sessions = self.lock();
        let Some(entered) = sessions.get_mut(&connect.client_id) else { return };
        if !entered.is_at(connection) {
            return;
        }
        entered.connection = None;
        if entered.session.is_clean() {
            sessions.remove(&connect.client_id);
        }
    }

    /// Writes a message down, then queues it; gives the number of sessions.
    fn publish(&self, message: Message) -> Result<usize, TruthError> {
        let mut sessions = self.lock();
        let receivers = sessions.values().filter(|entered| entered.takes(&message)).count();
        let entry = Entry::Publish(PublishEntry {
            t: clock::now_us(),
            topic: message.topic.clone(),
            payload: String::from_utf8_lossy(&message.payload).into_owned(),
            receivers,
        });
        self.truth.write(&entry)?;
        let message = Arc::new(message);
        for entered in sessions.values_mut() {
            if entered.takes(&message) {
                entered.session.queue(&message);
                entered.connection.iter().for_each(|connection| connection.wake.notify_one());
            }
        }
        Ok(receivers)
    }

    /// Queues an answer to the client's own packet and wakes its task.
    fn answer(&self, id: &str, connection: &Connection, answer: Vec<u8>) {
        if let Some(entered) = self.lock().get_mut(id)
            && entered.is_at(connection)
        {
            entered.session.answer(&answer);
            connection.wake.notify_one();
        }
    }

    fn outgoing(&self, id: &str, connection: &Connection) -> Vec<u8> {
        let mut sessions = self.lock();
        let entered = sessions.get_mut(id).filter(|entered| entered.is_at(connection));
        entered.map_or_else(Vec::new, |entered| entered.session.outgoing())
    }
}

impl Entered {
    fn is_at(&self, connection: &Connection) -> bool {
        self.connection.as_ref().is_some_and(|own| Arc::ptr_eq(&own.wake, &connection.wake))
    }

    /// A client that is away gets QoS 1 only [MQTT-3.1.2-5].
    fn takes(&self, message: &Message) -> bool {
        self.session
            .granted(&message.topic)
            .is_some_and(|qos| self.connection.is_some() || qos.min(message.qos) > 0)
    }
}

/// Closes a connection that is silent for one and a half times its keep-alive [MQTT-3.1.2-24].
async fn within_keep_alive<F>(connect: &Connect, read: F) -> Result<Packet, PacketError>
where
    F: Future<Output = Result<Packet, PacketError>>,
{
    if connect.keep_alive_s == 0 {
        return read.await;
    }
    let bound = Duration::from_millis(u64::from(connect.keep_alive_s) * 1500);
    tokio::time::timeout(bound, read).await.unwrap_or(Err(PacketError::Unexpected("silence")))
}

async fn read_packet(read: &mut OwnedReadHalf) -> Result<Packet, PacketError> {
    let first = read.read_u8().await?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = read.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if length > packet::PACKET_MAX_BYTES {
                return Err(PacketError::TooLarge(length));
            }
            let mut body = vec![0; length];
            read.read_exact(&mut body).await?;
            return Packet::decode(first, &body);
        }
    }
    Err(PacketError::Unexpected("a length of five bytes"))
}

#[cfg(test)]
#[path = "mqtt/tests.rs"]
mod tests;
