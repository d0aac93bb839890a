//! The proof: the plant's own log held against the lake, the collector's audit, and the stored features held
//! against what the batch makes of the lake.

use anyhow::Context;
use serde_json::Value;

use super::line::Line;
use crate::lake::Lake;
use crate::truth::compare::{Report, compare};
use crate::truth::readings::Truth;

/// What the witnesses say.
#[derive(Debug)]
pub struct Proof {
    /// The plant's log against the lake.
    pub truth: Report,
    /// The audit's exit code.
    pub audit_exit: Option<i32>,
    /// The audit, as it prints it with `--json`.
    pub audit: Value,
    /// The exit code of `parity`.
    pub parity_exit: Option<i32>,
    /// What `parity` prints with `--json`.
    pub parity: Value,
}

/// Asks the witnesses.
///
/// *Errors*: one cannot be asked.
pub fn ask(line: &Line) -> anyhow::Result<Proof> {
    let truth = Truth::load(&line.truth()).context("reading the plant's log")?;
    let points = on_lake(line, async |lake| lake.good_points().await)?;
    let (audit_exit, audit) = line.audit().map_err(anyhow::Error::msg)?;
    let (parity_exit, parity) = line.parity().map_err(anyhow::Error::msg)?;
    Ok(Proof { truth: compare(&truth, points, line.excuses()), audit_exit, audit, parity_exit, parity })
}

/// Deletes one row of the lake and says which.
///
/// *Errors*: there is none, or the lake is locked.
pub fn delete_one_row(line: &Line) -> anyhow::Result<String> {
    on_lake(line, async |lake| lake.delete_one_row().await)
}

/// Asks the lake's file with code of its own, apart from the collector's.
///
/// *Errors*: it cannot be opened or asked.
pub fn on_lake<T>(line: &Line, ask: impl AsyncFnOnce(&mut Lake) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut lake = Lake::open(&line.lake()).await?;
        ask(&mut lake).await
    })
}
