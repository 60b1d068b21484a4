//! TLS connections that remember which node the client's certificate names.

use std::{future::Future, io, pin::Pin};

use axum::{Extension, middleware::AddExtension};
use axum_server::{
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Layer;

use super::identity::CertifiedNode;

/// Accepts TLS connections.
#[derive(Clone, Debug)]
pub(super) struct Certified(RustlsAcceptor);

impl Certified {
    pub(super) fn new(config: RustlsConfig) -> Self {
        Self(RustlsAcceptor::new(config))
    }
}

impl<I, S> Accept<I, S> for Certified
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Send + 'static,
{
    type Stream = <RustlsAcceptor as Accept<I, S>>::Stream;
    type Service = AddExtension<<RustlsAcceptor as Accept<I, S>>::Service, CertifiedNode>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let accepting = self.0.accept(stream, service);
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            let certificates = stream.get_ref().1.peer_certificates();
            let node = certificates.and_then(|chain| chain.first()).map(|certificate| CertifiedNode::of(certificate));
            Ok((stream, Extension(node.unwrap_or_default()).layer(service)))
        })
    }
}
