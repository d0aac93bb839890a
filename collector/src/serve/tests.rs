//! The server over real requests on a loopback port.

use millrace_preprocess::{FeatureColumn, FeatureRow, FeatureType, FeatureValue, ViewSchema};
use serde_json::{Value as Json, json};

use super::*;
use crate::features::online::{OnlineRow, OnlineStore};
use crate::features::view::{ActiveView, NamedFeatures};

const SECOND_US: i64 = 1_000_000;
const NOW_US: i64 = 1_763_913_600 * SECOND_US;

struct Server {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<io::Result<()>>,
    _folder: tempfile::TempDir,
}

fn view(name: &str) -> ActiveView {
    let features = [("temp", FeatureType::F64), ("starts", FeatureType::I64), ("mode", FeatureType::Text)];
    let column =
        |(name, feature_type): (&str, _)| FeatureColumn { name: name.into(), feature_type, unit: None };
    let schema = ViewSchema {
        name: name.into(),
        version: 1,
        entity: "machine".into(),
        features: features.map(column).into(),
        ttl_us: 60 * SECOND_US,
        graph_hash: 0,
    };
    ActiveView { schema: Arc::new(schema), promotion: Some(1) }
}

async fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let views = [view("press"), view("spindle")];
    let store = OnlineStore::open(&folder.path().join("online.db"), "plant", &views).await.unwrap();
    let row = |entity: &str, age_us: i64, temp: Option<f64>| FeatureRow {
        view: views[0].schema.clone(),
        entity: entity.into(),
        event_us: NOW_US - age_us,
        created_us: NOW_US,
        coverage: 0.25,
        values: vec![
            temp.map(FeatureValue::F64),
            Some(FeatureValue::I64(3)),
            Some(FeatureValue::Text("run".into())),
        ],
    };
    let rows = [
        row("h/a", SECOND_US, Some(3.5)),
        row("h/inf", 60 * SECOND_US, Some(f64::INFINITY)),
        row("h/old", 60 * SECOND_US + 1, Some(1.0)),
        row("h/null", 500_000, None),
    ];
    store.push(rows.iter().map(|row| OnlineRow { row, revision: 2 })).await.unwrap();
    let features = vec![NamedFeatures {
        view: "press".to_owned(),
        features: vec!["mode".into(), "temp".into()],
        whole: false,
    }];
    let status = Status::new(std::time::Duration::MAX);
    status.pause("lake: waiting for its lock");
    status.trouble("m.telemetry 1", "topic m.telemetry, partition 1 is not read on".to_owned());
    let serving = Serving {
        newest: store.newest(),
        services: vec![NamedService { name: "model".into(), features }],
        project: "plant".to_owned(),
        now_us: Box::new(|| NOW_US),
        status,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "a test awaits its server itself")]
    let task = tokio::spawn(run(listener, router(serving), stop.clone()));
    Server { address, stop, task, _folder: folder }
}

impl Server {
    async fn call(&self, path: &str, body: Option<String>) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let call = move || {
            let config = ureq::Agent::config_builder().http_status_as_error(false).build();
            let agent = ureq::Agent::new_with_config(config);
            let mut answer = match body {
                Some(body) => agent.post(&url).content_type("application/json").send(&body).unwrap(),
                None => agent.get(&url).call().unwrap(),
            };
            (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
        };
        tokio::task::spawn_blocking(call).await.unwrap()
    }

