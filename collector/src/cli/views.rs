//! `views list`: every version of every feature view, and which one is promoted.

use clap::{Args, Subcommand};
use millrace_preprocess::{Mode, Window};
use serde_json::json;

use super::{ConfigFile, GOOD, table};
use crate::app;
use crate::features;
use crate::lake;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the feature views.
    List(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(verb: &Verb) -> anyhow::Result<u8> {
    let Verb::List(arguments) = verb;
    let config = super::configuration(&arguments.file.config)?;
    let catalog = app::feature_files(&config.features_dir)?;
    let mut conn = lake::open_existing(&config.lake_file).await?;
    let active = features::migrate(&mut conn, &app::schemas(&catalog)).await?;
    let mut sheet = table::Sheet::new(&[
        "view",
        "version>",
        "promoted",
        "kind",
        "mode",
        "window",
        "features>",
        "entities>",
        "newest",
    ]);
    let mut list = Vec::new();
    for view in catalog.views() {
        let schema = &view.schema;
        let found =
            active.iter().find(|a| a.schema.name == schema.name && a.schema.version == schema.version);
        let promoted = found.is_some_and(|a| a.promotion.is_some());
        let rows = features::offline::newest_per_entity(&mut conn, schema).await?;
        let newest = rows.iter().map(|row| row.row.event_us).max();
        let mode = match view.mode {
            Mode::Stream => "stream".to_owned(),
            Mode::Batch { run_every_us } => format!("batch every {}", duration(run_every_us)),
        };
        let window = window(&view.window);
        if arguments.json {
            list.push(json!({
                "view": &*schema.name, "version": schema.version, "promoted": promoted, "kind": &*view.kind.name,
                "mode": mode, "window": window, "entities": rows.len(), "newest": table::json_time(newest),
                "features": schema.features.iter().map(|f| &*f.name).collect::<Vec<_>>(),
            }));
        }
        sheet.row(&[
            schema.name.to_string(),
            schema.version.to_string(),
            if promoted { "yes" } else { "no" }.to_owned(),
            view.kind.name.to_string(),
            mode,
            window,
            schema.features.len().to_string(),
            rows.len().to_string(),
            table::time(newest),
        ]);
    }
    if arguments.json {
        table::json(&list)?
    } else {
        sheet.print()
    }
    Ok(GOOD)
}

fn window(window: &Window) -> String {
    match window {
        Window::Sliding { size_us, every_us, .. } if size_us == every_us => duration(*size_us),
        Window::Sliding { size_us, every_us, .. } => {
            format!("{} every {}", duration(*size_us), duration(*every_us))
        }
        Window::Latest { cell_us } => format!("latest, at most every {}", duration(*cell_us)),
    }
}

fn duration(us: i64) -> String {
    let duration = std::time::Duration::from_micros(u64::try_from(us).unwrap_or(0));
    humantime::format_duration(duration).to_string()
}
