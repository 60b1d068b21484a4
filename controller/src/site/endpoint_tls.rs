//! Certificates of the site endpoint: read from files, and read anew when the files change, without a restart.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum_server::tls_rustls::RustlsConfig;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_util::sync::CancellationToken;

/// How often the files are compared.
const LOOK: Duration = Duration::from_secs(10);

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

impl EndpointTls {
    /// What the files say now.
    ///
    /// # Errors
    /// When they cannot be read or do not fit together.
    pub(super) fn load(&self) -> Result<RustlsConfig, EndpointError> {
        Ok(RustlsConfig::from_config(Arc::new(server_config(self)?)))
    }

    /// Takes up other certificates for new connections; those that are there go on. Files that do not fit together, as
    /// between two writes, are left for the next look.
    pub(super) async fn follow(self, config: RustlsConfig, cancel: CancellationToken) {
        let mut taken = self.bytes();
        let mut refused = None;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = self.bytes();
            if now == taken || now == refused {
                continue;
            }
            match server_config(&self) {
                Ok(server) => {
                    config.reload_from_config(Arc::new(server));
                    tracing::info!(cert = %self.cert.display(), "the site endpoint has new certificates");
                    (taken, refused) = (now, None);
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "new certificates are not taken up");
                    refused = now;
                }
            }
        }
    }

    /// Content of the files; nothing while one cannot be read.
    fn bytes(&self) -> Option<[Vec<u8>; 3]> {
        let read = |path: &PathBuf| std::fs::read(path).ok();
        Some([read(&self.cert)?, read(&self.key)?, read(&self.client_ca)?])
    }
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Writes an authority and a certificate of it; gives the authority.
    fn write(tls: &EndpointTls) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["site.test".into()]).unwrap().signed_by(&key, &authority).unwrap();
        std::fs::write(&tls.client_ca, authority.pem()).unwrap();
        std::fs::write(&tls.cert, leaf.pem()).unwrap();
        std::fs::write(&tls.key, key.serialize_pem()).unwrap();
        authority.der().clone()
    }

    /// Whether a new connection is answered with a certificate of this authority.
    async fn trusted(config: &RustlsConfig, authority: &CertificateDer<'static>) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config.get_inner());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = acceptor.accept(stream).await;
        });
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let stream = TcpStream::connect(address).await.unwrap();
        connector.connect("site.test".try_into().unwrap(), stream).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn new_files_are_taken_up_without_a_restart_and_half_written_ones_are_not() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let tls = EndpointTls { cert: at("tls.crt"), key: at("tls.key"), client_ca: at("ca.crt") };
        let old = write(&tls);
        let config = tls.load().unwrap();
        let cancel = CancellationToken::new();
        tokio::spawn(tls.clone().follow(config.clone(), cancel.clone()));
        assert!(trusted(&config, &old).await);

        std::fs::write(&tls.key, "half").unwrap();
        tokio::time::sleep(LOOK * 2).await;
        assert!(trusted(&config, &old).await, "a key that cannot be read is left alone");

        let new = write(&tls);
        assert!(!trusted(&config, &new).await, "nobody looked yet");
        tokio::time::sleep(LOOK * 2).await;
        assert!(trusted(&config, &new).await && !trusted(&config, &old).await);
        cancel.cancel();
    }
}
