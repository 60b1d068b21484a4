//! The JSON API, the event stream, health and the page, on one port. What people change is who is logged in
//! and which incidents they acknowledged; nothing here changes what was measured.

mod energy;
mod error;
mod fleet;
mod guard;
mod incidents;
mod mesh;
mod metrics;
mod people;
mod predictions;
mod stream;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use self::error::ApiError;
use crate::{
    live::Live,
    page,
    security::gate::Gate,
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
    /// Who may do what.
    pub gate: Arc<Gate>,
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
        .route("/api/v1/incidents/{trace_id}/acknowledge", post(people::acknowledge))
        .route("/api/v1/session", get(people::session).post(people::login).delete(people::logout))
        .route("/api/v1/sessions", get(people::sessions))
        .route("/api/v1/sessions/{id}", delete(people::end))
        .route("/api/v1/login/oidc", get(people::oidc))
        .route("/api/v1/login/oidc/callback", get(people::callback))
        .route("/api/v1/audit", get(people::audit))
        // A query has its own limit of ten seconds; this one is for what lies around it.
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(25)))
        .route("/api/v1/stream", get(stream::get))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .fallback(page::get)
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path takes another method",
                "use GET",
            )
        })
        .layer(middleware::from_fn_with_state(shared.clone(), guard::guard))
        .layer(middleware::from_fn(guard::secure))
        .with_state(shared)
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
