//! Tests of the buffer on real files: what it keeps, what it gives, what it does when the disk fails.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use millrace_protocol::{
    AgentId, Birth, Category, Epoch, Item, Layout, LayoutColumn, LossReason, MachineName, StreamId, ValueType,
};
use tempfile::TempDir;

use super::disk::{Faults, Step};
use super::*;
use crate::delivery::SourceCounts;

mod books;
mod crash;
mod damage;
mod lanes;
mod model;

/// A disk that breaks off at a step, as the end of the process or of the power would.
#[derive(Debug, Default)]
struct TestDisk {
    inner: Mutex<Breaking>,
    is_full: AtomicBool,
    /// What the file system holds, if it has a bound. *Units*: bytes.
    capacity: AtomicU64,
}

#[derive(Debug, Default)]
struct Breaking {
    /// Steps left until the world ends.
    countdown: Option<usize>,
    /// The folder as it was then, or as it was when it was last synchronised.
    image: Option<PathBuf>,
    power: Option<PathBuf>,
    /// The step before which the world ended.
    last: Option<Step>,
    steps: usize,
}

impl Breaking {
    /// Keeps what a power cut would leave from now on: nothing of what sled puts beside its log, which nobody
    /// synchronises.
    fn keep(&self, folder: &Path) {
        let Some(power) = &self.power else { return };
        copy_folder(folder, power);
        for segment in std::fs::read_dir(power).unwrap().flatten() {
            for blob in std::fs::read_dir(segment.path().join("blobs")).into_iter().flatten().flatten() {
                std::fs::remove_file(blob.path()).unwrap();
            }
        }
    }
}

fn buffer_of(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.ends_with("buffer")).unwrap_or(path).to_owned()
}

impl Faults for TestDisk {
    fn synchronised(&self, segment: &Path) -> io::Result<()> {
        let inner = self.inner.lock().unwrap();
        if inner.image.is_none() {
            inner.keep(&buffer_of(segment));
        }
        Ok(())
    }

    fn available_bytes(&self, folder: &Path) -> Option<u64> {
        let capacity = self.capacity.load(Ordering::SeqCst);
        (capacity > 0).then(|| capacity.saturating_sub(super::disk::folder_bytes(folder)))
    }

    fn at(&self, step: Step, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap();
        if inner.image.is_some() {
            return Err(io::Error::other("the world has ended"));
        }
        inner.steps += 1;
        let folder = buffer_of(path);
        if step == Step::ManifestReplaced {
            inner.keep(&folder);
        }
        if inner.countdown == Some(0) {
            let image = match inner.power.clone() {
                Some(power) => power,
                None => {
                    let image = folder.with_file_name("image");
                    copy_folder(&folder, &image);
                    image
                }
            };
            inner.image = Some(image);
            inner.last = Some(step);
            return Err(io::Error::other("the world ends"));
        }
        inner.countdown = inner.countdown.map(|n| n - 1);
        let needs_space = matches!(step, Step::Append | Step::WriteManifest | Step::MakeSegment);
        if self.is_full.load(Ordering::SeqCst) && needs_space {
            return Err(io::Error::from_raw_os_error(28));
        }
        Ok(())
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A buffer in a temporary folder, started as often as a test likes.
pub(crate) struct Rig {
    dir: TempDir,
    disk: Arc<TestDisk>,
    clock: Arc<AtomicI64>,
    starts: u64,
    max_bytes: u64,
    when_full: WhenFull,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            disk: Arc::default(),
            clock: Arc::new(AtomicI64::new(1_000_000)),
            starts: 0,
            max_bytes: 1 << 30,
            when_full: WhenFull::DropOldest,
        }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("buffer")
    }

    fn options(&self) -> OpenOptions {
        let clock = Arc::clone(&self.clock);
        OpenOptions {
            data_dir: self.dir.path().to_owned(),
            agent: AgentId::new("gw").unwrap(),
            epoch: Epoch(self.starts),
            max_bytes: self.max_bytes,
            when_full: self.when_full,
            clock: WallClock(Arc::new(move || clock.fetch_add(1, Ordering::SeqCst))),
        }
    }

    /// Starts as a new process would, in a new epoch.
    pub(crate) fn start(&mut self) -> (Buffer, BufferReader) {
        self.starts += 1;
        let disk = Disk::with_faults(Arc::clone(&self.disk) as Arc<dyn Faults>);
        open_on(disk, self.options()).unwrap()
    }

