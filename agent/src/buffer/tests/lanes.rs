//! Rows of this start and rows that earlier ones left, side by side (D9).

use super::*;

/// Rows by stream, in the order in which they were handed out.
type Sent = BTreeMap<StreamId, Vec<u64>>;

fn note(sent: &mut Sent, taken: &[Stored]) {
    for stored in taken {
        if let Some((from, to)) = stored.seq {
            sent.entry(stored.stream.clone()).or_default().extend(from..=to);
        }
    }
}

fn epochs(taken: &[Stored]) -> Vec<u64> {
    taken.iter().filter(|s| s.seq.is_some()).map(|s| s.stream.epoch.0).collect()
}

/// Stores single rows of two machines, in several segments.
fn store(buffer: &mut Buffer, from: u64, to: u64, size: usize) {
    for seq in from..=to {
        let rows = vec![new_rows(buffer, 0, seq, 1, size), new_rows(buffer, 1, seq, 1, size)];
        assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
        if seq % 20 == 0 {
            buffer.begin_segment().unwrap();
        }
    }
}

#[test]
fn rows_of_this_start_are_sent_while_a_backlog_of_an_earlier_one_goes_on() {
    const BACKLOG: u64 = 90;
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    store(&mut buffer, 1, BACKLOG, 10_000);
    rig.kill(buffer, reader);
    let (mut buffer, reader) = rig.start();
    let (mut sent, mut live) = (Sent::new(), 0);
    loop {
        // While the backlog lasts new rows come all the time; they go on in the segment of the old ones.
        if sent.get(&stream_id(1, 1)).is_none_or(|seqs| (seqs.len() as u64) < BACKLOG) {
            live += 1;
            store(&mut buffer, live, live, 100);
        }
        let taken = reader.take(100_000);
        if taken.is_empty() {
            break;
        }
        let epochs = epochs(&taken);
        let split = epochs.iter().filter(|epoch| **epoch == 2).count();
        assert!(epochs[..split].iter().all(|epoch| *epoch == 2), "live rows go first: {epochs:?}");
        note(&mut sent, &taken);
        for n in 0..2 {
            assert_eq!(sent[&stream_id(2, n)].len() as u64, live, "none of them waits for the backlog");
        }
        reader.acknowledge(&positions(&taken));
        buffer.tidy().unwrap();
    }
    assert!(live > 10, "the backlog was gone at once: this test tests nothing");
    for n in 0..2 {
        assert_eq!(sent[&stream_id(1, n)], (1..=BACKLOG).collect::<Vec<_>>());
        assert_eq!(sent[&stream_id(2, n)], (1..=live).collect::<Vec<_>>());
    }
    assert_eq!(reader.health().segments, 1, "what is acknowledged is removed");
}

#[test]
fn a_backlog_goes_on_however_much_of_this_start_waits() {
    // Half of the room for each; and if one item fills it, one item of each.
    for (max_bytes, expected) in [(80_000, [4, 4]), (1, [1, 1])] {
        let mut rig = Rig::new();
        let (mut buffer, reader) = rig.start();
        store(&mut buffer, 1, 40, 10_000);
        rig.kill(buffer, reader);
        let (mut buffer, reader) = rig.start();
        store(&mut buffer, 1, 40, 10_000);
        let mut sent = Sent::new();
        let mut takes = 0;
        loop {
            let taken = reader.take(max_bytes);
            if taken.is_empty() {
                break;
            }
            takes += 1;
            if takes <= 10 {
                let of = |epoch: u64| epochs(&taken).iter().filter(|e| **e == epoch).count();
                assert_eq!([of(2), of(1)], expected, "take {takes} of {max_bytes}");
            }
            note(&mut sent, &taken);
        }
        for (epoch, n) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            assert_eq!(sent[&stream_id(epoch, n)], (1..=40).collect::<Vec<_>>(), "{max_bytes}: {epoch} {n}");
        }
    }
}

