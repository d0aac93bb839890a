//! `feast export`: the Feast repository of what the pipeline writes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ConfigFile, GOOD, table};
use crate::app;
use crate::features::{self, export::Repository};
use crate::lake;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Write feature_store.yaml, definitions.py and training.py.
    Export(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The folder of the repository; it is made.
    #[arg(long, value_name = "FOLDER", default_value = "feature_repo")]
    out: PathBuf,
}

pub(super) async fn run(verb: &Verb) -> anyhow::Result<u8> {
    let Verb::Export(arguments) = verb;
    let config = super::configuration(&arguments.file.config)?;
    let catalog = app::feature_files(&config.features_dir)?;
    let mut conn = lake::open_existing(&config.lake_file).await?;
    let views = features::migrate(&mut conn, &app::schemas(&catalog)).await?;
    let places = app::places(&config);
    let services = app::services(&catalog, &views);
    let repository = Repository {
        project: &config.feast_project,
        online_file: &places.online_file,
        parquet_folder: &places.parquet_folder,
        views: &views,
        services: &services,
    };
    let written = repository.write(&arguments.out).map_err(|(path, error)| {
        anyhow::Error::new(error).context(format!("cannot write {}", path.display()))
    })?;
    written.iter().for_each(|path| table::line(&path.display().to_string()));
    Ok(GOOD)
}
