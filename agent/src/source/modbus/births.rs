//! What the streams of a bus hold, as their births tell it (D1).

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_protocol::{BirthTag, Category, Reporting};

use super::decode::Decoder;
use crate::config::{Bus, Convert, DEFAULT_MAX_INTERVAL, Device, Tag};
use crate::delivery::NewTags;

/// Gives every stream of a bus, with every tag: what the batch stage must know at start (D7).
#[must_use]
pub fn streams(bus: &Bus) -> Vec<NewTags> {
    bus.devices.iter().flat_map(|device| streams_of(bus, device)).collect()
}

fn streams_of(bus: &Bus, device: &Device) -> Vec<NewTags> {
    let mut categories: BTreeMap<&Category, Vec<BirthTag>> = BTreeMap::new();
    for tag in &device.tags {
        categories.entry(&tag.category).or_default().push(birth_tag(bus, device, tag));
    }
    let attributes: Vec<_> = device.attributes.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let stream = |(category, tags): (&Category, Vec<BirthTag>)| NewTags {
        machine: device.machine.clone(),
        category: category.clone(),
        tags: tags.into(),
        attributes: attributes.clone(),
    };
    categories.into_iter().map(stream).collect()
}

fn birth_tag(bus: &Bus, device: &Device, tag: &Arc<Tag>) -> BirthTag {
    let us = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    let max_interval = tag.max_interval.or(tag.deadband.map(|_| DEFAULT_MAX_INTERVAL));
    let interval_us = us(device.poll_interval);
    BirthTag {
        name: Arc::clone(&tag.name),
        value_type: Some(Decoder::new(Arc::clone(tag)).value_type()),
        unit: tag.unit.as_deref().map(Into::into),
        source: source(bus, device, tag).into(),
        reporting: max_interval.map_or(Reporting::Cyclic { interval_us }, |longest| Reporting::ByException {
            max_interval_us: us(longest),
        }),
        // F3
        hold_us: max_interval.map_or(interval_us, us).saturating_mul(2),
        counter_modulus: match &tag.convert {
            Convert::Counter { modulus } => *modulus,
            Convert::None | Convert::Linear { .. } | Convert::Enum(_) => None,
        },
    }
}

/// Writes where a tag comes from as an installer would (`line-a unit 3 holding 100 f32 ABCD`).
fn source(bus: &Bus, device: &Device, tag: &Tag) -> String {
    let (table, kind) = (tag.table.word(), tag.decode.words());
    format!("{} unit {} {table} {} {kind}", bus.name, device.unit_id, tag.address)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample;
    use super::*;
    use crate::config::{Decode, NumberKind, Table};

    #[test]
    fn births_say_where_a_tag_comes_from_how_it_is_reported_and_how_long_it_holds() {
        let mut swapped = sample::number("t", Table::Holding, 100, NumberKind::F32);
        swapped.decode = Decode::Number { kind: NumberKind::F32, order: vec![2, 3, 0, 1] };
        swapped.deadband = Some(0.5);
        let mut parts = sample::number("parts", Table::Input, 7, NumberKind::U8Low);
        parts.convert = Convert::Counter { modulus: Some(256) };
        parts.max_interval = Some(Duration::from_secs(5));
        let mut coil = sample::bit("coil", Table::Coil, 3);
        coil.category = Category::new("alarm").unwrap();
        let bus = sample::bus("127.0.0.1:0", vec![sample::device(3, vec![swapped, parts, coil])]);
        let streams = streams(&bus);
        let names: Vec<_> = streams.iter().map(|s| (s.category.as_str(), s.tags.len())).collect();
        assert_eq!(names, [("alarm", 1), ("telemetry", 2)]);
        let lines: Vec<_> = streams
            .iter()
            .flat_map(|s| s.tags.iter())
            .map(|t| (t.source.to_string(), t.reporting, t.hold_us, t.counter_modulus))
            .collect();
        let by_exception = |max_interval_us| Reporting::ByException { max_interval_us };
        assert_eq!(
            lines,
            [
                (
                    "line-a unit 3 coil 3 bool".to_owned(),
                    Reporting::Cyclic { interval_us: 1_000 },
                    2_000,
                    None
                ),
                (
                    "line-a unit 3 holding 100 f32 CDAB".to_owned(),
                    by_exception(60_000_000),
                    120_000_000,
                    None
                ),
                ("line-a unit 3 input 7 u8 low".to_owned(), by_exception(5_000_000), 10_000_000, Some(256)),
            ]
        );
    }
}