#[test]
fn what_both_lanes_left_is_found_again_after_a_kill() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    store(&mut buffer, 1, 30, 10_000);
    rig.kill(buffer, reader);
    let (mut buffer, reader) = rig.start();
    store(&mut buffer, 1, 30, 10_000);
    let mut sent = Sent::new();
    let taken = reader.take(200_000);
    reader.acknowledge(&positions(&taken));
    note(&mut sent, &taken);
    drop(reader.take(100_000));
    buffer.flush(&Group::default());
    rig.kill(buffer, reader);
    let (mut buffer, reader) = rig.start();
    store(&mut buffer, 1, 3, 10);
    let taken = reader.take(usize::MAX);
    note(&mut sent, &taken);
    for (epoch, last) in [(1, 30), (2, 30), (3, 3)] {
        for n in 0..2 {
            assert_eq!(sent[&stream_id(epoch, n)], (1..=last).collect::<Vec<_>>(), "{epoch} {n}");
        }
    }
    assert!(losses(&taken).is_empty());
}

/// Stores ten rows of one machine in an entry each, in one flush.
fn store_ten(buffer: &mut Buffer, n: usize, from: u64, size: usize) {
    let rows = (from..from + 10).map(|seq| new_rows(buffer, n, seq, 1, size)).collect();
    assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
}

fn store_one(buffer: &mut Buffer, n: usize, seq: u64) {
    let rows = vec![new_rows(buffer, n, seq, 1, 100)];
    assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
}

fn rows_of(taken: &[Stored]) -> Vec<(StreamId, u64)> {
    taken.iter().filter_map(|s| Some((s.stream.clone(), s.seq?.0))).collect()
}

#[test]
fn a_stream_that_has_nothing_old_waiting_goes_ahead_of_those_that_are_behind() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    // Machine 1 has one row before the cut and one after it, machine 2 only new ones.
    store_one(&mut buffer, 1, 1);
    for first in [1, 11, 21, 31] {
        store_ten(&mut buffer, 0, first, 1_000);
        buffer.begin_segment().unwrap();
    }
    store_one(&mut buffer, 1, 2);
    store_one(&mut buffer, 2, 1);
    store_one(&mut buffer, 2, 2);
    let [zero, one, two] = [0, 1, 2].map(|n| stream_id(1, n));
    let taken = reader.take(1_500);
    let expected =
        [(two.clone(), 1), (two.clone(), 2), (one.clone(), 1), (zero.clone(), 1), (zero.clone(), 2)];
    assert_eq!(rows_of(&taken), expected, "what is behind has its share, and its own order");
    // Nothing old of machine 1 waits any more.
    let next = reader.take(1_500);
    assert_eq!(rows_of(&next)[..2], [(one.clone(), 2), (zero.clone(), 3)]);
    // What came back goes first, and is not read again when its turn comes.
    reader.give_back(&positions(&taken[..2]));
    reader.acknowledge(&positions(&taken[2..]));
    reader.acknowledge(&positions(&next));
    store_one(&mut buffer, 2, 3);
    let mut sent = Sent::new();
    note(&mut sent, &taken[2..]);
    note(&mut sent, &next);
    loop {
        let taken = reader.take(1_500);
        if taken.is_empty() {
            break;
        }
        if !sent.contains_key(&two) {
            assert_eq!(rows_of(&taken)[..3], [(two.clone(), 1), (two.clone(), 2), (two.clone(), 3)]);
        }
        note(&mut sent, &taken);
        reader.acknowledge(&positions(&taken));
    }
    assert_eq!(sent[&zero], (1..=40).collect::<Vec<_>>());
    assert_eq!((&sent[&one][..], &sent[&two][..]), (&[1, 2][..], &[1, 2, 3][..]));
    buffer.flush(&Group::default());
    buffer.tidy().unwrap();
    let books = reader.books();
    assert!(books.balanced && books.transport.iter().all(|l| l.rows.waiting == 0), "{books:?}");
    assert_eq!(reader.health().segments, 1);
}

#[test]
fn whoever_overtakes_leaves_room_for_those_that_are_behind() {
    let mut rig = Rig::new();
    let (mut buffer, reader) = rig.start();
    store_ten(&mut buffer, 0, 1, 1_000);
    store_ten(&mut buffer, 0, 11, 1_000);
    for seq in 1..=4 {
        store_one(&mut buffer, 1, seq);
    }
    // One item of each however small the room is.
    for expected in 1..=4 {
        let rows = rows_of(&reader.take(1));
        assert_eq!(rows, [(stream_id(1, 1), expected), (stream_id(1, 0), expected)]);
    }
}
