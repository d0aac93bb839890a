//! Flushes against promises 9 and 10: once, whatever is killed, and nothing thrown away.

use std::path::Path;

use millrace_protocol::{
    AgentId, Category, Cell, Chunk, ClockSegment, Epoch, Item, Layout, LayoutColumn, Loss, LossReason,
    MachineName, Progress, RawRow, RawRows, RecordBuilder, Row, RowFlags, SeqRange, Value, ValueType,
};

mod batch;
mod clock;
mod hostile;
mod kinds;
mod senders;

use super::*;
use crate::audit::{Audit, audit};
use crate::intake::Incoming;
use crate::lake;
use crate::lake::db::{Executor as _, Row as _, SqliteConnection};

const T0: i64 = 1_700_000_000_000_000;

fn stream() -> StreamId {
    StreamId {
        agent: AgentId::new("gw").unwrap(),
        epoch: Epoch(7),
        machine: MachineName::new("hall3/press-03").unwrap(),
        category: Category::new("telemetry").unwrap(),
    }
}

fn rows(first_seq: u64, values: &[f64]) -> (Item, Arc<Layout>) {
    let column = LayoutColumn { tag: "temp".into(), value_type: ValueType::F64 };
    let layout = Arc::new(Layout::new(vec![column]));
    let row = |(at, value): (usize, &f64)| Row {
        time_us: T0 + (first_seq as i64 + at as i64) * 1_000_000,
        flags: RowFlags::default(),
        layout: Arc::clone(&layout),
        cells: vec![Cell::Good(Value::F64(*value))],
    };
    let rows: Vec<Row> = values.iter().enumerate().map(row).collect();
    (Item::Chunk(Chunk::pack(first_seq, ClockSegment::default(), &rows).unwrap()), layout)
}

fn record(items: &[Item], layout: Option<&Arc<Layout>>, numbered: u64) -> Vec<u8> {
    let mut builder = RecordBuilder::new(stream(), Epoch(7));
    for item in items {
        builder.push(&item.encode().unwrap(), layout.filter(|_| matches!(item, Item::Chunk(_))));
    }
    builder.finish(numbered)
}

fn at(offset: i64, value: Vec<u8>) -> Incoming {
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    Incoming {
        topic: "m.telemetry".into(),
        partition: 3,
        offset,
        append_us: T0 + offset * 1_000_000,
        key: Some(b"hall3/press-03".to_vec()),
        headers: vec![
            header("agent", "gw"),
            header("epoch", "0000000000000007"),
            header("category", "telemetry"),
            header("seq", "1"),
            header("rows", "2"),
        ],
        value,
    }
}

/// Five records of two rows each, the third of them sent twice.
fn log() -> Vec<Incoming> {
    let mut log = Vec::new();
    for (offset, first) in [1u64, 3, 5, 5, 7, 9].into_iter().enumerate() {
        let (item, layout) = rows(first, &[first as f64, f64::from_bits(0x7ff0_0000_0000_0001 + first)]);
        log.push(at(offset as i64, record(&[item], Some(&layout), 10)));
    }
    log
}

fn settings() -> Settings {
    Settings {
        catalog: Arc::new(Catalog::default()),
        stall_after: Duration::from_secs(600),
        limits: Limits { earliest_us: 0, ahead: Duration::from_secs(86_400) },
    }
}

async fn open(file: &Path) -> (SqliteConnection, Memory) {
    let mut conn = lake::open(file).await.unwrap();
    crate::features::migrate(&mut conn, &[]).await.unwrap();
    let memory = Memory::load(&mut conn, settings()).await.unwrap();
    (conn, memory)
}

async fn flush(conn: &mut SqliteConnection, memory: &mut Memory) -> Result<Flushed, FlushError> {
    conn.execute("BEGIN IMMEDIATE").await.unwrap();
    memory.flush(conn, T0).await
}

/// Takes what the log has from the memory's own offset on, as the intake does.
fn read_on(memory: &mut Memory, log: &[Incoming]) {
    let next = memory.positions().get(&("m.telemetry".to_owned(), 3)).map_or(0, |position| position.next);
    for incoming in log.iter().filter(|incoming| incoming.offset >= next) {
        memory.absorb(incoming);
    }
}

async fn texts(conn: &mut SqliteConnection, sql: &'static str) -> Vec<String> {
    let rows = conn.fetch_all(sql).await.unwrap();
    rows.iter().map(|row| row.try_get::<String, _>(0).unwrap()).collect()
}

async fn audited(conn: &mut SqliteConnection) -> Audit {
    audit(conn, None).await.unwrap()
}

const ROWS: &str =
    "SELECT seq || ' ' || coalesce(vals, '') || ' ' || coalesce(extra, '') FROM reading ORDER BY seq";

