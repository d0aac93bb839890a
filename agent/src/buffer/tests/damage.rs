//! Damaged segments, a damaged manifest, a full buffer, a dead disk.

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::delivery::Confirmed;

fn fill(buffer: &mut Buffer, segments: u64) {
    for n in 0..segments {
        if n > 0 {
            buffer.begin_segment().unwrap();
        }
        let rows = vec![new_rows(buffer, 0, 1 + 10 * n, 10, 1000)];
        assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
    }
}

/// Gives the folders of the segments, oldest first.
pub(super) fn segments(rig: &Rig) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(rig.folder())
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir() && !p.file_name().unwrap().to_str().unwrap().starts_with("bad"))
        .collect();
    found.sort();
    found
}

fn ranges_of(taken: &[Stored], n: usize) -> Vec<(u64, Option<u64>)> {
    let losses = losses(taken).remove(&stream_id(1, n)).unwrap_or_default();
    losses.iter().flat_map(|l| l.ranges.iter().map(|r| (r.from, r.to))).collect()
}

#[test]
fn a_damaged_closed_segment_is_set_aside_and_declared() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("overwritten", |p| std::fs::write(p.join("db"), vec![0x5a; 600_000]).unwrap()),
        ("emptied", |p| std::fs::write(p.join("db"), b"").unwrap()),
        ("removed", |p| std::fs::remove_dir_all(p).unwrap()),
        ("no folder", |p| {
            std::fs::remove_dir_all(p).unwrap();
            std::fs::write(p, b"").unwrap();
        }),
    ];
    for (what, damage) in damages {
        let mut rig = Rig::new();
        let (mut buffer, reader) = rig.start();
        fill(&mut buffer, 3);
        drop(reader);
        buffer.close();
        damage(&segments(&rig)[1]);
        let (mut buffer, reader) = rig.start();
        let mut taken = reader.take(usize::MAX);
        // The writer sets aside what the reader found to be damaged.
        buffer.tidy().unwrap();
        taken.extend(reader.take(usize::MAX));
        let rows: Vec<_> = taken.iter().filter_map(|s| s.seq).collect();
        assert_eq!(rows, [(1, 10), (21, 30)], "{what}");
        assert_eq!(ranges_of(&taken, 0), [(11, Some(20))], "{what}");
        let books = reader.books();
        assert!(books.balanced, "{what}: {books:?}");
        assert_eq!(books.transport[0].rows.set_aside, 10, "{what}");
        assert_eq!(reader.health().set_aside_segments, 1, "{what}");
    }
}

#[test]
fn a_damaged_active_segment_has_a_loss_with_an_open_end() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    fill(&mut buffer, 2);
    rig.kill(buffer, reader);
    std::fs::write(segments(&rig)[1].join("db"), vec![0x5a; 600_000]).unwrap();
    let (_buffer, reader) = rig.start();
    let taken = reader.take(usize::MAX);
    assert_eq!(ranges_of(&taken, 0), [(11, None)]);
    assert_eq!(taken.iter().filter_map(|s| s.seq).collect::<Vec<_>>(), [(1, 10)]);
    assert!(walk(&rig.folder()).iter().any(|p| p.to_str().unwrap().contains("/bad-")));
}

#[test]
fn a_cut_snapshot_does_not_cost_the_segment() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    fill(&mut buffer, 1);
    drop(reader);
    buffer.close();
    // sled writes its snapshot when it opens a log that has grown.
    let (buffer, reader) = rig.start();
    drop(reader);
    buffer.close();
    let snapshots: Vec<_> = walk(&rig.folder())
        .into_iter()
        .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("snap."))
        .collect();
    assert!(!snapshots.is_empty(), "sled writes none any more: this test tests nothing");
    for path in snapshots {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let (_buffer, reader) = rig.start();
    assert_eq!(reader.take(usize::MAX).iter().filter_map(|s| s.seq).collect::<Vec<_>>(), [(1, 10)]);
}

#[test]
fn a_manifest_that_is_damaged_or_missing_is_no_sound_buffer() {
    for damage in [Some(&b"junk"[..]), None] {
        let mut rig = Rig::new();
        let (mut buffer, reader) = rig.start();
        fill(&mut buffer, 2);
        drop(reader);
        buffer.close();
        assert_eq!(inspect(rig.dir.path()).unwrap().manifest_damage, None);
        let manifest = rig.folder().join("manifest.json.zst");
        match damage {
            Some(bytes) => std::fs::write(&manifest, bytes).unwrap(),
            None => std::fs::remove_file(&manifest).unwrap(),
        }
        let report = inspect(rig.dir.path()).unwrap();
        assert!(report.is_damaged() && report.segments.iter().all(|s| s.damage.is_none()), "{report:?}");
    }
}

