//! The lines of the truth log.

use serde::{Deserialize, Serialize};

use crate::plant::fault::FaultKind;
use crate::plant::tag::Tag;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A device and its tags: written at start, so that the log can be decoded alone.
    Device(DeviceEntry),
    /// A publisher and its fields: written at start.
    Publisher(PublisherEntry),
    /// A reply that is about to be sent.
    Reply(ReplyEntry),
    /// A publish that the broker has taken and is about to queue for its subscribers.
    Publish(PublishEntry),
    /// A client closed its connection: after its last reply there it may have given up waiting.
    HungUp {
        /// Wall time. *Units*: microseconds since 1970-01-01 UTC.
        t: i64,
        /// The bus.
        bus: String,
        /// See [`ReplyEntry::connection`].
        connection: u64,
    },
    /// The plant was stopped; nothing more is sent.
    Stopped {
        /// Wall time. *Units*: microseconds since 1970-01-01 UTC.
        t: i64,
    },
}

/// See [`Entry::Device`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// `site/name`.
    pub machine: String,
    /// The bus it is on.
    pub bus: String,
    /// Its unit id.
    pub unit: u8,
    /// Its tags.
    pub tags: Vec<Tag>,
}

/// See [`Entry::Publisher`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublisherEntry {
    /// `site/name`.
    pub machine: String,
    /// The topic that it publishes to.
    pub topic: String,
    /// For each tag its name and the path of its value in the payload.
    pub tags: Vec<(String, String)>,
}

/// See [`Entry::Reply`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplyEntry {
    /// Wall time. *Units*: microseconds since 1970-01-01 UTC.
    pub t: i64,
    /// `site/name`.
    pub machine: String,
    /// The bus it came over.
    pub bus: String,
    /// The unit id that was asked.
    pub unit: u8,
    /// Counts the connections of the bus.
    pub connection: u64,
    /// Function code of the request.
    pub function: u8,
    /// First address of the request.
    pub address: u16,
    /// Registers or bits of the request.
    pub count: u16,
    /// What functions 3 and 4 read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registers: Option<Vec<u16>>,
    /// What functions 1 and 2 read, as text of 0 and 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<String>,
    /// The refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<u8>,
    /// The fault that bent or delayed the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultKind>,
}

/// See [`Entry::Publish`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishEntry {
    /// Wall time. *Units*: microseconds since 1970-01-01 UTC.
    pub t: i64,
    /// The topic.
    pub topic: String,
    /// The payload; bytes that are not UTF-8 are replaced.
    pub payload: String,
    /// How many sessions it is queued for, connected or not; 0: nobody will ever see it.
    pub receivers: usize,
}
