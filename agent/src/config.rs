//! The agent's configuration, validated. `agent.toml` becomes these types in `config/load.rs`.
//!
//! Invariant: a value of these types needs no further check; every problem of the file was reported
//! with its line and key path before one exists.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use millrace_protocol::{AgentId, Category, MachineName};

/// Everything `agent.toml` and `conf.d` say.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[agent] id`.
    pub id: AgentId,
    /// `[agent] site`: stands before every machine's name.
    pub site: String,
    /// `[agent] data_dir`.
    pub data_dir: PathBuf,
    /// `[status] listen`; always a loopback address in this release.
    pub status_listen: SocketAddr,
    /// `[clock] hold`.
    pub clock_hold: Duration,
    /// `[kafka]`.
    pub kafka: Kafka,
    /// `[buffer]`.
    pub buffer: Buffer,
    /// `[[bus]]`, each with the devices on it.
    pub buses: Vec<Bus>,
    /// `[[mqtt]]`.
    pub mqtt: Vec<Mqtt>,
}

/// How to reach Kafka. In this release plain text to loopback brokers only.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// `host:port` each.
    pub brokers: Vec<String>,
    /// First part of every topic's name.
    pub topic_prefix: String,
    /// librdkafka producer options that Millrace does not own itself.
    pub options: BTreeMap<String, String>,
    /// How often a stream that has nothing waiting says so (D1).
    pub progress_interval: Duration,
}

/// Default of `[kafka] progress_interval`.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// librdkafka options that Millrace sets itself because its promises hang on them, with their other
/// names: `[kafka] options` must not have them.
pub const OWNED_KAFKA_OPTIONS: [&str; 29] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "client.id",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "transactional.id",
    "acks",
    "request.required.acks",
    "retries",
    "message.send.max.retries",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "message.max.bytes",
    "partitioner",
    "compression.codec",
    "compression.type",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "allow.auto.create.topics",
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
];

/// How the buffer behaves.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// On disk, all told. *Units*: bytes.
    pub max_bytes: u64,
    /// What gives way at the cap.
    pub when_full: WhenFull,
    /// The most that a poll waits for its fsync (D5).
    pub sync_interval: Duration,
}

/// What gives way when the buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segment.
    DropOldest,
    /// What would be stored next.
    DropNewest,
}

/// A Modbus TCP endpoint and the devices behind it.
#[derive(Debug, Clone)]
pub struct Bus {
    /// `name`.
    pub name: String,
    /// `host:port` of `tcp://host:port`.
    pub endpoint: String,
    /// How long a reply may take.
    pub timeout: Duration,
    /// How often a request is repeated within its cycle.
    pub retries: u32,
    /// Silence between two requests.
    pub pause: Duration,
    /// Silence after a connection was made.
    pub connect_pause: Duration,
    /// Whether the connection is closed after each poll (devices with one client only).
    pub close_after_poll: bool,
    /// The longest time that a silent unit is left alone.
    pub backoff: Duration,
    /// The devices, in the order of the file.
    pub devices: Vec<Device>,
}

/// One machine on a bus.
#[derive(Debug, Clone)]
pub struct Device {
    /// `site/machine`.
    pub machine: MachineName,
    /// Modbus unit id.
    pub unit_id: u8,
    /// Time between two polls.
    pub poll_interval: Duration,
    /// Limits of one request.
    pub limits: RequestLimits,
    /// Attributes of the machine.
    pub attributes: BTreeMap<String, String>,
    /// The tags, in the order of the file, names unique.
    pub tags: Vec<Tag>,
}

/// What a device takes in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Registers, 1 to 125.
    pub max_registers: u16,
    /// Coils or discrete inputs, 1 to 2,000.
    pub max_coils: u16,
    /// How many unwanted registers or coils a request may read to join two tags.
    pub max_gap: u16,
}

