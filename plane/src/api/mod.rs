//! The JSON API, the event stream, health and the page, on one port. Read-only: nothing here changes the store.

mod energy;
mod error;
mod fleet;
mod incidents;
mod mesh;
mod metrics;
mod predictions;
mod stream;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use self::error::ApiError;
use crate::{
    live::Live,
    page,
    stats::Stats,
    store::{Reader, StoreHandle},
};

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// The database.
    pub reader: Reader,
    /// Newest points.
    pub live: Arc<Live>,
    /// For the stream of changes.
    pub store: StoreHandle,
    /// Own counters.
    pub stats: Arc<Stats>,
    /// Energy of the last 24 hours by site, kept for a few seconds.
    pub day: Arc<fleet::DayEnergy>,
    /// File with facts of data centers.
    pub energy_facts: Option<Arc<std::path::Path>>,
    /// Ends event streams when the plane stops.
    pub stop: CancellationToken,
}

pub use self::fleet::DayEnergy;

/// Everything on the web port.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/api/v1/fleet", get(fleet::get))
        .route("/api/v1/mesh", get(mesh::get))
        .route("/api/v1/predictions", get(predictions::get))
        .route("/api/v1/incidents", get(incidents::list))
        .route("/api/v1/incidents/{trace_id}", get(incidents::one))
        .route("/api/v1/traces/{trace_id}", get(incidents::trace))
        .route("/api/v1/energy", get(energy::report))
        .route("/api/v1/energy/series", get(energy::series))
        .route("/api/v1/energy/ledger", get(energy::ledger))
        .route("/api/v1/energy/green", get(energy::green))
        .route("/api/v1/metrics/series", get(metrics::series))
        // A query has its own limit of ten seconds; this one is for what lies around it.
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(25)))
        .route("/api/v1/stream", get(stream::get))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .fallback(page::get)
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the API is read-only", "use GET")
        })
        .layer(middleware::from_fn(secure))
        .with_state(shared)
}

/// Only our own files may run or be shown; nothing is sent to, framed by or sniffed for others.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

async fn secure(request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if is_api {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.reader.ask(|c| c.query_row("SELECT count(*) FROM meta", [], |row| row.get::<_, i64>(0))).await {
        Ok(_) => "ready\n".into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}

async fn prometheus(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.stats.prometheus()).into_response()
}

/// The answer for a path of the API that there is none of.
pub(crate) fn not_found(path: &str) -> Response {
    ApiError::not_found(
        format!("there is no {path}"),
        "see /api/v1/fleet, /api/v1/incidents, /api/v1/energy, /api/v1/metrics/series",
    )
    .into_response()
}
