//! HTTP: features as Feast's own server answers, health, metrics, and a page for people.
//!
//! Answers come from the newest rows in memory; no request touches a database. `POST /get-online-features` takes
//! and gives what Feast 0.67's server does, and understands besides:
//!
//! - the request field `"include_freshness": true`: every result then has `age_ms`, `coverage` and `revision` beside
//!   `event_timestamps` (null where there is no row, and for join keys);
//! - statuses as Feast's Go server gives them: `OUTSIDE_MAX_AGE`, with the value, for a row older than its view's
//!   ttl; `?compat=python` leaves it `PRESENT`, as the Python server does.
//!
//! It listens on loopback addresses only; there is no token yet.

mod answer;
mod page;
mod problem;
mod request;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::features::online::Newest;
use crate::features::view::NamedService;
use crate::status::{KafkaPage, Status};
use answer::{Compat, answer};
use problem::Problem;

/// What the answers are made from.
pub struct Serving {
    /// The newest rows.
    pub newest: Arc<Newest>,
    /// The feature services.
    pub services: Vec<NamedService>,
    /// Feast's project, which error texts name.
    pub project: String,
    /// The clock. *Units*: microseconds since 1970-01-01 UTC.
    pub now_us: Box<dyn Fn() -> i64 + Send + Sync>,
    /// What `/readyz`, `/healthz`, `/metrics` and `/api/kafka` say.
    pub status: Status,
}

struct Shared {
    serving: Serving,
    services: HashMap<String, Vec<String>>,
}

impl Shared {
    fn new(serving: Serving) -> Self {
        let references = |service: &NamedService| {
            let parts = service.features.iter();
            parts.flat_map(|part| part.features.iter().map(move |f| format!("{}:{f}", part.view))).collect()
        };
        let services = serving.services.iter().map(|s| (s.name.to_string(), references(s))).collect();
        Self { serving, services }
    }
}

/// Makes the routes. Further ones can be merged to them.
pub fn router(serving: Serving) -> Router {
    Router::new()
        .route("/get-online-features", post(get_online_features))
        .route("/health", get(|| async {}))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/kafka", get(kafka))
        .route("/", get(newest_page))
        .with_state(Arc::new(Shared::new(serving)))
}

/// Answers requests until `stop`, then ends the open ones.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] if the listener's address is not a loopback one.
pub async fn run(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    check_address(listener.local_addr()?)?;
    // An answer is one write; waiting for more only delays it.
    let listener = listener.tap_io(|connection| {
        let _best_effort = connection.set_nodelay(true);
    });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Refuses to serve without a token what others than this machine could reach.
fn check_address(address: SocketAddr) -> io::Result<()> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    let text = format!("{address} is not a loopback address; without a token nothing else is served");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

async fn get_online_features(State(shared): State<Arc<Shared>>, uri: Uri, body: Bytes) -> Response {
    let result = compat(&uri).and_then(|compat| {
        let request = request::parse(&body)?;
        let now_us = (shared.serving.now_us)();
        answer(&shared.serving, &shared.services, &request, compat, now_us)
    });
    match result {
        Ok(json) => {
            shared.serving.status.answered();
            ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
        }
        Err(problem) => {
            shared.serving.status.refused();
            refuse(&problem)
        }
    }
}

/// Reads `?compat=`; of several the last one counts, and each must be one.
fn compat(uri: &Uri) -> Result<Compat, Problem> {
    let asked = uri.query().into_iter().flat_map(|query| query.split('&'));
    asked.filter_map(|part| part.strip_prefix("compat=")).try_fold(Compat::Go, |_, word| match word {
        "go" => Ok(Compat::Go),
        "python" => Ok(Compat::Python),
        _ => Err(Problem::Compat(word.to_owned())),
    })
}

fn refuse(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, json, problem.body()).into_response()
}

/// That it answers at all says that the collector lives: the code is always 200.
async fn healthz(State(shared): State<Arc<Shared>>) -> String {
    let troubles = shared.serving.status.troubles((shared.serving.now_us)());
    if troubles.is_empty() { "ok\n".to_owned() } else { troubles.join("\n") + "\n" }
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    match shared.serving.status.not_ready((shared.serving.now_us)()) {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], shared.serving.status.metrics()).into_response()
}

/// How the link to Kafka fares, for `status` and for scripts.
async fn kafka(State(shared): State<Arc<Shared>>) -> Json<KafkaPage> {
    Json(shared.serving.status.kafka())
}

async fn newest_page(State(shared): State<Arc<Shared>>) -> Html<String> {
    let now_us = (shared.serving.now_us)();
    Html(page::newest(&shared.serving.newest, &shared.serving.project, now_us))
}

#[cfg(test)]
mod feast_tests;
#[cfg(test)]
mod tests;
