//! Golden files: one for every item, read when the test runs, so that anyone can add cases.
//!
//! `MILLRACE_BLESS=1` writes the files anew; a difference to what is committed is a change of format.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use millrace_protocol::*;

use crate::any::stream;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn every_type() -> (Arc<Layout>, Vec<Row>) {
    let columns = ValueType::ALL
        .iter()
        .map(|&value_type| LayoutColumn { tag: value_type.name().into(), value_type })
        .collect();
    let layout = Arc::new(Layout::new(columns));
    let wave = Waveform { rate_hz: 25_600.0, samples: Samples::I16(vec![-1, 0, 32_767]) };
    let good = vec![
        Value::Bool(true),
        Value::I64(i64::MIN),
        Value::U64(u64::MAX),
        Value::F32(f32::from_bits(0x7f80_0001)),
        Value::F64(-0.0),
        Value::Text("Süd".into()),
        Value::Bytes([0xff, 0x00].into()),
        Value::Waveform(Arc::new(wave)),
    ];
    let row = |time_us, flags, cells| Row { time_us, flags, layout: Arc::clone(&layout), cells };
    let mut mixed: Vec<Cell> = vec![Cell::Absent; 8];
    mixed[3] = Cell::Bad(Quality::TIMEOUT);
    mixed[4] = Cell::Good(Value::F64(f64::from_bits(1)));
    let rows = vec![
        row(1_700_000_000_000_000, RowFlags::default(), good.into_iter().map(Cell::Good).collect()),
        row(1_699_999_999_999_000, RowFlags::CLOCK_STEPPED, mixed),
    ];
    (layout, rows)
}

fn birth() -> Item {
    Item::Birth(Birth {
        after: 0,
        tags: vec![BirthTag {
            name: "bearing_temp".into(),
            value_type: Some(ValueType::F32),
            unit: Some("degC".into()),
            source: "line-a unit 3 holding 100 f32 ABCD".into(),
            reporting: Reporting::ByException { max_interval_us: 60_000_000 },
            hold_us: 120_000_000,
            counter_modulus: Some(4_294_967_296),
        }],
        attributes: [("line".to_owned(), "L1".to_owned())].into(),
        previous: Some(PreviousEpoch { epoch: Epoch(42), last_seq: 1000 }),
        last_flushed_us: Some(1_700_000_000_000_000),
        started_us: 1_700_000_100_000_000,
    })
}

fn cases() -> Vec<(&'static str, Item, Option<Arc<Layout>>)> {
    let (layout, rows) = every_type();
    let unsynced = UnsyncedClock { boot_id: BootId([7; 16]), wall_minus_monotonic_us: -5 };
    let clock = ClockSegment { number: 3, unsynced: Some(unsynced) };
    let chunk = |clock| Item::Chunk(Chunk::pack(41, clock, &rows).unwrap());
    let raw = RawRow {
        time_us: 1_700_000_000_000_000,
        topic: "plant/L1/press-03/telemetry".into(),
        payload: [0xff, 0xfe].into(),
        reason: "not JSON: expected value at line 1 column 1".into(),
    };
    let ranges = vec![SeqRange { from: 5, to: Some(9) }, SeqRange { from: 12, to: None }];
    vec![
        ("chunk", chunk(ClockSegment::default()), Some(Arc::clone(&layout))),
        ("chunk_unsynced", chunk(clock), Some(layout)),
        ("birth", birth(), None),
        (
            "loss",
            Item::Loss(Loss { after: 4, reason: LossReason::DroppedOldest, ranges, points: Some(300) }),
            None,
        ),
        (
            "clock",
            Item::Clock(ClockCorrection {
                after: 4,
                boot_id: BootId([7; 16]),
                offset_us: 1_700_000_000_000_000,
                from_monotonic_us: 0,
            }),
            None,
        ),
        (
            "progress",
            Item::Progress(Progress {
                after: 42,
                complete_until_us: 1_700_000_001_000_000,
                numbered: 42,
                waiting_epochs: vec![Epoch(42)],
            }),
            None,
        ),
        ("raw", Item::Raw(RawRows::new(1, vec![raw])), None),
    ]
}

#[test]
fn golden_files_hold_the_records_that_are_written() {
    for (name, item, layout) in cases() {
        let mut builder = RecordBuilder::new(stream(), Epoch(99));
        builder.push(&item.encode().unwrap(), layout.as_ref());
        let bytes = builder.finish(42);
        let path = directory().join(format!("record_{name}.hex"));
        if std::env::var_os("MILLRACE_BLESS").is_some() {
            std::fs::write(&path, hex(&bytes) + "\n").unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(hex(&bytes), text.trim(), "{name}: the format changed");
        let record = Record::decode(&unhex(&text)).unwrap();
        assert_eq!(record.items, vec![item], "{name}");
        assert_eq!(record.header.stream, stream());
        if let (Some(layout), Some(Item::Chunk(chunk))) = (layout, record.items.first()) {
            let (_, rows) = every_type();
            for ((_, got), wanted) in Chunk::unpack(chunk, &layout).unwrap().rows().zip(rows) {
                assert!(got.cells.iter().zip(&wanted.cells).all(|(a, b)| a.same_bits(b)), "{got:?}");
            }
        }
    }
}

/// Every further `*.hex` file is a record that must still be read, whoever wrote it.
#[test]
fn golden_records_of_every_age_are_read() {
    let mut read = 0;
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "hex") {
            let text = std::fs::read_to_string(&path).unwrap();
            let record = Record::decode(&unhex(&text)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            for item in &record.items {
                if let Item::Chunk(chunk) = item {
                    Chunk::unpack(chunk, record.header.layout(chunk.layout).unwrap()).unwrap();
                }
            }
            read += 1;
        }
    }
    assert!(read >= 7, "only {read} golden records");
}
