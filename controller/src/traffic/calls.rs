//! Bounded calls to what is outside of the cluster: one connection to one checked address, no redirect followed, nothing
//! tried again, answers of a bounded size.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{TrafficAllow, TrafficError, error::brief};

/// A call, from looking the name up to the last byte of the answer.
pub(super) const CALL: Duration = Duration::from_secs(5);
/// Largest answer.
const MOST: usize = 8 << 20;

/// An answer.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Whom a call goes to.
pub(crate) struct Target<'a> {
    pub allow: &'a TrafficAllow,
    /// For people.
    pub what: &'a str,
    pub url: &'a Uri,
    /// PEM of the certificate authority that the other end's certificate comes from.
    pub authority: Option<&'a [u8]>,
}

/// One HTTP call.
///
/// # Errors
/// When the address is not allowed, does not answer in time, or redirects.
pub(crate) async fn http(
    target: &Target<'_>,
    request: http::request::Builder,
    body: Vec<u8>,
) -> Result<Answer, TrafficError> {
    let what = target.what;
    let answer = tokio::time::timeout(CALL, call(target, request, body))
        .await
        .map_err(|_| TrafficError::Timeout(what.to_owned()))??;
    if answer.status.is_redirection() {
        let why = format!(
            "it answered {} with a redirect, and none is followed: give the address it leads to",
            answer.status
        );
        return Err(TrafficError::Refused { what: what.to_owned(), why });
    }
    Ok(answer)
}

async fn call(target: &Target<'_>, request: http::request::Builder, body: Vec<u8>) -> Result<Answer, TrafficError> {
    let Target { allow, what, url, authority } = *target;
    let failed = |why: String| TrafficError::Unreachable { what: what.to_owned(), why };
    let host = url.host().ok_or_else(|| failed("the address has no host".into()))?;
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let address = allow.resolve(host, port).await?;
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority_part = url.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let request = request
        .uri(path)
        .header("host", authority_part)
        .header("user-agent", concat!("evergreen/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed(format!("the request cannot be made: {error}")))?;
    let stream = TcpStream::connect(address).await.map_err(|error| failed(format!("{address}: {error}")))?;
    if !secure {
        return exchange(stream, request, what).await;
    }
    let authority = authority
        .ok_or_else(|| failed("https needs the authority of its certificate: add `ca.crt` to the Secret".into()))?;
    let connector = TlsConnector::from(Arc::new(tls(authority).map_err(failed)?));
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|_| failed(format!("`{host}` is no server name")))?;
    let stream = connector.connect(name, stream).await.map_err(|error| failed(format!("TLS: {error}")))?;
    exchange(stream, request, what).await
}

fn tls(authority: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority) {
        let certificate = certificate.map_err(|_| "`ca.crt` is no PEM certificate".to_owned())?;
        roots.add(certificate).map_err(|error| format!("`ca.crt` cannot be used: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    what: &str,
) -> Result<Answer, TrafficError> {
    let failed = |why: String| TrafficError::Unreachable { what: what.to_owned(), why };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
    // It lives as long as the exchange: when this is dropped, so is the connection.
    let exchange = async move {
        let answer: Response<hyper::body::Incoming> =
            sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        let body = body.map_err(|error| brief(&error.to_string()))?.to_bytes();
        Ok::<_, String>(Answer { status, body })
    };
    let connection = async move { drop(connection.await) };
    tokio::pin!(exchange, connection);
    let answer = match futures::future::select(exchange, connection).await {
        futures::future::Either::Left((answer, _)) => answer,
        // The connection ended first; what was read until then may be all.
        futures::future::Either::Right(((), exchange)) => exchange.await,
    };
    answer.map_err(failed)
}