#[tokio::test]
async fn rows_stand_in_the_lake_once_with_their_bits_and_the_audit_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    read_on(&mut memory, &log());
    let flushed = flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!((flushed.rows, flushed.points), (10, 10));
    let found = texts(&mut conn, ROWS).await;
    assert_eq!(found.len(), 10);
    assert_eq!(found.first().unwrap(), "1 [1.0] ");
    assert_eq!(found.get(1).unwrap(), "2 [null] {\"temp\":{\"x\":\"7ff0000000000002\"}}");
    let audit = audited(&mut conn).await;
    assert!(audit.is_clean(), "{:?}", audit.findings());
    let line = audit.streams.first().unwrap();
    assert_eq!((line.numbered, line.in_lake, line.repeated), (10, 10, 2));
    // The same again changes nothing.
    for incoming in &log() {
        memory.absorb(incoming);
    }
    flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(texts(&mut conn, ROWS).await.len(), 10);
}

#[tokio::test]
async fn a_flush_cut_anywhere_neither_loses_nor_doubles_a_row() {
    /// SQLite's own instructions between two places where a statement can be cut.
    const STEP: i32 = 5;
    let mut cuts = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lake.db");
        let (mut conn, mut memory) = open(&file).await;
        read_on(&mut memory, &log()[..2]);
        flush(&mut conn, &mut memory).await.unwrap();
        read_on(&mut memory, &log());
        conn.execute("BEGIN IMMEDIATE").await.unwrap();
        let mut left = cuts;
        conn.lock_handle().await.unwrap().set_progress_handler(STEP, move || {
            left -= 1;
            left >= 0
        });
        let done = memory.flush(&mut conn, T0).await;
        // What was open dies with the connection, as it does with the process.
        drop(memory);
        drop(conn);
        let (mut conn, mut memory) = open(&file).await;
        read_on(&mut memory, &log());
        flush(&mut conn, &mut memory).await.unwrap();
        assert_eq!(texts(&mut conn, ROWS).await.len(), 10, "cut {cuts}");
        assert!(audited(&mut conn).await.is_clean(), "cut {cuts}");
        if done.is_ok() {
            assert!(cuts > 20, "only {cuts} cuts were made");
            return;
        }
        cuts += 1;
    }
}

#[tokio::test]
async fn an_undecodable_record_becomes_a_dead_letter_and_is_counted_by_its_headers() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    memory.absorb(&at(0, b"\x82garbage".to_vec()));
    let (item, layout) = rows(3, &[1.0]);
    memory.absorb(&at(1, record(&[item], Some(&layout), 3)));
    flush(&mut conn, &mut memory).await.unwrap();
    let letters = texts(
        &mut conn,
        "SELECT kind || ' ' || topic || ' ' || part || ' ' || kafka_offset || ' ' || hex(bytes) || ' ' || rejected \
         FROM dead_letter WHERE reason LIKE 'not a record: %'",
    )
    .await;
    assert_eq!(letters, ["record m.telemetry 3 0 8267617262616765 1-2"]);
    let audit = audited(&mut conn).await;
    let line = audit.streams.first().unwrap();
    assert_eq!((line.numbered, line.in_lake, line.rejected, line.missing), (3, 1, 2, 0));
}

#[tokio::test]
async fn a_damaged_chunk_and_raw_rows_are_dead_letters_of_their_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    let (item, layout) = rows(1, &[1.0, 2.0]);
    let Item::Chunk(mut chunk) = item else { panic!() };
    chunk.crc ^= 1;
    let raw =
        RawRow { time_us: T0, topic: "plant/x".into(), payload: [0xff][..].into(), reason: "no JSON".into() };
    let items = [Item::Chunk(chunk), Item::Raw(RawRows::new(3, vec![raw]))];
    memory.absorb(&at(0, record(&items, Some(&layout), 3)));
    flush(&mut conn, &mut memory).await.unwrap();
    let letters = texts(
        &mut conn,
        "SELECT kind || ' ' || rejected || ' ' || coalesce(source, '') || ' ' || reason FROM dead_letter ORDER BY first_seq",
    )
    .await;
    assert_eq!(
        letters,
        ["item 1-2  chunk at sequence 1 has another checksum than its bytes", "payload 3 plant/x no JSON"]
    );
    let audit = audited(&mut conn).await;
    assert_eq!((audit.streams[0].rejected, audit.streams[0].missing), (3, 0));
}

#[tokio::test]
async fn another_content_under_the_same_sequences_goes_to_quarantine_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lake.db");
    let (mut conn, mut memory) = open(&file).await;
    let (item, layout) = rows(1, &[1.0]);
    memory.absorb(&at(0, record(&[item], Some(&layout), 1)));
    flush(&mut conn, &mut memory).await.unwrap();
    drop(conn);
    let (mut conn, mut memory) = open(&file).await;
    let (item, layout) = rows(1, &[2.0]);
    memory.absorb(&at(1, record(&[item], Some(&layout), 1)));
    flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(texts(&mut conn, ROWS).await, ["1 [1.0] "]);
    assert_eq!(texts(&mut conn, "SELECT kind || ' ' || first_seq FROM quarantine").await, ["conflict 1"]);
    assert_eq!(audited(&mut conn).await.streams[0].conflicts, 1);
}

