//! The program's verbs over a lake that a collector filled: what they print and their exit codes.

use std::path::Path;

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
        .replace("version = 1", "version = 2")
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
    let (code, told) = json(&plant, &["check", "--json"]).await;
    assert_eq!((code, &told["machines"]), (Some(64), &serde_json::json!(1)), "{told:#}");
    let at = |problem: &&serde_json::Value| problem["line"] == 16 && problem["column"] == 12;
    let problem = told["problems"].as_array().unwrap().iter().find(at).unwrap();
    assert!(
        problem["file"] == "press.toml" && problem["message"].as_str().unwrap().contains("power"),
        "{told:#}"
    );
    let file = plant.folder.path().join("wrong.toml");
    std::fs::write(&file, "version = 1\n[kafka]\nbrokers = 5\n").unwrap();
    let checked = |file: &Path| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_millrace-collector"))
            .args(["check", "--json", "--config", file.to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(64));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
    };
    let told = checked(&plant.folder.path().join("not-there.toml"));
    assert_eq!(told["good"], false);
    assert!(told["problems"][0]["message"].as_str().unwrap().contains("not-there.toml"), "{told:#}");
    let told = checked(&file);
    let problems = told["problems"].as_array().unwrap();
    let brokers = problems.iter().find(|p| p["path"] == "[kafka] brokers").unwrap();
    assert!(brokers["line"] == 3 && brokers["file"].as_str().unwrap().contains("wrong.toml"), "{told:#}");
    assert!(!brokers["message"].as_str().unwrap().contains("brokers:"), "{told:#}");
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

