//! The two Python files.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use millrace_preprocess::FeatureType;

use super::Repository;
use crate::features::parquet::ParquetFiles;
use crate::features::view::{ActiveView, NamedService};

const HEAD: &str = "from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Float64, Int64, String
";

/// Makes `definitions.py`: entities, sources, views and services, in the order of the feature files.
pub(super) fn definitions(repository: &Repository<'_>) -> String {
    let mut out = format!(
        "\"\"\"What Feast knows of the project {}.\n\nMade by `millrace-collector feast export`; made again, it is \
         overwritten: change the\nfeature files instead, then export and `feast apply`.\n\"\"\"\n\n{HEAD}",
        repository.project.replace(['\\', '"'], "_")
    );
    let entities: BTreeSet<&str> = repository.views.iter().map(|view| &*view.schema.entity).collect();
    for entity in entities {
        let _infallible = write!(
            out,
            "\n{} = Entity(\n    name={name},\n    join_keys=[{name}],\n    value_type=ValueType.STRING,\n)\n",
            variable("entity", entity),
            name = string(entity)
        );
    }
    for active in repository.views {
        push_view(&mut out, repository, active);
    }
    for service in repository.services {
        push_service(&mut out, service);
    }
    out
}

fn push_view(out: &mut String, repository: &Repository<'_>, active: &ActiveView) {
    let schema = &active.schema;
    let name = active.feast_name();
    let folder = ParquetFiles::folder_of(repository.parquet_folder, schema);
    let _infallible = write!(
        out,
        "\n{source} = FileSource(\n    name={source_name},\n    path={path},\n    \
         timestamp_field=\"event_timestamp\",\n    created_timestamp_column=\"created\",\n)\n\n\
         {view} = FeatureView(\n    name={name},\n    entities=[{entity}],\n    ttl=timedelta({ttl}),\n    schema=[\n        \
         Field(name={join_key}, dtype=String),\n",
        source = variable("source", &name),
        source_name = string(&format!("{name}_source")),
        path = string(&folder.to_string_lossy()),
        view = variable("view", &name),
        name = string(&name),
        entity = variable("entity", &schema.entity),
        ttl = ttl(schema.ttl_us),
        join_key = string(&schema.entity),
    );
    for feature in &schema.features {
        let dtype = match feature.feature_type {
            FeatureType::F64 => "Float64",
            FeatureType::I64 => "Int64",
            FeatureType::Bool => "Bool",
            FeatureType::Text => "String",
        };
        let unit = feature.unit.as_ref().map(|unit| format!(", tags={{\"unit\": {}}}", string(unit)));
        let unit = unit.unwrap_or_default();
        let _infallible =
            writeln!(out, "        Field(name={}, dtype={dtype}{unit}),", string(&feature.name));
    }
    let _infallible = write!(
        out,
        "    ],\n    online=True,\n    source={},\n    tags={{\"millrace_version\": \"{}\", \"millrace_graph\": \
         \"{:016x}\"}},\n)\n",
        variable("source", &name),
        schema.version,
        schema.graph_hash
    );
}

fn push_service(out: &mut String, service: &NamedService) {
    let _infallible = write!(
        out,
        "\n{} = FeatureService(\n    name={},\n    features=[\n",
        variable("service", &service.name),
        string(&service.name)
    );
    for part in &service.features {
        let features: Vec<_> = part.features.iter().map(|feature| string(feature)).collect();
        let chosen = if part.whole { String::new() } else { format!("[[{}]]", features.join(", ")) };
        let _infallible = writeln!(out, "        {}{chosen},", variable("view", &part.view));
    }
    out.push_str("    ],\n)\n");
}

/// Makes `training.py`.
pub(super) fn training() -> String {
    r#""""Makes training sets that hold only what was known at the time of each row.

Made by `millrace-collector feast export`; made again, it is overwritten.

    python training.py --service NAME --entities rows.csv --out training.parquet

`rows.csv` (or .parquet) has the entity's column (for example `machine`), `event_timestamp`, and whatever
else is to be carried along, such as labels.
"""

import argparse
from pathlib import Path

import pandas as pd
from feast import FeatureStore


def training_set(entity_df, features, repo_path=Path(__file__).parent, full_feature_names=False):
    """Joins features to `entity_df` as they were known at each row's `event_timestamp`.

    `features` is a feature service or a list of "view:feature". Without `filter_by_created_timestamp`
    (off in Feast unless asked for) late data and corrections would leak into rows from before they arrived.
    Feast's file store leaves out rows for which nothing was known yet.
    """
    store = FeatureStore(repo_path=str(repo_path))
    if isinstance(features, str):
        features = store.get_feature_service(features)
    return store.get_historical_features(
        entity_df=entity_df,
        features=features,
        full_feature_names=full_feature_names,
        filter_by_created_timestamp=True,
    ).to_df()


def _read(path):
    rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    rows["event_timestamp"] = pd.to_datetime(rows["event_timestamp"], utc=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description="Makes a training set without leaks.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--service", help="a feature service")
    what.add_argument("--features", nargs="+", help="view:feature …")
    parser.add_argument("--entities", type=Path, required=True, help="CSV or Parquet")
    parser.add_argument("--out", type=Path, required=True, help="CSV or Parquet")
    arguments = parser.parse_args()
    rows = training_set(_read(arguments.entities), arguments.service or arguments.features)
    if arguments.out.suffix == ".parquet":
        rows.to_parquet(arguments.out)
    else:
        rows.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
"#
    .to_owned()
}

/// Writes a ttl as arguments of `timedelta`; 0 means for ever, in Feast as here.
fn ttl(ttl_us: i64) -> String {
    if ttl_us % 1_000_000 == 0 {
        format!("seconds={}", ttl_us / 1_000_000)
    } else {
        format!("microseconds={ttl_us}")
    }
}

/// Writes a Python string; JSON's escapes are Python's, where surrogates are not escaped.
fn string(text: &str) -> String {
    serde_json::json!(text).to_string()
}

/// Makes a variable's name: a prefix per kind of thing, so that a view and an entity of one name do not collide.
fn variable(kind: &str, name: &str) -> String {
    let safe = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' });
    format!("{kind}_{}", safe.collect::<String>())
}
