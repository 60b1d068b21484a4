//! Pulls grants from the site over HTTPS with a client certificate, about once a second, and acknowledges drops.
//!
//! It only ever asks; nothing that it cannot reach or does not believe changes what the node already holds.

use std::{collections::VecDeque, io, path::PathBuf, sync::Arc, time::Duration};

use evergreen_api::grants::{GrantAck, GrantList};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use rand::Rng;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_util::sync::CancellationToken;

use super::{GrantBook, acknowledgement};
use crate::clock::boot_ms;

/// How often grants are asked for.
const INTERVAL: Duration = Duration::from_secs(1);
/// How soon after a failure: at 30 % loss, retrying after 1 s would let healthy grants run out hundreds of times an hour.
const RETRY: Duration = Duration::from_millis(250);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Largest answer that is read.
const MAX_ANSWER: usize = 4 << 20;
/// Acknowledgements that wait for the site; the oldest goes first when there are more.
const MAX_PENDING: usize = 256;
/// After this long the connection is made anew, so that a rotated certificate is taken up.
const REBUILD_AFTER: Duration = Duration::from_secs(600);

/// Whom to ask, and with what proof.
#[derive(Clone, Debug)]
pub struct SiteConfig {
    /// Base address of the site endpoint.
    pub endpoint: Uri,
    /// Certificate authority of the site, PEM.
    pub ca: Option<PathBuf>,
    /// Client certificate, PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// File with a bearer token, read at each request because it is rotated.
    pub token: Option<PathBuf>,
    /// Name of this node.
    pub node: String,
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// A certificate, key or authority cannot be read.
    #[error("{path} cannot be used: {reason}")]
    Credentials {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up from what is given.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The request could not be written down.
    #[error("the request is malformed")]
    Request(#[source] http::Error),
    /// Nobody answers.
    #[error("the site endpoint does not answer")]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// No answer in time.
    #[error("no answer within {} ms", TIMEOUT.as_millis())]
    Late,
    /// It refused.
    #[error("the site endpoint answered {0}")]
    Status(StatusCode),
    /// It answered something else than grants.
    #[error("the answer is not understood: {0}")]
    Malformed(String),
}

pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Keeps the book up to date until cancelled.
pub async fn run(config: SiteConfig, book: Arc<Mutex<GrantBook>>, cancel: CancellationToken) {
    let mut client: Option<(HttpClient, tokio::time::Instant)> = None;
    let mut pending: VecDeque<GrantAck> = VecDeque::new();
    let mut failing = false;
    loop {
        if client.as_ref().is_some_and(|(_, built)| built.elapsed() > REBUILD_AFTER) {
            client = None;
        }
        let outcome = match client.as_ref().map(|(client, _)| Ok(client.clone())).unwrap_or_else(|| connect(&config)) {
            Ok(ready) => {
                client.get_or_insert_with(|| (ready.clone(), tokio::time::Instant::now()));
                pull(&config, &ready, &book, &mut pending).await
            }
            Err(error) => Err(error),
        };
        let pause = match outcome {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the site endpoint answers again");
                }
                INTERVAL
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no grants from the site; what is held ends by itself"
                    );
                }
                // Certificates may have been rotated under us.
                client = None;
                RETRY
            }
        };
        let jitter = rand::rng().random_range(0..=pause.as_millis() as u64 / 10);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause + Duration::from_millis(jitter)) => {}
        }
    }
}

async fn pull(
    config: &SiteConfig,
    client: &HttpClient,
    book: &Mutex<GrantBook>,
    pending: &mut VecDeque<GrantAck>,
) -> Result<(), PullError> {
    let path = format!("/v1/grants?node={}", encode(&config.node));
    let sent_ms = boot_ms();
    let body = call(config, client, Method::GET, &path, Bytes::new()).await?;
    let list: GrantList = serde_json::from_slice(&body).map_err(|error| PullError::Malformed(error.to_string()))?;
    let applied =
        book.lock().apply(&list, sent_ms, boot_ms()).map_err(|error| PullError::Malformed(error.to_string()))?;
    for (group, why) in applied.refused {
        tracing::warn!(group, why, "a grant was refused");
    }
    for grant in applied.dropped {
        tracing::info!(group = grant.group, epoch = grant.epoch, "the site took a grant back");
        if pending.len() >= MAX_PENDING {
            pending.pop_front();
        }
        pending.push_back(acknowledgement(&config.node, &grant, list.answered_ms));
    }
    while let Some(ack) = pending.front() {
        let body = serde_json::to_vec(ack).map_err(|error| PullError::Malformed(error.to_string()))?;
        call(config, client, Method::POST, "/v1/grants/ack", body.into()).await?;
        pending.pop_front();
    }
    Ok(())
}

