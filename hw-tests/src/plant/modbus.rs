//! Carries requests and answers over Modbus TCP: one port, several units, any number of clients.
//!
//! Requests of one connection are taken one after the other; a reply that a fault holds back does not
//! hold up the others, so that it meets the client in the middle of a later question.
//!
//! *Source*: MODBUS Messaging on TCP/IP Implementation Guide V1.0b, section 3.1.3.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::device::{Answer, Content, Device, Request};
use super::fault::Faults;
use crate::clock;
use crate::supervise::Tasks;
use crate::truth::entry::{Entry, ReplyEntry};
use crate::truth::log::TruthLog;

/// Transaction, protocol, length, unit.
const HEADER_BYTES: usize = 7;
/// A unit id and a PDU of at most 253 bytes.
const LENGTH_MAX: usize = 254;
/// Replies wait only while an earlier one is written to the socket.
const REPLIES: usize = 64;
/// What a gateway says for a unit that it does not know. *Source*: Application Protocol, section 7.
const GATEWAY_TARGET_FAILED: u8 = 0x0b;
/// How long a stopped port waits for its clients to hang up, so that no reply on its way is cut off.
const LINGER: Duration = Duration::from_secs(1);

/// What all connections of a port share.
#[derive(Debug)]
pub struct Port {
    /// The bus's name.
    pub bus: String,
    /// The site, for the truth log.
    pub site: String,
    /// By unit id.
    pub devices: BTreeMap<u8, Arc<Device>>,
    /// What goes wrong.
    pub faults: Arc<Faults>,
    /// Where replies are written down.
    pub truth: Arc<TruthLog>,
    /// When the plant started.
    pub start: Instant,
    /// Counts the connections.
    pub connections: AtomicU64,
    /// Ends the port without cutting off a reply.
    pub stop: CancellationToken,
}

struct Outgoing {
    frame: Vec<u8>,
    entry: Entry,
}

/// Accepts clients until the port is stopped.
pub async fn serve(port: Arc<Port>, listener: TcpListener, tasks: Tasks) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = port.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let number = port.connections.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::debug!(bus = port.bus, %peer, number, "connected");
                let work = connection(Arc::clone(&port), stream, number, tasks.clone());
                tasks.start_graceful("modbus connection", work);
            }
            Err(error) => tracing::warn!(bus = port.bus, %error, "a connection could not be accepted"),
        }
    }
}

async fn connection(port: Arc<Port>, stream: TcpStream, number: u64, tasks: Tasks) {
    // Small replies at once: the client waits for each of them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let (mut read, write) = stream.into_split();
    let (replies, queue) = mpsc::channel(REPLIES);
    let writer = writer(Arc::clone(&port), write, queue);
    let reader = async {
        read_requests(&port, &mut read, number, replies, &tasks).await;
        if port.stop.is_cancelled() {
            // Closing a socket with unread bytes would reset it and destroy replies on their way.
            drop(tokio::time::timeout(LINGER, until_closed(&mut read)).await);
        }
    };
    tokio::join!(reader, writer);
}

async fn until_closed(read: &mut OwnedReadHalf) {
    let mut rest = [0; 256];
    while read.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

/// Ends when the client hangs up, a fault closes the connection, or the port stops.
async fn read_requests(
    port: &Arc<Port>,
    read: &mut OwnedReadHalf,
    number: u64,
    replies: mpsc::Sender<Outgoing>,
    tasks: &Tasks,
) {
    loop {
        let frame = tokio::select! {
            biased;
            () = port.stop.cancelled() => return,
            // Cut off in the middle of a frame only when the connection ends anyhow.
            frame = read_frame(read) => frame,
        };
        let Some((transaction, unit, pdu)) = frame else {
            let entry = Entry::HungUp { t: clock::now_us(), bus: port.bus.clone(), connection: number };
            if let Err(error) = port.truth.write(&entry) {
                tracing::error!(%error, bus = port.bus, "a hang-up is not written down");
            }
            return;
        };
        let Some((outgoing, delay)) = answer(port, number, transaction, unit, &pdu) else { return };
        let Some(outgoing) = outgoing else { continue };
        if delay.is_zero() {
            if replies.send(outgoing).await.is_err() {
                return;
            }
        } else {
            let replies = replies.clone();
            let stop = port.stop.clone();
            tasks.start("late reply", async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(delay) => drop(replies.send(outgoing).await),
                }
            });
        }
    }
}

