//! `check`: configuration and feature files, without a server and without starting anything.
//!
//! Where there is a lake, the feature files are also held against what its machines report (F1): tags, types, units.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::Args;
use millrace_link::{PATIENCE, Refusal, reach};
use millrace_preprocess::Catalog;
use millrace_protocol::{Birth, MachineName};
use serde_json::json;

use super::{ConfigFile, FAILED, GOOD, WRONG_USAGE, table};
use crate::app::{self, FeatureFilesError};
use crate::config::{ConfigError, Kafka};
use crate::features::offline;
use crate::lake::{self, LakeError, read};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Try the brokers of Kafka too, and say what is wrong with them.
    #[arg(long)]
    connect: bool,
}

/// What was looked at, and what is wrong with it.
#[derive(Debug, Default)]
struct Checked {
    problems: Vec<Told>,
    views: usize,
    services: usize,
    /// How many machines the views were held against.
    machines: usize,
    /// Kinds of views that hold none of them.
    empty_kinds: BTreeSet<String>,
    /// Each broker that was tried, and why it refuses.
    servers: Vec<(String, Option<Refusal>)>,
    /// Why they were not.
    unknown: Option<String>,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let mut checked = Checked::default();
    let configuration = super::configuration(&arguments.file.config);
    if let (true, Ok(config)) = (arguments.connect, &configuration) {
        checked.connect(config.kafka.clone()).await?;
    }
    match configuration {
        Err(ConfigError::Problems(found)) => {
            checked.problems.extend(found.iter().map(Told::of_configuration))
        }
        Err(ConfigError::Read { file, source }) => checked.problems.push(Told::of_file(&file, &source)),
        Ok(config) => match app::feature_files(&config.features_dir) {
            Err(FeatureFilesError::Problems(found)) => {
                checked.problems.extend(found.iter().map(Told::of_features))
            }
            Err(FeatureFilesError::Read(files)) => {
                checked.problems.extend(files.iter().map(|(file, why)| Told::of_file(file, why)));
            }
            Ok(catalog) => {
                (checked.views, checked.services) = (catalog.views().len(), catalog.services().len());
                checked.machines(&catalog, &config.lake_file).await;
                if checked.unknown.is_none() {
                    checked.versions(&catalog, &config.lake_file).await?;
                }
            }
        },
    }
    checked.print(arguments.json)
}

/// A problem, for a person and for a program.
#[derive(Debug)]
struct Told {
    text: String,
    json: serde_json::Value,
}

impl Told {
    fn of_configuration(problem: &crate::config::Problem) -> Self {
        let json = json!({
            "file": *problem.file, "line": problem.line, "path": problem.path, "message": problem.message,
        });
        Self { text: problem.to_string(), json }
    }

    /// Of a file that cannot be read: neither line nor path is known.
    fn of_file(file: &Path, why: &std::io::Error) -> Self {
        let text = format!("cannot read {}: {why}", file.display());
        Self { json: json!({ "file": file, "line": null, "path": null, "message": text }), text }
    }

    fn of_features(problem: &millrace_preprocess::Problem) -> Self {
        let json = json!({
            "file": *problem.file, "line": problem.line, "column": problem.column, "text": problem.text,
            "message": problem.message, "suggestion": problem.suggestion,
        });
        Self { text: problem.to_string(), json }
    }
}

impl Checked {
    /// Holds the views against the births in the lake. A lake that cannot be read is no fault of the files.
    async fn machines(&mut self, catalog: &Catalog, lake_file: &Path) {
        match newest_births(lake_file).await {
            Ok(known) => {
                self.machines = known.len();
                let kinds = catalog.views().iter().map(|view| &view.kind);
                let empty = kinds.filter(|kind| !known.keys().any(|machine| kind.holds(machine)));
                self.empty_kinds = empty.map(|kind| kind.name.to_string()).collect();
                let births = known.iter().map(|(name, births)| (name.clone(), births.iter().collect()));
                self.problems.extend(catalog.check(&births.collect()).iter().map(Told::of_features));
            }
            Err(error) => self.unknown = Some(app::chain(&error)),
        }
    }