    async fn ask(&self, path: &str, body: Json) -> (u16, Json) {
        let (status, body) = self.call(path, Some(body.to_string())).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn features_are_answered_in_columns_with_the_go_servers_statuses() {
    let server = start().await;
    let machines = json!(["h/a", "h/none", "h/inf", "h/old", "h/null"]);
    let request = json!({"features": ["press:temp", "press:starts"], "entities": {"machine": machines}});
    let (status, answer) = server.ask("/get-online-features", request.clone()).await;
    let epoch = "1970-01-01T00:00:00Z";
    let times = [
        "2025-11-23T15:59:59Z",
        epoch,
        "2025-11-23T15:59:00Z",
        "2025-11-23T15:58:59.999999Z",
        "2025-11-23T15:59:59.500Z",
    ];
    let statuses = ["PRESENT", "NOT_FOUND", "PRESENT", "OUTSIDE_MAX_AGE", "PRESENT"];
    let (present, epochs) = (["PRESENT"; 5], [epoch; 5]);
    let expected = json!({
        "results": [
            {"values": machines, "statuses": present, "event_timestamps": epochs},
            {"values": [3.5, null, "Infinity", 1.0, null], "statuses": statuses, "event_timestamps": times},
            {"values": [3, null, 3, 3, 3], "statuses": statuses, "event_timestamps": times},
        ],
        "metadata": {"feature_names": ["machine", "temp", "starts"]},
    });
    assert_eq!((status, &answer), (200, &expected));
    for query in ["compat=klingon", "compat=go&compat=klingon", "compat=klingon&compat=go"] {
        let (status, answer) = server.ask(&format!("/get-online-features?{query}"), request.clone()).await;
        assert_eq!(
            (status, &answer["detail"]),
            (400, &json!("there is no compat=klingon; use go or python"))
        );
    }
    let (_, python) = server.ask("/get-online-features?compat=python", request).await;
    assert_eq!(python["results"][1]["statuses"][3], "PRESENT");
    server.end().await;
}

#[tokio::test]
async fn services_full_names_and_freshness_are_given_where_asked() {
    let server = start().await;
    let request = json!({"feature_service": "model", "entities": {"machine": ["h/a", "h/none"], "unknown": [1, 2]},
        "full_feature_names": true, "include_freshness": true, "include_feature_view_version_metadata": true});
    let (status, answer) = server.ask("/get-online-features", request).await;
    assert_eq!(status, 200);
    let metadata = json!({"feature_names": ["machine", "press__mode", "press__temp"],
        "feature_view_metadata": [{"name": "press"}]});
    assert_eq!(answer["metadata"], metadata);
    let mode = &answer["results"][1];
    assert_eq!(mode["values"], json!(["run", null]));
    assert_eq!(mode["age_ms"], json!([1_000, null]));
    assert_eq!(mode["coverage"], json!([0.25, null]));
    assert_eq!(mode["revision"], json!([2, null]));
    assert_eq!(answer["results"][0]["age_ms"], json!([null, null]));
    server.end().await;
}

#[tokio::test]
async fn refusals_have_feasts_codes_and_bodies() {
    let server = start().await;
    let feast = |class: &str, message: &str| {
        let (class, message) = (json!(class), json!(message));
        json!(format!("{{\"module\": \"feast.errors\", \"class\": {class}, \"message\": {message}}}"))
    };
    let entities = json!({"machine": ["h/a"]});
    for (request, status, body) in [
        (
            json!({"features": ["nope:temp"], "entities": entities}),
            404,
            feast("FeatureViewNotFoundException", "Feature view nope does not exist in project plant"),
        ),
        (
            json!({"feature_service": "nope", "entities": entities}),
            404,
            feast("FeatureServiceNotFoundException", "Feature service nope does not exist in project plant"),
        ),
        (json!({"features": ["press:temp"], "entities": {}}), 500, json!("'pop from an empty set'")),
        (
            json!({"features": ["press:temp"], "entities": {"machine": ["a"], "x": []}}),
            500,
            json!("All entity rows must have the same columns."),
        ),
    ] {
        assert_eq!(server.ask("/get-online-features", request).await, (status, body));
    }
    let (status, body) = server.ask("/get-online-features", json!({"features": ["press:temp"]})).await;
    let detail = json!({"type": "missing", "loc": ["body", "entities"], "msg": "Field required",
        "input": {"features": ["press:temp"]}});
    assert_eq!((status, body), (422, json!({"detail": [detail]})));
    let twice = json!({"features": ["press:temp", "spindle:temp"], "entities": entities});
    let (status, body) = server.ask("/get-online-features", twice).await;
    assert_eq!(status, 500);
    assert!(body.as_str().unwrap().contains("Duplicate features named temp found."), "{body}");
    for (body, kind) in
        [("{", "json_invalid"), ("[1]", "model_attributes_type"), ("{\"entities\":{\"m\":1}}", "list_type")]
    {
        let (status, said) = server.call("/get-online-features", Some(body.to_owned())).await;
        assert_eq!(status, 422, "{said}");
        assert!(said.contains(kind), "{said}");
    }
    server.end().await;
}

#[tokio::test]
async fn health_metrics_and_the_page_are_there() {
    let server = start().await;
    server
        .ask("/get-online-features", json!({"features": ["press:temp"], "entities": {"machine": ["h/a"]}}))
        .await;
    assert_eq!(server.call("/health", None).await, (200, String::new()));
    assert_eq!(
        server.call("/healthz", None).await,
        (200, "topic m.telemetry, partition 1 is not read on\n".to_owned())
    );
    assert_eq!(server.call("/readyz", None).await, (503, "lake: waiting for its lock\n".to_owned()));
    let (status, metrics) = server.call("/metrics", None).await;
    assert_eq!(status, 200);
    assert!(metrics.contains("millrace_collector_serve_answered_total 1"), "{metrics}");
    let (status, page) = server.call("/", None).await;
    assert_eq!(status, 200);
    assert!(page.contains("<td>h/a<td class=\"n\">1.0 s"), "{page}");
    server.end().await;
}

/// Bodies that are nearly right, and deep, long and odd ones.
fn bodies() -> Vec<String> {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let good =
        r#"{"features": ["press:temp"], "entities": {"machine": ["h/a"]}, "full_feature_names": true}"#;
    let word = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "null",
        "-1e999",
        "1e308",
        "true",
        "\\u0000",
        "\\ud800",
        "\u{0}",
        "\u{202e}",
        "press:",
        ":temp",
        "press:temp:x",
        "\"feature_service\": 3,",
        "\"entities\": {},",
        "\"machine\": [[]]",
        "[null]",
    ]);
    let edits = prop::collection::vec((0..good.len(), 0usize..9, word), 1..5);
    let mut runner = TestRunner::deterministic();
    let nearly = (0..400).map(|_| {
        let mut text = good.to_owned();
        for (at, length, word) in edits.new_tree(&mut runner).unwrap().current() {
            let bound = |mut at: usize| {
                at = at.min(text.len());
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            text.replace_range(bound(at)..bound(at + length), word);
        }
        text
    });
    let deep = |open: &str| format!("{}, \"x\": {}", good.trim_end_matches('}'), open.repeat(100_000));
    let wide = json!({"features": vec!["press:temp"; 5_000], "entities": {"machine": ["h/a"]}}).to_string();
    let many = json!({"features": ["press:temp"], "entities": {"machine": vec!["h/a"; 50_000]}}).to_string();
    nearly.chain([deep("["), deep("{\"a\":"), "[".repeat(100_000), wide, many, String::new()]).collect()
}

#[tokio::test]
async fn no_body_ends_the_server_and_every_answer_is_json() {
    let server = start().await;
    let mut seen = std::collections::BTreeSet::new();
    for body in bodies() {
        let (status, answer) = server.call("/get-online-features", Some(body.clone())).await;
        let json = serde_json::from_str::<Json>(&answer);
        assert!((200..=599).contains(&status) && json.is_ok(), "{status} {answer} to {body:.200}");
        seen.insert(status);
    }
    // Nearly right ones reach every part of the way.
    assert!(seen.is_superset(&[200, 422, 500].into()), "{seen:?}");
    server.end().await;
}

#[test]
fn other_than_loopback_addresses_are_refused() {
    for (address, kind) in [
        ("127.0.0.1:80", None),
        ("[::1]:80", None),
        ("0.0.0.0:80", Some(io::ErrorKind::PermissionDenied)),
        ("192.0.2.1:80", Some(io::ErrorKind::PermissionDenied)),
        ("[::]:80", Some(io::ErrorKind::PermissionDenied)),
    ] {
        let refused = check_address(address.parse().unwrap()).err().map(|error| error.kind());
        assert_eq!(refused, kind, "{address}");
    }
}