    /// Ends the world now; every later step fails.
    pub(crate) fn end(&self) {
        self.disk.inner.lock().unwrap().countdown = Some(0);
        let _ = Faults::at(&*self.disk, Step::Append, &self.folder());
    }

    /// Puts what a kill or a power cut left in the place of the folder.
    pub(crate) fn restore_image(&mut self) {
        let image = self.disk.inner.lock().unwrap().image.take();
        self.disk = Arc::default();
        let image = image.expect("the world has not ended");
        let moved = self.dir.path().join("restored");
        let _ = std::fs::remove_dir_all(&moved);
        std::fs::rename(&image, &moved).unwrap();
        std::fs::remove_dir_all(self.folder()).unwrap();
        std::fs::rename(&moved, self.folder()).unwrap();
    }

    /// Lets the disk run full, or gives it space again.
    pub(crate) fn fill_disk(&self, is_full: bool) {
        self.disk.is_full.store(is_full, Ordering::SeqCst);
    }

    /// Breaks off now, as kill -9 does: what sled holds in memory is gone.
    fn kill(&mut self, buffer: Buffer, reader: BufferReader) {
        self.end();
        drop((buffer, reader));
        self.restore_image();
    }
}

fn machine(n: usize) -> MachineName {
    MachineName::new(&format!("hall/m{n}")).unwrap()
}

fn category() -> Category {
    Category::new("telemetry").unwrap()
}

fn stream_id(epoch: u64, n: usize) -> StreamId {
    let agent = AgentId::new("gw").unwrap();
    StreamId { agent, epoch: Epoch(epoch), machine: machine(n), category: category() }
}

/// What a test writes for rows: bytes that say which rows they are.
fn item(n: usize, first: u64, last: u64, size: usize) -> Vec<u8> {
    let mut item = format!("m{n}:{first}-{last}:").into_bytes();
    let start = item.len();
    // Bytes that no compressor makes smaller.
    let mut x = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    item.extend((start..size.max(start)).map(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    }));
    item
}

fn new_rows(buffer: &mut Buffer, n: usize, first_seq: u64, rows: u64, size: usize) -> NewRows {
    NewRows {
        stream: buffer.stream(&machine(n), &category()),
        first_seq,
        rows,
        points: rows * 2,
        newest_us: first_seq as i64,
        layout: None,
        item: item(n, first_seq, first_seq + rows - 1, size),
    }
}

/// A group whose sources counted what its rows hold.
fn group(rows: Vec<NewRows>) -> Group {
    let mut sources: BTreeMap<MachineName, SourceCounts> = BTreeMap::new();
    for row in &rows {
        let name = row.item.split(|b| *b == b':').next().and_then(|m| std::str::from_utf8(m).ok());
        let name = MachineName::new(&format!("hall/{}", name.unwrap())).unwrap();
        let counts = sources.entry(name).or_default();
        counts.due += row.points;
        counts.good += row.points;
    }
    Group { rows, sources: sources.into_iter().collect(), ..Group::default() }
}

fn losses(taken: &[Stored]) -> BTreeMap<StreamId, Vec<millrace_protocol::Loss>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for stored in taken {
        if let (None, Ok(Item::Loss(loss))) = (stored.seq, Item::decode(&stored.item)) {
            found.entry(stored.stream.clone()).or_default().push(loss);
        }
    }
    found
}

fn positions(taken: &[Stored]) -> Vec<Position> {
    taken.iter().map(|s| s.position).collect()
}

