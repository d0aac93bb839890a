//! What the program does while Kafka is away, the lake is locked or the disk is full: it waits, says so once, and goes
//! on by itself; nothing is lost, nothing is stored twice, and nothing becomes a dead letter for it (promise 10).

use millrace_collector::clock;
use millrace_collector::lake::{self, db::Executor as _};

use crate::plant::{Plant, http, http_until, number, rows, until};
use crate::program::Program;

const COUNT: &str = "SELECT count(*) FROM reading";

async fn send(plant: &Plant, first_seq: u64, values: &[f64]) {
    let t0 = clock::now_us() - 60_000_000 + i64::try_from(first_seq).unwrap() * 1_000;
    let (item, layout) = rows(first_seq, t0, values);
    plant.send(0, &[item], Some(&layout), first_seq + values.len() as u64 - 1).await;
}

/// Every row is there once, and none was refused.
async fn all_are_stored_once(plant: &Plant, count: i64) {
    let once = [COUNT, "SELECT count(DISTINCT seq) FROM reading"];
    for sql in once {
        assert_eq!(number(&plant.lake(), sql).await, Some(count), "{sql}");
    }
    let refused = "SELECT (SELECT count(*) FROM dead_letter) + (SELECT count(*) FROM quarantine)";
    assert_eq!(number(&plant.lake(), refused).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_goes_away_is_told_of_everywhere_and_logged_once_as_is_its_return() {
    let mut plant = Plant::start();
    plant.more = "ready_without_kafka = \"2 s\"\n".to_owned();
    let mut program = Program::start(&mut plant).await;
    send(&plant, 1, &[1.0]).await;
    until(&plant.lake(), COUNT, 1).await;
    http_until(program.address, "/metrics", None, "millrace_collector_kafka_up 1\n").await;
    let lag = "millrace_collector_kafka_lag_records{partition=\"0\",topic=\"m.telemetry\"} 0\n";
    http_until(program.address, "/metrics", None, lag).await;
    http_until(program.address, "/readyz", None, "ready\n").await;
    let (code, text) = plant.verb(&["status"]).await;
    assert!(code == Some(0) && text.contains("Kafka is up since 20"), "{code:?} {text}");

    plant.down();
    let why = http_until(program.address, "/readyz", None, "Kafka is away since 20").await;
    assert_eq!(http(program.address, "/readyz", None).await.0, 503, "{why}");
    let (code, text) = http(program.address, "/healthz", None).await;
    assert!(code == 200 && text.contains("Kafka is away since"), "the process lives: {code} {text}");
    let (_, metrics) = http(program.address, "/metrics", None).await;
    assert!(metrics.contains("millrace_collector_kafka_up 0\n") && metrics.contains(lag), "{metrics}");
    let newest =
        "millrace_collector_kafka_newest_append_timestamp_seconds{partition=\"0\",topic=\"m.telemetry\"} 1";
    assert!(metrics.contains(newest), "{metrics}");
    let (code, text) = plant.verb(&["status"]).await;
    assert!(code == Some(0) && text.contains("Kafka is down since 20"), "{code:?} {text}");
    let (_, text) = plant.verb(&["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["kafka"]["state"], "down", "{text}");
    let part = &json["kafka"]["partitions"][0];
    assert_eq!(
        (&part["topic"], &part["next"], &part["behind"]),
        (&"m.telemetry".into(), &1.into(), &0.into())
    );

    plant.up();
    http_until(program.address, "/readyz", None, "ready\n").await;
    send(&plant, 2, &[2.0]).await;
    until(&plant.lake(), COUNT, 2).await;
    assert_eq!(program.stop("INT").await.code(), Some(0));
    assert_eq!(
        (program.count("Kafka is away"), program.count("Kafka answers again")),
        (1, 1),
        "{}",
        program.log()
    );
    all_are_stored_once(&plant, 2).await;
    let (code, text) = plant.verb(&["status"]).await;
    assert!(code == Some(0) && text.contains("no collector answers at http://127.0.0.1:"), "{code:?} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_another_program_locks_pauses_the_program_once_and_it_goes_on_by_itself() {
    let mut plant = Plant::start();
    let mut program = Program::start(&mut plant).await;
    send(&plant, 1, &[1.0]).await;
    until(&plant.lake(), COUNT, 1).await;
    let mut other = lake::open(&plant.lake()).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    send(&plant, 2, &[2.0; 10]).await;
    let why = http_until(program.address, "/readyz", None, "locked").await;
    assert!(why.starts_with("the lake: cannot begin a transaction"), "{why}");
    // Several attempts fail while it is held.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(http(program.address, "/readyz", None).await.0, 503);
    other.execute("ROLLBACK").await.unwrap();
    until(&plant.lake(), COUNT, 11).await;
    http_until(program.address, "/readyz", None, "ready\n").await;
    assert_eq!(program.stop("TERM").await.code(), Some(0));
    // "is being written" is said at the start, too.
    assert_eq!(
        (program.count("paused until"), program.count("is being written")),
        (1, 2),
        "{}",
        program.log()
    );
    all_are_stored_once(&plant, 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_pauses_the_program_once_and_it_goes_on_by_itself_when_there_is_room() {
    let mut plant = Plant::start();
    let mut program = Program::start(&mut plant).await;
    send(&plant, 1, &[1.0]).await;
    until(&plant.lake(), COUNT, 1).await;
    http_until(program.address, "/readyz", None, "ready\n").await;
    program.limit_file_size("4096");
    for part in 0..5 {
        send(&plant, 2 + part * 100, &[0.5; 100]).await;
    }
    let why = http_until(program.address, "/readyz", None, "the lake: cannot").await;
    program.said("paused until").await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(http(program.address, "/readyz", None).await.0, 503, "{why}");
    program.limit_file_size("unlimited");
    until(&plant.lake(), COUNT, 501).await;
    http_until(program.address, "/readyz", None, "ready\n").await;
    assert_eq!(program.stop("TERM").await.code(), Some(0));
    assert_eq!(
        (program.count("paused until"), program.count("is being written")),
        (1, 2),
        "{}",
        program.log()
    );
    all_are_stored_once(&plant, 501).await;
    let (code, text) = plant.verb(&["audit"]).await;
    assert!(code == Some(0), "{code:?} {text}");
}
