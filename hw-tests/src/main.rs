//! `millrace-plant`: reads arguments, starts logging, runs one verb and maps the exit code.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use millrace_hw_tests::cli::{self, Cli, Verb};
use millrace_hw_tests::demo::Outcome;
use millrace_hw_tests::plant::config::PlantConfig;

/// Wrong usage or configuration.
const EXIT_USAGE: u8 = 64;
/// The demonstration's proof found something.
const EXIT_FOUND: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let verb = match Cli::try_parse() {
        Ok(cli) => cli.verb,
        Err(error) => {
            drop(error.print());
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    let result = match verb {
        Verb::Run(args) => match PlantConfig::load(&args.config) {
            Ok(config) => cli::run::run(args, config).await,
            Err(error) => {
                tracing::error!("{:#}", anyhow::Error::new(error));
                return ExitCode::from(EXIT_USAGE);
            }
        },
        Verb::Broker(args) => cli::broker::run(args).await,
        Verb::Load(args) => cli::load::run(args).await,
        Verb::Demo(args) => match cli::demo::run(args).await {
            Ok(Outcome::Found) => return ExitCode::from(EXIT_FOUND),
            other => other.map(drop),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
