//! The control address: a small HTTP server on loopback through which tests and people steer a plant
//! or a broker while it runs.

pub mod broker;
pub mod plant;

use std::net::SocketAddr;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use thiserror::Error;
use tokio::net::TcpListener;

use crate::supervise::Tasks;

/// Says why a control address cannot be served.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Anybody could steer the plant.
    #[error("the control address {0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The port is taken, for instance.
    #[error("the control address {address} cannot be listened on")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

/// Serves `router` until the tasks end, and gives the address that was taken.
///
/// *Errors*: every variant of [`ControlError`]; nothing is started then.
pub async fn serve(
    address: SocketAddr,
    router: axum::Router,
    tasks: &Tasks,
) -> Result<SocketAddr, ControlError> {
    if !address.ip().is_loopback() {
        return Err(ControlError::NotLoopback(address));
    }
    let failed = |source| ControlError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let taken = listener.local_addr().map_err(failed)?;
    tasks.start("control", async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the control address is served no longer");
        }
    });
    Ok(taken)
}

/// Makes the answer for a command that could not be carried out.
fn refused(status: StatusCode, reason: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": reason.to_string() }))).into_response()
}
