//! The real programs, killed with -9 at random instants, agent and collector in turn, under load and while the plant
//! misbehaves.
//!
//! At the end the same proof as in the demonstration: every value of the plant's log is in the lake
//! once and bit for bit, the books balance, the audit sums to zero, and the stored features are those that
//! the batch makes of the lake.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use millrace_hw_tests::demo::line::{DEMO_PLANT, Line, lines, sum};
use millrace_hw_tests::demo::programs::wait_for;
use millrace_hw_tests::demo::proof::{self, Proof, on_lake};
use millrace_hw_tests::demo::report;
use millrace_protocol::Quality;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

/// Kills of one run, agent and collector in turn.
const KILLS: usize = 32;
/// A random instant lies within this time after the last one. *Units*: milliseconds.
const INSTANT_MS: std::ops::Range<u64> = 50..1_200;
/// How long the line may take to drain on a busy machine.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// Machines that are added to the demonstration's: units on a bus of their own, and publishers.
const MORE_UNITS: u8 = 6; // with press-03 as many as there are faults
const MORE_PUBLISHERS: u8 = 6;
/// A load beside the plant, straight to Kafka: 4,000 points a second for the time that the kills take.
const LOAD: [&str; 10] =
    ["--machines", "40", "--tags", "10", "--rows", "5", "--points", "100000", "--rate", "4000"];
/// What the plant is made to do before each kill, in turn; as many kinds as have nothing in common with the two
/// programs, so that every kind meets both.
const FAULTS: [(&str, u64); 7] = [
    ("dead", 0),
    ("late", 150),
    ("late", 900),
    ("wrong_unit", 0),
    ("wrong_length", 0),
    ("exception", 0),
    ("close", 0),
];
/// How long a fault lasts. *Units*: milliseconds.
const FAULT_MS: std::ops::Range<u64> = 300..1_500;

/// The demonstration's plant with more machines, all of them faster.
fn plant() -> String {
    let mut text = DEMO_PLANT.replace("\"200 ms\"", "\"100 ms\"").replace("\"250 ms\"", "\"100 ms\"");
    text.push_str("\n[[bus]]\nname = \"line-c\"\nlisten = \"127.0.0.1:0\"\ntimeout = \"500 ms\"\n");
    for n in 1..=MORE_UNITS {
        let unit = format!("machine = \"press-1{n}\"\nbus = \"line-c\"\nunit_id = {n}\nprofile = \"press\"");
        writeln!(text, "\n[[device]]\n{unit}").unwrap();
    }
    for n in 1..=MORE_PUBLISHERS {
        let publisher =
            format!("machine = \"oven-1{n}\"\nprofile = \"cell\"\nattributes = {{ line = \"L4\" }}");
        writeln!(text, "\n[[publisher]]\n{publisher}").unwrap();
    }
    text
}

/// Lets a machine misbehave for a while.
fn misbehave(line: &Line, machine: &str, (kind, delay_ms): (&str, u64), lasts_ms: u64) {
    let fault = json!({
        "machine": machine, "kind": kind, "delay": format!("{delay_ms} ms"), "for": format!("{lasts_ms} ms"),
    });
    line.fault(&fault).unwrap();
}

fn any_machine(random: &mut SmallRng) -> String {
    match random.random_range(0..4u8) {
        0 => format!("press-0{}", random.random_range(1..=3u8)),
        1 => format!("oven-1{}", random.random_range(1..=MORE_PUBLISHERS)),
        _ => format!("press-1{}", random.random_range(1..=MORE_UNITS)),
    }
}

/// Kills and starts again; cuts and mends the link meanwhile.
fn kill(line: &mut Line, random: &mut SmallRng) {
    for kill in 0..KILLS {
        let (machine, lasts_ms) = (any_machine(random), random.random_range(FAULT_MS));
        misbehave(line, &machine, FAULTS[kill % FAULTS.len()], lasts_ms);
        std::thread::sleep(Duration::from_millis(random.random_range(INSTANT_MS)));
        line.check_alive().unwrap();
        if kill % 2 == 0 {
            line.kill_agent().unwrap();
            line.start_agent().unwrap();
        } else {
            line.kill_collector().unwrap();
            line.start_collector().unwrap();
        }
        match kill % 8 {
            3 => line.cut_link().unwrap(),
            6 => line.mend_link().unwrap(),
            _ => {}
        }
    }
    line.mend_link().unwrap();
}

