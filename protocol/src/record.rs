//! The value of one Kafka message: a CBOR array `[header, item, …]` of one stream (D2).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use thiserror::Error;

use crate::cbor::ReadItem;
use crate::id::{AgentId, Category, Epoch, MachineName, StreamId};
use crate::item::Item;
use crate::row::{Layout, LayoutId};
use crate::{FORMAT_VERSION, ITEM_MAX_BYTES};

/// Says why bytes are not a record, an item or a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes are not a record at all.
    #[error("not a record: {0}")]
    Malformed(String),
    /// The record is of a version that this program does not know.
    #[error("record of version {0}; this program reads version {FORMAT_VERSION}")]
    Version(u64),
    /// The record holds an item of a kind that this program does not know.
    #[error("record with an item of unknown kind {0}")]
    UnknownItem(u64),
    /// A chunk points at a layout that the header does not list.
    #[error("chunk at sequence {first_seq} points at layout {layout}, which the header does not list")]
    MissingLayout {
        /// Sequence of the chunk's first row.
        first_seq: u64,
        /// The layout.
        layout: LayoutId,
    },
    /// A chunk's checksum does not fit its bytes.
    #[error("chunk at sequence {first_seq} has another checksum than its bytes")]
    Crc {
        /// Sequence of the chunk's first row.
        first_seq: u64,
    },
    /// A chunk does not hold what it announces.
    #[error("chunk at sequence {first_seq} {what}")]
    Chunk {
        /// Sequence of the chunk's first row.
        first_seq: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An item is larger than a record may hold.
    #[error("item of {bytes} bytes; an item has at most {ITEM_MAX_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// What every item of a record has in common, and the layouts of its chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Whose rows.
    pub stream: StreamId,
    /// The epoch of the process that sends.
    pub sender: Epoch,
    /// The stream's last sequence on disk when the record was made.
    pub numbered: u64,
    /// What the chunks' columns stand for.
    pub layouts: Vec<Arc<Layout>>,
}

impl Header {
    /// Finds a layout by its id.
    #[must_use]
    pub fn layout(&self, id: LayoutId) -> Option<&Arc<Layout>> {
        self.layouts.iter().find(|layout| layout.id() == id)
    }
}

/// Items of one stream in one Kafka message.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What they have in common.
    pub header: Header,
    /// The items, in the order of their stream.
    pub items: Vec<Item>,
}

impl Record {
    /// Reads a Kafka message's value.
    ///
    /// Chunks stay packed, but their layouts are known to be there. *Errors*: [`DecodeError`]; it names
    /// the version, kind, layout or sequence at fault.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let read: ReadRecord =
            serde_cbor::from_slice(bytes).map_err(|e| DecodeError::Malformed(e.to_string()))?;
        let (header, read_items) = match read {
            ReadRecord::OtherVersion(version) => return Err(DecodeError::Version(version)),
            ReadRecord::Read(header, items) => (header, items),
        };
        let mut items = Vec::with_capacity(read_items.len());
        for item in read_items {
            match item {
                ReadItem::Unknown(kind) => return Err(DecodeError::UnknownItem(kind)),
                ReadItem::Known(Item::Chunk(chunk)) if header.layout(chunk.layout).is_none() => {
                    return Err(DecodeError::MissingLayout {
                        first_seq: chunk.first_seq,
                        layout: chunk.layout,
                    });
                }
                ReadItem::Known(item) => items.push(item),
            }
        }
        Ok(Self { header, items })
    }
}

impl Item {
    /// Writes the item's bytes, the same on disk and in Kafka (D6).
    ///
    /// *Errors*: [`DecodeError::TooLarge`] above 1 MiB.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let bytes = serde_cbor::to_vec(self).map_err(|e| DecodeError::Malformed(e.to_string()))?;
        if bytes.len() > ITEM_MAX_BYTES {
            return Err(DecodeError::TooLarge { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads an item's bytes, as they stand on the agent's disk.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match serde_cbor::from_slice(bytes).map_err(|e| DecodeError::Malformed(e.to_string()))? {
            ReadItem::Known(item) => Ok(item),
            ReadItem::Unknown(kind) => Err(DecodeError::UnknownItem(kind)),
        }
    }
}

impl Layout {
    /// Writes a layout's bytes, as they stand in a header and on the agent's disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        #[expect(clippy::expect_used, reason = "text and numbers always have a CBOR form")]
        serde_cbor::to_vec(self).expect("text and numbers always have a CBOR form")
    }

    /// Reads a layout's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        serde_cbor::from_slice(bytes).map_err(|e| DecodeError::Malformed(e.to_string()))
    }
}

/// Puts encoded items of one stream together into a record's value.
#[derive(Debug)]
pub struct RecordBuilder {
    stream: StreamId,
    sender: Epoch,
    layouts: BTreeMap<LayoutId, Arc<Layout>>,
    items: Vec<u8>,
    count: u64,
    layout_bytes: usize,
}

impl RecordBuilder {
    /// Begins a record of a stream.
    #[must_use]
    pub const fn new(stream: StreamId, sender: Epoch) -> Self {
        Self { stream, sender, layouts: BTreeMap::new(), items: Vec::new(), count: 0, layout_bytes: 0 }
    }

