//! Windowed features on one core: mean, std, p2p and increase over 1 min every 10 s, points per second.
//!
//! `cargo bench -p millrace-preprocess --bench windows`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use millrace_preprocess::{BatchDriver, Catalog, InputRow, SourceFile, StreamDriver, compile};
use millrace_protocol::{
    AgentId, Birth, BirthTag, Category, Cell, Epoch, Layout, LayoutColumn, MachineName, Reporting, RowFlags,
    StreamId, Value, ValueType,
};

const TAGS: usize = 20;
const ROWS: i64 = 3_600;
const S: i64 = 1_000_000;

fn catalog() -> Arc<Catalog> {
    let mut text = String::from(
        "[[kind]]\nname = \"press\"\nmachines = [\"*\"]\n[[feature_view]]\nname = \"v\"\nkind = \"press\"\n\
         window = { size = \"1 min\", every = \"10 s\" }\n[feature_view.features]\n",
    );
    for n in 0..TAGS {
        for f in ["mean", "std", "p2p", "increase"] {
            text.push_str(&format!("{f}_{n} = \"{f}(t{n})\"\n"));
        }
    }
    let file = SourceFile { name: "bench.toml".to_owned(), text };
    Arc::new(compile(&[file], &|_| Err(String::new())).expect("the file above compiles"))
}

/// An hour of one machine: 20 tags, a row each second.
fn rows() -> (Birth, Vec<InputRow>) {
    let name = |n: usize| Arc::<str>::from(format!("t{n}"));
    let stream = Arc::new(StreamId {
        agent: AgentId::new("gw").expect("a name"),
        epoch: Epoch(1),
        machine: MachineName::new("hall3/press-01").expect("a name"),
        category: Category::new("telemetry").expect("a name"),
    });
    let columns = (0..TAGS).map(|n| LayoutColumn { tag: name(n), value_type: ValueType::F64 }).collect();
    let layout = Arc::new(Layout::new(columns));
    let rows = (0..ROWS).map(|t| InputRow {
        stream: Arc::clone(&stream),
        seq: t as u64 + 1,
        time_us: t * S,
        append_us: t * S + 300_000,
        flags: RowFlags::default(),
        layout: Arc::clone(&layout),
        cells: (0..TAGS as i64)
            .map(|n| Cell::Good(Value::F64(((t * 37 + n * 11) % 1009) as f64 * 0.1)))
            .collect(),
    });
    let tags = (0..TAGS).map(|n| BirthTag {
        name: name(n),
        value_type: Some(ValueType::F64),
        unit: None,
        source: "bench".into(),
        reporting: Reporting::Cyclic { interval_us: S },
        hold_us: 2 * S,
        counter_modulus: None,
    });
    (Birth { tags: tags.collect(), ..Birth::default() }, rows.collect())
}

fn windows(c: &mut Criterion) {
    let (birth, rows) = rows();
    let catalog = catalog();
    let stream = Arc::clone(&rows[0].stream);
    let mut group = c.benchmark_group("windows, 1 min every 10 s: mean, std, p2p, increase");
    group.throughput(Throughput::Elements(ROWS as u64 * TAGS as u64));
    group.sample_size(10);
    let fresh = || {
        let mut driver = StreamDriver::new(Arc::clone(&catalog), 600 * S);
        driver.birth(&stream, &birth);
        driver
    };
    group.bench_function("stream driver, flushes of 5 s", |b| {
        b.iter_batched(
            fresh,
            |mut driver| {
                let mut closed = 0;
                for flush in rows.chunks(5) {
                    driver.heard(&stream, "telemetry", flush[0].append_us);
                    driver.rows(flush);
                    driver.contiguous(&stream, flush[flush.len() - 1].seq);
                    closed += driver.close().len();
                }
                assert!(closed > 350, "{closed} windows");
                black_box(closed)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("batch driver, an hour", |b| {
        b.iter(|| {
            let mut driver = BatchDriver::new(Arc::clone(&catalog.views()[0]), &stream.machine, 600 * S);
            driver.birth(&stream, &birth);
            driver.rows(&rows);
            let out = driver.run(0, ROWS * S);
            assert!(out.len() > 350);
            black_box(out.len())
        });
    });
    group.finish();
}

criterion_group!(benches, windows);
criterion_main!(benches);