#[test]
fn without_its_manifest_the_buffer_is_found_again_from_the_segments() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    fill(&mut buffer, 2);
    drop(reader);
    buffer.close();
    std::fs::write(rig.folder().join("manifest.json.zst"), b"{").unwrap();
    let (buffer, reader) = rig.start();
    assert_eq!(reader.take(usize::MAX).iter().filter_map(|s| s.seq).collect::<Vec<_>>(), [(1, 10), (11, 20)]);
    assert_eq!(buffer.previous(&machine(0), &category()).unwrap().last_seq, 20);
    assert!(reader.books().sums_hold());
}

#[test]
fn at_the_cap_the_oldest_or_the_newest_rows_give_way_and_are_declared() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        let mut rig = Rig::new();
        (rig.max_bytes, rig.when_full) = (12 * 1024 * 1024, when_full);
        let (mut buffer, reader) = rig.start();
        let mut next = 1;
        let mut refused = 0;
        for _ in 0..60 {
            let rows = (0..4).map(|i| new_rows(&mut buffer, 0, next + 10 * i, 10, 100_000)).collect();
            match buffer.flush(&group(rows)) {
                Flushed::Stored => {}
                Flushed::Refused => refused += 40,
                Flushed::DiskDead => panic!("the disk is well"),
            }
            next += 40;
            let on_disk = super::super::disk::folder_bytes(&rig.folder());
            assert!(on_disk <= rig.max_bytes, "{when_full:?}: {on_disk}");
        }
        let books = reader.books();
        let rows = books.transport[0].rows;
        assert!(books.balanced, "{books:?}");
        assert_eq!((rows.numbered, rows.waiting + rows.dropped), (2400, 2400));
        assert!(reader.health().gave_way_us.is_some(), "{when_full:?}");
        assert!(rows.dropped > 500 && rows.waiting > 100, "{when_full:?}: {rows:?}");
        let taken = reader.take(usize::MAX);
        let (_, to) = ranges_of(&taken, 0)[0];
        let mut seen: Vec<u64> = taken.iter().filter_map(|s| s.seq).flat_map(|(a, b)| a..=b).collect();
        let lost = losses(&taken).remove(&stream_id(1, 0)).unwrap();
        seen.extend(lost.iter().flat_map(|l| l.closed_ranges().ranges().flatten().collect::<Vec<_>>()));
        seen.sort_unstable();
        assert_eq!(seen, (1..=2400).collect::<Vec<_>>(), "{when_full:?}: every row is there or declared");
        match when_full {
            WhenFull::DropOldest => assert_eq!((refused, to), (0, Some(rows.dropped))),
            WhenFull::DropNewest => assert_eq!((refused, to), (rows.dropped, Some(2400))),
        }
    }
}

#[test]
fn a_full_disk_turns_into_pass_through_and_back() {
    full_disk(|disk, is_full| disk.is_full.store(is_full, Ordering::SeqCst));
}

#[test]
fn sled_is_kept_away_from_a_file_system_that_is_nearly_full() {
    full_disk(|disk, is_full| disk.capacity.store(u64::from(is_full) << 20, Ordering::SeqCst));
}

