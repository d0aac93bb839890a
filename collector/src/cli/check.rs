//! `check`: configuration and feature files, without a server and without starting anything.

use clap::Args;

use super::{ConfigFile, GOOD, WRONG_USAGE, table};
use crate::app::{self, FeatureFilesError};
use crate::config::ConfigError;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let mut problems: Vec<String> = Vec::new();
    let (mut views, mut services) = (0, 0);
    match super::configuration(&arguments.file.config) {
        Err(ConfigError::Problems(found)) => problems.extend(found.iter().map(ToString::to_string)),
        Err(other) => return Err(other.into()),
        Ok(config) => match app::feature_files(&config.features_dir) {
            Err(FeatureFilesError::Problems(found)) => problems.extend(found.iter().map(ToString::to_string)),
            Err(other) => return Err(other.into()),
            Ok(catalog) => (views, services) = (catalog.views().len(), catalog.services().len()),
        },
    }
    let count = problems.len();
    if arguments.json {
        table::json(&serde_json::json!({ "problems": problems, "views": views, "services": services }))?;
    } else {
        problems.iter().for_each(|problem| table::line(problem));
        match count {
            0 => table::line(&format!("good: {views} feature views, {services} feature services")),
            _ => table::line(&format!(
                "{count} problem{}; nothing was started",
                if count == 1 { "" } else { "s" }
            )),
        }
    }
    Ok(if count == 0 { GOOD } else { WRONG_USAGE })
}
