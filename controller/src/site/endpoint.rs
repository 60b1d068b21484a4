//! The site endpoint: agents pull grants and send heartbeats here, over TLS with client certificates.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use evergreen_api::{
    grants::{GrantAck, GrantList},
    heartbeat::Heartbeat,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{
    BootClock, GrantBook, Signer, SiteHandle,
    acceptor::Certified,
    endpoint_tls::{EndpointError, EndpointTls},
    identity::{CertifiedNode, Identity, Refused},
};
use crate::{nodes::NodeWatch, power::PowerBook, quorum::Standing};

/// Largest heartbeat that is read.
const MAX_HEARTBEAT: usize = 32 << 10;

/// What the endpoint answers from.
#[derive(Clone)]
pub struct Endpoint {
    /// Own site.
    pub site: String,
    /// The protocol core.
    pub handle: SiteHandle,
    /// Signs grants.
    pub signer: Arc<Signer>,
    /// Who holds grants.
    pub book: Arc<GrantBook>,
    /// Who takes heartbeats in.
    pub nodes: NodeWatch,
    /// What nodes draw.
    pub power: PowerBook,
    /// Who may speak for which node.
    pub identity: Identity,
}

/// Serves until cancelled.
///
/// # Errors
/// When certificates are unusable or the address is taken.
pub async fn serve(
    listen: SocketAddr,
    tls: &EndpointTls,
    endpoint: Endpoint,
    cancel: CancellationToken,
) -> Result<(), EndpointError> {
    let config = tls.load()?;
    tokio::spawn(tls.clone().follow(config.clone(), cancel.clone()));
    let router = Router::new()
        .route("/v1/grants", get(grants))
        .route("/v1/grants/ack", post(acknowledge))
        .route("/v1/peers", get(peers))
        .route("/v1/heartbeat", post(heartbeat).layer(DefaultBodyLimit::max(MAX_HEARTBEAT)));
    let server = axum_server::Handle::new();
    let stopper = server.clone();
    tokio::spawn(async move {
        cancel.cancelled().await;
        stopper.graceful_shutdown(Some(Duration::from_secs(1)));
    });
    axum_server::bind(listen)
        .acceptor(Certified::new(config))
        .handle(server)
        .serve(router.with_state(endpoint).into_make_service())
        .await
        .map_err(|error| EndpointError::Serve(listen, error))
}

#[derive(Deserialize)]
struct Asker {
    node: String,
}

fn refuse(refused: &Refused) -> Response {
    (refused.status(), Json(serde_json::json!({"error": refused.to_string()}))).into_response()
}

impl Endpoint {
    /// Refuses whoever may not speak for a node, and whoever nobody can tell.
    async fn demand(&self, node: &str, certified: &CertifiedNode, headers: &HeaderMap) -> Result<(), Response> {
        match self.identity.may_speak(node, certified, headers).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(refuse(&Refused::Unknown)),
            Err(refused) => Err(refuse(&refused)),
        }
    }
}

async fn peers(
    State(endpoint): State<Endpoint>,
    Extension(certified): Extension<CertifiedNode>,
    headers: HeaderMap,
    Query(asker): Query<Asker>,
) -> Response {
    if let Err(refusal) = endpoint.demand(&asker.node, &certified, &headers).await {
        return refusal;
    }
    endpoint.nodes.mesh.peers(&asker.node).map_or_else(not_leading, |list| Json(list).into_response())
}

fn not_leading() -> Response {
    let error = "this replica does not lead; connect anew to reach the one that does";
    (StatusCode::SERVICE_UNAVAILABLE, Json(serde_json::json!({"error": error}))).into_response()
}

async fn grants(
    State(endpoint): State<Endpoint>,
    Extension(certified): Extension<CertifiedNode>,
    headers: HeaderMap,
    Query(asker): Query<Asker>,
) -> Response {
    if let Err(refusal) = endpoint.demand(&asker.node, &certified, &headers).await {
        return refusal;
    }
    let now = BootClock.now();
    let snapshot = endpoint.handle.now();
    // A replica that does not hold the site's lease says so: the agent asks on until it finds the one that does.
    if let Standing::Out(why) = &snapshot.standing {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(serde_json::json!({"error": why}))).into_response();
    }
    let grants = endpoint.book.grants(&asker.node, &snapshot, &endpoint.signer, &endpoint.site, now);
    Json(GrantList {
        site: endpoint.site.clone(),
        public_key: endpoint.signer.public_key(),
        grants,
        answered_ms: GrantBook::stamp(now),
    })
    .into_response()
}

async fn acknowledge(
    State(endpoint): State<Endpoint>,
    Extension(certified): Extension<CertifiedNode>,
    headers: HeaderMap,
    Json(ack): Json<GrantAck>,
) -> Response {
    if let Err(refusal) = endpoint.demand(&ack.node, &certified, &headers).await {
        return refusal;
    }
    endpoint.book.acknowledge(&ack, BootClock.now());
    StatusCode::NO_CONTENT.into_response()
}

async fn heartbeat(
    State(endpoint): State<Endpoint>,
    Extension(certified): Extension<CertifiedNode>,
    headers: HeaderMap,
    Json(mut beat): Json<Heartbeat>,
) -> Response {
    if let Err(error) = beat.check() {
        return (StatusCode::BAD_REQUEST, Json(serde_json::json!({"error": error.to_string()}))).into_response();
    }
    match endpoint.identity.may_speak(&beat.node, &certified, &headers).await {
        Ok(true) => {}
        // While the API server is silent, nobody could be declared lost either: a sign of life is taken from whoever has
        // a certificate, and nothing else.
        Ok(false) => {
            beat.leaving = false;
            beat.probes.clear();
            beat.paths.clear();
        }
        Err(refused) => return refuse(&refused),
    }
    match endpoint.nodes.heartbeat(&beat) {
        Some(mut answer) => {
            endpoint.power.heard(&beat.node);
            answer.wall_power = endpoint.power.wall(&beat.node);
            Json(answer).into_response()
        }
        None => not_leading(),
    }
}
