//! The items as CBOR arrays, by serde: `[kind, field, …]`.
//!
//! Nothing is allocated on the word of a length that an attacker wrote: sequences grow as their
//! elements are read. An unknown kind is read past, so that the error can name it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeTuple, Serializer};
use serde_bytes::Bytes;

use crate::id::{BootId, Epoch};
use crate::item::{
    Birth, BirthTag, ChunkItem, ClockCorrection, Item, Loss, LossReason, PreviousEpoch, Progress, RawRow,
    RawRows, Reporting, SeqRange,
};
use crate::point::ValueType;
use crate::row::{Layout, LayoutColumn, LayoutId};

const KIND_CHUNK: u64 = 1;
const KIND_BIRTH: u64 = 2;
const KIND_LOSS: u64 = 3;
const KIND_CLOCK: u64 = 4;
const KIND_PROGRESS: u64 = 5;
const KIND_RAW: u64 = 6;

/// An item as read: known, or a kind of a later version.
#[derive(Debug)]
pub(crate) enum ReadItem {
    Known(Item),
    Unknown(u64),
}

/// A vector that is read without reserving what its length announces.
struct Grown<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Grown<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = Grown<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Grown<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Grown(elements))
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

macro_rules! tuple {
    ($serializer:expr, $($field:expr),+ $(,)?) => {{
        let fields: [&dyn Fn(&mut S::SerializeTuple) -> Result<(), S::Error>; _] =
            [$(&|t: &mut S::SerializeTuple| t.serialize_element($field)),+];
        let mut tuple = $serializer.serialize_tuple(fields.len())?;
        for field in fields {
            field(&mut tuple)?;
        }
        tuple.end()
    }};
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Chunk(c) => tuple!(
                serializer,
                &KIND_CHUNK,
                &c.first_seq,
                &c.rows,
                &c.points,
                &c.layout.0,
                &c.crc,
                Bytes::new(&c.body)
            ),
            Self::Raw(r) => {
                let rows: Vec<_> = r
                    .rows
                    .iter()
                    .map(|row| (row.time_us, &*row.topic, Bytes::new(&row.payload), &*row.reason))
                    .collect();
                tuple!(serializer, &KIND_RAW, &r.first_seq, &r.crc, &rows)
            }
            Self::Birth(b) => {
                let tags: Vec<_> = b.tags.iter().map(birth_tag_fields).collect();
                let previous = b.previous.map(|p| (p.epoch.0, p.last_seq));
                tuple!(
                    serializer,
                    &KIND_BIRTH,
                    &b.after,
                    &tags,
                    &b.attributes,
                    &previous,
                    &b.last_flushed_us,
                    &b.started_us
                )
            }
            Self::Loss(l) => {
                let ranges: Vec<_> = l.ranges.iter().map(|r| (r.from, r.to)).collect();
                tuple!(serializer, &KIND_LOSS, &l.after, &l.reason.code(), &ranges, &l.points)
            }
            Self::Clock(c) => tuple!(
                serializer,
                &KIND_CLOCK,
                &c.after,
                Bytes::new(&c.boot_id.0),
                &c.offset_us,
                &c.from_monotonic_us
            ),
            Self::Progress(p) => {
                let waiting: Vec<u64> = p.waiting_epochs.iter().map(|e| e.0).collect();
                tuple!(serializer, &KIND_PROGRESS, &p.after, &p.complete_until_us, &p.numbered, &waiting)
            }
        }
    }
}

type BirthTagFields<'a> = (&'a str, Option<u64>, Option<&'a str>, &'a str, u64, i64, i64, Option<u64>);

fn birth_tag_fields(tag: &BirthTag) -> BirthTagFields<'_> {
    let (mode, interval_us) = match tag.reporting {
        Reporting::Cyclic { interval_us } => (1, interval_us),
        Reporting::ByException { max_interval_us } => (2, max_interval_us),
        Reporting::Spontaneous => (3, 0),
    };
    let value_type = tag.value_type.map(ValueType::code);
    (
        &tag.name,
        value_type,
        tag.unit.as_deref(),
        &tag.source,
        mode,
        interval_us,
        tag.hold_us,
        tag.counter_modulus,
    )
}

fn birth_tag<E: de::Error>(fields: BirthTagFields<'_>) -> Result<BirthTag, E> {
    let (name, value_type, unit, source, mode, interval_us, hold_us, counter_modulus) = fields;
    let value_type = match value_type {
        None => None,
        Some(code) => {
            Some(ValueType::from_code(code).ok_or_else(|| E::custom(format!("unknown type {code}")))?)
        }
    };
    let reporting = match mode {
        1 => Reporting::Cyclic { interval_us },
        2 => Reporting::ByException { max_interval_us: interval_us },
        3 => Reporting::Spontaneous,
        other => return Err(E::custom(format!("unknown reporting mode {other}"))),
    };
    Ok(BirthTag {
        name: name.into(),
        value_type,
        unit: unit.map(Arc::from),
        source: source.into(),
        reporting,
        hold_us,
        counter_modulus,
    })
}

