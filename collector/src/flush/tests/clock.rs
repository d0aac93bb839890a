//! Rows of a clock that was not synchronised wait, and a correction places them (D8).

use millrace_protocol::{BootId, ClockCorrection, UnsyncedClock};

use super::*;

/// The wall clock of a gateway without a battery, a few seconds after 1970.
const WALL_MINUS_MONOTONIC: i64 = 5_000_000;
const S: i64 = 1_000_000;
/// When the boots of the tests really were.
const BOOTED: i64 = T0 - 100 * S;

/// Rows read at these seconds after boot.
fn unsynced(boot: u8, first_seq: u64, seconds: &[i64]) -> (Item, Arc<Layout>) {
    let column = LayoutColumn { tag: "temp".into(), value_type: ValueType::F64 };
    let layout = Arc::new(Layout::new(vec![column]));
    let row = |s: &i64| Row {
        time_us: s * S + WALL_MINUS_MONOTONIC,
        flags: RowFlags::CLOCK_UNSYNCED,
        layout: Arc::clone(&layout),
        cells: vec![Cell::Good(Value::F64(*s as f64))],
    };
    let rows: Vec<Row> = seconds.iter().map(row).collect();
    let unsynced =
        UnsyncedClock { boot_id: BootId([boot; 16]), wall_minus_monotonic_us: WALL_MINUS_MONOTONIC };
    let clock = ClockSegment { number: 0, unsynced: Some(unsynced) };
    (Item::Chunk(Chunk::pack(first_seq, clock, &rows).unwrap()), layout)
}

fn correction(boot: u8, from_s: i64) -> Item {
    let boot_id = BootId([boot; 16]);
    Item::Clock(ClockCorrection { after: 0, boot_id, offset_us: BOOTED, from_monotonic_us: from_s * S })
}

/// Sequence, seconds after boot by event time, and offset of the record that it counts as appended with.
const PLACED: &str = "SELECT seq || ' ' || ((ts - 1699999900000000) / 1000000) || ' ' || \
                      ((append_ts - 1700000000000000) / 1000000) || ' ' || vals FROM reading ORDER BY seq";
const WAITING: &str = "SELECT kind || ' ' || rejected FROM quarantine ORDER BY first_seq";

#[tokio::test]
async fn a_correction_of_the_same_boot_takes_rows_out_of_quarantine_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lake.db");
    let (mut conn, mut memory) = open(&file).await;
    let (item, layout) = unsynced(1, 1, &[10, 11, 20]);
    memory.absorb(&at(0, record(&[item], Some(&layout), 3)));
    let (item, layout) = unsynced(2, 4, &[12]);
    memory.absorb(&at(1, record(&[item], Some(&layout), 4)));
    flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(texts(&mut conn, WAITING).await, ["clock 1", "clock 2", "clock 3", "clock 4"]);
    drop((conn, memory));

    let (mut conn, mut memory) = open(&file).await;
    memory.absorb(&at(5, record(&[correction(1, 11)], None, 4)));
    flush(&mut conn, &mut memory).await.unwrap();
    // What was read before the correction holds, and what another boot read, goes on waiting.
    assert_eq!(texts(&mut conn, PLACED).await, ["2 11 5 [11.0]", "3 20 5 [20.0]"]);
    assert_eq!(texts(&mut conn, WAITING).await, ["clock 1", "clock 4"]);
    let ledger = texts(&mut conn, "SELECT stored || ' ' || rejected FROM stream").await;
    assert_eq!(ledger, ["2-3 1,4"]);
    let line = audited(&mut conn).await.streams.remove(0);
    assert_eq!((line.in_lake, line.rejected, line.missing, line.unledgered), (2, 2, 0, 0));

    // A correction that holds from boot on places the rest; what comes later is placed at once.
    memory.absorb(&at(6, record(&[correction(1, 0)], None, 4)));
    flush(&mut conn, &mut memory).await.unwrap();
    drop((conn, memory));
    let (mut conn, mut memory) = open(&file).await;
    let (item, layout) = unsynced(1, 5, &[30]);
    memory.absorb(&at(7, record(&[item], Some(&layout), 5)));
    flush(&mut conn, &mut memory).await.unwrap();
    let placed = ["1 10 6 [10.0]", "2 11 5 [11.0]", "3 20 5 [20.0]", "5 30 7 [30.0]"];
    assert_eq!(texts(&mut conn, PLACED).await, placed);
    // The same records again change nothing.
    let (item, layout) = unsynced(1, 1, &[10, 11, 20]);
    memory.absorb(&at(8, record(&[item, correction(1, 0)], Some(&layout), 5)));
    flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(texts(&mut conn, PLACED).await, placed);
    let audit = audited(&mut conn).await;
    assert!(audit.is_clean() && audit.streams[0].in_lake == 4 && audit.streams[0].rejected == 1, "{audit:?}");
}

#[tokio::test]
async fn a_correction_in_the_same_flush_places_rows_and_one_of_another_agent_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    let (item, layout) = unsynced(1, 1, &[10]);
    memory.absorb(&at(0, record(&[item], Some(&layout), 1)));
    let other = StreamId { agent: AgentId::new("other").unwrap(), ..stream() };
    let mut builder = RecordBuilder::new(other, Epoch(1));
    builder.push(&correction(1, 0).encode().unwrap(), None);
    memory.absorb(&at(1, builder.finish(0)));
    flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(texts(&mut conn, WAITING).await, ["clock 1"]);
    let (item, layout) = unsynced(1, 2, &[11]);
    memory.absorb(&at(2, record(&[item, correction(1, 0)], Some(&layout), 2)));
    let flushed = flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!((flushed.rows, flushed.quarantined), (2, 0));
    assert_eq!(texts(&mut conn, PLACED).await, ["1 10 2 [10.0]", "2 11 2 [11.0]"]);
    assert!(texts(&mut conn, WAITING).await.is_empty());
}

#[tokio::test]
async fn a_correction_to_an_impossible_time_leaves_the_row_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    memory.settings.limits.earliest_us = T0;
    let (item, layout) = unsynced(1, 1, &[10]);
    memory.absorb(&at(0, record(&[item, correction(1, 0)], Some(&layout), 1)));
    flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(texts(&mut conn, WAITING).await, ["clock 1"]);
    let audit = audited(&mut conn).await;
    assert!(audit.is_clean() && audit.streams[0].rejected == 1, "{audit:?}");
}
