//! The command line: the verbs of `millrace-agent` and what they print.
//!
//! Invariant: this file tree is the only one that prints to standard output. A verb gives an `Exit`
//! and leaves it to `main` to end the process.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use thiserror::Error;

use crate::app::AppError;
use crate::config::{Config, Problems};

pub mod buffer;
pub mod check;
mod connect;
pub mod plan;
mod run;
mod status;
mod table;

/// Where the configuration stands unless `--config` says otherwise.
const CONFIG_FILE: &str = "/etc/millrace/agent.toml";

/// Reads machines over Modbus and MQTT, keeps every point on disk, and produces to Kafka.
#[derive(Debug, Parser)]
#[command(name = "millrace-agent", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What is logged: error, warn, info, debug, trace, or filters such as millrace_agent::uplink=debug
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the agent until SIGTERM or Ctrl-C
    Run(ConfigArgs),
    /// Checks the configuration and names every problem at once
    Check(CheckArgs),
    /// Shows the requests of every poll cycle and the load of every bus
    Plan(ReportArgs),
    /// Shows the books of the running agent
    Status(StatusArgs),
    /// Looks into the buffer on disk
    Buffer {
        #[command(subcommand)]
        verb: BufferVerb,
    },
    /// Writes completions for a shell to standard output
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum BufferVerb {
    /// Shows segments and what waits in them
    Show(ReportArgs),
    /// Reads every segment and says whether it is whole
    Verify(ReportArgs),
}

/// Arguments of verbs that read the configuration and print something.
#[derive(Debug, Args)]
struct ReportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    report: ReportArgs,
    /// Tries every address too, and says what is wrong with it
    #[arg(long)]
    connect: bool,
}

/// Which configuration is meant.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration; a directory conf.d beside it is read too
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE)]
    pub config: PathBuf,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Asks this address instead of the configuration's
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Prints the answer of /api/books as it is
    #[arg(long)]
    json: bool,
}

/// Says why a verb failed.
#[derive(Debug, Error)]
pub enum Failure {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The command line cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The agent did not start or cannot go on.
    #[error(transparent)]
    App(#[from] AppError),
    /// Something failed while the verb ran.
    #[error("{what}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Failure {
    /// Gives the exit code: 64 for usage or configuration, 1 for a failure while running.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) => EXIT_USAGE,
            Self::App(_) | Self::Failed { .. } => 1,
        }
    }
}

const NOT_PRINTED: &str = "the result could not be written to standard output";

/// Exit code of wrong usage or configuration. *Source*: sysexits.h, `EX_USAGE`.
pub const EXIT_USAGE: u8 = 64;

impl Cli {
    /// Tells whether the agent is to run.
    #[must_use]
    pub const fn is_run(&self) -> bool {
        matches!(self.verb, Verb::Run(_))
    }

    /// Does what the command line asks for and gives the exit code.
    ///
    /// *Errors*: [`Failure`], to be shown with all its causes.
    pub fn execute(self) -> Result<ExitCode, Failure> {
        match self.verb {
            Verb::Run(args) => run::run(&args)?,
            Verb::Check(args) => {
                return Ok(check::run(&args.report.config.config, args.report.json, args.connect));
            }
            Verb::Plan(args) => return Ok(plan::run(&args.config.config, args.json)),
            Verb::Status(args) => status::run(&args)?,
            Verb::Buffer { verb } => return look_into_buffer(&verb),
            Verb::Completions { shell } => {
                let mut command = Self::command();
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut command, "millrace-agent", &mut script);
                print(&script)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints a result; a reader that has seen enough (`| head`) is no reason to fail.
///
/// *Errors*: [`Failure::Failed`] if it cannot be written.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed { what: NOT_PRINTED.to_owned(), source: error.into() })
        }
        _ => Ok(()),
    }
}

/// Says that a result is lost, and gives the exit code.
fn not_printed(error: &std::io::Error, problems: &mut impl Write) -> u8 {
    // Where nobody reads it the exit code has to do.
    drop(writeln!(problems, "{NOT_PRINTED}: {error}"));
    1
}

fn look_into_buffer(verb: &BufferVerb) -> Result<ExitCode, Failure> {
    let (BufferVerb::Show(args) | BufferVerb::Verify(args)) = verb;
    let data_dir = args.config.load()?.data_dir;
    let format = if args.json { buffer::Format::Json } else { buffer::Format::Table };
    let out = &mut std::io::stdout();
    let finding = match verb {
        BufferVerb::Show(_) => buffer::run_show(&data_dir, format, out),
        BufferVerb::Verify(_) => buffer::run_verify(&data_dir, format, out),
    };
    match finding {
        Ok(buffer::Finding::Sound) => Ok(ExitCode::SUCCESS),
        Ok(buffer::Finding::Damaged) => Ok(ExitCode::FAILURE),
        Err(source) => {
            let what = format!("the buffer in {} cannot be shown", data_dir.display());
            Err(Failure::Failed { what, source: source.into() })
        }
    }
}

impl ConfigArgs {
    /// Reads the configuration.
    ///
    /// *Errors*: [`Failure::Config`] with every problem.
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.config)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn log_may_stand_before_and_behind_the_verb() {
        for line in [["--log", "debug", "run"], ["run", "--log", "debug"]] {
            let cli = Cli::try_parse_from(std::iter::once("millrace-agent").chain(line)).unwrap();
            assert_eq!(cli.log.as_deref(), Some("debug"));
            let Verb::Run(args) = cli.verb else { panic!("{line:?}") };
            assert_eq!(args.config, PathBuf::from(CONFIG_FILE));
        }
    }
}
