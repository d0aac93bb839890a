//! The control address of `millrace-plant run`.
//!
//! | request | does |
//! |---|---|
//! | `GET /` | tells addresses, whether the plant is stopped, and what each MQTT session has waiting |
//! | `GET /faults` | lists the faults that are not over |
//! | `POST /faults` | adds one: `{"machine": "press-01", "kind": "late", "delay": "800 ms", "for": "5 s"}` |
//! | `DELETE /faults` | ends all |
//! | `POST /stop` | stops the machines; answers when all that was sent stands in the truth log |

use std::sync::Arc;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::refused;
use crate::plant::fault::Fault;
use crate::plant::running::Plant;

/// Makes the routes.
pub fn router(plant: Arc<Plant>) -> Router {
    Router::new()
        .route("/", get(show))
        .route("/faults", get(faults).post(add).delete(clear))
        .route("/stop", post(stop))
        .with_state(plant)
}

async fn show(State(plant): State<Arc<Plant>>) -> Json<Value> {
    Json(plant.state())
}

async fn faults(State(plant): State<Arc<Plant>>) -> Json<Value> {
    Json(plant.faults())
}

async fn add(State(plant): State<Arc<Plant>>, fault: Result<Json<Fault>, JsonRejection>) -> Response {
    let Json(fault) = match fault {
        Ok(fault) => fault,
        Err(rejection) => return refused(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    match plant.add_fault(fault) {
        Ok(()) => Json(plant.faults()).into_response(),
        Err(error) => refused(StatusCode::NOT_FOUND, error),
    }
}

async fn clear(State(plant): State<Arc<Plant>>) -> Json<Value> {
    plant.clear_faults();
    Json(plant.faults())
}

async fn stop(State(plant): State<Arc<Plant>>) -> Response {
    match plant.stop().await {
        Ok(()) => Json(plant.state()).into_response(),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
