//! A long cut: fills the buffer with a backlog, opens it again as a start does, drains it, and prints bytes on disk
//! per payload byte and the memory of the process at each step. Aims: at most 1.0 byte on disk per payload byte;
//! peak memory at most 32 MB with 1 GB of backlog.
//!
//! Payload is what would go to Kafka before its compression: the encoded chunks. `MILLRACE_BENCH_MB` is the payload
//! in MB (1000 without it), `MILLRACE_BENCH_DIR` the disk. With `MILLRACE_BENCH_FILL` it only fills the folder of that
//! name with registers, for a measurement of the agent as a whole (`hw-tests/bench/agent`); `MILLRACE_BENCH_AGENT` is whose rows they are. Two kinds of values: *registers* are readings with one
//! decimal, as scaled 16-bit registers give them; *floats* are full 32-bit floats, of which no two are alike.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use millrace_agent::buffer::{Buffer, BufferReader, Flushed, Group, NewRows, OpenOptions, WallClock, open};
use millrace_agent::config::WhenFull;
use millrace_protocol::{
    AgentId, Category, Cell, Chunk, ClockSegment, Epoch, Item, Layout, LayoutColumn, MachineName, Row,
    RowFlags, Value, ValueType,
};

const DEVICES: usize = 10;
const TAGS: usize = 100;
/// What the uplink takes at once. *Units*: bytes.
const TAKE_BYTES: usize = 1 << 20;

#[derive(Clone, Copy)]
enum Values {
    Registers,
    Floats,
}

fn value(kind: Values, device: usize, tag: usize, cycle: u64) -> f64 {
    let wave = 20.0 + ((cycle as f64) * 0.01 + tag as f64 + device as f64).sin() * 5.0;
    match kind {
        Values::Registers => (wave * 10.0).round() / 10.0,
        Values::Floats => {
            // A cheap mix, so that the lower bits are noise.
            let noise = (cycle * 31 + (tag * 7 + device) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            f64::from((wave + noise as f64 * 1e-8) as f32)
        }
    }
}

fn start(dir: &Path, epoch: u64) -> (Buffer, BufferReader) {
    let options = OpenOptions {
        data_dir: dir.to_owned(),
        agent: AgentId::new(&std::env::var("MILLRACE_BENCH_AGENT").unwrap_or_else(|_| "bench".to_owned()))
            .expect("a name"),
        epoch: Epoch(epoch),
        max_bytes: 16 << 30,
        when_full: WhenFull::DropOldest,
        clock: WallClock(Arc::new(|| 0)),
    };
    open(options).expect("a buffer")
}

/// Appends groups of 1,000 points until the payload is reached; gives points and payload bytes.
fn fill(dir: &Path, kind: Values, payload_bytes: u64) -> (u64, u64) {
    let columns =
        (0..TAGS).map(|n| LayoutColumn { tag: format!("tag_{n}").into(), value_type: ValueType::F64 });
    let layout = Arc::new(Layout::new(columns.collect()));
    let (mut buffer, _reader) = start(dir, 1);
    let category = Category::new("telemetry").expect("a name");
    let machine = |n| MachineName::new(&format!("hall/m{n}")).expect("a name");
    let streams: Vec<u32> = (0..DEVICES).map(|n| buffer.stream(&machine(n), &category)).collect();
    let (mut cycle, mut bytes) = (0, 0);
    while bytes < payload_bytes {
        let rows = streams.iter().enumerate().map(|(device, &stream)| {
            let row = Row {
                time_us: 1_790_000_000_000_000 + cycle as i64 * 1_000_000,
                flags: RowFlags::default(),
                layout: Arc::clone(&layout),
                cells: (0..TAGS).map(|tag| Cell::Good(Value::F64(value(kind, device, tag, cycle)))).collect(),
            };
            let chunk = Chunk::pack(cycle + 1, ClockSegment::default(), &[row]).expect("a sound row");
            let item = Item::Chunk(chunk).encode().expect("a small item");
            bytes += item.len() as u64;
            let (newest_us, layout) = (cycle as i64, Some(Arc::clone(&layout)));
            NewRows { stream, first_seq: cycle + 1, rows: 1, points: TAGS as u64, newest_us, layout, item }
        });
        let group = Group { rows: rows.collect(), ..Group::default() };
        assert_eq!(buffer.flush(&group), Flushed::Stored);
        cycle += 1;
    }
    (cycle * (DEVICES * TAGS) as u64, bytes)
}

/// Takes and acknowledges everything, as a Kafka that is back does; gives the items taken.
fn drain(dir: &Path) -> u64 {
    let (mut buffer, reader) = start(dir, 2);
    memory("  after opening it again");
    let mut items = 0;
    loop {
        let taken = reader.take(TAKE_BYTES);
        if taken.is_empty() {
            break;
        }
        items += taken.len() as u64;
        let positions: Vec<_> = taken.iter().map(|stored| stored.position).collect();
        reader.acknowledge(&positions);
        // The agent's writer comes by every second, and removes what is finished.
        assert_eq!(buffer.flush(&Group::default()), Flushed::Stored);
    }
    buffer.flush(&Group::default());
    items
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
        Err(_) => 0,
    };
    entries.map(of).sum()
}

fn memory(what: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    println!("{what}: resident {:.1} MiB, peak {:.1} MiB", of("VmRSS"), of("VmHWM"));
    // The next figure is a peak of its own.
    drop(std::fs::write("/proc/self/clear_refs", "5"));
}

fn main() {
    // `cargo test --benches` runs this with --test; there is nothing to check then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mega: u64 = std::env::var("MILLRACE_BENCH_MB").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000);
    if let Some(folder) = std::env::var_os("MILLRACE_BENCH_FILL") {
        let (points, payload) = fill(Path::new(&folder), Values::Registers, mega * 1_000_000);
        println!("{points} points, {payload} bytes of payload");
        return;
    }
    let disk = std::env::var_os("MILLRACE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    for (name, kind) in [("registers", Values::Registers), ("floats", Values::Floats)] {
        let dir = tempfile::tempdir_in(&disk).expect("a folder to measure in");
        let begin = Instant::now();
        let (points, payload) = fill(dir.path(), kind, mega * 1_000_000);
        let full = disk_bytes(dir.path());
        println!(
            "{name}: {points} points, {:.1} payload bytes per point, {:.2} bytes on disk per payload byte, {:.0} s",
            payload as f64 / points as f64,
            full as f64 / payload as f64,
            begin.elapsed().as_secs_f64()
        );
        memory("  after filling");
        let begin = Instant::now();
        let items = drain(dir.path());
        let left = disk_bytes(dir.path());
        let seconds = begin.elapsed().as_secs_f64();
        memory("  after draining");
        println!("  {items} items drained in {seconds:.0} s; {left} bytes stay on disk");
    }
}