async fn read_frame(read: &mut OwnedReadHalf) -> Option<(u16, u8, Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    read.read_exact(&mut header).await.ok()?;
    let [t0, t1, p0, p1, l0, l1, unit] = header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if (p0, p1) != (0, 0) || !(2..=LENGTH_MAX).contains(&length) {
        return None;
    }
    let mut pdu = vec![0; length - 1];
    read.read_exact(&mut pdu).await.ok()?;
    Some((u16::from_be_bytes([t0, t1]), unit, pdu))
}

/// Gives the reply and how long it is held back; the outer `None` closes the connection.
fn answer(
    port: &Port,
    connection: u64,
    transaction: u16,
    unit: u8,
    pdu: &[u8],
) -> Option<(Option<Outgoing>, Duration)> {
    let request = Request::from_pdu(pdu)?;
    let Some(device) = port.devices.get(&unit) else {
        let pdu = [request.function | 0x80, GATEWAY_TARGET_FAILED];
        let content = Content::Exception(GATEWAY_TARGET_FAILED);
        let entry = entry(port, connection, "?", unit, request, content, None);
        return Some((Some(Outgoing { frame: frame(transaction, unit, &pdu), entry }), Duration::ZERO));
    };
    let now = Instant::now();
    let faults = port.faults.of(device.machine(), now);
    match device.answer(request, now - port.start, &faults) {
        Answer::Silence => Some((None, Duration::ZERO)),
        Answer::Close => None,
        Answer::Reply { pdu, content, unit_shift, delay, fault } => {
            let frame = frame(transaction, unit.wrapping_add(unit_shift), &pdu);
            let entry = entry(port, connection, device.machine(), unit, request, content, fault);
            Some((Some(Outgoing { frame, entry }), delay))
        }
    }
}

fn frame(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let length = u16::try_from(pdu.len() + 1).unwrap_or(u16::MAX);
    let mut frame = Vec::with_capacity(HEADER_BYTES + pdu.len());
    frame.extend(transaction.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(length.to_be_bytes());
    frame.push(unit);
    frame.extend(pdu);
    frame
}

fn entry(
    port: &Port,
    connection: u64,
    machine: &str,
    unit: u8,
    request: Request,
    content: Content,
    fault: Option<super::fault::FaultKind>,
) -> Entry {
    let (mut registers, mut bits, mut exception) = (None, None, None);
    match content {
        Content::Registers(values) => registers = Some(values),
        Content::Bits(values) => bits = Some(values.iter().map(|bit| if *bit { '1' } else { '0' }).collect()),
        Content::Exception(code) => exception = Some(code),
    }
    Entry::Reply(ReplyEntry {
        t: 0,
        machine: format!("{}/{machine}", port.site),
        bus: port.bus.clone(),
        unit,
        connection,
        function: request.function,
        address: request.address,
        count: request.count,
        registers,
        bits,
        exception,
        fault,
    })
}

/// Writes each reply down and then to the socket.
async fn writer(port: Arc<Port>, mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { frame, mut entry }) = queue.recv().await {
        if let Entry::Reply(reply) = &mut entry {
            reply.t = clock::now_us();
        }
        if let Err(error) = port.truth.write(&entry) {
            tracing::error!(%error, bus = port.bus, "the port closes: a reply that is not written down is not sent");
            return;
        }
        if let Err(error) = write.write_all(&frame).await {
            tracing::debug!(%error, bus = port.bus, "the client is gone");
            return;
        }
    }
    drop(write.shutdown().await);
}

#[cfg(test)]
#[path = "modbus/tests.rs"]
mod tests;
