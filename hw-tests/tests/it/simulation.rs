//! Some seeds of the simulation (`hw-tests/src/sim.rs`), and proof that it finds what is spoilt on purpose.
//!
//! `MILLRACE_SIM_SEEDS` says how many seeds run, `MILLRACE_SIM_FROM` which is the first. Seeds that once failed stand
//! in `tests/seeds/simulation.txt` and run first.

use millrace_hw_tests::sim::functions::{FUNCTIONS, INSTANT};
use millrace_hw_tests::sim::many::{Failure, run_all};
use millrace_hw_tests::sim::tally::{EVENTS, Tally};
use millrace_hw_tests::sim::{Options, Sabotage, run};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seeds/simulation.txt");

const ALL: Options = Options { disorder: true, latest: true, sabotage: None };

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect(variable))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn kept() -> Vec<u64> {
    let text = std::fs::read_to_string(KEPT).unwrap();
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect(line)).collect()
}

/// Writes seeds that failed to those that run first from now on.
fn keep(failed: &[u64]) {
    let known = kept();
    let new: Vec<String> =
        failed.iter().filter(|seed| !known.contains(seed)).map(|seed| format!("{seed}\n")).collect();
    if new.is_empty() {
        return;
    }
    let mut text = std::fs::read_to_string(KEPT).unwrap();
    text.push_str(&new.concat());
    // A check-out that cannot be written to still says which seeds they are.
    drop(std::fs::write(KEPT, text));
}

#[test]
fn whatever_fails_what_was_confirmed_is_in_the_lake_once_and_stream_is_batch_is_oracle() {
    let from = number("MILLRACE_SIM_FROM", 1);
    let seeds: Vec<u64> = kept().into_iter().chain(from..from + number("MILLRACE_SIM_SEEDS", 120)).collect();
    let heard = |failure: &Failure| println!("seed {} fails: {:#?}", failure.seed, failure.findings);
    let summary = run_all(&seeds, threads(), ALL, &heard);
    println!("{} seeds in {:?}: {:?}", summary.seeds, summary.took, summary.counts);
    let failed: Vec<u64> = summary.failures.iter().map(|failure| failure.seed).collect();
    keep(&failed);
    assert!(failed.is_empty(), "seeds {failed:?} fail; they are kept in {KEPT}");
    // A seed that tries nothing proves nothing.
    let counts = summary.counts;
    assert!(counts.confirmed > 20 * summary.seeds && counts.windows > 20 * summary.seeds, "{counts:?}");
    assert!(counts.oracle > 20 * summary.seeds && counts.lost > 0 && counts.rejected > 0, "{counts:?}");
    everything_happened(&summary.events);
    every_function_was_compared(&summary.functions);
}

/// A kind of event that no seed brought about was not tried.
fn everything_happened(events: &Tally) {
    for (what, times) in events.iter() {
        println!("{times:>9} {what}");
    }
    let never: Vec<&str> = EVENTS.into_iter().filter(|what| events.of(what) == 0).collect();
    assert!(never.is_empty(), "never happened: {never:?}");
}

/// A function whose values were NULL throughout was not compared.
fn every_function_was_compared(functions: &Tally) {
    let sliding = ["oracle", "hopping", "tumbling", "panes"].map(|kind| (kind, FUNCTIONS.as_slice()));
    for (kind, names) in sliding.into_iter().chain([("latest", INSTANT.as_slice())]) {
        let counts: Vec<(&str, u64)> =
            names.iter().map(|name| (*name, functions.of(&format!("{kind}: {name}")))).collect();
        println!("{kind}: {counts:?}");
        let never: Vec<_> = counts.iter().filter(|(_, times)| *times == 0).collect();
        assert!(never.is_empty(), "{kind}: never compared: {never:?}");
    }
}

#[test]
fn whatever_is_spoilt_on_purpose_is_found() {
    let seeds: Vec<u64> = (1..=8).collect();
    for sabotage in Sabotage::ALL {
        let options = Options { sabotage: Some(sabotage), ..ALL };
        let summary = run_all(&seeds, threads(), options, &|_| {});
        let mut kinds: Vec<&str> = summary
            .failures
            .iter()
            .flat_map(|failure| &failure.findings)
            .map(|finding| finding.kind)
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        println!("{sabotage:?}: {} of {} seeds find it: {kinds:?}", summary.failures.len(), seeds.len());
        let expected: &[&str] = match sabotage {
            Sabotage::DeleteRow | Sabotage::ConfirmEarly => &["missing"],
            Sabotage::ForgetSync => &["missing", "audit", "conflict", "misplaced"],
            Sabotage::ChangeValue => &["changed"],
            Sabotage::DoubleRow => &["doubled"],
            Sabotage::ForgetLedger => &["audit"],
            Sabotage::ChangeFeature => &["window differs"],
            Sabotage::DeleteWindow => &["window not stored"],
            Sabotage::LoseRecords | Sabotage::SkipRecords => &["missing", "error"],
        };
        assert!(expected.iter().any(|kind| kinds.contains(kind)), "{sabotage:?} is not found: {kinds:?}");
    }
}

#[test]
fn a_seed_is_one_sequence_of_events() {
    let differing: Vec<u64> = (1..=number("MILLRACE_SIM_TWICE", 6))
        .filter(|&seed| {
            let once = || {
                let outcome = run(seed, ALL).unwrap();
                (outcome.counts, outcome.events, outcome.functions, outcome.findings)
            };
            once() != once()
        })
        .collect();
    assert!(differing.is_empty(), "seeds {differing:?}");
}
