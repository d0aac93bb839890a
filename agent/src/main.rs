//! `millrace-agent`: reads the arguments, starts the log, does what is asked, maps the exit code.

use std::io::{IsTerminal, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;
use clap::error::ErrorKind;
use millrace_agent::cli::{Cli, EXIT_USAGE, Failure};
use millrace_agent::supervise::chain;
use tracing_subscriber::EnvFilter;

/// The environment is read here and nowhere else.
const LOG_VARIABLE: &str = "MILLRACE_LOG";
const LOG_DEFAULT: &str = "info";

/// How glibc's allocator is to work in a process that runs for months on a small gateway; other libraries ignore it.
/// One arena, because eight hold eight times what nobody needs at the moment. A fixed size from which memory comes
/// straight from the kernel: without it glibc raises it to what was freed last, and sled's page tables, 6 MB of zeros of
/// each segment, are then taken from the heap and written in full. docs/adr/0007 has the figures.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "524288")];

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
    if cli.is_run() {
        set_allocator();
    }
    match start_log(cli.log.as_deref()).and_then(|()| cli.execute()) {
        Ok(code) => code,
        Err(failure) => {
            // Where nobody reads it the exit code has to do.
            let _ = writeln!(std::io::stderr(), "{}", chain(&failure));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Begins this program again, in the same process, with [`ALLOCATOR`]: glibc reads it only at its very start.
fn set_allocator() {
    // Set by us a moment ago, or by a user who knows better.
    if ALLOCATOR.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    let Some((name, program)) = arguments.next().zip(std::env::current_exe().ok()) else { return };
    if program.file_name() != Path::new(&name).file_name() {
        // Begun by a loader or by a link of another name: it would not be this program that begins again.
        return;
    }
    // It returns only if it failed; then the program runs on as it is, and takes some more memory.
    drop(Command::new(program).arg0(name).args(arguments).envs(ALLOCATOR).exec());
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
