//! `millrace-collector`: see `millrace-collector --help` and docs/interface.md.

use std::process::ExitCode;

use clap::Parser;
use millrace_collector::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and the version are no errors.
            let code = if error.use_stderr() { cli::WRONG_USAGE } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MILLRACE_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        // It would say so on standard error, of all places, and panic in the middle of a stage.
        .log_internal_errors(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli::main(cli));
    // A thread that waits for Kafka must not hold the process up.
    runtime.shutdown_background();
    ExitCode::from(code)
}
