//! One connection to a Modbus TCP endpoint: the only file that names tokio-modbus.
//!
//! Invariant: a reply is only ever taken for the answer to the question that is open. Whatever leaves
//! a question open (no reply in time, an answer to something else, a broken frame, a future that is
//! dropped halfway) costs the connection, and with it every reply that is still on its way.

use std::io;
use std::time::Duration;

use millrace_protocol::Quality;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_modbus::client::{Client as _, Context, tcp};
use tokio_modbus::slave::SlaveContext as _;
use tokio_modbus::{Error as ClientError, Request as Question, Response, Slave};

use super::decode::Reply;
use super::plan::Request;
use crate::config::{Bus, Table};

/// Says why a request was not answered with data.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// The endpoint took no connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke while the answer was due.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// No reply in time.
    #[error("no reply in time")]
    Timeout,
    /// The reply was for another unit, function or question.
    #[error("the reply belongs to another question")]
    Mismatch,
    /// The reply had another length than asked for, or was no whole frame.
    #[error("the reply has a wrong length")]
    WrongLength,
    /// The device refused.
    #[error("Modbus exception {0}")]
    Exception(u8),
}

impl Failure {
    /// The gateway cannot reach the unit, or the unit did not answer it.
    ///
    /// *Source*: Modbus Application Protocol V1.1b3, section 7.
    const GATEWAY: [u8; 2] = [10, 11];
    /// Acknowledge and busy: later may do.
    const BUSY: [u8; 2] = [5, 6];

    /// Gives the quality of the points that the request was for.
    #[must_use]
    pub(super) const fn quality(&self) -> Quality {
        match self {
            Self::Connect(_) | Self::Broken(_) => Quality::NO_CONNECTION,
            Self::Timeout => Quality::TIMEOUT,
            Self::Mismatch => Quality::MISMATCH,
            Self::WrongLength => Quality::WRONG_LENGTH,
            Self::Exception(code) => Quality::exception(*code),
        }
    }

    /// Tells whether asking again within the cycle may help.
    #[must_use]
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Timeout | Self::Mismatch | Self::WrongLength => true,
            // The endpoint's own backoff decides when to connect again.
            Self::Connect(_) => false,
            Self::Exception(code) => Self::GATEWAY.contains(code) || Self::BUSY.contains(code),
        }
    }

    /// Tells whether the unit itself said nothing that could be used.
    #[must_use]
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Broken(_) | Self::Timeout | Self::Mismatch => true,
            Self::WrongLength => false,
            Self::Exception(code) => Self::GATEWAY.contains(code),
        }
    }
}

/// A connection that is made when it is needed.
pub(super) struct Connection {
    endpoint: String,
    timeout: Duration,
    pause: Duration,
    connect_pause: Duration,
    context: Option<Context>,
    /// Before this no request is sent.
    quiet_until: Instant,
}

impl Connection {
    pub(super) fn new(bus: &Bus) -> Self {
        Self {
            endpoint: bus.endpoint.clone(),
            timeout: bus.timeout,
            pause: bus.pause,
            connect_pause: bus.connect_pause,
            context: None,
            quiet_until: Instant::now(),
        }
    }

    /// Closes the connection; the next question makes a new one.
    pub(super) fn close(&mut self) {
        self.context = None;
    }

    /// Asks a unit, connecting if need be.
    ///
    /// A connection that breaks although it answered before was likely closed for idleness: then a new
    /// one is made and the question asked again.
    ///
    /// *Cancel safety*: dropping the future drops the connection.
    pub(super) async fn ask(&mut self, unit_id: u8, request: &Request) -> Result<Reply, Failure> {
        let is_reused = self.context.is_some();
        match self.ask_once(unit_id, request).await {
            Err(Failure::Broken(_)) if is_reused => self.ask_once(unit_id, request).await,
            other => other,
        }
    }

    async fn ask_once(&mut self, unit_id: u8, request: &Request) -> Result<Reply, Failure> {
        // Taken out, and put back only after an answer that leaves nothing open.
        let mut context = match self.context.take() {
            Some(context) => context,
            None => self.connect().await?,
        };
        sleep_until(self.quiet_until).await;
        context.set_slave(Slave(unit_id));
        let answer = timeout(self.timeout, context.call(question(request))).await;
        self.quiet_until = Instant::now() + self.pause;
        let answer = answer.map_err(|_| Failure::Timeout)?.map_err(failure_of)?;
        self.context = Some(context);
        let response = answer.map_err(|code| Failure::Exception(code.into()))?;
        reply_of(request, response).ok_or(Failure::WrongLength)
    }

    async fn connect(&mut self) -> Result<Context, Failure> {
        let stream = match timeout(self.timeout, TcpStream::connect(&self.endpoint)).await {
            Ok(stream) => stream.map_err(Failure::Connect)?,
            Err(_) => return Err(Failure::Connect(io::ErrorKind::TimedOut.into())),
        };
        // A request is one small write; it must not wait for the acknowledgement of the last one.
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        if !self.connect_pause.is_zero() {
            sleep(self.connect_pause).await;
        }
        Ok(tcp::attach(stream))
    }
}

fn question(request: &Request) -> Question<'static> {
    match request.table {
        Table::Coil => Question::ReadCoils(request.address, request.count),
        Table::Discrete => Question::ReadDiscreteInputs(request.address, request.count),
        Table::Holding => Question::ReadHoldingRegisters(request.address, request.count),
        Table::Input => Question::ReadInputRegisters(request.address, request.count),
    }
}

fn failure_of(error: ClientError) -> Failure {
    match error {
        ClientError::Protocol(_) => Failure::Mismatch,
        ClientError::Transport(error) => match error.kind() {
            // What the codec says of bytes that are no reply.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Failure::WrongLength,
            _ => Failure::Broken(error),
        },
    }
}

/// Takes the data, if there is as much as was asked for; the library looks at that in debug builds only.
fn reply_of(request: &Request, response: Response) -> Option<Reply> {
    let count = usize::from(request.count);
    match (request.table, response) {
        (Table::Coil, Response::ReadCoils(mut bits))
        | (Table::Discrete, Response::ReadDiscreteInputs(mut bits)) => {
            // Bits come in whole bytes.
            (bits.len() == count.next_multiple_of(8)).then(|| {
                bits.truncate(count);
                Reply::Bits(bits)
            })
        }
        (Table::Holding, Response::ReadHoldingRegisters(words))
        | (Table::Input, Response::ReadInputRegisters(words)) => {
            (words.len() == count).then_some(Reply::Registers(words))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
