//! The program's verbs over a lake that a collector filled: what they print and their exit codes.

use millrace_collector::clock;
use millrace_collector::lake::{self, db::Executor as _};
use millrace_protocol::{Item, Reporting};

use crate::plant::{PRESS, Plant, Running, birth, progress, rows, until};

/// A plant whose collector stored three windows and a dead letter, and stopped. Gives the first row's time.
async fn filled(plant: &Plant) -> i64 {
    plant.features(PRESS);
    let collector = Running::start(plant).await;
    let t0 = (clock::now_us() - 60_000_000) / 10_000_000 * 10_000_000;
    let values: Vec<f64> = (0..30).map(|n| f64::from(n) / 7.0).collect();
    let (item, layout) = rows(1, t0, &values);
    plant.send_bytes(2, b"no record").await;
    plant.send(2, &[birth(t0), item, progress(30, t0 + 31_000_000)], Some(&layout), 30).await;
    until(&plant.lake(), "SELECT count(*) FROM features_press_10s", 3).await;
    collector.stop().await;
    t0
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_tell_what_the_lake_holds() {
    let plant = Plant::start();
    filled(&plant).await;
    let machine = "hall3/press-03";
    let cases: &[(&[&str], &str)] = &[
        (&["check"], "good: 1 feature views, 1 feature services"),
        (&["migrate"], "features_press_10s_v1, promoted"),
        (&["status"], machine),
        (&["status", "--json"], "\"stored\": 30"),
        (&["audit"], "everything adds up"),
        (&["audit", "--json"], "\"missing\": 0"),
        (&["explain", "press_10s:temp_max"], "line-a unit 3 holding 100 f32 ABCD"),
        (&["explain", "press_10s:temp_max", "--json"], "\"expression\": \"max(temp)\""),
        (&["where", machine, "2001-01-01T00:00:00Z"], "nowhere"),
        (&["where", machine, "2099-01-01T00:00:00Z", "--json"], "at the agent or in Kafka"),
        (&["views", "list"], "press_10s"),
        (&["dead-letters", "list"], "not a record"),
        (&["dead-letters", "show", "1"], "6e 6f 20 72 65 63 6f 72 64"),
        (&["parity"], "press_10s"),
        (&["backfill", "--json"], "\"written\": 0"),
    ];
    for (arguments, wanted) in cases {
        let (code, text) = plant.verb(arguments).await;
        assert!(code == Some(0) && text.contains(wanted), "{arguments:?}: exit {code:?}, {text}");
    }
    let out = plant.folder.path().join("repo");
    let (code, text) = plant.verb(&["feast", "export", "--out", out.to_str().unwrap()]).await;
    assert!(code == Some(0) && out.join("definitions.py").exists(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_holds_features_against_what_machines_report_once_there_is_a_lake() {
    let plant = Plant::start();
    let wrong = PRESS
        .replace("mean(temp)", "std(temp)")
        .replace("max(temp)", "max(temp + power)")
        .replace("[[feature_view]]", "[kind.tags]\npower = { unit = \"kW\" }\n[[feature_view]]");
    plant.features(&wrong);
    let (code, text) = plant.verb(&["check"]).await;
    assert!(code == Some(0) && text.contains("there is no lake at"), "{code:?} {text}");
    // The lake is filled under other features, from a tag reported by exception.
    plant.features(PRESS);
    let collector = Running::start(&plant).await;
    let Item::Birth(mut born) = birth(1_700_000_000_000_000) else { panic!() };
    born.tags[0].reporting = Reporting::ByException { max_interval_us: 60_000_000 };
    plant.send(2, &[Item::Birth(born)], None, 0).await;
    until(&plant.lake(), "SELECT count(*) FROM birth", 1).await;
    collector.stop().await;
    plant.features(&wrong);
    let (code, text) = plant.verb(&["check"]).await;
    assert_eq!(code, Some(64), "{text}");
    for part in [
        "press.toml:15:13: std() weighs samples, and hall3/press-03 reports \"temp\" only when it changes",
        "   15 | temp_mean = \"std(temp)\"\n      |             ^^^^^^^^^^^",
        "press.toml:16:12: hall3/press-03 reports no tag \"power\"",
        "press.toml:16:17: + needs one unit on both sides, and these are degC and kW",
        "3 problems; nothing was started",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let (code, text) = plant.verb(&["check", "--json"]).await;
    assert!(code == Some(64) && text.contains("\"machines\": 1"), "{code:?} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_is_found_with_exit_code_2() {
    let plant = Plant::start();
    filled(&plant).await;
    let mut conn = lake::open(&plant.lake()).await.unwrap();
    conn.execute("DELETE FROM reading WHERE seq = 14").await.unwrap();
    for verb in ["audit", "parity", "backfill"] {
        let (code, text) = plant.verb(&[verb, "--machine", "hall3/nope"]).await;
        assert!(code == Some(64) && text.contains("hall3/nope"), "{verb}: {code:?} {text}");
    }
    let (code, text) = plant.verb(&["audit"]).await;
    assert!(code == Some(2) && text.contains("rows are missing: sequences 14"), "{code:?} {text}");
    let (code, text) = plant.verb(&["parity"]).await;
    assert!(code == Some(2) && text.contains("temp_mean"), "{code:?} {text}");
    let (code, text) = plant.verb(&["backfill", "--diff"]).await;
    assert!(code == Some(2) && text.contains("temp_mean"), "{code:?} {text}");
    let (code, text) = plant.verb(&["backfill", "--json"]).await;
    assert!(code == Some(0) && text.contains("\"written\": 1"), "{code:?} {text}");
    let (code, text) = plant.verb(&["parity"]).await;
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_and_wrong_files_exit_with_64_and_name_the_place() {
    let plant = Plant::start();
    plant.features(&PRESS.replace("mean(temp)", "maen(temp)"));
    let (code, text) = plant.verb(&["check"]).await;
    assert!(
        code == Some(64) && text.contains("press.toml:") && text.contains("1 problem"),
        "{code:?} {text}"
    );
    let (code, text) = plant.verb(&["run"]).await;
    assert!(code == Some(64) && text.contains("press.toml:"), "{code:?} {text}");
    let (code, _) = plant.verb(&["audit", "--no-such-flag"]).await;
    assert_eq!(code, Some(64));
    let (code, text) = plant.verb(&["where", "hall3/press-03", "yesterday"]).await;
    assert!(code == Some(64) && text.contains("is no time"), "{code:?} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_that_read_the_lake_name_its_file_when_it_is_not_there_or_none() {
    let plant = Plant::start();
    plant.features(PRESS);
    let lake = plant.lake().display().to_string();
    let verbs: &[&[&str]] = &[
        &["status"],
        &["audit"],
        &["where", "hall3/press-03", "2026-01-01T00:00:00Z"],
        &["explain", "press_10s:temp_max"],
        &["dead-letters", "list"],
        &["parity"],
        &["backfill"],
        &["views", "list"],
        &["feast", "export", "--out", "nowhere"],
    ];
    for arguments in verbs {
        let (code, text) = plant.verb(arguments).await;
        let expected = format!("there is no lake at {lake}: `run` and `migrate` make one");
        assert!(code == Some(1) && text.contains(&expected), "{arguments:?}: {code:?} {text}");
        assert!(!plant.lake().exists(), "{arguments:?} made one");
    }
    std::fs::write(plant.lake(), "this is a text and no database at all\n".repeat(100)).unwrap();
    let (code, text) = plant.verb(&["audit"]).await;
    assert!(code == Some(1) && text.contains(&lake) && text.contains("not a database"), "{code:?} {text}");
}