/// Lets units misbehave once more, each in a way of its own, until the lake shows that the agent saw it: each kind gives
/// points of its own quality. Which kinds it saw between two kills is chance.
fn misbehave_to_the_end(line: &Line) -> BTreeMap<u8, i64> {
    let units = (1..=MORE_UNITS).map(|n| format!("press-1{n}")).chain(["press-03".to_owned()]);
    for (unit, fault) in units.zip(FAULTS) {
        misbehave(line, &unit, fault, 3_600_000);
    }
    let wanted = [
        Quality::TIMEOUT,
        Quality::NO_CONNECTION,
        Quality::MISMATCH,
        Quality::WRONG_LENGTH,
        Quality::exception(4),
    ];
    wait_for("points of every bad quality", DRAIN_LIMIT, || {
        let found =
            on_lake(line, async |lake| lake.qualities().await).map_err(|error| format!("{error:#}"))?;
        match wanted.iter().all(|quality| found.contains_key(&quality.code())) {
            true => Ok(found),
            false => Err(format!("{found:?}")),
        }
    })
    .unwrap()
}

#[test]
fn nothing_is_lost_or_doubled_over_thirty_two_kills_of_the_programs() {
    // MILLRACE_SEED repeats a run's instants; what the machine does between them is its own.
    let seed = std::env::var("MILLRACE_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| rand::rng().random());
    println!("MILLRACE_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut line = Line::start(&plant()).unwrap();
    wait_for("rows in the lake", DRAIN_LIMIT, || match line.rows_in_lake()? {
        0 => Err("no row".to_owned()),
        rows => Ok(rows),
    })
    .unwrap();
    let load = line.start_load(&LOAD).unwrap();
    kill(&mut line, &mut random);
    wait_for("the agent's books", DRAIN_LIMIT, || line.books()).unwrap();
    let sent_rows: i64 = wait_for("the load's end", DRAIN_LIMIT, || {
        load.key("MILLRACE_LOAD_ROWS").map_err(|error| format!("{error:#}"))
    })
    .unwrap()
    .parse()
    .unwrap();
    let qualities = misbehave_to_the_end(&line);
    line.stop_plant().unwrap();
    wait_for("nothing waiting and nothing in transit", DRAIN_LIMIT, || line.drained()).unwrap();
    let books = line.books().unwrap();
    line.stop_programs().unwrap();
    let proof = proof::ask(&line).unwrap();
    let what = format!("seed {seed}, {}", line.folder().display());
    check(&proof, &books, &what);
    check_load(&line, sent_rows, &what);
    println!("points by quality before the end: {qualities:?}");
    // Kept when something is wrong, for a look.
    line.remove_folder().unwrap();
}

/// The witnesses agree.
fn check(proof: &Proof, books: &Value, what: &str) {
    let problems: Vec<String> = proof.truth.problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{what}: {problems:#?}");
    let (sent, found, excused) = (proof.truth.sent, proof.truth.found, proof.truth.excused);
    println!("{sent} values sent, {found} found, {excused} not on disk at a kill or too late");
    assert!(found > 10_000 && excused < found, "{found} values were found, {excused} are excused");
    assert!(report::balanced(books), "{what}: {books:#}");
    assert_eq!(proof.audit_exit, Some(0), "{what}: {:#}", proof.audit);
    for column in ["lost", "missing", "stranded", "in_transit"] {
        assert_eq!(sum(&proof.audit, column), 0, "{what}: {column}");
    }
    assert_eq!(proof.parity_exit, Some(0), "{what}: {:#}", proof.parity);
    for view in lines(&proof.parity, "views") {
        // Restarts hold no window up for longer than they last.
        assert!(view["windows"].as_u64() > Some(10), "{what}: {:#}", proof.parity);
    }
    assert_eq!(lines(&proof.parity, "views").count(), 3, "{what}: {:#}", proof.parity);
}

/// Every row that the load sent, and that Kafka acknowledged, is in the lake once.
fn check_load(line: &Line, sent_rows: i64, what: &str) {
    let streams = on_lake(line, async |lake| lake.load_streams().await).unwrap();
    assert_eq!(streams.iter().map(|(rows, _)| rows).sum::<i64>(), sent_rows, "{what}: {streams:?}");
    assert!(streams.iter().all(|(rows, last_seq)| rows == last_seq), "{what}: {streams:?}");
    println!("{sent_rows} rows of a load beside it, each there once");
}
