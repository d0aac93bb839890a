//! The simulation: agent and collector in one process, everything between them made of a seed.
//!
//! Real: the agent's batch stage, its buffer on sled, its whole uplink; the collector's ledger, operator graphs,
//! flush and repair on a SQLite lake; the audit. Made of the seed: what machines say (`values`, `plant`), time and
//! the gateway's clocks (`time`), the gateway's disk with its kills, power cuts and fullness (`disk`), Kafka and the
//! link to it (`kafka`), where a flush of the lake is cut (`collector`). Left out: sockets, librdkafka, the online
//! store and the Parquet files, which have suites of their own.
//!
//! [`run`] is one seed: events in the order that the dice say, then everything heals and drains, then `check` and
//! `features` look: what the agent confirmed is in the lake once with its bits, or declared lost; books and audit add
//! up; every window has the bits of the batch driver, and the oracle agrees. One seed is one sequence of events: a
//! seed that fails is replayed with `millrace-plant simulate --from SEED --seeds 1`: `--log` shows what the programs
//! say meanwhile, `--keep FOLDER` leaves lake and buffer to be looked at. Failing seeds are kept in `tests/seeds/simulation.txt`, which the tests run first.

pub mod agent;
pub mod character;
pub mod check;
pub mod collector;
pub mod dice;
pub mod disk;
pub mod features;
pub mod functions;
pub mod kafka;
pub mod many;
#[path = "../../collector/preprocess/tests/it/oracle.rs"]
mod oracle;
pub mod plant;
pub mod tally;
pub mod time;
pub mod truth;
pub mod values;

mod events;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use millrace_collector::config::Limits;
use millrace_collector::flush::Settings;
use millrace_preprocess::{Catalog, SourceFile, compile};

use check::{Counts, Finding, Findings};
use events::Sim;
use tally::Tally;

/// The views that are computed.
const VIEWS: &str = include_str!("sim/views.toml");
/// Where a view has a feature for each function of the language.
const EVERY_SLIDING: &str = "# every function\n";
const EVERY_LATEST: &str = "# every function of an instant\n";
/// What is further ahead of its append time is not believed.
const AHEAD: Duration = Duration::from_secs(86_400);
/// A stream without a sign of life is given up.
const STALL_AFTER: Duration = Duration::from_secs(600);

/// What a seed may do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Payload times go back and forth, so that windows are computed again.
    pub disorder: bool,
    /// `latest` views are compared too.
    pub latest: bool,
    /// What is spoilt on purpose, to see that it is found.
    pub sabotage: Option<Sabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Self { disorder: true, latest: true, sabotage: None }
    }
}

/// Faults that a simulation must find. The first ones are done to the lake at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A row of the lake is gone.
    DeleteRow,
    /// A value of the lake is another.
    ChangeValue,
    /// A row of the lake stands there twice.
    DoubleRow,
    /// The ledger forgets what it accepted.
    ForgetLedger,
    /// A stored feature has another bit.
    ChangeFeature,
    /// A stored window is gone.
    DeleteWindow,
    /// The agent's rows count as confirmed when they are received.
    ConfirmEarly,
    /// Flushes of the buffer do not reach the disk, and the power is cut.
    ForgetSync,
    /// Kafka acknowledges records that it does not keep.
    LoseRecords,
    /// The collector takes what it read for stored: it starts behind what its last flush holds.
    SkipRecords,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::DeleteRow,
        Self::ChangeValue,
        Self::DoubleRow,
        Self::ForgetLedger,
        Self::ChangeFeature,
        Self::DeleteWindow,
        Self::ConfirmEarly,
        Self::ForgetSync,
        Self::LoseRecords,
        Self::SkipRecords,
    ];
}

/// What a seed came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What must not be; empty if all is well.
    pub findings: Vec<Finding>,
    /// What happened on the way.
    pub counts: Counts,
    /// How often what happened: for the reader who wonders whether a fault was tried at all.
    pub events: Tally,
    /// How many values of each function were compared that are not NULL: with the batch driver's by kind of window, and
    /// with the oracle's.
    pub functions: Tally,
}

/// Runs one seed.
///
/// *Errors*: something failed that no fault of the simulation was in the way of; that is a finding, too.
pub fn run(seed: u64, options: Options) -> anyhow::Result<Outcome> {
    let folder = folder()?;
    run_in(folder.path(), seed, options)
}

/// Runs one seed in a folder that is left as it is at the end.
///
/// *Errors*: those of [`run`].
pub fn run_in(folder: &Path, seed: u64, options: Options) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let settings = settings(options)?;
    let mut sim = Sim::new(seed, options, folder, settings.clone(), runtime)?;
    sim.play()?;
    sim.drain()?;
    let mut findings = Findings::default();
    let (mut counts, mut functions) = (Counts::default(), Tally::default());
    sim.check(&settings, (&mut counts, &mut functions), &mut findings)?;
    Ok(Outcome { findings: findings.0, counts, events: sim.tally, functions })
}

/// In memory where the system offers it: a seed writes as often as a gateway in an hour.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("millrace-sim-");
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    folder.context("a temporary folder")
}

fn settings(options: Options) -> anyhow::Result<Settings> {
    let text = if options.latest {
        VIEWS.to_owned()
    } else {
        // The `latest` view stands last in the file.
        VIEWS.rsplit_once("[[feature_view]]").map_or_else(String::new, |(others, _)| others.to_owned())
    };
    let text = text.replace(EVERY_LATEST, functions::LATEST).replace(EVERY_SLIDING, functions::SLIDING);
    let catalog: Catalog = compile(&[SourceFile { name: "views.toml".to_owned(), text }], &|name| {
        Err(format!("{name} is not part of the simulation"))
    })
    .map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(problems.join("\n"))
    })?;
    Ok(Settings {
        catalog: Arc::new(catalog),
        stall_after: STALL_AFTER,
        limits: Limits { earliest_us: 1_600_000_000_000_000, ahead: AHEAD },
    })
}
