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
    // The programs of a simulation complain of every fault that is made for them.
    let verb = Cli::try_parse().map(|cli| cli.verb);
    let quiet = matches!(&verb, Ok(Verb::Simulate(args)) if !args.log);
    let level = if quiet { "off" } else { "info" };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .ok()
                .filter(|_| !quiet)
                .unwrap_or_else(|| tracing_subscriber::EnvFilter::new(level)),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let verb = match verb {
        Ok(verb) => verb,
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
        Verb::Simulate(args) => {
            // It has runtimes of its own, which must not begin inside of this one.
            return match tokio::task::spawn_blocking(move || cli::simulate::run(&args)).await {
                Ok(0) => ExitCode::SUCCESS,
                Ok(_) => ExitCode::from(EXIT_FOUND),
                Err(_) => ExitCode::FAILURE,
            };
        }
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
