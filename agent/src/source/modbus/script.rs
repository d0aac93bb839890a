//! A Modbus TCP server that answers as a test tells it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};

/// A request as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// Counts the connections from 0.
    pub(super) connection: usize,
    pub(super) transaction: u16,
    pub(super) unit: u8,
    pub(super) function: u8,
    pub(super) address: u16,
    pub(super) count: u16,
}

/// What the server does.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// Every register holds its own address plus this; every coil is set where its address is odd.
    Addresses(u16),
    /// Function, byte count and data are right, the data is this.
    Registers(Vec<u16>),
    /// A refusal.
    Exception(u8),
    /// Nothing.
    Silence,
    /// Nothing until the next request comes, on whichever connection; then, before anything else,
    /// these registers for this one.
    Late(Vec<u16>),
    /// The connection is closed.
    Close,
    /// These bytes after the header (unit id, function, …), with a right length.
    Bytes(Vec<u8>),
    /// These registers under another unit id.
    OtherUnit(u8, Vec<u16>),
    /// These registers under another transaction.
    OtherTransaction(Vec<u16>),
}

type Writer = Arc<tokio::sync::Mutex<OwnedWriteHalf>>;
type Script = dyn Fn(Asked) -> Answer + Send + Sync;

/// What happens between the connections of a server.
struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    /// Replies that wait for the next request, and where they go.
    late: tokio::sync::Mutex<Vec<(Writer, Vec<u8>)>>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "a server for tests has no supervisor")]
    pub(super) async fn start(script: impl Fn(Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            late: tokio::sync::Mutex::default(),
        });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let shared = Arc::clone(&of_task);
                connections.spawn(async move { serve(stream, connection, &shared).await });
            }
        });
        Self { address, shared, task }
    }

    pub(super) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, connection: usize, shared: &Shared) {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let mut frame = [0_u8; 12];
    while reader.read_exact(&mut frame).await.is_ok() {
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let asked = Asked {
            connection,
            transaction: word(0),
            unit: frame[6],
            function: frame[7],
            address: word(8),
            count: word(10),
        };
        shared.asked.lock().unwrap().push(asked);
        for (writer, bytes) in shared.late.lock().await.drain(..) {
            // The client may be gone by now.
            let _ = writer.lock().await.write_all(&bytes).await;
        }
        let bytes = match (shared.script)(asked) {
            Answer::Silence => continue,
            Answer::Close => return,
            Answer::Late(words) => {
                let late = reply(asked.transaction, asked.unit, &data(asked.function, &words));
                shared.late.lock().await.push((Arc::clone(&writer), late));
                continue;
            }
            Answer::Addresses(plus) => reply(asked.transaction, asked.unit, &addresses(asked, plus)),
            Answer::Registers(words) => reply(asked.transaction, asked.unit, &data(asked.function, &words)),
            Answer::Exception(code) => reply(asked.transaction, asked.unit, &[asked.function | 0x80, code]),
            Answer::Bytes(pdu) => reply(asked.transaction, asked.unit, &pdu),
            Answer::OtherUnit(unit, words) => reply(asked.transaction, unit, &data(asked.function, &words)),
            Answer::OtherTransaction(words) => {
                reply(asked.transaction.wrapping_add(1), asked.unit, &data(asked.function, &words))
            }
        };
        if writer.lock().await.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn reply(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let mut frame = transaction.to_be_bytes().to_vec();
    frame.extend([0, 0]);
    frame.extend(u16::try_from(pdu.len() + 1).unwrap().to_be_bytes());
    frame.push(unit);
    frame.extend(pdu);
    frame
}

fn data(function: u8, words: &[u16]) -> Vec<u8> {
    let mut pdu = vec![function, u8::try_from(words.len() * 2).unwrap()];
    pdu.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    pdu
}

fn addresses(asked: Asked, plus: u16) -> Vec<u8> {
    let range = || (0..asked.count).map(|i| asked.address + i);
    if asked.function > 2 {
        return data(asked.function, &range().map(|address| address + plus).collect::<Vec<_>>());
    }
    let mut bytes = vec![0_u8; usize::from(asked.count).div_ceil(8)];
    for (i, address) in range().enumerate() {
        bytes[i / 8] |= u8::from(address % 2 == 1) << (i % 8);
    }
    [vec![asked.function, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}
