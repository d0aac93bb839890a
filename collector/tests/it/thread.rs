//! From a record in Kafka to rows, features and answers, over stops, kills and locks.

use millrace_collector::audit::audit;
use millrace_collector::clock;
use millrace_collector::lake::{self, db::Executor as _};

use crate::plant::{PRESS, Plant, Running, birth, http, http_until, number, progress, rows, until};

const COUNT: &str = "SELECT count(*) FROM reading";

fn minute_ago() -> i64 {
    (clock::now_us() - 60_000_000) / 10_000_000 * 10_000_000
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_in_the_lake_once_over_stops_and_kills() {
    let plant = Plant::start();
    let t0 = minute_ago();
    for round in 0..4_u64 {
        let collector = Running::start(&plant).await;
        let first = round * 20 + 1;
        for part in [0, 10] {
            let (item, layout) = rows(first + part, t0 + (first + part) as i64 * 1_000, &[0.1; 10]);
            // Twice each, as after an unknown outcome.
            for _ in 0..2 {
                plant.send(1, std::slice::from_ref(&item), Some(&layout), first + part + 9).await;
            }
        }
        plant.send_bytes(1, b"no record").await;
        if round % 2 == 0 {
            collector.kill().await;
        } else {
            until(&plant.lake(), COUNT, (first + 19) as i64).await;
            collector.stop().await;
        }
    }
    let collector = Running::start(&plant).await;
    until(&plant.lake(), COUNT, 80).await;
    until(&plant.lake(), "SELECT count(*) FROM dead_letter", 4).await;
    collector.stop().await;
    assert_eq!(number(&plant.lake(), "SELECT count(DISTINCT seq) FROM reading").await, Some(80));
    let mut conn = lake::open_reader(&plant.lake()).await.unwrap();
    let audit = audit(&mut conn, None).await.unwrap();
    assert!(audit.is_clean(), "{:?}", audit.findings());
    assert_eq!((audit.streams[0].numbered, audit.streams[0].in_lake), (80, 80));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_lake_pauses_says_so_and_goes_on_by_itself() {
    let plant = Plant::start();
    let collector = Running::start(&plant).await;
    let (item, layout) = rows(1, minute_ago(), &[1.0]);
    plant.send(0, &[item], Some(&layout), 1).await;
    until(&plant.lake(), COUNT, 1).await;
    http_until(collector.address, "/readyz", None, "").await;
    let mut other = lake::open(&plant.lake()).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let (item, layout) = rows(2, minute_ago() + 1_000_000, &[2.0]);
    plant.send(0, &[item], Some(&layout), 2).await;
    let why = http_until(collector.address, "/readyz", None, "locked").await;
    assert!(why.contains("lake"), "{why}");
    assert_eq!(http(collector.address, "/healthz", None).await.0, 200);
    other.execute("ROLLBACK").await.unwrap();
    until(&plant.lake(), COUNT, 2).await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_closes_and_its_features_are_served() {
    let plant = Plant::start();
    plant.features(PRESS);
    let collector = Running::start(&plant).await;
    let t0 = minute_ago();
    let values: Vec<f64> = (0..30).map(f64::from).collect();
    let (item, layout) = rows(1, t0, &values);
    plant.send(2, &[birth(t0), item, progress(30, t0 + 31_000_000)], Some(&layout), 30).await;
    until(&plant.lake(), "SELECT count(*) FROM features_press_10s", 3).await;
    let body = r#"{"feature_service": "model", "entities": {"machine": ["hall3/press-03"]}}"#;
    let answer =
        http_until(collector.address, "/get-online-features", Some(body.to_owned()), "PRESENT").await;
    assert!(answer.contains("24.5"), "{answer}");
    assert_eq!(number(&plant.lake(), "SELECT count(*) FROM gap WHERE kind = 'agent_down'").await, Some(1));
    assert_eq!(
        number(&plant.lake(), "SELECT count(*) FROM point WHERE tag = 'temp' AND value >= 0").await,
        Some(30)
    );
    assert_eq!(number(&plant.lake(), "SELECT count(*) FROM sensor WHERE unit = 'degC'").await, Some(1));
    collector.stop().await;
    // What a restart finds in the lake goes on where it stopped.
    let collector = Running::start(&plant).await;
    let (item, layout) = rows(31, t0 + 30_000_000, &[30.0; 10]);
    plant.send(2, &[item, progress(40, t0 + 41_000_000)], Some(&layout), 40).await;
    until(&plant.lake(), "SELECT count(*) FROM features_press_10s", 4).await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_view_is_computed_by_the_running_collector_and_served() {
    let plant = Plant::start();
    let batch = "kind = \"press\"\nmode = \"batch\"\nrun_every = \"1 s\"\nwindow";
    plant.features(&PRESS.replace("kind = \"press\"\nwindow", batch));
    let collector = Running::start(&plant).await;
    let t0 = minute_ago();
    let values: Vec<f64> = (0..30).map(f64::from).collect();
    let (item, layout) = rows(1, t0, &values);
    plant.send(2, &[birth(t0), item, progress(30, t0 + 31_000_000)], Some(&layout), 30).await;
    until(&plant.lake(), "SELECT count(*) FROM features_press_10s", 3).await;
    let body = r#"{"feature_service": "model", "entities": {"machine": ["hall3/press-03"]}}"#;
    let answer =
        http_until(collector.address, "/get-online-features", Some(body.to_owned()), "PRESENT").await;
    assert!(answer.contains("24.5"), "{answer}");
    collector.stop().await;
    let (code, text) = plant.verb(&["parity"]).await;
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_is_noticed_and_its_partition_is_not_read_on() {
    const AGAIN: &str = "UPDATE shard SET offsets = json_remove(offsets, '$.\"m.telemetry\"'), \
                         last = json_remove(last, '$.\"m.telemetry\"') WHERE shard = 1";
    let plant = Plant::start();
    let collector = Running::start(&plant).await;
    let t0 = minute_ago();
    let chunk = |seq: u64| rows(seq, t0 + seq as i64 * 1_000_000, &[seq as f64]);
    let send = async |plant: &Plant, partition, seq| {
        let (item, layout) = chunk(seq);
        plant.send(partition, &[item], Some(&layout), seq).await;
    };
    for (partition, seq) in [(0, 1), (1, 2), (1, 3), (2, 4)] {
        send(&plant, partition, seq).await;
    }
    until(&plant.lake(), COUNT, 4).await;
    collector.stop().await;

    // Partition 0 goes on, partition 1 has other records and more of them, partition 2 has none.
    let plant = plant.with_new_topics();
    for (partition, seq) in [(0, 1), (0, 5), (1, 6), (1, 7), (1, 8)] {
        send(&plant, partition, seq).await;
    }
    let collector = Running::start(&plant).await;
    let text = http_until(collector.address, "/healthz", None, "partition 1").await;
    assert!(
        text.contains("topic m.telemetry, partition 1 is not read on: the record at offset 1 is not"),
        "{text}"
    );
    let text = http_until(collector.address, "/healthz", None, "partition 2").await;
    assert!(text.contains("partition 2 is not read on: Kafka has records up to offset 0, and"), "{text}");
    assert!(text.contains(AGAIN), "{text}");
    until(&plant.lake(), "SELECT count(*) FROM reading WHERE seq = 5", 1).await;
    until(&plant.lake(), "SELECT count(*) FROM shard WHERE trouble <> '{}'", 2).await;
    let (code, text) = plant.verb(&["status"]).await;
    assert!(
        code == Some(0) && text.contains("partition 1 is not read on") && !text.contains("partition 0"),
        "{text}"
    );
    collector.stop().await;
    assert_eq!(number(&plant.lake(), COUNT).await, Some(5));

    let mut conn = lake::open(&plant.lake()).await.unwrap();
    conn.execute(AGAIN).await.unwrap();
    let collector = Running::start(&plant).await;
    until(&plant.lake(), COUNT, 8).await;
    let text = http_until(collector.address, "/healthz", None, "partition 2").await;
    assert!(!text.contains("partition 1"), "{text}");
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_collector_on_the_same_directory_is_refused() {
    let plant = Plant::start();
    let collector = Running::start(&plant).await;
    let refused = millrace_collector::app::App::build(plant.config()).await.err().unwrap();
    assert!(refused.to_string().contains("another collector works here"), "{refused}");
    // Nor with a directory of its own on the same lake.
    let folder = tempfile::tempdir().unwrap();
    let other = millrace_collector::config::Config { data_dir: folder.path().to_owned(), ..plant.config() };
    let refused = millrace_collector::app::App::build(other).await.err().unwrap();
    assert!(refused.to_string().contains("lake.db.lock is locked"), "{refused}");
    collector.stop().await;
}
