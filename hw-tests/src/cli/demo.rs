//! `millrace-plant demo`: the whole line with no server at all, its faults, and its proof.

use anyhow::Context;
use clap::Args;

use crate::demo::{self, Options, Outcome, programs};

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Deletes one row of the lake before the audit, which must find it (exit code 2)
    #[arg(long)]
    pub break_lake: bool,
    /// Leaves everything running and prints the addresses of the pages
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demonstration.
///
/// *Errors*: a program does not start, stops by itself, or does not recover.
pub async fn run(args: DemoArgs) -> anyhow::Result<Outcome> {
    let told = super::told_to_stop().context("waiting for a signal")?;
    let options = Options { break_lake: args.break_lake, keep: args.keep };
    let mut shown = tokio::task::spawn_blocking(move || demo::run(options));
    tokio::select! {
        outcome = &mut shown => return outcome.context("the demonstration's thread")?,
        () = told => {}
    }
    // Its programs end with it.
    programs::stop_all();
    shown.await.context("the demonstration's thread")?
}
