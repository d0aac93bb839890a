//! Whatever comes by Kafka is stored, or kept as what could not be read; it never stops a flush, an audit or a start.

use millrace_protocol::{Birth, BirthTag, BootId, ClockCorrection, PreviousEpoch, Reporting};
use proptest::prelude::*;

use super::*;

/// Numbers at the ends of their range, and believable ones.
fn seq() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        1u64..20,
        Just(i64::MAX as u64),
        Just(i64::MAX as u64 + 1),
        Just(u64::MAX),
        any::<u64>()
    ]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), T0..T0 + 60_000_000, Just(i64::MIN), Just(i64::MAX), any::<i64>()]
}

fn item() -> impl Strategy<Value = (Item, Option<Arc<Layout>>)> {
    let chunk = (seq(), prop::collection::vec((time(), any::<u64>()), 1..4), any::<bool>()).prop_map(
        |(first, cells, twice)| {
            let column = |tag: &str| LayoutColumn { tag: tag.into(), value_type: ValueType::F64 };
            let layout = Arc::new(Layout::new(vec![
                column("te\u{0}mp\"'"),
                column(if twice { "te\u{0}mp\"'" } else { "" }),
            ]));
            let row = |(time_us, bits): (i64, u64)| Row {
                time_us,
                flags: RowFlags(bits as u16),
                layout: Arc::clone(&layout),
                cells: vec![Cell::Good(Value::F64(f64::from_bits(bits))), Cell::Absent],
            };
            let rows: Vec<Row> = cells.into_iter().map(row).collect();
            let item = match Chunk::pack(first, ClockSegment::default(), &rows) {
                Ok(chunk) => Item::Chunk(chunk),
                Err(_) => Item::Progress(Progress {
                    after: first,
                    complete_until_us: 0,
                    numbered: first,
                    waiting_epochs: vec![],
                }),
            };
            (item, Some(layout))
        },
    );
    let raw = (seq(), time()).prop_map(|(first, time_us)| {
        let row =
            RawRow { time_us, topic: "a\u{0}".into(), payload: [0xff, 0][..].into(), reason: "".into() };
        (Item::Raw(RawRows::new(first, vec![row; 2])), None)
    });
    let loss = (seq(), prop::option::of(seq()), seq()).prop_map(|(from, to, points)| {
        let ranges = vec![SeqRange { from, to }, SeqRange { from: 1, to: Some(from) }];
        (Item::Loss(Loss { after: from, reason: LossReason::Refused, ranges, points: Some(points) }), None)
    });
    let birth = (seq(), time(), time(), seq()).prop_map(|(after, started_us, flushed_us, last_seq)| {
        let tag = BirthTag {
            name: "temp".into(),
            value_type: None,
            unit: Some("\u{0}".into()),
            source: "".into(),
            reporting: Reporting::Cyclic { interval_us: started_us },
            hold_us: flushed_us,
            counter_modulus: Some(last_seq),
        };
        let attributes = [("li\u{0}ne\"".to_owned(), "\\".to_owned())].into();
        let previous = Some(PreviousEpoch { epoch: Epoch(7), last_seq });
        let last_flushed_us = Some(flushed_us);
        (
            Item::Birth(Birth { after, tags: vec![tag], attributes, previous, last_flushed_us, started_us }),
            None,
        )
    });
    let clock = (seq(), time(), time()).prop_map(|(after, offset_us, from_monotonic_us)| {
        (Item::Clock(ClockCorrection { after, boot_id: BootId([9; 16]), offset_us, from_monotonic_us }), None)
    });
    let progress =
        (seq(), time(), seq(), any::<u64>()).prop_map(|(after, complete_until_us, numbered, epoch)| {
            let waiting_epochs = vec![Epoch(epoch), Epoch(7)];
            (Item::Progress(Progress { after, complete_until_us, numbered, waiting_epochs }), None)
        });
    prop_oneof![3 => chunk, 1 => raw, 1 => loss, 1 => birth, 1 => clock, 1 => progress]
}

/// A record whose parts are well formed and hostile, some of whose bytes may be others, with hostile headers.
fn incoming() -> impl Strategy<Value = Incoming> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let header = prop::sample::select(vec![
        "",
        "1",
        "0",
        "18446744073709551615",
        "-1",
        "zz",
        "gw",
        "000000000000000f",
    ]);
    let headers = prop::collection::vec(
        (prop::sample::select(vec!["agent", "epoch", "category", "seq", "rows"]), header),
        0..6,
    );
    (prop::collection::vec(item(), 0..4), seq(), edits, headers, time(), 0i32..3).prop_map(
        |(items, numbered, edits, headers, append_us, partition)| {
            let mut builder = RecordBuilder::new(stream(), Epoch(numbered));
            for (item, layout) in &items {
                if let Ok(bytes) = item.encode() {
                    builder.push(&bytes, layout.as_ref());
                }
            }
            let mut value = builder.finish(numbered);
            for (at, byte) in edits {
                let at = at.index(value.len());
                value[at] = byte;
            }
            let headers =
                headers.into_iter().map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
            Incoming { append_us, partition, headers: headers.collect(), ..at(0, value) }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn no_record_stops_a_flush_an_audit_or_the_next_start(log in prop::collection::vec(incoming(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("lake.db");
            let (mut conn, mut memory) = open(&file).await;
            for (offset, incoming) in log.into_iter().enumerate() {
                memory.absorb(&Incoming { offset: offset as i64, ..incoming });
                if offset % 3 == 0 {
                    flush(&mut conn, &mut memory).await.unwrap();
                }
            }
            for shard in 0..3 {
                memory.end_reached("m.telemetry", shard, i64::MAX);
            }
            flush(&mut conn, &mut memory).await.unwrap();
            let before = audited(&mut conn).await;
            drop((conn, memory));
            let (mut conn, mut memory) = open(&file).await;
            assert_eq!(audited(&mut conn).await, before);
            // A good stream beside it is stored as ever.
            let (item, layout) = rows(1, &[1.0, 2.0]);
            let mut builder = RecordBuilder::new(StreamId { agent: AgentId::new("good").unwrap(), ..stream() }, Epoch(1));
            builder.push(&item.encode().unwrap(), Some(&layout));
            memory.absorb(&at(100, builder.finish(2)));
            flush(&mut conn, &mut memory).await.unwrap();
            let audit = audited(&mut conn).await;
            let line = audit.streams.iter().find(|line| line.agent == "good").unwrap();
            assert_eq!((line.in_lake, line.missing), (2, 0));
        });
    }
}