/// One measured quantity of a device.
#[derive(Debug, Clone)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// The kind of data.
    pub category: Category,
    /// Which of the four tables.
    pub table: Table,
    /// 0-based, as sent.
    pub address: u16,
    /// How the registers are read.
    pub decode: Decode,
    /// What is done with the raw number.
    pub convert: Convert,
    /// The unit's symbol.
    pub unit: Option<String>,
    /// Raw values that mean "no value".
    pub bad_values: Vec<f64>,
    /// The range of believable values, after conversion.
    pub valid: Option<(f64, f64)>,
    /// Report only changes larger than this, in the unit of the value.
    pub deadband: Option<f64>,
    /// Report at least this often.
    pub max_interval: Option<Duration>,
}

/// The four tables of a Modbus device. *Source*: Modbus Application Protocol V1.1b3, section 4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Function 1.
    Coil,
    /// Function 2.
    Discrete,
    /// Function 4.
    Input,
    /// Function 3.
    Holding,
}

/// How registers or coils become a raw value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decode {
    /// A coil or discrete input.
    Bool,
    /// One bit of a register, 0 the least significant.
    Bit(u8),
    /// A number of one to four registers.
    Number {
        /// How the bytes are read.
        kind: NumberKind,
        /// For each byte of the value, most significant first, its place among the bytes as sent.
        order: Vec<u8>,
    },
    /// Text, two characters to a register.
    Text {
        /// *Units*: bytes, at most twice the registers of a request.
        length: u16,
        /// Trailing bytes that are cut off.
        padding: u8,
        /// For each pair of bytes: whether the second comes first.
        swapped: bool,
    },
}

/// How the bytes of a number are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the types of interface.md")]
pub enum NumberKind {
    U8High,
    U8Low,
    I8High,
    I8Low,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bcd16,
    Bcd32,
}

/// What is done with a raw number.
#[derive(Debug, Clone, PartialEq)]
pub enum Convert {
    /// Nothing: the value keeps its type.
    None,
    /// value = raw × scale + offset, a double.
    Linear {
        /// Factor.
        scale: f64,
        /// Summand.
        offset: f64,
    },
    /// The text that stands for the raw integer; an unknown integer keeps its digits.
    Enum(BTreeMap<i64, String>),
    /// A counter: the raw value, with the modulus in the tag's birth.
    Counter {
        /// The value after which it starts anew at 0.
        modulus: u64,
    },
}

/// An MQTT broker and what is read from it.
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// `name`.
    pub name: String,
    /// Host of `mqtt://host:port`.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Client id; default `millrace-<agent id>-<name>`.
    pub client_id: String,
    /// User name and the file that holds the password.
    pub credentials: Option<(String, PathBuf)>,
    /// How many unacknowledged publishes the broker may send.
    pub receive_maximum: u16,
    /// The largest packet. *Units*: bytes.
    pub max_packet: usize,
    /// What is subscribed.
    pub subscriptions: Vec<Subscription>,
}

/// One topic pattern and how its payloads are read.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The pattern as written, with `{machine}` and other names.
    pub topic: String,
    /// 0 or 1.
    pub qos: u8,
    /// How the payload is read.
    pub payload: Payload,
    /// Where the event time stands; `None`: arrival.
    pub timestamp: Option<Timestamp>,
    /// Path to an array of which every element makes a row (`samples[*]`).
    pub rows: Option<String>,
    /// Glob patterns of machine names that are accepted, without the site; empty: all.
    pub machines: Vec<String>,
    /// The tags; empty: every leaf, named by its dotted path.
    pub tags: Vec<PayloadTag>,
    /// Category of tags that name none.
    pub category: Category,
}

/// How a payload is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// RFC 8259.
    Json,
}

/// Where the event time stands in a payload, and how it is written.
#[derive(Debug, Clone)]
pub struct Timestamp {
    /// Dotted path.
    pub path: String,
    /// How it is written.
    pub format: TimestampFormat,
}

/// How an event time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the formats of interface.md")]
pub enum TimestampFormat {
    Rfc3339,
    UnixS,
    UnixMs,
    UnixUs,
    UnixNs,
}

/// One tag of a payload.
#[derive(Debug, Clone)]
pub struct PayloadTag {
    /// Its name.
    pub name: String,
    /// Dotted path.
    pub path: String,
    /// The unit's symbol.
    pub unit: Option<String>,
    /// The kind of data.
    pub category: Category,
}