fn full_disk(fill_disk: fn(&TestDisk, bool)) {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    fill(&mut buffer, 1);
    fill_disk(&rig.disk, true);
    let rows = vec![new_rows(&mut buffer, 0, 11, 5, 100)];
    let passing = group(rows);
    assert_eq!(buffer.flush(&passing), Flushed::DiskDead);
    assert!(reader.health().pass_through.unwrap().contains("space"), "the reason is named");
    let (confirm, mut told) = confirm(1, Confirmed::Stored);
    assert_eq!(buffer.pass(&passing, vec![confirm]), []);
    let taken = reader.take(usize::MAX);
    assert_eq!(
        taken.iter().filter_map(|s| s.seq).collect::<Vec<_>>(),
        [(11, 15), (1, 10)],
        "both can be read"
    );
    assert_eq!(told.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(buffer.hashes(), [], "a kill forgets the rows, and so it must the publish");
    reader.acknowledge(&positions(&taken));
    assert_eq!(told.try_recv(), Ok(Confirmed::Stored), "the source is told when Kafka has it");
    assert_eq!(buffer.hashes(), [(7, vec![1])]);
    fill_disk(&rig.disk, false);
    buffer.revive();
    assert_eq!(reader.health().pass_through, None);
    let rows = vec![new_rows(&mut buffer, 0, 16, 1, 100)];
    assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
    let books = reader.books();
    assert!(books.balanced);
    assert_eq!((books.transport[0].rows.numbered, books.transport[0].rows.waiting), (16, 1));
}

#[test]
fn a_cap_larger_than_the_file_system_drops_by_policy_before_the_disk_is_full() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        let mut rig = Rig::new();
        (rig.max_bytes, rig.when_full) = (48 << 20, when_full);
        // 18 MiB beside the 64 that stay free.
        rig.disk.capacity.store(82 << 20, Ordering::SeqCst);
        let (mut buffer, reader) = rig.start();
        for n in 0..40 {
            let rows = (0..4).map(|i| new_rows(&mut buffer, 0, 1 + 40 * n + 10 * i, 10, 100_000)).collect();
            let flushed = buffer.flush(&group(rows));
            assert_ne!(flushed, Flushed::DiskDead, "{when_full:?}");
            let on_disk = super::super::disk::folder_bytes(&rig.folder());
            // One more for what sled writes beside its log.
            assert!(on_disk <= 19 << 20, "{when_full:?}: {on_disk}");
        }
        let books = reader.books();
        assert!(books.balanced, "{books:?}");
        let rows = books.transport[0].rows;
        assert!(rows.dropped > 300 && rows.waiting > 100, "{when_full:?}: {rows:?}");
        assert_eq!((rows.numbered, rows.waiting + rows.dropped), (1600, 1600));
    }
}

#[test]
fn pass_through_ends_when_the_backlog_that_filled_the_file_system_is_sent() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    fill(&mut buffer, 4);
    // With the segments there half of what they take is missing to the 32 MiB that must be free.
    let used = super::super::disk::folder_bytes(&rig.folder());
    rig.disk.capacity.store((32 << 20) + used / 2, Ordering::SeqCst);
    let rows = vec![new_rows(&mut buffer, 0, 41, 1, 10)];
    assert_eq!(buffer.flush(&group(rows)), Flushed::DiskDead);
    buffer.revive();
    assert!(reader.health().pass_through.is_some(), "nothing was sent yet");
    reader.acknowledge(&positions(&reader.take(usize::MAX)));
    buffer.revive();
    assert_eq!(reader.health().pass_through, None);
    let rows = vec![new_rows(&mut buffer, 0, 41, 1, 10)];
    assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
    rig.kill(buffer, reader);
    let (_buffer, reader) = rig.start();
    let taken = reader.take(usize::MAX);
    assert_eq!(taken.iter().filter_map(|s| s.seq).collect::<Vec<_>>(), [(41, 41)]);
    assert!(losses(&taken).is_empty(), "what was removed was acknowledged");
}

/// A publish that wants to be confirmed, and where it hears of it.
fn confirm(hash: u64, how: Confirmed) -> (Confirm, oneshot::Receiver<Confirmed>) {
    let (tell, told) = oneshot::channel();
    (Confirm { publish: (7, hash), how, tell }, told)
}

/// Passes one item for each size given, all of one group.
fn pass(buffer: &mut Buffer, first: u64, sizes: &[usize], confirms: Vec<Confirm>) -> Vec<PublishId> {
    let rows = sizes.iter().zip(first..).map(|(&size, seq)| new_rows(buffer, 0, seq, 1, size)).collect();
    let group = group(rows);
    assert_eq!(buffer.flush(&group), Flushed::DiskDead);
    buffer.pass(&group, confirms)
}

