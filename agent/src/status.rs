//! What the running agent shows over HTTP, on a loopback address: books, newest values, health, metrics
//! and a page for people.
//!
//! Invariant: it only looks. Nothing here can slow down or change what flows; `/api/books` is the
//! contract of `docs/architecture.md` and gives the books of the last flush (D14).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::books::Books;
use crate::buffer::BufferHealth;
use crate::clock::rfc3339;
use crate::uplink::UplinkHealth;

mod metrics;
mod newest;
mod page;

pub use newest::{Newest, NewestPoint};

/// Whether a person should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// Something is away and is waited for; nothing is lost.
    Degraded,
    /// Data is in danger.
    Red,
}

/// What `/healthz` answers. That it answers at all says that the agent lives: the code is always 200,
/// because a restart mends neither a link nor a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The worst of the reasons.
    pub status: Level,
    /// What is wrong, as sentences.
    pub reasons: Vec<String>,
    /// Rows on disk that Kafka does not have yet.
    pub waiting_rows: u64,
    /// Whether Kafka can be reached: connecting, up or down.
    pub kafka: String,
}

/// How an MQTT connection fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttHealth {
    /// `[[mqtt]] name`.
    pub name: String,
    /// Whether the broker is connected now.
    pub is_connected: bool,
    /// Publishes received, redelivered ones included.
    pub publishes: u64,
    /// Publishes that became raw rows.
    pub raw: u64,
    /// Publishes that no subscription asks for.
    pub ignored: u64,
}

/// Everything that is shown, as of now.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The books of the last flush.
    pub books: Books,
    /// How the buffer fares.
    pub buffer: BufferHealth,
    /// How the uplink fares.
    pub uplink: UplinkHealth,
    /// How the MQTT connections fare.
    pub mqtt: Vec<MqttHealth>,
}

/// Where the pages get what they show.
#[derive(Clone)]
pub struct View {
    /// Who runs, for the page.
    pub agent: String,
    /// The running epoch, for the page.
    pub epoch: String,
    /// Takes a snapshot.
    pub snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    /// The newest values.
    pub newest: Newest,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// Says why nothing can be shown.
#[derive(Debug, Error)]
pub enum StatusError {
    /// The address cannot be taken.
    #[error("[status] listen: {address} cannot be used; choose another, or stop what listens there")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The server ended.
    #[error("the status server ended")]
    Serve(#[source] io::Error),
}

impl Snapshot {
    /// Says whether a person should look, and why.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut reasons = Vec::new();
        if let Some(why) = &self.buffer.pass_through {
            let text = format!("the disk is dead ({why}): rows pass through memory, at least once");
            reasons.push((Level::Red, text));
        }
        if !self.books.balanced {
            let rows: u64 =
                self.books.transport.iter().map(|line| line.rows.unaccounted.unsigned_abs()).sum();
            let text = format!(
                "the books do not balance ({rows} rows unaccounted for in the buffer); please report this as a fault"
            );
            reasons.push((Level::Red, text));
        }
        if self.buffer.set_aside_segments > 0 {
            let text = format!(
                "{} damaged segments were set aside; their rows are declared lost",
                self.buffer.set_aside_segments
            );
            reasons.push((Level::Degraded, text));
        }
        if let Some(at_us) = self.buffer.gave_way_us {
            let at = rfc3339(at_us);
            let text = format!("the buffer was full: rows gave way, last at {at}, and are declared lost");
            reasons.push((Level::Degraded, text));
        }
        if self.uplink.is_degraded() {
            let silent =
                if self.uplink.is_stalled { "nothing was acknowledged for a while" } else { "no answer" };
            let why = self.uplink.trouble.as_deref().unwrap_or(silent);
            let text = format!("Kafka is {}: {why}; rows wait on disk", self.uplink.link.name());
            reasons.push((Level::Degraded, text));
        }
        if self.uplink.refused_notices > 0 {
            let text = format!(
                "Kafka refuses {} births or declared losses; they are kept and tried again",
                self.uplink.refused_notices
            );
            reasons.push((Level::Degraded, text));
        }
        for mqtt in self.mqtt.iter().filter(|mqtt| !mqtt.is_connected) {
            reasons.push((Level::Degraded, format!("MQTT broker \"{}\" is not connected", mqtt.name)));
        }
        Health {
            status: reasons.iter().map(|(level, _)| *level).max().unwrap_or(Level::Ok),
            reasons: reasons.into_iter().map(|(_, text)| text).collect(),
            waiting_rows: self.buffer.waiting_rows,
            kafka: self.uplink.link.name().to_owned(),
        }
    }
}

/// Takes the address, so that a start fails at once if somebody else has it.
///
/// *Errors*: [`StatusError::Listen`].
pub fn bind(address: SocketAddr) -> Result<TcpListener, StatusError> {
    let listen = |address| {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen(address).map_err(|source| StatusError::Listen { address, source })
}

/// Serves until it is stopped.
///
/// *Errors*: [`StatusError::Serve`].
pub async fn serve(listener: TcpListener, view: View, stop: CancellationToken) -> Result<(), StatusError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(StatusError::Serve)?;
    let router = router(view);
    // Open connections are not waited for: a page that reloads itself would hold up the stop.
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        served = axum::serve(listener, router).into_future() => served.map_err(StatusError::Serve),
    }
}

fn router(view: View) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_text))
        .route("/api/books", get(books))
        .route("/api/tags", get(tags))
        .with_state(view)
}

async fn page(State(view): State<View>) -> Html<String> {
    Html(page::render(&view.agent, &view.epoch, &(view.snapshot)(), &view.newest.points()))
}

async fn healthz(State(view): State<View>) -> Json<Health> {
    Json((view.snapshot)().health())
}

async fn metrics_text(State(view): State<View>) -> impl IntoResponse {
    // *Source*: Prometheus text exposition format 0.0.4.
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&(view.snapshot)()))
}

async fn books(State(view): State<View>) -> Json<Books> {
    Json((view.snapshot)().books)
}

async fn tags(State(view): State<View>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "tags": view.newest.points() }))
}

#[cfg(test)]
mod tests;