impl<'de> Deserialize<'de> for ReadItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ItemVisitor)
    }
}

struct ItemVisitor;

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    seq: &mut A,
    field: &'static str,
) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| de::Error::custom(format!("the item ends before its {field}")))
}

fn boot_id<E: de::Error>(bytes: &[u8]) -> Result<BootId, E> {
    bytes.try_into().map(BootId).map_err(|_| E::custom("a boot id has 16 bytes"))
}

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = ReadItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item: an array that begins with its kind")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ReadItem, A::Error> {
        let kind: u64 = next(&mut seq, "kind")?;
        let item = match kind {
            KIND_CHUNK => Item::Chunk(read_chunk(&mut seq)?),
            KIND_BIRTH => Item::Birth(read_birth(&mut seq)?),
            KIND_LOSS => Item::Loss(read_loss(&mut seq)?),
            KIND_CLOCK => Item::Clock(ClockCorrection {
                after: next(&mut seq, "place")?,
                boot_id: boot_id(next::<&Bytes, _>(&mut seq, "boot id")?)?,
                offset_us: next(&mut seq, "offset")?,
                from_monotonic_us: next(&mut seq, "start")?,
            }),
            KIND_PROGRESS => Item::Progress(Progress {
                after: next(&mut seq, "place")?,
                complete_until_us: next(&mut seq, "time")?,
                numbered: next(&mut seq, "last sequence")?,
                waiting_epochs: next::<Grown<u64>, _>(&mut seq, "epochs")?.0.into_iter().map(Epoch).collect(),
            }),
            KIND_RAW => Item::Raw(read_raw(&mut seq)?),
            other => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(ReadItem::Unknown(other));
            }
        };
        if seq.next_element::<IgnoredAny>()?.is_some() {
            return Err(de::Error::custom(format!("an item of kind {kind} has too many fields")));
        }
        Ok(ReadItem::Known(item))
    }
}

fn read_chunk<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<ChunkItem, A::Error> {
    Ok(ChunkItem {
        first_seq: next(seq, "first sequence")?,
        rows: next(seq, "number of rows")?,
        points: next(seq, "number of points")?,
        layout: LayoutId(next(seq, "layout")?),
        crc: next(seq, "checksum")?,
        body: Arc::from(&**next::<&Bytes, _>(seq, "body")?),
    })
}

fn read_raw<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<RawRows, A::Error> {
    let first_seq = next(seq, "first sequence")?;
    let crc = next(seq, "checksum")?;
    let rows: Grown<(i64, &str, &Bytes, &str)> = next(seq, "rows")?;
    let rows = rows
        .0
        .into_iter()
        .map(|(time_us, topic, payload, reason)| RawRow {
            time_us,
            topic: topic.into(),
            payload: Arc::from(&**payload),
            reason: reason.into(),
        })
        .collect();
    Ok(RawRows { first_seq, crc, rows })
}

fn read_birth<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<Birth, A::Error> {
    let after = next(seq, "place")?;
    let tags: Grown<BirthTagFields<'_>> = next(seq, "tags")?;
    let tags = tags.0.into_iter().map(birth_tag).collect::<Result<_, A::Error>>()?;
    let attributes: BTreeMap<String, String> = next(seq, "attributes")?;
    let previous: Option<(u64, u64)> = next(seq, "previous epoch")?;
    let previous = previous.map(|(epoch, last_seq)| PreviousEpoch { epoch: Epoch(epoch), last_seq });
    Ok(Birth {
        after,
        tags,
        attributes,
        previous,
        last_flushed_us: next(seq, "last flush")?,
        started_us: next(seq, "start")?,
    })
}

fn read_loss<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<Loss, A::Error> {
    let after = next(seq, "place")?;
    let code: u64 = next(seq, "reason")?;
    let reason = LossReason::from_code(code)
        .ok_or_else(|| de::Error::custom(format!("unknown reason {code} of a loss")))?;
    let ranges: Grown<(u64, Option<u64>)> = next(seq, "ranges")?;
    let ranges = ranges.0.into_iter().map(|(from, to)| SeqRange { from, to }).collect();
    Ok(Loss { after, reason, ranges, points: next(seq, "points")? })
}

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let columns: Vec<_> = self.columns().iter().map(|c| (&*c.tag, c.value_type.code())).collect();
        (self.id().0, columns).serialize(serializer)
    }
}

/// A layout is read with its id; one whose id does not fit its columns is refused.
impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, columns): (u64, Grown<(&str, u64)>) = Deserialize::deserialize(deserializer)?;
        let columns = columns
            .0
            .into_iter()
            .map(|(tag, code)| {
                let value_type = ValueType::from_code(code)
                    .ok_or_else(|| de::Error::custom(format!("unknown type {code} of column {tag:?}")))?;
                Ok(LayoutColumn { tag: tag.into(), value_type })
            })
            .collect::<Result<_, D::Error>>()?;
        let layout = Self::new(columns);
        if layout.id() != LayoutId(id) {
            return Err(de::Error::custom(format!("layout {} does not fit its columns", LayoutId(id))));
        }
        Ok(layout)
    }
}
