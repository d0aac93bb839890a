//! Millrace beside the real Feast: its SDK reads what was written, its server gives the same answers.
//!
//! Needs `MILLRACE_FEAST_PYTHON`, a Python with Feast 0.67 (`make test` installs it); without it the test is skipped, in CI it
//! fails.

use std::collections::BTreeMap;
use std::path::Path;

use millrace_preprocess::{FeatureColumn, FeatureRow, FeatureType, FeatureValue, ViewSchema};
use serde_json::{Value as Json, json};

use super::*;
use crate::features::export::Repository;
use crate::features::view::NamedFeatures;
use crate::features::{Places, Stores, offline};
use crate::lake::db::{Connection as _, SqliteConnection};

const SECOND_US: i64 = 1_000_000;

fn view(name: &str, features: &[(&str, FeatureType)]) -> Arc<ViewSchema> {
    let column = |(name, feature_type): &(&str, _)| FeatureColumn {
        name: (*name).into(),
        feature_type: *feature_type,
        unit: None,
    };
    Arc::new(ViewSchema {
        name: name.into(),
        version: 1,
        entity: "machine".into(),
        features: features.iter().map(column).collect(),
        ttl_us: 3_600 * SECOND_US,
        graph_hash: 1,
    })
}

fn row(
    view: &Arc<ViewSchema>,
    entity: &str,
    seconds: i64,
    created: i64,
    values: Vec<Option<FeatureValue>>,
) -> FeatureRow {
    let (view, entity) = (view.clone(), entity.into());
    let (event_us, created_us) = (seconds * SECOND_US, created * SECOND_US);
    FeatureRow { view, entity, event_us, created_us, coverage: 1.0, values }
}

/// Every machine at 120 s; h/a corrected at 150 s.
fn rows(press: &Arc<ViewSchema>, spindle: &Arc<ViewSchema>) -> Vec<Vec<FeatureRow>> {
    let values = |temp: Option<f64>, mode: &str| {
        vec![
            temp.map(FeatureValue::F64),
            Some(FeatureValue::I64(i64::MAX)),
            Some(FeatureValue::Bool(false)),
            Some(FeatureValue::Text(mode.into())),
        ]
    };
    vec![
        vec![
            row(press, "h/a", 120, 121, values(Some(0.1 + 0.2), "run")),
            row(press, "h/b", 120, 121, values(Some(f64::INFINITY), "péché-機械-🏭")),
            row(press, "h/nan", 120, 121, values(Some(f64::NAN), "")),
            row(press, "h/null", 120, 121, values(None, "a\"b\\c\nd")),
            row(press, "h/tiny", 120, 121, values(Some(1e-7), "-")),
            row(press, "h/huge", 120, 121, values(Some(-1e22), "-")),
            row(spindle, "h/a", 60, 61, vec![Some(FeatureValue::F64(-0.0))]),
        ],
        vec![row(press, "h/a", 120, 150, values(Some(2.5), "run"))],
    ]
}

fn requests() -> Vec<Json> {
    let some = json!(["h/a", "h/b", "h/none", "h/nan", "h/null", "h/tiny", "h/huge", "h/a"]);
    let all = ["press:temp", "press:n", "press:on", "press:mode", "spindle:rpm"];
    vec![
        json!({"features": all, "entities": {"machine": some}}),
        json!({"features": all, "entities": {"machine": some}, "full_feature_names": true,
            "include_feature_view_version_metadata": true}),
        json!({"feature_service": "model", "entities": {"machine": ["h/b"]}}),
        json!({"features": ["press:temp"], "entities": {"machine": ["h/a"], "other": [1]}}),
        json!({"features": ["nope:temp"], "entities": {"machine": ["h/a"]}}),
        json!({"features": ["press:nope"], "entities": {"machine": ["h/a"]}}),
        json!({"features": ["press"], "entities": {"machine": ["h/a"]}}),
        json!({"feature_service": "nope", "entities": {"machine": ["h/a"]}}),
        json!({"features": ["press:temp", "press:temp"], "entities": {"machine": ["h/a"]}}),
        json!({"features": ["press:temp"], "entities": {}}),
        json!({"features": ["press:temp"], "entities": {"machine": []}}),
        json!({"features": ["press:temp"], "entities": {"other": ["h/a"]}}),
        json!({"features": ["press:temp"], "entities": {"machine": ["h/a"], "other": []}}),
        json!({"features": ["press:temp"], "entities": {"machine": "h/a"}}),
        json!({"features": ["press:temp"], "entities": 5}),
        json!({"features": "press:temp", "entities": {"machine": ["h/a"]}}),
        json!({"features": ["press:temp"]}),
        json!({"entities": {"machine": ["h/a"]}}),
        json!({"features": ["press:temp"], "entities": {"machine": [5]}}),
        json!({"features": ["press:temp"], "entities": {"machine": [true, 1.5, -7, 1e22]}}),
        json!({"features": ["press:temp"], "entities": {"machine": [null, "h/a"]}}),
        json!({"features": ["press:temp"], "entities": {"machine": [null]}}),
        json!([1]),
    ]
}