pub(crate) async fn call(
    config: &SiteConfig,
    client: &HttpClient,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, PullError> {
    let base = config.endpoint.to_string();
    let mut request = Request::builder().method(method).uri(format!("{}{path}", base.trim_end_matches('/')));
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    if let Some(path) = &config.token {
        let token = tokio::fs::read_to_string(path).await.map_err(|error| credentials(path, error))?;
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let request = request.body(Full::new(body)).map_err(PullError::Request)?;
    let answer = async {
        let response = client.request(request).await.map_err(PullError::Connect)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| PullError::Malformed(error.to_string()))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(PullError::Status(status)) }
    };
    tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| PullError::Late)?
}

fn credentials(path: &std::path::Path, reason: impl std::fmt::Display) -> PullError {
    PullError::Credentials { path: path.to_owned(), reason: reason.to_string() }
}

pub(crate) fn connect(config: &SiteConfig) -> Result<HttpClient, PullError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &config.ca {
        let mut added = 0;
        for certificate in read_certificates(path)? {
            roots.add(certificate).map_err(PullError::Tls)?;
            added += 1;
        }
        if added == 0 {
            return Err(credentials(path, "it holds no certificate"));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(PullError::Tls)?
        .with_root_certificates(roots);
    let tls = match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| credentials(key, error))?;
            builder.with_client_auth_cert(read_certificates(certificate)?, private).map_err(PullError::Tls)?
        }
        _ => builder.with_no_client_auth(),
    };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(TIMEOUT));
    http.set_nodelay(true);
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector))
}

fn read_certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, PullError> {
    let read = || -> Result<Vec<_>, io::Error> {
        CertificateDer::pem_file_iter(path).map_err(io::Error::other)?.map(|c| c.map_err(io::Error::other)).collect()
    };
    read().map_err(|error| credentials(path, error))
}

/// Percent-encodes what a node name should never hold anyway.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_') {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use axum::{
        Json, Router,
        extract::State,
        routing::{get, post},
    };
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use evergreen_api::grants::{Grant, signed_payload};
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    type Shared = Arc<Mutex<(Vec<&'static str>, Vec<GrantAck>)>>;

    async fn serve(shared: Shared) -> Uri {
        async fn grants(State(shared): State<Shared>) -> Json<GrantList> {
            let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
            let groups = shared.lock().0.clone();
            let grants = groups.iter().map(|group| Grant {
                group: (*group).into(),
                site: "dc-a".into(),
                epoch: 1,
                incarnation: "i".into(),
                version: 1,
                remaining_ms: 60_000,
                signature: BASE64.encode(pair.sign(&signed_payload(group, "dc-a", 1, "i"))),
            });
            Json(GrantList {
                site: "dc-a".into(),
                public_key: BASE64.encode(pair.public_key()),
                grants: grants.collect(),
                answered_ms: 1,
            })
        }
        async fn ack(State(shared): State<Shared>, Json(ack): Json<GrantAck>) {
            shared.lock().1.push(ack);
        }
        let app = Router::new().route("/v1/grants", get(grants)).route("/v1/grants/ack", post(ack)).with_state(shared);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}").parse().unwrap()
    }

    fn config(endpoint: Uri) -> SiteConfig {
        SiteConfig { endpoint, ca: None, certificate: None, key: None, token: None, node: "n 1".into() }
    }

    #[tokio::test]
    async fn grants_are_pulled_and_a_drop_is_acknowledged() {
        let shared: Shared = Arc::new(Mutex::new((vec!["shop.checkout"], Vec::new())));
        let config = config(serve(Arc::clone(&shared)).await);
        let client = connect(&config).unwrap();
        let book = Mutex::new(GrantBook::new(None).unwrap());
        let mut pending = VecDeque::new();
        pull(&config, &client, &book, &mut pending).await.unwrap();
        assert!(book.lock().get("shop.checkout", boot_ms()).is_some());
        shared.lock().0.clear();
        pull(&config, &client, &book, &mut pending).await.unwrap();
        assert!(book.lock().get("shop.checkout", boot_ms()).is_none());
        let acks = &shared.lock().1;
        assert_eq!(acks.len(), 1);
        assert_eq!((acks[0].node.as_str(), acks[0].group.as_str()), ("n 1", "shop.checkout"));
    }

    #[tokio::test]
    async fn a_site_that_is_gone_changes_nothing_that_is_held() {
        let shared: Shared = Arc::new(Mutex::new((vec!["g"], Vec::new())));
        let here = config(serve(shared).await);
        let book = Mutex::new(GrantBook::new(None).unwrap());
        let mut pending = VecDeque::new();
        pull(&here, &connect(&here).unwrap(), &book, &mut pending).await.unwrap();
        let gone = config("http://127.0.0.1:9".parse().unwrap());
        assert!(pull(&gone, &connect(&gone).unwrap(), &book, &mut pending).await.is_err());
        assert!(book.lock().get("g", boot_ms()).is_some());
    }

    #[test]
    fn an_authority_without_certificates_is_told_with_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut config = config("https://127.0.0.1:9".parse().unwrap());
        config.ca = Some(file.path().to_owned());
        assert!(matches!(connect(&config), Err(PullError::Credentials { .. })));
    }
}
