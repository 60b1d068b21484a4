//! The site endpoint: agents pull grants and send heartbeats here, over TLS with client certificates.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::StatusCode,
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

use super::{BootClock, GrantBook, Signer, SiteHandle};
use crate::{nodes::NodeWatch, quorum::Standing};

/// Largest heartbeat that is read.
const MAX_HEARTBEAT: usize = 16 << 10;

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
    cancel: CancellationToken,
) -> Result<(), EndpointError> {
    let config = RustlsConfig::from_config(Arc::new(server_config(tls)?));
    let state = Endpoint { site: site.to_owned(), handle, signer, book, nodes };
    let router = Router::new()
        .route("/v1/grants", get(grants))
        .route("/v1/grants/ack", post(acknowledge))
        .route("/v1/heartbeat", post(heartbeat).layer(DefaultBodyLimit::max(MAX_HEARTBEAT)));
    let server = axum_server::Handle::new();
    let stopper = server.clone();
    tokio::spawn(async move {
        cancel.cancelled().await;
        stopper.graceful_shutdown(Some(Duration::from_secs(1)));
    });
    axum_server::bind_rustls(listen, config)
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

async fn grants(State(endpoint): State<Endpoint>, Query(asker): Query<Asker>) -> Response {
    let now = BootClock.now();
    let snapshot = endpoint.handle.now();
    // A replica that does not hold the site's lease says so: the agent asks on until it finds the one that does.
    if let Standing::Out(why) = &snapshot.standing {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(serde_json::json!({"error": why}))).into_response();
    }
    let grants = endpoint.book.grants(&asker.node, &snapshot, &endpoint.signer, &endpoint.site, now);
    Json(GrantList { site: endpoint.site.clone(), public_key: endpoint.signer.public_key(), grants }).into_response()
}

async fn acknowledge(State(endpoint): State<Endpoint>, Json(ack): Json<GrantAck>) -> StatusCode {
    endpoint.book.acknowledge(ack);
    StatusCode::NO_CONTENT
}

async fn heartbeat(State(endpoint): State<Endpoint>, Json(beat): Json<Heartbeat>) -> Response {
    if let Err(error) = beat.check() {
        return (StatusCode::BAD_REQUEST, Json(serde_json::json!({"error": error.to_string()}))).into_response();
    }
    match endpoint.nodes.heartbeat(&beat) {
        Some(answer) => Json(answer).into_response(),
        None => {
            let error = "this replica does not lead; connect anew to reach the one that does";
            (StatusCode::SERVICE_UNAVAILABLE, Json(serde_json::json!({"error": error}))).into_response()
        }
    }
}