#[test]
fn rows_come_out_in_order_as_they_went_in() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    let mut first = [1, 1, 1];
    for round in 0..20 {
        // One of them is far above the 8 KB that a value may have, one is a record of its own.
        let sizes = [100, 5_000 * round, if round == 7 { 900_000 } else { 50 }];
        let mut rows = Vec::new();
        for n in 0..3 {
            rows.push(new_rows(&mut buffer, n, first[n], 3, sizes[n]));
            first[n] += 3;
        }
        assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
    }
    let mut seen: BTreeMap<StreamId, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    loop {
        let taken = reader.take(64 * 1024);
        if taken.is_empty() {
            break;
        }
        for stored in &taken {
            let (from, _) = stored.seq.unwrap();
            seen.entry(stored.stream.clone()).or_default().push((from, stored.item.clone()));
        }
        reader.acknowledge(&positions(&taken));
    }
    for n in 0..3 {
        let items = &seen[&stream_id(1, n)];
        let froms: Vec<u64> = items.iter().map(|(from, _)| *from).collect();
        assert_eq!(froms, (0..20).map(|i| 1 + 3 * i).collect::<Vec<_>>());
        for (from, bytes) in items {
            assert!(*bytes == item(n, *from, from + 2, bytes.len()), "{n} {from}");
        }
    }
    assert!(reader.streams().iter().all(|s| s.waiting_rows == 0 && s.numbered == 60 && s.is_current));
    let blobs = walk(&rig.folder()).into_iter().filter(|p| p.parent().is_some_and(|p| p.ends_with("blobs")));
    assert_eq!(blobs.count(), 0, "sled never synchronises its blobs");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn layouts_stand_in_each_segment_that_needs_them() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    let columns = (0..2_000)
        .map(|n| LayoutColumn { tag: format!("tag_{n}").into(), value_type: ValueType::F64 })
        .collect();
    let layout = Arc::new(Layout::new(columns));
    for first in [1, 2] {
        let rows = NewRows { layout: Some(Arc::clone(&layout)), ..new_rows(&mut buffer, 0, first, 1, 10) };
        buffer.flush(&group(vec![rows]));
        buffer.begin_segment().unwrap();
    }
    drop((buffer, reader));
    std::fs::remove_dir_all(rig.folder().join(format!("{:020}", 1))).unwrap();
    let (_buffer, reader) = rig.start();
    let taken = reader.take(usize::MAX);
    let rows: Vec<_> = taken.iter().filter(|s| s.seq.is_some()).collect();
    assert_eq!(rows.len(), 1, "the other one's segment was removed");
    assert_eq!(rows[0].layout.as_deref(), Some(&*layout));
}

#[test]
fn what_is_given_back_comes_again_and_what_is_refused_becomes_a_loss() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    for first in [1, 2, 3] {
        let rows = vec![new_rows(&mut buffer, 0, first, 1, 10)];
        buffer.flush(&group(rows));
    }
    let taken = reader.take(usize::MAX);
    assert_eq!(taken.len(), 3);
    assert!(reader.take(usize::MAX).is_empty(), "nothing is handed out twice");
    reader.give_back(&[taken[1].position]);
    let again = reader.take(usize::MAX);
    assert_eq!(again.iter().map(|s| s.seq).collect::<Vec<_>>(), [Some((2, 2))]);
    reader.acknowledge(&[taken[0].position, again[0].position]);
    reader.refuse(taken[2].position, LossReason::Refused);
    buffer.flush(&Group::default());
    let taken = reader.take(usize::MAX);
    let losses = losses(&taken);
    let loss = &losses[&stream_id(1, 0)][0];
    assert_eq!((loss.reason, loss.after, loss.points), (LossReason::Refused, 2, Some(2)));
    assert_eq!(loss.closed_ranges().ranges().collect::<Vec<_>>(), [3..=3]);
    let books = reader.books();
    let rows = books.transport[0].rows;
    assert!(books.balanced);
    assert_eq!((rows.numbered, rows.acknowledged, rows.dropped, rows.waiting), (3, 2, 1, 0));
}

#[test]
fn a_loss_that_is_refused_stays_until_it_is_taken() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    let rows = vec![new_rows(&mut buffer, 0, 1, 1, 10)];
    buffer.flush(&group(rows));
    reader.refuse(reader.take(usize::MAX)[0].position, LossReason::Refused);
    buffer.flush(&Group::default());
    let is_there = |taken: &[Stored]| {
        let found = losses(taken).remove(&stream_id(1, 0)).unwrap_or_default();
        found.iter().map(|loss| loss.closed_ranges().ranges().collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let taken = reader.take(usize::MAX);
    assert_eq!(is_there(&taken), [[1..=1]]);
    reader.refuse(taken[0].position, LossReason::Refused);
    assert_eq!(reader.streams()[0].waiting_notices, 1, "a stream with a loss to declare is not complete");
    drop(reader);
    buffer.close();
    let (mut buffer, reader) = rig.start();
    let taken = reader.take(usize::MAX);
    assert_eq!(is_there(&taken), [[1..=1]], "also after a restart");
    reader.acknowledge(&positions(&taken));
    buffer.tidy().unwrap();
    assert!(reader.take(usize::MAX).is_empty());
}

#[test]
fn books_are_exact_after_a_kill() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    for first in 1..=10 {
        let rows = vec![new_rows(&mut buffer, 0, first, 1, 10)];
        buffer.flush(&group(rows));
    }
    let taken = reader.take(usize::MAX);
    reader.acknowledge(&positions(&taken[..4]));
    buffer.flush(&Group { redelivered: 3, ..Group::default() });
    // These are acknowledged and no flush has seen it: they are sent again.
    reader.acknowledge(&positions(&taken[4..6]));
    let before = reader.books();
    assert_eq!(before.transport[0].rows.acknowledged, 4);
    rig.kill(buffer, reader);
    let (_buffer, reader) = rig.start();
    let after = reader.books();
    assert_eq!((after.source.clone(), after.transport.clone()), (before.source, before.transport));
    assert_eq!((after.redelivered, after.balanced), (3, true));
    let taken = reader.take(usize::MAX);
    assert_eq!(
        taken.iter().filter_map(|s| s.seq).collect::<Vec<_>>(),
        (5..=10).map(|n| (n, n)).collect::<Vec<_>>()
    );
    assert!(taken.iter().all(|s| s.stream.epoch == Epoch(1)), "older rows keep their epoch");
}