/// Runs a verb and reads what it prints as JSON.
async fn json(plant: &Plant, arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let (code, text) = plant.verb(arguments).await;
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"));
    (code, value)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_as_json_have_their_fields_and_times_that_say_their_zone() {
    let plant = Plant::start();
    let t0 = filled(&plant).await;
    let machine = "hall3/press-03";
    let at = millrace_collector::clock::rfc3339(t0).unwrap();
    let is_time = |value: &serde_json::Value| {
        let text = value.as_str().unwrap_or_default();
        text.len() == 27 && text.ends_with('Z') && text.as_bytes()[10] == b'T'
    };
    // (arguments, fields of the first entry, fields that are times)
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&["views", "list", "--json"], &["entities", "mode", "window"], &["newest"]),
        (&["dead-letters", "list", "--json"], &["id", "kind", "topic", "partition"], &["received"]),
        (&["where", machine, &at, "--json"], &["category", "agent", "epoch", "state", "rows", "where"], &[]),
    ];
    for (arguments, fields, times) in cases {
        let (code, value) = json(&plant, arguments).await;
        assert_eq!(code, Some(0), "{value:#}");
        let first = value.get(0).or_else(|| value.as_object()?.values().find_map(|v| v.get(0))).unwrap();
        for field in fields.iter().chain(*times) {
            assert!(!first[field].is_null(), "{arguments:?}: {field}: {value:#}");
        }
        assert!(times.iter().all(|field| is_time(&first[field])), "{arguments:?}: {value:#}");
    }
    let (_, found) = json(&plant, &["where", machine, &at, "--json"]).await;
    assert_eq!(found[0]["state"], "in_lake", "{found:#}");
    assert!(found[0]["rows"].as_i64().unwrap() >= 1, "{found:#}");
    let (_, letter) = json(&plant, &["dead-letters", "show", "1", "--json"]).await;
    assert!(is_time(&letter["received"]) && letter["id"] == 1, "{letter:#}");
    let (_, explained) = json(&plant, &["explain", "press_10s:temp_max", "--json"]).await;
    assert!(explained.to_string().contains("\"since\":\"20"), "{explained:#}");
    let (_, status) = json(&plant, &["status", "--json"]).await;
    assert!(status.to_string().contains("\"complete_until\":\"20"), "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_end_quietly_when_nobody_reads_them_and_a_bar_is_for_terminals() {
    let plant = Plant::start();
    filled(&plant).await;
    let file = plant.write_config();
    let file = file.to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_millrace-collector");
    let run = |script: String| std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    let verbs = [
        "check",
        "status",
        "audit",
        "explain press_10s:temp_max",
        "where hall3/press-03 2026-01-01T00:00:00Z",
        "views list",
        "dead-letters list",
        "parity",
        "backfill",
        "backfill --json",
        "status --json",
    ];
    for verb in verbs {
        let out = run(format!("{program} {verb} --config {file} | true; exit ${{PIPESTATUS[0]}}"));
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!told.contains("panicked") && !told.contains("Broken pipe"), "{verb}: {told}");
        assert!(matches!(out.status.code(), Some(0)), "{verb}: {:?} {told}", out.status);
    }
    let out = run(format!("{program} completions bash"));
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("millrace-collector"));
    let out = run(format!("{program} --version"));
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("millrace-collector 0."), "{out:?}");
    let out = run(format!("{program} backfill --config {file}"));
    assert!(!String::from_utf8_lossy(&out.stderr).contains("machine days"), "{out:?}");
    let out = run(format!("script -qec '{program} backfill --config {file}' /dev/null"));
    assert!(String::from_utf8_lossy(&out.stdout).contains("machine days"), "{out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_told_by_the_exit_code_and_stops_no_collector() {
    let mut plant = Plant::start();
    filled(&plant).await;
    let config = plant.write_config();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let program = |verb: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_millrace-collector"));
        command.args(verb).arg("--config").arg(&config);
        command
    };
    for verb in ["status", "audit", "parity", "check"] {
        let out = program(&[verb]).stdout(full()).output().unwrap();
        let told = String::from_utf8(out.stderr).unwrap();
        assert!(
            out.status.code() == Some(1) && told.contains("standard output"),
            "{verb}: {:?} {told}",
            out.status
        );
    }
    let nowhere = program(&["where", "hall3/nope", "2026-11-24T08:00:00Z"]).stderr(full()).status().unwrap();
    assert_eq!(nowhere.code(), Some(64), "its text is lost, its code is not");
    // A log that nobody can take is no reason to stop the intake.
    plant.listen = format!("127.0.0.1:{}", free_port());
    let mut running = std::process::Command::new(env!("CARGO_BIN_EXE_millrace-collector"))
        .args(["run", "--config"])
        .arg(plant.write_config())
        .stderr(full())
        .spawn()
        .unwrap();
    let (item, layout) = rows(31, clock::now_us(), &[1.0]);
    plant.send(2, &[item], Some(&layout), 31).await;
    until(&plant.lake(), "SELECT count(*) FROM reading", 31).await;
    let stopped = std::process::Command::new("kill").arg(running.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert_eq!(running.wait().unwrap().code(), Some(0));
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_nothing_that_is_there_is_refused() {
    let plant = Plant::start();
    filled(&plant).await;
    for (verb, why) in [
        (
            &["parity", "--from", "2026-11-25T10:00:00Z", "--to", "2026-11-25T09:00:00Z"][..],
            "no window between",
        ),
        (&["where", "hall3/nope", "2026-11-24T08:00:00Z"], "no machine is called \"hall3/nope\""),
        (&["explain", "press_10s:temp_mean", "--machine", "hall3/nope"], "\"hall3/nope\""),
    ] {
        let (code, text) = plant.verb(verb).await;
        assert!(code == Some(64) && text.contains(why), "{verb:?}: {code:?} {text}");
    }
    plant.features(&PRESS.replace("hall3/", "hall9/"));
    let (code, text) = plant.verb(&["check"]).await;
    assert!(code == Some(0) && text.contains("holds none of the 1 machines"), "{code:?} {text}");
    std::fs::remove_dir_all(plant.folder.path().join("features.d")).unwrap();
    let (code, text) = plant.verb(&["check"]).await;
    assert!(code == Some(64) && text.contains("features.d\" is no folder"), "{code:?} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_does_not_change_its_meaning_within_a_version() {
    let plant = Plant::start();
    filled(&plant).await;
    let changed = PRESS.replace("mean(temp)", "max(temp)");
    assert_ne!(changed, PRESS);
    plant.features(&changed);
    for verb in ["check", "migrate", "parity", "backfill", "run"] {
        let (code, text) = plant.verb(&[verb]).await;
        assert!(code == Some(64) && text.contains("give the view a new version"), "{verb}: {code:?} {text}");
    }
    plant.features(&changed.replace("version = 1", "version = 2"));
    for verb in ["check", "migrate"] {
        let (code, text) = plant.verb(&[verb]).await;
        assert!(code == Some(0), "{verb}: {code:?} {text}");
    }
    let (code, text) = plant.verb(&["parity", "--from", "2036-01-01T00:00:00Z"]).await;
    assert!(code == Some(1) && text.contains("no window was compared"), "{code:?} {text}");
}
