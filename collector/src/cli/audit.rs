//! `audit`: the sum of every stream, and what does not add up (D15).

use clap::Args;

use super::{ConfigFile, FOUND, GOOD, table};
use crate::audit;
use crate::lake;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this machine (site/name).
    #[arg(long)]
    machine: Option<String>,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let config = super::configuration(&arguments.file.config)?;
    let mut conn = lake::open_reader(&config.lake_file).await?;
    let audit = audit::audit(&mut conn, arguments.machine.as_deref()).await?;
    if let Some(machine) = arguments.machine.as_deref().filter(|_| audit.streams.is_empty()) {
        return Err(super::Usage(format!("no stream of a machine {machine:?} is known; see status")).into());
    }
    if arguments.json {
        table::json(&audit)?;
    } else {
        let mut sheet = table::Sheet::new(&[
            "machine",
            "category",
            "epoch",
            "numbered>",
            "in lake>",
            "rejected>",
            "lost>",
            "accepted>",
            "stranded>",
            "in transit>",
            "missing>",
        ]);
        for s in &audit.streams {
            let counts =
                [s.numbered, s.in_lake, s.rejected, s.lost, s.accepted, s.stranded, s.in_transit, s.missing];
            let mut cells = vec![s.machine.clone(), s.category.clone(), s.epoch.clone()];
            cells.extend(counts.iter().map(ToString::to_string));
            sheet.row(&cells);
        }
        sheet.print();
        let findings = audit.findings();
        findings.iter().for_each(|finding| table::line(finding));
        if findings.is_empty() {
            table::line("everything adds up");
        }
    }
    Ok(if audit.is_clean() { GOOD } else { FOUND })
}