#[test]
fn a_publish_that_comes_again_while_its_rows_pass_waits_for_kafka_as_they_do() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    rig.fill_disk(true);
    let (first, mut told) = confirm(1, Confirmed::Stored);
    pass(&mut buffer, 1, &[10, 10], vec![first]);
    let (other, mut other_told) = confirm(2, Confirmed::Stored);
    let (gone, gone_told) = confirm(1, Confirmed::Redelivered);
    pass(&mut buffer, 3, &[10], vec![gone, other]);
    drop(gone_told);
    let (again, mut again_told) = confirm(1, Confirmed::Redelivered);
    let (known, mut known_told) = confirm(3, Confirmed::Redelivered);
    buffer.confirm(vec![again, known]);
    assert_eq!(known_told.try_recv(), Ok(Confirmed::Redelivered), "its rows are on disk");
    let taken: Vec<Stored> = reader.take(usize::MAX).into_iter().filter(|s| s.seq.is_some()).collect();
    reader.acknowledge(&positions(&taken[..1]));
    reader.acknowledge(&positions(&taken[2..]));
    assert_eq!(other_told.try_recv(), Ok(Confirmed::Stored));
    assert_eq!(
        (told.try_recv(), again_told.try_recv()),
        (Err(TryRecvError::Empty), Err(TryRecvError::Empty))
    );
    reader.acknowledge(&positions(&taken[1..2]));
    assert_eq!((told.try_recv(), again_told.try_recv()), (Ok(Confirmed::Stored), Ok(Confirmed::Redelivered)));
}

#[test]
fn a_publish_that_gave_way_even_in_part_is_never_confirmed() {
    const LARGE: usize = 3 * 1024 * 1024;
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    rig.fill_disk(true);
    let (first, mut told) = confirm(1, Confirmed::Stored);
    let (again, mut again_told) = confirm(1, Confirmed::Redelivered);
    assert_eq!(pass(&mut buffer, 1, &[LARGE, 10], vec![first, again]), []);
    let (second, mut second_told) = confirm(2, Confirmed::Stored);
    assert_eq!(pass(&mut buffer, 3, &[LARGE, LARGE], vec![second]), [(7, 1)]);
    let closed = || Err(TryRecvError::Closed);
    assert_eq!((told.try_recv(), again_told.try_recv()), (closed(), closed()), "the broker sends it again");
    let taken = reader.take(usize::MAX);
    assert_eq!(taken.iter().filter_map(|s| s.seq).collect::<Vec<_>>(), [(2, 2), (3, 3), (4, 4)]);
    assert_eq!(ranges_of(&taken, 0), [(1, Some(1))]);
    reader.acknowledge(&positions(&taken));
    assert_eq!(second_told.try_recv(), Ok(Confirmed::Stored));
    let books = reader.books();
    assert!(books.balanced, "{books:?}");
    assert_eq!((books.transport[0].rows.dropped, buffer.hashes()), (1, vec![(7, vec![2])]));
}

#[test]
fn verify_names_every_damaged_entry_and_changes_nothing() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    let stream = buffer.stream(&machine(0), &category());
    for first_seq in [1, 2] {
        let raw = millrace_protocol::RawRow {
            time_us: 1,
            topic: "t".into(),
            payload: vec![first_seq as u8; 10].into(),
            reason: "r".into(),
        };
        let mut raw = millrace_protocol::RawRows::new(first_seq, vec![raw]);
        // The second one's checksum is wrong, as after a bit that flipped in memory.
        raw.crc ^= u32::from(first_seq == 2);
        let item = Item::Raw(raw).encode().unwrap();
        let rows = NewRows { stream, first_seq, rows: 1, points: 0, newest_us: 1, layout: None, item };
        buffer.flush(&Group { rows: vec![rows], ..Group::default() });
        buffer.begin_segment().unwrap();
    }
    let running = inspect(rig.dir.path());
    assert!(matches!(running, Err(BufferError::InUse { .. })), "{running:?}");
    drop(reader);
    buffer.close();
    let shown = inspect(rig.dir.path()).unwrap();
    assert!(!shown.is_damaged() && shown.books.balanced, "{shown:?}");
    assert_eq!(shown.streams.iter().map(|s| (s.numbered, s.waiting_rows)).collect::<Vec<_>>(), [(2, 2)]);
    let before = segments(&rig);
    std::fs::write(before[2].join("db"), b"").unwrap();
    let mut steps = Vec::new();
    let verified = verify(rig.dir.path(), |done, of| steps.push((done, of))).unwrap();
    let damage: Vec<_> = verified.segments.iter().map(|s| s.damage.as_deref()).collect();
    assert_eq!(damage, [None, Some("entry 5: its checksum does not fit"), Some("it is empty")]);
    assert_eq!(steps.last(), Some(&(2, 2)));
    assert_eq!(segments(&rig), before);
}
