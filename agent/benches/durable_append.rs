//! Durable append of groups of 1,000 points: the buffer against a raw segment file with `fdatasync`, on
//! the same disk, in the same run, the same encoded chunks. Aim: at least 0.9 of the raw file's rate.
//!
//! A group is one second of ten devices with 100 tags each. `MILLRACE_BENCH_DIR` names the disk to
//! measure; without it the folder for temporary files is used.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use millrace_agent::buffer::{Flushed, Group, NewRows, OpenOptions, WallClock, open};
use millrace_agent::config::WhenFull;
use millrace_protocol::{
    AgentId, Category, Cell, Chunk, ClockSegment, Epoch, Item, Layout, LayoutColumn, MachineName, Row,
    RowFlags, Value, ValueType,
};

const DEVICES: usize = 10;
const TAGS: usize = 100;
const POINTS: u64 = (DEVICES * TAGS) as u64;

fn folder() -> tempfile::TempDir {
    let disk = std::env::var_os("MILLRACE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(disk).expect("a folder to measure in")
}

/// A row of a device: values that wander, as measured ones do.
fn row(layout: &Arc<Layout>, device: usize, cycle: u64) -> Row {
    let value = |tag: usize| 20.0 + ((cycle as f64) * 0.01 + tag as f64 + device as f64).sin() * 5.0;
    Row {
        time_us: 1_790_000_000_000_000 + cycle as i64 * 1_000_000,
        flags: RowFlags::default(),
        layout: Arc::clone(layout),
        cells: (0..TAGS).map(|tag| Cell::Good(Value::F64(value(tag)))).collect(),
    }
}

fn items(layout: &Arc<Layout>, cycle: u64) -> Vec<Vec<u8>> {
    let one = |device| {
        let chunk = Chunk::pack(cycle + 1, ClockSegment::default(), &[row(layout, device, cycle)]);
        Item::Chunk(chunk.expect("a sound row")).encode().expect("a small item")
    };
    (0..DEVICES).map(one).collect()
}

fn durable_append(c: &mut Criterion) {
    let columns =
        (0..TAGS).map(|n| LayoutColumn { tag: format!("tag_{n}").into(), value_type: ValueType::F64 });
    let layout = Arc::new(Layout::new(columns.collect()));
    let mut benches = c.benchmark_group("durable_append_1000_points");
    benches.throughput(Throughput::Elements(POINTS)).measurement_time(Duration::from_secs(10));

    let dir = folder();
    let options = OpenOptions {
        data_dir: dir.path().to_owned(),
        agent: AgentId::new("bench").expect("a name"),
        epoch: Epoch(1),
        max_bytes: 512 << 20,
        when_full: WhenFull::DropOldest,
        clock: WallClock(Arc::new(|| 0)),
    };
    let (mut buffer, reader) = open(options).expect("a buffer");
    let category = Category::new("telemetry").expect("a name");
    let machine = |n| MachineName::new(&format!("hall/m{n}")).expect("a name");
    let streams: Vec<u32> = (0..DEVICES).map(|n| buffer.stream(&machine(n), &category)).collect();
    let mut cycle = 0;
    benches.bench_function("buffer", |b| {
        b.iter_batched(
            || {
                let rows = items(&layout, cycle).into_iter().zip(&streams).map(|(item, &stream)| NewRows {
                    stream,
                    first_seq: cycle + 1,
                    rows: 1,
                    points: TAGS as u64,
                    newest_us: cycle as i64,
                    layout: Some(Arc::clone(&layout)),
                    item,
                });
                let group = Group { rows: rows.collect(), ..Group::default() };
                cycle += 1;
                // Kafka is well: what is stored is soon acknowledged, and segments are removed.
                if cycle % 64 == 0 {
                    let taken: Vec<_> = reader.take(usize::MAX).iter().map(|s| s.position).collect();
                    reader.acknowledge(&taken);
                }
                group
            },
            |group| assert_eq!(buffer.flush(&group), Flushed::Stored),
            BatchSize::PerIteration,
        );
    });

    let raw = folder();
    let mut file = File::create(raw.path().join("segment")).expect("a file");
    let mut cycle = 0;
    benches.bench_function("raw_segment_file", |b| {
        b.iter_batched(
            || {
                cycle += 1;
                items(&layout, cycle)
            },
            |items| {
                let mut group = Vec::with_capacity(16 * 1024);
                for item in items {
                    group.extend_from_slice(&(item.len() as u32).to_le_bytes());
                    group.extend_from_slice(&crc32c::crc32c(&item).to_le_bytes());
                    group.extend_from_slice(&item);
                }
                file.write_all(&group).and_then(|()| file.sync_data()).expect("a disk that takes it");
            },
            BatchSize::PerIteration,
        );
    });
    benches.finish();
}

criterion_group!(benches, durable_append);
criterion_main!(benches);
