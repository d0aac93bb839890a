//! `millrace-plant simulate`: agent and collector in one process, thousands of seeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use super::print_line;
use crate::sim::many::{Failure, run_all};
use crate::sim::{Options, run_in};

/// Arguments of `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// How many
    #[arg(long, default_value_t = 1000)]
    pub seeds: u64,
    /// On how many threads; without it: one for each core
    #[arg(long)]
    pub threads: Option<usize>,
    /// Payload times in order, so that no window is computed again
    #[arg(long)]
    pub in_order: bool,
    /// Without the `latest` view
    #[arg(long)]
    pub no_latest: bool,
    /// Runs the first seed only, in this folder, and leaves it there
    #[arg(long, value_name = "FOLDER")]
    pub keep: Option<PathBuf>,
    /// What the programs have to say (RUST_LOG); for one seed on one thread
    #[arg(long)]
    pub log: bool,
}

/// Runs the seeds; gives how many found something.
#[must_use]
pub fn run(args: &SimulateArgs) -> usize {
    let options = Options { disorder: !args.in_order, latest: !args.no_latest, sabotage: None };
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    if let Some(folder) = &args.keep {
        return keep(folder, args.from, options);
    }
    let seeds: Vec<u64> = (args.from..args.from.saturating_add(args.seeds)).collect();
    let heard = |failure: &Failure| {
        for finding in &failure.findings {
            print_line(
                &format!("FOUND seed {}", failure.seed),
                format!("{}: {}", finding.kind, finding.what),
            );
        }
    };
    let summary = run_all(&seeds, threads.unwrap_or(1), options, &heard);
    let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for failure in &summary.failures {
        for finding in &failure.findings {
            let seeds = kinds.entry(finding.kind).or_default();
            if seeds.last() != Some(&failure.seed) {
                seeds.push(failure.seed);
            }
        }
    }
    for (kind, seeds) in &kinds {
        print_line(&format!("KIND {kind}"), format!("{} seeds: {seeds:?}", seeds.len()));
    }
    let took = summary.took.as_secs_f64();
    print_line("SEEDS", summary.seeds);
    print_line("FAILED", summary.failures.len());
    print_line("SECONDS", format!("{took:.1}"));
    print_line("SEEDS_PER_SECOND", format!("{:.1}", summary.seeds as f64 / took));
    for (what, times) in summary.events.iter() {
        print_line(&format!("EVENT {what}"), times);
    }
    print_line("COUNTS", format!("{:?}", summary.counts));
    summary.failures.len()
}

/// Runs one seed in a folder.
fn keep(folder: &Path, seed: u64, options: Options) -> usize {
    let outcome =
        std::fs::create_dir_all(folder).map_err(Into::into).and_then(|()| run_in(folder, seed, options));
    match outcome {
        Ok(outcome) => {
            for finding in &outcome.findings {
                print_line("FOUND", format!("{}: {}", finding.kind, finding.what));
            }
            print_line("COUNTS", format!("{:?} {:?}", outcome.counts, outcome.events));
            outcome.findings.len()
        }
        Err(error) => {
            print_line("ERROR", format!("{error:#}"));
            1
        }
    }
}
