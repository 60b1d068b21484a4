//! The site endpoint: agents pull grants and send heartbeats here, over TLS with client certificates.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::tls_rustls::RustlsConfig;
use evergreen_api::{
    grants::{GrantAck, GrantList},
    heartbeat::Heartbeat,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{
    BootClock, GrantBook, Signer, SiteHandle,
    acceptor::Certified,
    identity::{CertifiedNode, Identity, Refused},
};
use crate::{nodes::NodeWatch, power::PowerBook, quorum::Standing};

/// Largest heartbeat that is read.
const MAX_HEARTBEAT: usize = 32 << 10;

/// Certificates of the endpoint, PEM files.
#[derive(Clone, Debug)]
pub struct EndpointTls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authority that client certificates must come from.
    pub client_ca: PathBuf,
}

/// The endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A PEM file is unreadable or holds something else.
    #[error("{0} cannot be read as PEM")]
    Pem(PathBuf, #[source] rustls::pki_types::pem::Error),
    /// The client authority is unusable.
    #[error("the client authority cannot be used")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// The certificates do not fit together.
    #[error("the certificate and key cannot be used")]
    Tls(#[source] rustls::Error),
    /// The address cannot be listened on.
    #[error("cannot serve the site endpoint on {0}")]
    Serve(SocketAddr, #[source] std::io::Error),
}

#[derive(Clone)]
struct Endpoint {
    site: String,
    handle: SiteHandle,
    signer: Arc<Signer>,
    book: Arc<GrantBook>,
    nodes: NodeWatch,
    power: PowerBook,
    identity: Identity,
}

/// Serves until cancelled.
///
/// # Errors
/// When certificates are unusable or the address is taken.
pub async fn serve(
    listen: SocketAddr,
    tls: &EndpointTls,
    site: &str,
    handle: SiteHandle,
    signer: Arc<Signer>,
    book: Arc<GrantBook>,
    nodes: NodeWatch,
    power: PowerBook,
    identity: Identity,
    cancel: CancellationToken,
) -> Result<(), EndpointError> {
    let config = RustlsConfig::from_config(Arc::new(server_config(tls)?));
    let state = Endpoint { site: site.to_owned(), handle, signer, book, nodes, power, identity };
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
        .serve(router.with_state(state).into_make_service())
        .await
        .map_err(|error| EndpointError::Serve(listen, error))
}

fn server_config(tls: &EndpointTls) -> Result<ServerConfig, EndpointError> {
    let certificates = |path: &PathBuf| -> Result<Vec<CertificateDer<'static>>, EndpointError> {
        let pem = |error| EndpointError::Pem(path.clone(), error);
        CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(&tls.client_ca)? {
        roots.add(authority).map_err(EndpointError::Tls)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(EndpointError::Verifier)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| EndpointError::Pem(tls.key.clone(), error))?;
    ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.cert)?, key)
        .map_err(EndpointError::Tls)
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
