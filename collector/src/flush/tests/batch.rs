//! Views with `mode = "batch"`: when they run, over what, and that a restart goes on.

use millrace_preprocess::{SourceFile, compile};

use super::*;
use crate::features;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const NOW: i64 = T0 + 10 * 24 * 60 * MINUTE;
const VIEW: &str = r#"
[[kind]]
name = "press"
machines = ["hall3/*"]
[[feature_view]]
name = "slow"
kind = "press"
mode = "batch"
run_every = "1 min"
window = { size = "10 s" }
lateness = "0 s"
[feature_view.features]
top = "max(temp)"
n = "count(temp)"
"#;

/// A lake with the view's tables, and the memory of a worker that starts on it.
async fn start(file: &Path) -> (SqliteConnection, Memory) {
    let files = [SourceFile { name: "slow.toml".to_owned(), text: VIEW.to_owned() }];
    let catalog = Arc::new(compile(&files, &|_| Err("no such file".to_owned())).unwrap());
    let mut conn = lake::open(file).await.unwrap();
    features::migrate(&mut conn, &crate::app::schemas(&catalog)).await.unwrap();
    let memory = Memory::load(&mut conn, Settings { catalog, ..settings() }).await.unwrap();
    (conn, memory)
}

/// Sends rows of one second each, all complete, and flushes.
async fn send(conn: &mut SqliteConnection, memory: &mut Memory, offset: i64, first: u64, values: &[f64]) {
    let (item, layout) = rows(first, values);
    let numbered = first + values.len() as u64 - 1;
    let complete_until_us = T0 + (numbered as i64) * SECOND;
    let progress = Progress { after: numbered, complete_until_us, numbered, waiting_epochs: vec![] };
    let mut incoming = at(offset, record(&[item, Item::Progress(progress)], Some(&layout), numbered));
    incoming.append_us = complete_until_us + SECOND;
    memory.absorb(&incoming);
    flush(conn, memory).await.unwrap();
}

/// Does all that is due at a time; gives the number of pieces and of rows written.
async fn run(conn: &mut SqliteConnection, memory: &mut Memory, now_us: i64) -> (usize, usize) {
    let (mut pieces, mut rows) = (0, 0);
    while let Some(written) = memory.batch(conn, now_us).await.unwrap() {
        pieces += 1;
        rows += written.len();
    }
    (pieces, rows)
}

const STORED: &str = "SELECT ((event_timestamp - 1700000000000000) / 1000000) || ' ' || revision || ' ' || top || ' ' || n \
                      FROM features_slow_v1 WHERE n > 0 ORDER BY event_timestamp, revision";

#[tokio::test]
async fn a_batch_view_runs_when_it_is_due_and_goes_on_where_it_stopped_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lake.db");
    let (mut conn, mut memory) = start(&file).await;
    assert_eq!(run(&mut conn, &mut memory, NOW - SECOND).await, (0, 0));
    send(&mut conn, &mut memory, 0, 1, &[1.0; 24]).await;
    // Complete up to second 24: two windows; the third is still open.
    assert_eq!(run(&mut conn, &mut memory, NOW).await, (1, 2));
    send(&mut conn, &mut memory, 1, 25, &[2.0; 20]).await;
    assert_eq!(run(&mut conn, &mut memory, NOW + 59 * SECOND).await, (0, 0), "it is not due yet");
    drop((conn, memory));
    let (mut conn, mut memory) = start(&file).await;
    assert_eq!(
        run(&mut conn, &mut memory, NOW + 59 * SECOND).await,
        (0, 0),
        "a restart does not make it due"
    );
    // What a restart does not know any more, the next progress says.
    send(&mut conn, &mut memory, 2, 45, &[2.0]).await;
    assert_eq!(run(&mut conn, &mut memory, NOW + MINUTE).await, (1, 2));
    let stored = texts(&mut conn, STORED).await;
    assert_eq!(stored, ["10 1 1.0 9", "20 1 1.0 10", "30 1 2.0 10", "40 1 2.0 10"]);
    let position = texts(&mut conn, "SELECT view || ' ' || machine || ' ' || rows_seen FROM batch_run").await;
    assert_eq!(position, ["slow hall3/press-03 45"]);
}

#[tokio::test]
async fn a_late_row_is_a_new_revision_of_its_window_in_the_next_run_of_a_batch_view() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = start(&folder.path().join("lake.db")).await;
    send(&mut conn, &mut memory, 0, 1, &[1.0; 10]).await;
    // Sequences 11 to 15 are skipped: given up after a while, as their gateway is gone.
    let (item, layout) = rows(16, &[3.0; 20]);
    let mut later = at(1, record(&[item], Some(&layout), 35));
    later.append_us = T0 + 40 * SECOND;
    memory.absorb(&later);
    memory.end_reached("m.telemetry", 3, T0 + 2_000 * SECOND);
    flush(&mut conn, &mut memory).await.unwrap();
    run(&mut conn, &mut memory, NOW).await;
    let before = ["10 1 1.0 9", "20 1 3.0 5", "30 1 3.0 10", "40 1 3.0 6"];
    assert_eq!(texts(&mut conn, STORED).await, before);
    // They come all the same.
    send(&mut conn, &mut memory, 2, 11, &[9.0; 5]).await;
    assert_eq!(run(&mut conn, &mut memory, NOW + MINUTE).await.1, 1);
    let after = ["10 1 1.0 9", "20 1 3.0 5", "20 2 9.0 10", "30 1 3.0 10", "40 1 3.0 6"];
    assert_eq!(texts(&mut conn, STORED).await, after);
    assert_eq!(
        run(&mut conn, &mut memory, NOW + 2 * MINUTE).await.1,
        0,
        "the same bits are not written again"
    );
}

#[tokio::test]
async fn a_long_history_is_computed_in_machine_days_and_a_kill_in_between_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lake.db");
    let (mut conn, mut memory) = start(&file).await;
    let day = 86_400;
    for (offset, first) in [1, 1 + day, 1 + 2 * day].into_iter().enumerate() {
        let (item, layout) = rows(first, &[1.0; 20]);
        let mut incoming = at(offset as i64, record(&[item], Some(&layout), first + 19));
        incoming.append_us = T0 + (first as i64 + 30) * SECOND;
        memory.absorb(&incoming);
    }
    memory.end_reached("m.telemetry", 3, T0 + 4 * day as i64 * SECOND);
    flush(&mut conn, &mut memory).await.unwrap();
    assert!(memory.batch(&mut conn, NOW).await.unwrap().is_some());
    drop((conn, memory));
    let (mut conn, mut memory) = start(&file).await;
    memory.end_reached("m.telemetry", 3, T0 + 4 * day as i64 * SECOND);
    flush(&mut conn, &mut memory).await.unwrap();
    let (pieces, written) = run(&mut conn, &mut memory, NOW).await;
    assert!(pieces >= 2 && written >= 4, "{pieces} pieces, {written} rows");
    let stored = texts(&mut conn, STORED).await;
    assert!(stored.iter().all(|row| row.contains(" 1 1.0 ")), "{stored:?}");
    let counted = texts(&mut conn, "SELECT CAST(sum(n) AS TEXT) FROM features_slow_v1").await;
    assert_eq!(counted, ["60"]);
}