    /// Tries the brokers, with certificates; a user name and password are tried by `run` only.
    async fn connect(&mut self, kafka: Kafka) -> anyhow::Result<()> {
        let try_all = move || {
            let reach = |broker: &String| reach(broker, kafka.security.tls.as_ref(), PATIENCE).err();
            kafka.brokers.iter().map(|broker| (format!("kafka {broker}"), reach(broker))).collect()
        };
        self.servers = tokio::task::spawn_blocking(try_all).await?;
        Ok(())
    }

    /// Holds the views against what is stored under their versions (F12).
    async fn versions(&mut self, catalog: &Catalog, lake_file: &Path) -> Result<(), LakeError> {
        let mut conn = lake::open_reader(lake_file).await?;
        match offline::conflicts(&mut conn, &app::schemas(catalog)).await {
            Ok(found) => self.problems.extend(found.iter().map(|conflict| {
                let text = conflict.to_string();
                Told { json: json!({ "file": null, "line": null, "path": null, "message": text }), text }
            })),
            Err(error) => self.unknown = Some(app::chain(&error)),
        }
        Ok(())
    }

    fn print(&self, json: bool) -> anyhow::Result<u8> {
        let count = self.problems.len();
        if json {
            let problems: Vec<_> = self.problems.iter().map(|problem| &problem.json).collect();
            table::json(&json!({
                "good": count == 0, "problems": problems, "views": self.views, "services": self.services,
                "machines": self.machines, "machines_unknown": self.unknown,
                "kinds_without_machines": self.empty_kinds,
                "servers": self.servers.iter().map(|(what, refusal)| {
                    json!({ "server": what, "refusal": refusal.as_ref().map(ToString::to_string) })
                }).collect::<Vec<_>>(),
            }))?;
        } else {
            self.problems.iter().for_each(|problem| table::line(&problem.text));
            if let Some(why) = &self.unknown {
                table::line(&format!(
                    "tags, types and units were not held against what machines report: {why}"
                ));
            }
            for (what, refusal) in &self.servers {
                let said = refusal.as_ref().map_or_else(|| "good".to_owned(), ToString::to_string);
                table::line(&format!("{what}: {said}"));
            }
            if self.machines > 0 {
                for kind in &self.empty_kinds {
                    table::line(&format!(
                        "kind {kind:?} holds none of the {} machines in the lake",
                        self.machines
                    ));
                }
            }
            let (views, services) = (self.views, self.services);
            match count {
                0 => table::line(&format!("good: {views} feature views, {services} feature services")),
                1 => table::line("1 problem; nothing was started"),
                _ => table::line(&format!("{count} problems; nothing was started")),
            }
        }
        Ok(match (count, self.servers.iter().any(|(_, refusal)| refusal.is_some())) {
            (0, false) => GOOD,
            // The files are good; what they point at is not.
            (0, true) => FAILED,
            _ => WRONG_USAGE,
        })
    }
}

/// Reads the newest birth of every chain (agent, machine, category), by machine, later ones last.
async fn newest_births(lake_file: &Path) -> Result<BTreeMap<MachineName, Vec<Birth>>, LakeError> {
    let mut conn = lake::open_reader(lake_file).await?;
    let streams = read::streams(&mut conn).await?;
    let streams = read::by_number(&streams);
    let mut newest = BTreeMap::new();
    for (stream_id, birth) in read::births(&mut conn).await? {
        let Some(stream) = streams.get(&stream_id) else { continue };
        let chain = (stream.machine.clone(), stream.agent.clone(), stream.category.clone());
        let age = |birth: &Birth| (birth.started_us, birth.after);
        let known: &mut Birth = newest.entry(chain).or_insert_with(|| birth.clone());
        if age(&birth) >= age(known) {
            *known = birth;
        }
    }
    let mut machines: BTreeMap<MachineName, Vec<Birth>> = BTreeMap::new();
    for ((machine, ..), birth) in newest {
        machines.entry(machine).or_default().push(birth);
    }
    for births in machines.values_mut() {
        births.sort_by_key(|birth| birth.started_us);
    }
    Ok(machines)
}
