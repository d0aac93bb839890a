//! A broker that does what a test says, in raw MQTT 3.1.1 frames.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than anything here may take on a loaded machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Broker {
    listener: TcpListener,
}

/// What a CONNECT said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) client_id: String,
    pub(super) clean_session: bool,
    pub(super) login: Option<(String, String)>,
}

pub(super) struct Connection {
    stream: TcpStream,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    Subscribe(Vec<(String, u8)>),
    PubAck(u16),
    Disconnect,
    Gone,
}

/// A PUBLISH to be sent.
#[derive(Clone)]
pub(super) struct Out<'a> {
    pub(super) id: u16,
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) qos: u8,
    pub(super) dup: bool,
}

pub(super) fn publish<'a>(id: u16, payload: &'a str) -> Out<'a> {
    Out { id, topic: "plant/m1/data", payload: payload.as_bytes(), qos: 1, dup: false }
}

impl Out<'_> {
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut body = text(self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(self.payload);
        frame(0x30 | (self.qos << 1) | (u8::from(self.dup) << 3), &body)
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let more = length > 127;
        out.push((length % 128) as u8 | if more { 0x80 } else { 0 });
        length /= 128;
        if !more {
            break;
        }
    }
    out.extend(body);
    out
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn byte(&mut self) -> u8 {
        let byte = self.0[0];
        self.0 = &self.0[1..];
        byte
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn text(&mut self) -> String {
        let length = usize::from(self.number());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8(text.to_vec()).unwrap()
    }
}

impl Broker {
    pub(super) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(super) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Waits for a client and its CONNECT.
    pub(super) async fn accept(&self) -> (Connection, Hello) {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        let mut connection = Connection { stream };
        let (first, body) = connection.packet().await.unwrap();
        assert_eq!(first, 0x10);
        let mut fields = Fields(&body);
        assert_eq!((fields.text().as_str(), fields.byte()), ("MQTT", 4));
        let (flags, _keep_alive) = (fields.byte(), fields.number());
        let client_id = fields.text();
        let login = (flags & 0xc0 == 0xc0).then(|| (fields.text(), fields.text()));
        (connection, Hello { client_id, clean_session: flags & 2 != 0, login })
    }

    /// Waits for a client, and welcomes it to the session that is kept or to a new one.
    pub(super) async fn welcome(&self, session_present: bool) -> Connection {
        let (mut connection, _) = self.accept().await;
        connection.answer(session_present, 0).await;
        connection
    }

    /// Welcomes a client for the first time.
    pub(super) async fn first(&self) -> Connection {
        let mut connection = self.welcome(false).await;
        assert!(matches!(connection.next().await, FromClient::Subscribe(_)));
        connection
    }
}

impl Connection {
    async fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let first = self.stream.read_u8().await.ok()?;
            let (mut length, mut shift) = (0usize, 0);
            loop {
                let byte = self.stream.read_u8().await.ok()?;
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.ok()?;
            Some((first, body))
        };
        timeout(PATIENCE, read).await.expect("the client sends something")
    }

    /// Sends CONNACK.
    pub(super) async fn answer(&mut self, session_present: bool, code: u8) {
        self.send(&frame(0x20, &[u8::from(session_present), code])).await;
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends bytes that the client may not take any more.
    pub(super) async fn try_send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
    }

    pub(super) async fn publish(&mut self, out: &Out<'_>) {
        self.send(&out.frame()).await;
    }

    /// Gives the client's next packet; answers SUBSCRIBE and PINGREQ.
    pub(super) async fn next(&mut self) -> FromClient {
        loop {
            let Some((first, body)) = self.packet().await else { return FromClient::Gone };
            let mut fields = Fields(&body);
            match first {
                0x82 => {
                    let id = fields.number();
                    let mut filters = Vec::new();
                    while !fields.0.is_empty() {
                        filters.push((fields.text(), fields.byte()));
                    }
                    let mut granted = id.to_be_bytes().to_vec();
                    granted.extend(filters.iter().map(|(_, qos)| *qos));
                    self.send(&frame(0x90, &granted)).await;
                    return FromClient::Subscribe(filters);
                }
                0x40 => return FromClient::PubAck(fields.number()),
                0xc0 => self.send(&[0xd0, 0]).await,
                0xe0 => return FromClient::Disconnect,
                other => panic!("packet {other:#x}"),
            }
        }
    }

    /// Tells whether the client has sent anything that was not read.
    pub(super) fn has_sent(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
