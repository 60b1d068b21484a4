//! Ways into an API server: a `kube::Client` in process, plain HTTP on loopback, and HTTPS.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, ServiceExt};

use crate::access::{Access, user_of_certificate};
use crate::apiserver::http::Hangup;
use crate::apiserver::users::User;
use crate::faults::{Faults, LinkReset, Loss};

/// How long a client may take over its part of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Sends requests of one identity straight into a router.
#[derive(Clone)]
pub(crate) struct InProcess {
    router: Router,
    authorization: HeaderValue,
}

impl InProcess {
    pub(crate) fn client(router: Router, identity: &str, namespace: &str) -> kube::Client {
        let authorization = HeaderValue::from_str(&format!("Bearer {identity}"))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer unprintable-identity"));
        kube::Client::new(InProcess { router, authorization }, namespace)
    }
}

impl tower::Service<Request<kube::client::Body>> for InProcess {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.headers_mut().insert(header::AUTHORIZATION, self.authorization.clone());
        let router = self.router.clone();
        Box::pin(async move { answer(router, request).await.map_err(BoxError::from) })
    }
}

async fn answer(router: Router, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
    let result: Result<Response<Body>, Infallible> = router.oneshot(request).await;
    match result {
        Ok(response) if response.extensions().get::<Hangup>().is_some() => Err(LinkReset.into()),
        Ok(response) => Ok(response),
    }
}

/// An API server that listens until it is stopped or dropped.
#[derive(Debug)]
pub struct Served {
    /// The address it listens on.
    pub addr: SocketAddr,
    site: String,
    access: Option<Arc<Access>>,
    cancel: CancellationToken,
}

impl Served {
    /// Authority and tokens, where it is served over TLS.
    pub fn access(&self) -> Option<&Access> {
        self.access.as_deref()
    }

    /// Where it is served, as a URL. One that listens everywhere is named by loopback.
    pub fn url(&self) -> String {
        let mut addr = self.addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        format!("{}://{addr}", if self.access.is_some() { "https" } else { "http" })
    }

    /// A kubeconfig (YAML) for a client of that identity. Over TLS, it holds a new token and a new certificate of a
    /// member of `system:masters`.
    ///
    /// # Errors
    /// Over TLS: the token or the certificate cannot be made.
    pub fn try_kubeconfig(&self, identity: &str) -> std::io::Result<String> {
        match &self.access {
            Some(access) => access.kubeconfig(&self.site, &self.url(), identity),
            None => Ok(self.kubeconfig(identity)),
        }
    }

    /// A kubeconfig (YAML) for a client of that identity at a server over plain HTTP.
    pub fn kubeconfig(&self, identity: &str) -> String {
        let (site, addr) = (&self.site, self.addr);
        let token = identity.replace(['\\', '"', '\n'], "");
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {site}\nclusters:\n- name: {site}\n  cluster:\n    server: http://{addr}\n\
             contexts:\n- name: {site}\n  context:\n    cluster: {site}\n    user: \"{token}\"\n    namespace: default\n\
             users:\n- name: \"{token}\"\n  user:\n    token: \"{token}\"\n"
        )
    }

    /// Stops listening and closes all connections.
    pub fn stop(&self) {
        self.cancel.cancel();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Serves a router over plain HTTP, or over TLS where there is an [`Access`].
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn serve(
    router: Router,
    faults: Option<Faults>,
    access: Option<Arc<Access>>,
    addr: SocketAddr,
    site: &str,
) -> std::io::Result<Served> {
    let listener = TcpListener::bind(addr).await?;
    let (addr, cancel) = (listener.local_addr()?, CancellationToken::new());
    tokio::spawn(accept(listener, Way { router, faults, access: access.clone() }, cancel.clone()));
    Ok(Served { addr, site: site.to_owned(), access, cancel })
}

/// Where connections lead, and what is asked of them.
#[derive(Clone)]
struct Way {
    router: Router,
    faults: Option<Faults>,
    access: Option<Arc<Access>>,
}

async fn accept(listener: TcpListener, way: Way, cancel: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors and the like: wait a little instead of spinning.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if is_reset(way.faults.as_ref()) {
            continue;
        }
        let _ = stream.set_nodelay(true);
        let (way, cancel) = (way.clone(), cancel.child_token());
        match &way.access {
            None => drop(tokio::spawn(connection(stream, way, None, cancel))),
            Some(access) => {
                let shaken = tokio_rustls::TlsAcceptor::from(access.tls.clone()).accept(stream);
                tokio::spawn(async move {
                    // A client that does not trust the authority, or takes its time, is its own problem.
                    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, shaken).await else { return };
                    let certificates = stream.get_ref().1.peer_certificates();
                    let user = certificates.and_then(|c| c.first()).and_then(user_of_certificate);
                    connection(stream, way, user, cancel).await;
                });
            }
        }
    }
}

fn is_reset(faults: Option<&Faults>) -> bool {
    // The empty identity is hit only by a loss that hits everyone.
    faults.is_some_and(|f| f.link("") == Some(Loss::Reset))
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Way { router, faults, access }: Way,
    user: Option<User>,
    cancel: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        if let Some(access) = &access {
            request.extensions_mut().insert(access.clone());
        }
        if let Some(user) = &user {
            request.extensions_mut().insert(user.clone());
        }
        answer(router.clone(), request)
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut changes = faults.as_ref().map(Faults::changes);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    loop {
        let faults_changed = async {
            match &mut changes {
                Some(changes) => changes.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A client that goes away or a link that was reset is not worth a word.
            _ = served.as_mut() => return,
            () = cancel.cancelled() => return,
            alive = faults_changed => if !alive || is_reset(faults.as_ref()) { return },
        }
    }
}
