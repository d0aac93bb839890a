//! The books against a buffer that loses rows without a word: a sum that cannot fail proves nothing (D14).

use super::super::block::Packer;
use super::super::entry::{Note, note_entry};
use super::super::segment::{Segment, Writes};
use super::*;

/// Stores ten rows of one stream in each of three segments and stops.
fn three_segments(rig: &mut Rig) {
    let (mut buffer, reader) = rig.start();
    for n in 0..3 {
        if n > 0 {
            buffer.begin_segment().unwrap();
        }
        let rows = vec![new_rows(&mut buffer, 0, 1 + 10 * n, 10, 100)];
        assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
    }
    drop(reader);
    buffer.close();
}

/// Puts a note in the place of the rows of a segment: nothing is damaged, and the rows are gone.
fn lose_rows(rig: &Rig, segment: usize) {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(rig.folder()).unwrap().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    let folder = &folders[segment];
    let first: u64 = folder.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let open = Segment::open(&Disk::default(), folder).unwrap();
    let mut writes = Writes::default();
    // The block of the flush: its rows and its note.
    let notes = [(); 2].map(|()| note_entry(&Note::default()).unwrap());
    Packer::new().unwrap().pack(first + 1, notes, &mut writes).unwrap();
    open.append(&writes).unwrap();
    open.close();
}

/// Gives numbered, acknowledged, waiting, unaccounted of the first stream; in points it is twice as many.
fn line(books: &crate::books::Books) -> (u64, u64, u64, i64) {
    let (rows, points) = (books.transport[0].rows, books.transport[0].points);
    assert_eq!(points.unaccounted, 2 * rows.unaccounted, "{books:?}");
    assert_eq!(books.balanced, rows.unaccounted == 0, "{books:?}");
    (rows.numbered, rows.acknowledged, rows.waiting, rows.unaccounted)
}

/// Sends everything, as an uplink would, and saves that.
fn drain(buffer: &mut Buffer, reader: &BufferReader) {
    loop {
        let taken = reader.take(usize::MAX);
        if taken.is_empty() {
            break;
        }
        reader.acknowledge(&taken.iter().map(|s| s.position).collect::<Vec<_>>());
        buffer.flush(&Group::default());
    }
    buffer.tidy().unwrap();
}

#[test]
fn rows_that_are_gone_from_the_newest_segment_show_at_the_next_start_and_from_then_on() {
    let mut rig = Rig::new();
    three_segments(&mut rig);
    assert_eq!(line(&inspect(rig.dir.path()).unwrap().books), (30, 0, 30, 0));
    lose_rows(&rig, 2);
    let (mut buffer, reader) = rig.start();
    assert_eq!(line(&reader.books()), (30, 0, 20, 10));
    drain(&mut buffer, &reader);
    assert_eq!(line(&reader.books()), (30, 20, 0, 10));
    rig.kill(buffer, reader);
    let (_buffer, reader) = rig.start();
    assert_eq!(line(&reader.books()), (30, 20, 0, 10), "a start must not make them acknowledged");
}

#[test]
fn rows_that_are_gone_from_any_segment_are_found_by_show_and_verify() {
    for segment in 0..3 {
        let mut rig = Rig::new();
        three_segments(&mut rig);
        lose_rows(&rig, segment);
        for report in [inspect(rig.dir.path()).unwrap(), verify(rig.dir.path(), |_, _| {}).unwrap()] {
            assert_eq!(line(&report.books), (30, 0, 20, 10), "{segment}");
            assert_eq!(report.streams[0].unaccounted_rows, 10, "{segment}");
        }
    }
}

#[test]
fn rows_that_go_while_the_agent_runs_show_when_their_segment_is_done_with() {
    let mut rig = Rig::new();
    three_segments(&mut rig);
    let (mut buffer, reader) = rig.start();
    lose_rows(&rig, 1);
    assert_eq!(line(&reader.books()), (30, 0, 30, 0), "nobody has looked into it yet");
    drain(&mut buffer, &reader);
    assert_eq!(line(&reader.books()), (30, 20, 0, 10));
    assert_eq!(reader.health().segments, 1, "what is done with is removed all the same");
}

#[test]
fn a_stream_whose_rows_have_disappeared_stays_in_the_books_over_many_starts() {
    let mut rig = Rig::new();
    three_segments(&mut rig);
    lose_rows(&rig, 2);
    for _ in 0..8 {
        let (mut buffer, reader) = rig.start();
        // Each start has rows of the same machine in an epoch of its own.
        let rows = vec![new_rows(&mut buffer, 0, 1, 1, 10)];
        assert_eq!(buffer.flush(&group(rows)), Flushed::Stored);
        drain(&mut buffer, &reader);
        assert_eq!(line(&reader.books()), (30, 20, 0, 10));
        drop(reader);
        buffer.close();
    }
}
