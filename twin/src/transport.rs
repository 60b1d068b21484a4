//! Ways into an API server: a `kube::Client` in process, and plain HTTP on loopback.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, ServiceExt};

use crate::apiserver::http::Hangup;
use crate::faults::{Faults, LinkReset, Loss};

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

/// An API server that listens on loopback until it is stopped or dropped.
#[derive(Debug)]
pub struct Served {
    /// The address it listens on.
    pub addr: SocketAddr,
    site: String,
    cancel: CancellationToken,
}

impl Served {
    /// A kubeconfig (YAML) for a client of that identity.
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

/// Serves a router over plain HTTP.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn serve(
    router: Router,
    faults: Option<Faults>,
    addr: SocketAddr,
    site: &str,
) -> std::io::Result<Served> {
    let listener = TcpListener::bind(addr).await?;
    let served = Served { addr: listener.local_addr()?, site: site.to_owned(), cancel: CancellationToken::new() };
    tokio::spawn(accept(listener, router, faults, served.cancel.clone()));
    Ok(served)
}

async fn accept(listener: TcpListener, router: Router, faults: Option<Faults>, cancel: CancellationToken) {
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
        if is_reset(faults.as_ref()) {
            continue;
        }
        let _ = stream.set_nodelay(true);
        tokio::spawn(connection(stream, router.clone(), faults.clone(), cancel.child_token()));
    }
}

fn is_reset(faults: Option<&Faults>) -> bool {
    // The empty identity is hit only by a loss that hits everyone.
    faults.is_some_and(|f| f.link("") == Some(Loss::Reset))
}

async fn connection(stream: tokio::net::TcpStream, router: Router, faults: Option<Faults>, cancel: CancellationToken) {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        answer(router.clone(), request.map(Body::new))
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
