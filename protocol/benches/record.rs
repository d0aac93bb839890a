//! Encoding and decoding of records, in points per second on one core. Prints figures, never judges.
//!
//! `cargo bench -p millrace-protocol`

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_protocol::*;

/// Rows of 20 tags, as a press has them: mostly floats, some integers and states.
fn rows(count: usize) -> Vec<Row> {
    let columns = (0..20).map(|at| LayoutColumn {
        tag: format!("tag_{at}").into(),
        value_type: match at % 10 {
            0 => ValueType::I64,
            1 => ValueType::Bool,
            2..=5 => ValueType::F64,
            _ => ValueType::F32,
        },
    });
    let layout = Arc::new(Layout::new(columns.collect()));
    let cell = |row: usize, at: usize| {
        let value = (row * 31 + at * 7) % 1000;
        Cell::Good(match at % 10 {
            0 => Value::I64(value as i64),
            1 => Value::Bool(value > 500),
            2..=5 => Value::F64(value as f64 / 8.0),
            _ => Value::F32(value as f32 / 8.0),
        })
    };
    (0..count)
        .map(|row| Row {
            time_us: 1_700_000_000_000_000 + row as i64 * 100_000,
            flags: RowFlags::default(),
            layout: Arc::clone(&layout),
            cells: (0..20).map(|at| cell(row, at)).collect(),
        })
        .collect()
}

fn stream() -> StreamId {
    StreamId {
        agent: AgentId::new("gw").unwrap(),
        epoch: Epoch(1),
        machine: MachineName::new("hall3/press-03").unwrap(),
        category: Category::new("telemetry").unwrap(),
    }
}

fn record(rows: &[Row], rows_per_chunk: usize) -> Vec<u8> {
    let mut builder = RecordBuilder::new(stream(), Epoch(1));
    for (at, chunk) in rows.chunks(rows_per_chunk).enumerate() {
        let item = Chunk::pack((at * rows_per_chunk) as u64 + 1, ClockSegment::default(), chunk).unwrap();
        builder.push(&Item::Chunk(item).encode().unwrap(), Some(&rows[0].layout));
    }
    builder.finish(rows.len() as u64)
}

fn benches(criterion: &mut Criterion) {
    let rows = rows(1000);
    let points = (rows.len() * 20) as u64;
    for rows_per_chunk in [1, 10, 100] {
        let bytes = record(&rows, rows_per_chunk);
        println!(
            "rows per chunk {rows_per_chunk}: {:.2} bytes/point before compression",
            bytes.len() as f64 / points as f64
        );
        let mut group = criterion.benchmark_group(format!("chunks of {rows_per_chunk} rows of 20 points"));
        group.throughput(Throughput::Elements(points));
        group.bench_function("encode", |b| b.iter(|| black_box(record(&rows, rows_per_chunk))));
        group.bench_function("decode to rows", |b| {
            b.iter(|| {
                let record = Record::decode(&bytes).unwrap();
                let mut seen = 0;
                for item in &record.items {
                    let Item::Chunk(item) = item else { continue };
                    let chunk = Chunk::unpack(item, record.header.layout(item.layout).unwrap()).unwrap();
                    seen += chunk.rows().map(|(_, row)| black_box(row).cells.len()).sum::<usize>();
                }
                seen
            });
        });
        group.bench_function("decode to columns", |b| {
            b.iter(|| {
                let record = Record::decode(&bytes).unwrap();
                let unpack = |item: &Item| {
                    let Item::Chunk(item) = item else { return 0 };
                    black_box(Chunk::unpack(item, record.header.layout(item.layout).unwrap()).unwrap())
                        .points()
                };
                record.items.iter().map(unpack).sum::<usize>()
            });
        });
        group.finish();
    }
}

criterion_group!(record_benches, benches);
criterion_main!(record_benches);
