//! Many seeds at once, on as many threads as asked for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::check::{Counts, Finding};
use super::tally::Tally;
use super::{Options, Outcome, run};

/// A seed that found something.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// What it found.
    pub findings: Vec<Finding>,
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many ran.
    pub seeds: u64,
    /// How long it took.
    pub took: Duration,
    /// Those that found something, in the order of their numbers.
    pub failures: Vec<Failure>,
    /// The sums of all.
    pub counts: Counts,
    /// What happened, in all.
    pub events: Tally,
    /// What was compared of each function, in all.
    pub functions: Tally,
}

/// Runs seeds; `heard` is told of every failure at once.
pub fn run_all(
    seeds: &[u64],
    threads: usize,
    options: Options,
    heard: &(dyn Fn(&Failure) + Sync),
) -> Summary {
    let begun = Instant::now();
    let summary = Mutex::new(Summary::default());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = one(seed, options);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.add(seed, outcome, heard);
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failures.sort_by_key(|failure| failure.seed);
    summary.took = begun.elapsed();
    summary
}

/// Runs one seed; what it dies of is a finding.
#[must_use]
pub fn one(seed: u64, options: Options) -> Outcome {
    let died = |kind, what| Outcome { findings: vec![Finding { kind, what }], ..Outcome::default() };
    match catch_unwind(AssertUnwindSafe(|| run(seed, options))) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => died("error", format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            died("panic", text.unwrap_or_default())
        }
    }
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome, heard: &(dyn Fn(&Failure) + Sync)) {
        self.seeds += 1;
        self.events.add_all(&outcome.events);
        self.functions.add_all(&outcome.functions);
        let Counts { rows, confirmed, in_lake, rejected, lost, windows, oracle } = outcome.counts;
        let sum = &mut self.counts;
        for (sum, more) in [
            (&mut sum.rows, rows),
            (&mut sum.confirmed, confirmed),
            (&mut sum.in_lake, in_lake),
            (&mut sum.rejected, rejected),
            (&mut sum.lost, lost),
            (&mut sum.windows, windows),
            (&mut sum.oracle, oracle),
        ] {
            *sum += more;
        }
        if !outcome.findings.is_empty() {
            let failure = Failure { seed, findings: outcome.findings };
            heard(&failure);
            self.failures.push(failure);
        }
    }
}
