//! The command line: one module for each verb.
//!
//! Exit codes: 0 good, 1 failed while running, 2 audit, parity or `--diff` found something, 64 wrong usage or
//! configuration.

mod audit;
mod backfill;
mod check;
mod dead_letters;
mod explain;
mod feast;
mod find;
mod migrate;
mod run;
mod status;
mod table;
mod views;

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::app::{AppError, FeatureFilesError};
use crate::config::{self, Config, ConfigError};
use crate::features::offline::OfflineError;

/// All is well.
pub const GOOD: u8 = 0;
/// It failed while it ran.
pub const FAILED: u8 = 1;
/// Audit, parity or `--diff` found something.
pub const FOUND: u8 = 2;
/// Wrong usage or configuration.
pub const WRONG_USAGE: u8 = 64;

/// From Kafka to the lake and the feature stores.
#[derive(Debug, Parser)]
#[command(name = "millrace-collector", version, about)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// The configuration file.
#[derive(Debug, Clone, Args)]
struct ConfigFile {
    /// The configuration file; the directory conf.d beside it is read too.
    #[arg(long, value_name = "FILE", default_value = "/etc/millrace/collector.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read Kafka, fill the lake and the feature stores, serve features.
    Run(ConfigFile),
    /// Check configuration and feature files, also against what machines report; every problem is named at once.
    Check(check::Arguments),
    /// Create or upgrade all tables; run does it too.
    Migrate(ConfigFile),
    /// Show what the ledger knows of every stream.
    Status(status::Arguments),
    /// Does every numbered row stand somewhere? Exit code 2 if not.
    Audit(audit::Arguments),
    /// Which stage holds what a machine measured at a time?
    Where(find::Arguments),
    /// A feature down to tag, machine and register address.
    Explain(explain::Arguments),
    /// Compute features from the lake and write what differs from what is stored.
    Backfill(backfill::Arguments),
    /// Is what the lake gives what the stream wrote, bit for bit? Exit code 2 if not.
    Parity(backfill::Scope),
    /// Feature views.
    #[command(subcommand)]
    Views(views::Verb),
    /// What could not be read.
    #[command(subcommand)]
    DeadLetters(dead_letters::Verb),
    /// The Feast repository.
    #[command(subcommand)]
    Feast(feast::Verb),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Carries out a command line; gives the exit code.
pub async fn main(cli: Cli) -> u8 {
    let done = match cli.verb {
        Verb::Run(file) => run::run(&file.config).await,
        Verb::Check(arguments) => check::run(&arguments).await,
        Verb::Migrate(file) => migrate::run(&file.config).await,
        Verb::Status(arguments) => status::run(&arguments).await,
        Verb::Audit(arguments) => audit::run(&arguments).await,
        Verb::Where(arguments) => find::run(&arguments).await,
        Verb::Explain(arguments) => explain::run(&arguments).await,
        Verb::Backfill(arguments) => backfill::run(arguments).await,
        Verb::Parity(arguments) => backfill::parity(arguments).await,
        Verb::Views(verb) => views::run(&verb).await,
        Verb::DeadLetters(verb) => dead_letters::run(&verb).await,
        Verb::Feast(verb) => feast::run(&verb).await,
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "millrace-collector", &mut script);
            table::text(&script);
            Ok(GOOD)
        }
    };
    match done {
        Ok(GOOD) if table::is_lost() => {
            report("the result could not be written to standard output");
            FAILED
        }
        Ok(code) => code,
        Err(error) => {
            let code = code_of(error.as_ref());
            report(&crate::app::chain(error.as_ref()));
            code
        }
    }
}

/// An argument that the command line's own grammar cannot refuse.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Reads a time as people write it. *Units*: microseconds since 1970-01-01 UTC.
fn time_us(text: &str) -> Result<i64, Usage> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok();
    time.and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000).ok())
        .ok_or_else(|| Usage(format!("{text:?} is no time; write it as 2026-11-24T08:00:00Z")))
}

/// Prints an error for people; it is no log line. Where nobody reads it the exit code has to do.
fn report(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn code_of(error: &(dyn Error + 'static)) -> u8 {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(AppError::Features(_))) {
            return WRONG_USAGE;
        }
        // The files and what is stored do not fit: the files are to change.
        if matches!(
            error.downcast_ref(),
            Some(
                OfflineError::Changed { .. } | OfflineError::Meaning { .. } | OfflineError::NameClash { .. }
            )
        ) {
            return WRONG_USAGE;
        }
        if error.is::<ConfigError>() || error.is::<FeatureFilesError>() || error.is::<Usage>() {
            return WRONG_USAGE;
        }
        cause = error.source();
    }
    FAILED
}

fn configuration(file: &Path) -> Result<Config, ConfigError> {
    config::load(file)
}