/// Columns by name: Feast gives features in the order of a set.
fn columns(answer: &Json) -> Json {
    let (Some(results), Some(names)) =
        (answer["results"].as_array(), answer["metadata"]["feature_names"].as_array())
    else {
        return answer.clone();
    };
    let columns: BTreeMap<_, _> = names.iter().map(|name| name.as_str().unwrap()).zip(results).collect();
    let mut views = answer["metadata"]["feature_view_metadata"].as_array().cloned().unwrap_or_default();
    views.sort_by_key(|view| view["name"].to_string());
    json!([columns, views])
}

async fn ask_millrace(shared: &Arc<Shared>, request: &Json) -> Json {
    let uri = Uri::from_static("/get-online-features?compat=python");
    let body = Bytes::from(request.to_string());
    let answer = get_online_features(State(shared.clone()), uri, body).await;
    let status = answer.status().as_u16();
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    json!([status, serde_json::from_slice::<Json>(&bytes).unwrap()])
}

async fn ask_feast(python: &Path, repository: &Path) -> Json {
    let asked = repository.join("requests.json");
    std::fs::write(&asked, json!(requests()).to_string()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/feast_sdk.py");
    let mut command = tokio::process::Command::new(python);
    command.arg(script).arg(repository).arg(&asked).env("TZ", "UTC").env("FEAST_USAGE", "False");
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

#[tokio::test]
async fn feasts_own_sdk_reads_what_was_written() {
    let Some(python) = std::env::var_os("MILLRACE_FEAST_PYTHON") else {
        assert!(std::env::var_os("CI").is_none(), "in CI the real Feast must be there");
        eprintln!("skipped: MILLRACE_FEAST_PYTHON is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let places = Places {
        online_file: folder.path().join("online.db"),
        parquet_folder: folder.path().join("features"),
        project: "plant".to_owned(),
    };
    use FeatureType::{Bool, F64, I64, Text};
    let press = view("press", &[("temp", F64), ("n", I64), ("on", Bool), ("mode", Text)]);
    let (spindle, empty) = (view("spindle", &[("rpm", F64)]), view("empty", &[("x", F64)]));
    let views = [press.clone(), spindle.clone(), empty];
    let mut lake = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let stores = Stores::open(&mut lake, &places, &views).await.unwrap();
    for (flush_id, rows) in (0..).zip(rows(&press, &spindle)) {
        let written = offline::write(&mut lake, &rows, flush_id, 0).await.unwrap();
        assert_eq!(stores.push(&written).await.unwrap(), rows.len());
    }
    assert_eq!(stores.finish(&mut lake).await.unwrap(), 2);
    let all = NamedFeatures {
        view: "press".to_owned(),
        features: vec!["temp".into(), "n".into(), "on".into(), "mode".into()],
        whole: true,
    };
    let services = vec![NamedService { name: "model".into(), features: vec![all] }];
    let repository = folder.path().join("repository");
    let Places { online_file, parquet_folder, project } = &places;
    let files =
        Repository { project, online_file, parquet_folder, views: stores.views(), services: &services };
    files.write(&repository).unwrap();

    let feast = ask_feast(Path::new(&python), &repository).await;
    assert_eq!(feast["views"], json!(["empty", "press", "spindle"]));
    let online = json!({"machine": ["h/a", "h/none"], "temp": [2.5, null], "n": [i64::MAX, null], "on": [false, null], "mode": ["run", null]});
    assert_eq!(feast["online"], online);
    // h/a at 130 s was still 0.1 + 0.2; the correction came at 150 s.
    // The row of 50 s is missing: Feast's file store leaves out rows for which nothing was known.
    let training = json!([[0, "0.30000000000000004", "run"], [1, "inf", "péché-機械-🏭"], [2, "2.5", "run"]]);
    assert_eq!(feast["training"], training);

    let serving = Serving {
        newest: stores.newest(),
        services,
        project: "plant".to_owned(),
        now_us: Box::new(|| i64::MAX),
        status: Status::new(std::time::Duration::MAX),
    };
    let shared = Arc::new(Shared::new(serving));
    let mut differences = Vec::new();
    for (request, theirs) in requests().iter().zip(feast["http"].as_array().unwrap()) {
        let ours = ask_millrace(&shared, request).await;
        // Python's own words for a null are of no use to anybody.
        let same_text =
            theirs[1].to_string().contains("NoneType") || columns(&ours[1]) == columns(&theirs[1]);
        if ours[0] != theirs[0] || !same_text {
            differences.push(format!("{request}\n  Millrace {ours}\n  Feast    {theirs}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
