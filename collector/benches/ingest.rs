//! Points per second: record to rows (decode, ledger, the lake's row), and rows to a committed SQLite lake.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_collector::config::Limits;
use millrace_collector::features;
use millrace_collector::flush::{Memory, Settings};
use millrace_collector::intake::Incoming;
use millrace_collector::lake::{self, db::Executor as _};
use millrace_preprocess::Catalog;
use millrace_protocol::{
    AgentId, Category, Cell, Chunk, ClockSegment, Epoch, Item, Layout, LayoutColumn, MachineName,
    RecordBuilder, Row, RowFlags, StreamId, Value, ValueType,
};

const TAGS: usize = 20;
const ROWS: usize = 100;
const RECORDS: u64 = 50;
const POINTS: u64 = TAGS as u64 * ROWS as u64 * RECORDS;

fn records(from: u64) -> Vec<Incoming> {
    let column = |at: usize| LayoutColumn { tag: format!("tag_{at}").into(), value_type: ValueType::F64 };
    let layout = Arc::new(Layout::new((0..TAGS).map(column).collect()));
    let stream = StreamId {
        agent: AgentId::new("gw").unwrap(),
        epoch: Epoch(1),
        machine: MachineName::new("hall3/press-03").unwrap(),
        category: Category::new("telemetry").unwrap(),
    };
    let record = |number: u64| {
        let first_seq = number * ROWS as u64 + 1;
        let row = |at: usize| Row {
            time_us: 1_700_000_000_000_000 + (first_seq as i64 + at as i64) * 100_000,
            flags: RowFlags::default(),
            layout: Arc::clone(&layout),
            cells: (0..TAGS)
                .map(|tag| {
                    Cell::Good(Value::F64(((first_seq + at as u64) as f64 * 0.37 + tag as f64).sin() * 100.0))
                })
                .collect(),
        };
        let rows: Vec<Row> = (0..ROWS).map(row).collect();
        let item = Item::Chunk(Chunk::pack(first_seq, ClockSegment::default(), &rows).unwrap());
        let mut builder = RecordBuilder::new(stream.clone(), Epoch(1));
        builder.push(&item.encode().unwrap(), Some(&layout));
        Incoming {
            topic: "m.telemetry".into(),
            partition: 0,
            offset: number as i64,
            append_us: 1_700_000_000_000_000,
            key: None,
            headers: Vec::new(),
            value: builder.finish(first_seq + ROWS as u64),
        }
    };
    (from..from + RECORDS).map(record).collect()
}

fn settings() -> Settings {
    Settings {
        catalog: Arc::new(Catalog::default()),
        stall_after: Duration::from_secs(600),
        limits: Limits { earliest_us: 0, ahead: Duration::from_secs(1 << 30) },
    }
}

fn ingest(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut group = criterion.benchmark_group("ingest");
    group.throughput(Throughput::Elements(POINTS)).sample_size(10);
    group.bench_function("record to rows", |bench| {
        let records = records(0);
        bench.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for round in 0..rounds {
                let file = folder.path().join(format!("empty-{round}.db"));
                let mut memory = runtime.block_on(async {
                    let mut conn = lake::open(&file).await.unwrap();
                    Memory::load(&mut conn, settings()).await.unwrap()
                });
                let started = Instant::now();
                for record in &records {
                    memory.absorb(black_box(record));
                }
                spent += started.elapsed();
                assert_eq!(memory.waiting_points() as u64, POINTS);
            }
            spent
        });
    });
    group.bench_function("record to committed lake", |bench| {
        let file = folder.path().join("lake.db");
        let (mut conn, mut memory) = runtime.block_on(async {
            let mut conn = lake::open(&file).await.unwrap();
            features::migrate(&mut conn, &[]).await.unwrap();
            let memory = Memory::load(&mut conn, settings()).await.unwrap();
            (conn, memory)
        });
        // The closure runs more than once over the same lake: go on where it stands.
        let mut next = memory.positions().values().next().map_or(0, |position| position.next as u64);
        bench.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let records = records(next);
                next += RECORDS;
                let started = Instant::now();
                for record in &records {
                    memory.absorb(record);
                }
                runtime.block_on(async {
                    conn.execute("BEGIN IMMEDIATE").await.unwrap();
                    memory.flush(&mut conn, 0).await.unwrap();
                });
                spent += started.elapsed();
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, ingest);
criterion_main!(benches);
