//! The agent's configuration, validated. `agent.toml` becomes these types in `config/load.rs`.
//!
//! Invariant: a value of these types needs no further check; every problem of the file was reported
//! with its line and key path before one exists.

mod address;
mod csv;
mod device;
mod kafka;
mod kind;
mod load;
mod mqtt;
mod problems;
mod section;
mod security;
mod tag;
#[cfg(test)]
mod tests;
mod tree;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_link::Security;
use millrace_protocol::{AgentId, Category, MachineName};

pub use problems::{At, Problem, Problems};

/// `[agent] data_dir` if it is not said.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/millrace/agent";
/// `[status] listen` if it is not said.
pub const DEFAULT_STATUS_LISTEN: &str = "127.0.0.1:9601";
/// `[clock] hold` if it is not said (D8).
pub const DEFAULT_CLOCK_HOLD: Duration = Duration::from_secs(600);
/// `[kafka] topic_prefix` if it is not said.
pub const DEFAULT_TOPIC_PREFIX: &str = "millrace";
/// `[buffer] max_bytes` if it is not said: 2 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 2 << 30;
/// `[buffer] sync_interval` if it is not said (D5).
pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// A bus's `timeout` if it is not said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);
/// A bus's `retries` if it is not said.
pub const DEFAULT_RETRIES: u32 = 1;
/// A bus's `backoff` if it is not said.
pub const DEFAULT_BACKOFF: Duration = Duration::from_secs(30);
/// A device's `poll_interval` if it is not said.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The largest request for registers. *Source*: Modbus Application Protocol V1.1b3, section 6.3.
pub const MAX_REGISTERS: u16 = 125;
/// The largest request for bits. *Source*: Modbus Application Protocol V1.1b3, section 6.1.
pub const MAX_COILS: u16 = 2000;
/// A device's `max_gap` if it is not said: reading so many registers takes less time than a request.
pub const DEFAULT_MAX_GAP: u16 = 16;
/// The `max_interval` that `deadband` implies, and after which a repeated bad point is reported again
/// where no `max_interval` is set (F3, D9).
pub const DEFAULT_MAX_INTERVAL: Duration = Duration::from_secs(60);
/// An MQTT connection's `receive_maximum` if it is not said (D5).
pub const DEFAULT_RECEIVE_MAXIMUM: u16 = 20;
/// An MQTT connection's `max_packet` if it is not said: what one item of a record can hold (D2).
pub const DEFAULT_MAX_PACKET: usize = millrace_protocol::ITEM_MAX_BYTES;
/// The port of `mqtt://` if it is not said.
pub const DEFAULT_MQTT_PORT: u16 = 1883;

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

/// How to reach Kafka. Plain text goes to loopback brokers only.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// `host:port` each.
    pub brokers: Vec<String>,
    /// First part of every topic's name.
    pub topic_prefix: String,
    /// librdkafka producer options that Millrace does not own itself.
    pub options: BTreeMap<String, String>,
    /// `tls` and `sasl`.
    pub security: Security,
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
    pub tags: Vec<Arc<Tag>>,
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
    pub name: Arc<str>,
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

impl Table {
    /// Tells whether the table holds bits.
    #[must_use]
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// Gives the word that the configuration uses.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        }
    }
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
    Enum(BTreeMap<i64, Arc<str>>),
    /// A counter: the raw value, with the modulus in the tag's birth.
    Counter {
        /// It starts anew at 0 after modulus − 1; `None` if nobody knows.
        modulus: Option<u64>,
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