    /// Adds an item's bytes ([`Item::encode`]) and, for a chunk, its layout.
    pub fn push(&mut self, item: &[u8], layout: Option<&Arc<Layout>>) {
        self.items.extend_from_slice(item);
        self.count += 1;
        if let Some(layout) = layout
            && self.layouts.insert(layout.id(), Arc::clone(layout)).is_none()
        {
            self.layout_bytes += layout.columns().iter().map(|c| c.tag.len() + 4).sum::<usize>() + 16;
        }
    }

    /// Estimates the record's size from above, within the header's few hundred bytes.
    #[must_use]
    pub fn estimated_bytes(&self) -> usize {
        self.items.len() + self.layout_bytes + 1024
    }

    /// Tells whether nothing was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Ends the record. `numbered` is the stream's last sequence on disk now.
    #[must_use]
    pub fn finish(self, numbered: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.estimated_bytes());
        put_array_head(&mut out, self.count + 1);
        let header = HeaderOut {
            v: FORMAT_VERSION,
            agent: &self.stream.agent,
            epoch: self.stream.epoch,
            sender: self.sender,
            machine: &self.stream.machine,
            category: &self.stream.category,
            numbered,
            layouts: self.layouts.values().map(AsRef::as_ref).collect(),
        };
        #[expect(clippy::expect_used, reason = "writing to memory does not fail")]
        serde_cbor::to_writer(&mut out, &header).expect("writing to memory does not fail");
        out.extend_from_slice(&self.items);
        out
    }
}

/// Writes the head of a CBOR array. *Source*: RFC 8949, section 3, major type 4.
fn put_array_head(out: &mut Vec<u8>, length: u64) {
    match (u8::try_from(length), u16::try_from(length), u32::try_from(length)) {
        (Ok(n @ 0..=23), ..) => out.push(0x80 | n),
        (Ok(n), ..) => out.extend_from_slice(&[0x98, n]),
        (_, Ok(n), _) => {
            out.push(0x99);
            out.extend_from_slice(&n.to_be_bytes());
        }
        (_, _, Ok(n)) => {
            out.push(0x9a);
            out.extend_from_slice(&n.to_be_bytes());
        }
        _ => {
            out.push(0x9b);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    v: u64,
    agent: &'a AgentId,
    epoch: Epoch,
    sender: Epoch,
    machine: &'a MachineName,
    category: &'a Category,
    numbered: u64,
    layouts: Vec<&'a Layout>,
}

enum ReadRecord {
    OtherVersion(u64),
    Read(Header, Vec<ReadItem>),
}

/// A header as read; of a later version only the version is read.
enum ReadHeader {
    OtherVersion(u64),
    Read(Header),
}

impl<'de> Deserialize<'de> for ReadHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = ReadHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header: a map whose first key is \"v\"")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<ReadHeader, A::Error> {
        use de::Error;
        // The version stands first, so that nothing of a later format is interpreted.
        let version = match map.next_key::<&str>()? {
            Some("v") => map.next_value::<u64>()?,
            _ => return Err(Error::custom("the header does not begin with its version")),
        };
        if version != FORMAT_VERSION {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(ReadHeader::OtherVersion(version));
        }
        let (mut agent, mut epoch, mut sender, mut machine) = (None, None, None, None);
        let (mut category, mut numbered, mut layouts) = (None, None, Vec::new());
        while let Some(key) = map.next_key::<&str>()? {
            match key {
                "agent" => agent = Some(map.next_value::<AgentId>()?),
                "epoch" => epoch = Some(map.next_value::<Epoch>()?),
                "sender" => sender = Some(map.next_value::<Epoch>()?),
                "machine" => machine = Some(map.next_value::<MachineName>()?),
                "category" => category = Some(map.next_value::<Category>()?),
                "numbered" => numbered = Some(map.next_value::<u64>()?),
                "layouts" => layouts = map.next_value::<Layouts>()?.0,
                // A later minor addition to the header; what is essential makes a new version.
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let missing = |field| move || Error::custom(format!("the header has no {field:?}"));
        Ok(ReadHeader::Read(Header {
            stream: StreamId {
                agent: agent.ok_or_else(missing("agent"))?,
                epoch: epoch.ok_or_else(missing("epoch"))?,
                machine: machine.ok_or_else(missing("machine"))?,
                category: category.ok_or_else(missing("category"))?,
            },
            sender: sender.ok_or_else(missing("sender"))?,
            numbered: numbered.ok_or_else(missing("numbered"))?,
            layouts,
        }))
    }
}

struct Layouts(Vec<Arc<Layout>>);

impl<'de> Deserialize<'de> for Layouts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Layouts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of layouts")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Layouts, A::Error> {
                let mut layouts = Vec::new();
                while let Some(layout) = seq.next_element::<Layout>()? {
                    layouts.push(Arc::new(layout));
                }
                Ok(Layouts(layouts))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

impl<'de> Deserialize<'de> for ReadRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = ReadRecord;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record: an array of a header and items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ReadRecord, A::Error> {
                let header = seq
                    .next_element::<ReadHeader>()?
                    .ok_or_else(|| de::Error::custom("the record is empty"))?;
                let header = match header {
                    ReadHeader::Read(header) => header,
                    ReadHeader::OtherVersion(version) => {
                        while seq.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(ReadRecord::OtherVersion(version));
                    }
                };
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(ReadRecord::Read(header, items))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}
