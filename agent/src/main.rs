//! `millrace-agent`: reads the arguments, starts the log, does what is asked, maps the exit code.

use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use millrace_agent::cli::{Cli, EXIT_USAGE, Failure};
use millrace_agent::supervise::chain;
use tracing_subscriber::EnvFilter;

/// The environment is read here and nowhere else.
const LOG_VARIABLE: &str = "MILLRACE_LOG";
const LOG_DEFAULT: &str = "info";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where it goes is clap's business; that it goes nowhere is nobody's.
            let _ = error.print();
            let is_asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if is_asked_for { 0 } else { EXIT_USAGE });
        }
    };
    match start_log(cli.log.as_deref()).and_then(|()| cli.execute()) {
        Ok(code) => code,
        Err(failure) => {
            // Where nobody reads it the exit code has to do.
            let _ = writeln!(std::io::stderr(), "{}", chain(&failure));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Logs to standard error; `--log` goes before the variable.
fn start_log(filter: Option<&str>) -> Result<(), Failure> {
    let variable = std::env::var(LOG_VARIABLE).ok();
    let filter = filter.or(variable.as_deref()).unwrap_or(LOG_DEFAULT);
    let filter =
        EnvFilter::try_new(filter).map_err(|error| Failure::Usage(format!("--log {filter}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would say so on standard error, of all places, and panic in the middle of a stage.
        .log_internal_errors(false)
        .init();
    Ok(())
}
