//! The control address of `millrace-plant broker`.
//!
//! | request | does |
//! |---|---|
//! | `GET /` | tells address, topics, limits, and whether the link is up |
//! | `POST /down` | cuts the link: connections are closed, new ones refused, what is stored is kept |
//! | `POST /up` | mends it |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::refused;
use crate::kafka::{KafkaBroker, PARTITION_MAX_BYTES, PARTITION_MAX_MESSAGES};

/// What the handlers share.
#[derive(Debug)]
struct Shared {
    broker: KafkaBroker,
    topics: Vec<String>,
    partitions: u16,
    up: AtomicBool,
}

/// Makes the routes; the broker lives as long as they do.
pub fn router(broker: KafkaBroker, topics: Vec<String>, partitions: u16) -> Router {
    let shared = Arc::new(Shared { broker, topics, partitions, up: AtomicBool::new(true) });
    Router::new().route("/", get(show)).route("/down", post(down)).route("/up", post(up)).with_state(shared)
}

impl Shared {
    fn state(&self) -> Value {
        json!({
            "brokers": self.broker.brokers(),
            "up": self.up.load(Ordering::Relaxed),
            "topics": self.topics,
            "partitions": self.partitions,
            "partition_max_bytes": PARTITION_MAX_BYTES,
            "partition_max_messages": PARTITION_MAX_MESSAGES,
        })
    }
}

async fn show(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.state())
}

async fn down(State(shared): State<Arc<Shared>>) -> Response {
    if let Err(error) = shared.broker.down().await {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, error);
    }
    shared.up.store(false, Ordering::Relaxed);
    tracing::info!("the link to Kafka is cut");
    Json(shared.state()).into_response()
}

async fn up(State(shared): State<Arc<Shared>>) -> Response {
    if let Err(error) = shared.broker.up().await {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, error);
    }
    shared.up.store(true, Ordering::Relaxed);
    tracing::info!("the link to Kafka is back");
    Json(shared.state()).into_response()
}
