//! The agent's own small server: `/metrics`, `/healthz`, `/readyz`, `/grants/{group}`.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::pods;
use crate::{clock::boot_ms, shared::Shared};

/// Samples that may be missed before the agent says that it is not well.
const STALE_SAMPLES: u32 = 30;

/// What makes the text of all metrics but the pods'.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// State of the server.
#[derive(Clone)]
pub struct Served {
    /// The agent's state.
    pub shared: Arc<Shared>,
    /// Metrics of the node.
    pub metrics: MetricsText,
    /// How often samples are taken.
    pub sample_interval: Duration,
}

/// Routes of the server.
pub fn router(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/grants/{group}", get(grant))
        .with_state(served)
}

/// Binds the address.
///
/// # Errors
/// When it is in use or not of this machine.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another with --listen"))
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, served: Served, cancel: CancellationToken) {
    let server = axum::serve(listener, router(served)).with_graceful_shutdown(async move { cancel.cancelled().await });
    if let Err(error) = server.await {
        tracing::error!(%error, "the metrics and grants server ended");
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    let mut text = (served.metrics)();
    text.push_str(&pods::prometheus_text(&served.shared));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Whether samples are still taken; a source that is absent is no illness of the agent.
async fn healthz(State(served): State<Served>) -> Response {
    let limit = served.sample_interval.saturating_mul(STALE_SAMPLES);
    let sampled_ms = served.shared.with(|view| view.sampled_ms);
    let age = Duration::from_millis(boot_ms().saturating_sub(sampled_ms));
    if sampled_ms > 0 && age > limit {
        let error = format!("no sample for {} s", age.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": error}))).into_response();
    }
    Json(json!({"ok": true})).into_response()
}

async fn readyz(State(served): State<Served>) -> Response {
    let (sampled, verdict) = served.shared.with(|view| (view.sampled_ms > 0, view.verdict.clone()));
    let published = served.shared.published.load(Ordering::Acquire);
    let waiting = match (sampled, published) {
        (false, _) => "the first sample is not taken yet",
        (true, false) => "the node's state was not written to the cluster yet",
        (true, true) => return Json(json!({"ready": true, "verdict": verdict})).into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"ready": false, "error": waiting}))).into_response()
}

async fn grant(State(served): State<Served>, Path(group): Path<String>) -> Response {
    // Read the clock under the lock: an answer must never be newer than what is left of the grant.
    let found = {
        let book = served.shared.grants.lock();
        book.get(&group, boot_ms())
    };
    match found {
        Some(grant) => ([(header::CACHE_CONTROL, "no-store")], Json(grant)).into_response(),
        None => {
            let error = format!("this node holds no grant for `{group}`");
            (StatusCode::GONE, [(header::CACHE_CONTROL, "no-store")], Json(json!({"error": error}))).into_response()
        }
    }
}
