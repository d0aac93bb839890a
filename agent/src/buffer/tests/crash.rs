//! A kill and a power cut at every step of everything the buffer does.

use std::collections::BTreeSet;

use super::damage::segments;
use super::*;

/// A life with every kind of event; stops where the world ends. Gives the rows that were stored, and
/// the rows that Kafka had acknowledged.
fn live(buffer: &mut Buffer, reader: &BufferReader) -> (u64, BTreeSet<(MachineName, u64)>) {
    let (mut stored, mut sent) = (0, BTreeSet::new());
    for round in 0..6u64 {
        let size = if round == 2 { 20_000 } else { 200 };
        let rows = vec![new_rows(buffer, 0, stored + 1, 2, size), new_rows(buffer, 1, stored + 1, 2, 10)];
        if buffer.flush(&group(rows)) != Flushed::Stored {
            return (stored, sent);
        }
        stored += 2;
        if round == 1 || round == 3 {
            let _ = buffer.begin_segment();
        }
        let taken = reader.take(1);
        reader.acknowledge(&positions(&taken));
        for taken in &taken {
            let (from, to) = taken.seq.unwrap();
            sent.extend((from..=to).map(|seq| (taken.stream.machine.clone(), seq)));
        }
        let _ = buffer.tidy();
    }
    if buffer.drop_oldest() {
        let _ = buffer.tidy();
    }
    (stored, sent)
}

/// Everything that one start finds, and what it declares lost, for machine n: what gave way, and nothing else.
fn found(taken: &[Stored], n: usize) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let of = |s: &&Stored| s.stream.machine == machine(n) && s.stream.epoch == Epoch(1);
    let rows = taken.iter().filter(of).filter_map(|s| s.seq).flat_map(|(from, to)| from..=to).collect();
    let losses = losses(taken).remove(&stream_id(1, n)).unwrap_or_default();
    assert!(losses.iter().all(|l| l.reason == LossReason::DroppedOldest), "{losses:?}");
    assert!(losses.iter().all(|l| l.ranges.iter().all(|r| r.to.is_some())), "{losses:?}");
    (rows, losses.iter().flat_map(|l| l.closed_ranges().ranges().flatten().collect::<Vec<_>>()).collect())
}

fn every_step(is_power_cut: bool) {
    let mut ended = 0;
    for step in 0.. {
        let mut rig = Rig::new();
        if is_power_cut {
            rig.disk.inner.lock().unwrap().power = Some(rig.dir.path().join("power"));
        }
        let (mut buffer, reader) = rig.start();
        rig.disk.inner.lock().unwrap().countdown = Some(step);
        let (stored, sent) = live(&mut buffer, &reader);
        if rig.disk.inner.lock().unwrap().image.is_none() {
            break;
        }
        ended += 1;
        drop((buffer, reader));
        rig.restore_image();
        let (_buffer, reader) = rig.start();
        let books = reader.books();
        assert!(books.sums_hold(), "step {step}: {books:?}");
        let taken = reader.take(usize::MAX);
        for n in 0..2 {
            let numbered = reader.numbered(&stream_id(1, n));
            assert!(numbered == stored || numbered == stored + 2, "step {step}: {numbered} of {stored}");
            let (rows, lost) = found(&taken, n);
            let missing: Vec<u64> = (1..=numbered)
                .filter(|s| !rows.contains(s) && !lost.contains(s) && !sent.contains(&(machine(n), *s)))
                .collect();
            assert!(missing.is_empty(), "step {step}, machine {n}: {missing:?} of {numbered} in silence");
            // The oldest gave way at the end of the life, and not before.
            assert!(lost.is_empty() || stored == 12, "step {step}, machine {n}: {lost:?} of {stored} lost");
        }
    }
    assert!(ended > 40, "only {ended} steps");
}

#[test]
fn a_kill_at_any_step_loses_nothing_in_silence() {
    every_step(false);
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_in_silence() {
    every_step(true);
}

/// A folder that a start before left unwritten must not be removed from under the segment that takes its place.
#[test]
fn a_kill_at_any_step_of_the_first_start_costs_the_next_start_nothing() {
    let mut ended = 0;
    for step in 0.. {
        let mut rig = Rig::new();
        std::fs::create_dir_all(rig.folder()).unwrap();
        rig.disk.inner.lock().unwrap().countdown = Some(step);
        rig.starts += 1;
        let disk = Disk::with_faults(Arc::clone(&rig.disk) as Arc<dyn Faults>);
        drop(open_on(disk, rig.options()));
        if rig.disk.inner.lock().unwrap().image.is_none() {
            break;
        }
        ended += 1;
        rig.restore_image();
        let (mut buffer, reader) = rig.start();
        let rows = vec![new_rows(&mut buffer, 0, 1, 2, 10)];
        assert_eq!(buffer.flush(&group(rows)), Flushed::Stored, "step {step}");
        drop((buffer, reader)); // killed
        let (_buffer, reader) = rig.start();
        let taken = reader.take(usize::MAX);
        let mine = taken.iter().filter(|s| s.stream.machine == machine(0)).filter_map(|s| s.seq);
        assert_eq!(mine.flat_map(|(from, to)| from..=to).collect::<Vec<_>>(), [1, 2], "step {step}");
        assert!(losses(&taken).is_empty(), "step {step}: {:?}", losses(&taken));
    }
    assert!(ended > 3, "only {ended} steps");
}

#[test]
fn a_kill_at_any_step_of_setting_a_segment_aside_declares_its_rows_once() {
    let mut ended = BTreeSet::new();
    for step in 0.. {
        let mut rig = Rig::new();
        let (mut buffer, reader) = rig.start();
        for n in 0..3 {
            let rows = vec![new_rows(&mut buffer, 0, 1 + 2 * n, 2, 200)];
            assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
            buffer.begin_segment().unwrap();
        }
        drop(reader);
        buffer.close();
        std::fs::write(segments(&rig)[1].join("db"), vec![0x5a; 600_000]).unwrap();
        rig.disk.inner.lock().unwrap().countdown = Some(step);
        rig.starts += 1;
        let disk = Disk::with_faults(Arc::clone(&rig.disk) as Arc<dyn Faults>);
        if let Ok((mut buffer, reader)) = open_on(disk, rig.options()) {
            drop(reader.take(usize::MAX));
            let _ = buffer.tidy();
        }
        let Some(last) = rig.disk.inner.lock().unwrap().last else { break };
        ended.insert(format!("{last:?}"));
        rig.restore_image();
        let (mut buffer, reader) = rig.start();
        let mut taken = reader.take(usize::MAX);
        buffer.tidy().unwrap();
        taken.extend(reader.take(usize::MAX));
        let lost = losses(&taken).remove(&stream_id(1, 0)).unwrap_or_default();
        let lost: Vec<_> =
            lost.iter().flat_map(|l| l.ranges.iter().map(|r| (l.reason, r.from, r.to))).collect();
        assert_eq!(lost, [(LossReason::SetAsideDamaged, 3, Some(4))], "step {step}");
        assert_eq!(taken.iter().filter_map(|s| s.seq).collect::<Vec<_>>(), [(1, 2), (5, 6)], "step {step}");
        assert!(reader.books().balanced, "step {step}: {:?}", reader.books());
    }
    assert!(ended.contains("SetAside"), "{ended:?}");
}
