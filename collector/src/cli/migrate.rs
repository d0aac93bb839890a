//! `migrate`: all tables, created or upgraded; idempotent.

use std::path::Path;

use super::{GOOD, table};
use crate::app;
use crate::{features, lake};

pub(super) async fn run(file: &Path) -> anyhow::Result<u8> {
    let config = super::configuration(file)?;
    let catalog = app::feature_files(&config.features_dir)?;
    if let Some(folder) = config.lake_file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut conn = lake::open(&config.lake_file).await?;
    let views = features::migrate(&mut conn, &app::schemas(&catalog)).await?;
    table::line(&format!("{}: all tables are of version {}", config.lake_file.display(), lake::ddl::VERSION));
    for view in views {
        let promoted = if view.promotion.is_some() { ", promoted" } else { "" };
        table::line(&format!("{}{promoted}", view.offline_table()));
    }
    Ok(GOOD)
}
