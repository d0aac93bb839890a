//! The real programs, killed with -9 at random instants, agent and collector in turn, under load.
//!
//! At the end the same proof as in the demonstration: every value of the plant's log is in the lake
//! once and bit for bit, the books balance, the audit sums to zero, and the stored features are those that
//! the batch makes of the lake.

use std::time::Duration;

use millrace_hw_tests::demo::line::{Line, lines, sum};
use millrace_hw_tests::demo::programs::wait_for;
use millrace_hw_tests::demo::{proof, report};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Kills of one run, agent and collector in turn.
const KILLS: u32 = 32;
/// A random instant lies within this time after the last one. *Units*: milliseconds.
const INSTANT_MS: std::ops::Range<u64> = 50..1_200;
/// How long the line may take to drain on a busy machine.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn nothing_is_lost_or_doubled_over_thirty_two_kills_of_the_programs() {
    // MILLRACE_SEED repeats a run's instants; what the machine does between them is its own.
    let seed = std::env::var("MILLRACE_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| rand::rng().random());
    println!("MILLRACE_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut line = Line::start().unwrap();
    wait_for("rows in the lake", DRAIN_LIMIT, || match line.rows_in_lake()? {
        0 => Err("no row".to_owned()),
        rows => Ok(rows),
    })
    .unwrap();
    for kill in 0..KILLS {
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
    wait_for("the agent's books", DRAIN_LIMIT, || line.books()).unwrap();
    line.stop_plant().unwrap();
    wait_for("nothing waiting and nothing in transit", DRAIN_LIMIT, || line.drained()).unwrap();
    let books = line.books().unwrap();
    line.stop_programs().unwrap();
    let proof = proof::ask(&line).unwrap();
    let problems: Vec<String> = proof.truth.problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "seed {seed}, {}: {problems:#?}", line.folder().display());
    let (sent, found, excused) = (proof.truth.sent, proof.truth.found, proof.truth.excused);
    println!("{sent} values sent, {found} found, {excused} not on disk at a kill");
    assert!(found > 1_000 && excused < found, "{found} values were found, {excused} are excused");
    assert!(report::balanced(&books), "seed {seed}: {books:#}");
    assert_eq!(proof.audit_exit, Some(0), "seed {seed}: {:#}", proof.audit);
    for column in ["lost", "missing", "stranded", "in_transit"] {
        assert_eq!(sum(&proof.audit, column), 0, "seed {seed}: {column}");
    }
    assert_eq!(proof.parity_exit, Some(0), "seed {seed}, {}: {:#}", line.folder().display(), proof.parity);
    for view in lines(&proof.parity, "views") {
        // Restarts hold no window up for longer than they last.
        assert!(view["windows"].as_u64() > Some(10), "seed {seed}: {:#}", proof.parity);
    }
    assert_eq!(lines(&proof.parity, "views").count(), 3, "seed {seed}: {:#}", proof.parity);
    // Kept when something is wrong, for a look.
    line.remove_folder().unwrap();
}