#[tokio::test]
async fn an_impossible_time_waits_in_quarantine_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    memory.settings.limits = Limits { earliest_us: T0 + 2_000_000, ahead: Duration::from_secs(2) };
    let (item, layout) = rows(1, &[1.0, 2.0, 3.0]);
    memory.absorb(&at(0, record(&[item], Some(&layout), 3)));
    flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(texts(&mut conn, ROWS).await, ["2 [2.0] "]);
    let found = texts(&mut conn, "SELECT kind || ' ' || rejected FROM quarantine ORDER BY first_seq").await;
    assert_eq!(found, ["time 1", "time 3"]);
    let audit = audited(&mut conn).await;
    assert_eq!((audit.streams[0].in_lake, audit.streams[0].rejected), (1, 2));
}

#[tokio::test]
async fn losses_and_progress_settle_and_an_undeclared_hole_is_given_up_in_its_time_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    let loss = Loss {
        after: 0,
        reason: LossReason::DroppedOldest,
        ranges: vec![SeqRange { from: 1, to: Some(2) }],
        points: Some(2),
    };
    let (item, layout) = rows(5, &[1.0]);
    let progress = Progress { after: 5, complete_until_us: T0 + 9, numbered: 5, waiting_epochs: vec![] };
    memory.absorb(&at(0, record(&[Item::Loss(loss), item, Item::Progress(progress)], Some(&layout), 5)));
    flush(&mut conn, &mut memory).await.unwrap();
    let line = audited(&mut conn).await.streams.remove(0);
    assert_eq!((line.in_lake, line.lost, line.missing, line.missing_sequences.as_str()), (1, 2, 2, "3-4"));
    assert!(texts(&mut conn, "SELECT kind FROM gap").await.is_empty());
    drop(conn);
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    memory.end_reached("m.telemetry", 3, T0 + 601_000_000);
    flush(&mut conn, &mut memory).await.unwrap();
    let gaps = texts(&mut conn, "SELECT kind || ' ' || from_seq || '-' || to_seq FROM gap").await;
    assert_eq!(gaps, ["undeclared 3-4"]);
    assert_eq!(memory.ledger.stream(&stream()).contiguous(), 5);
}

#[tokio::test]
async fn the_audit_finds_a_deleted_row_a_doubled_row_and_a_cut_ledger() {
    type Count = fn(&crate::audit::StreamAudit) -> u64;
    let cases: [(&'static str, Count); 3] = [
        ("DELETE FROM reading WHERE seq = 4", |line| line.missing),
        (
            "INSERT INTO reading SELECT ts + 1, machine_id, stream_id, seq, flush_id, append_ts, quality, flags, \
             layout_id, vals, extra FROM reading WHERE seq = 4",
            |line| line.doubled,
        ),
        ("UPDATE stream SET stored = '1-9'", |line| line.unledgered),
    ];
    for (tampering, count) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
        read_on(&mut memory, &log());
        flush(&mut conn, &mut memory).await.unwrap();
        conn.execute(tampering).await.unwrap();
        let audit = audited(&mut conn).await;
        assert_eq!(count(&audit.streams[0]), 1, "{tampering}: {audit:?}");
        assert!(!audit.is_clean() && !audit.findings().is_empty(), "{tampering}");
    }
}

#[tokio::test]
async fn a_full_disk_is_worth_waiting_for_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lake.db");
    let (mut conn, mut memory) = open(&file).await;
    let pages: i64 = conn.fetch_one("PRAGMA page_count").await.unwrap().try_get(0).unwrap();
    conn.execute(crate::lake::db::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"))).await.unwrap();
    let long: Vec<f64> = (0..5_000).map(|n| f64::from(n) / 3.0).collect();
    let (item, layout) = rows(1, &long);
    let big = at(0, record(&[item], Some(&layout), 5_000));
    memory.absorb(&big);
    let error = flush(&mut conn, &mut memory).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    drop(conn.execute("ROLLBACK").await);
    conn.execute("PRAGMA max_page_count = 1000000").await.unwrap();
    let mut memory = Memory::load(&mut conn, settings()).await.unwrap();
    assert!(memory.positions().is_empty());
    memory.absorb(&big);
    flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(audited(&mut conn).await.streams[0].in_lake, 5_000);
}

#[tokio::test]
async fn a_worker_that_was_replaced_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lake.db");
    let (mut conn, mut memory) = open(&file).await;
    read_on(&mut memory, &log()[..2]);
    flush(&mut conn, &mut memory).await.unwrap();
    let (mut other, mut taken) = open(&file).await;
    read_on(&mut memory, &log());
    let error = flush(&mut conn, &mut memory).await.unwrap_err();
    assert!(matches!(error, FlushError::Lake(LakeError::Fenced { shard: 3 })), "{error:?}");
    conn.execute("ROLLBACK").await.unwrap();
    read_on(&mut taken, &log());
    flush(&mut other, &mut taken).await.unwrap();
    assert_eq!(texts(&mut other, ROWS).await.len(), 10);
}

mod late;