#[test]
fn finished_segments_are_removed_and_a_second_process_is_refused() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    for first in 1..=4 {
        let rows = vec![new_rows(&mut buffer, 0, first, 1, 10)];
        buffer.flush(&group(rows));
        buffer.begin_segment().unwrap();
    }
    let taken = reader.take(usize::MAX);
    assert_eq!((taken.len(), reader.health().segments), (4, 5));
    reader.acknowledge(&positions(&taken[1..]));
    buffer.tidy().unwrap();
    assert_eq!(reader.health().segments, 2, "one is in flight, one is written to");
    reader.acknowledge(&positions(&taken[..1]));
    buffer.tidy().unwrap();
    assert_eq!(reader.health().segments, 1);
    let again = super::open(rig.options());
    assert!(matches!(again, Err(BufferError::InUse { .. })), "{again:?}");
}

#[test]
fn segments_are_closed_although_nobody_reads() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    for first in 1..=6 {
        let rows = vec![new_rows(&mut buffer, 0, first, 1, 10)];
        buffer.flush(&group(rows));
        buffer.begin_segment().unwrap();
    }
    let open = || reader.shared.lock().segments.values().filter(|s| s.open.is_some()).count();
    assert_eq!(open(), 2, "the one that is read next and the one that is written to");
    assert_eq!(reader.take(usize::MAX).len(), 6);
    assert_eq!(open(), 1);
}

#[test]
fn births_and_their_chain_survive_kills_and_drops() {
    let mut rig = Rig::new();
    let birth = |after| Item::Birth(Birth { after, started_us: 5, ..Birth::default() }).encode().unwrap();
    let (mut buffer, reader) = rig.start();
    let stream = buffer.stream(&machine(0), &category());
    buffer.begin(vec![(stream, birth(0))]);
    let rows = new_rows(&mut buffer, 0, 1, 5, 10);
    let mut first = group(vec![rows]);
    first.births.push((stream, birth(5)));
    buffer.flush(&first);
    assert!(buffer.drop_oldest());
    rig.kill(buffer, reader);
    let (buffer, reader) = rig.start();
    let previous = buffer.previous(&machine(0), &category()).unwrap();
    assert_eq!((previous.epoch, previous.last_seq), (Epoch(1), 5));
    assert_eq!(buffer.births().len(), 1);
    assert_eq!(buffer.births()[0].2.after, 5);
    let taken = reader.take(usize::MAX);
    let places: Vec<u64> = taken
        .iter()
        .filter_map(|s| match Item::decode(&s.item) {
            Ok(Item::Birth(birth)) => Some(birth.after),
            _ => None,
        })
        .collect();
    assert_eq!(places, [0, 5]);
    let losses = losses(&taken);
    assert_eq!(losses[&stream_id(1, 0)][0].closed_ranges().ranges().collect::<Vec<_>>(), [1..=5]);
    assert_eq!(losses[&stream_id(1, 0)][0].reason, LossReason::DroppedOldest);
}

#[test]
fn hashes_are_carried_into_new_segments_and_over_kills() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    buffer.keep_hashes(3);
    buffer.flush(&Group { hashes: vec![(9, vec![1, 2])], ..Group::default() });
    buffer.begin_segment().unwrap();
    buffer.flush(&Group { hashes: vec![(9, vec![3, 4]), (8, vec![5])], ..Group::default() });
    rig.kill(buffer, reader);
    let (mut buffer, _reader) = rig.start();
    buffer.keep_hashes(3);
    assert_eq!(buffer.hashes(), [(8, vec![5]), (9, vec![2, 3, 4])]);
}
