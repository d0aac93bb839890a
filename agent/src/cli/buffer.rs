//! `buffer show` and `buffer verify`: what stands in the buffer of an agent that is stopped.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use thiserror::Error;

use crate::buffer::{BufferError, Report, inspect, verify};

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs (`--json`).
    Json,
}

/// Whether something was found to be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Everything is well.
    Sound,
    /// A segment is damaged (the next start sets it aside and declares the loss), or rows are not in it that
    /// should be.
    Damaged,
}

/// Says why nothing can be shown.
#[derive(Debug, Error)]
pub enum BufferVerbError {
    /// An agent is running on the data folder.
    #[error("the agent is running and holds {0}; `millrace-agent status` shows its books")]
    Running(std::path::PathBuf),
    /// The buffer cannot be read.
    #[error("the buffer cannot be read")]
    Buffer(#[source] BufferError),
    /// The report cannot be printed.
    #[error("the report cannot be printed")]
    Print(#[from] io::Error),
}

impl From<BufferError> for BufferVerbError {
    fn from(error: BufferError) -> Self {
        match error {
            BufferError::InUse { path } => Self::Running(path),
            other => Self::Buffer(other),
        }
    }
}

/// Prints segments and streams of the buffer below a data folder.
///
/// *Errors*: [`BufferVerbError`].
pub fn run_show(data_dir: &Path, format: Format, out: &mut dyn Write) -> Result<Finding, BufferVerbError> {
    print(&inspect(data_dir)?, format, out)
}

/// Reads every row of the buffer below a data folder, prints what is damaged.
///
/// *Errors*: [`BufferVerbError`].
pub fn run_verify(data_dir: &Path, format: Format, out: &mut dyn Write) -> Result<Finding, BufferVerbError> {
    let shows_progress = io::stderr().is_terminal();
    let report = verify(data_dir, |done, of| {
        if shows_progress {
            // Without a terminal to write to there is nobody to tell.
            let _ = write!(io::stderr(), "\r{done} of {of} segments{}", if done == of { "\n" } else { "" });
        }
    })?;
    print(&report, format, out)
}

fn print(report: &Report, format: Format, out: &mut dyn Write) -> Result<Finding, BufferVerbError> {
    let printed = match format {
        Format::Json => serde_json::to_string_pretty(report)
            .map_err(io::Error::from)
            .and_then(|text| writeln!(out, "{text}")),
        Format::Table => print_tables(report, out),
    };
    match printed {
        // Who closes the pipe has seen enough; what was found counts all the same.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(if report.is_damaged() || !report.books.balanced { Finding::Damaged } else { Finding::Sound })
}

fn print_tables(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let agent = report.agent.as_ref().map_or("unknown (no manifest)", |a| a.as_str());
    writeln!(out, "agent {agent}, {} KiB on disk", report.disk_bytes.div_ceil(1024))?;
    if let Some(what) = &report.manifest_damage {
        writeln!(out, "manifest: {what}; the next start goes on without it, and the books begin anew")?;
    }
    let mut segments = table(&["segment", "entries", "rows waiting", "KiB", "state"]);
    for s in &report.segments {
        segments.add_row([
            s.name.clone(),
            s.entries.to_string(),
            s.waiting_rows.to_string(),
            s.disk_bytes.div_ceil(1024).to_string(),
            s.damage.clone().unwrap_or_else(|| "sound".to_owned()),
        ]);
    }
    writeln!(out, "{segments}")?;
    let mut streams =
        table(&["machine", "category", "epoch", "numbered", "waiting", "unaccounted", "births, losses"]);
    for s in &report.streams {
        streams.add_row([
            s.machine.clone(),
            s.category.clone(),
            s.epoch.clone(),
            s.numbered.to_string(),
            s.waiting_rows.to_string(),
            s.unaccounted_rows.to_string(),
            s.waiting_notices.to_string(),
        ]);
    }
    writeln!(out, "{streams}")?;
    if !report.books.balanced {
        writeln!(
            out,
            "the books do not balance: rows have disappeared from the buffer or were counted twice"
        )?;
    }
    for name in &report.set_aside {
        writeln!(out, "set aside: {name}")?;
    }
    Ok(())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.to_vec());
    table
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_protocol::{AgentId, Epoch};

    use super::*;
    use crate::buffer::{OpenOptions, WallClock, open};
    use crate::config::WhenFull;

    #[test]
    fn show_and_verify_say_that_the_agent_is_running_or_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            data_dir: dir.path().to_owned(),
            agent: AgentId::new("gw").unwrap(),
            epoch: Epoch(1),
            max_bytes: 1 << 30,
            when_full: WhenFull::DropOldest,
            clock: WallClock(Arc::new(|| 1)),
        };
        let (buffer, reader) = open(options).unwrap();
        let mut out = Vec::new();
        let running = run_show(dir.path(), Format::Table, &mut out).unwrap_err();
        assert!(running.to_string().contains("the agent is running"), "{running}");
        drop(reader);
        buffer.close();
        assert_eq!(run_verify(dir.path(), Format::Table, &mut out).unwrap(), Finding::Sound);
        assert!(String::from_utf8(out).unwrap().contains("sound"));
        std::fs::write(dir.path().join("buffer/00000000000000000001/db"), b"").unwrap();
        let mut out = Vec::new();
        assert_eq!(run_verify(dir.path(), Format::Json, &mut out).unwrap(), Finding::Damaged);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["segments"][0]["damage"], "it is empty");
    }
}
