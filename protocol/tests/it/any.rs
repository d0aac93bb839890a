//! Strategies for everything that travels, with the awkward values in front.

use std::sync::Arc;

use millrace_protocol::*;
use proptest::prelude::*;

/// Doubles whose bits are easily lost.
pub(crate) const AWKWARD_F64: [u64; 9] = [
    0x8000_0000_0000_0000,
    0x0000_0000_0000_0001,
    0x000f_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    0xffff_ffff_ffff_ffff,
    0x7fef_ffff_ffff_ffff,
];

fn any_f64() -> impl Strategy<Value = f64> {
    prop_oneof![any::<u64>(), prop::sample::select(AWKWARD_F64.to_vec())].prop_map(f64::from_bits)
}

fn any_f32() -> impl Strategy<Value = f32> {
    let awkward = vec![0x8000_0000, 1, 0x7f80_0000, 0x7fc0_0000, 0x7f80_0001, 0xffff_ffff];
    prop_oneof![any::<u32>(), prop::sample::select(awkward)].prop_map(f32::from_bits)
}

fn any_waveform() -> impl Strategy<Value = Waveform> {
    let samples = prop_oneof![
        prop::collection::vec(any::<i16>(), 0..40).prop_map(Samples::I16),
        prop::collection::vec(any_f32(), 0..40).prop_map(Samples::F32),
        prop::collection::vec(any_f64(), 0..40).prop_map(Samples::F64),
    ];
    (any_f64(), samples).prop_map(|(rate_hz, samples)| Waveform { rate_hz, samples })
}

pub(crate) fn any_value(value_type: ValueType) -> BoxedStrategy<Value> {
    match value_type {
        ValueType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ValueType::I64 => {
            prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX)].prop_map(Value::I64).boxed()
        }
        ValueType::U64 => prop_oneof![any::<u64>(), Just(u64::MAX)].prop_map(Value::U64).boxed(),
        ValueType::F32 => any_f32().prop_map(Value::F32).boxed(),
        ValueType::F64 => any_f64().prop_map(Value::F64).boxed(),
        ValueType::Text => prop_oneof![Just(String::new()), "\\PC{0,20}", Just("x".repeat(70_000))]
            .prop_map(|s| Value::Text(s.into()))
            .boxed(),
        ValueType::Bytes => {
            prop::collection::vec(any::<u8>(), 0..50).prop_map(|b| Value::Bytes(b.into())).boxed()
        }
        ValueType::Waveform => any_waveform().prop_map(|w| Value::Waveform(Arc::new(w))).boxed(),
    }
}

pub(crate) fn any_cell(value_type: ValueType) -> impl Strategy<Value = Cell> {
    prop_oneof![
        1 => Just(Cell::Absent),
        6 => any_value(value_type).prop_map(Cell::Good),
        2 => (1u8..255).prop_map(|code| Cell::Bad(Quality::from_code(code).unwrap())),
    ]
}

pub(crate) fn any_layout() -> impl Strategy<Value = Arc<Layout>> {
    prop::collection::vec(("[a-z_.äöü]{0,12}", prop::sample::select(ValueType::ALL.to_vec())), 0..10)
        .prop_map(|columns| {
            let column = |(tag, value_type): (String, _)| LayoutColumn { tag: tag.into(), value_type };
            Arc::new(Layout::new(columns.into_iter().map(column).collect()))
        })
}

fn any_row(layout: Arc<Layout>) -> impl Strategy<Value = Row> {
    let cells: Vec<_> = layout.columns().iter().map(|c| any_cell(c.value_type).boxed()).collect();
    let time = prop_oneof![8 => 1_700_000_000_000_000i64..1_800_000_000_000_000, 1 => any::<i64>()];
    (time, prop_oneof![4 => Just(0u16), 1 => any::<u16>()], cells).prop_map(move |(time_us, flags, cells)| {
        Row { time_us, flags: RowFlags(flags), layout: Arc::clone(&layout), cells }
    })
}

pub(crate) fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    any_layout().prop_flat_map(|layout| prop::collection::vec(any_row(layout), 1..12))
}

