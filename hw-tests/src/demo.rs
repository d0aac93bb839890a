//! The demonstration: the whole line with no server at all, its faults, and its proof.
//!
//! `make demo` runs this. It starts the real programs, cuts the link to Kafka, kills the agent, mends
//! everything, stops the plant and then compares four witnesses that know nothing of each other: the
//! plant's own log, the agent's books, the lake with the collector's audit, and the features with the
//! batch over the lake. Invariant: it ends with success only if all of them agree.

pub mod line;
pub mod programs;
pub mod proof;
pub mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::line::Line;
use self::programs::wait_for;

/// How long points flow before, between and after the faults.
const PHASE: Duration = Duration::from_secs(6);
/// The most that the line may take to get over a fault on a busy machine.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Deletes one row of the lake before the audit, which must then find it.
    pub break_lake: bool,
    /// Leaves everything running and prints the addresses.
    pub keep: bool,
}

/// How the demonstration ended; the exit code is the audit's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing lost, nothing twice, everything found.
    Proved,
    /// The audit or the comparison found something.
    Found,
}

/// Runs the demonstration. Blocking: call it from a thread of its own.
///
/// *Errors*: a program does not start, stops by itself, or does not recover; the text says which and
/// shows the end of its log.
pub fn run(options: Options) -> anyhow::Result<Outcome> {
    let line = Line::start(line::DEMO_PLANT)?;
    let folder = line.folder().to_owned();
    let outcome = show(line, options);
    if outcome.is_err() && programs::is_stopped() {
        // Nothing is to be looked at in what was broken off.
        drop(std::fs::remove_dir_all(folder));
    }
    outcome
}

fn show(mut line: Line, options: Options) -> anyhow::Result<Outcome> {
    say("plant, Kafka broker, agent and collector run; waiting for the first rows in the lake");
    wait_for("rows in the lake", RECOVERY_LIMIT, || line.rows_in_lake().and_then(at_least(1)))?;
    pause(&mut line, "points flow from the bus to the lake")?;

    line.cut_link().map_err(anyhow::Error::msg)?;
    pause(&mut line, "the link to Kafka is cut; the agent keeps reading and keeps every point on its disk")?;
    line.kill_agent()?;
    say("the agent was killed with kill -9");
    line.start_agent()?;
    pause(&mut line, "the agent is started again; its rows of before the kill still wait on its disk")?;

    let before = line.rows_in_lake().map_err(anyhow::Error::msg)?;
    line.mend_link().map_err(anyhow::Error::msg)?;
    say("the link is back");
    wait_for("more rows in the lake", RECOVERY_LIMIT, || line.rows_in_lake().and_then(at_least(before + 1)))?;
    pause(&mut line, "the backlog drains while live data goes on")?;

    if options.keep {
        report::addresses(&line);
        line.leave_running();
        return Ok(Outcome::Proved);
    }

    line.stop_plant().map_err(anyhow::Error::msg)?;
    say("the plant is stopped; waiting until nothing is waiting or in transit");
    wait_for("nothing waiting and nothing in transit", RECOVERY_LIMIT, || line.drained())?;
    let features = line.newest_features().map_err(anyhow::Error::msg)?;
    let books = line.books().map_err(anyhow::Error::msg)?;
    line.stop_programs().context("stopping agent and collector")?;
    if options.break_lake {
        let row = proof::delete_one_row(&line)?;
        say(&format!("BREAK=1: deleted one row of the lake: {row}"));
    }
    let proof = proof::ask(&line)?;
    report::print(&books, &features, &proof);
    let whole = ["lost", "missing", "stranded"].iter().all(|column| line::sum(&proof.audit, column) == 0);
    let proved = proof.audit_exit == Some(0)
        && whole
        && proof.truth.is_complete()
        && report::balanced(&books)
        && report::differences(&books, &proof.audit).is_empty()
        && proof.parity_exit == Some(0);
    for (verb, code) in [("audit", proof.audit_exit), ("parity", proof.parity_exit)] {
        if !matches!(code, Some(0 | 2)) {
            bail!("{verb} itself failed with exit code {code:?}");
        }
    }
    if proved {
        line.remove_folder()?;
    } else {
        report::line(&format!("\nconfiguration, data and logs are kept in {}", line.folder().display()));
    }
    report::line(if proved {
        "\nproved: nothing lost, nothing twice, every value found, features as the lake gives them"
    } else {
        "\nfound: see above"
    });
    Ok(if proved { Outcome::Proved } else { Outcome::Found })
}

fn say(text: &str) {
    report::line(&format!("▸ {text}"));
}

/// Lets time pass while everything runs, and notices a program that ends by itself.
fn pause(line: &mut Line, what: &str) -> anyhow::Result<()> {
    say(what);
    let end = Instant::now() + PHASE;
    wait_for(what, PHASE * 2, || if Instant::now() >= end { Ok(()) } else { Err("it lasts".to_owned()) })?;
    line.check_alive()
}

fn at_least(wanted: u64) -> impl Fn(u64) -> Result<u64, String> {
    move |rows| if rows >= wanted { Ok(rows) } else { Err(format!("{rows} rows")) }
}
