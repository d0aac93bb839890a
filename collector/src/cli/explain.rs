//! `explain`: a feature down to tag, machine and register address, by the births in the lake.

use clap::Args;
use serde_json::json;

use super::{ConfigFile, GOOD, table};
use crate::app;
use crate::lake::db::{Row as _, SqliteConnection, Statement};
use crate::lake::{self, LakeError};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// view:feature
    feature: String,
    /// Only this machine (site/name).
    #[arg(long)]
    machine: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Where a tag of a machine comes from.
struct Source {
    machine: String,
    tag: String,
    category: String,
    value_type: String,
    unit: String,
    address: String,
    reporting: String,
    since: i64,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let config = super::configuration(&arguments.file.config)?;
    let catalog = app::feature_files(&config.features_dir)?;
    let asked = arguments.feature.split_once(':');
    let found = asked.and_then(|(view, feature)| {
        let view = catalog.view(view)?;
        let at = view.schema.features.iter().position(|f| *f.name == *feature)?;
        Some((view, at))
    });
    let Some((view, at)) = found else {
        return Err(super::Usage(format!(
            "{:?} is no view:feature of the feature files; see views list",
            arguments.feature
        ))
        .into());
    };
    let tags: Vec<String> = view.feature_tags(at).into_iter().map(ToString::to_string).collect();
    let expression = view.expression(at).unwrap_or_default();
    let mut conn = lake::open_reader(&config.lake_file).await?;
    let mut sources = Vec::new();
    for tag in &tags {
        sources.extend(of_tag(&mut conn, tag).await?);
    }
    sources.retain(|s| {
        let is_kind = s.machine.parse().is_ok_and(|machine| view.kind.holds(&machine));
        is_kind && arguments.machine.as_ref().is_none_or(|wanted| *wanted == s.machine)
    });
    if let (Some(machine), true) = (&arguments.machine, sources.is_empty()) {
        let what =
            format!("no machine of this view's kind that is called {machine:?} has its tags; see status");
        return Err(super::Usage(what).into());
    }
    sources.sort_by(|a, b| (&a.machine, &a.tag).cmp(&(&b.machine, &b.tag)));
    if arguments.json {
        let list: Vec<_> = sources
            .iter()
            .map(|s| {
                json!({
                    "machine": s.machine, "tag": s.tag, "category": s.category, "type": s.value_type, "unit": s.unit,
                    "source": s.address, "reporting": s.reporting, "since": table::json_time(Some(s.since)),
                })
            })
            .collect();
        let schema = &view.schema;
        table::json(&json!({
            "view": &*schema.name, "version": schema.version, "feature": arguments.feature, "expression": expression,
            "tags": tags, "sources": list,
        }))?;
        return Ok(GOOD);
    }
    table::line(&format!("{} = {expression}", arguments.feature));
    table::line(&format!(
        "version {}, kind {:?}, tags: {}",
        view.schema.version,
        view.kind.name,
        tags.join(", ")
    ));
    let mut sheet =
        table::Sheet::new(&["machine", "tag", "category", "type", "unit", "source", "reporting", "since"]);
    for s in sources {
        let since = table::time(Some(s.since));
        sheet.row(&[s.machine, s.tag, s.category, s.value_type, s.unit, s.address, s.reporting, since]);
    }
    sheet.print();
    Ok(GOOD)
}

/// Reads the newest version of a tag on every machine that has it.
async fn of_tag(conn: &mut SqliteConnection, tag: &str) -> Result<Vec<Source>, LakeError> {
    const WHAT: &str = "read the births of a tag (table sensor)";
    let select = Statement::new(
        "SELECT m.name, s.category, s.value_type, s.unit, s.source, s.reporting, s.since, max(s.version) \
         FROM sensor AS s JOIN machine AS m USING (machine_id) WHERE s.tag = ? GROUP BY s.machine_id, s.category",
    );
    let rows = select.bind(tag.to_owned()).fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let source = |row: &crate::lake::db::SqliteRow| -> Result<Source, crate::lake::db::Error> {
        let text = |at: usize| row.try_get::<Option<String>, _>(at).map(Option::unwrap_or_default);
        Ok(Source {
            machine: text(0)?,
            tag: tag.to_owned(),
            category: text(1)?,
            value_type: text(2)?,
            unit: text(3)?,
            address: text(4)?,
            reporting: text(5)?,
            since: row.try_get(6)?,
        })
    };
    rows.iter().map(|row| source(row).map_err(LakeError::sql(WHAT))).collect()
}