pub(crate) fn any_clock() -> impl Strategy<Value = ClockSegment> {
    (any::<u32>(), prop::option::of((any::<[u8; 16]>(), any::<i64>()))).prop_map(|(number, unsynced)| {
        ClockSegment {
            number,
            unsynced: unsynced.map(|(boot, offset)| UnsyncedClock {
                boot_id: BootId(boot),
                wall_minus_monotonic_us: offset,
            }),
        }
    })
}

fn any_birth_tag() -> impl Strategy<Value = BirthTag> {
    let reporting = prop_oneof![
        any::<i64>().prop_map(|interval_us| Reporting::Cyclic { interval_us }),
        any::<i64>().prop_map(|max_interval_us| Reporting::ByException { max_interval_us }),
        Just(Reporting::Spontaneous),
    ];
    let value_type = prop::option::of(prop::sample::select(ValueType::ALL.to_vec()));
    let numbers = (any::<i64>(), prop::option::of(any::<u64>()));
    ("\\PC{0,9}", value_type, prop::option::of("\\PC{0,5}"), "\\PC{0,30}", reporting, numbers).prop_map(
        |(name, value_type, unit, source, reporting, (hold_us, counter_modulus))| BirthTag {
            name: name.into(),
            value_type,
            unit: unit.map(Into::into),
            source: source.into(),
            reporting,
            hold_us,
            counter_modulus,
        },
    )
}

fn any_birth() -> impl Strategy<Value = Birth> {
    (
        any::<u64>(),
        prop::collection::vec(any_birth_tag(), 0..6),
        prop::collection::btree_map("\\PC{0,6}", "\\PC{0,6}", 0..4),
        prop::option::of((any::<u64>(), any::<u64>())),
        prop::option::of(any::<i64>()),
        any::<i64>(),
    )
        .prop_map(|(after, tags, attributes, previous, last_flushed_us, started_us)| Birth {
            after,
            tags,
            attributes,
            previous: previous.map(|(epoch, last_seq)| PreviousEpoch { epoch: Epoch(epoch), last_seq }),
            last_flushed_us,
            started_us,
        })
}

/// An item other than a chunk.
pub(crate) fn any_plain_item() -> impl Strategy<Value = Item> {
    let raw_row = (any::<i64>(), "\\PC{0,9}", prop::collection::vec(any::<u8>(), 0..30), "\\PC{0,20}")
        .prop_map(|(time_us, topic, payload, reason)| RawRow {
            time_us,
            topic: topic.into(),
            payload: payload.into(),
            reason: reason.into(),
        });
    let range = (any::<u64>(), prop::option::of(any::<u64>())).prop_map(|(from, to)| SeqRange { from, to });
    prop_oneof![
        any_birth().prop_map(Item::Birth),
        (any::<u64>(), prop::collection::vec(raw_row, 0..5))
            .prop_map(|(first_seq, rows)| Item::Raw(RawRows::new(first_seq, rows))),
        (
            any::<u64>(),
            prop::sample::select(LossReason::ALL.to_vec()),
            prop::collection::vec(range, 0..5),
            prop::option::of(any::<u64>())
        )
            .prop_map(|(after, reason, ranges, points)| Item::Loss(Loss {
                after,
                reason,
                ranges,
                points
            })),
        (any::<u64>(), any::<[u8; 16]>(), any::<i64>(), any::<i64>()).prop_map(
            |(after, boot, offset_us, from_monotonic_us)| Item::Clock(ClockCorrection {
                after,
                boot_id: BootId(boot),
                offset_us,
                from_monotonic_us
            })
        ),
        (any::<u64>(), any::<i64>(), any::<u64>(), prop::collection::vec(any::<u64>(), 0..4)).prop_map(
            |(after, complete_until_us, numbered, waiting)| Item::Progress(Progress {
                after,
                complete_until_us,
                numbered,
                waiting_epochs: waiting.into_iter().map(Epoch).collect()
            })
        ),
    ]
}

pub(crate) fn stream() -> StreamId {
    StreamId {
        agent: AgentId::new("gw-hall3").unwrap(),
        epoch: Epoch(0x0123_4567_89ab_cdef),
        machine: MachineName::new("hall3/press-03").unwrap(),
        category: Category::new("telemetry").unwrap(),
    }
}
